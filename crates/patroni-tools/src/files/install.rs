//! Puts the file in its place: whole or not at all, and never readable by others.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use host::Root;
use host::files::{Named, Opener};
use host::keys::UNFINISHED;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::Uid;
use tempfile::NamedTempFile;

/// Only root makes names in `/run`, so that no other user can have put a file there; and none can open this one, or lock it.
const LOCK: &str = "/run/patroni-gen-config.lock";

/// The right to write into the directory, held by one run at a time.
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock, and removes what killed runs have left. The kernel gives it back, however this run ends; the file stays until
    /// the next boot.
    pub fn take(root: &Root, directory: &Path) -> Result<Self> {
        let real = root.path(directory);
        if !real.is_dir() {
            bail!("there is no directory {}: install the package patroni, which provides it", directory.display());
        }
        let lock =
            Flock::lock(Self::open(root)?, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
                nix::errno::Errno::EWOULDBLOCK => anyhow::anyhow!(
                    "another patroni-gen-config is at work in {}: nothing was changed, run this one again",
                    directory.display()
                ),
                other => anyhow::anyhow!("cannot lock {LOCK}: {other}"),
            })?;
        for name in root.list(directory)?.iter().filter(|name| name.starts_with(UNFINISHED)) {
            let _ = std::fs::remove_file(real.join(name));
        }
        Ok(Self { _file: lock })
    }

    fn open(root: &Root) -> Result<File> {
        let real = root.path(LOCK);
        if let Some(parent) = real.parent().filter(|parent| !parent.exists()) {
            // A folder that stands for a machine may have none.
            std::fs::create_dir_all(parent).with_context(|| format!("cannot make the directory of {LOCK}"))?;
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
            .open(&real)
            .with_context(|| format!("cannot open {LOCK}: run this program as root"))?;
        let data = file.metadata().with_context(|| format!("cannot look at {LOCK}"))?;
        if !data.is_file() || data.uid() != Uid::effective().as_raw() {
            bail!("{LOCK} is not a file of the user who runs this program: remove it, and run this as root");
        }
        file.set_permissions(Permissions::from_mode(0o600))
            .with_context(|| format!("cannot close {LOCK} to others"))?;
        Ok(file)
    }
}

/// Makes a directory that postgres and its group write, where there is none. Its parent can be postgres's own, so nothing
/// is done by name.
pub fn directory(root: &Root, path: &Path) -> Result<()> {
    let opener = Opener::new(root, Named::Here);
    let Some(directory) = opener.make_directory(path, Mode::from_bits_truncate(0o755))? else { return Ok(()) };
    if Uid::effective().is_root() {
        fchown(&directory, Some(root.user_id("postgres")?), Some(root.group_id("postgres")?))
            .with_context(|| format!("cannot give {} to postgres", path.display()))?;
    }
    fchmod(&directory, Mode::from_bits_truncate(0o770))
        .map_err(std::io::Error::from)
        .with_context(|| format!("cannot open {} to postgres", path.display()))
}

/// Makes a directory of root's that everybody reads, where there is none.
pub fn open_directory(root: &Root, path: &Path) -> Result<()> {
    let mode = Mode::from_bits_truncate(0o755);
    let Some(directory) = Opener::new(root, Named::Here).make_directory(path, mode)? else { return Ok(()) };
    // Without regard to the umask.
    fchmod(&directory, mode)
        .map_err(std::io::Error::from)
        .with_context(|| format!("cannot open {} to everybody", path.display()))
}

/// Who a file belongs to, and what they may do with it.
#[derive(Debug, Clone, Copy)]
pub struct Rights {
    /// Its owner.
    pub user: &'static str,
    /// Its group.
    pub group: &'static str,
    /// Its mode.
    pub mode: u32,
}

/// Of a Patroni file, in which passwords are.
pub const OF_PATRONI: Rights = Rights { user: "root", group: "postgres", mode: 0o640 };

/// Of a file without a secret.
pub const READABLE: Rights = Rights { user: "root", group: "root", mode: 0o644 };

/// A file that is whole, but not in its place yet. It vanishes if it is never put there.
pub struct Prepared {
    file: NamedTempFile,
    path: PathBuf,
    real: PathBuf,
    keep: Option<PathBuf>,
}

/// Writes `text` beside `path`, with its owner and mode set before the first byte.
///
/// With `keep`, what is at `path` will stay beside it under that path.
pub fn prepare(root: &Root, path: &Path, text: &str, rights: Rights, keep: Option<PathBuf>) -> Result<Prepared> {
    let real = root.path(path);
    let Some(directory) = real.parent() else { bail!("{} is not a file path", path.display()) };
    let mut file = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(directory)
        .with_context(|| format!("cannot write into {}: run this program as root", root.inside(directory).display()))?;
    if Uid::effective().is_root() {
        let user = if rights.user == "root" { 0 } else { root.user_id(rights.user)? };
        let group = if rights.group == "root" { 0 } else { root.group_id(rights.group)? };
        fchown(file.as_file(), Some(user), Some(group))
            .with_context(|| format!("cannot give {} to {}:{}", path.display(), rights.user, rights.group))?;
    }
    // After the owner, which takes away no rights of a stranger's; and without regard to the umask.
    file.as_file().set_permissions(Permissions::from_mode(rights.mode))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.as_file().sync_all())
        .with_context(|| format!("cannot write {}: the old file is as it was", path.display()))?;
    Ok(Prepared { file, path: path.to_owned(), real, keep: keep.map(|keep| root.path(keep)) })
}

impl Prepared {
    /// Where it is until then.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Where it belongs, for people.
    #[must_use]
    pub fn target(&self) -> String {
        self.path.display().to_string()
    }

    /// Puts it into its place.
    pub fn put(self) -> Result<()> {
        let target = self.target();
        if let Some(kept) = &self.keep {
            let _ = std::fs::remove_file(kept);
            std::fs::hard_link(&self.real, kept)
                .with_context(|| format!("cannot keep the old {target} as {}", kept.display()))?;
        }
        self.file
            .persist(&self.real)
            .map_err(|error| error.error)
            .with_context(|| format!("cannot replace {target}"))?;
        let Some(directory) = self.real.parent() else { return Ok(()) };
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .with_context(|| format!("cannot sync the directory of {target}"))
    }
}

/// Removes what killed runs have left beside `path`.
pub fn clean(root: &Root, path: &Path) -> Result<()> {
    let Some(directory) = path.parent() else { return Ok(()) };
    for name in root.list(directory)?.iter().filter(|name| name.starts_with(UNFINISHED)) {
        let _ = std::fs::remove_file(root.path(directory.join(name)));
    }
    Ok(())
}

/// Replaces the Patroni file `path`, or one that goes with it, by `text`.
///
/// With `keep`, what was there stays beside it under that path.
pub fn install(root: &Root, path: &Path, text: &str, keep: Option<&Path>) -> Result<()> {
    prepare(root, path, text, OF_PATRONI, keep.map(Path::to_owned))?.put()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::{MetadataExt, lchown, symlink};

    #[test]
    fn a_directory_is_made_where_its_name_says_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let own = std::fs::metadata(folder.path()).unwrap();
        for tree in ["etc/systemd", "var/lib/postgresql", "srv/pg"] {
            std::fs::create_dir_all(folder.path().join(tree)).unwrap();
        }
        std::fs::write(root.path("/etc/passwd"), format!("postgres:x:{}:{}::/:/bin/sh\n", own.uid(), own.gid()))
            .unwrap();
        std::fs::write(root.path("/etc/group"), format!("postgres:x:{}:\n", own.gid())).unwrap();
        let raft = Path::new("/var/lib/postgresql/a/b");
        directory(&root, raft).unwrap();
        let mode = |path: &str| root.path(path).metadata().unwrap().mode() & 0o7777;
        assert_eq!((mode("/var/lib/postgresql/a/b"), mode("/var/lib/postgresql/a") & 0o022), (0o770, 0));
        directory(&root, raft).unwrap();
        // Root's link leads where root wants it.
        symlink("/srv/pg", root.path("/var/lib/postgresql/root")).unwrap();
        directory(&root, Path::new("/var/lib/postgresql/root/c")).unwrap();
        assert!(root.path("/srv/pg/c").is_dir());
        if !Uid::effective().is_root() {
            return;
        }
        symlink("/etc/systemd", root.path("/var/lib/postgresql/raft")).unwrap();
        lchown(root.path("/var/lib/postgresql/raft"), Some(4242), None).unwrap();
        let error =
            format!("{:#}", directory(&root, Path::new("/var/lib/postgresql/raft/cron.service.d")).unwrap_err());
        assert!(error.contains("/var/lib/postgresql/raft is a symbolic link that does not belong to root"), "{error}");
        assert_eq!(std::fs::read_dir(root.path("/etc/systemd")).unwrap().count(), 0);
    }
}
