//! Which Patroni is installed, and what that one cannot do.

use site::Root;

/// Debian's Patroni, with `__version__ = '4.0.7'`.
const VERSION_FILE: &str = "/usr/lib/python3/dist-packages/patroni/version.py";

/// The version of the installed Patroni. One that is not Debian's is not known, and as good as certain to be newer.
#[derive(Debug)]
pub struct Patroni(Option<String>);

impl Patroni {
    /// Looks for Debian's.
    pub fn of(root: &Root) -> anyhow::Result<Self> {
        let text = root.read(VERSION_FILE)?;
        Ok(Self(text.as_deref().and_then(number).map(str::to_owned)))
    }

    /// The version, if it is known to be older than another one.
    fn older_than(&self, other: [u32; 3]) -> Option<&str> {
        let version = self.0.as_deref()?;
        let parts: Vec<u32> = version.split('.').map_while(|part| part.parse().ok()).collect();
        (parts.as_slice() < other.as_slice()).then_some(version)
    }

    /// `before_stop` is there since 3.0.3 (`Postgresql._before_stop`).
    #[must_use]
    pub fn has_before_stop(&self) -> bool {
        self.older_than([3, 0, 3]).is_none()
    }

    /// Before 3.1.0 a member with TLS shows the REST API's certificate to the others, and then always verifies theirs, where a
    /// newer one does so only with a certificate in `ctl` (`PatroniRequest.reload_config`, pull request 2768). Gives the version.
    #[must_use]
    pub fn always_verifies(&self) -> Option<&str> {
        self.older_than([3, 1, 0])
    }
}

/// The text of `__version__`, which stands below a comment with quotes of its own.
fn number(text: &str) -> Option<&str> {
    let assigned = text.lines().find_map(|line| line.strip_prefix("__version__")?.trim_start().strip_prefix('='))?;
    assigned.split(['"', '\'']).nth(1).filter(|number| number.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_stands_below_a_comment() {
        let debian_13 = "\"\"\"This module specifies the current Patroni version.\n\n:var __version__: the current Patroni version.\n\"\"\"\n__version__ = '4.0.7'\n";
        for (text, found) in [
            (debian_13, Some("4.0.7")),
            ("__version__ = \"3.0.2\"\n", Some("3.0.2")),
            ("__version__ = ''\n", None),
            ("", None),
        ] {
            assert_eq!(number(text), found);
        }
    }

    #[test]
    fn versions_are_numbers_not_texts() {
        let patroni = |version: &str| Patroni(Some(version.to_owned()));
        for (version, old) in
            [("3.0.2", true), ("3.0", true), ("2.1.4", true), ("3.0.3", false), ("3.0.10", false), ("4.0.7", false)]
        {
            assert_eq!(!patroni(version).has_before_stop(), old, "{version}");
        }
        assert!(Patroni(None).has_before_stop());
    }
}
