//! A data directory: if it is empty, if a server runs in it, and how it is created.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::{Context as _, Result};
use host::Root;
use host::trouble::Explain;

/// Syncs the directory that a file is in.
pub(crate) fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Is a directory empty, or does it not exist?
pub(crate) fn is_empty(root: &Root, directory: &Path) -> Result<bool> {
    match std::fs::read_dir(root.path(directory)) {
        Ok(entries) => Ok(entries.count() == 0),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).with_context(|| format!("could not list {}", directory.display())),
    }
}

/// The process of the server that runs in a data directory, from its `postmaster.pid`.
pub(crate) fn running_server(root: &Root, directory: &Path) -> Option<u32> {
    let text = root.read(directory.join("postmaster.pid")).ok()??;
    let pid = text.lines().next()?.trim().parse().ok()?;
    let name = root.read(format!("/proc/{pid}/comm")).ok()??;
    matches!(name.trim(), "postgres" | "postmaster").then_some(pid)
}

/// Creates a directory that only its owner (and group) can enter, or sets the mode of an empty one.
pub(crate) fn private_directory(root: &Root, directory: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let real = root.path(directory);
    let create = || -> std::io::Result<()> {
        if let Some(parent) = real.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        DirBuilder::new().recursive(true).mode(mode).create(&real)?;
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(mode))
    };
    create()
        .with_context(|| format!("could not create the directory {}", directory.display()))
        .or_hint(|| format!("Create it with: install -d -o postgres -g postgres -m {mode:o} {}", directory.display()))
}
