//! `dnscp status 16-main`: which addresses this member should have, which it has, and what is wrong.

mod address;
mod name;
mod problem;

use std::fmt;
use std::thread;
use std::time::Duration;

use anyhow::{Error, Result};
use host::ClusterId;
use host::endpoint::Manager;
use host::report::{self, plain};
use host::trouble::Trouble;
use host::vip::Pick;
use serde::Serialize;

use crate::netlink::{self, Interface, Placed};
use crate::plan;
use crate::rest::MemberState;
use crate::run::{Task, finish};
use crate::state::{Locks, Service};
use address::AddressStatus;
use name::NameStatus;
use problem::{Finding, Level, Problem};

/// A run holds the lock for some hundredths of a second.
const WAIT: Duration = Duration::from_millis(1500);

/// After a change of role the service moves an address within this time.
const MOVING: Duration = Duration::from_millis(1500);

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
    #[serde(serialize_with = "problem::sentences")]
    problems: Vec<Problem>,
    /// What the doctor reports of them.
    findings: Vec<Finding>,
}

/// Prints the status, and fails if something is wrong.
pub fn run(task: &Task, locks: &Locks, id: &ClusterId, json: bool) -> Result<()> {
    let status = Status::observe(task, locks, id)?;
    report::print(&if json { serde_json::to_string_pretty(&status)? + "\n" } else { status.to_string() });
    finish(&task.reporter, status.problems.into_iter().map(|problem| problem.trouble).collect())
}

/// What `--json` prints if the settings cannot be used.
pub fn failed(id: &ClusterId, error: &Error) {
    let findings = [Finding::new(Level::Error, &Trouble::of(error))];
    report::print(&format!("{:#}\n", serde_json::json!({"cluster": id.slashed(), "findings": findings})));
}

impl Status {
    fn observe(task: &Task, locks: &Locks, id: &ClusterId) -> Result<Self> {
        let service = locks.service();
        let mut seen = Seen::now(task)?;
        if seen.addresses.iter().any(|address| address.is_misplaced(&seen.state)) {
            thread::sleep(MOVING);
            seen = Seen::now(task)?;
        }
        let Seen { state, interfaces, addresses, picked: Pick { placed, problems: unplaced } } = seen;
        let mut problems = problem::patroni(task, &state);
        problems.extend(problem::service(service, id));
        problems.extend(problem::lock(locks, service));
        let foreign = plan::foreign(&task.point, &interfaces);
        problems.extend(unplaced.into_iter().chain(foreign).map(Problem::of_the_doctor));
        problems.extend(address::keepalived(task, id, &state, service));
        let misplaced: Vec<Problem> =
            addresses.iter().filter_map(|address| address.problem(task, id, &state, service)).collect();
        if misplaced.is_empty() && matches!(state, MemberState::Primary | MemberState::NotPrimary) {
            problems.extend(address::stopped_manager(task, id));
        }
        problems.extend(misplaced);
        let dns = NameStatus::observe(task, id, &placed, &state, service, &mut problems);
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
            findings: problems.iter().filter_map(Finding::of).collect(),
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

/// Patroni's answer, and where the addresses are and belong.
struct Seen {
    state: MemberState,
    interfaces: Vec<Interface>,
    addresses: Vec<AddressStatus>,
    picked: Pick<Placed>,
}

impl Seen {
    fn now(task: &Task) -> Result<Self> {
        let state = task.member_state();
        let interfaces = netlink::interfaces()?;
        let picked = netlink::pick(&task.point.vips, task.point.interface.as_deref(), &interfaces);
        let vips = task.point.vips.iter();
        let addresses =
            vips.map(|vip| AddressStatus::observe(vip.address, &picked.placed, &interfaces, &state)).collect();
        Ok(Self { state, interfaces, addresses, picked })
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
