//! Resets the connections of an address that is about to be removed (`sock_diag(7)`, `SOCK_DESTROY`).
//!
//! Without the address PostgreSQL could no longer tell its clients that it stops, and a client would wait for an answer until its TCP
//! keepalive expires. So it gets a reset while the address is still here. A kernel without `CONFIG_INET_DIAG_DESTROY` cannot do that;
//! then the address is removed all the same.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use host::netlink::sock_diag::{self, IDENTITY};
use host::netlink::{ACK, ERROR, IPV4, IPV6, dump, message, receive, send};

/// `SOCK_DESTROY`.
const DESTROY: u16 = 21;

/// The removal of the address must not wait longer for this.
const LIMIT: Duration = Duration::from_millis(100);

/// `TCP_ESTABLISHED` to `TCP_FIN_WAIT2`, `TCP_CLOSE_WAIT`, `TCP_LAST_ACK`, `TCP_CLOSING`: not those that listen or are closed.
const STATES: u32 = 0b1011_0011_1110;

/// Resets every TCP connection of a local address, and returns their number.
#[must_use]
pub fn end(address: IpAddr) -> usize {
    try_end(address).unwrap_or(0)
}

fn try_end(address: IpAddr) -> io::Result<usize> {
    let family = if address.is_ipv4() { IPV4 } else { IPV6 };
    let socket = sock_diag::open()?;
    let all = dump(&socket, &sock_diag::request_all(family, STATES))?;
    let found = all.iter().filter_map(|body| body.get(IDENTITY)).filter(|identity| source(identity, address));
    let begin = Instant::now();
    let mut buffer = [0; 1024];
    let mut ended = 0;
    for identity in found.take_while(|_| begin.elapsed() < LIMIT) {
        send(&socket, &sock_diag::request(DESTROY, ACK, family, STATES, identity))?;
        match message(receive(&socket, &mut buffer)?) {
            Some((answer, _)) if answer.kind == ERROR && answer.body.get(..4) == Some(&[0; 4]) => ended += 1,
            // It may have been closed meanwhile; or the kernel cannot do this at all.
            _ if ended == 0 => return Ok(0),
            _ => {}
        }
    }
    Ok(ended)
}

/// The source address follows the two ports.
fn source(identity: &[u8], address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => identity.get(4..8) == Some(&address.octets()[..]),
        IpAddr::V6(address) => identity.get(4..20) == Some(&address.octets()[..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connections_of_the_address_are_ended() {
        assert!(source(&[0, 1, 0, 2, 10, 0, 0, 1], IpAddr::from([10, 0, 0, 1])));
        assert!(!source(&[0, 1, 0, 2, 10, 0, 0, 10], IpAddr::from([10, 0, 0, 1])));
        assert!(!source(&[], IpAddr::from([10, 0, 0, 1])));
    }
}
