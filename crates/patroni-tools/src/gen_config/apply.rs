//! `apply`: changes the configuration of a running cluster to the `bootstrap.dcs` of the settings.

use anyhow::Result;
use host::keys::SiteKey;
use host::report::{self, Reporter};
use host::{ClusterId, Root, fail, trouble};
use serde_json::{Map, Value};

use crate::context::agree;
use crate::files::diff;
use crate::files::yaml::Yaml;
use crate::patroni::paths::patroni_file;
use crate::patroni::patronictl::Patronictl;
use crate::patroni_yml::inputs::{Overrides, render, settings};

/// What only the running cluster has: `patronictl pause` sets it there.
const RUNNING_ONLY: [&str; 1] = ["pause"];

/// What the administrator agrees to.
#[derive(Debug, Clone, Copy)]
pub struct Consent {
    /// Change it without asking.
    pub yes: bool,
    /// Remove what only the running cluster has.
    pub prune: bool,
}

/// Changes the running cluster to what the settings say.
pub fn run(root: &Root, overrides: &Overrides, id: &ClusterId, consent: Consent, reporter: &Reporter) -> Result<()> {
    let path = patroni_file(id);
    let present = root.read(&path)?;
    let settings = settings(root, overrides, Some(id))?;
    // Nothing in the DCS is derived from the site key.
    let (config, text) = render(root, overrides, id, &settings, &SiteKey::placeholder(), present.as_deref())?;
    let cluster = Patronictl::new(root, id, &config.scope)?;
    change(id, &cluster, &Yaml::parse(&path, &text)?, consent, reporter)
}

/// Shows what would change, asks, changes it, and checks that it has changed.
fn change(id: &ClusterId, cluster: &Patronictl, wanted: &Yaml, consent: Consent, reporter: &Reporter) -> Result<()> {
    let Some(wanted) = wanted.get(&["bootstrap", "dcs"]) else {
        fail!("the template has no bootstrap.dcs, so there is nothing to apply");
    };
    let difference = compare(id, cluster, wanted)?;
    let (patch, left) = difference.patch(consent.prune);
    if !left.is_empty() {
        reporter.info(format!("{id}: not in the settings and kept (--prune removes it): {}", left.join(", ")));
    }
    if patch.is_empty() {
        report::print(&format!("{id}: the running cluster is up to date\n"));
        return Ok(());
    }
    let patch = Value::Object(patch);
    let mut after = difference.running.clone();
    merge(&mut after, &patch);
    let name = format!("{id}, the running cluster");
    report::print(&diff::unified(&name, &shown(&difference.running), &shown(&after)));
    if after.get("standby_cluster").is_some() && difference.running.get("standby_cluster").is_none() {
        reporter.warn(trouble!(
            at "STANDBY_HOST", "the running cluster {id} would become a standby cluster: its primary would accept no more writes, and data that the \
             other cluster does not have would be lost"
        ));
        if consent.yes {
            fail!(at id, "cannot become a standby cluster with --yes"; "Run this without --yes, or remove STANDBY_HOST.");
        }
    }
    if !consent.yes {
        agree(&id.slashed(), &format!("Change the running cluster {id}?"))?;
    }
    cluster.change(&patch)?;
    let rest = compare(id, cluster, wanted)?.patch(consent.prune).0;
    if !rest.is_empty() {
        let rest: Vec<&str> = rest.keys().map(String::as_str).collect();
        fail!(at id, "{} did not change, perhaps because of another change at the same time", rest.join(", "); "Run this again.");
    }
    report::print(&format!("{id}: changed\n"));
    if patch.pointer("/postgresql/parameters").is_some() {
        reporter.info(format!(
            "{id}: some parameters require a restart of PostgreSQL: 'pg_patronictl {id} list' shows the members that need it, \
             'pg_patronictl {id} restart --pending' restarts them"
        ));
    }
    Ok(())
}

fn compare(id: &ClusterId, cluster: &Patronictl, wanted: &Value) -> Result<Difference> {
    match cluster.configuration()?.as_ref().and_then(Yaml::document) {
        Some(running) => Ok(Difference::new(running, wanted)),
        None => {
            fail!(
                "{id} has no configuration in the DCS yet";
                "Start Patroni; the first member puts bootstrap.dcs of its file into the DCS."
            )
        }
    }
}

type Path = Vec<String>;

struct Difference {
    running: Value,
    /// What the settings set and the cluster does not have.
    changes: Vec<(Path, Value)>,
    /// What only the cluster has.
    extra: Vec<Path>,
}

impl Difference {
    fn new(running: &Value, wanted: &Value) -> Self {
        let mut difference = Self { running: running.clone(), changes: Vec::new(), extra: Vec::new() };
        difference.walk(running, wanted, &mut Path::new());
        difference
    }

    fn walk(&mut self, running: &Value, wanted: &Value, path: &mut Path) {
        let (Value::Object(has), Value::Object(wants)) = (running, wanted) else {
            if !same(running, wanted) {
                self.changes.push((path.clone(), wanted.clone()));
            }
            return;
        };
        for (key, wanted) in wants {
            path.push(key.clone());
            match has.get(key) {
                Some(running) => self.walk(running, wanted, path),
                None => self.changes.push((path.clone(), wanted.clone())),
            }
            path.pop();
        }
        for key in has.keys().filter(|key| !wants.contains_key(*key)) {
            if !(path.is_empty() && RUNNING_ONLY.contains(&key.as_str())) {
                self.extra.push(path.iter().chain([key]).cloned().collect());
            }
        }
    }

    /// The patch for `patronictl edit-config --apply`, and the keys that are kept.
    fn patch(&self, prune: bool) -> (Map<String, Value>, Vec<String>) {
        let mut patch = Map::new();
        for (path, value) in &self.changes {
            put(&mut patch, path, value.clone());
        }
        if !prune {
            return (patch, self.extra.iter().map(|path| path.join(".")).collect());
        }
        for path in &self.extra {
            put(&mut patch, path, Value::Null);
        }
        (patch, Vec::new())
    }
}

/// Patroni does not distinguish a number from the same number as a string.
fn same(one: &Value, other: &Value) -> bool {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    one == other || text(one).is_some_and(|one| text(other) == Some(one))
}

fn put(map: &mut Map<String, Value>, path: &[String], value: Value) {
    match path {
        [] => {}
        [key] => {
            map.insert(key.clone(), value);
        }
        [key, rest @ ..] => {
            let inner = map.entry(key.clone()).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

/// Merges a patch as Patroni does (`patch_config`).
fn merge(value: &mut Value, patch: &Value) {
    let (Value::Object(value), Value::Object(patch)) = (value, patch) else { return };
    for (key, patch) in patch {
        if patch.is_null() {
            value.remove(key);
        } else if let (Some(inner @ Value::Object(_)), Value::Object(_)) = (value.get_mut(key), patch) {
            merge(inner, patch);
        } else {
            value.insert(key.clone(), patch.clone());
        }
    }
}

/// One line for each value, and for each item of a list.
fn shown(value: &Value) -> String {
    fn walk(value: &Value, path: &str, out: &mut String) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                for (key, value) in map {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(value, &path, out);
                }
            }
            Value::Array(items) => {
                for item in items {
                    out.extend([path, ": - ", &item.to_string(), "\n"]);
                }
            }
            scalar => out.extend([path, ": ", &scalar.to_string(), "\n"]),
        }
    }
    let mut out = String::new();
    walk(value, "", &mut out);
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_the_settings_set_changes() {
        let running = json!({
            "ttl": 30, "pause": true, "loop_wait": "10", "ignore_slots": [{"type": "physical"}],
            "postgresql": {"parameters": {"work_mem": "4MB", "auto_explain.log_min_duration": "1s", "max_connections": 200},
                "pg_hba": ["a", "b"]},
            "slots": {"old": {"type": "physical"}},
        });
        let wanted = json!({
            "ttl": 20, "loop_wait": 10, "synchronous_mode": false,
            "postgresql": {"parameters": {"max_connections": "200", "auto_explain.log_min_duration": "2s"}, "pg_hba": ["a", "c"]},
            "slots": {"new": {"type": "logical", "database": "d"}},
        });
        let difference = Difference::new(&running, &wanted);
        let (patch, left) = difference.patch(false);
        let expected = json!({
            "ttl": 20, "synchronous_mode": false,
            "postgresql": {"parameters": {"auto_explain.log_min_duration": "2s"}, "pg_hba": ["a", "c"]},
            "slots": {"new": {"type": "logical", "database": "d"}},
        });
        assert_eq!(Value::Object(patch.clone()), expected);
        assert_eq!(left, ["postgresql.parameters.work_mem", "slots.old", "ignore_slots"]);
        let mut after = running.clone();
        merge(&mut after, &Value::Object(patch));
        assert!(Difference::new(&after, &wanted).patch(false).0.is_empty());
        assert_eq!(after["pause"], true);

        let (patch, left) = difference.patch(true);
        assert!(left.is_empty() && patch["ignore_slots"].is_null() && patch["slots"]["old"].is_null());
        let mut after = running;
        merge(&mut after, &Value::Object(patch));
        assert!(Difference::new(&after, &wanted).patch(true).0.is_empty());
        assert_eq!(after["pause"], true);
    }

    #[test]
    fn a_list_is_shown_item_by_item() {
        assert_eq!(shown(&json!({"a": {"b": ["x", 1]}, "c": "y"})), "a.b: - \"x\"\na.b: - 1\nc: \"y\"\n");
    }
}
