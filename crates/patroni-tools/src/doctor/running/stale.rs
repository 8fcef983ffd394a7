//! What the Patroni file has and the running member has not: Patroni reads its file when it starts, and when it is told to (SIGHUP).

use serde_json::Value;

use crate::doctor::cluster::Cluster;
use crate::doctor::finding::Finding;
use crate::doctor::view::Member;
use crate::patroni::paths::{ENVIRONMENT, FINGERPRINT_TAG};

/// Tags that Patroni does not publish if they are off (`Tags._filter_tags`).
const OFF_IS_NONE: [&str; 5] = ["clonefrom", "nofailover", "noloadbalance", "nosync", "nostream"];

/// Parameters that Patroni does not take from the file (`ConfigHandler.CMDLINE_OPTIONS`), or moves elsewhere.
const NOT_FROM_FILE: [&str; 23] = [
    "archive_cleanup_command",
    "cluster_name",
    "config_file",
    "data_directory",
    "hba_file",
    "hot_standby",
    "ident_file",
    "listen_addresses",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_replication_slots",
    "max_wal_senders",
    "max_worker_processes",
    "port",
    "primary_conninfo",
    "restore_command",
    "synchronous_standby_names",
    "track_commit_timestamp",
    "wal_keep_segments",
    "wal_keep_size",
    "wal_level",
    "wal_log_hints",
];

/// `published`: this member as the DCS has it. `written`: the `postgresql.conf` that Patroni has written. `other_passwords`: the server does
/// not have the passwords of the file, so Patroni must not read it yet.
pub(crate) fn check(
    cluster: &Cluster,
    published: Option<&Member>,
    written: Option<&str>,
    other_passwords: bool,
) -> Option<Finding> {
    let environment = cluster.root.read(ENVIRONMENT).ok().flatten().unwrap_or_default();
    let overridden = |name: &str| environment.contains(name);
    let mut differ = Vec::new();
    if let Some(member) = published {
        differ.extend(tags(cluster, &member.data).into_iter().filter(|_| !overridden("PATRONI_TAGS")));
        differ.extend(rest_api(cluster, member).filter(|_| !overridden("PATRONI_RESTAPI")));
        differ.extend(postgresql(cluster, member).filter(|_| !overridden("PATRONI_POSTGRESQL")));
    }
    if let Some(written) = written {
        differ.extend(parameters(cluster, written));
    }
    (!differ.is_empty()).then(|| {
        let what = format!("the running Patroni has other values than the file: {}", differ.join("; "));
        let command = format!("systemctl reload patroni@{}", cluster.id.dashed());
        let hint = if other_passwords {
            format!(
                "When the roles have the passwords of the file, and not before, make it read the file with: {command}"
            )
        } else {
            format!("Make it read the file in its next loop with: {command}")
        };
        Finding::warning(what, hint)
    })
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_off(value: &Value) -> bool {
    matches!(value, Value::Null | Value::Bool(false)) || value.as_str() == Some("") || value.as_u64() == Some(0)
}

/// The site key is another matter: a prepared password is read only when the role has it.
fn tags(cluster: &Cluster, data: &Value) -> Vec<String> {
    let empty = serde_json::Map::new();
    let running = data.get("tags").and_then(Value::as_object).unwrap_or(&empty);
    let file = cluster.yaml.get(&["tags"]).and_then(Value::as_object).unwrap_or(&empty);
    let mut names: Vec<&String> = file.keys().chain(running.keys().filter(|name| !file.contains_key(*name))).collect();
    // Patroni adds this one for a while itself (`Ha.get_effective_tags`).
    names.retain(|name| *name != FINGERPRINT_TAG && (*name != "nosync" || file.contains_key(*name)));
    let differ = names.into_iter().filter_map(|name| {
        let shown = |tags: &serde_json::Map<String, Value>| {
            let value = tags.get(name).filter(|value| !(OFF_IS_NONE.contains(&name.as_str()) && is_off(value)));
            value.map_or("not set".to_owned(), text)
        };
        let (ours, theirs) = (shown(file), shown(running));
        (ours != theirs).then(|| format!("tags.{name} is {theirs} instead of {ours}"))
    });
    differ.collect()
}

/// Where the REST API still is, if the file has another place. `RestApiServer.reload_config`: the URL has the protocol and
/// `connect_address`.
pub(super) fn rest_api(cluster: &Cluster, member: &Member) -> Option<String> {
    let address = cluster.text(&["restapi", "connect_address"])?;
    let protocol = if cluster.text(&["restapi", "certfile"]).is_some() { "https" } else { "http" };
    let (ours, theirs) = (format!("{protocol}://{address}"), member.text("api_url")?);
    let theirs = theirs.strip_suffix("/patroni").unwrap_or(theirs);
    (ours != theirs).then(|| format!("restapi.connect_address gives {theirs} instead of {ours}"))
}

fn postgresql(cluster: &Cluster, member: &Member) -> Option<String> {
    let ours = cluster.text(&["postgresql", "connect_address"])?;
    let theirs = member.server()?;
    // Without a port it is that of `listen`.
    (ours.contains(':') && !ours.ends_with(']') && ours != theirs)
        .then(|| format!("postgresql.connect_address is {theirs} instead of {ours}"))
}

/// The parameters of this member, in the file that Patroni writes from them (`ConfigHandler.write_postgresql_conf`). One that is
/// missing there is not reported: Patroni leaves out what this version of PostgreSQL does not know.
fn parameters(cluster: &Cluster, written: &str) -> Vec<String> {
    let Some(ours) = cluster.yaml.get(&["postgresql", "parameters"]).and_then(Value::as_object) else {
        return Vec::new();
    };
    let normal = |text: &str| match text.to_ascii_lowercase().as_str() {
        "true" | "yes" => "on".to_owned(),
        "false" | "no" => "off".to_owned(),
        _ => text.trim().to_owned(),
    };
    let differ = ours.iter().filter(|(name, _)| !NOT_FROM_FILE.contains(&name.as_str())).filter_map(|(name, value)| {
        let theirs = written.lines().rev().find_map(|line| {
            let (key, value) = line.split_once(" = '")?;
            (key == name).then(|| value.strip_suffix('\'').unwrap_or(value).replace("''", "'").replace(r"\\", r"\"))
        })?;
        let ours = text(value);
        (normal(&ours) != normal(&theirs))
            .then(|| format!("postgresql.parameters.{name} is {theirs} instead of {ours}"))
    });
    differ.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use host::{ClusterId, Root};
    use serde_json::json;

    #[test]
    fn a_file_that_was_not_read_is_noticed() {
        let (root, id): (Root, ClusterId) = (Root::new("/nowhere"), "17/main".parse().unwrap());
        let of = |file: &str, published: Value, written: &str| {
            let cluster = Cluster::with(&root, &id, file);
            let member = Member { name: "pg1".to_owned(), data: published };
            let what =
                check(&cluster, Some(&member), Some(written), false).map(|finding| finding.what).unwrap_or_default();
            what.replace("the running Patroni has other values than the file: ", "")
        };
        let tags = |tags: Value| json!({"tags": tags});
        for (file, published, written, expected) in [
            ("scope: a", json!({}), "", ""),
            // What Patroni leaves out, and what it adds.
            (
                "tags: {nofailover: false, clonefrom: '', site_key: a}",
                tags(json!({"site_key": "b", "nosync": true})),
                "",
                "",
            ),
            ("tags: {nofailover: true}", json!({}), "", "tags.nofailover is not set instead of true"),
            ("scope: a", tags(json!({"nofailover": true})), "", "tags.nofailover is true instead of not set"),
            (
                "tags: {failover_priority: 2, rack: b}",
                tags(json!({"failover_priority": 1, "rack": "b"})),
                "",
                "tags.failover_priority is 1 instead of 2",
            ),
            (
                "restapi: {connect_address: '10.0.0.1:8008', certfile: /x}",
                json!({"api_url": "http://10.0.0.1:8008/patroni"}),
                "",
                "restapi.connect_address gives http://10.0.0.1:8008 instead of https://10.0.0.1:8008",
            ),
            ("restapi: {connect_address: '10.0.0.1:8008'}", json!({"api_url": "http://10.0.0.1:8008/patroni"}), "", ""),
            (
                "postgresql: {connect_address: '10.0.0.1:5432'}",
                json!({"conn_url": "postgres://10.0.0.2:5432/postgres"}),
                "",
                "postgresql.connect_address is 10.0.0.2:5432 instead of 10.0.0.1:5432",
            ),
            (
                "postgresql: {connect_address: 'pg1.example.org'}",
                json!({"conn_url": "postgres://pg1.example.org:5432/x"}),
                "",
                "",
            ),
            (
                "postgresql: {parameters: {work_mem: 8MB, fsync: true, log_line_prefix: \"it's\", max_connections: 5, new: 1, wal_keep_size: 1GB, archive_command: 'a \\n b'}}",
                json!({}),
                "wal_keep_size = '128MB'\narchive_command = 'a \\\\n b'\nwork_mem = '4MB'\nfsync = 'on'\nlog_line_prefix = 'it''s'\nmax_connections = '9'\n",
                "postgresql.parameters.work_mem is 4MB instead of 8MB",
            ),
        ] {
            assert_eq!(of(file, published, written), expected, "{file}");
        }
        // What makes Patroni read the passwords comes after what gives them to the roles.
        let cluster = Cluster::with(&root, &id, "tags: {nofailover: true}");
        let member = Member { name: "pg1".to_owned(), data: json!({}) };
        let hint = |other| check(&cluster, Some(&member), None, other).map(|finding| finding.hint).unwrap_or_default();
        assert!(hint(false).starts_with("Make it") && hint(true).starts_with("When the roles"), "{}", hint(true));
    }
}
