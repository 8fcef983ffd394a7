//! Certificates for tests, as a site's own authority would issue them. Not every test needs all of it.

#![allow(dead_code, clippy::unwrap_used)]

use std::net::IpAddr;
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName, SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Builder, X509Name};

/// Valid now.
pub const NOW: Range<i64> = -1..30;

/// Valid until yesterday.
pub const PAST: Range<i64> = -30..-1;

/// Who signs.
pub struct Authority {
    key: PKey<Private>,
    certificate: X509,
}

/// A certificate and its key, in PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = key();
        let mut builder = builder(name, &key, &NOW);
        builder.set_issuer_name(&named(name)).unwrap();
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build().unwrap()).unwrap();
        let identifier = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(identifier).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Self { key, certificate: builder.build() }
    }

    pub fn pem(&self) -> String {
        pem(self.certificate.to_pem())
    }

    /// A certificate for an address, valid from one day to another one, counted from today. A server's own is not good for a
    /// client, and one for both is good for both.
    pub fn issue(&self, address: IpAddr, days: Range<i64>, client: bool) -> Pair {
        self.sign(&named("member"), address, days, client)
    }

    /// The same without a common name, for etcd with users.
    pub fn issue_nameless(&self, address: IpAddr) -> Pair {
        let mut builder = X509Name::builder().unwrap();
        builder.append_entry_by_nid(Nid::ORGANIZATIONNAME, "Example").unwrap();
        self.sign(&builder.build(), address, NOW, true)
    }

    fn sign(&self, subject: &X509Name, address: IpAddr, days: Range<i64>, client: bool) -> Pair {
        let key = key();
        let mut builder = builder("member", &key, &days);
        builder.set_subject_name(subject).unwrap();
        builder.set_issuer_name(self.certificate.subject_name()).unwrap();
        let mut usage = ExtendedKeyUsage::new();
        usage.server_auth();
        if client {
            usage.client_auth();
        }
        builder.append_extension(usage.build().unwrap()).unwrap();
        let context = builder.x509v3_context(Some(&self.certificate), None);
        let extensions = [
            SubjectAlternativeName::new().ip(&address.to_string()).build(&context).unwrap(),
            SubjectKeyIdentifier::new().build(&context).unwrap(),
            AuthorityKeyIdentifier::new().keyid(true).build(&context).unwrap(),
        ];
        for extension in extensions {
            builder.append_extension(extension).unwrap();
        }
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        Pair { certificate: pem(builder.build().to_pem()), key: pem(key.private_key_to_pem_pkcs8()) }
    }
}

/// What `make-ssl-cert` of Debian's package ssl-cert makes: signed by itself, for a name.
pub fn snakeoil() -> Pair {
    let key = key();
    let mut builder = builder("pg1", &key, &NOW);
    builder.set_issuer_name(&named("pg1")).unwrap();
    builder.append_extension(BasicConstraints::new().build().unwrap()).unwrap();
    let name = SubjectAlternativeName::new().dns("pg1").build(&builder.x509v3_context(None, None)).unwrap();
    builder.append_extension(name).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    Pair { certificate: pem(builder.build().to_pem()), key: pem(key.private_key_to_pem_pkcs8()) }
}

fn key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn named(name: &str) -> X509Name {
    let mut builder = X509Name::builder().unwrap();
    builder.append_entry_by_nid(Nid::COMMONNAME, name).unwrap();
    builder.build()
}

fn builder(name: &str, key: &PKey<Private>, days: &Range<i64>) -> X509Builder {
    let mut builder = X509::builder().unwrap();
    let mut serial = BigNum::new().unwrap();
    serial.rand(120, MsbOption::MAYBE_ZERO, false).unwrap();
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let day = |day: i64| Asn1Time::from_unix(now + day * 86_400).unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&named(name)).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&day(days.start)).unwrap();
    builder.set_not_after(&day(days.end)).unwrap();
    builder
}

fn pem(bytes: Result<Vec<u8>, openssl::error::ErrorStack>) -> String {
    String::from_utf8(bytes.unwrap()).unwrap()
}
