//! The addresses of this host (`rtnetlink(7)`).

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::sys::socket::SockProtocol;

use super::{DUMP, IPV4, IPV6, dump, number, open, request};

/// A request for addresses (`RTM_GETADDR`).
const GET: u16 = 22;

/// `struct ifaddrmsg`.
const HEADER: usize = 8;

/// `RT_SCOPE_UNIVERSE`.
const GLOBAL: u8 = 0;

/// Attributes of an address (`IFA_*`).
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const FLAGS: u16 = 8;

/// `IFA_F_TEMPORARY` (RFC 8981); an IPv4 address with this bit is a secondary one.
const TEMPORARY: u32 = 0x01;
const DEPRECATED: u32 = 0x20;

/// An address of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Address {
    /// The number of its interface.
    interface: u32,
    /// The address and its prefix.
    net: IpNet,
    /// Is it global, and neither temporary nor deprecated?
    lasting: bool,
}

/// The global addresses, in the order of the interfaces and IPv4 first. Temporary and deprecated ones are left out, since they do not stay.
pub fn lasting() -> io::Result<Vec<IpNet>> {
    let socket = open(SockProtocol::NetlinkRoute)?;
    // Of all families.
    let answers = dump(&socket, &request(GET, DUMP, &[0; HEADER]))?;
    let mut found: Vec<Address> = answers.iter().filter_map(|body| parse(body)).filter(|found| found.lasting).collect();
    found.sort_by_key(|found| (found.interface, found.net.addr().is_ipv6()));
    Ok(found.into_iter().map(|found| found.net).collect())
}

/// From `struct ifaddrmsg` and its attributes.
fn parse(body: &[u8]) -> Option<Address> {
    let [family, prefix, flags, scope] = number(body, 0)?;
    let interface = number(body, 4).map(u32::from_ne_bytes)?;
    let (mut local, mut address, mut flags) = (None, None, u32::from(flags));
    let mut rest = body.get(HEADER..)?;
    while let Some((kind, value, next)) = attribute(rest) {
        match kind {
            ADDRESS => address = ip(family, value),
            LOCAL => local = ip(family, value),
            FLAGS => flags = number(value, 0).map(u32::from_ne_bytes)?,
            _ => {}
        }
        rest = next;
    }
    // The address of an interface with a peer is the local one; otherwise there may be only one.
    let net = IpNet::new(local.or(address)?, prefix).ok()?;
    let temporary = family == IPV6 && flags & TEMPORARY != 0;
    Some(Address { interface, net, lasting: scope == GLOBAL && !temporary && flags & DEPRECATED == 0 })
}

/// The first attribute (`struct rtattr`): its kind, its value, and what follows it.
fn attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = number(bytes, 0).map(u16::from_ne_bytes)?.into();
    let kind = number(bytes, 2).map(u16::from_ne_bytes)?;
    Some((kind, bytes.get(4..length)?, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn ip(family: u8, value: &[u8]) -> Option<IpAddr> {
    match family {
        IPV4 => number::<4>(value, 0).map(IpAddr::from),
        IPV6 => number::<16>(value, 0).map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn message(family: u8, prefix: u8, scope: u8, flags: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![family, prefix, 0, scope, 2, 0, 0, 0];
        let flags = flags.to_ne_bytes();
        for (kind, value) in attributes.iter().chain([&(FLAGS, &flags[..])]) {
            body.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        body
    }

    fn seen(body: &[u8]) -> Option<(String, bool)> {
        parse(body).map(|address| (address.net.to_string(), address.lasting))
    }

    #[test]
    fn an_answer_is_parsed() {
        // A label of three letters and a zero, and one that has to be filled up.
        let four = |scope, flags| {
            let attributes: [(u16, &[u8]); 4] =
                [(ADDRESS, &[10, 0, 0, 9]), (LOCAL, &[10, 0, 0, 5]), (3, b"eth\0"), (3, b"eth10\0")];
            message(IPV4, 24, scope, flags, &attributes)
        };
        assert_eq!(seen(&four(0, TEMPORARY)), Some(("10.0.0.5/24".to_owned(), true)));
        assert_eq!(seen(&four(0, DEPRECATED)), Some(("10.0.0.5/24".to_owned(), false)));
        assert_eq!(seen(&four(254, 0)), Some(("10.0.0.5/24".to_owned(), false)));
        let six =
            |flags| message(IPV6, 64, 0, flags, &[(ADDRESS, &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5])]);
        assert_eq!(seen(&six(0)), Some(("fd00::5/64".to_owned(), true)));
        assert_eq!(seen(&six(TEMPORARY)), Some(("fd00::5/64".to_owned(), false)));
        assert_eq!(seen(&message(IPV4, 33, 0, 0, &[(LOCAL, &[10, 0, 0, 5])])), None);
        assert_eq!(seen(&message(IPV4, 24, 0, 0, &[])), None);
        assert_eq!(seen(&[IPV4; 7]), None);
    }

    #[test]
    fn they_are_some_of_those_that_the_c_library_lists() {
        let listed: Vec<IpAddr> = nix::ifaddrs::getifaddrs()
            .unwrap()
            .filter_map(|entry| {
                let address = entry.address?;
                let four = address.as_sockaddr_in().map(|four| IpAddr::from(four.ip()));
                four.or_else(|| address.as_sockaddr_in6().map(|six| six.ip().into()))
            })
            .collect();
        let found = lasting().unwrap();
        assert!(found.iter().all(|net| !net.addr().is_loopback() && listed.contains(&net.addr())), "{found:?}");
    }
}
