//! What `VIPS` means on this host: an address that a host uses, or that no host can have, cannot move.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{managers, unusable};
use crate::endpoint::{Endpoint, Manager, Vip};
use crate::facts::Interface;
use crate::settings::{Origin, Settings, cluster_file};
use crate::trouble::Trouble;
use crate::{ClusterId, Root, trouble};

/// Where Debian's programs for the network read the addresses of this host (`interfaces(5)`, `netplan(5)`, `systemd.network(5)`,
/// `nm-settings-keyfile(5)`).
const NETWORK: [&str; 4] =
    ["/etc/network/interfaces.d", "/etc/netplan", "/etc/systemd/network", "/etc/NetworkManager/system-connections"];

/// The hint for an address that is not free.
const CHOOSE: &str = "Choose an address that no host uses.";

/// What is wrong with an address or a name of the client endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Does it certainly not work? Otherwise it only may not.
    pub certain: bool,
    /// What it is.
    pub trouble: Trouble,
}

impl Fault {
    fn certain(trouble: Trouble) -> Self {
        Self { certain: true, trouble }
    }

    fn possible(trouble: Trouble) -> Self {
        Self { certain: false, trouble }
    }
}

/// The faults of `VIPS` and the DNS name of a cluster on this host, whose address among the members is `own`.
///
/// The interfaces are those that [`interfaces`](crate::facts::interfaces) returns; none if they are not known.
#[must_use]
pub fn faults(
    root: &Root,
    settings: &Settings,
    point: &Endpoint,
    own: Option<IpAddr>,
    interfaces: &[Interface],
) -> Vec<Fault> {
    let mut faults = Vec::new();
    for vip in &point.vips {
        let of_this_host = own.and_then(|own| point.check_own(own).err()).filter(|_| own == Some(vip.address));
        let found = match of_this_host {
            Some(error) => Some(Fault::certain(Trouble::of(&error))),
            None => of_another_host(settings, vip.address)
                .or_else(|| here(root, point, vip.address, interfaces))
                .or_else(|| reserved(&point.vips, vip.address, interfaces)),
        };
        faults.extend(found);
    }
    faults.extend(of_another_manager(root, point));
    faults.extend(of_another_cluster(root, point));
    faults
}

/// The hosts beside the members that the settings name. Members are refused where `VIPS` is read.
fn of_another_host(settings: &Settings, address: IpAddr) -> Option<Fault> {
    [("DCS_HOSTS", "a server of the DCS"), ("STANDBY_HOST", "the primary that this cluster follows")]
        .into_iter()
        .find_map(|(key, whose)| {
            let named = |text: &str| text.split(',').any(|server| host_of(server) == Some(address));
            settings
                .text(key)
                .is_some_and(named)
                .then(|| Fault::certain(trouble!("{address} in VIPS is the address of {whose} ({key})"; "{CHOOSE}")))
        })
}

/// The address in `10.0.0.1`, `10.0.0.1:2379`, `[fd00::1]:2379` and `http://10.0.0.1:2379`.
fn host_of(server: &str) -> Option<IpAddr> {
    let server = server.trim();
    let server = server.split_once("://").map_or(server, |(_, rest)| rest).trim_end_matches('/');
    let bare = |text: &str| text.trim_matches(['[', ']']).parse().ok();
    bare(server).or_else(|| bare(server.rsplit_once(':')?.0))
}

/// An address that is on this host already, and that dnscp did not add. What dnscp adds is deprecated; the kernel does not use it for
/// connections of the host.
fn here(root: &Root, point: &Endpoint, address: IpAddr, interfaces: &[Interface]) -> Option<Fault> {
    let entries =
        || interfaces.iter().flat_map(|interface| interface.entries.iter().map(move |entry| (interface, entry)));
    let (interface, entry) = entries().find(|(_, entry)| entry.net.addr() == address && !entry.deprecated)?;
    let named = |place: &str| {
        Fault::certain(trouble!(
            "{address} in VIPS is an address of this host ({}{place})", interface.name; "{CHOOSE}"
        ))
    };
    if let Some(file) = configured(root, address) {
        return Some(named(&format!(", {file}")));
    }
    if entry.dynamic {
        return Some(named(", from DHCP"));
    }
    if point.manager != Manager::Dnscp || managers::beside(root, &point.id, address).is_some() {
        return None;
    }
    let is_virtual = |address: IpAddr| point.vips.iter().any(|vip| vip.address == address);
    let beside = |other: IpNet| !is_virtual(other.addr()) && other.contains(&address);
    let alone = entry.net.prefix_len() < entry.net.max_prefix_len() && !entries().any(|(_, other)| beside(other.net));
    Some(if alone {
        named(", its only one in that subnet")
    } else {
        Fault::possible(foreign(address, entry.net.prefix_len(), &interface.name))
    })
}

/// An address that another program added: dnscp leaves it alone, because it may be the only address of the host.
#[must_use]
pub fn foreign(address: IpAddr, prefix: u8, interface: &str) -> Trouble {
    trouble!(
        "{address} is on {interface}, but dnscp did not add it, and therefore neither renews nor removes it";
        "If this host uses it, choose another one in VIPS. If another program left it there, remove it with: \
         ip address delete {address}/{prefix} dev {interface}"
    )
}

/// The file that gives an address to this host at every boot.
fn configured(root: &Root, address: IpAddr) -> Option<String> {
    let below = NETWORK.iter().flat_map(|directory| {
        let names = root.list(directory).unwrap_or_default();
        names.into_iter().map(move |name| format!("{directory}/{name}"))
    });
    let mut files = std::iter::once("/etc/network/interfaces".to_owned()).chain(below);
    files.find(|file| root.read(file).ok().flatten().is_some_and(|text| managers::names(&text, address)))
}

/// The network or broadcast address of a subnet of this host.
fn reserved(vips: &[Vip], address: IpAddr, interfaces: &[Interface]) -> Option<Fault> {
    let is_virtual = |address: IpAddr| vips.iter().any(|vip| vip.address == address);
    let own = interfaces.iter().flat_map(|interface| &interface.addresses);
    let mut own = own.filter(|own| !is_virtual(own.addr()) && own.contains(&address));
    own.find_map(|own| unusable(address, own.trunc())).map(Fault::certain)
}

/// Two programs cannot move the same address: each removes what the other adds.
fn of_another_manager(root: &Root, point: &Endpoint) -> Option<Fault> {
    let (vip, unit, file) = point.vips.iter().find_map(|vip| {
        let (unit, file) = managers::beside(root, &point.id, vip.address)?;
        Some((vip, unit, file)).filter(|(_, unit, _)| unit.manager != point.manager)
    })?;
    let moves = if unit.is_active(root) { "moves it, too" } else { "would move it, too, after a boot" };
    Some(Fault::possible(trouble!(
        "{} is moved by {} (VIP_MANAGER), but {} with {file} {moves}", vip.address, point.manager.name(), unit.name;
        "If it moves nothing else, stop it with: systemctl disable --now {}", unit.name
    )))
}

/// Two clusters cannot have the same address or name, as their primaries can be on two hosts.
fn of_another_cluster(root: &Root, point: &Endpoint) -> Vec<Fault> {
    let mut faults = Vec::new();
    for other in other_clusters(root, &point.id) {
        // What is wrong there is reported for that cluster.
        let Ok(Some(theirs)) = Endpoint::read(root, &other) else { continue };
        let hint = |key: &str| format!("Set {key} for each of them, as in {}.", cluster_file(&point.id).display());
        let same = |vip: &&Vip| theirs.vips.iter().any(|other| other.address == vip.address);
        if let Some(vip) = point.vips.iter().find(same) {
            let what = format!("{} in VIPS is also that of {other}, whose primary can be on another host", vip.address);
            faults.push(Fault::possible(Trouble::new(what).hint(hint("VIPS"))));
        }
        let name = |point: &Endpoint| point.dns.as_ref().map(|dns| dns.name.clone());
        if let Some(name) = name(point).filter(|ours| name(&theirs).as_ref() == Some(ours)) {
            let what = format!("the DNS name {name} is also that of {other}, whose primary can be on another host");
            faults.push(Fault::possible(Trouble::new(what).hint(hint("DNS_NAME"))));
        }
    }
    faults
}

/// The other clusters of this host with a client endpoint: those for which patroni-gen-config has written one, and those that have one
/// in settings of their own.
fn other_clusters(root: &Root, own: &ClusterId) -> Vec<ClusterId> {
    let written = root.list("/etc/patroni").unwrap_or_default();
    let written = written.iter().filter_map(|name| name.strip_suffix(".dnscp")?.parse().ok());
    let set = root.list("/etc/default").unwrap_or_default();
    let set = set.iter().filter_map(|name| name.strip_prefix("patroni@")?.parse().ok()).filter(|id: &ClusterId| {
        let settings = Settings::read(root, id);
        let own = |settings: &Settings, key| {
            matches!(settings.get(key).map(|setting| &setting.origin), Some(Origin::File(path, _)) if *path == cluster_file(id))
        };
        settings.is_ok_and(|settings| ["VIPS", "DNS_NAME", "DNS_ZONE"].iter().any(|key| own(&settings, key)))
    });
    let mut clusters: Vec<ClusterId> = written.chain(set).filter(|id: &ClusterId| id != own).collect();
    clusters.sort_by_key(ClusterId::dashed);
    clusters.dedup();
    clusters
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::Entry;

    struct Host {
        folder: tempfile::TempDir,
        interfaces: Vec<Interface>,
    }

    impl Host {
        /// The addresses of eth0; `-` before one: deprecated, `~`: from DHCP.
        fn new(addresses: &[&str]) -> Self {
            let entry = |text: &&str| {
                let net = text.trim_start_matches(['-', '~']).parse().unwrap();
                Entry { net, deprecated: text.starts_with('-'), dynamic: text.starts_with('~') }
            };
            let interface = Interface::new("eth0", addresses.iter().map(entry).collect());
            Self { folder: tempfile::tempdir().unwrap(), interfaces: vec![interface] }
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        /// The faults with these settings, certain ones with `!`.
        fn faults(&self, settings: &str) -> Vec<String> {
            self.write("etc/default/patroni", settings);
            let (root, id) = (Root::new(self.folder.path()), "16/main".parse().unwrap());
            let settings = Settings::read(&root, &id).unwrap();
            let point = Endpoint::from_settings(&root, &id, &settings).unwrap().unwrap();
            let own = Some("10.0.3.141".parse().unwrap());
            let faults = faults(&root, &settings, &point, own, &self.interfaces);
            faults.iter().map(|fault| format!("{}{}", if fault.certain { "!" } else { "" }, fault.trouble)).collect()
        }
    }

    #[test]
    fn an_address_that_a_host_uses_is_not_virtual() {
        let host = Host::new(&["10.0.3.141/24"]);
        for (settings, part) in [
            ("VIPS=10.0.3.141/24", "!10.0.3.141 in VIPS is the address of this host"),
            (
                "VIPS=10.0.3.9\nDCS_HOSTS=10.0.3.8:2379,10.0.3.9:2379",
                "!10.0.3.9 in VIPS is the address of a server of the DCS",
            ),
            ("VIPS=10.0.3.9\nSTANDBY_HOST=10.0.3.9", "!10.0.3.9 in VIPS is the address of the primary that"),
            ("VIPS=10.0.3.255", "!10.0.3.255 in VIPS is the network or broadcast address of 10.0.3.0/24"),
        ] {
            let faults = host.faults(settings);
            assert!(faults.len() == 1 && faults[0].starts_with(part), "{settings}: {faults:?}");
        }
        assert_eq!(host.faults("VIPS=10.0.3.9/24\nDCS_HOSTS=10.0.3.8:2379,etcd2:2379"), [""; 0]);
        for (text, address) in
            [("[fd00::1]:2379", "fd00::1"), ("fd00::1", "fd00::1"), ("https://10.0.0.1:2379/", "10.0.0.1")]
        {
            assert_eq!(host_of(text), Some(address.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn an_address_that_is_here_without_dnscp_is_named() {
        let settings = "VIPS=10.0.3.9/24";
        assert_eq!(Host::new(&["10.0.3.141/24", "-10.0.3.9/24"]).faults(settings), [""; 0]);
        let left = Host::new(&["10.0.3.141/24", "10.0.3.9/24"]);
        assert!(left.faults(settings)[0].starts_with("10.0.3.9 is on eth0, but dnscp did not add it"));
        assert_eq!(left.faults(&format!("{settings}\nVIP_MANAGER=keepalived")), [""; 0]);
        // Another program moves it, too.
        left.write("etc/keepalived/keepalived.conf", "virtual_ipaddress {\n  10.0.3.9/24\n}\n");
        left.write("etc/systemd/system/multi-user.target.wants/keepalived.service", "");
        let moved = "10.0.3.9 is moved by dnscp (VIP_MANAGER), but keepalived with /etc/keepalived/keepalived.conf";
        assert_eq!(left.faults(settings), [format!("{moved} would move it, too, after a boot")]);
        assert_eq!(left.faults(&format!("{settings}\nVIP_MANAGER=keepalived")), [""; 0]);
        std::fs::create_dir_all(left.folder.path().join("sys/fs/cgroup/system.slice/keepalived.service")).unwrap();
        assert_eq!(left.faults(settings), [format!("{moved} moves it, too")]);
        for (addresses, files, why) in [
            (&["10.0.4.1/24", "10.0.3.9/24"] as &[&str], false, "eth0, its only one in that subnet"),
            (&["10.0.3.141/24", "~10.0.3.9/24"], false, "eth0, from DHCP"),
            (&["10.0.3.141/24", "10.0.3.9/24"], true, "eth0, /etc/network/interfaces.d/eth0"),
        ] {
            let host = Host::new(addresses);
            if files {
                host.write("etc/network/interfaces.d/eth0", "iface eth0 inet static\n  address 10.0.3.9/24\n");
            }
            let faults = host.faults(settings);
            assert_eq!(faults, [format!("!10.0.3.9 in VIPS is an address of this host ({why})")]);
        }
    }

    #[test]
    fn two_clusters_cannot_have_the_same_address_or_name() {
        let host = Host::new(&["10.0.3.141/24"]);
        let both = "VIPS=10.0.3.9/24\nDNS_NAME=pgsql.example.org";
        // The settings of the site apply to a cluster that was never written.
        host.write("etc/default/patroni@15-old", "TTL=30\n");
        assert_eq!(host.faults(both), [""; 0]);
        host.write("etc/default/patroni@17-app", "VIPS=10.0.3.9\n");
        host.write("etc/patroni/16-main.dnscp", "");
        assert_eq!(
            host.faults(both),
            [
                "10.0.3.9 in VIPS is also that of 17/app, whose primary can be on another host",
                "the DNS name pgsql.example.org is also that of 17/app, whose primary can be on another host"
            ]
        );
        std::fs::remove_file(host.folder.path().join("etc/default/patroni@17-app")).unwrap();
        host.write("etc/patroni/18-x.dnscp", "");
        assert_eq!(
            host.faults("VIPS=10.0.3.9/24"),
            ["10.0.3.9 in VIPS is also that of 18/x, whose primary can be on another host"]
        );
    }
}
