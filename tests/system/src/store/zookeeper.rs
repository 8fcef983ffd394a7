//! ZooKeeper by Debian's package, on all machines: clients only by TLS with certificates, and a namespace behind a password.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{START_LIMIT, certificates::Authority};
use crate::{Lab, Node};

/// The port of TLS. The plain one answers the machine itself only.
pub const PORT: u16 = 2281;

/// The digest user to whom the namespace belongs.
pub const USER: &str = "patroni";
/// Its password.
pub const PASSWORD: &str = r#"d&/"g'\ %20$t"#;

const CONFIGURATION: &str = include_str!("../scripts/zoo.cfg");
/// Debian's class path lacks the codecs of Netty, without which a server with TLS ends by `ClassNotFoundException`.
const CLASS_PATH: &str = r#"CLASSPATH="/etc/zookeeper/conf:/usr/share/java/zookeeper.jar:/usr/share/java/netty-codec.jar:/usr/share/java/netty-resolver.jar""#;

/// Makes the namespace, which only the user of the digest may read and write.
const NAMESPACE: &str = r#"
import sys
from kazoo.client import KazooClient
from kazoo.security import make_digest_acl
namespace, user, password = sys.argv[1], sys.argv[2], sys.stdin.read()
client = KazooClient(hosts="127.0.0.1:2181")
client.start(timeout=20)
client.create(namespace, acl=[make_digest_acl(user, password, all=True)], makepath=True)
client.stop()
"#;

/// Starts ZooKeeper and waits until every server answers.
pub fn start(lab: &Lab, authority: &Authority) -> Result<()> {
    let servers: Vec<String> = lab
        .nodes()
        .iter()
        .zip(1..)
        .map(|(node, number)| format!("server.{number}={}:2888:3888", node.ipv4()))
        .collect();
    let numbered: Vec<(&Node, usize)> = lab.nodes().iter().zip(1..).collect();
    for (node, number) in numbered {
        let pair = authority.issue("/O=Lab/CN=zookeeper", node)?;
        // One file with both, as its PEM key store wants it.
        let both = pair.key + &pair.certificate;
        node.write("/etc/zookeeper/tls/server.pem", both, 0o640)?;
        node.write("/etc/zookeeper/tls/ca.pem", authority.certificate(), 0o644)?;
        node.write("/etc/zookeeper/conf/zoo.cfg", format!("{CONFIGURATION}{}\n", servers.join("\n")), 0o644)?;
        node.write("/var/lib/zookeeper/myid", format!("{number}\n"), 0o644)?;
        node.run(&format!(
            "chown root:zookeeper /etc/zookeeper/tls/server.pem && \
             echo '{CLASS_PATH}' >> /etc/zookeeper/conf/environment"
        ))?;
    }
    lab.each(|node| {
        node.run_within(START_LIMIT, "systemctl enable --quiet zookeeper && systemctl start zookeeper").map(drop)
    })?;
    lab.each(|node| {
        lab.wait_until(Duration::from_secs(40), "ZooKeeper serves", || {
            let state = node.run("exec 3<>/dev/tcp/127.0.0.1/2181 && echo srvr >&3 && timeout 5 cat <&3")?;
            state.lines().find(|line| line.starts_with("Mode: ")).with_context(|| format!("it says {state}"))?;
            Ok(true)
        })?;
        node.wait_listening(&[PORT])
    })
}

/// Makes a namespace that only the digest user may use.
pub fn protect(lab: &Lab, namespace: &str) -> Result<()> {
    let first = &lab.nodes()[0];
    first.write("/root/namespace.py", NAMESPACE, 0o600)?;
    first.write("/root/zookeeper.password", PASSWORD, 0o600)?;
    first.run(&format!("python3 /root/namespace.py {namespace} {USER} < /root/zookeeper.password")).map(drop)
}

/// Ends ZooKeeper everywhere and forgets what it had stored.
pub fn remove(lab: &Lab) -> Result<()> {
    lab.each(|node| {
        node.run("systemctl stop zookeeper; systemctl disable --quiet zookeeper; rm -rf /var/lib/zookeeper/version-2")
            .map(drop)
    })
}
