//! Which Patroni is installed here and what this release can do; likewise its Python modules and the servers that it uses.
//! This is the only place that compares versions, and each comparison names its source. Everything is read from files,
//! without running Python.

use std::fmt;
use std::path::Path;

use anyhow::Result;
use host::Root;

/// The directory of Debian's Python modules.
const PACKAGES: &str = "/usr/lib/python3/dist-packages";

/// A version such as `4.0.7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u32, u32, u32);

impl Version {
    /// The leading numbers of `4.0.7` or `4.1.5-2`; missing numbers are 0.
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

/// The installed Patroni. The version is unknown if it is not Debian's package; it is then treated as a new one.
#[derive(Debug, Clone, Copy)]
pub struct Patroni(Option<Version>);

impl Patroni {
    /// A Patroni of unknown version.
    pub const UNKNOWN: Self = Self(None);

    /// Reads the version of Debian's package.
    pub fn of(root: &Root) -> Result<Self> {
        let text = root.read(Path::new(PACKAGES).join("patroni/version.py"))?.unwrap_or_default();
        // `__version__ = '4.0.7'`; the docstring above it contains quotes, too.
        let line = text.lines().find_map(|line| line.strip_prefix("__version__"));
        Ok(Self(line.and_then(|line| line.split(['"', '\'']).nth(1)).and_then(Version::parse)))
    }

    /// The version, if it is known.
    #[must_use]
    pub fn number(self) -> Option<Version> {
        self.0
    }

    /// A Patroni of this version.
    #[cfg(test)]
    pub fn version(text: &str) -> Self {
        Self(Version::parse(text))
    }

    fn older_than(self, other: Version) -> Option<Version> {
        self.0.filter(|version| *version < other)
    }

    /// `postgresql.before_stop` is called since 3.0.3 (release notes; `Postgresql._before_stop`).
    #[must_use]
    pub fn has_before_stop(self) -> bool {
        self.older_than(Version(3, 0, 3)).is_none()
    }

    /// The REST API reports `replication_state` since 3.0.4 (pull request 2733).
    #[must_use]
    pub fn says_replication_state(self) -> bool {
        self.older_than(Version(3, 0, 4)).is_none()
    }

    /// Before 3.1.0 a member with TLS presents the REST API's certificate to the others and always verifies theirs; newer
    /// releases do so only with a certificate in `ctl` (`PatroniRequest.reload_config`, pull request 2768). Returns the
    /// version of such an old one.
    #[must_use]
    pub fn always_verifies(self) -> Option<Version> {
        self.older_than(Version(3, 1, 0))
    }

    /// The tag `failover_priority` exists since 3.2.0 (release notes; `Tags.failover_priority` in `patroni/tags.py`); an
    /// older Patroni ignores it. Returns the version of such an old one.
    #[must_use]
    pub fn lacks_failover_priority(self) -> Option<Version> {
        self.older_than(Version(3, 2, 0))
    }

    /// `zookeeper.auth_data` exists since 3.3.0 (release notes; `ZooKeeper.__init__` in `patroni/dcs/zookeeper.py`); an
    /// older Patroni ignores it. Returns the version of such an old one.
    #[must_use]
    pub fn lacks_zookeeper_users(self) -> Option<Version> {
        self.older_than(Version(3, 3, 0))
    }

    /// `synchronous_mode: quorum` exists since 4.0.0 (release notes, "Quorum-based failover"; `patroni/quorum.py`). Returns the
    /// version of an older one.
    #[must_use]
    pub fn lacks_quorum_commit(self) -> Option<Version> {
        self.older_than(Version(4, 0, 0))
    }

    /// Before 4.1.1 Patroni lists the members of etcd and renews its lease without authentication (release notes of 4.1.1,
    /// "Compatibility with Etcd security fixes"). Returns the version of such an old one if this etcd, in which users are
    /// enabled, refuses that; such a Patroni waits for etcd for ever (measured with 3.0.2 and 4.0.7 against etcd 3.5.30).
    #[must_use]
    pub fn cannot_log_in_to(self, etcd: Version) -> Option<Version> {
        self.older_than(Version(4, 1, 1)).filter(|_| refuses_anonymous_requests(etcd))
    }
}

/// etcd with users answers no request without authentication since 3.4.42, 3.5.28 and 3.6.9 (release notes of Patroni 4.1.1).
fn refuses_anonymous_requests(etcd: Version) -> bool {
    match etcd {
        Version(3, 4, patch) => patch >= 42,
        Version(3, 5, patch) => patch >= 28,
        Version(3, 6, patch) => patch >= 9,
        newer => newer > Version(3, 6, 9),
    }
}

/// The path prefix of etcd's JSON gateway; none for an etcd that is too old for Patroni (`Etcd3Client._ensure_version_prefix`
/// in `patroni/dcs/etcd3.py`).
#[must_use]
pub fn etcd_gateway(etcd: Version) -> Option<&'static str> {
    if etcd < Version(3, 3, 0) {
        None
    } else if etcd < Version(3, 4, 0) {
        Some("/v3beta")
    } else {
        Some("/v3")
    }
}

/// Can Debian's Patroni import this Python module, from a package or from pip? True if Patroni is not Debian's, because the
/// location of its modules is then unknown.
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

/// python-consul 0.7 (Debian 12) reads host, port, scheme and verification from the environment, and fails on an address
/// such as `http://HOST:PORT` (`Consul.__init__` in `consul/base.py`); 1.x does not.
pub fn consul_client_reads_environment(root: &Root) -> Result<bool> {
    Ok(root.list(PACKAGES)?.iter().any(|name| name.starts_with("python_consul-0.")))
}

/// urllib3 verifies certificates by default since 2.0 (its release notes), which Debian 13 has.
pub fn urllib3_verifies(root: &Root) -> Result<bool> {
    Ok(!root.list(PACKAGES)?.iter().any(|name| name.starts_with("urllib3-1.")))
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

    #[test]
    fn users_of_a_newer_etcd_need_a_newer_patroni() {
        for (etcd, patroni, fine) in [
            ("3.4.23", "3.0.2", true),
            ("3.4.42", "3.0.2", false),
            ("3.5.16", "4.0.7", true),
            ("3.5.28", "4.0.7", false),
            ("3.5.30", "4.1.1", true),
            ("3.6.8", "4.0.7", true),
            ("3.6.9", "4.1.0", false),
            ("3.7.0", "4.0.7", false),
        ] {
            let server = Version::parse(etcd).unwrap();
            assert_eq!(
                Patroni::version(patroni).cannot_log_in_to(server).is_none(),
                fine,
                "etcd {etcd}, Patroni {patroni}"
            );
        }
    }

    #[test]
    fn the_gateway_of_etcd_has_moved() {
        let of = |text: &str| etcd_gateway(Version::parse(text).unwrap());
        assert_eq!([of("3.2.9"), of("3.3.25"), of("3.4.0")], [None, Some("/v3beta"), Some("/v3")]);
    }
}
