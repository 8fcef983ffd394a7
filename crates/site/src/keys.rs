//! The site key: one file on every member, from which the passwords of an instance's roles are derived, so that
//! every member has the same passwords and nobody types one.

use std::fs::{OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use hkdf::Hkdf;
use sha2::Sha256;

use crate::Root;

/// Separates our use of the key from any other use of the same bytes (RFC 5869, section 3.1).
const SALT: &[u8] = b"patroni-tools password 1";

/// What a file that is not finished is called; a killed run leaves one, the next run of patroni-gen-config removes it.
pub const UNFINISHED: &str = ".patroni-gen-config.";

/// A key of 256 random bits.
pub struct SiteKey {
    bytes: [u8; 32],
}

impl SiteKey {
    /// Reads the key; `None` where there is no such file.
    ///
    /// The file holds 64 hexadecimal digits, lines that begin with `#` aside, and only its owner may read it.
    pub fn read(root: &Root, path: &Path) -> Result<Option<Self>> {
        let Some(text) = root.read(path)? else { return Ok(None) };
        check_mode(root, path, 0o077)?;
        let digits: String = text.lines().filter(|line| !line.starts_with('#')).collect();
        let Some(bytes) = from_hex(digits.trim()) else {
            bail!(
                "{}: a site key is 64 hexadecimal digits on one line: copy the file again from another member",
                path.display()
            );
        };
        Ok(Some(Self { bytes }))
    }

    /// Makes a new key, `0600` from its first byte. Should another process make one at the same time, one of the two
    /// keys stays and both processes use it.
    pub fn create(root: &Root, path: &Path) -> Result<Self> {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("the kernel gives no random bytes: {error}"))?;
        let real = root.path(path);
        let temporary = real.with_file_name(format!("{UNFINISHED}key.{}", std::process::id()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(
            |error| match error.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    anyhow::anyhow!("cannot create {}: run this program as root", path.display())
                }
                _ => anyhow::anyhow!("cannot create {}: {error}", path.display()),
            },
        )?;
        let text = format!(
            "# The passwords of all instances come from this key. Copy this file to every member.\n{}\n",
            to_hex(&bytes)
        );
        let written = file
            .set_permissions(Permissions::from_mode(0o600))
            .and_then(|()| file.write_all(text.as_bytes()))
            .and_then(|()| file.sync_all())
            // A hard link does not replace what is there, a rename would.
            .and_then(|()| std::fs::hard_link(&temporary, &real));
        let _ = std::fs::remove_file(&temporary);
        match written {
            Ok(()) => Ok(Self { bytes }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Self::read(root, path)?.with_context(|| format!("{} vanished: run this program again", path.display()))
            }
            Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
        }
    }

    /// A key for a trial run that writes nothing: what is derived from it is never stored.
    #[must_use]
    pub fn placeholder() -> Self {
        Self { bytes: [0; 32] }
    }

    /// The password of `role` in the instance with this scope: HKDF-SHA256 (RFC 5869), 256 bits as hexadecimal
    /// digits, which need no quoting in any file that they end up in.
    #[must_use]
    pub fn password(&self, scope: &str, role: &str) -> String {
        let mut out = [0u8; 32];
        let info = [scope.as_bytes(), b"\0", role.as_bytes()];
        // expand fails only for more than 255 times the hash length.
        let _ = Hkdf::<Sha256>::new(Some(SALT), &self.bytes).expand_multi_info(&info, &mut out);
        to_hex(&out)
    }
}

/// Reads a password from a file that `root`'s group may read, but not everybody; the line end is not part of it.
pub fn read_secret(root: &Root, path: &Path) -> Result<String> {
    let Some(text) = root.read(path)? else { bail!("{}: there is no such file", path.display()) };
    check_mode(root, path, 0o007)?;
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    if secret.is_empty() || secret.contains(['\n', '\r', '\0']) {
        bail!("{}: the password is the only line of the file, and this is not one line", path.display());
    }
    Ok(secret.to_owned())
}

/// Refuses a secret file whose mode has one of the `forbidden` bits.
pub fn check_mode(root: &Root, path: &Path, forbidden: u32) -> Result<()> {
    let mode =
        root.path(path).metadata().with_context(|| format!("cannot read {}", path.display()))?.permissions().mode();
    if mode & forbidden != 0 {
        let remedy = if forbidden == 0o077 { "600" } else { "o=" };
        bail!(
            "{0}: others can read this secret (mode {1:04o}): run chmod {remedy} {0}, and replace it if somebody may have read it",
            path.display(),
            mode & 0o7777
        );
    }
    Ok(())
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte * 16 + digit)).collect();
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_member_with_the_same_file_derives_the_same_passwords() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let path = Path::new("/site.key");
        assert!(SiteKey::read(&root, path).unwrap().is_none());
        let made = SiteKey::create(&root, path).unwrap();
        assert_eq!(root.path(path).metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        let read = SiteKey::read(&root, path).unwrap().unwrap();
        assert_eq!(made.password("16-main", "replicator"), read.password("16-main", "replicator"));
        assert_ne!(made.password("16-main", "replicator"), made.password("16-main", "rewind"));
        assert_ne!(made.password("16-main", "replicator"), made.password("17-main", "replicator"));
        assert_eq!(SiteKey::create(&root, path).unwrap().bytes, made.bytes, "an existing key was replaced");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_password_never_changes_between_releases() {
        // From RFC 5869's definition, with Python's hmac and hashlib; a change here would lock members out of each other.
        let key = SiteKey { bytes: [7; 32] };
        assert_eq!(
            key.password("16-main", "replicator"),
            "c795ad6757b351c6eae8f678d9db5d7f52bed07ae686e94c77e33bad6cdcc7c1"
        );
    }

    #[test]
    fn a_readable_or_damaged_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let path = Path::new("/site.key");
        SiteKey::create(&root, path).unwrap();
        std::fs::set_permissions(root.path(path), Permissions::from_mode(0o640)).unwrap();
        assert!(SiteKey::read(&root, path).err().unwrap().to_string().contains("chmod 600"));
        std::fs::write(root.path(path), "abc\n").unwrap();
        std::fs::set_permissions(root.path(path), Permissions::from_mode(0o600)).unwrap();
        assert!(SiteKey::read(&root, path).err().unwrap().to_string().contains("64 hexadecimal"));
    }
}
