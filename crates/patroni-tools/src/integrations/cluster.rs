//! What the programs around a cluster need to know about it: its members and their REST API. PostgreSQL and Patroni need not be
//! installed on this host.

use std::path::PathBuf;

use anyhow::{Context, Result};
use host::keys::SiteKey;
use host::members::{self, Member};
use host::settings::Settings;
use host::{ClusterId, Root, clusters, facts, fail, trouble};

use crate::files::yaml::Yaml;
use crate::integrations::plan::Options;
use crate::patroni::paths::patroni_file;
use crate::patroni::patronictl::Patronictl;
use crate::patroni_yml::inputs::{settings, site_key};
use crate::patroni_yml::ports::RestPort;
use crate::patroni_yml::values::scope;

/// The site, and the clusters to be configured.
pub struct Site<'a> {
    /// The machine.
    pub root: &'a Root,
    /// The settings of the site; those of the cluster if there is only one.
    pub settings: Settings,
    /// The clusters, in the order of the command line.
    pub clusters: Vec<Cluster>,
    /// The site key, if it exists.
    pub key: Option<SiteKey>,
    /// `--renew`.
    pub renew: bool,
}

/// A cluster as other programs see it.
#[derive(Debug)]
pub struct Cluster {
    /// Its version and name.
    pub id: ClusterId,
    /// Patroni's name of it.
    pub scope: String,
    /// Its settings.
    pub settings: Settings,
    /// PostgreSQL's port, the same on all members.
    pub port: u16,
    /// The REST API's port.
    pub rest_port: u16,
    /// TLS of the REST API; `None` without TLS.
    pub tls: Option<RestTls>,
    /// Its members.
    pub members: Vec<Member>,
}

/// TLS of the REST API, for its clients.
#[derive(Debug)]
pub struct RestTls {
    /// The CA certificate of the members; without it, no certificate is verified.
    pub ca: Option<PathBuf>,
    /// The client certificate and its key, if one is required.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl<'a> Site<'a> {
    /// Reads everything.
    pub fn resolve(root: &'a Root, options: &Options, ids: &[ClusterId]) -> Result<Self> {
        let clusters = ids.iter().map(|id| Cluster::resolve(root, options, id)).collect::<Result<Vec<_>>>()?;
        let settings = match clusters.as_slice() {
            [one] => one.settings.clone(),
            _ => settings(root, &options.overrides, None)?,
        };
        let key = site_key(root, &settings)?;
        Ok(Self { root, settings, clusters, key, renew: options.renew })
    }

    /// The name of this member.
    pub fn name(&self) -> Result<String> {
        let name = self.settings.parse("MEMBER_NAME", members::member_name)?;
        name.map_or_else(|| facts::host_name(self.root), Ok)
    }

    /// The site key; if it does not exist yet, a placeholder, from which nothing may be written.
    pub fn key(&self) -> SiteKey {
        self.key.clone().unwrap_or_else(SiteKey::placeholder)
    }

    /// The members in `MEMBERS`, for what does not belong to one cluster.
    pub fn members(&self) -> Result<Vec<Member>> {
        let members = members::members(&self.settings)?;
        let hint = "List the members there, as in MEMBERS=pg1=10.0.3.141,pg2=10.0.3.142.";
        Ok(members.ok_or_else(|| trouble!("MEMBERS is not set").hint(hint))?)
    }
}

impl Cluster {
    fn resolve(root: &Root, options: &Options, id: &ClusterId) -> Result<Self> {
        let settings = settings(root, &options.overrides, Some(id))?;
        let scope = scope(&settings, id)?;
        let rest = RestPort::read(&settings)?;
        let port = port(root, id, &settings, rest)?;
        let file = patroni_file(id);
        let has_member = root.path(&file).exists();
        let members = if options.members_from_cluster {
            if !has_member {
                fail!(
                    "--members-from-cluster asks the running cluster with {}, which does not exist", file.display();
                    "Set MEMBERS on this host, as on the members of {id}."
                );
            }
            Patronictl::new(root, id, &scope)?.addresses()?
        } else {
            members::members(&settings)?.ok_or_else(|| {
                let running =
                    if has_member { ", or use those of the running cluster with --members-from-cluster" } else { "" };
                trouble!(
                    "MEMBERS is not set";
                    "List the members of {id} there, as in MEMBERS=pg1=10.0.3.141,pg2=10.0.3.142{running}."
                )
            })?
        };
        if members.is_empty() {
            fail!("the cluster {id} has no running members"; "Start it first, or set MEMBERS.");
        }
        let tls = RestTls::read(&settings)?;
        Ok(Self { id: id.clone(), scope, port, rest_port: rest.of(port)?, tls, members, settings })
    }
}

impl RestTls {
    fn read(settings: &Settings) -> Result<Option<Self>> {
        let Some(certificate) = settings.text("RESTAPI_CERT") else { return Ok(None) };
        let pair = |certificate: &str, key: &str| -> Result<Option<(PathBuf, PathBuf)>> {
            Ok(settings.path(certificate)?.zip(settings.path(key)?))
        };
        let client = match settings.choice("RESTAPI_VERIFY_CLIENT", &["none", "optional", "required"])? {
            Some("required") => match pair("CTL_CERT", "CTL_KEY")? {
                Some(pair) => Some(pair),
                None if certificate == "snakeoil" => None,
                None => pair("RESTAPI_CERT", "RESTAPI_KEY")?,
            },
            // Otherwise only requests that change state need a client certificate.
            _ => None,
        };
        Ok(Some(Self { ca: settings.path("RESTAPI_CACERT")?, client }))
    }
}

/// PostgreSQL's port from the settings, the Patroni file or the cluster of this host, in this order; otherwise the default.
fn port(root: &Root, id: &ClusterId, settings: &Settings, rest: RestPort) -> Result<u16> {
    if let Some(port) = rest.postgresql(settings)? {
        return Ok(port);
    }
    let path = patroni_file(id);
    if let Some(text) = root.read(&path)? {
        return Yaml::parse(&path, &text)?.port("postgresql").with_context(|| path.display().to_string());
    }
    let own = clusters::find(root, id)?;
    Ok(own.map_or(5432, |own| own.port))
}
