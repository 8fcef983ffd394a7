//! The steps of an adoption. Each can be repeated: it looks at what is there, not at what an earlier run did, since a power cut undoes
//! what was only in memory.
//!
//! Up to `enable`, the next boot gives the server to postgresql-common, as it was; from then on to Patroni, for which everything is
//! prepared by then. So the cluster accepts writes after a power cut at any point.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use host::members::slot_name;
use host::report::Reporter;
use host::{ClusterId, Root, envfile, fail, scram, settings};
use serde_json::{Value, json};

use crate::files::install::{self, OF_PATRONI, READABLE};
use crate::files::yaml::Yaml;
use crate::handover::decision::{Decision, Line, NewRole, Way};
use crate::handover::groups::{self, STOPS_NOTHING, Unit};
use crate::handover::journal::Journal;
use crate::patroni::paths::patroni_file;
use crate::patroni::patronictl::Patronictl;
use crate::patroni_yml::dnscp_file;
use crate::patroni_yml::inputs::{self, Overrides};
use crate::postgres::as_postgres;
use crate::postgres::place::Place;
use crate::postgres::roles::{self, Login, Purpose};

/// A step, in the order in which they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Writes the settings of the cluster, and the files that they name.
    Settings,
    /// Creates the roles of the members.
    Roles,
    /// Writes the Patroni file.
    PatroniFile,
    /// Writes Patroni's copy of the dynamic configuration, which shows that Patroni manages the data.
    DynamicCopy,
    /// Makes the stop of `postgresql@` stop nothing.
    HoldUnit,
    /// Moves the processes into a scope.
    MoveOut,
    /// Stops `postgresql@`, which has no process any more.
    ForgetServer,
    /// Writes a checkpoint, so that the shutdown is short.
    Checkpoint,
    /// Stops the server.
    StopServer,
    /// Enables `patroni@`.
    Enable,
    /// Starts `patroni@`.
    Start,
    /// Moves the processes into the unit of Patroni.
    MoveIn,
    /// Waits until Patroni leads, or streams.
    Wait,
    /// Makes Patroni apply its parameters: it begins with those of a server that it finds running.
    Reload,
    /// Removes the slot that a standby had before, when it streams through that of Patroni.
    OldSlot,
    /// Sets start.conf to manual, and gives `postgresql@` its own stop again.
    Finish,
}

impl Step {
    /// The steps of a way.
    pub(crate) fn of(way: Way) -> &'static [Self] {
        match way {
            Way::Move => &[
                Self::Settings,
                Self::Roles,
                Self::PatroniFile,
                Self::DynamicCopy,
                Self::HoldUnit,
                Self::MoveOut,
                Self::ForgetServer,
                Self::Enable,
                Self::Start,
                Self::MoveIn,
                Self::Wait,
                Self::Reload,
                Self::OldSlot,
                Self::Finish,
            ],
            Way::Restart => &[
                Self::Settings,
                Self::Roles,
                Self::PatroniFile,
                Self::DynamicCopy,
                Self::Checkpoint,
                Self::StopServer,
                Self::Enable,
                Self::Start,
                Self::Wait,
                Self::OldSlot,
                Self::Finish,
            ],
        }
    }

    /// As it is called in the journal.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Roles => "roles",
            Self::PatroniFile => "patroni-file",
            Self::DynamicCopy => "dynamic-copy",
            Self::HoldUnit => "hold-unit",
            Self::MoveOut => "move-out",
            Self::ForgetServer => "forget-server",
            Self::Checkpoint => "checkpoint",
            Self::StopServer => "stop-server",
            Self::Enable => "enable",
            Self::Start => "start",
            Self::MoveIn => "move-in",
            Self::Wait => "wait",
            Self::Reload => "reload",
            Self::OldSlot => "old-slot",
            Self::Finish => "finish",
        }
    }
}

/// What the steps work on.
pub(crate) struct Work<'a> {
    pub(crate) root: &'a Root,
    pub(crate) id: &'a ClusterId,
    pub(crate) decision: &'a Decision,
    pub(crate) journal: &'a Journal,
    pub(crate) reporter: &'a Reporter,
}

/// What stands before the lines that an adoption adds to the settings.
pub(crate) const MARK: &str = "# Taken over by pg_adoptcluster_patroni from the running cluster.";

impl Work<'_> {
    /// Takes all steps.
    pub(crate) fn run(&self) -> Result<()> {
        for step in Step::of(self.decision.way) {
            self.journal.step(step.name(), || self.take(*step))?;
        }
        Ok(())
    }

    fn take(&self, step: Step) -> Result<()> {
        let (root, id) = (self.root, self.id);
        let (debian, patroni, scope) = (Unit::Debian.name(id), Unit::Patroni.name(id), Unit::Scope.name(id));
        match step {
            Step::Settings => self.settings(),
            // With --restart, an earlier run may have stopped the server.
            Step::Roles if self.found()?.is_none() && self.journal.has_done(step.name())? => Ok(()),
            Step::Roles => self.roles(),
            Step::PatroniFile => self.patroni_file(),
            Step::DynamicCopy => self.dynamic_copy(),
            Step::HoldUnit if self.is_in(&debian)? => groups::hold(root, &debian, STOPS_NOTHING),
            Step::MoveOut if self.is_in(&debian)? => {
                let postmaster = self.place()?.postmaster;
                if !groups::is_active(root, &scope)? {
                    groups::start_scope(root, id, postmaster)?;
                }
                groups::move_all(root, &debian, &scope, Some(postmaster))
            }
            Step::ForgetServer | Step::StopServer if groups::is_active(root, &debian)? => {
                groups::systemctl(root, &["stop", &debian])
            }
            Step::Checkpoint if self.is_in(&debian)? => self.place()?.sql(root, id, "CHECKPOINT").map(drop),
            Step::Enable => groups::systemctl(root, &["enable", &patroni]),
            Step::Start if !groups::is_active(root, &patroni)? => groups::systemctl(root, &["start", &patroni]),
            Step::MoveIn if self.is_in(&scope)? => {
                let postmaster = self.found()?.map(|place| place.postmaster);
                groups::move_all(root, &scope, &patroni, postmaster)
            }
            Step::Wait => self.wait(),
            Step::Reload => groups::systemctl(root, &["reload", &patroni]),
            Step::OldSlot => self.old_slot(),
            Step::Finish => self.finish(),
            _ => Ok(()),
        }
    }

    pub(crate) fn is_in(&self, unit: &str) -> Result<bool> {
        Ok(!groups::processes(self.root, unit)?.is_empty())
    }

    pub(crate) fn found(&self) -> Result<Option<Place>> {
        Place::find(self.root, self.id, &self.decision.data_directory, &self.decision.superuser)
    }

    pub(crate) fn place(&self) -> Result<Place> {
        let (version, name) = (&self.id.version, &self.id.name);
        match self.found()? {
            Some(place) => Ok(place),
            None => fail!(
                "the server of {} is not running", self.id;
                "Start it, and run this again: pg_ctlcluster {version} {name} start"
            ),
        }
    }

    pub(crate) fn settings(&self) -> Result<()> {
        for file in &self.decision.files {
            install::prepare(self.root, &file.path, &file.text, OF_PATRONI, None)?.put()?;
        }
        let path = settings::cluster_file(self.id);
        let present = self.root.read(&path)?.unwrap_or_default();
        let text = with_lines(&present, self.decision);
        if text == present {
            return Ok(());
        }
        install::prepare(self.root, &path, &text, READABLE, None)?.put()
    }

    /// The Patroni file as it will be, after the settings have been written.
    pub(crate) fn rendered(&self) -> Result<(crate::patroni_yml::config::Config, String)> {
        let settings = inputs::settings(self.root, &Overrides::default(), Some(self.id))?;
        let Some(key) = inputs::site_key(self.root, &settings)? else {
            fail!("the site key is missing"; "Copy it from another member to {}", inputs::site_key_path(&settings)?.display());
        };
        let present = self.root.read(patroni_file(self.id))?;
        inputs::render(self.root, &Overrides::default(), self.id, &settings, &key, present.as_deref())
    }

    /// In one transaction, which waits for no standby, as Patroni itself creates them (`Bootstrap.post_bootstrap`).
    pub(crate) fn roles(&self) -> Result<()> {
        let place = self.place()?;
        let recovery = place.sql(self.root, self.id, "SELECT pg_catalog.pg_is_in_recovery()")?;
        if recovery.trim() == "t" {
            return Ok(());
        }
        let (_, text) = self.rendered()?;
        let yaml = Yaml::parse(&patroni_file(self.id), &text)?;
        place.sql(self.root, self.id, &statements(&yaml, self.decision)?).map(drop)
    }

    fn patroni_file(&self) -> Result<()> {
        let (config, text) = self.rendered()?;
        if let Some(directory) = config.raft_directory() {
            install::directory(self.root, directory)?;
        }
        dnscp_file::install(self.root, &config, &text)?;
        install::install(self.root, &patroni_file(self.id), &text, None)
    }

    /// The Patroni file as it was written.
    pub(crate) fn written(&self) -> Result<Yaml> {
        let file = patroni_file(self.id);
        Yaml::parse(&file, &self.root.read(&file)?.unwrap_or_default())
    }

    fn dynamic_copy(&self) -> Result<()> {
        let path = self.decision.data_directory.join("patroni.dynamic.json");
        // One that was there before is of another time, and Patroni would prefer it to its file.
        let is_present = self.root.path(&path).symlink_metadata().is_ok();
        if self.decision.running.recovery || is_present && self.journal.has_done(Step::Start.name())? {
            return Ok(());
        }
        let yaml = self.written()?;
        let dynamic = yaml.get(&["bootstrap", "dcs"]).unwrap_or(&Value::Null);
        as_postgres::write(self.root, &path, dynamic.to_string().as_bytes(), 0o600)
    }

    /// Until Patroni holds the lock for a primary, or a standby streams.
    fn wait(&self) -> Result<()> {
        const LONGEST: Duration = Duration::from_secs(90);
        let yaml = self.written()?;
        let (scope, name) = (yaml.text(&["scope"]).unwrap_or_default(), yaml.text(&["name"]).unwrap_or_default());
        let cluster = Patronictl::new(self.root, self.id, &scope)?;
        let begin = Instant::now();
        loop {
            let members = cluster.members();
            let own = members.as_ref().ok().and_then(|members| members.iter().find(|member| member.name == name));
            let ready = own.is_some_and(|own| {
                if self.decision.running.recovery {
                    ["running", "streaming"].contains(&own.state.as_str())
                } else {
                    ["Leader", "Standby Leader"].contains(&own.role.as_str()) && own.state == "running"
                }
            });
            // A primary puts the configuration into the DCS only in its next loop, and nothing can be applied to it before.
            if ready && cluster.configuration().is_ok_and(|configuration| configuration.is_some()) {
                return Ok(());
            }
            if begin.elapsed() > LONGEST {
                let state = own_state(own);
                members?;
                fail!(
                    "{} is not ready under Patroni after {} s: {state}", self.id, LONGEST.as_secs();
                    "Find the cause with 'journalctl -u {}', and run this again when it is removed.", Unit::Patroni.name(self.id)
                );
            }
            sleep(Duration::from_millis(300));
        }
    }

    /// The name of the slot is that of the standby as it ran under postgresql-common. The primary keeps it as long as it is in the DCS.
    fn old_slot(&self) -> Result<()> {
        const LONGEST: Duration = Duration::from_secs(60);
        let old = self.decision.running.value("primary_slot_name");
        let yaml = self.written()?;
        let cluster = Patronictl::new(self.root, self.id, &yaml.text(&["scope"]).unwrap_or_default())?;
        let has_slot = || -> Result<bool> {
            Ok(!old.is_empty() && cluster.configuration()?.is_some_and(|config| config.get(&["slots", old]).is_some()))
        };
        if !self.decision.running.recovery || !has_slot()? {
            return Ok(());
        }
        let place = self.place()?;
        let slot_of_member = slot_name(&yaml.text(&["name"]).unwrap_or_default());
        let begin = Instant::now();
        let streams =
            "SELECT count(*) FROM pg_catalog.pg_stat_wal_receiver WHERE status = 'streaming' AND slot_name <> ''";
        loop {
            let slot = place.sql(self.root, self.id, "SELECT pg_catalog.current_setting('primary_slot_name')")?;
            // A slot with the name of the member is that of Patroni, too.
            let own = slot.trim() != old || old == slot_of_member;
            if own && place.sql(self.root, self.id, streams)?.trim() == "1" {
                break;
            }
            if begin.elapsed() > LONGEST {
                fail!(
                    "{} does not stream through a slot of Patroni after {} s, so the slot {old} is kept", self.id, LONGEST.as_secs();
                    "Find the cause with 'journalctl -u {}', and run this again when the standby streams.", Unit::Patroni.name(self.id)
                );
            }
            sleep(Duration::from_millis(500));
        }
        cluster.change(&json!({"slots": {old: null}}))?;
        self.reporter.info(format!(
            "{}: removed the slot {old} from the cluster; remove it from SLOTS in {} on every member as well",
            self.id,
            settings::cluster_file(self.id).display()
        ));
        Ok(())
    }

    pub(crate) fn finish(&self) -> Result<()> {
        let directory = host::clusters::config_directory(self.id);
        let start = directory.join("start.conf");
        if self.root.path(&directory).is_dir() {
            let text = self.root.for_postgres().read(&start)?.unwrap_or_default();
            let manual = with_word(&text, "manual");
            if manual != text {
                as_postgres::write(self.root, &start, manual.as_bytes(), 0o644)?;
            }
        }
        groups::free(self.root, &Unit::Debian.name(self.id))
    }
}

fn own_state(own: Option<&crate::patroni::patronictl::Member>) -> String {
    own.map_or_else(|| "it is not a member yet".to_owned(), |own| format!("{} is {}", own.name, own.state))
}

/// `start.conf` with another word in place of the one in it.
pub(crate) fn with_word(text: &str, new: &str) -> String {
    if text.lines().any(|line| word(line) == new) {
        return text.to_owned();
    }
    let lines: Vec<&str> = text.lines().map(|line| if word(line).is_empty() { line } else { new }).collect();
    let lines = lines.join("\n") + "\n";
    if lines.lines().any(|line| line == new) { lines } else { format!("{lines}{new}\n") }
}

/// What a line of `start.conf` says, without its comment.
fn word(line: &str) -> &str {
    line.split('#').next().unwrap_or_default().trim()
}

/// The settings with the lines of the decision that are not there yet.
pub(crate) fn with_lines(present: &str, decision: &Decision) -> String {
    let is_there =
        |line: &&Line| !present.lines().any(|there| there.trim_start().starts_with(&format!("{}=", line.key)));
    let missing: Vec<&Line> = decision.settings.iter().filter(is_there).collect();
    let mut text = present.to_owned();
    if missing.is_empty() {
        return text;
    }
    if !text.is_empty() {
        text += if text.ends_with('\n') { "\n" } else { "\n\n" };
    }
    text.extend([MARK, "\n"]);
    for line in missing {
        let origin: String = line.origin.chars().map(|c| if c.is_control() || c == '\\' { '?' } else { c }).collect();
        text.extend(["# ", &origin, "\n", &line.key, "=", &envfile::quote(&line.value), "\n"]);
    }
    text
}

/// Creates the roles, or gives those of an earlier run what they need.
fn statements(yaml: &Yaml, decision: &Decision) -> Result<String> {
    let login = |role: &NewRole| {
        let section = match role.purpose {
            Purpose::Replication => "replication",
            Purpose::Rewind => "rewind",
        };
        let password = yaml.text(&["postgresql", "authentication", section, "password"]);
        let verifier = password.map(|password| scram::verifier(&password)).transpose()?;
        Ok(Login { name: role.name.clone(), purpose: Some(role.purpose), verifier })
    };
    roles::statements(&decision.roles.iter().map(login).collect::<Result<Vec<_>>>()?)
}

/// The kept copy of a path, by a name that is no path.
pub(crate) fn copy_name(path: &Path) -> String {
    path.display().to_string().trim_start_matches('/').replace('/', "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_conf_keeps_its_comments() {
        assert_eq!(
            with_word("# Automatic startup\n# auto, manual or disabled\n\nauto\n", "manual"),
            "# Automatic startup\n# auto, manual or disabled\n\nmanual\n"
        );
        assert_eq!(with_word("manual # by me\n", "manual"), "manual # by me\n");
        assert_eq!(with_word("", "auto"), "\nauto\n");
    }

    #[test]
    fn every_step_has_a_name_of_its_own_and_is_in_the_manual() {
        for way in [Way::Move, Way::Restart] {
            let names: std::collections::BTreeSet<&str> = Step::of(way).iter().map(|step| step.name()).collect();
            assert_eq!(names.len(), Step::of(way).len());
            for name in names {
                let manual = include_str!("../../../../docs/man/pg_adoptcluster_patroni.8.scd");
                assert!(manual.contains(&format!("*{name}*")), "pg_adoptcluster_patroni(8) lacks {name}");
            }
        }
    }
}
