//! What Patroni on this host reports about itself: `GET /patroni` (`RestApiHandler.do_GET_patroni`).

use std::path::PathBuf;
use std::time::Instant;

use host::net::Fault;
use host::net::http::{Question, Server};
use host::net::tls::{Client, Files, Own, Verify};
use serde_json::Value;

use crate::doctor::cluster::{Cluster, LIMIT};
use crate::doctor::dcs::question::endpoint;

/// What the REST API has answered.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The status of this member.
    Status(Value),
    /// There is no answer, and why.
    None(Fault),
    /// It cannot be asked.
    Unknown,
}

impl Answer {
    pub(crate) fn status(&self) -> Option<&Value> {
        match self {
            Self::Status(status) => Some(status),
            _ => None,
        }
    }
}

/// Asks the REST API at the address at which it listens. No secret is sent, so nothing is verified: only what is shown depends on the answer.
pub(crate) fn ask(cluster: &Cluster) -> Answer {
    let Some(server) = server(cluster) else { return Answer::Unknown };
    let text = |key: &[&str]| cluster.text(key);
    let tls = if text(&["restapi", "certfile"]).is_some() {
        let own = text(&["ctl", "certfile"]).map(|certificate| Own {
            key: text(&["ctl", "keyfile"]).unwrap_or_else(|| certificate.clone()).into(),
            certificate: PathBuf::from(certificate),
            password: text(&["ctl", "keyfile_password"]),
        });
        // The check of certificates reports faults of the files.
        let Ok(client) = Client::new(cluster.root, &Files { ca_file: None, own }, Verify::Nothing) else {
            return Answer::Unknown;
        };
        Some(client)
    } else {
        None
    };
    let question = Question { path: "/patroni", ..Question::default() };
    match server.ask(tls.as_ref(), &question, Instant::now() + LIMIT) {
        Ok(answer) => serde_json::from_str(&answer.body).map_or(Answer::Unknown, Answer::Status),
        Err(fault @ (Fault::Unreachable(_) | Fault::Unresponsive | Fault::Closed(_))) => Answer::None(fault),
        Err(_) => Answer::Unknown,
    }
}

/// Where it listens on this host.
pub(crate) fn server(cluster: &Cluster) -> Option<Server> {
    let listen = cluster.text(&["restapi", "listen"]).or_else(|| cluster.text(&["restapi", "connect_address"]))?;
    let (host, port) = endpoint(&listen, 8008);
    let host = match host.as_str() {
        "" | "*" | "0.0.0.0" => "127.0.0.1".to_owned(),
        "::" => "::1".to_owned(),
        _ => host,
    };
    Some(Server { host, port })
}
