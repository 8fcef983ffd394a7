//! What stands in a Patroni file, resolved: settings and facts in, no open question out.

use std::net::IpAddr;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Result, bail};
use host::clusters;
use host::createcluster::CreateCluster;
use host::endpoint::{Endpoint, Manager};
use host::facts;
use host::keys::SiteKey;
use host::members;
use host::settings::Settings;
use host::{ClusterId, Root};
use serde::Serialize;

use crate::patroni::paths::REST_OFFSET;
use crate::patroni::version::Patroni;
use crate::patroni_yml::authentication::{Access, Roles, password_scope};
use crate::patroni_yml::bootstrap_dcs::Dynamic;
use crate::patroni_yml::dcs::{self, Store};
use crate::patroni_yml::member;
use crate::patroni_yml::methods::{Callbacks, CloneMethod, Command, bootstrap_command, callbacks, clone_method};
use crate::patroni_yml::network::{address_and_networks, listen_addresses, outsiders};
use crate::patroni_yml::parameters::{Parameters, Values};
use crate::patroni_yml::ports::{Ports, port};
use crate::patroni_yml::rest_api::{Ctl, Rest, RestApi};
use crate::patroni_yml::values::{member_name, namespace, path_text};

/// Everything that the template shows.
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
    /// Where the data is, as a path.
    #[serde(skip)]
    pub data_directory: PathBuf,
    cluster: String,
    /// Patroni's name of the cluster.
    pub scope: String,
    namespace: String,
    /// Patroni's name of this member.
    pub name: String,
    store: [(&'static str, dcs::Options); 1],
    restapi: RestApi,
    ctl: Option<Ctl>,
    bootstrap: Command,
    dcs: Dynamic,
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
    /// Does the member have a connection point?
    #[serde(skip)]
    pub point: bool,
    /// The address by which the others reach this member.
    #[serde(skip)]
    pub address: IpAddr,
    /// What works, but needs a look.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PostgreSql {
    listen: String,
    connect_address: String,
    data_dir: String,
    bin_dir: String,
    config_dir: String,
    pgpass: String,
    parameters: Values,
}

impl Config {
    /// Resolves everything.
    pub fn resolve(root: &Root, id: &ClusterId, settings: &Settings, key: &SiteKey, ports: &Ports) -> Result<Self> {
        let bin_dir = PathBuf::from("/usr/lib/postgresql").join(id.version.as_str()).join("bin");
        if !root.path(bin_dir.join("initdb")).exists() {
            bail!("PostgreSQL {} is not installed: run apt install postgresql-{}", id.version, id.version);
        }
        let scope = id.dashed();
        let own = ports.own;
        let name = member_name(root, settings)?;
        let members = members::members(settings)?;
        // The one waits for programs, the other for the kernel's tables.
        let (port, addresses) = thread::scope(|scope| {
            let addresses = scope.spawn(|| address_and_networks(root, settings, &name, members.as_deref()));
            (port(root, id, settings, ports, own), addresses.join())
        });
        let port = port?;
        let rest_port = port + REST_OFFSET;
        let (address, networks) = addresses.unwrap_or_else(|panic| resume_unwind(panic))?;
        let data_directory = match own.and_then(|cluster| cluster.data_directory.clone()) {
            Some(directory) => directory,
            None => CreateCluster::read(root)?.data_directory(id)?,
        };
        let point = Endpoint::from_settings(root, id, settings)?;
        let taken = |port: u16| ports.taken(root, port);
        let patroni = Patroni::of(root)?;
        let member = dcs::Member { scope: &scope, address, port, patroni: &patroni, taken: &taken };
        let Store { kind, options, mut warnings } = Store::resolve(root, settings, &member)?;
        warnings.extend(dcs::host_findings(root, kind)?.into_iter().map(|finding| finding.text()));
        let vips: Vec<IpAddr> = point.iter().flat_map(|point| &point.vips).map(|vip| vip.address).collect();
        warnings.extend(point.iter().flat_map(|point| missing_programs(root, point)));
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
            password: key.password(&scope, "restapi"),
        };
        let (restapi, ctl, doubts) = rest.resolve()?;
        warnings.extend(doubts);
        let dcs = Dynamic::resolve(settings, &patroni)?;
        let parameters = Parameters::resolve(root, id, settings, dcs.is_synchronous())?;
        if dcs.has_logical_slots() {
            parameters.require_logical(settings)?;
        }
        let (watchdog, watchdog_device) = member::watchdog(root, settings, &mut warnings)?;
        let access = Access::resolve(root, id, settings, key, &networks)?;
        warnings.extend(point.iter().filter_map(|point| lease_doubt(settings, point, &dcs)));
        Ok(Self {
            cluster: id.slashed(),
            namespace: namespace(settings)?,
            name,
            store: [(kind.name(), options)],
            restapi,
            ctl,
            bootstrap: Command { command: bootstrap_command(settings)? },
            dcs,
            pg_hba: access.hba,
            pg_ident: access.ident,
            parameters: parameters.of_cluster(id),
            postgresql: PostgreSql {
                listen: format!("{}:{port}", listen_addresses(root, settings, address, &vips, &mut warnings)?),
                connect_address: facts::host_port(address, port),
                data_dir: path_text(&data_directory)?,
                bin_dir: path_text(&bin_dir)?,
                config_dir: path_text(&clusters::config_directory(id))?,
                pgpass: format!("/var/lib/postgresql/{scope}.pgpass"),
                parameters: parameters.of_member(root, settings, &format!("postgresql-{scope}.log"), access.tls)?,
            },
            clone: clone_method(settings)?,
            roles: access.roles,
            tags: member::tags(settings, &patroni, &key.fingerprint(&password_scope(settings, id)?))?,
            watchdog,
            watchdog_device,
            log: member::log(root, settings)?,
            callbacks: point.as_ref().map(|_| callbacks(&patroni, &scope)),
            point: point.is_some(),
            address,
            warnings,
            id: id.clone(),
            port,
            rest_port,
            data_directory,
            scope,
        })
    }

    /// Where raft keeps its log, if that is the store.
    #[must_use]
    pub fn raft_directory(&self) -> Option<&Path> {
        let [(kind, options)] = &self.store;
        let directory = options.iter().find(|(name, _)| *kind == "raft" && name == "data_dir");
        directory.and_then(|(_, directory)| directory.as_str()).map(Path::new)
    }
}

/// The address has to be gone before another member can take the leader lock.
fn lease_doubt(settings: &Settings, point: &Endpoint, dcs: &Dynamic) -> Option<String> {
    let lease = point.lease.as_secs();
    (!point.vips.is_empty() && point.manager != Manager::VipManager && lease + dcs.loop_wait >= dcs.ttl).then(|| {
        format!(
            "{}VIP_LEASE + LOOP_WAIT is {}, but TTL is {}: a primary that hangs could have the address when another one takes it; lower \
             VIP_LEASE",
            settings.place(&["VIP_LEASE", "TTL", "LOOP_WAIT"]),
            lease + dcs.loop_wait,
            dcs.ttl
        )
    })
}

/// A registration that cannot be done for want of a program is said now, and not only when the first primary registers.
fn missing_programs(root: &Root, point: &Endpoint) -> Vec<String> {
    let programs = point.dns.as_ref().map_or(&[] as &[_], |dns| dns.auth.programs());
    let missing = programs.iter().filter(|(program, _)| root.program(program).is_err());
    missing.map(|(program, package)| format!("DNS_AUTH=gss needs {program}: run apt install {package}")).collect()
}
