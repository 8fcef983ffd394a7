//! Runs `pg_basebackup` into the data directory, and reports how far it is.

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use std::process::{ChildStderr, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use host::trouble::Explain;
use host::{ClusterId, fail, program};

use crate::context::Context;
use crate::hooks::arguments::Arguments;
use crate::hooks::marker::{self, Claim, Marker};
use crate::postgres::child;
use crate::postgres::data_dir::private_directory;
use crate::postgres::programs::server_program;

/// Patroni's own options, the keys of a method that are meant for Patroni, and what the hook itself reads.
const PATRONIS: [&str; 14] = [
    "scope",
    "cluster",
    "datadir",
    "connstring",
    "role",
    "port",
    "waldir",
    "checkpoint",
    "no-params",
    "keep-data",
    "no-leader",
    "no-master",
    "command",
    "progress",
];

/// The options that are passed on.
const BASEBACKUP: [&str; 5] =
    ["max-rate", "compress", "tablespace-mapping", "manifest-checksums", "no-verify-checksums"];

/// The disk of a new replica can be so busy with the data that the process that receives WAL does not report for a while. In synchronous
/// mode the cluster's own timeout is too short for that.
const SENDER_TIMEOUT: &str = "-c wal_sender_timeout=5min";

/// Since PostgreSQL 12 a connection can have a timeout of its own (its release notes).
const SENDER_TIMEOUT_SINCE: (u32, u32) = (12, 0);

/// How often a line of progress is logged.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// The command line of `pg_basebackup`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) words: Vec<OsString>,
    /// Options of the hook that have no effect.
    pub(super) unknown: Vec<String>,
}

pub(super) fn plan(data: &Path, waldir: Option<&Path>, source: &str, arguments: &Arguments) -> Result<Plan> {
    let checkpoint = arguments.value("checkpoint").unwrap_or("fast");
    if !matches!(checkpoint, "fast" | "spread") {
        fail!("--checkpoint is '{checkpoint}'"; "Use fast or spread.");
    }
    let joined = |name: &str, value: &Path| {
        let mut word = OsString::from(format!("--{name}="));
        word.push(value);
        word
    };
    let mut words: Vec<OsString> = vec![
        joined("pgdata", data),
        "--wal-method=stream".into(),
        format!("--checkpoint={checkpoint}").into(),
        "--no-password".into(),
        "--progress".into(),
        // How many seconds pass until the process that receives WAL notices that the one that receives the data has ended.
        "--status-interval=1".into(),
    ];
    words.extend(waldir.map(|waldir| joined("waldir", waldir)));
    let mut unknown = Vec::new();
    for (name, value) in arguments.options() {
        if BASEBACKUP.contains(&name) {
            words.push(value.map_or_else(|| format!("--{name}"), |value| format!("--{name}={value}")).into());
        } else if !PATRONIS.contains(&name) {
            unknown.push(name.to_owned());
        }
    }
    words.push(format!("--dbname={source}").into());
    Ok(Plan { words, unknown })
}

/// How a base backup has ended.
pub(super) struct Backup {
    pub(super) success: bool,
    pub(super) progress: Option<Progress>,
    /// What `pg_basebackup` printed, without progress.
    pub(super) said: Vec<String>,
    pub(super) took: Duration,
}

/// How much of a base backup has been copied, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) done: u64,
    pub(super) total: u64,
}

/// Creates the directories and copies into them. A group may read the data if the primary allows that.
pub(super) fn copy(
    context: &Context,
    id: &ClusterId,
    marker: &Marker,
    claim: &Claim,
    plan: &Plan,
    group_access: bool,
) -> Result<Backup> {
    const PRIVATE: u32 = 0o700;
    const GROUP: u32 = 0o750;
    private_directory(&context.root, &claim.data_directory, if group_access { GROUP } else { PRIVATE })?;
    if let Some(parent) = claim.waldir.as_ref().and_then(|waldir| waldir.parent()) {
        std::fs::create_dir_all(context.root.path(parent))
            .with_context(|| format!("could not create the directory {}", parent.display()))
            .or_hint(|| format!("Create it with: install -d -o postgres -g postgres {}", parent.display()))?;
    }
    let mut call = child::command(&context.root, &server_program(&context.root, id, "pg_basebackup"))?;
    if id.version.number() >= SENDER_TIMEOUT_SINCE && std::env::var_os("PGOPTIONS").is_none() {
        call.env("PGOPTIONS", SENDER_TIMEOUT);
    }
    run(context, id, marker, call.args(&plan.words))
}

fn run(context: &Context, id: &ClusterId, marker: &Marker, call: &mut Command) -> Result<Backup> {
    let started = Instant::now();
    let mut child = call
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not run {}", program::command_line(call)))?;
    let stderr = child.stderr.take().context("pg_basebackup has no stderr")?;
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || read_lines(stderr, &sender));
    let (mut progress, mut said) = (None, Vec::new());
    let mut reported = (Instant::now(), 0);
    loop {
        let wait = REPORT_EVERY.min(marker::HEARTBEAT).saturating_sub(reported.0.elapsed());
        match lines.recv_timeout(wait) {
            Ok(line) => match read_progress(&line) {
                Some(seen) => progress = Some(seen),
                None if is_routine(&line) => {}
                None => said.push(line),
            },
            Err(RecvTimeoutError::Timeout) => {
                marker.heartbeat();
                let done = progress.map_or(0, |progress: Progress| progress.done);
                context.reporter.info(report(id, progress, done.saturating_sub(reported.1), reported.0.elapsed()));
                reported = (Instant::now(), done);
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = child.wait().context("could not wait for pg_basebackup")?;
    if !status.success() && said.is_empty() {
        said.push(format!("pg_basebackup exited without a message ({status})"));
    }
    Ok(Backup { success: status.success(), progress, said, took: started.elapsed() })
}

/// `pg_basebackup` ends a line of progress with a carriage return on a terminal and with a line feed otherwise.
fn read_lines(mut stderr: ChildStderr, sender: &mpsc::Sender<String>) {
    let mut buffer = [0; 4096];
    let mut line = Vec::new();
    loop {
        let count = match stderr.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        for byte in &buffer[..count] {
            if matches!(byte, b'\r' | b'\n') {
                let text = String::from_utf8_lossy(&line).trim().to_owned();
                line.clear();
                if !text.is_empty() && sender.send(text).is_err() {
                    return;
                }
            } else {
                line.push(*byte);
            }
        }
    }
    let rest = String::from_utf8_lossy(&line).trim().to_owned();
    if !rest.is_empty() {
        let _ = sender.send(rest);
    }
}

/// A line of progress: `123/456 kB (27%), 0/1 tablespace`.
fn read_progress(line: &str) -> Option<Progress> {
    let (done, rest) = line.split_once('/')?;
    let (total, rest) = rest.split_once(" kB (")?;
    rest.contains("tablespace").then_some(())?;
    let bytes = |text: &str| text.trim().parse::<u64>().ok()?.checked_mul(1024);
    Some(Progress { done: bytes(done)?, total: bytes(total)? })
}

/// Messages of `pg_basebackup` that need no attention.
fn is_routine(line: &str) -> bool {
    line == "waiting for checkpoint"
        || line.contains("removing contents of")
        || line.contains("removing data directory")
}

fn report(id: &ClusterId, progress: Option<Progress>, since: u64, elapsed: Duration) -> String {
    match progress {
        Some(progress) => {
            let percent = progress.done.saturating_mul(100).checked_div(progress.total).unwrap_or(0).min(100);
            format!(
                "copying {id}: {percent} %, {} of {}, {}/s",
                size(progress.done),
                size(progress.total),
                size(per_second(since, elapsed.as_secs_f64()))
            )
        }
        None => format!("copying {id}: waiting for the primary's checkpoint"),
    }
}

/// What was copied, and how fast.
pub(super) fn summary(id: &ClusterId, data: &Path, backup: &Backup) -> String {
    let copied = format!("copied {id} to {}", data.display());
    let seconds = backup.took.as_secs_f64();
    match backup.progress {
        Some(Progress { done, .. }) => {
            format!("{copied}: {} in {seconds:.1} s ({}/s)", size(done), size(per_second(done, seconds)))
        }
        None => copied,
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
fn per_second(bytes: u64, seconds: f64) -> u64 {
    (bytes as f64 / seconds.max(0.001)) as u64
}

/// A number of bytes as `1.4 GB`, in PostgreSQL's units of 1024.
#[allow(clippy::cast_precision_loss)]
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64 / 1024.0;
    for unit in ["kB", "MB", "GB"] {
        if value < 1000.0 {
            return format!("{value:.*} {unit}", usize::from(value < 10.0));
        }
        value /= 1024.0;
    }
    format!("{value:.1} TB")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::hooks::arguments::tests_arguments;

    fn id() -> ClusterId {
        "17/main".parse().unwrap()
    }

    #[test]
    fn the_connection_string_is_one_argument() {
        let arguments = tests_arguments(&["--max-rate=10M", "--keep_data=False", "--role=replica", "--x=1"]);
        let source = r"user=a\ b host=h";
        let plan = plan(Path::new("/srv/a b"), Some(Path::new("/wal")), source, &arguments).unwrap();
        assert_eq!(
            plan.words,
            [
                "--pgdata=/srv/a b",
                "--wal-method=stream",
                "--checkpoint=fast",
                "--no-password",
                "--progress",
                "--status-interval=1",
                "--waldir=/wal",
                "--max-rate=10M",
                r"--dbname=user=a\ b host=h"
            ]
        );
        assert_eq!(plan.unknown, ["x"]);
        let arguments = tests_arguments(&["--checkpoint=slow"]);
        assert!(super::plan(Path::new("/srv/a"), None, source, &arguments).is_err());
    }

    #[test]
    fn reads_progress() {
        let kb = |done: u64, total: u64| Some(Progress { done: done * 1024, total: total * 1024 });
        assert_eq!(read_progress("   123/45678 kB (0%), 0/1 tablespace"), kb(123, 45678));
        assert_eq!(read_progress("45678/45678 kB (100%), 2/2 tablespaces (...base/1)"), kb(45678, 45678));
        for line in ["", "a/b", "waiting for checkpoint", "pg_basebackup: error: a/b kB (x", "1/2 kB (1%)"] {
            assert_eq!(read_progress(line), None, "{line}");
        }
        let line = report(&id(), kb(512 * 1024, 2048 * 1024), 100 << 20, Duration::from_secs(10));
        assert_eq!(line, "copying 17/main: 25 %, 512 MB of 2.0 GB, 10 MB/s");
        assert!(report(&id(), None, 0, Duration::ZERO).contains("checkpoint"));
        assert!(report(&id(), kb(1, 0), 0, Duration::ZERO).contains(" 0 %"));
    }

    #[test]
    fn sizes_are_readable() {
        for (bytes, text) in [(0, "0.0 kB"), (1 << 20, "1.0 MB"), (1500 << 20, "1.5 GB"), (5 << 40, "5.0 TB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
