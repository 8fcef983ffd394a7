//! The watchdog. If it is required, a member without it never becomes primary (`Watchdog.activate`).

use std::path::Path;

use anyhow::Result;
use host::file_access::User;
use host::trouble::Trouble;

use crate::doctor::cluster::{Cluster, Depth, USER};
use crate::doctor::finding::Finding;

/// The default device (`LinuxWatchdogDevice.DEFAULT_DEVICE`). The udev rule of this package has this one and those with a number.
const DEVICE: &str = "/dev/watchdog";

const SOFTDOG: &str = "for softdog with: echo softdog > /etc/modules-load.d/softdog.conf; modprobe softdog";

/// Does the device exist, and may postgres open it? `automatic` without a device is only reported if it was set: most virtual machines have
/// none.
pub fn check(cluster: &Cluster) -> Result<Vec<Finding>> {
    let mode = cluster.text(&["watchdog", "mode"]);
    // In YAML, off without quotes is false.
    if matches!(mode.as_deref(), Some("off" | "false")) {
        return Ok(Vec::new());
    }
    let required = mode.as_deref() == Some("required");
    let device = cluster.text(&["watchdog", "device"]).unwrap_or_else(|| DEVICE.to_owned());
    let path = Path::new(&device);
    let set = cluster.settings.as_ref().ok().filter(|settings| settings.get("WATCHDOG").is_some());
    let (cause, hint) = if cluster.root.path(path).exists() {
        let Err(error) = User::of(cluster.root, USER)?.check_writes(cluster.root, path) else {
            return Ok(Vec::new());
        };
        let hint = if device.starts_with(DEVICE) {
            "Apply the udev rule of this package with: udevadm trigger --action=change --sysname-match='watchdog*'"
                .to_owned()
        } else {
            format!("Make {USER} its owner with a rule of udev(7).")
        };
        (Trouble::of(&error).line(), hint)
    } else if required {
        (format!("{device} does not exist"), format!("Load a driver, {SOFTDOG}"))
    } else if let Some(settings) = set.filter(|_| cluster.depth != Depth::Offline) {
        let what = format!("WATCHDOG is automatic, but {device} does not exist, so Patroni runs without a watchdog");
        let hint = format!("Remove the setting, or load a driver, {SOFTDOG}");
        return Ok(vec![Finding::warning(what, hint).at(settings.place(&["WATCHDOG"]))]);
    } else {
        // Patroni runs without it, as configured. This is not repeated before every start.
        return Ok(Vec::new());
    };
    Ok(vec![if required {
        let what = format!("watchdog.mode is required, but {cause}, so this member would never become primary");
        Finding::error(what, hint)
    } else {
        Finding::warning(format!("{cause}, so Patroni runs without a watchdog"), hint)
    }])
}
