//! Whether SCRAM can bind a login to the server's certificate. With channel binding no other server can accept the login, even on
//! PostgreSQL's port.

use std::path::Path;

use host::Root;
use openssl::base64;
use openssl::nid::Nid;
use openssl::x509::X509;

/// OpenSSL's numbers (`obj_mac.h`).
const ED25519: i32 = 1087;
const ED448: i32 = 1088;

/// Can SCRAM bind to the certificate? Not if its signature algorithm has no digest of its own (RFC 5929, section 4.1;
/// PostgreSQL's `be_tls_get_certificate_hash`).
pub(crate) fn can_bind(root: &Root, certificate: &Path) -> bool {
    let Some(pem) = root.for_postgres().bytes(certificate).ok().flatten() else { return false };
    has_usual_signature(&pem) || has_signature_with_digest(&pem)
}

fn has_signature_with_digest(pem: &[u8]) -> bool {
    let signed = X509::from_pem(pem).map(|certificate| certificate.signature_algorithm().object().nid());
    signed.is_ok_and(|nid| nid != Nid::UNDEF && nid != Nid::from_raw(ED25519) && nid != Nid::from_raw(ED448))
}

/// RSA and ECDSA with SHA-256, SHA-384 or SHA-512 (RFC 4055, RFC 5758), as in DER.
const USUAL: [&[u8]; 6] = [
    b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b",
    b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c",
    b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d",
    b"\x2a\x86\x48\xce\x3d\x04\x03\x02",
    b"\x2a\x86\x48\xce\x3d\x04\x03\x03",
    b"\x2a\x86\x48\xce\x3d\x04\x03\x04",
];

/// Is it one of the algorithms that nearly all certificates have? Then OpenSSL is not asked: its initialization takes longer than most
/// of what the generator does.
fn has_usual_signature(pem: &[u8]) -> bool {
    signature_algorithm(pem).is_some_and(|found| USUAL.contains(&found.as_slice()))
}

/// The object identifier of the signature algorithm of the first certificate (RFC 5280, section 4.1), as in DER.
fn signature_algorithm(pem: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(pem).ok()?;
    let (_, after) = text.split_once("-----BEGIN CERTIFICATE-----")?;
    let (block, _) = after.split_once("-----END CERTIFICATE-----")?;
    let der = base64::decode_block(&block.split_whitespace().collect::<String>()).ok()?;
    let (certificate, _) = element(&der)?;
    let (_signed, rest) = element(certificate)?;
    let (algorithm, _) = element(rest)?;
    element(algorithm).map(|(identifier, _)| identifier.to_vec())
}

/// The first element in DER: its content, and what follows it.
fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let first = *der.get(1)?;
    let (start, length) = if first < 0x80 {
        (2, usize::from(first))
    } else {
        let start = 2 + usize::from(first & 0x7f);
        let digits = der.get(2..start).filter(|digits| digits.len() <= 4)?;
        (start, digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)))
    };
    let end = start.checked_add(length)?;
    Some((der.get(start..end)?, der.get(end..)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use openssl::asn1::Asn1Time;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::pkey::{PKey, Private};
    use openssl::rsa::Rsa;
    use openssl::x509::X509Builder;

    fn certificate(key: &PKey<Private>, digest: MessageDigest) -> Vec<u8> {
        let mut builder = X509Builder::new().unwrap();
        builder.set_pubkey(key).unwrap();
        builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
        builder.sign(key, digest).unwrap();
        let mut pem = b"subject=x\n".to_vec();
        pem.extend(builder.build().to_pem().unwrap());
        pem
    }

    #[test]
    fn the_usual_algorithms_need_no_openssl() {
        let rsa = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let ec = PKey::from_ec_key(EcKey::generate(&curve).unwrap()).unwrap();
        for digest in [MessageDigest::sha256(), MessageDigest::sha384(), MessageDigest::sha512()] {
            for key in [&rsa, &ec] {
                let pem = certificate(key, digest);
                assert!(has_usual_signature(&pem) && has_signature_with_digest(&pem), "{:?}", digest.type_());
            }
        }
        let other = certificate(&rsa, MessageDigest::sha224());
        assert!(!has_usual_signature(&other) && has_signature_with_digest(&other));
        let none = certificate(&PKey::generate_ed25519().unwrap(), MessageDigest::null());
        assert!(!has_usual_signature(&none) && !has_signature_with_digest(&none));
    }

    #[test]
    fn what_is_no_certificate_has_no_algorithm() {
        for text in ["", "x", "-----BEGIN CERTIFICATE-----\nMII?\n-----END CERTIFICATE-----\n"] {
            assert_eq!(signature_algorithm(text.as_bytes()), None, "{text}");
        }
        for der in [&[][..], &[0x30], &[0x30, 2, 0], &[0x30, 0x85, 0, 0, 0, 0, 0], &[0x30, 0x84, 255, 255, 255, 255]] {
            assert_eq!(element(der), None, "{der:?}");
        }
        assert_eq!(element(&[0x30, 1, 7, 8]), Some((&[7][..], &[8][..])));
    }
}
