//! `dnscp@16-main.service`: follows Patroni, repairs what an event missed, renews the lease, and looks after the name.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use host::endpoint::Manager;
use host::report::Reporter;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::apply;
use crate::dns::Outcome;
use crate::netlink::{self, Interface};
use crate::notify::notify;
use crate::plan::{self, Plan, Step, Turn};
use crate::rest::{Api, Standing};
use crate::run::{FRESH, REGISTER, Task};
use crate::state::{Locks, Moment};

/// Between two looks.
const LOOK: u16 = 1000;

/// A callback has the lock for as long as Patroni's answer takes.
const WAIT: Duration = Duration::from_millis(500);

/// So many turns without the lock are said.
const MISSED: u32 = 3;

/// Between two comparisons of the name.
const COMPARE: Duration = Duration::from_secs(300);

/// Between two registrations that change nothing: Active Directory removes records that nobody renews. dnscp.sh has a cron
/// job for it, once a day.
const REFRESH: Duration = Duration::from_secs(24 * 3600);

/// After a gain, the time that the callback, which registers the name too, has for itself.
const AFTER_GAIN: Duration = Duration::from_secs(2);

const FIRST_RETRY: Duration = Duration::from_secs(5);

/// The program until it is told to end.
pub fn run(read: &dyn Fn(Moment) -> Result<Option<Task>>, locks: &Locks, reporter: &Reporter) -> Result<()> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    signals.thread_block().context("cannot block signals")?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .context("cannot wait for signals")?;
    let Some(task) = read(Moment::now())? else {
        notify("READY=1\nSTATUS=neither VIPS nor a DNS name is set");
        return Ok(());
    };
    if task.rest().is_none() {
        reporter.warn(
            "Patroni's REST API is not known here, so it cannot be followed: only Patroni's events move the address; run \
             patroni-gen-config",
        );
        notify("READY=1\nSTATUS=Patroni cannot be followed");
        return Ok(());
    }
    let Some(_service) = locks.serve()? else { anyhow::bail!("another dnscp --service is at work for this instance") };
    let mut service = Service::new(task, locks.clone());
    notify("READY=1\nSTATUS=looking");
    loop {
        service.look();
        service.find_patroni(read);
        notify(&format!("WATCHDOG=1\nSTATUS={}", service.status()));
        let mut wait = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut wait, PollTimeout::from(LOOK));
        match signals.read_signal() {
            Ok(Some(signal)) if signal.ssi_signo == Signal::SIGHUP as u32 => match read(Moment::now()) {
                Ok(Some(task)) if task.rest().is_some() => service.reload(task),
                Ok(_) => reporter.warn("nothing is set any more: the old settings hold until the service is restarted"),
                Err(error) => reporter.warn(format!("the old settings stay, because: {error:#}")),
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
    /// What Patroni said last.
    standing: Standing,
    /// When it last said that this member is the primary, or when the service began.
    primary: Moment,
    /// The addresses that are here, as text.
    here: Vec<String>,
    /// The last change, and when.
    last: String,
    /// What is wrong, said once.
    faults: Vec<String>,
    /// Turns that had to be left out for another process's lock, and since when.
    missed: Option<(u32, Instant)>,
    /// Since when somebody else has had our address.
    foreign: Option<Instant>,
    announcing: Option<JoinHandle<()>>,
    name: Name,
}

/// How the name is.
struct Name {
    work: Option<JoinHandle<Result<Outcome>>>,
    due: Instant,
    /// When it was asked for while the work was being done, which may have looked before.
    again: Option<Instant>,
    retry: Duration,
    refreshed: Instant,
    refreshing: bool,
    shown: String,
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
            shown: "not compared yet".to_owned(),
        }
    }

    /// It is to be compared then.
    fn ask(&mut self, then: Instant) {
        self.due = then;
        self.again = self.work.is_some().then_some(then);
    }

    /// The work is done, and the next is due after a pause, or when it was asked for.
    fn next(&mut self, pause: Duration) {
        self.due = self.again.take().unwrap_or_else(|| Instant::now() + pause);
    }
}

impl Service {
    fn new(task: Task, locks: Locks) -> Self {
        Self {
            task: Arc::new(task),
            locks,
            standing: Standing::Undecided,
            primary: Moment::now(),
            here: Vec::new(),
            last: String::new(),
            faults: Vec::new(),
            missed: None,
            foreign: None,
            announcing: None,
            name: Name::new(Instant::now()),
        }
    }

    /// Patroni takes over a changed file some seconds after it was told to; while it answers as before, it is asked as before.
    fn reload(&mut self, mut task: Task) {
        if let (Some(new), Some(old)) = (&mut task.instance, &self.task.instance) {
            if !matches!(self.standing, Standing::Silent(_)) {
                new.rest.clone_from(&old.rest);
            }
        }
        if self.task.point.manager == Manager::Keepalived && task.point.manager != Manager::Keepalived {
            // Nobody would take back later what it was told.
            let (_, faults) = apply::addresses(&task.root, &plan::give_up(&self.task.point, &[]).steps);
            apply::say(&task.reporter, "reload", &[], &faults);
        }
        self.task = Arc::new(task);
        self.name.ask(Instant::now());
        self.task.reporter.info("settings read again");
    }

    /// A Patroni that is silent may be asked in the wrong way: how, patroni-gen-config may have written anew.
    fn find_patroni(&mut self, read: &dyn Fn(Moment) -> Result<Option<Task>>) {
        if let Standing::Silent(_) = self.standing {
            if let Ok(Some(Task { instance: Some(instance), .. })) = read(Moment::now()) {
                Arc::make_mut(&mut self.task).instance = Some(instance);
            }
        }
    }

    /// One look.
    fn look(&mut self) {
        let mut faults = Vec::new();
        if let Err(error) = self.turn(&mut faults) {
            faults.push(format!("{error:#}"));
        }
        for fault in faults.iter().filter(|fault| !self.faults.contains(fault)) {
            self.task.reporter.warn(fault.as_str());
        }
        self.faults = faults;
        if self.announcing.as_ref().is_some_and(JoinHandle::is_finished) {
            self.announcing = None;
        }
    }

    /// Whoever gives the address up waits for this lock; so an answer that was right before cannot be acted upon after.
    fn turn(&mut self, faults: &mut Vec<String>) -> Result<()> {
        let task = self.task.clone();
        let begin = Instant::now();
        let Some(_lock) = self.locks.act(WAIT)? else {
            self.miss(begin, faults);
            return Ok(());
        };
        self.go_on();
        let looked = Moment::now();
        let standing = task.standing();
        let interfaces = netlink::interfaces()?;
        self.heard(&standing, faults);
        let mut addresses = Vec::new();
        match plan::turn(&standing) {
            Turn::Take => {
                self.primary = looked;
                addresses = self.hold(&interfaces, looked, faults);
            }
            Turn::GiveUp => {
                let reason = match &standing {
                    Standing::Usurped(why) => why,
                    _ => "Patroni says that this member is not the primary",
                };
                self.give_up(reason, &interfaces, faults);
            }
            // What keepalived was told has no lease in the kernel.
            Turn::Leave if task.point.manager == Manager::Keepalived => {
                if self.primary.elapsed() >= task.point.lease {
                    self.give_up("Patroni did not say in time that this member is the primary", &interfaces, faults);
                }
            }
            Turn::Leave => faults.extend(lend(&task, &interfaces)),
        }
        self.here = shown(&task, &netlink::interfaces()?);
        self.look_after_the_name(&addresses, faults);
        Ok(())
    }

    /// A turn without the lock: what was wrong before still is, as nothing was looked at.
    fn miss(&mut self, begin: Instant, faults: &mut Vec<String>) {
        let (turns, since) = self.missed.unwrap_or((0, begin));
        self.missed = Some((turns.saturating_add(1), since));
        faults.clone_from(&self.faults);
        if turns + 1 == MISSED {
            self.task.reporter.warn(format!(
                "{} has the lock {}: until it is given back nothing is done, and the address stays for what is left of its lease",
                self.locks.holder(),
                self.locks.path("lock").display()
            ));
        }
    }

    fn go_on(&mut self) {
        if let Some((turns, since)) = self.missed.take() {
            if turns >= MISSED {
                let seconds = since.elapsed().as_secs();
                self.task.reporter.info(format!("the lock was given back after {seconds} s: going on"));
            }
        }
    }

    fn give_up(&mut self, reason: &str, interfaces: &[Interface], faults: &mut Vec<String>) {
        self.foreign = None;
        let steps = plan::give_up(&self.task.point, interfaces).steps;
        let (changes, failed) = apply::addresses(&self.task.root, &steps);
        self.changed(reason, &changes);
        faults.extend(failed);
    }

    fn heard(&mut self, standing: &Standing, faults: &mut Vec<String>) {
        if let Standing::Silent(why) = standing {
            faults.push(format!("{why}; the address stays for what is left of its lease"));
        }
        if let Standing::Usurped(why) = standing {
            faults.push(why.clone());
        }
        faults.extend(self.task.rest().and_then(Api::doubt));
        if *standing == Standing::Primary && self.standing != Standing::Primary {
            self.name.ask(Instant::now() + AFTER_GAIN);
            self.name.retry = FIRST_RETRY;
        }
        self.standing = standing.clone();
    }

    /// Renews, and takes what is missing. Gives the addresses that the name should have.
    fn hold(&mut self, interfaces: &[Interface], looked: Moment, faults: &mut Vec<String>) -> Vec<IpAddr> {
        let task = self.task.clone();
        let lease = task.point.lease;
        let Plan { mut steps, problems } = plan::take(&task.point, interfaces, Some(lease), task.own_address());
        faults.extend(problems);
        let missing: Vec<_> = steps
            .iter()
            .filter_map(
                |step| if let Step::Hold { placed, renewal: false, .. } = step { Some(placed.clone()) } else { None },
            )
            .collect();
        let mut looked = looked;
        if !missing.is_empty() {
            // Nobody told us to hurry: that was the callback's work. So whoever is still giving it up may do so.
            if let Some(foreign) = missing.iter().find_map(apply::foreign_holder) {
                let since = *self.foreign.get_or_insert_with(Instant::now);
                faults.push(foreign);
                if since.elapsed() < lease * 2 {
                    return Vec::new();
                }
            }
            looked = Moment::now();
            if task.standing() != Standing::Primary {
                return Vec::new();
            }
        }
        self.foreign = None;
        steps.retain(|step| match step {
            Step::Hold { placed, renewal: true, .. } => {
                plan::due(plan::entry(interfaces, placed).and_then(|entry| entry.lifetime), lease)
            }
            Step::Announce(placed) => missing.contains(placed),
            _ => true,
        });
        if looked.elapsed() > FRESH {
            return Vec::new();
        }
        let (changes, failed) = apply::addresses(&task.root, &steps);
        if !changes.is_empty() {
            self.announcing = apply::repeat_announcements(&steps, &task.reporter);
            self.name.ask(Instant::now());
        }
        self.changed("Patroni says that this member is the primary", &changes);
        let well = failed.is_empty();
        faults.extend(failed);
        let registered = steps
            .into_iter()
            .find_map(|step| if let Step::Register { addresses, .. } = step { Some(addresses) } else { None });
        registered.filter(|_| well).unwrap_or_default()
    }

    fn changed(&mut self, reason: &str, changes: &[String]) {
        apply::say(&self.task.reporter, reason, changes, &[]);
        if let Some(change) = changes.last() {
            self.last = format!("{change} at {}", utc(SystemTime::now()));
        }
    }

    /// In the background: a server that hangs must not keep us from renewing the lease.
    fn look_after_the_name(&mut self, addresses: &[IpAddr], faults: &mut Vec<String>) {
        let task = self.task.clone();
        let Some(dns) = &task.point.dns else { return };
        let name = &mut self.name;
        if let Some(work) = name.work.take_if(|work| work.is_finished()) {
            match work.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the registration of {} broke off", dns.name))) {
                Ok(outcome) => {
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
                    name.shown = format!("{error:#}");
                    name.next(name.retry);
                    name.retry = (name.retry * 2).min(COMPARE);
                    faults.push(format!("{error:#}"));
                }
            }
        } else if name.work.is_some() || name.retry > FIRST_RETRY {
            // Still the same fault, which was said.
            faults.extend(self.faults.iter().filter(|fault| **fault == name.shown).cloned());
        }
        if addresses.is_empty() || name.work.is_some() || name.due > Instant::now() {
            return;
        }
        name.refreshing = name.refreshed.elapsed() >= REFRESH;
        let (refresh, addresses) = (name.refreshing, addresses.to_vec());
        let work = move || {
            let Some(dns) = &task.point.dns else { return Ok(Outcome::NotPrimary) };
            apply::register(&task.root, dns, &addresses, refresh, &|| task.still_primary(), REGISTER)
        };
        name.work = thread::Builder::new().name("name".to_owned()).spawn(work).ok();
    }

    /// For `systemctl status`.
    fn status(&self) -> String {
        let role = word(&self.standing);
        let here = if self.here.is_empty() { "no address here".to_owned() } else { self.here.join(", ") };
        let mut text = format!("{role}; {here}");
        if let (Some(dns), Standing::Primary) = (&self.task.point.dns, &self.standing) {
            text.extend(["; ", &dns.name, ": ", &self.name.shown]);
        }
        if !self.last.is_empty() {
            text.extend(["; last change: ", &self.last]);
        }
        if let Some((_, since)) = self.missed.filter(|(turns, _)| *turns >= MISSED) {
            let seconds = since.elapsed().as_secs();
            text = format!("waits for the lock, which {} has had for {seconds} s; before: {text}", self.locks.holder());
        }
        text.replace('\n', " ")
    }

    /// Without us nobody renews the lease. If this member is the primary, the address stays until Patroni's events take it
    /// away; a service that comes back gives it a lease again. What keepalived was told, the unit takes back.
    fn end(&self) {
        let Ok(Some(_lock)) = self.locks.act(WAIT) else {
            let holder = self.locks.holder();
            self.task
                .reporter
                .warn(format!("the service ends without the lock, which {holder} has: the address keeps its lease"));
            return;
        };
        if self.task.standing() != Standing::Primary {
            return;
        }
        let Ok(interfaces) = netlink::interfaces() else { return };
        let mut steps = plan::take(&self.task.point, &interfaces, None, None).steps;
        steps.retain(|step| matches!(step, Step::Hold { renewal: true, .. }));
        let (_, faults) = apply::addresses(&self.task.root, &steps);
        apply::say(&self.task.reporter, "end", &[], &faults);
        if !steps.is_empty() && faults.is_empty() {
            self.task
                .reporter
                .info("the service ends: the address stays without a lease until Patroni's events take it away");
        }
    }
}

/// An address that came while there was no service has no lease yet, and could stay for ever.
fn lend(task: &Task, interfaces: &[Interface]) -> Vec<String> {
    let mut steps = plan::take(&task.point, interfaces, Some(task.point.lease), None).steps;
    steps.retain(|step| {
        matches!(step, Step::Hold { placed, renewal: true, .. }
            if plan::entry(interfaces, placed).is_some_and(|entry| entry.lifetime.is_none()))
    });
    apply::addresses(&task.root, &steps).1
}

/// The standing in a word.
#[must_use]
pub fn word(standing: &Standing) -> &'static str {
    match standing {
        Standing::Primary => "primary",
        Standing::Starting => "primary, PostgreSQL is starting",
        Standing::Undecided => "Patroni has not decided",
        Standing::Other => "not the primary",
        Standing::Silent(_) => "Patroni does not answer",
        Standing::Usurped(_) => "primary, but another process has PostgreSQL's port",
    }
}

fn shown(task: &Task, interfaces: &[Interface]) -> Vec<String> {
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

/// `2026-11-21 03:04:05 UTC`, by the days since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms").
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_was_asked_for_meanwhile_is_compared_at_once() {
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

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_795_230_245, "2026-11-21 03:04:05 UTC"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
