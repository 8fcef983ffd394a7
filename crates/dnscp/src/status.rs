//! `dnscp status 16-main`: which addresses this member should have, which it has, and what is wrong.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Result;
use host::endpoint::{Manager, state_file};
use host::report::{self, plain};
use host::trouble::Trouble;
use host::vip::Pick;
use host::{ClusterId, trouble};
use serde::{Serialize, Serializer};

use crate::netlink::{self, Interface, Placed};
use crate::rest::{Api, MemberState};
use crate::run::{Task, finish};
use crate::state::{Locks, Service};
use crate::{dns, plan};

const LOOKUP: Duration = Duration::from_secs(3);

/// A run holds the lock for some hundredths of a second.
const WAIT: Duration = Duration::from_millis(1500);

/// What the program prints: as text, or with `--json` in this form.
#[derive(Debug, Serialize)]
struct Status {
    cluster: String,
    member: Option<String>,
    role: &'static str,
    primary: bool,
    /// Whether the service is running.
    service: bool,
    #[serde(skip)]
    service_state: Service,
    manager: &'static str,
    addresses: Vec<AddressStatus>,
    dns: Option<NameStatus>,
    #[serde(serialize_with = "sentences")]
    problems: Vec<Trouble>,
}

/// A virtual address.
#[derive(Debug, Serialize)]
struct AddressStatus {
    address: IpAddr,
    /// Whether this member should have it.
    wanted: bool,
    /// Whether this member has it.
    held: bool,
    /// The interface on which it is, or would be.
    interface: Option<String>,
    /// The seconds that are left of its lease.
    lifetime: Option<u32>,
}

/// What the name's servers answer; without addresses if none responds.
#[derive(Debug, Serialize)]
struct NameStatus {
    name: String,
    addresses: Option<Vec<IpAddr>>,
    ttl: Option<u32>,
    server: Option<SocketAddr>,
}

/// Each problem with its hint as one string.
fn sentences<S: Serializer>(problems: &[Trouble], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(problems.iter().map(|problem| match &problem.hint {
        Some(hint) => plain(&format!("{}. {hint}", problem.line())),
        None => plain(&problem.line()),
    }))
}

/// Prints the status, and fails if something is wrong.
pub fn run(task: &Task, locks: &Locks, id: &ClusterId, json: bool) -> Result<()> {
    let status = Status::observe(task, locks, id)?;
    report::print(&if json { serde_json::to_string_pretty(&status)? + "\n" } else { status.to_string() });
    finish(&task.reporter, status.problems)
}

impl Status {
    fn observe(task: &Task, locks: &Locks, id: &ClusterId) -> Result<Self> {
        let state = task.member_state();
        let interfaces = netlink::interfaces()?;
        let Pick { placed, problems: unplaced } =
            netlink::pick(&task.point.vips, task.point.interface.as_deref(), &interfaces);
        let mut problems = Vec::new();
        if let MemberState::NoAnswer(why) | MemberState::PortTaken(why) = &state {
            problems.push(why.clone());
        }
        problems.extend(task.rest().map(Api::doubts).unwrap_or_default());
        let service = locks.service();
        problems.extend(service_problem(service, id));
        problems.extend(lock_problem(locks, service));
        problems.extend(unplaced);
        problems.extend(keepalived_problem(task, id, &state));
        let addresses: Vec<AddressStatus> = task
            .point
            .vips
            .iter()
            .map(|vip| AddressStatus::observe(vip.address, &placed, &interfaces, &state))
            .collect();
        problems.extend(addresses.iter().filter_map(|address| address.problem(&state)));
        let dns = NameStatus::observe(task, &placed, &state, &mut problems);
        Ok(Self {
            cluster: id.slashed(),
            member: task.instance.as_ref().map(|instance| instance.name.clone()),
            role: state.label(),
            primary: state == MemberState::Primary,
            service: service == Service::Running,
            service_state: service,
            manager: task.point.manager.name(),
            addresses,
            dns,
            problems,
        })
    }

    fn address_line(&self, address: &AddressStatus) -> String {
        let ip = address.address;
        let leased = self.manager == Manager::Dnscp.name();
        match (&address.interface, address.held, address.lifetime) {
            (Some(name), true, Some(left)) if leased => format!("{ip} on {name} for {left} s"),
            (Some(name), true, None) if leased => format!("{ip} on {name} without a lease"),
            (Some(name), true, _) => format!("{ip} on {name} by {}", self.manager),
            (Some(name), false, _) => format!("{ip} not here (would be on {name})"),
            (None, ..) => format!("{ip} not in a subnet of this member"),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = match self.service_state {
            Service::Running => "running",
            Service::NotRunning => "not running",
            Service::Hidden => "visible only to root and postgres",
        };
        writeln!(f, "cluster: {}\nrole:    {}\nservice: {service}", self.cluster, self.role)?;
        for address in &self.addresses {
            writeln!(f, "address: {}", plain(&self.address_line(address)))?;
        }
        match &self.dns {
            Some(dns) => writeln!(f, "name:    {}", plain(&dns.to_string())),
            None => Ok(()),
        }
    }
}

impl AddressStatus {
    fn observe(address: IpAddr, placed: &[Placed], interfaces: &[Interface], state: &MemberState) -> Self {
        let place = placed.iter().find(|placed| placed.address == address);
        let present = interfaces.iter().find_map(|interface| Some((&interface.name, interface.address(address)?)));
        Self {
            address,
            wanted: *state == MemberState::Primary && place.is_some(),
            held: present.is_some(),
            interface: present.map(|(name, _)| name).or(place.map(|place| &place.interface)).cloned(),
            lifetime: present.and_then(|(_, entry)| entry.lifetime),
        }
    }

    fn problem(&self, state: &MemberState) -> Option<Trouble> {
        match (self.wanted, self.held, &self.interface) {
            (true, false, _) => Some(trouble!("{} is not here, but this member is the primary", self.address)),
            (false, true, Some(name)) if *state == MemberState::NotPrimary => {
                Some(trouble!("{} is on {name}, but this member is not the primary", self.address))
            }
            _ => None,
        }
    }
}

impl NameStatus {
    /// What the name's servers answer; adds a problem if the primary has other addresses.
    fn observe(task: &Task, placed: &[Placed], state: &MemberState, problems: &mut Vec<Trouble>) -> Option<Self> {
        let dns = task.point.dns.as_ref()?;
        let mut wanted: Vec<IpAddr> = placed.iter().map(|placed| placed.address).collect();
        if task.point.vips.is_empty() {
            wanted.extend(task.own_address());
        }
        wanted.sort();
        let mut status = Self { name: dns.name.clone(), addresses: None, ttl: None, server: None };
        match dns::lookup(&task.root, dns, Instant::now() + LOOKUP) {
            Ok(dns::Answer { addresses, ttl, server }) => {
                let right = addresses == wanted;
                status = Self { addresses: Some(addresses), ttl, server: Some(server), ..status };
                if *state == MemberState::Primary && !right {
                    problems.push(trouble!("{status}, but should be {}", plan::listed(&wanted)));
                }
            }
            Err(error) => problems.push(Trouble::of(&error)),
        }
        Some(status)
    }
}

impl fmt::Display for NameStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.addresses, self.server) {
            (Some(addresses), Some(server)) if addresses.is_empty() => {
                write!(f, "{} is unknown at {server}", self.name)
            }
            (Some(addresses), Some(server)) => write!(f, "{} is {} at {server}", self.name, plan::listed(addresses)),
            _ => write!(f, "{}: no server responds", self.name),
        }
    }
}

fn service_problem(service: Service, id: &ClusterId) -> Option<Trouble> {
    let unit = format!("dnscp@{}", id.dashed());
    match service {
        Service::Running => None,
        Service::NotRunning => Some(trouble!("{unit} is not running"; "Start it with: systemctl start {unit}")),
        Service::Hidden => Some(trouble!(
            "whether {unit} is running is visible only to root and postgres"; "Run this as one of them."
        )),
    }
}

/// Another process that holds the lock for too long, or a lock that cannot be used.
fn lock_problem(locks: &Locks, service: Service) -> Option<Trouble> {
    if service == Service::Hidden {
        return None;
    }
    match locks.acquire(WAIT) {
        Ok(Some(_)) => None,
        Ok(None) => Some(trouble!(
            "{} has held the lock {} for longer than {WAIT:?}, so the service does nothing",
            locks.holder(), locks.path("lock").display();
            "If that process hangs, end it."
        )),
        Err(error) => Some(Trouble::of(&error)),
    }
}

/// keepalived has been told otherwise than Patroni reports.
fn keepalived_problem(task: &Task, id: &ClusterId, state: &MemberState) -> Option<Trouble> {
    if task.point.manager != Manager::Keepalived || !matches!(state, MemberState::Primary | MemberState::NotPrimary) {
        return None;
    }
    let told = task.root.path(state_file(id)).exists();
    let not = if told { "" } else { "not " };
    (told != (*state == MemberState::Primary)).then(|| {
        trouble!(
            "keepalived was told that this member is {not}the primary";
            "Restart the service with: systemctl restart dnscp@{}", id.dashed()
        )
    })
}
