//! What the programs around a cluster need to know of it: where its members are and how their REST API is asked. PostgreSQL and
//! Patroni need not be on this host.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use host::keys::SiteKey;
use host::members::{self, Member};
use host::settings::Settings;
use host::{ClusterId, Root, clusters, facts};

use crate::files::yaml::Yaml;
use crate::integrations::plan::Options;
use crate::patroni::paths::{REST_OFFSET, patroni_file};
use crate::patroni::patronictl::Patronictl;
use crate::patroni_yml::inputs::{settings, site_key};

/// The site, and the instances that were named.
pub struct Given<'a> {
    /// The machine.
    pub root: &'a Root,
    /// The settings of the site; where one instance was named, with its own.
    pub settings: Settings,
    /// The instances, in the order in which they were named.
    pub instances: Vec<Instance>,
    /// The site key, where there is one.
    pub key: Option<SiteKey>,
    /// `--renew`.
    pub renew: bool,
}

/// An instance as its surroundings see it.
#[derive(Debug)]
pub struct Instance {
    /// Which one.
    pub id: ClusterId,
    /// Its settings.
    pub settings: Settings,
    /// PostgreSQL's port, the same on all members.
    pub port: u16,
    /// The REST API's port.
    pub rest_port: u16,
    /// How the REST API is asked; `None` without TLS.
    pub tls: Option<RestTls>,
    /// Its members.
    pub members: Vec<Member>,
}

/// TLS of the REST API, for who asks it.
#[derive(Debug)]
pub struct RestTls {
    /// Who signs the certificates of the members; without it, nobody's is verified.
    pub signers: Option<PathBuf>,
    /// Certificate and key, where one has to be shown.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl<'a> Given<'a> {
    /// Reads everything.
    pub fn resolve(root: &'a Root, options: &Options, ids: &[ClusterId]) -> Result<Self> {
        let instances = ids.iter().map(|id| Instance::resolve(root, options, id)).collect::<Result<Vec<_>>>()?;
        let settings = match instances.as_slice() {
            [one] => one.settings.clone(),
            _ => settings(root, &options.overrides, None)?,
        };
        let key = site_key(root, &settings)?;
        Ok(Self { root, settings, instances, key, renew: options.renew })
    }

    /// The name of this member.
    pub fn name(&self) -> Result<String> {
        let name = self.settings.parse("MEMBER_NAME", members::member_name)?;
        name.map_or_else(|| facts::host_name(self.root), Ok)
    }

    /// The site key; where there is none yet, one from which nothing may be written.
    pub fn key(&self) -> SiteKey {
        self.key.clone().unwrap_or_else(SiteKey::placeholder)
    }

    /// The members as `MEMBERS` lists them, for what is not of one instance.
    pub fn members(&self) -> Result<Vec<Member>> {
        members::members(&self.settings)?
            .context("MEMBERS is not set: list the members there, as in MEMBERS=pg1=10.0.3.141,pg2=10.0.3.142")
    }
}

impl Instance {
    fn resolve(root: &Root, options: &Options, id: &ClusterId) -> Result<Self> {
        let settings = settings(root, &options.overrides, Some(id))?;
        let port = port(root, id, &settings)?;
        let members = if options.members_from_cluster {
            Patronictl::new(root, id, &id.dashed())?.addresses()?
        } else {
            members::members(&settings)?.with_context(|| {
                format!(
                    "MEMBERS is not set: list the members of {id} there, as in MEMBERS=pg1=10.0.3.141,pg2=10.0.3.142, or take them \
                     from the running cluster with --members-from-cluster"
                )
            })?
        };
        if members.is_empty() {
            bail!("the running cluster {id} has no members: start it first, or set MEMBERS");
        }
        let tls = RestTls::read(&settings)?;
        Ok(Self { id: id.clone(), port, rest_port: port + REST_OFFSET, tls, members, settings })
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
            // Only who changes something has to show a certificate then.
            _ => None,
        };
        Ok(Some(Self { signers: settings.path("RESTAPI_CACERT")?, client }))
    }
}

/// What the settings, the Patroni file or the cluster of this host say, in this order; on a host without any, PostgreSQL's own.
fn port(root: &Root, id: &ClusterId, settings: &Settings) -> Result<u16> {
    let most = u64::from(u16::MAX - REST_OFFSET);
    if let Some(port) = settings.number("PORT", 1024, most)? {
        return Ok(u16::try_from(port)?);
    }
    let path = patroni_file(id);
    if let Some(text) = root.read(&path)? {
        return Yaml::parse(&path, &text)?.port("postgresql").with_context(|| path.display().to_string());
    }
    let own = clusters::find(root, id)?;
    Ok(own.map_or(5432, |own| own.port))
}
