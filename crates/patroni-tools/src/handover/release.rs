//! `pg_releasecluster_patroni`: gives a cluster back to postgresql-common, without stopping it; also one whose adoption was not completed.
//!
//! It asks the server and the DCS, decides, shows what will be different, asks the administrator, and takes the steps. What it has decided
//! is recorded first, so that the same command completes what was interrupted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use host::endpoint::{self, Endpoint};
use host::report::{self, Level, Reporter};
use host::settings::{self, Settings};
use host::trouble::Trouble;
use host::{ClusterId, Root, clusters, fail, trouble};
use nix::unistd::Uid;
use serde_json::{Value, json};

use crate::context::agree;
use crate::doctor;
use crate::files::install::Lock;
use crate::files::yaml::Yaml;
use crate::handover::decision::{Decision, Difference, Kept, Way, shown};
use crate::handover::groups::{self, Unit};
use crate::handover::journal::{Journal, Kind, seconds};
use crate::handover::release_steps::{Change, Release, Step, Work, refuse_others};
use crate::handover::returned::{self, Parameters, Row};
use crate::handover::running::{Running, Setting, Slot, data_directory};
use crate::handover::steps::{copy_name, with_lines, with_word};
use crate::patroni::paths::{DIRECTORY, patroni_file};
use crate::patroni_yml::role_names::RoleNames;
use crate::postgres::place::Place;

const NAME: &str = "pg_releasecluster_patroni";

/// What is kept of Patroni's parameters. PostgreSQL reads the files of `conf.d` in the order of their names, and this name makes it the last one.
const KEPT_FILE: &str = "zz-patroni.conf";

/// Gives a PostgreSQL cluster back from Patroni to postgresql-common, without interruption.
#[derive(Debug, Parser)]
#[command(
    name = NAME,
    version,
    after_help = "CLUSTER is 17/main, 17-main or the two words 17 main.\n\nManual: pg_releasecluster_patroni(8)"
)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
struct Args {
    /// The cluster
    #[arg(value_name = "CLUSTER", num_args = 1..=2, required = true)]
    cluster: Vec<String>,
    /// Show what would be done and what would be different, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Stop and start the server instead of moving its processes
    #[arg(long)]
    restart: bool,
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
    let id = ClusterId::from_words(&args.cluster)?;
    if !Uid::effective().is_root() {
        fail!("only root can release a cluster"; "Run this program as root.");
    }
    let _lock = Lock::take(root, Path::new(DIRECTORY))?;
    if Journal::of(root, Kind::TakeOver, &id).is_open() {
        fail!("the take-over of {id} was interrupted"; "Complete that first with: pg_adoptcluster_patroni {id}");
    }
    let journal = Journal::of(root, Kind::Release, &id);
    let adoption = Journal::of(root, Kind::Adopt, &id);
    let decided: Option<Release> = if is_resumed(root, &id)? { None } else { journal.decision()? };
    let asked = decided.is_some();
    if asked {
        reporter.info(format!("{id}: an earlier release is completed, as decided in {}", journal.path().display()));
    }
    let proposal = match decided {
        Some(release) => Proposal { release, notes: Vec::new(), copies: Vec::new() },
        None => propose(root, &id, &adoption, args)?,
    };
    for note in &proposal.notes {
        reporter.tell(Level::Warning, note);
    }
    report::print(&if args.json { proposal.json()? } else { proposal.text(root, &id) });
    if args.dry_run {
        return Ok(());
    }
    if !args.yes && !asked {
        agree(&id.slashed(), &format!("Give {id} back to postgresql-common?"))?;
    }
    let release = &proposal.release;
    if !asked {
        for (name, bytes) in &proposal.copies {
            journal.keep(name, bytes)?;
        }
        journal.decide(release)?;
    }
    Work { root, id: &id, release, journal: &journal, reporter }.run()?;
    let unsaid = verify(root, &id, release, reporter)?;
    remains(root, &id, release, reporter);
    adoption.close()?;
    journal.close()?;
    report::print(&format!("{id}: managed by postgresql-common\n"));
    if unsaid {
        fail!(at id, "parameters have other values than announced"; "Compare them with {}", journal.path().display());
    }
    Ok(())
}

/// Has the cluster been given to Patroni again since an earlier run?
fn is_resumed(root: &Root, id: &ClusterId) -> Result<bool> {
    let patroni = Unit::Patroni.name(id);
    let enabled = Path::new("/etc/systemd/system/multi-user.target.wants").join(&patroni);
    Ok(root.path(enabled).symlink_metadata().is_ok() && groups::is_active(root, &patroni)?)
}

/// What would be done.
struct Proposal {
    release: Release,
    notes: Vec<Trouble>,
    /// Copies of files for the journal: those that come back, and those that are removed.
    copies: Vec<(String, Vec<u8>)>,
}

/// The files that change, as they are collected.
struct Files<'a> {
    root: &'a Root,
    id: &'a ClusterId,
    copies: Vec<(String, Vec<u8>)>,
    notes: Vec<Trouble>,
}

/// Reads everything, decides, and refuses what cannot be released. Changes nothing.
fn propose(root: &Root, id: &ClusterId, adoption: &Journal, args: &Args) -> Result<Proposal> {
    let adopted: Option<Decision> = adoption.decision()?;
    let unfinished = adopted.is_some() && !adoption.has_done("finish")?;
    let way = if args.restart { Way::Restart } else { Way::Move };
    if way == Way::Move {
        groups::check_version(root)?;
    }
    let patroni_text = root.read(patroni_file(id))?;
    if patroni_text.is_none() && !unfinished {
        fail!("{id} is not managed by Patroni: {} does not exist", patroni_file(id).display(); "See its state with: pg_lsclusters");
    }
    let yaml = Yaml::parse(&patroni_file(id), patroni_text.as_deref().unwrap_or_default())?;
    let scope = yaml.text(&["scope"]).unwrap_or_default();
    let member = yaml.text(&["name"]).unwrap_or_default();
    let data = data_directory(root, id)?;
    let settings = Settings::read(root, id)?;
    let names = RoleNames::read(&settings)?;
    let place = Place::find(root, id, &data, &names.superuser)?;
    if place.is_none() && !unfinished {
        fail!("{id} is not running, so what it has in force cannot be read"; "Start it with: systemctl start patroni@{}", id.dashed());
    }
    let running = place.as_ref().map(|place| Running::ask(root, id, place)).transpose()?;
    let content = match &patroni_text {
        Some(text) => doctor::dcs_content(root, id, text)?,
        None => BTreeMap::new(),
    };
    // A record of another server, which was dropped since, says nothing about this one.
    let adopted = adopted.filter(|adopted| running.as_ref().is_none_or(|now| now.system == adopted.running.system));
    let unfinished = unfinished && adopted.is_some();
    let was_standby = adopted.as_ref().is_some_and(|adopted| adopted.running.recovery);
    let standby = running.as_ref().map_or(was_standby, |running| running.recovery);
    refuse(id, &content, &member, standby, unfinished && was_standby)?;
    if standby && !unfinished {
        fail!(
            "{id} is a replica here, and no member is the primary";
            "Release the last primary: see 'pg_patronictl {id} list'."
        );
    }
    // A primary that Patroni has made a standby in an adoption that was not completed is promoted.
    let standby = standby && was_standby;
    let mut files = Files { root, id, copies: Vec::new(), notes: Vec::new() };
    let old_slot = adopted.as_ref().map_or("", |adopted| adopted.running.value("primary_slot_name"));
    if standby && !old_slot.is_empty() && adoption.has_done("old-slot")? {
        files.notes.push(trouble!(
            at id, "its slot {old_slot} has been removed from the primary already, so it does not stream";
            "Create the slot there with: SELECT pg_create_physical_replication_slot('{old_slot}')"
        ));
    }
    let (changes, parameters) = files.of_postgres(&data, place.as_ref(), running.as_ref(), adopted.as_ref())?;
    let start = files.start_conf(adopted.as_ref())?;
    let settings_files = files.of_root(adopted.as_ref())?;
    let point = Endpoint::read(root, id)?.filter(|_| root.path(endpoint::file(id)).exists());
    let endpoint = point.map_or_else(Vec::new, |point| {
        let addresses = point.vips.iter().map(|vip| vip.address.to_string());
        addresses.chain(point.dns.map(|dns| dns.name)).collect()
    });
    let roles = match (&running, &adopted) {
        (None, _) => Vec::new(),
        (_, Some(adopted)) => adopted.roles.iter().map(|role| role.name.clone()).collect(),
        (_, None) => vec![names.replication, names.rewind],
    };
    let slots =
        running.as_ref().map_or_else(Vec::new, |running| slots_of_members(&running.slots, &content, adopted.as_ref()));
    let release = Release {
        cluster: id.slashed(),
        decided: seconds(),
        way,
        adopted: adopted.is_some(),
        unfinished,
        standby,
        data_directory: data,
        superuser: names.superuser,
        scope,
        member,
        roles: roles.into_iter().filter(|name| running.as_ref().is_some_and(|now| now.role(name).is_some())).collect(),
        running,
        kept: parameters.kept,
        of_standby: adopted
            .as_ref()
            .filter(|_| standby)
            .map_or_else(Vec::new, |old| returned::of_standby(&old.running)),
        differences: parameters.differences,
        start,
        files: changes,
        settings: settings_files,
        slots,
        endpoint,
    };
    Ok(Proposal { release, notes: files.notes, copies: files.copies })
}

/// Only the last member can be released, which is the primary; or a standby whose adoption is undone.
fn refuse(
    id: &ClusterId,
    content: &BTreeMap<String, String>,
    member: &str,
    standby: bool,
    undone_standby: bool,
) -> Result<()> {
    if undone_standby {
        return Ok(());
    }
    let leader = content.get("leader").map(String::as_str).filter(|leader| !leader.is_empty());
    if let (true, Some(leader)) = (standby, leader.filter(|leader| *leader != member)) {
        fail!(
            "{id} is a replica here, and {leader} is the primary";
            "Stop and drop it: run 'systemctl disable --now patroni@{}' and 'pg_dropcluster {} {}'. Then run this on {leader}.",
            id.dashed(), id.version, id.name
        );
    }
    if standby && leader == Some(member) {
        fail!(
            "{id} is the leader of a standby cluster";
            "Promote it first: remove 'standby_cluster' with 'pg_patronictl {id} edit-config'."
        );
    }
    refuse_others(id, content, member)
}

/// Physical slots that are neither in the configuration of the cluster nor older than the adoption.
fn slots_of_members(slots: &[Slot], content: &BTreeMap<String, String>, adopted: Option<&Decision>) -> Vec<String> {
    let config: Value = content.get("config").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let rules = config.get("ignore_slots").and_then(Value::as_array);
    // A rule without a name is for other properties, which are not compared here.
    let ignored = |slot: &str| {
        let applies = |rule: &Value| rule.get("name").and_then(Value::as_str).is_none_or(|name| name == slot);
        rules.is_some_and(|rules| rules.iter().any(applies))
    };
    slots
        .iter()
        .filter(|slot| {
            let configured = config.get("slots").is_some_and(|slots| slots.get(&slot.name).is_some());
            let older = adopted.is_some_and(|adopted| adopted.running.slots.iter().any(|old| old.name == slot.name));
            slot.plugin.is_none() && !slot.active && !configured && !older && !ignored(&slot.name)
        })
        .map(|slot| slot.name.clone())
        .collect()
}

impl Files<'_> {
    /// A file that will have these bytes.
    fn write(&mut self, path: &Path, bytes: Vec<u8>, like: Option<&Kept>) -> Change {
        let copy = copy_name(path);
        self.copies.push((copy.clone(), bytes));
        let (uid, gid, mode) = like.map_or((0, 0, 0o644), |like| (like.uid, like.gid, like.mode));
        Change::Write { path: path.to_owned(), copy, mode, uid, gid }
    }

    /// A file that will be removed; a copy of it stays in the journal.
    fn remove(&mut self, path: PathBuf) -> Result<Option<Change>> {
        let Some(bytes) = self.root.for_postgres().bytes(&path)? else { return Ok(None) };
        self.copies.push((format!("removed%{}", copy_name(&path)), bytes));
        Ok(Some(Change::Remove { path }))
    }

    /// The configuration of the server, its access lists, and what Patroni has left in the data directory.
    fn of_postgres(
        &mut self,
        data: &Path,
        place: Option<&Place>,
        running: Option<&Running>,
        adopted: Option<&Decision>,
    ) -> Result<(Vec<Change>, Parameters)> {
        let (root, id) = (self.root, self.id);
        let postgres = root.for_postgres();
        let directory = clusters::config_directory(id);
        let (conf, base) = (directory.join("postgresql.conf"), directory.join("postgresql.base.conf"));
        let present = postgres.read(&conf)?.unwrap_or_default();
        let may_come = |path: &Path| adopted.is_some() || root.path(path).symlink_metadata().is_ok();
        let mut changes = Vec::new();
        let mut parameters = Parameters::default();
        let mut rows: Vec<Row> = Vec::new();
        if returned::is_of_patroni(&present) {
            if let (Some(place), Some(running)) = (place, running) {
                rows = serde_json::from_str(&place.sql(root, id, FILES)?)
                    .with_context(|| format!("{id} did not answer as a PostgreSQL server does"))?;
                parameters = returned::parameters(running, &rows, &conf, adopted);
            }
            let own = postgres.read(&base)?;
            self.compare_conf(own.as_deref(), adopted)?;
            let text = own.clone().unwrap_or_else(|| returned::without_header(&present));
            let kept_file = directory.join("conf.d").join(KEPT_FILE);
            let before = find(adopted, &conf).filter(|_| find(adopted, &base).is_some());
            let has_place = returned::includes_conf_d(&text) && root.path(directory.join("conf.d")).is_dir();
            if own.is_some() && (parameters.kept.is_empty() || has_place) {
                if !parameters.kept.is_empty() {
                    let lines =
                        returned::lines(&returned::with_earlier(&rows, &kept_file, &parameters.kept)).into_bytes();
                    changes.push(self.write(&kept_file, lines, Some(&like_a_secret(&kept_file))));
                }
                // It was under Patroni once before, and was given back by hand.
                changes.push(match before.and_then(|kept| Some((kept, kept.copy.as_ref()?))) {
                    Some((kept, copy)) => {
                        let bytes = self.as_it_was(copy)?;
                        self.write(&conf, bytes, Some(kept))
                    }
                    None => Change::Rename { from: base, to: conf },
                });
            } else {
                let mut text = text;
                if own.is_some() {
                    text.extend(["\n", &returned::lines(&parameters.kept)]);
                }
                let like =
                    find(adopted, &conf).cloned().unwrap_or_else(|| Kept { mode: 0o644, ..like_a_secret(&conf) });
                changes.push(self.write(&conf, text.into_bytes(), Some(&like)));
                changes.push(Change::Remove { path: base });
            }
        } else if adopted.is_some() && find(adopted, &base).is_none() {
            // Patroni may be starting, and renames it later.
            changes.push(Change::Rename { from: base, to: conf });
        }
        let hba = adopted.map(|adopted| adopted.pg_hba.iter().map(String::as_str).collect::<Vec<_>>());
        changes.extend(self.access(&directory.join("pg_hba.conf"), adopted, hba)?);
        let ident_path = directory.join("pg_ident.conf");
        let ident = adopted.map(|adopted| {
            let taken = adopted.files.iter().find(|file| file.path.extension().is_some_and(|end| end == "pg_ident"));
            taken.map_or_else(Vec::new, |file| file.text.lines().collect())
        });
        changes.extend(self.access(&ident_path, adopted, ident)?);
        for name in
            ["postgresql.conf.backup", "postgresql.base.conf.backup", "pg_hba.conf.backup", "pg_ident.conf.backup"]
        {
            let path = directory.join(name);
            if may_come(&path) && find(adopted, &path).is_none() {
                changes.push(Change::Remove { path });
            }
        }
        for path in
            [data.join("patroni.dynamic.json"), PathBuf::from(format!("/var/lib/postgresql/{}.pgpass", id.dashed()))]
        {
            if may_come(&path) {
                changes.push(Change::Remove { path });
            }
        }
        self.compare_others(&directory, adopted)?;
        Ok((changes, parameters))
    }

    /// A copy that the adoption has kept.
    fn as_it_was(&self, copy: &str) -> Result<Vec<u8>> {
        Journal::of(self.root, Kind::Adopt, self.id).kept(copy)
    }

    /// Says that the administrator has changed what was `postgresql.conf`.
    fn compare_conf(&mut self, own: Option<&str>, adopted: Option<&Decision>) -> Result<()> {
        let conf = clusters::config_directory(self.id).join("postgresql.conf");
        let Some(copy) = find(adopted, &conf).and_then(|kept| kept.copy.as_ref()) else { return Ok(()) };
        let old = self.as_it_was(copy)?;
        if own.is_some_and(|own| own.as_bytes() != old) {
            self.notes.push(trouble!(
                at conf.with_file_name("postgresql.base.conf").display(),
                "has been changed since the adoption, and becomes postgresql.conf as it is"
            ));
        }
        Ok(())
    }

    /// `pg_hba.conf` or `pg_ident.conf`: as it was, unless the lines in force are other ones than the adoption's.
    fn access(&mut self, path: &Path, adopted: Option<&Decision>, lines: Option<Vec<&str>>) -> Result<Option<Change>> {
        let Some(text) = self.root.for_postgres().read(path)? else { return Ok(None) };
        let old = find(adopted, path).and_then(|kept| Some((kept, kept.copy.as_ref()?)));
        if !returned::is_of_patroni(&text) {
            let Some((kept, copy)) = old else { return Ok(None) };
            let bytes = self.as_it_was(copy)?;
            // Patroni may be starting, and replaces it later.
            return Ok((bytes == text.as_bytes()).then(|| self.write(path, bytes, Some(kept))));
        }
        if let (Some((kept, copy)), Some(lines)) = (old, lines) {
            let bytes = self.as_it_was(copy)?;
            let (added, removed) = returned::changed_lines(&text, lines);
            if added.is_empty() && removed.is_empty() {
                return Ok(Some(self.write(path, bytes, Some(kept))));
            }
            let list = |what: &str, lines: &[String]| match lines {
                [] => String::new(),
                lines => format!("; {what}: '{}'", lines.join("', '")),
            };
            self.notes.push(trouble!(
                at path.display(),
                "has been changed since the adoption, and stays in force as it is{}{}",
                list("new", &added), list("gone", &removed);
                "What it was before is in {}/files.", Journal::of(self.root, Kind::Release, self.id).path().display()
            ));
            self.copies.push((format!("before%{}", copy_name(path)), bytes));
        }
        Ok(Some(self.write(path, returned::without_header(&text).into_bytes(), Some(&like_a_secret(path)))))
    }

    /// Says which of the other files have changed since the adoption. They stay as they are.
    fn compare_others(&mut self, directory: &Path, adopted: Option<&Decision>) -> Result<()> {
        let given_back =
            ["postgresql.conf", "pg_hba.conf", "pg_ident.conf", "start.conf"].map(|name| directory.join(name));
        for kept in adopted.map_or(&[][..], |adopted| &adopted.kept) {
            let Some(copy) = kept.copy.as_ref().filter(|_| kept.path.starts_with(directory)) else { continue };
            if given_back.contains(&kept.path) {
                continue;
            }
            let old = self.as_it_was(copy)?;
            if self.root.for_postgres().bytes(&kept.path)?.as_ref() != Some(&old) {
                self.notes
                    .push(trouble!(at kept.path.display(), "has been changed since the adoption, and stays as it is"));
            }
        }
        Ok(())
    }

    /// `start.conf`: as it was, or `auto`.
    fn start_conf(&mut self, adopted: Option<&Decision>) -> Result<Option<Change>> {
        let path = clusters::config_directory(self.id).join("start.conf");
        let present = self.root.for_postgres().read(&path)?.unwrap_or_default();
        let text = match find(adopted, &path) {
            Some(kept) => {
                let Some(copy) = &kept.copy else { return Ok(Some(Change::Remove { path })) };
                let old = self.as_it_was(copy)?;
                if with_word(&String::from_utf8_lossy(&old), "manual") == present || old == present.as_bytes() {
                    return Ok(Some(self.write(&path, old, Some(kept))));
                }
                with_word(&present, "auto")
            }
            None => with_word(&present, "auto"),
        };
        let like = Kept { mode: 0o644, ..like_a_secret(&path) };
        Ok(Some(self.write(&path, text.into_bytes(), Some(&like))))
    }

    /// What the adoption has written in /etc/default and /etc/patroni, and the Patroni file.
    fn of_root(&mut self, adopted: Option<&Decision>) -> Result<Vec<Change>> {
        let (root, id) = (self.root, self.id);
        let mut changes = Vec::new();
        let path = settings::cluster_file(id);
        let present = root.read(&path)?;
        if let (Some(adopted), Some(kept), Some(present)) = (adopted, find(adopted, &path), &present) {
            let old = kept.copy.as_ref().map(|copy| self.as_it_was(copy)).transpose()?;
            let before = String::from_utf8_lossy(old.as_deref().unwrap_or_default()).into_owned();
            if *present != before && *present != with_lines(&before, adopted) {
                self.notes.push(trouble!(
                    at path.display(), "has been changed since the adoption; it becomes what it was before";
                    "The changed file is kept in {}/files.", Journal::of(root, Kind::Release, id).path().display()
                ));
            }
            let removed = self.remove(path.clone())?;
            changes.extend(match old {
                Some(old) => Some(self.write(&path, old, Some(kept))),
                None => removed,
            });
        }
        let file = patroni_file(id);
        let old = file.with_extension("yml.old");
        let named =
            adopted.map_or_else(Vec::new, |adopted| adopted.files.iter().map(|text| text.path.clone()).collect());
        // The Patroni file is the last: without it the DCS cannot be reached any more.
        for path in named.into_iter().chain([endpoint::file(id), old, file]) {
            changes.extend(self.remove(path)?);
        }
        Ok(changes)
    }
}

/// What the files of the server say.
const FILES: &str = "
SELECT coalesce(json_agg(json_build_object('file', sourcefile, 'name', name, 'value', setting) ORDER BY seqno), '[]')
FROM pg_catalog.pg_file_settings WHERE name IS NOT NULL AND setting IS NOT NULL;
";

fn find<'d>(adopted: Option<&'d Decision>, path: &Path) -> Option<&'d Kept> {
    adopted?.kept.iter().find(|kept| kept.path == path)
}

/// A file of postgres that not everybody may read.
fn like_a_secret(path: &Path) -> Kept {
    Kept { path: path.to_owned(), uid: 0, gid: 0, mode: 0o640, copy: None }
}

/// Compares the server with what was announced. True if there is a difference that was not.
fn verify(root: &Root, id: &ClusterId, release: &Release, reporter: &Reporter) -> Result<bool> {
    let Some(place) = Place::find(root, id, &release.data_directory, &release.superuser)? else {
        fail!("the server of {id} is not running"; "See: journalctl -u {}", Unit::Debian.name(id));
    };
    let Some(before) = &release.running else { return Ok(false) };
    let now = Running::ask(root, id, &place)?;
    let values = before.values();
    let mut unsaid = false;
    for setting in &now.settings {
        let Some(old) = values.get(setting.name.as_str()).filter(|old| old.value != setting.value) else { continue };
        let announced = release.is_changed(&setting.name) || release.is_kept(&setting.name);
        let of_patroni = returned::is_of_patroni_alone(&setting.name);
        // Only a boot between two runs can have changed what needs a restart.
        let by_boot = release.way == Way::Move && setting.context == "postmaster";
        if !announced && !setting.is_of_session() && !of_patroni && !by_boot {
            reporter.warn(trouble!(at id, "{} was '{}' and is now '{}'", setting.name, old.value, setting.value));
            unsaid = true;
        }
    }
    // PostgreSQL also waits for a restart of parameters that only left the files, even if they have the value already. It does not
    // wait for those on its command line, which it has until the next start.
    let waits = |setting: &Setting| {
        let name = setting.name.as_str();
        let unchanged = values.get(name).is_some_and(|old| old.value == setting.value);
        let due = release.differences.iter().any(|found| found.name == name && found.restart);
        due && unchanged || setting.pending && (release.is_kept(name) || !unchanged)
    };
    let pending: Vec<&str> =
        now.settings.iter().filter(|setting| waits(setting)).map(|setting| setting.name.as_str()).collect();
    if !pending.is_empty() {
        reporter.info(format!(
            "{id}: a restart is pending for {}; when it suits you, run: pg_ctlcluster {} {} restart",
            pending.join(", "),
            id.version,
            id.name
        ));
    }
    Ok(unsaid)
}

/// Says what is left for the administrator.
fn remains(root: &Root, id: &ClusterId, release: &Release, reporter: &Reporter) {
    if !release.roles.is_empty() {
        reporter.info(format!(
            "{id}: the roles of Patroni remain: {}; if nothing else uses them, drop them with DROP OWNED BY and DROP ROLE",
            release.roles.join(", ")
        ));
    }
    if !release.endpoint.is_empty() {
        reporter.info(format!(
            "{id}: clients cannot use {} any more; a DNS record, if there is one, is still there",
            release.endpoint.join(", ")
        ));
    }
    if !release.adopted && root.path(settings::cluster_file(id)).exists() {
        reporter.info(format!("{id}: {} remains", settings::cluster_file(id).display()));
    }
}

impl Proposal {
    fn text(&self, root: &Root, id: &ClusterId) -> String {
        let release = &self.release;
        let kind = if release.standby { "standby" } else { "primary" };
        let what = match (release.unfinished, release.adopted) {
            (true, _) => "Its adoption was not completed, and is undone.",
            (_, true) => "It was adopted, and becomes what it was before.",
            (_, false) => "Patroni has created it.",
        };
        let how = match (release.way, release.running.is_some()) {
            (_, false) => "Its server is started by postgresql-common.",
            (Way::Move, _) => "Its processes move to the unit of postgresql-common while they are running.",
            (Way::Restart, _) => "The server is stopped and started.",
        };
        let mut text = format!("{id} is a {kind}. {what} {how}\n");
        let mut section = |title: String, lines: Vec<String>| {
            if !lines.is_empty() {
                text.extend(["\n", &title, "\n"]);
                for line in lines {
                    text.extend(["  ", &line, "\n"]);
                }
            }
        };
        let changes = || release.start.iter().chain(&release.files).chain(&release.settings);
        let exists = |path: &Path| root.path(path).symlink_metadata().is_ok();
        let written = changes().filter_map(|change| match change {
            Change::Write { path, copy, .. } if self.changes_nothing(root, path, copy) => None,
            Change::Write { path, .. } => Some(path.display().to_string()),
            Change::Rename { from, .. } if !exists(from) => None,
            Change::Rename { from, to } => {
                Some(format!("{} (was {})", to.display(), from.file_name().unwrap_or_default().to_string_lossy()))
            }
            Change::Remove { .. } => None,
        });
        section("Files that come back or are written:".to_owned(), written.collect());
        let removed = changes().filter_map(|change| match change {
            Change::Remove { path } if exists(path) => Some(path.display().to_string()),
            _ => None,
        });
        section("Files that are removed:".to_owned(), removed.collect());
        let kept = release.kept.iter().map(|kept| format!("{} = {}", kept.name, shown(&kept.value)));
        section("Parameters that keep the value that they have under Patroni:".to_owned(), kept.collect());
        let differences = |restart: bool| {
            let these = release.differences.iter().filter(move |difference| difference.restart == restart);
            these.map(Difference::line).collect()
        };
        section("Parameters that change now:".to_owned(), differences(false));
        section("Parameters that change at the next restart of PostgreSQL:".to_owned(), differences(true));
        section("Slots of members that are dropped:".to_owned(), release.slots.clone());
        section("Roles of Patroni that remain:".to_owned(), release.roles.clone());
        if !release.standby && !release.scope.is_empty() {
            section("Removed from the DCS:".to_owned(), vec![format!("the scope {}", release.scope)]);
        }
        section("Given up at the end, with the connections to it:".to_owned(), release.endpoint.clone());
        text
    }

    /// Has a file already the bytes that it would get?
    fn changes_nothing(&self, root: &Root, path: &Path, copy: &str) -> bool {
        let new = self.copies.iter().find(|(name, _)| name == copy);
        let present = root.for_postgres().bytes(path).ok().flatten();
        new.is_some_and(|(_, bytes)| present.as_ref() == Some(bytes))
    }

    fn json(&self) -> Result<String> {
        let release = &self.release;
        let steps: Vec<&str> = Step::of(release.way).iter().map(|step| step.name()).collect();
        let value = json!({
            "cluster": release.cluster,
            "way": release.way,
            "adopted": release.adopted,
            "unfinished": release.unfinished,
            "standby": release.standby,
            "files": release.start.iter().chain(&release.files).chain(&release.settings).collect::<Vec<_>>(),
            "kept": release.kept,
            "differences": release.differences,
            "slots": release.slots,
            "roles": release.roles,
            "scope": release.scope,
            "endpoint": release.endpoint,
            "warnings": self.notes.iter().map(Trouble::line).collect::<Vec<_>>(),
            "steps": steps,
        });
        Ok(serde_json::to_string_pretty(&value).context("a proposal is JSON")? + "\n")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ignored_slots_stay_when_the_cluster_is_given_back() {
        let slot = |name: &str| Slot { name: name.to_owned(), plugin: None, database: None, active: false };
        let slots = ["pg2", "pg_receivewal_service"].map(slot);
        let removed = |config: &str| {
            let content = BTreeMap::from([("config".to_owned(), config.to_owned())]);
            slots_of_members(&slots, &content, None)
        };
        assert_eq!(removed(r#"{"ignore_slots": [{"name": "pg_receivewal_service", "type": "physical"}]}"#), ["pg2"]);
        assert_eq!(removed("{}"), ["pg2", "pg_receivewal_service"]);
        assert!(removed(r#"{"ignore_slots": [{"type": "physical"}]}"#).is_empty());
    }
}
