//! Who listens where Patroni and PostgreSQL are about to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::Result;
use host::clusters::{self, Listener};
use host::{Root, holder};
use nix::unistd::geteuid;

use crate::doctor::finding::{Finding, Level};
use crate::doctor::instance::{Instance, USER};

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
    let meets = |address: &IpAddr, listener: &Listener| {
        let any = address.is_unspecified() || listener.address.is_unspecified();
        listener.port == wanted.port
            && address.is_ipv4() == listener.address.is_ipv4()
            && (any || *address == listener.address)
    };
    // An address of IPv6 for all is not for IPv4 too, as PostgreSQL opens it (`IPV6_V6ONLY` in `pqcomm.c`), but others may open it so.
    let may_meet = |address: &IpAddr, listener: &Listener| {
        listener.port == wanted.port
            && address.is_ipv4()
            && listener.address == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            && listener.uid.is_some_and(|uid| is_foreign(instance.root, uid))
    };
    let in_the_way = |address: &IpAddr| {
        let certain = listeners.iter().find(|listener| meets(address, listener)).map(|listener| (listener, 1));
        certain.or_else(|| listeners.iter().find(|listener| may_meet(address, listener)).map(|listener| (listener, 0)))
    };
    let found: Vec<_> = wanted.addresses.iter().filter_map(in_the_way).collect();
    let another_users = found
        .iter()
        .any(|(listener, certain)| *certain == 1 && listener.uid.is_some_and(|uid| is_foreign(instance.root, uid)));
    let (lost, owner) =
        found.into_iter().fold((0, None), |(lost, owner), (listener, certain)| match Owner::of(instance, listener) {
            Owner::Ours => (lost, owner),
            other => (lost + certain, owner.or(Some(other))),
        });
    let who = match owner? {
        Owner::Other(who) => who,
        // We know ours.
        Owner::Hidden if sees_ours(instance.root) => "another program".to_owned(),
        Owner::Hidden | Owner::Ours => return None,
    };
    // PostgreSQL goes on with the addresses that it gets (`PostmasterMain`), and clients would come to who has the others.
    let level = if lost == wanted.addresses.len() || another_users { Level::Fatal } else { Level::Error };
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
    fn of(instance: &Instance, listener: &Listener) -> Self {
        let root = instance.root;
        // Neither a control group nor a command line makes another user's process one of ours.
        if let Some(uid) = listener.uid.filter(|uid| is_foreign(root, *uid)) {
            return Self::Other(holder::describe(root, uid, listener.inode, true));
        }
        let mut other = Self::Hidden;
        for pid in holder::of_socket(root, listener.inode) {
            let directory = Path::new("/proc").join(pid.to_string());
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
            let user = listener.uid.map_or_else(String::new, |uid| format!(" of {}", holder::user(root, uid)));
            other = Self::Other(holder::process(root, pid) + &user);
        }
        other
    }
}

/// Is this another user than the one who runs Patroni and PostgreSQL, and than root, who may have given them their sockets? A unit that
/// was changed runs this check as the user who runs them there.
fn is_foreign(root: &Root, uid: u32) -> bool {
    uid != 0 && uid != geteuid().as_raw() && root.user_id(USER).is_ok_and(|postgres| postgres != uid)
}
