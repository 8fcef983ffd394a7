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
mod file;
mod host;
mod members;
mod point;
mod ports;
mod settings;
mod store;
mod units;
mod watchdog;

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use nix::unistd::geteuid;
use serde_json::{Value, json};
use site::access::User;
use site::files::{Named, Opener};
use site::net::reason;
use site::report::{self, Reporter, plain};
use site::settings::Settings;
use site::{ClusterId, Root};

use super::Args;
use super::installed::Patroni;
use crate::yaml::Yaml;

/// How long one server may take.
const LIMIT: Duration = Duration::from_secs(3);

/// Who runs Patroni and PostgreSQL.
const USER: &str = "postgres";

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It needs a look.
    Warning,
    /// The instance does not work, but Patroni and PostgreSQL may start all the same.
    Error,
    /// Patroni or PostgreSQL certainly cannot start.
    Fatal,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    level: Level,
    /// The file or server that it is about; none: the Patroni file.
    place: Option<String>,
    /// What is wrong.
    what: String,
    /// What to do about it.
    remedy: String,
}

impl Finding {
    fn new(level: Level, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level, place: None, what: what.into(), remedy: remedy.into() }
    }

    fn fatal(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Level::Fatal, what, remedy)
    }

    fn error(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Level::Error, what, remedy)
    }

    fn warning(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Level::Warning, what, remedy)
    }

    /// An error of another part of the program: a sentence with its place in it, and the remedy behind its last colon.
    fn told(level: Level, sentence: &str) -> Self {
        let (what, remedy) = sentence.rsplit_once(": ").unwrap_or((sentence, "correct it"));
        Self::new(level, what, remedy).at("")
    }

    /// The same about another place; an empty one is named by the finding itself.
    fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }

    /// The line. What a server sent is in it.
    fn line(&self, file: &Path) -> String {
        let place = self.place.clone().unwrap_or_else(|| file.display().to_string());
        let parts = [place.as_str(), &self.what, &self.remedy];
        let parts = parts.into_iter().filter(|part| !part.is_empty()).map(plain).collect::<Vec<_>>();
        parts.join(": ")
    }
}

/// What all checks look at.
struct Instance<'a> {
    root: &'a Root,
    id: &'a ClusterId,
    /// The Patroni file.
    path: PathBuf,
    text: String,
    yaml: Yaml,
    patroni: Patroni,
    settings: Result<Settings>,
    args: &'a Args,
}

impl Instance<'_> {
    fn text(&self, path: &[&str]) -> Option<String> {
        self.yaml.text(path)
    }

    /// Where the Patroni file has the data; the directory of no instance, where it does not say.
    fn data_directory(&self) -> PathBuf {
        self.text(&["postgresql", "data_dir"]).map_or_else(PathBuf::new, PathBuf::from)
    }

    /// The settings lead to the file, so that a change there is followed by this.
    fn then_generate(&self, remedy: &str) -> String {
        format!("{remedy}, and run patroni-gen-config {}", self.id)
    }

    /// Why postgres cannot read a file that is there. For postgres itself this is certain; root deduces it from the mode; others
    /// may not see enough of it.
    fn unreadable(&self, path: &Path, level: Level) -> Option<Finding> {
        let user = geteuid();
        if user.is_root() {
            let error = User::of(self.root, USER).and_then(|user| user.check_reads(self.root, path)).err()?;
            return Some(Finding::told(Level::Error, &format!("{error:#}")));
        }
        if self.root.user_id(USER).ok()? != user.as_raw() {
            return None;
        }
        let error = Opener::new(self.root, Named::Here).open(path).err()?;
        let why = error.downcast_ref::<io::Error>().map_or_else(|| error.to_string(), reason);
        let what = format!("{USER} cannot read {} ({why})", path.display());
        Some(Finding::new(level, what, format!("run chgrp {USER} {0} && chmod g+r {0}", path.display())).at(""))
    }
}

/// Is it only that we, who are not root, may not read something?
fn denied(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::PermissionDenied))
}

/// Checks instances and says what was found; an error if one of them cannot work.
pub fn run(root: &Root, args: &Args, ids: &[ClusterId], reporter: &Reporter) -> Result<()> {
    let mut told = BTreeSet::new();
    let mut documents = Vec::new();
    let mut last = None;
    for id in ids {
        let path = super::patroni_file(id);
        let Looked { mut findings, asked } = look(root, id, &path, args);
        if args.offline {
            for finding in &mut findings {
                finding.level = finding.level.offline();
            }
        }
        findings.sort_by_key(|finding| finding.level);
        let failed = findings.iter().filter(|finding| finding.level > Level::Warning).count();
        if args.json {
            documents.push(document(id, &path, &findings));
            if failed > 0 {
                last = Some(format!("{id} cannot work: {failed} of {} findings are errors", findings.len()));
            }
            continue;
        }
        for finding in &findings {
            let line = finding.line(&path);
            // What is about the host is found for each of its instances.
            if !told.insert(line.clone()) {
                continue;
            }
            if finding.level == Level::Warning {
                reporter.warn(line);
            } else if let Some(earlier) = last.replace(line) {
                reporter.say(report::Level::Error, earlier);
            }
        }
        if failed == 0 && !args.offline && !args.store && !args.ports {
            let store = if asked { "" } else { " (its store was not asked)" };
            report::print(&format!("{id}: nothing was found that keeps it from working{store}\n"));
        }
    }
    if args.json {
        report::print(&format!("{:#}\n", Value::Array(documents)));
    }
    match last {
        Some(line) => bail!(line),
        None => Ok(()),
    }
}

impl Level {
    /// Before a start only what is certain counts.
    fn offline(self) -> Self {
        if self == Self::Fatal { Self::Fatal } else { Self::Warning }
    }
}

fn document(id: &ClusterId, path: &Path, findings: &[Finding]) -> Value {
    let findings = findings.iter().map(|finding| {
        json!({
            "level": if finding.level == Level::Warning { "warning" } else { "error" },
            "place": plain(&finding.place.clone().unwrap_or_else(|| path.display().to_string())),
            "what": plain(&finding.what),
            "remedy": plain(&finding.remedy),
        })
    });
    json!({"cluster": id.slashed(), "findings": findings.collect::<Vec<_>>()})
}

/// A check that needs nothing but files.
type Check = fn(&Instance) -> Result<Vec<Finding>>;

/// Those that the unit asks for, too.
const QUICK: [Check; 8] =
    [file::look, store::section, host::look, ports::look, units::look, certificates::look, watchdog::look, point::look];

/// What came of all checks.
struct Looked {
    findings: Vec<Finding>,
    /// Did the store's servers get asked?
    asked: bool,
}

fn look(root: &Root, id: &ClusterId, path: &Path, args: &Args) -> Looked {
    let instance = match read(root, id, path, args) {
        Ok(instance) => instance,
        Err(finding) => return Looked { findings: vec![finding], asked: false },
    };
    if args.ports {
        return Looked { findings: kept(ports::look(&instance)), asked: false };
    }
    let mut findings: Vec<Finding> = QUICK.iter().flat_map(|check| kept(check(&instance))).collect();
    if args.store {
        return Looked { findings: store::ask(&instance, &findings).findings, asked: true };
    }
    if args.offline {
        return Looked { findings, asked: false };
    }
    findings.extend(kept(units::creates_main(&instance)));
    // The one waits for servers, the others for programs.
    let (clock, settings, servers) = thread::scope(|scope| {
        let clock = scope.spawn(|| clock::look(root));
        let settings = scope.spawn(|| settings::look(&instance));
        let servers = store::ask(&instance, &findings);
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
        known.remedy == finding.remedy || finding.what.contains(cause)
    };
    known.iter().any(same)
}

/// What a check found, or why it could not look.
fn kept(found: Result<Vec<Finding>>) -> Vec<Finding> {
    let remedy = if geteuid().is_root() { "correct that" } else { "run this check as root" };
    found.unwrap_or_else(|error| vec![Finding::warning(format!("{error:#}"), remedy).at("")])
}

fn read<'a>(root: &'a Root, id: &'a ClusterId, path: &Path, args: &'a Args) -> Result<Instance<'a>, Finding> {
    let fatal = |sentence: String| Finding::told(Level::Fatal, &sentence);
    let text =
        root.read(path).map_err(|error| Finding::fatal(format!("{error:#}"), "run this check as root").at(""))?;
    let Some(text) = text else {
        return Err(fatal(format!("{} does not exist: run patroni-gen-config {id}", path.display())));
    };
    let yaml = Yaml::parse(path, &text).map_err(|error| {
        Finding::fatal(format!("{error:#}"), format!("correct it, or run patroni-gen-config --force {id}")).at("")
    })?;
    let Some(Value::Object(_)) = yaml.document() else {
        return Err(fatal(format!(
            "{}:1: the file is empty or not a mapping: run patroni-gen-config --force {id}",
            path.display()
        )));
    };
    let patroni = Patroni::of(root).unwrap_or(Patroni(None));
    let settings = Settings::read(root, id);
    Ok(Instance { root, id, path: path.to_owned(), text, yaml, patroni, settings, args })
}
