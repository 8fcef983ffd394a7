//! `check`: a list of all problems on this host that would prevent a cluster from running, each with a hint.
//!
//! The checks read the installed Patroni file, however it was created. Each check is a function from the [`Cluster`] to findings. A
//! check that cannot run reports that, and does not prevent the others from running.
//!
//! The unit runs three subsets. `--offline` precedes every start: it contacts no server and runs no program, and only what certainly
//! prevents Patroni or PostgreSQL from starting is an error. A member that could start must not stay down because a certificate expired
//! during the night. `--dcs` follows every start and checks the servers of the DCS, because not every Patroni logs why they reject it.
//! `--ports` precedes every start as root and checks the ports, because postgres cannot see which process of another user has one.

mod certificates;
mod clock;
mod cluster;
mod data_directory;
mod dcs;
mod endpoint;
mod finding;
mod members;
mod patroni_yml;
mod ports;
mod settings;
mod standby_failure;
mod units;
mod watchdog;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use host::report::{self, Reporter, plain};
use host::settings::Settings;
use host::trouble::in_line;
use host::{ClusterId, Root, fail, trouble};
use nix::unistd::geteuid;
use serde_json::{Value, json};

use crate::files::yaml::Yaml;
use crate::patroni::paths::patroni_file;
use crate::patroni::version::Patroni;
use cluster::{AS_ROOT, Cluster};
pub use cluster::{Depth, Options};
use finding::{Finding, Level, Subject};

/// Checks clusters and reports the findings. Fails if one of the clusters cannot work.
pub fn run(root: &Root, options: Options, ids: &[ClusterId], reporter: &Reporter) -> Result<()> {
    let mut shown = BTreeSet::new();
    let mut documents = Vec::new();
    let mut last = None;
    for id in ids {
        let path = patroni_file(id);
        let Outcome { mut findings, dcs_checked } = check(root, id, &path, options.depth);
        if options.depth == Depth::Offline {
            for finding in &mut findings {
                finding.level = finding.level.offline();
            }
        }
        findings.sort_by_key(|finding| finding.level);
        // Two checks that need the same file find the same fault in it.
        let mut distinct: Vec<Finding> = Vec::new();
        for finding in findings {
            if !distinct.contains(&finding) {
                distinct.push(finding);
            }
        }
        let findings = distinct;
        let failed = findings.iter().filter(|finding| finding.level > Level::Warning).count();
        if options.json {
            documents.push(document(id, &path, &findings));
            if failed > 0 {
                last = Some(trouble!("{id} cannot work: {failed} of {} findings are errors", findings.len()));
            }
            continue;
        }
        for finding in &findings {
            let trouble = finding.trouble(&path);
            // A problem of the host is found for each of its clusters.
            if !shown.insert((trouble.line(), trouble.hint.clone())) {
                continue;
            }
            if finding.level == Level::Warning {
                reporter.warn(trouble);
            } else if let Some(earlier) = last.replace(trouble) {
                reporter.tell(report::Level::Error, &earlier);
            }
        }
        if failed == 0 && options.depth == Depth::Full {
            let dcs = if dcs_checked { "" } else { " (the DCS was not checked)" };
            report::print(&format!("{id}: no errors found{dcs}\n"));
        }
    }
    if options.json {
        report::print(&format!("{:#}\n", Value::Array(documents)));
    }
    match last {
        Some(trouble) => Err(trouble.into()),
        None => Ok(()),
    }
}

fn document(id: &ClusterId, path: &Path, findings: &[Finding]) -> Value {
    let findings = findings.iter().map(|finding| {
        json!({
            "level": if finding.level == Level::Warning { "warning" } else { "error" },
            "place": plain(&finding.place.clone().unwrap_or_else(|| path.display().to_string())),
            "what": plain(&finding.what),
            "hint": plain(&finding.hint),
            // The name of the hint before version 0.2.0.
            "remedy": plain(&finding.hint),
        })
    });
    json!({"cluster": id.slashed(), "findings": findings.collect::<Vec<_>>()})
}

/// How often a decision that depends on the DCS asks it, since its servers may be electing a leader, or be slow for a moment.
const ATTEMPTS: u32 = 4;

/// The time between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// A check that needs only files.
type Check = fn(&Cluster) -> Result<Vec<Finding>>;

/// The checks that also run before every start.
const QUICK: [Check; 8] = [
    patroni_yml::check,
    dcs::section,
    data_directory::check,
    ports::check,
    units::check,
    certificates::check,
    watchdog::check,
    endpoint::check,
];

/// The result of all checks.
struct Outcome {
    findings: Vec<Finding>,
    /// Were the servers of the DCS contacted?
    dcs_checked: bool,
}

fn check(root: &Root, id: &ClusterId, path: &Path, depth: Depth) -> Outcome {
    let outcome = |findings, dcs_checked| Outcome { findings, dcs_checked };
    let cluster = match read(root, id, path, depth) {
        Ok(cluster) => cluster,
        Err(finding) => return outcome(vec![finding], false),
    };
    if depth == Depth::Ports {
        return outcome(or_warning(ports::check(&cluster)), false);
    }
    let mut findings: Vec<Finding> = QUICK.iter().flat_map(|check| or_warning(check(&cluster))).collect();
    if depth == Depth::Dcs {
        return outcome(dcs::ask(&cluster, &findings).findings, true);
    }
    if depth == Depth::Offline {
        return outcome(findings, false);
    }
    findings.extend(or_warning(units::creates_main(&cluster)));
    // The servers and the programs respond at the same time.
    let (clock, settings, servers) = thread::scope(|scope| {
        let clock = scope.spawn(|| clock::check(root));
        let settings = scope.spawn(|| settings::check(&cluster));
        let servers = dcs::ask(&cluster, &findings);
        (clock.join().unwrap_or_default(), settings.join().unwrap_or_default(), servers)
    });
    // A fault that prevents the cluster from working may also prevent its file from being written.
    let is_new = |finding: &Finding| !findings.iter().any(|known| known.is_same(finding));
    let differences = settings::compare(&cluster, &settings, servers.content.as_ref());
    let new: Vec<Finding> = settings.findings.into_iter().chain(differences).filter(is_new).collect();
    findings.extend(new);
    findings.extend(clock);
    findings.extend(servers.findings);
    if let Some(content) = servers.content {
        findings.extend(members::check(&cluster, &content));
        findings.extend(standby_failure::check(&cluster, &content));
    }
    outcome(findings, servers.asked)
}

/// What the DCS of a Patroni file contains about its cluster, by the names of the keys below that of the scope. An error if no server of
/// the DCS responds, or if it is of a kind that cannot be asked.
pub(crate) fn dcs_content(root: &Root, id: &ClusterId, text: &str) -> Result<BTreeMap<String, String>> {
    let mut left = ATTEMPTS;
    loop {
        let answered = ask_dcs(root, id, text)?;
        if let Some(content) = answered.content {
            return Ok(content);
        }
        let Some(finding) = answered.findings.into_iter().max_by_key(|finding| finding.level) else {
            fail!("this kind of DCS cannot be asked whether it has the cluster already"; "Use etcd, Consul or ZooKeeper.")
        };
        left -= 1;
        if left == 0 {
            return Err(finding.trouble(&patroni_file(id)).into());
        }
        thread::sleep(PAUSE);
    }
}

/// The same, asked once: `None` if no server gives it to this caller.
pub(crate) fn dcs_content_now(root: &Root, id: &ClusterId, text: &str) -> Option<BTreeMap<String, String>> {
    ask_dcs(root, id, text).ok()?.content
}

/// How long servers of the DCS that cannot be reached are asked again.
const PATIENCE: Duration = Duration::from_secs(3);

/// The same if a server of the DCS can be asked and gives it to this caller. An error if for some seconds no server can be reached or
/// responds, or none has a certificate that Patroni accepts: then `patronictl` would try for ever.
pub(crate) fn dcs_content_unless_down(
    root: &Root,
    id: &ClusterId,
    text: &str,
) -> Result<Option<BTreeMap<String, String>>> {
    let is_certain = |finding: &Finding| {
        finding.level > Level::Warning
            && matches!(finding.subject, Some(Subject::Connection | Subject::ServerCertificate))
    };
    let begin = Instant::now();
    loop {
        let answered = ask_dcs(root, id, text)?;
        if answered.content.is_some() || !answered.findings.iter().all(is_certain) {
            return Ok(answered.content);
        }
        let Some(finding) = answered.findings.into_iter().next() else { return Ok(None) };
        if begin.elapsed() > PATIENCE {
            return Err(finding.trouble(&patroni_file(id)).into());
        }
        thread::sleep(PAUSE);
    }
}

fn ask_dcs(root: &Root, id: &ClusterId, text: &str) -> Result<dcs::Answered> {
    let path = patroni_file(id);
    let yaml = Yaml::parse(&path, text)?;
    let patroni = Patroni::of(root).unwrap_or(Patroni::UNKNOWN);
    let settings = Settings::read(root, id);
    let cluster = Cluster { root, id, path, text: text.to_owned(), yaml, patroni, settings, depth: Depth::Dcs };
    Ok(dcs::ask(&cluster, &[]))
}

/// The findings of a check, or why it could not run.
fn or_warning(found: Result<Vec<Finding>>) -> Vec<Finding> {
    found.unwrap_or_else(|error| {
        let finding = Finding::of(Level::Warning, &error);
        vec![if geteuid().is_root() { finding } else { finding.or_hint(AS_ROOT) }]
    })
}

fn read<'a>(root: &'a Root, id: &'a ClusterId, path: &Path, depth: Depth) -> Result<Cluster<'a>, Finding> {
    let text = root.read(path).map_err(|error| Finding::of(Level::Fatal, &error).or_hint(AS_ROOT))?;
    let Some(text) = text else {
        return Err(Finding::fatal("the file does not exist", format!("Create it with: patroni-gen-config {id}")));
    };
    let yaml = Yaml::parse(path, &text).map_err(|error| {
        let hint = format!("Correct it, or create it again with: patroni-gen-config --force {id}");
        Finding::of(Level::Fatal, &error).or_hint(&hint)
    })?;
    let Some(Value::Object(_)) = yaml.document() else {
        let hint = format!("Create it again with: patroni-gen-config --force {id}");
        return Err(Finding::fatal("the file is empty or not a mapping", hint).at(in_line(path, 1)));
    };
    let patroni = Patroni::of(root).unwrap_or(Patroni::UNKNOWN);
    let settings = Settings::read(root, id);
    Ok(Cluster { root, id, path: path.to_owned(), text, yaml, patroni, settings, depth })
}
