//! What certificates and keys say: whether they belong together, who signed them, for whom and until when.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Result, bail};
use host::Root;
use openssl::asn1::Asn1Time;
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::stack::Stack;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509PurposeId, X509StoreContext, X509VerifyResult};

/// The certificates of a file: the first is its owner's, in a file of signers they are all equal.
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
    let shown = path.display();
    let Some(text) = root.read(path)? else { bail!("there is no file {shown}") };
    let found = X509::stack_from_pem(text.as_bytes()).unwrap_or_default();
    if found.is_empty() {
        bail!("{shown} has no certificate in PEM (-----BEGIN CERTIFICATE-----)");
    }
    Ok(Certificates(found))
}

/// Reads the private key of a file in PEM. Patroni would ask a terminal for the password of one that has a password.
pub fn read_key(root: &Root, path: &Path) -> Result<PKey<Private>> {
    let shown = path.display();
    let Some(text) = root.read(path)? else { bail!("there is no file {shown}") };
    let mut asked = false;
    let key = PKey::private_key_from_pem_callback(text.as_bytes(), |_| {
        asked = true;
        Err(ErrorStack::get())
    });
    match key {
        Ok(key) => Ok(key),
        Err(_) if asked => bail!(
            "{shown} has a password, which nobody could type: write it without one, by openssl pkey -in {shown} -out FILE"
        ),
        Err(_) => bail!("{shown} has no private key in PEM (-----BEGIN PRIVATE KEY-----)"),
    }
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
        self.0.first().and_then(out_of_date)
    }

    /// Of signers: why none of them is valid now, if that is so.
    #[must_use]
    pub fn all_out_of_date(&self) -> Option<String> {
        let late: Vec<String> = self.0.iter().map_while(out_of_date).collect();
        if late.len() == self.0.len() { late.into_iter().next() } else { None }
    }

    /// Is it for an address? If not, for whom it is (`subjectAltName`; a common name counts for no address: RFC 6125, 6.4.4).
    pub fn is_for(&self, address: IpAddr) -> Result<(), String> {
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let names = self.0.first().and_then(|own| own.subject_alt_names());
        let mut others = Vec::new();
        for name in names.iter().flatten() {
            match (name.ipaddress(), name.dnsname()) {
                (Some(found), _) if found == bytes => return Ok(()),
                (Some(found), _) => others.push(shown(found)),
                (_, Some(name)) => others.push(name.to_owned()),
                _ => {}
            }
        }
        Err(if others.is_empty() { "no name (it has no subjectAltName)".to_owned() } else { others.join(", ") })
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

fn out_of_date(certificate: &X509) -> Option<String> {
    let now = Asn1Time::days_from_now(0).ok()?;
    if *certificate.not_after() < now {
        return Some(format!("has expired ({})", certificate.not_after()));
    }
    (*certificate.not_before() > now).then(|| format!("is not valid before {}", certificate.not_before()))
}

/// An address of a `subjectAltName`.
fn shown(bytes: &[u8]) -> String {
    match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(bytes), _) => IpAddr::from(bytes).to_string(),
        (_, Ok(bytes)) => IpAddr::from(bytes).to_string(),
        _ => "an address of an odd length".to_owned(),
    }
}

/// The certificates of a file, if the key is that of the first.
pub fn read_pair(root: &Root, certificate: &Path, key: &Path) -> Result<Certificates> {
    let found = read(root, certificate)?;
    if !found.has_key(&read_key(root, key)?) {
        bail!("{} is not the key of {}: name the one that belongs to it", key.display(), certificate.display());
    }
    Ok(found)
}
