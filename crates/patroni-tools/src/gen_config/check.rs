//! `--check`: what is wrong with a Patroni file, without the store and without a server. The unit asks before every
//! start, so only what certainly keeps the instance from working is an error; the rest is a warning.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use nix::unistd::Uid;
use serde_json::Value;
use site::access::User;
use site::clusters;
use site::point::{self, Point};
use site::report::Reporter;
use site::settings::Settings;
use site::{ClusterId, Root, conf, keys};

use super::certificate;
use super::config::file;
use super::installed::Patroni;
use super::store::{self, Kind};
use crate::yaml::{self, Yaml};

/// Keys of Patroni 3.0 to 4.1 by section (`patroni/validator.py`, `schema`, and the documentation of settings). Sections
/// of stores and lists of PostgreSQL parameters are open.
const KNOWN: &[(&[&str], &[&str])] = &[
    (
        &[],
        &[
            "scope",
            "name",
            "namespace",
            "restapi",
            "bootstrap",
            "postgresql",
            "watchdog",
            "tags",
            "ctl",
            "log",
            "citus",
            "etcd",
            "etcd3",
            "consul",
            "zookeeper",
            "kubernetes",
            "exhibitor",
            "raft",
            "thread_pool_size",
            "thread_stack_size",
        ],
    ),
    (&["bootstrap"], &["dcs", "method", "initdb", "pg_hba", "pg_ident", "post_bootstrap", "post_init", "users"]),
    (
        &["bootstrap", "dcs"],
        &[
            "ttl",
            "loop_wait",
            "retry_timeout",
            "maximum_lag_on_failover",
            "maximum_lag_on_syncnode",
            "max_timelines_history",
            "primary_start_timeout",
            "primary_stop_timeout",
            "master_start_timeout",
            "master_stop_timeout",
            "check_timeline",
            "synchronous_mode",
            "synchronous_mode_strict",
            "synchronous_node_count",
            "failsafe_mode",
            "postgresql",
            "standby_cluster",
            "slots",
            "ignore_slots",
            "member_slots_ttl",
            "pause",
        ],
    ),
    (
        &["postgresql"],
        &[
            "listen",
            "connect_address",
            "proxy_address",
            "authentication",
            "callbacks",
            "before_stop",
            "pre_promote",
            "create_replica_method",
            "create_replica_methods",
            "data_dir",
            "config_dir",
            "bin_dir",
            "bin_name",
            "pgpass",
            "recovery_conf",
            "custom_conf",
            "parameters",
            "pg_hba",
            "pg_ident",
            "pg_ctl_timeout",
            "use_pg_rewind",
            "use_slots",
            "use_unix_socket",
            "use_unix_socket_repl",
            "remove_data_directory_on_rewind_failure",
            "remove_data_directory_on_diverged_timelines",
            "replica_method",
            "basebackup",
        ],
    ),
    (
        &["restapi"],
        &[
            "listen",
            "connect_address",
            "authentication",
            "certfile",
            "keyfile",
            "keyfile_password",
            "cafile",
            "ciphers",
            "verify_client",
            "allowlist",
            "allowlist_include_members",
            "http_extra_headers",
            "https_extra_headers",
            "request_queue_size",
            "thread_pool_size",
            "server_tokens",
        ],
    ),
    (&["ctl"], &["insecure", "cacert", "certfile", "keyfile", "keyfile_password", "authentication"]),
    (&["watchdog"], &["mode", "device", "safety_margin", "driver"]),
];

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// What keeps the instance from working.
    pub errors: Vec<String>,
    /// What needs a look.
    pub warnings: Vec<String>,
    /// What needs a look elsewhere, with its place.
    pub elsewhere: Vec<String>,
}

/// Checks the file of an instance and says what it found; an error if the instance cannot work.
pub fn run(root: &Root, id: &ClusterId, reporter: &Reporter) -> Result<()> {
    let path = file(id);
    let findings = look(root, id, &path)?;
    for warning in &findings.warnings {
        reporter.warn(format!("{}: {warning}", path.display()));
    }
    for warning in &findings.elsewhere {
        reporter.warn(warning);
    }
    match findings.errors.split_last() {
        None => Ok(()),
        Some((last, others)) => {
            for error in others {
                reporter.say(site::report::Level::Error, format!("{}: {error}", path.display()));
            }
            bail!("{}: {last}", path.display())
        }
    }
}

fn look(root: &Root, id: &ClusterId, path: &Path) -> Result<Findings> {
    let Some(text) = root.read(path)? else {
        bail!("{} does not exist: run patroni-gen-config {id}", path.display());
    };
    let yaml = Yaml::parse(path, &text)?;
    let mut findings = Findings::default();
    let Some(Value::Object(_)) = yaml.document() else {
        bail!("{}:1: the file is empty or not a mapping: run patroni-gen-config --force {id}", path.display());
    };
    if let Some(twice) = yaml::twice(&text) {
        findings.warnings.push(format!("{twice}: Patroni takes the last, remove the others"));
    }
    look_at_keys(&yaml, &mut findings);
    look_at_values(&yaml, &mut findings);
    let patroni = Patroni::of(root)?;
    look_at_store(root, &yaml, &patroni, &mut findings)?;
    look_at_host(root, id, &yaml, &mut findings)?;
    look_at_certificates(root, &yaml, &mut findings);
    look_at_point(root, id, &yaml, &patroni, &mut findings);
    let mode = root.path(path).metadata()?.permissions().mode();
    if mode & 0o007 != 0 {
        findings.warnings.push(format!("others can read the passwords in it: run chmod 0640 {}", path.display()));
    }
    Ok(findings)
}

fn look_at_keys(yaml: &Yaml, findings: &mut Findings) {
    let required: [&[&str]; 7] = [
        &["scope"],
        &["name"],
        &["restapi", "listen"],
        &["restapi", "connect_address"],
        &["postgresql", "listen"],
        &["postgresql", "connect_address"],
        &["postgresql", "data_dir"],
    ];
    for path in required {
        match yaml.get(path) {
            Some(Value::String(_)) => {}
            Some(Value::Null) | None => findings.errors.push(format!("{} is missing: add it", path.join("."))),
            Some(other) => {
                findings
                    .errors
                    .push(format!("{} is {other}, which Patroni takes for no text: put it in quotes", path.join(".")));
            }
        }
    }
    let method = yaml.text(&["bootstrap", "method"]).filter(|method| method != "initdb");
    if let Some(method) = method {
        if yaml.text(&["bootstrap", &method, "command"]).is_none() {
            findings.errors.push(format!(
                "bootstrap.method is {method}, but bootstrap.{method}.command is missing: Patroni would run initdb without \
                 /etc/postgresql"
            ));
        }
    }
    for (section, known) in KNOWN {
        let Some(Value::Object(map)) = yaml.get(section) else { continue };
        let methods = method_names(yaml);
        for key in map.keys().filter(|key| !known.contains(&key.as_str()) && !methods.contains(key)) {
            let mut place = section.to_vec();
            place.push(key);
            findings
                .warnings
                .push(format!("{} is no key of Patroni, which ignores it: correct it or remove it", place.join(".")));
        }
    }
}

/// The store's section, the module that Patroni needs for it, and raft's directory.
fn look_at_store(root: &Root, yaml: &Yaml, patroni: &Patroni, findings: &mut Findings) -> Result<()> {
    let named = |kind: &Kind| yaml.get(&[kind.name()]).is_some_and(|options| !options.is_null());
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(named).collect();
    let Some(&kind) = kinds.first() else {
        findings.errors.push(format!("it names no store: add a section such as etcd3 (one of {})", store::names()));
        return Ok(());
    };
    if kinds.len() > 1 {
        let all: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
        findings.warnings.push(format!(
            "it names {} stores ({}), but Patroni uses one: keep one",
            all.len(),
            all.join(", ")
        ));
    }
    let Some(Value::Object(options)) = yaml.get(&[kind.name()]) else {
        findings.errors.push(format!("{} has no options: add its hosts", kind.name()));
        return Ok(());
    };
    let on_host = store::host_findings(root, kind)?;
    for finding in store::look(kind, options, patroni).into_iter().chain(on_host) {
        let place = if finding.fatal { &mut findings.errors } else { &mut findings.warnings };
        place.push(finding.text);
    }
    let directory = yaml.text(&["raft", "data_dir"]).filter(|_| kind == Kind::Raft);
    if let Some(directory) = directory.filter(|directory| !root.path(directory).is_dir()) {
        findings.errors.push(format!(
            "{directory} is missing, where raft keeps its log: run install -d -o postgres -g postgres -m 0770 {directory}"
        ));
    }
    Ok(())
}

/// Sections whose names the file itself chooses.
fn method_names(yaml: &Yaml) -> Vec<String> {
    let mut names: Vec<String> = yaml.text(&["bootstrap", "method"]).into_iter().collect();
    for key in ["create_replica_methods", "create_replica_method"] {
        if let Some(Value::Array(methods)) = yaml.get(&["postgresql", key]) {
            names.extend(methods.iter().filter_map(Value::as_str).map(str::to_owned));
        }
    }
    names
}

fn look_at_values(yaml: &Yaml, findings: &mut Findings) {
    for section in ["postgresql", "restapi"] {
        if yaml.text(&[section, "listen"]).is_some() {
            if let Err(error) = yaml.port(section) {
                findings.errors.push(error.to_string());
            }
        }
        if let Some(address) = yaml.text(&[section, "connect_address"]) {
            let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
            if ["127.0.0.1", "0.0.0.0", "*", "::1", "[::1]", "localhost"].contains(&host) {
                findings
                    .warnings
                    .push(format!("{section}.connect_address is {address}, which the other members cannot reach"));
            }
        }
    }
    if let Some(place) = yaml.first_empty() {
        findings.warnings.push(format!(
            "{place} has no value, by which Patroni may ignore more than that (an empty parameters: drops the whole dynamic \
             configuration): give it a value or remove it"
        ));
    }
}

fn look_at_host(root: &Root, id: &ClusterId, yaml: &Yaml, findings: &mut Findings) -> Result<()> {
    let bin_dir = yaml.text(&["postgresql", "bin_dir"]);
    if let Some(bin_dir) = bin_dir {
        if !root.path(Path::new(&bin_dir).join("postgres")).exists() {
            findings
                .errors
                .push(format!("bin_dir {bin_dir} has no postgres: run apt install postgresql-{}", id.version));
        }
    }
    for path in hook_commands(yaml) {
        let executable = root.path(&path).metadata().is_ok_and(|data| data.permissions().mode() & 0o111 != 0);
        if path.is_absolute() && !executable {
            findings.errors.push(format!("{} is not a program of this host: correct the command", path.display()));
        }
    }
    let Some(data_dir) = yaml.text(&["postgresql", "data_dir"]) else { return Ok(()) };
    // Patroni gives PostgreSQL -D, but a data_directory in the base configuration wins over it.
    let config = yaml.text(&["postgresql", "config_dir"]).map_or_else(|| clusters::config_directory(id), PathBuf::from);
    let base = ["postgresql.base.conf", "postgresql.conf"].map(|name| config.join(name));
    // What a dropped cluster left is moved aside by pg_preparecluster_patroni.
    let dropped = crate::etc::is_dropped(root, id, Path::new(&data_dir));
    if let Some(base) = base.iter().find(|base| !dropped && root.path(base).exists()) {
        let conf = conf::read(root, base)?;
        if let Some(other) = conf.get("data_directory").filter(|other| Path::new(other) != Path::new(&data_dir)) {
            findings.errors.push(format!(
                "data_dir is {data_dir}, but {} has data_directory = '{other}', where PostgreSQL would run: make them the same",
                base.display()
            ));
        }
    }
    if let Ok(Some(version)) = root.read(Path::new(&data_dir).join("PG_VERSION")) {
        if version.trim() != id.version.as_str() {
            findings.errors.push(format!(
                "{data_dir} holds a cluster of version {}, not {}",
                version.trim(),
                id.version
            ));
        }
    }
    Ok(())
}

/// The certificates of the REST API and of patronictl: without one, Patroni ends with a traceback.
fn look_at_certificates(root: &Root, yaml: &Yaml, findings: &mut Findings) {
    let user = User::of(root, "postgres");
    let mut files = Vec::new();
    let mut pairs = Vec::new();
    for section in ["restapi", "ctl"] {
        let Some(certificate) = yaml.text(&[section, "certfile"]).map(PathBuf::from) else { continue };
        let key = yaml.text(&[section, "keyfile"]).map_or_else(|| certificate.clone(), PathBuf::from);
        let pair = (certificate.clone(), key.clone());
        if pairs.contains(&pair) {
            continue;
        }
        pairs.push(pair);
        let found = match yaml.get(&[section, "keyfile_password"]) {
            Some(_) => certificate::read(root, &certificate),
            None => certificate::read_pair(root, &certificate, &key),
        };
        match found {
            Err(error) => findings.errors.push(format!("{section}: {error:#}")),
            Ok(found) => {
                let shown = certificate.display();
                findings.warnings.extend(found.out_of_date().map(|why| format!("{section}: {shown} {why}: renew it")));
                findings
                    .warnings
                    .extend(keys::check_mode(root, &key, 0o007).err().map(|error| format!("{section}: {error:#}")));
                files.extend([certificate, key]);
            }
        }
    }
    for path in [["restapi", "cafile"], ["ctl", "cacert"]] {
        let Some(signers) = yaml.text(&path).map(PathBuf::from) else { continue };
        match certificate::read(root, &signers) {
            Err(error) => findings.errors.push(format!("{}: {error:#}", path.join("."))),
            Ok(_) => files.push(signers),
        }
    }
    // Who is not root has just read them.
    if let (Ok(user), true) = (user, Uid::effective().is_root()) {
        files.sort();
        files.dedup();
        findings
            .errors
            .extend(files.iter().filter_map(|file| user.check_reads(root, file).err()).map(|error| error.to_string()));
    }
}

/// The settings are dnscp's as well, which reads them itself: what is set there has to be in the file too.
fn look_at_point(root: &Root, id: &ClusterId, yaml: &Yaml, patroni: &Patroni, findings: &mut Findings) {
    let calls_dnscp = |path: &[&str]| yaml.text(path).is_some_and(|command| command.contains("dnscp"));
    let (called, missing): (Vec<&str>, Vec<&str>) = ["on_start", "on_restart", "on_role_change", "on_stop"]
        .into_iter()
        .partition(|event| calls_dnscp(&["postgresql", "callbacks", event]));
    let point = Settings::read(root, id).and_then(|settings| Point::from_settings(root, id, &settings));
    match point {
        Ok(Some(_)) => {}
        Err(error) if !called.is_empty() => {
            findings.elsewhere.push(format!("{error:#} (until then dnscp moves neither address nor name)"));
            return;
        }
        Ok(None) | Err(_) => return,
    }
    let remedy = format!("run patroni-gen-config {id} (a template of your own has to keep the block callbacks)");
    if !missing.is_empty() {
        findings.warnings.push(format!(
            "VIPS or a DNS name is set, but postgresql.callbacks does not call dnscp for {}: {remedy}",
            missing.join(", ")
        ));
    }
    if patroni.has_before_stop() && !calls_dnscp(&["postgresql", "before_stop"]) {
        findings.warnings.push(format!(
            "postgresql.before_stop does not call dnscp, though the installed Patroni has it, so the address may stay here until \
             PostgreSQL has stopped: {remedy}"
        ));
    }
    let file = point::file(id);
    if !root.path(&file).exists() {
        let file = file.display();
        findings
            .elsewhere
            .push(format!("{file} is missing, so dnscp@{} does not start: run patroni-gen-config {id}", id.dashed()));
    }
}

fn hook_commands(yaml: &Yaml) -> Vec<PathBuf> {
    let mut commands = Vec::new();
    for method in method_names(yaml) {
        for section in ["bootstrap", "postgresql"] {
            commands.extend(yaml.text(&[section, &method, "command"]));
        }
    }
    if let Some(Value::Object(callbacks)) = yaml.get(&["postgresql", "callbacks"]) {
        commands.extend(callbacks.values().filter_map(Value::as_str).map(str::to_owned));
    }
    commands.iter().filter_map(|command| command.split_whitespace().next()).map(PathBuf::from).collect()
}
