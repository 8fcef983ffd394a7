//! The number of a release, of Patroni or of a program that it uses.

use std::fmt;

/// A version such as `4.0.7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_an_order() {
        assert!(Version::parse("3.0.10") > Version::parse("3.0.2"));
        assert_eq!(Version::parse("4.1.5-2"), Some(Version(4, 1, 5)));
        assert_eq!(Version::parse("3.5"), Some(Version(3, 5, 0)));
        assert_eq!(Version::parse("v1"), None);
    }
}
