//! What a handover has decided and how far it is, in `/var/lib/patroni-tools/adopt/17-main`, `take-over/17-main` or `release/17-main`: for the next run of a
//! command that was interrupted, and for giving the cluster back exactly. Only root can read it: it contains the old passwords' verifiers.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use host::{ClusterId, Root};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::patroni::paths::{ADOPTIONS, RELEASES, TAKE_OVERS};

/// The decision, and the record of the steps.
const DECISION: &str = "decision.json";
const STEPS: &str = "journal";

/// The copies of files as they were.
const COPIES: &str = "files";

/// The direction of a handover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// To Patroni.
    Adopt,
    /// To this package's Patroni, from another one.
    TakeOver,
    /// From Patroni.
    Release,
}

/// The record of one cluster.
pub(crate) struct Journal {
    real: PathBuf,
    path: PathBuf,
}

impl Journal {
    /// That of a cluster, whether it exists or not.
    pub(crate) fn of(root: &Root, kind: Kind, id: &ClusterId) -> Self {
        let directory = match kind {
            Kind::Adopt => ADOPTIONS,
            Kind::TakeOver => TAKE_OVERS,
            Kind::Release => RELEASES,
        };
        let path = Path::new(directory).join(id.dashed());
        Self { real: root.path(&path), path }
    }

    /// How often a step has been begun, by this run and earlier ones.
    pub(crate) fn begun(&self, name: &str) -> usize {
        let text = std::fs::read_to_string(self.real.join(STEPS)).unwrap_or_default();
        let begun = format!("begin {name}");
        text.lines().filter_map(|line| line.split_once(' ')).filter(|(_, rest)| *rest == begun).count()
    }

    /// Where it is, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What was decided; `None` if nothing was, or if everything has been given back.
    pub(crate) fn decision<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        let path = self.path.join(DECISION);
        let text = match std::fs::read_to_string(self.real.join(DECISION)) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("could not read {}", path.display())),
        };
        serde_json::from_str(&text).map(Some).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Was something decided, and not ended by [`Journal::close`]?
    pub(crate) fn is_open(&self) -> bool {
        self.real.join(DECISION).exists()
    }

    /// Was a step completed?
    pub(crate) fn has_done(&self, name: &str) -> Result<bool> {
        let text = match std::fs::read_to_string(self.real.join(STEPS)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            other => other.with_context(|| format!("could not read {}", self.path.join(STEPS).display()))?,
        };
        Ok(text.lines().any(|line| line.split_once(' ').is_some_and(|(_, what)| what == format!("done {name}"))))
    }

    /// Records a decision, which replaces an earlier one.
    pub(crate) fn decide(&self, decision: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(decision).context("a decision is JSON")?;
        self.create_directory(&self.real)?;
        self.write(DECISION, text.as_bytes())
    }

    /// Keeps a copy of a file as it was.
    pub(crate) fn keep(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.create_directory(&self.real.join(COPIES))?;
        self.write(&format!("{COPIES}/{name}"), bytes)
    }

    /// A copy that [`Journal::keep`] has made.
    pub(crate) fn kept(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path.join(COPIES).join(name);
        std::fs::read(self.real.join(COPIES).join(name)).with_context(|| format!("could not read {}", path.display()))
    }

    /// Does one step. It is recorded before and after, on disk.
    pub(crate) fn step<T>(&self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.record("begin", name)?;
        let done = work().with_context(|| format!("step {name}"))?;
        self.record("done", name)?;
        Ok(done)
    }

    /// Ends the handover: what was decided holds no longer. The record is kept beside it.
    pub(crate) fn close(&self) -> Result<()> {
        if !self.is_open() {
            return Ok(());
        }
        let aside = PathBuf::from(format!("{}.{}", self.real.display(), seconds()));
        std::fs::rename(&self.real, &aside).with_context(|| format!("could not move {} aside", self.path.display()))?;
        sync(self.real.parent())
    }

    fn record(&self, what: &str, name: &str) -> Result<()> {
        self.create_directory(&self.real)?;
        let append = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(self.real.join(STEPS))?;
            file.write_all(format!("{} {what} {name}\n", seconds()).as_bytes())?;
            // The only call of fdatasync(2) of this program: a test stops it there.
            file.sync_data()
        };
        append().with_context(|| format!("could not write {}", self.path.join(STEPS).display()))
    }

    fn create_directory(&self, real: &Path) -> Result<()> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(real)
            .with_context(|| format!("could not create the directory {}", self.path.display()))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let real = self.real.join(name);
        let write = || -> Result<()> {
            let directory = real.parent().context("a file is in a directory")?;
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            file.as_file().set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(&real)?;
            sync(Some(directory))
        };
        write().with_context(|| format!("could not write {}", self.path.join(name).display()))
    }
}

fn sync(directory: Option<&Path>) -> Result<()> {
    let Some(directory) = directory else { return Ok(()) };
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("could not sync {}", directory.display()))
}

/// Seconds since 1970.
pub(crate) fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_was_decided_is_read_again_and_every_step_is_recorded_twice() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let journal = Journal::of(&root, Kind::Adopt, &"17/main".parse().unwrap());
        assert_eq!(journal.decision::<Vec<u8>>().unwrap(), None);
        journal.decide(&vec![1, 2]).unwrap();
        assert_eq!(journal.decision::<Vec<u8>>().unwrap(), Some(vec![1, 2]));
        journal.keep("pg_hba.conf", b"local all all peer\n").unwrap();
        assert_eq!(journal.kept("pg_hba.conf").unwrap(), b"local all all peer\n");
        assert!(!journal.has_done("one").unwrap());
        journal.step("one", || Ok(())).unwrap();
        assert!(journal.step("two", || -> Result<()> { anyhow::bail!("no") }).is_err());
        assert!(journal.has_done("one").unwrap() && !journal.has_done("two").unwrap());
        let text = std::fs::read_to_string(journal.real.join(STEPS)).unwrap();
        let steps: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(steps, ["begin one", "done one", "begin two"]);
        for file in ["", DECISION, STEPS, COPIES, "files/pg_hba.conf"] {
            assert_eq!(journal.real.join(file).metadata().unwrap().mode() & 0o077, 0, "{file}");
        }
        journal.close().unwrap();
        assert_eq!(journal.decision::<Vec<u8>>().unwrap(), None);
    }
}
