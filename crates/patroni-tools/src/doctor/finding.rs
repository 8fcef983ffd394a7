//! What a check finds.

use std::path::Path;

use host::report::plain;
use host::trouble::Trouble;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// It needs a look.
    Warning,
    /// The instance does not work, but Patroni and PostgreSQL may start all the same.
    Error,
    /// Patroni or PostgreSQL certainly cannot start.
    Fatal,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// How bad it is.
    pub(crate) level: Level,
    /// The file or server that it is about; none: the Patroni file.
    pub(crate) place: Option<String>,
    /// What is wrong.
    pub(crate) what: String,
    /// What to do about it; empty where nobody knows.
    pub(crate) hint: String,
}

impl Finding {
    pub(crate) fn new(level: Level, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { level, place: None, what: what.into(), hint: hint.into() }
    }

    pub(crate) fn fatal(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Level::Fatal, what, hint)
    }

    pub(crate) fn error(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Level::Error, what, hint)
    }

    pub(crate) fn warning(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Level::Warning, what, hint)
    }

    /// An error of another part of the program, with the place and the hint that it has.
    pub(crate) fn of(level: Level, error: &anyhow::Error) -> Self {
        let Trouble { place, what, hint, .. } = Trouble::of(error);
        Self::new(level, what, hint.unwrap_or_default()).at(place.unwrap_or_default())
    }

    /// The same about another place; an empty one is named by the finding itself.
    pub(crate) fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }

    /// What is said of it. What a server sent is in it.
    pub(crate) fn trouble(&self, file: &Path) -> Trouble {
        let place = self.place.clone().unwrap_or_else(|| file.display().to_string());
        let trouble = Trouble::new(plain(&self.what)).at(plain(&place));
        if self.hint.is_empty() { trouble } else { trouble.hint(plain(&self.hint)) }
    }
}

impl Level {
    /// Before a start only what is certain counts.
    pub(crate) fn offline(self) -> Self {
        if self == Self::Fatal { Self::Fatal } else { Self::Warning }
    }
}
