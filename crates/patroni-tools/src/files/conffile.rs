//! Configuration files of Debian's packages: one that is unchanged since its installation can be replaced.

use std::path::Path;

use anyhow::Result;
use host::{Root, program};
use openssl::hash::{MessageDigest, hash};

/// Is this text what the package installed? dpkg records the MD5 digest of each (`dpkg-query(1)`, `Conffiles`).
pub fn is_as_shipped(root: &Root, path: &Path, text: &str) -> Result<bool> {
    let Ok(mut command) = program::command(root, "dpkg-query") else { return Ok(false) };
    let status = program::capture(command.args(["--show", "--showformat=${Conffiles}\n"]))?;
    let digest = hash(MessageDigest::md5(), text.as_bytes())?;
    let line = format!(" {} {}", path.display(), host::keys::to_hex(&digest));
    Ok(status.lines().any(|found| found == line))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_conffile_is_recognised_by_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        assert!(!is_as_shipped(&root, Path::new("/etc/x"), "hello\n").unwrap());
        // The digest of "hello\n", from md5sum.
        let says = "#!/bin/sh\nprintf '\\n /etc/x b1946ac92492d2347c6235b4d2611184\\n /etc/y 00\\n\\n'\n";
        lab::program::write(root.path("/usr/bin/dpkg-query"), says).unwrap();
        assert!(is_as_shipped(&root, Path::new("/etc/x"), "hello\n").unwrap());
        assert!(!is_as_shipped(&root, Path::new("/etc/x"), "hello you\n").unwrap());
        assert!(!is_as_shipped(&root, Path::new("/etc/y"), "hello\n").unwrap());
    }
}
