//! What a check finds.

use std::path::{Path, PathBuf};

use host::report::plain;
use host::trouble::Trouble;

use crate::doctor::check_name::CheckName;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// The administrator should check it.
    Warning,
    /// The cluster does not work, but Patroni and PostgreSQL may start.
    Error,
    /// Patroni or PostgreSQL certainly cannot start.
    Fatal,
}

/// What a finding is about, so that no second check reports the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A file on this host.
    File(PathBuf),
    /// A line of a file on this host.
    Line(Box<str>),
    /// The certificate that a server presents.
    ServerCertificate,
    /// Whether `patroni@` starts at boot.
    Enabled,
    /// Whether a server can be reached and responds.
    Connection,
}

/// Something that was found.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    /// The check that has found it; set when it has ended.
    pub(crate) check: Option<CheckName>,
    /// How bad it is.
    pub(crate) level: Level,
    /// The file or server that it is about. `None` stands for the Patroni file; an empty place is not shown.
    pub(crate) place: Option<String>,
    /// What is wrong.
    pub(crate) what: String,
    /// What to do about it: a sentence. Empty if that is unknown.
    pub(crate) hint: String,
    /// What it is about, if other checks could find the same.
    pub(crate) subject: Option<Subject>,
    /// What the innermost error reported, if it was made from an error.
    pub(crate) cause: Option<Box<str>>,
}

impl Finding {
    pub(crate) fn new(level: Level, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { check: None, level, place: None, what: what.into(), hint: hint.into(), subject: None, cause: None }
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

    /// An error of another part of the program, with its place and hint.
    pub(crate) fn of(level: Level, error: &anyhow::Error) -> Self {
        let Trouble { place, what, hint, .. } = Trouble::of(error);
        let troubles = error.chain().filter_map(|cause| cause.downcast_ref::<Trouble>());
        let cause = troubles.map(|trouble| trouble.what.as_str()).filter(|what| !what.is_empty()).last().map(Box::from);
        Self { cause, ..Self::new(level, what, hint.unwrap_or_default()).at(place.unwrap_or_default()) }
    }

    /// An error in the context of the Patroni file, such as one of its keys.
    pub(crate) fn within(level: Level, context: &str, error: &anyhow::Error) -> Self {
        let what = format!("{context}: {}", Trouble::of(error).line());
        Self { what, place: None, ..Self::of(level, error) }
    }

    /// The same about another place.
    pub(crate) fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }

    /// The same about a file of this host.
    pub(crate) fn about(mut self, file: &Path) -> Self {
        self.subject = Some(Subject::File(file.to_owned()));
        self
    }

    /// The same about a line of a file of this host.
    pub(crate) fn at_line(self, line: String) -> Self {
        Self { subject: Some(Subject::Line(line.as_str().into())), ..self.at(line) }
    }

    /// The same with a hint, if it has none.
    pub(crate) fn or_hint(mut self, hint: &str) -> Self {
        if self.hint.is_empty() {
            hint.clone_into(&mut self.hint);
        }
        self
    }

    /// Do both have the same cause, or are they about the same file?
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.cause() == other.cause() || (self.subject.is_some() && self.subject == other.subject)
    }

    fn cause(&self) -> &str {
        self.cause.as_deref().unwrap_or(&self.what)
    }

    /// How it is reported. A part of it may come from a server.
    pub(crate) fn trouble(&self, file: &Path) -> Trouble {
        let place = self.place.clone().unwrap_or_else(|| file.display().to_string());
        let trouble = Trouble::new(plain(&self.what)).at(plain(&place));
        if self.hint.is_empty() { trouble } else { trouble.hint(plain(&self.hint)) }
    }
}

/// The findings of a check, which know its name.
pub(crate) fn by(check: CheckName, findings: impl IntoIterator<Item = Finding>) -> impl Iterator<Item = Finding> {
    findings.into_iter().map(move |finding| Finding { check: Some(check), ..finding })
}

/// Two are the same if they say the same, whichever check has found them.
impl PartialEq for Finding {
    fn eq(&self, other: &Self) -> bool {
        let Self { check: _, level, place, what, hint, subject, cause } = self;
        (level, place, what, hint, subject, cause)
            == (&other.level, &other.place, &other.what, &other.hint, &other.subject, &other.cause)
    }
}

impl Eq for Finding {}

impl Level {
    /// The name in results that programs read.
    pub(crate) fn name(self) -> &'static str {
        if self == Self::Warning { "warning" } else { "error" }
    }

    /// Before a start only a certain failure counts.
    pub(crate) fn offline(self) -> Self {
        if self == Self::Fatal { Self::Fatal } else { Self::Warning }
    }
}

/// How findings read, with their levels, for tests.
#[cfg(test)]
pub(crate) fn lines(findings: &[Finding]) -> Vec<String> {
    let line = |finding: &Finding| {
        let trouble = finding.trouble(Path::new("f"));
        format!("{:?} {} | {}", finding.level, trouble.line(), trouble.hint.unwrap_or_default())
    };
    findings.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use host::trouble;
    use host::trouble::Explain;

    #[test]
    fn the_same_fault_is_known_wherever_it_is_found() {
        let error = |what: &str| -> anyhow::Error { trouble!("{what}"; "Create it.").into() };
        let by_setting = Err::<(), _>(error("/x does not exist")).at("/etc/default/patroni:1");
        let by_setting = by_setting.map_err(|error| Finding::of(Level::Warning, &error)).unwrap_err();
        let by_key = Finding::within(Level::Error, "restapi.certfile", &error("/x does not exist"));
        assert!(by_setting.is_same(&by_key));
        assert_eq!(
            (by_key.what.as_str(), by_key.hint.as_str(), by_key.place.clone()),
            ("restapi.certfile: /x does not exist", "Create it.", None)
        );
        assert!(!by_setting.is_same(&Finding::of(Level::Error, &error("/y does not exist"))));
        let about = |what: &str| Finding::error(what, "").about(Path::new("/x"));
        assert!(about("it has expired").is_same(&about("it is rejected")));
    }
}
