//! Which virtual address a member takes, and on which interface: one choice for dnscp, keepalived, vip-manager and the doctor.

pub mod managers;
mod meaning;

use std::net::IpAddr;

use ipnet::IpNet;

use crate::endpoint::Vip;
use crate::facts::Interface;
use crate::trouble;
use crate::trouble::Trouble;

pub use meaning::{Fault, faults, foreign};

/// A virtual address and its interface on this member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The address.
    pub address: IpAddr,
    /// Its prefix length.
    pub prefix: u8,
    /// The name of the interface.
    pub interface: String,
    /// The network of the interface that contains the address; none if only `VIP_INTERFACE` decides.
    pub network: Option<IpNet>,
}

/// What [`pick`] chose. dnscp knows more of each place than its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick<Place = Placed> {
    /// At most one address of each family.
    pub placed: Vec<Place>,
    /// Why a family has no address on this member.
    pub problems: Vec<Trouble>,
}

/// Chooses, for each family, the first virtual address that is in a subnet of one of this member's interfaces. If several subnets
/// contain it, the one with the longest prefix wins, then the first interface.
///
/// Virtual addresses do not count as the member's own, so the choice is the same whether or not they are up. Loopback interfaces
/// and those that are switched off do not count. With `only`, no other interface is considered, and an address that is alone in
/// its family goes there even if it is in no subnet of it.
#[must_use]
pub fn pick(vips: &[Vip], only: Option<&str>, interfaces: &[Interface]) -> Pick {
    let mut pick = Pick { placed: Vec::new(), problems: Vec::new() };
    let candidates: Vec<&Interface> = match only {
        Some(name) => interfaces.iter().filter(|interface| interface.name == name).collect(),
        None => interfaces.iter().filter(|interface| interface.up && !interface.loopback).collect(),
    };
    if let (Some(name), []) = (only, candidates.as_slice()) {
        if vips.is_empty() {
            return pick;
        }
        let names: Vec<&str> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
        pick.problems.push(trouble!(
            "VIP_INTERFACE is '{name}', but this host has no such interface (it has {})", names.join(", ");
            "Correct VIP_INTERFACE."
        ));
        return pick;
    }
    let is_own = |address: IpAddr| vips.iter().all(|vip| vip.address != address);
    for ipv6 in [false, true] {
        let family: Vec<&Vip> = vips.iter().filter(|vip| vip.address.is_ipv6() == ipv6).collect();
        // Every own network, longest prefix first; sorting keeps the order of the interfaces.
        let mut networks: Vec<(&Interface, IpNet)> = candidates
            .iter()
            .flat_map(|interface| interface.addresses.iter().map(move |own| (*interface, *own)))
            .filter(|(_, own)| own.addr().is_ipv6() == ipv6 && is_own(own.addr()))
            .collect();
        networks.sort_by_key(|(_, own)| u8::MAX - own.prefix_len());
        let fit = family.iter().find_map(|vip| {
            let (interface, own) = networks.iter().find(|(_, own)| own.contains(&vip.address))?;
            Some((**vip, interface.name.as_str(), own.trunc()))
        });
        match (fit, family.as_slice(), only) {
            (Some((vip, interface, network)), ..) => match unusable(vip.address, network) {
                None => pick.placed.push(place(vip, interface, Some(network))),
                Some(problem) => pick.problems.push(problem),
            },
            (None, [], _) => {}
            (None, [alone], Some(interface)) => pick.placed.push(place(**alone, interface, None)),
            (None, ..) => pick.problems.push(nothing_fits(&family, only, &networks)),
        }
    }
    pick
}

/// No host has the address of a network or its broadcast address (RFC 1122, section 3.2.1.3), except in a /31 (RFC 3021).
fn unusable(address: IpAddr, network: IpNet) -> Option<Trouble> {
    let reserved = address.is_ipv4()
        && network.prefix_len() < 31
        && (address == network.network() || address == network.broadcast());
    reserved.then(
        || trouble!("{address} in VIPS is the network or broadcast address of {network}"; "Choose another address."),
    )
}

fn place(vip: Vip, interface: &str, network: Option<IpNet>) -> Placed {
    let whole = if vip.address.is_ipv6() { 128 } else { 32 };
    let prefix = vip.prefix.or(network.map(|network| network.prefix_len())).unwrap_or(whole);
    Placed { address: vip.address, prefix, interface: interface.to_owned(), network }
}

fn nothing_fits(family: &[&Vip], only: Option<&str>, networks: &[(&Interface, IpNet)]) -> Trouble {
    let wanted: Vec<String> = family.iter().map(|vip| vip.address.to_string()).collect();
    let wanted = wanted.join(", ");
    let mut present: Vec<String> =
        networks.iter().map(|(interface, own)| format!("{} {own}", interface.name)).collect();
    present.sort();
    let present = if present.is_empty() { "none".to_owned() } else { present.join(", ") };
    match only {
        Some(name) => trouble!(
            "none of {wanted} in VIPS is in a subnet of VIP_INTERFACE={name} (its addresses: {present})";
            "Add an address of its subnet to VIPS."
        ),
        None => trouble!(
            "no interface has an address in the subnet of {wanted} (addresses: {present})";
            "Correct VIPS, or set VIP_INTERFACE."
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Interface { up: true, loopback: name == "lo", addresses, ..Interface::new(name, Vec::new()) }
    }

    fn pick_texts(vips: &[&str], only: Option<&str>, interfaces: &[Interface]) -> Pick {
        let vip = |text: &&str| match text.split_once('/') {
            Some((address, prefix)) => Vip { address: address.parse().unwrap(), prefix: Some(prefix.parse().unwrap()) },
            None => Vip { address: text.parse().unwrap(), prefix: None },
        };
        pick(&vips.iter().map(vip).collect::<Vec<_>>(), only, interfaces)
    }

    /// `10.0.3.100/24 on eth0`, one for each placed address.
    fn placed(vips: &[&str], only: Option<&str>, interfaces: &[Interface]) -> Vec<String> {
        let pick = pick_texts(vips, only, interfaces);
        pick.placed.iter().map(|at| format!("{}/{} on {}", at.address, at.prefix, at.interface)).collect()
    }

    fn problem(vips: &[&str], only: Option<&str>, interfaces: &[Interface]) -> String {
        let pick = pick_texts(vips, only, interfaces);
        pick.problems.iter().map(Trouble::line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_longest_prefix_wins_whatever_the_order_of_the_interfaces() {
        let mut host = [interface("eth0", &["10.0.0.1/8"]), interface("eth1", &["10.0.3.141/24"])];
        assert_eq!(placed(&["10.0.3.100"], None, &host), ["10.0.3.100/24 on eth1"]);
        host.reverse();
        assert_eq!(placed(&["10.0.3.100"], None, &host), ["10.0.3.100/24 on eth1"]);
        // The order of VIPS comes first: 10.0.0.1/8 contains both.
        assert_eq!(placed(&["10.1.0.9/24", "10.0.3.100"], None, &host), ["10.1.0.9/24 on eth0"]);
        assert_eq!(placed(&["10.1.0.9", "10.0.3.100"], Some("eth1"), &host), ["10.0.3.100/24 on eth1"]);
        // With equal prefixes the first interface.
        let twice = [interface("eth0", &["10.0.3.1/24"]), interface("eth1", &["10.0.3.2/24"])];
        assert_eq!(placed(&["10.0.3.100"], None, &twice), ["10.0.3.100/24 on eth0"]);
    }

    #[test]
    fn network_and_broadcast_addresses_are_refused() {
        let host = [interface("eth0", &["10.0.3.141/24"])];
        for address in ["10.0.3.0", "10.0.3.255"] {
            assert!(placed(&[address], None, &host).is_empty());
            assert!(problem(&[address], None, &host).contains("network or broadcast address of 10.0.3.0/24"));
        }
        let host = [interface("eth0", &["10.0.3.10/31"])];
        assert_eq!(placed(&["10.0.3.11"], None, &host), ["10.0.3.11/31 on eth0"]);
    }

    #[test]
    fn addresses_are_not_compared_as_strings() {
        let host = [interface("eth0", &["10.77.0.10/24", "fd00::10/64"])];
        for (address, shown) in [
            ("10.77.0.1", "10.77.0.1/24 on eth0"),
            ("10.77.0.25", "10.77.0.25/24 on eth0"),
            ("10.77.0.2", "10.77.0.2/24 on eth0"),
            ("fd00:0:0::1", "fd00::1/64 on eth0"),
        ] {
            assert_eq!(placed(&[address], None, &host), [shown]);
        }
        assert!(placed(&["10.77.1.10"], None, &host).is_empty());
    }

    #[test]
    fn every_interface_counts_that_is_up_and_not_loopback() {
        let host = [
            interface("lo", &["127.0.0.1/8", "10.9.0.1/24"]),
            interface("eth0", &["10.77.0.10/24"]),
            interface("eth1", &["192.0.2.10/24", "10.78.0.10/16"]),
        ];
        assert_eq!(placed(&["10.78.1.1"], None, &host), ["10.78.1.1/16 on eth1"]);
        assert_eq!(placed(&["10.9.0.5", "10.78.1.1/24", "10.77.0.1"], None, &host), ["10.78.1.1/24 on eth1"]);
        assert_eq!(placed(&["10.77.0.1", "10.77.0.2"], None, &host), ["10.77.0.1/24 on eth0"]);
        let down = [Interface { up: false, ..host[1].clone() }, host[2].clone()];
        assert!(placed(&["10.77.0.1"], None, &down).is_empty());
    }

    #[test]
    fn one_of_each_family() {
        let host = [interface("eth0", &["10.77.0.10/24"]), interface("eth1", &["fe80::1/64", "fd00::10/64"])];
        let both = ["10.77.0.100/24 on eth0", "fd00::100/64 on eth1"];
        assert_eq!(placed(&["fd00::100", "10.77.0.100", "fd00::101"], None, &host), both);
        assert_eq!(placed(&["10.77.0.100", "fd01::100"], None, &host), both[..1]);
        let problem = problem(&["10.77.0.100", "fd01::100"], None, &host);
        assert!(
            problem.contains("the subnet of fd01::100 (addresses: eth1 fd00::10/64, eth1 fe80::1/64)"),
            "{problem}"
        );
    }

    #[test]
    fn a_virtual_address_is_no_reason_for_itself() {
        let host = [interface("eth0", &["10.77.0.100/24"]), interface("eth1", &["10.77.0.10/24"])];
        assert_eq!(placed(&["10.77.0.100"], None, &host), ["10.77.0.100/24 on eth1"]);
        assert!(problem(&["10.77.0.100"], None, &host[..1]).contains("(addresses: none)"));
    }

    #[test]
    fn vip_interface_overrides_the_subnets() {
        let host = [interface("eth0", &["10.77.0.10/24"]), interface("eth1", &["10.77.0.11/24"])];
        assert_eq!(placed(&["10.77.0.100"], Some("eth1"), &host), ["10.77.0.100/24 on eth1"]);
        assert_eq!(placed(&["10.5.0.1", "10.77.0.100"], Some("eth1"), &host), ["10.77.0.100/24 on eth1"]);
        assert_eq!(placed(&["10.5.0.1/24"], Some("eth1"), &host), ["10.5.0.1/24 on eth1"]);
        assert_eq!(placed(&["fd00::1"], Some("eth1"), &host), ["fd00::1/128 on eth1"]);
        assert!(problem(&["10.5.0.1", "10.6.0.1"], Some("eth1"), &host).contains("VIP_INTERFACE=eth1"));
        assert!(problem(&["10.77.0.1"], Some("eth"), &host).contains("it has eth0, eth1"));
    }
}
