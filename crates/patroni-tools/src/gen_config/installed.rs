//! Which Patroni is installed, and what that one cannot do.

use site::Root;

/// Debian's Patroni, with a line `__version__ = '4.0.7'` behind a text about it.
const VERSION_FILE: &str = "/usr/lib/python3/dist-packages/patroni/version.py";

/// The version of the installed Patroni. One that is not Debian's is not known, and as good as certain to be newer.
#[derive(Debug)]
pub struct Patroni(Option<String>);

impl Patroni {
    /// Looks for Debian's.
    pub fn of(root: &Root) -> anyhow::Result<Self> {
        let text = root.read(VERSION_FILE)?.unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix("__version__")?.trim_start().strip_prefix('='));
        let version = value.map(|value| value.trim().trim_matches(['"', '\'']).to_owned());
        Ok(Self(version.filter(|version| version.starts_with(|c: char| c.is_ascii_digit()))))
    }

    /// The version, if it is known to be older than another one.
    #[must_use]
    pub fn older_than(&self, other: [u32; 3]) -> Option<&str> {
        let version = self.0.as_deref()?;
        let parts: Vec<u32> = version.split('.').map_while(|part| part.parse().ok()).collect();
        (parts.as_slice() < other.as_slice()).then_some(version)
    }

    /// `before_stop` is there since 3.0.3 (`Postgresql._before_stop`).
    #[must_use]
    pub fn has_before_stop(&self) -> bool {
        self.older_than([3, 0, 3]).is_none()
    }

    /// What is to be feared with a store. In `patroni/dcs/etcd3.py` of 3.0.2 `_update_leader` puts the leader key without a
    /// condition; corrected in 3.0.3 by Patroni's pull requests 2689 and 2693.
    #[must_use]
    pub fn doubt_about(&self, store: &str) -> Option<String> {
        let version = self.older_than([3, 0, 3]).filter(|_| store == "etcd3")?;
        Some(format!(
            "Patroni {version} with etcd3 writes the leader key unconditionally once its lease has expired, so a primary that was \
             cut off or frozen can take the leader lock back from its successor, and acknowledged commits are lost: use Patroni \
             3.0.3 or newer, or another store (Consul, ZooKeeper)"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_debians_file() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        assert!(Patroni::of(&root).unwrap().older_than([99, 0, 0]).is_none());
        let file = root.path(VERSION_FILE);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        for text in [
            "\"\"\"This module specifies the current Patroni version.\n\n:var __version__: the current Patroni version.\n\"\"\"\n\
             __version__ = '4.0.7'\n",
            "__version__ = \"4.0.7\"\n",
        ] {
            std::fs::write(&file, text).unwrap();
            let patroni = Patroni::of(&root).unwrap();
            assert_eq!(patroni.older_than([4, 0, 8]), Some("4.0.7"));
            assert!(patroni.has_before_stop() && patroni.older_than([4, 0, 7]).is_none());
        }
    }

    #[test]
    fn versions_are_numbers_not_texts() {
        let patroni = |version: &str| Patroni(Some(version.to_owned()));
        for (version, old) in
            [("3.0.2", true), ("3.0", true), ("2.1.4", true), ("3.0.3", false), ("3.0.10", false), ("4.0.7", false)]
        {
            assert_eq!(!patroni(version).has_before_stop(), old, "{version}");
            assert_eq!(patroni(version).doubt_about("etcd3").is_some(), old, "{version}");
            assert!(patroni(version).doubt_about("consul").is_none());
        }
        assert!(Patroni(None).has_before_stop() && Patroni(None).doubt_about("etcd3").is_none());
    }
}
