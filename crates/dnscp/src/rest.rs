//! What Patroni itself says about this member: its REST API.
//!
//! `GET /primary` (with the leader of a standby cluster, `/leader`) is 200 only while Patroni holds the leader lock and has
//! renewed it within its time to live (`Ha.is_leader`), also in a store's outage under `failsafe_mode`. The body is that of
//! `GET /patroni` (`RestApiHandler.do_GET`, the same from 3.0 to 4.1).

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use host::net::Bounded;
use host::{Root, holder};
use nix::unistd::geteuid;
use serde_json::Value;

use crate::peer;
use crate::privilege::USER;
use crate::tls::Tls;

/// More than any answer of Patroni has.
const MOST: usize = 256 * 1024;

/// What Patroni said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// It holds the leader lock.
    pub lock: bool,
    /// `running`, `stopping`, …
    pub state: String,
    /// `primary`, `master`, `replica`, …, as PostgreSQL itself has it while it can be asked.
    pub role: String,
    /// The cluster is in maintenance mode.
    pub pause: bool,
    /// Patroni has seen the store since it started.
    pub store_seen: bool,
}

/// What an answer, or none, means for the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// This member is the primary: it takes the address and keeps it.
    Primary,
    /// It holds the leader lock, but PostgreSQL is only starting: it takes nothing, and keeps what it has until the lease ends.
    Starting,
    /// It does not know yet, or is in pause without the lock, when nobody else becomes primary by himself: the same.
    Undecided,
    /// It is not the primary, or is about to stop: it gives the address up.
    Other,
    /// There was no answer, and why.
    Silent(String),
    /// It is the primary, but clients would come to a process of another user's, which this says: it gives the address up.
    Usurped(String),
}

impl Said {
    /// What that means. The states are those of `Postgresql.state`.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let primary = matches!(self.role.as_str(), "primary" | "master");
        match (self.lock, self.state.as_str()) {
            // "unknown": PostgreSQL runs, but did not answer Patroni's query.
            (true, "running" | "unknown") => Standing::Primary,
            (true, "starting" | "restarting") => Standing::Starting,
            (false, _) if !self.store_seen => Standing::Undecided,
            (false, "running") if self.pause && primary => Standing::Undecided,
            _ => Standing::Other,
        }
    }
}

/// Where Patroni is asked.
#[derive(Debug)]
pub struct Api {
    root: Root,
    address: SocketAddr,
    tls: Option<Tls>,
    doubt: Mutex<Option<String>>,
}

impl Api {
    /// The API at an address, with TLS or without.
    #[must_use]
    pub fn new(root: &Root, address: SocketAddr, tls: Option<Tls>) -> Self {
        Self { root: root.clone(), address, tls, doubt: Mutex::new(None) }
    }

    /// Asks and judges; never longer than `limit`.
    #[must_use]
    pub fn standing(&self, standby_leader: bool, limit: Duration) -> Standing {
        self.ask(standby_leader, limit)
            .map_or_else(|error| Standing::Silent(format!("{error:#}")), |said| said.standing())
    }

    /// What is doubtful about the last answer, though it is believed.
    #[must_use]
    pub fn doubt(&self) -> Option<String> {
        self.doubt.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ask(&self, standby_leader: bool, limit: Duration) -> Result<Said> {
        let address = self.address;
        let end = Instant::now() + limit;
        let stream =
            Bounded::to(&address, end).with_context(|| format!("Patroni's REST API at {address} cannot be reached"))?;
        let path = if standby_leader { "leader" } else { "primary" };
        let question = format!("GET /{path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        let answer = self.exchange(stream, &question).map_err(|error| {
            match error.downcast_ref::<io::Error>().map(io::Error::kind) {
                Some(ErrorKind::TimedOut) => anyhow!("Patroni's REST API at {address} did not answer within {limit:?}"),
                _ => error.context(format!("Patroni's REST API at {address}")),
            }
        })?;
        if answer.len() > MOST {
            bail!("what answers at {address} is not Patroni: check the port of the REST API");
        }
        parse(&answer).with_context(|| format!("the answer at {address}"))
    }

    fn exchange(&self, mut stream: Bounded, question: &str) -> Result<Vec<u8>> {
        let ours = self.is_patronis(&stream)?;
        let Some(tls) = &self.tls else {
            if !ours {
                bail!(
                    "the kernel does not say who answers there, so it is not believed: is it an address of this host? set RESTAPI_CERT \
                     otherwise, and run patroni-gen-config"
                );
            }
            return exchange(&mut stream, question).map_err(|error| match error.kind() {
                ErrorKind::ConnectionReset => {
                    anyhow!("it ended the connection ({error}): is it TLS now? run patroni-gen-config")
                }
                _ => error.into(),
            });
        };
        let (mut stream, doubts) = tls.connect(stream, ours)?;
        let doubts: Vec<String> =
            doubts.iter().map(|doubt| format!("Patroni's REST API at {}: {doubt}", self.address)).collect();
        *self.doubt.lock().unwrap_or_else(PoisonError::into_inner) = (!doubts.is_empty()).then(|| doubts.join("\n"));
        let answer = exchange(&mut stream, question).map_err(|error| tls.explain_io(error))?;
        // Patroni waits for it, but we do not care any more.
        let _ = stream.shutdown();
        Ok(answer)
    }

    /// Does the kernel say that the other end belongs to the user who runs Patroni, or to root, who could do all anyway? An error where it
    /// is another one; false where it does not know.
    fn is_patronis(&self, stream: &Bounded) -> Result<bool> {
        let (own, peer) = stream.ends()?;
        let Some(end) = peer::accepted(&self.root, own, peer, stream.end())? else { return Ok(false) };
        if end.uid == 0 || self.root.user_id(USER).is_ok_and(|uid| uid == end.uid) {
            return Ok(true);
        }
        bail!(
            "{} answers there and not Patroni, which {USER} runs, so it is not believed: end that, and start Patroni",
            // Others than root could not see it.
            holder::describe(&self.root, end.uid, end.inode, geteuid().is_root())
        )
    }
}

/// The whole answer, or a little more than the most of it.
fn exchange(stream: &mut (impl Read + Write), question: &str) -> io::Result<Vec<u8>> {
    stream.write_all(question.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MOST as u64 + 1).read_to_end(&mut answer)?;
    Ok(answer)
}

fn parse(answer: &[u8]) -> Result<Said> {
    // A TLS server answers with an alert, which is no text (RFC 8446, section 6), or with nothing.
    let text = std::str::from_utf8(answer).ok().and_then(|text| text.split_once("\r\n\r\n"));
    let (head, body) =
        text.context("is not HTTP: is it TLS now? run patroni-gen-config, and see the port of the REST API")?;
    let code = head.split(' ').nth(1).unwrap_or_default();
    if !matches!(code, "200" | "503") {
        bail!("is HTTP {code}, neither 200 nor 503: check who listens there");
    }
    let body: Value = serde_json::from_str(body).context("is not Patroni's JSON")?;
    let word = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let truth = |key: &str| body.get(key).and_then(Value::as_bool).unwrap_or(false);
    Ok(Said {
        lock: code == "200",
        state: word("state"),
        role: word("role"),
        pause: truth("pause"),
        store_seen: body.get("dcs_last_seen").and_then(Value::as_u64).is_none_or(|seen| seen > 0),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::TcpListener;

    fn said(code: &str, body: &str) -> Standing {
        parse(format!("HTTP/1.0 {code} x\r\nA: b\r\n\r\n{body}").as_bytes()).unwrap().standing()
    }

    #[test]
    fn who_holds_the_lock_and_runs_is_the_primary() {
        for (code, body, standing) in [
            ("200", r#"{"state":"running","role":"primary"}"#, Standing::Primary),
            // Just promoted: PostgreSQL is still in recovery.
            ("200", r#"{"state":"running","role":"replica","dcs_last_seen":5}"#, Standing::Primary),
            ("200", r#"{"state":"unknown","role":"master"}"#, Standing::Primary),
            ("200", r#"{"state":"starting","role":"primary"}"#, Standing::Starting),
            ("200", r#"{"state":"restarting","role":"primary"}"#, Standing::Starting),
            ("200", r#"{"state":"stopping","role":"primary"}"#, Standing::Other),
            ("200", r#"{"state":"stopped","role":"primary"}"#, Standing::Other),
            ("200", r#"{"state":"crashed","role":"primary"}"#, Standing::Other),
            // Stopped for longer than the lock lives, and woken up: PostgreSQL is a primary still.
            ("503", r#"{"state":"running","role":"primary","dcs_last_seen":5}"#, Standing::Other),
            ("503", r#"{"state":"running","role":"replica","dcs_last_seen":5}"#, Standing::Other),
            ("503", r#"{"state":"running","role":"primary","dcs_last_seen":0}"#, Standing::Undecided),
            ("503", r#"{"state":"running","role":"primary","dcs_last_seen":5,"pause":true}"#, Standing::Undecided),
            ("503", r#"{"state":"running","role":"replica","dcs_last_seen":5,"pause":true}"#, Standing::Other),
        ] {
            assert_eq!(said(code, body), standing, "{code} {body}");
        }
        assert!(parse(b"\x15\x03\x03\x00\x02\x02\x32").is_err());
        assert!(parse(b"HTTP/1.0 404 x\r\n\r\n{}").is_err());
    }

    #[test]
    fn a_hanging_patroni_is_silent_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let begin = Instant::now();
        let api = Api::new(&Root::new("/nowhere"), listener.local_addr().unwrap(), None);
        let standing = api.standing(false, Duration::from_millis(100));
        assert!(matches!(standing, Standing::Silent(_)), "{standing:?}");
        // A busy host adds much to it, but the listener would never answer.
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
}
