//! The DCS (etcd, Consul, ZooKeeper): its section of the Patroni file, from the settings or from Debian's `dcs.yml`. One
//! module for each DCS generates the options; `limits` reports those that cannot work. Reads the files that the settings
//! name.

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

use anyhow::Result;
use host::settings::{KEYS, Settings};
use host::trouble::Trouble;
use host::{Root, fail, trouble};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::patroni::version::{self, Patroni};
use crate::patroni_yml::values::origin;
pub use etcd::users_need;
pub use hosts::{Server, is_name, server};
pub use limits::{Limit, limits};
pub use tls::Tls;

/// The DCSs that Patroni supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// etcd, v3 API.
    Etcd3,
    /// etcd, v2 API.
    Etcd,
    /// Consul.
    Consul,
    /// ZooKeeper.
    Zookeeper,
    /// Objects of Kubernetes.
    Kubernetes,
    /// Exhibitor, which reports the servers of ZooKeeper.
    Exhibitor,
    /// Raft, among the members themselves.
    Raft,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Etcd3, Self::Etcd, Self::Consul, Self::Zookeeper, Self::Kubernetes, Self::Exhibitor, Self::Raft];

    /// The name of its section in the Patroni file.
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

    /// The DCS with this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The Python module that Patroni needs for it, and Debian's package of that module. None is needed for Kubernetes.
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

    /// The settings that apply to it, in addition to `DCS`.
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

/// All names, for messages.
#[must_use]
pub fn names() -> String {
    Kind::ALL.map(Kind::name).join(", ")
}

/// Options of a section, in order.
pub type Options = Vec<(String, Value)>;

/// Appends an option, if it has a value.
fn push<T: Serialize>(options: &mut Options, name: &str, value: Option<T>) {
    options.extend(value.map(|value| (name.to_owned(), json!(value))));
}

/// The member, as far as the options of a DCS depend on it.
pub struct Member<'a> {
    /// Patroni's name of the cluster.
    pub scope: &'a str,
    /// The address by which the other members reach it.
    pub address: IpAddr,
    /// PostgreSQL's port.
    pub port: u16,
    /// The Patroni that runs it.
    pub patroni: &'a Patroni,
    /// Why a port is not free, as the end of a sentence that begins with the port.
    pub taken: &'a dyn Fn(u16) -> Option<String>,
}

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
        Self::checked(kind, options, member.patroni, |option| origin(settings, &[settings_key(option), "DCS"]))
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
pub fn host_limits(root: &Root, kind: Kind) -> Result<Vec<Limit>> {
    let mut limits = Vec::new();
    if let Some((module, package)) = kind.client() {
        if !version::finds_module(root, module)? {
            let trouble = trouble!(
                "Patroni cannot use {} without {package}", kind.name();
                "Install it with: apt install {package}"
            );
            limits.push(Limit { fatal: true, option: kind.name(), trouble });
        }
    }
    if kind == Kind::Consul {
        limits.extend(consul::environment(root)?);
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
        at origin(settings, &[other]),
        "{other} applies to {}, but the DCS is {}", kinds.join(", "), kind.name();
        "Remove it, or correct DCS."
    );
}

/// User and password, which must be set together.
fn credentials(root: &Root, settings: &Settings) -> Result<Option<(String, String)>> {
    let password = settings.secret(root, "DCS_PASSWORD_FILE")?;
    match (settings.text("DCS_USERNAME"), password) {
        (Some(user), Some(password)) => Ok(Some((user.to_owned(), password))),
        (None, None) => Ok(None),
        _ => fail!(
            at origin(settings, &["DCS_USERNAME", "DCS_PASSWORD_FILE"]),
            "DCS_USERNAME and DCS_PASSWORD_FILE must be set together";
            "Set both or none."
        ),
    }
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
