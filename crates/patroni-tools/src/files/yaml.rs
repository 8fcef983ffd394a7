//! The only module that uses `serde_yaml`, which is archived upstream, so that it can be replaced in one place.

use std::path::Path;

use anyhow::{Result, anyhow};
use host::trouble;
use host::trouble::in_line;
use serde_json::Value;

/// A parsed YAML document. It is stored as JSON, which can express everything in a Patroni file.
#[derive(Debug, Clone, PartialEq)]
pub struct Yaml(Value);

impl Yaml {
    /// Parses `text`; an error has the place `FILE:LINE`.
    pub fn parse(file: &Path, text: &str) -> Result<Self> {
        read(text).map(Self).map_err(|error| {
            let line = error.location().map_or(1, |location| location.line());
            let what = error.to_string();
            let what = what.split(" at line ").next().unwrap_or_default();
            // Quoted parts are from the file, and may be secrets.
            let what = what.split(['"', '`']).next().unwrap_or_default().trim_end_matches([' ', ':']).to_owned();
            anyhow!(trouble!(at in_line(file, line), "not valid YAML: {what}"))
        })
    }

    /// The document; `None` if it is empty.
    #[must_use]
    pub fn document(&self) -> Option<&Value> {
        (!self.0.is_null()).then_some(&self.0)
    }

    /// The value at a path of keys; `None` if there is none.
    #[must_use]
    pub fn get(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(&self.0, |value, key| value.get(key))
    }

    /// The string at a path of keys; numbers and Booleans in YAML's notation.
    #[must_use]
    pub fn text(&self, path: &[&str]) -> Option<String> {
        match self.get(path)? {
            Value::String(text) => Some(text.clone()),
            other @ (Value::Number(_) | Value::Bool(_)) => Some(other.to_string()),
            _ => None,
        }
    }

    /// The port at the end of `postgresql.listen` or `restapi.listen`: `10.0.0.1,127.0.0.1:5432`.
    pub fn port(&self, section: &str) -> Result<u16> {
        let listen = self.text(&[section, "listen"]).ok_or_else(|| anyhow!("{section}.listen is missing"))?;
        listen.rsplit_once(':').and_then(|(_, port)| port.trim().parse().ok()).ok_or_else(|| {
            anyhow!(trouble!("{section}.listen is '{listen}', which does not end in :PORT"; "Write ADDRESS:PORT."))
        })
    }

    /// The path of the first value that is null, an empty list or an empty mapping. Patroni's validator refuses these, and
    /// `parameters:` without a value makes Patroni drop the whole dynamic configuration (patroni issue 3546). A Raft of one
    /// member is the exception: Patroni requires the list of the others, which is then empty.
    #[must_use]
    pub fn first_empty(&self) -> Option<String> {
        let mut leaves = Vec::new();
        collect(&self.0, "", &mut leaves);
        leaves
            .into_iter()
            .find(|(path, value)| match value {
                Value::Null => true,
                Value::Array(items) => {
                    (items.is_empty() && path != "raft.partner_addrs") || items.contains(&Value::Null)
                }
                Value::Object(map) => map.is_empty(),
                _ => false,
            })
            .map(|(path, _)| path)
    }
}

/// Resolves merge keys (`<<: *defaults`) as Patroni's own parser does; the last value of a duplicate key applies, as there.
fn read(text: &str) -> Result<Value, serde_yaml::Error> {
    if text.contains("<<") && twice(text).is_none() {
        let mut value: serde_yaml::Value = serde_yaml::from_str(text)?;
        value.apply_merge()?;
        return serde_yaml::from_value(value);
    }
    serde_yaml::from_str(text)
}

/// A key that is defined twice in one mapping, with its line.
#[must_use]
pub fn twice(text: &str) -> Option<String> {
    let error = serde_yaml::from_str::<serde_yaml::Value>(text).err()?.to_string();
    error.contains("duplicate entry").then_some(error)
}

/// Every value with its path (`bootstrap.dcs.ttl`), lists and scalars alike; empty mappings are values too.
fn collect(value: &Value, path: &str, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                collect(value, &path, found);
            }
        }
        other => found.push((path.to_owned(), other.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Yaml {
        Yaml::parse(Path::new("/f.yml"), text).unwrap()
    }

    #[test]
    fn an_error_has_its_line() {
        let error = Yaml::parse(Path::new("/f.yml"), "a: 1\nb: [1\nc: 2\n").unwrap_err().to_string();
        assert!(error.starts_with("/f.yml:3: "), "{error}");
        assert!(parse("").document().is_none());
    }

    #[test]
    fn empty_values_are_found() {
        assert_eq!(parse("a: 1\nb: {c: [x], d: }\n").first_empty().as_deref(), Some("b.d"));
        assert_eq!(parse("a: []").first_empty().as_deref(), Some("a"));
        assert_eq!(parse("a: {b: {}}").first_empty().as_deref(), Some("a.b"));
        assert_eq!(parse("a: [1]\nb: ''\n").first_empty(), None);
    }

    #[test]
    fn patronis_notation_is_read() {
        let merged = parse("x: &d {port: 1, host: a}\ny:\n  <<: *d\n  host: b\n");
        assert_eq!((merged.text(&["y", "port"]), merged.text(&["y", "host"])), (Some("1".into()), Some("b".into())));
        assert_eq!(parse("a: 1\na: 2\n").text(&["a"]).as_deref(), Some("2"));
        assert!(twice("b: {a: 1, a: 2}\n").unwrap().contains("line 1"));
        assert!(twice("a: 1\nb: {a: 1}\n").is_none());
    }

    #[test]
    fn ports_are_read() {
        assert_eq!(parse("postgresql: {listen: 'fd00::5,::1:5433'}").port("postgresql").unwrap(), 5433);
        assert!(parse("postgresql: {listen: '*'}").port("postgresql").is_err());
    }
}
