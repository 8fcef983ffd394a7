//! One run for one event: observe, plan, apply.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Error, Result};
use host::endpoint::{Endpoint, Manager};
use host::report::{self, Level, Reporter};
use host::trouble::Trouble;
use host::{Root, clusters, holder, trouble};
use nix::unistd::geteuid;

use crate::event::{Action, Event};
use crate::instance::Instance;
use crate::plan::{self, Plan, Step};
use crate::privilege::USER;
use crate::rest::{Api, MemberState};
use crate::state::{Locks, Moment, Service, WorkLock};
use crate::{apply, netlink};

/// How long Patroni has for its answer. It needs some milliseconds, most of them for its own query to PostgreSQL.
pub const ASK: Duration = Duration::from_millis(300);

/// How long another run for this cluster has for its addresses; it needs no longer than Patroni's answer takes.
const WAIT: Duration = Duration::from_secs(1);

/// An observation, or an event, that is older is not acted upon: this process was stopped meanwhile.
pub const FRESH: Duration = Duration::from_secs(1);

/// How long the registration of the name may take in one run; the service tries again.
pub const REGISTER: Duration = Duration::from_secs(20);

/// Everything that a run knows at its start.
#[derive(Debug, Clone)]
pub struct Task {
    /// The machine.
    pub root: Root,
    /// The settings.
    pub point: Endpoint,
    /// How Patroni is reached, if patroni-gen-config wrote it.
    pub instance: Option<Instance>,
    /// When this process started.
    pub begin: Moment,
    /// Where messages go.
    pub reporter: Reporter,
    /// Whether to report more.
    pub verbose: bool,
    /// Whether Patroni calls, and not an administrator who gives options.
    pub by_patroni: bool,
}

impl Task {
    /// A task as Patroni gives it.
    #[must_use]
    pub fn new(root: &Root, point: Endpoint, instance: Option<Instance>, begin: Moment, reporter: &Reporter) -> Self {
        let (root, reporter) = (root.clone(), reporter.clone());
        Self { root, point, instance, begin, reporter, verbose: false, by_patroni: true }
    }

    /// What Patroni's REST API reports about this member.
    #[must_use]
    pub fn member_state(&self) -> MemberState {
        let Some(api) = self.rest() else {
            return MemberState::NoAnswer(trouble!(
                "the address of Patroni's REST API is not known"; "Run: patroni-gen-config"
            ));
        };
        match api.member_state(self.point.standby_leader, ASK) {
            state @ (MemberState::Primary | MemberState::Starting) => {
                self.port_taken().map_or(state, MemberState::PortTaken)
            }
            state => state,
        }
    }

    /// Another user's process on PostgreSQL's port, to which clients of the address would connect. PostgreSQL starts with the addresses
    /// that it gets (`PostmasterMain`), and Patroni connects to it over the Unix socket, so neither notices.
    fn port_taken(&self) -> Option<Trouble> {
        let instance = self.instance.as_ref()?;
        let port = instance.port?;
        let addresses: Vec<IpAddr> = self.point.vips.iter().map(|vip| vip.address).chain(self.own_address()).collect();
        let is_reached = |address: &IpAddr| address.is_unspecified() || addresses.contains(address);
        let listeners = clusters::listeners(&self.root).ok()?;
        let mut on_port = listeners.iter().filter(|listener| listener.port == port && is_reached(&listener.address));
        let (uid, inode) =
            on_port.find_map(|listener| Some((holder::foreign_user(&self.root, listener, USER)?, listener.inode)))?;
        Some(trouble!(
            "{} listens on port {port} instead of PostgreSQL, and would get the clients of this member",
            holder::describe(&self.root, uid, inode, geteuid().is_root());
            "Stop that process, and restart PostgreSQL with: pg_patronictl {} restart {}", self.point.id, instance.name
        ))
    }

    /// Patroni's REST API.
    #[must_use]
    pub fn rest(&self) -> Option<&Api> {
        self.instance.as_ref().and_then(|instance| instance.rest.as_deref())
    }

    /// The address of the member itself.
    #[must_use]
    pub fn own_address(&self) -> Option<IpAddr> {
        self.instance.as_ref().and_then(|instance| instance.address)
    }

    /// The steps for an event; changes nothing.
    pub fn plan(&self, event: &Event, locks: &Locks) -> Result<Plan> {
        let interfaces = netlink::interfaces()?;
        Ok(match event.action(self.point.standby_leader) {
            Action::Release => plan::release(&self.point, &interfaces),
            Action::Acquire => plan::acquire(&self.point, &interfaces, self.lease(locks), self.own_address()),
            Action::Register => {
                let mut plan = plan::acquire(&self.point, &interfaces, None, self.own_address());
                let here = self.point.vips.is_empty() || !plan::present(&self.point, &interfaces).is_empty();
                plan.steps.retain(|step| here && matches!(step, Step::Register { .. }));
                plan
            }
        })
    }

    /// `--dry-run`.
    pub fn show(&self, event: &Event, locks: &Locks) -> Result<()> {
        let plan = self.plan(event, locks)?;
        if event.action(self.point.standby_leader) == Action::Acquire {
            if let Err(why) = plan::may_acquire(&self.member_state(), true) {
                report::print(&format!("nothing, because {why}\n"));
                return Ok(());
            }
        }
        let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
        report::print(&if steps.is_empty() { "nothing to do\n".to_owned() } else { steps.join("\n") + "\n" });
        finish(&self.reporter, plan.problems)
    }

    /// Does what the event asks for, if Patroni's REST API does not contradict it.
    pub fn run(&self, event: &Event, locks: &Locks) -> Result<()> {
        let action = event.action(self.point.standby_leader);
        if self.verbose {
            self.reporter.info(format!("{event}: {action:?}"));
        }
        match action {
            Action::Release => self.release(event, locks),
            Action::Acquire => self.acquire(event, locks),
            Action::Register => {
                let plan = self.plan(event, locks)?;
                let mut faults = plan.problems;
                self.register(&plan.steps, true, &mut faults);
                finish(&self.reporter, faults)
            }
        }
    }

    /// A demotion takes effect immediately. Only if this run is late could the next promotion have overtaken it.
    fn release(&self, event: &Event, locks: &Locks) -> Result<()> {
        let lock = self.lock(locks);
        if self.begin.elapsed() > FRESH && self.member_state() == MemberState::Primary {
            self.reporter
                .warn(format!("{event} is ignored: it is late, and Patroni reports that this member is the primary"));
            return Ok(());
        }
        let plan = plan::release(&self.point, &netlink::interfaces()?);
        let (changes, faults) = apply::addresses(&self.root, &plan.steps);
        drop(lock);
        apply::report(&self.reporter, &event.name, &changes, &[]);
        finish(&self.reporter, [plan.problems, faults].concat())
    }

    fn acquire(&self, event: &Event, locks: &Locks) -> Result<()> {
        let lock = self.lock(locks);
        let mut asked = Moment::now();
        let mut state = self.member_state();
        while asked.elapsed() > FRESH {
            (asked, state) = (Moment::now(), self.member_state());
        }
        if let Err(why) = plan::may_acquire(&state, self.begin.elapsed() <= FRESH) {
            return Err(Error::from(why).context(format!("{event}: the address is not acquired")));
        }
        let interfaces = netlink::interfaces()?;
        let lease = self.lease(locks);
        let plan = plan::acquire(&self.point, &interfaces, lease, self.own_address());
        let (changes, mut faults) = apply::addresses(&self.root, &plan.steps);
        drop(lock);
        faults.extend(plan.problems);
        let repeating = apply::repeat_announcements(&plan.steps, &self.reporter);
        apply::report(&self.reporter, &event.name, &changes, &[]);
        if lease.is_none() && self.by_patroni && !self.point.vips.is_empty() {
            let consequence = match self.point.manager {
                Manager::Dnscp => "the address would stay on this host if Patroni hangs",
                Manager::Keepalived => "keepalived does not learn that this member is the primary",
                Manager::VipManager => "the DNS name is not checked",
            };
            let scope = &event.scope;
            self.reporter.warn(trouble!(
                "dnscp@{scope} is not running, so {consequence}"; "Start it with: systemctl start dnscp@{scope}"
            ));
        }
        self.register(&plan.steps, false, &mut faults);
        if let Some(repeating) = repeating {
            let _ = repeating.join();
        }
        finish(&self.reporter, faults)
    }

    fn register(&self, steps: &[Step], refresh: bool, faults: &mut Vec<Trouble>) {
        let Some(dns) = &self.point.dns else { return };
        for step in steps {
            let Step::Register { addresses, name } = step else { continue };
            match apply::register(&self.root, dns, addresses, refresh, &|| self.is_still_primary(), REGISTER) {
                Ok(outcome) => self.reporter.info(format!("{name} ({}): {outcome}", plan::listed(addresses))),
                Err(error) => faults.push(Trouble::of(&error)),
            }
        }
    }

    /// Asked right before the name is changed.
    #[must_use]
    pub fn is_still_primary(&self) -> bool {
        match self.member_state() {
            MemberState::Primary | MemberState::Starting => true,
            MemberState::Undecided | MemberState::NotPrimary | MemberState::PortTaken(_) => false,
            // Once more, because Patroni may only have been slow. If it can never be asked, the member with the address is the primary.
            MemberState::NoAnswer(_) => match self.rest() {
                Some(_) => self.member_state() == MemberState::Primary,
                None if self.point.vips.is_empty() => true,
                None => {
                    netlink::interfaces().is_ok_and(|interfaces| !plan::present(&self.point, &interfaces).is_empty())
                }
            },
        }
    }

    /// The address gets a lease if the service runs, which renews it; also if that is not visible, since an address without a lease
    /// would stay on a member that hangs.
    fn lease(&self, locks: &Locks) -> Option<Duration> {
        (locks.service() != Service::NotRunning).then_some(self.point.lease)
    }

    /// Two runs at once do no harm. So a lock that cannot be acquired is only a warning, and does not cost the address.
    #[must_use]
    pub fn lock(&self, locks: &Locks) -> Option<WorkLock> {
        match locks.acquire(WAIT) {
            Ok(Some(lock)) => return Some(lock),
            Ok(None) => {
                let who = locks.holder();
                self.reporter.warn(format!("{who} has held the lock for more than a second: continuing without it"));
            }
            Err(error) if self.by_patroni => self.reporter.warn(Trouble::of(&error)),
            Err(_) => {}
        }
        None
    }
}

/// Reports all faults: the last one is the error of the run.
pub fn finish(reporter: &Reporter, mut faults: Vec<Trouble>) -> Result<()> {
    let Some(last) = faults.pop() else { return Ok(()) };
    for fault in &faults {
        reporter.tell(Level::Error, fault);
    }
    Err(last.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_this_member_is_restarted_for_its_port() {
        let folder = tempfile::tempdir().unwrap();
        // 5432 is 1538 in hexadecimal, and 0A is the state of a socket that listens.
        let row = "0: 00000000:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000 4711 0 8 1\n";
        for (path, text) in [("etc/passwd", "postgres:x:117:117::/:/bin/sh\n"), ("proc/net/tcp", row)] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let point = Endpoint {
            id: "16/main".parse().unwrap(),
            vips: Vec::new(),
            manager: Manager::Dnscp,
            interface: None,
            lease: Duration::from_secs(10),
            standby_leader: false,
            dns: None,
        };
        let instance = Instance {
            name: "pg2".to_owned(),
            rest: None,
            address: None,
            port: Some(5432),
            data_directory: "/d".into(),
        };
        let root = Root::new(folder.path());
        let task = Task::new(&root, point, Some(instance), Moment::now(), &Reporter::new("dnscp"));
        let hint = task.port_taken().unwrap().hint.unwrap();
        assert!(hint.ends_with(": pg_patronictl 16/main restart pg2"), "{hint}");
    }
}
