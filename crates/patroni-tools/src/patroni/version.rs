//! Which Patroni this host has, and which modules its Python finds: read from files, without running Python.

use std::fmt;
use std::path::Path;

use anyhow::Result;
use host::Root;

/// Where Debian's packages put modules of Python.
const PACKAGES: &str = "/usr/lib/python3/dist-packages";

/// A version as Patroni writes it, `4.0.7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// The leading numbers of `4.0.7` or `4.1.5-2`; what is missing is 0.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.trim().split('.').map_while(|part| {
            let digits = part.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
            digits.parse().ok()
        });
        let first = numbers.next()?;
        Some(Self(first, numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The installed Patroni. One that is not Debian's is not known, and as good as certain to be newer.
#[derive(Debug)]
pub struct Patroni(pub Option<Version>);

impl Patroni {
    /// Looks for Debian's.
    pub fn of(root: &Root) -> Result<Self> {
        let text = root.read(Path::new(PACKAGES).join("patroni/version.py"))?.unwrap_or_default();
        // `__version__ = '4.0.7'`; the words above it have quotes, too.
        let line = text.lines().find_map(|line| line.strip_prefix("__version__"));
        Ok(Self(line.and_then(|line| line.split(['"', '\'']).nth(1)).and_then(Version::parse)))
    }

    /// Is it known to be older than this?
    #[must_use]
    pub fn older_than(&self, other: Version) -> Option<Version> {
        self.0.filter(|version| *version < other)
    }

    /// `before_stop` is there since 3.0.3 (`Postgresql._before_stop`).
    #[must_use]
    pub fn has_before_stop(&self) -> bool {
        self.older_than(Version(3, 0, 3)).is_none()
    }

    /// `replication_state` is in the REST API's answers since 3.0.4 (pull request 2733).
    #[must_use]
    pub fn says_replication_state(&self) -> bool {
        self.older_than(Version(3, 0, 4)).is_none()
    }

    /// Before 3.1.0 a member with TLS shows the REST API's certificate to the others, and then always verifies theirs, where a
    /// newer one does so only with a certificate in `ctl` (`PatroniRequest.reload_config`, pull request 2768). Gives the version.
    #[must_use]
    pub fn always_verifies(&self) -> Option<Version> {
        self.older_than(Version(3, 1, 0))
    }
}

/// Does Debian's Patroni find this module of Python, of a package or of pip? True where Patroni is not Debian's,
/// because then its modules are who knows where.
pub fn finds_module(root: &Root, module: &str) -> Result<bool> {
    let there = |packages: &Path| {
        root.path(packages.join(module)).exists() || root.path(packages.join(format!("{module}.py"))).exists()
    };
    let packages = Path::new(PACKAGES);
    if !root.path(packages.join("patroni")).exists() || there(packages) {
        return Ok(true);
    }
    let local = Path::new("/usr/local/lib");
    Ok(root
        .list(local)?
        .iter()
        .any(|name| name.starts_with("python3") && there(&local.join(name).join("dist-packages"))))
}

/// What Debian's packages have put where Python finds it.
pub fn packages(root: &Root) -> Result<Vec<String>> {
    root.list(PACKAGES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_patronis_own_file() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        assert_eq!(Patroni::of(&root).unwrap().0, None);
        assert!(Patroni::of(&root).unwrap().has_before_stop());
        assert!(finds_module(&root, "kazoo").unwrap());
        let packages = root.path(PACKAGES);
        std::fs::create_dir_all(packages.join("patroni")).unwrap();
        let text = "\"\"\"This module specifies the current Patroni version.\n\n:var __version__: the current Patroni \
                    version.\n\"\"\"\n__version__ = '4.0.7'\n";
        std::fs::write(packages.join("patroni/version.py"), text).unwrap();
        assert_eq!(Patroni::of(&root).unwrap().0, Some(Version(4, 0, 7)));
        std::fs::write(packages.join("patroni/version.py"), text.replace("4.0.7", "3.0.2")).unwrap();
        assert!(!Patroni::of(&root).unwrap().has_before_stop());
        assert!(!finds_module(&root, "kazoo").unwrap());
        std::fs::create_dir_all(root.path("/usr/local/lib/python3.11/dist-packages/kazoo")).unwrap();
        assert!(finds_module(&root, "kazoo").unwrap());
    }

    #[test]
    fn versions_have_an_order() {
        assert!(Version::parse("3.0.10") > Version::parse("3.0.2"));
        assert_eq!(Version::parse("4.1.5-2"), Some(Version(4, 1, 5)));
        assert_eq!(Version::parse("3.5"), Some(Version(3, 5, 0)));
        assert_eq!(Version::parse("v1"), None);
    }
}
