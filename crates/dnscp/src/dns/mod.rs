//! The DNS record that follows the primary (RFC 2136), changed anonymously, with TSIG (RFC 8945) or with Kerberos
//! (GSS-TSIG, RFC 3645).
//!
//! A run asks the server for the records of the name. Then it sends one message that removes the old records and adds the new ones,
//! so the name is never without records. The message has a condition: the name still has the records that were seen (RFC 2136,
//! section 2.4). An old primary may be frozen between its last query to Patroni and the sending. The server rejects its message,
//! because the new primary has changed the name meanwhile.

mod exchange;
mod gss;
mod key;
mod keytab;
mod query;
mod records;
mod resolve;
pub mod trial;
mod update;
pub mod withdraw;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result};
use host::endpoint::{Auth, Dns};
use host::trouble::{Explain, Trouble};
use host::{Root, fail};

use exchange::{Limits, part, share};
use host::net::resolve::Lookup;
use query::DnsName;
use records::Seen;
use resolve::{Resolvers, Server};
use update::{Change, Sent};

/// If another host changes the name in every round, the next run tries again after so many rounds.
const ROUNDS: u32 = 3;

/// A server that does not respond for so long is skipped, if there are others.
const PATIENCE: Duration = Duration::from_millis(750);

/// How a registration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The name was changed.
    Changed {
        /// The server that accepted the change.
        server: SocketAddr,
    },
    /// The name had the right records already.
    Unchanged {
        /// The server that was asked.
        server: SocketAddr,
    },
    /// This member is no longer the primary, so nothing more was sent.
    NotPrimary,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { server } => write!(f, "registered at {server}"),
            Self::Unchanged { server } => write!(f, "already registered at {server}"),
            Self::NotPrimary => f.write_str("not registered, because this member is no longer the primary"),
        }
    }
}

/// What an authoritative server answers for the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The addresses of the name, sorted.
    pub addresses: Vec<IpAddr>,
    /// For how many seconds clients may cache them.
    pub ttl: Option<u32>,
    /// The server.
    pub server: SocketAddr,
}

/// Registers the name of `dns` with the addresses `wanted`, and removes all others.
///
/// If the name has exactly these, nothing is sent, except with `refresh`: Active Directory removes records that are not registered
/// again ("scavenging"). `still_primary` is called right before each message that changes something.
pub fn register(
    root: &Root,
    dns: &Dns,
    wanted: &[IpAddr],
    refresh: bool,
    still_primary: &dyn Fn() -> bool,
    deadline: Instant,
) -> Result<Outcome> {
    if wanted.is_empty() {
        fail!("{} cannot be registered without an address", dns.name);
    }
    let task = Task {
        name: query::name(&dns.name)?,
        dns,
        wanted,
        refresh,
        still_primary,
        credentials: Credentials::read(root, dns)?,
    };
    each_server(root, dns, deadline, |server, zone, limits| task.register_at(server, zone, limits))
        .context("not registered")
        .at(&dns.name)
}

/// Asks an authoritative server for the addresses of the name.
pub fn lookup(root: &Root, dns: &Dns, deadline: Instant) -> Result<Answer> {
    let name = query::name(&dns.name)?;
    each_server(root, dns, deadline, |server, _, limits| {
        let seen = Seen::ask(server, &name, limits)?;
        if !seen.authoritative {
            fail!("it is not authoritative for the name"; "Name other servers in DNS_SERVERS.");
        }
        if let Some(target) = seen.alias {
            fail!("the name is an alias (CNAME) of {target}"; "Remove it, or set another DNS_NAME.");
        }
        Ok(Answer { addresses: seen.addresses(), ttl: seen.ttl(), server })
    })
    .context("no server answers for the name")
    .at(&dns.name)
}

/// Tries the servers one after the other, each with its share of the time that is left. If none succeeds, those that did not respond
/// are tried a second time.
fn each_server<T>(
    root: &Root,
    dns: &Dns,
    deadline: Instant,
    attempt: impl Fn(SocketAddr, Option<&DnsName>, Limits) -> Result<T>,
) -> Result<T> {
    let resolvers = Arc::new(Resolvers::read(root));
    let configured = dns.zone.as_deref().map(query::name).transpose()?;
    let (zone, servers) = if dns.servers.is_empty() {
        let (zone, servers) = resolve::discover(&resolvers, &query::name(&dns.name)?, configured, share(deadline, 2))?;
        (Some(zone), servers)
    } else {
        let servers = dns.servers.iter().map(|text| Server::parse(text)).collect::<Result<Vec<_>>>()?;
        (configured, servers)
    };
    // At once, since the resolver takes as long for all names as for one. Half of the time that the first server's name has is for own
    // queries, and half for the system.
    let half = part(share(share(deadline, servers.len()), 2), 2);
    let lookups: Vec<Lookup> = servers.iter().map(|server| server.lookup(&resolvers, half)).collect();
    let mut faults = Vec::new();
    let mut silent = Vec::new();
    for (index, (server, lookup)) in servers.iter().zip(&lookups).enumerate() {
        let until = share(deadline, servers.len() - index);
        let addresses = match lookup.wait(share(until, 2)) {
            Ok(addresses) => addresses,
            Err(error) => {
                let fault = Trouble::new(format!("its name cannot be resolved ({error})")).at(server);
                faults.push(fault.hint("Correct DNS_SERVERS, or set an address there."));
                continue;
            }
        };
        for (index, address) in addresses.iter().enumerate() {
            let until = share(until, addresses.len() - index);
            let alone = servers.len() == 1 && addresses.len() == 1;
            let patience = if alone { until } else { until.min(Instant::now() + PATIENCE) };
            match attempt(*address, zone.as_ref(), Limits { patience, until }) {
                Ok(result) => return Ok(result),
                Err(error) if !alone && Instant::now() >= patience => silent.push((server, *address, error)),
                Err(error) => faults.push(at_server(server, *address, &error)),
            }
        }
    }
    let count = silent.len();
    for (index, (server, address, mut error)) in silent.into_iter().enumerate() {
        let until = share(deadline, count - index);
        if Instant::now() < until {
            match attempt(address, zone.as_ref(), Limits { patience: until, until }) {
                Ok(result) => return Ok(result),
                Err(again) => error = again,
            }
        }
        faults.push(at_server(server, address, &error));
    }
    Err(joined(faults).into())
}

fn at_server(server: &Server, address: SocketAddr, error: &Error) -> Trouble {
    let inner = Trouble::of(error);
    let mut fault = Trouble::new(inner.line()).at(server.shown(address));
    fault.hint = inner.hint;
    fault
}

/// The faults of all servers as one.
fn joined(mut faults: Vec<Trouble>) -> Trouble {
    if faults.len() == 1 {
        return faults.remove(0);
    }
    let lines: Vec<String> = faults.iter().map(Trouble::line).collect();
    let mut hints: Vec<String> = faults.into_iter().filter_map(|fault| fault.hint).collect();
    hints.dedup();
    let trouble = Trouble::new(lines.join("; "));
    if hints.is_empty() { trouble } else { trouble.hint(hints.join(" ")) }
}

/// The credentials for a change of the name, read before anything is sent.
enum Credentials {
    None,
    Tsig(key::Tsig),
    Gss(gss::Client),
}

impl Credentials {
    fn read(root: &Root, dns: &Dns) -> Result<Self> {
        Ok(match &dns.auth {
            Auth::None => Self::None,
            Auth::Tsig(file) => Self::Tsig(key::Tsig::read(root, file)?),
            Auth::Gss { principal, secret } => Self::Gss(gss::Client::read(root, principal, secret)?),
        })
    }
}

/// One registration.
struct Task<'a> {
    name: DnsName,
    dns: &'a Dns,
    wanted: &'a [IpAddr],
    refresh: bool,
    still_primary: &'a dyn Fn() -> bool,
    credentials: Credentials,
}

impl Task<'_> {
    fn register_at(&self, server: SocketAddr, zone: Option<&DnsName>, limits: Limits) -> Result<Outcome> {
        let until = limits.until;
        let (zone, mut limits) = match zone {
            Some(zone) => (zone.clone(), limits),
            None => (resolve::zone_at(server, &self.name, limits)?, Limits { patience: until, until }),
        };
        let mut before: Option<Seen> = None;
        for _ in 0..ROUNDS {
            let seen = Seen::ask(server, &self.name, limits)?;
            limits.patience = until;
            if let Some(target) = &seen.alias {
                fail!("the name is an alias (CNAME) of {target}"; "Remove it, or set another DNS_NAME.");
            }
            if !self.refresh && seen.is(self.wanted, self.dns.ttl) {
                return Ok(Outcome::Unchanged { server });
            }
            // The server answers as before, but reports that the name has other records. So its answers do not come from its zone (a
            // view, a wildcard, a secondary that forwards updates), and cannot be a condition.
            let credible = seen.authoritative && before.as_ref() != Some(&seen);
            let change = Change {
                name: &self.name,
                zone: &zone,
                ttl: self.dns.ttl,
                wanted: self.wanted,
                seen: credible.then_some(&seen),
                refresh: self.refresh,
                trial: false,
            };
            match self.send(server, &change, until)? {
                Sent::Done => return Ok(Outcome::Changed { server }),
                Sent::NotPrimary => return Ok(Outcome::NotPrimary),
                Sent::Overtaken if credible => before = Some(seen),
                Sent::Overtaken => break,
            }
        }
        fail!("another host changes the name at the same time"; "Check that no other cluster has this DNS_NAME.")
    }

    fn send(&self, server: SocketAddr, change: &Change, until: Instant) -> Result<Sent> {
        let key = match &self.credentials {
            Credentials::Gss(client) => return client.send(server, change, self.still_primary, until),
            Credentials::Tsig(key) => Some(key),
            Credentials::None => None,
        };
        let (request, transaction) = update::update(change, key)?;
        let Some(answer) = exchange::exchange(server, &request, self.still_primary, until)? else {
            return Ok(Sent::NotPrimary);
        };
        update::judge(answer, transaction, change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_never_after_the_deadline() {
        let now = Instant::now();
        assert!(share(now + Duration::from_secs(12), 3) <= now + Duration::from_millis(4100));
        assert!(share(now + Duration::from_millis(300), 3) <= now + Duration::from_millis(300));
        assert!(share(now, 0) <= Instant::now());
    }
}
