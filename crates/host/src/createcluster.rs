//! `/etc/postgresql-common/createcluster.conf`: how `pg_createcluster` creates clusters on this host.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::conf::{self, Conf};
use crate::trouble::in_line;
use crate::{ClusterId, Root, fail};

/// The file, which by default includes `createcluster.d`.
pub const PATH: &str = "/etc/postgresql-common/createcluster.conf";

/// The settings for new clusters of this host.
#[derive(Debug, Clone)]
pub struct CreateCluster {
    conf: Conf,
}

impl CreateCluster {
    /// Reads the file and the files that it includes.
    pub fn read(root: &Root) -> Result<Self> {
        Ok(Self { conf: conf::read(root, PATH)? })
    }

    /// The data directory of a new cluster, by default `/var/lib/postgresql/%v/%c`.
    pub fn data_directory(&self, id: &ClusterId) -> Result<PathBuf> {
        let pattern = self.conf.get("data_directory").map_or("/var/lib/postgresql/%v/%c", String::as_str);
        absolute("data_directory", &id.fill(pattern))
    }

    /// The WAL directory of a new cluster, if it is not in the data directory (`waldir`, formerly `xlogdir`).
    pub fn waldir(&self, id: &ClusterId) -> Result<Option<PathBuf>> {
        match self.conf.get("waldir").or_else(|| self.conf.get("xlogdir")) {
            Some(pattern) => absolute("waldir", &id.fill(pattern)).map(Some),
            None => Ok(None),
        }
    }

    /// The options that `pg_createcluster` passes to every `initdb`.
    #[must_use]
    pub fn initdb_options(&self, id: &ClusterId) -> Vec<String> {
        let options = self.conf.get("initdb_options").map_or("", String::as_str);
        id.fill(options).split_whitespace().map(str::to_owned).collect()
    }

    /// Does the installation of a PostgreSQL server create a cluster `main`? It does by default.
    #[must_use]
    pub fn creates_main_cluster(&self) -> bool {
        self.conf.get("create_main_cluster").is_none_or(|value| conf::is_true(value))
    }
}

/// The directory that the file includes at its end, as Debian ships it.
const PARTS: &str = "/etc/postgresql-common/createcluster.d";

/// Where one of these keys is defined last, as `FILE:LINE`; `None` if it is not, or in another file.
#[must_use]
pub fn place(root: &Root, keys: &[&str]) -> Option<String> {
    let parts = root.list(PARTS).unwrap_or_default();
    let parts = parts
        .iter()
        .map(|name| Path::new(PARTS).join(name))
        .filter(|file| file.extension().is_some_and(|end| end == "conf"));
    let mut found = None;
    for file in std::iter::once(PathBuf::from(PATH)).chain(parts) {
        let text = root.read(&file).ok().flatten().unwrap_or_default();
        for (index, line) in text.lines().enumerate() {
            let word = line.trim_start().split(|c: char| c.is_whitespace() || c == '=').next().unwrap_or_default();
            if keys.contains(&word.to_ascii_lowercase().as_str()) {
                found = Some(in_line(&file, index + 1));
            }
        }
    }
    found
}

fn absolute(key: &str, path: &str) -> Result<PathBuf> {
    let trimmed = path.trim_end_matches('/');
    if !path.starts_with('/') || trimmed.is_empty() {
        fail!(at PATH, "{key} is '{path}', which is not the absolute path of a directory");
    }
    Ok(PathBuf::from(trimmed))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_the_directory_of_parts_too() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let id: ClusterId = "17/dd2".parse().unwrap();
        assert!(CreateCluster::read(&root).unwrap().creates_main_cluster());
        let etc = folder.path().join("etc/postgresql-common");
        std::fs::create_dir_all(etc.join("createcluster.d")).unwrap();
        std::fs::write(
            etc.join("createcluster.conf"),
            "data_directory = '/srv/%c-%v/data/'\ninclude_dir = '/etc/postgresql-common/createcluster.d'\n",
        )
        .unwrap();
        std::fs::write(
            etc.join("createcluster.d/site.conf"),
            "create_main_cluster = false\nwaldir = '/wal/%v/%c'\ninitdb_options = '-k  --wal-segsize=64'\n",
        )
        .unwrap();
        let created = CreateCluster::read(&root).unwrap();
        assert_eq!(created.data_directory(&id).unwrap(), PathBuf::from("/srv/dd2-17/data"));
        assert_eq!(created.waldir(&id).unwrap(), Some(PathBuf::from("/wal/17/dd2")));
        assert_eq!(created.initdb_options(&id), ["-k", "--wal-segsize=64"]);
        assert!(!created.creates_main_cluster());
        assert_eq!(place(&root, &["waldir"]).as_deref(), Some("/etc/postgresql-common/createcluster.d/site.conf:2"));
        assert_eq!(place(&root, &["data_directory"]).as_deref(), Some("/etc/postgresql-common/createcluster.conf:1"));
        assert_eq!(place(&root, &["ssl"]), None);
    }
}
