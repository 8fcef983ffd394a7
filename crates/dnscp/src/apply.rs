//! Does what a plan says. The only module that changes something.

use std::net::IpAddr;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;
use host::Root;
use host::endpoint::Dns;
use host::report::{Level, Reporter};

use crate::dns::{self, Outcome};
use crate::netlink::{self, Placed};
use crate::plan::{self, Step};
use crate::{announce, connections, state};

/// How long somebody has to answer that the address is his.
const PROBE: Duration = Duration::from_millis(400);

/// Addresses go and come; the first announcement leaves at once. Everything is tried, whatever fails before it.
///
/// Gives what changed, for the log, and what failed.
#[must_use]
pub fn addresses(root: &Root, steps: &[Step]) -> (Vec<String>, Vec<String>) {
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
            Step::Hold { placed, lease, renewal } => {
                let result = netlink::hold(placed, *lease);
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
            // Nobody is told about an address that is not here.
            Step::Announce(placed) if failed.contains(&placed.address) => Ok(()),
            Step::Announce(placed) => announce::send_once(placed.index, placed.address),
            Step::Register { .. } => Ok(()),
        };
        if let Err(error) = result {
            faults.push(format!("{error:#}"));
        }
    }
    (changes, faults)
}

/// Repeats the announcement in the background, as long as the address is here, and looks for somebody else who has it.
///
/// What it has to say it says itself. Without a thread nothing is repeated.
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
            // It may have gone meanwhile: then its new holder is the one to be believed.
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

/// Who else has an address, as a message.
#[must_use]
pub fn foreign_holder(placed: &Placed) -> Option<String> {
    let mac = announce::probe(placed.index, placed.address, PROBE).ok()??;
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    Some(format!(
        "{} is also held by {mac} (seen on {}): find that host, and take the address from it, or choose another one in VIPS",
        placed.address, placed.interface
    ))
}

/// Registers the name, and says how that went.
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

/// Says what changed and what failed.
pub fn say(reporter: &Reporter, reason: &str, changes: &[String], faults: &[String]) {
    for change in changes {
        reporter.info(format!("{reason}: {change}"));
    }
    for fault in faults {
        reporter.say(Level::Error, fault);
    }
}
