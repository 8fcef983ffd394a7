//! May a user of the machine read a file? By owner, group and mode, as the kernel decides; access control lists are ignored.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::stat::FileStat;

use crate::program::quoted;
use crate::trouble::{Explain, Trouble};
use crate::{Root, trouble};

/// A user of the machine with its groups, from `/etc/passwd` and `/etc/group` (system users are always there).
#[derive(Debug)]
pub struct User {
    name: String,
    uid: u32,
    gid: u32,
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

impl User {
    /// The user of this name.
    pub fn of(root: &Root, name: &str) -> Result<Self> {
        let uid = root.user_id(name)?;
        let passwd = root.account_file("/etc/passwd")?;
        let own = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == name);
        let gid = own.and_then(|fields| fields.get(3)?.parse().ok());
        let text = root.account_file("/etc/group")?;
        let groups = text.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let members = fields.get(3).map_or_else(Vec::new, |names| names.split(',').map(str::to_owned).collect());
            Some(Group { name: (*fields.first()?).to_owned(), gid: fields.get(2)?.parse().ok()?, members })
        });
        Ok(Self {
            name: name.to_owned(),
            uid,
            gid: gid.ok_or_else(|| trouble!(at "/etc/passwd", "user {name} has no group"))?,
            groups: groups.collect(),
        })
    }

    /// A user that does not exist on this machine: it may do what all users may do.
    pub(crate) fn without_permissions(name: &str) -> Self {
        Self { name: name.to_owned(), uid: u32::MAX, gid: u32::MAX, groups: Vec::new() }
    }

    /// The first directory on the way to an existing directory, or that directory itself, that this user cannot enter.
    pub fn barred(&self, root: &Root, directory: &Path) -> Result<Option<PathBuf>> {
        let mut way: Vec<&Path> = directory.ancestors().collect();
        way.reverse();
        for step in way {
            if !self.may(root, step, 0o1)? {
                return Ok(Some(step.to_owned()));
            }
        }
        Ok(None)
    }

    /// Can this user create files in an existing directory, if it can enter it?
    pub fn creates_in(&self, root: &Root, directory: &Path) -> Result<bool> {
        self.may(root, directory, 0o2)
    }

    /// The numeric id.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Fails if this user cannot read a file that exists.
    pub fn check_reads(&self, root: &Root, path: &Path) -> Result<()> {
        // The target of a link may be elsewhere, and is reached through its own directories, too.
        let real = root.path(path).canonicalize();
        let real = root.inside(&real.with_context(|| format!("could not find {}", path.display()))?);
        for file in [path, &real] {
            for directory in file.ancestors().skip(1) {
                if !self.may(root, directory, 0o1)? {
                    return Err(self.refusal(root, directory, "enter", 0o1)?).at(path.display());
                }
            }
        }
        if self.may(root, &real, 0o4)? {
            return Ok(());
        }
        Err(self.refusal(root, &real, "read", 0o4)?.into())
    }

    /// Fails if this user cannot write to a file that exists, such as a device.
    pub fn check_writes(&self, root: &Root, path: &Path) -> Result<()> {
        if self.may(root, path, 0o2)? {
            return Ok(());
        }
        Err(self.refusal(root, path, "write", 0o2)?.into())
    }

    fn may(&self, root: &Root, path: &Path, bit: u32) -> Result<bool> {
        let found = root.path(path).metadata().with_context(|| format!("could not examine {}", path.display()))?;
        Ok(self.has_bit(found.uid(), found.gid(), found.mode(), bit))
    }

    /// Does the user have this permission on what an open handle refers to?
    pub(crate) fn has(&self, found: &FileStat, bit: u32) -> bool {
        self.has_bit(found.st_uid, found.st_gid, found.st_mode, bit)
    }

    /// Only the bits of the first matching class count (`path_resolution(7)`).
    fn has_bit(&self, uid: u32, gid: u32, mode: u32, bit: u32) -> bool {
        match (uid == self.uid, self.is_in(gid)) {
            _ if self.uid == 0 => true,
            (true, _) => mode & (bit << 6) != 0,
            (_, true) => mode & (bit << 3) != 0,
            _ => mode & bit != 0,
        }
    }

    fn is_in(&self, gid: u32) -> bool {
        let listed = |group: &Group| group.gid == gid && group.members.contains(&self.name);
        self.gid == gid || self.groups.iter().any(listed)
    }

    fn refusal(&self, root: &Root, path: &Path, verb: &str, bit: u32) -> Result<Trouble> {
        let found = root.path(path).metadata()?;
        let (user, shown) = (&self.name, path.display());
        let group = self.groups.iter().find(|group| group.gid == found.gid() && group.gid != 0);
        let hint = match group {
            // A group whose members may do so.
            Some(group) if found.mode() & (bit << 3) != 0 => {
                format!("Add {user} to the group, then restart what runs as {user}: adduser {user} {}", group.name)
            }
            _ if found.is_dir() => format!("Move the file to a directory that {user} can enter, such as /etc/patroni."),
            _ => {
                let word = quoted(&shown.to_string());
                format!("Run: chgrp {user} {word} && chmod g+r {word}")
            }
        };
        let mode = found.mode() & 0o7777;
        Ok(trouble!("{user} cannot {verb} {shown} (mode {mode:04o})"; "{hint}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::trouble::told;
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::{PermissionsExt, chown};

    const KEY: &str = "/etc/tls/key";
    const OTHER: u32 = 54_321;

    /// A machine with a file, whose owner and group are given to `passwd` and `group`.
    fn machine(passwd: impl Fn(u32, u32) -> (u32, u32), group: &str) -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        std::fs::create_dir_all(root.path("/etc/tls")).unwrap();
        std::fs::write(root.path(KEY), "").unwrap();
        if nix::unistd::geteuid().is_root() {
            // Root may do everything, so the file belongs to another user.
            chown(root.path(KEY), Some(4242), Some(4343)).unwrap();
        }
        let own = root.path(KEY).metadata().unwrap();
        let (uid, gid) = passwd(own.uid(), own.gid());
        std::fs::write(root.path("/etc/passwd"), format!("postgres:x:{uid}:{gid}::/:/bin/sh\n")).unwrap();
        std::fs::write(root.path("/etc/group"), group.replace("OWN", &own.gid().to_string())).unwrap();
        for directory in ["/", "/etc", "/etc/tls"] {
            set_permissions(root.path(directory), Permissions::from_mode(0o755)).unwrap();
        }
        (folder, root)
    }

    fn reads(root: &Root, mode: u32) -> Result<(), String> {
        set_permissions(root.path(KEY), Permissions::from_mode(mode)).unwrap();
        User::of(root, "postgres").unwrap().check_reads(root, Path::new(KEY)).map_err(|error| told(&error))
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        let (_folder, root) = machine(|uid, _| (uid, OTHER), "");
        assert!(reads(&root, 0o400).is_ok() && reads(&root, 0o044).is_err());
        let (_folder, root) = machine(|_, gid| (OTHER, gid), "");
        assert!(reads(&root, 0o640).is_ok() && reads(&root, 0o604).is_err());
        let (_folder, root) = machine(|_, _| (OTHER, OTHER), "certs:x:OWN:www,postgres\n");
        assert!(reads(&root, 0o640).is_ok() && reads(&root, 0o604).is_err());
        let (_folder, root) = machine(|_, _| (OTHER, OTHER), "certs:x:OWN:www\n");
        assert!(reads(&root, 0o604).is_ok() && reads(&root, 0o640).is_err());
    }

    #[test]
    fn the_remedy_is_the_one_that_fits() {
        let (_folder, root) = machine(|_, _| (OTHER, OTHER), "certs:x:OWN:www\n");
        let error = reads(&root, 0o600).unwrap_err();
        assert_eq!(
            error,
            format!("postgres cannot read {KEY} (mode 0600)\nhint: Run: chgrp postgres {KEY} && chmod g+r {KEY}")
        );
        let error = reads(&root, 0o640).unwrap_err();
        assert!(error.ends_with(", then restart what runs as postgres: adduser postgres certs"), "{error}");
        set_permissions(root.path("/etc/tls"), Permissions::from_mode(0o700)).unwrap();
        let error = reads(&root, 0o644).unwrap_err();
        assert!(
            error.starts_with("/etc/tls/key: postgres cannot enter /etc/tls (mode 0700)\nhint: Move the file"),
            "{error}"
        );
    }

    #[test]
    fn a_link_is_followed() {
        let (_folder, root) = machine(|_, gid| (OTHER, gid), "");
        std::os::unix::fs::symlink("tls/key", root.path("/etc/link")).unwrap();
        reads(&root, 0o640).unwrap();
        let user = User::of(&root, "postgres").unwrap();
        user.check_reads(&root, Path::new("/etc/link")).unwrap();
        set_permissions(root.path(KEY), Permissions::from_mode(0o600)).unwrap();
        assert!(user.check_reads(&root, Path::new("/etc/link")).unwrap_err().to_string().contains(KEY));
    }
}
