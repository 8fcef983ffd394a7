//! Puts the file in its place: whole or not at all, and never readable by others.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::Uid;
use site::Root;
use site::keys::UNFINISHED;

/// The right to write into the directory, held by one run at a time.
pub struct Lock {
    _directory: Flock<File>,
}

impl Lock {
    /// Takes the lock, and removes what killed runs have left. The directory itself is locked, so that no
    /// lock file stays behind.
    pub fn take(root: &Root, directory: &Path) -> Result<Self> {
        let real = root.path(directory);
        let handle = File::open(&real).with_context(|| {
            format!("cannot open {}: install the package patroni, which provides it", directory.display())
        })?;
        let lock = Flock::lock(handle, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => anyhow::anyhow!(
                "another patroni-gen-config is at work in {}: nothing was changed, run this one again",
                directory.display()
            ),
            other => anyhow::anyhow!("cannot lock {}: {other}", directory.display()),
        })?;
        for name in root.list(directory)?.iter().filter(|name| name.starts_with(UNFINISHED)) {
            let _ = std::fs::remove_file(real.join(name));
        }
        Ok(Self { _directory: lock })
    }
}

/// Makes a directory that postgres and its group write, where there is none. Its parent can be postgres's own, so nothing
/// is done by name once it is there.
pub fn directory(root: &Root, path: &Path) -> Result<()> {
    let real = root.path(path);
    if real.exists() {
        return Ok(());
    }
    let made = real.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::create_dir(&real));
    made.with_context(|| format!("cannot make the directory {}: run this program as root", path.display()))?;
    let directory = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY).bits())
        .open(&real)
        .with_context(|| format!("cannot open the directory {}", path.display()))?;
    if Uid::effective().is_root() {
        if directory.metadata()?.uid() != 0 {
            bail!("{} was replaced while it was made: look who did that, and run this again", path.display());
        }
        fchown(&directory, Some(root.user_id("postgres")?), Some(root.group_id("postgres")?))
            .with_context(|| format!("cannot give {} to postgres", path.display()))?;
    }
    directory
        .set_permissions(Permissions::from_mode(0o770))
        .with_context(|| format!("cannot open {} to postgres", path.display()))
}

/// Replaces `path` by `text` with owner `root:postgres` and mode 0640, both set before the first byte.
///
/// With `keep`, what was there stays beside it under that path.
pub fn install(root: &Root, path: &Path, text: &str, keep: Option<&Path>) -> Result<()> {
    let real = root.path(path);
    let Some(directory) = real.parent() else { bail!("{} is not a file path", path.display()) };
    let mut file = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(directory)
        .with_context(|| format!("cannot write into {}: run this program as root", root.inside(directory).display()))?;
    if Uid::effective().is_root() {
        let group = root.group_id("postgres")?;
        fchown(file.as_file(), Some(0), Some(group))
            .with_context(|| format!("cannot give {} to root:postgres", path.display()))?;
    }
    // After the owner, which takes away no rights of a stranger's; and without regard to the umask.
    file.as_file().set_permissions(Permissions::from_mode(0o640))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.as_file().sync_all())
        .with_context(|| format!("cannot write {}: the old file is as it was", path.display()))?;
    if let Some(keep) = keep {
        let kept = root.path(keep);
        let _ = std::fs::remove_file(&kept);
        std::fs::hard_link(&real, &kept).with_context(|| format!("cannot keep the old file as {}", keep.display()))?;
    }
    file.persist(&real).map_err(|error| error.error).with_context(|| format!("cannot replace {}", path.display()))?;
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("cannot sync the directory of {}", path.display()))
}
