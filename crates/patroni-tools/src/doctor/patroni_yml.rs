//! The Patroni file itself: its keys, its values, and its permissions.

use std::os::unix::fs::PermissionsExt;

use anyhow::Result;
use host::clusters;
use serde_json::Value;

use crate::doctor::cluster::{Cluster, USER};
use crate::doctor::finding::{Finding, Level};
use crate::doctor::methods::{method_names, uses_hooks};
use crate::files::yaml::{self, Yaml};

/// Keys of Patroni 3.0 to 4.1 by section (`patroni/validator.py`, `schema`, and the documentation of settings). DCS sections and
/// PostgreSQL parameters are not checked.
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

/// Required keys, unknown keys, values and permissions.
pub fn check(cluster: &Cluster) -> Result<Vec<Finding>> {
    let mut findings = keys(cluster);
    findings.extend(values(&cluster.yaml));
    findings.extend(permissions(cluster)?);
    Ok(findings)
}

/// A configuration in the data directory, where postgresql-common does not look for it.
fn config_dir(cluster: &Cluster) -> Option<Finding> {
    if cluster.yaml.get(&["postgresql", "config_dir"]).is_some() {
        return None;
    }
    let (id, file) = (cluster.id, cluster.path.display());
    let what = "postgresql.config_dir is missing, so Patroni looks for the configuration in the data directory";
    if uses_hooks(cluster) {
        let hint = format!(
            "Add config_dir: {} to postgresql in {file}, then run: systemctl restart patroni@{}",
            clusters::config_directory(id).display(),
            id.dashed()
        );
        return Some(Finding::error(format!("{what}, but the hooks create it in /etc/postgresql"), hint));
    }
    // Without data, the first start decides where the configuration is.
    if !cluster.root.path(cluster.data_directory().join("PG_VERSION")).exists() {
        return None;
    }
    let what = format!("{what}, and pg_lsclusters and pg_ctlcluster do not know the cluster");
    Some(Finding::warning(what, format!("Move it to /etc/postgresql with: pg_adoptcluster_patroni --from {file} {id}")))
}

fn keys(cluster: &Cluster) -> Vec<Finding> {
    let yaml = &cluster.yaml;
    let mut findings: Vec<Finding> = config_dir(cluster).into_iter().collect();
    if let Some(twice) = yaml::twice(&cluster.text) {
        findings.push(Finding::warning(format!("{twice}, of which Patroni uses the last"), "Remove the others."));
    }
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
        let key = path.join(".");
        match yaml.get(path) {
            Some(Value::String(_)) => {}
            Some(Value::Null) | None => findings.push(Finding::fatal(format!("{key} is missing"), "Add it.")),
            Some(other) => {
                let what = format!("{key} is {other}, but Patroni expects a string");
                findings.push(Finding::fatal(what, "Put it in quotes."));
            }
        }
    }
    let method = yaml.text(&["bootstrap", "method"]).filter(|method| method != "initdb");
    if let Some(method) = method {
        if yaml.text(&["bootstrap", &method, "command"]).is_none() {
            findings.push(Finding::fatal(
                format!(
                    "bootstrap.method is {method}, but bootstrap.{method}.command is missing, so Patroni would run initdb \
                     without /etc/postgresql"
                ),
                "Add it.",
            ));
        }
    }
    // The cluster has the same keys as the member here.
    let of_cluster = KNOWN.iter().filter(|(section, _)| *section == ["postgresql"]);
    let of_cluster = of_cluster.map(|(_, known)| (&["bootstrap", "dcs", "postgresql"][..], *known));
    for (section, known) in KNOWN.iter().copied().chain(of_cluster) {
        let Some(Value::Object(map)) = yaml.get(section) else { continue };
        let methods = method_names(yaml);
        for key in map.keys().filter(|key| !known.contains(&key.as_str()) && !methods.contains(key)) {
            let mut place = section.to_vec();
            place.push(key);
            let what = format!("{} is not a key of Patroni, which ignores it", place.join("."));
            findings.push(Finding::warning(what, "Correct or remove it."));
        }
    }
    findings
}

/// Ports, addresses and empty values.
fn values(yaml: &Yaml) -> Vec<Finding> {
    let mut findings = Vec::new();
    for section in ["postgresql", "restapi"] {
        if yaml.text(&[section, "listen"]).is_some() {
            if let Err(error) = yaml.port(section) {
                findings
                    .push(Finding { place: None, ..Finding::of(Level::Fatal, &error) }.or_hint("Write ADDRESS:PORT."));
            }
        }
        if let Some(address) = yaml.text(&[section, "connect_address"]) {
            let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
            if ["127.0.0.1", "0.0.0.0", "*", "::1", "[::1]", "localhost"].contains(&host) {
                let what = format!("{section}.connect_address is {address}, which the other members cannot reach");
                findings.push(Finding::warning(what, "Set the address of this host in their network."));
            }
        }
    }
    if let Some(place) = yaml.first_empty() {
        findings.push(Finding::warning(
            format!(
                "{place} has no value, which can make Patroni ignore more than that key (an empty \"parameters:\" drops the whole \
                 dynamic configuration)"
            ),
            "Set a value, or remove the key.",
        ));
    }
    findings
}

/// The file contains passwords, and postgres must be able to read it.
fn permissions(cluster: &Cluster) -> Result<Vec<Finding>> {
    let path = cluster.path.display();
    let mode = cluster.root.path(&cluster.path).metadata()?.permissions().mode();
    let mut findings: Vec<Finding> = cluster.unreadable(&cluster.path, Level::Fatal).into_iter().collect();
    if mode & 0o007 != 0 {
        findings.push(Finding::warning("all users can read the passwords in it", format!("Run: chmod 0640 {path}")));
    }
    if mode & 0o020 != 0 {
        let what = format!("the group {USER}, and thus PostgreSQL, can change it");
        findings.push(Finding::warning(what, format!("Run: chmod 0640 {path}")));
    }
    Ok(findings)
}
