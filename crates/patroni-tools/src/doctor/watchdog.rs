//! The watchdog. If it is required, a member without it never becomes primary (`Watchdog.activate`).

use std::path::Path;

use anyhow::Result;
use host::file_access::User;
use host::trouble::Trouble;

use crate::doctor::cluster::{Cluster, Depth, USER};
use crate::doctor::finding::Finding;

/// The default device (`LinuxWatchdogDevice.DEFAULT_DEVICE`).
const DEVICE: &str = "/dev/watchdog";

const LOAD: &str =
    "Load the driver of the watchdog (for softdog: echo softdog > /etc/modules-load.d/softdog.conf; modprobe softdog)";

/// Does the device exist, and may postgres open it?
pub fn check(cluster: &Cluster) -> Result<Vec<Finding>> {
    let mode = cluster.text(&["watchdog", "mode"]);
    // In YAML, off without quotes is false.
    if matches!(mode.as_deref(), Some("off" | "false")) {
        return Ok(Vec::new());
    }
    let required = mode.as_deref() == Some("required");
    let device = cluster.text(&["watchdog", "device"]).unwrap_or_else(|| DEVICE.to_owned());
    let path = Path::new(&device);
    let (cause, hint) = if cluster.root.path(path).exists() {
        let Err(error) = User::of(cluster.root, USER)?.check_writes(cluster.root, path) else {
            return Ok(Vec::new());
        };
        let rule = format!("KERNEL==\"watchdog*\", OWNER=\"{USER}\"");
        (Trouble::of(&error).line(), format!("Make {USER} its owner with a rule of udev(7), such as: {rule}"))
    } else if required {
        (format!("{device} does not exist"), format!("{LOAD}."))
    } else if cluster.depth == Depth::Offline {
        // Patroni runs without it, as configured. This is not repeated before every start.
        return Ok(Vec::new());
    } else {
        (format!("{device} does not exist"), format!("{LOAD}, or set WATCHDOG=off."))
    };
    Ok(vec![if required {
        let what = format!("watchdog.mode is required, but {cause}, so this member would never become primary");
        Finding::error(what, hint)
    } else {
        Finding::warning(format!("{cause}, so Patroni runs without a watchdog"), hint)
    }])
}
