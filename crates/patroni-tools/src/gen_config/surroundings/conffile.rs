//! Configuration files of Debian's packages: one that is as the package brought it is nobody's work, and can be replaced.

use std::path::Path;

use anyhow::Result;
use openssl::hash::{MessageDigest, hash};
use site::Root;

/// What dpkg knows of the packages, each conffile with the MD5 of the package's own version of it (`deb-conffiles(5)`, `dpkg(1)`).
const STATUS: &str = "/var/lib/dpkg/status";

/// Is this text what the package of this file has installed there?
pub fn is_as_shipped(root: &Root, path: &Path, text: &str) -> Result<bool> {
    let status = root.read(STATUS)?.unwrap_or_default();
    let digest = hash(MessageDigest::md5(), text.as_bytes())?;
    let line = format!(" {} {}", path.display(), site::keys::to_hex(&digest));
    Ok(status.lines().any(|found| found == line))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_conffile_is_known_by_its_sum() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        std::fs::create_dir_all(root.path("/var/lib/dpkg")).unwrap();
        // The sum is that of "hello\n" by md5sum.
        let status = "Package: x\nConffiles:\n /etc/x b1946ac92492d2347c6235b4d2611184\n /etc/y 00\nDescription: x\n";
        std::fs::write(root.path(STATUS), status).unwrap();
        assert!(is_as_shipped(&root, Path::new("/etc/x"), "hello\n").unwrap());
        assert!(!is_as_shipped(&root, Path::new("/etc/x"), "hello you\n").unwrap());
        assert!(!is_as_shipped(&root, Path::new("/etc/y"), "hello\n").unwrap());
    }
}
