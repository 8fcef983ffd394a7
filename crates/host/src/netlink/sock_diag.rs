//! The TCP sockets of this host (`sock_diag(7)`). It needs no capability. A kernel without `tcp_diag` does not know the request.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use nix::sys::socket::SockProtocol;

use super::{DUMP, IPV4, IPV6, dump, number};

/// A request about sockets of a family (`SOCK_DIAG_BY_FAMILY`).
pub const BY_FAMILY: u16 = 20;

/// `TCP_LISTEN`, as a bit.
const LISTEN: u32 = 1 << 10;

const TCP: u8 = 6;

/// The place of `struct inet_diag_sockid` in `struct inet_diag_msg`.
pub const IDENTITY: std::ops::Range<usize> = 4..52;

/// The places of the user and of the number of the socket in `struct inet_diag_msg`.
const UID: usize = 64;
const INODE: usize = 68;

/// A socket as the kernel describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// The local address and port.
    pub local: (IpAddr, u16),
    /// The address and port of the other end.
    pub remote: (IpAddr, u16),
    /// The user to whom it belongs.
    pub uid: u32,
    /// Its inode, as in the links of `/proc/PID/fd`.
    pub inode: u64,
}

impl Socket {
    /// From `struct inet_diag_msg`. An IPv6 socket that also listens for IPv4 has mapped addresses, which become those of IPv4.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let identity = body.get(IDENTITY)?;
        let port = |at| number(identity, at).map(u16::from_be_bytes);
        let address = |at| match *body.first()? {
            IPV4 => number::<4>(identity, at).map(IpAddr::from),
            IPV6 => number::<16>(identity, at).map(|bytes| IpAddr::from(bytes).to_canonical()),
            _ => None,
        };
        Some(Self {
            local: (address(4)?, port(0)?),
            remote: (address(20)?, port(2)?),
            uid: number(body, UID).map(u32::from_ne_bytes)?,
            inode: number(body, INODE).map(u32::from_ne_bytes)?.into(),
        })
    }
}

/// A socket for such requests.
pub fn open() -> nix::Result<OwnedFd> {
    super::open(SockProtocol::NetlinkSockDiag)
}

/// A request about TCP sockets in these states (bits), with this `struct inet_diag_sockid` (`struct inet_diag_req_v2`).
#[must_use]
pub fn request(kind: u16, flags: u16, family: u8, states: u32, identity: &[u8]) -> Vec<u8> {
    let mut content = vec![family, TCP, 0, 0];
    content.extend(states.to_ne_bytes());
    content.extend(identity);
    super::request(kind, flags, &content)
}

/// A request for all TCP sockets in these states.
#[must_use]
pub fn request_all(family: u8, states: u32) -> Vec<u8> {
    request(BY_FAMILY, DUMP, family, states, &[0; IDENTITY.end - IDENTITY.start])
}

/// All TCP sockets that listen. The kernel keeps them apart from the others, so it does not search the table of connections.
pub fn listeners() -> io::Result<Vec<Socket>> {
    let socket = open()?;
    let mut found = Vec::new();
    for family in [IPV4, IPV6] {
        found.extend(dump(&socket, &request_all(family, LISTEN))?.iter().filter_map(|body| Socket::parse(body)));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn an_answer_is_parsed() {
        let mut body = vec![0; 72];
        body[0] = IPV4;
        body[4..6].copy_from_slice(&5433u16.to_be_bytes());
        body[8..12].copy_from_slice(&[127, 0, 0, 1]);
        body[UID..UID + 4].copy_from_slice(&112u32.to_ne_bytes());
        body[INODE..].copy_from_slice(&7u32.to_ne_bytes());
        let seen = Socket::parse(&body).unwrap();
        assert_eq!((seen.local, seen.uid, seen.inode), (("127.0.0.1".parse().unwrap(), 5433), 112, 7));
        assert_eq!(seen.remote, ("0.0.0.0".parse().unwrap(), 0));
        body[0] = IPV6;
        body[8..24].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 127, 0, 0, 1]);
        assert_eq!(
            Socket::parse(&body),
            Some(Socket { local: seen.local, remote: ("::".parse().unwrap(), 0), ..seen })
        );
        body[0] = 0;
        assert_eq!(Socket::parse(&body), None);
        assert_eq!(Socket::parse(&[IPV4; 71]), None);
        assert_eq!(request_all(IPV4, LISTEN).len(), 72);
    }

    #[test]
    fn a_socket_that_listens_is_found() {
        let bound = ["127.0.0.1:0", "[::1]:0"].map(TcpListener::bind);
        for listener in bound.iter().flatten() {
            let address = listener.local_addr().unwrap();
            let all = listeners().unwrap();
            let seen = all.iter().find(|socket| socket.local == (address.ip(), address.port())).unwrap();
            assert_eq!(seen.uid, nix::unistd::geteuid().as_raw());
            assert_ne!(seen.inode, 0);
        }
    }
}
