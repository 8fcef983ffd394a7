//! Where an update is sent: the zone of a name, and the servers of the zone.
//!
//! SOA and NS records are asked for at the name servers in `resolv.conf(5)`. So are the addresses of the servers that are found, since
//! the system's resolver ([`Lookup`]) waits 5 s for a name server that does not respond. It resolves short names, and what is not
//! found otherwise, for example because it is only in `/etc/hosts`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use domain::base::iana::{Rcode, Rtype};
use domain::base::{Message, ToName};
use domain::rdata::{A, Aaaa, Ns, Soa};
use host::facts::parse_address;
use host::net::resolve::Lookup;
use host::trouble::{Explain, Trouble};
use host::{Root, fail};

use super::exchange::{self, Limits, part};
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
    /// As it was configured: fully qualified, or to be completed by the system.
    Name(DnsName),
    /// From a SOA or NS record: fully qualified.
    Discovered(DnsName),
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(address) => SocketAddr::new(*address, self.port).fmt(f),
            Host::Name(name) | Host::Discovered(name) => write!(f, "{name}:{}", self.port),
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

    /// Starts to resolve its name. The name servers in `resolv.conf(5)` have until then, and what is left is the system's.
    pub(super) fn lookup(&self, resolvers: &Arc<Resolvers>, until: Instant) -> Lookup {
        let (name, text) = match &self.host {
            Host::Address(address) => return Lookup::start(&address.to_string(), self.port),
            // One label and the root.
            Host::Name(name) if name.label_count() <= 2 => return Lookup::start(&name.to_string(), self.port),
            Host::Name(name) => (name.clone(), name.to_string()),
            // The dot keeps the system from trying its search domains.
            Host::Discovered(name) => (name.clone(), format!("{name}.")),
        };
        let resolvers = Arc::clone(resolvers);
        Lookup::start_after(move || resolvers.addresses(&name, until), &text, self.port)
    }

    /// The server with the address that was used.
    pub(super) fn shown(&self, address: SocketAddr) -> String {
        match &self.host {
            Host::Address(_) => address.to_string(),
            Host::Name(name) | Host::Discovered(name) => format!("{name} ({address})"),
        }
    }
}

fn host_name(text: &str) -> Option<Host> {
    let good = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if good && !text.is_empty() && text != "." { name(text).ok().map(Host::Name) } else { None }
}

/// The name servers of `resolv.conf(5)`.
#[derive(Debug)]
pub(super) struct Resolvers {
    servers: Vec<SocketAddr>,
    /// The one that answered last. The next query goes there first, so that only one query waits for those that do not respond.
    last: AtomicUsize,
}

impl Resolvers {
    /// Those of the machine. If the file cannot be read, that is as if it did not exist, as it is for the C library.
    pub(super) fn read(root: &Root) -> Self {
        Self::parse(&root.read("/etc/resolv.conf").ok().flatten().unwrap_or_default())
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
        Self { servers, last: AtomicUsize::new(0) }
    }

    /// Asks one after the other.
    fn ask(&self, name: &DnsName, rtype: Rtype, until: Instant) -> Result<Message<Vec<u8>>> {
        let mut faults = Vec::new();
        let (first, count) = (self.last.load(Ordering::Relaxed), self.servers.len());
        for (left, index) in (1..=count).rev().zip((0..count).cycle().skip(first)) {
            let server = self.servers[index];
            let end = part(until, left).min(Instant::now() + RESOLVER_WAIT);
            match exchange::ask(server, &query(name, rtype, true)?, end) {
                Ok(answer) if matches!(answer.header().rcode(), Rcode::NOERROR | Rcode::NXDOMAIN) => {
                    self.last.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(answer) => faults.push(format!("{}: {}", server.ip(), answer.header().rcode())),
                Err(error) => faults.push(format!("{}: {}", server.ip(), Trouble::of(&error).line())),
            }
        }
        fail!(
            "no server in /etc/resolv.conf answers the query for the {rtype} of {name} ({})", faults.join("; ");
            "Correct /etc/resolv.conf, or set DNS_ZONE and DNS_SERVERS."
        )
    }

    /// The addresses of a fully qualified name, as far as they are found.
    fn addresses(&self, name: &DnsName, until: Instant) -> Vec<IpAddr> {
        let answers = [Rtype::A, Rtype::AAAA].into_iter().filter_map(|rtype| self.ask(name, rtype, until).ok());
        answers.flat_map(|answer| addresses_in(&answer).unwrap_or_default()).collect()
    }
}

/// All addresses in an answer: if the name is an alias, they are those of another one.
fn addresses_in(answer: &Message<Vec<u8>>) -> Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    for record in answer.answer()?.limit_to_in::<A>() {
        found.push(IpAddr::V4(record?.data().addr()));
    }
    for record in answer.answer()?.limit_to_in::<Aaaa>() {
        found.push(IpAddr::V6(record?.data().addr()));
    }
    Ok(found)
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
    resolvers: &Resolvers,
    of: &DnsName,
    zone: Option<DnsName>,
    until: Instant,
) -> Result<(DnsName, Vec<Server>)> {
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
        let server = Server { host: Host::Discovered(name), port: PORT };
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
    #![allow(clippy::unwrap_used)]
    use super::*;
    use domain::base::MessageBuilder;
    use std::net::{TcpListener, UdpSocket};
    use std::thread;

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
        assert_eq!(read.servers, ["10.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
        assert_eq!(Resolvers::parse("").servers, ["127.0.0.1:53".parse().unwrap()]);
    }

    /// A name server that has one address for every name, and no IPv6.
    fn answer_all(socket: &UdpSocket) {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let request = Message::from_octets(&buffer[..length]).unwrap();
            let mut answer = MessageBuilder::new_vec().start_answer(&request, Rcode::NOERROR).unwrap();
            let question = request.sole_question().unwrap();
            if question.qtype() == Rtype::A {
                answer.push((question.qname(), 60, A::from_octets(10, 0, 0, 7))).unwrap();
            }
            socket.send_to(&answer.finish(), from).unwrap();
        }
    }

    #[test]
    fn a_name_server_that_does_not_respond_costs_one_wait() {
        let bound = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let (mute, good) = (bound(), bound());
        let servers = vec![mute.local_addr().unwrap(), good.local_addr().unwrap()];
        // The kernel accepts connections there, but no program answers.
        let _tcp = TcpListener::bind(servers[0]).unwrap();
        thread::spawn(move || answer_all(&good));
        let resolvers = Arc::new(Resolvers { servers, last: AtomicUsize::new(0) });
        let begin = Instant::now();
        let until = begin + 5 * RESOLVER_WAIT;
        for host in [Host::Name(name("ns1.a.invalid").unwrap()), Host::Discovered(name("ns2.a.invalid").unwrap())] {
            let lookup = Server { host, port: 54 }.lookup(&resolvers, until);
            assert_eq!(lookup.wait(until).unwrap(), ["10.0.0.7:54".parse().unwrap()]);
        }
        assert_eq!(resolvers.last.load(Ordering::Relaxed), 1);
        assert!(begin.elapsed() < 2 * RESOLVER_WAIT);
        // What has one label is the system's.
        let short = Server::parse("localhost").unwrap().lookup(&resolvers, until);
        assert!(short.wait(until).unwrap().iter().all(|address| address.ip().is_loopback()));
    }
}
