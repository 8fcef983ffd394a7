//! The clock, on which certificates, Kerberos and the TTL of the leader lock depend.

use host::{Root, program};

use crate::doctor::cluster::LIMIT;
use crate::doctor::finding::Finding;

/// What `timedatectl show` reports about the clock. Nothing is found without that program, or in a container, which has the clock of its
/// host.
pub fn check(root: &Root) -> Vec<Finding> {
    if root.path("/run/systemd/container").exists() {
        return Vec::new();
    }
    let Ok(mut command) = program::command(root, "timedatectl") else { return Vec::new() };
    command.args(["show", "--property=CanNTP", "--property=NTP", "--property=NTPSynchronized"]);
    let Ok(output) = program::output_within(&mut command, "", LIMIT) else { return Vec::new() };
    let output = String::from_utf8_lossy(&output.stdout);
    let has = |wanted: &str| output.lines().any(|line| line == wanted);
    if !has("NTPSynchronized=no") {
        return Vec::new();
    }
    let hint = if has("CanNTP=no") {
        "Install a time service with: apt install chrony"
    } else if has("NTP=no") {
        "Turn synchronization on with: timedatectl set-ntp true"
    } else {
        "See the output of timedatectl timesync-status or, with chrony, of: chronyc sources"
    };
    vec![Finding::warning("the clock of this host is not synchronized", hint).at("")]
}
