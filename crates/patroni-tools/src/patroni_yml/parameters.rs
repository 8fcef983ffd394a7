//! PostgreSQL's parameters: those of the cluster, which are in the store, and those of this member, which win over them.

use std::collections::BTreeMap;
use std::io::{Seek, Write};
use std::process::Stdio;

use anyhow::{Context, Result, anyhow, bail};
use host::settings::{PARAMETER_PREFIX, Settings, nearest};
use host::{ClusterId, Root, conf, facts, program};

/// Names and values, in order.
pub type Values = Vec<(String, String)>;

/// Who sets a parameter if not the administrator here, and what to do.
const OTHERS: &[(&str, &str)] = &[
    ("listen_addresses", "Patroni sets it from LISTEN_ADDRESSES"),
    ("port", "Patroni sets it from PORT"),
    ("cluster_name", "Patroni sets it to the scope"),
    ("hot_standby", "Patroni keeps it on"),
    ("wal_log_hints", "Patroni keeps it on, for pg_rewind"),
    ("primary_conninfo", "Patroni sets it"),
    ("primary_slot_name", "Patroni sets it"),
    ("hba_file", "Patroni writes pg_hba.conf: use PG_HBA_FILE"),
    ("ident_file", "Patroni writes pg_ident.conf"),
    ("config_file", "it is where postgresql-common wants it"),
    ("data_directory", "set it in /etc/postgresql-common/createcluster.conf"),
    ("ssl", "use SSL"),
    ("ssl_cert_file", "use SSL_CERT"),
    ("ssl_key_file", "use SSL_KEY"),
    ("ssl_ca_file", "use SSL_CACERT"),
];

/// Patroni takes its own default where a value is less (`ConfigHandler.CMDLINE_OPTIONS` in `patroni/postgresql/config.py`).
const LEAST: &[(&str, u64)] = &[
    ("max_connections", 25),
    ("max_wal_senders", 3),
    ("max_locks_per_transaction", 32),
    ("max_replication_slots", 4),
    ("max_worker_processes", 2),
];

/// `max_worker_processes` and `max_connections` where they are not set (`guc_tables.c`, initdb).
const WORKERS: u64 = 8;
const CONNECTIONS: u64 = 100;

/// A value that the administrator set, and where.
#[derive(Debug, Clone)]
struct Asked {
    value: String,
    place: String,
}

/// What is set by `PG_…` and in `PG_PARAMETERS_FILE`, checked.
#[derive(Debug, Default)]
pub struct Parameters(BTreeMap<String, Asked>);

impl Parameters {
    /// Reads them, and asks the server of this version whether it takes them.
    pub fn resolve(root: &Root, id: &ClusterId, settings: &Settings, synchronous: bool) -> Result<Self> {
        let mut asked = from_file(root, settings)?;
        for (name, setting) in settings.parameters() {
            let place = format!("{}: {PARAMETER_PREFIX}{name}", setting.origin);
            asked.insert(name.to_owned(), Asked { value: setting.text.clone(), place });
        }
        for (name, Asked { value, place }) in &asked {
            look_at(name, value, synchronous).with_context(|| place.clone())?;
        }
        if !asked.is_empty() {
            ask_server(root, id, &asked)?;
        }
        Ok(Self(asked))
    }

    /// What goes into the store.
    #[must_use]
    pub fn of_cluster(&self, id: &ClusterId) -> Values {
        let mut values: Values = self.0.iter().map(|(name, asked)| (name.clone(), asked.value.clone())).collect();
        // pg_hba asks for SCRAM, but until version 14 passwords are stored as md5 by default.
        if id.version.number() < (14, 0) && self.value("password_encryption").is_none() {
            values.push(("password_encryption".to_owned(), "scram-sha-256".to_owned()));
        }
        values
    }

    /// What goes into this member's own section, but for what is set for the cluster, over which it would win.
    pub fn of_member(&self, root: &Root, settings: &Settings, log_filename: &str, tls: Values) -> Result<Values> {
        let mut values: Values = [
            ("unix_socket_directories", "/var/run/postgresql"),
            ("logging_collector", "on"),
            ("log_directory", "/var/log/postgresql"),
            ("log_filename", log_filename),
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

    fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|asked| asked.value.as_str())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.value(name)?.parse().ok()
    }

    /// Slots for logical replication need `wal_level = logical`.
    pub fn require_logical(&self, settings: &Settings) -> Result<()> {
        if self.value("wal_level") != Some("logical") {
            bail!(
                "{}SLOTS has a logical slot, which needs PG_wal_level=logical: set that too",
                settings.place(&["SLOTS"])
            );
        }
        Ok(())
    }
}

fn from_file(root: &Root, settings: &Settings) -> Result<BTreeMap<String, Asked>> {
    let Some(path) = settings.path("PG_PARAMETERS_FILE")? else { return Ok(BTreeMap::new()) };
    let read = settings.parse("PG_PARAMETERS_FILE", |_| {
        if !root.path(&path).exists() {
            bail!("there is no file {}", path.display());
        }
        conf::read(root, &path)
    })?;
    let place = |name: &str| {
        format!("{}PG_PARAMETERS_FILE: {}: {name}", settings.place(&["PG_PARAMETERS_FILE"]), path.display())
    };
    Ok(read
        .unwrap_or_default()
        .into_iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .map(|(name, value)| (name.clone(), Asked { value, place: place(&name) }))
        .collect())
}

/// What Patroni would not do as it was asked.
fn look_at(name: &str, value: &str, synchronous: bool) -> Result<()> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.".contains(&b);
    if !name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') || !name.bytes().all(plain) {
        bail!("'{name}' is no name of a parameter");
    }
    if value.contains(['\n', '\r', '\0']) {
        bail!("the value has more than one line, which a parameter cannot have");
    }
    if let Some((_, who)) = OTHERS.iter().find(|(other, _)| *other == name) {
        bail!("this parameter cannot be set here: {who}");
    }
    if name.starts_with("recovery_target") {
        bail!("this parameter cannot be set here: a member of a cluster recovers to the end");
    }
    if name == "synchronous_standby_names" && synchronous {
        bail!("Patroni sets it in synchronous mode: remove one of it and SYNCHRONOUS_MODE");
    }
    if name == "wal_level" && !["replica", "logical"].contains(&value) {
        bail!("'{value}' is neither replica nor logical, without which there is no replication");
    }
    if let Some((_, least)) = LEAST.iter().find(|(other, _)| *other == name) {
        if value.parse::<u64>().is_ok_and(|number| number < *least) {
            bail!("{value} is less than {least}, and Patroni would take its own default: raise it");
        }
    }
    if name == "wal_keep_size" && megabytes(value).is_some_and(|size| size < 16) {
        bail!("{value} is less than 16MB, and Patroni would take its own default: raise it");
    }
    Ok(())
}

/// A size as PostgreSQL writes it, without a unit in MB.
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

/// The server itself reads the parameters as a configuration file (`postgres -C`, which needs neither data nor a user and does not
/// start anything): its version knows all names, units and bounds. The file has no name, and nothing is on the command line.
fn ask_server(root: &Root, id: &ClusterId, asked: &BTreeMap<String, Asked>) -> Result<()> {
    // Any paths: the server wants to know them before it reads further, and does not look what is there.
    const HEAD: &str = "data_directory = '/'\nhba_file = '/'\nident_file = '/'\n";
    let server = root.path(format!("/usr/lib/postgresql/{}/bin/postgres", id.version));
    let mut file = tempfile::tempfile().context("cannot make a temporary file")?;
    let quote = |value: &str| value.replace('\\', r"\\").replace('\'', "''");
    let mut text = HEAD.to_owned();
    for (name, asked) in asked {
        text.extend([name, " = '", &quote(&asked.value), "'\n"]);
    }
    file.write_all(text.as_bytes()).and_then(|()| file.rewind()).context("cannot write a temporary file")?;
    let mut call = program::at(&server);
    call.args(["-C", "port", "--config-file=/dev/stdin"]).stdin(Stdio::from(file));
    let output = program::output(&mut call)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let known = || {
        let listed = program::capture(program::at(&server).arg("--describe-config")).unwrap_or_default();
        listed.lines().filter_map(|line| line.split('\t').next()).map(str::to_lowercase).collect()
    };
    Err(explain(&said, id, asked, known))
}

/// The server's words, with the places where the parameters were set.
fn explain(
    said: &str,
    id: &ClusterId,
    asked: &BTreeMap<String, Asked>,
    known: impl Fn() -> Vec<String>,
) -> anyhow::Error {
    let mut messages: Vec<String> = Vec::new();
    for line in said.lines() {
        if let Some((_, hint)) = line.split_once(" HINT:  ") {
            if let Some(last) = messages.last_mut() {
                last.extend([" (", hint.trim_end_matches('.'), ")"]);
            }
            continue;
        }
        let Some((_, message)) = line.split_once(" LOG:  ") else { continue };
        // As the server writes it: "DateStyle".
        let lower = message.to_lowercase();
        let about = asked.iter().find(|(name, _)| lower.contains(&format!("parameter \"{name}\"")));
        let Some((name, Asked { place, .. })) = about else { continue };
        messages.push(if message.starts_with("unrecognized configuration parameter") {
            let known = known();
            let meant = nearest(name, known.iter().map(String::as_str))
                .filter(|(distance, known)| *distance <= known.len() / 3)
                .map_or_else(String::new, |(_, known)| format!(": did you mean {known}?"));
            format!("{place}: PostgreSQL {} has no parameter {name}{meant}", id.version)
        } else {
            format!("{place}: PostgreSQL {} refuses the value: {message}", id.version)
        });
    }
    if messages.is_empty() {
        let last = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it said nothing");
        return anyhow!("PostgreSQL {} could not be asked about its parameters: {last}", id.version);
    }
    anyhow!(messages.join("; "))
}

/// Memory and processes by those of a host that has nothing else to do, as patroni.default(5) describes it: a quarter for
/// `shared_buffers` (PostgreSQL's manual, "Resource Consumption"); a half as the size of the cache, a 16th and a 32nd for
/// maintenance and autovacuum (as `pgpro_tune` has it); and of another quarter for `work_mem` each connection's part (`PGTune`).
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
    fn what_patroni_would_not_do_is_refused() {
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
            ("work mem", "1", "no name"),
        ] {
            let error = look_at(name, value, true).unwrap_err().to_string();
            assert!(error.contains(word), "{name}: {error}");
        }
        for (name, value) in [
            ("max_connections", "25"),
            ("wal_keep_size", "1 GB"),
            ("wal_level", "logical"),
            ("restore_command", "cp a b"),
            ("auto_explain.log_min_duration", "1s"),
        ] {
            assert!(look_at(name, value, true).is_ok(), "{name}");
        }
        assert!(look_at("synchronous_standby_names", "*", false).is_ok());
    }

    #[test]
    fn the_words_of_the_server_get_their_place() {
        let asked = ["shard_buffers", "work_mem", "jit", "datestyle"].map(|name| {
            (name.to_owned(), Asked { value: "x".to_owned(), place: format!("/etc/default/patroni:7: PG_{name}") })
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
        let text = explain(said, &id, &asked, || vec!["shared_buffers".to_owned(), "jit".to_owned()]).to_string();
        let parts: Vec<&str> = text.split("; ").collect();
        assert_eq!(
            parts,
            [
                "/etc/default/patroni:7: PG_shard_buffers: PostgreSQL 17 has no parameter shard_buffers: did you mean shared_buffers?",
                "/etc/default/patroni:7: PG_work_mem: PostgreSQL 17 refuses the value: invalid value for parameter \"work_mem\": \
                 \"8XB\" (Valid units for this parameter are \"B\" and \"kB\")",
                "/etc/default/patroni:7: PG_jit: PostgreSQL 17 refuses the value: parameter \"jit\" requires a Boolean value",
                "/etc/default/patroni:7: PG_datestyle: PostgreSQL 17 refuses the value: invalid value for parameter \"DateStyle\": \"b\"",
            ]
        );
        assert!(explain("boo\n", &id, &asked, Vec::new).to_string().contains("boo"));
    }
}
