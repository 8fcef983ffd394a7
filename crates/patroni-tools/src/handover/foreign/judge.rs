//! What becomes of every key of their file.

use serde_json::Value;

use crate::handover::foreign::blocks::Block;
use crate::handover::foreign::from_dynamic;
use crate::handover::foreign::from_file::Mapped;
use crate::handover::foreign::rows::{Fate, Row};
use crate::handover::foreign::values::{DCS_SECTIONS, at, leaves, same};

/// Compares `file`, the new one, with `theirs`, key by key. `said` has the keys whose new value is elsewhere.
pub(crate) fn judge(theirs: &Value, dynamic: &Value, file: &Value, said: &Mapped, blocks: &[Block]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (path, value) in leaves(theirs) {
        let key = path.join(".");
        let below = |prefix: &str| key == prefix || key.starts_with(&format!("{prefix}."));
        if let Some(row) = said.rows.iter().find(|row| below(&row.key)) {
            // A section that has one fate is one row.
            if !rows.contains(row) {
                rows.push(row.clone());
            }
            continue;
        }
        let of_dcs = DCS_SECTIONS.contains(path.first().unwrap_or(&"")) && path.len() == 2;
        let kept = blocks.iter().find(|block| block.keeps.iter().any(|kept| below(kept)));
        let equal = at(file, &path).is_some_and(|ours| same(ours, value))
            || path == ["namespace"] && at(file, &path).is_some_and(|ours| same_path(ours, value))
            || of_dcs
                && kept.is_none()
                && path[1] == "host"
                && at(file, &[path[0], "hosts"]).is_some_and(|ours| same(ours, value));
        let default = of_dcs && at(file, &path).is_none() && (value == &Value::Bool(false) || value == "http");
        let fate = match kept {
            Some(block) if equal => Fate::Template(block.name.to_owned()),
            _ if equal && key == "scope" && !said.lines.iter().any(|line| line.key == "SCOPE") => Fate::Same,
            _ if equal => setting(&path).map_or(Fate::Same, |setting| Fate::Setting(setting.to_owned())),
            None if default => Fate::Same,
            _ => Fate::Lost,
        };
        rows.push(Row { key, fate });
    }
    rows.extend(from_dynamic::rows(dynamic, file));
    rows
}

/// The keys that only the new file has, outside of `bootstrap`, which is not used any more.
pub(crate) fn added(theirs: &Value, file: &Value) -> Vec<String> {
    leaves(file)
        .into_iter()
        .filter(|(path, _)| path[0] != "bootstrap" && at(theirs, path).is_none())
        .map(|(path, _)| path.join("."))
        .collect()
}

fn same_path(one: &Value, other: &Value) -> bool {
    let plain = |value: &Value| value.as_str().map(|text| text.trim_matches('/').to_owned());
    plain(one) == plain(other)
}

/// The setting that a key comes from.
fn setting(path: &[&str]) -> Option<&'static str> {
    Some(match path {
        ["scope"] => "SCOPE",
        ["namespace"] => "NAMESPACE",
        ["name"] => "MEMBER_NAME",
        ["restapi", "listen" | "connect_address"] => "HOST_ADDRESS, RESTAPI_PORT",
        ["restapi", ..] => "RESTAPI_…",
        ["consul" | "etcd" | "etcd3" | "exhibitor" | "kubernetes" | "raft" | "zookeeper", ..] => "DCS, DCS_…",
        ["postgresql", "listen"] => "LISTEN_ADDRESSES, PORT",
        ["postgresql", "connect_address"] => "HOST_ADDRESS, PORT",
        ["postgresql", "authentication", "superuser", ..] => "SUPERUSER_…",
        ["postgresql", "authentication", "replication", ..] => "REPLICATION_…",
        ["postgresql", "authentication", "rewind", ..] => "REWIND_…",
        ["tags", ..] => "the setting of this tag",
        ["watchdog", ..] => "WATCHDOG, WATCHDOG_DEVICE",
        ["log", ..] => "LOG_…",
        _ => return None,
    })
}
