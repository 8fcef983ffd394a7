//! The resolved contents of a Patroni file: from settings and facts about the host, with nothing left open.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use host::endpoint::Endpoint;
use host::keys::SiteKey;
use host::members;
use host::settings::Settings;
use host::trouble::Trouble;
use host::{ClusterId, Root};
use serde::Serialize;

use crate::patroni::installed::Ask;
use crate::patroni::version::Patroni;
use crate::patroni_yml::authentication::{Access, Roles, password_scope};
use crate::patroni_yml::bootstrap_dcs::Dynamic;
use crate::patroni_yml::dcs::{self, Dcs};
use crate::patroni_yml::methods::{Callbacks, CloneMethod, Command, bootstrap_command, callbacks, clone_method};
use crate::patroni_yml::network::{address_and_networks, listen_addresses, outsiders};
use crate::patroni_yml::parameters::{Parameters, Values};
use crate::patroni_yml::ports::{Ports, both};
use crate::patroni_yml::postgresql::{Location, PostgreSql, bin_dir, data_directory};
use crate::patroni_yml::rest_api::{Ctl, Rest, RestApi};
use crate::patroni_yml::role_names::RoleNames;
use crate::patroni_yml::values::{member_name, namespace, scope};
use crate::patroni_yml::{endpoint, member};
use crate::postgres::locales;

/// The values that the template shows. Templates of administrators use these names, so they stay when a field is renamed.
#[derive(Debug, Serialize)]
pub struct Config {
    /// `16/main`.
    #[serde(skip)]
    pub id: ClusterId,
    /// PostgreSQL's port.
    #[serde(skip)]
    pub port: u16,
    /// The REST API's port.
    #[serde(skip)]
    pub rest_port: u16,
    /// The data directory.
    #[serde(skip)]
    pub data_directory: PathBuf,
    cluster: String,
    /// The scope, Patroni's name of the cluster.
    pub scope: String,
    namespace: String,
    /// The name of this member.
    pub name: String,
    #[serde(rename = "store")]
    dcs: [(&'static str, dcs::Options); 1],
    restapi: RestApi,
    ctl: Option<Ctl>,
    bootstrap: Command,
    #[serde(rename = "dcs")]
    dynamic: Dynamic,
    pg_hba: Vec<String>,
    pg_ident: Vec<String>,
    parameters: Values,
    postgresql: PostgreSql,
    clone: CloneMethod,
    roles: Roles,
    tags: member::Options,
    watchdog: &'static str,
    watchdog_device: Option<String>,
    log: member::Options,
    callbacks: Option<Callbacks>,
    /// The client endpoint in one line, if the member has one.
    #[serde(skip)]
    pub endpoint: Option<String>,
    /// The address by which the other members reach this one.
    #[serde(skip)]
    pub address: IpAddr,
    /// Problems that do not prevent the member from working.
    #[serde(skip)]
    pub warnings: Vec<Trouble>,
}

impl Config {
    /// Resolves everything.
    pub fn resolve(root: &Root, id: &ClusterId, settings: &Settings, key: &SiteKey, ports: &Ports) -> Result<Self> {
        let bin_dir = bin_dir(root, id)?;
        let scope = scope(settings, id)?;
        let cluster = id.dashed();
        let name = member_name(root, settings)?;
        let members = members::members(settings)?;
        let (port, rest_port) = both(root, id, settings, ports)?;
        let (address, networks) = address_and_networks(root, settings, &name, members.as_deref())?;
        let data_directory = data_directory(root, id, ports.own)?;
        let endpoint = Endpoint::from_settings(root, id, settings)?;
        let taken = |port: u16| ports.taken(root, port);
        let patroni = Patroni::of(root)?;
        let member = dcs::Member { cluster: &cluster, address, port, patroni: &patroni, taken: &taken };
        let Dcs { kind, options, mut warnings } = Dcs::resolve(root, settings, &member)?;
        if let Some(point) = &endpoint {
            warnings.extend(endpoint::check(root, settings, point, address)?);
        }
        warnings.extend(dcs::host_limits(root, kind, Ask::Programs)?.into_iter().map(|limit| limit.trouble));
        warnings.extend(endpoint.iter().flat_map(|endpoint| endpoint::missing_programs(root, endpoint)));
        warnings.extend(outsiders(settings, members.as_deref().unwrap_or_default(), &networks));
        let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
        let rest = Rest {
            root,
            settings,
            patroni: &patroni,
            address,
            port: rest_port,
            members: members.as_deref(),
            networks: &networks,
            password: key.password(&cluster, "restapi"),
        };
        let (restapi, ctl) = rest.resolve(&mut warnings)?;
        let dynamic = Dynamic::resolve(settings, &patroni)?;
        let parameters = Parameters::resolve(root, id, settings, &dynamic)?;
        warnings.extend(parameters.needs(root, id));
        let standbys = members.as_ref().map(|members| (members.len() as u64).saturating_sub(1));
        warnings.extend(parameters.long_stop(id, settings, &dynamic, standbys));
        let (watchdog, watchdog_device) = member::watchdog(root, settings, &mut warnings)?;
        let names = RoleNames::read(settings)?;
        let access = Access::resolve(root, id, settings, key, &names, &networks)?;
        warnings.extend(endpoint.iter().filter_map(|endpoint| endpoint::long_lease(settings, endpoint, &dynamic)));
        let vips = endpoint::vips(endpoint.as_ref());
        if dynamic.is_synchronous() {
            let hint = "Set MEMBER_NAME to a shorter name, of ASCII characters.";
            warnings.extend(
                members::never_synchronous(&name)
                    .map(|trouble| trouble.hint(hint).at(settings.place(&["MEMBER_NAME"]))),
            );
        }
        if !root.path(data_directory.join("PG_VERSION")).exists() {
            // A replica of a cluster with this locale needs it, too.
            settings.parse("LOCALE", |name| match locales::missing_at_bootstrap(root, id, Some(name)) {
                Some(missing) => Err(missing.into()),
                None => Ok(()),
            })?;
            if settings.get("LOCALE").is_none() {
                warnings.extend(locales::missing_at_bootstrap(root, id, None));
            }
        }
        let location = Location {
            address,
            port,
            listen: &listen_addresses(
                root,
                settings,
                address,
                members.as_deref().unwrap_or_default(),
                &vips,
                &mut warnings,
            )?,
            data_directory: &data_directory,
            bin_dir: &bin_dir,
        };
        Ok(Self {
            cluster: id.slashed(),
            namespace: namespace(settings)?,
            name,
            dcs: [(kind.name(), options)],
            restapi,
            ctl,
            bootstrap: bootstrap_command(settings, id, &names)?,
            parameters: parameters.of_cluster(id, &dynamic),
            dynamic,
            pg_hba: access.hba,
            pg_ident: access.ident,
            postgresql: PostgreSql::of(id, &location, parameters.of_member(root, id, settings, access.tls)?)?,
            clone: clone_method(root, settings, id)?,
            roles: access.roles,
            tags: member::tags(settings, &patroni, &key.fingerprint(&password_scope(settings, id)?))?,
            watchdog,
            watchdog_device,
            log: member::log(root, settings)?,
            callbacks: endpoint.as_ref().map(|_| callbacks(settings, id, &patroni, &scope)),
            endpoint: endpoint.as_ref().map(Endpoint::line),
            address,
            warnings,
            id: id.clone(),
            port,
            rest_port,
            data_directory,
            scope,
        })
    }

    /// The directory of Raft's log, if Raft is the DCS.
    #[must_use]
    pub fn raft_directory(&self) -> Option<&Path> {
        let [(kind, options)] = &self.dcs;
        let directory = options.iter().find(|(name, _)| *kind == "raft" && name == "data_dir");
        directory.and_then(|(_, directory)| directory.as_str()).map(Path::new)
    }
}
