//! Checks that the caller can read what patronictl has to read. patronictl itself would print a stack trace, or nothing.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use host::files::{Named, Opener};
use host::{Root, fail};
use nix::unistd::{Uid, User};

use crate::files::yaml::Yaml;

/// The files for the connection to the DCS in the Patroni file: sections and keys.
const DCS: [&str; 4] = ["etcd3", "etcd", "consul", "zookeeper"];
const FILES: [&str; 3] = ["cacert", "cert", "key"];

/// The certificates and the key with which patronictl connects to the DCS.
pub fn of_dcs(yaml: &Yaml) -> Vec<PathBuf> {
    let sections = DCS.iter().flat_map(|dcs| FILES.map(|file| [*dcs, file]));
    sections.filter_map(|path| yaml.text(&path).map(PathBuf::from)).collect()
}

/// Does a file exist that the caller cannot read? A missing one is reported elsewhere.
pub fn refused(root: &Root, path: &Path) -> bool {
    let denied = |error: anyhow::Error| {
        error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::PermissionDenied)
    };
    !Uid::effective().is_root() && Opener::new(root, Named::Here).open(path).is_err_and(denied)
}

/// Fails if the caller cannot read all of the files, and says what to do.
pub fn check(root: &Root, paths: &[PathBuf]) -> Result<()> {
    let refused: Vec<&PathBuf> = paths.iter().filter(|path| refused(root, path)).collect();
    if refused.is_empty() {
        return Ok(());
    }
    let names = refused.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    let groups: Option<BTreeSet<String>> = refused.iter().map(|path| group(root, path)).collect();
    let Some(groups) = groups else { fail!("you cannot read {names}"; "Run this as root (sudo).") };
    let user = Uid::effective();
    let user = User::from_uid(user).ok().flatten().map_or_else(|| user.to_string(), |user| user.name);
    let commands = groups.iter().map(|group| format!("adduser {user} {group}")).collect::<Vec<_>>().join(", ");
    fail!(
        "you cannot read {names}";
        "Run this as root (sudo), or become a member of group {} ({commands}, and log in again).",
        groups.into_iter().collect::<Vec<_>>().join(" and ")
    )
}

/// The group other than root that has the permission which the caller lacks: to read the file, or to enter the directory before it.
fn group(root: &Root, path: &Path) -> Option<String> {
    const READ: u32 = 0o040;
    const ENTER: u32 = 0o010;
    let (barrier, found) = path.ancestors().find_map(|barrier| Some((barrier, root.path(barrier).metadata().ok()?)))?;
    let permission = if barrier == path { READ } else { ENTER };
    if found.gid() == 0 || found.mode() & permission == 0 {
        return None;
    }
    let groups = root.read("/etc/group").ok()??;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(found.gid())).then(|| name.to_owned())
    })
}
