//! A name server on one machine of a lab, with a zone that takes updates by Kerberos alone: Debian's BIND and MIT KDC.

use std::time::Duration;

use anyhow::Result;

use crate::{Lab, Node};

/// The zone.
pub const ZONE: &str = "db.test";

/// The settings of `/etc/default/patroni` with which members register their name in the zone.
#[must_use]
pub fn settings(server: &Node) -> String {
    format!(
        "DNS_ZONE={ZONE}\nDNS_SERVERS={}\nDNS_TTL=30\nDNS_AUTH=gss\nDNS_PRINCIPAL='pgsql$@GSS.TEST'\nDNS_KEYTAB={KEYTAB}\n",
        server.ipv4()
    )
}

const KEYTAB: &str = "/etc/patroni/pgsql.keytab";

const NAMED: &str = include_str!("scripts/named.conf");

const KRB5: &str = include_str!("scripts/krb5.conf");

/// Makes the accounts and the zone. The passwords are those of a machine that lives for minutes.
const SET_UP: &str = include_str!("scripts/names.sh");

/// Starts the servers on one machine and gives all others what they need to use them; our package must be installed.
pub fn start(lab: &Lab, server: &Node) -> Result<()> {
    let address = server.ipv4();
    lab.each(|node| {
        node.write("/etc/krb5.conf", KRB5.replace("@ADDRESS@", &address), 0o644)?;
        node.write("/etc/resolv.conf", format!("nameserver {address}\n"), 0o644)
    })?;
    server.write("/etc/bind/named.conf", NAMED, 0o644)?;
    server.write("/var/tmp/names.sh", SET_UP.replace("@ADDRESS@", &address), 0o755)?;
    server.run_within(Duration::from_secs(60), &format!("/var/tmp/names.sh {} {ZONE} {KEYTAB}", server.name()))?;
    let keytab = server.run(&format!("base64 {KEYTAB}"))?;
    lab.each(|node| {
        node.run(&format!(
            "echo '{}' | base64 -d > {KEYTAB} && chown root:postgres {KEYTAB} && chmod 0640 {KEYTAB}",
            keytab.trim()
        ))
        .map(drop)
    })
}

/// The addresses (A) that the server gives for a name of the zone, in order.
pub fn look_up(server: &Node, name: &str) -> Result<Vec<String>> {
    let found = server.run(&format!("dig +short +time=2 +tries=1 @{} {name}.{ZONE} A", server.ipv4()))?;
    let mut found: Vec<String> = found.lines().map(str::to_owned).collect();
    found.sort();
    Ok(found)
}

/// Removes a name behind the back of the members.
pub fn remove(server: &Node, name: &str) -> Result<()> {
    server
        .run(&format!(
            "export KRB5CCNAME=MEMORY: KRB5_CLIENT_KTNAME={KEYTAB}
            printf 'server {}\\nzone {ZONE}\\nupdate delete {name}.{ZONE}\\nsend\\n' | timeout 20 nsupdate -g",
            server.ipv4()
        ))
        .map(drop)
}
