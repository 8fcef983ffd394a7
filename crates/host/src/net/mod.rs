//! Requests to servers: a connection with a deadline, TLS, and HTTP. A failure is a [`Fault`], so that the caller can describe it in
//! its own words, with a hint.

pub mod http;
pub mod resolve;
pub mod tls;

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use resolve::Lookup;
use socket2::SockRef;

/// Why a server could not be asked, or did not answer.
#[derive(Debug)]
pub enum Fault {
    /// Its name could not be resolved.
    Name(io::Error),
    /// No connection.
    Unreachable(io::Error),
    /// It accepted the connection, but did not answer in time.
    Unresponsive,
    /// It closed the connection, or the kernel did.
    Closed(io::Error),
    /// It does not use TLS.
    NoTls,
    /// It requires TLS.
    RequiresTls,
    /// It uses another protocol.
    OtherProtocol,
    /// No trusted CA has issued its certificate: OpenSSL's message.
    Untrusted(String),
    /// Its certificate, or that of its CA, has expired.
    Expired(tls::PeerCertificate),
    /// Its certificate, or that of its CA, is not yet valid.
    NotYetValid(tls::PeerCertificate),
    /// Its certificate was issued for other names.
    OtherName(tls::PeerCertificate),
    /// Its certificate is invalid for another reason: OpenSSL's message.
    Invalid(String),
    /// It rejects the client certificate, or requires one: the alert.
    Rejected(String),
    /// Another failure of TLS: OpenSSL's message.
    Tls(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => write!(f, "its name could not be resolved ({error})"),
            Self::Unreachable(error) => write!(f, "it is unreachable ({})", reason(error)),
            Self::Unresponsive => f.write_str("it did not answer in time"),
            Self::Closed(error) => write!(f, "it closed the connection ({})", reason(error)),
            Self::NoTls => f.write_str("it does not use TLS"),
            Self::RequiresTls => f.write_str("it requires TLS"),
            Self::OtherProtocol => f.write_str("it does not use HTTP"),
            Self::Untrusted(why) => write!(f, "its certificate was not issued by a trusted CA ({why})"),
            Self::Expired(shown) => write!(f, "{} {}", shown.description(), shown.summary.expired),
            Self::NotYetValid(shown) => write!(f, "{} {}", shown.description(), shown.summary.not_yet_valid),
            Self::OtherName(shown) => write!(f, "its certificate is for {}", shown.summary.names),
            Self::Invalid(why) => write!(f, "its certificate is not valid ({why})"),
            Self::Rejected(why) => write!(f, "it rejects the client certificate ({why})"),
            Self::Tls(why) => write!(f, "TLS failed ({why})"),
        }
    }
}

/// The message of the kernel, without its number.
#[must_use]
pub fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::TimedOut => return "no answer".to_owned(),
        ErrorKind::UnexpectedEof => return "without an answer".to_owned(),
        _ => {}
    }
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// A connection with one deadline for everything that happens on it, in however many pieces.
#[derive(Debug)]
pub struct Bounded {
    stream: TcpStream,
    end: Instant,
}

impl Bounded {
    /// Connects to the first address of a host that accepts the connection.
    pub fn connect(host: &str, port: u16, end: Instant) -> Result<Self, Fault> {
        let addresses = Lookup::start(host, port).wait(end).map_err(Fault::Name)?;
        let mut last = None;
        for address in addresses {
            match Self::to(&address, end) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or(Fault::Unresponsive, Fault::Unreachable))
    }

    /// Connects to an address.
    pub fn to(address: &SocketAddr, end: Instant) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(address, remaining(end)?)?;
        // Otherwise a request after a TLS handshake would wait until the end of the handshake is acknowledged.
        stream.set_nodelay(true)?;
        Ok(Self { stream, end })
    }

    /// Its two ends: the local and the remote one.
    pub fn ends(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.stream.local_addr()?, self.stream.peer_addr()?))
    }

    /// The deadline.
    #[must_use]
    pub fn end(&self) -> Instant {
        self.end
    }
}

fn remaining(end: Instant) -> io::Result<Duration> {
    let left = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
    left.ok_or_else(|| ErrorKind::TimedOut.into())
}

/// A timeout of a socket is `EAGAIN`, which callers would retry.
fn as_timeout<T>(result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| if error.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut.into() } else { error })
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(remaining(self.end)?))?;
        // Patroni sends head and body separately, and the body waits until the head is acknowledged: 40 ms if that is delayed
        // (`tcp(7)`, TCP_QUICKACK).
        let _ = SockRef::from(&self.stream).set_tcp_quickack(true);
        as_timeout(self.stream.read(buffer))
    }
}

impl Write for Bounded {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(remaining(self.end)?))?;
        as_timeout(self.stream.write(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection, with TLS or without.
pub enum Connection {
    /// Without TLS.
    Plain(Bounded),
    /// With TLS.
    Tls(Box<openssl::ssl::SslStream<Bounded>>),
}

impl Connection {
    /// Connects, and with a TLS client performs the handshake.
    pub fn open(host: &str, port: u16, tls: Option<&tls::Client>, end: Instant) -> Result<Self, Fault> {
        let stream = Bounded::connect(host, port, end)?;
        match tls {
            None => Ok(Self::Plain(stream)),
            Some(tls) => tls.connect(stream, host).map(|(stream, _)| Self::Tls(Box::new(stream))),
        }
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(buffer),
            Self::Tls(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
