//! `dnscp@16-main.service`: polls Patroni, corrects what an event missed, renews the lease, and checks the name.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use host::endpoint::Manager;
use host::report::Reporter;
use host::trouble::Trouble;
use host::{fail, trouble};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::apply;
use crate::dns::Outcome;
use crate::netlink::{self, Interface};
use crate::notify::notify;
use crate::plan::{self, Decision, Plan, Step};
use crate::rest::{Api, MemberState};
use crate::run::{FRESH, REGISTER, Task};
use crate::state::{Locks, Moment};

/// Milliseconds between two polls.
const POLL: u16 = 1000;

/// A callback holds the lock for as long as Patroni's answer takes.
const WAIT: Duration = Duration::from_millis(500);

/// After so many polls without the lock, that is reported.
const MISSED: u32 = 3;

/// Between two checks of the name.
const COMPARE: Duration = Duration::from_secs(300);

/// Between two registrations that change nothing: Active Directory removes records that are not renewed. dnscp.sh had a daily cron
/// job for it.
const REFRESH: Duration = Duration::from_secs(24 * 3600);

/// How long the name is left to the callback after a promotion, since the callback registers it, too.
const AFTER_PROMOTION: Duration = Duration::from_secs(2);

const FIRST_RETRY: Duration = Duration::from_secs(5);

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
                Ok(_) => reporter.warn(trouble!(
                    "neither VIPS nor a DNS name is set any more, and the previous settings remain in effect";
                    "To end the service, stop it."
                )),
                Err(error) => reporter.warn(Trouble::of(&error.context("the previous settings remain in effect"))),
            },
            Ok(Some(_)) => {
                notify("STOPPING=1");
                service.end();
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

/// The state of the DNS name.
struct Name {
    work: Option<JoinHandle<Result<Outcome>>>,
    due: Instant,
    /// When a check was asked for while one was running, which may have looked before that.
    again: Option<Instant>,
    retry: Duration,
    refreshed: Instant,
    refreshing: bool,
    shown: String,
    fault: Option<Trouble>,
}

impl Name {
    fn new(now: Instant) -> Self {
        Self {
            work: None,
            due: now,
            again: None,
            retry: FIRST_RETRY,
            refreshed: now,
            refreshing: false,
            shown: "not checked yet".to_owned(),
            fault: None,
        }
    }

    /// Asks for a check at a time.
    fn ask(&mut self, then: Instant) {
        self.due = then;
        self.again = self.work.is_some().then_some(then);
    }

    /// After a check, the next one is due after a pause, or when it was asked for.
    fn next(&mut self, pause: Duration) {
        self.due = self.again.take().unwrap_or_else(|| Instant::now() + pause);
    }
}

impl Service {
    fn new(task: Task, locks: Locks) -> Self {
        Self {
            task: Arc::new(task),
            locks,
            state: MemberState::Undecided,
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

    /// Patroni applies a changed file some seconds after its reload. While it answers as before, it is asked as before.
    fn reload(&mut self, mut task: Task) {
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
        self.task = Arc::new(task);
        self.name.ask(Instant::now());
        self.task.reporter.info("settings reloaded");
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
        let steps = plan::release(&self.task.point, interfaces).steps;
        let (changes, failed) = apply::addresses(&self.task.root, &steps);
        self.changed(reason, &changes);
        faults.extend(failed);
    }

    /// Notes Patroni's answer: what is wrong with it, and whether this member was promoted.
    fn note_state(&mut self, state: &MemberState, faults: &mut Vec<Trouble>) {
        match state {
            MemberState::NoAnswer(why) => {
                let mut fault = why.clone();
                fault.what += "; the address stays until its lease expires";
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
        self.state = state.clone();
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

    /// In the background: a server that hangs must not delay the renewal of the lease.
    fn check_name(&mut self, addresses: &[IpAddr], faults: &mut Vec<Trouble>) {
        let task = self.task.clone();
        let Some(dns) = &task.point.dns else { return };
        let name = &mut self.name;
        if let Some(work) = name.work.take_if(|work| work.is_finished()) {
            let aborted = || anyhow!("the registration of {} was aborted", dns.name);
            match work.join().unwrap_or_else(|_| Err(aborted())) {
                Ok(outcome) => {
                    name.fault = None;
                    name.retry = FIRST_RETRY;
                    name.next(if outcome == Outcome::NotPrimary { FIRST_RETRY } else { COMPARE });
                    if name.refreshing {
                        name.refreshed = Instant::now();
                    }
                    if matches!(outcome, Outcome::Changed { .. }) {
                        task.reporter.info(format!("{}: {outcome}", dns.name));
                    }
                    name.shown = outcome.to_string();
                }
                Err(error) => {
                    let fault = Trouble::of(&error);
                    name.shown = fault.line();
                    name.next(name.retry);
                    name.retry = (name.retry * 2).min(COMPARE);
                    faults.push(fault.clone());
                    name.fault = Some(fault);
                }
            }
        } else if name.work.is_some() || name.retry > FIRST_RETRY {
            // Still the same fault, which was reported.
            faults.extend(name.fault.clone());
        }
        if addresses.is_empty() || name.work.is_some() || name.due > Instant::now() {
            return;
        }
        name.refreshing = name.refreshed.elapsed() >= REFRESH;
        let (refresh, addresses) = (name.refreshing, addresses.to_vec());
        let work = move || {
            let Some(dns) = &task.point.dns else { return Ok(Outcome::NotPrimary) };
            apply::register(&task.root, dns, &addresses, refresh, &|| task.is_still_primary(), REGISTER)
        };
        name.work = thread::Builder::new().name("name".to_owned()).spawn(work).ok();
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

    /// Without the service nothing renews the lease. If this member is the primary, the address stays without one until an event of
    /// Patroni removes it; the next start of the service adds a lease again. The file for keepalived is removed by the unit.
    fn end(&self) {
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

    #[test]
    fn a_check_that_was_asked_for_meanwhile_is_done_at_once() {
        let now = Instant::now();
        let mut name = Name::new(now);
        name.ask(now);
        name.next(COMPARE);
        assert!(name.due >= now + COMPARE);
        name.work = Some(thread::spawn(|| Ok(Outcome::NotPrimary)));
        name.ask(now);
        name.next(COMPARE);
        assert_eq!(name.due, now);
        name.next(COMPARE);
        assert!(name.due >= now + COMPARE);
    }
}
