//! `pg_adoptcluster_patroni --from`: takes over a running member of another set-up of Patroni, without PostgreSQL noticing.
//!
//! The cluster stays what it is in the DCS, and the other members stay as they are: one after the other is taken over by the same command.
//! What the file of the member says becomes settings and blocks of a template, and what becomes of each key is shown.

use std::net::{IpAddr, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use host::createcluster::{self, CreateCluster};
use host::keys::SiteKey;
use host::report::{self, Level, Reporter};
use host::settings::Settings;
use host::trouble::Trouble;
use host::{ClusterId, Root, clusters, fail, scram, settings, trouble};
use serde_json::{Value, json};

use crate::context::agree;
use crate::doctor;
use crate::files::header::{Author, author};
use crate::files::yaml::Yaml;
use crate::handover::decision::{Decision, Kept, Line, NewRole, Purpose, Way};
use crate::handover::differences;
use crate::handover::foreign::{self, Block, Fate, Mapped, Row, Source};
use crate::handover::from_steps::{Step, Steps, TakeOver, template_file};
use crate::handover::groups::{self, Unit};
use crate::handover::journal::{Journal, Kind, seconds};
use crate::handover::other_patroni::{OtherPatroni, check_environment, find_patroni};
use crate::handover::proposed::Proposed;
use crate::handover::record::{as_it_is, create_site_key, files_as_they_are, record_files, verify};
use crate::handover::running::{Place, Running, data_directory};
use crate::handover::steps::Work;
use crate::handover::taken_over;
use crate::patroni::paths::{DIRECTORY, patroni_file};
use crate::patroni::patronictl::Patronictl;
use crate::patroni_yml::auth_files;
use crate::patroni_yml::authentication::password_scope;
use crate::patroni_yml::inputs::{Overrides, render, site_key, site_key_path};
use crate::patroni_yml::role_names::{REWIND, RoleNames};

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
    let journal = Journal::of(root, Kind::TakeOver, id);
    let decision = match (decided, choice.file) {
        (Some(decision), _) => {
            reporter
                .info(format!("{id}: an earlier take-over is completed, as decided in {}", journal.path().display()));
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
    let unsaid =
        Place::find(root, id, &base.data_directory, &base.superuser)?.is_some() && verify(root, id, base, reporter)?;
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
    let yaml = read(root, file)?;
    let patroni = find_patroni(root, file, unit)?;
    check_environment(root, &patroni)?;
    let scope = yaml.text(&["scope"]).unwrap_or_default();
    let cluster = Patronictl::with_file(root, file.to_owned(), &scope);
    let dynamic = dynamic_configuration(&cluster, &scope, file)?;
    let (data, in_data_directory) = directories(root, id, &yaml, file)?;
    let superuser =
        yaml.text(&["postgresql", "authentication", "superuser", "username"]).unwrap_or_else(|| "postgres".to_owned());
    let Some(place) = Place::find(root, id, &data, &superuser)? else {
        fail!("the server of {id} is not running"; "Start it with Patroni, and run this again.");
    };
    let running = Running::ask(root, id, &place)?;
    let theirs = yaml.document().unwrap_or(&Value::Null);
    let path = file.display().to_string();
    let source = Source { id, path, file: theirs, dynamic: &dynamic, address: address(&yaml)? };
    let mapped = map(root, &source, &running)?;
    let mut settings = Settings::read(root, id)?;
    let mut proposed = Proposed::default();
    for line in &mapped.lines {
        proposed.line(id, &mut settings, line.clone())?;
    }
    for file in &mapped.files {
        proposed.file(root, id, &mut settings, file)?;
    }
    let key = site_key(root, &settings)?;
    check_members(&settings, id, &cluster, key.as_ref())?;
    let mut warnings = Vec::new();
    if in_data_directory {
        warnings.push(trouble!(
            "PostgreSQL reads pg_hba.conf and pg_ident.conf in {} until its next restart", data.display();
            "Restart it before you change them: pg_patronictl {id} restart --pending"
        ));
    }
    let role = match yaml.get(&["postgresql", "authentication", "rewind"]) {
        Some(_) => None,
        None => Some(role(id, &mut settings, &mut proposed, &running, key.as_ref())?),
    };
    if let Some(role) = role.as_ref().filter(|role| running.recovery && running.role(&role.name).is_none()) {
        warnings.push(trouble!(
            "the role {} for pg_rewind does not exist", role.name;
            "It is created when the primary is taken over."
        ));
    }
    let new = render_new(root, &source, &mapped, &mut settings, &mut proposed, key)?;
    warnings.extend(new.warnings);
    let document = new.yaml.document().context("a Patroni file is not empty")?;
    let rows = foreign::judge(theirs, &dynamic, document, &mapped, &new.blocks);
    let added = foreign::added(theirs, document);
    check_dcs(root, id, &running, &scope, &document.to_string())?;
    let parameters = dynamic.get("postgresql").and_then(|section| section.get("parameters"));
    let base = Decision {
        cluster: id.slashed(),
        decided: seconds(),
        way: Way::Move,
        kept: kept(root, id, file)?,
        differences: differences::compare(id, &running, &new.yaml, parameters),
        data_directory: data,
        superuser,
        running,
        settings: proposed.lines,
        files: proposed.files,
        pg_hba: Vec::new(),
        roles: role.into_iter().collect(),
    };
    let OtherPatroni { process, started, unit } = patroni;
    let (template, template_before) = (new.template, new.template_before);
    let file = file.to_owned();
    let decision = TakeOver { base, file, unit, process, started, in_data_directory, template, template_before };
    Ok(Proposal { decision, rows, added, warnings })
}

/// Their file.
fn read(root: &Root, file: &Path) -> Result<Yaml> {
    if !file.is_absolute() {
        fail!("'{}' is not an absolute path", file.display());
    }
    let Some(text) = root.for_postgres().read(file)? else {
        fail!("there is no file {}", file.display(); "Name the file with which Patroni runs.");
    };
    if author(&text) != Author::Other {
        fail!("{} was generated by patroni-gen-config", file.display(); "There is nothing to take over.");
    }
    let yaml = Yaml::parse(file, &text)?;
    if !yaml.document().is_some_and(Value::is_object) {
        fail!("{} is not a Patroni file", file.display());
    }
    Ok(yaml)
}

/// The dynamic configuration of the running cluster.
fn dynamic_configuration(cluster: &Patronictl, scope: &str, file: &Path) -> Result<Value> {
    let Some(dynamic) = cluster.configuration()? else {
        fail!("the cluster {scope} has no configuration in the DCS"; "See: patronictl -c {} list", file.display());
    };
    if dynamic.get(&["pause"]) == Some(&Value::Bool(true)) {
        fail!(
            "{scope} is in maintenance mode";
            "Wait for another take-over, or end it with: patronictl -c {} resume {scope}", file.display()
        );
    }
    Ok(dynamic.document().cloned().unwrap_or_default())
}

/// What their file and the dynamic configuration mean as settings, with the lines of `pg_hba.conf` that are in force if neither has any.
fn map(root: &Root, source: &Source, running: &Running) -> Result<Mapped> {
    let mut mapped = foreign::from_file(source);
    foreign::from_dynamic(source, &mut mapped);
    if !mapped.files.iter().any(|file| file.key == "PG_HBA_FILE") {
        let path = running.value("hba_file").to_owned();
        let text = root.for_postgres().read(&path)?.unwrap_or_default();
        let text = auth_files::movable(root, Path::new(&path), &text, source.id.version.number());
        mapped.file("PG_HBA_FILE", "pg_hba", text, path);
    }
    mapped.line("PG_HBA_GENERAL", "no", "only the lines of PG_HBA_FILE apply");
    Ok(mapped)
}

/// The role for `pg_rewind`, if they have none.
fn role(
    id: &ClusterId,
    settings: &mut Settings,
    proposed: &mut Proposed,
    running: &Running,
    key: Option<&SiteKey>,
) -> Result<NewRole> {
    let names = RoleNames::read(settings)?;
    let scope = password_scope(settings, id)?;
    let usual = [(names.replication.as_str(), Purpose::Replication), (names.rewind.as_str(), Purpose::Rewind)];
    let ours = |purpose, verifier: &str| {
        purpose == Purpose::Rewind
            && key.is_some_and(|key| scram::verifies(verifier, &key.role_password(&scope, REWIND)))
    };
    let roles = taken_over::roles(running, usual, ours);
    let role = roles.into_iter().find(|role| role.purpose == Purpose::Rewind).context("there are two roles")?;
    if role.name != names.rewind {
        let origin = format!("the role {} exists already and is left unchanged", names.rewind);
        proposed.line(id, settings, Line { key: "REWIND_NAME".to_owned(), value: role.name.clone(), origin })?;
    }
    Ok(role)
}

/// The template of the package, as the administrator's extends it.
const SHIPPED: &str = "shipped/patroni.yml.j2";

/// The new Patroni file, and the template that it needs.
struct New {
    yaml: Yaml,
    blocks: Vec<Block>,
    template: Option<String>,
    template_before: Option<String>,
    warnings: Vec<Trouble>,
}

fn render_new(
    root: &Root,
    source: &Source,
    mapped: &Mapped,
    settings: &mut Settings,
    proposed: &mut Proposed,
    key: Option<SiteKey>,
) -> Result<New> {
    let id = source.id;
    let key = key.unwrap_or_else(SiteKey::placeholder);
    let generate = |settings: &Settings, overrides: &Overrides| -> Result<_> {
        let (config, text) = render(root, overrides, id, settings, &key, None)?;
        Ok((config, Yaml::parse(&patroni_file(id), &text)?))
    };
    let (_, first) = generate(settings, &Overrides::default())?;
    for line in foreign::own_parameters(source, first.document().unwrap_or(&Value::Null)) {
        proposed.line(id, settings, line)?;
    }
    let (config, base) = generate(settings, &Overrides::default())?;
    let done = |key: &str| mapped.rows.iter().any(|row| row.key == key);
    let blocks = foreign::blocks(source.file, base.document().unwrap_or(&Value::Null), &done);
    if config.endpoint.is_some() && blocks.iter().any(|block| block.name == "callbacks") {
        fail!(
            "{} has callbacks, and the settings have a client endpoint, which needs them", source.path;
            "Remove the callbacks from that file, or VIPS and DNS_ZONE from the settings."
        );
    }
    let warnings = config.warnings;
    if blocks.is_empty() {
        return Ok(New { yaml: base, blocks, template: None, template_before: None, warnings });
    }
    let exists = root.path(template_file()).exists();
    let template_before = exists.then(|| format!("before-{}.patroni.yml.j2", id.dashed()));
    let make = |base: &str| foreign::template(id, base, &source.path, &blocks);
    // Until it is written, the generator reads it elsewhere, and the administrator's is where it is.
    let staged = tempfile::NamedTempFile::new().context("could not create a temporary file")?;
    std::fs::write(staged.path(), make(if exists { "patroni.yml.j2" } else { SHIPPED }))
        .context("could not write a temporary file")?;
    let overrides = Overrides { template: Some(staged.path().to_owned()), ..Overrides::default() };
    let (_, yaml) = generate(settings, &overrides)?;
    let template = Some(make(template_before.as_deref().unwrap_or(SHIPPED)));
    Ok(New { yaml, blocks, template, template_before, warnings })
}

/// The files that change, as they are.
fn kept(root: &Root, id: &ClusterId, file: &Path) -> Result<Vec<Kept>> {
    let mut kept = files_as_they_are(root, id)?;
    for path in [patroni_file(id), template_file(), file.to_owned()] {
        if kept.iter().all(|kept| kept.path != path) {
            kept.push(as_it_is(root, path));
        }
    }
    Ok(kept)
}

/// Root writes there, and another user must not be able to replace what it writes.
fn check_directory(root: &Root) -> Result<()> {
    let found =
        root.path(DIRECTORY).metadata().with_context(|| format!("could not read the attributes of {DIRECTORY}"))?;
    if found.uid() != 0 || found.mode() & 0o022 != 0 {
        fail!(
            "{DIRECTORY} can be changed by other users than root";
            "Patroni only reads it: chown root:root {DIRECTORY}; chmod 755 {DIRECTORY}"
        );
    }
    Ok(())
}

/// The data directory, and whether the configuration of PostgreSQL is in it. Both must be where postgresql-common can find them.
fn directories(root: &Root, id: &ClusterId, yaml: &Yaml, file: &Path) -> Result<(PathBuf, bool)> {
    let data = PathBuf::from(yaml.text(&["postgresql", "data_dir"]).unwrap_or_default());
    let wanted = clusters::config_directory(id);
    let has = yaml.text(&["postgresql", "config_dir"]).map_or_else(|| data.clone(), PathBuf::from);
    let real = |path: &Path| root.path(path).canonicalize().ok();
    if has.components().eq(wanted.components()) {
        let own = data_directory(root, id)?;
        if real(&own) != real(&data) {
            fail!(
                at file.display(), "data_dir is {}, but {} is the data directory of {id}", data.display(), own.display();
                "Name the cluster that Patroni manages."
            );
        }
        return Ok((own, false));
    }
    if !has.components().eq(data.components()) {
        fail!(
            at file.display(), "the configuration of PostgreSQL is in {}, neither in {} nor in the data directory", has.display(), wanted.display();
            "Set config_dir to {}, move the files there, and restart the member.", wanted.display()
        );
    }
    if root.path(&wanted).exists() {
        fail!(
            "{} exists, but the configuration of PostgreSQL is in {}", wanted.display(), data.display();
            "If it is of a cluster that is not used any more, move it away: mv {} /root/", wanted.display()
        );
    }
    let usual = CreateCluster::read(root)?.data_directory(id)?;
    if real(&usual) != real(&data) {
        fail!(
            at file.display(), "data_dir is {}, but the data of {id} belongs in {}", data.display(), usual.display();
            "Choose the version and name that fit, or set data_directory in {}.", createcluster::PATH
        );
    }
    let base = root.for_postgres().read(data.join("postgresql.base.conf"))?.unwrap_or_default();
    if base.lines().any(|line| line.trim_start().starts_with("include")) {
        fail!(
            at data.join("postgresql.base.conf").display(), "includes other files, which would not be found from {}", wanted.display();
            "Put their lines into this file, and remove the includes."
        );
    }
    Ok((usual, true))
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
fn check_members(settings: &Settings, id: &ClusterId, cluster: &Patronictl, key: Option<&SiteKey>) -> Result<()> {
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
            text.extend([format!("  {:width$}  {}\n", row.key, told(&row.fate))]);
        }
        let mut section = |title: String, lines: Vec<String>| {
            if !lines.is_empty() {
                text.extend(["\n", &title, "\n"]);
                for line in lines {
                    text.extend(["  ", &line, "\n"]);
                }
            }
        };
        section("Keys that are added:".to_owned(), self.added.clone());
        let lines = decision.base.settings.iter().map(|line| format!("{}={}  ({})", line.key, line.value, line.origin));
        section(format!("New settings in {}:", settings::cluster_file(id).display()), lines.collect());
        let mut files: Vec<String> = decision.base.files.iter().map(|file| file.path.display().to_string()).collect();
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
