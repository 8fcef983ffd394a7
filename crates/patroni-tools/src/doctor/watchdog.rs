//! The watchdog, without which a member never becomes primary where it is required (`Watchdog.activate`).

use std::path::Path;

use anyhow::Result;
use host::file_access::User;

use crate::doctor::finding::Finding;
use crate::doctor::instance::{Depth, Instance, USER};

/// The device that is taken where none is named (`LinuxWatchdogDevice.DEFAULT_DEVICE`).
const DEVICE: &str = "/dev/watchdog";

const LOAD: &str =
    "load the driver of the watchdog (for softdog: echo softdog > /etc/modules-load.d/softdog.conf; modprobe softdog)";

/// Is the device there, and may postgres open it?
pub fn look(instance: &Instance) -> Result<Vec<Finding>> {
    let mode = instance.text(&["watchdog", "mode"]);
    // YAML reads off without quotes as false.
    if matches!(mode.as_deref(), Some("off" | "false")) {
        return Ok(Vec::new());
    }
    let required = mode.as_deref() == Some("required");
    let device = instance.text(&["watchdog", "device"]).unwrap_or_else(|| DEVICE.to_owned());
    let path = Path::new(&device);
    let (cause, remedy) = if instance.root.path(path).exists() {
        let Err(error) = User::of(instance.root, USER)?.check_writes(instance.root, path) else {
            return Ok(Vec::new());
        };
        let sentence = error.to_string();
        let cause = sentence.split(": ").next().unwrap_or_default().to_owned();
        (cause, format!("give it to {USER} by a rule of udev(7), such as KERNEL==\"watchdog*\", OWNER=\"{USER}\""))
    } else if required {
        (format!("there is no {device}"), LOAD.to_owned())
    } else if instance.depth == Depth::Offline {
        // Patroni goes without, as it was told; that is no news before every start.
        return Ok(Vec::new());
    } else {
        (format!("there is no {device}"), format!("{LOAD}, or set WATCHDOG=off"))
    };
    Ok(vec![if required {
        let what = format!("watchdog.mode is required, but {cause}, so that this member would never become primary");
        Finding::error(what, remedy)
    } else {
        Finding::warning(format!("{cause}, so that Patroni goes without a watchdog"), remedy)
    }])
}
