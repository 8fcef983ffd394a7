//! No program that a hook started outlives it, however the hook ends.
//!
//! Patroni ends a hook by SIGTERM to the hook alone, by SIGKILL, or by being killed itself, and soon starts the next.
//! Handlers do not help against SIGKILL, so the kernel is asked to pass deaths on (`PR_SET_PDEATHSIG`):
//!
//! * the program that Patroni started gets SIGTERM when Patroni ends;
//! * it does nothing but run itself again as a worker in a process group of its own, which gets SIGTERM when the first
//!   one ends, and then kills its whole group;
//! * what the worker starts gets SIGKILL when the worker ends, and the first program kills the rest of the group.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use host::report::Reporter;
use host::{Root, program};
use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getpgrp, getpid, getppid};

/// Tells the worker whose worker it is.
const WORKER_OF: &str = "PATRONI_TOOLS_WORKER_OF";

/// Does `work` in a worker, and gives its exit status.
pub(crate) fn run(reporter: &Reporter, work: impl FnOnce() -> ExitCode) -> ExitCode {
    let parent = std::env::var(WORKER_OF).ok().and_then(|pid| pid.parse().ok()).map(Pid::from_raw);
    if parent == Some(getppid()) {
        match become_worker(getppid()) {
            Ok(()) => work(),
            Err(error) => reporter.finish(Err(error)),
        }
    } else if parent.is_some() {
        // The one that started this worker is gone already: nobody waits for the work.
        ExitCode::FAILURE
    } else {
        run_worker().unwrap_or_else(|error| reporter.finish(Err(error)))
    }
}

fn run_worker() -> Result<ExitCode> {
    set_pdeathsig(Signal::SIGTERM).context("cannot ask to be ended with Patroni")?;
    let program = std::env::current_exe().context("cannot find this program")?;
    // By the name of this one, which decides what it is.
    let mut worker = Command::new(&program)
        .arg0(std::env::args_os().next().unwrap_or_default())
        .args(std::env::args_os().skip(1))
        .env(WORKER_OF, getpid().to_string())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let group = Pid::from_raw(i32::try_from(worker.id()).context("process id")?);
    // The dead worker is not reaped before its group is killed, so that its number cannot be another's by then.
    while waitid(Id::Pid(group), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
    let _ = killpg(group, Signal::SIGKILL);
    let status = worker.wait().context("cannot wait for the worker")?;
    match status.code() {
        Some(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        None => bail!("the worker was ended ({status}); what it left behind is removed by the next attempt"),
    }
}

fn become_worker(parent: Pid) -> Result<()> {
    set_pdeathsig(Signal::SIGTERM).context("cannot ask to be ended with the first process")?;
    if getppid() != parent || getpgrp() != getpid() {
        bail!("the process that started this worker has ended");
    }
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("cannot block signals")?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            while signals.wait().is_err() {}
            let _ = killpg(getpgrp(), Signal::SIGKILL);
        })
        .context("cannot start a thread")?;
    Ok(())
}

/// A call of `program` that ends with the worker. `setpriv` asks for that, as it takes unsafe code between fork and exec;
/// `env` gives the program back the signals that the worker has blocked, which it would inherit.
pub(crate) fn command(root: &Root, program: &Path) -> Result<Command> {
    if !program.is_file() {
        bail!("the program {} is missing: install the package that provides it", root.inside(program).display());
    }
    let mut command = program::command(root, "setpriv")?;
    command.args(["--pdeathsig", "KILL", "--"]);
    command.arg(root.program("env")?).args(["--default-signal=TERM,INT,HUP", "--"]).arg(program);
    Ok(command)
}
