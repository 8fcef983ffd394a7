//! The port of a cluster: the requested one, the present one, or the next free one.

use anyhow::Result;
use host::clusters::{self, Installed};
use host::settings::Settings;
use host::{ClusterId, Root, fail, trouble};

use crate::patroni::paths::{REST_OFFSET, instances, patroni_file};

/// The port of the REST API: `RESTAPI_PORT`, or else one that follows PostgreSQL's.
#[derive(Debug, Clone, Copy)]
pub struct RestPort {
    set: Option<u16>,
}

impl RestPort {
    /// From the settings.
    pub fn read(settings: &Settings) -> Result<Self> {
        let set = settings.number("RESTAPI_PORT", 1024, u64::from(u16::MAX))?;
        Ok(Self { set: set.map(u16::try_from).transpose()? })
    }

    /// The port beside a port of PostgreSQL; `None` if that is too high to derive one.
    #[must_use]
    pub fn beside(self, postgresql: u16) -> Option<u16> {
        self.set.or_else(|| postgresql.checked_add(REST_OFFSET))
    }

    /// The same, or an error.
    pub fn of(self, postgresql: u16) -> Result<u16> {
        let port = self.beside(postgresql);
        Ok(port.ok_or_else(|| {
            trouble!("PostgreSQL's port {postgresql} is too high to derive that of the REST API"; "Set RESTAPI_PORT.")
        })?)
    }

    /// `PORT`, if it is set.
    pub fn postgresql(self, settings: &Settings) -> Result<Option<u16>> {
        let most = if self.set.is_some() { u16::MAX } else { u16::MAX - REST_OFFSET };
        Ok(settings.number("PORT", 1024, u64::from(most))?.map(u16::try_from).transpose()?)
    }
}

/// The ports of this host.
pub struct Ports<'a> {
    /// Its clusters.
    pub clusters: &'a [Installed],
    /// The cluster that is being configured.
    pub own: Option<&'a Installed>,
    /// The port in the existing Patroni file of this cluster.
    pub present: Option<u16>,
    /// The other cluster whose Patroni file claims a port.
    pub claimed_by: &'a dyn Fn(u16) -> Option<ClusterId>,
    /// The Raft port in the existing Patroni file of this cluster.
    pub raft: Option<u16>,
}

impl Ports<'_> {
    /// Why this port is not free, as the end of a sentence that begins with the port.
    pub(crate) fn taken(&self, root: &Root, port: u16) -> Option<String> {
        if let Some(other) = (self.claimed_by)(port) {
            return Some(format!("is claimed by {}", patroni_file(&other).display()));
        }
        if let Some(other) = self.clusters.iter().find(|cluster| cluster.port == port) {
            return Some(format!("belongs to the cluster {}", other.id));
        }
        let listening = self.raft != Some(port) && clusters::listening_ports(root).is_ok_and(|all| all.contains(&port));
        listening.then(|| "is in use on this host".to_owned())
    }
}

/// The ports of PostgreSQL and of the REST API.
pub(crate) fn both(root: &Root, id: &ClusterId, settings: &Settings, ports: &Ports) -> Result<(u16, u16)> {
    let rest = RestPort::read(settings)?;
    let port = port(root, id, settings, ports, rest)?;
    let Some(set) = rest.set else { return Ok((port, rest.of(port)?)) };
    let place = settings.place(&["RESTAPI_PORT"]);
    if set == port {
        fail!(at place, "port {set} is that of PostgreSQL"; "Choose another port.");
    }
    if let Some(other) = ports.clusters.iter().find(|cluster| cluster.port == set && cluster.id != *id) {
        fail!(at place, "port {set} belongs to the cluster {}", other.id; "Choose another port.");
    }
    if let Some(other) = (ports.claimed_by)(set) {
        fail!(at place, "port {set} is claimed by {}", patroni_file(&other).display(); "Choose another port.");
    }
    Ok((port, set))
}

/// `--port` or `PORT`, else the port in the Patroni file, else that of the existing cluster, else the next free one.
fn port(root: &Root, id: &ClusterId, settings: &Settings, ports: &Ports, rest: RestPort) -> Result<u16> {
    if let Some(port) = rest.postgresql(settings)? {
        let claim = settings.get("PORT").map(|setting| setting.origin.to_string()).unwrap_or_default();
        if let Some(other) = ports.clusters.iter().find(|cluster| cluster.port == port && cluster.id != *id) {
            fail!(at claim, "port {port} belongs to the cluster {}", other.id; "Choose another port.");
        }
        let own = rest.of(port)?;
        if let Some(other) = (ports.claimed_by)(port).or_else(|| (ports.claimed_by)(own)) {
            fail!(
                at claim,
                "port {port} or {own} is claimed by {}", patroni_file(&other).display();
                "Choose another port."
            );
        }
        return Ok(port);
    }
    if let Some(port) = ports.present {
        return Ok(port);
    }
    if let Some(cluster) = ports.own {
        if let Some(other) = (ports.claimed_by)(cluster.port) {
            fail!(
                "port {} of the existing cluster {id} is claimed by {}", cluster.port, patroni_file(&other).display();
                "Choose another port with --port."
            );
        }
        return Ok(cluster.port);
    }
    let listening = clusters::listening_ports(root)?;
    clusters::next_free_port(ports.clusters, &listening, |port| {
        let taken = |port| (ports.claimed_by)(port).is_some() || listening.contains(&port);
        (ports.claimed_by)(port).is_some()
            || rest.set.map_or_else(|| rest.beside(port).is_none_or(taken), |set| set == port)
    })
}

/// The ports in the Patroni files of other clusters. Only the lines with addresses are read: a host can have hundreds of these
/// files, and one port too many does no harm.
pub(crate) fn claims(root: &Root, id: &ClusterId) -> Result<Vec<(u16, ClusterId)>> {
    let mut claims = Vec::new();
    for other in instances(root)?.into_iter().filter(|other| other != id) {
        let text = root.read(patroni_file(&other))?.unwrap_or_default();
        for line in text.lines() {
            let line = line.trim_start();
            if ["listen:", "connect_address:", "self_addr:"].iter().any(|key| line.starts_with(key)) {
                let port = line
                    .trim_end()
                    .trim_end_matches(['"', '\''])
                    .rsplit_once(':')
                    .and_then(|(_, port)| port.parse().ok());
                claims.extend(port.map(|port: u16| (port, other.clone())));
            }
        }
    }
    Ok(claims)
}
