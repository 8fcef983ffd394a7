//! Who holds an address, sampled on every machine at the same time by the kernel's own table.
//!
//! The samplers are threads of the test in the machines' network namespaces, so that they go on while a machine is frozen.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use nix::unistd::gettid;

use crate::{Lab, Node};

/// The time between two looks.
const EVERY: Duration = Duration::from_millis(5);

/// A time during which one machine held the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The machine.
    pub node: String,
    /// Since the watch began.
    pub from: Duration,
    /// The first look at which it was gone, or the end of the watch.
    pub to: Duration,
}

/// A watch over one address on all machines of a lab.
pub struct Watch {
    address: Ipv4Addr,
    begin: Instant,
    samplers: Mutex<Vec<Sampler>>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    held: Vec<Held>,
    longest_pause: Duration,
}

struct Sampler {
    node: String,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Watch {
    /// Begins on all machines that are on.
    pub fn begin(lab: &Lab, address: Ipv4Addr) -> Result<Self> {
        let watch = Self { address, begin: Instant::now(), samplers: Mutex::default(), seen: Arc::default() };
        for node in lab.nodes().iter().filter(|node| node.is_on()) {
            watch.resume(node)?;
        }
        Ok(watch)
    }

    /// Time since the watch began, to say when something was done.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Ends the look at one machine. This must come before its power goes off: a sampler would keep its network alive.
    pub fn leave(&self, node: &Node) -> Result<()> {
        let mut samplers = self.samplers.lock().unwrap_or_else(PoisonError::into_inner);
        let (leaving, staying): (Vec<Sampler>, Vec<Sampler>) =
            samplers.drain(..).partition(|sampler| sampler.node == node.name());
        *samplers = staying;
        leaving.into_iter().try_for_each(Sampler::end)
    }

    /// Looks at a machine that was left, or was off.
    pub fn resume(&self, node: &Node) -> Result<()> {
        let leader = node.leader().with_context(|| format!("{} is off", node.name()))?;
        let namespace = File::open(format!("/proc/{leader}/ns/net")).context("cannot open a network namespace")?;
        let stop = Arc::new(AtomicBool::new(false));
        let (name, address, begin) = (node.name().to_owned(), self.address, self.begin);
        let (seen, over) = (Arc::clone(&self.seen), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
            before_others();
            sample(&name, address, begin, &over, &seen)
        });
        let sampler = Sampler { node: node.name().to_owned(), stop, thread };
        self.samplers.lock().unwrap_or_else(PoisonError::into_inner).push(sampler);
        Ok(())
    }

    /// Ends the watch: who held the address when, and the longest time between two looks at one machine.
    pub fn end(self) -> Result<(Vec<Held>, Duration)> {
        let samplers = self.samplers.into_inner().unwrap_or_else(PoisonError::into_inner);
        samplers.into_iter().try_for_each(Sampler::end)?;
        let mut seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        seen.held.sort_by_key(|held| held.from);
        Ok((seen.held, seen.longest_pause))
    }
}

impl Sampler {
    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the sampler of {} panicked", self.node))?
    }
}

/// Puts this thread before all ordinary ones, so that a busy machine does not keep it from looking. Where that is not allowed, the
/// longest pause tells.
fn before_others() {
    let mut command = Command::new("chrt");
    command.args(["--fifo", "--pid", "1", &gettid().to_string()]);
    let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
}

fn sample(node: &str, address: Ipv4Addr, begin: Instant, over: &AtomicBool, seen: &Mutex<Seen>) -> Result<()> {
    let wanted = format!("|-- {address}");
    let mut since: Option<Duration> = None;
    let mut last = begin.elapsed();
    while !over.load(Ordering::Relaxed) {
        let table =
            fs::read_to_string("/proc/thread-self/net/fib_trie").context("cannot read the kernel's addresses")?;
        let now = begin.elapsed();
        // An address of the machine itself is followed by its entry of scope host.
        let holds = table
            .lines()
            .zip(table.lines().skip(1))
            .any(|(line, next)| line.trim() == wanted && next.trim() == "/32 host LOCAL");
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.longest_pause = seen.longest_pause.max(now.saturating_sub(last));
        match (since, holds) {
            (None, true) => since = Some(now),
            (Some(from), false) => {
                seen.held.push(Held { node: node.to_owned(), from, to: now });
                since = None;
            }
            _ => {}
        }
        drop(seen);
        last = now;
        thread::sleep(EVERY);
    }
    if let Some(from) = since {
        let held = Held { node: node.to_owned(), from, to: begin.elapsed() };
        seen.lock().unwrap_or_else(PoisonError::into_inner).held.push(held);
    }
    Ok(())
}

/// How long two machines held the address at the same time.
#[must_use]
pub fn overlap(held: &[Held]) -> Duration {
    let pairs =
        held.iter().enumerate().flat_map(|(index, one)| held[index + 1..].iter().map(move |other| (one, other)));
    pairs
        .filter(|(one, other)| one.node != other.node)
        .map(|(one, other)| one.to.min(other.to).saturating_sub(one.from.max(other.from)))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_machines_overlap() {
        let held = |node: &str, from, to| Held {
            node: node.to_owned(),
            from: Duration::from_millis(from),
            to: Duration::from_millis(to),
        };
        assert_eq!(overlap(&[held("a", 0, 10), held("b", 10, 20)]), Duration::ZERO);
        assert_eq!(overlap(&[held("a", 0, 10), held("b", 7, 20)]), Duration::from_millis(3));
        assert_eq!(overlap(&[held("a", 0, 10), held("a", 5, 20)]), Duration::ZERO);
    }
}
