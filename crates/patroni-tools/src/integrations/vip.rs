//! Where the virtual addresses of a cluster go on this member, for the programs that move them in place of dnscp. The choice is
//! that of dnscp (`netlink::pick` there).

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use host::endpoint::{Endpoint, Manager, Vip};
use host::members;
use host::{ClusterId, Root, facts};
use ipnet::IpNet;

use crate::integrations::cluster::{Cluster, Site};
use crate::patroni_yml::values;

/// What this member has to know.
#[derive(Debug)]
pub struct Here {
    /// Its name.
    pub name: String,
    /// Its address among the members.
    pub own: IpAddr,
    /// All virtual addresses of the site.
    pub vips: Vec<Vip>,
    /// Those that are for this member, at most one of each family.
    pub placed: Vec<Placed>,
}

/// A virtual address and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The address.
    pub address: IpAddr,
    /// Its prefix length.
    pub prefix: u8,
    /// The name of the interface.
    pub interface: String,
}

impl Here {
    /// Of a cluster whose addresses `manager` moves.
    pub fn of(site: &Site, cluster: &Cluster, manager: Manager) -> Result<Self> {
        let Cluster { id, settings, members, .. } = cluster;
        let point = Endpoint::from_settings(site.root, id, settings)?.filter(|point| !point.vips.is_empty());
        let Some(point) = point else {
            bail!("{id} has no virtual address: set VIPS, as in VIPS=10.0.3.100/24");
        };
        if point.manager != manager {
            bail!(
                "{}VIP_MANAGER is {}, and two programs must not move one address: set VIP_MANAGER={}",
                settings.place(&["VIP_MANAGER"]),
                point.manager.name(),
                manager.name()
            );
        }
        let name = values::member_name(site.root, settings)?;
        let own = members::address_of(settings, members, &name)?;
        let placed = place(site.root, &point)?;
        Ok(Self { name, own, vips: point.vips, placed })
    }
}

fn place(root: &Root, point: &Endpoint) -> Result<Vec<Placed>> {
    let addresses = facts::interface_addresses(root)?;
    let placed = pick(&point.vips, point.interface.as_deref(), &addresses);
    if placed.is_empty() {
        let wanted: Vec<String> = point.vips.iter().map(|vip| vip.address.to_string()).collect();
        let present: Vec<String> = addresses.iter().map(|(name, address)| format!("{name} {address}")).collect();
        bail!(
            "no interface has an address in the subnet of {} (addresses: {}): correct VIPS, or set VIP_INTERFACE",
            wanted.join(", "),
            present.join(", ")
        );
    }
    Ok(placed)
}

/// For each family the first one in a subnet of this member; with an interface, one that is alone in its family goes there.
fn pick(vips: &[Vip], interface: Option<&str>, addresses: &[(String, IpNet)]) -> Vec<Placed> {
    let of_family = |ipv6: bool| {
        let family: Vec<&Vip> = vips.iter().filter(|vip| vip.address.is_ipv6() == ipv6).collect();
        let fit = family.iter().find_map(|vip| {
            let own = addresses.iter().filter(|(name, own)| {
                interface.is_none_or(|interface| interface == name)
                    && own.contains(&vip.address)
                    && vips.iter().all(|vip| vip.address != own.addr())
            });
            let (name, own) = own.max_by_key(|(_, own)| own.prefix_len())?;
            let prefix = vip.prefix.unwrap_or(own.prefix_len());
            Some(Placed { address: vip.address, prefix, interface: name.clone() })
        });
        fit.or_else(|| match (interface, family.as_slice()) {
            (Some(interface), [alone]) => {
                let prefix = alone.prefix.unwrap_or(if ipv6 { 128 } else { 32 });
                Some(Placed { address: alone.address, prefix, interface: interface.to_owned() })
            }
            _ => None,
        })
    };
    [false, true].into_iter().filter_map(of_family).collect()
}

/// The only virtual address of a site, for who has to name one.
pub fn only(vips: &[Vip]) -> Option<IpAddr> {
    let of_family = |ipv6| vips.iter().filter(move |vip| vip.address.is_ipv6() == ipv6).collect::<Vec<_>>();
    match (of_family(false).as_slice(), of_family(true).as_slice()) {
        ([one], _) | ([], [one]) => Some(one.address),
        _ => None,
    }
}

/// What comes before the start of a manager.
pub fn handed_over(id: &ClusterId, manager: Manager) -> String {
    format!(
        "where VIPS or VIP_MANAGER is new, run patroni-gen-config {id}, systemctl reload patroni@{0} and systemctl reload-or-restart \
         dnscp@{0} first, so that dnscp leaves the address to {1}",
        id.dashed(),
        manager.name()
    )
}

/// Fails where a program is not here.
pub fn installed(root: &Root, program: &str, package: &str) -> Result<()> {
    let found = root.program(program);
    found.map(drop).ok().with_context(|| format!("{program} is not installed here: run apt install {package}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn of_each_family_the_one_of_a_subnet_of_this_member() {
        let vips: Vec<Vip> = [("10.1.0.9", Some(24)), ("10.0.0.9", None), ("fd00::9", None)]
            .map(|(address, prefix)| Vip { address: address.parse().unwrap(), prefix })
            .into();
        let addresses: Vec<(String, IpNet)> =
            [("e0", "10.0.0.1/8"), ("e1", "10.0.0.2/25"), ("e1", "10.0.0.9/32"), ("e1", "fd00::1/64")]
                .map(|(name, address)| (name.to_owned(), address.parse().unwrap()))
                .into();
        let shown = |interface| {
            let placed = pick(&vips, interface, &addresses);
            placed.iter().map(|at| format!("{}/{} {}", at.address, at.prefix, at.interface)).collect::<Vec<_>>()
        };
        // 10.0.0.1/8 has both, and the first of VIPS wins; of two networks of one address the narrower.
        assert_eq!(shown(None), ["10.1.0.9/24 e0", "fd00::9/64 e1"]);
        assert_eq!(shown(Some("e1")), ["10.0.0.9/25 e1", "fd00::9/64 e1"]);
        assert_eq!(shown(Some("e2")), ["fd00::9/128 e2"]);
        assert_eq!(only(&vips), None);
        assert_eq!(only(&vips[1..]), Some(vips[1].address));
    }
}
