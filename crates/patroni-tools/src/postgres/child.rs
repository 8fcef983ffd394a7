//! No program that a hook has started outlives it, however the hook ends.
//!
//! Patroni stops a hook with SIGTERM to the hook alone, with SIGKILL, or because it dies itself, and soon starts the next one.
//! A signal handler does not help against SIGKILL, so each process asks the kernel for a signal when its parent dies
//! (`PR_SET_PDEATHSIG`):
//!
//! * the program that Patroni has started gets SIGTERM when Patroni dies;
//! * it only runs itself again as a worker, in a process group of its own. The worker gets SIGTERM when the first
//!   process dies, and then kills its whole group;
//! * what the worker starts gets SIGKILL when the worker dies, and the first process kills the rest of the group.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use host::report::Reporter;
use host::{Root, fail, program};
use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getpgrp, getpid, getppid};

/// The process that has started the worker.
const WORKER_OF: &str = "PATRONI_TOOLS_WORKER_OF";

/// Does `work` in a worker, and returns its exit status.
pub(crate) fn supervise(reporter: &Reporter, work: impl FnOnce() -> ExitCode) -> ExitCode {
    let parent = std::env::var(WORKER_OF).ok().and_then(|pid| pid.parse().ok()).map(Pid::from_raw);
    if parent == Some(getppid()) {
        match become_worker(getppid()) {
            Ok(()) => work(),
            Err(error) => reporter.finish(Err(error)),
        }
    } else if parent.is_some() {
        // The process that started this worker has already died.
        ExitCode::FAILURE
    } else {
        run_worker().unwrap_or_else(|error| reporter.finish(Err(error)))
    }
}

fn run_worker() -> Result<ExitCode> {
    set_pdeathsig(Signal::SIGTERM).context("could not set the signal for the death of Patroni")?;
    let program = std::env::current_exe().context("could not find this program")?;
    // Called with the name of this process, which decides which program it is.
    let mut worker = Command::new(&program)
        .arg0(std::env::args_os().next().unwrap_or_default())
        .args(std::env::args_os().skip(1))
        .env(WORKER_OF, getpid().to_string())
        .process_group(0)
        .spawn()
        .with_context(|| format!("could not run {}", program.display()))?;
    let group = Pid::from_raw(i32::try_from(worker.id()).context("process id")?);
    // The dead worker is not reaped before its group is killed, so that its process ID is not reused by then.
    while waitid(Id::Pid(group), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
    let _ = killpg(group, Signal::SIGKILL);
    let status = worker.wait().context("could not wait for the worker")?;
    match status.code() {
        Some(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        None => fail!("the worker was terminated ({status})"; "The next attempt removes what it has left."),
    }
}

fn become_worker(parent: Pid) -> Result<()> {
    set_pdeathsig(Signal::SIGTERM).context("could not set the signal for the death of the first process")?;
    if getppid() != parent || getpgrp() != getpid() {
        fail!("the process that started this worker has died");
    }
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("could not block signals")?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            while signals.wait().is_err() {}
            let _ = killpg(getpgrp(), Signal::SIGKILL);
        })
        .context("could not start a thread")?;
    Ok(())
}

/// A call of `program` that is killed when the worker dies. `setpriv` sets that, which would need unsafe code between fork and exec;
/// `env` unblocks the signals that the worker has blocked and the program would inherit blocked.
pub(crate) fn command(root: &Root, program: &Path) -> Result<Command> {
    if !program.is_file() {
        fail!("{} does not exist", root.inside(program).display(); "Install the package that contains it.");
    }
    let mut command = program::command(root, "setpriv")?;
    command.args(["--pdeathsig", "KILL", "--"]);
    command.arg(root.program("env")?).args(["--default-signal=TERM,INT,HUP", "--"]).arg(program);
    Ok(command)
}
