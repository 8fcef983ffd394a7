//! What patroni-gen-config wrote for us about one instance, so that we need not read YAML.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use site::{ClusterId, Root, envfile};

use crate::privilege::Caller;

pub use site::point::file;

/// How Patroni and PostgreSQL of an instance are reached on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Patroni's name of this member.
    pub name: String,
    /// Where Patroni's REST API listens; none where it speaks TLS only.
    pub rest: Option<SocketAddr>,
    /// The address by which this member is reached.
    pub address: Option<IpAddr>,
    /// Where the data is.
    pub data_directory: PathBuf,
}

impl Instance {
    /// Reads the file; `None` where there is none.
    pub fn read(root: &Root, id: &ClusterId, caller: &Caller) -> Result<Option<Self>> {
        let path = file(id);
        caller.trust(root, &path)?;
        let Some(text) = root.read(&path)? else { return Ok(None) };
        Self::parse(&text).with_context(|| format!("{}: run patroni-gen-config {id}", path.display())).map(Some)
    }

    fn parse(text: &str) -> Result<Self> {
        let assignments = envfile::parse(text).map_err(|error| anyhow!("line {error}"))?;
        let value = |key: &str| assignments.iter().rev().find(|a| a.key == key).map(|a| a.value.as_str());
        let rest = match value("RESTAPI") {
            None | Some("") => None,
            Some(url) => match url.strip_prefix("http://").map(str::parse) {
                Some(Ok(address)) => Some(address),
                Some(Err(_)) => bail!("RESTAPI is '{url}', not an address with a port"),
                None => None,
            },
        };
        Ok(Self {
            name: value("NAME").context("it lacks NAME")?.to_owned(),
            rest,
            address: value("ADDRESS").map(str::parse).transpose().context("its ADDRESS is no address")?,
            data_directory: value("DATA_DIRECTORY").context("it lacks DATA_DIRECTORY")?.into(),
        })
    }

    /// Does a postmaster run on the data directory? By `postmaster.pid`, whose first line is its process.
    #[must_use]
    pub fn postgresql_runs(&self, root: &Root) -> bool {
        let pid = root.read(self.data_directory.join("postmaster.pid")).ok().flatten();
        let pid = pid.and_then(|text| text.lines().next()?.trim().parse::<u32>().ok());
        pid.is_some_and(|pid| {
            let name = root.read(format!("/proc/{pid}/comm")).ok().flatten().unwrap_or_default();
            name.starts_with("postgres")
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_what_patroni_gen_config_writes() {
        let instance =
            Instance::parse("# c\nNAME=\"pg1\"\nRESTAPI=\"http://[fd00::1]:8008\"\nDATA_DIRECTORY=\"/d\"\n").unwrap();
        assert_eq!(instance.rest, Some("[fd00::1]:8008".parse().unwrap()));
        assert_eq!(Instance::parse("NAME=a\nRESTAPI=https://10.0.0.1:8008\nDATA_DIRECTORY=/d\n").unwrap().rest, None);
        assert!(Instance::parse("NAME=a\nRESTAPI=http://nowhere\nDATA_DIRECTORY=/d\n").is_err());
    }
}
