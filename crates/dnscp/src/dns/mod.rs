//! The DNS record that follows the primary (RFC 2136), changed anonymously, with TSIG (RFC 8945) or with Kerberos
//! (GSS-TSIG, RFC 3645).
//!
//! A run asks the server what the name has, and changes it by one message in which the old records go and the new ones
//! come, so that the name is never absent. The message holds only on the condition that the name still has what was
//! seen (RFC 2136, section 2.4): a message of an old primary that was frozen between its last look at Patroni and the
//! sending is refused by the server, because the new primary has changed the name meanwhile.

mod exchange;
mod gss;
mod key;
mod keytab;
mod query;
mod records;
mod resolve;
mod update;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use host::Root;
use host::endpoint::{Auth, Dns};

use exchange::{Limits, share};
use query::DnsName;
use records::Seen;
use resolve::Server;
use update::{Change, Sent};

/// Somebody else changes the name each time that we look: after so many rounds the next run may try.
const ROUNDS: u32 = 3;

/// A server that gives no sign of life for so long is passed over, if there are others.
const PATIENCE: Duration = Duration::from_millis(750);

/// How a registration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The name was changed.
    Changed {
        /// The server that took it.
        server: SocketAddr,
    },
    /// The name had the right records already.
    Unchanged {
        /// The server that says so.
        server: SocketAddr,
    },
    /// This member is no longer the primary; nothing more was sent.
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
    /// The addresses of the name, sorted; none: the name has none.
    pub addresses: Vec<IpAddr>,
    /// For how many seconds others may keep them.
    pub ttl: Option<u32>,
    /// The server.
    pub server: SocketAddr,
}

/// Registers the name of `dns` with the addresses `wanted`, in place of all that it has.
///
/// Where the name has exactly them, nothing is sent, except with `refresh`: Active Directory removes records that nobody
/// registers again ("scavenging"). `still_primary` is asked right before each message that changes something.
pub fn register(
    root: &Root,
    dns: &Dns,
    wanted: &[IpAddr],
    refresh: bool,
    still_primary: &dyn Fn() -> bool,
    deadline: Instant,
) -> Result<Outcome> {
    ensure!(!wanted.is_empty(), "{} cannot be registered without an address", dns.name);
    let task = Task {
        name: query::name(&dns.name)?,
        dns,
        wanted,
        refresh,
        still_primary,
        credentials: Credentials::read(root, dns)?,
    };
    each_server(root, dns, deadline, |server, zone, limits| task.register_at(server, zone, limits))
        .with_context(|| format!("{} is not registered", dns.name))
}

/// Asks an authoritative server which addresses the name has now.
pub fn lookup(root: &Root, dns: &Dns, deadline: Instant) -> Result<Answer> {
    let name = query::name(&dns.name)?;
    each_server(root, dns, deadline, |server, _, limits| {
        let seen = Seen::ask(server, &name, limits)?;
        ensure!(seen.authoritative, "it is not authoritative for {}: name others in DNS_SERVERS", dns.name);
        if let Some(target) = seen.alias {
            bail!("{} is an alias (CNAME) of {target}", dns.name);
        }
        Ok(Answer { addresses: seen.addresses(), ttl: seen.ttl(), server })
    })
    .with_context(|| format!("nobody can be asked for {}", dns.name))
}

/// Tries the servers in turn, each with its share of the time that is left; those that are silent a second time, when no
/// other one was of use.
fn each_server<T>(
    root: &Root,
    dns: &Dns,
    deadline: Instant,
    attempt: impl Fn(SocketAddr, Option<&DnsName>, Limits) -> Result<T>,
) -> Result<T> {
    let configured = dns.zone.as_deref().map(query::name).transpose()?;
    let (zone, servers) = if dns.servers.is_empty() {
        let (zone, servers) = resolve::discover(root, &query::name(&dns.name)?, configured, share(deadline, 2))?;
        (Some(zone), servers)
    } else {
        let servers = dns.servers.iter().map(|text| Server::parse(text)).collect::<Result<Vec<_>>>()?;
        (configured, servers)
    };
    let mut faults = Vec::new();
    let mut silent = Vec::new();
    for (index, server) in servers.iter().enumerate() {
        let until = share(deadline, servers.len() - index);
        let addresses = match server.addresses(root, share(until, 2)) {
            Ok(addresses) => addresses,
            Err(error) => {
                faults.push(format!("{server}: {error:#}"));
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
                Err(error) => faults.push(format!("{}: {error:#}", server.shown(*address))),
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
        faults.push(format!("{}: {error:#}", server.shown(address)));
    }
    bail!("{}", faults.join("; "))
}

/// What proves that we may change the name. Read before anything is sent.
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
                bail!("{} is an alias (CNAME) of {target}: remove it, or set another DNS_NAME", self.dns.name);
            }
            if !self.refresh && seen.is(self.wanted, self.dns.ttl) {
                return Ok(Outcome::Unchanged { server });
            }
            // The server shows what it showed before, and still says that the name does not have it: its answers come
            // from elsewhere than its zone (a view, a wildcard, a secondary that passes updates on), so they are no condition.
            let credible = seen.authoritative && before.as_ref() != Some(&seen);
            let change = Change {
                name: &self.name,
                zone: &zone,
                ttl: self.dns.ttl,
                wanted: self.wanted,
                seen: credible.then_some(&seen),
                refresh: self.refresh,
            };
            match self.send(server, &change, until)? {
                Sent::Done => return Ok(Outcome::Changed { server }),
                Sent::NotPrimary => return Ok(Outcome::NotPrimary),
                Sent::Overtaken if credible => before = Some(seen),
                Sent::Overtaken => break,
            }
        }
        bail!("somebody else changes {} at the same time: is it the name of another cluster too?", self.dns.name)
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
