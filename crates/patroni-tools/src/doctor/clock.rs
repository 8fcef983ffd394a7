//! The clock: certificates, Kerberos and the time to live of the leader lock go by it.

use host::{Root, program};

use crate::doctor::finding::Finding;
use crate::doctor::instance::LIMIT;

/// What the kernel was told about the clock, by `timedatectl show`; nothing where that cannot be asked. The clock of a container is that of its
/// host.
pub fn look(root: &Root) -> Vec<Finding> {
    if root.path("/run/systemd/container").exists() {
        return Vec::new();
    }
    let Ok(mut command) = program::command(root, "timedatectl") else { return Vec::new() };
    command.args(["show", "--property=CanNTP", "--property=NTP", "--property=NTPSynchronized"]);
    let Ok(output) = program::output_within(&mut command, "", LIMIT) else { return Vec::new() };
    let said = String::from_utf8_lossy(&output.stdout);
    let says = |line: &str| said.lines().any(|said| said == line);
    if !says("NTPSynchronized=no") {
        return Vec::new();
    }
    let remedy = if says("CanNTP=no") {
        "run apt install chrony"
    } else if says("NTP=no") {
        "run timedatectl set-ntp true"
    } else {
        "see timedatectl timesync-status, or with chrony: chronyc sources"
    };
    vec![Finding::warning("the clock of this host is not synchronised", remedy).at("")]
}
