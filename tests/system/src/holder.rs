//! The namespaces of one lab: what keeps them, and how to get inside.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail};

use crate::command::{memory_file, text};

const HOLDER: &str = include_str!("scripts/holder.sh");

/// Where the namespaces of a lab are.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    /// The first process of the PID namespace, as the host counts.
    pub(crate) pid: u32,
    /// The cgroup of the lab, as seen inside.
    pub(crate) cgroup: PathBuf,
}

impl Space {
    /// The host's way to a path inside.
    pub(crate) fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        let inside = inside.strip_prefix("/").unwrap_or(inside);
        PathBuf::from(format!("/proc/{}/root", self.pid)).join(inside)
    }

    /// The host's way to a file in the cgroup of a machine.
    pub(crate) fn cgroup_file(&self, machine: &str, file: &str) -> PathBuf {
        self.path(self.cgroup.join(machine).join(file))
    }

    /// A command that runs a program inside.
    pub(crate) fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--mount", "--net", "--pid", "--"]);
        command
    }

    /// When the first process started, in clock ticks since the host's boot: with it, a PID names one process for ever.
    pub(crate) fn started(&self) -> Option<String> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        let after_name = stat.rsplit_once(')')?.1;
        after_name.split_whitespace().nth(19).map(str::to_owned)
    }
}

/// Keeps the namespaces of one lab alive, as long as this process lives.
#[derive(Debug)]
pub(crate) struct Holder {
    child: Child,
    image: PathBuf,
    // The lab lives until this end of the pipe is closed, by us or by the kernel after us.
    stdin: Option<ChildStdin>,
}

impl Holder {
    /// Makes the namespaces, with a bridge, and a scratch disk in memory.
    pub(crate) fn start(image: &Path) -> Result<(Self, Space)> {
        let log = memory_file()?;
        let mut child = Command::new("setsid")
            .args(["unshare", "--mount", "--net", "--propagation", "private"])
            .args(["bash", "-c", HOLDER, "patroni-tools-lab"])
            .arg(image)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?)
            .spawn()
            .context("cannot start unshare")?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("the holder has no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let Some(space) = parse_ready(&line) else {
            drop(stdin);
            let status = child.wait()?;
            bail!("cannot make the namespaces of the lab ({status}): {}", text(&log)?.trim_end());
        };
        Ok((Self { child, image: image.to_owned(), stdin }, space))
    }

    /// The image that the machines' disks are made from.
    pub(crate) fn image(&self) -> &Path {
        &self.image
    }

    /// Lets the lab live on without us.
    pub(crate) fn detach(mut self) -> Result<()> {
        if let Some(stdin) = &mut self.stdin {
            stdin.write_all(b"detach\n").context("the holder of the lab is gone")?;
        }
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        eprintln!("lab: process {} has not cleaned up after 20 s", self.child.id());
    }
}

fn parse_ready(line: &str) -> Option<Space> {
    let mut words = line.split_whitespace();
    (words.next()? == "ready").then_some(())?;
    Some(Space { pid: words.next()?.parse().ok()?, cgroup: words.next()?.into() })
}

/// Where the host sees the cgroup of a lab; `None` if the host has no cgroup v2 mounted.
pub(crate) fn host_cgroup(inside: &Path) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mount_point = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let path = words.next()?;
        (words.next()? == "cgroup2").then_some(path)
    })?;
    Some(Path::new(mount_point).join(inside.file_name()?))
}
