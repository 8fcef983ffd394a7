//! What stands in a Patroni file, resolved: settings and facts in, no open question out.

use std::net::IpAddr;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde::Serialize;
use site::clusters::{self, Installed};
use site::createcluster::CreateCluster;
use site::facts;
use site::keys::SiteKey;
use site::members::{self, Member};
use site::point::{Manager, Point};
use site::settings::Settings;
use site::{ClusterId, Root};

use super::access::{Access, Roles, password_scope};
use super::dynamic::Dynamic;
use super::installed::Patroni;
use super::member;
use super::parameters::{Parameters, Values};
use super::rest::{Ctl, Rest, RestApi};
use super::store::{self, Store};

/// The REST API's port is PostgreSQL's plus this, so that 5432 gives 8008, as in Debian's package.
pub const REST_OFFSET: u16 = 8008 - 5432;

/// Where the hooks are.
pub const HOOKS: &str = "/usr/libexec/patroni-tools";

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
    store: [(&'static str, store::Options); 1],
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
struct Callbacks {
    command: String,
    before_stop: Option<String>,
}

#[derive(Debug, Serialize)]
struct Command {
    command: String,
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

#[derive(Debug, Serialize)]
struct CloneMethod {
    command: String,
    options: Vec<(&'static str, String)>,
}

/// The host as far as ports matter.
pub struct Ports<'a> {
    /// Its clusters.
    pub clusters: &'a [Installed],
    /// The cluster that is configured here.
    pub own: Option<&'a Installed>,
    /// The port that this instance's present Patroni file has.
    pub present: Option<u16>,
    /// Who has claimed a port by a Patroni file of another instance.
    pub claimed_by: &'a dyn Fn(u16) -> Option<ClusterId>,
    /// The port of raft that this instance's present Patroni file has.
    pub raft: Option<u16>,
}

impl Ports<'_> {
    /// Who has this port already, for an error.
    fn taken(&self, root: &Root, port: u16) -> Option<String> {
        if let Some(other) = (self.claimed_by)(port) {
            return Some(format!("is claimed by {}", file(&other).display()));
        }
        if let Some(other) = self.clusters.iter().find(|cluster| cluster.port == port) {
            return Some(format!("belongs to the cluster {}", other.id));
        }
        let listening = self.raft != Some(port) && clusters::listening_ports(root).is_ok_and(|all| all.contains(&port));
        listening.then(|| "is in use on this host".to_owned())
    }
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
        let point = Point::from_settings(root, id, settings)?;
        let taken = |port: u16| ports.taken(root, port);
        let patroni = Patroni::of(root)?;
        let member = store::Member { scope: &scope, address, port, patroni: &patroni, taken: &taken };
        let Store { kind, options, mut warnings } = Store::resolve(root, settings, &member)?;
        warnings.extend(store::host_findings(root, kind)?.into_iter().map(|finding| finding.text()));
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
fn lease_doubt(settings: &Settings, point: &Point, dcs: &Dynamic) -> Option<String> {
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

/// The Patroni file of an instance.
#[must_use]
pub fn file(id: &ClusterId) -> PathBuf {
    PathBuf::from(format!("{}/{}.yml", super::DIRECTORY, id.dashed()))
}

/// `--port` or `PORT`, the port it has in its Patroni file, the port of the existing cluster, or the next free one.
fn port(root: &Root, id: &ClusterId, settings: &Settings, ports: &Ports, own: Option<&Installed>) -> Result<u16> {
    let most = u64::from(u16::MAX - REST_OFFSET);
    let asked = settings.number("PORT", 1024, most)?.map(|port| u16::try_from(port).unwrap_or(u16::MAX));
    if let Some(port) = asked {
        let claim = settings.get("PORT").map(|setting| setting.origin.to_string()).unwrap_or_default();
        if let Some(other) = ports.clusters.iter().find(|cluster| cluster.port == port && cluster.id != *id) {
            bail!("{claim}: port {port} belongs to the cluster {}: choose another one", other.id);
        }
        if let Some(other) = (ports.claimed_by)(port).or_else(|| (ports.claimed_by)(port + REST_OFFSET)) {
            bail!(
                "{claim}: port {port} or {} is claimed by {}: choose another one",
                port + REST_OFFSET,
                file(&other).display()
            );
        }
        return Ok(port);
    }
    if let Some(port) = ports.present {
        return Ok(port);
    }
    if let Some(cluster) = own {
        if let Some(other) = (ports.claimed_by)(cluster.port) {
            bail!(
                "port {} of the existing cluster {id} is claimed by {}: choose another one with --port",
                cluster.port,
                file(&other).display()
            );
        }
        return Ok(cluster.port);
    }
    let listening = clusters::listening_ports(root)?;
    clusters::next_free_port(ports.clusters, &listening, |port| {
        port.checked_add(REST_OFFSET).is_none_or(|rest| {
            (ports.claimed_by)(port).is_some() || (ports.claimed_by)(rest).is_some() || listening.contains(&rest)
        })
    })
}

fn address_and_networks(
    root: &Root,
    settings: &Settings,
    name: &str,
    members: Option<&[Member]>,
) -> Result<(IpAddr, Vec<IpNet>)> {
    let asked = settings.parse("HOST_ADDRESS", |text| {
        let address = facts::parse_address(text)?;
        if address.is_loopback() || address.is_unspecified() {
            bail!("the other members cannot reach {address}: set the address of this host in their network");
        }
        Ok(address)
    })?;
    let listed = members.map(|members| members::address_of(settings, members, name)).transpose()?;
    if let (Some(asked), Some(listed)) = (asked, listed) {
        if asked != listed {
            bail!(
                "{}HOST_ADDRESS is {asked}, but MEMBERS has {name}={listed}: correct one of them",
                settings.place(&["HOST_ADDRESS"])
            );
        }
    }
    let networks = settings.list("NETWORK", facts::parse_network)?;
    match (asked.or(listed), networks) {
        (Some(address), Some(networks)) => Ok((address, networks)),
        (address, networks) => {
            let own = match address {
                None => facts::main_address(root)?,
                Some(address) => {
                    let key = if asked.is_some() { "HOST_ADDRESS" } else { "MEMBERS" };
                    facts::addresses(root)?.into_iter().find(|own| own.addr() == address).with_context(|| {
                        format!(
                            "{}{key} {address} is on no interface of this host: correct it, or set NETWORK too",
                            settings.place(&[key])
                        )
                    })?
                }
            };
            Ok((own.addr(), networks.unwrap_or_else(|| vec![own.trunc()])))
        }
    }
}

/// Members whose replication `pg_hba` would refuse.
fn outsiders(settings: &Settings, members: &[Member], networks: &[IpNet]) -> Vec<String> {
    let outside = members.iter().filter(|member| !networks.iter().any(|network| network.contains(&member.address)));
    let names: Vec<String> = outside.map(|member| format!("{} ({})", member.name, member.address)).collect();
    if names.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "{}MEMBERS has {}, in none of NETWORK, so that pg_hba refuses the replication from there: set NETWORK",
        settings.place(&["MEMBERS"]),
        names.join(", ")
    )]
}

/// A virtual address on which PostgreSQL does not listen.
pub struct Unheard {
    /// Does it never, or only where the address is there when it starts?
    pub never: bool,
    /// The end of a sentence about where it listens.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// Does PostgreSQL, listening on these addresses, not listen on a virtual one?
pub fn unheard(root: &Root, listens: &[String], vip: IpAddr) -> Result<Option<Unheard>> {
    let (all, family) = if vip.is_ipv4() { ("0.0.0.0", "ipv4") } else { ("::", "ipv6") };
    if listens.iter().any(|address| address == "*" || address == all) {
        return Ok(None);
    }
    let sysctl = format!("net.{family}.ip_nonlocal_bind");
    if !listens.contains(&vip.to_string()) {
        return Ok(Some(Unheard {
            never: true,
            what: format!("does not have {vip} of VIPS, so nobody answers there"),
            remedy: format!("set LISTEN_ADDRESSES to *, or add {vip} to it and set {sysctl} = 1"),
        }));
    }
    let nonlocal = root.read(format!("/proc/sys/{}", sysctl.replace('.', "/")))?.unwrap_or_default();
    Ok((nonlocal.trim() != "1").then(|| Unheard {
        never: false,
        what: format!("has {vip}, which may be elsewhere when PostgreSQL starts"),
        remedy: format!("set {sysctl} = 1 in /etc/sysctl.d"),
    }))
}

/// What PostgreSQL listens on: its own address, so that a new cluster is not in every network of the host; all addresses where
/// it has a virtual one, because PostgreSQL opens its sockets once, when that address may be elsewhere.
fn listen_addresses(
    root: &Root,
    settings: &Settings,
    address: IpAddr,
    vips: &[IpAddr],
    warnings: &mut Vec<String>,
) -> Result<String> {
    let asked = settings.list("LISTEN_ADDRESSES", |text| match text {
        "*" | "localhost" => Ok(text.to_owned()),
        other => Ok(facts::parse_address(other)?.to_string()),
    })?;
    let loopback = if address.is_ipv4() { "127.0.0.1" } else { "::1" };
    let Some(asked) = asked else {
        return Ok(if vips.is_empty() { format!("{address},{loopback}") } else { "*".to_owned() });
    };
    let place = settings.place(&["LISTEN_ADDRESSES"]);
    for vip in vips {
        if let Some(unheard) = unheard(root, &asked, *vip)? {
            warnings.push(format!("{place}LISTEN_ADDRESSES {}: {}", unheard.what, unheard.remedy));
        }
    }
    Ok(asked.join(","))
}

/// What Patroni calls. It puts event, role and scope behind the command, but nothing behind `before_stop`.
fn callbacks(patroni: &Patroni, scope: &str) -> Callbacks {
    let command = format!("{HOOKS}/dnscp");
    let before_stop = patroni.has_before_stop().then(|| format!("{command} before_stop primary {scope}"));
    Callbacks { command, before_stop }
}

/// A registration that cannot be done for want of a program is said now, and not only when the first primary registers.
fn missing_programs(root: &Root, point: &Point) -> Vec<String> {
    let programs = point.dns.as_ref().map_or(&[] as &[_], |dns| dns.auth.programs());
    let missing = programs.iter().filter(|(program, _)| root.program(program).is_err());
    missing.map(|(program, package)| format!("DNS_AUTH=gss needs {program}: run apt install {package}")).collect()
}

/// Where in the store all instances are, with a slash at both ends.
pub fn namespace(settings: &Settings) -> Result<String> {
    let namespace = settings.parse("NAMESPACE", |text| {
        if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_.-".contains(&b)) {
            Ok(format!("/{}/", text.trim_matches('/')))
        } else {
            bail!("'{text}' is not a path of the store: use letters, digits, '_', '.', '-' and '/'")
        }
    })?;
    Ok(namespace.unwrap_or_else(|| "/postgresql-common/".to_owned()))
}

/// The name of this member.
pub fn member_name(root: &Root, settings: &Settings) -> Result<String> {
    let name = settings.parse("MEMBER_NAME", members::member_name)?;
    name.map_or_else(|| facts::host_name(root), Ok)
}

/// Patroni splits the command as a shell would; the values have none of a shell's characters.
fn bootstrap_command(settings: &Settings) -> Result<String> {
    let plain = |text: &str| {
        if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.@-".contains(&b)) {
            Ok(text.to_owned())
        } else {
            bail!("'{text}' has a character that no name of a locale or encoding has")
        }
    };
    let mut words = vec![format!("{HOOKS}/pg_createcluster_patroni")];
    words.extend(settings.parse("LOCALE", plain)?.map(|locale| format!("--locale={locale}")));
    words.extend(settings.parse("ENCODING", plain)?.map(|encoding| format!("--encoding={encoding}")));
    match settings.truth("DATA_CHECKSUMS")? {
        Some(true) => words.push("--data-checksums".to_owned()),
        Some(false) => words.push("--no-data-checksums".to_owned()),
        None => {}
    }
    Ok(words.join(" "))
}

fn clone_method(settings: &Settings) -> Result<CloneMethod> {
    let mut options = Vec::new();
    let rate = settings.parse("CLONE_MAX_RATE", |text| {
        let digits = text.strip_suffix(['k', 'M']).unwrap_or(text);
        match digits.parse::<u32>() {
            Ok(number) if number > 0 => Ok(text.to_owned()),
            _ => bail!("'{text}' is not a rate of pg_basebackup: write it as 50M, 900k or kilobytes per second"),
        }
    })?;
    let compress = settings.parse("CLONE_COMPRESS", |text| {
        if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-:=,".contains(&b)) {
            Ok(text.to_owned())
        } else {
            bail!("'{text}' is not METHOD[:DETAIL] of pg_basebackup --compress")
        }
    })?;
    let checkpoint = settings.choice("CLONE_CHECKPOINT", &["fast", "spread"])?.map(str::to_owned);
    for (name, value) in [("max-rate", rate), ("compress", compress), ("checkpoint", checkpoint)] {
        options.extend(value.map(|value| (name, value)));
    }
    Ok(CloneMethod { command: format!("{HOOKS}/pg_clonecluster_patroni"), options })
}

/// A path as Patroni takes it.
pub fn path_text(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .with_context(|| format!("{} is not UTF-8: Patroni cannot take this path", path.display()))
}
