//! Replaces a file that programs of other users read, in a directory to which the way may lead through one of theirs.
//!
//! Debian's `/var/lib/prometheus/node-exporter` belongs to root, but its parent to prometheus, which could put a link in its place. So the
//! directory is opened first, without following links of other users, and everything else is done by its handle.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use host::files::{Named, Opener};
use host::trouble::Trouble;
use host::{Root, fail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Replaces the file with one that all users can read. No reader sees a part of it.
pub fn export(root: &Root, path: &Path, text: &str) -> Result<()> {
    let shown = path.display();
    let (Some(parent), Some(name)) = (path.parent().filter(|_| path.is_absolute()), path.file_name()) else {
        fail!("{shown} is not the absolute path of a file"; "Write it as in /var/lib/prometheus/node-exporter/patroni-tools.prom.")
    };
    let Some(directory) = Opener::new(root, Named::Secret).directory(parent)? else {
        fail!("there is no directory {}", parent.display(); "If node_exporter is to read it there, run: apt install prometheus-node-exporter")
    };
    // The collector reads names that end with .prom.
    let new = format!(".{}.new", name.to_string_lossy());
    let failed = |errno: Errno| Trouble::failed(format!("could not write {shown}"), io::Error::from(errno));
    match unlinkat(&directory, new.as_str(), UnlinkatFlags::NoRemoveDir) {
        // Of a run that was killed.
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(failed(errno).into()),
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file =
        File::from(openat(&directory, new.as_str(), flags, Mode::from_bits_truncate(0o600)).map_err(failed)?);
    // Regardless of the umask.
    fchmod(&file, Mode::from_bits_truncate(0o644)).map_err(failed)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let written = written.with_context(|| format!("could not write {shown}"));
    let put = written
        .and_then(|()| renameat(&directory, new.as_str(), &directory, name).map_err(|errno| failed(errno).into()));
    if put.is_err() {
        let _ = unlinkat(&directory, new.as_str(), UnlinkatFlags::NoRemoveDir);
    }
    put
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use nix::unistd::Uid;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};

    #[test]
    fn a_file_is_replaced_as_a_whole_and_where_its_path_says() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let path = Path::new("/var/lib/prometheus/node-exporter/a.prom");
        let said = |path: &str| Trouble::of(&export(&root, Path::new(path), "x").unwrap_err()).line();
        assert_eq!(
            said("/var/lib/prometheus/node-exporter/a.prom"),
            "there is no directory /var/lib/prometheus/node-exporter"
        );
        assert_eq!(said("a.prom"), "a.prom is not the absolute path of a file");
        let real = root.path("/var/lib/prometheus/node-exporter");
        fs::create_dir_all(&real).unwrap();
        // What a killed run has left is no obstacle, and no link there is followed.
        symlink("/etc/passwd", real.join(".a.prom.new")).unwrap();
        for text in ["first\n", "2\n"] {
            export(&root, path, text).unwrap();
            assert_eq!(fs::read_to_string(real.join("a.prom")).unwrap(), text);
        }
        assert_eq!(fs::metadata(real.join("a.prom")).unwrap().permissions().mode() & 0o7777, 0o644);
        assert_eq!(fs::read_dir(&real).unwrap().count(), 1);
        if !Uid::effective().is_root() {
            return;
        }
        fs::create_dir_all(root.path("/etc/cron.d")).unwrap();
        fs::rename(&real, root.path("/var/lib/prometheus/old")).unwrap();
        symlink("/etc/cron.d", &real).unwrap();
        lchown(&real, Some(4242), None).unwrap();
        let error = format!("{:#}", export(&root, path, "x").unwrap_err());
        assert!(error.contains("is a symbolic link that does not belong to root"), "{error}");
        assert_eq!(fs::read_dir(root.path("/etc/cron.d")).unwrap().count(), 0);
        // One of root is.
        lchown(&real, Some(0), None).unwrap();
        export(&root, path, "x").unwrap();
        assert!(root.path("/etc/cron.d/a.prom").exists());
    }
}
