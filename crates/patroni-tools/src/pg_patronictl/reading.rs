//! Commands of patronictl that only read: they get a deadline, because patronictl itself tries for ever to reach some unreachable DCSs.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use host::{ClusterId, fail};
use nix::sys::signal::{SigSet, Signal, killpg, raise};
use nix::unistd::Pid;

/// How long they may take. `query` is not one of them: a statement can take as long as it likes.
const LIMIT: Duration = Duration::from_secs(14);

/// How long patronictl may take to end after SIGTERM.
const GRACE: Duration = Duration::from_millis(500);

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Commands that end by themselves after one look at the DCS and the members (`patroni/ctl.py`).
const READING: [&str; 6] = ["dsn", "history", "list", "show-config", "topology", "version"];

/// Is it such a command, and not one that repeats until it is interrupted (`-w`, `-W`, `--watch`)?
pub(crate) fn ends_by_itself(command: &str, arguments: &[OsString]) -> bool {
    let repeats = |word: &OsString| {
        let word = word.to_string_lossy();
        let is_short = word.starts_with('-') && !word.starts_with("--");
        word.starts_with("--watch") || (is_short && word.contains(['w', 'W']))
    };
    READING.contains(&command) && !arguments.iter().any(repeats)
}

/// Runs patronictl with the terminal, stdout and stderr of this process, and returns its exit status. It has a process group of its own,
/// which gets the signals that this process gets, and is killed after the deadline.
pub(crate) fn run(id: &ClusterId, name: &str, mut command: Command) -> Result<ExitCode> {
    let mut child = command.process_group(0).spawn().context("could not run patronictl")?;
    let group = Pid::from_raw(i32::try_from(child.id()).context("process id")?);
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT]);
    signals.thread_block().context("could not block signals")?;
    thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            let _ = killpg(group, signal);
        }
    });
    if let Some(status) = wait(&mut child, LIMIT)? {
        return Ok(same(status, signals));
    }
    end(&mut child, group)?;
    fail!(
        at id, "patronictl {name} was still running after {} s and was terminated", LIMIT.as_secs();
        "See the cause with: patroni-gen-config check {id}"
    )
}

/// The status of a child that ends within a time.
fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("could not wait for patronictl")? {
            return Ok(Some(status));
        }
        if begin.elapsed() > limit {
            return Ok(None);
        }
        sleep(LOOK_EVERY);
    }
}

/// Ends the whole group: patronictl may have started programs. A stopped process only gets SIGTERM when it continues.
fn end(child: &mut Child, group: Pid) -> Result<()> {
    let _ = killpg(group, Signal::SIGTERM);
    let _ = killpg(group, Signal::SIGCONT);
    let ended = wait(child, GRACE)?;
    let _ = killpg(group, Signal::SIGKILL);
    if ended.is_none() {
        child.wait().context("could not wait for patronictl")?;
    }
    Ok(())
}

/// Ends as the program has ended: by the same signal, or with the same status.
fn same(status: ExitStatus, blocked: SigSet) -> ExitCode {
    if let Some(signal) = status.signal() {
        let _ = blocked.thread_unblock();
        if let Ok(signal) = Signal::try_from(signal) {
            let _ = raise(signal);
        }
        return ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX));
    }
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_ends_by_itself_has_a_deadline() {
        for (line, ends) in [
            ("list", true),
            ("list -e --format json", true),
            ("show-config", true),
            ("list -w 5", false),
            ("list -eW", false),
            ("topology --watch=2", false),
            ("query -c select", false),
            ("switchover --force", false),
            ("edit-config", false),
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(ends_by_itself(words[0].to_str().unwrap(), &words[1..]), ends, "{line}");
        }
    }

    #[test]
    fn a_program_that_hangs_is_ended_with_what_it_has_started() {
        let folder = tempfile::tempdir().unwrap();
        let pids = folder.path().join("pids");
        let script = format!("trap '' TERM; sleep 60 & echo $! > {}; wait; sleep 60", pids.display());
        let mut command = Command::new("sh");
        let mut child = command.args(["-c", &script]).process_group(0).spawn().unwrap();
        let group = Pid::from_raw(child.id().try_into().unwrap());
        assert!(wait(&mut child, Duration::from_millis(300)).unwrap().is_none());
        end(&mut child, group).unwrap();
        let started = std::fs::read_to_string(pids).unwrap();
        let begin = Instant::now();
        let runs = || std::fs::read_to_string(format!("/proc/{}/stat", started.trim()));
        while runs().is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(begin.elapsed() < Duration::from_secs(5), "{started} still runs");
            sleep(LOOK_EVERY);
        }
    }
}
