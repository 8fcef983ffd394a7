//! The client endpoint of a running member: its service, and what `dnscp status` reports, which asks Patroni, the kernel and the name
//! servers, and tries the credentials for the DNS name.

use std::time::Duration;

use host::endpoint::{self, Endpoint, Manager};
use host::program;
use serde::Deserialize;

use crate::doctor::cluster::Cluster;
use crate::doctor::finding::{Finding, Level};
use crate::patroni::paths::HOOKS;
use crate::postgres::units::{is_active, is_active_beside};

/// `dnscp status` has 3 s for the name servers, 3 s for the trial, and 3 s for the lock and the addresses.
const LIMIT: Duration = Duration::from_secs(9);

/// The part of the output of `dnscp status --json` that is for the doctor.
#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    findings: Vec<Reported>,
}

#[derive(Deserialize)]
struct Reported {
    level: String,
    place: Option<String>,
    what: String,
    hint: Option<String>,
}

/// Before Patroni runs, only the name servers can be as they should be.
pub fn check(cluster: &Cluster) -> Vec<Finding> {
    let Cluster { root, id, .. } = cluster;
    let Ok(settings) = &cluster.settings else { return Vec::new() };
    // What is wrong in the settings is reported by the check of the files.
    let Ok(point) = Endpoint::from_settings(root, id, settings) else { return Vec::new() };
    let unit = format!("dnscp@{}", id.dashed());
    let runs = is_active(root, &format!("{unit}.service"));
    let member_runs = is_active_beside(root, &format!("patroni@{}.service", id.dashed()));
    let Some(point) = point else {
        let what = format!("{unit} is running, although neither VIPS nor a DNS name is set");
        let hint =
            format!("Generate the files without it, and stop it: patroni-gen-config {id} && systemctl stop {unit}");
        return if runs { vec![Finding::warning(what, hint).at("")] } else { Vec::new() };
    };
    if !root.path(endpoint::file(id)).exists() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    if member_runs && !runs {
        let what = format!("{unit} is not running, so {}", consequence(&point));
        findings.push(Finding::error(what, format!("Start it with: systemctl start {unit}")).at(""));
    }
    if member_runs || point.dns.is_some() {
        // What only follows from a service that does not run is not said twice.
        let start = findings.first().map(|finding| finding.hint.clone());
        findings.extend(status(cluster).into_iter().filter(|finding| Some(&finding.hint) != start.as_ref()));
    }
    findings
}

fn consequence(point: &Endpoint) -> &'static str {
    match (point.manager, point.vips.is_empty(), &point.dns) {
        (Manager::Dnscp, false, Some(_)) => "neither the virtual IP address nor the DNS name follows the primary",
        (Manager::Dnscp, false, None) => "the virtual IP address does not follow the primary",
        (Manager::Keepalived, false, _) => "keepalived does not learn whether this member is the primary",
        _ => "the DNS name is not checked",
    }
}

/// What `dnscp status` reports, if the caller may see it.
fn status(cluster: &Cluster) -> Vec<Finding> {
    let Cluster { root, id, .. } = cluster;
    let path = root.path(HOOKS).join("dnscp");
    if !path.exists() || !cluster.sees_own() {
        return Vec::new();
    }
    let mut command = program::at(&path);
    command.args(["status", "--json", &id.dashed()]);
    let output = match program::output_within(&mut command, "", LIMIT) {
        Ok(output) => output,
        Err(error) => return vec![Finding::of(Level::Warning, &error)],
    };
    // Without JSON it has already been reported that the settings cannot be read.
    let Ok(status) = serde_json::from_slice::<Status>(&output.stdout) else { return Vec::new() };
    let finding = |Reported { level, place, what, hint }| {
        let level = if level == "error" { Level::Error } else { Level::Warning };
        Finding::new(level, what, hint.unwrap_or_default()).at(place.unwrap_or_default())
    };
    status.findings.into_iter().map(finding).collect()
}
