//! The `lab` command, for people and for the Makefile.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use nix::unistd::geteuid;

use crate::bench::{Options, Part};
use crate::image::{self, Image, Release};
use crate::lab::Lab;
use crate::{bench, builder, detached, previous, world};

/// Boots Debian machines to try patroni-tools on. Everything needs root.
#[derive(Debug, Parser)]
#[command(name = "lab", version)]
struct Opts {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build images that are not there yet
    Image {
        /// 12, 13, build, build13, dns, script, samba12, samba13, stores12 or stores13
        #[arg(required = true)]
        images: Vec<Image>,
    },
    /// Build the Debian package of a checkout on Debian 12
    BuildDeb {
        /// The checkout
        source: PathBuf,
        /// Directory for the results
        dist: PathBuf,
    },
    /// Build the package of the previous version, from which tests of upgrades start, if it is not there yet; print its path
    PreviousDeb,
    /// Run a command in a throw-away copy of an image, as an ordinary user
    InImage {
        /// 12, 13, build, build13, dns, script, samba12, samba13, stores12 or stores13
        image: Image,
        /// A checkout: a copy of its files is the working directory, the checkout itself is /src, read-only
        #[arg(long)]
        src: Option<PathBuf>,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Boot machines that run until `lab down`
    Up {
        #[command(flatten)]
        lab: Name,
        /// Debian release: 12 or 13
        #[arg(long, default_value = "13")]
        release: Release,
        /// Names of the machines
        #[arg(long, value_delimiter = ',', default_value = "pg1,pg2,pg3")]
        nodes: Vec<String>,
        /// A package that apt shall find; may be given more than once
        #[arg(long)]
        deb: Vec<PathBuf>,
        /// Machines that have all stores, not only etcd
        #[arg(long)]
        stores: bool,
        /// Start etcd on all machines
        #[arg(long)]
        etcd: bool,
    },
    /// Offer other packages to apt on all machines
    Offer {
        #[command(flatten)]
        lab: Name,
        /// The packages
        deb: Vec<PathBuf>,
    },
    /// Run a command in a machine, or a shell
    Exec {
        #[command(flatten)]
        machine: Machine,
        /// The command and its arguments
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Cut the power of a machine
    Off(Machine),
    /// Boot a machine that is off
    On(Machine),
    /// Reboot a machine in order
    Reboot(Machine),
    /// Pull the network cable of a machine
    Cut(Machine),
    /// Plug the network cable in again
    Mend(Machine),
    /// Stop all processes of a machine
    Freeze(Machine),
    /// Let a frozen machine go on
    Thaw(Machine),
    /// Write the logs of all machines to files
    Logs(Name),
    /// Remove a lab
    Down(Name),
    /// Name the labs that run, and their machines
    List,
    /// Measure our programs beside what they are compared with, and print a table
    Bench {
        /// The package, and what it needs
        #[arg(long, required = true)]
        deb: Vec<PathBuf>,
        /// Run what takes long less often: Debian's clone script once and not five times, dnscp.sh three times and not 20
        #[arg(long)]
        quick: bool,
        /// Measure some parts alone: programs, dnscp or gap
        #[arg(long, value_delimiter = ',')]
        only: Vec<Part>,
        /// The script dnscp.sh, to compare with
        #[arg(long, value_name = "PATH")]
        dnscp_sh: Option<PathBuf>,
    },
    /// The part of the benchmark that runs in namespaces
    #[command(hide = true)]
    BenchInside {
        /// As above
        #[arg(long)]
        quick: bool,
    },
}

#[derive(Debug, Args)]
struct Name {
    /// Name of the lab
    #[arg(long, default_value = "demo")]
    name: String,
}

#[derive(Debug, Args)]
struct Machine {
    #[command(flatten)]
    lab: Name,
    /// Name of the machine
    node: String,
}

/// The `lab` command.
#[must_use]
pub fn main() -> ExitCode {
    run(Opts::parse().command).unwrap_or_else(|error| {
        eprintln!("lab: error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(action: Action) -> Result<ExitCode> {
    ensure!(geteuid().is_root(), "this needs root: use sudo");
    match action {
        Action::Image { images } => images.into_iter().try_for_each(|image| image::ensure(image).map(drop))?,
        Action::BuildDeb { source, dist } => builder::build_deb(&source, &dist)?,
        Action::PreviousDeb => println!("{}", previous::package()?.display()),
        Action::InImage { image, src, command } => {
            return Ok(exit_code(builder::in_image(image, src.as_deref(), &command)?));
        }
        Action::Up { lab, release, nodes, deb, stores, etcd } => {
            let image = if stores { release.image_with_stores() } else { release.image() };
            up(&lab.name, release, image, &nodes, &deb, etcd)?;
        }
        Action::Offer { lab, deb } => Lab::attach(&lab.name)?.offer(&deb)?,
        Action::Exec { machine, command } => return exec(&machine, &command),
        Action::Off(machine) => machine.find()?.power_off()?,
        Action::On(machine) => machine.find()?.start()?,
        Action::Reboot(machine) => machine.find()?.reboot()?,
        Action::Cut(machine) => machine.find()?.cut()?,
        Action::Mend(machine) => machine.find()?.mend()?,
        Action::Freeze(machine) => machine.find()?.freeze()?,
        Action::Thaw(machine) => machine.find()?.thaw()?,
        Action::Logs(lab) => println!("{}", Lab::attach(&lab.name)?.collect_logs()?.display()),
        Action::Down(lab) => down(&lab.name)?,
        Action::List => list(),
        Action::Bench { deb, quick, only, dnscp_sh } => bench::run(&Options { deb, quick, only, dnscp_sh })?,
        Action::BenchInside { quick } => {
            ensure!(world::inside(), "this is started by lab bench");
            bench::dnscp::inside(quick)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Machine {
    fn find(&self) -> Result<crate::Node> {
        Ok(Lab::attach(&self.lab.name)?.find(&self.node)?.clone())
    }
}

fn up(name: &str, release: Release, image: Image, nodes: &[String], deb: &[PathBuf], etcd: bool) -> Result<()> {
    detached::check_free(name)?;
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    let lab = Lab::boot_image(name, release, image, &nodes)?;
    if !deb.is_empty() {
        lab.offer(deb)?;
    }
    if etcd {
        lab.start_etcd()?;
    }
    lab.detach(name)
}

fn exec(machine: &Machine, command: &[String]) -> Result<ExitCode> {
    let mut inside = machine.find()?.enter()?;
    let terminal = std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned());
    inside.arg(format!("TERM={terminal}"));
    if command.is_empty() {
        inside.args(["sh", "-c", "cd && exec bash -l"]);
    } else {
        inside.args(command);
    }
    Ok(exit_code(inside.status().context("cannot start nsenter")?))
}

fn down(name: &str) -> Result<()> {
    if let Ok(lab) = Lab::attach(name) {
        return lab.remove();
    }
    // What is gone already needs no removal.
    detached::forget(name);
    Ok(())
}

fn list() {
    for name in detached::names() {
        if let Ok(lab) = Lab::attach(&name) {
            let state = |node: &crate::Node| format!("{} {}", node.name(), if node.is_on() { "on" } else { "off" });
            let machines: Vec<String> = lab.nodes().iter().map(state).collect();
            println!("{name}: Debian {}: {}", lab.release(), machines.join(", "));
        }
    }
}

fn exit_code(status: std::process::ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}
