//! Which parameters will have other values under Patroni, now and after the next restart. Pure.

use std::collections::BTreeMap;

use host::ClusterId;
use serde_json::Value;

use crate::files::yaml::Yaml;
use crate::handover::decision::{Decision, Difference};
use crate::handover::running::{Running, Setting};
use crate::handover::taken_over::PATRONIS;

/// Compares the server with a Patroni file, and with `dynamic`, the parameters of the cluster in the DCS or those that will be there.
pub(crate) fn compare(id: &ClusterId, running: &Running, file: &Yaml, dynamic: Option<&Value>) -> Vec<Difference> {
    let wanted = wanted(id, file, dynamic);
    let before = running.values();
    let by_name: BTreeMap<String, &Setting> =
        before.values().map(|setting| (setting.name.to_ascii_lowercase(), *setting)).collect();
    wanted
        .into_iter()
        .filter_map(|(name, new)| {
            let setting = by_name.get(&name)?;
            (!same(setting, &new)).then(|| Difference {
                name,
                old: setting.value.clone(),
                new,
                restart: setting.context == "postmaster",
            })
        })
        .collect()
}

/// Parameters that only tell where a file is, or a standby where its primary is.
const OF_PATRONI: [&str; 5] =
    ["hba_file", "ident_file", "primary_conninfo", "primary_slot_name", "recovery_target_timeline"];

/// The parameters that have another value than before, though that was not announced.
pub(crate) fn unannounced(decision: &Decision, now: &Running) -> Vec<String> {
    let announced = |name: &str| decision.differences.iter().any(|found| found.name.eq_ignore_ascii_case(name));
    let changed = |setting: &&Setting| {
        let before = decision.setting(&setting.name);
        !setting.is_of_session()
            && !OF_PATRONI.contains(&setting.name.as_str())
            && before.is_some_and(|before| before.value != setting.value)
            && !announced(&setting.name)
    };
    now.settings.iter().filter(changed).map(|setting| setting.name.clone()).collect()
}

/// Is everything in force that was announced to change without a restart?
pub(crate) fn applied(decision: &Decision, now: &Running) -> bool {
    decision.differences.iter().filter(|found| !found.restart).all(|found| {
        let setting = now.settings.iter().find(|setting| setting.name.eq_ignore_ascii_case(&found.name));
        setting.is_none_or(|setting| same(setting, &found.new))
    })
}

/// What Patroni will set (`ConfigHandler.get_server_parameters`).
fn wanted(id: &ClusterId, file: &Yaml, dynamic: Option<&Value>) -> BTreeMap<String, String> {
    let mut wanted: BTreeMap<String, String> =
        PATRONIS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let scope = file.text(&["scope"]).unwrap_or_else(|| id.dashed());
    for (name, value) in [("cluster_name", scope.as_str()), ("wal_log_hints", "on"), ("hot_standby", "on")] {
        wanted.insert(name.to_owned(), value.to_owned());
    }
    if let Some((addresses, port)) =
        file.text(&["postgresql", "listen"]).as_deref().and_then(|text| text.rsplit_once(':'))
    {
        wanted.insert("listen_addresses".to_owned(), addresses.to_owned());
        wanted.insert("port".to_owned(), port.to_owned());
    }
    let of_member = file.get(&["postgresql", "parameters"]);
    for parameters in [dynamic, of_member].into_iter().flatten().filter_map(Value::as_object) {
        for (name, value) in parameters {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Bool(true) => "on".to_owned(),
                Value::Bool(false) => "off".to_owned(),
                other => other.to_string(),
            };
            wanted.insert(name.to_ascii_lowercase(), text);
        }
    }
    wanted
}

/// Do a setting and a string mean the same value (`parse_bool`, `parse_int` in `guc.c`)?
pub(crate) fn same(setting: &Setting, text: &str) -> bool {
    let text = text.trim();
    if setting.value == text || setting.plain == text {
        return true;
    }
    match setting.kind.as_str() {
        "bool" => truth(text).is_some() && truth(text) == truth(&setting.value),
        "integer" | "real" => {
            let unit = setting.unit.as_deref();
            let number = quantity(text, unit);
            number.is_some() && number == quantity(&setting.value, unit)
        }
        "enum" => setting.value.eq_ignore_ascii_case(text),
        _ => {
            let words = |list: &str| list.split(',').map(|word| word.trim().to_owned()).collect::<Vec<_>>();
            words(&setting.value) == words(text)
        }
    }
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" | "t" | "y" => Some(true),
        "off" | "false" | "no" | "0" | "f" | "n" => Some(false),
        _ => None,
    }
}

/// A number in bytes or microseconds; without a unit it is in the unit of the parameter.
fn quantity(text: &str, unit: Option<&str>) -> Option<f64> {
    let text = text.trim();
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let number: f64 = text[..end].trim().parse().ok()?;
    let suffix = text[end..].trim();
    let factor = if suffix.is_empty() { unit.map_or(Some(1.0), factor) } else { factor(suffix) };
    Some(number * factor?)
}

fn factor(unit: &str) -> Option<f64> {
    let digits = unit.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let times: f64 = if digits.is_empty() { 1.0 } else { digits.parse().ok()? };
    let factor = match &unit[digits.len()..] {
        "B" | "us" => 1.0,
        "kB" => 1024.0,
        "MB" => 1024.0 * 1024.0,
        "GB" => 1024.0 * 1024.0 * 1024.0,
        "TB" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "ms" => 1e3,
        "s" => 1e6,
        "min" => 60e6,
        "h" => 3600e6,
        "d" => 86400e6,
        _ => return None,
    };
    Some(times * factor)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::Path;

    fn setting(name: &str, value: &str, plain: &str, unit: Option<&str>, kind: &str, context: &str) -> Setting {
        Setting {
            name: name.to_owned(),
            value: value.to_owned(),
            plain: plain.to_owned(),
            unit: unit.map(str::to_owned),
            kind: kind.to_owned(),
            context: context.to_owned(),
            source: "configuration file".to_owned(),
            file: None,
            line: None,
            boot: None,
            pending: false,
        }
    }

    #[test]
    fn values_are_compared_by_what_they_mean() {
        let memory = setting("shared_buffers", "128MB", "16384", Some("8kB"), "integer", "postmaster");
        for (text, equal) in [("128MB", true), ("131072kB", true), ("16384", true), ("0.125GB", true), ("64MB", false)]
        {
            assert_eq!(same(&memory, text), equal, "{text}");
        }
        let time = setting("checkpoint_timeout", "5min", "300", Some("s"), "integer", "sighup");
        assert!(same(&time, "300s") && same(&time, "300") && !same(&time, "5"));
        let boolean = setting("wal_log_hints", "off", "off", None, "bool", "postmaster");
        assert!(same(&boolean, "no") && !same(&boolean, "on"));
        let list = setting("shared_preload_libraries", "a, b", "a, b", None, "string", "postmaster");
        assert!(same(&list, "a,b") && !same(&list, "b,a"));
    }

    #[test]
    fn what_patroni_changes_is_listed() {
        let file = Yaml::parse(
            Path::new("f"),
            "scope: 17-main\npostgresql: {listen: '10.0.0.1,127.0.0.1:5432', parameters: {logging_collector: 'on'}}\n",
        )
        .unwrap();
        let text = |name: &str, value: &str, context: &str| setting(name, value, value, None, "string", context);
        let running = Running::with(vec![
            text("cluster_name", "17/main", "postmaster"),
            text("listen_addresses", "*", "postmaster"),
            setting("port", "5432", "5432", None, "integer", "postmaster"),
            setting("max_connections", "150", "150", None, "integer", "postmaster"),
            setting("wal_keep_size", "0", "0", Some("MB"), "integer", "sighup"),
            setting("logging_collector", "off", "off", None, "bool", "postmaster"),
            setting("work_mem", "4MB", "4096", Some("kB"), "integer", "user"),
        ]);
        let dynamic = serde_json::json!({"max_connections": 150, "work_mem": "4MB"});
        let found = compare(&"17/main".parse().unwrap(), &running, &file, Some(&dynamic));
        let shown: Vec<String> =
            found.iter().map(|found| format!("{} {} {} {}", found.name, found.old, found.new, found.restart)).collect();
        assert_eq!(
            shown,
            [
                "cluster_name 17/main 17-main true",
                "listen_addresses * 10.0.0.1,127.0.0.1 true",
                "logging_collector off on true",
                "wal_keep_size 0 128MB false",
            ]
        );
    }
}
