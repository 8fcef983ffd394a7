//! Which user runs dnscp, and which files it trusts.
//!
//! The program file has capabilities, and the user postgres, who calls it, is not trusted with them. For this user every address,
//! name, server and key is defined in files that only root can change, at fixed paths.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use host::{Root, fail};
use nix::unistd::{Uid, getuid};

/// The user that runs Patroni and PostgreSQL, and so this program.
pub const USER: &str = "postgres";

/// The caller of this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Whether it is root.
    pub root: bool,
    /// Whether this process has, or may have, more permissions than its caller.
    pub privileged: bool,
    uid: u32,
}

impl Caller {
    /// By the real user, and by the capabilities that the kernel gave this process.
    #[must_use]
    pub fn of_this_process() -> Self {
        let (real, effective) = (getuid(), Uid::effective());
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let permitted = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
        // Without /proc the worse is assumed.
        let none = permitted.is_some_and(|set| set.trim().bytes().all(|digit| digit == b'0'));
        Self { root: real.is_root(), privileged: !none || real != effective, uid: real.as_raw() }
    }

    /// The machine to work on. `PATRONI_TOOLS_ROOT` is for root, and for a program without capabilities, as tests run it.
    #[must_use]
    pub fn machine(&self) -> Root {
        if self.root || !self.privileged { Root::from_environment() } else { Root::new("/") }
    }

    /// Refuses to change anything for other users than root and postgres, since the group postgres may run the program, too.
    pub fn check_acts(&self, root: &Root) -> Result<()> {
        let postgres = !self.privileged || self.root || root.user_id(USER).is_ok_and(|uid| uid == self.uid);
        if !postgres {
            fail!("only root and postgres may change addresses and names"; "Run this as one of them.");
        }
        Ok(())
    }

    /// Refuses a file that another user than root could have written. A missing file is accepted.
    pub fn trust(&self, root: &Root, path: &Path) -> Result<()> {
        let real = root.path(path);
        let directory = real.parent().unwrap_or(&real).to_owned();
        for place in [&directory, &real] {
            let shown = root.inside(place);
            let found = match std::fs::metadata(place) {
                Ok(found) => found,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(error) => {
                    return Err(error).with_context(|| format!("could not read the status of {}", shown.display()));
                }
            };
            let owner = found.uid() == 0 || (!self.privileged && found.uid() == self.uid);
            if !owner {
                fail!("{} does not belong to root", shown.display(); "Change its owner with: chown root {}", shown.display());
            }
            if found.mode() & 0o022 != 0 {
                fail!(
                    "{} can be changed by other users than root", shown.display();
                    "Close it to them with: chmod go-w {}", shown.display()
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
impl Caller {
    /// A caller with no more permissions than its own.
    #[must_use]
    pub fn for_tests(root: bool) -> Self {
        Self { root, privileged: false, uid: getuid().as_raw() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_that_others_can_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let path = folder.path().join("f");
        let caller = Caller { root: false, privileged: false, uid: getuid().as_raw() };
        caller.trust(&root, Path::new("/f")).unwrap();
        std::fs::write(&path, "").unwrap();
        for (mode, trusted) in [(0o640, true), (0o644, true), (0o660, false), (0o646, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(caller.trust(&root, Path::new("/f")).is_ok(), trusted, "{mode:o}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(caller.trust(&root, Path::new("/f")).is_err());
    }

    #[test]
    fn with_capabilities_only_roots_files_count() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        std::fs::write(folder.path().join("f"), "").unwrap();
        let caller = Caller { root: false, privileged: true, uid: getuid().as_raw() };
        assert_eq!(caller.trust(&root, Path::new("/f")).is_ok(), getuid().is_root());
        assert_eq!(caller.machine().path("/etc"), Path::new("/etc"));
    }
}
