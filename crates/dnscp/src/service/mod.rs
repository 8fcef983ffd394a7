//! `dnscp@16-main.service`: polls Patroni, corrects what an event missed, renews the lease, and checks the name.

mod leave;
mod name;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use host::endpoint::Manager;
use host::report::Reporter;
use host::trouble::Trouble;
use host::{fail, trouble};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::apply;
use crate::netlink::{self, Interface};
use crate::notify::notify;
use crate::plan::{self, Decision, Plan, Step};
use crate::rest::{Api, MemberState};
use crate::run::{FRESH, Task};
use crate::state::{Locks, Moment};
use name::{FIRST_RETRY, Name};

/// Milliseconds between two polls.
const POLL: u16 = 1000;

/// A callback holds the lock for as long as Patroni's answer takes.
const WAIT: Duration = Duration::from_millis(500);

/// After so many polls without the lock, that is reported.
const MISSED: u32 = 3;

/// How long the name is left to the callback after a promotion, since the callback registers it, too.
const AFTER_PROMOTION: Duration = Duration::from_secs(2);

/// Patroni, which is started after this service, has this time until its REST API is missed on a member without an address.
const STARTING: Duration = Duration::from_secs(30);

/// Runs until a signal ends it.
pub fn run(read: &dyn Fn(Moment) -> Result<Option<Task>>, locks: &Locks, reporter: &Reporter) -> Result<()> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    signals.thread_block().context("could not block signals")?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .context("could not wait for signals")?;
    let Some(task) = read(Moment::now())? else {
        notify("READY=1\nSTATUS=neither VIPS nor a DNS name is set");
        return Ok(());
    };
    if task.rest().is_none() {
        reporter.warn(trouble!(
            "the address of Patroni's REST API is not known, so only Patroni's events move the address";
            "Run: patroni-gen-config"
        ));
        notify("READY=1\nSTATUS=Patroni's REST API is not known");
        return Ok(());
    }
    let Some(_service) = locks.become_service()? else { fail!("another dnscp --service is running for this cluster") };
    let mut service = Service::new(task, locks.clone());
    notify("READY=1\nSTATUS=polling Patroni");
    loop {
        service.poll();
        service.find_patroni(read);
        notify(&format!("WATCHDOG=1\nSTATUS={}", service.status()));
        let mut wait = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut wait, PollTimeout::from(POLL));
        match signals.read_signal() {
            Ok(Some(signal)) if signal.ssi_signo == Signal::SIGHUP as u32 => match read(Moment::now()) {
                Ok(Some(task)) if task.rest().is_some() => service.reload(task),
                Ok(Some(_)) => reporter.warn(trouble!(
                    "the address of Patroni's REST API is not known any more, and the previous settings remain in effect";
                    "Run: patroni-gen-config"
                )),
                Ok(None) => {
                    reporter.info("settings reloaded: neither VIPS nor a DNS name is set any more, so the service ends");
                    notify("STOPPING=1");
                    service.retire();
                    return Ok(());
                }
                Err(error) => reporter.warn(Trouble::of(&error.context("the previous settings remain in effect"))),
            },
            Ok(Some(_)) => {
                notify("STOPPING=1");
                service.end(read);
                return Ok(());
            }
            _ => {}
        }
    }
}

struct Service {
    task: Arc<Task>,
    locks: Locks,
    /// Patroni's last answer.
    state: MemberState,
    begin: Instant,
    /// Whether Patroni has answered since then.
    answered: bool,
    /// When Patroni last reported that this member is the primary; at first, when the service started.
    primary: Moment,
    /// The virtual addresses on this member, for people.
    here: Vec<String>,
    /// The last change, and when it happened.
    last: Option<(String, SystemTime)>,
    /// What is wrong. It is reported when it appears, not in every poll.
    faults: Vec<Trouble>,
    /// How many polls were skipped because another process held the lock, and since when.
    missed: Option<(u32, Instant)>,
    /// Since when another host has had the address.
    foreign: Option<Instant>,
    announcing: Option<JoinHandle<()>>,
    name: Name,
}

impl Service {
    fn new(task: Task, locks: Locks) -> Self {
        Self {
            task: Arc::new(task),
            locks,
            state: MemberState::Undecided,
            begin: Instant::now(),
            answered: false,
            primary: Moment::now(),
            here: Vec::new(),
            last: None,
            faults: Vec::new(),
            missed: None,
            foreign: None,
            announcing: None,
            name: Name::new(Instant::now()),
        }
    }

    /// If Patroni does not answer, patroni-gen-config may have written another way to ask it.
    fn find_patroni(&mut self, read: &dyn Fn(Moment) -> Result<Option<Task>>) {
        if let MemberState::NoAnswer(_) = self.state {
            if let Ok(Some(Task { instance: Some(instance), .. })) = read(Moment::now()) {
                Arc::make_mut(&mut self.task).instance = Some(instance);
            }
        }
    }

    /// Polls Patroni once, acts on its answer, and reports what is newly wrong.
    fn poll(&mut self) {
        let mut faults = Vec::new();
        if let Err(error) = self.poll_and_act(&mut faults) {
            faults.push(Trouble::of(&error));
        }
        for fault in faults.iter().filter(|fault| !self.faults.contains(fault)) {
            self.task.reporter.warn(fault.clone());
        }
        self.faults = faults;
        if self.announcing.as_ref().is_some_and(JoinHandle::is_finished) {
            self.announcing = None;
        }
    }

    /// A run that releases the address waits for this lock, so an answer from before it cannot be acted upon after it.
    fn poll_and_act(&mut self, faults: &mut Vec<Trouble>) -> Result<()> {
        let task = self.task.clone();
        let begin = Instant::now();
        let Some(_lock) = self.locks.acquire(WAIT)? else {
            self.skip(begin, faults);
            return Ok(());
        };
        self.report_regained_lock();
        let asked = Moment::now();
        let state = task.member_state();
        let interfaces = netlink::interfaces()?;
        self.here = present(&task, &interfaces);
        self.note_state(&state, faults);
        let mut addresses = Vec::new();
        match plan::decide(&state) {
            Decision::Acquire => {
                self.primary = asked;
                addresses = self.renew_and_add(&interfaces, asked, faults);
            }
            Decision::Release => {
                let reason = match &state {
                    MemberState::PortTaken(why) => why.line(),
                    _ => "Patroni reports that this member is not the primary".to_owned(),
                };
                self.release(&reason, &interfaces, faults);
            }
            // The file for keepalived has no lease in the kernel.
            Decision::LetExpire if task.point.manager == Manager::Keepalived => {
                if self.primary.elapsed() >= task.point.lease {
                    let reason = "Patroni did not report in time that this member is the primary";
                    self.release(reason, &interfaces, faults);
                }
            }
            Decision::LetExpire => faults.extend(add_missing_leases(&task, &interfaces)),
        }
        self.here = present(&task, &netlink::interfaces()?);
        self.check_name(&addresses, faults);
        Ok(())
    }

    /// A poll without the lock: nothing is checked, so what was wrong before still is.
    fn skip(&mut self, begin: Instant, faults: &mut Vec<Trouble>) {
        let (polls, since) = self.missed.unwrap_or((0, begin));
        self.missed = Some((polls.saturating_add(1), since));
        faults.clone_from(&self.faults);
        if polls + 1 == MISSED {
            self.task.reporter.warn(trouble!(
                "{} holds the lock {}: until it is released the service does nothing, and the address stays until its lease expires",
                self.locks.holder(), self.locks.path("lock").display();
                "If that process hangs, end it."
            ));
        }
    }

    fn report_regained_lock(&mut self) {
        if let Some((polls, since)) = self.missed.take() {
            if polls >= MISSED {
                let seconds = since.elapsed().as_secs();
                self.task.reporter.info(format!("the lock was released after {seconds} s: continuing"));
            }
        }
    }

    fn release(&mut self, reason: &str, interfaces: &[Interface], faults: &mut Vec<Trouble>) {
        self.foreign = None;
        let Plan { steps, problems } = plan::release(&self.task.point, interfaces);
        let (changes, failed) = apply::addresses(&self.task.root, &steps);
        self.changed(reason, &changes);
        faults.extend([problems, failed].concat());
    }

    /// Notes Patroni's answer: what is wrong with it, and whether this member was promoted.
    fn note_state(&mut self, state: &MemberState, faults: &mut Vec<Trouble>) {
        match state {
            // It is started before Patroni.
            MemberState::NoAnswer(_) if self.is_waiting() => {}
            MemberState::NoAnswer(why) => {
                let mut fault = why.clone();
                if self.task.point.manager == Manager::Dnscp && !self.here.is_empty() {
                    fault.what += "; the address stays until its lease expires";
                }
                faults.push(fault);
            }
            MemberState::PortTaken(why) => faults.push(why.clone()),
            _ => {}
        }
        faults.extend(self.task.rest().map(Api::doubts).unwrap_or_default());
        if *state == MemberState::Primary && self.state != MemberState::Primary {
            self.name.ask(Instant::now() + AFTER_PROMOTION);
            self.name.retry = FIRST_RETRY;
        }
        self.answered |= !matches!(state, MemberState::NoAnswer(_));
        self.state = state.clone();
    }

    /// Whether Patroni has not started yet, and no address depends on it.
    fn is_waiting(&self) -> bool {
        let early = self.here.is_empty() && !self.answered && self.begin.elapsed() < STARTING;
        early && self.task.rest().is_some_and(Api::was_closed)
    }

    /// Renews the leases, and adds the addresses that are missing. Returns the addresses that the name should have.
    fn renew_and_add(&mut self, interfaces: &[Interface], asked: Moment, faults: &mut Vec<Trouble>) -> Vec<IpAddr> {
        let task = self.task.clone();
        let lease = task.point.lease;
        let Plan { mut steps, problems } = plan::acquire(&task.point, interfaces, Some(lease), task.own_address());
        faults.extend(problems);
        let missing: Vec<_> = steps
            .iter()
            .filter_map(
                |step| if let Step::Add { placed, renewal: false, .. } = step { Some(placed.clone()) } else { None },
            )
            .collect();
        let mut asked = asked;
        if !missing.is_empty() {
            // To hurry is the callback's task. So a host that is still releasing the address has time for it.
            if let Some(foreign) = missing.iter().find_map(apply::foreign_holder) {
                let since = *self.foreign.get_or_insert_with(Instant::now);
                faults.push(foreign);
                if since.elapsed() < lease * 2 {
                    return Vec::new();
                }
            }
            asked = Moment::now();
            if task.member_state() != MemberState::Primary {
                return Vec::new();
            }
        }
        self.foreign = None;
        steps.retain(|step| match step {
            Step::Add { placed, renewal: true, .. } => {
                plan::is_renewal_due(plan::entry(interfaces, placed).and_then(|entry| entry.lifetime), lease)
            }
            Step::Announce(placed) => missing.contains(placed),
            _ => true,
        });
        if asked.elapsed() > FRESH {
            return Vec::new();
        }
        let (changes, failed) = apply::addresses(&task.root, &steps);
        if !changes.is_empty() {
            self.announcing = apply::repeat_announcements(&steps, &task.reporter);
            self.name.ask(Instant::now());
        }
        self.changed("Patroni reports that this member is the primary", &changes);
        let complete = failed.is_empty();
        faults.extend(failed);
        let registered = steps
            .into_iter()
            .find_map(|step| if let Step::Register { addresses, .. } = step { Some(addresses) } else { None });
        registered.filter(|_| complete).unwrap_or_default()
    }

    fn changed(&mut self, reason: &str, changes: &[String]) {
        apply::report(&self.task.reporter, reason, changes, &[]);
        if let Some(change) = changes.last() {
            self.last = Some((change.clone(), SystemTime::now()));
        }
    }

    /// For `systemctl status`.
    fn status(&self) -> String {
        let role = self.state.label();
        let here = if self.here.is_empty() { "no address here".to_owned() } else { self.here.join(", ") };
        let mut text = format!("{role}; {here}");
        if let (Some(dns), MemberState::Primary) = (&self.task.point.dns, &self.state) {
            text.extend(["; ", &dns.name, ": ", &self.name.shown]);
        }
        if let Some((change, when)) = &self.last {
            // Not how long ago: systemd still shows this text after the service has stopped.
            let _ = write!(text, "; last change at {}: {change}", utc(*when));
        }
        if let Some((_, since)) = self.missed.filter(|(polls, _)| *polls >= MISSED) {
            let seconds = since.elapsed().as_secs();
            text =
                format!("waiting for the lock, which {} has held for {seconds} s; before: {text}", self.locks.holder());
        }
        text.replace('\n', " ")
    }
}

/// `2026-11-21 03:04:05 UTC`, from the days since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", second / 3600, second / 60 % 60, second % 60)
}

/// An address that was added without a service has no lease yet, and could stay for ever.
fn add_missing_leases(task: &Task, interfaces: &[Interface]) -> Vec<Trouble> {
    let mut steps = plan::acquire(&task.point, interfaces, Some(task.point.lease), None).steps;
    steps.retain(|step| {
        matches!(step, Step::Add { placed, renewal: true, .. }
            if plan::entry(interfaces, placed).is_some_and(|entry| entry.lifetime.is_none()))
    });
    apply::addresses(&task.root, &steps).1
}

/// The virtual addresses that are on this member, for people.
fn present(task: &Task, interfaces: &[Interface]) -> Vec<String> {
    let mut shown = Vec::new();
    for interface in interfaces {
        for entry in &interface.addresses {
            if task.point.vips.iter().any(|vip| vip.address == entry.address) {
                let left = entry.lifetime.map_or_else(String::new, |left| format!(" for {left} s"));
                shown.push(format!("{}/{} on {}{left}", entry.address, entry.prefix, interface.name));
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_795_230_245, "2026-11-21 03:04:05 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
