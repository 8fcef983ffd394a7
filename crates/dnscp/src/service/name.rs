//! The DNS name: checked now and then, and registered in the background.

use std::net::IpAddr;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use host::trouble::Trouble;

use super::Service;
use crate::apply;
use crate::dns::Outcome;
use crate::run::REGISTER;

/// Between two checks of the name.
const COMPARE: Duration = Duration::from_secs(300);

/// Between two registrations that change nothing: Active Directory removes records that are not renewed. dnscp.sh had a daily cron
/// job for it.
const REFRESH: Duration = Duration::from_secs(24 * 3600);

pub(super) const FIRST_RETRY: Duration = Duration::from_secs(5);

/// The state of the DNS name.
pub(super) struct Name {
    work: Option<JoinHandle<Result<Outcome>>>,
    due: Instant,
    /// When a check was asked for while one was running, which may have looked before that.
    again: Option<Instant>,
    pub(super) retry: Duration,
    refreshed: Instant,
    refreshing: bool,
    pub(super) shown: String,
    fault: Option<Trouble>,
}

impl Name {
    pub(super) fn new(now: Instant) -> Self {
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
    pub(super) fn ask(&mut self, then: Instant) {
        self.due = then;
        self.again = self.work.is_some().then_some(then);
    }

    /// After a check, the next one is due after a pause, or when it was asked for.
    fn next(&mut self, pause: Duration) {
        self.due = self.again.take().unwrap_or_else(|| Instant::now() + pause);
    }
}

impl Service {
    /// In the background: a server that hangs must not delay the renewal of the lease.
    pub(super) fn check_name(&mut self, addresses: &[IpAddr], faults: &mut Vec<Trouble>) {
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
