//! What Patroni itself reports about this member through its REST API.
//!
//! `GET /primary` (`/leader` for the leader of a standby cluster) is 200 only while Patroni holds the leader lock and has renewed it
//! within its time to live (`Ha.is_leader`); with `failsafe_mode` also during an outage of the DCS. The body is that of
//! `GET /patroni` (`RestApiHandler.do_GET`, the same from 3.0 to 4.1).

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow};
use host::net::http::{Answer, Question, Server};
use host::net::{Bounded, Fault, reason};
use host::trouble::{Explain, Trouble};
use host::{Root, fail, holder};
use nix::unistd::geteuid;
use serde_json::Value;

use crate::peer;
use crate::privilege::USER;
use crate::tls::Tls;

/// No answer of Patroni has as many bytes.
const MOST: u64 = 256 * 1024;

/// An answer of Patroni.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatroniStatus {
    /// Patroni holds the leader lock.
    pub lock: bool,
    /// `running`, `stopping`, …
    pub state: String,
    /// `primary`, `master`, `replica`, …: the role that PostgreSQL itself reports, while it can be asked.
    pub role: String,
    /// The cluster is in maintenance mode.
    pub pause: bool,
    /// Patroni has reached the DCS since it started.
    pub dcs_seen: bool,
}

/// What Patroni's answer, or its absence, means for the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberState {
    /// This member is the primary: it acquires the address and keeps it.
    Primary,
    /// It holds the leader lock, but PostgreSQL is still starting: it acquires nothing, and keeps what it has until the lease expires.
    Starting,
    /// Patroni does not know yet, or is in pause without the lock, when no other member is promoted automatically: as with `Starting`.
    Undecided,
    /// It is not the primary, or is about to stop: it releases the address.
    NotPrimary,
    /// There is no usable answer, and why: as with `Starting`.
    NoAnswer(Trouble),
    /// It is the primary, but another user's process would get its clients: it releases the address.
    PortTaken(Trouble),
}

impl MemberState {
    /// For `dnscp status` and `systemctl status`.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Starting => "primary, PostgreSQL is starting",
            Self::Undecided => "Patroni has not decided",
            Self::NotPrimary => "not the primary",
            Self::NoAnswer(_) => "Patroni does not answer",
            Self::PortTaken(_) => "primary, but another process has PostgreSQL's port",
        }
    }
}

impl PatroniStatus {
    fn parse(answer: &Answer) -> Result<Self> {
        let Answer { status, body } = answer;
        if !matches!(status, 200 | 503) {
            fail!("it responded with HTTP status {status} instead of 200 or 503"; "Check which program listens there.");
        }
        let body: Value = serde_json::from_str(body)
            .context("the answer is not Patroni's JSON")
            .or_hint(|| "Check which program listens there.".to_owned())?;
        let string = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Self {
            lock: *status == 200,
            state: string("state"),
            role: string("role"),
            pause: body.get("pause").and_then(Value::as_bool).unwrap_or(false),
            dcs_seen: body.get("dcs_last_seen").and_then(Value::as_u64).is_none_or(|seen| seen > 0),
        })
    }

    /// The states are those of `Postgresql.state`.
    fn member_state(&self) -> MemberState {
        let primary = matches!(self.role.as_str(), "primary" | "master");
        match (self.lock, self.state.as_str()) {
            // "unknown": PostgreSQL runs, but did not answer Patroni's query.
            (true, "running" | "unknown") => MemberState::Primary,
            (true, "starting" | "restarting") => MemberState::Starting,
            (false, _) if !self.dcs_seen => MemberState::Undecided,
            (false, "running") if self.pause && primary => MemberState::Undecided,
            _ => MemberState::NotPrimary,
        }
    }
}

/// Patroni's REST API on this host.
#[derive(Debug)]
pub struct Api {
    root: Root,
    address: SocketAddr,
    tls: Option<Tls>,
    doubts: Mutex<Vec<Trouble>>,
    closed: AtomicBool,
}

impl Api {
    /// The API at an address, with TLS or without.
    #[must_use]
    pub fn new(root: &Root, address: SocketAddr, tls: Option<Tls>) -> Self {
        Self { root: root.clone(), address, tls, doubts: Mutex::default(), closed: AtomicBool::new(false) }
    }

    /// Asks Patroni, for no longer than `limit`.
    #[must_use]
    pub fn member_state(&self, standby_leader: bool, limit: Duration) -> MemberState {
        match self.ask(standby_leader, limit).at(format!("Patroni's REST API at {}", self.address)) {
            Ok(status) => status.member_state(),
            Err(error) => MemberState::NoAnswer(Trouble::of(&error)),
        }
    }

    /// Whether nothing listened at its address when it was asked last, as before Patroni has started.
    #[must_use]
    pub fn was_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// What was doubtful about the last answer, though it is trusted.
    #[must_use]
    pub fn doubts(&self) -> Vec<Trouble> {
        let doubts = self.doubts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // A doubt may have a place of its own, such as a file.
        let at_api = |doubt: Trouble| {
            let mut shown = Trouble::new(doubt.line()).at(format!("Patroni's REST API at {}", self.address));
            shown.hint = doubt.hint;
            shown
        };
        doubts.into_iter().map(at_api).collect()
    }

    fn ask(&self, standby_leader: bool, limit: Duration) -> Result<PatroniStatus> {
        let stream = Bounded::to(&self.address, Instant::now() + limit);
        let closed = stream.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        self.closed.store(closed, Ordering::Relaxed);
        let stream = stream
            .map_err(|error| anyhow!("it cannot be reached ({})", reason(&error)))
            .or_hint(|| "Check that Patroni is running and listens there.".to_owned())?;
        let question = Question { path: if standby_leader { "/leader" } else { "/primary" }, ..Question::default() };
        let answer = self.ask_on(stream, &question).map_err(|error| {
            match error.downcast_ref::<io::Error>().map(io::Error::kind) {
                Some(ErrorKind::TimedOut) => anyhow!("it did not answer within {limit:?}"),
                _ => error,
            }
        })?;
        PatroniStatus::parse(&answer)
    }

    fn ask_on(&self, mut stream: Bounded, question: &Question) -> Result<Answer> {
        let server = Server { host: self.address.ip().to_string(), port: self.address.port() };
        let is_patroni = self.is_patroni(&stream)?;
        let Some(tls) = &self.tls else {
            if !is_patroni {
                fail!(
                    "the kernel does not report who answers there, so it is not trusted";
                    "Use an address of this host, or set RESTAPI_CERT, and run: patroni-gen-config"
                );
            }
            return server.ask_on(&mut stream, question, MOST).map_err(explain);
        };
        let (mut stream, doubts) = tls.connect(stream, is_patroni)?;
        *self.doubts.lock().unwrap_or_else(PoisonError::into_inner) = doubts;
        let answer = server.ask_on(&mut stream, question, MOST).map_err(|fault| tls.explain_after_handshake(fault))?;
        // Patroni waits for it, but whether it arrives makes no difference here.
        let _ = stream.shutdown();
        Ok(answer)
    }

    /// Whether the kernel reports that the other end belongs to the user who runs Patroni, or to root, who could do anything anyway.
    /// An error if it belongs to another user; false if the kernel does not know.
    fn is_patroni(&self, stream: &Bounded) -> Result<bool> {
        let (own, peer) = stream.ends()?;
        let Some(end) = peer::accepted(&self.root, own, peer, stream.end())? else { return Ok(false) };
        if end.uid == 0 || self.root.user_id(USER).is_ok_and(|uid| uid == end.uid) {
            return Ok(true);
        }
        fail!(
            "{} answers there instead of Patroni, which runs as {USER}",
            // Other users than root could not see the process.
            holder::describe(&self.root, end.uid, end.inode, geteuid().is_root());
            "Stop that process, and start Patroni."
        )
    }
}

/// Why a request without TLS failed.
fn explain(fault: Fault) -> Error {
    let trouble = match fault {
        Fault::Unresponsive => return io::Error::from(ErrorKind::TimedOut).into(),
        Fault::OtherProtocol => Trouble::new("what answers there is not Patroni")
            .hint("Check the port of the REST API, and run: patroni-gen-config"),
        fault => Trouble::new(fault.to_string()).hint("If the REST API uses TLS now, run: patroni-gen-config"),
    };
    trouble.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::TcpListener;

    fn state(status: u16, body: &str) -> MemberState {
        PatroniStatus::parse(&Answer { status, body: body.to_owned() }).unwrap().member_state()
    }

    #[test]
    fn a_member_that_holds_the_lock_and_runs_is_the_primary() {
        for (status, body, expected) in [
            (200, r#"{"state":"running","role":"primary"}"#, MemberState::Primary),
            // Just promoted: PostgreSQL is still in recovery.
            (200, r#"{"state":"running","role":"replica","dcs_last_seen":5}"#, MemberState::Primary),
            (200, r#"{"state":"unknown","role":"master"}"#, MemberState::Primary),
            (200, r#"{"state":"starting","role":"primary"}"#, MemberState::Starting),
            (200, r#"{"state":"restarting","role":"primary"}"#, MemberState::Starting),
            (200, r#"{"state":"stopping","role":"primary"}"#, MemberState::NotPrimary),
            (200, r#"{"state":"stopped","role":"primary"}"#, MemberState::NotPrimary),
            (200, r#"{"state":"crashed","role":"primary"}"#, MemberState::NotPrimary),
            // Stopped for longer than the lock lives, and woken up: PostgreSQL is a primary still.
            (503, r#"{"state":"running","role":"primary","dcs_last_seen":5}"#, MemberState::NotPrimary),
            (503, r#"{"state":"running","role":"replica","dcs_last_seen":5}"#, MemberState::NotPrimary),
            (503, r#"{"state":"running","role":"primary","dcs_last_seen":0}"#, MemberState::Undecided),
            (503, r#"{"state":"running","role":"primary","dcs_last_seen":5,"pause":true}"#, MemberState::Undecided),
            (503, r#"{"state":"running","role":"replica","dcs_last_seen":5,"pause":true}"#, MemberState::NotPrimary),
        ] {
            assert_eq!(state(status, body), expected, "{status} {body}");
        }
        for (status, body) in [(404, "{}"), (200, "x")] {
            assert!(PatroniStatus::parse(&Answer { status, body: body.to_owned() }).is_err(), "{status} {body}");
        }
    }

    #[test]
    fn a_patroni_that_hangs_is_given_up_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let begin = Instant::now();
        let api = Api::new(&Root::new("/nowhere"), listener.local_addr().unwrap(), None);
        let state = api.member_state(false, Duration::from_millis(100));
        assert!(matches!(state, MemberState::NoAnswer(_)), "{state:?}");
        // A busy host adds much to it, but the listener would never answer.
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
}
