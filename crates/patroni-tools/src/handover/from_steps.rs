//! The steps of a take-over. Each can be repeated: it looks at what is there, as those of an adoption do.
//!
//! While the old Patroni is replaced, the cluster is in maintenance mode, in which PostgreSQL keeps running without Patroni. A member that
//! starts in maintenance mode does not start PostgreSQL, so from then on the next boot must end the maintenance mode: the new unit is
//! enabled before, and completes the take-over when it starts.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use host::{ClusterId, Root, clusters, fail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::doctor;
use crate::files::header::{Author, author};
use crate::files::install::{self, OF_PATRONI};
use crate::files::template::LOCAL;
use crate::handover::decision::Decision;
use crate::handover::groups::{self, Unit};
use crate::handover::journal::Journal;
use crate::handover::release_steps::knows_pause;
use crate::handover::steps::Work;
use crate::patroni::paths::{DIRECTORY, patroni_file};
use crate::patroni::patronictl::Patronictl;
use crate::patroni_yml::dnscp_file;
use crate::postgres::as_postgres;
use crate::postgres::place::Place;

/// What a take-over has decided.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TakeOver {
    pub(crate) base: Decision,
    /// Their file.
    pub(crate) file: PathBuf,
    /// Their unit.
    pub(crate) unit: String,
    /// Their Patroni, and when it was started.
    pub(crate) process: u32,
    pub(crate) started: u64,
    /// Is the configuration of PostgreSQL in the data directory?
    pub(crate) in_data_directory: bool,
    pub(crate) template: Option<String>,
    /// The name under which the administrator's template is kept, if there is one.
    pub(crate) template_before: Option<String>,
}

/// A step, in the order in which they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Writes the settings, and the files that they name.
    Settings,
    /// Writes the template.
    Template,
    /// Creates the role of `pg_rewind`, if they have none.
    Roles,
    /// Writes the configuration of PostgreSQL where postgresql-common has it, if it is in the data directory.
    Configuration,
    /// Writes the Patroni file.
    PatroniFile,
    /// Disables their unit, and enables `patroni@`.
    Enable,
    /// Sets maintenance mode.
    Pause,
    /// Moves the processes of the server into a scope.
    MoveOut,
    /// Stops their Patroni.
    StopPatroni,
    /// Makes the running server, which still reads its file in the data directory, read the new one.
    Include,
    /// Starts `patroni@`.
    Start,
    /// Moves the processes into the unit of Patroni.
    MoveIn,
    /// Waits until Patroni manages the server.
    Wait,
    /// Ends maintenance mode.
    Resume,
    /// Makes Patroni apply its parameters: it begins with those of a server that it finds running.
    Reload,
    /// Sets start.conf to manual, and puts their file aside.
    Finish,
}

impl Step {
    pub(crate) const ALL: [Self; 16] = [
        Self::Settings,
        Self::Template,
        Self::Roles,
        Self::Configuration,
        Self::PatroniFile,
        Self::Enable,
        Self::Pause,
        Self::MoveOut,
        Self::StopPatroni,
        Self::Include,
        Self::Start,
        Self::MoveIn,
        Self::Wait,
        Self::Resume,
        Self::Reload,
        Self::Finish,
    ];

    /// As it is called in the journal.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Template => "template",
            Self::Roles => "roles",
            Self::Configuration => "configuration",
            Self::PatroniFile => "patroni-file",
            Self::Enable => "enable",
            Self::Pause => "pause",
            Self::MoveOut => "move-out",
            Self::StopPatroni => "stop-patroni",
            Self::Include => "include",
            Self::Start => "start",
            Self::MoveIn => "move-in",
            Self::Wait => "wait",
            Self::Resume => "resume",
            Self::Reload => "reload",
            Self::Finish => "finish",
        }
    }
}

/// Records within the steps: who has set the maintenance mode.
const SET_PAUSE: &str = "set-pause";
const END_PAUSE: &str = "end-pause";

/// What the steps work on.
pub(crate) struct Steps<'a> {
    pub(crate) root: &'a Root,
    pub(crate) id: &'a ClusterId,
    pub(crate) decision: &'a TakeOver,
    pub(crate) journal: &'a Journal,
    pub(crate) common: Work<'a>,
}

/// How long Patroni may take to notice a change of the dynamic configuration, and to find its server.
const LONGEST: Duration = Duration::from_secs(90);

impl Steps<'_> {
    /// Takes all steps.
    pub(crate) fn run(&self) -> Result<()> {
        for step in Step::ALL {
            self.journal.step(step.name(), || self.take(step))?;
        }
        self.journal.close()
    }

    fn take(&self, step: Step) -> Result<()> {
        let (root, id) = (self.root, self.id);
        let (patroni, scope, theirs) = (Unit::Patroni.name(id), Unit::Scope.name(id), &self.decision.unit);
        match step {
            Step::Settings => self.common.settings(),
            Step::Template => self.template(),
            Step::Roles if self.found()?.is_some() && !self.decision.base.roles.is_empty() => self.common.roles(),
            Step::Configuration => self.configuration(),
            Step::PatroniFile => self.patroni_file(),
            Step::Enable => {
                if *theirs != patroni {
                    groups::systemctl(root, &["disable", theirs])?;
                }
                groups::systemctl(root, &["enable", &patroni])
            }
            Step::Pause if self.is_theirs() => self.pause(),
            Step::MoveOut => self.move_out(&scope),
            Step::StopPatroni if self.is_theirs() => {
                if !is_paused(&self.cluster()?.0)? {
                    fail!(
                        "maintenance mode has been ended by another program, so {theirs} was not stopped";
                        "Run this again."
                    );
                }
                groups::systemctl(root, &["stop", theirs])
            }
            Step::Include => self.include(),
            Step::Start if !groups::is_active(root, &patroni)? => groups::systemctl(root, &["start", &patroni]),
            Step::MoveIn if self.common.is_in(&scope)? => {
                let postmaster = self.found()?.map(|place| place.postmaster);
                groups::move_all(root, &scope, &patroni, postmaster)
            }
            Step::Wait => self.wait(),
            Step::Resume => self.resume(),
            Step::Reload if groups::is_started(root, &patroni)? => groups::systemctl(root, &["reload", &patroni]),
            Step::Finish => self.finish(),
            _ => Ok(()),
        }
    }

    fn found(&self) -> Result<Option<Place>> {
        self.common.found()
    }

    /// Does their Patroni still run?
    fn is_theirs(&self) -> bool {
        host::process::started(self.root, self.decision.process) == Some(self.decision.started)
    }

    fn template(&self) -> Result<()> {
        let Some(text) = &self.decision.template else { return Ok(()) };
        let (root, path) = (self.root, template_file());
        install::open_directory(root, Path::new(LOCAL))?;
        let present = root.read(&path)?;
        if present.as_deref() == Some(text) {
            return Ok(());
        }
        if let (Some(name), Some(present)) = (&self.decision.template_before, &present) {
            install::prepare(root, &Path::new(LOCAL).join(name), present, OF_PATRONI, None)?.put()?;
        }
        install::prepare(root, &path, text, OF_PATRONI, None)?.put()
    }

    /// All files that `pg_createcluster` creates. `postgresql.conf` is what their Patroni has written last, until ours writes it.
    fn configuration(&self) -> Result<()> {
        let (root, data) = (self.root, &self.decision.base.data_directory);
        let directory = clusters::config_directory(self.id);
        if !self.decision.in_data_directory || root.path(directory.join("start.conf")).exists() {
            return Ok(());
        }
        as_postgres::directory(root, &directory)?;
        let theirs = |name: &str| -> Result<String> {
            let text = root.for_postgres().read(data.join(name))?;
            text.with_context(|| format!("{} does not exist", data.join(name).display()))
        };
        let mut base = theirs("postgresql.base.conf")?;
        base.extend([format!("\n# The data directory of {}\ndata_directory = '{}'\n", self.id, data.display())]);
        for (name, text, mode) in [
            ("pg_hba.conf", theirs("pg_hba.conf")?, 0o640),
            ("pg_ident.conf", theirs("pg_ident.conf")?, 0o640),
            ("environment", String::new(), 0o644),
            ("pg_ctl.conf", "pg_ctl_options = ''\n".to_owned(), 0o644),
            ("postgresql.base.conf", base, 0o644),
            ("postgresql.conf", theirs("postgresql.conf")?, 0o644),
            ("start.conf", "manual\n".to_owned(), 0o644),
        ] {
            as_postgres::write(root, &directory.join(name), text.as_bytes(), mode)?;
        }
        Ok(())
    }

    /// Not a symbolic link: `pg_rewind` refuses one that is a file on the other member.
    fn include(&self) -> Result<()> {
        if !self.decision.in_data_directory || self.is_theirs() {
            return Ok(());
        }
        let conf = clusters::config_directory(self.id).join("postgresql.conf");
        let old = self.decision.base.data_directory.join("postgresql.conf");
        let text = format!("# Read until the next restart of PostgreSQL\ninclude '{}'\n", conf.display());
        let present = self.root.for_postgres().read(&old)?.unwrap_or_default();
        if present == text {
            return Ok(());
        }
        as_postgres::write(self.root, &conf, present.as_bytes(), 0o644)?;
        as_postgres::write(self.root, &old, text.as_bytes(), 0o600)
    }

    fn patroni_file(&self) -> Result<()> {
        let (config, text) = self.common.rendered()?;
        let path = patroni_file(self.id);
        let theirs = self.root.read(&path)?.is_some_and(|present| author(&present) == Author::Other);
        let old = PathBuf::from(format!("{}.old", path.display()));
        dnscp_file::install(self.root, &config, &text)?;
        install::install(self.root, &path, &text, theirs.then_some(old.as_path()))
    }

    fn cluster(&self) -> Result<(Patronictl<'_>, String)> {
        let yaml = self.common.written()?;
        let (scope, name) = (yaml.text(&["scope"]).unwrap_or_default(), yaml.text(&["name"]).unwrap_or_default());
        Ok((Patronictl::new(self.root, self.id, &scope)?, name))
    }

    /// Until their Patroni knows it: then it leaves the server alone when it is stopped.
    fn pause(&self) -> Result<()> {
        let (cluster, name) = self.cluster()?;
        if !self.has_paused() && is_paused(&cluster)? {
            fail!(
                "the cluster is in maintenance mode, perhaps because another member is being taken over";
                "Run this again when it has ended."
            );
        }
        self.journal.step(SET_PAUSE, || cluster.change(&json!({"pause": true})))?;
        let file = patroni_file(self.id);
        let text = self.root.read(&file)?.unwrap_or_default();
        let begin = Instant::now();
        loop {
            let content = doctor::dcs_content(self.root, self.id, &text)?;
            if knows_pause(&content, &name) {
                return Ok(());
            }
            if begin.elapsed() > LONGEST {
                self.journal.step(END_PAUSE, || cluster.change(&json!({"pause": null})))?;
                fail!(
                    "Patroni ({}) did not enter maintenance mode within {} s", self.decision.unit, LONGEST.as_secs();
                    "Nothing has been stopped. See: journalctl -u {}", self.decision.unit
                );
            }
            sleep(Duration::from_millis(300));
        }
    }

    fn move_out(&self, scope: &str) -> Result<()> {
        let Some(place) = self.found()? else { return Ok(()) };
        let group = groups::of_process(self.root, place.postmaster)?.unwrap_or_default();
        let ours = groups::of_unit(&Unit::Patroni.name(self.id));
        if group == groups::of_unit(scope) || group == ours && !self.is_theirs() {
            return Ok(());
        }
        if !groups::is_active(self.root, scope)? {
            groups::start_scope(self.root, self.id, place.postmaster)?;
        }
        groups::move_server(self.root, place.postmaster, scope)
    }

    /// Until Patroni leads or follows. After a boot in maintenance mode there is no server, and Patroni starts it when that has ended.
    fn wait(&self) -> Result<()> {
        let (cluster, name) = self.cluster()?;
        let begin = Instant::now();
        while let Some(place) = self.found()? {
            let recovery = place.sql(self.root, self.id, "SELECT pg_catalog.pg_is_in_recovery()");
            let members = cluster.members();
            let own = members.as_ref().ok().and_then(|members| members.iter().find(|member| member.name == name));
            let leads = own.is_some_and(|own| ["Leader", "Standby Leader"].contains(&own.role.as_str()));
            let runs = own.is_some_and(|own| ["running", "streaming"].contains(&own.state.as_str()));
            let primary = recovery.is_ok_and(|recovery| recovery.trim() == "f");
            if runs && (leads || !primary) && groups::is_active(self.root, &Unit::Patroni.name(self.id))? {
                return Ok(());
            }
            if begin.elapsed() > LONGEST {
                let state = own.map_or("not a member".to_owned(), |own| format!("{} ({})", own.role, own.state));
                members?;
                fail!(
                    "Patroni does not manage {} after {} s: it is {state}", self.id, LONGEST.as_secs();
                    "The cluster is in maintenance mode. See 'journalctl -u {}', and run this again when the reason is gone.",
                    Unit::Patroni.name(self.id)
                );
            }
            sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Is the maintenance mode that of this take-over? It may also be that of another member's, which must not be ended.
    fn has_paused(&self) -> bool {
        self.journal.begun(SET_PAUSE) > self.journal.begun(END_PAUSE)
    }

    /// The configuration is changed in the DCS: `patronictl resume` needs a member that answers.
    fn resume(&self) -> Result<()> {
        if !self.has_paused() {
            return Ok(());
        }
        let (cluster, _) = self.cluster()?;
        if is_paused(&cluster)? {
            cluster.change(&json!({"pause": null}))?;
        }
        self.journal.step(END_PAUSE, || Ok(()))
    }

    fn finish(&self) -> Result<()> {
        let file = &self.decision.file;
        if *file != patroni_file(self.id) && file.parent() == Some(Path::new(DIRECTORY)) {
            let (from, to) = (self.root.path(file), self.root.path(format!("{}.old", file.display())));
            if from.symlink_metadata().is_ok() {
                std::fs::rename(&from, &to).with_context(|| format!("could not rename {}", file.display()))?;
            }
        }
        self.common.finish()
    }
}

fn is_paused(cluster: &Patronictl) -> Result<bool> {
    Ok(cluster.configuration()?.is_some_and(|config| config.get(&["pause"]) == Some(&Value::Bool(true))))
}

/// The administrator's template.
pub(crate) fn template_file() -> PathBuf {
    Path::new(LOCAL).join("patroni.yml.j2")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<&str> = Step::ALL.iter().map(|step| step.name()).collect();
        assert_eq!(names.len(), Step::ALL.len());
    }
}
