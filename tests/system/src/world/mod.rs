//! Two hosts on one cable, in namespaces of their own and on a throw-away copy of an image: for tests and measurements that
//! need real servers and no booted machine.
//!
//! The running program starts itself again in there, as [`World::run`] says; [`inside`] tells the two runs apart. All other
//! functions are for the second run. What they make goes with the namespaces, however the program ends.

pub mod capture;
pub mod record;
pub mod rest;
pub mod servers;

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;

use crate::image::{self, Image};

const INSIDE: &str = "LAB_WORLD_INSIDE";

/// The program's own host, with the interface [`INTERFACE`].
pub const OWN: &str = "10.77.0.2";
/// The other host, with the servers.
pub const SERVER: &str = "10.77.0.53";
/// The own host's end of the cable.
pub const INTERFACE: &str = "n0";
/// The other host's end.
pub const PEER: &str = "d0";
/// Where the copy of the second image is.
pub const SECOND: &str = "/second";

/// True in the second run.
#[must_use]
pub fn inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// What the second run finds.
#[derive(Debug)]
pub struct World {
    second: Option<Image>,
    files: Vec<(PathBuf, &'static str)>,
    variables: Vec<&'static str>,
    limit: Duration,
}

impl World {
    /// The image `dns` alone; the program has so long.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { second: None, files: Vec::new(), variables: Vec::new(), limit }
    }

    /// A copy of another image at [`SECOND`], too.
    #[must_use]
    pub fn with_second(mut self, image: Image) -> Self {
        self.second = Some(image);
        self
    }

    /// A file of this host is there, too.
    #[must_use]
    pub fn with_file(mut self, from: &Path, to: &'static str) -> Self {
        self.files.push((from.to_owned(), to));
        self
    }

    /// A variable of the environment is there, too, if it is set.
    #[must_use]
    pub fn with_variable(mut self, name: &'static str) -> Self {
        self.variables.push(name);
        self
    }

    /// [`World::run`] for the test of that name. True in the second run, which has to do the test.
    ///
    /// Without root it says so and passes, or fails if `REQUIRE_ALL=1`.
    pub fn test(&self, name: &str) -> Result<bool> {
        if inside() {
            return Ok(true);
        }
        if geteuid().is_root() {
            self.run(&["--exact", name, "--include-ignored", "--nocapture", "--test-threads=1"])?;
        } else {
            ensure!(env::var("REQUIRE_ALL").map_or(true, |value| value != "1"), "{name}: needs root");
            eprintln!("{name}: skipped: needs root");
        }
        Ok(false)
    }

    /// Runs this program again, with these arguments, as the first process of a PID namespace. Needs root.
    pub fn run(&self, arguments: &[&str]) -> Result<()> {
        let image = image::ensure(Image::Dns)?;
        let second = self.second.map(image::ensure).transpose()?;
        let mut child = Command::new("setpriv");
        child
            .args(["--pdeathsig=KILL", "unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork"])
            .args(["--kill-child", "--propagation=private", "sh", "-c", include_str!("enter.sh"), "sh"])
            .arg(image.path())
            .arg(second.as_ref().map_or("".as_ref(), |image| image.path()))
            .arg(env::current_exe().context("which program is this?")?);
        for (from, to) in &self.files {
            child.arg(from).arg(to);
        }
        let mut child = child
            .arg("--")
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env(INSIDE, "1")
            .envs(self.variables.iter().filter_map(|name| Some((name, env::var_os(name)?))))
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start setpriv: apt-get install util-linux")?;
        let end = Instant::now() + self.limit;
        loop {
            if let Some(status) = child.try_wait()? {
                ensure!(status.success(), "the program in the namespaces ended with {status}, see above");
                return Ok(());
            }
            if Instant::now() > end {
                // unshare passes it on to all that it has started.
                child.kill()?;
                child.wait()?;
                bail!("the program in the namespaces did not end within {} s", self.limit.as_secs());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
