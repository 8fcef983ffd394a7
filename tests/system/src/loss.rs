//! Packets that are lost on their way without notice to anybody: partitions in one direction, and between some machines only.
//!
//! The kernel routes what is to be lost to a neighbour that does not exist.

use anyhow::Result;

use crate::Node;

/// The network of the lab.
pub const NETWORK: &str = "10.88.0.0/24";

/// A route to nobody, where routing rules before the main table lead.
const NOBODY: &str = "ip neigh replace 10.88.0.250 lladdr 02:00:00:00:00:fa nud permanent dev host0
    ip route replace default via 10.88.0.250 dev host0 table 88";

/// From now on, what a machine sends to an address or network is lost.
pub fn lose(from: &Node, to: &str) -> Result<()> {
    from.run(&format!("set -e\n{NOBODY}\nip rule add pref 20 to {to} table 88")).map(drop)
}

/// The same only for packets to and from these TCP ports, such as `2379-2380`.
pub fn lose_ports(from: &Node, to: &str, ports: &str) -> Result<()> {
    let rule = |side: &str| format!("ip rule add pref 20 to {to} ipproto tcp {side} {ports} table 88");
    from.run(&format!("set -e\n{NOBODY}\n{}\n{}", rule("dport"), rule("sport"))).map(drop)
}

/// From now on, a machine receives no IP packet from the network. It also answers no more to those who look for its address.
pub fn receive_nothing(node: &Node) -> Result<()> {
    // The rule for the machine's own addresses is the first one; what comes from outside is looked at before.
    node.run("ip rule add pref 30 table local && ip rule del pref 0 && ip rule add pref 10 iif host0 blackhole")
        .map(drop)
}

/// Nothing is lost any more.
pub fn nothing(node: &Node) -> Result<()> {
    node.run(
        "ip rule show | grep -q '^0:' || ip rule add pref 0 table local
         for pref in 10 20 30; do while ip rule del pref $pref 2> /dev/null; do :; done; done
         ip route flush table 88 2> /dev/null || :",
    )
    .map(drop)
}
