//! Which other processes use the ports of Patroni and PostgreSQL.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::Result;
use host::clusters::{self, Listener};
use host::{Root, holder};
use nix::unistd::geteuid;

use crate::doctor::cluster::{Cluster, USER};
use crate::doctor::finding::{Finding, Level};

/// The addresses that a section listens on.
struct Wanted {
    label: &'static str,
    setting: &'static str,
    addresses: Vec<IpAddr>,
    port: u16,
}

/// Ports that another process uses.
pub fn check(cluster: &Cluster) -> Result<Vec<Finding>> {
    let listeners = clusters::listeners(cluster.root)?;
    let wanted = [
        wanted(cluster, "postgresql.listen", &["postgresql", "listen"], "PORT"),
        wanted(cluster, "restapi.listen", &["restapi", "listen"], "PORT or RESTAPI_PORT"),
        wanted(cluster, "raft.self_addr", &["raft", "self_addr"], "RAFT_ADDRESS"),
    ];
    Ok(wanted.iter().flatten().filter_map(|wanted| taken(cluster, wanted, &listeners)).collect())
}

fn wanted(cluster: &Cluster, label: &'static str, key: &[&str], setting: &'static str) -> Option<Wanted> {
    let text = cluster.text(key)?;
    let (hosts, port) = text.rsplit_once(':')?;
    let all = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let local = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let addresses = hosts.split(',').flat_map(|host| match host.trim().trim_matches(['[', ']']) {
        "" | "*" => all.to_vec(),
        "localhost" => local.to_vec(),
        // A name could stand for any address of the host.
        host => host.parse().into_iter().collect(),
    });
    Some(Wanted { label, setting, addresses: addresses.collect(), port: port.trim().parse().ok()? })
}

fn taken(cluster: &Cluster, wanted: &Wanted, listeners: &[Listener]) -> Option<Finding> {
    let meets = |address: &IpAddr, listener: &Listener| {
        let any = address.is_unspecified() || listener.address.is_unspecified();
        listener.port == wanted.port
            && address.is_ipv4() == listener.address.is_ipv4()
            && (any || *address == listener.address)
    };
    // PostgreSQL opens the unspecified address of IPv6 for IPv6 alone (`IPV6_V6ONLY` in `pqcomm.c`), but others may open it for both.
    let may_meet = |address: &IpAddr, listener: &Listener| {
        listener.port == wanted.port
            && address.is_ipv4()
            && listener.address == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            && foreign_user(cluster.root, listener).is_some()
    };
    let conflicting = |address: &IpAddr| {
        let certain = listeners.iter().find(|listener| meets(address, listener)).map(|listener| (listener, 1));
        certain.or_else(|| listeners.iter().find(|listener| may_meet(address, listener)).map(|listener| (listener, 0)))
    };
    let found: Vec<_> = wanted.addresses.iter().filter_map(conflicting).collect();
    let another_users =
        found.iter().any(|(listener, certain)| *certain == 1 && foreign_user(cluster.root, listener).is_some());
    let (lost, owner) =
        found.into_iter().fold((0, None), |(lost, owner), (listener, certain)| match Owner::of(cluster, listener) {
            Owner::Own => (lost, owner),
            other => (lost + certain, owner.or(Some(other))),
        });
    let who = match owner? {
        Owner::Other(who) => who,
        // The processes of this cluster would not be hidden.
        Owner::Hidden if cluster.sees_own() => "another program".to_owned(),
        Owner::Hidden | Owner::Own => return None,
    };
    // PostgreSQL starts with the addresses that are free (`PostmasterMain`), and clients would reach the other process on the rest.
    let level = if lost == wanted.addresses.len() || another_users { Level::Fatal } else { Level::Error };
    let what = format!("{} has port {}, on which {who} is listening", wanted.label, wanted.port);
    let hint = cluster.then_generate(&format!("Stop that process, or set {}", wanted.setting));
    Some(Finding::new(level, what, hint))
}

/// A user that is foreign to the cluster. The caller is not: it runs Patroni and PostgreSQL if the unit was changed.
fn foreign_user(root: &Root, listener: &Listener) -> Option<u32> {
    holder::foreign_user(root, listener, USER).filter(|uid| *uid != geteuid().as_raw())
}

/// The owner of a socket.
enum Owner {
    /// This cluster.
    Own,
    /// Another process, for display.
    Other(String),
    /// A process that the caller may not inspect.
    Hidden,
}

impl Owner {
    fn of(cluster: &Cluster, listener: &Listener) -> Self {
        let root = cluster.root;
        // A control group or command line does not make another user's process part of this cluster.
        if let Some(uid) = foreign_user(root, listener) {
            return Self::Other(holder::describe(root, uid, listener.inode, true));
        }
        let mut other = Self::Hidden;
        for pid in holder::of_socket(root, listener.inode) {
            let directory = Path::new("/proc").join(pid.to_string());
            let read = |name: &str| root.read(directory.join(name)).ok().flatten().unwrap_or_default();
            let (group, words) = (read("cgroup"), read("cmdline"));
            let unit = |name: &str| group.contains(&format!("/{name}@{}.service", cluster.id.dashed()));
            let data = cluster.text(&["postgresql", "data_dir"]);
            let named = words.split('\0').any(|word| word == cluster.path.as_os_str() || Some(word) == data.as_deref());
            // Another check reports that postgresql@ runs it.
            if unit("patroni") || unit("postgresql") || named {
                return Self::Own;
            }
            let user = listener.uid.map_or_else(String::new, |uid| format!(" of {}", holder::user(root, uid)));
            other = Self::Other(holder::process(root, pid) + &user);
        }
        other
    }
}
