//! ZooKeeper, with the few packets that a session needs (`zookeeper.jute`). kazoo does the same for Patroni.

use std::io::{ErrorKind, Read, Write};
use std::time::Instant;

use host::net::{Connection, Fault, tls};
use serde_json::Value;

use crate::doctor::dcs::question::{Content, Question, Served};
use crate::doctor::finding::{Finding, Subject};

/// Codes of `ZooDefs.OpCode` and `KeeperException.Code`.
const GET_DATA: i32 = 4;
const GET_CHILDREN: i32 = 8;
const AUTH: i32 = 100;
const CLOSE: i32 = -11;
const NO_NODE: i32 = -101;
const NO_AUTH: i32 = -102;
const AUTH_FAILED: i32 = -115;

/// The number of the answer to an authentication.
const AUTH_NUMBER: i32 = -4;

/// Larger than any node can be by ZooKeeper's default (`jute.maxbuffer`).
const MOST: usize = 4 << 20;

struct Session<'a> {
    question: &'a Question,
    host: String,
    stream: Connection,
    number: i32,
}

/// Session, user, permissions and content.
pub fn ask(question: &Question, host: &str, port: u16, end: Instant) -> Result<Served, Finding> {
    let stream = Connection::open(host, port, question.tls.as_ref(), end);
    let stream = stream.map_err(|fault| question.explain(host, &fault))?;
    let mut session = Session { question, host: host.to_owned(), stream, number: 0 };
    session.begin()?;
    session.log_in()?;
    let content = session.content()?;
    // Otherwise the server would keep the session until its timeout.
    let _ = session.send(CLOSE, &[]);
    Ok(Served { content, notes: Vec::new() })
}

/// A string or bytes, preceded by the length.
fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
    [&length.to_be_bytes(), bytes].concat()
}

/// Reads what [`sized`] writes, and the numbers beside it.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken.to_vec())
    }

    fn int(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A missing value has the length -1.
    fn sized(&mut self) -> Option<Vec<u8>> {
        match self.int()? {
            -1 => Some(Vec::new()),
            length => self.take(usize::try_from(length).ok()?),
        }
    }
}

impl Session<'_> {
    fn explain(&self, fault: &Fault) -> Finding {
        self.question.explain(&self.host, fault)
    }

    fn io(&self, error: std::io::Error) -> Finding {
        // A server without a quorum accepts the connection, and closes it.
        if error.kind() == ErrorKind::UnexpectedEof && self.question.tls.is_none() {
            let finding = Finding::error(
                "it closes the connection, as if it had no leader",
                "Start the other servers of ZooKeeper: more than half must be running. If this is a TLS port, set DCS_CACERT.",
            );
            return Finding { subject: Some(Subject::Connection), ..finding };
        }
        self.explain(&tls::explain_io(error))
    }

    fn write(&mut self, packet: &[u8]) -> Result<(), Finding> {
        self.stream.write_all(&sized(packet)).map_err(|error| self.io(error))
    }

    fn read(&mut self) -> Result<Vec<u8>, Finding> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).map_err(|error| self.io(error))?;
        let length = usize::try_from(i32::from_be_bytes(length)).ok().filter(|length| *length <= MOST);
        let mut packet = vec![0; length.ok_or_else(|| self.explain(&Fault::OtherProtocol))?];
        self.stream.read_exact(&mut packet).map_err(|error| self.io(error))?;
        Ok(packet)
    }

    /// `ConnectRequest`: protocol 0, no transaction seen, a timeout of 5 seconds, a new session, an empty password of 16 bytes.
    fn begin(&mut self) -> Result<(), Finding> {
        const TIMEOUT: i32 = 5000;
        let request = [&[0; 4], &[0; 8][..], &TIMEOUT.to_be_bytes(), &[0; 8], &sized(&[0; 16])].concat();
        self.write(&request)?;
        let answer = self.read()?;
        let mut answer = Reader(&answer);
        match (answer.int(), answer.int()) {
            (Some(0), Some(1..)) => Ok(()),
            _ => Err(self.explain(&Fault::OtherProtocol)),
        }
    }

    fn send(&mut self, operation: i32, body: &[u8]) -> Result<(), Finding> {
        self.number += 1;
        let number = if operation == AUTH { AUTH_NUMBER } else { self.number };
        self.write(&[&number.to_be_bytes(), &operation.to_be_bytes(), body].concat())
    }

    /// The error of the `ReplyHeader`, and the rest. Without a watch no events come in between.
    fn call(&mut self, operation: i32, body: &[u8]) -> Result<(i32, Vec<u8>), Finding> {
        self.send(operation, body)?;
        let packet = self.read()?;
        let mut answer = Reader(&packet);
        let head = answer.int().zip(answer.take(8)).and_then(|_| answer.int());
        let code = head.ok_or_else(|| self.explain(&Fault::OtherProtocol))?;
        Ok((code, answer.0.to_vec()))
    }

    fn log_in(&mut self) -> Result<(), Finding> {
        let Some(Value::Object(users)) = self.question.options.get("auth_data") else { return Ok(()) };
        for (scheme, secret) in users {
            let secret = secret.as_str().unwrap_or_default();
            let body = [&[0; 4], &sized(scheme.as_bytes())[..], &sized(secret.as_bytes())].concat();
            let (code, _) = self.call(AUTH, &body)?;
            if code == AUTH_FAILED {
                let hint = self.question.then_generate("Correct DCS_USERNAME and DCS_PASSWORD_FILE");
                return Err(Finding::error(format!("it rejects the user (scheme {scheme})"), hint));
            }
        }
        Ok(())
    }

    /// The names below a node; `None` if the node does not exist.
    fn children(&mut self, path: &str) -> Result<Option<Vec<String>>, Finding> {
        let (code, body) = self.call(GET_CHILDREN, &[&sized(path.as_bytes())[..], &[0]].concat())?;
        match code {
            0 => {}
            NO_NODE => return Ok(None),
            NO_AUTH => return Err(self.denied(path)),
            code => return Err(Finding::error(format!("it responds with the error {code}"), "Check its log.")),
        }
        let mut reader = Reader(&body);
        let count = reader.int().unwrap_or(0);
        let names = (0..count).map_while(|_| reader.sized()).map(|name| String::from_utf8_lossy(&name).into_owned());
        Ok(Some(names.collect()))
    }

    fn denied(&self, path: &str) -> Finding {
        let user = self.question.options.contains_key("auth_data");
        let certificate = self.question.files.own.is_some();
        let hint = match (user, certificate) {
            (true, _) => "Correct DCS_USERNAME and DCS_PASSWORD_FILE",
            (false, true) => "Add the subject of DCS_CERT to the ACL of this node, or set DCS_USERNAME",
            (false, false) => "Set DCS_USERNAME and DCS_PASSWORD_FILE, or DCS_CERT",
        };
        Finding::error(format!("reading {path} is not permitted (NoAuth)"), self.question.then_generate(hint))
    }

    fn data(&mut self, path: &str) -> Result<Option<String>, Finding> {
        let (code, body) = self.call(GET_DATA, &[&sized(path.as_bytes())[..], &[0]].concat())?;
        Ok(if code == 0 { Reader(&body).sized().and_then(|bytes| String::from_utf8(bytes).ok()) } else { None })
    }

    fn content(&mut self) -> Result<Content, Finding> {
        let base = format!("/{}", self.question.base());
        let mut content = Content::new();
        let Some(names) = self.children(&base)? else {
            // Patroni creates it below the existing nodes.
            let mut path = base.as_str();
            while let Some((parent, _)) = path.rsplit_once('/').filter(|(parent, _)| !parent.is_empty()) {
                if self.children(parent)?.is_some() {
                    break;
                }
                path = parent;
            }
            return Ok(content);
        };
        let mut keys: Vec<String> = names.into_iter().filter(|name| name != "members").collect();
        let members = self.children(&format!("{base}/members"))?.unwrap_or_default();
        keys.extend(members.into_iter().map(|name| format!("members/{name}")));
        for key in keys {
            if let Some(value) = self.data(&format!("{base}/{key}"))? {
                content.insert(key, value);
            }
        }
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_short_is_nothing() {
        let written = [&sized(b"ab")[..], &7i32.to_be_bytes()].concat();
        let mut reader = Reader(&written);
        assert_eq!((reader.sized(), reader.int(), reader.int()), (Some(b"ab".to_vec()), Some(7), None));
        for bytes in [&[0, 0, 0, 9, 1][..], &[0xff, 0, 0, 0], &[0, 0]] {
            assert_eq!(Reader(bytes).sized(), None, "{bytes:?}");
        }
        assert_eq!(Reader(&[0xff; 4]).sized(), Some(Vec::new()));
    }
}
