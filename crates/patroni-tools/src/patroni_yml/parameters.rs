//! PostgreSQL's parameters: those of the cluster, which are in the DCS, and those of this member, which override them.

use std::collections::BTreeMap;
use std::io::{Seek, Write};
use std::process::Stdio;

use anyhow::{Context, Result};
use host::settings::{PARAMETER_PREFIX, Settings, nearest};
use host::trouble::{Explain, Trouble};
use host::{ClusterId, Root, conf, facts, fail, program, trouble};

use crate::patroni_yml::bootstrap_dcs::Dynamic;
use crate::patroni_yml::standby_failure::{COST, Failure, WAL_SENDER_TIMEOUT, timeout_of};
use crate::postgres::host_needs;
use crate::postgres::programs::server_program;

/// Names and values, in order.
pub type Values = Vec<(String, String)>;

/// Parameters that cannot be set here, and how they are set.
const OTHERS: &[(&str, &str)] = &[
    ("listen_addresses", "Set LISTEN_ADDRESSES, from which Patroni sets it."),
    ("port", "Set PORT, from which Patroni sets it."),
    ("cluster_name", "Remove it: Patroni sets it to the scope."),
    ("hot_standby", "Remove it: Patroni keeps it on."),
    ("wal_log_hints", "Remove it: Patroni keeps it on, for pg_rewind."),
    ("primary_conninfo", "Remove it: Patroni sets it."),
    ("primary_slot_name", "Remove it: Patroni sets it."),
    ("hba_file", "Use PG_HBA_FILE: Patroni writes pg_hba.conf."),
    ("ident_file", "Remove it: Patroni writes pg_ident.conf."),
    ("config_file", "Remove it: postgresql-common determines the location of this file."),
    ("data_directory", "Set it in /etc/postgresql-common/createcluster.conf."),
    ("ssl", "Use SSL."),
    ("ssl_cert_file", "Use SSL_CERT."),
    ("ssl_key_file", "Use SSL_KEY."),
    ("ssl_ca_file", "Use SSL_CACERT."),
];

/// Patroni uses its own default if a value is lower (`ConfigHandler.CMDLINE_OPTIONS` in `patroni/postgresql/config.py`).
const LEAST: &[(&str, u64)] = &[
    ("max_connections", 25),
    ("max_wal_senders", 3),
    ("max_locks_per_transaction", 32),
    ("max_replication_slots", 4),
    ("max_worker_processes", 2),
];

/// The defaults of `max_worker_processes` and `max_connections` (`guc_tables.c`, initdb).
const WORKERS: u64 = 8;
const CONNECTIONS: u64 = 100;

/// After this time the primary gives up a standby that does not respond.
const SENDER: &str = "wal_sender_timeout";

/// A value that the administrator set, and the place where it is defined.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) value: String,
    pub(crate) place: String,
    /// `PG_work_mem`, or the parameter's name if it is defined in a file of parameters.
    pub(crate) key: String,
}

/// Parameters by name.
pub(crate) type Named = BTreeMap<String, Asked>;

/// The parameters that are set by `PG_…` and in `PG_PARAMETERS_FILE`, checked.
#[derive(Debug, Default)]
pub struct Parameters(BTreeMap<String, Asked>);

impl Parameters {
    /// Reads them, and asks PostgreSQL of this version whether it accepts them.
    pub fn resolve(root: &Root, id: &ClusterId, settings: &Settings, dynamic: &Dynamic) -> Result<Self> {
        let mut asked = from_file(root, settings)?;
        for (name, setting) in settings.parameters() {
            let (place, key) = (setting.origin.to_string(), format!("{PARAMETER_PREFIX}{name}"));
            asked.insert(name.to_owned(), Asked { value: setting.text.clone(), place, key });
        }
        for (name, Asked { value, place, key }) in &asked {
            check(name, value, dynamic.is_synchronous()).context(key.clone()).at(place)?;
        }
        if !asked.is_empty() {
            if let Some(refused) = joined(refused(root, id, &asked)?) {
                return Err(refused.into());
            }
        }
        let parameters = Self(asked);
        if dynamic.has_logical_slots() && parameters.value("wal_level") != Some("logical") {
            fail!(
                at settings.place(&["SLOTS"]),
                "SLOTS has a logical slot, but PG_wal_level is not logical";
                "Set PG_wal_level=logical too."
            );
        }
        Ok(parameters)
    }

    /// The parameters of the cluster, which Patroni writes to the DCS.
    #[must_use]
    pub fn of_cluster(&self, id: &ClusterId, dynamic: &Dynamic) -> Values {
        let mut values: Values = self.0.iter().map(|(name, asked)| (name.clone(), asked.value.clone())).collect();
        // pg_hba requires SCRAM, but before version 14 passwords are stored as md5 by default.
        if id.version.number() < (14, 0) && self.value("password_encryption").is_none() {
            values.push(("password_encryption".to_owned(), "scram-sha-256".to_owned()));
        }
        if dynamic.is_synchronous() && self.value(SENDER).is_none() {
            values.push((SENDER.to_owned(), WAL_SENDER_TIMEOUT.to_owned()));
        }
        values
    }

    /// The failure of a synchronous standby stops writes for too long. `standbys` is their number, if it is known.
    #[must_use]
    pub fn long_stop(
        &self,
        id: &ClusterId,
        settings: &Settings,
        dynamic: &Dynamic,
        standbys: Option<u64>,
    ) -> Option<Trouble> {
        let asked = self.0.get(SENDER);
        let failure = dynamic.is_synchronous().then(|| Failure {
            quorum: dynamic.is_quorum(),
            node_count: dynamic.synchronous_node_count,
            loop_wait: dynamic.loop_wait,
            wal_sender_timeout: timeout_of(Some(asked.map_or(WAL_SENDER_TIMEOUT, |asked| &asked.value))),
        })?;
        let what = failure.too_long(standbys)?;
        let place = asked.map_or_else(|| settings.place(&["LOOP_WAIT"]), |asked| asked.place.clone());
        Some(trouble!(
            at place, "{what}";
            "{COST} Set {}, then run: patroni-gen-config {id}", failure.cure()
        ))
    }

    /// The parameters of this member. Those that are set for the cluster are left out, because these would override them.
    pub fn of_member(&self, root: &Root, id: &ClusterId, settings: &Settings, tls: Values) -> Result<Values> {
        let log_filename = format!("postgresql-{}.log", id.dashed());
        let mut values: Values = [
            ("unix_socket_directories", "/var/run/postgresql"),
            ("logging_collector", "on"),
            ("log_directory", "/var/log/postgresql"),
            ("log_filename", &log_filename),
            ("log_file_mode", "0640"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        values.extend(tls);
        if settings.choice("PG_TUNE", &["no", "auto"])? == Some("auto") {
            let host = || Ok((facts::memory(root)?, facts::processors(root)?));
            let (megabytes, processors) = settings.parse("PG_TUNE", |_| host())?.unwrap_or_default();
            values.extend(tuned(
                megabytes,
                processors,
                self.number("max_connections"),
                self.number("max_worker_processes"),
            ));
        }
        values.retain(|(name, _)| self.value(name).is_none());
        Ok(values)
    }

    /// What these parameters need of this host, and it lacks.
    pub fn needs(&self, root: &Root, id: &ClusterId) -> Vec<Trouble> {
        let value = |name: &str| self.value(name).map(str::to_owned);
        let at = |name: &str| self.0.get(name).map(|asked| asked.place.clone()).unwrap_or_default();
        let found = host_needs::check(root, id, value);
        found.into_iter().map(|(name, trouble)| trouble.at(at(name))).collect()
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|asked| asked.value.as_str())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.value(name)?.parse().ok()
    }
}

fn from_file(root: &Root, settings: &Settings) -> Result<BTreeMap<String, Asked>> {
    let Some(path) = settings.path("PG_PARAMETERS_FILE")? else { return Ok(BTreeMap::new()) };
    let read = settings.parse("PG_PARAMETERS_FILE", |_| {
        if !root.path(&path).exists() {
            fail!("there is no file {}", path.display());
        }
        conf::read(root, &path)
    })?;
    let place = format!("{}", path.display());
    Ok(read
        .unwrap_or_default()
        .into_iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .map(|(name, value)| (name.clone(), Asked { value, place: place.clone(), key: name }))
        .collect())
}

/// Refuses values that Patroni would ignore or change.
pub(crate) fn check(name: &str, value: &str, synchronous: bool) -> Result<()> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.".contains(&b);
    if !name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') || !name.bytes().all(plain) {
        fail!("'{name}' is not the name of a parameter");
    }
    if value.contains(['\n', '\r', '\0']) {
        fail!("the value has more than one line"; "Write it on one line.");
    }
    if let Some((_, instead)) = OTHERS.iter().find(|(other, _)| *other == name) {
        fail!("this parameter cannot be set here"; "{instead}");
    }
    if name.starts_with("recovery_target") {
        fail!("this parameter cannot be set here"; "Remove it: a member of a cluster always recovers to the end of WAL.");
    }
    if name == "synchronous_standby_names" && synchronous {
        fail!("Patroni sets this parameter in synchronous mode"; "Remove it or SYNCHRONOUS_MODE.");
    }
    if name == "wal_level" && !["replica", "logical"].contains(&value) {
        fail!("replication is not possible with '{value}'"; "Set replica or logical.");
    }
    if let Some((_, least)) = LEAST.iter().find(|(other, _)| *other == name) {
        if value.parse::<u64>().is_ok_and(|number| number < *least) {
            fail!("{value} is less than {least}, so Patroni would use its own default"; "Set at least {least}.");
        }
    }
    if name == "wal_keep_size" && megabytes(value).is_some_and(|size| size < 16) {
        fail!("{value} is less than 16MB, so Patroni would use its own default"; "Set at least 16MB.");
    }
    Ok(())
}

/// A size in PostgreSQL's notation; in MB if it has no unit.
fn megabytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
    let number: u64 = digits.parse().ok()?;
    match text[digits.len()..].trim_start() {
        "" | "MB" => Some(number),
        "kB" => Some(number / 1024),
        "GB" => number.checked_mul(1024),
        "TB" => number.checked_mul(1024 * 1024),
        _ => None,
    }
}

/// The server itself reads the parameters as a configuration file: its version knows all names, units and bounds. `postgres
/// -C` needs neither data nor a particular user, and starts nothing. The file has no name, and no value is on the command
/// line.
pub(crate) fn refused(root: &Root, id: &ClusterId, asked: &Named) -> Result<Vec<Trouble>> {
    // Any paths: the server requires them before it reads further, but does not open them.
    const HEAD: &str = "data_directory = '/'\nhba_file = '/'\nident_file = '/'\n";
    let server = server_program(root, id, "postgres");
    let mut file = tempfile::tempfile().context("could not create a temporary file")?;
    let quote = |value: &str| value.replace('\\', r"\\").replace('\'', "''");
    let mut text = HEAD.to_owned();
    for (name, asked) in asked {
        text.extend([name, " = '", &quote(&asked.value), "'\n"]);
    }
    file.write_all(text.as_bytes()).and_then(|()| file.rewind()).context("could not write a temporary file")?;
    let mut call = program::at(&server);
    call.args(["-C", "port", "--config-file=/dev/stdin"]).stdin(Stdio::from(file));
    let output = program::output(&mut call)?;
    if output.status.success() {
        return Ok(Vec::new());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let known = || {
        let listed = program::capture(program::at(&server).arg("--describe-config")).unwrap_or_default();
        listed.lines().filter_map(|line| line.split('\t').next()).map(str::to_lowercase).collect()
    };
    let found = explain(&said, id, asked, known);
    if found.is_empty() {
        let last = program::last_line(&said).unwrap_or("it printed no message");
        fail!("could not check the parameters with PostgreSQL {}: {last}", id.version);
    }
    Ok(found)
}

/// The server's messages, with the places where the parameters are set.
fn explain(said: &str, id: &ClusterId, asked: &Named, known: impl Fn() -> Vec<String>) -> Vec<Trouble> {
    let mut found: Vec<Trouble> = Vec::new();
    for line in said.lines() {
        if let Some((_, hint)) = line.split_once(" HINT:  ") {
            if let Some(last) = found.last_mut() {
                last.hint = Some(hint.to_owned());
            }
            continue;
        }
        let Some((_, message)) = line.split_once(" LOG:  ") else { continue };
        // The server writes some names in mixed case: "DateStyle".
        let lower = message.to_lowercase();
        let about = asked.iter().find(|(name, _)| lower.contains(&format!("parameter \"{name}\"")));
        let Some((name, Asked { place, key, .. })) = about else { continue };
        found.push(if message.starts_with("unrecognized configuration parameter") {
            let known = known();
            let trouble = trouble!(at place, "{key}: PostgreSQL {} has no parameter {name}", id.version);
            match nearest(name, known.iter().map(String::as_str)) {
                Some((distance, near)) if distance <= near.len() / 3 => trouble.hint(format!("Did you mean {near}?")),
                _ => trouble,
            }
        } else {
            trouble!(at place, "{key}: PostgreSQL {} refuses the value: {message}", id.version)
        });
    }
    found
}

/// All of them as one: a single one keeps its fields, several become one message and one hint.
fn joined(mut found: Vec<Trouble>) -> Option<Trouble> {
    if found.len() < 2 {
        return found.pop();
    }
    let lines: Vec<String> = found.iter().map(Trouble::line).collect();
    let hints: Vec<String> = found.into_iter().filter_map(|trouble| trouble.hint).collect();
    let all = Trouble::new(lines.join("; "));
    Some(if hints.is_empty() { all } else { all.hint(hints.join(" ")) })
}

/// Memory and parallelism for a dedicated host, as described in patroni.default(5): a quarter of the memory for
/// `shared_buffers` (PostgreSQL's manual, "Resource Consumption"); a half as the size of the cache, a 16th and a 32nd for
/// maintenance and autovacuum (as in `pgpro_tune`); and another quarter, divided by the number of connections, for
/// `work_mem` (`PGTune`).
fn tuned(megabytes: u64, processors: u64, connections: Option<u64>, workers: Option<u64>) -> Values {
    const GIGABYTE: u64 = 1024;
    let size = |megabytes: u64| format!("{}MB", megabytes.max(1));
    let per_connection = megabytes / 4 / connections.unwrap_or(CONNECTIONS).max(1);
    let mut values = vec![
        ("shared_buffers", size(megabytes / 4)),
        ("effective_cache_size", size(megabytes / 2)),
        ("maintenance_work_mem", size((megabytes / 16).clamp(64, 2 * GIGABYTE))),
        ("autovacuum_work_mem", size((megabytes / 32).clamp(64, GIGABYTE))),
        ("work_mem", size(per_connection.max(4))),
    ];
    // With fewer processors PostgreSQL's own defaults are as good.
    if processors >= 4 {
        let gather = (processors / 2).min(4).to_string();
        values.push(("max_parallel_workers", processors.min(workers.unwrap_or(WORKERS)).to_string()));
        values.push(("max_parallel_workers_per_gather", gather.clone()));
        values.push(("max_parallel_maintenance_workers", gather));
    }
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn memory_is_shared_out() {
        let get =
            |values: &Values, name: &str| values.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let small = tuned(2048, 2, None, None);
        assert_eq!(get(&small, "shared_buffers").unwrap(), "512MB");
        assert_eq!(get(&small, "maintenance_work_mem").unwrap(), "128MB");
        assert_eq!(get(&small, "work_mem").unwrap(), "5MB");
        assert_eq!(get(&small, "max_parallel_workers"), None);
        let large = tuned(256 * 1024, 64, Some(400), Some(16));
        assert_eq!(get(&large, "maintenance_work_mem").unwrap(), "2048MB");
        assert_eq!(get(&large, "work_mem").unwrap(), "163MB");
        assert_eq!(get(&large, "max_parallel_workers").unwrap(), "16");
        assert_eq!(get(&large, "max_parallel_workers_per_gather").unwrap(), "4");
    }

    #[test]
    fn values_that_patroni_would_change_are_refused() {
        for (name, value, word) in [
            ("port", "5433", "PORT"),
            ("ssl_cert_file", "/x", "SSL_CERT"),
            ("hot_standby", "on", "Patroni keeps"),
            ("synchronous_standby_names", "*", "SYNCHRONOUS_MODE"),
            ("recovery_target_time", "now", "recovers to the end"),
            ("wal_level", "minimal", "replica"),
            ("max_connections", "24", "less than 25"),
            ("wal_keep_size", "15MB", "16MB"),
            ("wal_keep_size", "8192kB", "16MB"),
            ("archive_command", "a\nb", "one line"),
            ("work mem", "1", "not the name"),
        ] {
            let Trouble { what, hint, .. } = Trouble::of(&check(name, value, true).unwrap_err());
            assert!(format!("{what} {}", hint.unwrap_or_default()).contains(word), "{name}: {what}");
        }
        for (name, value) in [
            ("max_connections", "25"),
            ("wal_keep_size", "1 GB"),
            ("wal_level", "logical"),
            ("restore_command", "cp a b"),
            ("auto_explain.log_min_duration", "1s"),
        ] {
            assert!(check(name, value, true).is_ok(), "{name}");
        }
        assert!(check("synchronous_standby_names", "*", false).is_ok());
    }

    #[test]
    fn messages_of_the_server_get_their_place() {
        let asked = ["shard_buffers", "work_mem", "jit", "datestyle"].map(|name| {
            let place = "/etc/default/patroni:7".to_owned();
            (name.to_owned(), Asked { value: "x".to_owned(), place, key: format!("PG_{name}") })
        });
        let asked = BTreeMap::from(asked);
        let id = "17/main".parse().unwrap();
        // As PostgreSQL 15 and 17 print it.
        let said = "2026-11-21 05:47:18.693 GMT [1] LOG:  skipping missing configuration file \"/postgresql.auto.conf\"\n\
            2026-11-21 05:47:18.694 GMT [1] LOG:  unrecognized configuration parameter \"shard_buffers\" in file \"/dev/stdin\" line 4\n\
            2026-11-21 05:47:18.701 GMT [1] LOG:  invalid value for parameter \"work_mem\": \"8XB\"\n\
            2026-11-21 05:47:18.701 GMT [1] HINT:  Valid units for this parameter are \"B\" and \"kB\".\n\
            2026-11-21 05:47:18.701 GMT [1] LOG:  parameter \"jit\" requires a Boolean value\n\
            2026-11-21 05:47:18.701 GMT [1] LOG:  invalid value for parameter \"DateStyle\": \"b\"\n\
            2026-11-21 05:47:18.694 GMT [1] FATAL:  configuration file \"/dev/stdin\" contains errors\n";
        let found = explain(said, &id, &asked, || vec!["shared_buffers".to_owned(), "jit".to_owned()]);
        let found = joined(found).unwrap();
        assert_eq!(
            found.what.split("; ").collect::<Vec<_>>(),
            [
                "/etc/default/patroni:7: PG_shard_buffers: PostgreSQL 17 has no parameter shard_buffers",
                "/etc/default/patroni:7: PG_work_mem: PostgreSQL 17 refuses the value: invalid value for parameter \"work_mem\": \
                 \"8XB\"",
                "/etc/default/patroni:7: PG_jit: PostgreSQL 17 refuses the value: parameter \"jit\" requires a Boolean value",
                "/etc/default/patroni:7: PG_datestyle: PostgreSQL 17 refuses the value: invalid value for parameter \"DateStyle\": \"b\"",
            ]
        );
        let hints = "Did you mean shared_buffers? Valid units for this parameter are \"B\" and \"kB\".";
        assert_eq!(found.hint.as_deref(), Some(hints));
        let one = "2026 GMT [1] LOG:  parameter \"jit\" requires a Boolean value\n";
        assert_eq!(explain(one, &id, &asked, Vec::new)[0].place.as_deref(), Some("/etc/default/patroni:7"));
        assert!(explain("boo\n", &id, &asked, Vec::new).is_empty());
    }
}
