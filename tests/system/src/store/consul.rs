//! Consul 1.8.7, by Debian 11's package: servers on all machines, TLS in both directions, nothing allowed without a token.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{START_LIMIT, certificates::Authority};
use crate::{Lab, Node};

/// The port of HTTPS, for agents and their clients.
pub const PORT: u16 = 8501;
/// The token of the members.
pub const TOKEN: &str = "6f6e2a57-7b52-4c1c-8bd4-0d5a1a4e8a11";
const MANAGEMENT: &str = "0f4d4d2e-64d1-4f6a-9c0b-9b3c2c1ad0c0";
const AGENT: &str = "8a1b54b6-2f0a-4a39-a0ad-2f5d6e2a2f0e";
/// Consul's own token for whoever has none.
const ANONYMOUS: &str = "00000000-0000-0000-0000-000000000002";
const GOSSIP: &str = "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s=";

/// Starts Consul's servers, and makes the token of the members of a scope, with the policy of `docs/stores.md`. Anybody may look
/// up nodes and services by DNS.
pub fn start(lab: &Lab, authority: &Authority, scope: &str) -> Result<()> {
    let join: Vec<String> = lab.nodes().iter().map(Node::ipv4).collect();
    for node in lab.nodes() {
        authority.issue("/O=Lab/CN=consul", node)?.install(node, "/etc/consul.d/tls", "server", "root:consul")?;
        node.write("/etc/consul.d/tls/ca.pem", authority.certificate(), 0o644)?;
        let configuration = json!({
            "server": true,
            "bootstrap_expect": lab.nodes().len(),
            "datacenter": "lab",
            "bind_addr": node.ipv4(),
            "retry_join": join,
            "retry_interval": "1s",
            "encrypt": GOSSIP,
            // The shortest times, so that the tests do not wait for a leader.
            "performance": {"raft_multiplier": 1},
            "autopilot": {"server_stabilization_time": "1s"},
            "ports": {"http": -1, "https": PORT},
            "addresses": {"https": format!("127.0.0.1 {}", node.ipv4())},
            "verify_incoming": true,
            "verify_outgoing": true,
            "ca_file": "/etc/consul.d/tls/ca.pem",
            "cert_file": "/etc/consul.d/tls/server.pem",
            "key_file": "/etc/consul.d/tls/server.key",
            "acl": {
                "enabled": true,
                "default_policy": "deny",
                "enable_token_persistence": true,
                "tokens": {"master": MANAGEMENT, "agent": AGENT},
            },
        });
        node.write("/etc/consul.d/lab.json", configuration.to_string(), 0o640)?;
        node.run("chown root:consul /etc/consul.d/lab.json")?;
    }
    lab.each(|node| node.run_within(START_LIMIT, "systemctl enable --quiet --now consul").map(drop))?;
    let first = &lab.nodes()[0];
    let policies = [
        ("agent", r#"node_prefix "" { policy = "write" } service_prefix "" { policy = "read" }"#.to_owned()),
        (
            "patroni",
            format!(
                r#"key_prefix "postgresql-common/{scope}/" {{ policy = "write" }} session_prefix "" {{ policy = "write" }}
                   service_prefix "{scope}" {{ policy = "write" }}
                   node_prefix "" {{ policy = "read" }} agent_prefix "" {{ policy = "read" }}"#
            ),
        ),
        ("lookup", r#"node_prefix "" { policy = "read" } service_prefix "" { policy = "read" }"#.to_owned()),
    ];
    lab.wait_until(Duration::from_secs(30), "Consul takes a policy", || {
        // A server without a leader, and one whose ACL system is not up yet, refuse.
        consul(first, "acl policy create -name probe").map(|_| true)
    })?;
    for (name, rules) in policies {
        first.write("/root/consul.hcl", rules, 0o600)?;
        consul(first, &format!("acl policy create -name {name} -rules @/root/consul.hcl"))?;
    }
    for (secret, policy) in [(AGENT, "agent"), (TOKEN, "patroni")] {
        consul(first, &format!("acl token create -secret {secret} -policy-name {policy}"))?;
    }
    consul(first, &format!("acl token update -id {ANONYMOUS} -policy-name lookup"))?;
    wait_for_voters(lab)
}

/// Waits until all servers vote. One that was away is removed by the others, and votes again only some time after its
/// return: were another one lost before, nobody would decide.
pub fn wait_for_voters(lab: &Lab) -> Result<()> {
    lab.each(|node| {
        lab.wait_until(Duration::from_secs(40), "all servers of Consul vote", || {
            let peers = consul(node, "operator raft list-peers")?;
            let voters = peers.lines().filter(|line| line.split_whitespace().nth(4) == Some("true")).count();
            ensure!(voters == lab.nodes().len(), "the servers are {peers}");
            let nodes = consul(node, "catalog nodes")?;
            ensure!(lab.nodes().iter().all(|node| nodes.contains(&node.ipv4())), "the catalogue has {nodes}");
            Ok(true)
        })
    })
}

/// Ends Consul everywhere and forgets what it had stored.
pub fn remove(lab: &Lab) -> Result<()> {
    lab.each(|node| node.run("systemctl disable --quiet --now consul; rm -rf /var/lib/consul/*").map(drop))
}

/// The addresses that the agent's DNS has for a name.
pub fn lookup(node: &Node, name: &str) -> Result<Vec<String>> {
    let answer = node.run(&format!("dig +short +timeout=2 +tries=1 @127.0.0.1 -p 8600 {name}"))?;
    Ok(answer.lines().map(str::to_owned).collect())
}

/// Consul's own program with all rights.
fn consul(node: &Node, arguments: &str) -> Result<String> {
    node.run(&format!(
        "CONSUL_HTTP_TOKEN={MANAGEMENT} CONSUL_HTTP_ADDR=https://127.0.0.1:{PORT} \
         CONSUL_CACERT=/etc/consul.d/tls/ca.pem CONSUL_CLIENT_CERT=/etc/consul.d/tls/server.pem \
         CONSUL_CLIENT_KEY=/etc/consul.d/tls/server.key timeout 20 consul {arguments}"
    ))
}
