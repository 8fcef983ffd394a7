//! TLS to Patroni's REST API, with Debian's OpenSSL: which certificates are trusted, and which is sent.
//!
//! The name in the certificate is not verified, since the connection goes to this very host. What must be shown is that Patroni
//! answers, and not another server with a certificate of the same CA. The kernel shows it, since it knows who answers, and so does
//! the certificate, if it is the one that the Patroni file names. With the kernel's answer, another certificate of the same CA is only
//! reported: the file was renewed, and Patroni has not read it again. An expired certificate is only reported, too: only Patroni has
//! its key, and to lose the address over it would help no client.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Error, Result};
use host::net::tls::{self, Client, Own, Verify};
use host::net::{Bounded, Fault};
use host::trouble::Trouble;
use host::{Root, fail, trouble};
use openssl::ssl::SslStream;
use openssl::x509::X509;

/// The files of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The CA certificates that Patroni's certificate is verified against; none: those that this host trusts.
    pub signers: Option<PathBuf>,
    /// Patroni's own certificate; none in a file that patroni-gen-config 0.1.0 wrote.
    pub certificate: Option<PathBuf>,
    /// The client certificate and its key, if Patroni asks for one.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// A TLS client that reads its files once, and again after a failure.
pub struct Tls {
    root: Root,
    files: Files,
    client: Mutex<Option<Arc<Client>>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

impl Tls {
    /// Reads nothing yet.
    #[must_use]
    pub fn new(root: &Root, files: Files) -> Self {
        Self { root: root.clone(), files, client: Mutex::new(None) }
    }

    /// Shakes hands. Returns also what is doubtful about the certificate. `is_patroni` is whether the kernel reports that Patroni
    /// answers; otherwise the certificate has to be Patroni's own.
    pub fn connect(&self, stream: Bounded, is_patroni: bool) -> Result<(SslStream<Bounded>, Vec<Trouble>)> {
        // An address, so no name is sent; none is verified.
        let (stream, doubt) = self.client()?.connect(stream, "127.0.0.1").map_err(|fault| {
            self.forget();
            self.explain(fault)
        })?;
        let mut doubts: Vec<Trouble> = doubt.iter().map(doubtful).collect();
        if let Err(error) = self.has_patronis_certificate(&stream) {
            if !is_patroni {
                return Err(error.context("the kernel does not report who answers there, so it is not trusted"));
            }
            // A file that names none is an old one, and the kernel's answer is enough.
            if self.files.certificate.is_some() {
                doubts.push(Trouble::of(&error));
            }
        }
        Ok((stream, doubts))
    }

    /// Fails unless the certificate is the one that the Patroni file names.
    fn has_patronis_certificate(&self, stream: &SslStream<Bounded>) -> Result<()> {
        let Some(path) = &self.files.certificate else {
            fail!("Patroni's own certificate is not known"; "Run: patroni-gen-config");
        };
        // The Patroni file names it, so it may be in a directory of postgres, and root may be the one who reads it.
        let Some(text) = self.root.for_postgres().bytes(path)? else {
            fail!("there is no file {}", path.display(); "Correct RESTAPI_CERT, and run: patroni-gen-config");
        };
        let Ok(wanted) = X509::from_pem(&text) else {
            fail!("{} has no certificate in PEM", path.display(); "Correct RESTAPI_CERT, and run: patroni-gen-config");
        };
        let sent = stream.ssl().peer_certificate().context("it sent no certificate")?;
        if wanted.to_der()? != sent.to_der()? {
            fail!("its certificate is not the one in {}", path.display(); "If that file was renewed, reload Patroni.");
        }
        Ok(())
    }

    /// Why a request failed after the handshake. In TLS 1.3 the other side verifies the client certificate only then. The reset
    /// that follows its alert may overtake it, because the request is not read any more.
    pub fn explain_after_handshake(&self, fault: Fault) -> Error {
        self.forget();
        match (fault, &self.files.own) {
            (Fault::Closed(error), Some((own, _))) if error.kind() == ErrorKind::ConnectionReset => trouble!(
                "it seems to reject the client certificate {} ({error})", own.display();
                "See the journal of patroni@."
            )
            .into(),
            (fault, _) => self.explain(fault),
        }
    }

    /// The files may have changed by the time that they are needed again.
    fn forget(&self) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn client(&self) -> Result<Arc<Client>> {
        let mut kept = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = kept.as_ref() {
            return Ok(Arc::clone(client));
        }
        let own = self.files.own.clone().map(|(certificate, key)| Own { certificate, key, password: None });
        let files = tls::Files { ca_file: self.files.signers.clone(), own };
        let client = Arc::new(Client::new(&self.root, &files, Verify::Owner)?);
        *kept = Some(Arc::clone(&client));
        Ok(client)
    }

    fn explain(&self, fault: Fault) -> Error {
        let trouble = match (fault, &self.files) {
            (Fault::Untrusted(why) | Fault::Invalid(why), Files { signers: Some(path), .. }) => trouble!(
                "its certificate does not verify against {} ({why})", path.display();
                "Correct RESTAPI_CACERT or RESTAPI_CERT, and run: patroni-gen-config"
            ),
            (Fault::Untrusted(why) | Fault::Invalid(why), _) => trouble!(
                "its certificate was not issued by a CA that this host trusts ({why})";
                "Set RESTAPI_CACERT, and run: patroni-gen-config"
            ),
            (Fault::Rejected(why), Files { own: None, .. }) => trouble!(
                "it requires a client certificate ({why})";
                "If RESTAPI_VERIFY_CLIENT=required is new, run: patroni-gen-config"
            ),
            (Fault::Rejected(why), Files { own: Some((own, _)), .. }) => trouble!(
                "it rejects the client certificate {} ({why})", own.display();
                "Correct or renew CTL_CERT, or correct RESTAPI_CACERT."
            ),
            (Fault::NoTls, _) => trouble!(
                "it does not use TLS, but the Patroni file says that it does";
                "Reload Patroni with: systemctl reload patroni@VERSION-NAME"
            ),
            (Fault::Unresponsive, _) => return io::Error::from(ErrorKind::TimedOut).into(),
            (Fault::OtherProtocol, _) => {
                trouble!("what answers there is not Patroni"; "Check the port of the REST API, and run: patroni-gen-config")
            }
            (fault, _) => Trouble::new(fault.to_string()),
        };
        trouble.into()
    }
}

fn doubtful(doubt: &Fault) -> Trouble {
    let hint = "Renew RESTAPI_CERT and reload Patroni, before clients reject it.";
    match doubt {
        Fault::Expired(_) => Trouble::new("its certificate has expired").hint(hint),
        Fault::NotYetValid(_) => Trouble::new("its certificate is not yet valid").hint(hint),
        other => Trouble::new(other.to_string()),
    }
}
