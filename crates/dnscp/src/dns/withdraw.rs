//! The end of a name: its records are removed if they are those of this member.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::{Context, Result};
use host::endpoint::{Auth, Dns, GssSecret};
use host::trouble::Explain;
use host::{Root, fail};

use super::exchange::Limits;
use super::records::Seen;
use super::update::{Change, Sent};
use super::{Credentials, DnsName, Outcome, Task, each_server, query, resolve};

/// Removes the records of a name that has exactly the addresses `ours`. If it has none, nothing is sent; an error if it has others, which
/// another host registered.
pub fn withdraw(
    root: &Root,
    dns: &Dns,
    ours: &[IpAddr],
    still_primary: &dyn Fn() -> bool,
    deadline: Instant,
) -> Result<Outcome> {
    let task = Task {
        name: query::name(&dns.name)?,
        dns,
        wanted: &[],
        refresh: false,
        still_primary,
        credentials: Credentials::read(root, dns)?,
    };
    each_server(root, dns, deadline, |server, zone, limits| task.withdraw_at(server, zone, ours, limits))
        .context("not removed")
        .at(&dns.name)
}

impl Task<'_> {
    fn withdraw_at(
        &self,
        server: SocketAddr,
        zone: Option<&DnsName>,
        ours: &[IpAddr],
        limits: Limits,
    ) -> Result<Outcome> {
        let until = limits.until;
        let (zone, limits) = match zone {
            Some(zone) => (zone.clone(), limits),
            None => (resolve::zone_at(server, &self.name, limits)?, Limits { patience: until, until }),
        };
        let seen = Seen::ask(server, &self.name, limits)?;
        let mut ours = ours.to_vec();
        ours.sort();
        let addresses = seen.addresses();
        if addresses.is_empty() && seen.authoritative {
            return Ok(Outcome::Unchanged { server });
        }
        if !seen.authoritative || addresses != ours {
            fail!("its addresses are not those of this member");
        }
        let change = Change {
            name: &self.name,
            zone: &zone,
            ttl: self.dns.ttl,
            wanted: &[],
            seen: Some(&seen),
            refresh: false,
            trial: false,
        };
        match self.send(server, &change, until)? {
            Sent::Done => Ok(Outcome::Changed { server }),
            Sent::NotPrimary => Ok(Outcome::NotPrimary),
            Sent::Overtaken => fail!("another host changes the name at the same time"),
        }
    }
}

/// The command that removes a name by hand, for messages.
#[must_use]
pub fn command(dns: &Dns) -> String {
    let mut lines = Vec::new();
    lines.extend(dns.servers.first().map(|server| match server.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            format!("server {} {port}", host.trim_matches(['[', ']']))
        }
        _ => format!("server {}", server.trim_matches(['[', ']'])),
    }));
    lines.extend(dns.zone.as_ref().map(|zone| format!("zone {zone}")));
    lines.extend(["A", "AAAA"].map(|rtype| format!("update delete {} {rtype}", dns.name)));
    lines.push("send".to_owned());
    let input = lines.iter().map(|line| format!("'{line}'")).collect::<Vec<_>>().join(" ");
    let update = match &dns.auth {
        Auth::None => "nsupdate".to_owned(),
        Auth::Tsig(key) => format!("nsupdate -k {}", host::program::quoted(&key.display().to_string())),
        Auth::Gss { principal, secret } => {
            let principal = host::program::quoted(principal);
            let login = match secret {
                GssSecret::Keytab(keytab) => {
                    format!("kinit -k -t {} {principal}", host::program::quoted(&keytab.display().to_string()))
                }
                GssSecret::Password(_) => format!("kinit {principal}"),
            };
            return format!("{login} && printf '%s\\n' {input} | nsupdate -g");
        }
    };
    format!("printf '%s\\n' {input} | {update}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_command_is_complete() {
        let mut dns = Dns {
            name: "pgsql.db.test".to_owned(),
            zone: Some("db.test".to_owned()),
            servers: vec!["10.0.0.53:5353".to_owned()],
            ttl: 5,
            auth: Auth::None,
        };
        let deletes = "'update delete pgsql.db.test A' 'update delete pgsql.db.test AAAA' 'send'";
        let printed = format!("printf '%s\\n' 'server 10.0.0.53 5353' 'zone db.test' {deletes} | nsupdate");
        assert_eq!(command(&dns), printed);
        dns.auth = Auth::Tsig("/etc/patroni/k".into());
        assert_eq!(command(&dns), format!("{printed} -k /etc/patroni/k"));
        dns.servers = vec!["fd00::53".to_owned()];
        dns.auth = Auth::Gss { principal: "pgsql$@DB.TEST".to_owned(), secret: GssSecret::Keytab("/k".into()) };
        let printed = format!("printf '%s\\n' 'server fd00::53' 'zone db.test' {deletes} | nsupdate -g");
        assert_eq!(command(&dns), format!("kinit -k -t /k 'pgsql$@DB.TEST' && {printed}"));
    }
}
