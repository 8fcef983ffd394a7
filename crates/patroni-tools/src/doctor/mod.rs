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
mod environment;
mod finding;
mod locale;
mod looked;
mod members;
mod methods;
mod names;
mod network;
mod other_name;
mod parameters;
mod patroni;
mod patroni_yml;
mod ports;
mod running;
mod secrets;
mod settings;
mod standby_failure;
mod units;
mod view;
mod watchdog;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use host::report::{self, Reporter};
use host::settings::Settings;
use host::trouble::in_line;
use host::{ClusterId, Root, fail, trouble};
use nix::unistd::geteuid;
use serde_json::Value;

use crate::files::yaml::Yaml;
use crate::patroni::installed::Ask;
use crate::patroni::paths::patroni_file;
use crate::patroni::version::Patroni;
use cluster::{AS_ROOT, Cluster};
pub use cluster::{Depth, Options};
use finding::{Finding, Level, Subject, document};
use looked::Looked;
pub(crate) use other_name::run as run_other_name;
use running::Running;
use view::View;

/// Checks clusters and reports the findings. Fails if one of the clusters cannot work.
pub fn run(root: &Root, options: Options, ids: &[ClusterId], reporter: &Reporter) -> Result<()> {
    let mut shown = BTreeSet::new();
    let mut documents = Vec::new();
    let mut last = None;
    for id in ids {
        let path = patroni_file(id);
        let Outcome { mut findings, looked } = check(root, id, &path, options.depth);
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
            documents.push(document(&id.slashed(), &path, &findings));
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
        // Before and after every start, the journal needs only what is wrong.
        if failed == 0 && (options.depth == Depth::Full || io::stdout().is_terminal()) {
            report::print(&format!("{id}: no errors found ({})\n", looked.sentence()));
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

/// How often a decision that depends on the DCS asks it, since its servers may be electing a leader, or be slow for a moment.
const ATTEMPTS: u32 = 4;

/// The time between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// A check that needs only files.
type Check = fn(&Cluster) -> Result<Vec<Finding>>;

/// The checks that also run before every start.
const QUICK: [Check; 10] = [
    patroni_yml::check,
    dcs::section,
    data_directory::check,
    ports::check,
    units::check,
    certificates::check,
    watchdog::check,
    endpoint::check,
    environment::check,
    secrets::check,
];

/// The result of all checks.
struct Outcome {
    findings: Vec<Finding>,
    looked: Looked,
}

fn check(root: &Root, id: &ClusterId, path: &Path, depth: Depth) -> Outcome {
    let outcome = |findings, looked| Outcome { findings, looked };
    let cluster = match read(root, id, path, depth) {
        Ok(cluster) => cluster,
        Err(finding) => return outcome(vec![finding], Looked::default()),
    };
    if depth == Depth::Ports {
        return outcome(or_warning(ports::check(&cluster)), Looked::at(&["ports"]));
    }
    let mut findings: Vec<Finding> = QUICK.iter().flat_map(|check| or_warning(check(&cluster))).collect();
    findings.extend(names::check(&cluster));
    findings.extend(network::check(&cluster));
    if depth == Depth::Dcs {
        return outcome(dcs::ask(&cluster, &findings).findings, Looked::at(&["DCS"]));
    }
    if depth == Depth::Offline {
        return outcome(findings, Looked::at(&["files", "host"]));
    }
    findings.extend(or_warning(units::creates_main(&cluster)));
    findings.extend(or_warning(units::waiting(&cluster)));
    findings.extend(locale::check(&cluster));
    findings.extend(or_warning(parameters::check(&cluster)));
    // The servers and the programs respond at the same time.
    let (clock, settings, endpoint, running, servers) = thread::scope(|scope| {
        let clock = scope.spawn(|| clock::check(root));
        let endpoint = scope.spawn(|| endpoint::running::check(&cluster));
        let settings = scope.spawn(|| settings::check(&cluster));
        let running = scope.spawn(|| running::look(&cluster));
        let servers = ask_until_led(&cluster, &findings);
        let (settings, endpoint) = (settings.join().unwrap_or_default(), endpoint.join().unwrap_or_default());
        (clock.join().unwrap_or_default(), settings, endpoint, running.join().ok(), servers)
    });
    // A fault that prevents the cluster from working may also prevent its file from being written.
    let is_new = |finding: &Finding, findings: &[Finding]| !findings.iter().any(|known| known.is_same(finding));
    let differences = settings::compare(&cluster, &settings, servers.content.as_ref());
    let of_settings = settings.findings.into_iter().chain(differences).chain(endpoint);
    let new: Vec<Finding> = of_settings.filter(|finding| is_new(finding, &findings)).collect();
    findings.extend(new);
    findings.extend(clock);
    findings.extend(servers.findings);
    if let Some(content) = &servers.content {
        findings.extend(names::with_content(&cluster, content));
        findings.extend(standby_failure::check(&cluster, content));
    }
    let view = servers.content.as_ref().map(View::of);
    if let Some(view) = &view {
        findings.extend(members::check(&cluster, view, running.as_ref().is_some_and(Running::runs_here)));
    }
    let mut looked = Looked::at(&["files", "host"]);
    if let Some(running) = &running {
        let found = running::check(&cluster, running, view.as_ref());
        let new: Vec<Finding> = found.into_iter().filter(|finding| is_new(finding, &findings)).collect();
        findings.extend(new);
        looked.add("running member", running.not_looked_at());
    }
    looked.add("DCS", (!servers.asked).then_some("its servers cannot be asked"));
    outcome(findings, looked)
}

/// Asks the DCS, and once more if the cluster has no primary: during a switchover it has none for a moment.
fn ask_until_led(cluster: &Cluster, known: &[Finding]) -> dcs::Answered {
    const MOMENT: Duration = Duration::from_secs(3);
    let begin = Instant::now();
    let first = dcs::ask(cluster, known);
    let is_led = |answered: &dcs::Answered| {
        answered.content.as_ref().map(View::of).is_none_or(|view| !view.is_bootstrapped() || view.leader.is_some())
    };
    // All in all, a check takes ten seconds at most.
    if is_led(&first) || begin.elapsed() > MOMENT {
        return first;
    }
    thread::sleep(MOMENT);
    let second = dcs::ask(cluster, known);
    if second.content.is_some() { second } else { first }
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
    let patroni = match depth.ask() {
        Ask::Files => Patroni::from_files(root),
        Ask::Programs => Patroni::of(root).unwrap_or(Patroni::UNKNOWN),
    };
    let settings = Settings::read(root, id);
    Ok(Cluster { root, id, path: path.to_owned(), text, yaml, patroni, settings, depth })
}
