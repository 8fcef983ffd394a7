//! The programs that can move a virtual address instead of dnscp: do they run, and which addresses do their files name?

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::endpoint::Manager;
use crate::units::{self, SLICE};
use crate::{ClusterId, Root};

/// The units of the programs in Debian 12 and 13, with the folder of their control group (a template has its own slice) and the files
/// that name their addresses.
const UNITS: [(Manager, &str, &str, &[&str]); 3] = [
    (Manager::Keepalived, "keepalived", "keepalived.service", &["/etc/keepalived/keepalived.conf"]),
    (
        Manager::VipManager,
        "vip-manager@ID",
        r"system-vip\x2dmanager.slice/vip-manager@ID.service",
        &["/etc/patroni/ID.vip"],
    ),
    (
        Manager::VipManager,
        "vip-manager",
        "vip-manager.service",
        &["/etc/default/vip-manager", "/etc/default/vip-manager.yml", "/etc/patroni/vip-manager.yml"],
    ),
];

/// A unit that moves addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its name, as `systemctl` takes it.
    pub name: String,
    /// The program.
    pub manager: Manager,
    group: PathBuf,
    files: Vec<String>,
}

impl Unit {
    /// Has it a process? A unit that failed or was stopped has none.
    #[must_use]
    pub fn is_active(&self, root: &Root) -> bool {
        units::group(root, &self.group).is_some()
    }

    /// Does it start at boot?
    #[must_use]
    pub fn is_enabled(&self, root: &Root) -> bool {
        units::is_enabled(root, &format!("{}.service", self.name))
    }

    /// The file of this unit that names the address.
    fn names(&self, root: &Root, address: IpAddr) -> Option<String> {
        let named = |file: &&String| root.read(file).ok().flatten().is_some_and(|text| names(&text, address));
        self.files.iter().find(named).cloned()
    }
}

/// The units of a manager for one cluster; the one that patroni-gen-config configures is the first.
#[must_use]
pub fn units(manager: Manager, id: &ClusterId) -> Vec<Unit> {
    let fill = |text: &str| text.replace("ID", &id.dashed());
    let of_manager = UNITS.iter().filter(|(of, ..)| *of == manager);
    of_manager
        .map(|(_, name, group, files)| Unit {
            name: fill(name),
            manager,
            group: Path::new(SLICE).join(fill(group)),
            files: files.iter().map(|file| fill(file)).collect(),
        })
        .collect()
}

/// The unit that should move the addresses of this cluster, if none of the manager's units is running. None, too, if this host has no
/// control groups of systemd, as in a container.
#[must_use]
pub fn stopped(root: &Root, manager: Manager, id: &ClusterId) -> Option<Unit> {
    let candidates = units(manager, id);
    let has_systemd = units::group(root, SLICE).is_some();
    (has_systemd && !candidates.iter().any(|unit| unit.is_active(root)))
        .then(|| candidates.into_iter().next())
        .flatten()
}

/// A unit that moves an address, too, and the file that says so: it is running, or starts at boot.
#[must_use]
pub fn beside(root: &Root, id: &ClusterId, address: IpAddr) -> Option<(Unit, String)> {
    let units = [Manager::Keepalived, Manager::VipManager].into_iter().flat_map(|manager| units(manager, id));
    units.filter(|unit| unit.is_active(root) || unit.is_enabled(root)).find_map(|unit| {
        let file = unit.names(root, address)?;
        Some((unit, file))
    })
}

/// Does a configuration file name an address outside its comments?
pub(super) fn names(text: &str, address: IpAddr) -> bool {
    let lines = text.lines().map(|line| line.split(['#', '!', ';']).next().unwrap_or_default());
    let mut words = lines.flat_map(|line| line.split(|c: char| !c.is_ascii_hexdigit() && c != '.' && c != ':'));
    words.any(|word| word.trim_end_matches(':').parse() == Ok(address) || word.parse() == Ok(address))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_in_configuration_files() {
        let address: IpAddr = "10.0.3.9".parse().unwrap();
        for text in ["10.0.3.9/24 dev eth0", "VIP_IP=\"10.0.3.9\"", "ip: 10.0.3.9\n", "addresses: [10.0.3.9/24]"] {
            assert!(names(text, address), "{text}");
        }
        for text in ["10.0.3.99", "# 10.0.3.9", "! 10.0.3.9", "110.0.3.9", "10.0.3.9.1"] {
            assert!(!names(text, address), "{text}");
        }
        assert!(names("fd00:0::9/64", "fd00::9".parse().unwrap()));
    }

    #[test]
    fn a_unit_runs_if_it_has_a_control_group() {
        let folder = tempfile::tempdir().unwrap();
        let (root, id) = (Root::new(folder.path()), "16/main".parse().unwrap());
        let group =
            |path: &str| std::fs::create_dir_all(folder.path().join("sys/fs/cgroup/system.slice").join(path)).unwrap();
        assert_eq!(stopped(&root, Manager::Keepalived, &id), None);
        group("ssh.service");
        assert_eq!(stopped(&root, Manager::Keepalived, &id).unwrap().name, "keepalived");
        assert_eq!(stopped(&root, Manager::VipManager, &id).unwrap().name, "vip-manager@16-main");
        assert_eq!(stopped(&root, Manager::Dnscp, &id), None);
        group("keepalived.service");
        group(r"system-vip\x2dmanager.slice/vip-manager@16-main.service");
        assert_eq!(stopped(&root, Manager::Keepalived, &id), None);
        assert_eq!(stopped(&root, Manager::VipManager, &id), None);
    }
}
