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

/// The addresses on which PostgreSQL listens. By default its own address and loopback, so that a new cluster does not listen
/// in every network of the host. All addresses if there is a virtual one: PostgreSQL opens its sockets once, when the
/// address may be elsewhere.
pub(crate) fn listen_addresses(
    root: &Root,
    settings: &Settings,
    address: IpAddr,
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
    for vip in vips {
        match listens(root, "LISTEN_ADDRESSES", &asked, *vip)? {
            Listens::Always => {}
            Listens::Sometimes(trouble) | Listens::Never(trouble) => {
                warnings.push(trouble.at(settings.place(&["LISTEN_ADDRESSES"])));
            }
        }
    }
    Ok(asked.join(","))
}
