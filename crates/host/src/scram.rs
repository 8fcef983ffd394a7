//! The verifiers that PostgreSQL stores for SCRAM-SHA-256, so that a new password reaches the server without being part of a
//! statement that may be logged.

use anyhow::Result;
use hkdf::hmac::{Hmac, Mac};
use openssl::hash::MessageDigest;
use sha2::{Digest, Sha256};

use crate::{fail, trouble};

/// The values of PostgreSQL (`SCRAM_SHA_256_DEFAULT_ITERATIONS`, `SCRAM_DEFAULT_SALT_LEN` in `scram-common.h`).
const ITERATIONS: u32 = 4096;
const SALT_LENGTH: usize = 16;

/// As many iterations (`scram_iterations`) take about a second.
const MOST_ITERATIONS: u32 = 400_000;

/// The digits of base64 (RFC 4648, section 4).
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The verifier of a password, with a new salt (RFC 5802 section 3, RFC 7677; `scram_build_secret` in PostgreSQL).
///
/// Clients normalize characters beyond ASCII (`SASLprep`, RFC 4013), which is not implemented here.
pub fn verifier(password: &str) -> Result<String> {
    check_printable(password)?;
    let mut salt = [0; SALT_LENGTH];
    getrandom::fill(&mut salt).map_err(|error| trouble!("could not get random bytes: {error}"))?;
    Ok(with_salt(password, &salt, ITERATIONS))
}

/// The verifier of a password with a fixed salt, for programs that compare verifiers as strings.
pub fn verifier_with_salt(password: &str, salt: &[u8; SALT_LENGTH]) -> Result<String> {
    check_printable(password)?;
    Ok(with_salt(password, salt, ITERATIONS))
}

/// Does a verifier, as PostgreSQL stores it, belong to a password? False for one of another kind, or with more iterations than can be
/// computed in a moment.
#[must_use]
pub fn verifies(stored: &str, password: &str) -> bool {
    let parts = stored.strip_prefix("SCRAM-SHA-256$").and_then(|rest| rest.split('$').next()?.split_once(':'));
    let Some((iterations, salt)) = parts else { return false };
    let iterations = iterations.parse().ok().filter(|iterations| (1..=MOST_ITERATIONS).contains(iterations));
    let found = iterations.zip(from_base64(salt));
    found.is_some_and(|(iterations, salt)| with_salt(password, &salt, iterations) == stored)
}

/// Is this the password of a role with this verifier? `None` if that cannot be told: for a verifier of another kind than PostgreSQL's
/// (`get_password_type` in `crypt.c`), and for a password that clients normalize.
#[must_use]
pub fn is_password(stored: &str, role: &str, password: &str) -> Option<bool> {
    check_printable(password).ok()?;
    if let Some(digest) = stored.strip_prefix("md5").filter(|digest| digest.len() == 32) {
        // `pg_md5_encrypt`: the name of the role is the salt.
        let bytes = openssl::hash::hash(MessageDigest::md5(), format!("{password}{role}").as_bytes()).ok()?;
        let same = |(byte, hex): (&u8, &[u8])| format!("{byte:02x}").as_bytes() == hex;
        return Some(bytes.iter().zip(digest.as_bytes().chunks(2)).all(same));
    }
    let iterations: u32 = stored.strip_prefix("SCRAM-SHA-256$")?.split_once(':')?.0.parse().ok()?;
    (iterations <= MOST_ITERATIONS).then(|| verifies(stored, password))
}

/// The bytes of a base64 text with its padding.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for group in text.as_bytes().chunks(4) {
        let filled = group.iter().filter(|byte| **byte != b'=').count();
        let mut number = 0;
        for byte in group {
            let value = if *byte == b'=' { 0 } else { ALPHABET.iter().position(|known| known == byte)? };
            number = number << 6 | u32::try_from(value).ok()?;
        }
        bytes.extend_from_slice(number.to_be_bytes().get(1..filled)?);
    }
    Some(bytes)
}

fn check_printable(password: &str) -> Result<()> {
    if password.is_empty() || !password.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        fail!("the password contains characters other than printable ASCII, or is empty");
    }
    Ok(())
}

fn with_salt(password: &str, salt: &[u8], iterations: u32) -> String {
    let salted = salted_password(password, salt, iterations);
    let stored_key = Sha256::digest(hmac(&salted, &[b"Client Key"]));
    let server_key = hmac(&salted, &[b"Server Key"]);
    format!("SCRAM-SHA-256${iterations}:{}${}:{}", base64(salt), base64(&stored_key), base64(&server_key))
}

/// PBKDF2 (RFC 8018) for one block of output, which RFC 5802 calls `Hi()`.
fn salted_password(password: &str, salt: &[u8], iterations: u32) -> [u8; 32] {
    let mut block = hmac(password.as_bytes(), &[salt, &1u32.to_be_bytes()]);
    let mut sum = block;
    for _ in 1..iterations {
        block = hmac(password.as_bytes(), &[&block]);
        for (sum, byte) in sum.iter_mut().zip(block) {
            *sum ^= byte;
        }
    }
    sum
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // A key of any length will do.
    let Ok(mut mac) = <Hmac<Sha256> as Mac>::new_from_slice(key) else { return [0; 32] };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = (0..3).fold(0usize, |word, at| word << 8 | usize::from(chunk.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let digit = ALPHABET[word >> (18 - 6 * at) & 63];
            out.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn is_what_postgresql_makes() {
        // From Python: hashlib.pbkdf2_hmac and hmac over RFC 5802's definitions, with the salt and password of RFC 7677,
        // section 3.
        let salt = [0x5b, 0x6d, 0x99, 0x68, 0x9d, 0x12, 0x35, 0x8e, 0xec, 0xa0, 0x4b, 0x14, 0x12, 0x36, 0xfa, 0x81];
        assert_eq!(
            with_salt("pencil", &salt, ITERATIONS),
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        );
        assert_ne!(verifier("pencil").unwrap(), verifier("pencil").unwrap());
        assert!(verifier("päncil").is_err() && verifier("").is_err());
    }

    #[test]
    fn base64_is_padded() {
        let encoded = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|text| base64(text.as_bytes()));
        assert_eq!(encoded, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
        for (text, encoded) in ["", "f", "fo", "foo", "foob", "fooba", "foobar"].iter().zip(encoded) {
            assert_eq!(from_base64(&encoded).as_deref(), Some(text.as_bytes()));
        }
        assert_eq!(from_base64("Zg=*"), None);
    }

    #[test]
    fn a_password_is_recognised_by_its_verifier() {
        let stored = verifier("s3cret").unwrap();
        assert!(verifies(&stored, "s3cret") && !verifies(&stored, "other"));
        let more = with_salt("s3cret", b"0123456789abcdef", 20_000);
        assert!(verifies(&more, "s3cret") && !verifies(&more, "other"));
        // From psql: SELECT 'md5' || md5('s3cret' || 'replicator')
        let md5 = "md5706cc7d8e1ce90276ca4ebec41d711e9";
        for (verifier, password, expected) in [
            (stored.as_str(), "s3cret", Some(true)),
            (&stored, "other", Some(false)),
            (md5, "s3cret", Some(true)),
            (md5, "other", Some(false)),
            ("x", "s3cret", None),
            ("SCRAM-SHA-256$9000000:a$b:c", "s3cret", None),
            (&stored, "p\u{e4}ss", None),
        ] {
            assert_eq!(is_password(verifier, "replicator", password), expected, "{verifier} {password}");
        }
        assert!(!verifies("md5a1b2", "s3cret") && !verifies("SCRAM-SHA-256$1:x$y:z", "s3cret") && !verifies("", ""));
    }
}
