//! The port of an instance: asked for, kept, or the next one that nobody has.

use anyhow::{Result, bail};
use host::clusters::{self, Installed};
use host::settings::Settings;
use host::{ClusterId, Root};

use crate::patroni::paths::{REST_OFFSET, instances, patroni_file};

/// The host as far as ports matter.
pub struct Ports<'a> {
    /// Its clusters.
    pub clusters: &'a [Installed],
    /// The cluster that is configured here.
    pub own: Option<&'a Installed>,
    /// The port that this instance's present Patroni file has.
    pub present: Option<u16>,
    /// Who has claimed a port by a Patroni file of another instance.
    pub claimed_by: &'a dyn Fn(u16) -> Option<ClusterId>,
    /// The port of raft that this instance's present Patroni file has.
    pub raft: Option<u16>,
}

impl Ports<'_> {
    /// Who has this port already, for an error.
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

/// `--port` or `PORT`, the port it has in its Patroni file, the port of the existing cluster, or the next free one.
pub(crate) fn port(
    root: &Root,
    id: &ClusterId,
    settings: &Settings,
    ports: &Ports,
    own: Option<&Installed>,
) -> Result<u16> {
    let most = u64::from(u16::MAX - REST_OFFSET);
    let asked = settings.number("PORT", 1024, most)?.map(|port| u16::try_from(port).unwrap_or(u16::MAX));
    if let Some(port) = asked {
        let claim = settings.get("PORT").map(|setting| setting.origin.to_string()).unwrap_or_default();
        if let Some(other) = ports.clusters.iter().find(|cluster| cluster.port == port && cluster.id != *id) {
            bail!("{claim}: port {port} belongs to the cluster {}: choose another one", other.id);
        }
        if let Some(other) = (ports.claimed_by)(port).or_else(|| (ports.claimed_by)(port + REST_OFFSET)) {
            bail!(
                "{claim}: port {port} or {} is claimed by {}: choose another one",
                port + REST_OFFSET,
                patroni_file(&other).display()
            );
        }
        return Ok(port);
    }
    if let Some(port) = ports.present {
        return Ok(port);
    }
    if let Some(cluster) = own {
        if let Some(other) = (ports.claimed_by)(cluster.port) {
            bail!(
                "port {} of the existing cluster {id} is claimed by {}: choose another one with --port",
                cluster.port,
                patroni_file(&other).display()
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

/// The ports that the Patroni files of other instances name. Only the lines with addresses are read: a host can have
/// hundreds of these files, and a port too many does no harm.
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
