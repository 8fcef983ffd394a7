//! One machine: commands in it, its files, its power and its cable.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::{Captured, Task, host, silent};
use crate::console;
use crate::holder::Space;
use crate::net;

const PREPARE: &str = include_str!("scripts/prepare.sh");
const MACHINE: &str = include_str!("scripts/machine.sh");

/// How long a command may take when the test does not say.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// How long a machine may take to boot, and to die.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
const DEATH_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

const ENVIRONMENT: [&str; 5] = [
    "env",
    "-i",
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG=C.UTF-8",
    "DEBIAN_FRONTEND=noninteractive",
];

/// A machine of a lab.
#[derive(Debug, Clone)]
pub struct Node {
    name: String,
    number: usize,
    space: Space,
}

impl Node {
    pub(crate) fn new(name: &str, number: usize, space: Space) -> Self {
        Self { name: name.to_owned(), number, space }
    }

    /// Its name, which is its host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address.
    #[must_use]
    pub fn ipv4(&self) -> String {
        net::ipv4(self.number)
    }

    /// Its IPv6 address.
    #[must_use]
    pub fn ipv6(&self) -> String {
        net::ipv6(self.number)
    }

    /// Makes the disk of a new machine from an image.
    pub(crate) fn prepare(&self, image: &Path, hosts: &str) -> Result<()> {
        let mut command = self.space.enter();
        command.args(["bash", "-c", PREPARE, "prepare", &self.name]).arg(image).arg(&self.space.cgroup);
        host(command, COMMAND_LIMIT)?;
        self.write("/etc/hosts", hosts, 0o644)?;
        self.write("/etc/systemd/network/10-host0.network", net::networkd(self.number), 0o644)
    }

    // ---- commands

    /// Runs a shell command as root and returns its standard output; a status other than 0 is an error. Limit: 60 s.
    pub fn run(&self, command: &str) -> Result<String> {
        self.run_within(COMMAND_LIMIT, command)
    }

    /// [`Node::run`] with a time limit of its own.
    pub fn run_within(&self, limit: Duration, command: &str) -> Result<String> {
        self.spawn(command)?.wait(limit)?.ok()
    }

    /// Runs a shell command that may fail. Limit: 60 s.
    pub fn try_run(&self, command: &str) -> Result<Captured> {
        self.try_run_within(COMMAND_LIMIT, command)
    }

    /// [`Node::try_run`] with a time limit of its own.
    pub fn try_run_within(&self, limit: Duration, command: &str) -> Result<Captured> {
        self.spawn(command)?.wait(limit)
    }

    /// [`Node::run`] as another user, in that user's home directory.
    pub fn run_as(&self, user: &str, command: &str) -> Result<String> {
        self.try_run_as(user, command)?.ok()
    }

    /// [`Node::try_run`] as another user, in that user's home directory.
    pub fn try_run_as(&self, user: &str, command: &str) -> Result<Captured> {
        self.start_task(&as_user(user, command), b"")?.wait(COMMAND_LIMIT)
    }

    /// Starts a shell command as root and does not wait for it.
    pub fn spawn(&self, command: &str) -> Result<Task> {
        self.start_task(&shell(command), b"")
    }

    /// Starts a shell command as another user and does not wait for it.
    pub fn spawn_as(&self, user: &str, command: &str) -> Result<Task> {
        self.start_task(&as_user(user, command), b"")
    }

    fn start_task(&self, words: &[&str], input: &[u8]) -> Result<Task> {
        let mut command = self.enter()?;
        command.args(words);
        let shown = words.last().copied().unwrap_or_default();
        Task::start(command, &format!("{}: {shown}", self.name), input)
    }

    /// A command that runs a program in this machine, with a clean environment.
    pub(crate) fn enter(&self) -> Result<Command> {
        let leader = self.leader().with_context(|| format!("{0} is off: call start() first", self.name))?;
        // In the cgroup of the machine, a command is frozen and ended together with it.
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo 0 > \"$1\" && shift && exec nsenter \"$@\"", "enter"])
            .arg(self.space.cgroup_file(&self.name, "commands/cgroup.procs"))
            .args(["--target", &leader.to_string(), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"])
            .args(["--root", "--wd", "--"])
            .args(ENVIRONMENT)
            .arg("HOME=/root");
        Ok(command)
    }

    /// [`Node::run`] that also works on the disk of a machine that is off.
    pub(crate) fn on_any_disk(&self, script: &str) -> Result<String> {
        self.on_disk(script, &[], b"")
    }

    /// Runs a script on the machine's disk, whether it is on or off.
    fn on_disk(&self, script: &str, arguments: &[&str], input: &[u8]) -> Result<String> {
        let mut command = if self.is_on() { self.enter()? } else { self.enter_disk() };
        command.args(["bash", "-c", script, "lab"]).args(arguments);
        let shown = format!("{}: {script} {}", self.name, arguments.join(" "));
        Task::start(command, &shown, input)?.wait(COMMAND_LIMIT)?.ok()
    }

    fn enter_disk(&self) -> Command {
        let mut command = self.space.enter();
        command.arg("chroot").arg(format!("/run/lab/{}/root", self.name)).args(ENVIRONMENT).arg("HOME=/root");
        command
    }

    /// Waits until servers that were just started listen at these TCP ports: before that, what asks them is refused. Limit: 60 s.
    pub fn wait_listening(&self, ports: &[u16]) -> Result<()> {
        for port in ports {
            let seen = net::listens(*port);
            let listening = format!("until {seen}; do sleep 0.1; done");
            self.run(&listening).with_context(|| format!("{}: nothing listens at port {port}", self.name))?;
        }
        Ok(())
    }

    // ---- files

    /// Writes a file, with its directories; also while the machine is off.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let script = r#"mkdir -p "${1%/*}/" && cat > "$1" && chmod "$2" "$1""#;
        self.on_disk(script, &[path, &format!("{mode:o}")], content.as_ref())?;
        Ok(())
    }

    /// Reads a file; also while the machine is off.
    pub fn read(&self, path: &str) -> Result<String> {
        self.on_disk(r#"cat "$1""#, &[path], b"")
    }

    /// Copies a file of the host into the machine, with its permissions.
    pub fn copy_in(&self, from: impl AsRef<Path>, to: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let from = from.as_ref();
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        let mode = fs::metadata(from)?.permissions().mode() & 0o7777;
        self.write(to, content, mode)
    }

    /// Everything the machine's journal holds, of all its boots; also while the machine is off.
    pub fn journal(&self) -> Result<String> {
        let script = "[ ! -S /run/systemd/journal/socket ] || timeout 5 journalctl --sync || :
            journalctl --no-pager --quiet --output=short-precise --directory=\"/var/log/journal/$(cat /etc/machine-id)\"";
        self.on_disk(script, &[], b"")
    }

    /// PostgreSQL's and Patroni's own log files.
    pub(crate) fn database_logs(&self) -> Result<String> {
        let script =
            "find /var/log/postgresql /var/log/patroni -type f -printf '==> %p\\n' -exec cat {} \\; 2>/dev/null || :";
        self.on_disk(script, &[], b"")
    }

    /// What the machine wrote to its console, without what was drawn over.
    pub fn console(&self) -> Result<String> {
        let path = self.space.path(format!("run/lab/{}/console", self.name));
        match fs::read(&path) {
            Ok(bytes) => Ok(console::readable(&String::from_utf8_lossy(&bytes))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error).context("cannot read the console"),
        }
    }

    // ---- power

    /// True if the machine is on, running or frozen.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.leader().is_some()
    }

    /// Boots a machine that is off, and waits until it is up.
    pub fn start(&self) -> Result<()> {
        if self.populated()? {
            bail!("{} is on already", self.name);
        }
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo 0 > \"$1\" && shift && exec setsid \"$@\"", "start"])
            .arg(self.space.cgroup_file(&self.name, "cgroup.procs"));
        let inside = self.space.enter();
        command.arg(inside.get_program()).args(inside.get_args());
        command.args(["bash", "-c", MACHINE, "machine", &self.name]);
        let mut child =
            silent(&mut command).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot start sh")?;
        let over = thread::spawn(move || {
            let _ = child.wait();
        });
        self.wait_until_up(None, Some(&over))
    }

    /// Cuts the power: every process dies at once, nothing is shut down. The disk keeps what was written.
    pub fn power_off(&self) -> Result<()> {
        let leader = self.leader().with_context(|| format!("{} is off already", self.name))?;
        kill(pid(leader)?, Signal::SIGKILL).with_context(|| format!("cannot kill {}", self.name))?;
        // systemd-nspawn must run to see that its machine is dead.
        self.set_frozen(false)?;
        self.wait_until_off()?;
        remove_groups(&self.space.cgroup_file(&self.name, "payload"));
        Ok(())
    }

    /// Shuts the machine down in order, and waits until it is off.
    pub fn shut_down(&self) -> Result<()> {
        let _ = self.try_run("systemctl poweroff")?;
        self.wait_until_off()
    }

    /// Reboots the machine in order, and waits until it is up again.
    pub fn reboot(&self) -> Result<()> {
        let before = self.leader();
        // The machine may be gone before systemctl has its answer.
        let _ = self.try_run("systemctl reboot")?;
        self.wait_until_up(before, None)
    }

    /// Stops every process of the machine where it is.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true)?;
        self.wait_for("frozen", || self.event("frozen"))
    }

    /// Lets a frozen machine go on.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        let file = self.space.cgroup_file(&self.name, "cgroup.freeze");
        fs::write(&file, if frozen { "1" } else { "0" }).with_context(|| format!("cannot write {}", file.display()))
    }

    // ---- cable

    /// Pulls the network cable; that of a machine that is off is out when it boots.
    pub fn cut(&self) -> Result<()> {
        fs::write(self.cut_mark(), "").context("the lab is gone")?;
        self.set_cable("down")
    }

    /// Plugs the network cable in again.
    pub fn mend(&self) -> Result<()> {
        let _ = fs::remove_file(self.cut_mark());
        self.set_cable("up")
    }

    /// A cable stays cut while its machine reboots, although systemd-nspawn makes a new one.
    fn cut_mark(&self) -> PathBuf {
        self.space.path(format!("run/lab/{}/cut", self.name))
    }

    fn set_cable(&self, state: &str) -> Result<()> {
        if !self.is_on() {
            return Ok(());
        }
        let mut command = self.space.enter();
        command.args(["ip", "link", "set", &net::cable(&self.name), state]);
        host(command, COMMAND_LIMIT)?;
        Ok(())
    }

    // ---- state

    /// The machine's first process, as the host counts.
    pub(crate) fn leader(&self) -> Option<u32> {
        ["payload/init.scope/cgroup.procs", "payload/cgroup.procs"].iter().find_map(|file| {
            let pids = fs::read_to_string(self.space.cgroup_file(&self.name, file)).ok()?;
            pids.lines().filter_map(|line| line.parse().ok()).find(|pid| is_first_process(*pid))
        })
    }

    fn populated(&self) -> Result<bool> {
        self.event("populated")
    }

    fn event(&self, name: &str) -> Result<bool> {
        let file = self.space.cgroup_file(&self.name, "cgroup.events");
        let events = fs::read_to_string(&file).with_context(|| format!("the lab of {} is gone", self.name))?;
        Ok(events.lines().any(|line| line == format!("{name} 1")))
    }

    fn wait_until_off(&self) -> Result<()> {
        self.wait_for("off", || Ok(!self.populated()?))
    }

    fn wait_for(&self, what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + DEATH_LIMIT;
        while !done()? {
            if Instant::now() >= end {
                bail!("{} is not {what} after {} s", self.name, DEATH_LIMIT.as_secs());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Waits for a first process other than `before`, and for it to have started everything.
    fn wait_until_up(&self, before: Option<u32>, over: Option<&JoinHandle<()>>) -> Result<()> {
        let end = Instant::now() + BOOT_LIMIT;
        let mut state = "no systemd".to_owned();
        while Instant::now() < end {
            if over.is_some_and(JoinHandle::is_finished) {
                "it ended".clone_into(&mut state);
                break;
            }
            if let Some(leader) = self.leader().filter(|leader| Some(*leader) != before && has_systemd(*leader)) {
                self.recut()?;
                state = self.system_state(end - Instant::now())?;
                if matches!(state.as_str(), "running" | "degraded") && self.leader() == Some(leader) {
                    return Ok(());
                }
            }
            thread::sleep(POLL);
        }
        Err(anyhow!("{} did not boot ({state}); its console:\n{}", self.name, last_lines(&self.console()?, 40)))
    }

    fn recut(&self) -> Result<()> {
        if self.cut_mark().exists() { self.set_cable("down") } else { Ok(()) }
    }

    fn system_state(&self, limit: Duration) -> Result<String> {
        let seconds = limit.as_secs().max(1);
        let command = format!("timeout {seconds} systemctl is-system-running --wait");
        // A machine may go down and up while this runs.
        match self.try_run_within(limit + Duration::from_secs(2), &command) {
            Ok(captured) => Ok(captured.stdout.trim().to_owned()),
            Err(error) if self.is_on() => Err(error),
            Err(_) => Ok("off".to_owned()),
        }
    }
}

fn shell(command: &str) -> [&str; 3] {
    ["bash", "-c", command]
}

fn as_user<'a>(user: &'a str, command: &'a str) -> [&'a str; 6] {
    // Not su or runuser: they open a session with logind each time.
    let script = r#"home=$(getent passwd "$1" | cut -d: -f6) && cd "$home" || exit
        export HOME="$home" USER="$1" LOGNAME="$1"
        exec setpriv --reuid="$1" --regid="$(id -g "$1")" --init-groups bash -c "$2""#;
    ["bash", "-c", script, "as-user", user, command]
}

/// True for the process that has number 1 in the innermost of its PID namespaces.
fn is_first_process(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    numbers.split_whitespace().count() > 2 && numbers.split_whitespace().last() == Some("1")
}

/// True when systemd takes commands, and systemd-nspawn has no more to do on the machine's disk.
fn has_systemd(leader: u32) -> bool {
    Path::new(&format!("/proc/{leader}/root/run/systemd/private")).exists()
}

fn pid(number: u32) -> Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(number)?))
}

pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
/// Removes the control groups below this one, and itself: a machine that lost its power has none when it boots, and units look at them.
/// One that still has a process stays.
fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
