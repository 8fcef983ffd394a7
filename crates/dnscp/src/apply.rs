//! Carries out a plan. The only module that changes anything.

use std::net::IpAddr;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;
use host::Root;
use host::endpoint::Dns;
use host::report::{Level, Reporter};
use host::trouble;
use host::trouble::Trouble;

use crate::dns::{self, Outcome};
use crate::netlink::{self, Placed};
use crate::plan::{self, Step};
use crate::{announce, connections, state};

/// How long another host has to answer that it has the address.
const PROBE: Duration = Duration::from_millis(400);

/// Removes and adds addresses, and sends the first announcement. Every step is tried, whatever failed before it.
///
/// Returns what changed, for the log, and what failed.
#[must_use]
pub fn addresses(root: &Root, steps: &[Step]) -> (Vec<String>, Vec<Trouble>) {
    let (mut changes, mut faults) = (Vec::new(), Vec::new());
    let mut failed: Vec<IpAddr> = Vec::new();
    for step in steps {
        let result = match step {
            Step::Release { index, interface, address } => {
                let ended = match connections::end(*address) {
                    0 => String::new(),
                    number => format!(" ({number} connections reset)"),
                };
                let result = netlink::release(*index, *address);
                result.map(|()| changes.push(format!("removed {address} from {interface}{ended}")))
            }
            Step::Add { placed, lease, renewal } => {
                let result = netlink::add_or_renew(placed, *lease);
                match &result {
                    Ok(()) if !renewal => changes.push(format!("added {placed}")),
                    Ok(()) => {}
                    Err(_) => failed.push(placed.address),
                }
                result
            }
            Step::Tell { file, primary, held } => state::tell(root, file, *primary, || {
                held.iter().map(|address| connections::end(*address)).sum::<usize>()
            })
            .map(|change| {
                changes.extend(change.map(|ended| match ended {
                    0 => step.to_string(),
                    number => format!("{step} ({number} connections reset)"),
                }));
            }),
            // An address that could not be added is not announced.
            Step::Announce(placed) if failed.contains(&placed.address) => Ok(()),
            Step::Announce(placed) => announce::send_once(placed.index, placed.address),
            Step::Register { .. } => Ok(()),
        };
        if let Err(error) = result {
            faults.push(Trouble::of(&error));
        }
    }
    (changes, faults)
}

/// Repeats the announcement in the background while the address is here, and reports another host that has it.
///
/// If no thread can be started, nothing is repeated.
#[must_use]
pub fn repeat_announcements(steps: &[Step], reporter: &Reporter) -> Option<JoinHandle<()>> {
    let placed: Vec<Placed> = steps
        .iter()
        .filter_map(|step| if let Step::Announce(placed) = step { Some(placed.clone()) } else { None })
        .collect();
    if placed.is_empty() {
        return None;
    }
    let reporter = reporter.clone();
    let begin = Instant::now();
    let work = move || {
        for (index, delay) in announce::DELAYS.iter().filter(|delay| !delay.is_zero()).enumerate() {
            thread::sleep(delay.saturating_sub(begin.elapsed()));
            // It may have been removed meanwhile: then only its new holder announces it.
            let Ok(interfaces) = netlink::interfaces() else { continue };
            for placed in placed.iter().filter(|placed| plan::entry(&interfaces, placed).is_some()) {
                let _ = announce::send_once(placed.index, placed.address);
                if let Some(foreign) = (index == 0).then(|| foreign_holder(placed)).flatten() {
                    reporter.warn(foreign);
                }
            }
        }
    };
    thread::Builder::new().name("announce".to_owned()).spawn(work).ok()
}

/// Which other host has an address, if any.
#[must_use]
pub fn foreign_holder(placed: &Placed) -> Option<Trouble> {
    let mac = announce::probe(placed.index, placed.address, PROBE).ok()??;
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    Some(trouble!(
        "another host with the MAC address {mac} also has {} (seen on {})", placed.address, placed.interface;
        "Remove the address from that host, or choose another one in VIPS."
    ))
}

/// Registers the name with these addresses.
pub fn register(
    root: &Root,
    dns: &Dns,
    addresses: &[IpAddr],
    refresh: bool,
    still_primary: &dyn Fn() -> bool,
    limit: Duration,
) -> Result<Outcome> {
    dns::register(root, dns, addresses, refresh, still_primary, Instant::now() + limit)
}

/// Reports what changed and what failed.
pub fn report(reporter: &Reporter, reason: &str, changes: &[String], faults: &[Trouble]) {
    for change in changes {
        reporter.info(format!("{reason}: {change}"));
    }
    for fault in faults {
        reporter.tell(Level::Error, fault);
    }
}
