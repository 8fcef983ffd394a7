//! What is wrong: for a person each problem is an error; the doctor has its own checks for some, and a level for the others.

use host::ClusterId;
use host::report::plain;
use host::trouble;
use host::trouble::Trouble;
use serde::{Serialize, Serializer};

use crate::run::Task;
use crate::state::{Locks, Service};

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// How the doctor reports it; not at all if it looks for this itself.
    pub(super) level: Option<Level>,
    pub(super) trouble: Trouble,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// Clients reach the primary, but something may prevent that later.
    Warning,
    /// Clients do not reach the primary.
    Error,
}

impl Problem {
    pub(super) fn error(trouble: Trouble) -> Self {
        Self { level: Some(Level::Error), trouble }
    }

    pub(super) fn warning(trouble: Trouble) -> Self {
        Self { level: Some(Level::Warning), trouble }
    }

    /// What the doctor finds itself.
    pub(super) fn of_the_doctor(trouble: Trouble) -> Self {
        Self { level: None, trouble }
    }

    pub(super) fn new(severe: bool, trouble: Trouble) -> Self {
        if severe { Self::error(trouble) } else { Self::warning(trouble) }
    }
}

/// A problem as the doctor reads it.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    level: Level,
    place: Option<String>,
    what: String,
    hint: Option<String>,
}

impl Finding {
    pub(super) fn new(level: Level, trouble: &Trouble) -> Self {
        let Trouble { place, what, hint, .. } = trouble;
        Self { level, place: place.as_deref().map(plain), what: plain(what), hint: hint.as_deref().map(plain) }
    }

    pub(super) fn of(problem: &Problem) -> Option<Self> {
        Some(Self::new(problem.level?, &problem.trouble))
    }
}

/// Each problem with its hint as one string.
pub(super) fn sentences<S: Serializer>(problems: &[Problem], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(problems.iter().map(|Problem { trouble, .. }| match &trouble.hint {
        Some(hint) => plain(&format!("{}. {hint}", trouble.line())),
        None => plain(&trouble.line()),
    }))
}

/// The service that renews the lease is not running.
pub(super) fn service(service: Service, id: &ClusterId) -> Option<Problem> {
    let unit = format!("dnscp@{}", id.dashed());
    let trouble = match service {
        Service::Running => return None,
        Service::NotRunning => trouble!("{unit} is not running"; "Start it with: systemctl start {unit}"),
        Service::Hidden => trouble!(
            "whether {unit} is running is visible only to root and postgres"; "Run this as one of them."
        ),
    };
    Some(Problem::of_the_doctor(trouble))
}

/// Another process that holds the lock for too long, or a lock that cannot be used.
pub(super) fn lock(locks: &Locks, service: Service) -> Option<Problem> {
    if service == Service::Hidden {
        return None;
    }
    let trouble = match locks.acquire(super::WAIT) {
        Ok(Some(_)) => return None,
        Ok(None) => trouble!(
            "{} has held the lock {} for longer than {:?}, so the service does nothing",
            locks.holder(), locks.path("lock").display(), super::WAIT;
            "If that process hangs, end it."
        ),
        Err(error) => Trouble::of(&error),
    };
    Some(Problem::error(trouble))
}

/// What Patroni's REST API does not answer, or answers suspiciously.
pub(super) fn patroni(task: &Task, state: &crate::rest::MemberState) -> Vec<Problem> {
    use crate::rest::{Api, MemberState};
    let mut problems = Vec::new();
    if let MemberState::NoAnswer(why) | MemberState::PortTaken(why) = state {
        problems.push(Problem::of_the_doctor(why.clone()));
    }
    problems.extend(task.rest().map(Api::doubts).unwrap_or_default().into_iter().map(Problem::warning));
    problems
}
