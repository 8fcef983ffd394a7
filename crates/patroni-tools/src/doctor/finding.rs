//! What a check finds.

use std::path::Path;

use host::report::plain;

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
    /// What to do about it.
    pub(crate) remedy: String,
}

impl Finding {
    pub(crate) fn new(level: Level, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level, place: None, what: what.into(), remedy: remedy.into() }
    }

    pub(crate) fn fatal(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Level::Fatal, what, remedy)
    }

    pub(crate) fn error(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Level::Error, what, remedy)
    }

    pub(crate) fn warning(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Level::Warning, what, remedy)
    }

    /// An error of another part of the program: a sentence with its place in it, and the remedy behind its last colon.
    pub(crate) fn told(level: Level, sentence: &str) -> Self {
        let (what, remedy) = sentence.rsplit_once(": ").unwrap_or((sentence, "correct it"));
        Self::new(level, what, remedy).at("")
    }

    /// The same about another place; an empty one is named by the finding itself.
    pub(crate) fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }

    /// The line. What a server sent is in it.
    pub(crate) fn line(&self, file: &Path) -> String {
        let place = self.place.clone().unwrap_or_else(|| file.display().to_string());
        let parts = [place.as_str(), &self.what, &self.remedy];
        let parts = parts.into_iter().filter(|part| !part.is_empty()).map(plain).collect::<Vec<_>>();
        parts.join(": ")
    }
}

impl Level {
    /// Before a start only what is certain counts.
    pub(crate) fn offline(self) -> Self {
        if self == Self::Fatal { Self::Fatal } else { Self::Warning }
    }
}
