//! From a server to settings of this package. Pure.
//!
//! Patroni includes the old `postgresql.conf` as `postgresql.base.conf`, so that everything in it, in `conf.d` and in `postgresql.auto.conf`
//! continues to apply on this host. But the other members do not have these files, and some parameters come from Patroni in any case. So
//! everything that has been set becomes a setting, except for what only concerns this host.

use std::path::Path;

use host::settings::PARAMETER_PREFIX;
use host::trouble;
use host::trouble::Trouble;

use crate::handover::decision::{Line, NewRole};
use crate::handover::running::{Running, Setting, Slot};
use crate::postgres::roles::Purpose;

/// Parameters that are not taken over: Patroni sets them itself, other settings of this package do, or they are only about this host.
const NOT_TAKEN: &[&str] = &[
    "cluster_name",
    "config_file",
    "data_directory",
    "event_source",
    "external_pid_file",
    "hba_file",
    "hot_standby",
    "ident_file",
    "listen_addresses",
    "port",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "search_path",
    "ssl",
    "ssl_ca_file",
    "ssl_cert_file",
    "ssl_key_file",
    "stats_temp_directory",
    "synchronous_standby_names",
    "trigger_file",
    "wal_log_hints",
];

/// Parameters with which the generator makes Patroni's server log where postgresql-common's did.
const LOGGING: &[&str] = &["log_directory", "log_file_mode", "log_filename", "logging_collector"];

/// Patroni's own values of parameters that it passes on the command line, unless they are set (`ConfigHandler.CMDLINE_OPTIONS`).
pub(crate) const PATRONIS: &[(&str, &str)] = &[
    ("max_connections", "100"),
    ("max_locks_per_transaction", "64"),
    ("max_prepared_transactions", "0"),
    ("max_replication_slots", "10"),
    ("max_wal_senders", "10"),
    ("max_worker_processes", "8"),
    ("track_commit_timestamp", "off"),
    ("wal_keep_size", "128MB"),
    ("wal_level", "replica"),
];

/// What is taken over.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) lines: Vec<Line>,
    /// A file of parameters whose names cannot be part of a key.
    pub(crate) parameters: String,
    pub(crate) notes: Vec<Trouble>,
}

/// The parameters.
pub(crate) fn parameters(running: &Running) -> Taken {
    let mut taken = Taken::default();
    let own_log = running.value("logging_collector") == "on";
    for setting in &running.settings {
        let name = setting.name.to_ascii_lowercase();
        let skipped = NOT_TAKEN.contains(&name.as_str())
            || (LOGGING.contains(&name.as_str()) && !own_log)
            || name.starts_with("recovery_")
            || name == "restore_command" && running.recovery
            || name == "unix_socket_directories" && setting.value == "/var/run/postgresql"
            || name == "wal_keep_size" && setting.plain.parse().is_ok_and(|megabytes: u64| megabytes < 16)
            || setting.context == "internal";
        if skipped || !is_set(setting) || !is_parameter(&name) {
            continue;
        }
        if setting.value.contains(['\n', '\r', '\0']) {
            taken.notes.push(trouble!(
                at origin(setting), "{name} has a value of more than one line, which cannot be taken over";
                "It remains in effect on this host. Write it on one line, or set it on the other hosts as well."
            ));
        } else if name.contains('.') {
            let value = setting.value.replace('\'', "''").replace('\\', "\\\\");
            taken.parameters.extend(["# ", &origin(setting), "\n", &name, " = '", &value, "'\n"]);
        } else {
            taken.lines.push(Line {
                key: format!("{PARAMETER_PREFIX}{name}"),
                value: setting.value.clone(),
                origin: origin(setting),
            });
        }
        if setting.file.as_deref().is_some_and(|file| Path::new(file).ends_with("postgresql.auto.conf")) {
            taken.notes.push(trouble!(
                at origin(setting), "{name} was set by ALTER SYSTEM, which overrides Patroni's value on this host";
                "After a change of the setting, run in psql: ALTER SYSTEM RESET {name}"
            ));
        }
    }
    taken
}

/// Is it a name as parameters have it? The server is run by postgres, and what it says becomes lines of a file of root.
fn is_parameter(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.';
    name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') && name.chars().all(plain)
}

/// Has the administrator chosen the value, or would Patroni choose another one?
fn is_set(setting: &Setting) -> bool {
    if let Some((_, patronis)) = PATRONIS.iter().find(|(name, _)| *name == setting.name) {
        return setting.value != *patronis;
    }
    let chosen = ["configuration file", "command line"].contains(&setting.source.as_str());
    chosen && setting.boot.as_ref() != Some(&setting.plain)
}

/// Where a value was set.
fn origin(setting: &Setting) -> String {
    match (&setting.file, setting.line) {
        (Some(file), Some(line)) => format!("{file}:{line}"),
        _ if setting.source == "default" => "PostgreSQL's default".to_owned(),
        _ => setting.source.clone(),
    }
}

/// `SLOTS`, so that Patroni keeps the slots that it does not know.
pub(crate) fn slots(slots: &[Slot]) -> Option<Line> {
    let list: Vec<String> = slots
        .iter()
        .map(|slot| match (&slot.database, &slot.plugin) {
            (Some(database), Some(plugin)) => format!("{}:logical:{database}:{plugin}", slot.name),
            _ => format!("{}:physical", slot.name),
        })
        .collect();
    let origin = "the slots of the server, which Patroni would otherwise drop".to_owned();
    (!list.is_empty()).then(|| Line { key: "SLOTS".to_owned(), value: list.join(","), origin })
}

/// `LISTEN_ADDRESSES`, if the other members can reach the server there.
pub(crate) fn listen_addresses(running: &Running, address: &str) -> Option<Line> {
    let setting = running.settings.iter().find(|setting| setting.name == "listen_addresses")?;
    let list: Vec<&str> = setting.value.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    let all = if address.contains(':') { "::" } else { "0.0.0.0" };
    let reaches = list.iter().any(|word| *word == "*" || *word == all || *word == address);
    // The default is the address of each member and loopback, while an address of this host would be wrong on the others.
    let loopback = |word: &str| ["localhost", "127.0.0.1", "::1"].contains(&word);
    let is_default = list.iter().all(|word| *word == address || loopback(word));
    (reaches && !is_default).then(|| Line {
        key: "LISTEN_ADDRESSES".to_owned(),
        value: list.join(","),
        origin: origin(setting),
    })
}

/// The roles that Patroni needs: the usual names, or others if those are in use. A role that has `ours` as its password already is
/// from an earlier run.
pub(crate) fn roles(
    running: &Running,
    usual: [(&str, Purpose); 2],
    ours: impl Fn(Purpose, &str) -> bool,
) -> Vec<NewRole> {
    let free = |name: &str, purpose: Purpose| match running.role(name) {
        None => true,
        Some(role) => {
            role.login && !role.superuser && role.verifier.as_deref().is_some_and(|verifier| ours(purpose, verifier))
        }
    };
    usual
        .map(|(usual, purpose)| {
            let others = (1..).map(|number| match number {
                1 => format!("patroni_{usual}"),
                _ => format!("patroni_{usual}_{number}"),
            });
            let name =
                std::iter::once(usual.to_owned()).chain(others).find(|name| free(name, purpose)).unwrap_or_default();
            NewRole { name, purpose }
        })
        .into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::handover::running::Role;

    fn setting(name: &str, value: &str, boot: &str, file: Option<&str>) -> Setting {
        Setting {
            name: name.to_owned(),
            value: value.to_owned(),
            plain: value.to_owned(),
            unit: None,
            kind: "string".to_owned(),
            context: "sighup".to_owned(),
            source: if file.is_some() { "configuration file" } else { "default" }.to_owned(),
            file: file.map(str::to_owned),
            line: file.map(|_| 3),
            boot: Some(boot.to_owned()),
            pending: false,
        }
    }

    #[test]
    fn what_somebody_has_set_is_taken_over() {
        let conf = Some("/etc/postgresql/17/main/postgresql.conf");
        let auto = Some("/var/lib/postgresql/17/main/postgresql.auto.conf");
        let taken = parameters(&Running::with(vec![
            setting("work_mem", "8MB", "4MB", conf),
            setting("wal_level", "replica", "replica", conf),
            setting("max_connections", "150", "100", conf),
            setting("DateStyle", "ISO, DMY", "ISO, MDY", conf),
            setting("auto_explain.log_min_duration", "1s", "-1", conf),
            setting("random_page_cost", "1.1", "4", auto),
            setting("archive_command", "cp a \\\nb", "", conf),
            setting("port", "5433", "5432", conf),
            setting("x\nSITE_KEY_FILE=/tmp/key", "1", "0", conf),
            setting("a.b = 1\nc.d", "1", "0", conf),
            setting("jit", "on", "on", None),
            setting("log_filename", "x.log", "y.log", conf),
        ]));
        let lines: Vec<String> = taken.lines.iter().map(|line| format!("{}={}", line.key, line.value)).collect();
        assert_eq!(
            lines,
            ["PG_work_mem=8MB", "PG_max_connections=150", "PG_datestyle=ISO, DMY", "PG_random_page_cost=1.1"]
        );
        assert_eq!(taken.lines[0].origin, "/etc/postgresql/17/main/postgresql.conf:3");
        assert!(taken.parameters.ends_with("auto_explain.log_min_duration = '1s'\n"), "{}", taken.parameters);
        let notes: Vec<String> = taken.notes.iter().map(|note| note.what.clone()).collect();
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(
            notes[0].contains("random_page_cost was set by ALTER SYSTEM") && notes[1].contains("more than one line")
        );
    }

    #[test]
    fn a_role_of_somebody_else_is_left_alone() {
        let usual = [("replicator", Purpose::Replication), ("rewind_user", Purpose::Rewind)];
        let role = |name: &str, verifier: &str| Role {
            name: name.to_owned(),
            login: true,
            replication: true,
            superuser: false,
            verifier: Some(verifier.to_owned()),
        };
        let mut server = Running::with(Vec::new());
        let names = |server: &Running| -> Vec<String> {
            roles(server, usual, |_, verifier| verifier == "ours").into_iter().map(|role| role.name).collect()
        };
        assert_eq!(names(&server), ["replicator", "rewind_user"]);
        server.roles = vec![role("replicator", "theirs"), role("rewind_user", "ours")];
        assert_eq!(names(&server), ["patroni_replicator", "rewind_user"]);
        server.roles.push(role("patroni_replicator", "theirs, too"));
        assert_eq!(names(&server), ["patroni_replicator_2", "rewind_user"]);
    }

    #[test]
    fn addresses_that_nobody_reaches_are_not_taken_over() {
        let listens = |value: &str| {
            let conf = Some("/etc/postgresql/17/main/postgresql.conf");
            listen_addresses(&Running::with(vec![setting("listen_addresses", value, "localhost", conf)]), "10.0.0.1")
        };
        assert_eq!(listens("localhost"), None);
        assert_eq!(listens(""), None);
        assert_eq!(listens("localhost, 10.0.0.1"), None);
        assert_eq!(listens("10.0.0.1,10.9.0.1").unwrap().value, "10.0.0.1,10.9.0.1");
        assert_eq!(listens("*").unwrap().value, "*");
    }
}
