//! The addresses on which PostgreSQL and the REST API listen: are they here, and do the other members reach them?

use std::net::IpAddr;

use host::endpoint;

use crate::doctor::certificates::address;
use crate::doctor::cluster::Cluster;
use crate::doctor::finding::{Finding, Level};
use crate::patroni_yml::network::{absent, unreachable};

/// Addresses that this host does not have, and those that no other member reaches.
pub fn check(cluster: &Cluster) -> Vec<Finding> {
    let vips = cluster.settings.as_ref().ok().and_then(|settings| endpoint::vips(settings).ok()).unwrap_or_default();
    let vips: Vec<IpAddr> = vips.iter().map(|vip| vip.address).collect();
    let mut findings = Vec::new();
    for (section, program, setting) in
        [("postgresql", "PostgreSQL", "LISTEN_ADDRESSES"), ("restapi", "the REST API", "HOST_ADDRESS")]
    {
        let Some(listen) = cluster.text(&[section, "listen"]) else { continue };
        let Some((hosts, _)) = listen.rsplit_once(':') else { continue };
        let hosts: Vec<String> = hosts.split(',').map(|host| host.trim().trim_matches(['[', ']']).to_owned()).collect();
        let key = format!("{section}.listen");
        let missing = absent(cluster.root, &hosts, &vips);
        if let Some(connect) = address(cluster, section).filter(|_| missing.is_empty()) {
            findings.extend(unreachable(cluster.root, &hosts, connect).map(|why| {
                Finding::error(
                    format!("{program} listens on {listen}: {why}"),
                    cluster.correct(setting, &key, &format!("add {connect}")),
                )
            }));
        }
        let level = if missing.len() == hosts.len() { Level::Error } else { Level::Warning };
        findings.extend(missing.iter().map(|missing| {
            let what = format!("{section}.listen has {missing}, which is on no interface of this host, so {program} cannot listen there");
            Finding::new(level, what, cluster.correct(setting, &key, "an address of this host"))
        }));
    }
    findings
}
