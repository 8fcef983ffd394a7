//! keepalived: the virtual IP addresses with VRRP between the members. dnscp marks the primary with a file that keepalived watches
//! (`track_file` in `keepalived.conf(5)`). All other members are in the state FAULT, so none of them can acquire an address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Result;
use host::endpoint::{Manager, state_file};
use host::vip::Placed;
use host::{ClusterId, fail, trouble};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::files::install::READABLE;
use crate::files::template;
use crate::integrations::cluster::{Cluster, Site};
use crate::integrations::plan::{Generated, Plan, Validator};
use crate::integrations::vip::{self, Here};
use crate::patroni_yml::values;

/// What Debian's unit reads (`keepalived.service`).
pub const FILE: &str = "/etc/keepalived/keepalived.conf";

#[derive(Debug, Serialize)]
struct Values {
    name: String,
    clusters: Vec<Section>,
}

#[derive(Debug, Serialize)]
struct Section {
    id: String,
    /// The name of the watched file in keepalived.
    name: String,
    file: String,
    own: IpAddr,
    peers: Vec<IpAddr>,
    instances: Vec<Router>,
}

/// A VRRP instance.
#[derive(Debug, Serialize)]
struct Router {
    name: String,
    /// `virtual_router_id`.
    id: u8,
    interface: String,
    /// With its prefix.
    address: String,
    /// The address of the other family, which moves together with it.
    other: Option<Other>,
}

#[derive(Debug, Serialize)]
struct Other {
    interface: String,
    address: String,
}

/// One file for all clusters.
pub fn plan(site: &Site) -> Result<Plan> {
    let mut plan = Plan::default();
    let all: Vec<Here> =
        site.clusters.iter().map(|cluster| Here::of(site, cluster, Manager::Keepalived)).collect::<Result<_>>()?;
    let mut wanted = Vec::new();
    for (cluster, here) in site.clusters.iter().zip(&all) {
        for vip in &here.vips {
            wanted.push(router_name(cluster, vip.address)?);
        }
    }
    let (routers, met) = routers(&wanted)?;
    plan.warnings.extend(met.map(|met| {
        trouble!(
            "{met} have the same VRRP ID, so one of them gets the next free one";
            "Configure the same clusters in the same command on all members."
        )
    }));
    let mut clusters = Vec::new();
    let mut claims = Claims::default();
    for (cluster, here) in site.clusters.iter().zip(&all) {
        claims.add(&cluster.id, here)?;
        clusters.push(section(cluster, here, &routers)?);
        plan.next.push(vip::handed_over(&cluster.id, Manager::Keepalived));
    }
    let name = site.name()?;
    let body = template::body(site.root, "keepalived.conf.j2", Values { name, clusters })?;
    plan.files.push(Generated {
        path: PathBuf::from(FILE),
        body,
        rights: READABLE,
        validator: Some(Validator { program: "keepalived", package: "keepalived", arguments: &["-t", "-f"] }),
        secrets: Vec::new(),
    });
    plan.next.push("apply it with: systemctl enable keepalived && systemctl reload-or-restart keepalived".to_owned());
    Ok(plan)
}

/// The name of a virtual address at the site, from which its VRRP ID is derived.
fn router_name(cluster: &Cluster, address: IpAddr) -> Result<String> {
    Ok(format!("{}{} {address}", values::namespace(&cluster.settings)?, cluster.id.dashed()))
}

/// The addresses that clusters have on this member. No two clusters can have the same one, as their primaries can be on two hosts.
#[derive(Default)]
struct Claims<'a>(Vec<(IpAddr, &'a ClusterId)>);

impl<'a> Claims<'a> {
    fn add(&mut self, id: &'a ClusterId, here: &Here) -> Result<()> {
        for placed in &here.placed {
            if let Some((address, other)) = self.0.iter().find(|(address, _)| *address == placed.address) {
                fail!(
                    "{other} and {id} would both have {address}, but their primaries can be on two hosts";
                    "Set VIPS for each in a file such as {}.", host::settings::cluster_file(id).display()
                );
            }
            self.0.push((placed.address, id));
        }
        Ok(())
    }
}

fn section(cluster: &Cluster, here: &Here, routers: &BTreeMap<String, u8>) -> Result<Section> {
    let id = &cluster.id;
    let peers = peers(cluster, here.own)?;
    let (placed, other) = by_family(cluster, here)?;
    let text = |placed: &Placed| format!("{}/{}", placed.address, placed.prefix);
    let router = Router {
        name: format!("{}-vip", id.dashed()),
        id: routers.get(&router_name(cluster, placed.address)?).copied().unwrap_or(1),
        interface: placed.interface.clone(),
        address: text(placed),
        other: other.map(|other| Other { interface: other.interface.clone(), address: text(other) }),
    };
    Ok(Section {
        id: id.slashed(),
        name: id.dashed(),
        file: state_file(id).display().to_string(),
        own: here.own,
        peers,
        instances: vec![router],
    })
}

/// The addresses of the other members, all of one family.
fn peers(cluster: &Cluster, own: IpAddr) -> Result<Vec<IpAddr>> {
    let place = cluster.settings.place(&["MEMBERS"]);
    let addresses = cluster.members.iter().map(|member| member.address);
    let peers: Vec<IpAddr> = addresses.filter(|address| *address != own).collect();
    if peers.is_empty() {
        fail!(
            at place,
            "{} has only one member, which does not need keepalived", cluster.id;
            "Add the other members to MEMBERS, or set VIP_MANAGER=dnscp."
        );
    }
    if let Some(other) = peers.iter().find(|peer| peer.is_ipv6() != own.is_ipv6()) {
        fail!(
            at place,
            "this member is {own}, but another one is {other}, and VRRP uses one address family";
            "Set MEMBERS to addresses of one family."
        );
    }
    Ok(peers)
}

/// The virtual address of the family of the members, and the one of the other family.
fn by_family<'a>(cluster: &Cluster, here: &'a Here) -> Result<(&'a Placed, Option<&'a Placed>)> {
    let of_family = |placed: &&Placed| placed.address.is_ipv6() == here.own.is_ipv6();
    let (same, other): (Vec<&Placed>, Vec<&Placed>) = here.placed.iter().partition(of_family);
    let [placed] = same.as_slice() else {
        fail!(
            at cluster.settings.place(&["VIPS"]),
            "VRRP between {} and the other members cannot move an address of the other family alone", here.own;
            "Set MEMBERS to addresses of the family of VIPS."
        );
    };
    Ok((placed, other.first().copied()))
}

/// A number from 1 to 255 for each name, the same on all hosts with the same names; and the first two names with the same number.
fn routers(names: &[String]) -> Result<(BTreeMap<String, u8>, Option<String>)> {
    let mut names = names.to_vec();
    names.sort();
    names.dedup();
    if names.len() > 255 {
        fail!(
            "VRRP has only 255 IDs, but there are {} virtual addresses", names.len();
            "Configure fewer clusters with keepalived."
        );
    }
    let mut routers: BTreeMap<String, u8> = BTreeMap::new();
    let mut met = None;
    for name in names {
        let hash = Sha256::digest(name.as_bytes());
        let word = hash.iter().take(4).fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        let mut number = u8::try_from(word % 255).unwrap_or(0) + 1;
        while let Some((other, _)) = routers.iter().find(|(_, taken)| **taken == number) {
            met.get_or_insert_with(|| format!("{other} and {name}"));
            number = number % 255 + 1;
        }
        routers.insert(name, number);
    }
    Ok((routers, met))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_member_derives_the_same_ids() {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let one = "/postgresql-common/16-main 10.0.3.100";
        let two = "/postgresql-common/17-app 10.0.3.101";
        let (there, met) = routers(&names(&[one, two])).unwrap();
        assert_eq!(there, routers(&names(&[two, one, one])).unwrap().0);
        assert_eq!((met, there[one]), (None, routers(&names(&[one])).unwrap().0[one]));
        // Python: int.from_bytes(hashlib.sha256(one.encode()).digest()[:4], "big") % 255 + 1
        assert_eq!((there[one], there[two]), (41, 144));
    }

    #[test]
    fn no_two_addresses_have_the_same_id() {
        let names: Vec<String> = (0..255).map(|number| format!("/x/16-main 10.0.0.{number}")).collect();
        let (routers, met) = routers(&names).unwrap();
        let mut numbers: Vec<u8> = routers.values().copied().collect();
        numbers.sort_unstable();
        assert!(met.is_some() && numbers.iter().copied().eq(1..=255));
        assert!(super::routers(&[names, vec!["one more".to_owned()]].concat()).is_err());
    }
}
