//! Which Patroni is installed here and what this release can do; likewise its Python modules and the servers that it uses.
//! This is the only place that compares versions, and each comparison names its source. Where it is installed, [`installed`] knows.

use std::path::Path;

use anyhow::Result;
use host::Root;

use crate::patroni::installed::{self, Ask, PACKAGES};
use crate::patroni::release::Version;

/// The installed Patroni. One whose version is unknown is treated as a new one.
#[derive(Debug, Clone, Copy)]
pub struct Patroni(Option<Version>);

impl Patroni {
    /// A Patroni of unknown version.
    pub const UNKNOWN: Self = Self(None);

    /// The one that `patroni@` starts. An error only if `PATRONI_PROGRAM` names none; else, if it does not answer, the files count.
    pub fn of(root: &Root) -> Result<Self> {
        if installed::only_debians(root) {
            return Ok(Self::from_files(root));
        }
        match installed::chosen(root)? {
            Some(_) => Ok(Self(Some(installed::ask(root)?.version))),
            None => Ok(installed::ask(root).map_or_else(|_| Self::from_files(root), |about| Self(Some(about.version)))),
        }
    }

    /// The Patroni of the members: that of this host. On a host without one, the members may have the oldest that the package supports
    /// (`Depends` in `debian/control`), and what is written for it works with newer ones.
    pub fn of_members(root: &Root) -> Result<Self> {
        if installed::is_absent(root) { Ok(Self(Some(Version(3, 0, 2)))) } else { Self::of(root) }
    }

    /// The same as far as files say it: that of `PATRONI_PROGRAM` is unknown.
    #[must_use]
    pub fn from_files(root: &Root) -> Self {
        match installed::chosen(root) {
            Ok(None) => Self(installed::copies(root).first().and_then(|copy| copy.version)),
            _ => Self::UNKNOWN,
        }
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

/// Can Patroni import this Python module? True if that is unknown.
pub fn finds_module(root: &Root, module: &str, ask: Ask) -> Result<bool> {
    if !installed::only_debians(root) {
        let about = if ask == Ask::Programs { installed::ask(root).ok() } else { None };
        return Ok(about.is_none_or(|about| about.module(module).is_some()));
    }
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

/// Has Debian's directory a distribution whose name and version begin so? `None` if Patroni may use another one.
fn debian_has(root: &Root, start: &str) -> Result<Option<bool>> {
    if !installed::only_debians(root) {
        return Ok(None);
    }
    Ok(Some(root.list(PACKAGES)?.iter().any(|name| name.starts_with(start))))
}

/// The major version of a module that Patroni uses; `None` if that is unknown.
fn major(root: &Root, module: &str) -> Option<u32> {
    Version::parse(installed::ask(root).ok()?.module(module)?).map(|Version(major, ..)| major)
}

/// python-consul 0.7 (Debian 12) reads host, port, scheme and verification from the environment, and fails on an address
/// such as `http://HOST:PORT` (`Consul.__init__` in `consul/base.py`); 1.x does not.
pub fn consul_client_reads_environment(root: &Root, ask: Ask) -> Result<bool> {
    let of_debian = debian_has(root, "python_consul-0.")?;
    Ok(of_debian.unwrap_or_else(|| ask == Ask::Programs && major(root, "consul") == Some(0)))
}

/// urllib3 verifies certificates by default since 2.0 (its release notes), which Debian 13 has.
pub fn urllib3_verifies(root: &Root) -> Result<bool> {
    let of_debian = debian_has(root, "urllib3-1.")?;
    Ok(!of_debian.unwrap_or_else(|| major(root, "urllib3") == Some(1)))
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
        assert!(finds_module(&root, "kazoo", Ask::Files).unwrap());
        let packages = root.path(PACKAGES);
        std::fs::create_dir_all(packages.join("patroni")).unwrap();
        let text = "\"\"\"This module specifies the current Patroni version.\n\n:var __version__: the current Patroni \
                    version.\n\"\"\"\n__version__ = '4.0.7'\n";
        std::fs::write(packages.join("patroni/version.py"), text).unwrap();
        assert_eq!(Patroni::of(&root).unwrap().0, Some(Version(4, 0, 7)));
        std::fs::write(packages.join("patroni/version.py"), text.replace("4.0.7", "3.0.2")).unwrap();
        assert!(!Patroni::of(&root).unwrap().has_before_stop());
        assert!(!finds_module(&root, "kazoo", Ask::Files).unwrap());
        std::fs::create_dir_all(root.path("/usr/local/lib/python3.11/dist-packages/kazoo")).unwrap();
        assert!(finds_module(&root, "kazoo", Ask::Files).unwrap());
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
