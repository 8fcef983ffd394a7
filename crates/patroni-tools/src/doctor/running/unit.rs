//! The unit of this member, as systemd describes it.

use host::{Root, program};

use crate::doctor::cluster::{Cluster, LIMIT};
use crate::doctor::finding::{Finding, Subject};

/// What a unit is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Activity {
    Running,
    /// It is being started or stopped.
    Changing,
    Stopped,
    /// It has failed: systemd's word for how.
    Failed(String),
    /// It ends by itself, and systemd starts it again.
    Repeating(String),
}

/// A unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) activity: Activity,
    /// `enabled`, `disabled`, `masked` …; empty if systemd does not know the unit.
    pub(crate) state: String,
    /// Its main process.
    pub(crate) main: Option<u32>,
}

/// Asks systemd; `None` if it cannot be asked, as in a container without it.
pub(crate) fn ask(root: &Root, name: &str) -> Option<Unit> {
    let mut command = program::command(root, "systemctl").ok()?;
    command.args(["show", "--property=ActiveState,SubState,Result,UnitFileState,MainPID", name]);
    let output = program::output_within(&mut command, "", LIMIT).ok().filter(|output| output.status.success())?;
    parse(&String::from_utf8_lossy(&output.stdout))
}

fn parse(shown: &str) -> Option<Unit> {
    let get = |key: &str| shown.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let result = || get("Result").unwrap_or_default().to_owned();
    let activity = match (get("ActiveState")?, get("SubState").unwrap_or_default()) {
        ("active" | "reloading" | "refreshing", _) => Activity::Running,
        ("activating", "auto-restart" | "auto-restart-queued") => Activity::Repeating(result()),
        ("activating" | "deactivating", _) => Activity::Changing,
        ("failed", _) => Activity::Failed(result()),
        _ => Activity::Stopped,
    };
    let main = get("MainPID").and_then(|pid| pid.parse().ok()).filter(|pid| *pid != 0);
    Some(Unit { activity, state: get("UnitFileState").unwrap_or_default().to_owned(), main })
}

/// What else is known of this member.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Member {
    /// Its data are here, or the DCS lists it.
    pub(crate) exists: bool,
    /// PostgreSQL is running.
    pub(crate) serves: bool,
}

/// A unit that does not run although the member exists, and one that does not start at boot.
pub(crate) fn check(cluster: &Cluster, unit: &Unit, member: Member) -> Vec<Finding> {
    let name = format!("patroni@{}", cluster.id.dashed());
    let without = if member.serves { "and PostgreSQL is running without it" } else { "so this member is not running" };
    let masked = unit.state.starts_with("masked");
    let mut findings = Vec::new();
    match &unit.activity {
        Activity::Stopped if member.exists && masked => findings.push(Finding::error(
            format!("{name} is masked, {without}"),
            format!("Start it with: systemctl unmask {name} && systemctl enable --now {name}"),
        )),
        Activity::Stopped if member.exists => findings.push(Finding::error(
            format!("{name} is stopped, {without}"),
            format!("Start it with: systemctl start {name}"),
        )),
        // systemd refuses further starts for a while.
        Activity::Failed(how) => {
            let reset =
                if how == "start-limit-hit" { format!("systemctl reset-failed {name} && ") } else { String::new() };
            findings.push(Finding::error(
                format!("{name} has failed ({how}), {without}"),
                format!("Find the cause with 'journalctl -u {name}', then run: {reset}systemctl start {name}"),
            ));
        }
        Activity::Repeating(how) => findings.push(Finding::error(
            format!("{name} ends by itself ({how}) and is started again"),
            format!("See: journalctl -u {name}"),
        )),
        _ => {}
    }
    let runs = matches!(unit.activity, Activity::Running | Activity::Changing);
    if unit.state == "disabled" && (runs || member.exists) {
        let what = format!("{name} is not enabled, so this member does not start at boot");
        let hint = format!("Enable it with: systemctl enable {name}");
        findings.push(Finding { subject: Some(Subject::Enabled), ..Finding::warning(what, hint) });
    } else if masked && runs {
        let what = format!("{name} is masked, so this member does not start at boot");
        let hint = format!("Enable it with: systemctl unmask {name} && systemctl enable {name}");
        findings.push(Finding { subject: Some(Subject::Enabled), ..Finding::warning(what, hint) });
    }
    findings.into_iter().map(|finding| finding.at("")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::doctor::finding::lines;
    use host::{ClusterId, Root};

    #[test]
    fn systemd_is_understood() {
        let of = |active: &str, sub: &str| {
            let shown =
                format!("Result=exit-code\nMainPID=12\nActiveState={active}\nSubState={sub}\nUnitFileState=enabled\n");
            parse(&shown).unwrap().activity
        };
        assert_eq!(of("active", "running"), Activity::Running);
        assert_eq!(of("activating", "start-pre"), Activity::Changing);
        assert_eq!(of("activating", "auto-restart"), Activity::Repeating("exit-code".to_owned()));
        assert_eq!(of("failed", "failed"), Activity::Failed("exit-code".to_owned()));
        assert_eq!(of("inactive", "dead"), Activity::Stopped);
        let unit = parse("MainPID=0\nActiveState=inactive\nUnitFileState=\n").unwrap();
        assert_eq!((unit.main, unit.state.as_str()), (None, ""));
        assert!(parse("").is_none());
    }

    #[test]
    fn a_unit_that_does_not_run_is_an_error_only_if_the_member_exists() {
        let (root, id): (Root, ClusterId) = (Root::new("/nowhere"), "17/main".parse().unwrap());
        let cluster = Cluster::with(&root, &id, "scope: 17-main");
        let of = |activity: Activity, state: &str, exists: bool, serves: bool| {
            let unit = Unit { activity, state: state.to_owned(), main: None };
            lines(&check(&cluster, &unit, Member { exists, serves })).join("\n")
        };
        let failed = || Activity::Failed("exit-code".to_owned());
        let disabled = "Warning patroni@17-main is not enabled, so this member does not start at boot | Enable it with: systemctl \
                        enable patroni@17-main";
        for (found, expected) in [
            (of(Activity::Stopped, "disabled", false, false), ""),
            (of(Activity::Running, "enabled", true, true), ""),
            (of(Activity::Changing, "enabled", true, false), ""),
            (of(Activity::Running, "disabled", true, true), disabled),
            (
                of(Activity::Stopped, "enabled", true, false),
                "Error patroni@17-main is stopped, so this member is not running | Start it with: systemctl start patroni@17-main",
            ),
            (
                of(Activity::Stopped, "enabled", true, true),
                "Error patroni@17-main is stopped, and PostgreSQL is running without it | Start it with: systemctl start patroni@17-main",
            ),
            (
                of(Activity::Stopped, "masked", true, false),
                "Error patroni@17-main is masked, so this member is not running | Start it with: systemctl unmask patroni@17-main && \
                 systemctl enable --now patroni@17-main",
            ),
            // A bootstrap that failed leaves no data.
            (
                of(failed(), "enabled", false, false),
                "Error patroni@17-main has failed (exit-code), so this member is not running | Find the cause with 'journalctl -u \
                 patroni@17-main', then run: systemctl start patroni@17-main",
            ),
            (
                of(Activity::Failed("start-limit-hit".to_owned()), "enabled", true, false),
                "Error patroni@17-main has failed (start-limit-hit), so this member is not running | Find the cause with 'journalctl -u \
                 patroni@17-main', then run: systemctl reset-failed patroni@17-main && systemctl start patroni@17-main",
            ),
            (
                of(Activity::Repeating("core-dump".to_owned()), "enabled", true, false),
                "Error patroni@17-main ends by itself (core-dump) and is started again | See: journalctl -u patroni@17-main",
            ),
        ] {
            assert_eq!(found, expected);
        }
        assert!(of(Activity::Stopped, "disabled", true, false).ends_with(disabled));
    }
}
