//! The programs that `for` configures, and the module of each.

use anyhow::Result;
use clap::ValueEnum;

use crate::integrations::cluster::Site;
use crate::integrations::plan::Plan;
use crate::integrations::{consul, etcd, haproxy, keepalived, pgbouncer, site_ca, vip_manager};

/// A program that is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Program {
    /// HAProxy in front of the members
    Haproxy,
    /// keepalived, which moves the virtual IP addresses instead of dnscp
    Keepalived,
    /// vip-manager, which moves one virtual IP address instead of dnscp
    VipManager,
    /// PgBouncer, a connection pool on this host
    Pgbouncer,
    /// This member's certificates, issued by a CA that is derived from the site key
    Tls,
    /// etcd on this member
    Etcd,
    /// Consul on this member
    Consul,
    /// The Consul policies of Patroni and the agents
    ConsulPolicy,
}

impl Program {
    /// The name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Is it configured for clusters, rather than for the site as a whole?
    pub(crate) fn is_for_clusters(self) -> bool {
        !matches!(self, Self::Tls | Self::Etcd | Self::Consul)
    }

    /// Is a part of it derived from the site key?
    pub(crate) fn needs_site_key(self) -> bool {
        matches!(self, Self::Tls | Self::Consul)
    }

    /// The files that the program needs.
    pub(crate) fn plan(self, site: &Site) -> Result<Plan> {
        match self {
            Self::Haproxy => haproxy::plan(site),
            Self::Keepalived => keepalived::plan(site),
            Self::VipManager => vip_manager::plan(site),
            Self::Pgbouncer => pgbouncer::plan(site),
            Self::Tls => site_ca::plan(site),
            Self::Etcd => etcd::plan(site),
            Self::Consul => consul::plan(site),
            Self::ConsulPolicy => consul::policies(site),
        }
    }
}
