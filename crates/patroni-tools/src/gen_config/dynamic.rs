//! What stands under `bootstrap.dcs` counts only until the cluster exists; here is how to say a change to it otherwise.

use serde_json::Value;

use crate::yaml::Yaml;

/// The arguments of `patronictl edit-config` that would bring the running cluster from one file's `bootstrap.dcs` to
/// the other's; empty where they are the same.
#[must_use]
pub fn edits(present: &Yaml, wanted: &Yaml) -> Vec<String> {
    let path = ["bootstrap", "dcs"];
    let (old, new) = (present.leaves(&path), wanted.leaves(&path));
    let gone =
        old.iter().filter(|(key, _)| !new.iter().any(|(other, _)| other == key)).map(|(key, _)| (key, &Value::Null));
    let changed = new.iter().filter(|leaf| !old.contains(leaf)).map(|(key, value)| (key, value));
    changed.chain(gone).map(|(key, value)| format!("-s '{key}={}'", shown(value))).collect()
}

/// As patronictl reads it: YAML, of which JSON is a part, inside single quotes of a shell.
fn shown(value: &Value) -> String {
    value.to_string().replace('\'', r"'\''")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn names_changed_new_and_removed_keys() {
        let parse = |text: &str| Yaml::parse(Path::new("f"), text).unwrap();
        let old = parse("bootstrap: {dcs: {ttl: 30, synchronous_mode: true, postgresql: {pg_hba: [a]}}}");
        let new = parse("bootstrap: {dcs: {ttl: 20, postgresql: {pg_hba: [a, 'b''c']}}}");
        assert_eq!(
            edits(&old, &new),
            [r#"-s 'postgresql.pg_hba=["a","b'\''c"]'"#, "-s 'ttl=20'", "-s 'synchronous_mode=null'"]
        );
        assert!(edits(&old, &old).is_empty());
    }
}
