//! What the servers of the DCS are asked, what they answer, and what their faults mean for the administrator.

use std::collections::BTreeMap;

use host::net::tls::{Client, Files};
use host::net::{Fault, reason};
use serde_json::{Map, Value};

use crate::doctor::cluster::LIMIT;
use crate::doctor::finding::{Finding, Subject};
use crate::patroni::version::Patroni;
use crate::patroni_yml::dcs::Kind;

/// What the DCS contains about a cluster: the keys below its own, and their values.
pub(crate) type Content = BTreeMap<String, String>;

/// The answer of a server that Patroni can work with.
#[derive(Debug, Default)]
pub(crate) struct Served {
    pub(crate) content: Content,
    /// What the administrator should check nevertheless.
    pub(crate) notes: Vec<Finding>,
}

/// Everything that is needed to ask a server of any kind. What is wrong with it is a finding without a place, so that a fault of several
/// servers is reported once.
pub(crate) struct Question {
    pub(crate) kind: Kind,
    pub(crate) options: Map<String, Value>,
    /// `None` without TLS.
    pub(crate) tls: Option<Client>,
    pub(crate) files: Files,
    /// Does Patroni verify the server's certificate, too?
    pub(crate) verifies: bool,
    pub(crate) patroni: Patroni,
    pub(crate) id: String,
    pub(crate) namespace: String,
    pub(crate) scope: String,
}

impl Question {
    pub(crate) fn text(&self, option: &str) -> Option<String> {
        match self.options.get(option)? {
            Value::String(text) => Some(text.clone()),
            other @ (Value::Number(_) | Value::Bool(_)) => Some(other.to_string()),
            _ => None,
        }
    }

    /// `postgresql-common/16-main`, without slashes at its ends (`AbstractDCS.__init__`).
    pub(crate) fn base(&self) -> String {
        let parts = [self.namespace.trim_matches('/'), &self.scope];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
    }

    /// A hint that ends with the command that generates the Patroni file from changed settings.
    pub(crate) fn then_generate(&self, hint: &str) -> String {
        format!("{hint}, then run: patroni-gen-config {}", self.id)
    }

    /// What a fault means for the administrator, in terms of the settings.
    pub(crate) fn explain(&self, host: &str, fault: &Fault) -> Finding {
        let finding = match fault {
            Fault::Name(_) => Finding::error(fault.to_string(), "Correct DCS_HOSTS, or the resolver of this host."),
            Fault::Unreachable(_) => {
                Finding::error(fault.to_string(), "Start the server, or correct DCS_HOSTS or the firewall.")
            }
            Fault::Unresponsive => Finding::error(
                format!("it did not respond within {} s", LIMIT.as_secs()),
                "Check its log, and whether more than half of the servers are running.",
            ),
            Fault::Closed(error) => {
                let what = format!("it closed the connection ({})", reason(error));
                let hint = match (self.tls.is_some(), self.files.own.is_some()) {
                    (false, _) => self.then_generate("Check its log, or, if it requires TLS, set DCS_CACERT"),
                    (true, false) => {
                        self.then_generate("Check its log, or, if it requires a client certificate, set DCS_CERT")
                    }
                    (true, true) => "Check its log: it may reject DCS_CERT.".to_owned(),
                };
                Finding::error(what, hint)
            }
            Fault::NoTls => Finding::error(
                fault.to_string(),
                self.then_generate(
                    "Enable TLS on the server, or remove DCS_CACERT and DCS_CERT and set DCS_PROTOCOL=http",
                ),
            ),
            Fault::RequiresTls => {
                Finding::error(fault.to_string(), self.then_generate("Set DCS_CACERT or DCS_PROTOCOL=https"))
            }
            Fault::OtherProtocol => Finding::error(
                format!("the server is not {}", self.kind.name().trim_end_matches('3')),
                self.then_generate("Correct DCS_HOSTS"),
            ),
            Fault::Untrusted(why) => match &self.files.ca_file {
                Some(path) => Finding::error(
                    format!("its certificate is not signed by {} ({why})", path.display()),
                    "Add the CA certificate that signed it to that file (DCS_CACERT).",
                ),
                None => Finding::error(
                    format!("its certificate is not signed by a CA that this host trusts ({why})"),
                    self.then_generate("Set DCS_CACERT"),
                ),
            },
            Fault::Expired(_) => Finding::error(fault.to_string(), "Renew it on the server."),
            Fault::NotYetValid(_) => {
                Finding::error(fault.to_string(), "Correct the clock of this host, or the certificate.")
            }
            Fault::OtherName(shown) => Finding::error(
                format!("its certificate is for {}, not for {host}", shown.summary.names),
                self.then_generate("Use that name in DCS_HOSTS, or reissue the certificate"),
            ),
            Fault::Invalid(_) => Finding::error(fault.to_string(), "Reissue the certificate."),
            Fault::Rejected(why) => match &self.files.own {
                Some(own) => Finding::error(
                    format!("it rejects the client certificate {} ({why})", own.certificate.display()),
                    "Correct DCS_CERT, or the CA certificate on the server.",
                )
                .about(&own.certificate),
                None => Finding::error(
                    format!("it requires a client certificate ({why})"),
                    self.then_generate("Set DCS_CERT and DCS_KEY"),
                ),
            },
            Fault::Tls(_) => Finding::error(fault.to_string(), "Check its log."),
        };
        let of_certificate = matches!(
            fault,
            Fault::Untrusted(_) | Fault::Expired(_) | Fault::NotYetValid(_) | Fault::OtherName(_) | Fault::Invalid(_)
        );
        let of_connection = matches!(fault, Fault::Name(_) | Fault::Unreachable(_) | Fault::Unresponsive);
        match (of_certificate, of_connection) {
            (true, _) => Finding { subject: Some(Subject::ServerCertificate), ..finding },
            (_, true) => Finding { subject: Some(Subject::Connection), ..finding },
            _ => finding,
        }
    }
}

/// `user:password@host:port` of a URL, without the user.
pub(crate) fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// `host`, `host:port`, `[fd00::1]:port`.
pub(crate) fn endpoint(text: &str, default: u16) -> (String, u16) {
    let text = text.trim();
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().unwrap_or(default)),
        _ => (text, default),
    };
    (host.trim_start_matches('[').trim_end_matches(']').to_owned(), port)
}
