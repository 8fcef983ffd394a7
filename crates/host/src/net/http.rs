//! One request over HTTP. Version 1.0 (RFC 9112), so that the answer ends with the connection and comes in one piece.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write};
use std::time::Instant;

use super::tls::{self, Client};
use super::{Connection, Fault};

/// The limit of [`Server::ask`]: no answer that is asked for has as many bytes.
const MOST: u64 = 16 << 20;

/// A server of HTTP.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its name or address; IPv6 without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

/// A request.
#[derive(Default)]
pub struct Question<'a> {
    /// The path with its query.
    pub path: &'a str,
    /// The body of a `POST` request; none: a `GET` request.
    pub body: Option<&'a str>,
    /// Further headers. Line ends in them are left out, since they would start another header.
    pub headers: &'a [(&'a str, &'a str)],
}

/// A response.
#[derive(Debug)]
pub struct Answer {
    /// The status, such as 200.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Server {
    /// Connects and asks; returns before `end`.
    pub fn ask(&self, tls: Option<&Client>, question: &Question, end: Instant) -> Result<Answer, Fault> {
        let mut stream = Connection::open(&self.host, self.port, tls, end)?;
        self.ask_on(&mut stream, question, MOST)
    }

    /// Asks on an open connection. An answer of more than `most` bytes is not accepted.
    pub fn ask_on(&self, stream: &mut (impl Read + Write), question: &Question, most: u64) -> Result<Answer, Fault> {
        let bytes = exchange(stream, &self.written(question), most).map_err(tls::explain_io)?;
        // A TLS alert (RFC 8446, section 6), or the message of Go's library.
        if bytes.starts_with(&[0x15, 3]) {
            return Err(Fault::RequiresTls);
        }
        if bytes.is_empty() {
            return Err(Fault::Closed(ErrorKind::UnexpectedEof.into()));
        }
        match parse(&bytes).filter(|_| bytes.len() as u64 <= most) {
            Some(answer) if answer.status == 400 && answer.body.contains("HTTP request to an HTTPS server") => {
                Err(Fault::RequiresTls)
            }
            Some(answer) => Ok(answer),
            None => Err(Fault::OtherProtocol),
        }
    }

    fn written(&self, question: &Question) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let method = if question.body.is_some() { "POST" } else { "GET" };
        let mut text =
            format!("{method} {} HTTP/1.0\r\nHost: {host}:{}\r\nConnection: close\r\n", question.path, self.port);
        for (name, value) in question.headers {
            text.extend([*name, ": ", &value.replace(['\r', '\n'], ""), "\r\n"]);
        }
        let body = question.body.unwrap_or_default();
        if question.body.is_some() {
            let _ = write!(text, "Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        text + "\r\n" + body
    }
}

/// The whole answer, or one byte more than `most`.
fn exchange(stream: &mut (impl Read + Write), question: &str, most: u64) -> io::Result<Vec<u8>> {
    stream.write_all(question.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(most + 1).read_to_end(&mut answer)?;
    Ok(answer)
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let (head, body) = std::str::from_utf8(answer).ok()?.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::TcpListener;
    use std::time::Duration;

    #[test]
    fn an_answer_has_a_status_and_a_text() {
        let answer = parse(b"HTTP/1.1 403 Forbidden\r\nA: b\r\n\r\nACL not found").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (403, "ACL not found"));
        for text in ["", "SSH-2.0-OpenSSH\r\n", "HTTP/1.1 x\r\n\r\n", "\u{15}\u{3}\u{3}"] {
            assert!(parse(text.as_bytes()).is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_question_is_one_whatever_is_in_it() {
        let server = Server { host: "fd00::1".to_owned(), port: 2379 };
        let question = Question { path: "/v3/a", body: Some("{}"), headers: &[("Authorization", "a\r\nX: b")] };
        assert_eq!(
            server.written(&question),
            "POST /v3/a HTTP/1.0\r\nHost: [fd00::1]:2379\r\nConnection: close\r\nAuthorization: aX: b\r\n\
             Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        );
    }

    /// A connection on which the answer is ready.
    struct Ready(io::Cursor<Vec<u8>>);

    impl Read for Ready {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Ready {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            Ok(buffer.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_answer_is_bounded_and_tls_is_noticed() {
        let server = Server { host: "127.0.0.1".to_owned(), port: 1 };
        let ask =
            |bytes: &[u8], most| server.ask_on(&mut Ready(io::Cursor::new(bytes.to_vec())), &Question::default(), most);
        let answer = b"HTTP/1.0 200 OK\r\n\r\n{}";
        assert_eq!(ask(answer, answer.len() as u64).unwrap().body, "{}");
        assert!(matches!(ask(answer, answer.len() as u64 - 1), Err(Fault::OtherProtocol)));
        assert!(matches!(ask(b"\x15\x03\x03\x00\x02\x02\x32", 100), Err(Fault::RequiresTls)));
        assert!(matches!(ask(b"", 100), Err(Fault::Closed(_))));
    }

    #[test]
    fn a_server_that_hangs_is_reported_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server { host: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() };
        let begin = Instant::now();
        let fault = server.ask(None, &Question::default(), begin + Duration::from_millis(100)).unwrap_err();
        assert!(matches!(fault, Fault::Unresponsive) && begin.elapsed() < Duration::from_secs(10), "{fault:?}");
        drop(listener);
        // A process that another test is just starting may hold the listener for a moment longer.
        let refused = (0..100).any(|_| {
            let fault =
                server.ask(None, &Question::default(), Instant::now() + Duration::from_millis(100)).unwrap_err();
            fault.to_string() == "it is unreachable (Connection refused)"
        });
        assert!(refused, "nothing listens, but the server is not reported as unreachable");
    }
}
