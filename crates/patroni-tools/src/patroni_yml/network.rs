//! The address of this member, the networks of the others, and the addresses on which PostgreSQL listens.

use std::net::IpAddr;

use anyhow::{Result, anyhow};
use host::members::{self, Member};
use host::settings::Settings;
use host::trouble::Trouble;
use host::{Root, facts, fail, trouble};
use ipnet::IpNet;

pub(crate) fn address_and_networks(
    root: &Root,
    settings: &Settings,
    name: &str,
    members: Option<&[Member]>,
) -> Result<(IpAddr, Vec<IpNet>)> {
    let asked = settings.parse("HOST_ADDRESS", |text| {
        let address = facts::parse_address(text)?;
        if address.is_loopback() || address.is_unspecified() {
            fail!("the other members cannot reach {address}"; "Set the address of this host in the members' network.");
        }
        Ok(address)
    })?;
    let listed = members.map(|members| members::address_of(settings, members, name)).transpose()?;
    if let (Some(asked), Some(listed)) = (asked, listed) {
        if asked != listed {
            fail!(
                at settings.place(&["HOST_ADDRESS"]),
                "HOST_ADDRESS is {asked}, but MEMBERS has {name}={listed}";
                "Correct one of them."
            );
        }
    }
    let networks = settings.list("NETWORK", facts::parse_network)?;
    match (asked.or(listed), networks) {
        (Some(address), Some(networks)) => Ok((address, networks)),
        (address, networks) => {
            let own = match address {
                None => facts::main_address(root)?,
                Some(address) => {
                    let key = if asked.is_some() { "HOST_ADDRESS" } else { "MEMBERS" };
                    facts::addresses(root)?.into_iter().find(|own| own.addr() == address).ok_or_else(|| {
                        anyhow!(trouble!(
                            at settings.place(&[key]),
                            "{key} {address} is not on any interface of this host";
                            "Correct it, or set NETWORK too."
                        ))
                    })?
                }
            };
            Ok((own.addr(), networks.unwrap_or_else(|| vec![own.trunc()])))
        }
    }
}

/// Members whose replication connections `pg_hba` would reject.
pub(crate) fn outsiders(settings: &Settings, members: &[Member], networks: &[IpNet]) -> Option<Trouble> {
    let outside = members.iter().filter(|member| !networks.iter().any(|network| network.contains(&member.address)));
    let names: Vec<String> = outside.map(|member| format!("{} ({})", member.name, member.address)).collect();
    (!names.is_empty()).then(|| {
        trouble!(
            at settings.place(&["MEMBERS"]),
            "MEMBERS has {} outside NETWORK, so pg_hba rejects replication connections from there", names.join(", ");
            "Set NETWORK to the networks of all members."
        )
    })
}

/// Does PostgreSQL listen on a virtual IP address?
pub enum Listens {
    /// Always.
    Always,
    /// Only if the address is on this host when PostgreSQL starts.
    Sometimes(Trouble),
    /// Never.
    Never(Trouble),
}

/// Does PostgreSQL, with these addresses in the setting `name`, listen on a virtual IP address?
pub fn listens(root: &Root, name: &str, addresses: &[String], vip: IpAddr) -> Result<Listens> {
    let (all, family) = if vip.is_ipv4() { ("0.0.0.0", "ipv4") } else { ("::", "ipv6") };
    if addresses.iter().any(|address| address == "*" || address == all) {
        return Ok(Listens::Always);
    }
    let sysctl = format!("net.{family}.ip_nonlocal_bind");
    if !addresses.contains(&vip.to_string()) {
        return Ok(Listens::Never(trouble!(
            "{name} does not include {vip} of VIPS, so PostgreSQL does not accept connections there";
            "Set LISTEN_ADDRESSES to *, or add {vip} to it and set {sysctl} = 1."
        )));
    }
    let nonlocal = root.read(format!("/proc/sys/{}", sysctl.replace('.', "/")))?.unwrap_or_default();
    if nonlocal.trim() == "1" {
        return Ok(Listens::Always);
    }
    Ok(Listens::Sometimes(trouble!(
        "{name} includes {vip}, which may be on another member when PostgreSQL starts";
        "Set {sysctl} = 1 in /etc/sysctl.d."
    )))
}

/// Why the other members cannot reach, at the address `connect`, a server that listens on `hosts`. `None` if they can, and also if that
/// is not certain: a host name can stand for any address, and a router can have the address (NAT).
pub(crate) fn unreachable(root: &Root, hosts: &[String], connect: IpAddr) -> Option<String> {
    let mut addresses = Vec::new();
    for host in hosts {
        match host.as_str() {
            "*" | "" => return None,
            "localhost" => addresses.push(IpAddr::from([127, 0, 0, 1])),
            host => addresses.push(host.parse().ok()?),
        }
    }
    let listens = |own: &IpAddr| own.is_ipv4() == connect.is_ipv4() && (own.is_unspecified() || *own == connect);
    if addresses.iter().any(listens) {
        return None;
    }
    if addresses.iter().all(IpAddr::is_loopback) {
        return Some(format!("only this host can connect to it, and not the other members at {connect}"));
    }
    let is_own = facts::addresses(root).ok()?.iter().any(|own| own.addr() == connect);
    is_own.then(|| format!("the other members cannot connect to it at {connect}"))
}

/// The addresses among `hosts` that are on no interface of this host, so that no program can listen on them.
pub(crate) fn absent(root: &Root, hosts: &[String], vips: &[IpAddr]) -> Vec<IpAddr> {
    let nonlocal = |family: &str| {
        let text = root.read(format!("/proc/sys/net/{family}/ip_nonlocal_bind")).ok().flatten();
        text.is_some_and(|text| text.trim() == "1")
    };
    let addresses = hosts.iter().filter_map(|host| host.parse::<IpAddr>().ok());
    let mut wanted: Vec<IpAddr> = addresses
        .filter(|address| !address.is_loopback() && !address.is_unspecified() && !vips.contains(address))
        .filter(|address| !nonlocal(if address.is_ipv4() { "ipv4" } else { "ipv6" }))
        .collect();
    let remove = |wanted: &mut Vec<IpAddr>, own: Vec<IpNet>| {
        wanted.retain(|address| !own.iter().any(|own| own.addr() == *address));
    };
    if !wanted.is_empty() {
        let Ok(own) = facts::addresses(root) else { return Vec::new() };
        remove(&mut wanted, own);
    }
    // Those that do not stay, and those of a link, can be listened on, too.
    if !wanted.is_empty() {
        let Ok(interfaces) = facts::interfaces(root) else { return Vec::new() };
        remove(&mut wanted, interfaces.into_iter().flat_map(|interface| interface.addresses).collect());
    }
    wanted
}

/// The addresses on which PostgreSQL listens. By default its own address and loopback, so that a new cluster does not listen
/// in every network of the host. All addresses if there is a virtual one: PostgreSQL opens its sockets once, when the
/// address may be elsewhere.
pub(crate) fn listen_addresses(
    root: &Root,
    settings: &Settings,
    address: IpAddr,
    members: &[Member],
    vips: &[IpAddr],
    warnings: &mut Vec<Trouble>,
) -> Result<String> {
    let asked = settings.list("LISTEN_ADDRESSES", |text| match text {
        "*" | "localhost" => Ok(text.to_owned()),
        other => Ok(facts::parse_address(other)?.to_string()),
    })?;
    let loopback = if address.is_ipv4() { "127.0.0.1" } else { "::1" };
    let Some(asked) = asked else {
        return Ok(if vips.is_empty() { format!("{address},{loopback}") } else { "*".to_owned() });
    };
    let place = settings.place(&["LISTEN_ADDRESSES"]);
    if let Some(why) = unreachable(root, &asked, address) {
        let trouble = trouble!(
            at &place, "PostgreSQL listens on {}: {why}", asked.join(",");
            "Add {address} to LISTEN_ADDRESSES, or set it to *."
        );
        if members.len() > 1 {
            return Err(trouble.into());
        }
        warnings.push(trouble);
    }
    for absent in absent(root, &asked, vips) {
        warnings.push(trouble!(
            at &place, "LISTEN_ADDRESSES has {absent}, which is on no interface of this host, so PostgreSQL does not listen there";
            "Correct it, or add the address to this host."
        ));
    }
    for vip in vips {
        match listens(root, "LISTEN_ADDRESSES", &asked, *vip)? {
            Listens::Always => {}
            Listens::Sometimes(trouble) | Listens::Never(trouble) => {
                warnings.push(trouble.at(&place));
            }
        }
    }
    Ok(asked.join(","))
}
