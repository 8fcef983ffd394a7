//! A trial: does each server answer, and would it accept a change of the name? The message that it gets is signed as a change would be. It
//! has the condition that the name still has the records that were seen, and changes none of them.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use host::endpoint::Dns;
use host::trouble::{Explain, Trouble};
use host::{Root, fail};

use super::exchange::Limits;
use super::records::Seen;
use super::update::{Change, Sent};
use super::{Answer, Credentials, DnsName, Task, each_server, lookup, query, resolve};

/// What one server says.
#[derive(Debug)]
pub struct Opinion {
    /// The records of the name, or why it does not answer.
    pub answer: Result<Answer, Trouble>,
    /// Whether it would accept a change. It is not tried at a server that does not answer.
    pub login: Result<(), Trouble>,
}

/// Asks all servers in `DNS_SERVERS` at once, or else those of the zone one after the other. Each has `answer` for its records, and `login`
/// for the trial with the addresses `wanted`.
#[must_use]
pub fn ask_all(root: &Root, dns: &Dns, wanted: &[IpAddr], answer: Duration, login: Duration) -> Vec<Opinion> {
    let each = |server: &String| Dns { servers: vec![server.clone()], ..dns.clone() };
    let mut alone: Vec<Dns> = dns.servers.iter().map(each).collect();
    if alone.is_empty() {
        alone.push(dns.clone());
    }
    thread::scope(|scope| {
        let works: Vec<_> = alone.iter().map(|dns| scope.spawn(|| ask(root, dns, wanted, answer, login))).collect();
        let aborted = || Trouble::of(&anyhow!("the query for {} was aborted", dns.name));
        let ended = works
            .into_iter()
            .map(|work| work.join().unwrap_or_else(|_| Opinion { answer: Err(aborted()), login: Ok(()) }));
        ended.collect()
    })
}

fn ask(root: &Root, dns: &Dns, wanted: &[IpAddr], answer: Duration, login: Duration) -> Opinion {
    match lookup(root, dns, Instant::now() + answer) {
        Ok(answer) => {
            let login = trial(root, dns, wanted, Instant::now() + login).map_err(|error| Trouble::of(&error));
            Opinion { answer: Ok(answer), login }
        }
        Err(error) => Opinion { answer: Err(Trouble::of(&error)), login: Ok(()) },
    }
}

/// Whether a server would accept a change of the name to addresses of these families with the configured credentials. Without addresses
/// only the credentials are tried.
pub fn trial(root: &Root, dns: &Dns, wanted: &[IpAddr], deadline: Instant) -> Result<()> {
    let credentials = Credentials::read(root, dns);
    let tried = credentials.and_then(|credentials| {
        let task =
            Task { name: query::name(&dns.name)?, dns, wanted, refresh: false, still_primary: &|| true, credentials };
        each_server(root, dns, deadline, |server, zone, limits| task.try_at(server, zone, limits))
    });
    tried.context("this member could not change the name").at(&dns.name)
}

impl Task<'_> {
    fn try_at(&self, server: SocketAddr, zone: Option<&DnsName>, limits: Limits) -> Result<()> {
        let until = limits.until;
        let (zone, limits) = match zone {
            Some(zone) => (zone.clone(), limits),
            None => (resolve::zone_at(server, &self.name, limits)?, Limits { patience: until, until }),
        };
        let seen = Seen::ask(server, &self.name, limits)?;
        if let Some(target) = &seen.alias {
            fail!("the name is an alias (CNAME) of {target}"; "Remove it, or set another DNS_NAME.");
        }
        let change = Change {
            name: &self.name,
            zone: &zone,
            ttl: self.dns.ttl,
            wanted: self.wanted,
            seen: seen.authoritative.then_some(&seen),
            refresh: false,
            trial: true,
        };
        // Another host may change the name meanwhile: the server has looked at the signature before.
        match self.send(server, &change, until)? {
            Sent::Done | Sent::NotPrimary | Sent::Overtaken => Ok(()),
        }
    }
}
