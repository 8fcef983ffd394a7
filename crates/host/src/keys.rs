//! The site key: one file on every member, from which the passwords of a cluster's roles are derived, so that
//! every member has the same passwords and none has to be typed.
//!
//! For each cluster whose passwords were changed, the file also contains the number of the current generation:
//! `generation 16-main 2`. So a copy of the file is all that a new member needs.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result};
use hkdf::Hkdf;
use nix::unistd::geteuid;
use sha2::Sha256;

use crate::files::{Named, Opener, missing, not_utf8};
use crate::trouble::{Trouble, in_line};
use crate::{Root, fail, trouble};

/// Separates passwords from any other use of the same bytes (RFC 5869, section 3.1).
const SALT: &[u8] = b"patroni-tools password 1";

/// The same for fingerprints: a public fingerprint reveals nothing about a password.
const FINGERPRINT_SALT: &[u8] = b"patroni-tools fingerprint 1";

/// The same for everything that is not a password of a cluster.
const PURPOSE_SALT: &[u8] = b"patroni-tools purpose 1";

/// The word before a cluster's scope and the generation of its passwords.
const GENERATION: &str = "generation";

/// The prefix of unfinished files; a killed run leaves one, which the next run of patroni-gen-config removes.
pub const UNFINISHED: &str = ".patroni-gen-config.";

/// A key of 256 random bits, and the generations of passwords.
#[derive(Clone)]
pub struct SiteKey {
    bytes: [u8; 32],
    generations: BTreeMap<String, u32>,
}

impl SiteKey {
    /// Reads the key; `None` if the file does not exist.
    ///
    /// The file holds 64 hexadecimal digits, and lines with generations; lines that begin with `#` are comments. Only its
    /// owner may read it.
    pub fn read(root: &Root, path: &Path) -> Result<Option<Self>> {
        let Some(bytes) = secret_bytes(root, path, OF_ROOT)? else { return Ok(None) };
        let text = text(path, bytes)?;
        let mut generations = BTreeMap::new();
        let mut digits = String::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
            let Some(rest) = line.strip_prefix(GENERATION) else {
                digits += line;
                continue;
            };
            let words: Vec<&str> = rest.split_whitespace().collect();
            match (words.as_slice(), words.get(1).and_then(|number| number.parse::<u32>().ok())) {
                ([scope, _], Some(number @ 1..)) => generations.insert((*scope).to_owned(), number),
                _ => fail!(
                    at in_line(path, index + 1), "not a line such as '{GENERATION} 16-main 2'";
                    "Copy the file again from another member."
                ),
            };
        }
        let Some(bytes) = from_hex(digits.trim()) else {
            fail!(
                at path.display(), "the site key is not 64 hexadecimal digits on one line";
                "Copy the file again from another member."
            );
        };
        Ok(Some(Self { bytes, generations }))
    }

    /// Sets the current generation of a cluster's passwords in the key file; the rest of the file remains unchanged.
    pub fn write_generation(root: &Root, path: &Path, scope: &str, number: u32) -> Result<()> {
        let Some(bytes) = secret_bytes(root, path, OF_ROOT)? else { return Err(missing(path).into()) };
        let text = text(path, bytes)?;
        let of_scope = |line: &str| {
            let mut words = line.split_whitespace();
            words.next() == Some(GENERATION) && words.next() == Some(scope)
        };
        let mut text: String = text.lines().filter(|line| !of_scope(line)).flat_map(|line| [line, "\n"]).collect();
        text.extend([GENERATION, " ", scope, " ", &number.to_string(), "\n"]);
        let real = root.path(path);
        let temporary = unfinished(&real);
        let _ = std::fs::remove_file(&temporary);
        let written =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).and_then(|mut file| {
                file.set_permissions(Permissions::from_mode(0o600))?;
                file.write_all(text.as_bytes())?;
                file.sync_all()?;
                std::fs::rename(&temporary, &real)?;
                real.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
            });
        let _ = std::fs::remove_file(&temporary);
        written.with_context(|| format!("could not write {}, which is unchanged", path.display()))
    }

    /// Creates a new key file, with mode `0600` from its first byte. If another process does so at the same time, one of the two
    /// keys remains and both processes use it.
    pub fn create(root: &Root, path: &Path) -> Result<Self> {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes).map_err(|error| trouble!("could not get random bytes: {error}"))?;
        let real = root.path(path);
        let temporary = unfinished(&real);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
        let mut file = file.map_err(|error| Trouble::failed(format!("could not create {}", path.display()), error))?;
        let text =
            format!("# All passwords are derived from this key. Copy this file to every member.\n{}\n", to_hex(&bytes));
        let written = file
            .set_permissions(Permissions::from_mode(0o600))
            .and_then(|()| file.write_all(text.as_bytes()))
            .and_then(|()| file.sync_all())
            // Unlike a rename, a hard link does not replace an existing file.
            .and_then(|()| std::fs::hard_link(&temporary, &real));
        let _ = std::fs::remove_file(&temporary);
        match written {
            Ok(()) => Ok(Self { bytes, generations: BTreeMap::new() }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let key = Self::read(root, path)?;
                Ok(key.ok_or_else(|| trouble!(at path.display(), "the file vanished"; "Run this program again."))?)
            }
            Err(error) => Err(error).with_context(|| format!("could not write {}", path.display())),
        }
    }

    /// A key for a dry run, which writes nothing: what is derived from it is never stored.
    #[must_use]
    pub fn placeholder() -> Self {
        Self { bytes: [0; 32], generations: BTreeMap::new() }
    }

    /// The password of `role` in the cluster with this scope: HKDF-SHA256 (RFC 5869), 256 bits as hexadecimal
    /// digits, which need no quoting in any file. It is the same in all generations.
    #[must_use]
    pub fn password(&self, scope: &str, role: &str) -> String {
        to_hex(&self.derive::<32>(SALT, &[scope.as_bytes(), b"\0", role.as_bytes()]))
    }

    /// The password of a database role, in the current generation.
    #[must_use]
    pub fn role_password(&self, scope: &str, role: &str) -> String {
        match self.generation(scope) {
            1 => self.password(scope, role),
            number => {
                let number = number.to_string();
                let info = [scope.as_bytes(), b"\0", role.as_bytes(), b"\0", number.as_bytes()];
                to_hex(&self.derive::<32>(SALT, &info))
            }
        }
    }

    /// The generation of the passwords of the cluster with this scope, counted from 1.
    #[must_use]
    pub fn generation(&self, scope: &str) -> u32 {
        self.generations.get(scope).copied().unwrap_or(1)
    }

    /// The same key with another generation for this scope.
    #[must_use]
    pub fn with_generation(&self, scope: &str, number: u32) -> Self {
        let mut key = self.clone();
        key.generations.insert(scope.to_owned(), number);
        key
    }

    /// Eight hexadecimal digits that show whether members have the same key and generation for a cluster. They do not reveal the
    /// key: they are few, derived with HKDF, and the key has 256 random bits.
    #[must_use]
    pub fn fingerprint(&self, scope: &str) -> String {
        let number = self.generation(scope).to_string();
        to_hex(&self.derive::<4>(FINGERPRINT_SALT, &[scope.as_bytes(), b"\0", number.as_bytes()]))
    }

    /// Eight hexadecimal digits that show whether hosts have the same key, whatever its generations are. They reveal as little as
    /// [`fingerprint`](Self::fingerprint).
    #[must_use]
    pub fn identity(&self) -> String {
        to_hex(&self.bytes_for::<4>("identity"))
    }

    /// Bytes for one purpose of the whole site, the same on every member and in all generations.
    #[must_use]
    pub fn bytes_for<const LENGTH: usize>(&self, purpose: &str) -> [u8; LENGTH] {
        self.derive::<LENGTH>(PURPOSE_SALT, &[purpose.as_bytes()])
    }

    fn derive<const LENGTH: usize>(&self, salt: &[u8], info: &[&[u8]]) -> [u8; LENGTH] {
        let mut out = [0u8; LENGTH];
        // expand fails only beyond 255 times the hash length.
        let _ = Hkdf::<Sha256>::new(Some(salt), &self.bytes).expand_multi_info(info, &mut out);
        out
    }
}

fn unfinished(real: &Path) -> std::path::PathBuf {
    real.with_file_name(format!("{UNFINISHED}key.{}", std::process::id()))
}

/// More than any key, password or keytab needs.
const LONGEST: u64 = 65_536;

/// Which users may access a file with a secret.
#[derive(Debug, Clone, Copy)]
pub struct Secrecy {
    /// The bits that its mode must not have.
    forbidden: u32,
    /// Must it belong to root, even if another user reads it? Otherwise it may also belong to the reader.
    of_root: bool,
    /// The required owner and mode, as arguments of chown and chmod.
    owner: &'static str,
    mode: &'static str,
}

/// Only its owner reads it.
pub const OF_ROOT: Secrecy = Secrecy { forbidden: 0o077, of_root: false, owner: "root:", mode: "600" };

/// Its group may read it, such as postgres.
pub const OF_GROUP: Secrecy = Secrecy { forbidden: 0o007, of_root: false, owner: "root", mode: "o=" };

/// A program that runs as postgres reads it as a member of its group, but postgres must not be able to choose its content.
pub const FOR_POSTGRES: Secrecy = Secrecy { forbidden: 0o027, of_root: true, owner: "root:postgres", mode: "0640" };

/// Reads a file with a secret if its permissions are strict enough; `None` if the file does not exist. Owner, kind, mode and size
/// are those of the open file, so that it cannot be exchanged in between.
pub fn secret_bytes(root: &Root, path: &Path, secrecy: Secrecy) -> Result<Option<Vec<u8>>> {
    let Some(opened) = Opener::new(root, Named::Secret).open(path)? else { return Ok(None) };
    let (owner, mode) = (opened.stat.st_uid, opened.stat.st_mode & 0o7777);
    let shown = path.display();
    let chmod = format!("chmod {} {shown}", secrecy.mode);
    let both = format!("chown {} {shown} && {chmod}", secrecy.owner);
    if owner != 0 && (secrecy.of_root || owner != geteuid().as_raw()) {
        fail!(
            at shown, "the secret does not belong to root, so another user could have chosen it";
            "Check the content of the file, then run: {both}"
        );
    }
    // If the reader is not root, its group matters, too.
    check_bits(path, mode, secrecy.forbidden, if secrecy.of_root { &both } else { &chmod })?;
    Ok(Some(opened.bytes(LONGEST)?))
}

fn check_bits(path: &Path, mode: u32, forbidden: u32, command: &str) -> Result<()> {
    let shown = path.display();
    if mode & forbidden & 0o055 != 0 {
        fail!(
            at shown, "other users can read this secret (mode {mode:04o})";
            "If anyone may have read it, choose a new secret. Run: {command}"
        );
    }
    if mode & forbidden != 0 {
        fail!(
            at shown, "other users can write this secret (mode {mode:04o})";
            "Check the content of the file, then run: {command}"
        );
    }
    Ok(())
}

/// Reads a password from a file that the group of the file may read, but no other user; the line end is not part of it.
pub fn read_secret(root: &Root, path: &Path) -> Result<String> {
    let Some(bytes) = secret_bytes(root, path, OF_GROUP)? else { return Err(missing(path).into()) };
    let text = text(path, bytes)?;
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    if secret.is_empty() || secret.contains(['\n', '\r', '\0']) {
        fail!(at path.display(), "the file must contain exactly one line: the password");
    }
    Ok(secret.to_owned())
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String> {
    Ok(String::from_utf8(bytes).map_err(|_| not_utf8(path))?)
}

/// Refuses a private key that all users can read. Its content is not read here.
pub fn check_private(root: &Root, path: &Path) -> Result<()> {
    let Some(opened) = Opener::new(root, Named::Secret).open(path)? else { return Err(missing(path).into()) };
    check_bits(path, opened.stat.st_mode & 0o7777, 0o007, &format!("chmod o= {}", path.display()))
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
    use crate::trouble::told;

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
        let key = SiteKey { bytes: [7; 32], generations: BTreeMap::new() };
        assert_eq!(
            key.password("16-main", "replicator"),
            "c795ad6757b351c6eae8f678d9db5d7f52bed07ae686e94c77e33bad6cdcc7c1"
        );
        // And here, out of Consul, or out of the CA that the others trust.
        assert_eq!(
            to_hex(&key.bytes_for::<32>("consul gossip")),
            "bed0669997e386c1db9ee368be5276a94271115de4820052843fa6b3d75430d8"
        );
    }

    #[test]
    fn a_generation_changes_the_passwords_of_one_instance() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let path = Path::new("/site.key");
        let first = SiteKey::create(&root, path).unwrap();
        for number in [2, 3] {
            SiteKey::write_generation(&root, path, "16-main", number).unwrap();
        }
        SiteKey::write_generation(&root, path, "16-main-2", 7).unwrap();
        let third = SiteKey::read(&root, path).unwrap().unwrap();
        assert_eq!(root.path(path).metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!((third.generation("16-main"), third.generation("17-main")), (3, 1));
        assert_eq!(third.role_password("17-main", "replicator"), first.role_password("17-main", "replicator"));
        assert_eq!(first.role_password("16-main", "replicator"), first.password("16-main", "replicator"));
        assert_eq!(third.password("16-main", "restapi"), first.password("16-main", "restapi"));
        let by = |key: &SiteKey, number| key.with_generation("16-main", number).role_password("16-main", "replicator");
        assert_eq!(by(&first, 3), third.role_password("16-main", "replicator"));
        assert!(by(&first, 1) != by(&first, 2) && by(&first, 2) != by(&first, 3));
        assert_ne!(first.fingerprint("16-main"), third.fingerprint("16-main"));
        assert_eq!(first.fingerprint("17-main"), third.fingerprint("17-main"));
        assert!(
            third.fingerprint("16-main").len() == 8
                && !third.password("16-main", "a").contains(&third.fingerprint("16-main"))
        );
        std::fs::write(root.path(path), format!("{}\ngeneration 16-main 0\n", "0".repeat(64))).unwrap();
        assert!(told(&SiteKey::read(&root, path).err().unwrap()).starts_with("/site.key:2: "));
    }

    #[test]
    fn a_readable_or_damaged_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let path = Path::new("/site.key");
        SiteKey::create(&root, path).unwrap();
        std::fs::set_permissions(root.path(path), Permissions::from_mode(0o640)).unwrap();
        assert!(told(&SiteKey::read(&root, path).err().unwrap()).contains("chmod 600"));
        std::fs::write(root.path(path), "abc\n").unwrap();
        std::fs::set_permissions(root.path(path), Permissions::from_mode(0o600)).unwrap();
        assert!(told(&SiteKey::read(&root, path).err().unwrap()).contains("64 hexadecimal"));
    }

    #[test]
    fn a_secret_of_another_user_or_of_another_kind_or_too_long_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let path = Path::new("/site.key");
        let fault = |secrecy| told(&secret_bytes(&root, path, secrecy).unwrap_err());
        SiteKey::create(&root, path).unwrap();
        if geteuid().is_root() {
            assert!(secret_bytes(&root, path, FOR_POSTGRES).is_ok());
            std::os::unix::fs::chown(root.path(path), Some(4242), None).unwrap();
            assert!(fault(OF_ROOT).contains("does not belong to root"), "{}", fault(OF_ROOT));
            assert!(SiteKey::read(&root, path).is_err() && read_secret(&root, path).is_err());
            assert!(SiteKey::write_generation(&root, path, "16-main", 2).is_err());
        }
        // What a program of postgres reads must belong to root in any case.
        assert!(geteuid().is_root() || secret_bytes(&root, path, OF_ROOT).is_ok());
        assert!(fault(FOR_POSTGRES).contains("chown root:postgres /site.key && chmod 0640 /site.key"));
        std::fs::remove_file(root.path(path)).unwrap();
        nix::unistd::mkfifo(&root.path(path), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert_eq!(fault(OF_ROOT), "/site.key: is a FIFO, not a file");
        std::fs::remove_file(root.path(path)).unwrap();
        std::fs::write(root.path(path), vec![b'a'; 65_537]).unwrap();
        std::fs::set_permissions(root.path(path), Permissions::from_mode(0o600)).unwrap();
        assert!(fault(OF_GROUP).contains("more than 65536 bytes"));
    }
}
