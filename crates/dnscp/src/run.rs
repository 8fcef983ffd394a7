//! One run for one event: observe, plan, apply.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use host::endpoint::{Endpoint, Manager};
use host::report::{self, Reporter};
use host::{Root, clusters, holder};
use nix::unistd::geteuid;

use crate::event::{Event, Wish};
use crate::instance::Instance;
use crate::plan::{self, Plan, Step};
use crate::privilege::USER;
use crate::rest::{Api, Standing};
use crate::state::{Held, Locks, Moment, Service};
use crate::{apply, netlink};

/// How long Patroni has for its answer. It needs some milliseconds, most of them for its own question to PostgreSQL.
pub const ASK: Duration = Duration::from_millis(300);

/// How long another run of this instance has for its addresses; it needs no longer than Patroni's answer takes.
const WAIT: Duration = Duration::from_secs(1);

/// An observation, or an event, that is older is not acted upon: this process was stopped meanwhile.
pub const FRESH: Duration = Duration::from_secs(1);

/// The name's servers have so long in one run; the service tries again.
pub const REGISTER: Duration = Duration::from_secs(20);

/// Everything that a run knows before it looks.
#[derive(Debug, Clone)]
pub struct Task {
    /// The machine.
    pub root: Root,
    /// What is set.
    pub point: Endpoint,
    /// How Patroni is reached, where patroni-gen-config said so.
    pub instance: Option<Instance>,
    /// When this process began.
    pub begin: Moment,
    /// One voice.
    pub reporter: Reporter,
    /// Says more.
    pub verbose: bool,
    /// Does Patroni call, and not a person who tries the program out?
    pub followed: bool,
}

impl Task {
    /// What Patroni says. Without a way to ask it is silent.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let Some(api) = self.rest() else {
            return Standing::Silent("Patroni's REST API is not known here: run patroni-gen-config".to_owned());
        };
        match api.standing(self.point.standby_leader, ASK) {
            standing @ (Standing::Primary | Standing::Starting) => self.usurper().map_or(standing, Standing::Usurped),
            standing => standing,
        }
    }

    /// Another user's process on PostgreSQL's port, where clients of the address would come to it. PostgreSQL starts with the addresses
    /// that it gets (`PostmasterMain`), and Patroni talks to it over the Unix socket, so that neither notices.
    fn usurper(&self) -> Option<String> {
        let port = self.instance.as_ref()?.port?;
        let addresses: Vec<IpAddr> = self.point.vips.iter().map(|vip| vip.address).chain(self.own_address()).collect();
        let is_reached = |address: &IpAddr| address.is_unspecified() || addresses.contains(address);
        let listeners = clusters::listeners(&self.root).ok()?;
        let mut on_port = listeners.iter().filter(|listener| listener.port == port && is_reached(&listener.address));
        let (uid, inode) =
            on_port.find_map(|listener| Some((holder::foreign_user(&self.root, listener, USER)?, listener.inode)))?;
        Some(format!(
            "{} listens on port {port} in place of PostgreSQL, and would get the clients of this member: end it, and restart PostgreSQL \
             (pg_patronictl)",
            holder::describe(&self.root, uid, inode, geteuid().is_root())
        ))
    }

    /// Where Patroni is asked.
    #[must_use]
    pub fn rest(&self) -> Option<&Api> {
        self.instance.as_ref().and_then(|instance| instance.rest.as_deref())
    }

    /// The address of the member itself.
    #[must_use]
    pub fn own_address(&self) -> Option<IpAddr> {
        self.instance.as_ref().and_then(|instance| instance.address)
    }

    /// The steps for an event, and nothing done.
    pub fn plan(&self, event: &Event, locks: &Locks) -> Result<Plan> {
        let interfaces = netlink::interfaces()?;
        Ok(match event.wish(self.point.standby_leader) {
            Wish::GiveUp => plan::give_up(&self.point, &interfaces),
            Wish::Take => plan::take(&self.point, &interfaces, self.lease(locks), self.own_address()),
            Wish::Register => {
                let mut plan = plan::take(&self.point, &interfaces, None, self.own_address());
                let here = self.point.vips.is_empty() || !plan::held(&self.point, &interfaces).is_empty();
                plan.steps.retain(|step| here && matches!(step, Step::Register { .. }));
                plan
            }
        })
    }

    /// `--dry-run`.
    pub fn show(&self, event: &Event, locks: &Locks) -> Result<()> {
        let plan = self.plan(event, locks)?;
        let wish = event.wish(self.point.standby_leader);
        if wish == Wish::Take {
            if let Err(why) = plan::may_take(&self.standing(), true) {
                report::print(&format!("nothing, because {why}\n"));
                return Ok(());
            }
        }
        let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
        report::print(&if steps.is_empty() { "nothing to do\n".to_owned() } else { steps.join("\n") + "\n" });
        finish(&plan.problems)
    }

    /// Does what the event wants, if it is true.
    pub fn run(&self, event: &Event, locks: &Locks) -> Result<()> {
        let wish = event.wish(self.point.standby_leader);
        if self.verbose {
            self.reporter.info(format!("{event}: {wish:?}"));
        }
        match wish {
            Wish::GiveUp => self.give_up(event, locks),
            Wish::Take => self.take(event, locks),
            Wish::Register => {
                let plan = self.plan(event, locks)?;
                let mut faults = plan.problems;
                self.register(&plan.steps, true, &mut faults);
                finish(&faults)
            }
        }
    }

    /// A loss is believed at once. Only where this run comes late could the next gain have overtaken it.
    fn give_up(&self, event: &Event, locks: &Locks) -> Result<()> {
        let lock = self.lock(locks);
        if self.begin.elapsed() > FRESH && self.standing() == Standing::Primary {
            self.reporter.warn(format!("{event} came late, and Patroni says that this member is the primary: ignored"));
            return Ok(());
        }
        let plan = plan::give_up(&self.point, &netlink::interfaces()?);
        let (changes, faults) = apply::addresses(&self.root, &plan.steps);
        drop(lock);
        apply::say(&self.reporter, &event.name, &changes, &[]);
        finish(&faults)
    }

    fn take(&self, event: &Event, locks: &Locks) -> Result<()> {
        let lock = self.lock(locks);
        let mut looked = Moment::now();
        let mut standing = self.standing();
        while looked.elapsed() > FRESH {
            (looked, standing) = (Moment::now(), self.standing());
        }
        if let Err(why) = plan::may_take(&standing, self.begin.elapsed() <= FRESH) {
            bail!("{event}: nothing taken: {why}");
        }
        let interfaces = netlink::interfaces()?;
        let lease = self.lease(locks);
        let plan = plan::take(&self.point, &interfaces, lease, self.own_address());
        let (changes, mut faults) = apply::addresses(&self.root, &plan.steps);
        drop(lock);
        faults.extend(plan.problems);
        let repeating = apply::repeat_announcements(&plan.steps, &self.reporter);
        apply::say(&self.reporter, &event.name, &changes, &[]);
        if lease.is_none() && self.followed && !self.point.vips.is_empty() {
            let so = match self.point.manager {
                Manager::Dnscp => "the address would stay on this host if Patroni hangs",
                Manager::Keepalived => "keepalived is not told that this member is the primary",
                Manager::VipManager => "nobody looks after the DNS name",
            };
            let scope = &event.scope;
            self.reporter
                .warn(format!("the service dnscp@{scope} does not run, so {so}: systemctl start dnscp@{scope}"));
        }
        self.register(&plan.steps, false, &mut faults);
        if let Some(repeating) = repeating {
            let _ = repeating.join();
        }
        finish(&faults)
    }

    fn register(&self, steps: &[Step], refresh: bool, faults: &mut Vec<String>) {
        let Some(dns) = &self.point.dns else { return };
        for step in steps {
            let Step::Register { addresses, name } = step else { continue };
            match apply::register(&self.root, dns, addresses, refresh, &|| self.still_primary(), REGISTER) {
                Ok(outcome) => self.reporter.info(format!("{name} ({}): {outcome}", plan::listed(addresses))),
                Err(error) => faults.push(format!("{error:#}")),
            }
        }
    }

    /// Asked right before the name is changed.
    #[must_use]
    pub fn still_primary(&self) -> bool {
        match self.standing() {
            Standing::Primary | Standing::Starting => true,
            Standing::Undecided | Standing::Other | Standing::Usurped(_) => false,
            // Once more, because Patroni may only have been slow. Where it can never be asked, who has the address is the one.
            Standing::Silent(_) => match self.rest() {
                Some(_) => self.standing() == Standing::Primary,
                None if self.point.vips.is_empty() => true,
                None => netlink::interfaces().is_ok_and(|interfaces| !plan::held(&self.point, &interfaces).is_empty()),
            },
        }
    }

    /// With the service there, which renews it, the address gets a lease; also where that cannot be seen, since an address without a
    /// lease would stay on a member that hangs.
    fn lease(&self, locks: &Locks) -> Option<Duration> {
        (locks.service() != Service::Missing).then_some(self.point.lease)
    }

    /// What follows can be done by two at once; so a lock that cannot be had costs a warning and no address.
    #[must_use]
    pub fn lock(&self, locks: &Locks) -> Option<Held> {
        match locks.act(WAIT) {
            Ok(Some(lock)) => Some(lock),
            Ok(None) => {
                self.reporter
                    .warn(format!("{} has been at work for a second: going on without waiting for it", locks.holder()));
                None
            }
            Err(error) => {
                if self.followed {
                    self.reporter.warn(format!("{error:#}"));
                }
                None
            }
        }
    }
}

/// All faults in one error.
fn finish(faults: &[String]) -> Result<()> {
    if faults.is_empty() { Ok(()) } else { bail!("{}", faults.join("\n")) }
}
