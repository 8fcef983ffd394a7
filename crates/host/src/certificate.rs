//! Reads certificates and private keys in PEM, and says for which names and until when a certificate is valid.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;
use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::x509::{X509, X509NameRef, X509Ref};

use crate::files::missing;
use crate::{Root, fail};

/// The certificates in a file, of which there is at least one.
pub fn read(root: &Root, path: &Path) -> Result<Vec<X509>> {
    let found = X509::stack_from_pem(text(root, path)?.as_bytes()).unwrap_or_default();
    if found.is_empty() {
        fail!(at path.display(), "the file contains no certificate in PEM (-----BEGIN CERTIFICATE-----)");
    }
    Ok(found)
}

/// The private key in a file. Without a password for it, one that is encrypted is an error: OpenSSL would ask a terminal.
pub fn read_key(root: &Root, path: &Path, password: Option<&str>) -> Result<PKey<Private>> {
    let text = text(root, path)?;
    let mut asked = false;
    let key = PKey::private_key_from_pem_callback(text.as_bytes(), |buffer| {
        asked = true;
        let password = password.filter(|password| password.len() <= buffer.len()).ok_or_else(ErrorStack::get)?;
        buffer[..password.len()].copy_from_slice(password.as_bytes());
        Ok(password.len())
    });
    let shown = path.display();
    match key {
        Ok(key) => Ok(key),
        Err(_) if asked && password.is_some() => fail!(at shown, "the private key has another password"),
        Err(_) if asked => fail!(
            at shown, "the private key has a password, which nobody could type";
            "Write it without a password with: openssl pkey -in {shown} -out FILE"
        ),
        Err(_) => fail!(at shown, "the file contains no private key in PEM (-----BEGIN PRIVATE KEY-----)"),
    }
}

fn text(root: &Root, path: &Path) -> Result<String> {
    Ok(root.read(path)?.ok_or_else(|| missing(path))?)
}

/// What a certificate says of itself, as strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The subject, as in `O=Example,CN=a`.
    pub subject: String,
    /// The names and addresses for which it is valid.
    pub names: String,
    /// `has expired` and the date.
    pub expired: String,
    /// `is not valid before` and the date.
    pub not_yet_valid: String,
}

impl Summary {
    /// The summary of a certificate.
    #[must_use]
    pub fn of(certificate: &X509Ref) -> Self {
        Self {
            subject: subject(certificate.subject_name()),
            names: names(certificate),
            expired: format!("has expired ({})", time(certificate.not_after())),
            not_yet_valid: format!("is not valid before {}", time(certificate.not_before())),
        }
    }
}

/// Why a certificate is not valid now; none if it is.
#[must_use]
pub fn out_of_date(certificate: &X509Ref) -> Option<String> {
    let now = Asn1Time::days_from_now(0).ok()?;
    if *certificate.not_after() < now {
        return Some(Summary::of(certificate).expired);
    }
    (*certificate.not_before() > now).then(|| Summary::of(certificate).not_yet_valid)
}

/// Is a certificate valid for an address? A common name never is (RFC 6125, 6.4.4).
#[must_use]
pub fn is_for(certificate: &X509Ref, address: IpAddr) -> bool {
    let names = certificate.subject_alt_names();
    names.iter().flatten().any(|name| name.ipaddress().and_then(ip_address) == Some(address))
}

/// The names and addresses for which a certificate is valid (`subjectAltName`).
#[must_use]
pub fn names(certificate: &X509Ref) -> String {
    let names = certificate.subject_alt_names();
    let shown = names.iter().flatten().filter_map(|name| match (name.ipaddress(), name.dnsname()) {
        (Some(bytes), _) => {
            Some(ip_address(bytes).map_or_else(|| "an address of an odd length".to_owned(), |ip| ip.to_string()))
        }
        (_, name) => name.map(str::to_owned),
    });
    let shown: Vec<String> = shown.collect();
    if shown.is_empty() { "no name (it has no subjectAltName)".to_owned() } else { shown.join(", ") }
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn subject(name: &X509NameRef) -> String {
    let entries = name.entries().map(|entry| {
        let value = entry.data().to_string().unwrap_or_default();
        format!("{}={value}", entry.object().nid().short_name().unwrap_or("?"))
    });
    entries.collect::<Vec<_>>().join(",")
}

/// A time as OpenSSL writes it, with single spaces.
fn time(time: &Asn1TimeRef) -> String {
    time.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
