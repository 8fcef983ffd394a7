//! Addresses of servers, from the system's resolver (`getaddrinfo(3)`): `/etc/hosts`, DNS, and what else `nsswitch.conf(5)` names.
//!
//! Only `resolv.conf(5)` limits how long it takes, so it runs in a thread that is not waited for after the deadline. It is the resolver
//! of the machine, also where a folder stands for the machine, as the network is.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Instant;

/// A name that is being resolved.
#[derive(Debug)]
pub struct Lookup(Receiver<io::Result<Vec<SocketAddr>>>);

impl Lookup {
    /// Starts to resolve a name; an address is its own result.
    #[must_use]
    pub fn start(host: &str, port: u16) -> Self {
        Self::start_after(Vec::new, host, port)
    }

    /// Starts to resolve a name. The system resolves it only if `first`, which runs in the same thread, finds nothing.
    #[must_use]
    pub fn start_after(first: impl FnOnce() -> Vec<IpAddr> + Send + 'static, host: &str, port: u16) -> Self {
        let (sender, receiver) = mpsc::channel();
        if let Ok(address) = host.parse::<IpAddr>() {
            let _ = sender.send(Ok(vec![SocketAddr::new(address, port)]));
            return Self(receiver);
        }
        let (name, failed) = (host.to_owned(), sender.clone());
        let work = move || {
            let found = first();
            let _ = sender.send(if found.is_empty() {
                (name.as_str(), port).to_socket_addrs().map(Iterator::collect).map_err(plain)
            } else {
                Ok(found.into_iter().map(|address| SocketAddr::new(address, port)).collect())
            });
        };
        if let Err(error) = thread::Builder::new().name("resolve".to_owned()).spawn(work) {
            let _ = failed.send(Err(error));
        }
        Self(receiver)
    }

    /// Waits for the addresses, at least one.
    pub fn wait(&self, end: Instant) -> io::Result<Vec<SocketAddr>> {
        let late = |_| io::Error::new(ErrorKind::TimedOut, "the resolver did not answer in time");
        let found = self.0.recv_timeout(end.saturating_duration_since(Instant::now())).map_err(late)??;
        if found.is_empty() { Err(io::Error::other("it has no address")) } else { Ok(found) }
    }
}

/// The error without the words that Rust puts before every one.
fn plain(error: io::Error) -> io::Error {
    match error.to_string().strip_prefix("failed to lookup address information: ") {
        Some(reason) => io::Error::new(error.kind(), reason.to_owned()),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_address_needs_no_resolver_and_a_deadline_holds() {
        let found = Lookup::start("fd00::1", 53).wait(Instant::now()).unwrap();
        assert_eq!(found, ["[fd00::1]:53".parse().unwrap()]);
        let found = Lookup::start("localhost", 53).wait(Instant::now() + Duration::from_secs(5)).unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 53), "{found:?}");
        let end = Instant::now() + Duration::from_secs(5);
        let found = Lookup::start_after(|| vec![[10, 0, 0, 1].into()], "localhost", 53).wait(end).unwrap();
        assert_eq!(found, ["10.0.0.1:53".parse().unwrap()]);
        let begin = Instant::now();
        let (_sender, receiver) = mpsc::channel();
        let error = Lookup(receiver).wait(begin + Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
}
