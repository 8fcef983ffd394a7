//! `vip-manager`: a virtual address that follows the leader key in the store. Debian's `vip-manager@.service` reads its settings as
//! environment (`vipconfig/config.go`: `VIP_` and the option's name) from the file that is written here.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use host::endpoint::Manager;
use host::{ClusterId, Root, envfile, program};
use serde_json::{Map, Value};

use crate::files::install::Rights;
use crate::integrations::cluster::{Given, Instance};
use crate::integrations::plan::{Generated, LIMIT, Plan};
use crate::integrations::vip::{self, Here};
use crate::patroni::version::Patroni;
use crate::patroni_yml::dcs::{Dcs, Kind, Member};
use crate::patroni_yml::values;

const PROGRAM: &str = "vip-manager";

/// Debian 13's package of version 3; its `vip-manager` is version 1.
const PACKAGE: &str = "vip-manager2";

/// The first version that can do all that is written here.
const LEAST: u32 = 3;

/// systemd reads it, and nobody else: it can have a password of the store.
const SECRET: Rights = Rights { user: "root", group: "root", mode: 0o600 };

fn file(id: &ClusterId) -> PathBuf {
    PathBuf::from(format!("/etc/patroni/{}.vip", id.dashed()))
}

/// One file for each instance.
pub fn plan(given: &Given) -> Result<Plan> {
    vip::installed(given.root, PROGRAM, PACKAGE)?;
    let of_debian = new_enough(given.root)?;
    let mut plan = Plan::default();
    for instance in &given.instances {
        let id = &instance.id;
        let here = Here::of(given, instance, Manager::VipManager)?;
        let [placed] = here.placed.as_slice() else {
            bail!(
                "{}this member would have {} virtual addresses of {id}, but vip-manager moves one: set VIP_MANAGER=keepalived, or \
                 leave one in VIPS",
                instance.settings.place(&["VIPS"]),
                here.placed.len()
            );
        };
        let mut values = vec![
            ("VIP_IP", placed.address.to_string()),
            ("VIP_NETMASK", placed.prefix.to_string()),
            ("VIP_INTERFACE", placed.interface.clone()),
        ];
        let mut secrets = Vec::new();
        values.extend(store(given, instance, &here, of_debian, &mut secrets)?);
        let mut body = String::new();
        for (key, value) in values {
            let _ = writeln!(body, "{key}={}", envfile::quote(&value));
        }
        plan.files.push(Generated { path: file(id), body, rights: SECRET, validator: None, secrets });
        let unit = id.dashed();
        plan.next.push(vip::handed_over(id, Manager::VipManager));
        plan.next.push(format!("run systemctl enable vip-manager@{unit} and systemctl restart vip-manager@{unit}"));
    }
    Ok(plan)
}

/// `vip-manager --version` of version 3 prints `version: 3.0.0`, with Debian's revision (`-2+b7`) where it is Debian's; that of
/// version 1 nothing of the kind. Is it Debian's?
fn new_enough(root: &Root) -> Result<bool> {
    let mut command = program::command(root, PROGRAM)?;
    let output = program::output_within(command.arg("--version"), "", LIMIT)?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    match version(&said) {
        Some((version, of_debian)) if version >= LEAST => Ok(of_debian),
        found => {
            let found = found.map(|(version, _)| version);
            let found = found.map_or_else(|| "an old version".to_owned(), |version| format!("version {version}"));
            bail!(
                "vip-manager is {found} here, which asks etcd by its second API alone, and Patroni uses the third: install version \
                 {LEAST} or later ({PACKAGE} of Debian 13), or set VIP_MANAGER=keepalived or VIP_MANAGER=dnscp"
            )
        }
    }
}

/// The first number, and whether a revision of Debian's follows.
fn version(said: &str) -> Option<(u32, bool)> {
    let version = said.lines().find_map(|line| line.trim().strip_prefix("version:"))?.trim().trim_start_matches('v');
    Some((version.split('.').next()?.parse().ok()?, version.contains('-')))
}

/// The leader key, and where and how it is asked.
fn store(
    given: &Given,
    instance: &Instance,
    here: &Here,
    of_debian: bool,
    secrets: &mut Vec<String>,
) -> Result<Vec<(&'static str, String)>> {
    let Instance { id, settings, .. } = instance;
    let patroni = Patroni::of(given.root)?;
    let scope = id.dashed();
    let member = Member { scope: &scope, address: here.own, port: instance.port, patroni: &patroni, taken: &|_| None };
    let Dcs { kind, options, .. } = Dcs::resolve(given.root, settings, &member)?;
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
                .with_context(|| format!("{place}vip-manager does not look for SRV records: set DCS_HOSTS"))?;
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
                bail!("{place}vip-manager shows its certificate to etcd only with DCS_CACERT: set it");
            }
        }
        // It knows the word, and ends with "given endpoint type not supported" (measured with 3.0.0-2+b7).
        Kind::Consul if of_debian => bail!(
            "{place}Debian builds vip-manager without Consul: set VIP_MANAGER=keepalived or VIP_MANAGER=dnscp, or install the \
             developers' own vip-manager"
        ),
        Kind::Consul => {
            let scheme = text("scheme").unwrap_or_else(|| "http".to_owned());
            values.extend([
                // Consul's keys have no slash in front (`patroni/dcs/consul.py`).
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
        other => bail!(
            "{place}vip-manager asks etcd by its third API, or Consul, and the store is {}: set VIP_MANAGER=keepalived or \
             VIP_MANAGER=dnscp",
            other.name()
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
