//! Which virtual addresses of a cluster this member has, for the programs that move them instead of dnscp. The choice is the one
//! that dnscp makes ([`host::vip`]).

use std::net::IpAddr;

use anyhow::Result;
use host::endpoint::{Endpoint, Manager, Vip};
use host::members;
use host::settings::Settings;
use host::vip::{self, Pick, Placed};
use host::{ClusterId, Root, facts, fail};

use crate::integrations::cluster::{Cluster, Site};
use crate::patroni_yml::values;

/// What a manager's configuration on this member needs.
#[derive(Debug)]
pub struct Here {
    pub name: String,
    /// This member's address among the members.
    pub own: IpAddr,
    /// All virtual addresses of the site.
    pub vips: Vec<Vip>,
    /// Those that this member takes, at most one of each family.
    pub placed: Vec<Placed>,
}

impl Here {
    /// For a cluster whose addresses `manager` moves.
    pub fn of(site: &Site, cluster: &Cluster, manager: Manager) -> Result<Self> {
        let Cluster { id, settings, members, .. } = cluster;
        let point = Endpoint::from_settings(site.root, id, settings)?.filter(|point| !point.vips.is_empty());
        let Some(point) = point else {
            fail!("{id} has no virtual IP address"; "Set VIPS, for example to 10.0.3.100/24.");
        };
        if point.manager != manager {
            fail!(
                at settings.get("VIP_MANAGER").map_or_else(String::new, |setting| setting.origin.to_string()),
                "VIP_MANAGER is {}, but two programs must not move the same address", point.manager.name();
                "Set VIP_MANAGER={}.", manager.name()
            );
        }
        let name = values::member_name(site.root, settings)?;
        let own = members::address_of(settings, members, &name)?;
        let placed = place(site.root, settings, &point, own)?;
        Ok(Self { name, own, vips: point.vips, placed })
    }
}

/// Fails if no virtual address, or an unusable one, is for this member.
fn place(root: &Root, settings: &Settings, point: &Endpoint, own: IpAddr) -> Result<Vec<Placed>> {
    let interfaces = facts::interfaces(root)?;
    let mut faults = vip::faults(root, settings, point, Some(own), &interfaces).into_iter();
    if let Some(fault) = faults.find(|fault| fault.certain) {
        return Err(fault.trouble.at(settings.place(&["VIPS"])).into());
    }
    let Pick { placed, problems } = vip::pick(&point.vips, point.interface.as_deref(), &interfaces);
    match problems.into_iter().next() {
        Some(problem) if placed.is_empty() => Err(problem.into()),
        _ => Ok(placed),
    }
}

/// The only virtual address of a site, for files that name one.
pub fn only(vips: &[Vip]) -> Option<IpAddr> {
    let of_family = |ipv6| vips.iter().filter(move |vip| vip.address.is_ipv6() == ipv6).collect::<Vec<_>>();
    match (of_family(false).as_slice(), of_family(true).as_slice()) {
        ([one], _) | ([], [one]) => Some(one.address),
        _ => None,
    }
}

/// What the administrator does before starting a manager.
pub fn handed_over(id: &ClusterId, manager: Manager) -> String {
    format!(
        "if VIPS or VIP_MANAGER is new, run patroni-gen-config {id}, systemctl reload patroni@{0} and systemctl reload-or-restart \
         dnscp@{0} first, so that dnscp leaves the address to {1}",
        id.dashed(),
        manager.name()
    )
}

/// Fails if a program is not installed.
pub fn installed(root: &Root, program: &str, package: &str) -> Result<()> {
    if root.program(program).is_err() {
        fail!("{program} is not installed"; "Install it with: apt install {package}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_single_virtual_address_is_one_of_its_family() {
        let vip = |text: &str| Vip { address: text.parse().unwrap(), prefix: None };
        let vips = [vip("10.1.0.9"), vip("10.0.0.9"), vip("fd00::9")];
        assert_eq!(only(&vips[1..]), Some(vips[1].address));
        assert_eq!(only(&vips[1..2]), Some(vips[1].address));
        assert_eq!(only(&[vips[0], vips[1]]), None);
    }
}
