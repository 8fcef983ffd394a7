//! Certificates and keys: whether they belong together, by which CA a certificate is issued, for which names and until when.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;
use host::{Root, fail};
use openssl::asn1::Asn1Time;
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::stack::Stack;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509PurposeId, X509StoreContext, X509VerifyResult};

/// The certificates of a file: the first is the owner's, the others are intermediate ones. In a file of CA certificates all
/// are equal.
pub struct Certificates(Vec<X509>);

/// What a certificate is used for.
#[derive(Debug, Clone, Copy)]
pub enum Purpose {
    /// By a server, such as the REST API.
    Server,
    /// By its client.
    Client,
}

/// How a certificate is verified.
#[derive(Debug, Clone, Copy)]
pub enum How {
    /// Only its signatures, regardless of its validity period.
    AtAnyTime,
    /// Also that it is valid at present.
    Now,
    /// Everything that RFC 5280 requires, as in Python since 3.13 (`ssl.create_default_context`, `VERIFY_X509_STRICT`).
    Strictly,
}

/// Reads the certificates of a PEM file.
pub fn read(root: &Root, path: &Path) -> Result<Certificates> {
    let shown = path.display();
    let Some(text) = root.read(path)? else { fail!("there is no file {shown}") };
    let found = X509::stack_from_pem(text.as_bytes()).unwrap_or_default();
    if found.is_empty() {
        fail!("{shown} has no PEM certificate (-----BEGIN CERTIFICATE-----)");
    }
    Ok(Certificates(found))
}

/// Reads the private key of a PEM file. For an encrypted key Patroni would ask for the password on a terminal.
pub fn read_key(root: &Root, path: &Path) -> Result<PKey<Private>> {
    let shown = path.display();
    let Some(text) = root.read(path)? else { fail!("there is no file {shown}") };
    let mut asked = false;
    let key = PKey::private_key_from_pem_callback(text.as_bytes(), |_| {
        asked = true;
        Err(ErrorStack::get())
    });
    match key {
        Ok(key) => Ok(key),
        Err(_) if asked => fail!(
            "the private key {shown} is encrypted, but Patroni cannot ask for its password";
            "Write it without a password, with: openssl pkey -in {shown} -out FILE"
        ),
        Err(_) => fail!("{shown} has no PEM private key (-----BEGIN PRIVATE KEY-----)"),
    }
}

impl Certificates {
    /// Does this private key belong to it?
    #[must_use]
    pub fn has_key(&self, key: &PKey<Private>) -> bool {
        self.0.first().and_then(|own| own.public_key().ok()).is_some_and(|own| own.public_eq(key))
    }

    /// Why it is not valid at present; none if it is.
    #[must_use]
    pub fn out_of_date(&self) -> Option<String> {
        self.0.first().and_then(out_of_date)
    }

    /// For CA certificates: why none of them is valid at present; none if one is.
    #[must_use]
    pub fn all_out_of_date(&self) -> Option<String> {
        let late: Vec<String> = self.0.iter().map_while(out_of_date).collect();
        if late.len() == self.0.len() { late.into_iter().next() } else { None }
    }

    /// Is it issued for an address? If not, the names for which it is issued (`subjectAltName`; RFC 6125, 6.4.4, excludes
    /// the common name).
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

    /// Is it issued by one of these CAs? The other certificates of its file are intermediate ones.
    pub fn signed_by(&self, ca: &Self, purpose: Purpose, how: How) -> Result<(), String> {
        match self.verify(ca, purpose, how) {
            Ok(X509VerifyResult::OK) => Ok(()),
            Ok(result) => Err(result.error_string().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn verify(&self, ca: &Self, purpose: Purpose, how: How) -> Result<X509VerifyResult, ErrorStack> {
        let mut store = X509StoreBuilder::new()?;
        for certificate in &ca.0 {
            store.add_cert(certificate.clone())?;
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
        let mut intermediate = Stack::new()?;
        for other in self.0.iter().skip(1) {
            intermediate.push(other.clone())?;
        }
        let Some(own) = self.0.first() else { return Ok(X509VerifyResult::APPLICATION_VERIFICATION) };
        X509StoreContext::new()?.init(&store.build(), own, &intermediate, |context| {
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
        _ => "an address of invalid length".to_owned(),
    }
}

/// The certificates of a file, if the key belongs to the first one.
pub fn read_pair(root: &Root, certificate: &Path, key: &Path) -> Result<Certificates> {
    let found = read(root, certificate)?;
    if !found.has_key(&read_key(root, key)?) {
        fail!(
            "{} is not the key of the certificate {}", key.display(), certificate.display();
            "Set both to files that belong together."
        );
    }
    Ok(found)
}
