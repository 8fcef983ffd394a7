//! Where an update is sent: the zone of a name, and the servers of the zone.
//!
//! Names of servers are resolved by the system ([`Lookup`]). It cannot be asked for SOA and NS records, so these queries go to the
//! name servers in `resolv.conf(5)`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use domain::base::iana::{Rcode, Rtype};
use domain::base::{Message, ToName};
use domain::rdata::{Ns, Soa};
use host::facts::parse_address;
use host::net::resolve::Lookup;
use host::trouble::{Explain, Trouble};
use host::{Root, fail};

use super::exchange::{self, Limits, share};
use super::query::{DnsName, name, query};

const PORT: u16 = 53;

/// A resolver that does not answer for so long is skipped.
const RESOLVER_WAIT: Duration = Duration::from_secs(2);

/// Of the servers of a zone, at most so many are tried.
const MOST_SERVERS: usize = 6;

/// A DNS server as it was configured or discovered.
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
        if let Ok(address) = parse_address(text) {
            return Ok(Self { host: Host::Address(address), port: PORT });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()),
            None => (text, Some(PORT)),
        };
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(bare) => parse_address(bare).ok().map(Host::Address),
            None => parse_address(host).ok().filter(IpAddr::is_ipv4).map(Host::Address).or_else(|| host_name(host)),
        };
        match (host, port) {
            (Some(host), Some(port)) if port != 0 => Ok(Self { host, port }),
            _ => fail!(
                "'{text}' in DNS_SERVERS is not the name or address of a server";
                "Write it as ns1.example.org, ns1.example.org:53, 10.0.0.1, 10.0.0.1:53 or [fd00::1]:53."
            ),
        }
    }

    /// Starts to resolve its name.
    pub(super) fn lookup(&self) -> Lookup {
        match &self.host {
            Host::Address(address) => Lookup::start(&address.to_string(), self.port),
            Host::Name(name) => Lookup::start(&name.to_string(), self.port),
        }
    }

    /// The server with the address that was used.
    pub(super) fn shown(&self, address: SocketAddr) -> String {
        match &self.host {
            Host::Address(_) => address.to_string(),
            Host::Name(name) => format!("{name} ({address})"),
        }
    }
}

fn host_name(text: &str) -> Option<Host> {
    let good = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if good && !text.is_empty() && text != "." { name(text).ok().map(Host::Name) } else { None }
}

/// The name servers of `resolv.conf(5)`.
struct Resolvers(Vec<SocketAddr>);

impl Resolvers {
    fn read(root: &Root) -> Result<Self> {
        Ok(Self::parse(&root.read("/etc/resolv.conf")?.unwrap_or_default()))
    }

    fn parse(text: &str) -> Self {
        let mut servers = Vec::new();
        for line in text.lines() {
            if let Some(("nameserver", rest)) = line.trim().split_once(char::is_whitespace) {
                servers.extend(rest.split_whitespace().next().and_then(resolver));
            }
        }
        // As the C library does.
        if servers.is_empty() {
            servers.push((Ipv4Addr::LOCALHOST, PORT).into());
        }
        servers.truncate(3);
        Self(servers)
    }

    /// Asks one after the other.
    fn ask(&self, name: &DnsName, rtype: Rtype, until: Instant) -> Result<Message<Vec<u8>>> {
        let mut faults = Vec::new();
        for (index, server) in self.0.iter().enumerate() {
            let end = share(until, self.0.len() - index).min(Instant::now() + RESOLVER_WAIT);
            match exchange::ask(*server, &query(name, rtype, true)?, end) {
                Ok(answer) if matches!(answer.header().rcode(), Rcode::NOERROR | Rcode::NXDOMAIN) => return Ok(answer),
                Ok(answer) => faults.push(format!("{}: {}", server.ip(), answer.header().rcode())),
                Err(error) => faults.push(format!("{}: {}", server.ip(), Trouble::of(&error).line())),
            }
        }
        fail!(
            "no server in /etc/resolv.conf answers the query for the {rtype} of {name} ({})", faults.join("; ");
            "Correct /etc/resolv.conf, or set DNS_ZONE and DNS_SERVERS."
        )
    }
}

/// The address of a resolver; a link-local one is followed by its interface.
fn resolver(text: &str) -> Option<SocketAddr> {
    match text.split_once('%') {
        Some((address, interface)) => {
            let scope = nix::net::if_::if_nametoindex(interface).ok()?;
            Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, scope).into())
        }
        None => Some(SocketAddr::new(text.parse().ok()?, PORT)),
    }
}

/// The zone of a name and its servers, from the resolvers: the primary server of the SOA record, then the NS records.
pub(super) fn discover(
    root: &Root,
    of: &DnsName,
    zone: Option<DnsName>,
    until: Instant,
) -> Result<(DnsName, Vec<Server>)> {
    let resolvers = Resolvers::read(root)?;
    let start = zone.unwrap_or_else(|| of.clone());
    let found = find_zone(&start, |name| resolvers.ask(name, Rtype::SOA, until))
        .context("its servers are not set in DNS_SERVERS, and were not found")
        .or_hint(|| "Set DNS_ZONE and DNS_SERVERS.".to_owned())?;
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

/// Asks for the SOA of the name, then of its parents. A negative answer may name it, too (RFC 2308, section 3).
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
    fail!("the zone of {of} is not known there ({})", codes.join(", "); "Set DNS_ZONE and DNS_SERVERS.")
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
        let read = Resolvers::parse("# x\nsearch a.example\nnameserver 10.0.0.1\nnameserver bad\nnameserver\t::1 x\n");
        assert_eq!(read.0, ["10.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
        assert_eq!(Resolvers::parse("").0, ["127.0.0.1:53".parse().unwrap()]);
    }
}
