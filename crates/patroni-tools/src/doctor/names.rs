//! Names of members with which replication does not work, members that `pg_hba` shuts out, and hooks that do not know the cluster.

use std::net::IpAddr;

use host::ClusterId;
use host::members::{never_synchronous, slot_name};
use host::settings::SITE_FILE;
use ipnet::IpNet;
use serde_json::Value;

use crate::doctor::cluster::Cluster;
use crate::doctor::finding::Finding;
use crate::doctor::methods::hook_methods;
use crate::doctor::view::{Member, View};
use crate::files::header::{Author, author};
use crate::patroni_yml::admission::replicates;

/// The name of this member with the configuration that the file has for a new cluster, and the scope that its hooks get.
pub fn check(cluster: &Cluster) -> Vec<Finding> {
    let synchronous = cluster.yaml.get(&["bootstrap", "dcs", "synchronous_mode"]);
    let mut findings: Vec<Finding> = unfit(cluster, synchronous).into_iter().collect();
    findings.extend(unmapped(cluster));
    findings
}

/// The name of this member with the running configuration, and beside those of the other members.
pub(crate) fn in_cluster(cluster: &Cluster, view: &View) -> Vec<Finding> {
    let mut findings: Vec<Finding> = unfit(cluster, view.config.get("synchronous_mode")).into_iter().collect();
    findings.extend(shut_out(cluster, view));
    let Some(own) = cluster.text(&["name"]) else { return findings };
    let slot = slot_name(&own);
    let others = view.members.iter().map(|member| member.name.as_str());
    findings.extend(others.filter(|other| *other != own && slot_name(other) == slot).map(|other| {
        let what = format!("this member is {own} and another one is {other}, and both use the replication slot {slot}, so only one can replicate");
        Finding::error(what, cluster.correct("MEMBER_NAME", "name", "another name, on one of the two hosts"))
    }));
    findings
}

/// The other members that could not replicate from this one.
fn shut_out(cluster: &Cluster, view: &View) -> Option<Finding> {
    let config = &view.config;
    let own = cluster.text(&["name"])?;
    // That of the member comes before that of the cluster.
    let lines = cluster.yaml.get(&["postgresql", "pg_hba"]).or_else(|| config.get("postgresql")?.get("pg_hba"))?;
    let lines: Vec<String> = lines.as_array()?.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    // With a file of the administrator Patroni writes none (`ConfigHandler.replace_pg_hba`).
    let dynamic = config.get("postgresql").and_then(|of_cluster| of_cluster.get("parameters")?.get("hba_file"));
    if dynamic.is_some() || cluster.yaml.get(&["postgresql", "parameters", "hba_file"]).is_some() {
        return None;
    }
    let role = cluster.text(&["postgresql", "authentication", "replication", "username"])?;
    let address = |member: &Member| -> Option<IpAddr> {
        member.server()?.rsplit_once(':')?.0.trim_matches(['[', ']']).parse().ok()
    };
    let others = view.members.iter().filter_map(|member| Some((member.name.as_str(), address(member)?)));
    let (names, addresses): (Vec<String>, Vec<IpAddr>) = others
        .filter(|(name, address)| *name != own && !replicates(&lines, &role, *address))
        .map(|(name, address)| (format!("{name} ({address})"), address))
        .unzip();
    let first = addresses.first()?;
    let id = cluster.id;
    let hint = if author(&cluster.text) == Author::Generator {
        format!(
            "Set NETWORK in {SITE_FILE} to the networks of all members, then run: patroni-gen-config {id} && patroni-gen-config apply {id}"
        )
    } else {
        let line = format!("host replication {role} {} scram-sha-256", IpNet::from(*first));
        format!("Add the line '{line}' to postgresql.pg_hba with: pg_patronictl {id} edit-config")
    };
    let what = format!("pg_hba does not let {} replicate from this member as {role}", names.join(", "));
    Some(Finding::error(what, hint))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use host::Root;

    fn found(name: &str, content: &[(&str, &str)]) -> Vec<String> {
        let (root, id) = (Root::new("/nowhere"), "17/main".parse().unwrap());
        let text = format!(
            "scope: 17-main\nname: {name}\npostgresql: {{authentication: {{replication: {{username: rep}}}}}}\n"
        );
        let cluster = Cluster::with(&root, &id, &text);
        let content = content.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        in_cluster(&cluster, &View::of(&content))
            .into_iter()
            .map(|finding| finding.what + ": " + &finding.hint)
            .collect()
    }

    #[test]
    fn two_members_with_one_slot_are_found() {
        let said = found("pg-1", &[("members/pg_1", "{}"), ("members/pg-1", "{}"), ("members/pg2", "{}")]);
        assert!(
            said[0].starts_with("this member is pg-1 and another one is pg_1, and both use the replication slot pg_1"),
            "{said:?}"
        );
        assert_eq!(said.len(), 1);
    }

    #[test]
    fn a_name_that_is_cut_off_matters_in_synchronous_mode() {
        let long = "a".repeat(64);
        for (config, count) in
            [("{}", 0), (r#"{"synchronous_mode":false}"#, 0), (r#"{"synchronous_mode":"quorum"}"#, 1)]
        {
            assert_eq!(found(&long, &[("config", config)]).len(), count, "{config}");
        }
    }

    #[test]
    fn members_that_pg_hba_shuts_out_are_found() {
        let config = r#"{"postgresql":{"pg_hba":["host replication rep 10.0.3.0/24 md5"]}}"#;
        let member = |address: &str| format!(r#"{{"conn_url":"postgres://{address}:5432/postgres"}}"#);
        let (inside, outside) = (member("10.0.3.142"), member("[fd00::9]"));
        assert_eq!(found("pg1", &[("config", config), ("members/pg2", &inside)]), [""; 0]);
        let said = found(
            "pg1",
            &[("config", config), ("members/pg1", &outside), ("members/pg2", &inside), ("members/pg3", &outside)],
        );
        assert_eq!(
            said,
            [
                "pg_hba does not let pg3 (fd00::9) replicate from this member as rep: Add the line 'host replication rep fd00::9/128 \
              scram-sha-256' to postgresql.pg_hba with: pg_patronictl 17/main edit-config"
            ]
        );
        assert_eq!(found("pg1", &[("config", "{}"), ("members/pg3", &outside)]), [""; 0]);
    }
}
