//! What the runs for one cluster share: the lock for changes, and whether the service is running.
//!
//! Both are `flock(2)` on files in `/run/patroni-tools`. systemd-tmpfiles creates this directory at every boot. Only root and postgres
//! can enter it; the group cannot, since a file that another member of it created first could keep postgres out. The kernel releases
//! a lock when its holder is killed. Anyone who can open a file can lock it, so these belong to postgres and are closed to other
//! users, whichever run creates them. Nothing else is kept from run to run: the kernel's addresses and Patroni's answer are the state.
//! `/run/postgresql` has the file that tells keepalived whether this member is the primary.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use host::trouble::Explain;
use host::{Root, fail, holder};
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{geteuid, linkat};

use crate::privilege::USER;

const DIRECTORY: &str = "/run/patroni-tools";
const PAUSE: Duration = Duration::from_millis(5);

/// The directory of the locks of 0.1.0, which every user can hold.
const OLD_DIRECTORY: &str = "/run/postgresql";

/// Exists while the package is upgraded from 0.1.0 and the old `dnscp@` is still running, which knows only the old locks.
const UPGRADE: &str = "/run/patroni-tools.upgrade-from-0.1.0";

/// After this time an upgrade counts as interrupted.
const UPGRADE_LIMIT: Duration = Duration::from_secs(3600);

/// An old lock is not waited for longer than this, as any user can hold it.
const OLD_WAIT: Duration = Duration::from_millis(500);

/// The locks of one cluster.
#[derive(Debug, Clone)]
pub struct Locks {
    root: Root,
    name: String,
}

/// A held lock, during an upgrade together with the old one.
#[derive(Debug)]
pub struct WorkLock(#[allow(dead_code)] Vec<Flock<File>>);

/// Whether the service is running, which renews leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Yes.
    Running,
    /// No.
    NotRunning,
    /// That is visible only to root and postgres.
    Hidden,
}

impl Locks {
    /// The locks of a scope.
    #[must_use]
    pub fn of(root: &Root, scope: &str) -> Self {
        let name =
            scope.chars().map(|c| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' }).collect();
        Self { root: root.clone(), name }
    }

    /// Acquires the lock for changing addresses; none if another process holds it for `limit`.
    pub fn acquire(&self, limit: Duration) -> Result<Option<WorkLock>> {
        let begin = Instant::now();
        let Some(lock) = wait(self.open("lock")?, limit) else { return Ok(None) };
        let mut held = vec![lock];
        if self.upgraded() {
            // The old service waits for it; not having it is no reason to do nothing.
            let left = limit.saturating_sub(begin.elapsed()).min(OLD_WAIT);
            held.extend(self.open_old("lock").ok().and_then(|file| wait(file, left)));
        }
        Ok(Some(WorkLock(held)))
    }

    /// Makes this process the service of the cluster; none if another one is.
    pub fn become_service(&self) -> Result<Option<WorkLock>> {
        // A process that only checks holds the lock for an instant.
        Ok(wait(self.open("service")?, Duration::from_millis(100)).map(|lock| WorkLock(vec![lock])))
    }

    /// Whether the service is running.
    #[must_use]
    pub fn service(&self) -> Service {
        let held = |file: File| Flock::lock(file, FlockArg::LockSharedNonblock).is_err();
        let runs = match self.open_present(&self.path("service")) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Service::Hidden,
            present => present.is_ok_and(held) || (self.upgraded() && self.open_old("service").is_ok_and(held)),
        };
        if runs { Service::Running } else { Service::NotRunning }
    }

    /// The process that holds the lock for addresses, as far as visible, for messages.
    #[must_use]
    pub fn holder(&self) -> String {
        let data = self.open_present(&self.path("lock")).and_then(|file| file.metadata());
        let pid = data.ok().and_then(|data| holder::of_lock(&self.root, &data));
        pid.map_or_else(|| "another process".to_owned(), |pid| holder::process(&self.root, pid))
    }

    /// The file of a lock, by its kind.
    #[must_use]
    pub fn path(&self, kind: &str) -> PathBuf {
        PathBuf::from(format!("{DIRECTORY}/dnscp.{}.{kind}", self.name))
    }

    /// Opens an existing file without `O_CREAT`, which the kernel refuses even to root if the file is another user's
    /// (`fs.protected_regular`).
    fn open(&self, kind: &str) -> Result<File> {
        let path = self.path(kind);
        let shown = path.display();
        for _ in 0..3 {
            match self.open_present(&path) {
                Ok(file) => return self.checked(file, &path),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    let error =
                        Err(error).with_context(|| format!("could not open {shown}, which must belong to postgres"));
                    return error.or_hint(|| "Run this as root or postgres, or remove the file.".to_owned());
                }
                Err(error) => return Err(error).with_context(|| format!("could not open {shown}")),
            }
            match self.make(&path) {
                Ok(file) => return Ok(file),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    fail!(
                        "there is no directory {DIRECTORY}";
                        "Create it with: systemd-tmpfiles --create patroni-tools.conf"
                    )
                }
                Err(error) => {
                    let error = Err(error).with_context(|| format!("could not create {shown}"));
                    return error.or_hint(|| "Run this as root or postgres.".to_owned());
                }
            }
        }
        fail!("could not open {shown}: it is created and removed again and again")
    }

    fn open_present(&self, path: &Path) -> io::Result<File> {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(self.root.path(path))
    }

    /// Refuses a file that other users can lock.
    fn checked(&self, file: File, path: &Path) -> Result<File> {
        let data = file.metadata().with_context(|| format!("could not read the status of {}", path.display()))?;
        let shown = path.display();
        if !data.is_file() {
            fail!("{shown} is not a regular file"; "Remove it.");
        }
        if data.uid() != 0 && data.uid() != self.owner() {
            let user = holder::user(&self.root, data.uid());
            fail!("{shown} belongs to {user}, who could hold the lock for ever"; "Remove it.");
        }
        if self.opens_to_others(&data) {
            let closed = self.close(&file).with_context(|| format!("could not close {shown} to other users"));
            closed.or_hint(|| "Remove it.".to_owned())?;
        }
        Ok(file)
    }

    fn opens_to_others(&self, data: &Metadata) -> bool {
        data.mode() & 0o7777 != 0o600 || data.uid() != self.owner()
    }

    /// Makes a file accessible to postgres alone, whatever the umask was.
    fn close(&self, file: &File) -> io::Result<()> {
        if geteuid().is_root() {
            fchown(file, Some(self.owner()), None)?;
        }
        file.set_permissions(Permissions::from_mode(0o600))
    }

    /// The file gets its name only after its owner, so a run that is killed meanwhile leaves none that keeps postgres out.
    fn make(&self, path: &Path) -> io::Result<File> {
        // A file that another user creates would be that user's.
        if !geteuid().is_root() && geteuid().as_raw() != self.owner() {
            return Err(ErrorKind::PermissionDenied.into());
        }
        let real = self.root.path(path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(OFlag::O_TMPFILE.bits())
            .open(self.root.path(DIRECTORY))?;
        self.close(&file)?;
        let nameless = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        linkat(AT_FDCWD, &nameless, AT_FDCWD, &real, AtFlags::AT_SYMLINK_FOLLOW)?;
        Ok(file)
    }

    fn owner(&self) -> u32 {
        self.root.user_id(USER).unwrap_or_else(|_| geteuid().as_raw())
    }

    /// Whether the package is being upgraded from 0.1.0. Only root can create the mark.
    fn upgraded(&self) -> bool {
        let Ok(data) = self.root.path(UPGRADE).symlink_metadata() else { return false };
        // If a folder stands for the machine, its owner stands for root.
        let roots = self.root.path("/run").metadata().is_ok_and(|directory| directory.uid() == data.uid());
        let age = data.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
        data.is_file() && roots && age.is_none_or(|age| age < UPGRADE_LIMIT)
    }

    /// A lock of 0.1.0, if its programs created one.
    fn open_old(&self, kind: &str) -> io::Result<File> {
        let path = Path::new(OLD_DIRECTORY).join(format!(".dnscp.{}.{kind}", self.name));
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(self.root.path(path))?;
        if file.metadata()?.is_file() { Ok(file) } else { Err(ErrorKind::InvalidInput.into()) }
    }
}

/// Waits for a lock, for at most `limit`.
fn wait(mut file: File, limit: Duration) -> Option<Flock<File>> {
    let end = Instant::now() + limit;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Some(lock),
            Err((back, _)) if Instant::now() < end => file = back,
            Err(_) => return None,
        }
        std::thread::sleep(PAUSE);
    }
}

/// Creates or removes the file that exists while this member is the primary, unless that changes nothing. Before the removal
/// `reset` is called. Returns what `reset` returned, or 0 if the file was created.
///
/// keepalived takes a missing file for a 0, and notices when a file is closed after writing, or removed (`track_file.c`).
pub fn tell(root: &Root, path: &Path, primary: bool, reset: impl FnOnce() -> usize) -> Result<Option<usize>> {
    const CONTENT: &str = "1\n";
    let real = root.path(path);
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut text = String::new();
    let present = OpenOptions::new().read(true).custom_flags(flags.bits()).open(&real);
    let exists = !matches!(&present, Err(error) if error.kind() == ErrorKind::NotFound);
    let whole = present.and_then(|file| file.take(16).read_to_string(&mut text)).is_ok() && text == CONTENT;
    if whole == primary && exists == primary {
        return Ok(None);
    }
    let connections = if primary { 0 } else { reset() };
    if exists {
        std::fs::remove_file(&real).with_context(|| format!("could not remove {}", path.display()))?;
    }
    if primary {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&real)
            .and_then(|mut file| file.write_all(CONTENT.as_bytes()))
            .with_context(|| format!("could not write {}", path.display()))?;
    }
    Ok(Some(connections))
}

/// A time of a clock that continues while the process is stopped and while the host sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(Duration);

impl Moment {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Self(Duration::ZERO), |time| Self(time.into()))
    }

    /// The time since then.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use host::trouble::Trouble;

    #[test]
    fn the_file_exists_while_this_member_is_the_primary() {
        let folder = tempfile::tempdir().unwrap();
        let (root, path) = (Root::new(folder.path()), Path::new("/16-main"));
        let tell = |primary| tell(&root, path, primary, || 7).unwrap();
        assert_eq!((tell(false), tell(true), tell(true)), (None, Some(0), None));
        assert_eq!(root.read(path).unwrap().as_deref(), Some("1\n"));
        // As a run leaves it that was killed after the first byte, or before.
        std::fs::write(root.path(path), "").unwrap();
        assert_eq!((tell(true), tell(true), tell(false), tell(false)), (Some(0), None, Some(7), None));
        assert!(!root.path(path).exists());
    }

    fn locks() -> (tempfile::TempDir, Locks) {
        let folder = tempfile::tempdir().unwrap();
        for directory in ["run/postgresql", "run/patroni-tools", "etc"] {
            std::fs::create_dir_all(folder.path().join(directory)).unwrap();
        }
        let locks = Locks::of(&Root::new(folder.path()), "16-main/../x");
        (folder, locks)
    }

    fn real(locks: &Locks, kind: &str) -> PathBuf {
        locks.root.path(locks.path(kind))
    }

    #[test]
    fn one_at_a_time_and_never_for_long() {
        let (_folder, locks) = locks();
        let first = locks.acquire(Duration::ZERO).unwrap();
        assert!(first.is_some());
        assert!(locks.acquire(Duration::from_millis(20)).unwrap().is_none());
        drop(first);
        assert!(locks.acquire(Duration::ZERO).unwrap().is_some());
        assert!(locks.service() != Service::Running);
        let service = locks.become_service().unwrap();
        assert!(
            service.is_some() && (locks.service() == Service::Running) && locks.become_service().unwrap().is_none()
        );
    }

    #[test]
    fn only_their_owner_can_open_them_whichever_run_creates_them() {
        let (folder, locks) = locks();
        if geteuid().is_root() {
            std::fs::write(folder.path().join("etc/passwd"), "postgres:x:4242:4343::/:/bin/sh\n").unwrap();
        }
        let is_closed = || {
            let data = real(&locks, "lock").metadata().unwrap();
            assert_eq!((data.uid(), data.mode() & 0o7777), (locks.owner(), 0o600));
        };
        assert!(locks.acquire(Duration::ZERO).unwrap().is_some());
        is_closed();
        // Left open by whatever it was.
        std::fs::write(real(&locks, "lock"), "").unwrap();
        std::fs::set_permissions(real(&locks, "lock"), Permissions::from_mode(0o666)).unwrap();
        assert!(locks.acquire(Duration::ZERO).unwrap().is_some());
        is_closed();
    }

    #[test]
    fn foreign_files_are_refused_and_named() {
        let (folder, locks) = locks();
        let refused = |locks: &Locks| format!("{:#}", locks.acquire(Duration::ZERO).unwrap_err());
        let lock = real(&locks, "lock");
        std::os::unix::fs::symlink("/etc/passwd", &lock).unwrap();
        assert!(refused(&locks).starts_with("could not open /run/patroni-tools/dnscp.16-main_.._x.lock: "));
        std::fs::remove_file(&lock).unwrap();
        nix::unistd::mkfifo(&lock, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(refused(&locks).contains("is not a regular file"));
        std::fs::remove_file(&lock).unwrap();
        if geteuid().is_root() {
            std::fs::write(folder.path().join("etc/passwd"), "postgres:x:4242:4343::/:\nmallory:x:4711:1::/:\n")
                .unwrap();
            std::fs::write(&lock, "").unwrap();
            std::os::unix::fs::chown(&lock, Some(4711), None).unwrap();
            assert!(refused(&locks).contains("belongs to user mallory (uid 4711)"));
            std::fs::remove_file(&lock).unwrap();
        }
        std::fs::remove_dir(folder.path().join(&DIRECTORY[1..])).unwrap();
        let hint = Trouble::of(&locks.acquire(Duration::ZERO).unwrap_err()).hint.unwrap_or_default();
        assert!(hint.contains("systemd-tmpfiles --create patroni-tools.conf"), "{hint}");
    }

    #[test]
    fn the_locks_of_0_1_0_count_while_it_is_upgraded_and_no_longer() {
        let (folder, locks) = locks();
        let old = |kind: &str| {
            let path = folder.path().join(format!("run/postgresql/.dnscp.16-main_.._x.{kind}"));
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
            Flock::lock(file, FlockArg::LockExclusiveNonblock)
        };
        let service = old("service").unwrap();
        let at_work = old("lock").unwrap();
        let begin = Instant::now();
        assert!(locks.acquire(Duration::from_millis(300)).unwrap().is_some() && locks.service() != Service::Running);
        assert!(begin.elapsed() < Duration::from_millis(200), "it is waited for without an upgrade");
        std::fs::write(folder.path().join(&UPGRADE[1..]), "").unwrap();
        let begin = Instant::now();
        assert!(locks.acquire(Duration::from_millis(300)).unwrap().is_some(), "the holder of the old one blocks a run");
        assert!(begin.elapsed() >= Duration::from_millis(290), "it is not waited for");
        drop(at_work);
        let both = locks.acquire(Duration::ZERO).unwrap();
        assert!(both.is_some() && old("lock").is_err() && (locks.service() == Service::Running));
        drop((both, service));
        assert!(old("lock").is_ok() && locks.service() != Service::Running);
        // An upgrade that was cut short.
        let _service = old("service").unwrap();
        assert!((locks.service() == Service::Running));
        let marker = File::open(folder.path().join(&UPGRADE[1..])).unwrap();
        marker.set_modified(SystemTime::now() - UPGRADE_LIMIT).unwrap();
        assert!(locks.service() != Service::Running);
        std::fs::remove_file(folder.path().join(&UPGRADE[1..])).unwrap();
        std::fs::create_dir(folder.path().join(&UPGRADE[1..])).unwrap();
        assert!(locks.service() != Service::Running);
    }
}
