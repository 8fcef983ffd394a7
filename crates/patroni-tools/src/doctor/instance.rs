//! What all checks look at.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use host::file_access::User;
use host::files::{Named, Opener};
use host::net::reason;
use host::settings::Settings;
use host::{ClusterId, Root};
use nix::unistd::geteuid;

use crate::doctor::finding::{Finding, Level};
use crate::files::yaml::Yaml;
use crate::patroni::version::Patroni;

/// How far the checks go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Everything.
    Full,
    /// No server is asked and no program run, and only what certainly keeps Patroni from starting is an error.
    Offline,
    /// Only whether the servers of the DCS serve this member.
    Dcs,
    /// Only who has the ports.
    Ports,
}

/// What the doctor is asked.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How far the checks go.
    pub depth: Depth,
    /// JSON in place of lines.
    pub json: bool,
}

/// How long one server may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(3);

/// Who runs Patroni and PostgreSQL.
pub(crate) const USER: &str = "postgres";

/// What all checks look at.
pub(crate) struct Instance<'a> {
    pub(crate) root: &'a Root,
    pub(crate) id: &'a ClusterId,
    /// The Patroni file.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) yaml: Yaml,
    pub(crate) patroni: Patroni,
    pub(crate) settings: Result<Settings>,
    pub(crate) depth: Depth,
}

impl Instance<'_> {
    pub(crate) fn text(&self, path: &[&str]) -> Option<String> {
        self.yaml.text(path)
    }

    /// Where the Patroni file has the data; the directory of no instance, where it does not say.
    pub(crate) fn data_directory(&self) -> PathBuf {
        self.text(&["postgresql", "data_dir"]).map_or_else(PathBuf::new, PathBuf::from)
    }

    /// The settings lead to the file, so that a change there is followed by this.
    pub(crate) fn then_generate(&self, remedy: &str) -> String {
        format!("{remedy}, and run patroni-gen-config {}", self.id)
    }

    /// Why postgres cannot read a file that is there. For postgres itself this is certain; root deduces it from the mode; others
    /// may not see enough of it.
    pub(crate) fn unreadable(&self, path: &Path, level: Level) -> Option<Finding> {
        let user = geteuid();
        if user.is_root() {
            let error = User::of(self.root, USER).and_then(|user| user.check_reads(self.root, path)).err()?;
            return Some(Finding::of(Level::Error, &error));
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
pub(crate) fn denied(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::PermissionDenied))
}
