//! Somebody who answers as Patroni's REST API does (`RestApiHandler.do_GET`), with what the test says.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};

/// Status and body; an empty status is no answer at all.
pub type Answer = (&'static str, &'static str);

/// The leader, as Patroni 4.0.7 says it of a member that runs.
pub const PRIMARY: Answer = (
    "200",
    r#"{"state":"running","postmaster_start_time":"2026-11-21 02:00:00.000000+00:00","role":"primary","server_version":170012,"xlog":{"location":117440896},"timeline":2,"replication":[{"usename":"replicator","application_name":"pg2","client_addr":"10.77.0.4","state":"streaming","sync_state":"async","sync_priority":0}],"cluster_unlocked":false,"failsafe_mode_is_active":false,"dcs_last_seen":1795226400,"database_system_identifier":"7574983741259843210","patroni":{"version":"4.0.7","scope":"17-main","name":"pg1"}}"#,
);
/// A replica.
pub const REPLICA: Answer = ("503", r#"{"state":"running","role":"replica","dcs_last_seen":5}"#);
/// The leader, while it stops.
pub const STOPPING: Answer = ("200", r#"{"state":"stopping","role":"primary","dcs_last_seen":5}"#);
/// A Patroni that hangs.
pub const SILENT: Answer = ("", "");

/// The stand-in, on a thread of its own as long as the process lives.
#[derive(Debug)]
pub struct Rest {
    answer: Arc<Mutex<Answer>>,
}

impl Rest {
    /// Answers at this address, in the network namespace of the caller, as a primary does.
    pub fn listen(address: &str) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        let answer = Arc::new(Mutex::new(PRIMARY));
        let shared = Arc::clone(&answer);
        thread::spawn(move || {
            let mut hanging = Vec::new();
            for mut stream in listener.incoming().flatten() {
                let (status, body) = *shared.lock().unwrap_or_else(PoisonError::into_inner);
                if status.is_empty() {
                    hanging.push(stream);
                    continue;
                }
                // Who asks may have been killed meanwhile.
                let _ = stream.read(&mut [0; 1024]);
                let _ = write!(stream, "HTTP/1.0 {status} x\r\nContent-Type: application/json\r\n\r\n{body}");
            }
        });
        Ok(Self { answer })
    }

    /// From now on it says this.
    pub fn say(&self, answer: Answer) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }
}
