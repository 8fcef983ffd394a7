//! `pg_adoptcluster_patroni`: gives a running cluster of postgresql-common to Patroni, without stopping it.
//!
//! It asks the server, decides, shows what will be different, asks the administrator, and takes the steps. What it has decided is
//! recorded first, so that the same command completes an adoption that was interrupted.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use host::keys::SiteKey;
use host::report::{self, Level, Reporter};
use host::settings::{Origin, Settings};
use host::trouble::Trouble;
use host::{ClusterId, Root, clusters, fail, members, scram, settings, trouble};
use nix::unistd::Uid;
use serde_json::json;

use crate::context::agree;
use crate::doctor;
use crate::files::install::Lock;
use crate::files::yaml::Yaml;
use crate::handover::decision::{Decision, Difference, Line, NewRole, Text, Way};
use crate::handover::differences;
use crate::handover::from;
use crate::handover::groups::{self, Unit};
use crate::handover::journal::{Journal, Kind, seconds};
use crate::handover::record::{create_site_key, files_as_they_are, record, verify};
use crate::handover::returned;
use crate::handover::running::{Running, data_directory};
use crate::handover::steps::{Step, Work};
use crate::handover::taken_over;
use crate::patroni::paths::{DIRECTORY, other_instance, patroni_file};
use crate::patroni::rival::{self, Own};
use crate::patroni_yml::auth_files;
use crate::patroni_yml::authentication::password_scope;
use crate::patroni_yml::inputs::{Overrides, render, site_key, site_key_path};
use crate::patroni_yml::network::address_and_networks;
use crate::patroni_yml::role_names::{REPLICATION, REWIND, RoleNames};
use crate::patroni_yml::values::member_name;
use crate::postgres::data_dir;
use crate::postgres::place::Place;
use crate::postgres::roles::Purpose;

pub(crate) const NAME: &str = "pg_adoptcluster_patroni";

/// Hands a running PostgreSQL cluster over to Patroni, without interruption.
#[derive(Debug, Parser)]
#[command(
    name = NAME,
    version,
    after_help = "CLUSTER is 17/main, 17-main or the two words 17 main.\n\nManual: pg_adoptcluster_patroni(8)"
)]
#[allow(clippy::struct_excessive_bools)]
struct Args {
    /// The cluster
    #[arg(value_name = "CLUSTER", num_args = 1..=2, required = true)]
    cluster: Vec<String>,
    /// Show what would be done and what would differ afterwards, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Stop and start the server instead of moving its processes
    #[arg(long)]
    restart: bool,
    /// Take over a member of another set-up of Patroni, which runs with this file
    #[arg(long, value_name = "FILE", conflicts_with = "restart")]
    from: Option<PathBuf>,
    /// With --from: the systemd unit that runs that Patroni (default: the one in which it runs)
    #[arg(long, value_name = "UNIT", requires = "from")]
    unit: Option<String>,
    /// Only complete a take-over that was interrupted (used by patroni@.service)
    #[arg(long = "continue", hide = true, conflicts_with_all = ["from", "restart", "dry_run"])]
    only_continue: bool,
    /// With --dry-run: print JSON
    #[arg(long, requires = "dry_run")]
    json: bool,
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let reporter = Reporter::new(NAME);
    match Args::try_parse() {
        Ok(args) => reporter.finish(run(&Root::from_environment(), &args, &reporter)),
        Err(error) => reporter.usage(&error.to_string(), error.use_stderr()),
    }
}

fn run(root: &Root, args: &Args, reporter: &Reporter) -> Result<()> {
    if args.only_continue && other_instance(root, &args.cluster).is_some() {
        return Ok(());
    }
    let id = ClusterId::from_words(&args.cluster)?;
    if !Uid::effective().is_root() {
        fail!("only root can adopt a cluster"; "Run this program as root.");
    }
    let taken_over = Journal::of(root, Kind::TakeOver, &id).decision()?;
    if args.only_continue && taken_over.is_none() {
        return Ok(());
    }
    let _lock = match Lock::take(root, Path::new(DIRECTORY)) {
        // The take-over that starts the unit does the rest itself.
        Err(_) if args.only_continue => return Ok(()),
        lock => lock?,
    };
    if Journal::of(root, Kind::Release, &id).is_open() {
        fail!("{id} is being released from Patroni"; "Complete that first with: pg_releasecluster_patroni {id}");
    }
    if args.from.is_some() || taken_over.is_some() {
        let choice = from::Choice {
            file: args.from.as_deref(),
            unit: args.unit.as_deref(),
            dry_run: args.dry_run,
            yes: args.yes,
            json: args.json,
        };
        return from::run(root, &id, &choice, taken_over, reporter);
    }
    let journal = Journal::of(root, Kind::Adopt, &id);
    let decided: Option<Decision> = journal.decision()?;
    if let Some(decision) = &decided {
        is_same_server(root, &id, decision, &journal)?;
        reporter.info(format!(
            "{id}: completing the adoption that was interrupted, as recorded in {}; to undo it instead, run: \
             pg_releasecluster_patroni {id}",
            journal.path().display()
        ));
    }
    let asked = decided.is_some();
    let proposal = match decided {
        Some(decision) => Proposal { decision, warnings: Vec::new(), hba: Vec::new(), present_hba: Vec::new() },
        None => propose(root, &id, args)?,
    };
    for warning in &proposal.warnings {
        reporter.tell(Level::Warning, warning);
    }
    report::print(&if args.json { proposal.json()? } else { proposal.text(&id) });
    if args.dry_run {
        return Ok(());
    }
    if !args.yes && !asked {
        agree(&id.slashed(), &format!("Hand {id} over to Patroni?"))?;
    }
    if !asked {
        record(root, &journal, &proposal.decision)?;
        create_site_key(root, &id, reporter)?;
    }
    Work { root, id: &id, decision: &proposal.decision, journal: &journal, reporter }.run()?;
    let unsaid = verify(root, &id, &proposal.decision, reporter)?;
    report::print(&format!("{id}: now managed by Patroni\n"));
    if unsaid {
        fail!(at id, "parameters have other values than announced";
            "All values from before the adoption are in {}/decision.json.", journal.path().display());
    }
    Ok(())
}

/// Refuses to complete an adoption with the record of another server, which was dropped since, or of one with another role.
fn is_same_server(root: &Root, id: &ClusterId, decision: &Decision, journal: &Journal) -> Result<()> {
    let Some(place) = Place::find(root, id, &data_directory(root, id)?, &decision.superuser)? else { return Ok(()) };
    let now = Running::ask(root, id, &place)?;
    let started = journal.has_done(Step::Start.name())?;
    if now.system != decision.running.system || !started && now.recovery != decision.running.recovery {
        fail!(
            "the adoption recorded in {} was of another server, or of one with another role", journal.path().display();
            "Move the record away, and run this again: mv {} /root/", journal.path().display()
        );
    }
    Ok(())
}

/// What would be done.
struct Proposal {
    decision: Decision,
    warnings: Vec<Trouble>,
    /// The lines that `pg_hba.conf` will have.
    hba: Vec<String>,
    /// Those that it has.
    present_hba: Vec<String>,
}

/// Reads everything, decides, and refuses what cannot be adopted. Changes nothing.
fn propose(root: &Root, id: &ClusterId, args: &Args) -> Result<Proposal> {
    let way = if args.restart { Way::Restart } else { Way::Move };
    let data = data_directory(root, id)?;
    let mut settings = Settings::read(root, id)?;
    let names = RoleNames::read(&settings)?;
    let place = find_server(root, id, &data, &names.superuser, way)?;
    let running = Running::ask(root, id, &place)?;
    refuse(root, id, &data, &running, &place)?;
    let (key, key_exists) = match site_key(root, &settings)? {
        Some(key) => (key, true),
        None => (SiteKey::placeholder(), false),
    };
    let mut warnings = notes(root, id, &running)?;
    let mut new = NewSettings::default();
    let (hba_path, hba) = text_of(root, &running, "hba_file")?;
    let present_hba = auth_files::texts(&hba, id.version.number());
    // A standby has the settings of its primary, which were copied.
    if !running.recovery {
        warnings.extend(new.take_parameters(root, id, &settings, &running)?);
        new.take_access(root, id, &settings, &running, (&hba_path, &hba))?;
        new.lines.extend(taken_over::slots(&running.slots));
        let scope = password_scope(&settings, id)?;
        new.take_roles(&running, &names, |role, verifier| {
            key_exists && scram::verifies(verifier, &key.role_password(&scope, role))
        });
    }
    let NewSettings { mut lines, files, roles, staged } = new;
    lines.retain(|line| settings.get(&line.key).is_none());
    if settings.text("LISTEN_ADDRESSES").is_none() {
        let name = member_name(root, &settings)?;
        let (address, _) = address_and_networks(root, &settings, &name, members::members(&settings)?.as_deref())?;
        lines.extend(taken_over::listen_addresses(&running, &address.to_string()));
    }
    apply(&mut settings, &lines, &staged)?;
    let (config, text) = render(root, &Overrides::default(), id, &settings, &key, None)?;
    let yaml = Yaml::parse(&patroni_file(id), &text)?;
    let dynamic = check_dcs(root, id, &running, &config.scope, &text)?;
    if running.recovery && !key_exists {
        fail!(
            "{id} is a standby, and there is no site key";
            "Copy it from the primary to {}, and /etc/default/patroni as well.", site_key_path(&settings)?.display()
        );
    }
    let in_dcs = |key: &str| match &dynamic {
        Some(dynamic) => dynamic.get(&["postgresql", key]),
        None => yaml.get(&["bootstrap", "dcs", "postgresql", key]),
    };
    let differences = differences::compare(id, &running, &yaml, in_dcs("parameters"));
    warnings.extend(config.warnings);
    warnings.extend(reach(&differences, &config.address.to_string()));
    let hba: Vec<String> = in_dcs("pg_hba")
        .and_then(serde_json::Value::as_array)
        .map(|lines| lines.iter().filter_map(|line| line.as_str().map(str::to_owned)).collect())
        .unwrap_or_default();
    let decision = Decision {
        cluster: id.slashed(),
        decided: seconds(),
        way,
        kept: files_as_they_are(root, id)?,
        data_directory: data,
        superuser: names.superuser,
        running,
        settings: lines,
        files,
        roles,
        differences,
        pg_hba: hba.clone(),
    };
    Ok(Proposal { decision, warnings, hba, present_hba })
}

/// What the settings get.
#[derive(Default)]
struct NewSettings {
    lines: Vec<Line>,
    files: Vec<Text>,
    roles: Vec<NewRole>,
    /// Where the generator reads the files until they are written.
    staged: Vec<(String, PathBuf, tempfile::NamedTempFile)>,
}

impl NewSettings {
    /// A file in `/etc/patroni`, and the setting that names it.
    fn file(&mut self, root: &Root, id: &ClusterId, key: &str, suffix: &str, text: String, origin: &str) -> Result<()> {
        let path = PathBuf::from(format!("{DIRECTORY}/{}.{suffix}", id.dashed()));
        let file = tempfile::NamedTempFile::new().context("could not create a temporary file")?;
        std::fs::write(file.path(), &text).context("could not write a temporary file")?;
        self.lines.push(plain(key, &path.display().to_string(), origin));
        self.staged.push((key.to_owned(), root.inside(file.path()), file));
        self.files.push(Text { path, text });
        Ok(())
    }

    fn take_parameters(
        &mut self,
        root: &Root,
        id: &ClusterId,
        settings: &Settings,
        running: &Running,
    ) -> Result<Vec<Trouble>> {
        let taken = taken_over::parameters(running);
        self.lines.extend(taken.lines);
        if !taken.parameters.is_empty() && settings.text("PG_PARAMETERS_FILE").is_none() {
            let origin = "parameters with a dot in their names";
            self.file(root, id, "PG_PARAMETERS_FILE", "parameters", taken.parameters, origin)?;
        }
        Ok(taken.notes)
    }

    /// The lines of `pg_hba.conf` and `pg_ident.conf`.
    fn take_access(
        &mut self,
        root: &Root,
        id: &ClusterId,
        settings: &Settings,
        running: &Running,
        (hba_path, hba): (&str, &str),
    ) -> Result<()> {
        let version = id.version.number();
        let (ident_path, ident) = text_of(root, running, "ident_file")?;
        if settings.text("PG_HBA_FILE").is_none() {
            let hba = auth_files::movable(root, Path::new(hba_path), hba, version);
            self.file(root, id, "PG_HBA_FILE", "pg_hba", hba, hba_path)?;
            self.lines.push(plain("PG_HBA_GENERAL", "no", "only the lines of that file apply"));
        }
        if settings.text("PG_IDENT_FILE").is_none() && has_lines(&ident) {
            let ident = auth_files::movable(root, Path::new(&ident_path), &ident, version);
            self.file(root, id, "PG_IDENT_FILE", "pg_ident", ident, &ident_path)?;
        }
        Ok(())
    }

    /// Roles for the members, under other names where the usual ones are taken. `ours` is asked for the usual name and a verifier.
    fn take_roles(&mut self, running: &Running, names: &RoleNames, ours: impl Fn(&str, &str) -> bool) {
        let usual = [(names.replication.as_str(), Purpose::Replication), (names.rewind.as_str(), Purpose::Rewind)];
        self.roles = taken_over::roles(running, usual, |purpose, verifier| {
            ours(if purpose == Purpose::Replication { REPLICATION } else { REWIND }, verifier)
        });
        for (role, (usual, purpose)) in self.roles.iter().zip(usual) {
            if role.name != usual {
                let key = if purpose == Purpose::Replication { "REPLICATION_NAME" } else { "REWIND_NAME" };
                let origin = format!("the role {usual} exists already and is left unchanged");
                self.lines.push(plain(key, &role.name, &origin));
            }
        }
    }
}

fn plain(key: &str, value: &str, origin: &str) -> Line {
    Line { key: key.to_owned(), value: value.to_owned(), origin: origin.to_owned() }
}

fn apply(settings: &mut Settings, lines: &[Line], staged: &[(String, PathBuf, tempfile::NamedTempFile)]) -> Result<()> {
    for line in lines {
        let staged = staged.iter().find(|(key, _, _)| *key == line.key);
        let value = staged.map_or_else(|| line.value.clone(), |(_, path, _)| path.display().to_string());
        settings.put(&line.key, value, Origin::Option("the running cluster"))?;
    }
    Ok(())
}

/// A file that a parameter names, read as postgres could.
fn text_of(root: &Root, running: &Running, parameter: &str) -> Result<(String, String)> {
    let path = running.value(parameter).to_owned();
    let text = root.for_postgres().read(&path)?.with_context(|| format!("{path} ({parameter}) does not exist"))?;
    Ok((path, text))
}

fn has_lines(text: &str) -> bool {
    text.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
}

/// The server, which has to be in the control group of its unit if it is to move.
fn find_server(root: &Root, id: &ClusterId, data: &Path, superuser: &str, way: Way) -> Result<Place> {
    let (version, name) = (&id.version, &id.name);
    let patroni = Unit::Patroni.name(id);
    if !groups::processes(root, &patroni)?.is_empty() {
        fail!("{id} is already managed by Patroni"; "See its state with: pg_patronictl {id} list");
    }
    let (file, server) = (patroni_file(id), data_dir::running_server(root, data));
    if let Some(rival) = rival::find(root, &Own { unit: &patroni, file: &file, data }, server) {
        return Err(rival.trouble(root, id, false).into());
    }
    if root.path(&file).exists() {
        fail!(
            "{} exists already", patroni_file(id).display();
            "If an earlier attempt left it behind, move it away and run this again."
        );
    }
    // Patroni would take it for the configuration, and overwrite postgresql.conf.
    let base = clusters::config_directory(id).join("postgresql.base.conf");
    let conf = root.for_postgres().read(base.with_file_name("postgresql.conf"))?.unwrap_or_default();
    if root.path(&base).symlink_metadata().is_ok() && !returned::is_of_patroni(&conf) {
        fail!("{} is left over from an earlier cluster", base.display(); "Remove it, and run this again.");
    }
    let Some(place) = Place::find(root, id, data, superuser)? else {
        fail!("{id} is not running, so its configuration cannot be read"; "Start it with: pg_ctlcluster {version} {name} start");
    };
    let debian = Unit::Debian.name(id);
    if !groups::processes(root, &debian)?.contains(&place.postmaster) {
        fail!(
            "the server of {id} (process {}) was not started by {debian}", place.postmaster;
            "Stop it the way it was started, and then start it with: systemctl start {debian}"
        );
    }
    if way == Way::Move {
        groups::check_version(root)?;
    }
    Ok(place)
}

/// States in which a server must be left alone.
fn refuse(root: &Root, id: &ClusterId, data: &Path, running: &Running, place: &Place) -> Result<()> {
    let exists = |name: &str| root.path(data.join(name)).symlink_metadata().is_ok();
    if exists("recovery.signal") {
        fail!("{id} is recovering to a point in time"; "Wait until the recovery has ended, and run this again.");
    }
    let command = std::fs::read(root.path(format!("/proc/{}/cmdline", place.postmaster))).unwrap_or_default();
    // What `pg_upgrade` starts (`start_postmaster` in `src/bin/pg_upgrade/server.c`).
    if command.split(|byte| *byte == 0).any(|word| word == b"-b") {
        fail!("pg_upgrade is working on {id}"; "Wait until it has ended, and run this again.");
    }
    if running.recovery && !exists("standby.signal") && id.version.number() >= (12, 0) {
        fail!("{id} is still in crash recovery"; "Wait until the recovery has ended, and run this again.");
    }
    Ok(())
}

/// What the administrator should know.
fn notes(root: &Root, id: &ClusterId, running: &Running) -> Result<Vec<Trouble>> {
    let mut notes = Vec::new();
    if running.value("data_checksums") != "on" && running.value("wal_log_hints") != "on" {
        notes.push(trouble!(
            at id, "has neither data checksums nor wal_log_hints, so pg_rewind cannot be used until the server has been restarted";
            "Until then, recreate a former primary with: pg_patronictl {id} reinit MEMBER"
        ));
    }
    let preload = running.value("shared_preload_libraries");
    if !preload.is_empty() {
        notes.push(trouble!(
            at id, "loads {preload} (shared_preload_libraries), without which the other members do not start";
            "Install the packages of these libraries on all members."
        ));
    }
    if !running.tablespaces.is_empty() {
        notes.push(trouble!(
            at id, "has tablespaces in {}, which the other members need as well", running.tablespaces.join(", ");
            "Create these directories on all members, empty and owned by postgres."
        ));
    }
    let directory = clusters::config_directory(id);
    for name in ["environment", "pg_ctl.conf"] {
        let text = root.for_postgres().read(directory.join(name))?.unwrap_or_default();
        let matters = text
            .lines()
            .map(str::trim)
            .any(|line| !line.is_empty() && !line.starts_with('#') && line != "pg_ctl_options = ''");
        if matters {
            notes.push(trouble!(
                at directory.join(name).display(), "has no effect under Patroni after the next restart";
                "Set what is in it for patroni@{} with: systemctl edit patroni@{}", id.dashed(), id.dashed()
            ));
        }
    }
    Ok(notes)
}

/// A server that only listens on loopback cannot have replicas before its restart.
fn reach(differences: &[Difference], address: &str) -> Option<Trouble> {
    let listens = differences.iter().find(|difference| difference.name == "listen_addresses")?;
    Some(trouble!(
        "PostgreSQL listens on '{}', and on {address} only after a restart", listens.old;
        "Restart it after the adoption, before other members join."
    ))
}

/// Is the scope free in the DCS, or does it belong to this very server? Returns the configuration in the DCS, if there is one.
fn check_dcs(root: &Root, id: &ClusterId, running: &Running, scope: &str, text: &str) -> Result<Option<Yaml>> {
    let content = doctor::dcs_content(root, id, text)?;
    let initialize = content.get("initialize").map(String::as_str);
    let leader = content.get("leader").map(String::as_str).filter(|leader| !leader.is_empty());
    let remove = format!("patronictl -c {} remove {scope}", patroni_file(id).display());
    match initialize {
        None if running.recovery => {
            let from = running.value("primary_conninfo").split_whitespace().find_map(|word| word.strip_prefix("host="));
            fail!(
                "{id} is a standby, and its primary has not been adopted yet";
                "First run on {}: {NAME} {id}", from.unwrap_or("its primary")
            );
        }
        None => Ok(None),
        Some("") => fail!(
            "another member is bootstrapping {scope}";
            "Only one cluster can have this scope. Stop Patroni on that member, and run there: {remove}"
        ),
        Some(system) if system != running.system => fail!(
            "the scope {scope} in the DCS belongs to another cluster (system identifier {system}, here {})", running.system;
            "If that cluster exists only because another member was started before this one, run on that member: 'systemctl disable --now \
             patroni@{}', '{remove}' and 'pg_dropcluster {} {}'. Then run this again. If that cluster is needed, set another SCOPE for this one.", id.dashed(), id.version, id.name
        ),
        Some(_) => {
            if let (false, Some(leader)) = (running.recovery, leader) {
                fail!(
                    "{leader} is the primary of {scope}, and this server is a primary, too";
                    "Find out which of them has the right data. If it is {leader}, remove this cluster with pg_dropcluster, and let Patroni create a \
                     replica here."
                );
            }
            if running.recovery && leader.is_none() {
                fail!("{scope} has no primary at present"; "Run this again when a member is shown as its leader by: pg_patronictl list");
            }
            content.get("config").map(|text| Yaml::parse(Path::new("the DCS"), text)).transpose()
        }
    }
}

impl Proposal {
    fn text(&self, id: &ClusterId) -> String {
        let decision = &self.decision;
        let kind = if decision.running.recovery { "standby" } else { "primary" };
        let how = match decision.way {
            Way::Move => "It moves to Patroni's unit while it is running.",
            Way::Restart => "It is stopped, and started by Patroni.",
        };
        let mut text = format!("{id} is a running {kind}, system identifier {}. {how}\n", decision.running.system);
        let mut section = |title: String, lines: Vec<String>| {
            if !lines.is_empty() {
                text.extend(["\n", &title, "\n"]);
                for line in lines {
                    text.extend(["  ", &line, "\n"]);
                }
            }
        };
        let settings = decision.settings.iter().map(|line| format!("{}={}  ({})", line.key, line.value, line.origin));
        section(format!("New settings in {}:", settings::cluster_file(id).display()), settings.collect());
        let files = decision.files.iter().map(|file| file.path.display().to_string());
        section("New files:".to_owned(), files.collect());
        let shown = |now: bool| {
            let these = decision.differences.iter().filter(move |difference| difference.restart != now);
            these.map(Difference::line).collect()
        };
        section("Parameters that change now:".to_owned(), shown(true));
        let restart = match decision.way {
            Way::Move => "Parameters that change at the next restart of PostgreSQL:",
            Way::Restart => "Parameters that change with this restart:",
        };
        section(restart.to_owned(), shown(false));
        let without = |lines: &[String], others: &[String]| -> Vec<String> {
            lines.iter().filter(|line| !others.contains(line)).cloned().collect()
        };
        let added = without(&self.hba, &self.present_hba);
        section("New lines of pg_hba.conf, which come first:".to_owned(), added.clone());
        section("Lines of pg_hba.conf that remain:".to_owned(), without(&self.hba, &added));
        section("Lines of pg_hba.conf that no longer apply:".to_owned(), without(&self.present_hba, &self.hba));
        let roles = decision.roles.iter().map(|role: &NewRole| match role.purpose {
            Purpose::Replication => format!("{}, for replication", role.name),
            Purpose::Rewind => format!("{}, for pg_rewind", role.name),
        });
        section(
            "Roles that Patroni logs in as, created unless an earlier run has created them:".to_owned(),
            roles.collect(),
        );
        let standbys = decision.running.standbys.iter().map(|standby| {
            let address = standby.address.as_deref().unwrap_or("the socket");
            format!("{} ({address}), as {}", standby.name, standby.role)
        });
        section(
            format!("Standbys, which continue to stream. Afterwards run '{NAME} {id}' on their hosts:"),
            standbys.collect(),
        );
        text
    }

    fn json(&self) -> Result<String> {
        let decision = &self.decision;
        let steps: Vec<&str> = Step::of(decision.way).iter().map(|step| step.name()).collect();
        let value = json!({
            "cluster": decision.cluster,
            "way": decision.way,
            "standby": decision.running.recovery,
            "system_identifier": decision.running.system,
            "settings": decision.settings,
            "files": decision.files.iter().map(|file| &file.path).collect::<Vec<_>>(),
            "differences": decision.differences,
            "pg_hba": self.hba,
            "roles": decision.roles,
            "warnings": self.warnings.iter().map(Trouble::line).collect::<Vec<_>>(),
            "steps": steps,
        });
        Ok(serde_json::to_string_pretty(&value).context("a proposal is JSON")? + "\n")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn proposal(way: Way) -> Proposal {
        let line = |text: &str| text.to_owned();
        let difference = |name: &str, restart: bool| Difference {
            name: name.to_owned(),
            old: String::new(),
            new: "on".to_owned(),
            restart,
        };
        let running = Running {
            recovery: false,
            system: "7".to_owned(),
            timeline: 1,
            settings: Vec::new(),
            roles: Vec::new(),
            slots: Vec::new(),
            standbys: Vec::new(),
            tablespaces: Vec::new(),
            extensions: Vec::new(),
            prepared: 0,
        };
        let decision = Decision {
            cluster: "17/main".to_owned(),
            decided: 0,
            way,
            data_directory: PathBuf::from("/d"),
            superuser: "postgres".to_owned(),
            running,
            settings: vec![plain("SLOTS", "old:physical", "the server")],
            files: vec![Text { path: PathBuf::from("/etc/patroni/17-main.pg_hba"), text: String::new() }],
            roles: vec![NewRole { name: "replicator".to_owned(), purpose: Purpose::Replication }],
            differences: vec![difference("a", false), difference("b", true)],
            pg_hba: Vec::new(),
            kept: Vec::new(),
        };
        Proposal {
            decision,
            warnings: vec![Trouble::new("w")],
            hba: vec![line("local all \"postgres\" peer"), line("local all all peer")],
            present_hba: vec![line("local all all peer"), line("host all all samenet trust")],
        }
    }

    #[test]
    fn a_proposal_shows_what_changes_when() {
        assert_eq!(
            proposal(Way::Move).text(&"17/main".parse().unwrap()),
            "\
17/main is a running primary, system identifier 7. It moves to Patroni's unit while it is running.

New settings in /etc/default/patroni@17-main:
  SLOTS=old:physical  (the server)

New files:
  /etc/patroni/17-main.pg_hba

Parameters that change now:
  a: '' -> on

Parameters that change at the next restart of PostgreSQL:
  b: '' -> on

New lines of pg_hba.conf, which come first:
  local all \"postgres\" peer

Lines of pg_hba.conf that remain:
  local all all peer

Lines of pg_hba.conf that no longer apply:
  host all all samenet trust

Roles that Patroni logs in as, created unless an earlier run has created them:
  replicator, for replication
"
        );
        assert!(proposal(Way::Restart).text(&"17/main".parse().unwrap()).contains("with this restart:\n  b:"));
    }

    #[test]
    fn every_key_is_in_the_manual() {
        fn keys(value: &serde_json::Value, found: &mut Vec<String>) {
            match value {
                serde_json::Value::Object(fields) => {
                    for (key, value) in fields {
                        found.push(key.clone());
                        keys(value, found);
                    }
                }
                serde_json::Value::Array(list) => list.iter().for_each(|value| keys(value, found)),
                _ => {}
            }
        }
        let manual = include_str!("../../../../docs/man/pg_adoptcluster_patroni.8.scd");
        let mut found = Vec::new();
        keys(&serde_json::from_str(&proposal(Way::Move).json().unwrap()).unwrap(), &mut found);
        for key in found {
            assert!(manual.contains(&format!("_{key}_")), "pg_adoptcluster_patroni(8) lacks {key}");
        }
    }
}
