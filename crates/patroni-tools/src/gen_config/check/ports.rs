//! Who listens where Patroni and PostgreSQL are about to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::Result;
use nix::unistd::geteuid;
use site::Root;
use site::clusters::{self, Listener};

use super::{Finding, Instance, Level, USER};

/// The addresses that a section listens on, and what it means when they are taken.
struct Wanted {
    label: &'static str,
    setting: &'static str,
    addresses: Vec<IpAddr>,
    port: u16,
}

/// Ports that somebody else has.
pub fn look(instance: &Instance) -> Result<Vec<Finding>> {
    let listeners = clusters::listeners(instance.root)?;
    let wanted = [
        wanted(instance, "postgresql.listen", &["postgresql", "listen"], "PORT"),
        wanted(instance, "restapi.listen", &["restapi", "listen"], "PORT"),
        wanted(instance, "raft.self_addr", &["raft", "self_addr"], "RAFT_ADDRESS"),
    ];
    Ok(wanted.iter().flatten().filter_map(|wanted| taken(instance, wanted, &listeners)).collect())
}

fn wanted(instance: &Instance, label: &'static str, key: &[&str], setting: &'static str) -> Option<Wanted> {
    let text = instance.text(key)?;
    let (hosts, port) = text.rsplit_once(':')?;
    let all = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let local = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let addresses = hosts.split(',').flat_map(|host| match host.trim().trim_matches(['[', ']']) {
        "" | "*" => all.to_vec(),
        "localhost" => local.to_vec(),
        // A name could be any of the host's.
        host => host.parse().into_iter().collect(),
    });
    Some(Wanted { label, setting, addresses: addresses.collect(), port: port.trim().parse().ok()? })
}

fn taken(instance: &Instance, wanted: &Wanted, listeners: &[Listener]) -> Option<Finding> {
    // An address of IPv6 for all is not for IPv4 too, as PostgreSQL opens it (`IPV6_V6ONLY` in `pqcomm.c`).
    let meets = |address: &IpAddr, listener: &Listener| {
        let any = address.is_unspecified() || listener.address.is_unspecified();
        listener.port == wanted.port
            && address.is_ipv4() == listener.address.is_ipv4()
            && (any || *address == listener.address)
    };
    let in_the_way = |address: &IpAddr| listeners.iter().find(|listener| meets(address, listener));
    let (lost, owner) = wanted.addresses.iter().filter_map(in_the_way).fold((0, None), |(lost, owner), listener| {
        match Owner::of(instance, listener.inode) {
            Owner::Ours => (lost, owner),
            other => (lost + 1, owner.or(Some(other))),
        }
    });
    let who = match owner? {
        Owner::Other(who) => who,
        // Another user's process; we know ours.
        Owner::Hidden if sees_ours(instance.root) => "another program".to_owned(),
        Owner::Hidden | Owner::Ours => return None,
    };
    // PostgreSQL goes on with the addresses that it gets (`PostmasterMain`).
    let level = if lost == wanted.addresses.len() { Level::Fatal } else { Level::Error };
    let what = format!("{} has the port {}, on which {who} listens", wanted.label, wanted.port);
    let remedy = instance.then_generate(&format!("stop that, or set {}", wanted.setting));
    Some(Finding::new(level, what, remedy))
}

/// As root, or as who runs them.
fn sees_ours(root: &Root) -> bool {
    let user = geteuid();
    user.is_root() || root.user_id(USER).is_ok_and(|id| id == user.as_raw())
}

/// Whose a socket is.
enum Owner {
    /// This instance's.
    Ours,
    /// Another process's, for people.
    Other(String),
    /// That of a process into which we cannot look.
    Hidden,
}

impl Owner {
    fn of(instance: &Instance, inode: u64) -> Self {
        let root = instance.root;
        let link = format!("socket:[{inode}]");
        let processes = root.list("/proc").unwrap_or_default();
        let numbers = processes.iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
        let has = |directory: &PathBuf| {
            let open = std::fs::read_dir(root.path(directory.join("fd"))).into_iter().flatten().flatten();
            open.map(|entry| entry.path())
                .any(|entry| std::fs::read_link(entry).is_ok_and(|to| to.as_os_str() == &*link))
        };
        let mut owners = numbers.map(|number| PathBuf::from("/proc").join(number)).filter(has).peekable();
        if owners.peek().is_none() {
            return Self::Hidden;
        }
        let mut other = Self::Hidden;
        for directory in owners {
            let read = |name: &str| root.read(directory.join(name)).ok().flatten().unwrap_or_default();
            let (group, words) = (read("cgroup"), read("cmdline"));
            let unit = |name: &str| group.contains(&format!("/{name}@{}.service", instance.id.dashed()));
            let data = instance.text(&["postgresql", "data_dir"]);
            let named =
                words.split('\0').any(|word| word == instance.path.as_os_str() || Some(word) == data.as_deref());
            // That postgresql@ runs it is said elsewhere.
            if unit("patroni") || unit("postgresql") || named {
                return Self::Ours;
            }
            let number = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
            other = Self::Other(format!("{} (process {number})", read("comm").trim()));
        }
        other
    }
}
