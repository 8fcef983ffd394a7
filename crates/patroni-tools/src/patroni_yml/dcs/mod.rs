//! The DCS (etcd, Consul, ZooKeeper): its section of the Patroni file, from the settings or from Debian's `dcs.yml`. One
//! module for each DCS generates the options; `limits` reports those that cannot work. Reads the files that the settings
//! name.

mod consul;

mod dcs_yml;

mod etcd;

mod hosts;

mod kind;
mod kubernetes;

mod limits;

mod raft;
mod section;

mod tls;

mod zookeeper;

use crate::patroni::installed::{self, Ask};
use crate::patroni::version::{self, Patroni};
use anyhow::Result;
pub use etcd::users_need;
use host::settings::{KEYS, Settings};
use host::trouble::Trouble;
use host::{Root, fail, trouble};
pub use hosts::{Server, is_name, server};
pub use kind::{Kind, names};
pub use limits::{Limit, limits};
pub use section::{Member, Options};
use serde_json::{Map, Value};
pub use tls::Tls;

/// The resolved DCS.
#[derive(Debug)]
pub struct Dcs {
    /// Which one.
    pub kind: Kind,
    /// Its options.
    pub options: Options,
    /// Problems that do not prevent it from working.
    pub warnings: Vec<Trouble>,
}

impl Dcs {
    /// The DCS in the settings; if none of them is set, the one in `dcs.yml`, else etcd on this host.
    pub fn resolve(root: &Root, settings: &Settings, member: &Member) -> Result<Self> {
        let set = keys_set(settings);
        let from_debian = if set.is_empty() { dcs_yml::read(root)? } else { None };
        if let Some((kind, options)) = from_debian {
            return Self::checked(kind, options, member.patroni, |_| dcs_yml::FILE.to_owned());
        }
        let kind = settings.parse("DCS", |text| match Kind::of(text) {
            Some(kind) => Ok(kind),
            None => fail!("'{text}' is not a DCS that Patroni supports"; "Use one of {}.", names()),
        })?;
        let kind = kind.unwrap_or(Kind::Etcd3);
        refuse_others(settings, kind, &set)?;
        let options = match kind {
            Kind::Etcd3 | Kind::Etcd => etcd::options(root, settings, kind)?,
            Kind::Consul => consul::options(root, settings)?,
            Kind::Zookeeper => zookeeper::options(root, settings)?,
            Kind::Kubernetes => kubernetes::options(settings, member)?,
            Kind::Exhibitor => zookeeper::exhibitor(settings)?,
            Kind::Raft => raft::options(root, settings, member)?,
        };
        Self::checked(kind, options, member.patroni, |option| settings.place(&[settings_key(option), "DCS"]))
    }

    /// Refuses options that cannot work, and warns of the others.
    fn checked(kind: Kind, options: Options, patroni: &Patroni, place: impl Fn(&str) -> String) -> Result<Self> {
        let map: Map<String, Value> = options.iter().cloned().collect();
        let mut warnings = Vec::new();
        for Limit { fatal, option, trouble } in limits(kind, &map, patroni) {
            let trouble = trouble.at(place(option));
            if fatal {
                return Err(trouble.into());
            }
            warnings.push(trouble);
        }
        Ok(Self { kind, options, warnings })
    }
}

/// What Patroni lacks on this host to use the DCS, and what on this host overrides its file.
pub fn host_limits(root: &Root, kind: Kind, ask: Ask) -> Result<Vec<Limit>> {
    let mut limits = Vec::new();
    if let Some((module, package)) = kind.client() {
        if !version::finds_module(root, module, ask)? {
            let missing = trouble!("Patroni cannot use {} without {package}", kind.name());
            let trouble = match installed::chosen(root)? {
                None => missing.hint(format!("Install it with: apt install {package}")),
                // Its Python does not find Debian's modules.
                Some(chosen) => missing.hint(format!(
                    "Install it for {} with the pip of the same Python: pip install 'patroni[{}]'",
                    chosen.path.display(),
                    kind.name()
                )),
            };
            limits.push(Limit { fatal: true, option: kind.name(), trouble });
        }
    }
    if kind == Kind::Consul {
        limits.extend(consul::environment(root, ask)?);
    }
    Ok(limits)
}

/// The settings about the DCS that are set.
fn keys_set(settings: &Settings) -> Vec<&'static str> {
    let about_dcs = |name: &str| {
        name == "DCS"
            || ["DCS_", "CONSUL_", "ZOOKEEPER_", "RAFT_", "KUBERNETES_"].iter().any(|start| name.starts_with(start))
    };
    KEYS.iter().map(|key| key.name).filter(|name| about_dcs(name) && settings.get(name).is_some()).collect()
}

/// A setting without effect is a mistake: a token for etcd, a user for Consul.
fn refuse_others(settings: &Settings, kind: Kind, set: &[&str]) -> Result<()> {
    let Some(other) = set.iter().find(|key| **key != "DCS" && !kind.keys().contains(key)) else { return Ok(()) };
    let kinds: Vec<&str> = Kind::ALL.into_iter().filter(|kind| kind.keys().contains(other)).map(Kind::name).collect();
    fail!(
        at settings.place(&[other]),
        "{other} applies to {}, but the DCS is {}", kinds.join(", "), kind.name();
        "Remove it, or correct DCS."
    );
}

/// The setting from which an option is derived.
fn settings_key(option: &str) -> &'static str {
    match option {
        "hosts" | "host" | "partner_addrs" => "DCS_HOSTS",
        "auth_data" => "DCS_USERNAME",
        "set_acls" => "ZOOKEEPER_ACL",
        "self_addr" => "RAFT_ADDRESS",
        _ => "DCS",
    }
}
