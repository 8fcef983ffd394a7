//! What is wrong, in fields: where, what, and what to do about it.
//!
//! An error is thrown with [`fail!`](crate::fail) and understood at the rim: the [`Reporter`](crate::report::Reporter) prints it as
//! PostgreSQL's programs do, `error: PLACE: WHAT` and a line `hint: …`, and the doctor takes it for a finding. Nobody splits a sentence
//! to know its parts. What came from elsewhere (an error of the system, of a library) has no hint until a caller gives it one.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Something that is wrong.
#[derive(Debug, Default, Clone)]
pub struct Trouble {
    /// The file (with its line, as in `/etc/default/patroni:3`), setting or server that it is about.
    pub place: Option<String>,
    /// What is wrong: short and factual, without a full stop at its end.
    pub what: String,
    /// What to do about it: a sentence. If it ends with a command, that stands behind a colon and without a full stop.
    pub hint: Option<String>,
    source: Option<Arc<anyhow::Error>>,
}

impl Trouble {
    /// Something wrong of which nothing more is known yet.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), ..Self::default() }
    }

    /// The same at a place. An empty place is none.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.place = Some(place.to_string()).filter(|place| !place.is_empty());
        self
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with its cause. (As a context of an error it would be a mere string.)
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<anyhow::Error>) -> Self {
        self.source = Some(Arc::new(source.into()));
        self
    }

    /// An operation that the system refused. If the permissions were missing, root has them.
    pub fn failed(what: impl Into<String>, error: io::Error) -> Self {
        let denied = error.kind() == io::ErrorKind::PermissionDenied;
        let trouble = Self::new(what).caused_by(error);
        if denied { trouble.hint("Run this program as root.") } else { trouble }
    }

    /// The parts of an error and of all its causes: the outermost place, what each says in turn, the innermost hint, since
    /// it is the most specific.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Self {
        let mut whole = Self::default();
        let mut said = Vec::new();
        for cause in error.chain() {
            let Some(trouble) = cause.downcast_ref::<Self>() else {
                let text = cause.to_string();
                // Rust appends the number of the system's error.
                let number = cause.downcast_ref::<std::io::Error>().and_then(|_| text.find(" (os error"));
                said.push(number.map_or(text.as_str(), |end| &text[..end]).to_owned());
                continue;
            };
            match (&whole.place, &trouble.place) {
                (None, place) => whole.place.clone_from(place),
                (Some(_), Some(inner)) => said.push(inner.clone()),
                (Some(_), None) => {}
            }
            said.push(trouble.what.clone());
            if trouble.hint.is_some() {
                whole.hint.clone_from(&trouble.hint);
            }
        }
        said.retain(|part| !part.is_empty());
        whole.what = said.join(": ");
        whole
    }

    /// Place and what is wrong there, in one line.
    #[must_use]
    pub fn line(&self) -> String {
        match &self.place {
            Some(place) if self.what.is_empty() => place.clone(),
            Some(place) => format!("{place}: {}", self.what),
            None => self.what.clone(),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.line())
    }
}

impl Error for Trouble {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref().as_ref() as &(dyn Error + 'static))
    }
}

/// Two are the same if they say the same.
impl PartialEq for Trouble {
    fn eq(&self, other: &Self) -> bool {
        (&self.place, &self.what, &self.hint) == (&other.place, &other.what, &other.hint)
    }
}

impl Eq for Trouble {}

impl From<String> for Trouble {
    fn from(what: String) -> Self {
        Self::new(what)
    }
}

impl From<&str> for Trouble {
    fn from(what: &str) -> Self {
        Self::new(what)
    }
}

/// What a caller knows of an error that it passes on.
pub trait Explain<T> {
    /// The place that it is about.
    ///
    /// # Errors
    /// The error, with the place.
    fn at(self, place: impl fmt::Display) -> anyhow::Result<T>;

    /// What to do about it; where the error says that itself, its own hint holds.
    ///
    /// # Errors
    /// The error, with the hint.
    fn or_hint(self, hint: impl FnOnce() -> String) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Explain<T> for Result<T, E> {
    fn at(self, place: impl fmt::Display) -> anyhow::Result<T> {
        self.map_err(|error| Trouble::default().at(place).caused_by(error).into())
    }

    fn or_hint(self, hint: impl FnOnce() -> String) -> anyhow::Result<T> {
        self.map_err(|error| Trouble::default().hint(hint()).caused_by(error).into())
    }
}

/// Makes a [`Trouble`]: what is wrong, then a semicolon, then the hint, each with its own arguments; before it `at PLACE,` where
/// there is one.
///
/// `trouble!(at path.display(), "there is no such file"; "Create it with: touch {}", path.display())`
#[macro_export]
macro_rules! trouble {
    (at $place:expr, $($rest:tt)+) => { $crate::trouble!($($rest)+).at($place) };
    ($what:literal $(, $argument:expr)* ; $hint:literal $(, $value:expr)* $(,)?) => {
        $crate::trouble::Trouble::new(format!($what $(, $argument)*)).hint(format!($hint $(, $value)*))
    };
    ($what:literal $(, $argument:expr)* $(,)?) => { $crate::trouble::Trouble::new(format!($what $(, $argument)*)) };
}

/// Returns with a [`Trouble`] as the error; written as [`trouble!`](crate::trouble!).
#[macro_export]
macro_rules! fail {
    ($($rest:tt)+) => { return Err($crate::trouble!($($rest)+).into()) };
}

/// The place of a file, or of a line of it.
#[must_use]
pub fn in_line(file: impl AsRef<Path>, line: usize) -> String {
    format!("{}:{line}", file.as_ref().display())
}

/// An error as tests compare it: what is wrong, and in a second line the hint.
#[cfg(test)]
pub(crate) fn told(error: &anyhow::Error) -> String {
    let Trouble { hint, .. } = &Trouble::of(error);
    let hint = hint.as_ref().map_or_else(String::new, |hint| format!("\nhint: {hint}"));
    Trouble::of(error).line() + &hint
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use anyhow::{Context, Result};
    use std::io;

    fn port(text: &str) -> Result<u16> {
        let port: u16 = text.parse().with_context(|| format!("'{text}' is not a port number"))?;
        if port < 1024 {
            fail!("port {port} is reserved"; "Choose one from {} on.", 1024);
        }
        Ok(port)
    }

    #[test]
    fn an_error_of_the_system_has_no_number() {
        let error = anyhow::Error::from(io::Error::from_raw_os_error(13)).context("could not read /x");
        assert_eq!(Trouble::of(&error).line(), "could not read /x: Permission denied");
    }

    #[test]
    fn parts_come_from_the_level_that_knew_them() {
        let inner = port("80").at("/etc/default/patroni:3").unwrap_err();
        let trouble = Trouble::of(&inner);
        assert_eq!(trouble.place.as_deref(), Some("/etc/default/patroni:3"));
        assert_eq!(
            (trouble.what.as_str(), trouble.hint.as_deref()),
            ("port 80 is reserved", Some("Choose one from 1024 on."))
        );
        assert_eq!(trouble.line(), "/etc/default/patroni:3: port 80 is reserved");
    }

    #[test]
    fn a_cause_of_the_system_is_said_and_is_no_hint() {
        let error = port("abc").at("a:1").unwrap_err();
        let trouble = Trouble::of(&error);
        assert_eq!(trouble.line(), "a:1: 'abc' is not a port number: invalid digit found in string");
        assert_eq!(trouble.hint, None);
        let denied: Result<()> = Err(io::Error::from(io::ErrorKind::PermissionDenied)).context("could not read b");
        let error = denied.or_hint(|| "Run this as root.".to_owned()).unwrap_err();
        let trouble = Trouble::of(&error);
        assert_eq!(
            (trouble.line().as_str(), trouble.hint.as_deref()),
            ("could not read b: permission denied", Some("Run this as root."))
        );
        assert!(error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some()));
    }

    #[test]
    fn the_innermost_hint_wins() {
        let error = port("80").or_hint(|| "Correct it.".to_owned()).context("PORT").unwrap_err();
        let trouble = Trouble::of(&error);
        assert_eq!(
            (trouble.line().as_str(), trouble.hint.as_deref()),
            ("PORT: port 80 is reserved", Some("Choose one from 1024 on."))
        );
        let one: Trouble = trouble!(at "x", "y {}", 1; "z");
        assert_eq!((one.line(), one.hint.as_deref()), ("x: y 1".to_owned(), Some("z")));
    }
}
