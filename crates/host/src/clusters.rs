//! The clusters of this host, with their ports, as `pg_lsclusters` sees them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result};

use crate::conf::{Budget, Conf, Reader};
use crate::files::Named;
use crate::netlink::sock_diag::{self, Socket};
use crate::trouble::Trouble;
use crate::{ClusterId, Root, fail, trouble};

/// Where the configuration of clusters is: `/etc/postgresql/VERSION/NAME`.
pub const CONFIG_ROOT: &str = "/etc/postgresql";

/// PostgreSQL's default port.
pub const DEFAULT_PORT: u16 = 5432;

/// A cluster that has a configuration on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Version and name.
    pub id: ClusterId,
    /// The port in its configuration, or 5432.
    pub port: u16,
    /// Its data directory, if the configuration names one.
    pub data_directory: Option<PathBuf>,
}

/// The configuration directory of a cluster.
#[must_use]
pub fn config_directory(id: &ClusterId) -> PathBuf {
    PathBuf::from(CONFIG_ROOT).join(id.version.as_str()).join(id.name.as_str())
}

/// The clusters of a host.
#[derive(Debug, Default)]
pub struct Clusters {
    /// The clusters whose configuration can be read, in the order of `pg_lsclusters`.
    pub known: Vec<Installed>,
    /// The other clusters, and why their ports and data directories are not known. The configuration of a cluster belongs to postgres, and that of
    /// one cluster prevents no work on another one; but a conflict that is not detected for this reason has to be reported.
    pub unknown: Vec<(String, Error)>,
}

impl Clusters {
    /// One warning about all of them.
    #[must_use]
    pub fn warning(&self) -> Option<Trouble> {
        let (whose, error) = self.unknown.first()?;
        let why = Trouble::of(error).line();
        let more = match self.unknown.len() - 1 {
            0 => String::new(),
            number => format!(" (and {number} more)"),
        };
        Some(trouble!(
            "the port and the data directory of {whose} are not known: {why}{more}";
            "Make sure that no other cluster has them."
        ))
    }
}

/// All clusters of this host.
#[must_use]
pub fn installed(root: &Root) -> Clusters {
    let mut found = Clusters::default();
    let mut reader = Reader::new(root, Budget::ALL);
    let list = |directory: &Path, whose: &str| match root.list(directory) {
        Ok(names) => (names, None),
        Err(error) => (Vec::new(), Some((whose.to_owned(), error))),
    };
    let (versions, fault) = list(Path::new(CONFIG_ROOT), "the clusters of this host");
    found.unknown.extend(fault);
    for version in versions {
        let Ok(version) = version.parse::<crate::PgVersion>() else { continue };
        let directory = Path::new(CONFIG_ROOT).join(version.as_str());
        let (names, fault) = list(&directory, &format!("the clusters of {version}"));
        found.unknown.extend(fault);
        for name in names {
            let Ok(name) = name.parse() else { continue };
            let id = ClusterId { version: version.clone(), name };
            match reader.share(|reader| find_with(root, &id, reader)) {
                Ok(cluster) => found.known.extend(cluster),
                Err(error) => found.unknown.push((id.slashed(), error)),
            }
        }
    }
    found.known.sort_by(|a, b| a.id.cmp(&b.id));
    found
}

/// One cluster of this host, if it has a `postgresql.conf` (a dead symbolic link counts, as for postgresql-common).
pub fn find(root: &Root, id: &ClusterId) -> Result<Option<Installed>> {
    find_with(root, id, &mut Reader::new(root, Budget::ONE))
}

fn find_with(root: &Root, id: &ClusterId, reader: &mut Reader) -> Result<Option<Installed>> {
    let conf_file = config_directory(id).join("postgresql.conf");
    if root.path(&conf_file).symlink_metadata().is_err() {
        return Ok(None);
    }
    let conf = conf_with(root, id, reader)?;
    let port = match conf.get("port") {
        Some(port) => port.parse().ok().ok_or_else(
            || trouble!(at conf_file.display(), "the value of port is not a port number"; "Correct it there."),
        )?,
        None => DEFAULT_PORT,
    };
    Ok(Some(Installed { id: id.clone(), port, data_directory: data_directory(root, id, &conf) }))
}

/// The settings of a cluster: `postgresql.conf`, what it includes (Patroni includes `postgresql.base.conf`), and what
/// `ALTER SYSTEM` wrote (`PgCommon::read_cluster_conf_file`).
pub fn effective_conf(root: &Root, id: &ClusterId) -> Result<Conf> {
    conf_with(root, id, &mut Reader::new(root, Budget::ONE))
}

fn conf_with(root: &Root, id: &ClusterId, reader: &mut Reader) -> Result<Conf> {
    let mut conf = reader.read(&config_directory(id).join("postgresql.conf"), Named::ByPostgres)?;
    if let Some(directory) = data_directory(root, id, &conf) {
        let automatic = directory.join("postgresql.auto.conf");
        for (key, value) in reader.read(&automatic, Named::ByPostgres)? {
            if key != "data_directory" {
                conf.insert(key, value);
            }
        }
    }
    Ok(conf)
}

/// The data directory according to the setting, to the old symbolic link `pgdata`, or in the configuration directory
/// (`PgCommon::cluster_data_directory`).
fn data_directory(root: &Root, id: &ClusterId, conf: &Conf) -> Option<PathBuf> {
    if let Some(directory) = conf.get("data_directory").filter(|directory| !directory.is_empty()) {
        return Some(PathBuf::from(directory));
    }
    let config = config_directory(id);
    if let Ok(target) = std::fs::read_link(root.path(config.join("pgdata"))) {
        return Some(target);
    }
    if root.path(config.join("PG_VERSION")).is_file() {
        return Some(std::fs::read_link(root.path(&config)).unwrap_or(config));
    }
    None
}

/// The TCP ports on which something on this machine listens.
pub fn listening_ports(root: &Root) -> Result<BTreeSet<u16>> {
    Ok(listeners(root)?.into_iter().map(|listener| listener.port).collect())
}

/// A TCP socket that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The address; the unspecified one means all.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Its owner.
    pub uid: Option<u32>,
    /// The number by which `/proc/PID/fd` names it.
    pub inode: u64,
}

/// All TCP sockets that listen: of this machine as the kernel answers, otherwise from the tables in `/proc/net`.
pub fn listeners(root: &Root) -> Result<Vec<Listener>> {
    let asked = if root.is_this_machine() { sock_diag::listeners().ok() } else { None };
    let Some(sockets) = asked else { return listeners_in_tables(root) };
    let listener = |socket: Socket| {
        let ((address, port), uid, inode) = (socket.local, Some(socket.uid), socket.inode);
        Listener { address, port, uid, inode }
    };
    Ok(sockets.into_iter().map(listener).collect())
}

/// The same from `/proc/net/tcp` and `tcp6` (`proc(5)`), for a folder that represents a machine and for a kernel without `tcp_diag`.
fn listeners_in_tables(root: &Root) -> Result<Vec<Listener>> {
    const LISTEN: &str = "0A";
    let mut listeners = Vec::new();
    for table in TABLES {
        for row in read_table(root, table)?.lines().filter_map(Row::parse).filter(|row| row.state == LISTEN) {
            let (uid, inode) = (row.uid, row.inode);
            listeners.extend(socket(row.local).map(|(address, port)| Listener { address, port, uid, inode }));
        }
    }
    Ok(listeners)
}

/// The owner of the socket in which a TCP connection of this host ends, and the socket's number, which is 0 until the connection is
/// accepted; from the same tables.
pub fn connection_owner(root: &Root, from: SocketAddr, to: SocketAddr) -> Result<Option<(u32, u64)>> {
    let plain = |address: SocketAddr| Some((address.ip().to_canonical(), address.port()));
    for table in TABLES {
        let text = read_table(root, table)?;
        let mut rows = text.lines().filter_map(Row::parse);
        let found = rows.find(|row| socket(row.local) == plain(from) && socket(row.remote) == plain(to));
        if let Some((uid, inode)) = found.and_then(|row| Some((row.uid?, row.inode))) {
            return Ok(Some((uid, inode)));
        }
    }
    Ok(None)
}

const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// A line of such a table.
struct Row<'a> {
    local: &'a str,
    remote: &'a str,
    state: &'a str,
    uid: Option<u32>,
    inode: u64,
}

impl<'a> Row<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split_whitespace().skip(1);
        let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        let uid = fields.nth(3).and_then(|uid| uid.parse().ok());
        let inode = fields.nth(1).and_then(|inode| inode.parse().ok()).unwrap_or(0);
        Some(Self { local, remote, state, uid, inode })
    }
}

/// `0100007F:1538`: an address as the machine has it in memory, by words of 32 bits, and a port.
fn socket(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.rsplit_once(':')?;
    let words = (0..address.len() / 8).map(|word| u32::from_str_radix(address.get(word * 8..word * 8 + 8)?, 16).ok());
    let bytes: Vec<u8> = words.collect::<Option<Vec<u32>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let address = match (<[u8; 4]>::try_from(bytes.as_slice()), <[u8; 16]>::try_from(bytes.as_slice())) {
        (Ok(bytes), _) => IpAddr::from(bytes),
        (_, Ok(bytes)) => IpAddr::from(bytes).to_canonical(),
        _ => return None,
    };
    Some((address, u16::from_str_radix(port, 16).ok()?))
}

/// A table of the kernel, empty where it has none. It walks through all of its sockets for each read, which takes most of
/// a millisecond on a large machine; `std::fs::read` would begin with several small ones.
fn read_table(root: &Root, table: &str) -> Result<String> {
    let mut text = String::with_capacity(1 << 16);
    let read = File::open(root.path(table)).and_then(|mut file| file.read_to_string(&mut text));
    match read {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not read {table}"))
        }
        _ => Ok(text),
    }
}

/// The next port from 5432 on that no cluster has, nothing listens on, and that is not `taken`
/// (`PgCommon::next_free_port`, which does not know Patroni's files: `taken` adds those).
pub fn next_free_port(clusters: &[Installed], listening: &BTreeSet<u16>, taken: impl Fn(u16) -> bool) -> Result<u16> {
    let free =
        |port: &u16| !listening.contains(port) && !taken(*port) && clusters.iter().all(|cluster| cluster.port != *port);
    match (DEFAULT_PORT..=u16::MAX).find(free) {
        Some(port) => Ok(port),
        None => fail!("no TCP port from {DEFAULT_PORT} on is free"; "Choose one with --port."),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::TcpListener;

    fn host() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        (folder, root)
    }

    fn write(root: &Root, path: &str, text: &str) {
        let path = root.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn lists_clusters_with_ports_from_wherever_they_are_set() {
        let (_folder, root) = host();
        write(&root, "/etc/postgresql/17/main/postgresql.conf", "data_directory = '/d/main'\nport = 5433\n");
        write(&root, "/d/main/postgresql.auto.conf", "port = '5450'\ndata_directory = '/wrong'\n");
        write(&root, "/etc/postgresql/17/my-app/postgresql.conf", "include 'postgresql.base.conf'\nport = '5440'\n");
        write(&root, "/etc/postgresql/17/my-app/postgresql.base.conf", "port = 5441\ndata_directory = '/d/my-app'\n");
        write(&root, "/etc/postgresql/9.6/old/postgresql.conf", "");
        write(&root, "/etc/postgresql/17/empty/start.conf", "auto");
        write(&root, "/etc/postgresql/.17-main.failed/postgresql.conf", "");
        let seen: Vec<_> = installed(&root).known.iter().map(|c| (c.id.slashed(), c.port)).collect();
        assert_eq!(seen, [("9.6/old".to_owned(), 5432), ("17/main".to_owned(), 5450), ("17/my-app".to_owned(), 5440)]);
        let app = find(&root, &"17/my-app".parse().unwrap()).unwrap().unwrap();
        assert_eq!(app.data_directory, Some(PathBuf::from("/d/my-app")));
    }

    #[test]
    fn sockets_that_listen_have_an_address_and_a_number() {
        let (_folder, root) = host();
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        let line = |local: &str, state: &str, inode: u64| {
            format!(
                "   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000   112        0 {inode} 1 0 100\n"
            )
        };
        write(
            &root,
            "/proc/net/tcp",
            &format!("{head}{}{}", line("0100007F:1539", "0A", 7), line("0100007F:1539", "01", 8)),
        );
        let six = line("000000FD000000000000000001000000:1F48", "0A", 9);
        write(&root, "/proc/net/tcp6", &format!("{head}{six}"));
        let seen: Vec<String> = listeners(&root)
            .unwrap()
            .iter()
            .map(|listener| {
                assert_eq!(listener.uid, Some(112));
                format!("{} {} {}", listener.address, listener.port, listener.inode)
            })
            .collect();
        // As a machine whose words begin with the least byte has them.
        if cfg!(target_endian = "little") {
            assert_eq!(seen, ["127.0.0.1 5433 7", "fd00::1 8008 9"]);
        }
        let end = |from: &str, to: &str| connection_owner(&root, from.parse().unwrap(), to.parse().unwrap()).unwrap();
        if cfg!(target_endian = "little") {
            assert_eq!(end("127.0.0.1:5433", "0.0.0.0:0"), Some((112, 7)));
            assert_eq!(end("[::ffff:127.0.0.1]:5433", "0.0.0.0:0"), Some((112, 7)));
        }
        assert_eq!(end("127.0.0.1:5433", "127.0.0.1:1"), None);
    }

    #[test]
    fn the_kernel_answers_what_its_tables_show() {
        let here = Root::new("/");
        let bound = ["127.0.0.1:0", "[::]:0", "[::1]:0"].map(TcpListener::bind);
        let (asked, read) = (listeners(&here).unwrap(), listeners_in_tables(&here).unwrap());
        for listener in bound.iter().flatten() {
            let port = listener.local_addr().unwrap().port();
            let of = |all: &[Listener]| all.iter().find(|found| found.port == port).cloned();
            assert!(of(&asked).is_some());
            assert_eq!(of(&asked), of(&read));
        }
    }

    #[test]
    fn the_next_port_avoids_clusters_listeners_and_claims() {
        let (_folder, root) = host();
        write(&root, "/etc/postgresql/17/main/postgresql.conf", "port = 5432\n");
        write(
            &root,
            "/proc/net/tcp",
            "  sl  local_address rem_address   st\n   0: 0100007F:1539 00000000:0000 0A 0\n   1: 0100007F:153A 00000000:0000 01 0\n",
        );
        let clusters = installed(&root).known;
        let listening = listening_ports(&root).unwrap();
        assert_eq!(next_free_port(&clusters, &listening, |_| false).unwrap(), 5434);
        assert_eq!(next_free_port(&clusters, &listening, |port| port == 5434).unwrap(), 5435);
    }
}
