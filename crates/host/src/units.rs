//! The units of systemd, as their control groups and the links in `/etc` show them: without systemctl, which a container need not have.

use std::path::{Path, PathBuf};

use crate::Root;

/// Where systemd mounts the control groups; the second is that of version 1.
const GROUPS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd"];

/// The slice of services without `Slice=` (`systemd.special(7)`).
pub(crate) const SLICE: &str = "system.slice";

/// The units that `systemctl enable` enabled.
const ENABLED: &str = "/etc/systemd/system/multi-user.target.wants";

/// The directory of a control group. A unit has one as long as it has a process.
#[must_use]
pub fn group(root: &Root, group: impl AsRef<Path>) -> Option<PathBuf> {
    GROUPS.iter().map(|mounted| root.path(Path::new(mounted).join(group.as_ref()))).find(|real| real.exists())
}

/// Is a service of the system active, as in `haproxy.service`? Those with a slice of their own, such as instances of templates, are not found.
#[must_use]
pub fn is_service_active(root: &Root, unit: &str) -> bool {
    group(root, Path::new(SLICE).join(unit)).is_some()
}

/// Does a unit, as in `postgresql@16-main.service`, start at boot?
#[must_use]
pub fn is_enabled(root: &Root, unit: &str) -> bool {
    root.path(Path::new(ENABLED).join(unit)).symlink_metadata().is_ok()
}
