//! What a name server answers for a name, asked by bytes of our own and as often as one likes.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Between two questions, when somebody waits: a tight loop would take the processor that the measured program needs.
const PAUSE: Duration = Duration::from_micros(300);

/// A question for the IPv4 addresses of one name.
#[derive(Debug)]
pub struct Asker {
    socket: UdpSocket,
    query: Vec<u8>,
}

impl Asker {
    /// For a name at a server.
    pub fn new(name: &str, server: SocketAddr) -> Result<Self> {
        // RFC 1035, section 4.1: identity, no flags, one question; type A, class IN.
        let mut query = b"\x12\x34\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).context("a label is too long")?);
            query.extend(label.bytes());
        }
        query.extend(b"\x00\x00\x01\x00\x01");
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        Ok(Self { socket, query })
    }

    /// Asks once: the addresses, none where the name has none.
    pub fn ask(&self) -> Result<Vec<Ipv4Addr>> {
        self.socket.send(&self.query)?;
        let mut answer = [0; 4096];
        let length = self.socket.recv(&mut answer).context("the name server does not answer")?;
        self.addresses(&answer[..length]).context("the name server's answer cannot be read")
    }

    /// Each answer is a pointer to the name of the question (2 bytes), type, class, TTL, length and data.
    fn addresses(&self, answer: &[u8]) -> Option<Vec<Ipv4Addr>> {
        let count = u16::from_be_bytes(answer.get(6..8)?.try_into().ok()?);
        let mut rest = answer.get(self.query.len()..)?;
        let mut addresses = Vec::new();
        for _ in 0..count {
            let length = usize::from(u16::from_be_bytes(rest.get(10..12)?.try_into().ok()?));
            let data = rest.get(12..12 + length)?;
            if rest.get(..4)? == [0xc0, 12, 0, 1] {
                addresses.push(<[u8; 4]>::try_from(data).ok()?.into());
            }
            rest = rest.get(12 + length..)?;
        }
        Some(addresses)
    }

    /// Asks until the name has this address and no other one.
    pub fn until(&self, wanted: Ipv4Addr, limit: Duration) -> Result<Instant> {
        let end = Instant::now() + limit;
        loop {
            let found = self.ask()?;
            if found == [wanted] {
                return Ok(Instant::now());
            }
            if Instant::now() > end {
                bail!("the name has {found:?} and not {wanted} after {} s", limit.as_secs_f32());
            }
            thread::sleep(PAUSE);
        }
    }

    /// Fails unless the name has this address and no other one.
    pub fn expect(&self, wanted: Ipv4Addr) -> Result<()> {
        let found = self.ask()?;
        ensure!(found == [wanted], "the name has {found:?}, not {wanted}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let asker = Asker::new("pgsql.example.test", "127.0.0.1:53".parse().unwrap()).unwrap();
        let mut answer = asker.query.clone();
        assert_eq!(asker.addresses(&answer), Some(Vec::new()));
        answer[7] = 1;
        answer.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x1e\x00\x04\x0a\x4d\x00\x64");
        assert_eq!(asker.addresses(&answer), Some(vec![Ipv4Addr::new(10, 77, 0, 100)]));
        for length in 0..answer.len() {
            assert_eq!(asker.addresses(&answer[..length]), None, "{length}");
        }
    }
}
