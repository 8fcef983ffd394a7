//! The name of a PostgreSQL cluster: `16/main` for people, `16-main` for units, files and scopes.

use std::fmt;
use std::str::FromStr;

use crate::trouble::Trouble;
use crate::{fail, trouble};

/// A major version as postgresql-common writes it: `16`, `9.6`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PgVersion(String);

impl PgVersion {
    /// The text, for example `16`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Major and minor part as numbers, the minor part 0 if there is none: `9.6` is `(9, 6)`.
    #[must_use]
    pub fn number(&self) -> (u32, u32) {
        let (major, minor) = self.0.split_once('.').unwrap_or((&self.0, "0"));
        (major.parse().unwrap_or(u32::MAX), minor.parse().unwrap_or(u32::MAX))
    }
}

impl FromStr for PgVersion {
    type Err = Trouble;

    /// Accepts what `pg_createcluster` accepts, `^\d+\.?\d+$`; hence `9` alone is not a version.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let valid = match text.split_once('.') {
            Some((major, minor)) => digits(major) && digits(minor),
            None => digits(text) && text.len() >= 2,
        };
        if !valid || text.len() > 9 {
            fail!("'{text}' is not a PostgreSQL version"; "Write the cluster as VERSION/NAME, as in 16/main or 9.6/main.");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for PgVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A cluster name as postgresql-common allows it, which is also safe as a file name and as an argument.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(String);

impl ClusterName {
    /// The text, for example `main`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = Trouble;

    /// `pg_createcluster` accepts `^[-.\w]+$`. A leading `-` would make the name an option of the programs to which it is passed, a
    /// leading `.` a path or a hidden file: both are refused here.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = !text.is_empty()
            && text.len() <= 63
            && !text.starts_with(['-', '.'])
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if !valid {
            fail!(
                "'{text}' is not a cluster name";
                "A name consists of letters, digits, '_', '.' and '-', and begins with neither '-' nor '.'."
            );
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One cluster of this host.
///
/// ```
/// let id: host::ClusterId = "16-my-db".parse().unwrap();
/// assert_eq!(id.slashed(), "16/my-db");
/// assert_eq!(id.dashed(), "16-my-db");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClusterId {
    /// The major version.
    pub version: PgVersion,
    /// The name below that version.
    pub name: ClusterName,
}

impl ClusterId {
    /// `16/main`, as `pg_lsclusters` and `PGCLUSTER` have it.
    #[must_use]
    pub fn slashed(&self) -> String {
        format!("{}/{}", self.version, self.name)
    }

    /// `16-main`, as units and file names have it, and Patroni's scope unless `SCOPE` is set.
    #[must_use]
    pub fn dashed(&self) -> String {
        format!("{}-{}", self.version, self.name)
    }

    /// From the words of a command line: `16/main`, `16-main`, or the two words `16 main`.
    pub fn from_words<S: AsRef<str>>(words: &[S]) -> Result<Self, Trouble> {
        match words {
            [one] => one.as_ref().parse(),
            [version, name] => Ok(Self { version: version.as_ref().parse()?, name: name.as_ref().parse()? }),
            other => {
                let words: Vec<&str> = other.iter().map(AsRef::as_ref).collect();
                Err(not_a_cluster(&words.join(" ")))
            }
        }
    }

    /// Inserts version and name into a pattern of createcluster.conf: `%v`, `%c`, `%%`
    /// (postgresql-common, `PgCommon::replace_v_c`).
    #[must_use]
    pub fn fill(&self, pattern: &str) -> String {
        let mut out = String::with_capacity(pattern.len());
        let mut rest = pattern;
        while let Some(at) = rest.find('%') {
            out.push_str(&rest[..at]);
            let (known, value) = match rest.as_bytes().get(at + 1) {
                Some(b'v') => (2, self.version.as_str()),
                Some(b'c') => (2, self.name.as_str()),
                Some(b'%') => (2, "%"),
                _ => (1, "%"),
            };
            out.push_str(value);
            rest = &rest[at + known..];
        }
        out.push_str(rest);
        out
    }
}

impl FromStr for ClusterId {
    type Err = Trouble;

    /// Splits at the first `/` or `-`: a version contains neither, a name may contain `-`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (version, name) = text.split_once(['/', '-']).ok_or_else(|| not_a_cluster(text))?;
        Ok(Self { version: version.parse()?, name: name.parse()? })
    }
}

fn not_a_cluster(text: &str) -> Trouble {
    trouble!("'{text}' does not name a cluster"; "Write it as VERSION/NAME, as in 16/main.")
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.version, self.name)
    }
}

impl PartialOrd for ClusterId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ClusterId {
    /// The order of `pg_lsclusters`: by version as a number, then by name.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.version.number(), self.version.as_str(), &self.name).cmp(&(
            other.version.number(),
            other.version.as_str(),
            &other.name,
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn splits_at_the_first_separator() {
        for (text, version, name) in [
            ("16/main", "16", "main"),
            ("16-main", "16", "main"),
            ("16-my-db", "16", "my-db"),
            ("16/my-db", "16", "my-db"),
            ("9.6/a.b_c", "9.6", "a.b_c"),
        ] {
            let id: ClusterId = text.parse().unwrap();
            assert_eq!((id.version.as_str(), id.name.as_str()), (version, name), "{text}");
        }
        assert_eq!(ClusterId::from_words(&["16", "main"]).unwrap().slashed(), "16/main");
    }

    #[test]
    fn refuses_what_postgresql_common_refuses_and_what_would_leave_the_directory() {
        for text in [
            "", "main", "16", "9/main", "16/", "/main", "x16/main", "16/a/b", "16/..", "16/../x", "16/-x", "16--x",
            "16/a b", "16/a\"b", "16/a&b", "16/.x", "16.1.2/x", "16/ä",
        ] {
            assert!(text.parse::<ClusterId>().is_err(), "{text:?} was accepted");
        }
        assert!(ClusterId::from_words(&["16", "main", "extra"]).is_err());
    }

    #[test]
    fn fills_patterns_in_any_order() {
        let id: ClusterId = "17/dd2".parse().unwrap();
        assert_eq!(id.fill("/srv/%c-%v/data"), "/srv/dd2-17/data");
        assert_eq!(id.fill("%%v%x%"), "%v%x%");
    }

    #[test]
    fn orders_versions_as_numbers() {
        let mut ids: Vec<ClusterId> = ["16/b", "9.6/z", "16/a", "10/x"].iter().map(|t| t.parse().unwrap()).collect();
        ids.sort();
        let shown: Vec<String> = ids.iter().map(ClusterId::slashed).collect();
        assert_eq!(shown, ["9.6/z", "10/x", "16/a", "16/b"]);
    }
}
