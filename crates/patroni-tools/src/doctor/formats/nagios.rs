//! One line with performance data, and an exit status: the interface of plugins for Nagios, Icinga, Naemon and others
//! (<https://nagios-plugins.org/doc/guidelines.html>).

use std::fmt::Write;
use std::time::Duration;

use host::report::plain;
use host::trouble::Trouble;

use crate::doctor::examined::Examined;
use crate::doctor::finding::{Finding, Level};

/// The state of a service, in the order of its severity: what could not be checked may be as bad as anything but an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    Ok,
    Warning,
    Unknown,
    Critical,
}

impl State {
    const ALL: [Self; 4] = [Self::Ok, Self::Warning, Self::Unknown, Self::Critical];

    /// The state of a whole line.
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let word = line.strip_suffix('\n')?.strip_prefix("PATRONI ")?.split(' ').next()?;
        Self::ALL.into_iter().find(|state| state.name() == word)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Unknown => "UNKNOWN",
            Self::Critical => "CRITICAL",
        }
    }

    /// The exit status of the plugin.
    pub(crate) fn status(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical => 2,
            Self::Unknown => 3,
        }
    }

    /// Only an error that was found is critical. Without a look at the running member nothing is known to be well.
    fn of(examined: &Examined) -> Self {
        // That nothing could be looked at, or not all in time, is an error of its own.
        let own = usize::from(examined.looked.is_blind());
        if examined.errors() > own {
            Self::Critical
        } else if own > 0 || examined.looked.member_missed().is_some() {
            Self::Unknown
        } else if examined.warnings() > 0 {
            Self::Warning
        } else {
            Self::Ok
        }
    }
}

/// The most findings in the line, and the most characters of each: the rest is for a person who looks.
const MOST: usize = 3;
const LONGEST: usize = 250;

/// The state of all clusters, and the line.
pub(crate) fn line(examined: &[Examined], took: Duration) -> (State, String) {
    let state = examined.iter().map(State::of).max().unwrap_or(State::Unknown);
    let text = if state == State::Ok { sound(examined) } else { faults(examined) };
    let count = |of: fn(&Examined) -> usize| examined.iter().map(of).sum::<usize>();
    let data = format!(
        "errors={};;0;0 warnings={};0;;0 clusters={};;;0 time={:.3}s;;;0",
        count(Examined::errors),
        count(Examined::warnings),
        examined.len(),
        took.as_secs_f64()
    );
    (state, format!("PATRONI {} - {text} | {data}\n", state.name()))
}

/// The line of a run that could not check anything.
pub(crate) fn failed(trouble: &Trouble) -> (State, String) {
    let hint = trouble.hint.as_ref().map(|hint| format!(" ({})", cut(hint))).unwrap_or_default();
    (State::Unknown, format!("PATRONI UNKNOWN - {}{hint}\n", cut(&trouble.line())))
}

fn sound(examined: &[Examined]) -> String {
    let one = |examined: &Examined| {
        format!("{}: no errors found ({})", cut(&examined.cluster), cut(&examined.looked.sentence()))
    };
    examined.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// The worst first. Of the clusters that are sound nothing is said.
fn faults(examined: &[Examined]) -> String {
    let mut found: Vec<(Option<Level>, String)> = Vec::new();
    let mut to_see: Vec<&str> = Vec::new();
    for examined in examined.iter().filter(|examined| State::of(examined) != State::Ok) {
        let cluster = examined.cluster.as_str();
        to_see.push(&examined.command);
        let of =
            |finding: &Finding| (Some(finding.level), format!("{cluster}: {}", finding.trouble(&examined.path).line()));
        found.extend(examined.findings.iter().map(of));
        let missed = examined.looked.member_missed();
        found.extend(missed.map(|why| (None, format!("{cluster}: the running member was not checked: {why}"))));
    }
    // What was not checked comes before warnings, and after errors.
    let rank = |level: Option<Level>| match level {
        Some(Level::Warning) => 2,
        None => 1,
        Some(_) => 0,
    };
    found.sort_by_key(|(level, _)| rank(*level));
    let more = found.len().saturating_sub(MOST);
    let mut text = found.iter().take(MOST).map(|(_, what)| cut(what)).collect::<Vec<_>>().join("; ");
    if more > 0 {
        let _ = write!(text, "; and {more} more");
    }
    let command = if let [command] = to_see.as_slice() { command } else { "patroni-gen-config check --all" };
    let _ = write!(text, " (see: {})", cut(command));
    text
}

/// One line of bounded length, in which nothing begins the performance data.
fn cut(text: &str) -> String {
    let text = plain(text).replace('|', "/");
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::cluster::Depth;
    use crate::doctor::examined::{Outcome, Progress};
    use crate::doctor::looked::{DCS, Looked, MEMBER};
    use std::path::Path;

    fn of(cluster: &str, findings: Vec<Finding>, looked: Looked) -> Examined {
        let outcome = Outcome { findings, looked };
        Examined::new(cluster.to_owned(), Path::new("/f.yml"), Depth::Full, outcome, Duration::from_secs(1))
    }

    fn said(examined: &[Examined]) -> (u8, String) {
        let (state, line) = line(examined, Duration::from_millis(1500));
        (state.status(), line.split(" | ").next().unwrap_or_default().to_owned())
    }

    #[test]
    fn the_worst_cluster_is_the_state() {
        let whole = || Looked::at(&["files", "host", MEMBER, DCS]);
        let without = || {
            let mut looked = Looked::at(&["files", "host"]);
            looked.add(MEMBER, Some("only root can ask it"));
            looked
        };
        let warning = || Finding::warning("the clock is wrong", "Set it.").at("");
        let error = || Finding::error("it is down", "Start it.").at("etcd3 at a|b");
        let sound = || of("17/main", Vec::new(), whole());
        assert_eq!(
            said(&[sound()]),
            (0, "PATRONI OK - 17/main: no errors found (files, host, running member and DCS)".to_owned())
        );
        assert_eq!(
            said(&[sound(), of("17/b", vec![warning()], whole())]),
            (1, "PATRONI WARNING - 17/b: the clock is wrong (see: patroni-gen-config check 17/b)".to_owned())
        );
        assert_eq!(
            said(&[of("17/main", vec![warning()], without())]),
            (
                3,
                "PATRONI UNKNOWN - 17/main: the running member was not checked: only root can ask it; 17/main: the clock is \
                 wrong (see: patroni-gen-config check 17/main)"
                    .to_owned()
            )
        );
        assert_eq!(
            said(&[of("17/b", vec![warning()], without()), of("17/main", vec![warning(), error()], whole())]),
            (
                2,
                "PATRONI CRITICAL - 17/main: etcd3 at a/b: it is down; 17/b: the running member was not checked: only root can \
                 ask it; 17/b: the clock is wrong; and 1 more (see: patroni-gen-config check --all)"
                    .to_owned()
            )
        );
        let late = |progress: &Progress| {
            Examined::late("17/main".to_owned(), Path::new("/f"), "late", progress, Duration::ZERO)
        };
        let progress = Progress::default();
        progress.add(&[error()]);
        assert_eq!(said(&[late(&progress)]).0, 2);
        assert_eq!(
            said(&[late(&Progress::default())]),
            (3, "PATRONI UNKNOWN - 17/main: late (see: patroni-gen-config check 17/main)".to_owned())
        );
        assert_eq!(said(&[]).0, 3);
    }

    #[test]
    fn the_line_is_one_and_its_data_are_as_the_guidelines_want_them() {
        let text = format!("a\nb | x=1 {}", "ä".repeat(1000));
        let examined = of("17/main", vec![Finding::error(text, "").at("")], Looked::at(&[MEMBER]));
        let (_, line) = line(&[examined], Duration::from_millis(1500));
        assert_eq!((line.matches('\n').count(), line.matches('|').count()), (1, 1));
        assert!(line.len() < 1000, "{line}");
        assert_eq!(State::of_line(&line), Some(State::Critical));
        assert_eq!((State::of_line(line.trim_end()), State::of_line("")), (None, None));
        assert!(line.ends_with(" | errors=1;;0;0 warnings=0;0;;0 clusters=1;;;0 time=1.500s;;;0\n"), "{line}");
    }
}
