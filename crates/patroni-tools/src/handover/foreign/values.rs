//! Values of a Patroni file, and when two of them mean the same.

use serde_json::{Map, Value};

/// The sections that name a DCS, in the order in which Patroni looks for them (`iter_dcs_modules`).
pub(super) const DCS_SECTIONS: [&str; 7] = ["consul", "etcd", "etcd3", "exhibitor", "kubernetes", "raft", "zookeeper"];

/// The section of the DCS; the first if there are several.
pub(crate) fn dcs_section(file: &Value) -> Option<(&'static str, &Map<String, Value>)> {
    DCS_SECTIONS.into_iter().find_map(|name| Some((name, file.get(name)?.as_object()?)))
}

/// The value at a path of keys.
pub(super) fn at<'v>(value: &'v Value, path: &[&str]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, key| value.get(key)).filter(|value| !is_empty(value))
}

/// A scalar as a string, a list with commas.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Array(items) => items.iter().map(text).collect::<Option<Vec<_>>>().map(|items| items.join(",")),
        _ => None,
    }
}

/// The string at a path of keys.
pub(super) fn text_at(value: &Value, path: &[&str]) -> Option<String> {
    at(value, path).and_then(text)
}

/// Patroni treats these as if the key were missing.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Without what is empty.
pub(super) fn without_empty(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .map(|(key, value)| (key.clone(), without_empty(value)))
                .filter(|(_, value)| !is_empty(value))
                .collect(),
        ),
        other => other.clone(),
    }
}

/// Do two values mean the same to Patroni? It takes a number for a string, and a list with commas for a list.
pub(super) fn same(one: &Value, other: &Value) -> bool {
    if let (Value::Object(one), Value::Object(other)) = (one, other) {
        return one.len() == other.len()
            && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| same(value, other)));
    }
    let plain = |value: &Value| {
        let text = text(value)?;
        let words: Vec<&str> = text.split(',').map(str::trim).collect();
        Some(match words.join(",").as_str() {
            "on" | "yes" | "True" => "true".to_owned(),
            "off" | "no" | "False" => "false".to_owned(),
            path if path.starts_with('/') && path.len() > 1 => path.trim_end_matches('/').to_owned(),
            other => other.to_owned(),
        })
    };
    one == other || plain(one).is_some_and(|one| plain(other) == Some(one))
}

/// Every value that is not a mapping, with the keys that lead to it.
pub(super) fn leaves(value: &Value) -> Vec<(Vec<&str>, &Value)> {
    fn walk<'v>(value: &'v Value, path: &mut Vec<&'v str>, found: &mut Vec<(Vec<&'v str>, &'v Value)>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    path.push(key);
                    walk(value, path, found);
                    path.pop();
                }
            }
            other if is_empty(other) => {}
            other => found.push((path.clone(), other)),
        }
    }
    let mut found = Vec::new();
    walk(value, &mut Vec::new(), &mut found);
    found
}

/// The value of a parameter as PostgreSQL reads it.
pub(super) fn of_postgresql(value: &Value) -> Option<String> {
    match value {
        Value::Bool(true) => Some("on".to_owned()),
        Value::Bool(false) => Some("off".to_owned()),
        other => text(other).filter(|text| !text.is_empty()),
    }
}

/// Host and port of `HOST:PORT`, without the brackets of an IPv6 address.
pub(super) fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    Some((host.trim().trim_matches(['[', ']']), port.trim().parse().ok()?))
}
