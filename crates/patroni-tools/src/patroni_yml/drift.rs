//! How the dynamic configuration of a running cluster differs from the `bootstrap.dcs` of the settings.

use host::trouble::Trouble;
use host::{ClusterId, trouble};
use serde_json::{Map, Value};

/// What only the running cluster has: `patronictl pause` sets it there.
const RUNNING_ONLY: [&str; 1] = ["pause"];

/// A list without a setting. The administrator may have changed it in the DCS, so what is there remains.
const OF_ADMINISTRATOR: &str = "ignore_slots";

const STANDBY_CLUSTER: &str = "standby_cluster";

type Path = Vec<String>;

/// The running configuration, compared with the one that is wanted.
pub(crate) struct Difference {
    /// The running configuration.
    pub(crate) running: Value,
    /// What the settings set and the cluster does not have.
    changes: Vec<(Path, Value)>,
    /// What only the cluster has.
    extra: Vec<Path>,
}

impl Difference {
    /// Compares both.
    pub(crate) fn new(running: &Value, wanted: &Value) -> Self {
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
                Some(_) if *path == [OF_ADMINISTRATOR] => {}
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

    /// The keys that would change.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.changes.iter().map(|(path, _)| path.join(".")).collect()
    }

    /// Would the running cluster become a standby cluster, whose primary accepts no writes?
    pub(crate) fn becomes_standby_cluster(&self) -> bool {
        self.changes.iter().any(|(path, _)| path.first().is_some_and(|key| key == STANDBY_CLUSTER))
            && self.running.get(STANDBY_CLUSTER).is_none()
    }

    /// The patch for `patronictl edit-config --apply`, and the keys that are kept. With `prune` it removes those, too.
    pub(crate) fn patch(&self, prune: bool) -> (Map<String, Value>, Vec<String>) {
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

/// Why a cluster that is not a standby cluster should not get settings that make it one: it was promoted, or `STANDBY_HOST` is a mistake.
pub(crate) fn would_stop_writes(id: &ClusterId) -> Trouble {
    trouble!(
        at "STANDBY_HOST", "it is set, but the running cluster {id} is not a standby cluster";
        "If it was promoted, remove STANDBY_HOST from its settings on every member, then run: patroni-gen-config {id}"
    )
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
pub(crate) fn merge(value: &mut Value, patch: &Value) {
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
    fn ignored_slots_of_the_administrator_remain() {
        let wanted = json!({"ignore_slots": [{"name": "pg_receivewal_service", "type": "physical"}]});
        let mine = json!({"ignore_slots": [{"type": "logical"}]});
        assert!(Difference::new(&mine, &wanted).keys().is_empty());
        assert_eq!(Difference::new(&json!({}), &wanted).keys(), ["ignore_slots"]);
    }
}
