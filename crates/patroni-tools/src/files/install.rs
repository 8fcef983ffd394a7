//! Installs files atomically, without making them readable by others at any time.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use host::files::{Named, Opener};
use host::keys::UNFINISHED;
use host::trouble::{Explain, Trouble};
use host::{Root, fail, trouble};
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::Uid;
use tempfile::NamedTempFile;

/// Only root can create files in `/run`, so this one is root's; other users can neither open nor lock it.
const LOCK: &str = "/run/patroni-gen-config.lock";

/// The lock that allows only one run at a time to write to the directory.
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Acquires the lock, and removes the temporary files of killed runs. The kernel releases it when this run ends in any
    /// way; the file remains until the next boot.
    pub fn take(root: &Root, directory: &Path) -> Result<Self> {
        let real = root.path(directory);
        if !real.is_dir() {
            fail!("there is no directory {}", directory.display(); "Create it with: install -d {}", directory.display());
        }
        let lock =
            Flock::lock(Self::open(root)?, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
                nix::errno::Errno::EWOULDBLOCK => trouble!(
                    "another program of patroni-tools is changing {}, so nothing was changed", directory.display();
                    "Run this program again when it has finished."
                ),
                other => trouble!("could not lock {LOCK}: {other}"),
            })?;
        for name in root.list(directory)?.iter().filter(|name| name.starts_with(UNFINISHED)) {
            let _ = std::fs::remove_file(real.join(name));
        }
        Ok(Self { _file: lock })
    }

    fn open(root: &Root) -> Result<File> {
        let real = root.path(LOCK);
        if let Some(parent) = real.parent().filter(|parent| !parent.exists()) {
            // A folder that represents a machine may have none.
            std::fs::create_dir_all(parent).with_context(|| format!("could not create the directory of {LOCK}"))?;
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
            .open(&real)
            .map_err(|error| Trouble::failed(format!("could not open {LOCK}"), error))?;
        let data = file.metadata().with_context(|| format!("could not read the attributes of {LOCK}"))?;
        if !data.is_file() || data.uid() != Uid::effective().as_raw() {
            fail!("{LOCK} does not belong to the user who runs this program"; "Remove it, and run this program as root.");
        }
        file.set_permissions(Permissions::from_mode(0o600))
            .with_context(|| format!("could not change the permissions of {LOCK}"))?;
        Ok(file)
    }
}

/// Creates a directory that postgres and its group can write, if it is missing. Its parent can belong to postgres, so it is
/// opened by handle and not by name.
pub fn directory(root: &Root, path: &Path) -> Result<()> {
    let opener = Opener::new(root, Named::Here);
    let Some(directory) = opener.make_directory(path, Mode::from_bits_truncate(0o755))? else { return Ok(()) };
    if Uid::effective().is_root() {
        fchown(&directory, Some(root.user_id("postgres")?), Some(root.group_id("postgres")?))
            .with_context(|| format!("could not change the owner of {} to postgres", path.display()))?;
    }
    fchmod(&directory, Mode::from_bits_truncate(0o770))
        .map_err(std::io::Error::from)
        .with_context(|| format!("could not change the permissions of {}", path.display()))
}

/// Creates a directory that belongs to root and that all users can read, if it is missing.
pub fn open_directory(root: &Root, path: &Path) -> Result<()> {
    let mode = Mode::from_bits_truncate(0o755);
    let Some(directory) = Opener::new(root, Named::Here).make_directory(path, mode)? else { return Ok(()) };
    // Regardless of the umask.
    fchmod(&directory, mode)
        .map_err(std::io::Error::from)
        .with_context(|| format!("could not change the permissions of {}", path.display()))
}

/// The owner, group and mode of a file.
#[derive(Debug, Clone, Copy)]
pub struct Rights {
    /// Its owner.
    pub user: &'static str,
    /// Its group.
    pub group: &'static str,
    /// Its mode.
    pub mode: u32,
}

/// Those of a Patroni file, which contains passwords.
pub const OF_PATRONI: Rights = Rights { user: "root", group: "postgres", mode: 0o640 };

/// Those of a file without secrets.
pub const READABLE: Rights = Rights { user: "root", group: "root", mode: 0o644 };

/// A complete file that is not in its place yet. It is removed if it is never put there.
pub struct Prepared {
    file: NamedTempFile,
    path: PathBuf,
    real: PathBuf,
    keep: Option<PathBuf>,
}

/// Writes `text` to a temporary file next to `path`; owner and mode are set before the first byte is written.
///
/// With `keep`, the present file is kept under that path.
pub fn prepare(root: &Root, path: &Path, text: &str, rights: Rights, keep: Option<PathBuf>) -> Result<Prepared> {
    let real = root.path(path);
    let Some(directory) = real.parent() else { fail!("{} is not the path of a file", path.display()) };
    let mut file = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(directory)
        .map_err(|error| Trouble::failed(format!("could not write to {}", root.inside(directory).display()), error))?;
    if Uid::effective().is_root() {
        let user = if rights.user == "root" { 0 } else { root.user_id(rights.user)? };
        let group = if rights.group == "root" { 0 } else { root.group_id(rights.group)? };
        fchown(file.as_file(), Some(user), Some(group)).with_context(|| {
            format!("could not change the owner of {} to {}:{}", path.display(), rights.user, rights.group)
        })?;
    }
    // After the owner, so that no other owner ever has these permissions; and regardless of the umask.
    file.as_file().set_permissions(Permissions::from_mode(rights.mode))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.as_file().sync_all())
        .with_context(|| format!("could not write {}", path.display()))
        .or_hint(|| "The old file is unchanged.".to_owned())?;
    Ok(Prepared { file, path: path.to_owned(), real, keep: keep.map(|keep| root.path(keep)) })
}

impl Prepared {
    /// Its temporary path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Its final path, for messages.
    #[must_use]
    pub fn target(&self) -> String {
        self.path.display().to_string()
    }

    /// Moves it to its final path.
    pub fn put(self) -> Result<()> {
        let target = self.target();
        if let Some(kept) = &self.keep {
            let _ = std::fs::remove_file(kept);
            std::fs::hard_link(&self.real, kept)
                .with_context(|| format!("could not keep the old {target} as {}", kept.display()))?;
        }
        self.file
            .persist(&self.real)
            .map_err(|error| error.error)
            .with_context(|| format!("could not replace {target}"))?;
        let Some(directory) = self.real.parent() else { return Ok(()) };
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .with_context(|| format!("could not sync the directory of {target}"))
    }
}

/// Removes the temporary files of killed runs next to `path`.
pub fn clean(root: &Root, path: &Path) -> Result<()> {
    let Some(directory) = path.parent() else { return Ok(()) };
    for name in root.list(directory)?.iter().filter(|name| name.starts_with(UNFINISHED)) {
        let _ = std::fs::remove_file(root.path(directory.join(name)));
    }
    Ok(())
}

/// Replaces the Patroni file `path`, or one that belongs to it, with `text`.
///
/// With `keep`, the old file is kept under that path.
pub fn install(root: &Root, path: &Path, text: &str, keep: Option<&Path>) -> Result<()> {
    prepare(root, path, text, OF_PATRONI, keep.map(Path::to_owned))?.put()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::{MetadataExt, lchown, symlink};

    #[test]
    fn a_directory_is_created_at_its_path_or_not_at_all() {
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
        // A link that belongs to root is followed.
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
