//! `pg_clonecluster_patroni`: a replica from a base backup, with its own `/etc/postgresql/VERSION/NAME`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use host::createcluster::CreateCluster;
use host::{ClusterId, program};
use nix::sys::statvfs::statvfs;

use crate::context::Context;
use crate::hooks::arguments::{self, Arguments};
use crate::hooks::hook::{self, Hook};
use crate::hooks::marker::{self, Claim, Kind, Unfinished, clear, remove_remains};
use crate::patroni::paths::patroni_file;
use crate::postgres::child;
use crate::postgres::conf_dir::{self, Draft, Settings};
use crate::postgres::data_dir::private_directory;

const HOOK: Hook = Hook {
    name: "pg_clonecluster_patroni",
    usage: "\
Usage: pg_clonecluster_patroni --scope=SCOPE --datadir=DIRECTORY --connstring=CONNSTRING [OPTION...]

Makes a replica with pg_basebackup. Patroni runs it (postgresql.create_replica_methods).

  --scope=VERSION-NAME    the instance, for example 17-main
  --cluster=VERSION/NAME  the instance, where the scope does not name it
  --datadir=DIRECTORY     the data directory
  --connstring=STRING     how to reach the member that is copied; without a password, which comes from PGPASSFILE
  --port=PORT             the port (default: the one in /etc/patroni/VERSION-NAME.yml)
  --checkpoint=fast|spread
                          default: fast
  --max-rate=RATE, --compress=METHOD, --waldir=DIRECTORY, --tablespace-mapping=OLD=NEW,
  --manifest-checksums=ALGORITHM, --no-verify-checksums
                          for pg_basebackup
  --help, --version

See pg_clonecluster_patroni(8).
",
    words: false,
    tied: true,
    work,
};

/// Patroni's own words, the keys of a method that are meant for Patroni, and what is read elsewhere in this module.
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

/// `pg_basebackup`'s.
const BASEBACKUP: [&str; 5] =
    ["max-rate", "compress", "tablespace-mapping", "manifest-checksums", "no-verify-checksums"];

/// A line of progress in the journal this often.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Runs the program `pg_clonecluster_patroni`.
#[must_use]
pub fn main() -> ExitCode {
    hook::main(&HOOK)
}

fn work(context: &Context, arguments: &Arguments) -> Result<()> {
    let id = arguments.cluster()?;
    let data = arguments.data_directory()?;
    let source = arguments.value("connstring").map(str::trim).unwrap_or_default();
    if source.is_empty() {
        bail!(
            "--connstring is empty: there is no leader to copy from; take 'no_leader' away from this method in the \
             Patroni file, and look at 'patronictl list'"
        );
    }
    let waldir = match arguments.value("waldir") {
        Some(pattern) => Some(arguments::directory("--waldir", &id.fill(pattern))?),
        None => CreateCluster::read(&context.root)?.waldir(&id)?,
    };
    let plan = plan(&data, waldir.as_deref(), source, arguments)?;
    for option in &plan.unknown {
        context.reporter.warn(format!("--{option} is not known here: it has no effect"));
    }
    let mut unfinished = Unfinished::take(&context.root, &id)?;

    conf_dir::settle(context, &id, &data)?;
    conf_dir::check_owner(context, &id, &data)?;
    clear(context, &id, &unfinished, &data, waldir.as_deref())?;
    let primary = ask(context, &id, source)?;
    check_version(&id, &primary)?;

    let claim = Claim { kind: Kind::Clone, data_directory: data.clone(), waldir, pid: std::process::id() };
    unfinished.begin(&claim)?;
    let make = || -> Result<()> {
        // What is there for this data directory stays as it is.
        let draft = if conf_dir::exists(&context.root, &id) {
            None
        } else {
            Some(conf_dir::begin(context, &id, hook::port(context, &id, arguments)?)?)
        };
        copy(context, &id, &unfinished, &claim, &plan, &primary)?;
        configure(context, &id, &data, draft, &primary)
    };
    match make() {
        Ok(()) => unfinished.end(),
        Err(error) => {
            remove_remains(&context.root, &id, &claim).and_then(|()| unfinished.end()).unwrap_or_else(|error| {
                context.reporter.warn(format!("{error:#}; the next attempt removes it"));
            });
            Err(error)
        }
    }
}

/// What `pg_basebackup` is given.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    words: Vec<OsString>,
    unknown: Vec<String>,
}

fn plan(data: &Path, waldir: Option<&Path>, source: &str, arguments: &Arguments) -> Result<Plan> {
    let checkpoint = arguments.value("checkpoint").unwrap_or("fast");
    if !matches!(checkpoint, "fast" | "spread") {
        bail!("--checkpoint is '{checkpoint}': write fast or spread");
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
        // So often the process that receives WAL looks whether the one that receives the data is still there.
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

fn server_program(context: &Context, id: &ClusterId, name: &str) -> PathBuf {
    context.root.path(format!("/usr/lib/postgresql/{}/bin/{name}", id.version))
}

/// Settings that initdb would have written and that clients see, and what else must be known of the primary.
const ASKED: [&str; 10] = [
    "server_version_num",
    "data_directory_mode",
    "TimeZone",
    "log_timezone",
    "DateStyle",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "default_text_search_config",
];

/// Asks the member that is to be copied, over the same kind of connection as the base backup, so that what would stop it
/// is known before anything is touched.
fn ask(context: &Context, id: &ClusterId, source: &str) -> Result<BTreeMap<String, String>> {
    const NO_CONNECTION: i32 = 2;
    let psql = server_program(context, id, "psql");
    if source.contains("://") || !psql.is_file() {
        return Ok(BTreeMap::new());
    }
    let mut call = child::command(&context.root, &psql)?;
    call.env_remove("PGTZ").env_remove("PGDATESTYLE").env_remove("PGOPTIONS").env("PGAPPNAME", HOOK.name);
    call.args(["--no-psqlrc", "--no-password", "--no-align", "--pset=footer=off", "--pset=pager=off"]);
    for name in ASKED {
        call.arg(format!("--command=SHOW {name}"));
    }
    let output = program::output(call.arg(format!("--dbname={source} replication=true")))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(NO_CONNECTION) {
        let lines: Vec<&str> = said.lines().collect();
        bail!("{}", reason(&lines, source, None, id));
    }
    let answers = answers(&String::from_utf8_lossy(&output.stdout));
    if answers.len() < ASKED.len() {
        context.reporter.warn(format!("the primary did not tell all of its settings: {}", said.trim()));
    }
    Ok(answers)
}

/// Every answer is a heading, the name of the setting, and its value.
fn answers(text: &str) -> BTreeMap<String, String> {
    let mut answers = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = ASKED.into_iter().find(|name| name.eq_ignore_ascii_case(line)) {
            answers.insert(name.to_ascii_lowercase(), lines.next().unwrap_or_default().to_owned());
        }
    }
    answers
}

fn check_version(id: &ClusterId, primary: &BTreeMap<String, String>) -> Result<()> {
    let Some(number) = primary.get("server_version_num").and_then(|number| number.parse::<u32>().ok()) else {
        return Ok(());
    };
    let version = if number >= 100_000 {
        (number / 10_000).to_string()
    } else {
        format!("{}.{}", number / 10_000, number / 100 % 100)
    };
    if version != id.version.as_str() {
        bail!(
            "the primary is PostgreSQL {version}, and this instance is {}: all members must have the same major version",
            id.version
        );
    }
    Ok(())
}

/// Runs `pg_basebackup` and takes out what is only for the primary.
fn copy(
    context: &Context,
    id: &ClusterId,
    unfinished: &Unfinished,
    claim: &Claim,
    plan: &Plan,
    primary: &BTreeMap<String, String>,
) -> Result<()> {
    const PRIVATE: u32 = 0o700;
    const GROUP: u32 = 0o750;
    let data = &claim.data_directory;
    let group = primary.get("data_directory_mode").is_some_and(|mode| mode == "0750");
    private_directory(&context.root, data, if group { GROUP } else { PRIVATE })?;
    if let Some(parent) = claim.waldir.as_ref().and_then(|waldir| waldir.parent()) {
        let real = context.root.path(parent);
        std::fs::create_dir_all(&real).with_context(|| format!("cannot make the directory {}", parent.display()))?;
    }
    let mut call = child::command(&context.root, &server_program(context, id, "pg_basebackup"))?;
    call.args(&plan.words);
    let started = Instant::now();
    let backup = run_backup(context, id, unfinished, &mut call)?;
    if !backup.success {
        let source = plan.words.last().map(|word| word.to_string_lossy()).unwrap_or_default();
        let source = source.strip_prefix("--dbname=").unwrap_or_default();
        let lines: Vec<&str> = backup.said.iter().map(String::as_str).collect();
        let space = Space { free: free_space(&context.root.path(data)), needed: backup.progress.map(|p| p.total) };
        bail!("{}", reason(&lines, source, Some(&space), id));
    }
    let version = std::fs::read_to_string(context.root.path(data).join("PG_VERSION")).unwrap_or_default();
    if version.trim() != id.version.as_str() {
        bail!("the base backup is of PostgreSQL {}, and this instance is {}", version.trim(), id.version);
    }
    for name in conf_dir::COPIES {
        match std::fs::remove_file(context.root.path(data).join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove the primary's {name} from the base backup"));
            }
            _ => {}
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let copied = backup.progress.map_or_else(String::new, |progress| {
        format!("{} in {seconds:.1} s ({}/s)", size(progress.done), size(per_second(progress.done, seconds)))
    });
    context.reporter.info(format!("copied {id} to {}: {copied}", data.display()));
    Ok(())
}

/// Gives the replica its `/etc/postgresql`.
fn configure(
    context: &Context,
    id: &ClusterId,
    data: &Path,
    draft: Option<Draft>,
    primary: &BTreeMap<String, String>,
) -> Result<()> {
    let Some(draft) = draft else {
        let added = conf_dir::complete(&context.root, id)?;
        if !added.is_empty() {
            context.reporter.info(format!("added {} with PostgreSQL's defaults", added.join(" and ")));
        }
        return Ok(());
    };
    let mut settings = conf_dir::from_data(context, id, data)?;
    settings.extend(as_initdb(primary));
    draft.finish(context, data, &settings)
}

fn as_initdb(primary: &BTreeMap<String, String>) -> Settings {
    let mut settings = Settings::new();
    for key in [
        "timezone",
        "log_timezone",
        "datestyle",
        "lc_messages",
        "lc_monetary",
        "lc_numeric",
        "lc_time",
        "default_text_search_config",
    ] {
        if let Some(value) = primary.get(key).filter(|value| !value.is_empty()) {
            let value = if key == "datestyle" { value.to_lowercase() } else { value.clone() };
            settings.insert(key, value);
        }
    }
    settings
}

/// How far a base backup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    done: u64,
    total: u64,
}

struct Backup {
    success: bool,
    progress: Option<Progress>,
    said: Vec<String>,
}

fn run_backup(context: &Context, id: &ClusterId, unfinished: &Unfinished, call: &mut Command) -> Result<Backup> {
    let mut child = call
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", program::shown(call)))?;
    let stderr = child.stderr.take().context("no pipe")?;
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || read_lines(stderr, &sender));
    let (mut progress, mut said) = (None, Vec::new());
    let mut reported = (Instant::now(), 0);
    loop {
        let wait = REPORT_EVERY.min(marker::HEARTBEAT).saturating_sub(reported.0.elapsed());
        match lines.recv_timeout(wait) {
            Ok(line) => match read_progress(&line) {
                Some(seen) => progress = Some(seen),
                None if is_talk(&line) => {}
                None => said.push(line),
            },
            Err(RecvTimeoutError::Timeout) => {
                unfinished.heartbeat();
                let done = progress.map_or(0, |progress: Progress| progress.done);
                context.reporter.info(report(id, progress, done.saturating_sub(reported.1), reported.0.elapsed()));
                reported = (Instant::now(), done);
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = child.wait().context("cannot wait for pg_basebackup")?;
    if !status.success() && said.is_empty() {
        said.push(format!("pg_basebackup ended without a word ({status})"));
    }
    if status.success() {
        for line in &said {
            context.reporter.warn(line.as_str());
        }
    }
    Ok(Backup { success: status.success(), progress, said })
}

/// `pg_basebackup` ends a line of progress by a carriage return on a terminal and by a line feed elsewhere.
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

/// What `pg_basebackup` says on the way without need.
fn is_talk(line: &str) -> bool {
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

#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
fn per_second(bytes: u64, seconds: f64) -> u64 {
    (bytes as f64 / seconds.max(0.001)) as u64
}

/// `1.4 GB`, with PostgreSQL's units of 1024.
#[allow(clippy::cast_precision_loss)]
fn size(bytes: u64) -> String {
    let mut value = bytes as f64 / 1024.0;
    for unit in ["kB", "MB", "GB"] {
        if value < 1000.0 {
            return format!("{value:.*} {unit}", usize::from(value < 10.0));
        }
        value /= 1024.0;
    }
    format!("{value:.1} TB")
}

// The width of these fields is that of the architecture.
#[allow(clippy::useless_conversion)]
fn free_space(real: &Path) -> Option<u64> {
    let space = statvfs(real).ok()?;
    u64::from(space.blocks_available()).checked_mul(u64::from(space.fragment_size()))
}

/// Room in the file system of the data directory after the remains are gone, and what the backup needs.
struct Space {
    free: Option<u64>,
    needed: Option<u64>,
}

/// Why there is no base backup, and what to do: by the messages of libpq, the server and `pg_basebackup` in English.
fn reason(said: &[&str], source: &str, space: Option<&Space>, id: &ClusterId) -> String {
    let all = said.join("\n");
    let has = |parts: &[&str]| parts.iter().any(|part| all.contains(part));
    let value = |key: &str| {
        source.split_whitespace().rev().find_map(|word| word.strip_prefix(key)?.strip_prefix('=')).unwrap_or("?")
    };
    let (host, port, user) = (value("host"), value("port"), value("user"));
    let settings = format!("patroni-gen-config --apply {id}");
    let because = if has(&["No space left on device", "Disk quota exceeded"]) {
        let figure = |bytes: Option<u64>| bytes.map_or_else(|| "an unknown amount".to_owned(), size);
        let (free, needed) = space.map_or((None, None), |space| (space.free, space.needed));
        format!(
            "the disk is full: {} are free without the incomplete copy, and the primary has {}, WAL not counted; \
             make room, Patroni tries again",
            figure(free),
            figure(needed)
        )
    } else if has(&["password authentication failed", "no password supplied", "authentication failed"]) {
        format!(
            "{host} does not accept the password of {user}: members derive it from the same /etc/patroni/site.key; \
             copy that file from the primary and run 'patroni-gen-config {id}' again (for a standby cluster with PASSWORD_SCOPE \
             set to its source)"
        )
    } else if has(&["no pg_hba.conf entry"]) {
        format!(
            "{host} does not let {user} replicate from here: add this network to NETWORK there and run '{settings}'"
        )
    } else if has(&[
        "could not translate host name",
        "Name or service not known",
        "Temporary failure in name resolution",
    ]) {
        format!("the host name {host} is not known here: correct DNS or /etc/hosts, or connect_address on that member")
    } else if has(&[
        "number of requested standby connections exceeds",
        "max_wal_senders",
        "sorry, too many clients already",
        "remaining connection slots",
    ]) {
        format!(
            "{host} has no free connection for a replica: raise PG_max_wal_senders or PG_max_connections and run '{settings}'"
        )
    } else if has(&[
        "Connection refused",
        "could not connect",
        "timeout expired",
        "timed out",
        "No route to host",
        "Network is unreachable",
        "the database system is starting up",
        "the database system is shutting down",
    ]) {
        format!(
            "{host} port {port} does not answer: see 'patronictl -c {} list' and the firewall between the members",
            patroni_file(id).display()
        )
    } else if has(&["system identifier"]) {
        format!(
            "{host} is of another database cluster than the one that this instance belongs to: look at the hosts of the store and the scope in both Patroni files"
        )
    } else if has(&["must be superuser or replication role", "permission denied to start WAL sender"]) {
        format!("{user} may not replicate: run ALTER ROLE \"{user}\" REPLICATION on the primary")
    } else if has(&["incompatible server version"]) {
        "the primary has another major version: all members must have the same".to_owned()
    } else if has(&["exists but is not empty"]) {
        "a directory that the copy needs is in use, for example of a tablespace: see which, and empty it".to_owned()
    } else if has(&["Permission denied", "could not create directory"]) {
        "postgres may not write there: see which directory, and give it to postgres".to_owned()
    } else {
        String::new()
    };
    // The last words are the closest to the cause; libpq repeats itself for every address of a host.
    let mut words: Vec<&str> = said.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
    words.dedup();
    let words = words[words.len().saturating_sub(4)..].join("; ");
    if because.is_empty() {
        format!("there is no base backup of {host}: {words}")
    } else {
        format!("{because} ({words})")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn id() -> ClusterId {
        "17/main".parse().unwrap()
    }

    #[test]
    fn the_connection_string_is_one_argument() {
        let arguments = arguments::tests_arguments(&["--max-rate=10M", "--keep_data=False", "--role=replica", "--x=1"]);
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
        let arguments = arguments::tests_arguments(&["--checkpoint=slow"]);
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
    fn reads_answers() {
        let read = answers("server_version_num\n170005\nTimeZone\nEtc/UTC\nlc_messages\n\n");
        assert_eq!(read["timezone"], "Etc/UTC");
        assert_eq!(read["lc_messages"], "");
        assert!(check_version(&id(), &read).is_ok());
        assert!(check_version(&"15/main".parse().unwrap(), &read).unwrap_err().to_string().contains("PostgreSQL 17"));
        assert_eq!(as_initdb(&read).keys().copied().collect::<Vec<_>>(), ["timezone"]);
    }

    #[test]
    fn every_failure_has_its_reason_and_its_remedy() {
        let source = "dbname=postgres user=replicator host=10.0.0.1 port=5432";
        for (said, because, remedy) in [
            ("FATAL:  password authentication failed for user \"replicator\"", "password of replicator", "site.key"),
            ("FATAL:  no pg_hba.conf entry for replication connection from host", "10.0.0.1 does not let", "NETWORK"),
            ("could not translate host name \"x\" to address: Name or service not known", "host name", "DNS"),
            ("connection to server at \"10.0.0.1\", port 5432 failed: Connection refused", "port 5432", "firewall"),
            ("FATAL:  number of requested standby connections exceeds max_wal_senders", "no free connection", "raise"),
            ("could not write to file \"x\": No space left on device", "2.0 GB are free", "make room"),
            ("system identifier differs", "another database cluster", "scope"),
            ("directory \"/ts\" exists but is not empty", "in use", "empty it"),
        ] {
            let space = Space { free: Some(2 << 30), needed: Some(3 << 30) };
            let text = reason(&[said], source, Some(&space), &id());
            assert!(text.contains(because) && text.contains(remedy), "{text}");
            assert!(!text.contains('\n'));
        }
        assert!(reason(&["pg_basebackup: error: boo"], source, None, &id()).contains("boo"));
    }

    #[test]
    fn sizes_are_readable() {
        for (bytes, text) in [(0, "0.0 kB"), (1 << 20, "1.0 MB"), (1500 << 20, "1.5 GB"), (5 << 40, "5.0 TB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
