//! `--check`: what on this host would keep an instance from working, in one list, each line with its remedy.
//!
//! The checks look at the Patroni file that is there, whoever wrote it. Each is a function from the [`Instance`] to findings, and one
//! that cannot look says that, and keeps no other from looking. With `--offline`, as the unit asks before every start, no server is
//! asked and no program is run, and only what certainly keeps Patroni or PostgreSQL from starting is an error: a member that could
//! start must not stay away because of a certificate that expired in the night. With `--store`, as the unit asks after every start, only
//! the servers of the store are: not every Patroni says in its log why they do not serve it. With `--ports`, as the unit asks as root
//! before every start, only the ports are looked at: postgres does not see which process of another user has one.

mod certificates;
mod clock;
mod data_directory;
mod dcs;
mod endpoint;
mod finding;
mod instance;
mod members;
mod patroni_yml;
mod ports;
mod settings;
mod units;
mod watchdog;

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;

use anyhow::Result;
use host::report::{self, Reporter, plain};
use host::settings::Settings;
use host::trouble::in_line;
use host::{ClusterId, Root, trouble};
use nix::unistd::geteuid;
use serde_json::{Value, json};

use crate::files::yaml::Yaml;
use crate::patroni::paths::patroni_file;
use crate::patroni::version::Patroni;
use finding::{Finding, Level};
use instance::Instance;
pub use instance::{Depth, Options};

/// Checks instances and says what was found; an error if one of them cannot work.
pub fn run(root: &Root, options: Options, ids: &[ClusterId], reporter: &Reporter) -> Result<()> {
    let mut told = BTreeSet::new();
    let mut documents = Vec::new();
    let mut last = None;
    for id in ids {
        let path = patroni_file(id);
        let Looked { mut findings, asked } = look(root, id, &path, options.depth);
        if options.depth == Depth::Offline {
            for finding in &mut findings {
                finding.level = finding.level.offline();
            }
        }
        findings.sort_by_key(|finding| finding.level);
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
            // What is about the host is found for each of its instances.
            if !told.insert((trouble.line(), trouble.hint.clone())) {
                continue;
            }
            if finding.level == Level::Warning {
                reporter.warn(trouble);
            } else if let Some(earlier) = last.replace(trouble) {
                reporter.tell(report::Level::Error, &earlier);
            }
        }
        if failed == 0 && options.depth == Depth::Full {
            let store = if asked { "" } else { " (its store was not asked)" };
            report::print(&format!("{id}: nothing was found that keeps it from working{store}\n"));
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
            // As it was called before 0.2.0.
            "remedy": plain(&finding.hint),
        })
    });
    json!({"cluster": id.slashed(), "findings": findings.collect::<Vec<_>>()})
}

/// A check that needs nothing but files.
type Check = fn(&Instance) -> Result<Vec<Finding>>;

/// Those that the unit asks for, too.
const QUICK: [Check; 8] = [
    patroni_yml::look,
    dcs::section,
    data_directory::look,
    ports::look,
    units::look,
    certificates::look,
    watchdog::look,
    endpoint::look,
];

/// What came of all checks.
struct Looked {
    findings: Vec<Finding>,
    /// Did the store's servers get asked?
    asked: bool,
}

fn look(root: &Root, id: &ClusterId, path: &Path, depth: Depth) -> Looked {
    let instance = match read(root, id, path, depth) {
        Ok(instance) => instance,
        Err(finding) => return Looked { findings: vec![finding], asked: false },
    };
    if depth == Depth::Ports {
        return Looked { findings: kept(ports::look(&instance)), asked: false };
    }
    let mut findings: Vec<Finding> = QUICK.iter().flat_map(|check| kept(check(&instance))).collect();
    if depth == Depth::Dcs {
        return Looked { findings: dcs::ask(&instance, &findings).findings, asked: true };
    }
    if depth == Depth::Offline {
        return Looked { findings, asked: false };
    }
    findings.extend(kept(units::creates_main(&instance)));
    // The one waits for servers, the others for programs.
    let (clock, settings, servers) = thread::scope(|scope| {
        let clock = scope.spawn(|| clock::look(root));
        let settings = scope.spawn(|| settings::look(&instance));
        let servers = dcs::ask(&instance, &findings);
        (clock.join().unwrap_or_default(), settings.join().unwrap_or_default(), servers)
    });
    let new: Vec<Finding> = settings.into_iter().filter(|finding| !said(&findings, finding)).collect();
    findings.extend(new);
    findings.extend(clock);
    findings.extend(servers.findings);
    if let Some(content) = servers.content {
        findings.extend(members::look(&instance, &content));
    }
    Looked { findings, asked: servers.asked }
}

/// What keeps the instance from working may keep the file from being written again, too.
fn said(known: &[Finding], finding: &Finding) -> bool {
    let same = |known: &Finding| {
        let cause = known.what.rsplit(": ").next().unwrap_or_default();
        known.hint == finding.hint || finding.what.contains(cause)
    };
    known.iter().any(same)
}

/// What a check found, or why it could not look.
fn kept(found: Result<Vec<Finding>>) -> Vec<Finding> {
    found.unwrap_or_else(|error| {
        let mut finding = Finding::of(Level::Warning, &error);
        if finding.hint.is_empty() && !geteuid().is_root() {
            "Run this check as root.".clone_into(&mut finding.hint);
        }
        vec![finding]
    })
}

fn read<'a>(root: &'a Root, id: &'a ClusterId, path: &Path, depth: Depth) -> Result<Instance<'a>, Finding> {
    let hint = "Run this check as root.";
    let text =
        root.read(path).map_err(|error| Finding { hint: hint.to_owned(), ..Finding::of(Level::Fatal, &error) })?;
    let Some(text) = text else {
        return Err(Finding::fatal("it does not exist", format!("Create it with: patroni-gen-config {id}")));
    };
    let yaml = Yaml::parse(path, &text).map_err(|error| {
        let hint = format!("Correct it, or create it again with: patroni-gen-config --force {id}");
        Finding { hint, ..Finding::of(Level::Fatal, &error) }
    })?;
    let Some(Value::Object(_)) = yaml.document() else {
        let hint = format!("Create it again with: patroni-gen-config --force {id}");
        return Err(Finding::fatal("the file is empty or not a mapping", hint).at(in_line(path, 1)));
    };
    let patroni = Patroni::of(root).unwrap_or(Patroni::UNKNOWN);
    let settings = Settings::read(root, id);
    Ok(Instance { root, id, path: path.to_owned(), text, yaml, patroni, settings, depth })
}
