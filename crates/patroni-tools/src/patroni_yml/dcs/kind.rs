//! The DCSs that Patroni supports, and what each is called.

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
    pub(crate) fn keys(self) -> &'static [&'static str] {
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
