//! Labs that outlive the process that made them: where they are written down, found again and ended.

use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::holder::Space;
use crate::image::Release;
use crate::node::Node;

const DIRECTORY: &str = "/run/patroni-tools-lab";

/// What is written down about a lab.
struct Record {
    space: Space,
    started: String,
    release: Release,
    machines: Vec<String>,
}

impl Record {
    fn alive(&self) -> bool {
        self.space.started().as_ref() == Some(&self.started)
    }
}

/// Writes a lab down.
pub(crate) fn record(name: &str, space: &Space, release: Release, nodes: &[Node]) -> Result<()> {
    check_free(name)?;
    let started = space.started().context("the lab is gone")?;
    let machines: Vec<&str> = nodes.iter().map(Node::name).collect();
    let text = format!(
        "holder={}\nstarted={started}\ncgroup={}\nrelease={release}\nmachines={}\n",
        space.pid,
        space.cgroup.display(),
        machines.join(",")
    );
    fs::create_dir_all(DIRECTORY).with_context(|| format!("cannot make {DIRECTORY}"))?;
    fs::write(file(name), text).with_context(|| format!("cannot write {}", file(name).display()))
}

/// Fails if a lab of that name runs.
pub(crate) fn check_free(name: &str) -> Result<()> {
    let good = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    ensure!(good, "{name:?} cannot be a lab's name: use letters, digits, - and _");
    if read(name).is_ok_and(|record| record.alive()) {
        bail!("a lab {name} runs already: `lab down --name {name}` removes it");
    }
    Ok(())
}

/// The lab of that name.
pub(crate) fn find(name: &str) -> Result<(Space, Release, Vec<String>)> {
    let record = read(name).with_context(|| format!("no lab {name} runs: `lab up --name {name}` makes it"))?;
    ensure!(record.alive(), "the lab {name} is gone: `lab down --name {name}` and `lab up` make a new one");
    Ok((record.space, record.release, record.machines))
}

/// The names of the labs that run; those that are gone are forgotten.
pub(crate) fn names() -> Vec<String> {
    let entries = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names
        .filter(|name| {
            let alive = read(name).is_ok_and(|record| record.alive());
            if !alive {
                forget(name);
            }
            alive
        })
        .collect();
    names.sort();
    names
}

/// Ends a lab, and waits until all of it is gone.
pub(crate) fn end(name: &str, space: &Space) -> Result<()> {
    // Its holder removes this directory when everything has ended.
    let cgroup = space.path(&space.cgroup);
    let host_cgroup = crate::holder::host_cgroup(&space.cgroup);
    ensure!(cgroup.exists(), "the lab {name} is not what its record says");
    kill(Pid::from_raw(i32::try_from(space.pid)?), Signal::SIGKILL)
        .with_context(|| format!("cannot end the lab {name}"))?;
    forget(name);
    let end = Instant::now() + Duration::from_secs(20);
    while host_cgroup.as_ref().is_some_and(|path| path.exists())
        || PathBuf::from(format!("/proc/{}", space.pid)).exists()
    {
        ensure!(Instant::now() < end, "the lab {name} has not ended after 20 s");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Forgets a lab.
pub(crate) fn forget(name: &str) {
    let _ = fs::remove_file(file(name));
    // Fails, and shall fail, while other labs are in there.
    let _ = fs::remove_dir(DIRECTORY);
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(DIRECTORY).join(name)
}

fn read(name: &str) -> Result<Record> {
    let path = file(name);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .with_context(|| format!("{} has no {key}=", path.display()))
    };
    Ok(Record {
        space: Space { pid: value("holder")?.parse()?, cgroup: value("cgroup")?.into() },
        started: value("started")?.to_owned(),
        release: value("release")?.parse()?,
        machines: value("machines")?.split(',').map(str::to_owned).collect(),
    })
}
