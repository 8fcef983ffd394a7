//! The steps that give a cluster back. Each can be repeated: it looks at what is there, not at what an earlier run did, since a power cut
//! undoes what was only in memory.
//!
//! Up to `disable`, the next boot gives the server to Patroni, which is not paused by then; from then on to postgresql-common. Its
//! `postgresql.conf` is either that of Patroni, which includes all that a server of postgresql-common needs, or the one that comes back;
//! one takes the place of the other at once. So the cluster accepts writes after a power cut at any point.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use host::report::Reporter;
use host::{ClusterId, Root, fail, program};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::doctor;
use crate::files::install::{self, READABLE, Rights};
use crate::handover::decision::{Difference, Way};
use crate::handover::groups::{self, STOPS_NOTHING, STOPS_PATRONI_ALONE, Unit};
use crate::handover::journal::Journal;
use crate::handover::returned::Parameter;
use crate::handover::running::Running;
use crate::patroni::paths::{HOOKS, patroni_file};
use crate::patroni::patronictl::Patronictl;
use crate::postgres::as_postgres;
use crate::postgres::place::Place;

/// What is decided before the first step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Release {
    /// Version and name, as in `17/main`.
    pub(crate) cluster: String,
    /// Seconds since 1970.
    pub(crate) decided: u64,
    pub(crate) way: Way,
    /// Was it adopted, or has Patroni created it?
    pub(crate) adopted: bool,
    /// Is it the undoing of an adoption that was not completed?
    pub(crate) unfinished: bool,
    /// Is it a standby, and remains one?
    pub(crate) standby: bool,
    pub(crate) data_directory: PathBuf,
    pub(crate) superuser: String,
    /// The scope, and this member's name in it; empty without a Patroni file.
    pub(crate) scope: String,
    pub(crate) member: String,
    /// The server as it is; none if it does not run.
    pub(crate) running: Option<Running>,
    pub(crate) kept: Vec<Parameter>,
    /// What a standby had, and Patroni may have removed.
    pub(crate) of_standby: Vec<Parameter>,
    pub(crate) differences: Vec<Difference>,
    /// `start.conf`.
    pub(crate) start: Option<Change>,
    /// Files that belong to postgres, in this order.
    pub(crate) files: Vec<Change>,
    /// Files of root in /etc/default and /etc/patroni.
    pub(crate) settings: Vec<Change>,
    /// The slots of members.
    pub(crate) slots: Vec<String>,
    /// The roles of members.
    pub(crate) roles: Vec<String>,
    /// The virtual addresses and the name of the client endpoint.
    pub(crate) endpoint: Vec<String>,
}

impl Release {
    /// Will a parameter have another value?
    pub(crate) fn is_changed(&self, name: &str) -> bool {
        self.differences.iter().any(|found| found.name == name)
    }

    /// Does a parameter keep the value of Patroni?
    pub(crate) fn is_kept(&self, name: &str) -> bool {
        self.kept.iter().any(|kept| kept.name == name)
    }
}

/// A change of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Change {
    /// It gets the text of a copy in the journal.
    Write { path: PathBuf, copy: String, mode: u32, uid: u32, gid: u32 },
    /// It gets another name.
    Rename { from: PathBuf, to: PathBuf },
    /// It is removed.
    Remove { path: PathBuf },
}

/// A step, in the order in which they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Sets start.conf to what it was. As long as `patroni@` is enabled, that has no effect.
    StartConf,
    /// Disables `patroni@`.
    Disable,
    /// Pauses the Patroni cluster.
    Pause,
    /// Stops Patroni, which leaves the server running.
    StopPatroni,
    /// Moves the processes into a scope.
    MoveOut,
    /// Writes a checkpoint, so that the shutdown is short.
    Checkpoint,
    /// Stops Patroni and the server.
    StopServer,
    /// Gives the files of postgres back.
    Files,
    /// Makes the server read them.
    Reload,
    /// Starts `postgresql@`, which takes the processes from the scope, or starts the server.
    Start,
    /// Ends a recovery into which Patroni may have put a primary, or tells a standby its primary again.
    Role,
    /// Gives the units their own properties again.
    Finish,
    /// Drops the slots of members.
    Slots,
    /// Removes the scope from the DCS.
    Dcs,
    /// Gives up the client endpoint.
    Endpoint,
    /// Gives the files of root back.
    Settings,
}

impl Step {
    /// The steps of a way.
    pub(crate) fn of(way: Way) -> &'static [Self] {
        match way {
            Way::Move => &[
                Self::StartConf,
                Self::Disable,
                Self::Pause,
                Self::StopPatroni,
                Self::MoveOut,
                Self::Files,
                Self::Reload,
                Self::Start,
                Self::Role,
                Self::Finish,
                Self::Slots,
                Self::Dcs,
                Self::Endpoint,
                Self::Settings,
            ],
            Way::Restart => &[
                Self::StartConf,
                Self::Disable,
                Self::Checkpoint,
                Self::StopServer,
                Self::Files,
                Self::Start,
                Self::Role,
                Self::Finish,
                Self::Slots,
                Self::Dcs,
                Self::Endpoint,
                Self::Settings,
            ],
        }
    }

    /// As it is called in the journal.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::StartConf => "start-conf",
            Self::Disable => "disable",
            Self::Pause => "pause",
            Self::StopPatroni => "stop-patroni",
            Self::MoveOut => "move-out",
            Self::Checkpoint => "checkpoint",
            Self::StopServer => "stop-server",
            Self::Files => "files",
            Self::Reload => "reload",
            Self::Start => "start",
            Self::Role => "role",
            Self::Finish => "finish",
            Self::Slots => "slots",
            Self::Dcs => "dcs",
            Self::Endpoint => "endpoint",
            Self::Settings => "settings",
        }
    }
}

/// What the steps work on.
pub(crate) struct Work<'a> {
    pub(crate) root: &'a Root,
    pub(crate) id: &'a ClusterId,
    pub(crate) release: &'a Release,
    pub(crate) journal: &'a Journal,
    pub(crate) reporter: &'a Reporter,
}

impl Work<'_> {
    /// Takes all steps.
    pub(crate) fn run(&self) -> Result<()> {
        for step in Step::of(self.release.way) {
            self.journal.step(step.name(), || self.take(*step))?;
        }
        Ok(())
    }

    fn take(&self, step: Step) -> Result<()> {
        let (root, id) = (self.root, self.id);
        let (patroni, scope) = (Unit::Patroni.name(id), Unit::Scope.name(id));
        match step {
            // The administrator may have changed the files since.
            Step::StartConf | Step::Files if self.journal.has_done(Step::Finish.name())? => Ok(()),
            Step::StartConf => self.release.start.iter().try_for_each(|change| self.change(change)),
            Step::Disable => groups::systemctl(root, &["disable", &patroni]),
            Step::Pause if groups::is_active(root, &patroni)? => self.pause(),
            Step::StopPatroni if groups::is_active(root, &patroni)? => self.stop_patroni(),
            Step::MoveOut if self.is_in(&patroni)? => {
                let postmaster = self.found()?.map(|place| place.postmaster);
                let processes = groups::processes(root, &patroni)?;
                let Some(first) = postmaster.filter(|pid| processes.contains(pid)).or(processes.first().copied())
                else {
                    return Ok(());
                };
                if !groups::is_active(root, &scope)? {
                    groups::start_scope(root, id, first)?;
                }
                groups::move_all(root, &patroni, &scope, postmaster)
            }
            Step::Checkpoint => match self.found()? {
                Some(place) => place.sql(root, id, "CHECKPOINT").map(drop),
                None => Ok(()),
            },
            Step::StopServer => self.stop_server(),
            Step::Files => self.release.files.iter().try_for_each(|change| self.change(change)),
            Step::Reload => match self.found()? {
                Some(place) => place.sql(root, id, "SELECT pg_catalog.pg_reload_conf()").map(drop),
                None => Ok(()),
            },
            Step::Start => self.start(),
            Step::Role => self.role(),
            Step::Finish => {
                groups::free(root, &Unit::Debian.name(id))?;
                groups::free(root, &patroni)
            }
            Step::Slots => self.slots(),
            Step::Dcs => self.dcs(),
            Step::Endpoint => self.endpoint(),
            Step::Settings => self.release.settings.iter().try_for_each(|change| self.change_of_root(change)),
            Step::Pause | Step::StopPatroni | Step::MoveOut => Ok(()),
        }
    }

    fn is_in(&self, unit: &str) -> Result<bool> {
        Ok(!groups::processes(self.root, unit)?.is_empty())
    }

    fn found(&self) -> Result<Option<Place>> {
        Place::find(self.root, self.id, &self.release.data_directory, &self.release.superuser)
    }

    fn place(&self) -> Result<Place> {
        let place = self.found()?;
        place.with_context(|| format!("the server of {} is not running", self.id))
    }

    fn content(&self) -> Result<BTreeMap<String, String>> {
        let text = self.root.read(patroni_file(self.id))?.unwrap_or_default();
        doctor::dcs_content(self.root, self.id, &text)
    }

    /// A member that holds no lock is not paused: that would be maintenance mode for all others, and it may know no cluster at all.
    fn pause(&self) -> Result<()> {
        const LONGEST: Duration = Duration::from_secs(60);
        let content = self.content()?;
        if !self.release.standby {
            refuse_others(self.id, &content, &self.release.member)?;
        }
        if !self.leads(&content) {
            return Ok(());
        }
        let cluster = Patronictl::new(self.root, self.id, &self.release.scope)?;
        let begin = Instant::now();
        loop {
            let content = self.content()?;
            if knows_pause(&content, &self.release.member) {
                return Ok(());
            }
            // A leader of a few seconds refuses, because the cluster has no configuration yet.
            let asked = if is_paused(&content) { Ok(()) } else { cluster.pause() };
            if begin.elapsed() > LONGEST {
                asked?;
                fail!(
                    "Patroni has not paused {} after {} s", self.id, LONGEST.as_secs();
                    "See 'journalctl -u {}'. Run this again when the reason is gone.", Unit::Patroni.name(self.id)
                );
            }
            sleep(Duration::from_millis(300));
        }
    }

    fn leads(&self, content: &BTreeMap<String, String>) -> bool {
        content.get("leader") == Some(&self.release.member)
    }

    /// Patroni stops its server when it is stopped, except in pause. A member that holds no lock has no watchdog either, so it may be
    /// killed.
    fn stop_patroni(&self) -> Result<()> {
        let (root, patroni) = (self.root, Unit::Patroni.name(self.id));
        // It may have acquired the lock since.
        self.pause()?;
        let content = self.content()?;
        let paused = is_paused(&content) && knows_pause(&content, &self.release.member);
        if self.leads(&content) && !paused {
            fail!("{} is not paused any more", self.id; "Run this again.");
        }
        if !paused {
            groups::hold(root, &patroni, STOPS_PATRONI_ALONE)?;
        }
        groups::systemctl(root, &["stop", &patroni])?;
        groups::free(root, &patroni)
    }

    fn stop_server(&self) -> Result<()> {
        let (root, id) = (self.root, self.id);
        let (debian, patroni, scope) = (Unit::Debian.name(id), Unit::Patroni.name(id), Unit::Scope.name(id));
        if groups::is_active(root, &patroni)? {
            groups::systemctl(root, &["stop", &patroni])?;
        }
        // Patroni in pause leaves it running, and an adoption that was not completed may have left it in the scope.
        if self.is_in(&patroni)? || self.is_in(&scope)? {
            let mut stop = program::command(root, "pg_ctlcluster")?;
            stop.args(["--skip-systemctl-redirect", "--mode", "fast", &id.dashed(), "stop"]);
            groups::succeed(&mut stop, "")?;
        }
        if !self.is_in(&debian)? && groups::is_active(root, &debian)? {
            groups::hold(root, &debian, STOPS_NOTHING)?;
            groups::systemctl(root, &["stop", &debian])?;
            groups::free(root, &debian)?;
        }
        Ok(())
    }

    fn start(&self) -> Result<()> {
        let (root, id) = (self.root, self.id);
        let (debian, scope) = (Unit::Debian.name(id), Unit::Scope.name(id));
        if self.is_in(&debian)? && !self.is_in(&scope)? {
            return Ok(());
        }
        // It believes that a server is running which is in the scope.
        if groups::is_active(root, &debian)? {
            groups::hold(root, &debian, STOPS_NOTHING)?;
            groups::systemctl(root, &["stop", &debian])?;
        }
        groups::hold(root, &debian, &groups::takes_from_scope(id))?;
        if self.is_in(&scope)? {
            let text = format!("{}\n", self.place()?.postmaster);
            let file = PathBuf::from(format!("/run/postgresql/{}.pid", id.dashed()));
            if root.for_postgres().read(&file)?.as_deref().map(str::trim) != Some(text.trim()) {
                as_postgres::write(root, &file, text.as_bytes(), 0o644)?;
            }
        }
        groups::systemctl(root, &["start", &debian])?;
        let place = self.place()?;
        if !groups::processes(root, &debian)?.contains(&place.postmaster) {
            fail!("{debian} has not taken the server of {id}"; "See 'systemctl status {debian}', and run this again.");
        }
        Ok(())
    }

    fn role(&self) -> Result<()> {
        let place = self.place()?;
        let ask = |sql: &str| place.sql(self.root, self.id, sql);
        if self.release.standby {
            for Parameter { name, value } in &self.release.of_standby {
                let value = value.replace('\'', "''");
                ask(&format!(
                    "SELECT 'ALTER SYSTEM SET {name} = ' || pg_catalog.quote_literal('{value}') \
                     WHERE pg_catalog.current_setting('{name}') <> '{value}' \\gexec\nSELECT pg_catalog.pg_reload_conf()"
                ))?;
            }
            return Ok(());
        }
        if ask("SELECT pg_catalog.pg_is_in_recovery()")?.trim() == "t" {
            ask("SELECT pg_catalog.pg_promote()")?;
            self.reporter.info(format!("{}: Patroni had made it a standby, so it has been promoted", self.id));
        }
        Ok(())
    }

    fn slots(&self) -> Result<()> {
        if self.release.slots.is_empty() {
            return Ok(());
        }
        let names: Vec<String> =
            self.release.slots.iter().map(|name| format!("'{}'", name.replace('\'', "''"))).collect();
        let sql = format!(
            "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
             WHERE NOT active AND slot_type = 'physical' AND slot_name IN ({})",
            names.join(", ")
        );
        self.place()?.sql(self.root, self.id, &sql).map(drop)
    }

    /// A member that was stopped properly leaves a key until its lease has ended; it counts only as long as it says that it runs.
    fn dcs(&self) -> Result<()> {
        if self.release.standby || self.root.read(patroni_file(self.id))?.is_none() {
            return Ok(());
        }
        let content = self.content()?;
        if content.is_empty() {
            return Ok(());
        }
        refuse_others(self.id, &content, &self.release.member)?;
        let leader = content.get("leader").map(String::as_str).filter(|leader| !leader.is_empty());
        Patronictl::new(self.root, self.id, &self.release.scope)?.remove(leader)
    }

    /// As the unit of Patroni does when Patroni was killed, because the address is not renewed any more.
    fn endpoint(&self) -> Result<()> {
        let (root, id) = (self.root, self.id);
        if self.release.endpoint.is_empty() || self.root.read(patroni_file(id))?.is_none() {
            return Ok(());
        }
        groups::systemctl(root, &["stop", &format!("dnscp@{}.service", id.dashed())])?;
        let mut dnscp: Command = program::at(&root.path(Path::new(HOOKS).join("dnscp")));
        dnscp.args(["--stopped", &id.dashed()]).env_remove("EXIT_CODE").env_remove("EXIT_STATUS");
        groups::succeed(&mut dnscp, "")
    }

    /// Changes a file of postgres.
    fn change(&self, change: &Change) -> Result<()> {
        let root = self.root;
        match change {
            Change::Write { path, copy, mode, .. } => {
                let bytes = self.journal.kept(copy)?;
                if root.for_postgres().bytes(path)?.as_ref() == Some(&bytes) && mode_of(root, path) == Some(*mode) {
                    return Ok(());
                }
                as_postgres::write(root, path, &bytes, *mode)
            }
            Change::Rename { from, .. } if root.path(from).symlink_metadata().is_err() => Ok(()),
            Change::Rename { from, to } => as_postgres::rename(root, from, to),
            Change::Remove { path } => as_postgres::remove(root, path),
        }
    }

    /// Changes a file in a directory of root.
    fn change_of_root(&self, change: &Change) -> Result<()> {
        match change {
            Change::Write { path, copy, mode, uid, gid } => {
                let text = String::from_utf8(self.journal.kept(copy)?)?;
                install::prepare(self.root, path, &text, Rights { mode: *mode, ..READABLE }, None)?.put()?;
                std::os::unix::fs::chown(self.root.path(path), Some(*uid), Some(*gid))
                    .with_context(|| format!("could not change the owner of {}", path.display()))
            }
            Change::Rename { from, to } => std::fs::rename(self.root.path(from), self.root.path(to))
                .with_context(|| format!("could not rename {}", from.display())),
            Change::Remove { path } => match std::fs::remove_file(self.root.path(path)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(error).with_context(|| format!("could not remove {}", path.display()))
                }
                _ => Ok(()),
            },
        }
    }
}

fn mode_of(root: &Root, path: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    root.path(path).symlink_metadata().ok().map(|found| found.mode() & 0o7777)
}

fn is_paused(content: &BTreeMap<String, String>) -> bool {
    let config: Option<Value> = content.get("config").and_then(|text| serde_json::from_str(text).ok());
    config.is_some_and(|config| config.get("pause") == Some(&Value::Bool(true)))
}

/// Has a member said that it is paused (`Ha.touch_member`)?
pub(crate) fn knows_pause(content: &BTreeMap<String, String>, member: &str) -> bool {
    let data: Option<Value> =
        content.get(&format!("members/{member}")).and_then(|text| serde_json::from_str(text).ok());
    data.is_some_and(|data| data.get("pause") == Some(&Value::Bool(true)))
}

/// The other members of a cluster in the DCS, but for those that were stopped.
pub(crate) fn others(content: &BTreeMap<String, String>, member: &str) -> Vec<String> {
    content
        .iter()
        .filter_map(|(key, text)| Some((key.strip_prefix("members/")?, text)))
        .filter(|(name, text)| {
            let data: Option<Value> = serde_json::from_str(text).ok();
            let state = data.as_ref().and_then(|data| data.get("state")).and_then(Value::as_str);
            *name != member && state != Some("stopped")
        })
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Refuses to take the primary away from its replicas.
pub(crate) fn refuse_others(id: &ClusterId, content: &BTreeMap<String, String>, member: &str) -> Result<()> {
    let others = others(content, member);
    if others.is_empty() {
        return Ok(());
    }
    fail!(
        "{id} still has other members: {}", others.join(", ");
        "Stop and drop each of them: run there 'systemctl disable --now patroni@{}' and 'pg_dropcluster {} {}'. Then run this again.",
        id.dashed(), id.version, id.name
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn content(rows: &[(&str, &str)]) -> BTreeMap<String, String> {
        rows.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn every_step_has_a_name_of_its_own() {
        for way in [Way::Move, Way::Restart] {
            let names: std::collections::BTreeSet<&str> = Step::of(way).iter().map(|step| step.name()).collect();
            assert_eq!(names.len(), Step::of(way).len());
        }
    }

    #[test]
    fn patroni_is_disabled_before_it_is_paused() {
        // A paused Patroni starts no server after a boot.
        let place = |step: Step| Step::of(Way::Move).iter().position(|found| *found == step);
        assert!(place(Step::StartConf) < place(Step::Disable) && place(Step::Disable) < place(Step::Pause));
        assert!(place(Step::Start) < place(Step::Dcs) && place(Step::Dcs) < place(Step::Settings));
    }

    #[test]
    fn members_that_were_stopped_do_not_count() {
        let content = content(&[
            ("config", "{\"pause\": true}"),
            ("members/pg1", "{\"state\": \"running\", \"pause\": true}"),
            ("members/pg2", "{\"state\": \"stopped\"}"),
            ("members/pg3", "{\"state\": \"streaming\"}"),
        ]);
        assert_eq!(others(&content, "pg1"), ["pg3"]);
        assert!(is_paused(&content) && knows_pause(&content, "pg1") && !knows_pause(&content, "pg3"));
        let error = refuse_others(&"17/main".parse().unwrap(), &content, "pg1").unwrap_err();
        assert_eq!(error.to_string(), "17/main still has other members: pg3");
    }
}
