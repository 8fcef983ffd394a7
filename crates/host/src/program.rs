//! Runs other programs: with a clean environment, without a shell, and with an error that shows the command and how it failed.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use crate::{Root, fail};

/// A call of the program `name` of this machine: messages in English, so that they can be parsed,
/// a PATH that does not come from the caller, and nothing on stdin. The rest of the environment is kept, because
/// Patroni passes credentials in it (`PGPASSFILE`).
pub fn command(root: &Root, name: &str) -> Result<Command> {
    Ok(at(&root.program(name)?))
}

/// The same for a program at a known path.
#[must_use]
pub fn at(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env("LC_ALL", "C")
        .env("PATH", "/usr/bin:/usr/sbin:/bin:/sbin")
        .env_remove("PERL5LIB")
        .env_remove("PERL5OPT")
        .stdin(Stdio::null());
    command
}

/// It runs a program in a session of its own (`setsid(1)`).
const SETSID: &str = "/usr/bin/setsid";

/// The last line of what a program has printed that is not empty.
#[must_use]
pub fn last_line(printed: &str) -> Option<&str> {
    printed.lines().map(str::trim).rfind(|line| !line.is_empty())
}

/// Makes root run a command as user postgres, because postgres can change the program or what it reads. The command gets no terminal: in
/// the terminal of root, a process of postgres could type commands (`TIOCSTI` in `ioctl_tty(2)`). Arguments can be added later.
pub fn as_postgres(root: &Root, command: &mut Command) -> Result<()> {
    command.current_dir("/");
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let (user, group) = (root.user_id("postgres")?, root.group_id("postgres")?);
    // A program that is missing is reported as such.
    if Path::new(command.get_program()).exists() {
        let mut alone = Command::new(SETSID);
        alone.arg(command.get_program()).args(command.get_args()).current_dir("/").stdin(Stdio::null());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => alone.env(name, value),
                None => alone.env_remove(name),
            };
        }
        *command = alone;
    }
    command.uid(user).gid(group);
    Ok(())
}

/// The command as it would be typed, for messages.
#[must_use]
pub fn command_line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .skip(usize::from(command.get_program() == SETSID))
        .map(|word| quoted(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

/// A word quoted for a shell, for a command that is shown.
#[must_use]
pub fn quoted(word: &str) -> String {
    if !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(&b)) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Runs a command to its end and returns stdout. The error contains the command, its status and its stderr.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        fail!("{} failed ({}): {}", command_line(command), output.status, said.trim());
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("the output of {} is not UTF-8 text", command_line(command)))
}

/// Runs a command to its end and returns its output, whatever the exit status.
pub fn output(command: &mut Command) -> Result<Output> {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    child
        .and_then(|child| {
            let _running = Running::enter(&child);
            child.wait_with_output()
        })
        .with_context(|| format!("could not run {}", command_line(command)))
}

/// The programs that are running now; `None` if no more may run.
static RUNNING: Mutex<Option<BTreeSet<u32>>> = Mutex::new(Some(BTreeSet::new()));

fn running() -> MutexGuard<'static, Option<BTreeSet<u32>>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn end(pid: u32) {
    // One that has just ended is not killed.
    let _ = i32::try_from(pid).map(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL));
}

/// A program that is running.
struct Running(u32);

impl Running {
    fn enter(child: &Child) -> Self {
        match running().as_mut() {
            Some(running) => _ = running.insert(child.id()),
            None => end(child.id()),
        }
        Self(child.id())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(running) = running().as_mut() {
            running.remove(&self.0);
        }
    }
}

/// Kills the programs that are running, and those that are started from now on: for a caller that ends without waiting for its threads,
/// which would have done so.
pub fn kill_all() {
    running().take().into_iter().flatten().for_each(end);
}

/// Runs a command with `input` on stdin and returns its output, but kills it after `limit`: for programs that wait for a network
/// without a timeout of their own.
pub fn output_within(command: &mut Command, input: &str, limit: Duration) -> Result<Output> {
    const LOOK_EVERY: Duration = Duration::from_millis(10);
    /// What was printed at the last moment is still read.
    const LEAST: Duration = Duration::from_millis(200);
    /// More output is that of a program that means no good; it ends when its pipe is closed.
    const MOST: u64 = 64 << 20;
    let failed = |command: &Command| format!("could not run {}", command_line(command));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| failed(command))?;
    let entered = Running::enter(&child);
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_owned();
        // A program that exits before it has read everything reports the reason itself.
        thread::spawn(move || stdin.write_all(input.as_bytes()));
    }
    let reader = |pipe: Option<Box<dyn Read + Send>>| {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(pipe) = pipe {
                let _ = pipe.take(MOST).read_to_end(&mut bytes);
            }
            let _ = sender.send(bytes);
        });
        receiver
    };
    let stdout = reader(child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let stderr = reader(child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().with_context(|| failed(command))? {
            drop(entered);
            // What it has started may go on, and keep the pipes open.
            let collect = |reader: mpsc::Receiver<Vec<u8>>| {
                let left = limit.saturating_sub(begin.elapsed()).max(LEAST);
                reader.recv_timeout(left).with_context(|| {
                    format!(
                        "{} has ended, but a program that it has started keeps its output open",
                        command_line(command)
                    )
                })
            };
            return Ok(Output { status, stdout: collect(stdout)?, stderr: collect(stderr)? });
        }
        if begin.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            fail!("{} was still running after {} s and was terminated", command_line(command), limit.as_secs());
        }
        thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_stopped() {
        let text = "x".repeat(300_000);
        let output = output_within(&mut at(Path::new("/bin/cat")), &text, Duration::from_secs(20)).unwrap();
        assert!(output.status.success() && output.stdout == text.as_bytes());
        let begin = Instant::now();
        let error = output_within(at(Path::new("/bin/sleep")).arg("30"), "", Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("/bin/sleep 30") && begin.elapsed() < Duration::from_secs(10), "{error}");
        let mut leaves = at(Path::new("/bin/sh"));
        let error =
            output_within(leaves.args(["-c", "sleep 20 & exit 0"]), "", Duration::from_millis(300)).unwrap_err();
        assert!(error.to_string().contains("keeps its output open"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_program_is_known_while_it_runs() {
        let mut child = at(Path::new("/bin/sleep")).arg("30").spawn().unwrap();
        let entered = Running::enter(&child);
        let pid = child.id();
        assert!(running().as_ref().unwrap().contains(&pid));
        end(pid);
        assert!(!child.wait().unwrap().success());
        drop(entered);
        assert!(!running().as_ref().unwrap().contains(&pid));
        output(&mut at(Path::new("/bin/true"))).unwrap();
        output_within(&mut at(Path::new("/bin/true")), "", Duration::from_secs(20)).unwrap();
    }

    #[test]
    fn what_root_runs_as_postgres_has_no_terminal() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        std::fs::write(folder.path().join("etc/passwd"), "postgres:x:65534:65534::/:/bin/sh\n").unwrap();
        std::fs::write(folder.path().join("etc/group"), "postgres:x:65534:\n").unwrap();
        let mut command = at(Path::new("/bin/sh"));
        command.env_remove("HOME").env("OWN", "1");
        as_postgres(&root, &mut command).unwrap();
        command.args(["-c", "read -r pid a b c group session rest < /proc/self/stat; echo $session $OWN $HOME; id -u"]);
        assert!(command_line(&command).starts_with("/bin/sh -c "));
        if !Uid::effective().is_root() {
            return;
        }
        let printed = capture(&mut command).unwrap();
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let session = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap().to_owned();
        assert!(printed.ends_with(" 1\n65534\n") && !printed.starts_with(&format!("{session} ")), "{printed}");
    }
}
