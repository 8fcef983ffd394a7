//! The marker of a bootstrap or a clone that is not complete: one file for each cluster, which is also the lock of the hooks.
//!
//! The marker names the directories that contain nothing but what the hook put there. So the next attempt can remove that, and no
//! hook ever removes other data.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use host::trouble::Trouble;
use host::{ClusterId, Root, fail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl};
use nix::libc::O_NOFOLLOW;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::context::Context;
use crate::postgres::data_dir::{is_empty, running_server, sync_parent};

/// How often the modification time of the marker is set while the hook works.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(10);

/// A file that is this much younger than the marker was not created by the hook.
const SLACK_SECONDS: i64 = 120;

/// What a hook does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bootstrap,
    Clone,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bootstrap => "bootstrap",
            Self::Clone => "clone",
        }
    }
}

/// What one run of a hook puts into which directories; the text of the marker. Version 0.1.0 wrote the same keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) kind: Kind,
    pub(crate) data_directory: PathBuf,
    pub(crate) waldir: Option<PathBuf>,
    pub(crate) pid: u32,
}

impl Claim {
    fn to_text(&self) -> String {
        let waldir = self.waldir.as_ref().map_or(String::new(), |waldir| format!("waldir={}\n", waldir.display()));
        format!(
            "# If this file exists and is not locked, a {kind} was interrupted. The directories contain its incomplete data,\n\
             # which are removed when Patroni starts.\n\
             kind={kind}\ndata_directory={}\n{waldir}pid={}\n",
            self.data_directory.display(),
            self.pid,
            kind = self.kind.name(),
        )
    }

    /// `None` if the text is incomplete: then the directories are still empty, because the marker is written first.
    fn from_text(text: &str) -> Option<Self> {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        Some(Self {
            kind: match value("kind")? {
                "bootstrap" => Kind::Bootstrap,
                "clone" => Kind::Clone,
                _ => return None,
            },
            data_directory: PathBuf::from(value("data_directory")?),
            waldir: value("waldir").map(PathBuf::from),
            // Written last, so that the lines before it are complete.
            pid: text.ends_with('\n').then(|| value("pid")?.parse().ok())??,
        })
    }
}

/// What a directory contains that a hook is about to fill.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Empty,
    /// The incomplete data of an interrupted run.
    Remains(Claim),
    /// Other data, with the reason why they are not those of an interrupted run.
    Foreign(String),
}

/// The marker of a cluster, locked.
pub(crate) struct Marker {
    file: Flock<File>,
    real: PathBuf,
    /// What an interrupted run left in it, and when that last worked.
    interrupted: Option<(Claim, SystemTime)>,
    /// Does it say what this run does, or has it been removed?
    used: bool,
}

impl Drop for Marker {
    fn drop(&mut self) {
        // An empty marker says nothing.
        if self.interrupted.is_none() && !self.used {
            let _ = std::fs::remove_file(&self.real);
        }
    }
}

/// The path of the marker of a cluster, beside its password file in the home directory of postgres.
pub(crate) fn path(id: &ClusterId) -> PathBuf {
    PathBuf::from(format!("/var/lib/postgresql/{}.unfinished", id.dashed()))
}

impl Marker {
    /// Does the cluster have a marker?
    pub(crate) fn exists(root: &Root, id: &ClusterId) -> bool {
        root.path(path(id)).symlink_metadata().is_ok()
    }

    /// Creates the marker if there is none, and locks it. Another run may need some seconds to end after its Patroni.
    pub(crate) fn lock(root: &Root, id: &ClusterId) -> Result<Self> {
        const PATIENCE: Duration = Duration::from_secs(10);
        let shown = path(id);
        let real = root.path(&shown);
        let until = Instant::now() + PATIENCE;
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(O_NOFOLLOW)
                .open(&real)
                .with_context(|| format!("could not open {}", shown.display()))?;
            let mut text = String::new();
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut file) => {
                    let metadata = file.metadata().with_context(|| format!("could not look at {}", shown.display()))?;
                    // A run that ends removes the marker: a lock on a removed file protects nothing.
                    if real.symlink_metadata().is_ok_and(|now| now.ino() == metadata.ino()) {
                        // The programs that the hook starts hold the lock until they exit.
                        fcntl(&*file, FcntlArg::F_SETFD(FdFlag::empty()))
                            .with_context(|| format!("could not keep {} locked", shown.display()))?;
                        file.read_to_string(&mut text)
                            .with_context(|| format!("could not read {}", shown.display()))?;
                        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                        let interrupted = Claim::from_text(&text).map(|claim| (claim, modified));
                        return Ok(Self { file, real, interrupted, used: false });
                    }
                }
                Err((again, Errno::EWOULDBLOCK)) => {
                    file = again;
                    let _ = file.read_to_string(&mut text);
                    let claim = Claim::from_text(&text);
                    if Instant::now() >= until {
                        let who = claim
                            .map_or("another run".to_owned(), |c| format!("another {} (pid {})", c.kind.name(), c.pid));
                        fail!("{who} of {id} is running"; "Wait until it ends, or stop it together with its Patroni.");
                    }
                    if let Some(claim) = claim {
                        kill_orphans(root, &real, claim.pid);
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err((_, error)) => return Err(error).with_context(|| format!("could not lock {}", shown.display())),
            }
        }
    }

    /// What an interrupted run has left in the marker.
    pub(crate) fn interrupted(&self) -> Option<&Claim> {
        self.interrupted.as_ref().map(|(claim, _)| claim)
    }

    /// What `directory` contains, which is the data directory or the WAL directory of this cluster.
    pub(crate) fn content(&self, root: &Root, directory: &Path) -> Result<Content> {
        if is_empty(root, directory)? {
            return Ok(Content::Empty);
        }
        if root.list(directory)? == ["lost+found"] {
            return Ok(Content::Foreign(
                "it is a mount point (it has lost+found), and PostgreSQL needs a directory below it".to_owned(),
            ));
        }
        let Some((claim, modified)) = &self.interrupted else {
            return Ok(Content::Foreign("there is no marker of an interrupted attempt".to_owned()));
        };
        if claim.data_directory != directory && claim.waldir.as_deref() != Some(directory) {
            return Ok(Content::Foreign(format!("the interrupted attempt used {}", claim.data_directory.display())));
        }
        let data = root.path(&claim.data_directory);
        if let Some(pid) = running_server(root, &claim.data_directory) {
            return Ok(Content::Foreign(format!("a PostgreSQL server is running there (pid {pid})")));
        }
        // Every server writes this file when it starts, and a base backup does not contain it.
        if data.join("postmaster.opts").exists() {
            return Ok(Content::Foreign("a PostgreSQL server has run there since the interrupted attempt".to_owned()));
        }
        let last = modified.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let last = i64::try_from(last).unwrap_or(0);
        for name in ["PG_VERSION", "backup_label", "global/pg_control"] {
            if data.join(name).symlink_metadata().is_ok_and(|file| file.ctime() > last + SLACK_SECONDS) {
                return Ok(Content::Foreign(format!("its {name} is younger than the interrupted attempt")));
            }
        }
        Ok(Content::Remains(claim.clone()))
    }

    /// Writes what this run is about to put where, before it does.
    pub(crate) fn write(&mut self, claim: &Claim) -> Result<()> {
        self.used = true;
        let write = || -> std::io::Result<()> {
            let mut file: &File = &self.file;
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(claim.to_text().as_bytes())?;
            file.sync_all()?;
            sync_parent(&self.real)
        };
        write().with_context(|| format!("could not write {}", self.real.display()))
    }

    /// Records that the run is still working.
    pub(crate) fn heartbeat(&self) {
        let _ = self.file.set_modified(SystemTime::now());
    }

    /// Removes the marker when everything is in place, or nothing is left. This must be on the disk before a server starts: otherwise a
    /// power cut could bring the marker back beside data that are in use.
    pub(crate) fn remove(mut self) -> Result<()> {
        self.used = true;
        std::fs::remove_file(&self.real)
            .and_then(|()| sync_parent(&self.real))
            .with_context(|| format!("could not remove {}", self.real.display()))
    }
}

/// Kills the processes that still hold the lock of a worker that has died. The process of `pg_basebackup` that receives WAL does not
/// notice the death of the others while the primary is idle.
fn kill_orphans(root: &Root, real: &Path, worker: u32) {
    let processes = root.list("/proc").unwrap_or_default();
    // After the name, which can contain anything, `proc_pid_stat(5)` has the state, the parent and the process group.
    let state_and_group = |pid: &str| {
        let stat = std::fs::read_to_string(root.path(format!("/proc/{pid}/stat"))).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse::<u32>().ok()?))
    };
    if state_and_group(&worker.to_string()).is_some_and(|(state, _)| state != "Z") {
        return;
    }
    for pid in processes.iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) {
        let Ok(files) = std::fs::read_dir(root.path(format!("/proc/{pid}/fd"))) else { continue };
        let holds = files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target == real));
        if holds && state_and_group(pid).is_some_and(|(_, group)| group == worker) {
            if let Ok(number) = pid.parse() {
                let _ = kill(Pid::from_raw(number), Signal::SIGKILL);
            }
        }
    }
}

/// Empties the directories of the remains of an interrupted attempt, and fails if they contain anything else.
pub(crate) fn clear(
    context: &Context,
    id: &ClusterId,
    marker: &Marker,
    data: &Path,
    waldir: Option<&Path>,
) -> Result<()> {
    if let Some(pid) = running_server(&context.root, data) {
        fail!("a PostgreSQL server (pid {pid}) is running in {}", data.display(); "Stop it first.");
    }
    for directory in std::iter::once(data).chain(waldir) {
        match marker.content(&context.root, directory)? {
            Content::Empty => {}
            Content::Remains(claim) => {
                context.reporter.info(format!(
                    "removing the remains of an interrupted {} from {}",
                    claim.kind.name(),
                    claim.data_directory.display()
                ));
                remove_remains(&context.root, id, &claim)?;
            }
            Content::Foreign(why) => fail!(
                "{} is not empty: {why}", directory.display();
                "Nothing was changed. Move its contents away if they are not needed, or set another directory (data_directory or waldir) in {}.",
                host::createcluster::PATH
            ),
        }
        if !is_empty(&context.root, directory)? {
            fail!("could not empty {}", directory.display());
        }
    }
    Ok(())
}

/// Removes what an interrupted or failed run put into its directories. The directories themselves stay, because they can be
/// mount points.
pub(crate) fn remove_remains(root: &Root, id: &ClusterId, claim: &Claim) -> Result<()> {
    let data = root.path(&claim.data_directory);
    // A base backup requires empty directories for tablespaces, so the files of this version in them are its own.
    if let Ok(entries) = std::fs::read_dir(data.join("pg_tblspc")) {
        for target in entries.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok()) {
            remove_entries(&root.path(&target), |name| name.starts_with(&format!("PG_{}_", id.version)))?;
        }
    }
    if let Some(waldir) = &claim.waldir {
        remove_entries(&root.path(waldir), |name| name != "lost+found")?;
    }
    // PG_VERSION is removed last: what an interrupted removal leaves can still be recognized.
    remove_entries(&data, |name| name != "lost+found" && name != "PG_VERSION")?;
    remove_entries(&data, |name| name != "lost+found")
}

/// The same after a failure that is reported itself: what cannot be removed now is only a warning.
pub(crate) fn remove_or_warn(context: &Context, id: &ClusterId, marker: Marker, claim: &Claim) {
    if let Err(error) = remove_remains(&context.root, id, claim).and_then(|()| marker.remove()) {
        context.reporter.warn(Trouble::of(&error).hint("The next attempt removes it."));
    }
}

fn remove_entries(directory: &Path, which: impl Fn(&str) -> bool) -> Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("could not list {}", directory.display())),
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("could not list {}", directory.display()))?;
        if which(&entry.file_name().to_string_lossy()) {
            let path = entry.path();
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if is_directory { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.with_context(|| format!("could not remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn machine() -> (tempfile::TempDir, Root, ClusterId) {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        std::fs::create_dir_all(root.path("/var/lib/postgresql/17/main")).unwrap();
        (folder, root, "17/main".parse().unwrap())
    }

    fn claim() -> Claim {
        Claim {
            kind: Kind::Clone,
            data_directory: PathBuf::from("/var/lib/postgresql/17/main"),
            waldir: Some(PathBuf::from("/wal/17 main")),
            pid: 7,
        }
    }

    #[test]
    fn a_claim_is_read_back_whole_or_not_at_all() {
        let text = claim().to_text();
        assert_eq!(Claim::from_text(&text), Some(claim()));
        for end in 0..text.len() {
            assert_eq!(Claim::from_text(&text[..end]), None, "{:?}", &text[..end]);
        }
    }

    #[test]
    fn only_what_an_interrupted_run_made_is_removed() {
        let (_folder, root, id) = machine();
        let data = claim().data_directory;
        let mut marker = Marker::lock(&root, &id).unwrap();
        assert_eq!(marker.content(&root, &data).unwrap(), Content::Empty);
        marker.write(&claim()).unwrap();
        drop(marker);
        std::fs::write(root.path(&data).join("PG_VERSION"), "17\n").unwrap();
        let marker = Marker::lock(&root, &id).unwrap();
        assert_eq!(marker.content(&root, &data).unwrap(), Content::Remains(claim()));
        std::fs::create_dir_all(root.path("/srv/other")).unwrap();
        std::fs::write(root.path("/srv/other/x"), "").unwrap();
        assert!(matches!(marker.content(&root, Path::new("/srv/other")).unwrap(), Content::Foreign(_)));
        std::fs::write(root.path(&data).join("postmaster.opts"), "").unwrap();
        assert!(matches!(marker.content(&root, &data).unwrap(), Content::Foreign(_)));
        std::fs::remove_file(root.path(&data).join("postmaster.opts")).unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(3600);
        marker.file.set_modified(long_ago).unwrap();
        drop(marker);
        let marker = Marker::lock(&root, &id).unwrap();
        assert!(matches!(marker.content(&root, &data).unwrap(), Content::Foreign(_)));
        marker.remove().unwrap();
        assert!(!Marker::exists(&root, &id));
        let marker = Marker::lock(&root, &id).unwrap();
        assert!(matches!(marker.content(&root, &data).unwrap(), Content::Foreign(_)));
    }

    #[test]
    fn the_remains_are_removed_with_wal_and_tablespaces_and_nothing_else() {
        let (_folder, root, id) = machine();
        let data = root.path("/var/lib/postgresql/17/main");
        for directory in ["pg_tblspc", "base/1", "lost+found"] {
            std::fs::create_dir_all(data.join(directory)).unwrap();
        }
        for file in ["/wal/17 main/0001", "/ts/PG_17_1/x", "/ts/PG_16_1/x", "/ts/mine"] {
            std::fs::create_dir_all(root.path(file).parent().unwrap()).unwrap();
            std::fs::write(root.path(file), "").unwrap();
        }
        std::os::unix::fs::symlink("/ts", data.join("pg_tblspc/1")).unwrap();
        std::os::unix::fs::symlink(root.path("/wal/17 main"), data.join("pg_wal")).unwrap();
        remove_remains(&root, &id, &claim()).unwrap();
        assert_eq!(root.list("/var/lib/postgresql/17/main").unwrap(), ["lost+found"]);
        assert!(is_empty(&root, Path::new("/wal/17 main")).unwrap());
        assert_eq!(root.list("/ts").unwrap(), ["PG_16_1", "mine"]);
    }

    #[test]
    fn a_second_run_waits_for_the_first() {
        let (_folder, root, id) = machine();
        let first = Marker::lock(&root, &id).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| Marker::lock(&root, &id).map(|_| ()));
            std::thread::sleep(Duration::from_millis(300));
            first.remove().unwrap();
            second.join().unwrap().unwrap();
        });
    }
}
