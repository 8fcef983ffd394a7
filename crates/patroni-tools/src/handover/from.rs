//! `pg_adoptcluster_patroni --from`: takes over a running member of another set-up of Patroni, without PostgreSQL noticing.
//!
//! The cluster stays what it is in the DCS, and the other members stay as they are: one after the other is taken over by the same command.
//! What the file of the member says becomes settings and blocks of a template, and what becomes of each key is shown.

use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use host::keys::SiteKey;
use host::report::{self, Level, Reporter};
use host::settings::{Origin, PARAMETER_PREFIX, Settings};
use host::trouble::Trouble;
use host::{ClusterId, Root, clusters, envfile, fail, program, scram, settings, trouble};
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;

use crate::context::agree;
use crate::doctor;
use crate::files::yaml::Yaml;
use crate::handover::decision::{Decision, Line, Purpose, Text, Way};
use crate::handover::differences;
use crate::handover::foreign::{self, Fate, Row, Source};
use crate::handover::from_steps::{Step, Steps, TakeOver, template_file};
use crate::handover::groups::{self, Unit};
use crate::handover::journal::Journal;
use crate::handover::record::{create_site_key, files_as_they_are, record_files, verify};
use crate::handover::running::{Place, Running, data_directory};
use crate::handover::steps::Work;
use crate::handover::taken_over;
use crate::patroni::paths::{DIRECTORY, patroni_file};
use crate::patroni::patronictl::Patronictl;
use crate::patroni_yml::authentication::password_scope;
use crate::patroni_yml::inputs::{Overrides, render, site_key, site_key_path};
use crate::patroni_yml::role_names::{REWIND, RoleNames};

/// Debian's file of variables for Patroni's unit.
const ENVIRONMENT: &str = "/etc/patroni/env.conf";

/// What the command line says.
pub(crate) struct Choice<'a> {
    pub(crate) file: Option<&'a Path>,
    pub(crate) unit: Option<&'a str>,
    pub(crate) dry_run: bool,
    pub(crate) yes: bool,
    pub(crate) json: bool,
}

/// Takes over the member, or completes that.
pub(crate) fn run(
    root: &Root,
    id: &ClusterId,
    choice: &Choice,
    decided: Option<TakeOver>,
    reporter: &Reporter,
) -> Result<()> {
    let journal = Journal::of_take_over(root, id);
    let decision = match (decided, choice.file) {
        (Some(decision), _) => {
            reporter.info(format!("{id}: an earlier take-over is completed, as decided in {}", journal.path().display()));
            if choice.dry_run {
                return Ok(());
            }
            decision
        }
        (None, Some(file)) => {
            let proposal = propose(root, id, file, choice.unit)?;
            for warning in &proposal.warnings {
                reporter.tell(Level::Warning, warning);
            }
            report::print(&if choice.json { proposal.json()? } else { proposal.text(id) });
            proposal.refuse()?;
            if choice.dry_run {
                return Ok(());
            }
            if !choice.yes {
                agree(&id.slashed(), &format!("Take over this member of {id}?"))?;
            }
            record_files(root, &journal, &proposal.decision.base.kept)?;
            journal.decide(&proposal.decision)?;
            proposal.decision
        }
        (None, None) => return Ok(()),
    };
    // Members that have been taken over before have been asked for theirs.
    create_site_key(root, id, reporter)?;
    let base = &decision.base;
    let common = Work { root, id, decision: base, journal: &journal, reporter };
    Steps { root, id, decision: &decision, journal: &journal, common }.run()?;
    let unsaid = Place::find(root, id, &base.data_directory, &base.superuser)?.is_some() && verify(root, id, base, reporter)?;
    report::print(&format!("{id}: this member is managed by {}\n", Unit::Patroni.name(id)));
    if unsaid {
        fail!(at id, "parameters have other values than announced"; "See: pg_patronictl {id} show-config");
    }
    Ok(())
}

/// What would be done.
struct Proposal {
    decision: TakeOver,
    rows: Vec<Row>,
    /// Keys that only the new file has.
    added: Vec<String>,
    warnings: Vec<Trouble>,
}

/// Reads everything, decides, and refuses what cannot be taken over. Changes nothing.
fn propose(root: &Root, id: &ClusterId, file: &Path, unit: Option<&str>) -> Result<Proposal> {
    groups::check_version(root)?;
    check_directory(root)?;
    if !file.is_absolute() {
        fail!("'{}' is not an absolute path", file.display());
    }
    let Some(text) = root.for_postgres().read(file)? else {
        fail!("there is no file {}", file.display(); "Name the file with which Patroni runs.");
    };
    let yaml = Yaml::parse(file, &text)?;
    let Some(theirs) = yaml.document().filter(|document| document.is_object()) else {
        fail!("{} is not a Patroni file", file.display());
    };
    let patroni = find_patroni(root, file, unit)?;
    check_environment(root, &patroni)?;
    let scope = yaml.text(&["scope"]).unwrap_or_default();
    let cluster = Patronictl::with_file(root, file.to_owned(), &scope);
    let Some(dynamic) = cluster.configuration()? else {
        fail!("the cluster {scope} has no configuration in the DCS"; "See: patronictl -c {} list", file.display());
    };
    let dynamic = dynamic.document().cloned().unwrap_or_default();
    if dynamic.get("pause") == Some(&Value::Bool(true)) {
        fail!(
            "{scope} is in maintenance mode";
            "Wait for another take-over, or end it with: patronictl -c {} resume {scope}", file.display()
        );
    }
    check_directories(root, id, &yaml, file)?;
    let data = data_directory(root, id)?;
    let superuser =
        yaml.text(&["postgresql", "authentication", "superuser", "username"]).unwrap_or_else(|| "postgres".to_owned());
    let Some(place) = Place::find(root, id, &data, &superuser)? else {
        fail!("the server of {id} is not running"; "Start it with Patroni, and run this again.");
    };
    let running = Running::ask(root, id, &place)?;
    let source = Source {
        id,
        path: file.display().to_string(),
        file: theirs,
        dynamic: &dynamic,
        address: address(&yaml)?,
    };
    let mut mapped = foreign::from_file(&source);
    foreign::from_dynamic(&source, &mut mapped);
    if !mapped.files.iter().any(|file| file.key == "PG_HBA_FILE") {
        let path = running.value("hba_file").to_owned();
        let text = root.for_postgres().read(&path)?.unwrap_or_default();
        mapped.file("PG_HBA_FILE", "pg_hba", text, path);
    }
    mapped.line("PG_HBA_GENERAL", "no", "only the lines of PG_HBA_FILE apply");

    let mut settings = Settings::read(root, id)?;
    let mut proposed = Proposed::default();
    for line in mapped.lines {
        proposed.line(id, &mut settings, line)?;
    }
    for file in mapped.files {
        proposed.file(root, id, &mut settings, file)?;
    }
    let (key, key_exists) = match site_key(root, &settings)? {
        Some(key) => (key, true),
        None => (SiteKey::placeholder(), false),
    };
    check_members(&settings, id, &cluster, key_exists.then_some(&key))?;
    let (mut warnings, mut roles) = (Vec::new(), Vec::new());
    if yaml.get(&["postgresql", "authentication", "rewind"]).is_none() {
        let names = RoleNames::read(&settings)?;
        let scope = password_scope(&settings, id)?;
        let usual = [(names.replication.as_str(), Purpose::Replication), (names.rewind.as_str(), Purpose::Rewind)];
        let ours = |purpose, verifier: &str| {
            purpose == Purpose::Rewind && key_exists && scram::verifies(verifier, &key.role_password(&scope, REWIND))
        };
        roles = taken_over::roles(&running, usual, ours);
        roles.retain(|role| role.purpose == Purpose::Rewind);
        for role in &roles {
            if role.name != names.rewind {
                let origin = format!("the role {} exists already and is left unchanged", names.rewind);
                proposed.line(
                    id,
                    &mut settings,
                    Line { key: "REWIND_NAME".to_owned(), value: role.name.clone(), origin },
                )?;
            }
            if running.recovery && running.role(&role.name).is_none() {
                warnings.push(trouble!(
                    "the role {} for pg_rewind does not exist", role.name;
                    "It is created when the primary is taken over."
                ));
            }
        }
    }

    let (_, base) = render(root, &Overrides::default(), id, &settings, &key, None)?;
    let base = Yaml::parse(&patroni_file(id), &base)?;
    for line in foreign::own_parameters(&source, base.document().unwrap_or(&Value::Null)) {
        proposed.line(id, &mut settings, line)?;
    }
    let (config, base) = render(root, &Overrides::default(), id, &settings, &key, None)?;
    let base = Yaml::parse(&patroni_file(id), &base)?;
    let said = mapped.rows;
    let done = |key: &str| said.iter().any(|row| row.key == key);
    let ours = base.document().context("a Patroni file is not empty")?;
    let blocks = foreign::blocks(theirs, ours, &done);
    if config.has_endpoint && blocks.iter().any(|block| block.name == "callbacks") {
        fail!(
            "{} has callbacks, and the settings have a client endpoint, which needs them", file.display();
            "Remove the callbacks from that file, or VIPS and DNS_ZONE from the settings."
        );
    }
    let (template, template_before, new) = if blocks.is_empty() {
        (None, None, base.clone())
    } else {
        let exists = root.path(template_file()).exists();
        let before = exists.then(|| format!("before-{}.patroni.yml.j2", id.dashed()));
        let shipped = "shipped/patroni.yml.j2";
        let make = |base: &str| foreign::template(id, base, &source.path, &blocks);
        // Until it is written, the generator reads it elsewhere, and the administrator's is where it is.
        let staged = tempfile::NamedTempFile::new().context("could not create a temporary file")?;
        std::fs::write(staged.path(), make(if exists { "patroni.yml.j2" } else { shipped }))
            .context("could not write a temporary file")?;
        let overrides = Overrides { template: Some(staged.path().to_owned()), ..Overrides::default() };
        let (_, text) = render(root, &overrides, id, &settings, &key, None)?;
        let new = Yaml::parse(&patroni_file(id), &text)?;
        (Some(make(before.as_deref().unwrap_or(shipped))), before, new)
    };
    warnings.extend(config.warnings);
    let document = new.document().context("a Patroni file is not empty")?;
    let rows = foreign::judge(theirs, &dynamic, document, &said, &blocks);
    let added = foreign::added(theirs, document);
    check_dcs(root, id, &running, &scope, &document.to_string())?;
    let differences =
        differences::compare(id, &running, &new, dynamic.get("postgresql").and_then(|section| section.get("parameters")));
    let mut kept = files_as_they_are(root, id)?;
    for path in [patroni_file(id), template_file(), file.to_owned()] {
        if kept.iter().all(|kept| kept.path != path) {
            kept.push(crate::handover::record::as_it_is(root, path));
        }
    }
    let base = Decision {
        cluster: id.slashed(),
        decided: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        way: Way::Move,
        kept,
        data_directory: data,
        superuser,
        running,
        settings: proposed.lines,
        files: proposed.files,
        roles,
        differences,
    };
    let decision = TakeOver {
        base,
        file: file.to_owned(),
        unit: patroni.unit,
        process: patroni.process,
        started: patroni.started,
        template,
        template_before,
    };
    Ok(Proposal { decision, rows, added, warnings })
}

/// The settings that are added.
#[derive(Default)]
struct Proposed {
    lines: Vec<Line>,
    files: Vec<Text>,
    staged: Vec<tempfile::NamedTempFile>,
}

impl Proposed {
    /// Adds a line, unless the setting has this value already.
    fn line(&mut self, id: &ClusterId, settings: &mut Settings, line: Line) -> Result<()> {
        let parameter = line
            .key
            .strip_prefix(PARAMETER_PREFIX)
            .filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase()));
        let present = match parameter {
            Some(parameter) => settings.parameters().find(|(name, _)| *name == parameter).map(|(_, setting)| setting),
            None => settings.get(&line.key),
        };
        let usual = settings::KEYS.iter().find(|key| key.name == line.key).and_then(|key| key.default);
        if present.is_none() && usual == Some(line.value.as_str()) {
            return Ok(());
        }
        if let Some(present) = present {
            if present.text == line.value {
                return Ok(());
            }
            if matches!(&present.origin, Origin::File(path, _) if *path == settings::cluster_file(id)) {
                fail!(
                    at &present.origin, "{} is '{}', but '{}' according to {}", line.key, present.text, line.value, line.origin;
                    "Remove this line, or correct it."
                );
            }
        }
        settings.put(&line.key, line.value.clone(), Origin::Option("the other Patroni"))?;
        self.lines.push(line);
        Ok(())
    }

    /// Adds a line that names a file.
    fn file(&mut self, root: &Root, id: &ClusterId, settings: &mut Settings, file: foreign::NamedFile) -> Result<()> {
        if let Some(present) = settings.path(file.key)? {
            if root.read(&present)?.is_some_and(|text| text.trim_end() == file.text.trim_end()) {
                return Ok(());
            }
        }
        let path = PathBuf::from(format!("{DIRECTORY}/{}.{}", id.dashed(), file.suffix));
        self.line(
            id,
            settings,
            Line { key: file.key.to_owned(), value: path.display().to_string(), origin: file.origin },
        )?;
        // Until it is written, the generator reads it elsewhere.
        let staged = tempfile::NamedTempFile::new().context("could not create a temporary file")?;
        std::fs::write(staged.path(), &file.text).context("could not write a temporary file")?;
        let elsewhere = root.inside(staged.path()).display().to_string();
        settings.put(file.key, elsewhere, Origin::Option("the other Patroni"))?;
        self.staged.push(staged);
        self.files.push(Text { path, text: file.text });
        Ok(())
    }
}

/// Root writes there, and another user must not be able to replace what it writes.
fn check_directory(root: &Root) -> Result<()> {
    let found = root.path(DIRECTORY).metadata().with_context(|| format!("could not read the attributes of {DIRECTORY}"))?;
    if found.uid() != 0 || found.mode() & 0o022 != 0 {
        fail!(
            "{DIRECTORY} can be changed by other users than root";
            "Patroni only reads it: chown root:root {DIRECTORY}; chmod 755 {DIRECTORY}"
        );
    }
    Ok(())
}

/// The other Patroni.
struct OtherPatroni {
    process: u32,
    started: u64,
    unit: String,
}

/// The process that runs with the file, or the main process of the unit.
fn find_patroni(root: &Root, file: &Path, unit: Option<&str>) -> Result<OtherPatroni> {
    let process = match unit {
        Some(unit) => main_process(root, unit)?,
        None => process_with(root, file)?,
    };
    let Some(process) = process else {
        fail!(
            "no Patroni runs with {}", file.display();
            "Start it, or name its unit with --unit."
        );
    };
    let group = groups::of_process(root, process)?.unwrap_or_default();
    let name = group.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !name.ends_with(".service") {
        fail!(
            "Patroni (process {process}) is not run by a unit of systemd";
            "Run it by one, so that it can be stopped and disabled."
        );
    }
    let user = root.path(format!("/proc/{process}")).metadata().map(|found| found.uid()).ok();
    if user != Some(root.user_id("postgres")?) {
        fail!("Patroni (process {process}) is not run by user postgres"; "patroni@ runs as postgres, who must own the data.");
    }
    let started = groups::started(root, process).with_context(|| format!("process {process} has ended"))?;
    Ok(OtherPatroni { process, started, unit: name.to_owned() })
}

fn main_process(root: &Root, unit: &str) -> Result<Option<u32>> {
    let mut command = program::command(root, "systemctl")?;
    let printed = program::capture(command.args(["show", "--property=MainPID", "--value", unit]))?;
    Ok(printed.trim().parse().ok().filter(|pid| *pid != 0))
}

fn process_with(root: &Root, file: &Path) -> Result<Option<u32>> {
    let own = root.path(file).canonicalize().ok();
    let entries = std::fs::read_dir(root.path("/proc")).context("could not list the processes")?;
    for pid in entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let line = std::fs::read(root.path(format!("/proc/{pid}/cmdline"))).unwrap_or_default();
        let words: Vec<String> =
            line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        // `python3 /usr/bin/patroni FILE`, or `python3 -m patroni FILE`.
        let is_patroni = words.iter().take(4).any(|word| {
            matches!(Path::new(word).file_name().and_then(|name| name.to_str()), Some("patroni" | "patroni.py"))
        });
        let has_file = words.iter().any(|word| {
            word.starts_with('/') && (Path::new(word) == file || own.is_some() && root.path(word).canonicalize().ok() == own)
        });
        if is_patroni && has_file {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

/// Variables override the file, and `patroni@` has none but those in its own file.
fn check_environment(root: &Root, patroni: &OtherPatroni) -> Result<()> {
    let bytes = std::fs::read(root.path(format!("/proc/{}/environ", patroni.process)))
        .with_context(|| format!("could not read the environment of process {}", patroni.process))?;
    let ours = envfile::parse(ENVIRONMENT, &root.read(ENVIRONMENT)?.unwrap_or_default())?;
    let foreign: Vec<String> = bytes
        .split(|byte| *byte == 0)
        .filter_map(|word| String::from_utf8_lossy(word).split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())))
        .filter(|(key, _)| key.starts_with("PATRONI_") && !key.starts_with("PATRONI_TOOLS_"))
        .filter(|(key, value)| !ours.iter().any(|ours| ours.key == *key && ours.value == *value))
        .map(|(key, _)| key)
        .collect();
    if !foreign.is_empty() {
        fail!(
            "{} has variables that override its file: {}", patroni.unit, foreign.join(", ");
            "Put their values into the file, remove them, and restart Patroni; or set them in {ENVIRONMENT}, which patroni@ reads."
        );
    }
    Ok(())
}

/// The data and the configuration must be where postgresql-common looks for them.
fn check_directories(root: &Root, id: &ClusterId, yaml: &Yaml, file: &Path) -> Result<()> {
    let data = yaml.text(&["postgresql", "data_dir"]).unwrap_or_default();
    let wanted = clusters::config_directory(id);
    let has = yaml.text(&["postgresql", "config_dir"]).unwrap_or_else(|| data.clone());
    if Path::new(has.trim_end_matches('/')) != wanted {
        fail!(
            at file.display(), "the configuration of PostgreSQL is in {has}, not in {}, where postgresql-common has it", wanted.display();
            "Set config_dir to {} in all members' files, copy {has}/*.conf there, and restart the members one after the other.",
            wanted.display()
        );
    }
    let own = data_directory(root, id)?;
    let real = |path: &Path| root.path(path).canonicalize().ok();
    if real(&own) != real(Path::new(&data)) {
        fail!(
            at file.display(), "data_dir is {data}, but {} is the data directory of {id}", own.display();
            "Name the cluster that Patroni manages."
        );
    }
    Ok(())
}

/// The address of this member, which can be a name.
fn address(yaml: &Yaml) -> Result<Option<IpAddr>> {
    let Some(text) = yaml.text(&["postgresql", "connect_address"]) else { return Ok(None) };
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        return Ok(Some(address.ip()));
    }
    let mut found = text
        .to_socket_addrs()
        .with_context(|| format!("could not resolve postgresql.connect_address '{text}'"))?
        .map(|address| address.ip())
        .filter(|address| !address.is_loopback());
    Ok(found.next())
}

/// The site key must be the same on all members that have been taken over.
fn check_members(
    settings: &Settings,
    id: &ClusterId,
    cluster: &Patronictl,
    key: Option<&SiteKey>,
) -> Result<()> {
    let own = key.map(|key| password_scope(settings, id).map(|scope| key.fingerprint(&scope))).transpose()?;
    for member in cluster.members()? {
        if member.fingerprint.is_some() && member.fingerprint != own {
            fail!(
                "{} has been taken over with {} site key", member.name, if own.is_some() { "another" } else { "a" };
                "Copy {} from {} to this host, and run this again.", site_key_path(settings)?.display(), member.name
            );
        }
    }
    Ok(())
}

/// Does the scope belong to this very server?
fn check_dcs(root: &Root, id: &ClusterId, running: &Running, scope: &str, file: &str) -> Result<()> {
    let content = doctor::dcs_content(root, id, file)?;
    match content.get("initialize") {
        Some(system) if *system == running.system => Ok(()),
        found => fail!(
            "the scope {scope} in the DCS belongs to system identifier {}, but this server has {}",
            found.map_or("none", String::as_str), running.system;
            "Check scope, namespace and DCS in the file."
        ),
    }
}

impl Proposal {
    /// What would be lost.
    fn refuse(&self) -> Result<()> {
        let lost: Vec<&str> =
            self.rows.iter().filter(|row| row.fate == Fate::Lost).map(|row| row.key.as_str()).collect();
        if !lost.is_empty() {
            fail!(
                at self.decision.file.display(), "neither a setting nor a block of the template keeps {}", lost.join(", ");
                "Set what they mean in {}, as patroni.default(5) describes it, or remove them from the file and reload Patroni.",
                settings::SITE_FILE
            );
        }
        Ok(())
    }

    fn text(&self, id: &ClusterId) -> String {
        let decision = &self.decision;
        let kind = if decision.base.running.recovery { "replica" } else { "primary" };
        let mut text = format!(
            "{id} is a running {kind}, managed by {} with {}. PostgreSQL keeps running while its Patroni is replaced; the cluster is in \
             maintenance mode for some seconds.\n\nKeys of the file and of the configuration in the DCS:\n",
            decision.unit,
            decision.file.display()
        );
        let width = self.rows.iter().map(|row| row.key.len()).max().unwrap_or_default().min(60);
        for row in &self.rows {
            text += &format!("  {:width$}  {}\n", row.key, told(&row.fate));
        }
        let mut section = |title: String, lines: Vec<String>| {
            if !lines.is_empty() {
                text += &format!("\n{title}\n");
                for line in lines {
                    text.extend(["  ", &line, "\n"]);
                }
            }
        };
        section("Keys that are added:".to_owned(), self.added.clone());
        let lines = decision.base.settings.iter().map(|line| format!("{}={}  ({})", line.key, line.value, line.origin));
        section(format!("New settings in {}:", settings::cluster_file(id).display()), lines.collect());
        let mut files: Vec<String> =
            decision.base.files.iter().map(|file| file.path.display().to_string()).collect();
        files.extend(decision.template.iter().map(|_| template_file().display().to_string()));
        section("New files:".to_owned(), files);
        let changes = decision.base.differences.iter().map(|difference| {
            let when = if difference.restart { "at the next restart of PostgreSQL" } else { "now" };
            format!("{}: {} -> {} ({when})", difference.name, difference.old, difference.new)
        });
        section("Parameters that change:".to_owned(), changes.collect());
        let roles = decision.base.roles.iter().map(|role| format!("{}, for pg_rewind", role.name));
        section("Roles that are created on the primary:".to_owned(), roles.collect());
        text
    }

    fn json(&self) -> Result<String> {
        let decision = &self.decision;
        let value = json!({
            "cluster": decision.base.cluster,
            "unit": decision.unit,
            "standby": decision.base.running.recovery,
            "system_identifier": decision.base.running.system,
            "keys": self.rows,
            "added": self.added,
            "settings": decision.base.settings,
            "files": decision.base.files.iter().map(|file| &file.path).collect::<Vec<_>>(),
            "template": decision.template,
            "differences": decision.base.differences,
            "roles": decision.base.roles,
            "warnings": self.warnings.iter().map(Trouble::line).collect::<Vec<_>>(),
            "steps": Step::ALL.map(Step::name),
        });
        Ok(serde_json::to_string_pretty(&value).context("a proposal is JSON")? + "\n")
    }
}

fn told(fate: &Fate) -> String {
    match fate {
        Fate::Setting(setting) => format!("set by {setting}"),
        Fate::Same => "the same".to_owned(),
        Fate::Template(block) => format!("kept by the template's block {block}"),
        Fate::Dynamic(None) => "stays in the DCS".to_owned(),
        Fate::Dynamic(Some(ours)) => format!("stays in the DCS, until 'patroni-gen-config apply' sets {ours}"),
        Fate::Changed(what) | Fate::Unused(what) => what.clone(),
        Fate::Lost => "CANNOT BE KEPT".to_owned(),
    }
}
