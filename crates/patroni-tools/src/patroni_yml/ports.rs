//! The port of a cluster: the requested one, the present one, or the next free one.

use anyhow::Result;
use host::clusters::{self, Installed};
use host::settings::Settings;
use host::{ClusterId, Root, fail};

use crate::patroni::paths::{REST_OFFSET, instances, patroni_file};

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

/// `--port` or `PORT`, else the port in the Patroni file, else that of the existing cluster, else the next free one.
pub(crate) fn port(root: &Root, id: &ClusterId, settings: &Settings, ports: &Ports) -> Result<u16> {
    let most = u64::from(u16::MAX - REST_OFFSET);
    let asked = settings.number("PORT", 1024, most)?.map(|port| u16::try_from(port).unwrap_or(u16::MAX));
    if let Some(port) = asked {
        let claim = settings.get("PORT").map(|setting| setting.origin.to_string()).unwrap_or_default();
        if let Some(other) = ports.clusters.iter().find(|cluster| cluster.port == port && cluster.id != *id) {
            fail!(at claim, "port {port} belongs to the cluster {}", other.id; "Choose another port.");
        }
        if let Some(other) = (ports.claimed_by)(port).or_else(|| (ports.claimed_by)(port + REST_OFFSET)) {
            fail!(
                at claim,
                "port {port} or {} is claimed by {}", port + REST_OFFSET, patroni_file(&other).display();
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
        port.checked_add(REST_OFFSET).is_none_or(|rest| {
            (ports.claimed_by)(port).is_some() || (ports.claimed_by)(rest).is_some() || listening.contains(&rest)
        })
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
