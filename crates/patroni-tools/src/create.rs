//! `pg_createcluster_patroni`: Patroni's custom bootstrap, the first member of an instance.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use site::createcluster::CreateCluster;
use site::{ClusterId, program};

use crate::etc;
use crate::hook::{self, Arguments, Hook, Site, initialize_key};
use crate::tied;
use crate::unfinished::{Claim, Content, Kind, Unfinished, is_empty, remove_remains, running_server};

const HOOK: Hook = Hook {
    name: "pg_createcluster_patroni",
    usage: "\
Usage: pg_createcluster_patroni --scope=SCOPE --datadir=DIRECTORY [OPTION...]

Makes the first member of a Patroni cluster with pg_createcluster. Patroni runs it (bootstrap.METHOD.command).

  --scope=VERSION-NAME    the instance, for example 17-main
  --cluster=VERSION/NAME  the instance, where the scope does not name it
  --datadir=DIRECTORY     the data directory
  --port=PORT             the port (default: the one in /etc/patroni/VERSION-NAME.yml)
  --locale=, --lc-*=, --encoding=, --logfile=, --socketdir=, --environment=,
  --createclusterconf=, --pgoption=NAME=VALUE
                          for pg_createcluster
  --data-checksums, --waldir=, --wal-segsize=, --allow-group-access, --no-locale,
  --locale-provider=, --icu-locale=, ...
                          for initdb
  --help, --version

See pg_createcluster_patroni(8).
",
    words: false,
    tied: true,
    work,
};

/// Patroni's own words, and the keys of a method that are meant for Patroni.
const PATRONIS: [&str; 11] = [
    "scope",
    "cluster",
    "datadir",
    "port",
    "waldir",
    "role",
    "connstring",
    "no-params",
    "keep-data",
    "no-leader",
    "keep-existing-recovery-conf",
];

/// `pg_createcluster`'s.
const POSTGRESQL_COMMON: [&str; 14] = [
    "locale",
    "lc-collate",
    "lc-ctype",
    "lc-messages",
    "lc-monetary",
    "lc-numeric",
    "lc-time",
    "encoding",
    "logfile",
    "socketdir",
    "environment",
    "createclusterconf",
    "pgoption",
    "quiet",
];

/// initdb's. One that this version of PostgreSQL does not know is refused by initdb itself, with a clear message.
const INITDB: [&str; 19] = [
    "data-checksums",
    "no-data-checksums",
    "wal-segsize",
    "allow-group-access",
    "locale-provider",
    "icu-locale",
    "icu-rules",
    "builtin-locale",
    "no-locale",
    "text-search-config",
    "set",
    "auth",
    "auth-host",
    "auth-local",
    "no-sync",
    "sync-method",
    "username",
    "pwfile",
    "no-clean",
];

/// Runs the program `pg_createcluster_patroni`.
#[must_use]
pub fn main() -> ExitCode {
    hook::main(&HOOK)
}

fn work(site: &Site, arguments: &Arguments) -> Result<()> {
    let id = arguments.cluster()?;
    let data = arguments.data_directory()?;
    let scope = arguments.value("scope").map_or_else(|| id.dashed(), str::to_owned);
    let waldir = waldir(site, &id, arguments)?;
    let mut unfinished = Unfinished::take(&site.root, &id)?;

    etc::settle(site, &id, &data)?;
    etc::check_owner(site, &id, &data)?;
    if unfinished.before().is_some_and(|claim| claim.kind == Kind::Bootstrap) {
        site.reporter.warn(format!("an earlier bootstrap of {id} was interrupted. {}", initialize_key(&id, &scope)));
    }
    clear(site, &id, &unfinished, &data, waldir.as_deref())?;

    let claim =
        Claim { kind: Kind::Bootstrap, data_directory: data.clone(), waldir: waldir.clone(), pid: std::process::id() };
    unfinished.begin(&claim)?;
    etc::tell_moved(site, &id, "an earlier attempt", &etc::set_aside(&site.root, &id)?);
    let plan = plan(&id, &data, waldir.as_deref(), hook::port(site, &id, arguments)?, arguments);
    for option in &plan.unknown {
        site.reporter.warn(format!("--{option} is neither pg_createcluster's nor initdb's: it has no effect"));
    }
    if plan.needs_locale && ["LANG", "LC_ALL", "LC_CTYPE"].iter().all(|name| std::env::var_os(name).is_none()) {
        site.reporter.warn(
            "no locale is set, neither by an option nor in the environment, so the databases will be SQL_ASCII: \
             add --locale=C.UTF-8 (or yours) to the command in the Patroni file",
        );
    }
    if let Err(error) = run(site, &plan.words) {
        // pg_createcluster removes what it made, unless it was killed itself.
        remove_remains(&site.root, &id, &claim).and_then(|()| unfinished.end()).unwrap_or_else(|error| {
            site.reporter.warn(format!("{error:#}; the next attempt removes it"));
        });
        return Err(error);
    }
    etc::check_data_directory(&site.root, &id, &data)
        .context("pg_createcluster has made the cluster in another directory")?;
    unfinished.end()?;
    site.reporter.info(format!("made {id} in {}", data.display()));
    Ok(())
}

fn waldir(site: &Site, id: &ClusterId, arguments: &Arguments) -> Result<Option<PathBuf>> {
    match arguments.value("waldir") {
        Some(pattern) => hook::directory("--waldir", &id.fill(pattern)).map(Some),
        None => CreateCluster::read(&site.root)?.waldir(id),
    }
}

/// Makes sure that the directories are empty: the remains of an interrupted attempt go, everything else is refused.
pub(crate) fn clear(
    site: &Site,
    id: &ClusterId,
    unfinished: &Unfinished,
    data: &Path,
    waldir: Option<&Path>,
) -> Result<()> {
    if let Some(pid) = running_server(&site.root, data) {
        bail!("a PostgreSQL server (pid {pid}) runs in {}: stop it first", data.display());
    }
    for directory in std::iter::once(data).chain(waldir) {
        match unfinished.content(&site.root, directory)? {
            Content::Empty => {}
            Content::Remains(claim) => {
                site.reporter.info(format!(
                    "removing the remains of an interrupted {} from {}",
                    claim.kind.name(),
                    claim.data_directory.display()
                ));
                remove_remains(&site.root, id, &claim)?;
            }
            Content::Foreign(why) => bail!(
                "{} is not empty: {why}; nothing was touched; name another directory, or move away what is in this one \
                 if nobody needs it",
                directory.display()
            ),
        }
        if !is_empty(&site.root, directory)? {
            bail!("{} cannot be emptied", directory.display());
        }
    }
    Ok(())
}

/// What `pg_createcluster` is given.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    words: Vec<OsString>,
    unknown: Vec<String>,
    /// Nothing says which locale and encoding the databases get.
    needs_locale: bool,
}

fn plan(id: &ClusterId, data: &Path, waldir: Option<&Path>, port: Option<u16>, arguments: &Arguments) -> Plan {
    let joined = |name: &str, value: &Path| {
        let mut word = OsString::from(format!("--{name}="));
        word.push(value);
        word
    };
    let option = |name: &str, value: Option<&str>| {
        OsString::from(value.map_or_else(|| format!("--{name}"), |value| format!("--{name}={value}")))
    };
    let mut words: Vec<OsString> = vec!["--quiet".into(), "--no-status".into(), "--start-conf=manual".into()];
    words.push(joined("datadir", data));
    words.extend(port.map(|port| format!("--port={port}").into()));
    let (mut initdb, mut unknown) = (Vec::new(), Vec::new());
    initdb.extend(waldir.map(|waldir| joined("waldir", waldir)));
    let mut needs_locale = true;
    for (name, value) in arguments.options() {
        needs_locale &= !matches!(name, "locale" | "lc-ctype" | "no-locale" | "encoding");
        match name {
            "start-conf" if value == Some("manual") => {}
            _ if PATRONIS.contains(&name) => {}
            _ if POSTGRESQL_COMMON.contains(&name) => words.push(option(name, value)),
            _ if INITDB.contains(&name) => initdb.push(option(name, value)),
            _ => unknown.push(name.to_owned()),
        }
    }
    words.extend([id.version.as_str().into(), id.name.as_str().into()]);
    if !initdb.is_empty() {
        words.push("--".into());
        words.extend(initdb);
    }
    Plan { words, unknown, needs_locale }
}

fn run(site: &Site, words: &[OsString]) -> Result<()> {
    let mut call = tied::command(&site.root, &site.root.program("pg_createcluster")?)?;
    // The locale of the databases comes from the environment, as in every pg_createcluster.
    match std::env::var_os("LC_ALL") {
        Some(locale) => call.env("LC_ALL", locale),
        None => call.env_remove("LC_ALL"),
    };
    let output = program::output(call.args(words))?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        bail!("pg_createcluster failed ({}): {}", output.status, lines[lines.len().saturating_sub(6)..].join("; "));
    }
    for line in said.lines().filter(|line| line.to_lowercase().contains("warning")) {
        site.reporter.warn(line.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn options_reach_the_program_that_knows_them() {
        let arguments = hook::tests_arguments(&[
            "--encoding=UTF8",
            "--data_checksums=True",
            "--locale=C.UTF-8",
            "--wal-segsize=64",
            "--allow-group-access=False",
            "--colour=red",
            "--scope=17-main",
            "--datadir=/srv/a b",
        ]);
        let id = "17/main".parse().unwrap();
        let plan = plan(&id, Path::new("/srv/a b"), Some(Path::new("/wal")), Some(5433), &arguments);
        assert_eq!(
            plan.words,
            [
                "--quiet",
                "--no-status",
                "--start-conf=manual",
                "--datadir=/srv/a b",
                "--port=5433",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "17",
                "main",
                "--",
                "--waldir=/wal",
                "--data-checksums",
                "--wal-segsize=64"
            ]
        );
        assert_eq!(plan.unknown, ["colour"]);
        assert!(!plan.needs_locale);
    }
}
