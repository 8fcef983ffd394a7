//! vip-manager: a virtual IP address that follows the leader key in the DCS. Debian's `vip-manager@.service` reads its settings as
//! environment variables (`vipconfig/config.go`: `VIP_` and the option's name) from the file that is generated here.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use host::endpoint::Manager;
use host::{ClusterId, Root, envfile, fail, program, trouble};
use serde_json::{Map, Value};

use crate::files::install::Rights;
use crate::integrations::cluster::{Cluster, Site};
use crate::integrations::plan::{Generated, LIMIT, Plan};
use crate::integrations::vip::{self, Here};
use crate::patroni::version::Patroni;
use crate::patroni_yml::dcs::{Dcs, Kind, Member};
use crate::patroni_yml::values;

const PROGRAM: &str = "vip-manager";

/// Debian 13's package of version 3; its package `vip-manager` is version 1.
const PACKAGE: &str = "vip-manager2";

/// The first version that supports all settings that are written here.
const LEAST: u32 = 3;

/// Only systemd reads the file, which can contain a password of the DCS.
const SECRET: Rights = Rights { user: "root", group: "root", mode: 0o600 };

fn file(id: &ClusterId) -> PathBuf {
    PathBuf::from(format!("/etc/patroni/{}.vip", id.dashed()))
}

/// One file for each cluster.
pub fn plan(site: &Site) -> Result<Plan> {
    vip::installed(site.root, PROGRAM, PACKAGE)?;
    let of_debian = new_enough(site.root)?;
    let mut plan = Plan::default();
    for cluster in &site.clusters {
        let id = &cluster.id;
        let here = Here::of(site, cluster, Manager::VipManager)?;
        let [placed] = here.placed.as_slice() else {
            fail!(
                at cluster.settings.place(&["VIPS"]),
                "this member would have {} virtual addresses of {id}, but vip-manager moves only one", here.placed.len();
                "Set VIP_MANAGER=keepalived, or leave only one address in VIPS."
            );
        };
        let mut values = vec![
            ("VIP_IP", placed.address.to_string()),
            ("VIP_NETMASK", placed.prefix.to_string()),
            ("VIP_INTERFACE", placed.interface.clone()),
        ];
        let mut secrets = Vec::new();
        values.extend(dcs(site, cluster, &here, of_debian, &mut secrets)?);
        let mut body = String::new();
        for (key, value) in values {
            let _ = writeln!(body, "{key}={}", envfile::quote(&value));
        }
        plan.files.push(Generated { path: file(id), body, rights: SECRET, validator: None, secrets });
        let unit = id.dashed();
        plan.next.push(vip::handed_over(id, Manager::VipManager));
        plan.next.push(format!(
            "apply it with: systemctl enable vip-manager@{unit} && systemctl restart vip-manager@{unit}"
        ));
    }
    Ok(plan)
}

/// Is the program Debian's? Fails if it is too old. `vip-manager --version` of version 3 prints `version: 3.0.0`, with Debian's revision
/// (`-2+b7`) if it is Debian's. Version 1 prints no version.
fn new_enough(root: &Root) -> Result<bool> {
    let mut command = program::command(root, PROGRAM)?;
    let output = program::output_within(command.arg("--version"), "", LIMIT)?;
    let output = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    match version(&output) {
        Some((version, of_debian)) if version >= LEAST => Ok(of_debian),
        found => {
            let found = found.map(|(version, _)| version);
            let found = found.map_or_else(|| "an old version".to_owned(), |version| format!("version {version}"));
            fail!(
                "the installed vip-manager is {found}, which supports only the v2 API of etcd, but Patroni uses the v3 API";
                "Install version {LEAST} or later ({PACKAGE} of Debian 13), or set VIP_MANAGER=keepalived or VIP_MANAGER=dnscp."
            )
        }
    }
}

/// The first number, and whether a Debian revision follows.
fn version(output: &str) -> Option<(u32, bool)> {
    let version = output.lines().find_map(|line| line.trim().strip_prefix("version:"))?.trim().trim_start_matches('v');
    Some((version.split('.').next()?.parse().ok()?, version.contains('-')))
}

/// The leader key, and how it is read.
fn dcs(
    site: &Site,
    cluster: &Cluster,
    here: &Here,
    of_debian: bool,
    secrets: &mut Vec<String>,
) -> Result<Vec<(&'static str, String)>> {
    let Cluster { id, scope, settings, .. } = cluster;
    let patroni = Patroni::of(site.root)?;
    let name = id.dashed();
    let member = Member { cluster: &name, address: here.own, port: cluster.port, patroni: &patroni, taken: &|_| None };
    let Dcs { kind, options, .. } = Dcs::resolve(site.root, settings, &member)?;
    let options: Map<String, Value> = options.into_iter().collect();
    let text = |name: &str| options.get(name).and_then(Value::as_str).map(str::to_owned);
    let key = format!("{}{scope}/leader", values::namespace(settings)?);
    let mut values = vec![("VIP_TRIGGER_VALUE", here.name.clone())];
    let place = settings.place(&["DCS", "DCS_SRV"]);
    match kind {
        Kind::Etcd3 => {
            let hosts = options
                .get("hosts")
                .and_then(Value::as_array)
                .ok_or_else(|| trouble!(at &place, "vip-manager does not support SRV records"; "Set DCS_HOSTS."))?;
            let protocol = text("protocol").unwrap_or_else(|| "http".to_owned());
            let hosts = hosts.iter().filter_map(Value::as_str).map(|host| format!("{protocol}://{host}"));
            values.extend([
                ("VIP_TRIGGER_KEY", key),
                ("VIP_DCS_TYPE", "etcd".to_owned()),
                ("VIP_DCS_ENDPOINTS", hosts.collect::<Vec<_>>().join(",")),
            ]);
            for (name, option) in [
                ("VIP_ETCD_CA_FILE", "cacert"),
                ("VIP_ETCD_CERT_FILE", "cert"),
                ("VIP_ETCD_KEY_FILE", "key"),
                ("VIP_ETCD_USER", "username"),
                ("VIP_ETCD_PASSWORD", "password"),
            ] {
                values.extend(text(option).map(|value| (name, value)));
            }
            if text("cert").is_some() && text("cacert").is_none() {
                fail!(at place, "vip-manager does not use DCS_CERT without DCS_CACERT"; "Set DCS_CACERT.");
            }
        }
        // It accepts the type, and exits with "given endpoint type not supported" (measured with 3.0.0-2+b7).
        Kind::Consul if of_debian => fail!(
            at place,
            "Debian's vip-manager does not support Consul";
            "Set VIP_MANAGER=keepalived or VIP_MANAGER=dnscp, or install the upstream vip-manager."
        ),
        Kind::Consul => {
            let scheme = text("scheme").unwrap_or_else(|| "http".to_owned());
            values.extend([
                // Consul's keys have no leading slash (`patroni/dcs/consul.py`).
                ("VIP_TRIGGER_KEY", key.trim_start_matches('/').to_owned()),
                ("VIP_DCS_TYPE", "consul".to_owned()),
                ("VIP_DCS_ENDPOINTS", format!("{scheme}://{}", text("host").unwrap_or_default())),
            ]);
            // Consul's own client reads these (`api/api.go`).
            for (name, option) in [
                ("CONSUL_CACERT", "cacert"),
                ("CONSUL_CLIENT_CERT", "cert"),
                ("CONSUL_CLIENT_KEY", "key"),
                ("VIP_CONSUL_TOKEN", "token"),
            ] {
                values.extend(text(option).map(|value| (name, value)));
            }
            if options.get("verify").and_then(Value::as_bool) == Some(false) {
                values.push(("CONSUL_HTTP_SSL_VERIFY", "false".to_owned()));
            }
        }
        other => fail!(
            at place,
            "vip-manager supports only Consul and the v3 API of etcd, but the DCS is {}", other.name();
            "Set VIP_MANAGER=keepalived or VIP_MANAGER=dnscp."
        ),
    }
    secrets.extend(["password", "token"].into_iter().filter_map(text));
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (said, expected) in [
            ("version: 3.0.0-2+b7\ncommit:  none\ndate:    2025-06-22\n", Some((3, true))),
            ("version: v4.2.0\n", Some((4, false))),
            ("version: 1.0.2\n", Some((1, false))),
            ("flag provided but not defined: -version\n", None),
        ] {
            assert_eq!(version(said), expected, "{said}");
        }
    }
}
