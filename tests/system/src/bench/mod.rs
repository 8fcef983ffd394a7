//! `lab bench`: how long our programs take beside what they are compared with.
//!
//! What came out is printed, and whether it is what we want; it is not asserted. Each part is a module that prints rows.

mod adopt;
pub mod dnscp;
mod gap;
mod member;
mod programs;

use std::fmt::{self, Display, Write as _};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Error, Result};

use crate::Node;
use crate::command::host;

const LIMIT: Duration = Duration::from_secs(60);

/// What is measured, and with what.
#[derive(Debug)]
pub struct Options {
    /// The package, and what it needs.
    pub deb: Vec<PathBuf>,
    /// Runs what takes minutes once.
    pub quick: bool,
    /// These parts, or all.
    pub only: Vec<Part>,
    /// The script that dnscp is compared with.
    pub dnscp_sh: Option<PathBuf>,
}

impl Options {
    /// The package itself.
    fn package(&self) -> Result<&Path> {
        let named = |path: &&PathBuf| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"patroni-tools_"))
        };
        self.deb.iter().find(named).map(PathBuf::as_path).context("no patroni-tools_*.deb is given: run make deb")
    }
}

/// A part of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The generator and the hooks.
    Programs,
    /// The connection point.
    Dnscp,
    /// The pause of a switchover, for a client of the connection point.
    Gap,
    /// The pause of an adoption, and of giving the cluster back.
    Adopt,
}

impl FromStr for Part {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "programs" => Ok(Self::Programs),
            "dnscp" => Ok(Self::Dnscp),
            "gap" => Ok(Self::Gap),
            "adopt" => Ok(Self::Adopt),
            _ => anyhow::bail!("no part {text:?}: use programs, dnscp, gap or adopt"),
        }
    }
}

/// A module that prints rows, and gives what is to be said below the table.
type Measure = fn(&Options) -> Result<Vec<String>>;

const PARTS: [(Part, Measure); 5] = [
    (Part::Programs, programs::measure),
    (Part::Dnscp, dnscp::measure),
    (Part::Dnscp, member::measure),
    (Part::Gap, gap::measure),
    (Part::Adopt, adopt::measure),
];

/// Measures and prints a table in Markdown.
pub fn run(options: &Options) -> Result<()> {
    println!("{}\n", surroundings(options.package()?)?);
    println!("| job | patroni-tools | compared with | goal | result | met |\n| --- | --- | --- | --- | --- | --- |");
    let mut notes = Vec::new();
    for (part, measure) in PARTS {
        if options.only.is_empty() || options.only.contains(&part) {
            notes.extend(measure(options)?);
        }
    }
    println!("\nLoad average of the host at the end: {}.", load()?);
    for note in notes {
        println!("{note}");
    }
    Ok(())
}

/// A line of the table.
struct Row {
    job: String,
    ours: String,
    against: String,
    reach: String,
    result: String,
    met: bool,
}

impl Row {
    fn print(&self) {
        let met = if self.met { "yes" } else { "no" };
        println!("| {} | {} | {} | {} | {} | {met} |", self.job, self.ours, self.against, self.reach, self.result);
    }
}

/// Times of runs, in seconds.
struct Sample {
    median: f64,
    least: f64,
    most: f64,
    count: usize,
}

impl Sample {
    fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        let count = times.len();
        let median = f64::midpoint(times[(count - 1) / 2], times[count / 2]);
        Self { median, least: times[0], most: times[count - 1], count }
    }
}

impl Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}–{}, {})", shown(self.median), shown(self.least), shown(self.most), self.count)
    }
}

fn shown(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

/// What a service costs while it only follows.
struct Cost {
    /// Resident, in bytes.
    memory: f64,
    /// Of one core, in percent.
    core: f64,
    over: Duration,
}

impl Cost {
    /// Resident memory and processor time used so far, by what `/proc/PID/status` and `/proc/PID/stat` say.
    fn parse(status: &str, stat: &str) -> Option<(f64, f64)> {
        let resident: f64 =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?.parse().ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        // Fields 14 and 15, in hundredths of a second (proc_pid_stat(5)); the first one after the name is the third.
        let (user, system): (f64, f64) = (fields.nth(11)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some((resident * 1024.0, (user + system) / 100.0))
    }

    /// What `look` sees of a process now and after a while.
    fn of(over: Duration, look: impl Fn() -> Result<(String, String)>) -> Result<Self> {
        let seen = || -> Result<(f64, f64)> {
            let (status, stat) = look()?;
            Self::parse(&status, &stat).context("/proc cannot be read")
        };
        let before = seen()?;
        std::thread::sleep(over);
        let after = seen()?;
        Ok(Self { memory: after.0.max(before.0), core: (after.1 - before.1) / over.as_secs_f64() * 100.0, over })
    }

    fn print(&self, what: &str) {
        let seconds = self.over.as_secs();
        Row {
            job: format!("`dnscp@`, resident memory, {what}"),
            ours: format!("{:.1} MB", self.memory / 1e6),
            against: "–".to_owned(),
            reach: "under 8 MB".to_owned(),
            result: format!("{:.1} MB", self.memory / 1e6),
            met: self.memory < 8e6,
        }
        .print();
        Row {
            job: format!("`dnscp@`, share of a core, {what}, {seconds} s"),
            ours: format!("{:.3} %", self.core),
            against: "–".to_owned(),
            reach: "under 0.2 %".to_owned(),
            result: format!("{:.3} %", self.core),
            met: self.core < 0.2,
        }
        .print();
    }
}

/// How long a service is looked at.
fn follow(quick: bool) -> Duration {
    Duration::from_secs(if quick { 60 } else { 120 })
}

/// What the figures depend on.
fn surroundings(package: &Path) -> Result<String> {
    let said = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments);
        host(command, LIMIT).map(|text| text.trim().to_owned())
    };
    let package = package.to_string_lossy();
    let mut text = said("date", &["--utc", "+%F %R UTC, patroni-tools"])?;
    let _ = write!(text, " {}", said("dpkg-deb", &["--field", &package, "Version"])?);
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kilobytes: u64 = memory.split_whitespace().nth(1).unwrap_or_default().parse()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cores = std::thread::available_parallelism()?;
    let _ = write!(
        text,
        ", host: {cores} cores, {} GB, Linux {}, load average {} before the first run. Median (least–most, runs).",
        kilobytes >> 20,
        kernel.trim(),
        load()?
    );
    Ok(text)
}

/// The versions of packages in a machine.
fn versions(node: &Node, packages: &str) -> Result<String> {
    let text = node.run(&format!("dpkg-query -W -f '${{Package}} ${{Version}}, ' {packages}"))?;
    Ok(format!("Debian {}: {}.", crate::Release::Debian13, text.trim_end_matches(", ")))
}

fn load() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        for (times, median) in [(vec![3.0, 1.0, 2.0], 2.0), (vec![4.0, 1.0, 2.0, 3.0], 2.5), (vec![7.0], 7.0)] {
            assert!((Sample::of(times).median - median).abs() < 1e-9);
        }
        assert_eq!(Sample::of(vec![0.002, 0.001, 3.0]).to_string(), "2.0 ms (1.0 ms–3.00 s, 3)");
    }

    #[test]
    fn what_a_process_costs_is_read() {
        let status = "Name:\tdnscp\nVmHWM:\t    9000 kB\nVmRSS:\t    4000 kB\n";
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 900 0 0 0 30 12 0 0 20 0 1 0 100 1 1 1";
        assert_eq!(Cost::parse(status, stat), Some((4_096_000.0, 0.42)));
        assert_eq!(Cost::parse(status, "7 (x) S 1"), None);
    }
}
