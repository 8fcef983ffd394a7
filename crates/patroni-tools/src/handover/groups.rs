//! Moves a running server from the control group of one unit into that of another: no process notices it.
//!
//! `postgresql@` would stop the server when it is stopped, and `patroni@` refuses to start while `postgresql@` has a process. So the
//! processes wait in a scope of their own in between. Only processes that are in the control group of the unit are moved, so user postgres
//! cannot make root move any other.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use host::trouble::Explain;
use host::{ClusterId, Root, fail, process, program};

use crate::postgres::units::SLICE;

/// How long systemd may take for one request, and how long processes may take to move.
const LIMIT: Duration = Duration::from_secs(30);

/// The slice, as units name it.
const SLICE_UNIT: &str = "system-postgresql.slice";

/// A unit that can contain the processes of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// `postgresql@17-main.service`, of postgresql-common.
    Debian,
    /// `patroni@17-main.service`.
    Patroni,
    /// The scope in between. `pg_lsclusters` reports "online,patroni" because of its name (`PgCommon::cluster_info`).
    Scope,
}

impl Unit {
    /// The name of the unit for a cluster.
    pub(crate) fn name(self, id: &ClusterId) -> String {
        match self {
            Self::Debian => format!("postgresql@{}.service", id.dashed()),
            Self::Patroni => format!("patroni@{}.service", id.dashed()),
            Self::Scope => format!("patroni-{}.scope", id.dashed()),
        }
    }
}

/// Control groups of version 2 at the usual place. With version 1, every controller has a tree of its own.
pub(crate) fn check_version(root: &Root) -> Result<()> {
    if root.path("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Ok(());
    }
    fail!(
        "control groups of version 2 are not mounted on /sys/fs/cgroup, so a running server cannot move to another unit";
        "Use --restart, which stops and starts the server, or boot without systemd.unified_cgroup_hierarchy=0."
    )
}

fn directory(unit: &str) -> PathBuf {
    PathBuf::from("/sys/fs/cgroup").join(SLICE).join(unit)
}

/// The processes in the control group of a unit, or of any other name in the slice; none if there is no such group.
pub(crate) fn processes(root: &Root, unit: &str) -> Result<Vec<u32>> {
    let path = directory(unit).join("cgroup.procs");
    let text = match std::fs::read_to_string(root.path(&path)) {
        Ok(text) => text,
        // The group went away: before it was opened, or before it was read.
        Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ENODEV) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error).with_context(|| format!("could not read {}", path.display())),
    };
    Ok(text.lines().filter_map(|line| line.trim().parse().ok()).filter(|pid| *pid != 0).collect())
}

/// Moves one process into the control group of a unit that is active; `false` if the process has ended.
fn put(root: &Root, unit: &str, pid: u32) -> Result<bool> {
    let path = directory(unit).join("cgroup.procs");
    let written =
        OpenOptions::new().write(true).open(root.path(&path)).and_then(|mut file| write!(file, "{pid}").map(|()| file));
    match written {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("could not move process {pid} into {unit}")),
    }
}

/// Moves all processes from one unit to another, the postmaster first, so that what it starts meanwhile is already in the new one.
pub(crate) fn move_all(root: &Root, from: &str, to: &str, postmaster: Option<u32>) -> Result<()> {
    let end = Instant::now() + LIMIT;
    let mut first = postmaster;
    loop {
        let left = processes(root, from)?;
        if left.is_empty() {
            return Ok(());
        }
        if let Some(pid) = first.take().filter(|pid| left.contains(pid)) {
            put(root, to, pid)?;
        }
        for pid in left {
            put(root, to, pid)?;
        }
        if Instant::now() > end {
            fail!("{from} still has processes after {} s", LIMIT.as_secs(); "Run this again.");
        }
    }
}

/// The control group of a process, as a path below that of the system; `None` if there is no such process.
pub(crate) fn of_process(root: &Root, pid: u32) -> Result<Option<PathBuf>> {
    let text = match std::fs::read_to_string(root.path(format!("/proc/{pid}/cgroup"))) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ESRCH) => {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| format!("could not read the control group of process {pid}")),
    };
    Ok(text.lines().find_map(|line| line.strip_prefix("0::/")).map(PathBuf::from))
}

/// The control group of a unit, as [`of_process`] returns it.
pub(crate) fn of_unit(unit: &str) -> PathBuf {
    PathBuf::from(SLICE).join(unit)
}

/// Moves a server, but nothing that is beside it in its control group, into a scope: the postmaster first, so that what it starts meanwhile
/// is already there, and then all processes below it.
pub(crate) fn move_server(root: &Root, postmaster: u32, scope: &str) -> Result<()> {
    let end = Instant::now() + LIMIT;
    put(root, scope, postmaster)?;
    loop {
        let inside = processes(root, scope)?;
        let left: Vec<u32> = below(root, postmaster)?.into_iter().filter(|pid| !inside.contains(pid)).collect();
        if left.is_empty() {
            return Ok(());
        }
        for pid in left {
            put(root, scope, pid)?;
        }
        if Instant::now() > end {
            fail!("processes of the server are still outside of {scope} after {} s", LIMIT.as_secs(); "Run this again.");
        }
    }
}

/// All processes that a process has started, and those that they have started.
fn below(root: &Root, ancestor: u32) -> Result<Vec<u32>> {
    let entries = std::fs::read_dir(root.path("/proc")).context("could not list the processes")?;
    let mut parents = Vec::new();
    for pid in entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        // It may have ended.
        parents.extend(process::parent(root, pid).map(|parent| (pid, parent)));
    }
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.remove(0);
    Ok(found)
}

/// Creates the scope with the postmaster in it. systemd allows root to move processes into a scope only if it is delegated
/// (`AttachProcessesToUnit`, and who writes `cgroup.procs` in its place).
pub(crate) fn start_scope(root: &Root, id: &ClusterId, postmaster: u32) -> Result<()> {
    let scope = Unit::Scope.name(id);
    let description = format!("PostgreSQL {id} between two units");
    busctl(
        root,
        &[
            "StartTransientUnit",
            "ssa(sv)a(sa(sv))",
            &scope,
            "fail",
            "4",
            "Description",
            "s",
            &description,
            "Slice",
            "s",
            SLICE_UNIT,
            "Delegate",
            "b",
            "true",
            "PIDs",
            "au",
            "1",
            &postmaster.to_string(),
            "0",
        ],
    )?;
    // The request starts a job.
    let end = Instant::now() + LIMIT;
    while !processes(root, &scope)?.contains(&postmaster) {
        if Instant::now() > end {
            fail!("systemd did not start {scope} within {} s", LIMIT.as_secs(); "See: systemctl status {scope}");
        }
        sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn busctl(root: &Root, words: &[&str]) -> Result<()> {
    let mut command = program::command(root, "busctl")?;
    command.args(["--quiet", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"]);
    command.arg("org.freedesktop.systemd1.Manager").args(words);
    succeed(&mut command, "")
}

/// Runs systemctl with these words.
pub(crate) fn systemctl(root: &Root, words: &[&str]) -> Result<()> {
    let mut command = program::command(root, "systemctl")?;
    command.arg("--quiet").args(words);
    succeed(&mut command, "")
}

/// Is a unit active, or on the way?
pub(crate) fn is_active(root: &Root, unit: &str) -> Result<bool> {
    Ok(["active", "activating", "reloading"].contains(&state(root, unit)?.as_str()))
}

/// Is a unit active, and not only on the way?
pub(crate) fn is_started(root: &Root, unit: &str) -> Result<bool> {
    Ok(state(root, unit)? == "active")
}

/// The state of a unit, as `systemctl is-active` prints it.
fn state(root: &Root, unit: &str) -> Result<String> {
    let mut command = program::command(root, "systemctl")?;
    let output = program::output_within(command.args(["is-active", unit]), "", LIMIT)?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a command that has to succeed within a few minutes: a start can include the removal of an incomplete clone.
pub(crate) fn succeed(command: &mut std::process::Command, input: &str) -> Result<()> {
    const LONGEST: Duration = Duration::from_secs(300);
    let output = program::output_within(command, input, LONGEST)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        fail!("{} failed ({}): {}", program::command_line(command), output.status, said.trim().replace('\n', "; "));
    }
    Ok(())
}

/// Where a drop-in of the running system for a unit is. It is gone after a boot, as is what it is for.
fn drop_in(unit: &str) -> PathBuf {
    PathBuf::from("/run/systemd/system").join(format!("{unit}.d")).join("90-patroni-tools-handover.conf")
}

/// Gives a unit other properties until [`free`] or the next boot.
pub(crate) fn hold(root: &Root, unit: &str, properties: &str) -> Result<()> {
    let path = drop_in(unit);
    let real = root.path(&path);
    let write = || -> std::io::Result<()> {
        if let Some(parent) = real.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&real, properties)
    };
    write()
        .with_context(|| format!("could not write {}", path.display()))
        .or_hint(|| "Run this as root.".to_owned())?;
    systemctl(root, &["daemon-reload"])
}

/// Gives a unit its own properties again.
pub(crate) fn free(root: &Root, unit: &str) -> Result<()> {
    let path = drop_in(unit);
    match std::fs::remove_file(root.path(&path)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("could not remove {}", path.display()))?,
    }
    if let Some(directory) = path.parent() {
        // This fails if the administrator has another file there.
        let _ = std::fs::remove_dir(root.path(directory));
    }
    systemctl(root, &["daemon-reload"])
}

/// `postgresql@` whose stop stops nothing: systemd only forgets the server.
pub(crate) const STOPS_NOTHING: &str = "\
# Written by patroni-tools while a running server moves to another unit, and removed afterwards.
[Service]
ExecStop=
KillMode=none
PIDFile=
";

/// `patroni@` whose stop ends Patroni without a word, so that PostgreSQL keeps running although the cluster is not paused.
pub(crate) const STOPS_PATRONI_ALONE: &str = "\
# Written by patroni-tools while a running server moves to another unit; it is removed after that.
[Service]
KillSignal=SIGKILL
Restart=no
";

/// `postgresql@` that takes the processes out of the scope instead of starting a server. Only a process of its own control group may be
/// in the PID file, which belongs to postgres, so they have to be there when this command ends. If there is nothing to take, it starts
/// the server as always.
pub(crate) fn takes_from_scope(id: &ClusterId) -> String {
    let processes = |unit: Unit| format!("{}/cgroup.procs", directory(&unit.name(id)).display());
    let (from, to) = (processes(Unit::Scope), processes(Unit::Debian));
    format!(
        "\
# Written by patroni-tools while a running server moves to this unit; it is removed after that.
[Service]
ExecStart=
ExecStart=/bin/sh -c 'grep -qs . {from} || exec /usr/bin/pg_ctlcluster --skip-systemctl-redirect {} start; \
while grep -qs . {from}; do for pid in $$(cat {from}); do {{ echo $$pid >{to}; }} 2>/dev/null || :; done; done'
",
        id.dashed()
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn processes_are_read_from_the_group_of_the_unit() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let id: ClusterId = "17/main".parse().unwrap();
        let unit = Unit::Debian.name(&id);
        assert_eq!(processes(&root, &unit).unwrap(), Vec::<u32>::new());
        let group = root.path(directory(&unit));
        std::fs::create_dir_all(&group).unwrap();
        // A process of another namespace is shown as 0.
        std::fs::write(group.join("cgroup.procs"), "12\n0\n13\n").unwrap();
        assert_eq!(processes(&root, &unit).unwrap(), [12, 13]);
        assert!(check_version(&root).is_err());
    }
}
