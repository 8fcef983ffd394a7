//! Variables of the unit that override the Patroni file (`Config._build_environment_configuration` in Patroni's `config.py`), and what
//! Patroni refuses in its log settings.

use std::path::Path;

use anyhow::Result;
use host::trouble::in_line;
use host::{Root, envfile};
use serde_json::Value;

use crate::doctor::cluster::Cluster;
use crate::doctor::finding::{Finding, Level};
use crate::patroni::paths::ENVIRONMENT;

/// The sections of which `PATRONI_SECTION_KEY` sets a key.
const SECTIONS: [&str; 12] = [
    "restapi",
    "ctl",
    "postgresql",
    "log",
    "etcd3",
    "etcd",
    "consul",
    "zookeeper",
    "kubernetes",
    "exhibitor",
    "raft",
    "citus",
];

/// The roles of which `PATRONI_ROLE_KEY` sets a key below `postgresql.authentication`.
const ROLES: [&str; 3] = ["superuser", "replication", "rewind"];

/// The levels of Python's `logging` (`_nameToLevel`).
const LEVELS: [&str; 8] = ["CRITICAL", "FATAL", "ERROR", "WARN", "WARNING", "INFO", "DEBUG", "NOTSET"];

/// A variable, and where it is defined.
struct Variable {
    name: String,
    value: String,
    place: String,
    /// Does systemd read it only after a daemon-reload?
    of_unit: bool,
}

/// Variables that override the Patroni file, and levels that Patroni does not know.
pub fn check(cluster: &Cluster) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for level in ["level", "traceback_level"] {
        let key = format!("log.{level}");
        findings.extend(cluster.text(&["log", level]).and_then(|value| unknown_level(cluster, &key, &value)));
    }
    for variable in variables(cluster)? {
        findings.extend(overrides(cluster, &variable));
    }
    Ok(findings)
}

fn is_level(value: &str) -> bool {
    LEVELS.contains(&value) || value.parse::<u32>().is_ok()
}

fn unknown_level(cluster: &Cluster, key: &str, value: &str) -> Option<Finding> {
    (!is_level(value)).then(|| {
        let what = format!("{key} is {value}, which Patroni does not know, so it does not start");
        Finding::fatal(what, cluster.correct("LOG_LEVEL", key, "DEBUG, INFO, WARNING, ERROR or CRITICAL"))
    })
}

fn overrides(cluster: &Cluster, variable: &Variable) -> Option<Finding> {
    let Variable { name, value, place, of_unit } = variable;
    let path = key(&name.strip_prefix("PATRONI_")?.to_ascii_lowercase())?;
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    // Patroni ignores an empty one.
    if value.is_empty() {
        return None;
    }
    let unit = format!("patroni@{}", cluster.id.dashed());
    let reload = if *of_unit { "systemctl daemon-reload && " } else { "" };
    let hint = format!("Remove that line, then run: {reload}systemctl restart {unit}");
    let wants_level = path.len() == 2 && path[0] == "log" && path[1].ends_with("level");
    if wants_level && !is_level(value) {
        let what = format!("{name} is {value}, which is no log level of Patroni, so it does not start");
        return Some(Finding::new(Level::Fatal, what, hint).at(place));
    }
    let present = cluster.yaml.get(&path)?;
    if same(present, value) {
        return None;
    }
    let (key, file) = (path.join("."), cluster.path.display());
    let is_secret =
        ["password", "token", "key_password", "secret"].iter().any(|word| path[path.len() - 1].contains(word));
    let shown = |text: &str| if is_secret { String::new() } else { format!(" ({text})") };
    let theirs = match present {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(|item| item.as_str().unwrap_or_default()).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    };
    let what = format!("{name}{} overrides {key}{} of {file}", shown(value), shown(&theirs));
    Some(Finding::warning(what, hint).at(place))
}

/// The key of the Patroni file that a variable overrides, from its name in lower case and without `PATRONI_`.
fn key(name: &str) -> Option<Vec<String>> {
    let path = |parts: &[&str]| Some(parts.iter().map(|part| (*part).to_owned()).collect());
    if ["name", "scope", "namespace"].contains(&name) {
        return path(&[name]);
    }
    if let Some((role, key)) = ROLES.iter().find_map(|role| Some((role, name.strip_prefix(role)?.strip_prefix('_')?))) {
        return path(&["postgresql", "authentication", role, key]);
    }
    let (section, key) =
        SECTIONS.iter().find_map(|section| Some((section, name.strip_prefix(section)?.strip_prefix('_')?)))?;
    if ["restapi", "ctl"].contains(section) && ["username", "password"].contains(&key) {
        return path(&[section, "authentication", key]);
    }
    path(&[section, key])
}

/// Is it the value in the file? A list can be written as `a,b` or as YAML, and a Boolean in several ways.
fn same(present: &Value, value: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        let plain =
            |word: &str| word.trim_matches(|c: char| c.is_whitespace() || "[]\"'-{}".contains(c)).to_ascii_lowercase();
        text.split([',', '\n']).map(plain).filter(|word| !word.is_empty()).collect()
    };
    match present {
        Value::String(text) => text == value || words(text) == words(value),
        Value::Bool(on) => *on == ["true", "yes", "on", "1"].contains(&value.to_ascii_lowercase().as_str()),
        Value::Array(items) => {
            let items: Vec<String> =
                items.iter().flat_map(|item| words(item.as_str().unwrap_or(&item.to_string()))).collect();
            items == words(value)
        }
        // What is in a mapping is compared nowhere else either.
        Value::Object(_) => true,
        Value::Number(number) => number.to_string() == value,
        Value::Null => false,
    }
}

/// The variables of the unit: its files of variables, and its own. The last definition counts, and a file more than the unit itself
/// (systemd.exec(5)).
fn variables(cluster: &Cluster) -> Result<Vec<Variable>> {
    let root = cluster.root;
    let mut own = Vec::new();
    let mut files = vec![ENVIRONMENT.to_owned()];
    for unit in ["patroni@.service".to_owned(), format!("patroni@{}.service", cluster.id.dashed())] {
        let is_drop_in = |name: &String| Path::new(name).extension().is_some_and(|end| end == "conf");
        // A copy of the unit, and what is added to it.
        drop_in(root, &Path::new("/etc/systemd/system").join(&unit), &mut own, &mut files);
        for above in ["/etc/systemd/system", "/run/systemd/system"] {
            let directory = Path::new(above).join(format!("{unit}.d"));
            for name in root.list(&directory)?.into_iter().filter(is_drop_in) {
                drop_in(root, &directory.join(name), &mut own, &mut files);
            }
        }
    }
    for file in files {
        // Only its reader is told what is in a file: the unit's own check runs as postgres.
        let Ok(Some(text)) = root.read(&file) else { continue };
        // systemd reads more than this parser, which then knows nothing of the file.
        let Ok(read) = envfile::parse(Path::new(&file), &text) else { continue };
        own.extend(read.into_iter().map(|read| Variable {
            place: in_line(&file, read.line),
            name: read.key,
            value: read.value,
            of_unit: false,
        }));
    }
    let mut last: Vec<Variable> = Vec::new();
    for variable in own.into_iter().filter(|variable| variable.name.starts_with("PATRONI_")) {
        last.retain(|earlier| earlier.name != variable.name);
        last.push(variable);
    }
    Ok(last)
}

/// `Environment=` and `EnvironmentFile=` of a drop-in; an empty one removes those before it.
fn drop_in(root: &Root, file: &Path, own: &mut Vec<Variable>, files: &mut Vec<String>) {
    for (index, line) in root.read(file).ok().flatten().unwrap_or_default().lines().enumerate() {
        let line = line.trim();
        if let Some(path) = line.strip_prefix("EnvironmentFile=") {
            match path.trim().trim_start_matches('-') {
                "" => files.clear(),
                path => files.push(path.to_owned()),
            }
        }
        let Some(assignments) = line.strip_prefix("Environment=") else { continue };
        if assignments.trim().is_empty() {
            own.clear();
        }
        own.extend(words(assignments).into_iter().filter_map(|word| {
            let (name, value) = word.split_once('=')?;
            let place = in_line(file, index + 1);
            Some(Variable { name: name.to_owned(), value: value.to_owned(), place, of_unit: true })
        }));
    }
}

/// The words of an assignment, of which quotes may enclose the whole or the value (systemd.syntax(7)).
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in text.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c.is_whitespace() => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_variable_sets_the_key_that_patroni_takes_it_for() {
        let joined = |name: &str| key(name).map(|path| path.join("."));
        for (name, path) in [
            ("scope", "scope"),
            ("restapi_connect_address", "restapi.connect_address"),
            ("restapi_password", "restapi.authentication.password"),
            ("etcd3_hosts", "etcd3.hosts"),
            ("replication_password", "postgresql.authentication.replication.password"),
            ("postgresql_data_dir", "postgresql.data_dir"),
        ] {
            assert_eq!(joined(name).as_deref(), Some(path));
        }
        assert_eq!(joined("tools_bootstrap"), None);
    }

    #[test]
    fn the_same_value_in_another_notation_is_the_same() {
        assert!(same(&json!(["a:1", "b:2"]), "a:1, b:2") && same(&json!("a:1,b:2"), "- a:1\n- b:2"));
        assert!(
            same(&json!(true), "yes") && same(&json!(8), "8") && !same(&json!(true), "off") && !same(&json!("a"), "b")
        );
        assert_eq!(words("A=1 \"B=x y\" C='z'"), ["A=1", "B=x y", "C=z"]);
    }
}
