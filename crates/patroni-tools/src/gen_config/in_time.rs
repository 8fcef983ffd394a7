//! A check for a monitoring system runs in a process of its own, which has ten seconds at most.
//!
//! The check itself ends in time. But a process of which one thread waits for a disk or a file system that does not respond stays until
//! that responds, whatever its other threads do, and also if it is killed (`D` in `ps(1)`). So does a part that cannot be given up, such as
//! the list of clusters.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use host::report;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::getppid;

use crate::doctor;

/// The process that waits for this one.
const CHECK_OF: &str = "PATRONI_TOOLS_CHECK_OF";

/// A little more than the check takes, and less than monitoring waits.
const TIME: Duration = Duration::from_millis(9600);

/// Does `work` in a process of its own, and returns its exit status. What it has printed is printed in any case.
pub(super) fn run(is_plugin: bool, work: impl FnOnce() -> Result<u8>) -> Result<u8> {
    if std::env::var(CHECK_OF).is_ok_and(|pid| pid == getppid().to_string()) {
        set_pdeathsig(Signal::SIGKILL).context("cannot follow the process that has started this one")?;
        return work();
    }
    let mut child = start()?;
    let printed = Arc::new(Mutex::new(Vec::new()));
    let reader = read(&mut child, &printed);
    let begin = Instant::now();
    let mut status = None;
    while status.is_none() && begin.elapsed() < TIME {
        thread::sleep(Duration::from_millis(5));
        status = child.try_wait().context("cannot wait for the check")?;
    }
    if status.is_some() {
        let _ = reader.join();
    } else {
        // It ends when it can; the programs that it has started have the same limit.
        let _ = child.kill();
    }
    let printed = printed.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let printed = String::from_utf8_lossy(&printed);
    let Some(status) = status else {
        return late(is_plugin, &printed);
    };
    report::print(&printed);
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.with_context(|| format!("the check did not end by itself ({status})"))
}

/// The same program with the same words.
fn start() -> Result<Child> {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    Command::new("/proc/self/exe")
        .arg0(name)
        .args(words)
        .env(CHECK_OF, std::process::id().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run /proc/self/exe")
}

/// Collects what it prints, since a process that cannot end does not close its output.
fn read(child: &mut Child, printed: &Arc<Mutex<Vec<u8>>>) -> thread::JoinHandle<()> {
    let (pipe, printed) = (child.stdout.take(), Arc::clone(printed));
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        let Some(mut pipe) = pipe else { return };
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            printed.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..length]);
        }
    })
}

/// A check that has printed its result may be unable to end.
fn late(is_plugin: bool, printed: &str) -> Result<u8> {
    let status = doctor::plugin_status(printed).filter(|_| is_plugin);
    if status.is_some() || !is_plugin {
        report::print(printed);
    }
    if let Some(status) = status {
        return Ok(status);
    }
    bail!("the check did not end within 10 s, so a disk, a file system or a program does not respond")
}
