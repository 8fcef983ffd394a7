//! Replaces a file that programs of other users read, in a directory to which the way may lead through one of theirs.
//!
//! Debian's `/var/lib/prometheus/node-exporter` belongs to root, but its parent to prometheus, which could put a link in its place. So the
//! directory is opened first, without following links of other users, and everything else is done by its handle.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use host::files::{Named, Opener};
use host::trouble::Trouble;
use host::{Root, fail};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Files that this process has written.
static WRITTEN: AtomicU32 = AtomicU32::new(0);

/// Replaces the file with one that all users can read. No reader sees a part of it, also if the timer and an administrator do so at the
/// same time.
pub fn export(root: &Root, path: &Path, text: &str) -> Result<()> {
    let shown = path.display();
    let (Some(parent), Some(name)) = (path.parent().filter(|_| path.is_absolute()), path.file_name()) else {
        fail!("{shown} is not the absolute path of a file"; "Write it as in /var/lib/prometheus/node-exporter/patroni-tools.prom.")
    };
    let Some(directory) = Opener::new(root, Named::Secret).directory(parent)? else {
        fail!("there is no directory {}", parent.display(); "If node_exporter is to read it there, run: apt install prometheus-node-exporter")
    };
    let is_other = |mode| SFlag::from_bits_truncate(mode) & SFlag::S_IFMT != SFlag::S_IFREG;
    if fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|stat| is_other(stat.st_mode)) {
        // Such as /dev/stdout, which all programs need.
        fail!("{shown} is not a regular file, so it is not replaced"; "Name a file, or leave out --output.")
    }
    // The collector reads names that end with .prom. Another process has another name.
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let new = format!(".{}.{}-{number}.new", name.to_string_lossy(), std::process::id());
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
        let next = WRITTEN.load(Ordering::Relaxed);
        for number in next..next + 20 {
            symlink("/etc/passwd", real.join(format!(".a.prom.{}-{number}.new", std::process::id()))).unwrap();
        }
        for text in ["first\n", "2\n"] {
            export(&root, path, text).unwrap();
            assert_eq!(fs::read_to_string(real.join("a.prom")).unwrap(), text);
        }
        assert_eq!(fs::metadata(real.join("a.prom")).unwrap().permissions().mode() & 0o7777, 0o644);
        for name in fs::read_dir(&real).unwrap().map(|entry| entry.unwrap().file_name()) {
            assert!(name == "a.prom" || real.join(&name).is_symlink(), "{name:?} is left");
        }
        symlink("/etc/passwd", real.join("b.prom")).unwrap();
        assert_eq!(
            said("/var/lib/prometheus/node-exporter/b.prom"),
            "/var/lib/prometheus/node-exporter/b.prom is not a regular file, so it is not replaced"
        );
        assert!(real.join("b.prom").is_symlink());
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

    #[test]
    fn several_that_write_at_the_same_time_do_not_see_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        fs::create_dir(root.path("/metrics")).unwrap();
        let text = "x".repeat(100_000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        export(&root, Path::new("/metrics/a.prom"), &text).unwrap();
                        assert_eq!(fs::read_to_string(root.path("/metrics/a.prom")).unwrap().len(), text.len());
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(root.path("/metrics")).unwrap().count(), 1);
    }
}
