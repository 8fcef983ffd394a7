//! The units that can run a cluster, `postgresql@` and `patroni@`, as their control groups show them: without systemctl, which a
//! container need not have.

use std::path::Path;

use host::Root;

/// Where systemd mounts the control groups; the second is that of version 1.
const GROUPS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd"];

/// The slice of both units.
pub(crate) const SLICE: &str = "system.slice/system-postgresql.slice";

/// Has a unit processes other than those by which it is only being started? A program that the unit runs before its main program
/// is in the control group of the unit itself.
pub(crate) fn is_active_beside(root: &Root, unit: &str) -> bool {
    let own = root.read("/proc/self/cgroup").ok().flatten().unwrap_or_default();
    let inside = own.lines().any(|line| line.ends_with(&format!("/{unit}")));
    is_active(root, unit) && !inside
}

/// Is a service active that has nothing to do with PostgreSQL, such as `haproxy.service`?
pub(crate) fn is_service_active(root: &Root, unit: &str) -> bool {
    GROUPS.iter().any(|group| root.path(Path::new(group).join("system.slice").join(unit)).exists())
}

/// Is a unit active?
pub(crate) fn is_active(root: &Root, unit: &str) -> bool {
    GROUPS.iter().any(|group| root.path(Path::new(group).join(SLICE).join(unit)).exists())
}

/// The processes of a unit.
pub(crate) fn processes(root: &Root, unit: &str) -> Vec<u32> {
    let text = |group: &&str| {
        std::fs::read_to_string(root.path(Path::new(group).join(SLICE).join(unit).join("cgroup.procs"))).ok()
    };
    let listed = GROUPS.iter().find_map(text).unwrap_or_default();
    listed.lines().filter_map(|line| line.trim().parse().ok()).collect()
}
