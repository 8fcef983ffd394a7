//! The units that can run a cluster, `postgresql@` and `patroni@`, as their control groups show them.

use std::path::{Path, PathBuf};

use host::Root;

/// The slice of both units.
pub(crate) const SLICE: &str = "system.slice/system-postgresql.slice";

/// Has a unit processes other than those by which it is only being started? A program that the unit runs before its main program
/// is in the control group of the unit itself.
pub(crate) fn is_active_beside(root: &Root, unit: &str) -> bool {
    let own = root.read("/proc/self/cgroup").ok().flatten().unwrap_or_default();
    let inside = own.lines().any(|line| line.ends_with(&format!("/{unit}")));
    is_active(root, unit) && !inside
}

/// Is a unit active?
pub(crate) fn is_active(root: &Root, unit: &str) -> bool {
    group(root, unit).is_some()
}

fn group(root: &Root, unit: &str) -> Option<PathBuf> {
    host::units::group(root, Path::new(SLICE).join(unit))
}

/// The processes of a unit.
pub(crate) fn processes(root: &Root, unit: &str) -> Vec<u32> {
    let text = |group: PathBuf| std::fs::read_to_string(group.join("cgroup.procs")).ok();
    let listed = group(root, unit).and_then(text).unwrap_or_default();
    listed.lines().filter_map(|line| line.trim().parse().ok()).collect()
}
