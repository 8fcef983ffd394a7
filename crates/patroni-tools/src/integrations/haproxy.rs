//! `HAProxy`: a port for writing, which is the primary, and one for reading, in turn on the replicas. Which member is what, the REST
//! API of Patroni says.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use host::facts;
use host::settings::Settings;
use serde::Serialize;

use crate::files::install::{READABLE, Rights};
use crate::files::template;
use crate::integrations::cluster::{Given, Instance};
use crate::integrations::plan::{Generated, Plan, Validator};
use crate::patroni::version::Patroni;

/// What Debian's unit reads (`haproxy.service`).
pub const FILE: &str = "/etc/haproxy/haproxy.cfg";

const SECRET: Rights = Rights { user: "root", group: "root", mode: 0o600 };

/// The ports, as far from `PostgreSQL`'s on every host, so that both can be on the same.
const WRITE_OFFSET: u16 = 10_000;
const READ_OFFSET: u16 = 20_000;

/// The page about what goes on.
const STATS_PORT: u16 = 7000;

#[derive(Debug, Serialize)]
struct Values {
    /// Behind `bind`, before a port: all addresses that this host can have.
    every: &'static str,
    /// Behind the port.
    families: &'static str,
    stats: String,
    services: Vec<Service>,
}

/// A port on which `HAProxy` listens.
#[derive(Debug, Serialize)]
struct Service {
    name: String,
    cluster: String,
    what: &'static str,
    port: u16,
    /// In turn, or always the only one.
    balance: bool,
    check: String,
    /// How a member is known to follow the primary, where it has to.
    follows: Option<Follows>,
    options: String,
    servers: Vec<Server>,
    /// By which servers are taken when none is left: any replica that runs.
    fallback: Option<Fallback>,
}

#[derive(Debug, Serialize)]
struct Fallback {
    name: String,
    check: String,
}

#[derive(Debug, Serialize)]
struct Server {
    name: String,
    /// The name as a regular expression.
    pattern: String,
    address: String,
    rest_port: u16,
}

/// By what a replica is known to follow the primary.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Follows {
    /// It says itself that it streams.
    Streaming,
    /// An older Patroni does not say that, but what the members have in the store: it must be on the leader's timeline there.
    Timeline,
}

/// Which members a service has.
struct Kind {
    suffix: &'static str,
    what: &'static str,
    key: &'static str,
    port: Option<u16>,
    check: String,
    follows: Option<Follows>,
    fallback: Option<String>,
}

/// One file for all instances, and one for each certificate that is shown.
pub fn plan(given: &Given) -> Result<Plan> {
    let mut plan = Plan::default();
    let mut services = Vec::new();
    let mut claimed: Vec<(u16, String)> = Vec::new();
    let stats = port(&given.settings, "HAPROXY_STATS_PORT")?.unwrap_or(STATS_PORT);
    claimed.push((stats, "HAPROXY_STATS_PORT".to_owned()));
    let patroni = Patroni::of(given.root)?;
    for instance in &given.instances {
        let options = options(given, instance, &mut plan)?;
        for kind in kinds(instance, &patroni)? {
            let Some(port) = kind.port else { continue };
            let name = format!("{}-{}", instance.id.dashed(), kind.suffix);
            let own = format!("{} ({})", kind.key, instance.id);
            if let Some((_, other)) = claimed.iter().find(|(claimed, _)| *claimed == port) {
                bail!(
                    "{}{own} is port {port}, which {other} has: set another one",
                    instance.settings.place(&[kind.key])
                );
            }
            claimed.push((port, own));
            services.push(service(instance, name, port, kind, &options)?);
        }
    }
    // A kernel without IPv6 has no such addresses.
    let (every, families) = if given.root.path("/proc/net/if_inet6").exists() { ("::", " v4v6") } else { ("*", "") };
    let values = Values { every, families, stats: format!("127.0.0.1:{stats}"), services };
    let body = template::body(given.root, "haproxy.cfg.j2", values)?;
    plan.files.push(Generated {
        path: PathBuf::from(FILE),
        body,
        rights: READABLE,
        validator: Some(Validator { program: "haproxy", package: "haproxy", arguments: &["-c", "-f"] }),
        secrets: Vec::new(),
    });
    plan.next.push("run systemctl reload haproxy to put it into force, which breaks no connection".to_owned());
    Ok(plan)
}

/// The port that is the primary.
pub fn write_port(instance: &Instance) -> Result<u16> {
    let default = instance.port.checked_add(WRITE_OFFSET);
    port(&instance.settings, "HAPROXY_WRITE_PORT")?
        .or(default)
        .with_context(|| format!("{} leaves no port for HAProxy above it: set HAPROXY_WRITE_PORT", instance.id))
}

fn kinds(instance: &Instance, patroni: &Patroni) -> Result<[Kind; 3]> {
    let settings = &instance.settings;
    let lag = settings.parse("HAPROXY_MAX_LAG", |text| {
        let digits = text.trim_end_matches(['k', 'M', 'G', 'B']);
        match digits.parse::<u64>() {
            Ok(_) if ["", "B", "kB", "MB", "GB"].contains(&&text[digits.len()..]) => Ok(text.to_owned()),
            _ => bail!("'{text}' is not a size: write it in bytes, or as 16MB"),
        }
    })?;
    let with_primary = settings.boolean("HAPROXY_READ_PRIMARY")?.unwrap_or(false);
    let tail = format!("?lag={}", lag.as_deref().unwrap_or("16MB"));
    let says = if patroni.says_replication_state() { Follows::Streaming } else { Follows::Timeline };
    let follows = (!with_primary).then_some(says);
    let read = if with_primary { "/read-only" } else { "/replica" };
    let most = |offset: u16| instance.port.checked_add(offset);
    let (Some(write_port), Some(read_port)) = (most(WRITE_OFFSET), most(READ_OFFSET)) else {
        bail!(
            "port {} of {} leaves none for HAProxy above it: set HAPROXY_WRITE_PORT and HAPROXY_READ_PORT",
            instance.port,
            instance.id
        );
    };
    Ok([
        Kind {
            suffix: "write",
            what: "the primary",
            key: "HAPROXY_WRITE_PORT",
            port: Some(port(settings, "HAPROXY_WRITE_PORT")?.unwrap_or(write_port)),
            check: "/primary".to_owned(),
            follows: None,
            fallback: None,
        },
        Kind {
            suffix: "read",
            what: if with_primary { "all members in turn" } else { "the replicas in turn" },
            key: "HAPROXY_READ_PORT",
            port: Some(port(settings, "HAPROXY_READ_PORT")?.unwrap_or(read_port)),
            check: format!("{read}{tail}"),
            follows,
            fallback: follows.map(|_| read.to_owned()),
        },
        Kind {
            suffix: "sync",
            what: "the synchronous standbys in turn",
            key: "HAPROXY_SYNC_PORT",
            port: port(settings, "HAPROXY_SYNC_PORT")?,
            check: "/sync".to_owned(),
            follows: None,
            fallback: None,
        },
    ])
}

fn service(instance: &Instance, name: String, port: u16, kind: Kind, options: &str) -> Result<Service> {
    let servers = instance.members.iter().map(|member| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.:-".contains(&b);
        if !member.name.bytes().all(plain) {
            bail!(
                "{}HAProxy can have no server {}: letters, digits, '-', '_', '.' and ':' are in its names",
                instance.settings.place(&["MEMBERS"]),
                member.name
            );
        }
        let address = facts::host_port(member.address, instance.port);
        let pattern = member.name.replace('.', r"\.");
        Ok(Server { name: member.name.clone(), pattern, address, rest_port: instance.rest_port })
    });
    Ok(Service {
        servers: servers.collect::<Result<_>>()?,
        cluster: instance.id.slashed(),
        what: kind.what,
        port,
        balance: kind.suffix != "write",
        check: kind.check,
        follows: kind.follows,
        options: options.to_owned(),
        fallback: kind.fallback.map(|check| Fallback { name: format!("{name}-any"), check }),
        name,
    })
}

fn port(settings: &Settings, key: &str) -> Result<Option<u16>> {
    Ok(settings.number(key, 1, u64::from(u16::MAX))?.map(u16::try_from).transpose()?)
}

/// How the REST API is asked.
fn options(given: &Given, instance: &Instance, plan: &mut Plan) -> Result<String> {
    let Some(tls) = &instance.tls else { return Ok(String::new()) };
    let mut options = if let Some(signers) = &tls.signers {
        format!(" check-ssl verify required ca-file {}", word(signers)?)
    } else {
        plan.warnings.push(format!(
            "{}the REST API has TLS, but without RESTAPI_CACERT HAProxy believes whoever answers",
            instance.settings.place(&["RESTAPI_CERT"])
        ));
        " check-ssl verify none".to_owned()
    };
    if let Some((certificate, key)) = &tls.client {
        let path = PathBuf::from(format!("/etc/haproxy/{}-client.pem", instance.id.dashed()));
        let read = |path: &Path| -> Result<String> {
            match given.root.read(path)? {
                Some(text) => Ok(text),
                None => bail!("there is no file {}, which HAProxy has to show to the REST API", path.display()),
            }
        };
        let secret = read(key)?;
        let both = format!("{}\n{}\n", read(certificate)?.trim_end(), secret.trim_end());
        options.extend([" crt ", &word(&path)?]);
        let secrets = vec![secret.trim().to_owned()];
        plan.files.push(Generated { path, body: both, rights: SECRET, validator: None, secrets });
    }
    Ok(options)
}

/// A path that is one word for `HAProxy`.
fn word(path: &Path) -> Result<String> {
    let text = path.display().to_string();
    if text.bytes().any(|b| b.is_ascii_whitespace() || b"\"'\\#$".contains(&b)) {
        bail!("{text} has a character that ends a word in HAProxy's configuration: rename it");
    }
    Ok(text)
}
