//! Whether certificates and keys belong together, and which CA issued them, for whom and until when.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;
use host::{Root, certificate, fail};
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::stack::Stack;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509PurposeId, X509StoreContext, X509VerifyResult};

/// The certificates of a file: the first is its owner's; in a file with CA certificates all are equal.
pub struct Certificates(Vec<X509>);

/// What a certificate is shown for.
#[derive(Debug, Clone, Copy)]
pub enum Purpose {
    /// By the REST API.
    Server,
    /// By who asks it.
    Client,
}

/// What counts when a signature is looked at.
#[derive(Debug, Clone, Copy)]
pub enum How {
    /// The signature, whenever it is valid.
    AtAnyTime,
    /// That it is valid now, too.
    Now,
    /// All that RFC 5280 demands, as Python does since 3.13 (`ssl.create_default_context`, `VERIFY_X509_STRICT`).
    Strictly,
}

/// Reads the certificates of a file in PEM.
pub fn read(root: &Root, path: &Path) -> Result<Certificates> {
    certificate::read(root, path).map(Certificates)
}

impl Certificates {
    /// Is this its private key?
    #[must_use]
    pub fn has_key(&self, key: &PKey<Private>) -> bool {
        self.0.first().and_then(|own| own.public_key().ok()).is_some_and(|own| own.public_eq(key))
    }

    /// Why it is not valid now, if that is so.
    #[must_use]
    pub fn out_of_date(&self) -> Option<String> {
        self.0.first().and_then(|own| certificate::out_of_date(own))
    }

    /// Of signers: why none of them is valid now, if that is so.
    #[must_use]
    pub fn all_out_of_date(&self) -> Option<String> {
        let late: Vec<String> = self.0.iter().map_while(|signer| certificate::out_of_date(signer)).collect();
        if late.len() == self.0.len() { late.into_iter().next() } else { None }
    }

    /// Is it valid for an address? The error names what it is valid for.
    pub fn is_for(&self, address: IpAddr) -> Result<(), String> {
        match self.0.first() {
            Some(own) if !certificate::is_for(own, address) => Err(certificate::names(own)),
            _ => Ok(()),
        }
    }

    /// Do these signers vouch for it? The other certificates of its file are what stands between.
    pub fn signed_by(&self, signers: &Self, purpose: Purpose, how: How) -> Result<(), String> {
        match self.verify(signers, purpose, how) {
            Ok(X509VerifyResult::OK) => Ok(()),
            Ok(result) => Err(result.error_string().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn verify(&self, signers: &Self, purpose: Purpose, how: How) -> Result<X509VerifyResult, ErrorStack> {
        let mut store = X509StoreBuilder::new()?;
        for signer in &signers.0 {
            store.add_cert(signer.clone())?;
        }
        store.set_purpose(match purpose {
            Purpose::Server => X509PurposeId::SSL_SERVER,
            Purpose::Client => X509PurposeId::SSL_CLIENT,
        })?;
        match how {
            How::AtAnyTime => store.set_flags(X509VerifyFlags::NO_CHECK_TIME)?,
            How::Strictly => store.set_flags(X509VerifyFlags::NO_CHECK_TIME | X509VerifyFlags::X509_STRICT)?,
            How::Now => {}
        }
        let mut between = Stack::new()?;
        for other in self.0.iter().skip(1) {
            between.push(other.clone())?;
        }
        let Some(own) = self.0.first() else { return Ok(X509VerifyResult::APPLICATION_VERIFICATION) };
        X509StoreContext::new()?.init(&store.build(), own, &between, |context| {
            context.verify_cert()?;
            Ok(context.error())
        })
    }
}

/// The certificates of a file, if the key is that of the first.
pub fn read_pair(root: &Root, file: &Path, key: &Path) -> Result<Certificates> {
    let found = read(root, file)?;
    if !found.has_key(&certificate::read_key(root, key, None)?) {
        fail!(
            "{} is not the key of {}", key.display(), file.display();
            "Name the key that belongs to the certificate."
        );
    }
    Ok(found)
}
