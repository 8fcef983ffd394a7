//! `apply`: changes the configuration of a running cluster to the `bootstrap.dcs` of the settings.

use anyhow::Result;
use host::keys::SiteKey;
use host::report::{self, Reporter};
use host::{ClusterId, Root, fail, trouble};
use serde_json::Value;

use crate::context::agree;
use crate::files::diff;
use crate::files::yaml::Yaml;
use crate::gen_config::{no_member, restart};
use crate::patroni::paths::patroni_file;
use crate::patroni::patronictl::Patronictl;
use crate::patroni_yml::drift::{Difference, merge};
use crate::patroni_yml::inputs::{Overrides, render, settings};

/// What the administrator agrees to.
#[derive(Debug, Clone, Copy)]
pub struct Consent {
    /// Change it without asking.
    pub yes: bool,
    /// Remove what only the running cluster has.
    pub prune: bool,
    /// Only show what would change.
    pub dry_run: bool,
}

/// Changes the running cluster to what the settings say. With `dry_run`, returns whether it would change.
pub fn run(root: &Root, overrides: &Overrides, id: &ClusterId, consent: Consent, reporter: &Reporter) -> Result<bool> {
    no_member::refuse_change(root, id)?;
    let path = patroni_file(id);
    let present = root.read(&path)?;
    let settings = settings(root, overrides, Some(id))?;
    // Nothing in the DCS is derived from the site key.
    let (config, text) = render(root, overrides, id, &settings, &SiteKey::placeholder(), present.as_deref())?;
    let cluster = Patronictl::new(root, id, &config.scope)?;
    let wanted = Yaml::parse(&path, &text)?;
    let Some(changed) = change(id, &cluster, &wanted, consent, reporter)? else { return Ok(false) };
    if consent.dry_run {
        return Ok(true);
    }
    let names: Vec<String> = changed
        .pointer("/postgresql/parameters")
        .and_then(Value::as_object)
        .map_or_else(Vec::new, |parameters| parameters.keys().cloned().collect());
    let running = present.and_then(|text| Yaml::parse(&path, &text).ok()).unwrap_or(wanted);
    restart::explain(root, id, &running, &cluster, &names, reporter);
    Ok(false)
}

/// Shows what would change, asks, changes it, and checks that it has changed. Returns the change, if there is one.
fn change(
    id: &ClusterId,
    cluster: &Patronictl,
    wanted: &Yaml,
    consent: Consent,
    reporter: &Reporter,
) -> Result<Option<Value>> {
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
        return Ok(None);
    }
    let patch = Value::Object(patch);
    let mut after = difference.running.clone();
    merge(&mut after, &patch);
    let name = format!("{id}, the running cluster");
    report::print(&diff::unified(&name, &shown(&difference.running), &shown(&after)));
    if difference.becomes_standby_cluster() {
        reporter.warn(trouble!(
            at "STANDBY_HOST", "the running cluster {id} would become a standby cluster: its primary would accept no more writes, and data that the \
             other cluster does not have would be lost"
        ));
        if consent.yes && !consent.dry_run {
            fail!(at id, "cannot become a standby cluster with --yes"; "Run this without --yes, or remove STANDBY_HOST.");
        }
    }
    if consent.dry_run {
        return Ok(Some(patch));
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
    Ok(Some(patch))
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
    use super::*;
    use serde_json::json;

    #[test]
    fn a_list_is_shown_item_by_item() {
        assert_eq!(shown(&json!({"a": {"b": ["x", 1]}, "c": "y"})), "a.b: - \"x\"\na.b: - 1\nc: \"y\"\n");
    }
}
