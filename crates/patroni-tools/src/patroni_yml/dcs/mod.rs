//! The store (DCS): settings, or Debian's `dcs.yml`, become the section of the Patroni file that describes it. One
//! module per store makes the options; `limits` says which of them cannot work. Reads the files that settings name.

mod consul;
mod dcs_yml;
mod etcd;
mod hosts;
mod kubernetes;
mod limits;
mod raft;
mod tls;
mod zookeeper;

use std::net::IpAddr;

use anyhow::{Result, anyhow, bail};
use host::Root;
use host::settings::{KEYS, Settings};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::patroni::version::{self, Patroni};
pub use etcd::users_need;
pub use hosts::{Server, is_name, server};
pub use limits::{Finding, look};
pub use tls::Tls;

/// What Patroni calls its stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// etcd by its third API.
    Etcd3,
    /// etcd by its second API.
    Etcd,
    /// Consul.
    Consul,
    /// ZooKeeper.
    Zookeeper,
    /// The objects of Kubernetes.
    Kubernetes,
    /// Exhibitor, which tells where ZooKeeper is.
    Exhibitor,
    /// The members among themselves.
    Raft,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Etcd3, Self::Etcd, Self::Consul, Self::Zookeeper, Self::Kubernetes, Self::Exhibitor, Self::Raft];

    /// As the section of the Patroni file is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd3 => "etcd3",
            Self::Etcd => "etcd",
            Self::Consul => "consul",
            Self::Zookeeper => "zookeeper",
            Self::Kubernetes => "kubernetes",
            Self::Exhibitor => "exhibitor",
            Self::Raft => "raft",
        }
    }

    /// The store of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The module of Python that Patroni needs for it, and Debian's package with it. For Kubernetes Patroni needs none.
    #[must_use]
    pub fn client(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Etcd3 | Self::Etcd => Some(("etcd", "python3-etcd")),
            Self::Consul => Some(("consul", "python3-consul")),
            Self::Zookeeper | Self::Exhibitor => Some(("kazoo", "python3-kazoo")),
            Self::Raft => Some(("pysyncobj", "python3-pysyncobj")),
            Self::Kubernetes => None,
        }
    }

    /// The settings that mean something for it, besides `DCS`.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Etcd3 | Self::Etcd => &[
                "DCS_HOSTS",
                "DCS_SRV",
                "DCS_PROTOCOL",
                "DCS_CACERT",
                "DCS_CERT",
                "DCS_KEY",
                "DCS_USERNAME",
                "DCS_PASSWORD_FILE",
                "DCS_ALLOW_V2",
            ],
            Self::Consul => &[
                "DCS_HOSTS",
                "DCS_PROTOCOL",
                "DCS_CACERT",
                "DCS_CERT",
                "DCS_KEY",
                "DCS_VERIFY",
                "DCS_TOKEN_FILE",
                "CONSUL_REGISTER_SERVICE",
                "CONSUL_SERVICE_TAGS",
                "CONSUL_DC",
                "CONSUL_CHECKS",
                "CONSUL_SERVERS",
                "CONSUL_CERT",
                "CONSUL_KEY",
                "CONSUL_AGENT_TOKEN_FILE",
            ],
            Self::Zookeeper => &[
                "DCS_HOSTS",
                "DCS_PROTOCOL",
                "DCS_CACERT",
                "DCS_CERT",
                "DCS_KEY",
                "DCS_VERIFY",
                "DCS_USERNAME",
                "DCS_PASSWORD_FILE",
                "ZOOKEEPER_ACL",
            ],
            Self::Kubernetes => {
                &["KUBERNETES_NAMESPACE", "KUBERNETES_LABELS", "KUBERNETES_USE_ENDPOINTS", "KUBERNETES_POD_IP"]
            }
            Self::Exhibitor => &["DCS_HOSTS"],
            Self::Raft => &["DCS_HOSTS", "DCS_PASSWORD_FILE", "RAFT_ADDRESS", "RAFT_DATA_DIR"],
        }
    }
}

/// All names, for people.
#[must_use]
pub fn names() -> String {
    Kind::ALL.map(Kind::name).join(", ")
}

/// Options of a section, in order.
pub type Options = Vec<(String, Value)>;

/// Puts an option at the end, where there is a value.
fn push<T: Serialize>(options: &mut Options, name: &str, value: Option<T>) {
    options.extend(value.map(|value| (name.to_owned(), json!(value))));
}

/// The member, as far as a store asks.
pub struct Member<'a> {
    /// Patroni's name of the cluster.
    pub scope: &'a str,
    /// The address by which the others reach it.
    pub address: IpAddr,
    /// PostgreSQL's port.
    pub port: u16,
    /// The Patroni that runs it.
    pub patroni: &'a Patroni,
    /// Who has a port already, as the end of a sentence that begins with the port.
    pub taken: &'a dyn Fn(u16) -> Option<String>,
}

/// The store, resolved.
#[derive(Debug)]
pub struct Store {
    /// Which one.
    pub kind: Kind,
    /// Its options.
    pub options: Options,
    /// What works, but needs a look.
    pub warnings: Vec<String>,
}

impl Store {
    /// The store by our settings; or, where none of them is set, as `dcs.yml` has it; or etcd on this host.
    pub fn resolve(root: &Root, settings: &Settings, member: &Member) -> Result<Self> {
        let set = keys_set(settings);
        let from_debian = if set.is_empty() { dcs_yml::store(root)? } else { None };
        let store = if let Some((kind, options)) = from_debian {
            Self::checked(kind, options, member.patroni, |_| format!("{}: ", dcs_yml::FILE))?
        } else {
            let kind = settings.parse("DCS", |text| {
                Kind::of(text).ok_or_else(|| anyhow!("'{text}' is not a store of Patroni: set one of {}", names()))
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
            Self::checked(kind, options, member.patroni, |option| settings.place(&[settings_key(option), "DCS"]))?
        };
        Ok(store)
    }

    /// What cannot work is refused, the rest said.
    fn checked(kind: Kind, options: Options, patroni: &Patroni, place: impl Fn(&str) -> String) -> Result<Self> {
        let map: Map<String, Value> = options.iter().cloned().collect();
        let mut warnings = Vec::new();
        for finding in look(kind, &map, patroni) {
            let text = format!("{}{}", place(finding.option), finding.text());
            if finding.fatal {
                bail!(text);
            }
            warnings.push(text);
        }
        Ok(Self { kind, options, warnings })
    }
}

/// What is missing on this host for Patroni to talk to the store, and what wins over what its file says.
pub fn host_findings(root: &Root, kind: Kind) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    if let Some((module, package)) = kind.client() {
        if !version::finds_module(root, module)? {
            let what = format!("Patroni cannot talk to {} without {package}", kind.name());
            let remedy = format!("run apt install {package}");
            findings.push(Finding { fatal: true, option: kind.name(), what, remedy });
        }
    }
    if kind == Kind::Consul {
        findings.extend(consul::environment(root)?);
    }
    Ok(findings)
}

/// Every setting about stores that is set.
fn keys_set(settings: &Settings) -> Vec<&'static str> {
    let about_stores = |name: &str| {
        name == "DCS"
            || ["DCS_", "CONSUL_", "ZOOKEEPER_", "RAFT_", "KUBERNETES_"].iter().any(|start| name.starts_with(start))
    };
    KEYS.iter().map(|key| key.name).filter(|name| about_stores(name) && settings.get(name).is_some()).collect()
}

/// A setting that would do nothing is a mistake: a token for etcd, a user for Consul.
fn refuse_others(settings: &Settings, kind: Kind, set: &[&str]) -> Result<()> {
    let Some(other) = set.iter().find(|key| **key != "DCS" && !kind.keys().contains(key)) else { return Ok(()) };
    let for_whom: Vec<&str> =
        Kind::ALL.into_iter().filter(|kind| kind.keys().contains(other)).map(Kind::name).collect();
    bail!(
        "{}{other} is for {}, but the store is {}: remove it, or correct DCS",
        settings.place(&[other]),
        for_whom.join(", "),
        kind.name()
    );
}

/// User and password, which go together.
fn credentials(root: &Root, settings: &Settings) -> Result<Option<(String, String)>> {
    let password = settings.secret(root, "DCS_PASSWORD_FILE")?;
    match (settings.text("DCS_USERNAME"), password) {
        (Some(user), Some(password)) => Ok(Some((user.to_owned(), password))),
        (None, None) => Ok(None),
        _ => bail!(
            "{}DCS_USERNAME and DCS_PASSWORD_FILE go together: set both, or none",
            settings.place(&["DCS_USERNAME", "DCS_PASSWORD_FILE"])
        ),
    }
}

/// The setting from which an option came.
fn settings_key(option: &str) -> &'static str {
    match option {
        "hosts" | "host" | "partner_addrs" => "DCS_HOSTS",
        "auth_data" => "DCS_USERNAME",
        "set_acls" => "ZOOKEEPER_ACL",
        "self_addr" => "RAFT_ADDRESS",
        _ => "DCS",
    }
}
