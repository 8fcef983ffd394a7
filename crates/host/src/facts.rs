//! Facts about this host: its name, its addresses, its memory and its processors.

use std::io::Write;
use std::net::{IpAddr, UdpSocket};
use std::process::Stdio;
use std::str::FromStr;

use anyhow::{Context, Result};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use crate::{Root, fail, netlink, program, trouble};

/// The host name, as `hostname` prints it.
pub fn host_name(root: &Root) -> Result<String> {
    let name = root.read("/proc/sys/kernel/hostname")?.unwrap_or_default();
    let name = name.trim();
    if name.is_empty() || name == "(none)" {
        fail!("this host has no name"; "Set one with hostnamectl, or set MEMBER_NAME.");
    }
    Ok(name.to_owned())
}

/// The domain of this host, from its full name in `/etc/hosts` or from `/etc/resolv.conf`; none if neither has one.
pub fn domain(root: &Root) -> Result<Option<String>> {
    let name = host_name(root)?;
    if let Some((_, domain)) = name.split_once('.') {
        return Ok(Some(domain.to_ascii_lowercase()));
    }
    let prefix = format!("{name}.");
    let hosts = root.read("/etc/hosts")?.unwrap_or_default();
    let full = hosts
        .lines()
        .flat_map(|line| line.split('#').next().unwrap_or_default().split_whitespace().skip(1))
        .find_map(|word| word.strip_prefix(&prefix));
    if let Some(domain) = full {
        return Ok(Some(domain.to_ascii_lowercase()));
    }
    let resolver = root.read("/etc/resolv.conf")?.unwrap_or_default();
    Ok(resolver.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        matches!(words.next(), Some("search" | "domain"))
            .then(|| words.next())?
            .map(|domain| domain.trim_end_matches('.').to_ascii_lowercase())
    }))
}

/// The memory of this host in MiB, rounded to a multiple of 256 MiB, because a kernel reserves some of it, and each
/// version another amount.
pub fn memory(root: &Root) -> Result<u64> {
    const STEP: u64 = 256;
    let text = root.read("/proc/meminfo")?.unwrap_or_default();
    let kilobytes = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .context("could not determine the memory of this host from /proc/meminfo")?;
    let megabytes = kilobytes / 1024;
    Ok(((megabytes + STEP / 2) / STEP * STEP).max(STEP))
}

/// How many processors are online: those with a line in `/proc/stat`.
pub fn processors(root: &Root) -> Result<u64> {
    let text = root.read("/proc/stat")?.unwrap_or_default();
    let processor =
        |line: &&str| line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    match text.lines().filter(processor).count() {
        0 => fail!("could not determine the number of processors from /proc/stat"),
        count => Ok(count as u64),
    }
}

const UNREADABLE: &str = "could not parse the output of ip -j address";

/// An address of this host with its prefix, for example `10.88.0.11/24`.
pub type HostAddress = IpNet;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether the administrator switched it on. A missing cable makes no difference.
    pub up: bool,
    /// Whether it is the loopback interface.
    pub loopback: bool,
    /// Its addresses with their prefix lengths; virtual ones may be among them.
    pub addresses: Vec<IpNet>,
    /// What more is known of each of them.
    pub entries: Vec<Entry>,
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The address with its prefix length.
    pub net: IpNet,
    /// Does the host not use it for connections of its own (RFC 4862)? dnscp adds its addresses so.
    pub deprecated: bool,
    /// Has it a lifetime, as one from DHCP?
    pub dynamic: bool,
}

impl Interface {
    /// An interface that is up and not loopback.
    #[must_use]
    pub fn new(name: &str, entries: Vec<Entry>) -> Self {
        let addresses = entries.iter().map(|entry| entry.net).collect();
        Self { name: name.to_owned(), up: true, loopback: false, addresses, entries }
    }
}

#[derive(Deserialize)]
struct Route {
    prefsrc: Option<IpAddr>,
}

#[derive(Deserialize)]
struct Link {
    #[serde(default)]
    ifname: String,
    // Always there in the output of `ip`.
    flags: Option<Vec<String>>,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    // Missing if `ip` leaves an empty entry for an address of another scope.
    scope: Option<String>,
    local: Option<IpAddr>,
    prefixlen: Option<u8>,
    #[serde(default)]
    temporary: bool,
    #[serde(default)]
    deprecated: bool,
    #[serde(default)]
    dynamic: bool,
}

/// The global addresses of this host with their prefixes. Temporary (RFC 8981) and deprecated ones are left out, since they do not stay.
pub fn addresses(root: &Root) -> Result<Vec<HostAddress>> {
    match of_the_kernel(root) {
        Some(addresses) => Ok(addresses),
        None => Ok(lasting(&links(root, &["scope", "global"])?)),
    }
}

/// The same as the kernel answers, which takes a hundredth of the time in which `ip` starts. None if the root is a folder, in which `ip`
/// represents the kernel.
fn of_the_kernel(root: &Root) -> Option<Vec<HostAddress>> {
    if root.is_this_machine() { netlink::addresses::lasting().ok() } else { None }
}

/// The network interfaces of this host with all their addresses.
pub fn interfaces(root: &Root) -> Result<Vec<Interface>> {
    let interface = |link: Link| {
        let has = |flag: &str| link.flags.as_ref().map(|flags| flags.iter().any(|found| found == flag));
        Interface {
            up: has("UP").unwrap_or(true),
            loopback: has("LOOPBACK").unwrap_or(link.ifname == "lo"),
            ..Interface::new(&link.ifname, link.addr_info.iter().filter_map(Address::entry).collect())
        }
    };
    Ok(links(root, &[])?.into_iter().filter(|link| !link.ifname.is_empty()).map(interface).collect())
}

fn links(root: &Root, which: &[&str]) -> Result<Vec<Link>> {
    let mut command = program::command(root, "ip")?;
    let printed = program::capture(command.args(["-j", "address", "show"]).args(which))?;
    serde_json::from_str(&printed).context(UNREADABLE)
}

/// The addresses that [`addresses`] returns.
fn lasting(links: &[Link]) -> Vec<HostAddress> {
    let lasts =
        |address: &&Address| address.scope.as_deref() == Some("global") && !address.temporary && !address.deprecated;
    links.iter().flat_map(|link| &link.addr_info).filter(lasts).filter_map(Address::net).collect()
}

impl Address {
    fn net(&self) -> Option<IpNet> {
        IpNet::new(self.local?, self.prefixlen?).ok()
    }

    fn entry(&self) -> Option<Entry> {
        Some(Entry { net: self.net()?, deprecated: self.deprecated, dynamic: self.dynamic })
    }
}

/// The address at which this host is reached: the source address of its default route, IPv4 before IPv6; without a
/// default route its only global address.
pub fn main_address(root: &Root) -> Result<HostAddress> {
    let (addresses, sources) = addresses_and_sources(root)?;
    let of_a_route = |source: &IpAddr| addresses.iter().find(|address| address.addr() == *source);
    if let Some(found) = sources.iter().find_map(of_a_route) {
        return Ok(*found);
    }
    match addresses.as_slice() {
        [only] => Ok(*only),
        [] => fail!("this host has no address other than loopback"; "Set HOST_ADDRESS and NETWORK."),
        several => {
            let several: Vec<String> = several.iter().map(ToString::to_string).collect();
            fail!(
                "this host has no default route and several addresses ({})", several.join(", ");
                "Set HOST_ADDRESS to the one at which the other members can reach it."
            )
        }
    }
}

/// Documentation addresses (RFC 5737, RFC 3849): routed only by the default route.
const OUTSIDE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// The addresses, and the source addresses of the routes to the outside, as far as there are any.
fn addresses_and_sources(root: &Root) -> Result<(Vec<HostAddress>, Vec<IpAddr>)> {
    match of_the_kernel(root) {
        Some(addresses) => Ok((addresses, OUTSIDE.iter().filter_map(|outside| source(outside)).collect())),
        None => addresses_and_sources_by_ip(root),
    }
}

/// The source address with which the kernel would reach another one. A datagram socket gets it when it is connected, which sends nothing.
fn source(outside: &str) -> Option<IpAddr> {
    let outside: IpAddr = outside.parse().ok()?;
    let own = if outside.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(own).ok()?;
    socket.connect((outside, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// The same by one call of `ip`, which prints nothing for a missing route.
fn addresses_and_sources_by_ip(root: &Root) -> Result<(Vec<HostAddress>, Vec<IpAddr>)> {
    let mut questions = "address show scope global\n".to_owned();
    for outside in OUTSIDE {
        questions.extend(["route get ", outside, "\n"]);
    }
    let mut command = program::command(root, "ip")?;
    command.args(["-j", "-force", "-batch", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let context = format!("could not run {}", program::command_line(&command));
    let mut child = command.spawn().with_context(|| context.clone())?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(questions.as_bytes()).with_context(|| context.clone())?;
    }
    let output = child.wait_with_output().context(context)?;
    let mut answers = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let Some(links) = answers.next() else {
        fail!("ip -j address failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    };
    let links: Vec<Link> = links.and_then(serde_json::from_value).context(UNREADABLE)?;
    let addresses = lasting(&links);
    let sources = answers
        .map_while(Result::ok)
        .filter_map(|answer| serde_json::from_value::<Vec<Route>>(answer).ok())
        .flat_map(|routes| routes.into_iter().filter_map(|route| route.prefsrc))
        .collect();
    Ok((addresses, sources))
}

/// An address in a setting: `10.0.0.1`, `fd00::1` or `[fd00::1]`, without a prefix.
pub fn parse_address(text: &str) -> Result<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    match IpAddr::from_str(bare) {
        Ok(address) => Ok(address),
        Err(_) if text.contains('/') => {
            fail!("'{text}' has a prefix"; "Write the address alone, and the network in NETWORK.")
        }
        Err(_) => fail!("'{text}' is not an IP address"; "Write it as 10.0.0.1 or fd00::1."),
    }
}

/// A network in a setting, `10.0.0.0/24`; host bits are cleared, so that `10.0.0.5/24` is the same network.
pub fn parse_network(text: &str) -> Result<IpNet> {
    let network = IpNet::from_str(text);
    let network =
        network.map_err(|_| trouble!("'{text}' is not a network"; "Write it as 10.0.0.0/24 or fd00::/64."))?;
    Ok(network.trunc())
}

/// `host:port` with brackets around an IPv6 address (RFC 3986, section 3.2.2).
#[must_use]
pub fn host_port(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::trouble::told;

    fn host_with_ip(script: &str) -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        let batch = "[ \"$2\" != -force ] || { while read -r line; do \"$0\" -j $line; done; exit; }";
        lab::program::write(folder.path().join("usr/bin/ip"), format!("#!/bin/sh\n{batch}\n{script}\n")).unwrap();
        let root = Root::new(folder.path());
        (folder, root)
    }

    const ADDRESSES: &str = r#"[{"ifname":"a","addr_info":[{"family":"inet","local":"10.0.0.5","prefixlen":24,"scope":"global"},
        {"family":"inet6","local":"fd00::5","prefixlen":64,"scope":"global"},
        {"family":"inet6","local":"fd00::99","prefixlen":64,"scope":"global","temporary":true},{}]},{}]"#;

    #[test]
    fn the_default_route_decides() {
        let (_folder, root) = host_with_ip(&format!(
            "case $* in *address*) echo '{ADDRESSES}';; *192.0.2.1) exit 2;; *) echo '[{{\"prefsrc\":\"fd00::5\"}}]';; esac"
        ));
        assert_eq!(main_address(&root).unwrap().to_string(), "fd00::5/64");
    }

    #[test]
    fn without_a_default_route_an_ambiguous_host_is_asked_to_say() {
        let (_folder, root) = host_with_ip(&format!("case $* in *address*) echo '{ADDRESSES}';; *) exit 2;; esac"));
        let error = main_address(&root).unwrap_err().to_string();
        assert!(error.contains("10.0.0.5/24, fd00::5/64"), "{error}");
    }

    #[test]
    fn the_kernel_answers_what_ip_prints() {
        let here = Root::new("/");
        if here.program("ip").is_err() {
            return;
        }
        // Addresses of the host that runs the tests may come and go.
        let same = || addresses_and_sources(&here).unwrap() == addresses_and_sources_by_ip(&here).unwrap();
        assert!((0..5).any(|_| same()), "{:?}", addresses_and_sources(&here));
    }

    #[test]
    fn memory_and_processors() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        assert!(memory(&root).is_err() && processors(&root).is_err());
        std::fs::create_dir_all(folder.path().join("proc")).unwrap();
        for (total, megabytes) in [("2004736", 2048), ("16326588", 15872), ("1000", 256)] {
            std::fs::write(folder.path().join("proc/meminfo"), format!("MemTotal:  {total} kB\nMemFree: 1 kB\n"))
                .unwrap();
            assert_eq!(memory(&root).unwrap(), megabytes);
        }
        std::fs::write(folder.path().join("proc/stat"), "cpu  1 2 3\ncpu0 1 2 3\ncpu3 1 2 3\nintr 7\n").unwrap();
        assert_eq!(processors(&root).unwrap(), 2);
    }

    #[test]
    fn addresses_that_people_write() {
        assert_eq!(parse_address("[fd00::1]").unwrap(), parse_address("fd00::1").unwrap());
        assert!(told(&parse_address("1.2.3.4/24").unwrap_err()).contains("NETWORK"));
        assert_eq!(parse_network("10.0.0.5/24").unwrap().to_string(), "10.0.0.0/24");
        assert_eq!(host_port(parse_address("fd00::1").unwrap(), 8008), "[fd00::1]:8008");
    }
}
