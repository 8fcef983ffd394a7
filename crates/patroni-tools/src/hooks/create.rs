//! `pg_createcluster_patroni`: Patroni's custom bootstrap, which creates the first member of a cluster.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use host::createcluster::CreateCluster;
use host::trouble::Trouble;
use host::{ClusterId, Root, fail, program, trouble};

use crate::context::Context;
use crate::hooks::arguments::{self, Arguments};
use crate::hooks::directories::Directories;
use crate::hooks::hook::{self, Hook, initialize_key};
use crate::hooks::marker::{Claim, Kind, Marker, clear, remove_or_warn};
use crate::hooks::unadopted;
use crate::postgres::locales::Locales;
use crate::postgres::{child, conf_dir};

const HOOK: Hook = Hook {
    name: "pg_createcluster_patroni",
    usage: "\
Usage: pg_createcluster_patroni --scope=SCOPE --datadir=DIRECTORY [OPTION]...

Creates the first member of a Patroni cluster with pg_createcluster.
Patroni runs it (bootstrap.METHOD.command).

  --scope=VERSION-NAME    the cluster, for example 17-main
  --cluster=VERSION/NAME  the cluster, if the scope does not name it
  --datadir=DIRECTORY     the data directory
  --port=PORT             the port
                          (default: from /etc/patroni/VERSION-NAME.yml)
  --locale=, --lc-*=, --encoding=, --logfile=, --socketdir=, --environment=,
  --createclusterconf=, --pgoption=NAME=VALUE
                          options of pg_createcluster
  --data-checksums, --waldir=, --wal-segsize=, --allow-group-access,
  --no-locale, --locale-provider=, --icu-locale=, ...
                          options of initdb
  --help, --version       show this text or the version, and exit

Manual: pg_createcluster_patroni(8)
",
    words: false,
    by_root: None,
    supervised: true,
    work,
};

/// Patroni's own options, and the keys of a method that are meant for Patroni.
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

/// Options of `pg_createcluster`.
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

/// Options of initdb. If this version of PostgreSQL does not know one of them, initdb says so.
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

fn work(context: &Context, arguments: &Arguments) -> Result<()> {
    let id = arguments.cluster()?;
    let data = arguments.data_directory()?;
    let scope = arguments.value("scope").map_or_else(|| id.dashed(), str::to_owned);
    let waldir = waldir(context, &id, arguments)?;
    refuse_trust(context)?;
    unadopted::refuse(&context.root, &id)?;
    let mut marker = Marker::lock(&context.root, &id)?;

    conf_dir::settle(context, &id, &data)?;
    conf_dir::check_owner(context, &id, &data)?;
    if marker.interrupted().is_some_and(|claim| claim.kind == Kind::Bootstrap) {
        let interrupted = trouble!("an earlier bootstrap of {id} was interrupted");
        context.reporter.warn(interrupted.hint(initialize_key(&id, &scope)));
    }
    clear(context, &id, &marker, &data, waldir.as_deref())?;

    let claim =
        Claim { kind: Kind::Bootstrap, data_directory: data.clone(), waldir: waldir.clone(), pid: std::process::id() };
    marker.write(&claim)?;
    conf_dir::report_moved(context, &id, "an earlier attempt", &conf_dir::set_aside(&context.root, &id)?);
    let plan = plan(&id, &data, waldir.as_deref(), hook::port(context, &id, arguments)?, arguments);
    for option in &plan.unknown {
        context.reporter.warn(trouble!("--{option} is not an option of pg_createcluster or initdb, and has no effect"));
    }
    if plan.needs_locale && ["LANG", "LC_ALL", "LC_CTYPE"].iter().all(|name| std::env::var_os(name).is_none()) {
        context.reporter.warn(trouble!(
            "no locale is set, neither with an option nor in the environment, so the encoding will be SQL_ASCII";
            "Add a locale to the command in the Patroni file, such as --locale=C.UTF-8."
        ));
    }
    if let Err(error) = run(context, &plan.words) {
        // pg_createcluster removes what it has created, unless it is killed itself.
        remove_or_warn(context, &id, marker, &claim);
        return Err(explain(&context.root, &id, &data, waldir.as_deref(), arguments).map_or(error, Into::into));
    }
    conf_dir::check_data_directory(&context.root, &id, &data)
        .context("pg_createcluster has created the cluster in another directory")?;
    marker.remove()?;
    context.reporter.info(format!("created {id} in {}", data.display()));
    Ok(())
}

/// Why `pg_createcluster` failed, if that is a directory or a locale. It recommends to be root for every directory that it cannot create,
/// and hides the name of a locale among the warnings of perl.
fn explain(root: &Root, id: &ClusterId, data: &Path, waldir: Option<&Path>, arguments: &Arguments) -> Option<Trouble> {
    let directories = Directories { root, id, data, waldir, by_hooks: true, member: "", by_hand: None };
    if let Some(problem) = directories.creation().into_iter().next() {
        return Some(problem.trouble);
    }
    let options = arguments.options().filter(|(name, _)| *name == "locale" || name.starts_with("lc-"));
    let asked: Vec<String> = options.filter_map(|(_, value)| value.map(str::to_owned)).collect();
    let environment =
        || ["LC_ALL", "LC_COLLATE", "LC_CTYPE", "LANG"].iter().filter_map(|name| std::env::var(name).ok());
    let names = if asked.is_empty() { environment().collect() } else { asked };
    let locales = Locales::of(root)?;
    names.iter().find_map(|name| locales.missing(root, name))
}

/// Set to `peer` for a Patroni that `patroni@.service` has started: only the user that runs it can log in during a bootstrap.
/// The administrator can set `trust` instead.
const PROMISE: &str = "PATRONI_TOOLS_BOOTSTRAP";

/// Refuses to work for a Patroni that lets every user of this host log in as superuser until the bootstrap is complete: one that
/// `patroni@.service` has not started. If something else runs the hook, the cluster has Debian's `pg_hba.conf`.
fn refuse_trust(context: &Context) -> Result<()> {
    let promise = std::env::var(PROMISE).ok();
    match (promise.as_deref(), patroni_above(&context.root, std::process::id())) {
        (Some("peer"), _) | (_, None) => Ok(()),
        (Some("trust"), Some(_)) => {
            context.reporter.warn(trouble!(
                "any user of this host can log in as PostgreSQL's superuser until the bootstrap is complete ({PROMISE}=trust)"
            ));
            Ok(())
        }
        (_, Some(pid)) => fail!(
            "Patroni (pid {pid}) may let any user of this host log in as PostgreSQL's superuser until the bootstrap is complete";
            "Start it with 'systemctl start patroni@VERSION-NAME', which prevents that; if it was started so, see its journal. \
             On a host without other users, you can set {PROMISE}=trust in its environment."
        ),
    }
}

/// The nearest process above `pid` that is Patroni.
fn patroni_above(root: &Root, pid: u32) -> Option<u32> {
    // More than Patroni, a shell or two and both processes of the hook; bounded, because a process ID can be reused meanwhile.
    const GENERATIONS: usize = 16;
    std::iter::successors(Some(pid), |pid| parent(root, *pid))
        .skip(1)
        .take(GENERATIONS)
        .find(|pid| std::fs::read(root.path(format!("/proc/{pid}/cmdline"))).is_ok_and(|line| is_patroni(&line)))
}

fn parent(root: &Root, pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(root.path(format!("/proc/{pid}/status"))).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
    (parent != 0).then_some(parent)
}

/// `python3 /usr/bin/patroni FILE`, `python3 -m patroni FILE`, or a program patroni of its own.
fn is_patroni(command_line: &[u8]) -> bool {
    let name = |word: &[u8]| {
        let word = String::from_utf8_lossy(word);
        word.rsplit('/').next().unwrap_or_default().to_owned()
    };
    let mut words = command_line.split(|byte| *byte == 0).map(name);
    let Some(program) = words.next() else { return false };
    // The options of Python come before the program.
    let first = words.find(|word| !word.starts_with('-')).unwrap_or_default();
    program == "patroni" || program.starts_with("python") && matches!(first.as_str(), "patroni" | "patroni.py")
}

fn waldir(context: &Context, id: &ClusterId, arguments: &Arguments) -> Result<Option<PathBuf>> {
    match arguments.value("waldir") {
        Some(pattern) => arguments::directory("--waldir", &id.fill(pattern)).map(Some),
        None => CreateCluster::read(&context.root)?.waldir(id),
    }
}

/// The command line of `pg_createcluster`.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    words: Vec<OsString>,
    /// Options of the hook that have no effect.
    unknown: Vec<String>,
    /// No option sets locale or encoding.
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
    initdb.extend(other_authentication(arguments).map(OsString::from));
    words.extend([id.version.as_str().into(), id.name.as_str().into()]);
    if !initdb.is_empty() {
        words.push("--".into());
        words.extend(initdb);
    }
    Plan { words, unknown, needs_locale }
}

/// With only one of `--auth-local` and `--auth-host`, `pg_createcluster` leaves the other one to initdb, whose default is trust.
fn other_authentication(arguments: &Arguments) -> Option<&'static str> {
    let has = |name| arguments.options().any(|(option, _)| option == name);
    match (has("auth"), has("auth-local"), has("auth-host")) {
        (false, true, false) => Some("--auth-host=scram-sha-256"),
        (false, false, true) => Some("--auth-local=peer"),
        _ => None,
    }
}

fn run(context: &Context, words: &[OsString]) -> Result<()> {
    let mut call = child::command(&context.root, &context.root.program("pg_createcluster")?)?;
    // pg_createcluster takes the locale of the databases from the environment.
    match std::env::var_os("LC_ALL") {
        Some(locale) => call.env("LC_ALL", locale),
        None => call.env_remove("LC_ALL"),
    };
    let output = program::output(call.args(words))?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        fail!("pg_createcluster failed ({}): {}", output.status, lines[lines.len().saturating_sub(6)..].join("; "));
    }
    for line in said.lines().filter(|line| line.to_lowercase().contains("warning")) {
        context.reporter.warn(line.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn options_reach_the_program_that_knows_them() {
        let arguments = arguments::tests_arguments(&[
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

    #[test]
    fn an_authentication_that_is_not_set_is_debians_and_not_trust() {
        let other = |line: &[&str]| other_authentication(&arguments::tests_arguments(line));
        assert_eq!(other(&["--auth-host=md5"]), Some("--auth-local=peer"));
        assert_eq!(other(&["--auth_local=ident"]), Some("--auth-host=scram-sha-256"));
        for line in [&["--auth-host=md5", "--auth-local=peer"][..], &["--auth=md5", "--auth-host=md5"], &[]] {
            assert_eq!(other(line), None);
        }
    }

    #[test]
    fn patroni_is_recognized_by_its_command_line() {
        for line in [
            "/usr/bin/python3\0/usr/libexec/patroni-tools/patroni\0/etc/patroni/17-main.yml\0",
            "/usr/bin/python3\0/usr/bin/patroni\0/etc/patroni/17-main.yml\0",
            "python3.13\0-B\0-m\0patroni\0main.yml\0",
            "/opt/patroni/bin/patroni\0main.yml\0",
        ] {
            assert!(is_patroni(line.as_bytes()), "{line:?}");
        }
        for line in
            ["", "bash\0patroni\0", "/usr/bin/python3\0ansible\0patroni\0", "patronictl\0list\0", "vi\0patroni\0"]
        {
            assert!(!is_patroni(line.as_bytes()), "{line:?}");
        }
    }

    #[test]
    fn patroni_is_found_above_a_shell() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        for (pid, parent, line) in
            [(9, 8, "hook"), (8, 7, "sh\0-c\0hook"), (7, 1, "python3\0/usr/bin/patroni"), (1, 0, "init")]
        {
            let process = root.path(format!("/proc/{pid}"));
            std::fs::create_dir_all(&process).unwrap();
            std::fs::write(process.join("status"), format!("Name:\tx\nPPid:\t{parent}\n")).unwrap();
            std::fs::write(process.join("cmdline"), line).unwrap();
        }
        assert_eq!(patroni_above(&root, 9), Some(7));
        // Patroni is not above itself, and a process that has died is above none.
        assert_eq!(patroni_above(&root, 7), None);
        assert_eq!(patroni_above(&root, 5), None);
    }
}
