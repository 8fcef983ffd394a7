//! From the dynamic configuration, which stays in the DCS as it is, to the settings with which `apply` would not change it.

use serde_json::Value;

use crate::handover::foreign::from_file::{Mapped, Source};
use crate::handover::foreign::rows::{Fate, Row};
use crate::handover::foreign::values::{at, leaves, of_postgresql, same, text, text_at};
use crate::patroni_yml::parameters;

const ORIGIN: &str = "in the DCS";

/// Adds the settings of the dynamic configuration.
pub(crate) fn from_dynamic(source: &Source, mapped: &mut Mapped) {
    let dynamic = source.dynamic;
    let value = |path: &[&str]| text_at(dynamic, path);
    for (key, setting, usual) in [
        ("ttl", "TTL", "30"),
        ("loop_wait", "LOOP_WAIT", "10"),
        ("retry_timeout", "RETRY_TIMEOUT", "10"),
        ("maximum_lag_on_failover", "MAXIMUM_LAG_ON_FAILOVER", "1048576"),
        ("primary_start_timeout", "PRIMARY_START_TIMEOUT", "300"),
        ("master_start_timeout", "PRIMARY_START_TIMEOUT", "300"),
        ("synchronous_node_count", "SYNCHRONOUS_NODE_COUNT", "1"),
    ] {
        if let Some(value) = value(&[key]).filter(|value| value != usual) {
            mapped.line(setting, value, format!("{key} {ORIGIN}"));
        }
    }
    let word = |text: &str| match text {
        "true" | "on" | "yes" => "yes".to_owned(),
        "false" | "off" | "no" => "no".to_owned(),
        other => other.to_owned(),
    };
    for (key, setting) in
        [("synchronous_mode", "SYNCHRONOUS_MODE"), ("synchronous_mode_strict", "SYNCHRONOUS_MODE_STRICT")]
    {
        if let Some(value) = value(&[key]).map(|value| word(&value)).filter(|value| value != "no") {
            mapped.line(setting, value, format!("{key} {ORIGIN}"));
        }
    }
    if value(&["failsafe_mode"]).map(|value| word(&value)).as_deref() != Some("yes") {
        mapped.line("FAILSAFE_MODE", "no", format!("failsafe_mode {ORIGIN}"));
    }
    if let Some(list) = slots(at(dynamic, &["slots"])) {
        mapped.line("SLOTS", list, format!("slots {ORIGIN}"));
    }
    for (key, setting) in [("host", "STANDBY_HOST"), ("port", "STANDBY_PORT"), ("primary_slot_name", "STANDBY_SLOT")] {
        if let Some(value) = value(&["standby_cluster", key]) {
            mapped.line(setting, value, format!("standby_cluster.{key} {ORIGIN}"));
        }
    }
    let synchronous = value(&["synchronous_mode"]).is_some_and(|value| word(&value) != "no");
    let mut of_file = String::new();
    let parameters = at(dynamic, &["postgresql", "parameters"]).and_then(Value::as_object);
    for (name, value) in parameters.into_iter().flatten() {
        let name = name.to_ascii_lowercase();
        let Some(value) = of_postgresql(value).filter(|value| parameters::check(&name, value, synchronous).is_ok())
        else {
            continue;
        };
        if name.contains('.') {
            let value = value.replace('\\', "\\\\").replace('\'', "''");
            of_file.extend([&name, " = '", &value, "'\n"]);
        } else {
            mapped.line(&format!("PG_{name}"), value, format!("postgresql.parameters {ORIGIN}"));
        }
    }
    if !of_file.is_empty() {
        mapped.file("PG_PARAMETERS_FILE", "parameters", of_file, format!("postgresql.parameters {ORIGIN}"));
    }
}

/// `SLOTS`, if it can express all of them.
fn slots(slots: Option<&Value>) -> Option<String> {
    let list: Option<Vec<String>> = slots?
        .as_object()?
        .iter()
        .map(|(name, options)| {
            let options = options.as_object()?;
            let option = |key: &str| options.get(key).and_then(text);
            match (option("type")?.as_str(), options.len()) {
                ("physical", 1) => Some(format!("{name}:physical")),
                ("logical", 3) => Some(format!("{name}:logical:{}:{}", option("database")?, option("plugin")?)),
                _ => None,
            }
        })
        .collect();
    Some(list?.join(","))
}

/// What becomes of the keys in the DCS: nothing changes there, but `apply` would change some of them later.
pub(super) fn rows(dynamic: &Value, file: &Value) -> Vec<Row> {
    let ours = file.get("bootstrap").and_then(|bootstrap| bootstrap.get("dcs"));
    leaves(dynamic)
        .into_iter()
        .filter(|(path, _)| !["pg_hba", "pg_ident"].iter().any(|key| path.contains(key)))
        .map(|(path, value)| {
            let name = if path == ["master_start_timeout"] { vec!["primary_start_timeout"] } else { path.clone() };
            let fate = match ours.and_then(|ours| at(ours, &name)) {
                Some(ours) if same(ours, value) => Fate::Same,
                Some(ours) => Fate::Dynamic(Some(text(ours).unwrap_or_default())),
                None => Fate::Dynamic(None),
            };
            Row { key: format!("{} {ORIGIN}", path.join(".")), fate }
        })
        .collect()
}
