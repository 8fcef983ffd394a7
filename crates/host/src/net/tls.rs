//! TLS to a server, by Debian's OpenSSL: whom we believe, what we show, and what is wrong with the other side.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use openssl::asn1::Asn1TimeRef;
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{
    self, HandshakeError, Ssl, SslContext, SslMethod, SslOptions, SslStream, SslVerifyMode, SslVersion,
};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::{X509CheckFlags, X509VerifyFlags};
use openssl::x509::{X509, X509NameRef, X509Ref, X509StoreContextRef};

use super::Fault;
use crate::Root;

/// The files of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// The certificates that vouch for the server's; none: those that this host trusts anyway.
    pub signers: Option<PathBuf>,
    /// What we show, where the server asks for it.
    pub own: Option<Own>,
}

/// A certificate of our own.
#[derive(Clone, PartialEq, Eq)]
pub struct Own {
    /// The certificate, with those that stand between it and its authority behind it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The key's password, where it has one.
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
    /// Who signed it, and that it is valid now.
    Signer,
    /// That it is for the host that was asked, too.
    Name,
    /// Who signed it: anybody whose certificate is in the file, be it this very one. That it is out of date is a doubt.
    Owner,
}

/// A certificate of the other side, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its subject.
    pub subject: String,
    /// From when it is valid.
    pub from: String,
    /// Until when it is valid.
    pub until: String,
    /// For whom it is (`subjectAltName`).
    pub names: Vec<String>,
    /// Is it the certificate of who signed the server's?
    pub signer: bool,
}

impl Shown {
    fn of(certificate: &X509Ref, signer: bool) -> Self {
        Self {
            subject: subject(certificate.subject_name()),
            from: time(certificate.not_before()),
            until: time(certificate.not_after()),
            names: names(certificate),
            signer,
        }
    }

    /// `its certificate (CN=a)`.
    #[must_use]
    pub fn whose(&self) -> String {
        let what = if self.signer { "the certificate of the authority that signed its own" } else { "its certificate" };
        format!("{what} ({})", self.subject)
    }

    /// For whom it is.
    #[must_use]
    pub fn names(&self) -> String {
        if self.names.is_empty() { "no name (it has no subjectAltName)".to_owned() } else { self.names.join(", ") }
    }
}

/// `O=Example,CN=a`.
#[must_use]
pub fn subject(name: &X509NameRef) -> String {
    let entries = name.entries().map(|entry| {
        let value = entry.data().to_string().unwrap_or_default();
        format!("{}={value}", entry.object().nid().short_name().unwrap_or("?"))
    });
    entries.collect::<Vec<_>>().join(",")
}

/// A time as OpenSSL writes it, with single blanks.
#[must_use]
pub fn time(time: &Asn1TimeRef) -> String {
    time.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The names and addresses that a certificate is for (`subjectAltName`; a common name counts for no address: RFC 6125, 6.4.4).
#[must_use]
pub fn names(certificate: &X509Ref) -> Vec<String> {
    let names = certificate.subject_alt_names();
    let shown = names.iter().flatten().filter_map(|name| match (name.ipaddress(), name.dnsname()) {
        (Some(address), _) => Some(match (<[u8; 4]>::try_from(address), <[u8; 16]>::try_from(address)) {
            (Ok(bytes), _) => IpAddr::from(bytes).to_string(),
            (_, Ok(bytes)) => IpAddr::from(bytes).to_string(),
            _ => "an address of an odd length".to_owned(),
        }),
        (_, Some(name)) => Some(name.to_owned()),
        _ => None,
    });
    shown.collect()
}

/// A client of TLS, for any number of connections.
pub struct Client {
    context: SslContext,
    verify: Verify,
}

impl Client {
    /// Reads the files; an error says which one is not what it should be.
    pub fn new(root: &Root, files: &Files, verify: Verify) -> Result<Self> {
        let mut context = SslContext::builder(SslMethod::tls_client())?;
        context.set_min_proto_version(Some(SslVersion::TLS1_2))?;
        // Who asks sees whether the answer is whole.
        context.set_options(SslOptions::IGNORE_UNEXPECTED_EOF);
        match &files.signers {
            None => context.set_default_verify_paths()?,
            Some(path) => {
                let mut store = X509StoreBuilder::new()?;
                for signer in certificates(root, path)? {
                    store.add_cert(signer)?;
                }
                if verify == Verify::Owner {
                    store.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
                }
                context.set_cert_store(store.build());
            }
        }
        if let Some(own) = &files.own {
            let mut chain = certificates(root, &own.certificate)?.into_iter();
            if let Some(first) = chain.next() {
                context.set_certificate(&first)?;
            }
            for between in chain {
                context.add_extra_chain_cert(between)?;
            }
            let key = key(root, own)?;
            context
                .set_private_key(&key)
                .map_err(|_| anyhow!("{} is not the key of {}", own.key.display(), own.certificate.display()))?;
        }
        Ok(Self { context: context.build(), verify })
    }

    /// Shakes hands with a host. Gives what is doubtful about its certificate, too.
    pub fn connect<S: Read + Write>(&self, stream: S, host: &str) -> Result<(SslStream<S>, Option<Fault>), Fault> {
        let take = |seen: &Mutex<Option<Fault>>| seen.lock().unwrap_or_else(PoisonError::into_inner).take();
        let seen = Arc::new(Mutex::new(None));
        let ssl = self.prepare(host, Arc::clone(&seen)).map_err(|error| Fault::Tls(error.to_string()))?;
        let stream = ssl.connect(stream).map_err(|error| match error {
            HandshakeError::SetupFailure(error) => Fault::Tls(error.to_string()),
            HandshakeError::Failure(failed) | HandshakeError::WouldBlock(failed) => {
                // The server has said nothing yet (`SSL_state_string_long(3)`).
                let first = failed.ssl().state_string_long().contains("write client hello");
                take(&seen).unwrap_or_else(|| match explain(failed.into_error()) {
                    // A server without TLS takes our first words for nonsense, and some end the connection without an answer.
                    Fault::Broken(_) if first => Fault::NoTls,
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
            let fault = judge(chain);
            let passes = lenient && matches!(fault, Fault::Expired(_) | Fault::NotYetValid(_));
            *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
            passes
        });
        Ok(ssl)
    }
}

/// By the numbers of `X509_STORE_CTX_get_error(3)`, which this crate has not all by name.
fn judge(chain: &mut X509StoreContextRef) -> Fault {
    let result = chain.error();
    let shown = chain.current_cert().map(|certificate| Shown::of(certificate, chain.error_depth() > 0));
    match (result.as_raw(), shown) {
        (9, Some(shown)) => Fault::NotYetValid(shown),
        (10, Some(shown)) => Fault::Expired(shown),
        (62..=64, Some(shown)) => Fault::OtherName(shown),
        (2 | 18..=21, _) => Fault::Unsigned(result.error_string().to_owned()),
        _ => Fault::Unfit(result.error_string().to_owned()),
    }
}

/// What a failure of a connection means. In TLS 1.3 the other side's judgement of our certificate comes only after the handshake, when
/// we read, and the reset that follows it may overtake it.
#[must_use]
pub fn explain_io(error: io::Error) -> Fault {
    if error.kind() == ErrorKind::TimedOut {
        return Fault::Silent;
    }
    match error.downcast::<ssl::Error>() {
        Ok(error) => explain(error),
        Err(error) => Fault::Broken(error),
    }
}

/// By the reasons of OpenSSL (`ERR_reason_error_string(3)`), of which the numbers are not public in this crate.
fn explain(error: ssl::Error) -> Fault {
    let reason = error.ssl_error().and_then(|stack| stack.errors().first()?.reason()).unwrap_or_default();
    if reason.contains("alert") {
        return Fault::Refused(reason.to_owned());
    }
    if matches!(reason, "wrong version number" | "http request" | "packet length too long" | "record layer failure") {
        return Fault::NoTls;
    }
    match error.into_io_error() {
        Ok(error) if error.kind() == ErrorKind::TimedOut => Fault::Silent,
        Ok(error) => Fault::Broken(error),
        Err(_) if reason.is_empty() => Fault::Broken(ErrorKind::UnexpectedEof.into()),
        Err(_) => Fault::Tls(reason.to_owned()),
    }
}

fn text(root: &Root, path: &Path) -> Result<String> {
    root.read(path)?.with_context(|| format!("there is no file {}", path.display()))
}

fn certificates(root: &Root, path: &Path) -> Result<Vec<X509>> {
    let found = X509::stack_from_pem(text(root, path)?.as_bytes()).unwrap_or_default();
    if found.is_empty() {
        bail!("{} has no certificate in PEM", path.display());
    }
    Ok(found)
}

fn key(root: &Root, own: &Own) -> Result<PKey<Private>> {
    // Without the callback OpenSSL would ask a terminal for a password.
    PKey::private_key_from_pem_callback(text(root, &own.key)?.as_bytes(), |buffer| {
        let password =
            own.password.as_ref().filter(|password| password.len() <= buffer.len()).ok_or_else(ErrorStack::get)?;
        buffer[..password.len()].copy_from_slice(password.as_bytes());
        Ok(password.len())
    })
    .map_err(|_| anyhow!("{} has no private key in PEM, or one with another password", own.key.display()))
}
