//! The user to whom the other end of a connection on this host belongs, as the kernel reports it (`sock_diag(7)`).
//!
//! The listening socket is not looked up: it may be another one by the time that a process answers. The other end of the connection
//! itself can only be the one that answers. Until it is accepted it has no number (`inode`), and its user means nothing.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use host::netlink::sock_diag::{self, BY_FAMILY, Socket};
use host::netlink::{ERROR, IPV4, IPV6, message, receive, send};
use host::{Root, clusters};

/// How long a new connection may be unknown to the kernel.
const GRACE: Duration = Duration::from_millis(3);

/// Between two requests: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(5));

/// All states: a connection is found in any.
const STATES: u32 = u32::MAX;

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The user to whom it belongs.
    pub uid: u32,
    /// The number of its socket.
    pub inode: u64,
}

/// Waits until a connection is accepted; none if the kernel does not know its other end, which then is not on this host.
pub fn accepted(root: &Root, own: SocketAddr, peer: SocketAddr, end: Instant) -> io::Result<Option<End>> {
    let begin = Instant::now();
    let socket = sock_diag::open().ok();
    let mut pause = PAUSE.0;
    loop {
        let found = socket.as_ref().and_then(|socket| ask(socket, own, peer));
        // A kernel without tcp_diag answers like one that does not know the connection.
        let found = found.or_else(|| {
            let (uid, inode) = clusters::connection_owner(root, peer, own).ok()??;
            Some(End { uid, inode })
        });
        match found {
            Some(found) if found.inode != 0 => return Ok(Some(found)),
            None if begin.elapsed() > GRACE => return Ok(None),
            _ => {}
        }
        let left = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        thread::sleep(pause.min(left.ok_or(ErrorKind::TimedOut)?));
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// The socket at the other end.
fn ask(socket: &OwnedFd, own: SocketAddr, peer: SocketAddr) -> Option<End> {
    let identity = identity(own, peer);
    let family = if own.ip().to_canonical().is_ipv4() { IPV4 } else { IPV6 };
    send(socket, &sock_diag::request(BY_FAMILY, 0, family, STATES, &identity)).ok()?;
    let mut buffer = [0; 1024];
    let (answer, _) = message(receive(socket, &mut buffer).ok()?)?;
    if answer.kind == ERROR { None } else { read(answer.body, own, peer) }
}

/// `struct inet_diag_sockid`, seen from the other side.
fn identity(own: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let mut identity = Vec::with_capacity(48);
    identity.extend(peer.port().to_be_bytes());
    identity.extend(own.port().to_be_bytes());
    for address in [peer, own] {
        let mut bytes = [0; 16];
        match address.ip().to_canonical() {
            IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => bytes = address.octets(),
        }
        identity.extend(bytes);
    }
    let scope = if let SocketAddr::V6(address) = peer { address.scope_id() } else { 0 };
    identity.extend(scope.to_ne_bytes());
    // Any cookie.
    identity.extend([0xff; 8]);
    identity
}

/// The kernel's answer, if it is about this very connection: without one, it is about the listening socket.
fn read(body: &[u8], own: SocketAddr, peer: SocketAddr) -> Option<End> {
    let socket = Socket::parse(body)?;
    let plain = |end: SocketAddr| (end.ip().to_canonical(), end.port());
    let is_it = (socket.local, socket.remote) == (plain(peer), plain(own));
    is_it.then_some(End { uid: socket.uid, inode: socket.inode })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn ends(stream: &TcpStream) -> (SocketAddr, SocketAddr) {
        (stream.local_addr().unwrap(), stream.peer_addr().unwrap())
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(200)
    }

    #[test]
    fn the_other_end_is_known_once_it_is_accepted() {
        let (nowhere, here) = (Root::new("/nowhere"), Root::new("/"));
        for (listen, address) in [("127.0.0.1:0", "127.0.0.1"), ("[::]:0", "127.0.0.1"), ("[::]:0", "::1")] {
            let Ok(listener) = TcpListener::bind(listen) else { continue };
            let port = listener.local_addr().unwrap().port();
            let Ok(stream) = TcpStream::connect((address, port)) else { continue };
            let (own, peer) = ends(&stream);
            for root in [&nowhere, &here] {
                let begin = Instant::now();
                let waiting = accepted(root, own, peer, soon());
                assert_eq!(waiting.unwrap_err().kind(), ErrorKind::TimedOut, "{listen}");
                assert!(begin.elapsed() >= Duration::from_millis(190));
            }
            let _session = listener.accept().unwrap();
            // By sock_diag, and by the table alone.
            let found = accepted(&nowhere, own, peer, soon()).unwrap().unwrap();
            assert_eq!(found.uid, nix::unistd::geteuid().as_raw(), "{listen}");
            assert_eq!(
                clusters::connection_owner(&here, peer, own).unwrap(),
                Some((found.uid, found.inode)),
                "{listen}"
            );
        }
    }

    #[test]
    fn a_listening_socket_is_not_the_one_that_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = listener.local_addr().unwrap();
        // No such connection: the kernel finds the socket that listens.
        let own: SocketAddr = "127.0.0.1:1".parse().unwrap();
        assert_eq!(accepted(&Root::new("/"), own, peer, soon()).unwrap(), None);
        assert!(read(&[], own, peer).is_none() && read(&[2; 72], own, peer).is_none());
    }
}
