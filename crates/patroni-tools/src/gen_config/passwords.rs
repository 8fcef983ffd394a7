//! `rotate` and `set-passwords`: new passwords for the roles with which the members of a running cluster log in to each other.
//!
//! A role has one password, so there is a moment at which it changes. Existing connections are not affected; a new one with the wrong
//! password fails, and Patroni and PostgreSQL try again. To keep that moment short, all members get their new files first
//! (`rotate` on each member, whose Patroni does not read the file yet). Then one command on the primary changes the roles and makes all
//! members read their files.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use host::keys::SiteKey;
use host::report::{self, Reporter};
use host::settings::Settings;
use host::trouble::{Explain, Trouble};
use host::{ClusterId, Root, fail, scram, trouble};

use crate::files::header::{Author, author};
use crate::files::yaml::Yaml;
use crate::gen_config::no_member;
use crate::gen_config::server::Server;
use crate::gen_config::write::{Permission, write};
use crate::patroni::paths::{FINGERPRINT_TAG, patroni_file};
use crate::patroni::patronictl::Patronictl;
use crate::patroni_yml::authentication::password_scope;
use crate::patroni_yml::inputs::{Overrides, settings, site_key, site_key_path};
use crate::patroni_yml::logins::{FileRole, of_file};
use crate::patroni_yml::values::scope;
use crate::postgres::roles::{Login, statements};

/// More generations than any cluster has had.
const GENERATIONS: u32 = 10_000;

/// What `rotate` has done.
#[derive(Debug, PartialEq, Eq)]
enum Prepared {
    /// Prepared the generation after that of the primary.
    Next(u32),
    /// Prepared the generation that the primary already has, because this member missed that change.
    Present(u32),
}

/// Prepares the next generation of the passwords and writes the file that has them.
pub fn rotate(root: &Root, overrides: &Overrides, id: &ClusterId, force: bool, reporter: &Reporter) -> Result<()> {
    no_member::refuse_change(root, id)?;
    let path = patroni_file(id);
    // Before the site key file is changed and no longer agrees with the Patroni file.
    match root.read(&path)?.as_deref().map(author) {
        Some(Author::Generator) => {}
        Some(_) if force => {}
        Some(_) => fail!(
            "{} was written or edited by hand", path.display();
            "Write the new passwords into it yourself, or use --force."
        ),
        None => return Err(missing_file(id).into()),
    }
    let prepared = prepare(root, id, &settings(root, overrides, Some(id))?)?;
    write(root, overrides, id, Permission { force, site_key: false }, reporter)?;
    reporter.info(match prepared {
        Prepared::Next(generation) => format!(
            "{id}: generation {generation} of the passwords is prepared on this member; when it is prepared on all members, run on the \
             primary: patroni-gen-config set-passwords {id}"
        ),
        Prepared::Present(generation) => format!(
            "{id}: this member was behind and now has generation {generation} of the passwords, like the primary: run 'systemctl reload \
             patroni@{}', and then this command again to prepare the next generation",
            id.dashed()
        ),
    });
    Ok(())
}

fn missing_file(id: &ClusterId) -> Trouble {
    trouble!("{} does not exist", patroni_file(id).display(); "Create it with: patroni-gen-config {id}")
}

/// Puts the next generation of a cluster's passwords into the site key file. The fingerprint of the primary determines which one is next,
/// so that it is the same on every member, however often and in whatever order this runs.
fn prepare(root: &Root, id: &ClusterId, settings: &Settings) -> Result<Prepared> {
    let cluster = id.dashed();
    if password_scope(settings, id)? != cluster {
        fail!(
            at settings.place(&["PASSWORD_SCOPE"]), "{id} has the passwords of another cluster";
            "Change them there, then copy the site key and run: patroni-gen-config {id}"
        );
    }
    if settings.text("REPLICATION_AUTH") == Some("cert") {
        fail!(at settings.place(&["REPLICATION_AUTH"]), "members log in with certificates, so there is no password to change");
    }
    let files = ["REPLICATION_PASSWORD_FILE", "REWIND_PASSWORD_FILE"];
    if files.iter().all(|key| settings.get(key).is_some()) {
        fail!(
            at settings.place(&files), "the passwords come from files";
            "Write new ones into them on every member, and run 'patroni-gen-config {id}' there. Then run on the primary: \
             patroni-gen-config set-passwords {id}"
        );
    }
    let path = site_key_path(settings)?;
    let Some(key) = site_key(root, settings)? else {
        fail!("{} does not exist", path.display(); "Copy it from another member.");
    };
    let members = Patronictl::new(root, id, &scope(settings, id)?)?.members()?;
    let leader = members.iter().find(|member| ["Leader", "Standby Leader"].contains(&member.role.as_str()));
    let Some(leader) = leader else { fail!("{id} has no primary now"; "Run this again when it has one.") };
    if leader.role == "Standby Leader" {
        fail!("{id} is a standby cluster, which has the roles of its source"; "Change the passwords there.");
    }
    let Some(published) = &leader.fingerprint else {
        fail!(
            "{} does not report the fingerprint of its site key", leader.name;
            "First run there: patroni-gen-config {id} && systemctl reload patroni@{cluster}"
        );
    };
    let present =
        (1..GENERATIONS).find(|number| key.with_generation(&cluster, *number).fingerprint(&cluster) == *published);
    let Some(present) = present else {
        fail!("{} has a different site key", leader.name; "First copy {} from there.", path.display());
    };
    let ours = key.generation(&cluster);
    let (generation, prepared) =
        if ours < present { (present, Prepared::Present(present)) } else { (present + 1, Prepared::Next(present + 1)) };
    if ours != generation {
        SiteKey::write_generation(root, &path, &cluster, generation)?;
    }
    Ok(prepared)
}

/// Sets the passwords of the roles to those in the file of this member, and makes all members read theirs.
pub fn set(root: &Root, id: &ClusterId, reporter: &Reporter) -> Result<()> {
    no_member::refuse_change(root, id)?;
    let path = patroni_file(id);
    let Some(text) = root.read(&path)? else {
        return Err(missing_file(id).into());
    };
    let yaml = Yaml::parse(&path, &text)?;
    let scope = yaml.text(&["scope"]).unwrap_or_else(|| id.dashed());
    let cluster = Patronictl::new(root, id, &scope)?;
    let logins = logins(&yaml)?;
    if logins.is_empty() {
        fail!("{} has no roles, so there is nothing to set", path.display());
    }
    let server = Server { root, id, yaml: &yaml };
    if server.ask("SELECT pg_catalog.pg_is_in_recovery()")?.trim() != "f" {
        let members = cluster.members()?;
        let primary =
            members.iter().find(|member| member.role == "Leader").map_or("the primary", |leader| &leader.name);
        fail!("this member is not the primary of {id}"; "Run this on {primary}.");
    }
    server.ask(&statements(&logins)?).context("the passwords were not changed")?;
    let names: Vec<&str> = logins.iter().map(|login| login.name.as_str()).collect();
    report::print(&format!("{id}: new passwords for {}\n", names.join(", ")));
    let failures = match cluster.reload() {
        Ok(failed) => failed.into_iter().map(Trouble::from).collect(),
        Err(error) => vec![Trouble::of(&error)],
    };
    let reloaded = failures.is_empty();
    for mut failure in failures {
        failure.place.get_or_insert_with(|| id.to_string());
        reporter.warn(failure);
    }
    let behind = behind(&cluster, &yaml)?;
    if !reloaded || !behind.is_empty() {
        let members = if behind.is_empty() { "those members".to_owned() } else { behind.join(" and ") };
        // A member that could not be asked to reload may have the right file, and `rotate` would prepare the next generation there.
        let rotate = if reloaded { format!("patroni-gen-config rotate {id} && ") } else { String::new() };
        fail!(
            at id, "not all members have read the new passwords";
            "Run on {members}: {rotate}systemctl reload patroni@{}", id.dashed()
        );
    }
    report::print(&format!("{id}: all members have read the new passwords\n"));
    Ok(())
}

/// The roles of a file, with the verifiers of their passwords.
fn logins(yaml: &Yaml) -> Result<Vec<Login>> {
    let login = |role: FileRole| {
        let place = format!("postgresql.authentication.{}.password", role.section);
        let verifier = role.password.map(|password| scram::verifier(&password).at(place)).transpose()?;
        Ok(Login { name: role.name, purpose: role.purpose, verifier })
    };
    of_file(yaml).into_iter().map(login).collect()
}

/// The members that do not publish the fingerprint of this file within two loops of Patroni.
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
    use crate::postgres::roles::Purpose;
    use std::path::Path;

    #[test]
    fn no_password_is_in_a_statement() {
        let file = "postgresql: {authentication: {superuser: {username: postgres}, \
            replication: {username: 'a\"b', password: s3cret}, rewind: {username: r, password: 0th3r}}}";
        let yaml = Yaml::parse(Path::new("f"), file).unwrap();
        let roles = logins(&yaml).unwrap();
        assert_eq!(roles.iter().map(|login| login.name.as_str()).collect::<Vec<_>>(), ["a\"b", "r"]);
        let sql = statements(&roles).unwrap();
        assert!(!sql.contains("s3cret") && !sql.contains("0th3r"), "{sql}");
        assert!(sql.contains("ALTER ROLE \"a\"\"b\" WITH LOGIN REPLICATION PASSWORD 'SCRAM-SHA-256$4096:"), "{sql}");
        let with_certificates = "postgresql: {authentication: {replication: {username: r, sslcert: /x}}}";
        let yaml = Yaml::parse(Path::new("f"), with_certificates).unwrap();
        let replication = Login { name: "r".to_owned(), purpose: Some(Purpose::Replication), verifier: None };
        assert_eq!(logins(&yaml).unwrap(), [replication]);
    }
}
