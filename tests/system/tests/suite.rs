//! postgresql-common's own tests, without this package and with it: none differs.
//!
//! The package has no cluster, as after its installation. `create_main_cluster` concerns none of the tests: an installation of PostgreSQL
//! creates no cluster `main` while this package is installed, which is intended (`package.rs`). The test `default-psql` of
//! `debian/tests`, which expects one, skips itself if an administrator has switched it off, as in the images.
//!
//! To run some of the scripts: `SCRIPTS="040_upgrade 045_backup" cargo test -p lab --test suite whole_debian_13 -- --ignored --nocapture`.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::patroni;
use lab::{Lab, Node, Release};

/// Where the image has their source.
const SOURCE: &str = "/usr/src/postgresql-common";

/// For each script; the longest takes two minutes.
const LIMIT: Duration = Duration::from_secs(600);

const PURGE: &str = "apt-get -qq purge -y patroni-tools patroni-tools-common";

/// Those that are run in every check: between them, they call four of the five programs in front of which this package has a script, also as
/// postgres, and in all the ways that are errors. `pg_restorecluster` is in `045_backup`, which alone takes two minutes on Debian 12.
const SELECTED: &[&str] = &["021_pg_renamecluster", "030_errors", "130_nonroot_admin"];

/// What fails without this package, too: script, what the test says, reason.
const FAILS: &[(&str, &str, &str)] = &[
    ("190_pg_buildext", "correct postgresql dependency", LATER),
    ("190_pg_buildext", "correct postgresql-jit-llvm breaks", LATER),
];

const LATER: &str =
    "the tests are of a later version than the installed programs, whose source the mirror did not have";

#[test]
fn debian_12() -> Result<()> {
    lab::test_with_suite(Release::Debian12, &["pg1"], |lab| compare(lab, SELECTED))
}

#[test]
fn debian_13() -> Result<()> {
    lab::test_with_suite(Release::Debian13, &["pg1"], |lab| compare(lab, SELECTED))
}

#[test]
#[ignore = "half an hour, a part of make check-all"]
fn whole_debian_12() -> Result<()> {
    lab::test_with_suite(Release::Debian12, &["pg1"], whole)
}

#[test]
#[ignore = "half an hour, a part of make check-all"]
fn whole_debian_13() -> Result<()> {
    lab::test_with_suite(Release::Debian13, &["pg1"], whole)
}

fn whole(lab: &Lab) -> Result<()> {
    let scripts = env::var("SCRIPTS").unwrap_or_default();
    compare(lab, &scripts.split_whitespace().collect::<Vec<_>>())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    NotOk,
    Skipped,
}

const ALL: [Verdict; 3] = [Verdict::Ok, Verdict::NotOk, Verdict::Skipped];

/// What a script reports.
#[derive(Debug, Default)]
struct Report {
    /// By number, with what the test says about itself, in which there can be process IDs and names of temporary files.
    tests: BTreeMap<u32, (Verdict, String)>,
    /// False also for a script that ended early, or ran too many tests.
    succeeded: bool,
    said: String,
}

impl Report {
    fn read(said: String, succeeded: bool) -> Self {
        let tests = said.lines().filter_map(test_of_line).collect();
        Self { tests, succeeded, said }
    }

    fn equals(&self, other: &Self) -> bool {
        let verdicts =
            |report: &Self| report.tests.iter().map(|(number, (verdict, _))| (*number, *verdict)).collect::<Vec<_>>();
        self.succeeded == other.succeeded && verdicts(self) == verdicts(other)
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.tests.values().filter(|(of_test, _)| *of_test == verdict).count()
    }

    fn failed(&self) -> impl Iterator<Item = &str> {
        self.tests.values().filter(|(verdict, _)| *verdict == Verdict::NotOk).map(|(_, says)| says.as_str())
    }
}

/// A line of the Test Anything Protocol.
fn test_of_line(line: &str) -> Option<(u32, (Verdict, String))> {
    let (passed, rest) = match line.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok ")?),
    };
    let (number, says) = rest.split_once(' ').unwrap_or((rest, ""));
    let verdict = match passed {
        true if says.contains("# skip") => Verdict::Skipped,
        true => Verdict::Ok,
        false => Verdict::NotOk,
    };
    Some((number.parse().ok()?, (verdict, says.trim_start_matches("- ").to_owned())))
}

/// By script.
type Run = BTreeMap<String, Report>;

/// Runs scripts, each on empty directories.
fn run(node: &Node, release: Release, scripts: &[String]) -> Result<Run> {
    let own = release.postgresql();
    let older = node.run(&format!("ls /usr/lib/postgresql | grep -vx {own}"))?;
    let mut reports = BTreeMap::new();
    for script in scripts {
        // The older version has not all that the other scripts need.
        let upgrades = node.try_run(&format!("grep -q pg_upgradecluster {SOURCE}/t/{script}.t"))?.status.success();
        let versions = if upgrades { format!("{} {own}", older.trim()) } else { own.to_owned() };
        let begin = Instant::now();
        let command = format!("cd {SOURCE} && SHELL=/bin/bash ./testsuite -v '{versions}' t/{script}.t 2>&1");
        let ended = node.try_run_within(LIMIT, &command).with_context(|| script.clone())?;
        let report = Report::read(ended.stdout, ended.status.success());
        let [ok, not_ok, skipped] = ALL.map(|verdict| report.count(verdict));
        println!(
            "Debian {release}: {script}: {ok} ok, {not_ok} not ok, {skipped} skipped, {} s",
            begin.elapsed().as_secs()
        );
        reports.insert(script.clone(), report);
    }
    Ok(reports)
}

fn compare(lab: &Lab, selected: &[&str]) -> Result<()> {
    let (node, release) = (lab.node("pg1"), lab.release());
    let all = node.run(&format!("cd {SOURCE}/t && ls *.t"))?;
    let all = all.lines().map(|name| name.trim_end_matches(".t").to_owned());
    let scripts: Vec<String> = all.filter(|name| selected.is_empty() || selected.contains(&name.as_str())).collect();
    ensure!(scripts.len() >= selected.len().max(1), "of {selected:?} there are only {scripts:?}");
    println!("Debian {release}: {}", node.run(VERSIONS)?.trim());

    let (without, with) = run_twice(lab, node, &scripts)?;
    let mut wrong = String::new();
    let mut reasons = BTreeSet::new();
    let mut alike = 0;
    let mut counts = [0; 3];
    for script in &scripts {
        let Some(report) = agreed(script, &without, &with) else {
            let _ = write!(wrong, "\n{script} differs.\n{}", difference(&without[0][script], &with[0][script]));
            continue;
        };
        alike += 1;
        for (count, verdict) in counts.iter_mut().zip(ALL) {
            *count += report.count(verdict);
        }
        let mut unknown = Vec::new();
        for says in report.failed() {
            match FAILS.iter().find(|(of, part, _)| of == script && says.contains(part)) {
                Some((_, _, reason)) => _ = reasons.insert(format!("{script}: {says} # not ok: {reason}")),
                None => unknown.push(says),
            }
        }
        if !unknown.is_empty() || (!report.succeeded && report.failed().count() == 0) || report.tests.is_empty() {
            let _ = write!(wrong, "\n{script} fails without this package, too: {unknown:?}\n{}", report.said);
        }
        let skipped = report.tests.values().filter(|(verdict, _)| *verdict == Verdict::Skipped);
        reasons.extend(skipped.map(|(_, says)| format!("{script}: {says}")));
    }
    let [ok, not_ok, skips] = counts;
    println!(
        "Debian {release}: {alike} of {} scripts with {} tests are alike: {ok} ok, {not_ok} not ok, {skips} skipped",
        scripts.len(),
        ok + not_ok + skips
    );
    for reason in reasons {
        println!("  {reason}");
    }
    ensure!(wrong.is_empty(), "{wrong}");
    Ok(())
}

/// Without this package, and with it on a new machine.
fn run_twice(lab: &Lab, node: &Node, scripts: &[String]) -> Result<(Vec<Run>, Vec<Run>)> {
    let release = lab.release();
    node.run("! ls /usr/bin/*.debian")?;
    let mut without = vec![run(node, release, scripts)?];
    lab.replace(node)?;
    patroni::install(lab)?;
    node.run("ls /usr/bin/pg_ctlcluster.debian")?;
    let mut with = vec![run(node, release, scripts)?];

    // Some scripts wait for less time than a busy host needs. So one that differs is run again.
    let differing: Vec<String> =
        scripts.iter().filter(|name| agreed(name, &without, &with).is_none()).cloned().collect();
    if !differing.is_empty() {
        println!("Debian {release}: run again, because they differ: {}", differing.join(", "));
        with.push(run(node, release, &differing)?);
        node.run_within(LIMIT, PURGE)?;
        without.push(run(node, release, &differing)?);
    }
    Ok((without, with))
}

/// Of the installed programs, and of the tests, which are the nearest that the mirror had when the image was made.
const VERSIONS: &str = "dpkg-query -W -f 'postgresql-common ${Version}' postgresql-common
    sed -n '1s/.*(\\(.*\\)).*/, tests of \\1/p' /usr/src/postgresql-common/debian/changelog";

/// What a script reports without this package as well as with it.
fn agreed<'a>(script: &str, without: &'a [Run], with: &[Run]) -> Option<&'a Report> {
    let same = |one: &&Report| with.iter().filter_map(|run| run.get(script)).any(|other| one.equals(other));
    without.iter().filter_map(|run| run.get(script)).find(same)
}

fn difference(without: &Report, with: &Report) -> String {
    let numbers: BTreeSet<&u32> = without.tests.keys().chain(with.tests.keys()).collect();
    let mut text = String::new();
    for number in numbers {
        let verdict = |report: &Report| report.tests.get(number).map(|(verdict, _)| *verdict);
        let (one, other) = (verdict(without), verdict(with));
        if one != other {
            let says = without.tests.get(number).or(with.tests.get(number)).map_or("", |(_, says)| says);
            let _ = writeln!(text, "{number}: {says}: {one:?} without this package, {other:?} with it");
        }
    }
    let _ = write!(text, "--- without this package:\n{}\n--- with it:\n{}", without.said, with.said);
    text
}
