//! The address of this member, the networks of the others, and where PostgreSQL listens.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use host::members::{self, Member};
use host::settings::Settings;
use host::{Root, facts};
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
            bail!("the other members cannot reach {address}: set the address of this host in their network");
        }
        Ok(address)
    })?;
    let listed = members.map(|members| members::address_of(settings, members, name)).transpose()?;
    if let (Some(asked), Some(listed)) = (asked, listed) {
        if asked != listed {
            bail!(
                "{}HOST_ADDRESS is {asked}, but MEMBERS has {name}={listed}: correct one of them",
                settings.place(&["HOST_ADDRESS"])
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
                    facts::addresses(root)?.into_iter().find(|own| own.addr() == address).with_context(|| {
                        format!(
                            "{}{key} {address} is on no interface of this host: correct it, or set NETWORK too",
                            settings.place(&[key])
                        )
                    })?
                }
            };
            Ok((own.addr(), networks.unwrap_or_else(|| vec![own.trunc()])))
        }
    }
}

/// Members whose replication `pg_hba` would refuse.
pub(crate) fn outsiders(settings: &Settings, members: &[Member], networks: &[IpNet]) -> Vec<String> {
    let outside = members.iter().filter(|member| !networks.iter().any(|network| network.contains(&member.address)));
    let names: Vec<String> = outside.map(|member| format!("{} ({})", member.name, member.address)).collect();
    if names.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "{}MEMBERS has {}, in none of NETWORK, so that pg_hba refuses the replication from there: set NETWORK",
        settings.place(&["MEMBERS"]),
        names.join(", ")
    )]
}

/// A virtual address on which PostgreSQL does not listen.
pub struct Unheard {
    /// Does it never, or only where the address is there when it starts?
    pub never: bool,
    /// The end of a sentence about where it listens.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// Does PostgreSQL, listening on these addresses, not listen on a virtual one?
pub fn unheard(root: &Root, listens: &[String], vip: IpAddr) -> Result<Option<Unheard>> {
    let (all, family) = if vip.is_ipv4() { ("0.0.0.0", "ipv4") } else { ("::", "ipv6") };
    if listens.iter().any(|address| address == "*" || address == all) {
        return Ok(None);
    }
    let sysctl = format!("net.{family}.ip_nonlocal_bind");
    if !listens.contains(&vip.to_string()) {
        return Ok(Some(Unheard {
            never: true,
            what: format!("does not have {vip} of VIPS, so nobody answers there"),
            remedy: format!("set LISTEN_ADDRESSES to *, or add {vip} to it and set {sysctl} = 1"),
        }));
    }
    let nonlocal = root.read(format!("/proc/sys/{}", sysctl.replace('.', "/")))?.unwrap_or_default();
    Ok((nonlocal.trim() != "1").then(|| Unheard {
        never: false,
        what: format!("has {vip}, which may be elsewhere when PostgreSQL starts"),
        remedy: format!("set {sysctl} = 1 in /etc/sysctl.d"),
    }))
}

/// What PostgreSQL listens on: its own address, so that a new cluster is not in every network of the host; all addresses where
/// it has a virtual one, because PostgreSQL opens its sockets once, when that address may be elsewhere.
pub(crate) fn listen_addresses(
    root: &Root,
    settings: &Settings,
    address: IpAddr,
    vips: &[IpAddr],
    warnings: &mut Vec<String>,
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
    for vip in vips {
        if let Some(unheard) = unheard(root, &asked, *vip)? {
            warnings.push(format!("{place}LISTEN_ADDRESSES {}: {}", unheard.what, unheard.remedy));
        }
    }
    Ok(asked.join(","))
}
