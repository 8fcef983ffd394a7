//! HAProxy: a port for writing, which leads to the primary, and one for reading, which leads to the replicas in turn. It gets the role
//! of each member from Patroni's REST API.

use std::path::{Path, PathBuf};

use anyhow::Result;
use host::settings::Settings;
use host::{facts, fail, trouble};
use serde::Serialize;

use crate::files::install::{READABLE, Rights};
use crate::files::template;
use crate::integrations::certificate_files;
use crate::integrations::cluster::{Cluster, Site};
use crate::integrations::plan::{Generated, Plan, Validator};
use crate::patroni::version::Patroni;

/// What Debian's unit reads (`haproxy.service`).
pub const FILE: &str = "/etc/haproxy/haproxy.cfg";

const SECRET: Rights = Rights { user: "root", group: "root", mode: 0o600 };

/// The offsets of the ports from PostgreSQL's, so that both can run on the same host.
const WRITE_OFFSET: u16 = 10_000;
const READ_OFFSET: u16 = 20_000;

/// The port of the statistics page.
const STATS_PORT: u16 = 7000;

#[derive(Debug, Serialize)]
struct Values {
    /// What precedes the port in `bind`: all addresses that this host can have.
    every: &'static str,
    /// What follows the port.
    families: &'static str,
    stats: String,
    services: Vec<Service>,
}

/// A port on which HAProxy listens.
#[derive(Debug, Serialize)]
struct Service {
    name: String,
    cluster: String,
    what: &'static str,
    port: u16,
    /// Are connections distributed among the servers?
    balance: bool,
    check: String,
    /// How a member shows that it follows the primary, if it must.
    follows: Option<Follows>,
    options: String,
    servers: Vec<Server>,
    /// The servers that are used if none is left: all running replicas.
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

/// How a replica shows that it follows the primary.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Follows {
    /// It reports that it is streaming.
    Streaming,
    /// An older Patroni does not report that, but the members in the DCS: the replica must be on the leader's timeline there.
    Timeline,
}

/// The kind of a service.
struct Kind {
    suffix: &'static str,
    what: &'static str,
    key: &'static str,
    port: Option<u16>,
    check: String,
    follows: Option<Follows>,
    fallback: Option<String>,
}

/// One file for all clusters, and one for each client certificate.
pub fn plan(site: &Site) -> Result<Plan> {
    let mut plan = Plan::default();
    let mut services = Vec::new();
    let mut claimed: Vec<(u16, String)> = Vec::new();
    let stats = port(&site.settings, "HAPROXY_STATS_PORT")?.unwrap_or(STATS_PORT);
    claimed.push((stats, "HAPROXY_STATS_PORT".to_owned()));
    let patroni = Patroni::of_members(site.root)?;
    for cluster in &site.clusters {
        let options = options(site, cluster, &mut plan)?;
        for kind in kinds(cluster, &patroni)? {
            let Some(port) = kind.port else { continue };
            let name = format!("{}-{}", cluster.id.dashed(), kind.suffix);
            let own = format!("{} ({})", kind.key, cluster.id);
            if let Some((_, other)) = claimed.iter().find(|(claimed, _)| *claimed == port) {
                fail!(
                    at cluster.settings.place(&[kind.key]),
                    "{own} is port {port}, which {other} already uses";
                    "Set another port."
                );
            }
            claimed.push((port, own));
            services.push(service(cluster, name, port, kind, &options)?);
        }
    }
    // A kernel without IPv6 cannot bind to IPv6 addresses.
    let (every, families) = if site.root.path("/proc/net/if_inet6").exists() { ("::", " v4v6") } else { ("*", "") };
    let values = Values { every, families, stats: format!("127.0.0.1:{stats}"), services };
    let body = template::body(site.root, "haproxy.cfg.j2", values)?;
    plan.files.push(Generated {
        path: PathBuf::from(FILE),
        body,
        rights: READABLE,
        validator: Some(Validator { program: "haproxy", package: "haproxy", arguments: &["-c", "-f"] }),
        secrets: Vec::new(),
    });
    plan.next.push("apply it, without closing any connection, with: systemctl reload haproxy".to_owned());
    Ok(plan)
}

/// The port that leads to the primary.
pub fn write_port(cluster: &Cluster) -> Result<u16> {
    match port(&cluster.settings, "HAPROXY_WRITE_PORT")? {
        Some(port) => Ok(port),
        None => above(cluster, WRITE_OFFSET),
    }
}

fn above(cluster: &Cluster, offset: u16) -> Result<u16> {
    let above = cluster.port.checked_add(offset);
    Ok(above.ok_or_else(|| {
        trouble!(
            "port {} of {} is too high to derive a port of HAProxy from it", cluster.port, cluster.id;
            "Set HAPROXY_WRITE_PORT and HAPROXY_READ_PORT."
        )
    })?)
}

fn kinds(cluster: &Cluster, patroni: &Patroni) -> Result<[Kind; 3]> {
    let settings = &cluster.settings;
    let lag = settings.parse("HAPROXY_MAX_LAG", |text| {
        let digits = text.trim_end_matches(['k', 'M', 'G', 'B']);
        match digits.parse::<u64>() {
            Ok(_) if ["", "B", "kB", "MB", "GB"].contains(&&text[digits.len()..]) => Ok(text.to_owned()),
            _ => fail!("'{text}' is not a size"; "Write it in bytes, or as 16MB."),
        }
    })?;
    let with_primary = settings.boolean("HAPROXY_READ_PRIMARY")?.unwrap_or(false);
    let tail = format!("?lag={}", lag.as_deref().unwrap_or("16MB"));
    let replicas = if patroni.says_replication_state() { Follows::Streaming } else { Follows::Timeline };
    let follows = (!with_primary).then_some(replicas);
    let read = if with_primary { "/read-only" } else { "/replica" };
    let read_port = match port(settings, "HAPROXY_READ_PORT")? {
        Some(port) => port,
        None => above(cluster, READ_OFFSET)?,
    };
    Ok([
        Kind {
            suffix: "write",
            what: "the primary",
            key: "HAPROXY_WRITE_PORT",
            port: Some(write_port(cluster)?),
            check: "/primary".to_owned(),
            follows: None,
            fallback: None,
        },
        Kind {
            suffix: "read",
            what: if with_primary { "all members in turn" } else { "the replicas in turn" },
            key: "HAPROXY_READ_PORT",
            port: Some(read_port),
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

fn service(cluster: &Cluster, name: String, port: u16, kind: Kind, options: &str) -> Result<Service> {
    let servers = cluster.members.iter().map(|member| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.:-".contains(&b);
        if !member.name.bytes().all(plain) {
            fail!(
                at cluster.settings.place(&["MEMBERS"]),
                "HAProxy does not support '{}' as the name of a server", member.name;
                "Use only letters, digits, '-', '_', '.' and ':'."
            );
        }
        let address = facts::host_port(member.address, cluster.port);
        let pattern = member.name.replace('.', r"\.");
        Ok(Server { name: member.name.clone(), pattern, address, rest_port: cluster.rest_port })
    });
    Ok(Service {
        servers: servers.collect::<Result<_>>()?,
        cluster: cluster.id.slashed(),
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

/// The options of the requests to the REST API.
fn options(site: &Site, cluster: &Cluster, plan: &mut Plan) -> Result<String> {
    let Some(tls) = &cluster.tls else { return Ok(String::new()) };
    let mut options = if let Some(ca) = &tls.ca {
        if ca.starts_with(certificate_files::DIRECTORY) && !site.root.path(ca).exists() {
            fail!("{} does not exist", ca.display(); "Create it with: patroni-gen-config for tls");
        }
        format!(" check-ssl verify required ca-file {}", word(ca)?)
    } else {
        plan.warnings.push(trouble!(
            at cluster.settings.place(&["RESTAPI_CERT"]),
            "the REST API uses TLS, but without RESTAPI_CACERT HAProxy trusts every server";
            "Set RESTAPI_CACERT."
        ));
        " check-ssl verify none".to_owned()
    };
    if let Some((certificate, key)) = &tls.client {
        let path = PathBuf::from(format!("/etc/haproxy/{}-client.pem", cluster.id.dashed()));
        let read = |path: &Path| -> Result<String> {
            match site.root.read(path)? {
                Some(text) => Ok(text),
                None => fail!(
                    "{} does not exist, but the REST API requires this client certificate", path.display();
                    "Create it, or correct the settings."
                ),
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

/// A path as a word of HAProxy's configuration.
fn word(path: &Path) -> Result<String> {
    let text = path.display().to_string();
    if text.bytes().any(|b| b.is_ascii_whitespace() || b"\"'\\#$".contains(&b)) {
        fail!("'{text}' contains a character that HAProxy's configuration does not support"; "Rename the file.");
    }
    Ok(text)
}
