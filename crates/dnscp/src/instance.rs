//! What patroni-gen-config wrote about one cluster, so that dnscp does not read YAML.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
pub use host::endpoint::file;
use host::envfile::Assignment;
use host::trouble::{Explain, Trouble};
use host::{ClusterId, Root, envfile, fail};

use crate::privilege::Caller;
use crate::rest::Api;
use crate::tls::{Files, Tls};

/// How Patroni and PostgreSQL of a cluster are reached on this host.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Patroni's name of this member.
    pub name: String,
    /// Patroni's REST API.
    pub rest: Option<Arc<Api>>,
    /// The address by which this member is reached.
    pub address: Option<IpAddr>,
    /// PostgreSQL's port.
    pub port: Option<u16>,
    /// PostgreSQL's data directory.
    pub data_directory: PathBuf,
}

impl Instance {
    /// Reads the file; `None` if there is none.
    pub fn read(root: &Root, id: &ClusterId, caller: &Caller) -> Result<Option<Self>> {
        let path = file(id);
        caller.trust(root, &path)?;
        let Some(text) = root.read(&path)? else { return Ok(None) };
        // In place of the hints for files that an administrator writes.
        let written = Written::parse(&path, &text)
            .map_err(|error| Trouble::of(&error).hint(format!("Create it again with: patroni-gen-config {id}")))?;
        let rest = written
            .rest
            .map(|(address, files)| Arc::new(Api::new(root, address, files.map(|files| Tls::new(root, files)))));
        let Written { name, address, port, data_directory, .. } = written;
        Ok(Some(Self { name, rest, address, port, data_directory }))
    }

    /// Whether a postmaster runs in the data directory, according to the first line of `postmaster.pid`.
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

/// The content of the file.
#[derive(Debug, PartialEq, Eq)]
struct Written {
    name: String,
    rest: Option<(SocketAddr, Option<Files>)>,
    address: Option<IpAddr>,
    port: Option<u16>,
    data_directory: PathBuf,
}

impl Written {
    fn parse(file: &Path, text: &str) -> Result<Self> {
        Self::of(&envfile::parse(file, text)?).at(file.display())
    }

    fn of(assignments: &[Assignment]) -> Result<Self> {
        let value = |key: &str| assignments.iter().rev().find(|a| a.key == key).map(|a| a.value.as_str());
        let rest = value("RESTAPI").filter(|url| !url.is_empty()).map(|url| -> Result<_> {
            let (secure, address) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
                (Some(address), _) => (false, address),
                (_, Some(address)) => (true, address),
                _ => fail!("RESTAPI is '{url}', which is neither an http:// nor an https:// URL"),
            };
            let address =
                address.parse().with_context(|| format!("RESTAPI is '{url}', which is not an address with a port"))?;
            let own =
                value("CTL_CERT").zip(value("CTL_KEY")).map(|(certificate, key)| (certificate.into(), key.into()));
            let path = |key: &str| value(key).map(PathBuf::from);
            let files = Files { signers: path("RESTAPI_CACERT"), certificate: path("RESTAPI_CERT"), own };
            Ok((address, secure.then_some(files)))
        });
        Ok(Self {
            name: value("NAME").context("NAME is missing")?.to_owned(),
            rest: rest.transpose()?,
            address: value("ADDRESS").map(str::parse).transpose().context("ADDRESS is not an IP address")?,
            port: value("PORT").map(str::parse).transpose().context("PORT is not a port number")?,
            data_directory: value("DATA_DIRECTORY").context("DATA_DIRECTORY is missing")?.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_what_patroni_gen_config_writes() {
        let rest = |lines: &str| {
            Written::parse(Path::new("/f"), &format!("# c\nNAME=\"pg1\"\n{lines}\nDATA_DIRECTORY=\"/d\"\n"))
                .map(|w| w.rest)
        };
        let address: SocketAddr = "[fd00::1]:8008".parse().unwrap();
        assert_eq!(rest("").unwrap(), None);
        assert_eq!(rest("RESTAPI=\"http://[fd00::1]:8008\"").unwrap(), Some((address, None)));
        let files = Files { signers: None, certificate: None, own: None };
        assert_eq!(rest("RESTAPI=\"https://[fd00::1]:8008\"").unwrap(), Some((address, Some(files))));
        let own = Some(("/c".into(), "/k".into()));
        let files = Files { signers: Some("/ca".into()), certificate: Some("/own".into()), own };
        let lines = "RESTAPI='https://[fd00::1]:8008'\nRESTAPI_CACERT=/ca\nRESTAPI_CERT=/own\nCTL_CERT=/c\nCTL_KEY=/k";
        assert_eq!(rest(lines).unwrap(), Some((address, Some(files))));
        for url in ["http://nowhere", "https://pg1:8008", "ftp://10.0.0.1:1"] {
            assert!(rest(&format!("RESTAPI={url}")).is_err(), "{url}");
        }
    }

    #[test]
    fn what_is_wrong_in_a_generated_file_is_not_mended_by_hand() {
        let folder = tempfile::tempdir().unwrap();
        let (root, id): (_, ClusterId) = (Root::new(folder.path()), "16/main".parse().unwrap());
        std::fs::create_dir_all(root.path("/etc/patroni")).unwrap();
        for (text, line) in [("NAME=pg1\nNAME-2=x\n", ":2: "), ("NAME=pg1\n", ": DATA_DIRECTORY is missing")] {
            std::fs::write(root.path(file(&id)), text).unwrap();
            let trouble = Trouble::of(&Instance::read(&root, &id, &Caller::of_this_process()).unwrap_err());
            assert!(trouble.line().starts_with(&format!("/etc/patroni/16-main.dnscp{line}")), "{trouble}");
            assert_eq!(trouble.hint.as_deref(), Some("Create it again with: patroni-gen-config 16/main"));
        }
    }
}
