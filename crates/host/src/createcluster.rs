//! `/etc/postgresql-common/createcluster.conf`: how `pg_createcluster` makes clusters on this host.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::conf::{self, Conf};
use crate::{ClusterId, Root};

/// The file, which by default includes `createcluster.d`.
pub const PATH: &str = "/etc/postgresql-common/createcluster.conf";

/// What this host's administrator set for new clusters.
#[derive(Debug, Clone)]
pub struct CreateCluster {
    conf: Conf,
}

impl CreateCluster {
    /// Reads the file with all that it includes.
    pub fn read(root: &Root) -> Result<Self> {
        Ok(Self { conf: conf::read(root, PATH)? })
    }

    /// Where a cluster's data will be, by default `/var/lib/postgresql/%v/%c`.
    pub fn data_directory(&self, id: &ClusterId) -> Result<PathBuf> {
        let pattern = self.conf.get("data_directory").map_or("/var/lib/postgresql/%v/%c", String::as_str);
        absolute("data_directory", &id.fill(pattern))
    }

    /// Where a cluster's WAL will be, where that is not inside the data directory (`waldir`, formerly `xlogdir`).
    pub fn waldir(&self, id: &ClusterId) -> Result<Option<PathBuf>> {
        match self.conf.get("waldir").or_else(|| self.conf.get("xlogdir")) {
            Some(pattern) => absolute("waldir", &id.fill(pattern)).map(Some),
            None => Ok(None),
        }
    }

    /// The words that `pg_createcluster` adds to every `initdb`.
    #[must_use]
    pub fn initdb_options(&self, id: &ClusterId) -> Vec<String> {
        let options = self.conf.get("initdb_options").map_or("", String::as_str);
        id.fill(options).split_whitespace().map(str::to_owned).collect()
    }

    /// Does the installation of a PostgreSQL server make a cluster `main` by itself? It does unless told otherwise.
    #[must_use]
    pub fn creates_main_cluster(&self) -> bool {
        self.conf.get("create_main_cluster").is_none_or(|value| conf::is_true(value))
    }
}

fn absolute(key: &str, path: &str) -> Result<PathBuf> {
    let trimmed = path.trim_end_matches('/');
    if !path.starts_with('/') || trimmed.is_empty() {
        bail!("{PATH}: {key} is '{path}', which is not an absolute path of a directory");
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
    }
}
