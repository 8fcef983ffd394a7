//! The section `postgresql`: the addresses on which PostgreSQL listens, its directories, and the parameters of this member.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use host::clusters::{self, Installed};
use host::createcluster::CreateCluster;
use host::{ClusterId, Root, facts};
use serde::Serialize;

use crate::patroni_yml::parameters::Values;
use crate::patroni_yml::values::path_text;
use crate::postgres::programs::not_installed;

/// The values of the section.
#[derive(Debug, Serialize)]
pub struct PostgreSql {
    listen: String,
    connect_address: String,
    data_dir: String,
    bin_dir: String,
    config_dir: String,
    pgpass: String,
    parameters: Values,
}

/// The location of one cluster.
pub struct Location<'a> {
    /// The address by which the other members reach it.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The addresses on which it listens, as in `listen_addresses`.
    pub listen: &'a str,
    /// The directory of its data.
    pub data_directory: &'a Path,
    /// The directory of its programs.
    pub bin_dir: &'a Path,
}

impl PostgreSql {
    /// The section of a cluster.
    pub fn of(id: &ClusterId, location: &Location, parameters: Values) -> Result<Self> {
        Ok(Self {
            listen: format!("{}:{}", location.listen, location.port),
            connect_address: facts::host_port(location.address, location.port),
            data_dir: path_text(location.data_directory)?,
            bin_dir: path_text(location.bin_dir)?,
            config_dir: path_text(&clusters::config_directory(id))?,
            pgpass: format!("/var/lib/postgresql/{}.pgpass", id.dashed()),
            parameters,
        })
    }
}

/// The directory of PostgreSQL's programs.
pub fn bin_dir(root: &Root, id: &ClusterId) -> Result<PathBuf> {
    let directory = PathBuf::from("/usr/lib/postgresql").join(id.version.as_str()).join("bin");
    if !root.path(directory.join("initdb")).exists() {
        return Err(not_installed(root, id).into());
    }
    Ok(directory)
}

/// The data directory of the existing cluster, else the one in which postgresql-common would create it. If it is a symbolic link, its
/// target: Patroni removes a link, and not what it leads to, before it clones a member again (`Postgresql.remove_data_directory`).
pub fn data_directory(root: &Root, id: &ClusterId, own: Option<&Installed>) -> Result<PathBuf> {
    let directory = match own.and_then(|cluster| cluster.data_directory.clone()) {
        Some(directory) => directory,
        None => CreateCluster::read(root)?.data_directory(id)?,
    };
    let is_link = root.path(&directory).symlink_metadata().is_ok_and(|found| found.is_symlink());
    Ok(if is_link { root.real(&directory) } else { directory })
}
