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
pub(crate) mod check_name;
mod clock;
mod cluster;
mod content;
mod data_directory;
mod dcs;
mod endpoint;
mod environment;
pub(crate) mod examined;
pub(crate) mod finding;
mod formats;
mod locale;
pub(crate) mod looked;
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

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use host::report::{self, Reporter};
use host::settings::Settings;
use host::trouble::{Trouble, in_line};
use host::{ClusterId, Root, program};
use nix::unistd::geteuid;
use serde_json::Value;

use crate::files::export::export;
use crate::files::yaml::Yaml;
use crate::patroni::installed::Ask;
use crate::patroni::paths::{Instance, patroni_file};
use crate::patroni::version::Patroni;
use check_name::CheckName;
pub use cluster::Depth;
use cluster::{AS_ROOT, Cluster, denied};
pub(crate) use content::{dcs_content, dcs_content_now, dcs_content_unless_down, published_site_key};
use examined::{Examined, Outcome, Progress};
use finding::{Finding, Level, by};
pub use formats::Format;
use formats::text::Messages;
use formats::{json, nagios, prometheus};
use looked::{DCS, Looked, MEMBER};
use running::Running;
use view::View;

/// The options of the check.
#[derive(Debug, Clone)]
pub struct Options {
    /// How far the checks go.
    pub depth: Depth,
    /// How the findings are shown.
    pub format: Format,
    /// The file that the metrics replace, instead of standard output.
    pub output: Option<PathBuf>,
}

/// How long a check for a program may take: monitoring gives up after ten seconds, and then knows nothing.
const TIME: Duration = Duration::from_secs(9);

/// Checks clusters and reports the findings. Returns the exit status. A person gets an error if one of the clusters cannot work.
pub fn run(root: &Root, options: &Options, ids: &[ClusterId], reporter: &Reporter) -> Result<u8> {
    let (depth, begin) = (options.depth, Instant::now());
    match options.format {
        Format::Text | Format::Json => {
            let examined = ids.iter().map(|id| examine(root, id, depth, &Progress::default()));
            show(root, options, examined, begin, reporter)
        }
        Format::Nagios | Format::Prometheus => {
            let examined = examine_in_time(root, ids, depth);
            let shown = show(root, options, examined, begin, reporter);
            // Threads that are late end with the program, but not what they have started.
            program::kill_all();
            shown
        }
    }
}

/// The same for an instance that is not a cluster.
pub(crate) fn run_other_name(root: &Root, options: &Options, instance: &Instance, reporter: &Reporter) -> Result<u8> {
    let (depth, begin) = (options.depth, Instant::now());
    let outcome = other_name::check(root, instance);
    let examined = Examined::new(instance.name.clone(), &instance.file, depth, outcome, begin.elapsed());
    // Of the programs that the unit runs, only `--offline` reports anything.
    if options.format == Format::Text && matches!(depth, Depth::Ports | Depth::Dcs) {
        return Ok(0);
    }
    show(root, options, [examined], begin, reporter)
}

/// The result of a plugin that could not check anything: it has no other way to report why.
pub(crate) fn unknown(error: &anyhow::Error) -> u8 {
    let (state, line) = nagios::failed(&Trouble::of(error));
    report::print(&line);
    state.status()
}

/// The exit status that belongs to what a plugin has printed; `None` if that is not its whole line.
pub(crate) fn plugin_status(printed: &str) -> Option<u8> {
    nagios::State::of_line(printed).map(nagios::State::status)
}

/// Shows the results. Returns the exit status; a person gets an error if something cannot work. A text is shown as soon as its part has
/// been checked.
pub(crate) fn show(
    root: &Root,
    options: &Options,
    examined: impl IntoIterator<Item = Examined>,
    begin: Instant,
    reporter: &Reporter,
) -> Result<u8> {
    if options.format == Format::Text {
        let mut messages = Messages::new(reporter, options.depth);
        for examined in examined {
            messages.show(&examined);
        }
        return messages.finish().map(|()| 0);
    }
    let examined: Vec<Examined> = examined.into_iter().collect();
    match options.format {
        Format::Json => json::show(&examined).map(|()| 0),
        Format::Nagios => {
            let (state, line) = nagios::line(&examined, begin.elapsed());
            report::print(&line);
            Ok(state.status())
        }
        Format::Text | Format::Prometheus => {
            let metrics = prometheus::metrics(&examined, SystemTime::now());
            match &options.output {
                Some(path) => export(root, path, &metrics)?,
                None => report::print(&metrics),
            }
            Ok(0)
        }
    }
}

fn examine(root: &Root, id: &ClusterId, depth: Depth, progress: &Progress) -> Examined {
    let (path, begin) = (patroni_file(id), Instant::now());
    let outcome = check(root, id, &path, depth, progress);
    Examined::new(id.slashed(), &path, depth, outcome, begin.elapsed())
}

/// Checks all clusters at the same time. Those that are not done in time are reported as such.
fn examine_in_time(root: &Root, ids: &[ClusterId], depth: Depth) -> Vec<Examined> {
    let begin = Instant::now();
    let (sender, receiver) = mpsc::channel();
    let progress: Vec<Progress> = ids.iter().map(|_| Progress::default()).collect();
    for (index, (id, progress)) in ids.iter().cloned().zip(progress.clone()).enumerate() {
        let (root, sender) = (root.clone(), sender.clone());
        // Not joined: one that is late ends with the program.
        thread::spawn(move || {
            let examined = examine(&root, &id, depth, &progress);
            let _ = sender.send((index, examined));
        });
    }
    drop(sender);
    let mut done: Vec<Option<Examined>> = ids.iter().map(|_| None).collect();
    while let Some(left) = (begin + TIME).checked_duration_since(Instant::now()) {
        let Ok((index, examined)) = receiver.recv_timeout(left) else { break };
        done[index] = Some(examined);
    }
    let took = begin.elapsed();
    let what = if took < TIME {
        "the check ended without a result".to_owned()
    } else {
        format!("the check did not end within {} s", TIME.as_secs())
    };
    let or_late = |((done, id), progress): ((Option<Examined>, &ClusterId), &Progress)| {
        done.unwrap_or_else(|| Examined::late(id.slashed(), &patroni_file(id), &what, progress, took))
    };
    done.into_iter().zip(ids).zip(&progress).map(or_late).collect()
}

/// A check that needs only files.
type Check = fn(&Cluster) -> Result<Vec<Finding>>;

/// The checks that also run before every start.
const QUICK: [(CheckName, Check); 10] = [
    (CheckName::PatroniFile, patroni_yml::check),
    (CheckName::Dcs, dcs::section),
    (CheckName::DataDirectory, data_directory::check),
    (CheckName::Ports, ports::check),
    (CheckName::Units, units::check),
    (CheckName::Certificates, certificates::check),
    (CheckName::Watchdog, watchdog::check),
    (CheckName::Endpoint, endpoint::check),
    (CheckName::Environment, environment::check),
    (CheckName::Secrets, secrets::check),
];

fn check(root: &Root, id: &ClusterId, path: &Path, depth: Depth, progress: &Progress) -> Outcome {
    let outcome = |findings, looked| Outcome { findings, looked };
    let cluster = match read(root, id, path, depth) {
        Ok(cluster) => cluster,
        Err(outcome) => return *outcome,
    };
    if depth == Depth::Ports {
        return outcome(by(CheckName::Ports, or_warning(ports::check(&cluster))).collect(), Looked::at(&["ports"]));
    }
    let mut findings: Vec<Finding> =
        QUICK.iter().flat_map(|(name, check)| by(*name, or_warning(check(&cluster)))).collect();
    findings.extend(by(CheckName::Names, names::check(&cluster)));
    findings.extend(by(CheckName::Network, network::check(&cluster)));
    progress.add(&findings);
    if depth == Depth::Dcs {
        let answered = dcs::ask(&cluster, &findings);
        // A host that has made a site key of its own, as another one did at the same time, learns this at its first start.
        let view = answered.content.as_ref().map(View::of);
        let another_key = view.and_then(|view| members::site_key(&cluster, &view));
        let found = by(CheckName::Dcs, answered.findings).chain(by(CheckName::Members, another_key));
        return outcome(found.collect(), Looked::at(&[DCS]));
    }
    if depth == Depth::Offline {
        return outcome(findings, Looked::at(&["files", "host"]));
    }
    findings.extend(by(CheckName::Units, or_warning(units::creates_main(&cluster))));
    findings.extend(by(CheckName::Units, or_warning(units::waiting(&cluster))));
    findings.extend(by(CheckName::Locale, locale::check(&cluster)));
    findings.extend(by(CheckName::Parameters, or_warning(parameters::check(&cluster))));
    progress.add(&findings);
    // The servers and the programs respond at the same time.
    let (clock, settings, endpoint, running, servers, view, found) = thread::scope(|scope| {
        let clock = scope.spawn(|| clock::check(root));
        let endpoint = scope.spawn(|| endpoint::running::check(&cluster));
        let settings = scope.spawn(|| settings::check(&cluster));
        let running = scope.spawn(|| running::look(&cluster));
        let servers = ask_until_led(&cluster, &findings);
        progress.add(&by(CheckName::Dcs, servers.findings.clone()).collect::<Vec<_>>());
        let (running, view) = (running.join().ok(), servers.content.as_ref().map(View::of));
        let found = running.as_ref().map(|running| running::check(&cluster, running, view.as_ref()));
        let found: Vec<Finding> = by(CheckName::RunningMember, found.unwrap_or_default()).collect();
        progress.add(&found);
        // It asks name servers, which may take longest.
        let (settings, endpoint) = (settings.join().unwrap_or_default(), endpoint.join().unwrap_or_default());
        (clock.join().unwrap_or_default(), settings, endpoint, running, servers, view, found)
    });
    // A fault that prevents the cluster from working may also prevent its file from being written.
    let is_new = |finding: &Finding, findings: &[Finding]| !findings.iter().any(|known| known.is_same(finding));
    let differences = settings::compare(&cluster, &settings, servers.content.as_ref());
    let of_settings = by(CheckName::Settings, settings.findings.into_iter().chain(differences))
        .chain(by(CheckName::Endpoint, endpoint));
    let new: Vec<Finding> = of_settings.filter(|finding| is_new(finding, &findings)).collect();
    findings.extend(new);
    findings.extend(by(CheckName::Clock, clock));
    findings.extend(by(CheckName::Dcs, servers.findings));
    if let Some(view) = &view {
        let runs_here = running.as_ref().is_some_and(Running::runs_here);
        findings.extend(by(CheckName::Names, names::in_cluster(&cluster, view)));
        findings.extend(by(CheckName::StandbyFailure, standby_failure::check(&cluster, view)));
        findings.extend(by(CheckName::Members, members::check(&cluster, view, runs_here)));
    }
    let mut looked = Looked::at(&["files", "host"]);
    if let Some(running) = &running {
        let new: Vec<Finding> = found.into_iter().filter(|finding| is_new(finding, &findings)).collect();
        findings.extend(new);
        looked.add(MEMBER, running.not_looked_at());
    }
    looked.add(DCS, (!servers.asked).then_some("its servers cannot be asked"));
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

/// The findings of a check, or why it could not run.
fn or_warning(found: Result<Vec<Finding>>) -> Vec<Finding> {
    found.unwrap_or_else(|error| {
        let finding = Finding::of(Level::Warning, &error);
        vec![if geteuid().is_root() { finding } else { finding.or_hint(AS_ROOT) }]
    })
}

/// Reads what all checks need; otherwise the result of the check.
fn read<'a>(root: &'a Root, id: &'a ClusterId, path: &Path, depth: Depth) -> Result<Cluster<'a>, Box<Outcome>> {
    let not_read =
        |finding, looked| Box::new(Outcome { findings: by(CheckName::PatroniFile, [finding]).collect(), looked });
    let broken = |finding| not_read(finding, Looked::default());
    let text = root.read(path).map_err(|error| {
        let looked = if denied(&error) { Looked::blind() } else { Looked::default() };
        not_read(Finding::of(Level::Fatal, &error).or_hint(AS_ROOT), looked)
    })?;
    let Some(text) = text else {
        let hint = format!("Create it with: patroni-gen-config {id}");
        return Err(broken(Finding::fatal("the file does not exist", hint)));
    };
    let yaml = Yaml::parse(path, &text).map_err(|error| {
        let hint = format!("Correct it, or create it again with: patroni-gen-config --force {id}");
        broken(Finding::of(Level::Fatal, &error).or_hint(&hint))
    })?;
    let Some(Value::Object(_)) = yaml.document() else {
        let hint = format!("Create it again with: patroni-gen-config --force {id}");
        return Err(broken(Finding::fatal("the file is empty or not a mapping", hint).at(in_line(path, 1))));
    };
    let patroni = match depth.ask() {
        Ask::Files => Patroni::from_files(root),
        Ask::Programs => Patroni::of(root).unwrap_or(Patroni::UNKNOWN),
    };
    let settings = Settings::read(root, id);
    Ok(Cluster { root, id, path: path.to_owned(), text, yaml, patroni, settings, depth })
}
