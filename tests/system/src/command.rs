//! Runs one command with a time limit and keeps all it said.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// What a finished command left.
#[derive(Debug, Clone)]
pub struct Captured {
    /// The command as a person would type it.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Captured {
    /// Standard output of a command that succeeded; else an error with everything it said.
    pub fn ok(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!("{self}")
    }
}

impl std::fmt::Display for Captured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` ended with {}", self.command, self.status)?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.trim().is_empty() {
                write!(f, "\n--- {name}\n{}", text.trim_end())?;
            }
        }
        Ok(())
    }
}

/// A command that is still running. Dropping it ends it.
#[derive(Debug)]
pub struct Task {
    child: Child,
    shown: String,
    stdout: File,
    stderr: File,
}

impl Task {
    /// Starts `command`, which is shown as `shown` in errors, with `input` as its standard input.
    pub(crate) fn start(mut command: Command, shown: &str, input: &[u8]) -> Result<Self> {
        // Files, not pipes: a daemon that the command leaves behind keeps a pipe open, and its reader waiting.
        let (stdout, stderr) = (memory_file()?, memory_file()?);
        let mut stdin = memory_file()?;
        stdin.write_all(input)?;
        stdin.seek(SeekFrom::Start(0))?;
        let child = command
            .stdin(stdin)
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?)
            // A group of its own can be ended as a whole.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start `{shown}`"))?;
        Ok(Self { child, shown: shown.to_owned(), stdout, stderr })
    }

    /// Waits until the command ends, at most for `limit`; it is ended then.
    pub fn wait(mut self, limit: Duration) -> Result<Captured> {
        let end = Instant::now() + limit;
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return self.captured(status);
            }
            if Instant::now() >= end {
                break;
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        let captured = self.kill()?;
        bail!("no end within {} s, killed: {captured}", limit.as_secs_f32())
    }

    /// Ends the command and all of its process group by SIGKILL.
    pub fn kill(mut self) -> Result<Captured> {
        self.signal(Signal::SIGKILL);
        let status = self.child.wait()?;
        self.captured(status)
    }

    /// True as long as the command runs.
    pub fn running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// An error with what the command said, if it has ended.
    pub fn still_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("it has ended: {}", self.captured(status)?),
        }
    }

    /// What the command wrote to standard output so far.
    pub fn stdout_so_far(&self) -> Result<String> {
        text(&self.stdout)
    }

    fn signal(&self, signal: Signal) {
        if let Ok(group) = i32::try_from(self.child.id()) {
            // It may have ended by itself meanwhile.
            let _ = killpg(Pid::from_raw(group), signal);
        }
    }

    fn captured(&self, status: ExitStatus) -> Result<Captured> {
        Ok(Captured { command: self.shown.clone(), status, stdout: text(&self.stdout)?, stderr: text(&self.stderr)? })
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal(Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// Runs a program of the host to its end and returns its standard output.
pub(crate) fn host(command: Command, limit: Duration) -> Result<String> {
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(|word| word.to_string_lossy()).collect();
    let shown = words.join(" ");
    Task::start(command, &shown, b"")?.wait(limit)?.ok()
}

/// An unnamed file in memory that every writer appends to.
pub(crate) fn memory_file() -> Result<File> {
    let fd = memfd_create(c"lab", MFdFlags::MFD_CLOEXEC).context("cannot make a file in memory")?;
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_APPEND)).context("cannot set O_APPEND")?;
    Ok(File::from(fd))
}

/// All of a file that somebody else may still be writing to.
pub(crate) fn text(file: &File) -> Result<String> {
    let mut file = file.try_clone()?;
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The same command, with no input at all.
pub(crate) fn silent(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null())
}
