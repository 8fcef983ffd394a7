//! A data directory: is it empty, does a server run in it, and how it is made.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::{Context as _, Result};
use host::Root;

/// Writes a directory's entries to the disk.
pub(crate) fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Is there no such directory, or nothing in it?
pub(crate) fn is_empty(root: &Root, directory: &Path) -> Result<bool> {
    match std::fs::read_dir(root.path(directory)) {
        Ok(entries) => Ok(entries.count() == 0),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).with_context(|| format!("cannot list {}", directory.display())),
    }
}

/// The server that runs in a data directory, by its `postmaster.pid`.
pub(crate) fn running_server(root: &Root, directory: &Path) -> Option<u32> {
    let text = root.read(directory.join("postmaster.pid")).ok()??;
    let pid = text.lines().next()?.trim().parse().ok()?;
    let name = root.read(format!("/proc/{pid}/comm")).ok()??;
    matches!(name.trim(), "postgres" | "postmaster").then_some(pid)
}

/// Makes a directory that only the owner may enter, or gives an empty one this mode.
pub(crate) fn private_directory(root: &Root, directory: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let real = root.path(directory);
    let make = || -> std::io::Result<()> {
        if let Some(parent) = real.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        DirBuilder::new().recursive(true).mode(mode).create(&real)?;
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(mode))
    };
    make().with_context(|| {
        format!(
            "cannot make the directory {} for postgres: make it with 'install -d -o postgres -g postgres -m 700'",
            directory.display()
        )
    })
}
