//! etcd by Debian's package: plain, or with TLS, client certificates and users.

use std::time::Duration;

use anyhow::Result;

use super::{START_LIMIT, certificates::Authority};
use crate::Lab;

/// `/etc/default/etcd` of one member.
const DEFAULTS: &str = include_str!("../scripts/etcd.default");
/// What TLS adds to it.
const DEFAULTS_TLS: &str = include_str!("../scripts/etcd-tls.default");
/// Debian's unit does not wait for the address that it binds, and gives up where it is not there yet. A server that stops
/// waits 10 s for clients that keep their connections.
const ONLINE: &str = "[Unit]\nWants=network-online.target\nAfter=network-online.target\n[Service]\nRestart=on-failure\nTimeoutStopSec=2\n";

/// The user that members use, and its role's right.
pub const USER: &str = "patroni";
/// Its password, with what needs quoting in many places.
pub const PASSWORD: &str = r#"p&/"w'\ %20$x"#;
const ROOT_PASSWORD: &str = "root-of-etcd";

/// How etcdctl speaks to a secured server.
const OPTIONS: &str = "--endpoints=https://127.0.0.1:2379 --cacert=/etc/etcd/tls/ca.pem --cert=/etc/etcd/tls/server.pem \
    --key=/etc/etcd/tls/server.key";

/// Starts etcd on all machines as one cluster and waits until every member is healthy.
///
/// It is enabled: a machine that boots again rejoins.
pub fn start(lab: &Lab) -> Result<()> {
    start_with(lab, |defaults| defaults)?;
    wait_until_healthy(lab, "--endpoints=http://127.0.0.1:2379")
}

/// The same with TLS everywhere, clients only by certificates of this authority, and a user who may use `prefix` only.
pub fn start_secured(lab: &Lab, authority: &Authority, prefix: &str) -> Result<()> {
    for node in lab.nodes() {
        authority.issue("/O=Lab/CN=etcd", node)?.install(node, "/etc/etcd/tls", "server", "root:etcd")?;
        node.write("/etc/etcd/tls/ca.pem", authority.certificate(), 0o644)?;
    }
    start_with(lab, |defaults| defaults.replace("http://", "https://") + DEFAULTS_TLS)?;
    wait_until_healthy(lab, OPTIONS)?;
    let commands = format!(
        "user add root:{ROOT_PASSWORD}\nuser grant-role root root\nrole add {USER}\n\
         role grant-permission {USER} --prefix=true readwrite {prefix}\n\
         user add {USER}:\"$(cat /root/etcd.password)\"\nuser grant-role {USER} {USER}\nauth enable"
    );
    let first = &lab.nodes()[0];
    first.write("/root/etcd.password", PASSWORD, 0o600)?;
    for command in commands.lines() {
        first.run(&format!("ETCDCTL_API=3 etcdctl {OPTIONS} {command}"))?;
    }
    Ok(())
}

/// Ends etcd everywhere and forgets what it had stored.
pub fn remove(lab: &Lab) -> Result<()> {
    lab.each(|node| node.run("systemctl disable --quiet --now etcd; rm -rf /var/lib/etcd/default").map(drop))
}

fn start_with(lab: &Lab, change: impl Fn(String) -> String + Sync) -> Result<()> {
    let members: Vec<String> =
        lab.nodes().iter().map(|node| format!("{}=http://{}:2380", node.name(), node.ipv4())).collect();
    lab.each(|node| {
        let defaults = DEFAULTS
            .replace("@NAME@", node.name())
            .replace("@ADDRESS@", &node.ipv4())
            .replace("@MEMBERS@", &members.join(","));
        node.write("/etc/default/etcd", change(defaults), 0o644)?;
        node.write("/etc/systemd/system/etcd.service.d/lab.conf", ONLINE, 0o644)?;
        node.run_within(START_LIMIT, "systemctl daemon-reload && systemctl enable --quiet --now etcd").map(drop)
    })
}

fn wait_until_healthy(lab: &Lab, options: &str) -> Result<()> {
    lab.each(|node| {
        lab.wait_until(Duration::from_secs(30), "etcd is healthy", || {
            let health = node.try_run(&format!("ETCDCTL_API=3 etcdctl {options} endpoint health"))?;
            health.ok().map(|_| true)
        })
    })
}
