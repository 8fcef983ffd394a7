//! Resets the connections of an address that is about to be removed (`sock_diag(7)`, `SOCK_DESTROY`).
//!
//! Without the address PostgreSQL could no longer tell its clients that it stops, and a client would wait for an answer until its TCP
//! keepalive expires. So it gets a reset while the address is still here. A kernel without `CONFIG_INET_DIAG_DESTROY` cannot do that;
//! then the address is removed all the same.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::{ReceiveTimeout, SendTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

pub(crate) const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
pub(crate) const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const DONE: u16 = 3;
pub(crate) const ERROR: u16 = 2;
const TCP: u8 = 6;

/// The removal of the address must not wait longer for this.
const LIMIT: Duration = Duration::from_millis(100);

/// `TCP_ESTABLISHED` to `TCP_FIN_WAIT2`, `TCP_CLOSE_WAIT`, `TCP_LAST_ACK`, `TCP_CLOSING`: not those that listen or are closed.
const STATES: u32 = 0b1011_0011_1110;

/// `struct nlmsghdr`.
const HEADER: usize = 16;

/// Where `struct inet_diag_sockid` lies in `struct inet_diag_msg`, and how long it is.
pub(crate) const IDENTITY: std::ops::Range<usize> = 4..52;

/// Resets every TCP connection of a local address, and returns their number.
#[must_use]
pub fn end(address: IpAddr) -> usize {
    try_end(address).unwrap_or(0)
}

fn try_end(address: IpAddr) -> nix::Result<usize> {
    let family = if address.is_ipv4() { 2 } else { 10 };
    let socket = open()?;
    send(&socket, &request(BY_FAMILY, REQUEST | DUMP, family, &[0; 48]))?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    'dump: loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((kind, body, next)) = message(rest) {
            match kind {
                DONE | ERROR => break 'dump,
                _ => found.extend(body.get(IDENTITY).filter(|identity| source(identity, address)).map(<[u8]>::to_vec)),
            }
            rest = next;
        }
        if length == 0 {
            break;
        }
    }
    let begin = Instant::now();
    let mut ended = 0;
    for identity in found.iter().take_while(|_| begin.elapsed() < LIMIT) {
        send(&socket, &request(DESTROY, REQUEST | ACK, family, identity))?;
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        match message(buffer.get(..length).unwrap_or_default()) {
            Some((ERROR, body, _)) if body.get(..4) == Some(&[0; 4]) => ended += 1,
            // It may have been closed meanwhile; or the kernel cannot do this at all.
            _ if ended == 0 => return Ok(0),
            _ => {}
        }
    }
    Ok(ended)
}

/// A socket for such requests, with short timeouts.
pub(crate) fn open() -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    let limit = TimeVal::milliseconds(100);
    setsockopt(&socket, ReceiveTimeout, &limit)?;
    setsockopt(&socket, SendTimeout, &limit)?;
    Ok(socket)
}

/// The source address follows the two ports.
fn source(identity: &[u8], address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => identity.get(4..8) == Some(&address.octets()[..]),
        IpAddr::V6(address) => identity.get(4..20) == Some(&address.octets()[..]),
    }
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
pub(crate) fn request(kind: u16, flags: u16, family: u8, identity: &[u8]) -> Vec<u8> {
    const LENGTH: u32 = 72;
    let mut request = LENGTH.to_ne_bytes().to_vec();
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([family, TCP, 0, 0]);
    request.extend(STATES.to_ne_bytes());
    request.extend(identity);
    request
}

/// The first message: its kind, its body, and what follows it.
pub(crate) fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

pub(crate) fn send(socket: &OwnedFd, request: &[u8]) -> nix::Result<()> {
    sendto(socket.as_raw_fd(), request, &NetlinkAddr::new(0, 0), MsgFlags::empty()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_sends_is_cut_with_care() {
        assert_eq!(request(DESTROY, REQUEST, 2, &[0; 48]).len(), 72);
        assert!(message(&[]).is_none() && message(&[255; 20]).is_none() && message(&[0; 20]).is_none());
        assert!(source(&[0, 1, 0, 2, 10, 0, 0, 1], IpAddr::from([10, 0, 0, 1])));
        assert!(!source(&[0, 1, 0, 2, 10, 0, 0, 10], IpAddr::from([10, 0, 0, 1])));
        assert!(!source(&[], IpAddr::from([10, 0, 0, 1])));
    }
}
