//! Asks servers: a connection that ends in time, TLS, and a question over HTTP. What went wrong is a [`Fault`], so that who asked
//! can say it in its own words, with the remedy.

pub mod http;
pub mod resolve;
pub mod tls;

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use resolve::Lookup;
use socket2::SockRef;

/// Why a server was not asked, or gave no answer.
#[derive(Debug)]
pub enum Fault {
    /// Its name has no address.
    Name(io::Error),
    /// No connection.
    Unreachable(io::Error),
    /// It was connected, but the time is over.
    Silent,
    /// It ended the connection, or the kernel did.
    Broken(io::Error),
    /// It speaks no TLS.
    NoTls,
    /// It speaks nothing else.
    WantsTls,
    /// It speaks something else than was asked for.
    Foreign,
    /// Nobody whom we believe has signed its certificate: OpenSSL's words for it.
    Unsigned(String),
    /// Its certificate, or that of the authority which signed it, is not valid any more.
    Expired(tls::Shown),
    /// The same, not valid yet.
    NotYetValid(tls::Shown),
    /// Its certificate is for somebody else.
    OtherName(tls::Shown),
    /// Its certificate is not good for another reason: OpenSSL's words for it.
    Unfit(String),
    /// It does not take our certificate, or misses it: the alert.
    Refused(String),
    /// Another fault of TLS: OpenSSL's words for it.
    Tls(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => write!(f, "its name cannot be resolved ({error})"),
            Self::Unreachable(error) => write!(f, "it cannot be reached ({})", reason(error)),
            Self::Silent => f.write_str("it did not answer in time"),
            Self::Broken(error) => write!(f, "it ended the connection ({})", reason(error)),
            Self::NoTls => f.write_str("it does not speak TLS"),
            Self::WantsTls => f.write_str("it wants TLS"),
            Self::Foreign => f.write_str("it does not speak HTTP"),
            Self::Unsigned(why) => write!(f, "its certificate is not signed by anybody whom we believe ({why})"),
            Self::Expired(shown) => write!(f, "{} expired on {}", shown.whose(), shown.until),
            Self::NotYetValid(shown) => write!(f, "{} is not valid before {}", shown.whose(), shown.from),
            Self::OtherName(shown) => write!(f, "its certificate is for {}", shown.names()),
            Self::Unfit(why) => write!(f, "its certificate cannot be believed ({why})"),
            Self::Refused(why) => write!(f, "it refuses our certificate ({why})"),
            Self::Tls(why) => write!(f, "TLS failed ({why})"),
        }
    }
}

/// The reason of the kernel, without its number.
#[must_use]
pub fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::TimedOut => return "no answer".to_owned(),
        ErrorKind::UnexpectedEof => return "without a word".to_owned(),
        _ => {}
    }
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// A connection on which all that happens ends at one time, however it is cut into pieces.
#[derive(Debug)]
pub struct Bounded {
    stream: TcpStream,
    end: Instant,
}

impl Bounded {
    /// The first address of a host that takes the connection.
    pub fn connect(host: &str, port: u16, end: Instant) -> Result<Self, Fault> {
        let addresses = Lookup::start(host, port).wait(end).map_err(Fault::Name)?;
        let mut last = None;
        for address in addresses {
            match Self::to(&address, end) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or(Fault::Silent, Fault::Unreachable))
    }

    /// A connection to an address.
    pub fn to(address: &SocketAddr, end: Instant) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(address, left(end)?)?;
        // After a TLS handshake a question would wait until the end of that is acknowledged.
        stream.set_nodelay(true)?;
        Ok(Self { stream, end })
    }

    /// Its two ends: ours, and the other one.
    pub fn ends(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.stream.local_addr()?, self.stream.peer_addr()?))
    }

    /// When all on it is over.
    #[must_use]
    pub fn end(&self) -> Instant {
        self.end
    }
}

fn left(end: Instant) -> io::Result<Duration> {
    let left = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
    left.ok_or_else(|| ErrorKind::TimedOut.into())
}

/// A timeout of a socket is `EAGAIN`, which would be a reason to try again.
fn timed<T>(result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| if error.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut.into() } else { error })
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.end)?))?;
        // Patroni writes head and body one after the other, and the second one waits until we acknowledge the first: 40 ms,
        // if that is delayed (`tcp(7)`, TCP_QUICKACK).
        let _ = SockRef::from(&self.stream).set_tcp_quickack(true);
        timed(self.stream.read(buffer))
    }
}

impl Write for Bounded {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(left(self.end)?))?;
        timed(self.stream.write(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection, with TLS or without.
pub enum Connection {
    /// In the clear.
    Plain(Bounded),
    /// By TLS.
    Tls(Box<openssl::ssl::SslStream<Bounded>>),
}

impl Connection {
    /// Connects, and with a client of TLS shakes hands.
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
