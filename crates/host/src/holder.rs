//! Names the holder of a port, a connection or a lock on this host: user, process ID and command, as far as the caller may see them.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::Root;
use crate::clusters::Listener;
use crate::report::plain;

/// The limit for a search through the descriptors of all processes.
const SEARCH: Duration = Duration::from_secs(2);

/// The processes that have a socket open. Only root can see those of other users.
#[must_use]
pub fn of_socket(root: &Root, inode: u64) -> Vec<u32> {
    let link = format!("socket:[{inode}]");
    let has = |pid: &u32| {
        let open = std::fs::read_dir(root.path(directory(*pid).join("fd"))).into_iter().flatten().flatten();
        open.map(|entry| entry.path()).any(|entry| std::fs::read_link(entry).is_ok_and(|to| to.as_os_str() == &*link))
    };
    let end = Instant::now() + SEARCH;
    processes(root).into_iter().take_while(|_| Instant::now() < end).filter(has).collect()
}

fn processes(root: &Root) -> Vec<u32> {
    root.list("/proc").unwrap_or_default().iter().filter_map(|name| name.parse().ok()).collect()
}

fn directory(pid: u32) -> PathBuf {
    PathBuf::from("/proc").join(pid.to_string())
}

/// The process that has locked a file as a whole (`flock(2)`, `/proc/locks`).
#[must_use]
pub fn of_lock(root: &Root, file: &std::fs::Metadata) -> Option<u32> {
    let (major, minor) = (nix::sys::stat::major(file.dev()), nix::sys::stat::minor(file.dev()));
    let wanted = format!("{major:02x}:{minor:02x}:{}", file.ino());
    let locks = root.read("/proc/locks").ok().flatten()?;
    locks.lines().find_map(|line| {
        // 1: FLOCK ADVISORY WRITE 4711 00:19:1234 0 EOF; a waiting process has an arrow before that.
        let fields: Vec<&str> = line.split_whitespace().skip(1).collect();
        (fields.first() == Some(&"FLOCK") && fields.get(4) == Some(&wanted.as_str()))
            .then(|| fields.get(3)?.parse().ok())?
    })
}

/// `python3 (process 4711)`; a process chooses its name itself.
#[must_use]
pub fn process(root: &Root, pid: u32) -> String {
    let command = root.read(directory(pid).join("comm")).ok().flatten().unwrap_or_default();
    match plain(command.trim()).trim() {
        "" => format!("process {pid}"),
        command => format!("{command} (process {pid})"),
    }
}

/// `user mallory (uid 1000)`, according to `/etc/passwd` of the machine.
#[must_use]
pub fn user(root: &Root, uid: u32) -> String {
    let passwd = root.read("/etc/passwd").ok().flatten().unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    });
    name.map_or_else(|| format!("uid {uid}"), |name| format!("user {} (uid {uid})", plain(name)))
}

/// The holder of a socket: `python3 (process 4711) of user mallory (uid 1000)`, without the process if it cannot be seen. It is only
/// searched for with `search`, as this takes time on a host with many processes.
#[must_use]
pub fn describe(root: &Root, uid: u32, inode: u64, search: bool) -> String {
    let user = user(root, uid);
    let seen = if search { of_socket(root, inode) } else { Vec::new() };
    match seen.first() {
        Some(pid) => format!("{} of {user}", process(root, *pid)),
        None => format!("a process of {user}"),
    }
}

/// The user of a listening socket, if it is a foreign one: neither root, which may have passed the socket on, nor `user`, which runs
/// Patroni and PostgreSQL. The caller is not excepted.
#[must_use]
pub fn foreign_user(root: &Root, listener: &Listener, user: &str) -> Option<u32> {
    let own = root.user_id(user).ok()?;
    listener.uid.filter(|uid| ![0, own].contains(uid))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use nix::unistd::geteuid;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_socket_is_named_with_user_and_process() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let uid = geteuid().as_raw();
        let passwd = format!("other:x:{}:1::/:/bin/sh\nme:x:{uid}:1::/:/bin/sh\n", uid + 1);
        for (path, text) in [("etc/passwd", passwd.as_str()), ("proc/71/comm", "evil\u{1b}[2J\n"), ("proc/net/tcp", "")]
        {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        std::fs::create_dir(folder.path().join("proc/71/fd")).unwrap();
        std::os::unix::fs::symlink("socket:[8]", folder.path().join("proc/71/fd/3")).unwrap();
        assert_eq!(describe(&root, uid, 8, true), format!("evil [2J (process 71) of user me (uid {uid})"));
        assert_eq!(describe(&root, uid, 9, true), format!("a process of user me (uid {uid})"));
        assert_eq!(describe(&root, uid, 8, false), format!("a process of user me (uid {uid})"));
        assert_eq!(user(&root, uid + 2), format!("uid {}", uid + 2));
    }

    #[test]
    fn root_and_the_user_of_postgresql_are_not_foreign() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let own = geteuid().as_raw();
        let listener = |uid| Listener { address: [127, 0, 0, 1].into(), port: 5432, uid, inode: 1 };
        let foreign = |uid| foreign_user(&root, &listener(uid), "postgres");
        // Without the user nothing is known to be foreign.
        assert_eq!(foreign(Some(own + 2)), None);
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        std::fs::write(folder.path().join("etc/passwd"), format!("postgres:x:{}:1::/:/bin/sh\n", own + 1)).unwrap();
        for uid in [None, Some(0), Some(own + 1)] {
            assert_eq!(foreign(uid), None, "{uid:?}");
        }
        assert_eq!(foreign(Some(own + 2)), Some(own + 2));
        // A user in group postgres that runs `dnscp status` and listens on the port itself.
        assert_eq!(foreign(Some(own)), Some(own).filter(|own| *own != 0));
    }

    #[test]
    fn the_kernels_own_tables_are_understood() {
        let (root, own) = (Root::new("/"), std::process::id());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = std::fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let inode = link.to_str().unwrap().trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        assert!(of_socket(&root, inode).contains(&own));
        let file = tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile()).unwrap();
        let data = file.metadata().unwrap();
        assert_eq!(of_lock(&root, &data), None);
        let _lock = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
        assert_eq!(of_lock(&root, &data), Some(own));
    }
}
