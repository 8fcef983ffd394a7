//! A trial: does each server answer, and would it accept a change of the name? The message that it gets has only a condition, the records
//! that the name has, so it changes nothing (RFC 2136, section 3.2), but it is signed as a change would be.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use host::Root;
use host::endpoint::Dns;
use host::trouble::{Explain, Trouble};

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
/// for the trial.
#[must_use]
pub fn ask_all(root: &Root, dns: &Dns, answer: Duration, login: Duration) -> Vec<Opinion> {
    let each = |server: &String| Dns { servers: vec![server.clone()], ..dns.clone() };
    let mut alone: Vec<Dns> = dns.servers.iter().map(each).collect();
    if alone.is_empty() {
        alone.push(dns.clone());
    }
    thread::scope(|scope| {
        let works: Vec<_> = alone.iter().map(|dns| scope.spawn(|| ask(root, dns, answer, login))).collect();
        let aborted = || Trouble::of(&anyhow!("the query for {} was aborted", dns.name));
        let ended = works
            .into_iter()
            .map(|work| work.join().unwrap_or_else(|_| Opinion { answer: Err(aborted()), login: Ok(()) }));
        ended.collect()
    })
}

fn ask(root: &Root, dns: &Dns, answer: Duration, login: Duration) -> Opinion {
    match lookup(root, dns, Instant::now() + answer) {
        Ok(answer) => {
            let login = trial(root, dns, Instant::now() + login).map_err(|error| Trouble::of(&error));
            Opinion { answer: Ok(answer), login }
        }
        Err(error) => Opinion { answer: Err(Trouble::of(&error)), login: Ok(()) },
    }
}

/// Whether a server would accept a change of the name with the configured credentials.
pub fn trial(root: &Root, dns: &Dns, deadline: Instant) -> Result<()> {
    let credentials = Credentials::read(root, dns);
    let tried = credentials.and_then(|credentials| {
        let task = Task {
            name: query::name(&dns.name)?,
            dns,
            wanted: &[],
            refresh: false,
            still_primary: &|| true,
            credentials,
        };
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
        let change = Change {
            name: &self.name,
            zone: &zone,
            ttl: self.dns.ttl,
            wanted: &[],
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
