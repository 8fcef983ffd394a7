//! What all checks read.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use host::file_access::User;
use host::files::{Named, Opener};
use host::net::reason;
use host::program::quoted;
use host::settings::{SITE_FILE, Settings};
use host::{ClusterId, Root};
use nix::unistd::geteuid;

use crate::doctor::finding::{Finding, Level};
use crate::files::header::{Author, author};
use crate::files::yaml::Yaml;
use crate::patroni::installed::Ask;
use crate::patroni::version::Patroni;

/// How far the checks go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Everything.
    Full,
    /// No server is contacted and no program run. Only what certainly prevents Patroni from starting is an error.
    Offline,
    /// Only whether the servers of the DCS accept this member.
    Dcs,
    /// Only whether the ports are free.
    Ports,
}

impl Depth {
    /// What may be done to find out what Patroni can do.
    pub(crate) fn ask(self) -> Ask {
        if matches!(self, Self::Full | Self::Dcs) { Ask::Programs } else { Ask::Files }
    }
}

/// The timeout for one server.
pub(crate) const LIMIT: Duration = Duration::from_secs(3);

/// The user that runs Patroni and PostgreSQL.
pub(crate) const USER: &str = "postgres";

/// The hint for what only root can check.
pub(crate) const AS_ROOT: &str = "Run this check as root.";

/// What all checks read.
pub(crate) struct Cluster<'a> {
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

impl Cluster<'_> {
    pub(crate) fn text(&self, path: &[&str]) -> Option<String> {
        self.yaml.text(path)
    }

    /// The data directory in the Patroni file; an empty path if it has none.
    pub(crate) fn data_directory(&self) -> PathBuf {
        self.text(&["postgresql", "data_dir"]).map_or_else(PathBuf::new, PathBuf::from)
    }

    /// Is the caller root, or the user that runs Patroni and PostgreSQL? Others see neither their processes nor their files.
    pub(crate) fn sees_own(&self) -> bool {
        let user = geteuid();
        user.is_root() || self.root.user_id(USER).is_ok_and(|id| id == user.as_raw())
    }

    /// A hint that ends with the command that generates the Patroni file from changed settings.
    pub(crate) fn then_generate(&self, hint: &str) -> String {
        format!("{hint}, then run: patroni-gen-config {}", self.id)
    }

    /// How a value of the Patroni file is corrected, in the setting from which it was generated or else in the file, and how Patroni gets
    /// to know it.
    pub(crate) fn correct(&self, setting: &str, key: &str, to: &str) -> String {
        let (id, unit) = (self.id, self.id.dashed());
        if author(&self.text) != Author::Generator {
            let file = self.path.display();
            return format!("Correct {key} in {file} ({to}), then run: systemctl restart patroni@{unit}");
        }
        let place = self.settings.as_ref().map(|settings| settings.place(&[setting])).unwrap_or_default();
        let place = if place.is_empty() { SITE_FILE.to_owned() } else { place };
        format!(
            "Correct {setting} in {place} ({to}), then run: patroni-gen-config {id} && systemctl restart patroni@{unit}"
        )
    }

    /// Why postgres cannot read an existing file. For postgres itself this is certain, and root deduces it from the mode. Other users
    /// may lack the permissions to find out.
    pub(crate) fn unreadable(&self, path: &Path, level: Level) -> Option<Finding> {
        let user = geteuid();
        if user.is_root() {
            let error = User::of(self.root, USER).and_then(|user| user.check_reads(self.root, path)).err()?;
            return Some(Finding::of(Level::Error, &error).about(path));
        }
        if self.root.user_id(USER).ok()? != user.as_raw() {
            return None;
        }
        let error = Opener::new(self.root, Named::Here).open(path).err()?;
        let why = error.downcast_ref::<io::Error>().map_or_else(|| error.to_string(), reason);
        let what = format!("{USER} cannot read {} ({why})", path.display());
        let hint = format!("Run: chgrp {USER} {0} && chmod g+r {0}", quoted(&path.display().to_string()));
        Some(Finding::new(level, what, hint).at("").about(path))
    }
}

/// Is it only that the caller, who is not root, lacks a permission?
pub(crate) fn denied(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::PermissionDenied))
}

#[cfg(test)]
impl<'a> Cluster<'a> {
    /// A cluster with this Patroni file and no settings, for tests.
    #[allow(clippy::unwrap_used)]
    pub(crate) fn with(root: &'a Root, id: &'a ClusterId, text: &str) -> Self {
        let path = PathBuf::from("/etc/patroni/17-main.yml");
        let yaml = Yaml::parse(&path, text).unwrap();
        let settings = Ok(Settings::default());
        Self { root, id, path, text: text.to_owned(), yaml, patroni: Patroni::UNKNOWN, settings, depth: Depth::Full }
    }
}
