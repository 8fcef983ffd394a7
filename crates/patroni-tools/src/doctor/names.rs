//! Names of members with which replication does not work, and hooks that do not know the cluster.

use host::ClusterId;
use host::members::{never_synchronous, slot_name};
use serde_json::Value;

use crate::doctor::cluster::Cluster;
use crate::doctor::data_directory::hook_methods;
use crate::doctor::dcs::question::Content;
use crate::doctor::finding::Finding;

/// The name of this member with the configuration that the file has for a new cluster, and the scope that its hooks get.
pub fn check(cluster: &Cluster) -> Vec<Finding> {
    let synchronous = cluster.yaml.get(&["bootstrap", "dcs", "synchronous_mode"]);
    let mut findings: Vec<Finding> = unfit(cluster, synchronous).into_iter().collect();
    findings.extend(unmapped(cluster));
    findings
}

/// The name of this member with the running configuration, and beside those of the other members.
pub(crate) fn with_content(cluster: &Cluster, content: &Content) -> Vec<Finding> {
    let config: Value = content.get("config").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let mut findings: Vec<Finding> = unfit(cluster, config.get("synchronous_mode")).into_iter().collect();
    let Some(own) = cluster.text(&["name"]) else { return findings };
    let slot = slot_name(&own);
    let others = content.keys().filter_map(|key| key.strip_prefix("members/"));
    findings.extend(others.filter(|other| *other != own && slot_name(other) == slot).map(|other| {
        let what = format!("this member is {own} and another one is {other}, and both use the replication slot {slot}, so only one can replicate");
        Finding::error(what, cluster.correct("MEMBER_NAME", "name", "another name, on one of the two hosts"))
    }));
    findings
}

fn unfit(cluster: &Cluster, synchronous: Option<&Value>) -> Option<Finding> {
    let is_synchronous = matches!(synchronous, Some(Value::Bool(true) | Value::String(_)));
    let trouble = never_synchronous(&cluster.text(&["name"])?).filter(|_| is_synchronous)?;
    Some(Finding::warning(trouble.what, cluster.correct("MEMBER_NAME", "name", "at most 63 ASCII characters")))
}

/// Commands of this package to which Patroni passes a scope that does not name the cluster.
fn unmapped(cluster: &Cluster) -> Vec<Finding> {
    let Some(scope) = cluster.text(&["scope"]) else { return Vec::new() };
    if scope.parse::<ClusterId>().is_ok_and(|named| named == *cluster.id) {
        return Vec::new();
    }
    let option = format!("--cluster={}", cluster.id.dashed());
    let commands = hook_methods(cluster).into_iter().filter(|(_, command)| !command.contains("--cluster"));
    commands
        .map(|(key, _)| {
            let what = format!("{key} does not tell the program which cluster the scope {scope} is, so it fails");
            let (file, unit) = (cluster.path.display(), cluster.id.dashed());
            Finding::error(
                what,
                format!("Add {option} to that command in {file}, then run: systemctl restart patroni@{unit}"),
            )
        })
        .collect()
}
