//! Somebody who answers as Patroni's REST API does (`RestApiHandler.do_GET`), with what the test says.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use openssl::ssl::SslAcceptor;

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
pub struct Rest {
    answer: Arc<Mutex<Answer>>,
    tls: Arc<Mutex<Option<SslAcceptor>>>,
}

impl Rest {
    /// Answers at this address, in the network namespace of the caller, as a primary does.
    pub fn listen(address: &str) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        let answer = Arc::new(Mutex::new(PRIMARY));
        let tls = Arc::new(Mutex::new(None::<SslAcceptor>));
        let (shared, acceptor) = (Arc::clone(&answer), Arc::clone(&tls));
        thread::spawn(move || {
            let mut hanging = Vec::new();
            for stream in listener.incoming().flatten() {
                let answer = *shared.lock().unwrap_or_else(PoisonError::into_inner);
                let acceptor = acceptor.lock().unwrap_or_else(PoisonError::into_inner).clone();
                match acceptor {
                    _ if answer.0.is_empty() => hanging.push(stream),
                    None => speak(stream, answer),
                    // Who does not speak TLS, or does not believe the certificate, hears nothing.
                    Some(acceptor) => {
                        if let Ok(mut stream) = acceptor.accept(stream) {
                            speak(&mut stream, answer);
                            let _ = stream.shutdown();
                        }
                    }
                }
            }
        });
        Ok(Self { answer, tls })
    }

    /// From now on it speaks TLS, with this certificate.
    pub fn speak_tls(&self, acceptor: SslAcceptor) {
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = Some(acceptor);
    }

    /// From now on it says this.
    pub fn say(&self, answer: Answer) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }
}

fn speak(mut stream: impl Read + Write, (status, body): Answer) {
    // Who asks may have been killed meanwhile.
    let _ = stream.read(&mut [0; 1024]);
    let _ = write!(stream, "HTTP/1.0 {status} x\r\nContent-Type: application/json\r\n\r\n{body}");
}
