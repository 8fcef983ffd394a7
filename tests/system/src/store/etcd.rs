//! etcd by Debian's package: plain, or with TLS, client certificates and users.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{START_LIMIT, certificates::Authority};
use crate::Lab;

/// `/etc/default/etcd` of one member.
const DEFAULTS: &str = include_str!("../scripts/etcd.default");
/// What TLS adds to it.
const DEFAULTS_TLS: &str = include_str!("../scripts/etcd-tls.default");
/// Debian's unit does not wait for the address that it binds, and gives up where it is not there yet. A server that stops
/// waits 10 s for clients that keep their connections.
const ONLINE: &str = "[Unit]\nWants=network-online.target\nAfter=network-online.target\n[Service]\nRestart=on-failure\nTimeoutStopSec=2\n";

/// The user that members use.
pub const USER: &str = "patroni";
/// Its password, with what needs quoting in many places.
pub const PASSWORD: &str = r#"p&/"w'\ %20$x"#;
const ROOT_PASSWORD: &str = "root-of-etcd";

/// How etcdctl speaks to a secured server.
const OPTIONS: &str = "--endpoints=https://127.0.0.1:2379 --cacert=/etc/etcd/tls/ca.pem --cert=/etc/etcd/tls/server.pem \
    --key=/etc/etcd/tls/server.key";
/// The same without options.
const ENVIRONMENT: &str = "export ETCDCTL_API=3 ETCDCTL_ENDPOINTS=https://127.0.0.1:2379 ETCDCTL_CACERT=/etc/etcd/tls/ca.pem \
    ETCDCTL_CERT=/etc/etcd/tls/server.pem ETCDCTL_KEY=/etc/etcd/tls/server.key";

/// Starts etcd on all machines as one cluster and waits until every member is healthy.
///
/// It is enabled: a machine that boots again rejoins.
pub fn start(lab: &Lab) -> Result<()> {
    start_with(lab, |defaults| defaults)?;
    wait_until_healthy(lab, "--endpoints=http://127.0.0.1:2379")
}

/// The same with TLS everywhere, clients only by certificates of this authority, and users: root, and the one that these commands of
/// etcdctl make, who are asked for its password.
pub fn start_secured(lab: &Lab, authority: &Authority, user: &str) -> Result<()> {
    for node in lab.nodes() {
        authority.issue("/O=Lab/CN=etcd", node)?.install(node, "/etc/etcd/tls", "server", "root:etcd")?;
        node.write("/etc/etcd/tls/ca.pem", authority.certificate(), 0o644)?;
    }
    start_with(lab, |defaults| defaults.replace("http://", "https://") + DEFAULTS_TLS)?;
    wait_until_healthy(lab, OPTIONS)?;
    let first = &lab.nodes()[0];
    first.write("/root/user.sh", format!("set -e\n{ENVIRONMENT}\n{user}"), 0o700)?;
    // The terminal at which it asks.
    first.write("/root/etcd.password", format!("{PASSWORD}\n{PASSWORD}\n"), 0o600)?;
    let said = first.run("timeout 40 script -qec 'bash /root/user.sh' /dev/null < /root/etcd.password")?;
    ensure!(said.contains(&format!("User {USER} created")), "the user was not made: {said}");
    for command in [&format!("user add root:{ROOT_PASSWORD}"), "user grant-role root root", "auth enable"] {
        first.run(&format!("{ENVIRONMENT}\netcdctl {command}"))?;
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
