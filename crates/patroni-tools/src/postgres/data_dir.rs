//! A data directory: if it is empty, if a server runs in it, and how it is created.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

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

/// The process of the server that runs in a data directory, from its `postmaster.pid`. A file that a crash has left may name a process of
/// another cluster: a server has its data directory as its current one (`ChangeToDataDir` in `miscinit.c`), as far as the caller sees it.
pub(crate) fn running_server(root: &Root, directory: &Path) -> Option<u32> {
    let text = root.read(directory.join("postmaster.pid")).ok()??;
    let pid = text.lines().next()?.trim().parse().ok()?;
    let name = root.read(format!("/proc/{pid}/comm")).ok()??;
    let place = |path: PathBuf| path.metadata().map(|found| (found.dev(), found.ino())).ok();
    let works_in = place(root.path(format!("/proc/{pid}/cwd")));
    let is_elsewhere = works_in.is_some_and(|works_in| Some(works_in) != place(root.path(directory)));
    (!is_elsewhere && matches!(name.trim(), "postgres" | "postmaster")).then_some(pid)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_process_of_another_cluster_is_not_the_server_that_a_crash_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        for directory in ["/data/own", "/data/other", "/proc/71"] {
            std::fs::create_dir_all(root.path(directory)).unwrap();
        }
        std::fs::write(root.path("/data/own/postmaster.pid"), "71\n/data/own\n").unwrap();
        std::fs::write(root.path("/proc/71/comm"), "postgres\n").unwrap();
        let found = || running_server(&root, Path::new("/data/own"));
        assert_eq!(found(), Some(71), "a process whose directory is hidden from the caller");
        std::os::unix::fs::symlink(root.path("/data/other"), root.path("/proc/71/cwd")).unwrap();
        assert_eq!(found(), None);
        std::fs::remove_file(root.path("/proc/71/cwd")).unwrap();
        std::os::unix::fs::symlink(root.path("/data/own"), root.path("/proc/71/cwd")).unwrap();
        assert_eq!(found(), Some(71));
    }
}
