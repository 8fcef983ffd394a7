//! TLS to a server with Debian's OpenSSL: which CAs are trusted, which client certificate is sent, and what is wrong with the server.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use openssl::error::ErrorStack;
use openssl::ssl::{
    self, HandshakeError, Ssl, SslContext, SslMethod, SslOptions, SslStream, SslVerifyMode, SslVersion,
};
use openssl::x509::X509StoreContextRef;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::{X509CheckFlags, X509VerifyFlags};

use super::Fault;
use crate::certificate::{self, Summary};
use crate::{Root, trouble};

/// The files of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// The CA certificates; if none, those that this host trusts by default.
    pub ca_file: Option<PathBuf>,
    /// The client certificate, sent if the server asks for it.
    pub own: Option<Own>,
}

/// A client certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct Own {
    /// The certificate, followed by the intermediate certificates.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The key's password, if it has one.
    pub password: Option<String>,
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own").field("certificate", &self.certificate).field("key", &self.key).finish_non_exhaustive()
    }
}

/// What is verified of a server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Nothing.
    Nothing,
    /// That a trusted CA issued it, and that it is valid now.
    Issuer,
    /// Also that it is valid for the host name or address.
    Name,
    /// That a certificate in the CA file issued it, or is the certificate itself. If it is out of date, that is only a doubt.
    Owner,
}

/// A certificate that the server sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// What it says of itself.
    pub summary: Summary,
    /// Is it the certificate of a CA rather than the server's own?
    pub of_ca: bool,
}

impl PeerCertificate {
    /// `its certificate (CN=a)`.
    #[must_use]
    pub fn description(&self) -> String {
        let what = if self.of_ca { "the CA certificate of its own" } else { "its certificate" };
        format!("{what} ({})", self.summary.subject)
    }
}

/// A TLS client, for any number of connections.
pub struct Client {
    context: SslContext,
    verify: Verify,
}

impl Client {
    /// Reads the files; an error names the one that is wrong.
    pub fn new(root: &Root, files: &Files, verify: Verify) -> Result<Self> {
        let mut context = SslContext::builder(SslMethod::tls_client())?;
        context.set_min_proto_version(Some(SslVersion::TLS1_2))?;
        // The caller sees whether the answer is complete.
        context.set_options(SslOptions::IGNORE_UNEXPECTED_EOF);
        match &files.ca_file {
            None => context.set_default_verify_paths()?,
            Some(path) => {
                let mut store = X509StoreBuilder::new()?;
                for ca in certificate::read(root, path)? {
                    store.add_cert(ca)?;
                }
                if verify == Verify::Owner {
                    store.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
                }
                context.set_cert_store(store.build());
            }
        }
        if let Some(own) = &files.own {
            let mut chain = certificate::read(root, &own.certificate)?.into_iter();
            if let Some(first) = chain.next() {
                context.set_certificate(&first)?;
            }
            for between in chain {
                context.add_extra_chain_cert(between)?;
            }
            let key = certificate::read_key(root, &own.key, own.password.as_deref())?;
            context
                .set_private_key(&key)
                .map_err(|_| trouble!("{} is not the key of {}", own.key.display(), own.certificate.display()))?;
        }
        Ok(Self { context: context.build(), verify })
    }

    /// Performs the handshake with a host. Also returns what is doubtful about its certificate.
    pub fn connect<S: Read + Write>(&self, stream: S, host: &str) -> Result<(SslStream<S>, Option<Fault>), Fault> {
        let take = |seen: &Mutex<Option<Fault>>| seen.lock().unwrap_or_else(PoisonError::into_inner).take();
        let seen = Arc::new(Mutex::new(None));
        let ssl = self.prepare(host, Arc::clone(&seen)).map_err(|error| Fault::Tls(error.to_string()))?;
        let stream = ssl.connect(stream).map_err(|error| match error {
            HandshakeError::SetupFailure(error) => Fault::Tls(error.to_string()),
            HandshakeError::Failure(failed) | HandshakeError::WouldBlock(failed) => {
                // The server has not answered yet (`SSL_state_string_long(3)`).
                let first = failed.ssl().state_string_long().contains("write client hello");
                take(&seen).unwrap_or_else(|| match explain(failed.into_error()) {
                    // A server without TLS does not understand the request, and may close the connection without an answer.
                    Fault::Closed(_) if first => Fault::NoTls,
                    fault => fault,
                })
            }
        })?;
        Ok((stream, take(&seen)))
    }

    fn prepare(&self, host: &str, seen: Arc<Mutex<Option<Fault>>>) -> Result<Ssl, ErrorStack> {
        let mut ssl = Ssl::new(&self.context)?;
        let address = host.parse::<IpAddr>();
        if address.is_err() {
            ssl.set_hostname(host)?;
        }
        if self.verify == Verify::Name {
            let parameters = ssl.param_mut();
            parameters.set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
            match address {
                Ok(address) => parameters.set_ip(address)?,
                Err(_) => parameters.set_host(host)?,
            }
        }
        if self.verify == Verify::Nothing {
            ssl.set_verify(SslVerifyMode::NONE);
            return Ok(ssl);
        }
        let lenient = self.verify == Verify::Owner;
        ssl.set_verify_callback(SslVerifyMode::PEER, move |good, chain| {
            if good {
                return true;
            }
            let fault = fault_of(chain);
            let passes = lenient && matches!(fault, Fault::Expired(_) | Fault::NotYetValid(_));
            *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
            passes
        });
        Ok(ssl)
    }
}

/// Uses the numbers of `X509_STORE_CTX_get_error(3)`, as the openssl crate does not name all of them.
fn fault_of(chain: &mut X509StoreContextRef) -> Fault {
    let result = chain.error();
    let shown = chain
        .current_cert()
        .map(|certificate| PeerCertificate { summary: Summary::of(certificate), of_ca: chain.error_depth() > 0 });
    match (result.as_raw(), shown) {
        (9, Some(shown)) => Fault::NotYetValid(shown),
        (10, Some(shown)) => Fault::Expired(shown),
        (62..=64, Some(shown)) => Fault::OtherName(shown),
        (2 | 18..=21, _) => Fault::Untrusted(result.error_string().to_owned()),
        _ => Fault::Invalid(result.error_string().to_owned()),
    }
}

/// The meaning of a connection failure. With TLS 1.3 a server rejects the client certificate only after the handshake, when the client
/// reads, and the reset that follows may arrive before the alert.
#[must_use]
pub fn explain_io(error: io::Error) -> Fault {
    if error.kind() == ErrorKind::TimedOut {
        return Fault::Unresponsive;
    }
    match error.downcast::<ssl::Error>() {
        Ok(error) => explain(error),
        Err(error) => Fault::Closed(error),
    }
}

/// Uses OpenSSL's reason strings (`ERR_reason_error_string(3)`), as the openssl crate does not export their numbers.
fn explain(error: ssl::Error) -> Fault {
    let reason = error.ssl_error().and_then(|stack| stack.errors().first()?.reason()).unwrap_or_default();
    if reason.contains("alert") {
        return Fault::Rejected(reason.to_owned());
    }
    if matches!(reason, "wrong version number" | "http request" | "packet length too long" | "record layer failure") {
        return Fault::NoTls;
    }
    match error.into_io_error() {
        Ok(error) if error.kind() == ErrorKind::TimedOut => Fault::Unresponsive,
        Ok(error) => Fault::Closed(error),
        Err(_) if reason.is_empty() => Fault::Closed(ErrorKind::UnexpectedEof.into()),
        Err(_) => Fault::Tls(reason.to_owned()),
    }
}
