//! What a handover has decided: everything that the next run needs to go on, and that giving back needs to be exact.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::handover::running::{Running, Setting};
use crate::postgres::roles::Purpose;

/// How the server comes to Patroni.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// Its processes move from one unit to the other.
    Move,
    /// It is stopped and started.
    Restart,
}

/// The decision.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Decision {
    /// Version and name, as in `17/main`.
    pub(crate) cluster: String,
    /// Seconds since 1970.
    pub(crate) decided: u64,
    pub(crate) way: Way,
    pub(crate) data_directory: PathBuf,
    pub(crate) superuser: String,
    /// The server as it was.
    pub(crate) running: Running,
    /// Lines for the settings of the cluster.
    pub(crate) settings: Vec<Line>,
    /// Files in /etc/patroni that these name.
    pub(crate) files: Vec<Text>,
    /// The roles that are created.
    pub(crate) roles: Vec<NewRole>,
    /// What will be different.
    pub(crate) differences: Vec<Difference>,
    /// The lines of `pg_hba.conf` that Patroni gets; a line that is not among them has been added since.
    #[serde(default)]
    pub(crate) pg_hba: Vec<String>,
    /// Files as they were.
    pub(crate) kept: Vec<Kept>,
}

/// A line of `/etc/default/patroni@17-main`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) key: String,
    pub(crate) value: String,
    /// Where it came from.
    pub(crate) origin: String,
}

/// A file that is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Text {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// A role with which members log in to each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NewRole {
    pub(crate) name: String,
    pub(crate) purpose: Purpose,
}

/// A parameter that will have another value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Difference {
    pub(crate) name: String,
    pub(crate) old: String,
    pub(crate) new: String,
    /// Only after the next restart of the server?
    pub(crate) restart: bool,
}

impl Difference {
    /// As it is shown, in one line.
    pub(crate) fn line(&self) -> String {
        format!("{}: {} -> {}", self.name, shown(&self.old), shown(&self.new))
    }
}

/// A value as it is shown; an empty one is visible.
pub(crate) fn shown(value: &str) -> String {
    if value.is_empty() { "''".to_owned() } else { value.to_owned() }
}

/// A file as it was.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) path: PathBuf,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
    /// The name of the copy in the journal; none if the file did not exist.
    pub(crate) copy: Option<String>,
}

impl Decision {
    /// A parameter as it was.
    pub(crate) fn setting(&self, name: &str) -> Option<&Setting> {
        self.running.settings.iter().find(|setting| setting.name == name)
    }
}
