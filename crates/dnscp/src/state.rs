//! What two runs of one instance share: who is at work, and is the service there?
//!
//! Both are `flock(2)` on files in `/run/postgresql`, which postgresql-common makes at every boot; the kernel gives a lock back
//! when its holder is killed. Nothing is remembered from run to run: the kernel's addresses and Patroni's answer are the state.
//! Beside the locks is the file by which keepalived is told who is the primary.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::time::{ClockId, clock_gettime};
use site::Root;

const DIRECTORY: &str = "/run/postgresql";
const PAUSE: Duration = Duration::from_millis(5);

/// The locks of one instance.
#[derive(Debug, Clone)]
pub struct Locks {
    root: Root,
    name: String,
}

/// A lock that is held.
#[derive(Debug)]
pub struct Held(#[allow(dead_code)] Flock<File>);

impl Locks {
    /// Those of a scope.
    #[must_use]
    pub fn of(root: &Root, scope: &str) -> Self {
        let name =
            scope.chars().map(|c| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' }).collect();
        Self { root: root.clone(), name }
    }

    /// The right to change addresses, waited for until `limit`; none after that, or where it cannot be had.
    pub fn act(&self, limit: Duration) -> Result<Option<Held>> {
        let end = Instant::now() + limit;
        let mut file = self.open("lock")?;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Some(Held(lock))),
                Err((back, _)) if Instant::now() < end => file = back,
                Err(_) => return Ok(None),
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Makes this process the service of the instance; none where another one is.
    pub fn serve(&self) -> Result<Option<Held>> {
        Ok(Flock::lock(self.open("service")?, FlockArg::LockExclusiveNonblock).ok().map(Held))
    }

    /// Is there a service, which renews leases?
    #[must_use]
    pub fn served(&self) -> bool {
        let Ok(file) = self.open("service") else { return false };
        Flock::lock(file, FlockArg::LockSharedNonblock).is_err()
    }

    /// Root must not follow what postgres could have put there, nor wait for it.
    fn open(&self, kind: &str) -> Result<File> {
        let path = format!("{DIRECTORY}/.dnscp.{}.{kind}", self.name);
        let real = self.root.path(&path);
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        // Root's file would lock postgres out, and flock(2) asks no right to write: so it is there for both.
        let create = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(flags.bits())
            .open(&real);
        create
            .or_else(|_| OpenOptions::new().read(true).custom_flags(flags.bits()).open(&real))
            .with_context(|| format!("cannot open {path}: is postgresql-common installed, which makes {DIRECTORY}?"))
    }
}

/// Makes or removes the file that is there while this member is the primary, if that changes anything; before the removal
/// `end` is done. Gives what `end` gave, and 0 for a file that is made.
///
/// keepalived takes a file that is not there for a 0, and sees when one is closed after writing, or removed (`track_file.c`).
pub fn tell(root: &Root, path: &Path, primary: bool, end: impl FnOnce() -> usize) -> Result<Option<usize>> {
    const SAYS: &str = "1\n";
    let real = root.path(path);
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut said = String::new();
    let present = OpenOptions::new().read(true).custom_flags(flags.bits()).open(&real);
    let there = !matches!(&present, Err(error) if error.kind() == ErrorKind::NotFound);
    let whole = present.and_then(|file| file.take(16).read_to_string(&mut said)).is_ok() && said == SAYS;
    if whole == primary && there == primary {
        return Ok(None);
    }
    let ended = if primary { 0 } else { end() };
    if there {
        std::fs::remove_file(&real).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    if primary {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&real)
            .and_then(|mut file| file.write_all(SAYS.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Some(ended))
}

/// A clock that goes on while the process is stopped and while the host sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(Duration);

impl Moment {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Self(Duration::ZERO), |time| Self(time.into()))
    }

    /// How long ago it was.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_file_is_there_while_this_member_is_the_primary() {
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

    #[test]
    fn one_at_a_time_and_never_for_long() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("run/postgresql")).unwrap();
        let locks = Locks::of(&Root::new(folder.path()), "16-main/../x");
        let first = locks.act(Duration::ZERO).unwrap();
        assert!(first.is_some());
        assert!(locks.act(Duration::from_millis(20)).unwrap().is_none());
        drop(first);
        assert!(locks.act(Duration::ZERO).unwrap().is_some());
        assert!(!locks.served());
        let service = locks.serve().unwrap();
        assert!(service.is_some() && locks.served() && locks.serve().unwrap().is_none());
    }
}
