//! `keepalived`: the virtual addresses by VRRP between the members. Who is the primary, dnscp says, by a file that keepalived watches
//! (`track_file` in `keepalived.conf(5)`): all others are in its state FAULT, so that none of them can take an address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Result, bail};
use host::ClusterId;
use host::endpoint::{Manager, state_file};
use host::vip::Placed;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::files::install::READABLE;
use crate::files::template;
use crate::integrations::cluster::Given;
use crate::integrations::plan::{Generated, Plan, Validator};
use crate::integrations::vip::{self, Here};
use crate::patroni_yml::values;

/// What Debian's unit reads (`keepalived.service`).
const FILE: &str = "/etc/keepalived/keepalived.conf";

#[derive(Debug, Serialize)]
struct Values {
    name: String,
    clusters: Vec<Cluster>,
}

#[derive(Debug, Serialize)]
struct Cluster {
    id: String,
    /// What keepalived calls the file that it watches.
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
    /// The address of the other family, which comes and goes with it.
    other: Option<Other>,
}

#[derive(Debug, Serialize)]
struct Other {
    interface: String,
    address: String,
}

/// One file for all instances.
pub fn plan(given: &Given) -> Result<Plan> {
    let mut plan = Plan::default();
    let all: Vec<Here> =
        given.instances.iter().map(|instance| Here::of(given, instance, Manager::Keepalived)).collect::<Result<_>>()?;
    let mut wanted = Vec::new();
    for (instance, here) in given.instances.iter().zip(&all) {
        let place = format!("{}{}", values::namespace(&instance.settings)?, instance.id.dashed());
        wanted.extend(here.vips.iter().map(|vip| format!("{place} {}", vip.address)));
    }
    let (routers, met) = routers(&wanted)?;
    if let Some(met) = met {
        plan.warnings.push(format!(
            "{met} have the same VRRP id by their names, so that one gets the next: name the same instances on all members"
        ));
    }
    let mut clusters = Vec::new();
    let mut claimed: Vec<(IpAddr, &ClusterId)> = Vec::new();
    for (instance, here) in given.instances.iter().zip(&all) {
        let id = &instance.id;
        let peers: Vec<IpAddr> =
            instance.members.iter().map(|member| member.address).filter(|address| *address != here.own).collect();
        if peers.is_empty() {
            bail!(
                "{}{id} has no other member: with one member alone the address needs no keepalived",
                instance.settings.place(&["MEMBERS"])
            );
        }
        if let Some(other) = peers.iter().find(|peer| peer.is_ipv6() != here.own.is_ipv6()) {
            bail!(
                "{}this member is {}, but another is {other}: VRRP has one family, so write MEMBERS with addresses of one",
                instance.settings.place(&["MEMBERS"]),
                here.own
            );
        }
        let (same, other): (Vec<&Placed>, Vec<&Placed>) =
            here.placed.iter().partition(|placed| placed.address.is_ipv6() == here.own.is_ipv6());
        let ([placed], other) = (same.as_slice(), other.first()) else {
            bail!(
                "{}VRRP between {} and the others cannot have an address of the other family alone: write MEMBERS with addresses of \
                 the family of VIPS",
                instance.settings.place(&["VIPS"]),
                here.own
            );
        };
        for placed in &here.placed {
            if let Some((address, claimant)) = claimed.iter().find(|(address, _)| *address == placed.address) {
                bail!(
                    "{claimant} and {id} would both have {address}, and their primaries can be on two hosts: set VIPS for each in a \
                     file such as {}",
                    host::settings::cluster_file(id).display()
                );
            }
            claimed.push((placed.address, id));
        }
        let place = format!("{}{}", values::namespace(&instance.settings)?, id.dashed());
        let text = |placed: &Placed| format!("{}/{}", placed.address, placed.prefix);
        clusters.push(Cluster {
            id: id.slashed(),
            name: id.dashed(),
            file: state_file(id).display().to_string(),
            own: here.own,
            peers,
            instances: vec![Router {
                name: format!("{}-vip", id.dashed()),
                id: routers.get(&format!("{place} {}", placed.address)).copied().unwrap_or(1),
                interface: placed.interface.clone(),
                address: text(placed),
                other: other.map(|other| Other { interface: other.interface.clone(), address: text(other) }),
            }],
        });
        plan.next.push(vip::handed_over(id, Manager::Keepalived));
    }
    let name = given.name()?;
    let body = template::body(given.root, "keepalived.conf.j2", Values { name, clusters })?;
    plan.files.push(Generated {
        path: PathBuf::from(FILE),
        body,
        rights: READABLE,
        validator: Some(Validator { program: "keepalived", package: "keepalived", arguments: &["-t", "-f"] }),
        secrets: Vec::new(),
    });
    plan.next.push("run systemctl enable keepalived and systemctl reload-or-restart keepalived".to_owned());
    Ok(plan)
}

/// A number from 1 to 255 for each name, the same wherever the names are the same; and two names that met, where some did.
fn routers(names: &[String]) -> Result<(BTreeMap<String, u8>, Option<String>)> {
    let mut names = names.to_vec();
    names.sort();
    names.dedup();
    if names.len() > 255 {
        bail!("VRRP has no more than 255 ids, and there are {} virtual addresses", names.len());
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
