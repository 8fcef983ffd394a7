//! One request and its answer, before a deadline.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow};
use domain::base::Message;
use host::{fail, net, trouble};

/// Without EDNS, a message by UDP is not longer (RFC 1035, section 4.2.1).
const UDP_LIMIT: usize = 512;

/// The first wait for an answer by UDP; each next one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// The kernel ends a socket's wait late by up to an eighth of it (`kernel/time/timer.c`), so a long one is cut.
const SLICE: Duration = Duration::from_millis(200);

/// The least that one server of several gets, if the deadline has as much.
const LEAST_SHARE: Duration = Duration::from_secs(1);

/// How long one server may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Until its first answer.
    pub(super) patience: Instant,
    /// For all of it.
    pub(super) until: Instant,
}

/// The end of the share that the first of `count` has of the time until `deadline`.
pub(super) fn share(deadline: Instant, count: usize) -> Instant {
    let now = Instant::now();
    part(deadline, count).max(now + LEAST_SHARE).min(deadline.max(now))
}

/// The same, however short that is.
pub(super) fn part(deadline: Instant, count: usize) -> Instant {
    let now = Instant::now();
    let left = deadline.saturating_duration_since(now);
    now + left / u32::try_from(count.max(1)).unwrap_or(u32::MAX)
}

/// Why there is no answer.
#[derive(Debug)]
enum Fault {
    /// Nobody listens on the port.
    Refused,
    Unreachable(io::Error),
    /// It accepts the connection, but sends nothing.
    Mute,
    Silent,
    Other(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Self::Unreachable(error),
            // A socket with a time limit returns EAGAIN, connect() with one returns ETIMEDOUT.
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::Silent,
            _ => Self::Other(error),
        }
    }
}

impl Fault {
    fn explain(&self, after: Duration) -> Error {
        let after = after.as_secs_f32();
        match self {
            Self::Refused => {
                trouble!("no DNS server runs there (connection refused)"; "Start it, or name another one in DNS_SERVERS.").into()
            }
            Self::Unreachable(error) => {
                trouble!("it cannot be reached ({})", net::reason(error); "Check the network, or name another server in DNS_SERVERS.").into()
            }
            Self::Mute => trouble!(
                "it accepts the connection, but did not answer within {after:.1} s";
                "Restart it, or name another server in DNS_SERVERS."
            )
            .into(),
            Self::Silent => trouble!(
                "it did not answer within {after:.1} s";
                "Start it, or open port 53 in the firewalls between."
            )
            .into(),
            Self::Other(error) => anyhow!("{error}"),
        }
    }
}

/// Sends a query, which changes nothing.
pub(super) fn ask(server: SocketAddr, request: &[u8], until: Instant) -> Result<Message<Vec<u8>>> {
    exchange(server, request, &|| true, until)?.context("nothing was sent")
}

/// Sends a request and waits for its answer, over UDP, or over TCP if that fails or is too short. `may_send` is called before each
/// sending; `None` if it returns false.
pub(super) fn exchange(
    server: SocketAddr,
    request: &[u8],
    may_send: &dyn Fn() -> bool,
    until: Instant,
) -> Result<Option<Message<Vec<u8>>>> {
    let begin = Instant::now();
    // A firewall may let TCP through and not UDP.
    let half = begin + until.saturating_duration_since(begin) / 2;
    let reply = match udp(server, request, may_send, half) {
        Ok(Reply::TooLong) | Err(Fault::Silent) => tcp(server, request, may_send, until),
        other => other,
    };
    match reply {
        Ok(Reply::Answer(answer)) => Ok(Some(answer)),
        Ok(Reply::MayNot) => Ok(None),
        Ok(Reply::TooLong) => fail!("its answer is too long"),
        Err(fault) => Err(fault.explain(begin.elapsed())),
    }
}

enum Reply {
    Answer(Message<Vec<u8>>),
    MayNot,
    /// Too long for UDP.
    TooLong,
}

fn udp(server: SocketAddr, request: &[u8], may_send: &dyn Fn() -> bool, until: Instant) -> Result<Reply, Fault> {
    if request.len() > UDP_LIMIT {
        return Ok(Reply::TooLong);
    }
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    // Connected: the kernel passes on only what comes from there, and reports if no process listens there.
    socket.connect(server)?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    let mut wait = FIRST_WAIT;
    loop {
        if !may_send() {
            return Ok(Reply::MayNot);
        }
        socket.send(request)?;
        let again = (Instant::now() + wait).min(until);
        wait *= 2;
        while let Some(left) = left(again) {
            socket.set_read_timeout(Some(left.min(SLICE)))?;
            match socket.recv(&mut buffer) {
                Ok(length) => match answer_to(request, &buffer[..length]) {
                    Some(answer) if answer.header().tc() => return Ok(Reply::TooLong),
                    Some(answer) => return Ok(Reply::Answer(answer)),
                    None => {}
                },
                Err(error) if retry(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if left(until).is_none() {
            return Err(Fault::Silent);
        }
    }
}

fn tcp(server: SocketAddr, request: &[u8], may_send: &dyn Fn() -> bool, until: Instant) -> Result<Reply, Fault> {
    let mut stream = TcpStream::connect_timeout(&server, left(until).ok_or(Fault::Silent)?)?;
    stream.set_nodelay(true)?;
    // RFC 1035, section 4.2.2: the length goes before the message.
    let length = u16::try_from(request.len()).map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(request);
    if !may_send() {
        return Ok(Reply::MayNot);
    }
    stream.set_write_timeout(Some(left(until).ok_or(Fault::Silent)?))?;
    stream.write_all(&framed)?;
    loop {
        let mut length = [0; 2];
        read(&mut stream, &mut length, until)?;
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        read(&mut stream, &mut message, until)?;
        if let Some(answer) = answer_to(request, &message) {
            return Ok(Reply::Answer(answer));
        }
    }
}

/// Fills the buffer before the deadline. Not `read_exact`, whose limit would apply to each part.
fn read(stream: &mut TcpStream, mut buffer: &mut [u8], until: Instant) -> Result<(), Fault> {
    while !buffer.is_empty() {
        stream.set_read_timeout(Some(left(until).ok_or(Fault::Mute)?.min(SLICE)))?;
        match stream.read(buffer) {
            Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "it closed the connection").into()),
            Ok(length) => buffer = &mut buffer[length..],
            Err(error) if retry(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether only the wait ended, or a signal interrupted it.
fn retry(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// The time that is left; never zero, which a socket takes for no limit.
fn left(until: Instant) -> Option<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    (!left.is_zero()).then_some(left)
}

/// The message, if it is the answer to the request; any other is ignored.
fn answer_to(request: &[u8], bytes: &[u8]) -> Option<Message<Vec<u8>>> {
    let request = Message::from_octets(request).ok()?;
    let answer = Message::from_octets(bytes.to_vec()).ok()?;
    let (asked, answered) = (request.header(), answer.header());
    if asked.id() != answered.id() || !answered.qr() || asked.opcode() != answered.opcode() {
        return None;
    }
    // A server may leave out the question of what it did not take (RFC 2136, section 3.8).
    let same = answer.header_counts().qdcount() == 0 || answer.question() == request.question();
    same.then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::query::{name, query};
    use domain::base::iana::Rtype;

    #[test]
    fn only_the_answer_to_this_question_counts() {
        let request = query(&name("a.example").unwrap(), Rtype::A, false).unwrap();
        assert!(answer_to(&request, &request).is_none(), "a request");
        let mut answer = request.clone();
        answer[2] |= 0x80;
        assert!(answer_to(&request, &answer).is_some());
        let mut other_id = answer.clone();
        other_id[0] ^= 1;
        assert!(answer_to(&request, &other_id).is_none());
        let mut other_name = answer.clone();
        other_name[13] = b'b';
        assert!(answer_to(&request, &other_name).is_none());
        for length in 0..answer.len() {
            let _ = answer_to(&request, &answer[..length]);
        }
        assert!(answer_to(&request, &[]).is_none());
    }
}
