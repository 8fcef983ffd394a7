//! TLS for the question to Patroni, by Debian's OpenSSL: whom we believe, and what we show.
//!
//! The certificate's name is not looked at, since we ask this very host: what has to be shown is that the answer is Patroni's,
//! and not that of whoever opened the port while Patroni was away. For the same reason a certificate that has expired is only
//! a doubt: it is still Patroni that has its key, and to lose the address over it would help nobody.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{
    self, HandshakeError, Ssl, SslContext, SslMethod, SslOptions, SslStream, SslVerifyMode, SslVersion,
};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509VerifyResult};
use site::Root;

/// Not valid any more, or not yet: `X509_V_ERR_CERT_HAS_EXPIRED`, `X509_V_ERR_CERT_NOT_YET_VALID` (`X509_STORE_CTX_get_error(3)`).
const OUT_OF_DATE: [i32; 2] = [10, 9];

/// The files that say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The certificates that vouch for Patroni's; none: those that this host trusts anyway.
    pub signers: Option<PathBuf>,
    /// Our own certificate and its key, where Patroni asks for one.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// What is made from the files once, and again after it did not serve.
pub struct Tls {
    root: Root,
    files: Files,
    context: Mutex<Option<SslContext>>,
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
        Self { root: root.clone(), files, context: Mutex::new(None) }
    }

    /// Shakes hands. Gives what is doubtful about the other side's certificate, too.
    pub fn connect<S: Read + Write>(&self, stream: S) -> Result<(SslStream<S>, Option<String>)> {
        let context = self.context()?;
        match Ssl::new(&context)?.connect(stream) {
            Ok(stream) => {
                let result = stream.ssl().verify_result();
                let doubt = (result != X509VerifyResult::OK).then(|| result.error_string().to_owned());
                Ok((stream, doubt))
            }
            Err(error) => {
                self.forget();
                Err(match error {
                    HandshakeError::SetupFailure(error) => error.into(),
                    HandshakeError::Failure(failed) | HandshakeError::WouldBlock(failed) => {
                        match failed.ssl().verify_result() {
                            X509VerifyResult::OK => self.explain(failed.into_error()),
                            distrust => anyhow!("{}", self.distrust(distrust)),
                        }
                    }
                })
            }
        }
    }

    /// What a failure after the handshake means. In TLS 1.3 the other side's judgement of our certificate comes only then, and the
    /// reset that follows it, because our question is not read any more, may overtake it.
    pub fn explain_io(&self, error: io::Error) -> anyhow::Error {
        self.forget();
        match (error.downcast::<ssl::Error>(), &self.files.own) {
            (Ok(error), _) => self.explain(error),
            (Err(error), Some((own, _))) if error.kind() == io::ErrorKind::ConnectionReset => {
                anyhow!("it seems to refuse our certificate {} ({error}): see the journal of patroni@", own.display())
            }
            (Err(error), _) => error.into(),
        }
    }

    /// The files may be others when they are needed the next time.
    fn forget(&self) {
        *self.context.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn context(&self) -> Result<SslContext> {
        let mut held = self.context.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = held.as_ref() {
            return Ok(context.clone());
        }
        let context = self.build()?;
        *held = Some(context.clone());
        Ok(context)
    }

    fn build(&self) -> Result<SslContext> {
        let mut context = SslContext::builder(SslMethod::tls_client())?;
        context.set_min_proto_version(Some(SslVersion::TLS1_2))?;
        // The answer is JSON, of which we see ourselves whether it is whole.
        context.set_options(SslOptions::IGNORE_UNEXPECTED_EOF);
        context.set_verify_callback(SslVerifyMode::PEER, |good, chain| {
            good || OUT_OF_DATE.contains(&chain.error().as_raw())
        });
        match &self.files.signers {
            None => context.set_default_verify_paths()?,
            Some(path) => {
                let mut store = X509StoreBuilder::new()?;
                for signer in self.certificates(path)? {
                    store.add_cert(signer)?;
                }
                // Whatever stands in the file is believed, also the member's own certificate or one between.
                store.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
                context.set_cert_store(store.build());
            }
        }
        if let Some((certificate, key)) = &self.files.own {
            let mut chain = self.certificates(certificate)?.into_iter();
            if let Some(own) = chain.next() {
                context.set_certificate(&own)?;
            }
            for between in chain {
                context.add_extra_chain_cert(between)?;
            }
            let secret = self.key(key)?;
            context.set_private_key(&secret).map_err(|_| {
                anyhow!("{} is not the key of {}: correct CTL_CERT or CTL_KEY", key.display(), certificate.display())
            })?;
        }
        Ok(context.build())
    }

    fn text(&self, path: &Path) -> Result<String> {
        self.root.read(path)?.with_context(|| format!("there is no file {}", path.display()))
    }

    fn certificates(&self, path: &Path) -> Result<Vec<X509>> {
        let found = X509::stack_from_pem(self.text(path)?.as_bytes()).unwrap_or_default();
        if found.is_empty() {
            bail!("{} has no certificate in PEM", path.display());
        }
        Ok(found)
    }

    fn key(&self, path: &Path) -> Result<PKey<Private>> {
        // Without the callback OpenSSL would ask a terminal for a password.
        PKey::private_key_from_pem_callback(self.text(path)?.as_bytes(), |_| Err(ErrorStack::get()))
            .map_err(|_| anyhow!("{} has no private key in PEM, or one with a password", path.display()))
    }

    fn distrust(&self, result: X509VerifyResult) -> String {
        let why = result.error_string();
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

    /// By the reasons of OpenSSL (`ERR_reason_error_string(3)`), of which the numbers are not public in this crate.
    fn explain(&self, error: ssl::Error) -> anyhow::Error {
        let reason = error.ssl_error().and_then(|stack| stack.errors().first()?.reason()).unwrap_or_default();
        if reason.contains("alert") {
            return match &self.files.own {
                None => anyhow!(
                    "it refuses us without a certificate ({reason}): if RESTAPI_VERIFY_CLIENT=required is new, run patroni-gen-config"
                ),
                Some((own, _)) => anyhow!(
                    "it refuses our certificate {} ({reason}): correct or renew CTL_CERT, or RESTAPI_CACERT",
                    own.display()
                ),
            };
        }
        if matches!(reason, "wrong version number" | "http request" | "packet length too long" | "record layer failure")
        {
            return anyhow!(
                "it does not speak TLS, as the Patroni file says: run systemctl reload patroni@ for this instance"
            );
        }
        match error.into_io_error() {
            Ok(error) => error.into(),
            Err(error) if reason.is_empty() => anyhow!("it ended the connection ({error})"),
            Err(_) => anyhow!("TLS failed ({reason})"),
        }
    }
}
