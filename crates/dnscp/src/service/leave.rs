//! What the service leaves behind: addresses and a name that the settings no longer have, and the lease when it stops.

use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use host::endpoint::{Dns, Endpoint, Manager};
use host::trouble::Trouble;

use super::{Service, WAIT};
use crate::dns::Outcome;
use crate::dns::withdraw::{command, withdraw};
use crate::plan::{self, Step};
use crate::rest::MemberState;
use crate::run::{REGISTER, Task};
use crate::state::Moment;
use crate::{apply, netlink};

/// How long the removal of a name may delay the end of the service.
const LAST: Duration = Duration::from_secs(4);

impl Service {
    /// New settings. Patroni applies a changed file some seconds after its reload: while it answers as before, it is asked as before.
    pub(super) fn reload(&mut self, mut task: Task) {
        if let (Some(new), Some(old)) = (&mut task.instance, &self.task.instance) {
            if !matches!(self.state, MemberState::NoAnswer(_)) {
                new.rest.clone_from(&old.rest);
            }
        }
        if self.task.point.manager == Manager::Keepalived && task.point.manager != Manager::Keepalived {
            // Nothing would take back later what keepalived was told.
            let (_, faults) = apply::addresses(&task.root, &plan::release(&self.task.point, &[]).steps);
            apply::report(&task.reporter, "reload", &[], &faults);
        }
        let changes = self.task.point.changes(&task.point);
        let changes = if changes.is_empty() { "nothing has changed".to_owned() } else { changes.join(", ") };
        task.reporter.info(format!("settings reloaded: {changes}"));
        self.leave_addresses(Some(&task.point));
        if let Some(work) = self.name_to_leave(Some(&task.point)) {
            // A server that hangs must not delay the renewal of the lease.
            let _ = thread::Builder::new().name("old name".to_owned()).spawn(move || work.run(REGISTER));
        }
        self.task = Arc::new(task);
        self.name.ask(Instant::now());
    }

    /// The settings have neither an address nor a name any more.
    pub(super) fn retire(&mut self) {
        self.leave_addresses(None);
        if let Some(work) = self.name_to_leave(None) {
            work.run(LAST);
        }
    }

    /// Removes the addresses that the settings no longer have.
    fn leave_addresses(&mut self, new: Option<&Endpoint>) {
        if new.is_some() && self.task.point.manager != Manager::Dnscp {
            return;
        }
        let mut gone = self.task.point.clone();
        gone.vips.retain(|old| new.is_none_or(|new| new.vips.iter().all(|vip| vip.address != old.address)));
        if gone.vips.is_empty() && new.is_some() {
            return;
        }
        let Ok(interfaces) = netlink::interfaces() else { return };
        let steps = plan::release(&gone, &interfaces).steps;
        // Two runs at once do no harm.
        let _lock = self.locks.acquire(WAIT);
        let (changes, faults) = apply::addresses(&self.task.root, &steps);
        self.changed("the settings no longer have it", &changes);
        apply::report(&self.task.reporter, "", &[], &faults);
    }

    /// The name that the settings no longer have, if this member has registered it.
    fn name_to_leave(&self, new: Option<&Endpoint>) -> Option<OldName> {
        let dns = self.task.point.dns.as_ref()?;
        let stays = new.and_then(|new| new.dns.as_ref()).is_some_and(|new| new.name == dns.name);
        if stays || self.state != MemberState::Primary {
            return None;
        }
        let interfaces = netlink::interfaces().ok()?;
        let steps = plan::acquire(&self.task.point, &interfaces, None, self.task.own_address()).steps;
        let addresses = steps.into_iter().find_map(|step| match step {
            Step::Register { addresses, .. } => Some(addresses),
            _ => None,
        })?;
        Some(OldName { task: Arc::clone(&self.task), dns: dns.clone(), addresses })
    }

    /// Without the service nothing renews the lease. If this member is the primary, the address stays without one until an event of
    /// Patroni removes it; the next start of the service adds a lease again. The file for keepalived is removed by the unit.
    pub(super) fn end(&mut self, read: &dyn Fn(Moment) -> Result<Option<Task>>) {
        match read(Moment::now()) {
            Ok(None) => return self.retire(),
            Ok(Some(new)) => {
                self.leave_addresses(Some(&new.point));
                if let Some(work) = self.name_to_leave(Some(&new.point)) {
                    work.run(LAST);
                }
            }
            // The next start reports it.
            Err(_) => {}
        }
        let Ok(Some(_lock)) = self.locks.acquire(WAIT) else {
            let holder = self.locks.holder();
            self.task
                .reporter
                .warn(format!("the service stops without the lock, which {holder} holds: the address keeps its lease"));
            return;
        };
        if self.task.member_state() != MemberState::Primary {
            return;
        }
        let Ok(interfaces) = netlink::interfaces() else { return };
        let mut steps = plan::acquire(&self.task.point, &interfaces, None, None).steps;
        steps.retain(|step| matches!(step, Step::Add { renewal: true, .. }));
        let (_, faults) = apply::addresses(&self.task.root, &steps);
        apply::report(&self.task.reporter, "stop", &[], &faults);
        if !steps.is_empty() && faults.is_empty() {
            self.task
                .reporter
                .info("the service stops: the address stays without a lease until an event of Patroni removes it");
        }
    }
}

/// A name that the settings no longer have.
struct OldName {
    /// With the old settings.
    task: Arc<Task>,
    dns: Dns,
    /// The addresses that this member has registered.
    addresses: Vec<IpAddr>,
}

impl OldName {
    /// Removes it, or reports that it stays.
    fn run(&self, limit: Duration) {
        let Self { task, dns, addresses } = self;
        let still_primary = || task.is_still_primary();
        match withdraw(&task.root, dns, addresses, &still_primary, Instant::now() + limit) {
            Ok(Outcome::Changed { server }) => {
                task.reporter.info(format!("the settings no longer have it: removed {} at {server}", dns.name));
            }
            // It had no addresses, or the next primary has to look at it.
            Ok(Outcome::Unchanged { .. } | Outcome::NotPrimary) => {}
            Err(error) => {
                let mut trouble = Trouble::of(&error);
                trouble.what += "; the settings no longer have this name, but it stays in the DNS";
                task.reporter.warn(trouble.hint(format!("If no client uses it, remove it with: {}", command(dns))));
            }
        }
    }
}
