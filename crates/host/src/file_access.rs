//! May a user of the machine read a file? By owner, group and mode, as the kernel decides; access lists are not looked at.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::sys::stat::FileStat;

use crate::Root;

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
            gid: gid.with_context(|| format!("/etc/passwd has no group of {name}"))?,
            groups: groups.collect(),
        })
    }

    /// A user that this machine does not know: what it may is what everybody may.
    pub(crate) fn without_rights(name: &str) -> Self {
        Self { name: name.to_owned(), uid: u32::MAX, gid: u32::MAX, groups: Vec::new() }
    }

    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }

    /// Is it an error for this user to read a file that is there? Says who may and what to do.
    pub fn check_reads(&self, root: &Root, path: &Path) -> Result<()> {
        // What the file's name leads to may be elsewhere, and is reached by its own directories too.
        let real =
            root.inside(&root.path(path).canonicalize().with_context(|| format!("cannot find {}", path.display()))?);
        for file in [path, &real] {
            for directory in file.ancestors().skip(1) {
                if !self.may(root, directory, 0o1)? {
                    bail!("{}: {}", path.display(), self.refusal(root, directory, "enter", 0o1)?);
                }
            }
        }
        if self.may(root, &real, 0o4)? {
            return Ok(());
        }
        bail!("{}", self.refusal(root, &real, "read", 0o4)?)
    }

    /// Is it an error for this user to write into a file that is there, such as a device?
    pub fn check_writes(&self, root: &Root, path: &Path) -> Result<()> {
        if self.may(root, path, 0o2)? {
            return Ok(());
        }
        bail!("{}", self.refusal(root, path, "write", 0o2)?)
    }

    fn may(&self, root: &Root, path: &Path, bit: u32) -> Result<bool> {
        let found = root.path(path).metadata().with_context(|| format!("cannot look at {}", path.display()))?;
        Ok(self.has_bit(found.uid(), found.gid(), found.mode(), bit))
    }

    /// Has the user one of the three bits of what an open handle stands for?
    pub(crate) fn has(&self, found: &FileStat, bit: u32) -> bool {
        self.has_bit(found.st_uid, found.st_gid, found.st_mode, bit)
    }

    /// Only the bits of the first class that fits count (`path_resolution(7)`).
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

    fn refusal(&self, root: &Root, path: &Path, verb: &str, bit: u32) -> Result<String> {
        let found = root.path(path).metadata()?;
        let (user, shown) = (&self.name, path.display());
        let group = self.groups.iter().find(|group| group.gid == found.gid() && group.gid != 0);
        let remedy = match group {
            // A group for those who may.
            Some(group) if found.mode() & (bit << 3) != 0 => {
                format!("run adduser {user} {}, and restart what runs as {user}", group.name)
            }
            _ if found.is_dir() => format!("move the file to a directory that {user} can enter, such as /etc/patroni"),
            _ => format!("run chgrp {user} {shown} && chmod g+r {shown}"),
        };
        Ok(format!("{user} cannot {verb} {shown} (mode {:04o}): {remedy}", found.mode() & 0o7777))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
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
            // For root nothing is forbidden, so it is somebody else's.
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
        User::of(root, "postgres").unwrap().check_reads(root, Path::new(KEY)).map_err(|error| error.to_string())
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
            format!("postgres cannot read {KEY} (mode 0600): run chgrp postgres {KEY} && chmod g+r {KEY}")
        );
        let error = reads(&root, 0o640).unwrap_err();
        assert!(
            error.ends_with("(mode 0640): run adduser postgres certs, and restart what runs as postgres"),
            "{error}"
        );
        set_permissions(root.path("/etc/tls"), Permissions::from_mode(0o700)).unwrap();
        let error = reads(&root, 0o644).unwrap_err();
        assert!(
            error.starts_with("/etc/tls/key: postgres cannot enter /etc/tls (mode 0700): move the file"),
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
