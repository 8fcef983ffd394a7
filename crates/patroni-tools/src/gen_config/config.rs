//! What stands in a Patroni file, resolved: settings and facts in, no open question out.

use std::net::IpAddr;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde::Serialize;
use serde_json::Value;
use site::clusters::{self, Installed};
use site::createcluster::CreateCluster;
use site::facts;
use site::keys::SiteKey;
use site::members::{self, Member};
use site::point::Point;
use site::settings::Settings;
use site::{ClusterId, Root};

use super::installed::Patroni;
use super::rest::{Ctl, Rest, RestApi};
use super::store;

/// The REST API's port is PostgreSQL's plus this, so that 5432 gives 8008, as in Debian's package.
const REST_OFFSET: u16 = 8008 - 5432;

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
    file: String,
    /// Patroni's name of the cluster.
    pub scope: String,
    namespace: String,
    /// Patroni's name of this member.
    pub name: String,
    store: Vec<(String, Vec<(String, Value)>)>,
    restapi: RestApi,
    ctl: Option<Ctl>,
    bootstrap: Command,
    dcs: Dynamic,
    pg_hba: Vec<String>,
    postgresql: PostgreSql,
    clone: CloneMethod,
    roles: Roles,
    watchdog: &'static str,
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
struct Dynamic {
    ttl: u64,
    loop_wait: u64,
    retry_timeout: u64,
    maximum_lag_on_failover: u64,
    failsafe_mode: bool,
    synchronous_mode: bool,
    synchronous_node_count: u64,
}

#[derive(Debug, Serialize)]
struct PostgreSql {
    listen: String,
    connect_address: String,
    data_dir: String,
    bin_dir: String,
    config_dir: String,
    pgpass: String,
    log_filename: String,
}

#[derive(Debug, Serialize)]
struct CloneMethod {
    command: String,
    options: Vec<(&'static str, String)>,
}

#[derive(Debug, Serialize)]
struct Roles {
    replication: &'static str,
    replication_password: String,
    rewind: &'static str,
    rewind_password: String,
}

/// The host as far as ports matter.
pub struct Ports<'a> {
    /// Its clusters.
    pub clusters: &'a [Installed],
    /// The port that this instance's present Patroni file has.
    pub present: Option<u16>,
    /// Who has claimed a port by a Patroni file of another instance.
    pub claimed_by: &'a dyn Fn(u16) -> Option<ClusterId>,
}

impl Config {
    /// Resolves everything.
    pub fn resolve(root: &Root, id: &ClusterId, settings: &Settings, key: &SiteKey, ports: &Ports) -> Result<Self> {
        let bin_dir = PathBuf::from("/usr/lib/postgresql").join(id.version.as_str()).join("bin");
        if !root.path(bin_dir.join("initdb")).exists() {
            bail!("PostgreSQL {} is not installed: run apt install postgresql-{}", id.version, id.version);
        }
        let scope = id.dashed();
        let own = ports.clusters.iter().find(|cluster| cluster.id == *id);
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
        let vips: Vec<IpAddr> = point.iter().flat_map(|point| &point.vips).map(|vip| vip.address).collect();
        let mut warnings = Vec::new();
        let patroni = Patroni::of(root)?;
        let store = store::sections(root, settings)?;
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
        let dcs = dynamic(settings)?;
        let lease = point.as_ref().filter(|_| !vips.is_empty()).map_or(0, |point| point.lease.as_secs());
        if lease > 0 && lease + dcs.loop_wait >= dcs.ttl {
            warnings.push(format!(
                "{}VIP_LEASE + LOOP_WAIT is {}, but TTL is {}: a primary that hangs could have the address when another one takes it; lower VIP_LEASE",
                settings.place(&["VIP_LEASE", "TTL", "LOOP_WAIT"]),
                lease + dcs.loop_wait,
                dcs.ttl
            ));
        }
        Ok(Self {
            file: file(id).display().to_string(),
            namespace: namespace(settings)?,
            name,
            store,
            restapi,
            ctl,
            bootstrap: Command { command: bootstrap_command(settings)? },
            dcs,
            pg_hba: pg_hba(&networks),
            postgresql: PostgreSql {
                listen: format!("{}:{port}", listen_addresses(root, settings, address, &vips, &mut warnings)?),
                connect_address: facts::host_port(address, port),
                data_dir: path_text(&data_directory)?,
                bin_dir: path_text(&bin_dir)?,
                config_dir: path_text(&clusters::config_directory(id))?,
                pgpass: format!("/var/lib/postgresql/{scope}.pgpass"),
                log_filename: format!("postgresql-{scope}.log"),
            },
            clone: clone_method(settings)?,
            roles: Roles {
                replication: "replicator",
                replication_password: key.password(&scope, "replicator"),
                rewind: "rewind_user",
                rewind_password: key.password(&scope, "rewind_user"),
            },
            watchdog: settings.choice("WATCHDOG", &["off", "automatic", "required"])?.unwrap_or("automatic"),
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
        let (all, family) = if vip.is_ipv4() { ("0.0.0.0", "ipv4") } else { ("::", "ipv6") };
        if asked.iter().any(|asked| asked == "*" || asked == all) {
            continue;
        }
        let sysctl = format!("net.{family}.ip_nonlocal_bind");
        let nonlocal = root.read(format!("/proc/sys/{}", sysctl.replace('.', "/")))?.unwrap_or_default();
        if !asked.contains(&vip.to_string()) {
            warnings.push(format!(
                "{place}LISTEN_ADDRESSES does not have {vip} of VIPS, so nobody answers there: set it to *, or add {vip} and set {sysctl} = 1"
            ));
        } else if nonlocal.trim() != "1" {
            warnings.push(format!(
                "{place}LISTEN_ADDRESSES has {vip}, which may be elsewhere when PostgreSQL starts: set {sysctl} = 1 in /etc/sysctl.d"
            ));
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

/// Besides everybody's access, Patroni needs: replication and rewind from the members, and replication from this host
/// to itself, by which it asks a replica's timeline before a switchover (`Postgresql.get_replica_timeline`).
fn pg_hba(networks: &[String]) -> Vec<String> {
    let mut lines = vec!["local all postgres peer".to_owned(), "local all all peer".to_owned()];
    let local = ["127.0.0.1/32".to_owned(), "::1/128".to_owned()];
    for database in ["all", "replication"] {
        let user = if database == "replication" { "replicator" } else { "all" };
        for network in local.iter().chain(networks) {
            lines.push(format!("host {database} {user} {network} scram-sha-256"));
        }
    }
    lines
}

fn namespace(settings: &Settings) -> Result<String> {
    let namespace = settings.parse("NAMESPACE", |text| {
        if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_.-".contains(&b)) {
            Ok(format!("/{}/", text.trim_matches('/')))
        } else {
            bail!("'{text}' is not a path of the store: use letters, digits, '_', '.', '-' and '/'")
        }
    })?;
    Ok(namespace.unwrap_or_else(|| "/postgresql-common/".to_owned()))
}

fn member_name(root: &Root, settings: &Settings) -> Result<String> {
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

fn dynamic(settings: &Settings) -> Result<Dynamic> {
    const DAY: u64 = 86_400;
    let dynamic = Dynamic {
        ttl: settings.number("TTL", 20, DAY)?.unwrap_or(30),
        loop_wait: settings.number("LOOP_WAIT", 1, DAY)?.unwrap_or(10),
        retry_timeout: settings.number("RETRY_TIMEOUT", 3, DAY)?.unwrap_or(10),
        maximum_lag_on_failover: settings.number("MAXIMUM_LAG_ON_FAILOVER", 0, u64::MAX)?.unwrap_or(1_048_576),
        failsafe_mode: settings.truth("FAILSAFE_MODE")?.unwrap_or(true),
        synchronous_mode: settings.truth("SYNCHRONOUS_MODE")?.unwrap_or(false),
        synchronous_node_count: settings.number("SYNCHRONOUS_NODE_COUNT", 1, 100)?.unwrap_or(1),
    };
    let least = dynamic.loop_wait + 2 * dynamic.retry_timeout;
    if dynamic.ttl < least {
        let origin = settings.place(&["TTL", "LOOP_WAIT", "RETRY_TIMEOUT"]);
        bail!(
            "{origin}TTL is {}, but LOOP_WAIT + 2 * RETRY_TIMEOUT is {least}: the primary could lose its lock while it is \
             still trying; raise TTL or lower the others",
            dynamic.ttl
        );
    }
    Ok(dynamic)
}

fn path_text(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .with_context(|| format!("{} is not UTF-8: Patroni cannot take this path", path.display()))
}
