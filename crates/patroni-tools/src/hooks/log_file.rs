//! The log of a cluster, which belongs to group adm like all logs of Debian, so that its members can read it. `pg_ctlcluster` and
//! `pg_createcluster` do this as root. postgres cannot give a file to a group in which it is not.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use anyhow::{Context as _, Result};
use host::{ClusterId, Root};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::{Gid, Uid, fchownat};

/// Of all clusters. postgres can create names there, but not remove those of root.
const DIRECTORY: &str = "/var/log/postgresql";

/// The owners of logs.
struct Owners {
    postgres: u32,
    postgres_group: u32,
    adm: u32,
}

/// Creates the log that is missing, and gives one that postgres has created to group adm. A log with another group, and a link, is the
/// administrator's and stays as it is. Only root can do this.
pub(crate) fn prepare(root: &Root, id: &ClusterId) -> Result<()> {
    let owners = Owners {
        postgres: root.user_id("postgres")?,
        postgres_group: root.group_id("postgres")?,
        adm: root.group_id("adm")?,
    };
    let directory =
        directory(root, owners.postgres_group).with_context(|| format!("could not open the directory {DIRECTORY}"))?;
    let name = format!("postgresql-{}.log", id.dashed());
    file(&directory, &name, &owners).with_context(|| format!("could not prepare {DIRECTORY}/{name}"))
}

/// The directory, which is created as `pg_ctlcluster` does.
fn directory(root: &Root, group: u32) -> io::Result<File> {
    let real = root.path(DIRECTORY);
    let created = match DirBuilder::new().mode(0o755).create(&real) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    let directory = std::fs::OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(real)?;
    if created {
        fchown(&directory, None, Some(group))?;
        directory.set_permissions(std::fs::Permissions::from_mode(0o1775))?;
    }
    Ok(directory)
}

fn file(directory: &File, name: &str, owners: &Owners) -> io::Result<()> {
    let own = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let new = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | own;
    match openat(directory, name, new, Mode::from_bits_truncate(0o640)) {
        Ok(_) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    // Nothing is opened: postgres can have put any name there.
    let found = openat(directory, name, OFlag::O_PATH | own, Mode::empty())?;
    if !is_log_without_adm(&fstat(&found)?, owners) {
        return Ok(());
    }
    let (postgres, adm) = (Uid::from_raw(owners.postgres), Gid::from_raw(owners.adm));
    fchownat(found.as_fd(), Path::new(""), Some(postgres), Some(adm), AtFlags::AT_EMPTY_PATH)?;
    Ok(())
}

/// A file of postgres, or an empty one of root, that has this name alone.
fn is_log_without_adm(stat: &FileStat, owners: &Owners) -> bool {
    let is_file = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
    let of_postgres = stat.st_uid == owners.postgres && stat.st_gid == owners.postgres_group;
    let of_root = stat.st_uid == 0 && stat.st_gid == 0 && stat.st_size == 0;
    is_file && stat.st_nlink == 1 && stat.st_mode & 0o7000 == 0 && (of_postgres || of_root)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{MetadataExt, chown, symlink};

    use nix::unistd::geteuid;

    use super::*;

    #[test]
    fn the_log_belongs_to_adm_and_nothing_else_changes() {
        if !geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        std::fs::create_dir_all(root.path("/etc")).unwrap();
        std::fs::create_dir_all(root.path("/var/log")).unwrap();
        std::fs::write(root.path("/etc/passwd"), "postgres:x:103:106::/:/bin/sh\n").unwrap();
        std::fs::write(root.path("/etc/group"), "adm:x:4:\npostgres:x:106:\n").unwrap();
        let id: ClusterId = "17/main".parse().unwrap();
        let log = root.path("/var/log/postgresql/postgresql-17-main.log");
        let of = |path: &Path| {
            let found = path.symlink_metadata().unwrap();
            (found.uid(), found.gid(), found.mode() & 0o7777)
        };

        // The umask of the program is 022.
        prepare(&root, &id).unwrap();
        assert_eq!(of(log.parent().unwrap()), (0, 106, 0o1775));
        assert_eq!(of(&log), (103, 4, 0o640));

        for (uid, gid, mode, after) in [
            (103, 106, 0o640, (103, 4, 0o640)),
            (103, 106, 0o600, (103, 4, 0o600)),
            (103, 50, 0o640, (103, 50, 0o640)),
            (1000, 106, 0o640, (1000, 106, 0o640)),
            (0, 0, 0o640, (0, 0, 0o640)),
            (103, 106, 0o2640, (103, 106, 0o2640)),
        ] {
            std::fs::write(&log, "old\n").unwrap();
            chown(&log, Some(uid), Some(gid)).unwrap();
            std::fs::set_permissions(&log, std::fs::Permissions::from_mode(mode)).unwrap();
            prepare(&root, &id).unwrap();
            assert_eq!(of(&log), after);
            assert_eq!(std::fs::read_to_string(&log).unwrap(), "old\n");
        }

        let other = root.path("/var/log/other");
        std::fs::write(&other, "").unwrap();
        chown(&other, Some(103), Some(106)).unwrap();
        std::fs::remove_file(&log).unwrap();
        std::fs::hard_link(&other, &log).unwrap();
        prepare(&root, &id).unwrap();
        assert_eq!((of(&other).1, of(&log).1), (106, 106), "a file with two names");
        std::fs::remove_file(&log).unwrap();
        symlink("/var/log/other", &log).unwrap();
        prepare(&root, &id).unwrap();
        assert_eq!(of(&other).1, 106, "a link");
        std::fs::remove_file(&log).unwrap();
        nix::unistd::mkfifo(&log, Mode::from_bits_truncate(0o640)).unwrap();
        chown(&log, Some(103), Some(106)).unwrap();
        prepare(&root, &id).unwrap();
        assert_eq!(of(&log).1, 106, "a FIFO");
    }
}
