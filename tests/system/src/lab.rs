//! A lab: some machines on one bridge, and what concerns all of them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::command::host;
use crate::detached;
use crate::holder::{Holder, Space, host_cgroup};
use crate::image::{self, Image, Release};
use crate::net;
use crate::node::Node;
use crate::store;

const POLL: Duration = Duration::from_millis(150);
const APT_LIMIT: Duration = Duration::from_secs(60);

/// Some machines on one bridge. Dropping it removes all of it, unless it was detached.
#[derive(Debug)]
pub struct Lab {
    name: String,
    release: Release,
    space: Space,
    nodes: Vec<Node>,
    // None for a lab that outlives this process.
    holder: Option<Holder>,
}

impl Lab {
    /// Boots machines of a Debian release, named after the running test.
    pub fn boot(release: Release, machines: &[&str]) -> Result<Self> {
        Self::boot_named(&running_test(), release, machines)
    }

    /// Boots machines of a Debian release; the name is that of the directory for its logs.
    pub fn boot_named(name: &str, release: Release, machines: &[&str]) -> Result<Self> {
        Self::boot_image(name, release, release.image(), machines)
    }

    /// The same with an image that has all stores, not only etcd.
    pub fn boot_with_stores(release: Release, machines: &[&str]) -> Result<Self> {
        Self::boot_image(&running_test(), release, release.image_with_stores(), machines)
    }

    /// The same with an image that has postgresql-common's own tests.
    pub fn boot_with_suite(release: Release, machines: &[&str]) -> Result<Self> {
        Self::boot_image(&running_test(), release, release.image_with_suite(), machines)
    }

    pub(crate) fn boot_image(name: &str, release: Release, image: Image, machines: &[&str]) -> Result<Self> {
        check_names(machines)?;
        let image = image::ensure(image)?;
        let (holder, space) = Holder::start(image.path())?;
        let nodes = machines.iter().zip(1..).map(|(name, number)| Node::new(name, number, space.clone())).collect();
        let lab = Self { name: name.to_owned(), release, space, nodes, holder: Some(holder) };
        let hosts = net::hosts(machines);
        lab.each(|node| {
            node.prepare(image.path(), &hosts)?;
            node.start()
        })?;
        Ok(lab)
    }

    /// Lets the machines live on without this process; `name` brings them back, see [`Lab::attach`].
    pub fn detach(mut self, name: &str) -> Result<()> {
        detached::record(name, &self.space, self.release, &self.nodes)?;
        if let Some(holder) = self.holder.take() {
            holder.detach()?;
        }
        Ok(())
    }

    /// A lab that was detached.
    pub fn attach(name: &str) -> Result<Self> {
        let (space, release, machines) = detached::find(name)?;
        let nodes = machines.iter().zip(1..).map(|(name, number)| Node::new(name, number, space.clone())).collect();
        Ok(Self { name: name.to_owned(), release, space, nodes, holder: None })
    }

    /// The Debian release of the machines.
    #[must_use]
    pub fn release(&self) -> Release {
        self.release
    }

    /// Where the host sees the cgroup of the lab, which holds all of its processes in the machines.
    #[must_use]
    pub fn cgroup(&self) -> Option<PathBuf> {
        host_cgroup(&self.space.cgroup)
    }

    /// The network namespace of the bridge to which the machines' cables lead.
    #[must_use]
    pub fn network(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.space.pid))
    }

    /// The bridge's end of a machine's cable.
    #[must_use]
    pub fn cable(&self, node: &Node) -> String {
        net::cable(node.name())
    }

    /// All machines, in the order they were named in.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The machine of that name.
    ///
    /// # Panics
    ///
    /// If the lab has no such machine: a mistake in the test, not an event of it.
    #[must_use]
    pub fn node(&self, name: &str) -> &Node {
        self.find(name).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The machine of that name, or an error that lists the names.
    pub fn find(&self, name: &str) -> Result<&Node> {
        let names: Vec<&str> = self.nodes.iter().map(Node::name).collect();
        self.nodes
            .iter()
            .find(|node| node.name() == name)
            .with_context(|| format!("no machine {name} in the lab: it has {}", names.join(", ")))
    }

    /// Does something on all machines at the same time; all failures are reported.
    pub fn each(&self, action: impl Fn(&Node) -> Result<()> + Sync) -> Result<()> {
        Self::each_of(&self.nodes, action)
    }

    /// [`Lab::each`] for some of the machines.
    pub fn each_of(nodes: &[Node], action: impl Fn(&Node) -> Result<()> + Sync) -> Result<()> {
        let action = &action;
        let failures: Vec<String> = thread::scope(|scope| {
            let threads: Vec<_> = nodes.iter().map(|node| scope.spawn(move || action(node))).collect();
            let results =
                threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("it panicked"))));
            results
                .zip(nodes)
                .filter_map(|(result, node)| Some(format!("{}: {:#}", node.name(), result.err()?)))
                .collect()
        });
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        Ok(())
    }

    /// Waits until `done` says true. A failure of `done` is not final: the last one is reported when time is over.
    pub fn wait_until(&self, limit: Duration, what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let state = match done() {
                Ok(true) => return Ok(()),
                Ok(false) => "it is not so yet".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() >= end {
                bail!("waited {} s in vain until {what}: {state}", limit.as_secs_f32());
            }
            thread::sleep(POLL);
        }
    }

    /// Cuts the power of a machine and puts a new one in its place: the same name and addresses, an empty disk.
    pub fn replace(&self, node: &Node) -> Result<()> {
        let image = self.holder.as_ref().context("the machines of a detached lab stay")?.image();
        node.power_off()?;
        node.prepare(image, &node.read("/etc/hosts")?)?;
        node.start()?;
        node.on_any_disk("apt-get -qq update").map(drop)
    }

    /// Makes these packages, and no others, available to `apt-get install` on all machines.
    ///
    /// The image's own packages stay available. A machine that is off gets them as well. With patroni-tools comes patroni-tools-common of the
    /// same build, which is beside it, unless that version had none.
    pub fn offer<P: AsRef<Path>>(&self, packages: &[P]) -> Result<()> {
        let directory = self.space.path("run/lab/repo");
        for entry in fs::read_dir(&directory).context("the lab is gone")? {
            fs::remove_file(entry?.path())?;
        }
        for package in packages {
            let package = package.as_ref();
            let name = package.file_name().with_context(|| format!("{} is not a file", package.display()))?;
            let copy = |package: &Path, name: &OsStr| {
                fs::copy(package, directory.join(name)).with_context(|| format!("cannot copy {}", package.display()))
            };
            copy(package, name)?;
            if let Some(rest) = name.to_string_lossy().strip_prefix("patroni-tools_") {
                let common = package.with_file_name(format!("patroni-tools-common_{rest}"));
                if common.exists() {
                    copy(&common, common.file_name().unwrap_or_default())?;
                }
            }
        }
        fs::write(directory.join("Packages"), "")?;
        let Some(first) = self.nodes.first() else { return Ok(()) };
        first.on_any_disk("cd /srv/repo && apt-ftparchive packages . > Packages.new && mv Packages.new Packages")?;
        self.each(|node| node.on_any_disk("apt-get -qq update").map(drop))
    }

    /// Starts etcd on all machines, see [`store::etcd::start`].
    pub fn start_etcd(&self) -> Result<()> {
        store::etcd::start(self)
    }

    /// Writes the journal, the console and the database logs of every machine to
    /// `${PATRONI_TOOLS_LOGS:-target/lab-logs}/<name of the lab>/`, and returns that directory.
    pub fn collect_logs(&self) -> Result<PathBuf> {
        let directory = logs_directory().join(&self.name);
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        for node in &self.nodes {
            // A frozen machine would not answer.
            let _ = node.thaw();
            for (kind, text) in
                [("journal", node.journal()), ("database", node.database_logs()), ("console", node.console())]
            {
                let text = text.unwrap_or_else(|error| format!("cannot be read: {error:#}\n"));
                fs::write(directory.join(format!("{}.{kind}.log", node.name())), text)?;
            }
        }
        Ok(directory)
    }

    /// Removes a lab that was detached.
    pub(crate) fn remove(self) -> Result<()> {
        detached::end(&self.name, &self.space)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() && self.holder.is_some() {
            match self.collect_logs() {
                Ok(directory) => eprintln!("lab: logs of the machines are in {}", directory.display()),
                Err(error) => eprintln!("lab: cannot collect the logs: {error:#}"),
            }
        }
    }
}

fn running_test() -> String {
    thread::current().name().unwrap_or("lab").replace("::", "-")
}

/// A name is a host name, and with `vb-` before it the name of a network interface, which has at most 15 characters.
fn check_names(machines: &[&str]) -> Result<()> {
    ensure!((1..=9).contains(&machines.len()), "a lab has 1 to 9 machines, not {}", machines.len());
    for name in machines {
        let letters = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        ensure!(
            letters && (1..=12).contains(&name.len()) && !name.starts_with('-') && *name != "repo",
            "{name:?} cannot be a machine's name: use up to 12 lower-case letters and digits"
        );
    }
    Ok(())
}

fn logs_directory() -> PathBuf {
    let beside_target = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/lab-logs");
    image::directory_from("PATRONI_TOOLS_LOGS").unwrap_or_else(beside_target)
}

/// True if a program is on the host.
pub(crate) fn has_program(name: &str) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", "command -v \"$1\"", "sh", name]);
    host(command, APT_LIMIT).is_ok()
}
