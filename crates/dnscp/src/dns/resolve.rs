//! Where to send: addresses of names, the zone of a name, and the servers of the zone.
//!
//! Not by `getaddrinfo(3)`, which nothing bounds but what `resolv.conf` happens to say.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail, ensure};
use domain::base::iana::{Rcode, Rtype};
use domain::base::{Message, ToName};
use domain::rdata::{Ns, Soa};
use host::Root;
use host::facts::parse_address;

use super::exchange::{self, Limits, share};
use super::query::{DnsName, name, query};
use super::records::addresses_in;

const PORT: u16 = 53;

/// A resolver that is silent for so long is passed over.
const RESOLVER_WAIT: Duration = Duration::from_secs(2);

/// Of a zone with many servers, so many are tried.
const MOST_SERVERS: usize = 6;

/// A DNS server as it was set or discovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Address(IpAddr),
    Name(DnsName),
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(address) => SocketAddr::new(*address, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl Server {
    /// `10.0.0.1`, `10.0.0.1:53`, `fd00::1`, `[fd00::1]:53`, `ns1.example.org`, `ns1.example.org:53`.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let wrong = || format!("'{text}' in DNS_SERVERS is not host, host:port, address or [address]:port");
        if let Ok(address) = parse_address(text) {
            return Ok(Self { host: Host::Address(address), port: PORT });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().with_context(wrong)?),
            None => (text, PORT),
        };
        ensure!(port != 0 && !host.contains(':') || host.starts_with('['), "{}", wrong());
        if let Some(bare) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            return Ok(Self { host: Host::Address(parse_address(bare).with_context(wrong)?), port });
        }
        if let Ok(address) = parse_address(host) {
            return Ok(Self { host: Host::Address(address), port });
        }
        let good = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) && host != ".";
        ensure!(good && !host.is_empty(), "{}", wrong());
        Ok(Self { host: Host::Name(name(host).with_context(wrong)?), port })
    }

    /// Its addresses.
    pub(super) fn addresses(&self, root: &Root, until: Instant) -> Result<Vec<SocketAddr>> {
        let addresses = match &self.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => addresses(root, name, until)?,
        };
        Ok(addresses.into_iter().map(|address| SocketAddr::new(address, self.port)).collect())
    }

    /// The server with the address that was used.
    pub(super) fn shown(&self, address: SocketAddr) -> String {
        match &self.host {
            Host::Address(_) => address.to_string(),
            Host::Name(name) => format!("{name} ({address})"),
        }
    }
}

/// The resolvers and search domains of `resolv.conf(5)`.
struct Resolvers {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
}

impl Resolvers {
    fn read(root: &Root) -> Result<Self> {
        Ok(Self::parse(&root.read("/etc/resolv.conf")?.unwrap_or_default()))
    }

    fn parse(text: &str) -> Self {
        let (mut servers, mut search) = (Vec::new(), Vec::new());
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => servers.extend(words.next().and_then(resolver)),
                Some("search" | "domain") => search = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        // As the C library does.
        if servers.is_empty() {
            servers.push((Ipv4Addr::LOCALHOST, PORT).into());
        }
        servers.truncate(3);
        Self { servers, search }
    }

    /// Asks the resolvers in turn.
    fn ask(&self, name: &DnsName, rtype: Rtype, until: Instant) -> Result<Message<Vec<u8>>> {
        let mut faults = Vec::new();
        for (index, server) in self.servers.iter().enumerate() {
            let end = share(until, self.servers.len() - index).min(Instant::now() + RESOLVER_WAIT);
            match exchange::ask(*server, &query(name, rtype, true)?, end) {
                Ok(answer) if matches!(answer.header().rcode(), Rcode::NOERROR | Rcode::NXDOMAIN) => return Ok(answer),
                Ok(answer) => faults.push(format!("{}: {}", server.ip(), answer.header().rcode())),
                Err(error) => faults.push(format!("{}: {error:#}", server.ip())),
            }
        }
        bail!("the resolvers of /etc/resolv.conf cannot tell the {rtype} of {name} ({})", faults.join("; "))
    }
}

/// An address of a resolver; one that is link-local has its interface behind it.
fn resolver(text: &str) -> Option<SocketAddr> {
    match text.split_once('%') {
        Some((address, interface)) => {
            let scope = nix::net::if_::if_nametoindex(interface).ok()?;
            Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, scope).into())
        }
        None => Some(SocketAddr::new(text.parse().ok()?, PORT)),
    }
}

/// The addresses of a host, from `/etc/hosts` or from the resolvers.
fn addresses(root: &Root, host: &DnsName, until: Instant) -> Result<Vec<IpAddr>> {
    let hosts = root.read("/etc/hosts").ok().flatten().unwrap_or_default();
    let found = in_hosts(&hosts, &host.to_string());
    if !found.is_empty() {
        return Ok(found);
    }
    let resolvers = Resolvers::read(root)?;
    let mut candidates = vec![host.clone()];
    // One label and the root: a short name.
    if host.label_count() == 2 {
        candidates.splice(0..0, resolvers.search.iter().filter_map(|domain| name(&format!("{host}.{domain}")).ok()));
    }
    for candidate in &candidates {
        let mut found = Vec::new();
        for rtype in [Rtype::A, Rtype::AAAA] {
            found.extend(addresses_in(&resolvers.ask(candidate, rtype, until)?)?);
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    bail!("the name does not resolve: correct DNS_SERVERS, or use an address there")
}

/// The addresses of a name in the text of `hosts(5)`.
fn in_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let line = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.trim_end_matches('.').eq_ignore_ascii_case(host)).then_some(address)
    };
    text.lines().filter_map(line).collect()
}

/// The zone of a name and its servers, as the resolvers know them: the primary server of the SOA, then the NS.
pub(super) fn discover(
    root: &Root,
    of: &DnsName,
    zone: Option<DnsName>,
    until: Instant,
) -> Result<(DnsName, Vec<Server>)> {
    let resolvers = Resolvers::read(root)?;
    let start = zone.unwrap_or_else(|| of.clone());
    let found = find_zone(&start, |name| resolvers.ask(name, Rtype::SOA, until))
        .context("its servers are not set (DNS_SERVERS), and not found")?;
    let mut names = vec![found.primary];
    for record in resolvers.ask(&found.zone, Rtype::NS, until)?.answer()?.limit_to_in::<Ns<_>>() {
        names.push(record?.data().nsdname().to_vec());
    }
    let mut servers: Vec<Server> = Vec::new();
    for name in names {
        let server = Server { host: Host::Name(name), port: PORT };
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    servers.truncate(MOST_SERVERS);
    Ok((found.zone, servers))
}

/// The zone in which a server has the name.
pub(super) fn zone_at(server: SocketAddr, of: &DnsName, limits: Limits) -> Result<DnsName> {
    let ask = |name: &DnsName| exchange::ask(server, &query(name, Rtype::SOA, false)?, limits.patience);
    Ok(find_zone(of, ask)?.zone)
}

struct Found {
    zone: DnsName,
    primary: DnsName,
}

/// Asks for the SOA of the name, then of what is above it. An answer that has none may still name it (RFC 2308, section 3).
fn find_zone(of: &DnsName, ask: impl Fn(&DnsName) -> Result<Message<Vec<u8>>>) -> Result<Found> {
    let mut codes = Vec::new();
    for name in of.iter_suffixes() {
        if name.is_root() {
            break;
        }
        let name: DnsName = name.to_vec();
        let answer = ask(&name)?;
        if let Some(found) = soa_in(&answer, of)? {
            return Ok(found);
        }
        let code = answer.header().rcode().to_string();
        if !codes.contains(&code) {
            codes.push(code);
        }
    }
    Err(Error::msg(format!("the zone of {of} is not known there ({}): set DNS_ZONE and DNS_SERVERS", codes.join(", "))))
}

fn soa_in(answer: &Message<Vec<u8>>, of: &DnsName) -> Result<Option<Found>> {
    for section in [answer.answer()?, answer.authority()?] {
        for record in section.limit_to_in::<Soa<_>>() {
            let record = record?;
            if !record.owner().is_root() && of.ends_with(record.owner()) {
                return Ok(Some(Found { zone: record.owner().to_vec(), primary: record.data().mname().to_vec() }));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_in_every_form() {
        for (text, shown) in [
            ("10.0.0.1", "10.0.0.1:53"),
            ("10.0.0.1:5353", "10.0.0.1:5353"),
            ("fd00::1", "[fd00::1]:53"),
            ("[fd00::1]", "[fd00::1]:53"),
            ("[fd00::1]:5353", "[fd00::1]:5353"),
            ("ns1.example.org", "ns1.example.org:53"),
            ("ns1.example.org.:54", "ns1.example.org:54"),
        ] {
            assert_eq!(Server::parse(text).unwrap().to_string(), shown, "{text}");
        }
        for text in ["", ".", "a b", "a:b", "[fd00::1", "10.0.0.1:0", "10.0.0.1:70000", "fd00::1::2", "[x]:53", "a\"b"]
        {
            assert!(Server::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn resolv_conf_as_the_c_library_reads_it() {
        let read = Resolvers::parse(
            "# x\nsearch a.example b.example\nnameserver 10.0.0.1\nnameserver bad\nnameserver ::1 x\n",
        );
        assert_eq!(read.servers, ["10.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
        assert_eq!(read.search, ["a.example", "b.example"]);
        assert_eq!(Resolvers::parse("").servers, ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn hosts_file() {
        let text = "10.0.0.1 dc1.example dc1 # dc2\n::1 localhost\nfd00::1 DC1.example.\n";
        assert_eq!(in_hosts(text, "dc1.example").len(), 2);
        assert_eq!(in_hosts(text, "dc1"), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert!(in_hosts(text, "dc2").is_empty());
    }
}
