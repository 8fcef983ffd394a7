//! Questions to the kernel about its sockets and addresses, and its answers (`netlink(7)`).
//!
//! One request and one pass over what the kernel has, without a process and without the text of `/proc`. The socket has short
//! timeouts, so that no program waits for a kernel that does not answer.

pub mod addresses;
pub mod sock_diag;

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{ReceiveTimeout, SendTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recvfrom, sendto, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Flags of a request (`NLM_F_*`).
pub const REQUEST: u16 = 0x1;
/// The kernel acknowledges the request.
pub const ACK: u16 = 0x4;
/// The kernel sends all that it has.
pub const DUMP: u16 = 0x300;
/// In an answer: what is sent has changed meanwhile.
const INTERRUPTED: u16 = 0x10;

/// The kind of an answer that is an error, or an acknowledgement with the error 0.
pub const ERROR: u16 = 2;
/// The kind of the last answer of a dump.
const DONE: u16 = 3;

/// `struct nlmsghdr`.
const HEADER: usize = 16;

/// `AF_INET` and `AF_INET6`, as messages have them.
pub const IPV4: u8 = 2;
/// See [`IPV4`].
pub const IPV6: u8 = 10;

/// For one answer; the kernel takes well under a millisecond.
const LIMIT_MILLISECONDS: i64 = 100;

/// The kernel sends a dump in parts of the largest size that was asked for, at most 32 KiB (`netlink_dump`).
const PART: usize = 64 * 1024;

/// A socket for requests.
pub fn open(protocol: SockProtocol) -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    let limit = TimeVal::milliseconds(LIMIT_MILLISECONDS);
    setsockopt(&socket, ReceiveTimeout, &limit)?;
    setsockopt(&socket, SendTimeout, &limit)?;
    Ok(socket)
}

/// `struct nlmsghdr` and the content of a request, whose length is a multiple of four.
#[must_use]
pub fn request(kind: u16, flags: u16, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + content.len()).unwrap_or(u32::MAX);
    let mut request = length.to_ne_bytes().to_vec();
    request.extend(kind.to_ne_bytes());
    request.extend((REQUEST | flags).to_ne_bytes());
    // No sequence number: there is one request at a time. No sender: the kernel knows it.
    request.extend([0; 8]);
    request.extend(content);
    request
}

/// Sends a request to the kernel.
pub fn send(socket: &OwnedFd, request: &[u8]) -> nix::Result<()> {
    sendto(socket.as_raw_fd(), request, &NetlinkAddr::new(0, 0), MsgFlags::empty()).map(drop)
}

/// Waits for the kernel's next answer, and ignores those of other processes.
pub fn receive<'a>(socket: &OwnedFd, buffer: &'a mut [u8]) -> nix::Result<&'a [u8]> {
    loop {
        match recvfrom::<NetlinkAddr>(socket.as_raw_fd(), buffer) {
            Ok((length, Some(sender))) if sender.pid() == 0 => return Ok(buffer.get(..length).unwrap_or_default()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// An answer, or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// What it is; the numbers depend on the protocol, except those of this module.
    pub kind: u16,
    flags: u16,
    /// Its content.
    pub body: &'a [u8],
}

/// The first message, and what follows it.
#[must_use]
pub fn message(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let length = number::<4>(bytes, 0).map(u32::from_ne_bytes)? as usize;
    let kind = number(bytes, 4).map(u16::from_ne_bytes)?;
    let flags = number(bytes, 6).map(u16::from_ne_bytes)?;
    let body = bytes.get(HEADER..length)?;
    Some((Message { kind, flags, body }, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The bytes of a number at a place.
pub(crate) fn number<const LENGTH: usize>(bytes: &[u8], at: usize) -> Option<[u8; LENGTH]> {
    bytes.get(at..at + LENGTH)?.try_into().ok()
}

/// The contents of all messages with which the kernel answers a request for a dump. It is an error if they changed meanwhile.
pub fn dump(socket: &OwnedFd, request: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    send(socket, request)?;
    let mut buffer = vec![0; PART];
    let mut found = Vec::new();
    loop {
        let mut rest = receive(socket, &mut buffer)?;
        while !rest.is_empty() {
            let (Message { kind, flags, body }, next) = message(rest).ok_or(ErrorKind::InvalidData)?;
            if flags & INTERRUPTED != 0 {
                return Err(ErrorKind::Interrupted.into());
            }
            match (kind, number(body, 0).map(i32::from_ne_bytes)) {
                (DONE, Some(0) | None) => return Ok(found),
                (DONE | ERROR, code) => return Err(io::Error::from_raw_os_error(-code.unwrap_or_default())),
                _ => found.push(body.to_vec()),
            }
            rest = next;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_the_kernel_sends_is_cut_with_care() {
        let mut two = request(7, DUMP, &[1, 2, 3, 4]);
        two.extend(request(DONE, 0, &[0; 4]));
        let (first, rest) = message(&two).unwrap();
        assert_eq!((first.kind, first.body), (7, &[1, 2, 3, 4][..]));
        let (second, rest) = message(rest).unwrap();
        assert_eq!((second.kind, second.body, rest.len()), (DONE, &[0; 4][..], 0));
        for broken in [&[][..], &[255; 20], &[0; 20], &two[..19]] {
            assert!(message(broken).is_none(), "{broken:?}");
        }
    }
}
