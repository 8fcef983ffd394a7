//! `--rotate` and `--set-passwords`: new passwords for the roles by which the members of a running cluster log in at each other.
//!
//! SCRAM knows one password per role, so there is a moment in which it changes. Connections that are there do not notice;
//! a new one with the wrong password fails, and Patroni and PostgreSQL try again. To keep that moment short, all members get
//! their new files first (`--rotate` on each, which no running Patroni reads), and then one command on the primary changes the
//! roles and tells all members to read their files.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use host::keys::SiteKey;
use host::report::{self, Reporter};
use host::settings::Settings;
use host::{ClusterId, Root, program, scram};
use nix::unistd::Uid;

use crate::files::header::{Author, author};
use crate::files::yaml::Yaml;
use crate::gen_config::write::write;
use crate::patroni::paths::{FINGERPRINT_TAG, patroni_file};
use crate::patroni::patronictl::Patronictl;
use crate::patroni_yml::authentication::{REPLICATION, REWIND, SUPERUSER, password_scope};
use crate::patroni_yml::inputs::{Overrides, settings, site_key, site_key_path};

/// More generations than a cluster can have had.
const GENERATIONS: u32 = 10_000;

/// How long psql may take.
const LIMIT: Duration = Duration::from_secs(40);

/// What `--rotate` has done.
#[derive(Debug, PartialEq, Eq)]
enum Prepared {
    /// The generation after that of the primary is prepared.
    Next(u32),
    /// This member was not there when the primary got its generation, and has that now.
    Present(u32),
}

/// Prepares the next generation of the passwords and writes the file that has them.
pub fn rotate(root: &Root, overrides: &Overrides, id: &ClusterId, force: bool, reporter: &Reporter) -> Result<()> {
    let path = patroni_file(id);
    // Before the key file says something else than the file of the instance.
    match root.read(&path)?.as_deref().map(author) {
        Some(Author::Generator) => {}
        Some(_) if force => {}
        Some(_) => bail!(
            "{} was written or edited by hand: write the new passwords into it yourself, or use --force",
            path.display()
        ),
        None => bail!("{} does not exist: run patroni-gen-config {id}", path.display()),
    }
    let prepared = prepare(root, id, &settings(root, overrides, Some(id))?)?;
    write(root, overrides, id, force, reporter)?;
    reporter.info(match prepared {
        Prepared::Next(generation) => format!(
            "{id}: generation {generation} of the passwords is prepared here; when it is on every member, run on the primary: \
             patroni-gen-config --set-passwords {id}"
        ),
        Prepared::Present(generation) => format!(
            "{id}: this member was behind and has generation {generation} of the passwords now, like the primary: run systemctl \
             reload patroni@{}; to prepare the next generation, run this again",
            id.dashed()
        ),
    });
    Ok(())
}

/// Puts the next generation of an instance's passwords into the site key file. What is the next one, the primary says by its
/// fingerprint, so that it is the same on every member, however often and in whatever order this runs.
fn prepare(root: &Root, id: &ClusterId, settings: &Settings) -> Result<Prepared> {
    let scope = id.dashed();
    if password_scope(settings, id)? != scope {
        bail!(
            "{}{id} has the passwords of another instance: change them there, then copy the site key and run patroni-gen-config {id}",
            settings.place(&["PASSWORD_SCOPE"])
        );
    }
    if settings.text("REPLICATION_AUTH") == Some("cert") {
        bail!("{}members log in by certificate: there is no password to change", settings.place(&["REPLICATION_AUTH"]));
    }
    let files = ["REPLICATION_PASSWORD_FILE", "REWIND_PASSWORD_FILE"];
    if files.iter().all(|key| settings.get(key).is_some()) {
        bail!(
            "{}the passwords come from files: write new ones into them on every member, run patroni-gen-config {id} there, and \
             then patroni-gen-config --set-passwords {id} on the primary",
            settings.place(&files)
        );
    }
    let path = site_key_path(settings)?;
    let Some(key) = site_key(root, settings)? else {
        bail!("{} does not exist: copy it from another member", path.display());
    };
    let members = Patronictl::new(root, id, &scope)?.members()?;
    let leader = members.iter().find(|member| ["Leader", "Standby Leader"].contains(&member.role.as_str()));
    let Some(leader) = leader else { bail!("{id} has no primary now: run this again when it has one") };
    if leader.role == "Standby Leader" {
        bail!("{id} is a standby cluster, whose roles are those of its source: change the passwords there");
    }
    let Some(published) = &leader.fingerprint else {
        bail!(
            "{} does not say which site key it has: run patroni-gen-config {id} and systemctl reload patroni@{scope} there first",
            leader.name
        );
    };
    let present =
        (1..GENERATIONS).find(|number| key.with_generation(&scope, *number).fingerprint(&scope) == *published);
    let Some(present) = present else {
        bail!("{} has another site key than {}: copy it from there first", leader.name, path.display());
    };
    let ours = key.generation(&scope);
    let (generation, prepared) =
        if ours < present { (present, Prepared::Present(present)) } else { (present + 1, Prepared::Next(present + 1)) };
    if ours != generation {
        SiteKey::write_generation(root, &path, &scope, generation)?;
    }
    Ok(prepared)
}

/// Gives the roles the passwords that this member's file has, and tells all members to read theirs.
pub fn set(root: &Root, id: &ClusterId, reporter: &Reporter) -> Result<()> {
    let path = patroni_file(id);
    let Some(text) = root.read(&path)? else {
        bail!("{} does not exist: run patroni-gen-config {id}", path.display());
    };
    let yaml = Yaml::parse(&path, &text)?;
    let scope = yaml.text(&["scope"]).unwrap_or_else(|| id.dashed());
    let cluster = Patronictl::new(root, id, &scope)?;
    let roles = roles(&yaml)?;
    if roles.is_empty() {
        bail!("{} has no passwords of roles: there is nothing to set", path.display());
    }
    let server = Server { root, id, yaml: &yaml };
    if server.ask("SELECT pg_catalog.pg_is_in_recovery()")?.trim() != "f" {
        let members = cluster.members()?;
        let primary =
            members.iter().find(|member| member.role == "Leader").map_or("the primary", |leader| &leader.name);
        bail!("{id} is not the primary here: run this on {primary}");
    }
    server.ask(&statements(&roles)?).context("the passwords are as they were")?;
    let names: Vec<&str> = roles.iter().map(|(role, _)| role.as_str()).collect();
    report::print(&format!("{id}: new passwords for {}\n", names.join(", ")));
    let failed = cluster.reload().unwrap_or_else(|error| vec![format!("{error:#}")]);
    for failure in &failed {
        reporter.warn(format!("{id}: {failure}"));
    }
    let behind = behind(&cluster, &yaml)?;
    if !failed.is_empty() || !behind.is_empty() {
        let who = if behind.is_empty() { "the members that have not".to_owned() } else { behind.join(" and ") };
        bail!(
            "{id}: not every member has read the new passwords: on {who} run patroni-gen-config --rotate {id} and systemctl \
             reload patroni@{}",
            id.dashed()
        );
    }
    report::print(&format!("{id}: all members have read them\n"));
    Ok(())
}

/// The roles of a file that have a password.
fn roles(yaml: &Yaml) -> Result<Vec<(String, String)>> {
    let mut roles = Vec::new();
    for (section, usual) in [("superuser", SUPERUSER), ("replication", REPLICATION), ("rewind", REWIND)] {
        let get = |key| yaml.text(&["postgresql", "authentication", section, key]);
        let Some(password) = get("password") else { continue };
        let role = get("username").unwrap_or_else(|| usual.to_owned());
        roles.push((role, scram::verifier(&password).with_context(|| format!("the password of {section}"))?));
    }
    Ok(roles)
}

/// All or nothing. What is sent are verifiers, which nobody can log in with; still nobody has to log them. No standby is waited
/// for, as by Patroni itself (`Bootstrap.create_or_update_role`).
fn statements(roles: &[(String, String)]) -> Result<String> {
    let mut sql = String::from(
        "SET log_statement TO 'none';\nSET log_min_duration_statement TO -1;\nSET pg_stat_statements.track_utility TO off;\n\
         SET synchronous_commit TO local;\nBEGIN;\n",
    );
    for (role, verifier) in roles {
        if role.contains('\0') {
            bail!("a role has a character in its name that no role can have");
        }
        sql.extend(["ALTER ROLE \"", &role.replace('"', "\"\""), "\" PASSWORD '", verifier, "';\n"]);
    }
    sql += "COMMIT;\n";
    Ok(sql)
}

/// The server of this member, asked over its socket as its administrator.
struct Server<'a> {
    root: &'a Root,
    id: &'a ClusterId,
    yaml: &'a Yaml,
}

impl Server<'_> {
    fn ask(&self, sql: &str) -> Result<String> {
        let port = self.yaml.port("postgresql")?.to_string();
        let sockets = self.yaml.text(&["postgresql", "parameters", "unix_socket_directories"]);
        let socket = sockets.as_deref().and_then(|list| list.split(',').next()).unwrap_or("/var/run/postgresql").trim();
        let psql = PathBuf::from("/usr/lib/postgresql").join(self.id.version.as_str()).join("bin/psql");
        let mut call = program::at(&self.root.path(psql));
        call.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", "--no-password"]);
        call.args(["--dbname=postgres", "--username=postgres", "--host", socket, "--port", &port]).current_dir("/");
        if Uid::effective().is_root() {
            call.uid(self.root.user_id("postgres")?).gid(self.root.group_id("postgres")?);
        }
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            call.env_remove(name);
        }
        let output = program::output_within(&mut call, sql, LIMIT)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let words: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            bail!("{} did not do it: {}", self.id, words.join("; "));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The members that do not publish the fingerprint of this file within the time in which every Patroni looks at least twice.
fn behind(cluster: &Patronictl, yaml: &Yaml) -> Result<Vec<String>> {
    const PAUSE: Duration = Duration::from_millis(500);
    let Some(ours) = yaml.text(&["tags", FINGERPRINT_TAG]) else { return Ok(Vec::new()) };
    let wait: u64 = yaml.text(&["bootstrap", "dcs", "loop_wait"]).and_then(|text| text.parse().ok()).unwrap_or(10);
    let begin = Instant::now();
    loop {
        let members = cluster.members()?;
        let others = members.into_iter().filter(|member| member.fingerprint.as_ref() != Some(&ours));
        let behind: Vec<String> = others.map(|member| member.name).collect();
        if behind.is_empty() || begin.elapsed() > Duration::from_secs(2 * wait + 5) {
            return Ok(behind);
        }
        sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::Path;

    #[test]
    fn no_password_is_in_a_statement() {
        let file = "postgresql: {authentication: {superuser: {username: postgres}, \
            replication: {username: 'a\"b', password: s3cret}, rewind: {username: r, password: 0th3r}}}";
        let yaml = Yaml::parse(Path::new("f"), file).unwrap();
        let roles = roles(&yaml).unwrap();
        assert_eq!(roles.iter().map(|(role, _)| role.as_str()).collect::<Vec<_>>(), ["a\"b", "r"]);
        let sql = statements(&roles).unwrap();
        assert!(!sql.contains("s3cret") && !sql.contains("0th3r"), "{sql}");
        assert!(sql.contains("ALTER ROLE \"a\"\"b\" PASSWORD 'SCRAM-SHA-256$4096:"), "{sql}");
        assert!(sql.trim_end().ends_with("COMMIT;"));
    }
}
