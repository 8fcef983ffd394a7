//! TLS for the question to Patroni, by Debian's OpenSSL: whom we believe, and what we show.
//!
//! The certificate's name is not looked at, since we ask this very host: what has to be shown is that the answer is Patroni's,
//! and not that of another server whose certificate is from the same CA. That is shown by the kernel, which knows who answers, and
//! by the certificate, which is the one that the Patroni file names. With the kernel's word another certificate of the same CA is only a
//! doubt: the file was renewed, and Patroni has not read it again. For the same reason a certificate that has expired is only
//! a doubt: it is still Patroni that has its key, and to lose the address over it would help no one.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail, ensure};
use host::Root;
use host::net::tls::{self, Client, Own, Verify};
use host::net::{Bounded, Fault};
use openssl::ssl::SslStream;
use openssl::x509::X509;

/// The files that say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The certificates that vouch for Patroni's; none: those that this host trusts anyway.
    pub signers: Option<PathBuf>,
    /// Patroni's own, with which it answers; none in a file that patroni-gen-config 0.1.0 wrote.
    pub certificate: Option<PathBuf>,
    /// Our own certificate and its key, where Patroni asks for one.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// What is made from the files once, and again after it did not serve.
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

    /// Shakes hands. Gives what is doubtful about the other side's certificate, too. `ours` is the kernel's word that Patroni answers;
    /// without it the certificate has to be Patroni's own.
    pub fn connect(&self, stream: Bounded, ours: bool) -> Result<(SslStream<Bounded>, Vec<String>)> {
        // No name is looked for, and none is sent.
        let (stream, doubt) = self.client()?.connect(stream, "127.0.0.1").map_err(|fault| {
            self.forget();
            self.explain(fault)
        })?;
        let mut doubts: Vec<String> = doubt.iter().map(doubtful).collect();
        if let Err(error) = self.is_patronis(&stream) {
            if !ours {
                bail!("{error:#}; and the kernel does not say who answers there, so it is not believed");
            }
            // A file that names none is an old one, and the kernel's word is enough.
            if self.files.certificate.is_some() {
                doubts.push(format!("{error:#}"));
            }
        }
        Ok((stream, doubts))
    }

    /// Is the certificate the one that the Patroni file names?
    fn is_patronis(&self, stream: &SslStream<Bounded>) -> Result<()> {
        let path = self
            .files
            .certificate
            .as_ref()
            .context("Patroni's own certificate is not known: run patroni-gen-config")?;
        // The Patroni file named it, so that it can be in a directory of postgres, and root asks, too.
        let text =
            self.root.for_postgres().bytes(path)?.with_context(|| format!("there is no file {}", path.display()))?;
        let wanted = X509::from_pem(&text).map_err(|_| anyhow!("{} has no certificate in PEM", path.display()))?;
        let shown = stream.ssl().peer_certificate().context("it shows no certificate")?;
        ensure!(
            wanted.to_der()? == shown.to_der()?,
            "its certificate is another one than that in {}: if that was renewed, reload Patroni",
            path.display()
        );
        Ok(())
    }

    /// What a failure after the handshake means. In TLS 1.3 the other side's judgement of our certificate comes only then, and the
    /// reset that follows it, because our question is not read any more, may overtake it.
    pub fn explain_io(&self, error: io::Error) -> anyhow::Error {
        self.forget();
        match (tls::explain_io(error), &self.files.own) {
            (Fault::Closed(error), Some((own, _))) if error.kind() == ErrorKind::ConnectionReset => {
                anyhow!("it seems to refuse our certificate {} ({error}): see the journal of patroni@", own.display())
            }
            (fault, _) => self.explain(fault),
        }
    }

    /// The files may be others when they are needed the next time.
    fn forget(&self) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn client(&self) -> Result<Arc<Client>> {
        let mut held = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = held.as_ref() {
            return Ok(Arc::clone(client));
        }
        let own = self.files.own.clone().map(|(certificate, key)| Own { certificate, key, password: None });
        let files = tls::Files { ca_file: self.files.signers.clone(), own };
        let client = Arc::new(Client::new(&self.root, &files, Verify::Owner)?);
        *held = Some(Arc::clone(&client));
        Ok(client)
    }

    fn explain(&self, fault: Fault) -> anyhow::Error {
        match fault {
            Fault::Untrusted(why) | Fault::Invalid(why) => anyhow!(self.distrust(&why)),
            Fault::Rejected(why) => match &self.files.own {
                None => anyhow!(
                    "it refuses us without a certificate ({why}): if RESTAPI_VERIFY_CLIENT=required is new, run patroni-gen-config"
                ),
                Some((own, _)) => anyhow!(
                    "it refuses our certificate {} ({why}): correct or renew CTL_CERT, or RESTAPI_CACERT",
                    own.display()
                ),
            },
            Fault::NoTls => anyhow!(
                "it does not speak TLS, as the Patroni file says: run systemctl reload patroni@ for this instance"
            ),
            Fault::Closed(error) => error.into(),
            Fault::Unresponsive => io::Error::from(ErrorKind::TimedOut).into(),
            fault => anyhow!("{fault}"),
        }
    }

    fn distrust(&self, why: &str) -> String {
        match &self.files.signers {
            Some(path) => format!(
                "its certificate is not signed by {} ({why}): correct RESTAPI_CACERT or RESTAPI_CERT, and run patroni-gen-config",
                path.display()
            ),
            None => format!(
                "its certificate is not signed by anybody whom this host trusts ({why}): set RESTAPI_CACERT, and run patroni-gen-config"
            ),
        }
    }
}

fn doubtful(doubt: &Fault) -> String {
    match doubt {
        Fault::Expired(_) => out_of_date("has expired"),
        Fault::NotYetValid(_) => out_of_date("is not yet valid"),
        other => other.to_string(),
    }
}

fn out_of_date(how: &str) -> String {
    format!("its certificate {how}: renew RESTAPI_CERT and reload Patroni, before others refuse it")
}
