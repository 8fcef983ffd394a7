//! etcd on the members: what Debian's unit reads, `/etc/default/etcd`, of the server on this member.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use host::facts::host_port;
use host::members::Member;
use host::settings::Settings;
use host::{Root, envfile};
use serde::Serialize;

use crate::files::install::READABLE;
use crate::files::{certificate, template};
use crate::integrations::certificate_files;
use crate::integrations::cluster::Given;
use crate::integrations::plan::{Generated, Plan};
use crate::patroni_yml::dcs::{Server, Tls, is_name, server};

/// What Debian's unit reads (`etcd.service`).
const FILE: &str = "/etc/default/etcd";

/// What the unit lacks.
const DROP_IN: &str = "/etc/systemd/system/etcd.service.d";

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

#[derive(Debug, Serialize)]
struct Values {
    name: String,
    peer: String,
    client: String,
    loopback: String,
    /// `name=url`, separated by commas.
    cluster: String,
    state: &'static str,
    tls: Option<Files>,
}

/// Of TLS, in quotes.
#[derive(Debug, Serialize)]
struct Files {
    certificate: String,
    key: String,
    signers: String,
    /// Does a client have to show a certificate?
    clients: bool,
}

/// The settings of etcd, and what its unit lacks.
pub fn plan(given: &Given) -> Result<Plan> {
    let settings = &given.settings;
    let store = settings.text("DCS").unwrap_or("etcd3");
    if !["etcd3", "etcd"].contains(&store) {
        bail!("{}the store is {store}, not etcd: set DCS=etcd3", settings.place(&["DCS"]));
    }
    let name = given.name()?;
    let servers = servers(settings, &given.members()?)?;
    let Some((own, port)) = servers.iter().find(|(member, _)| member.name == name) else {
        let names: Vec<&str> = servers.iter().map(|(member, _)| member.name.as_str()).collect();
        bail!(
            "{}{name} has no server of etcd, only {} have one: run this there",
            settings.place(&["DCS_HOSTS", "MEMBERS"]),
            names.join(", ")
        );
    };
    let tls = match Tls::read(given.root, settings)? {
        Some(_) => Some(Files::read(given.root, settings, own.address)?),
        None => None,
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = |address: IpAddr, port: u16| format!("{scheme}://{}", host_port(address, port));
    let cluster = servers.iter().map(|(member, _)| format!("{}={}", member.name, url(member.address, PEER_PORT)));
    let loopback = if own.address.is_ipv4() { [127, 0, 0, 1].into() } else { IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]) };
    let mut plan = Plan { directories: vec![PathBuf::from(DROP_IN)], ..Plan::default() };
    if tls.is_none() {
        plan.warnings.push(
            "etcd has no TLS, so that whoever reaches it decides who is primary: run patroni-gen-config --for tls, and set \
             DCS_CACERT, DCS_CERT and DCS_KEY"
                .to_owned(),
        );
    }
    let values = Values {
        peer: url(own.address, PEER_PORT),
        client: url(own.address, *port),
        loopback: url(loopback, *port),
        cluster: cluster.collect::<Vec<_>>().join(","),
        state: settings.choice("ETCD_STATE", &["new", "existing"])?.unwrap_or("new"),
        name,
        tls,
    };
    for (path, template) in
        [(PathBuf::from(FILE), "etcd.default.j2"), (Path::new(DROP_IN).join("patroni-tools.conf"), "etcd.conf.j2")]
    {
        let body = template::body(given.root, template, &values)?;
        plan.files.push(Generated { path, body, rights: READABLE, validator: None, secrets: Vec::new() });
    }
    plan.next.push(
        "run systemctl daemon-reload, systemctl enable etcd and systemctl restart --no-block etcd to put it into force; a new etcd \
         answers when most of its servers run"
            .to_owned(),
    );
    Ok(plan)
}

/// Which members have a server, with the port for clients: those that `DCS_HOSTS` names, or all.
fn servers(settings: &Settings, members: &[Member]) -> Result<Vec<(Member, u16)>> {
    for member in members {
        if !is_name(&member.name) {
            bail!(
                "{}etcd can have no server {}: letters, digits, '-', '_' and '.' are in its names",
                settings.place(&["MEMBERS"]),
                member.name
            );
        }
    }
    let named = settings.list("DCS_HOSTS", |text| server(text, CLIENT_PORT))?.unwrap_or_default();
    // This host alone is the server that a member asks, not the only one that there is.
    let named: Vec<&Server> = named.iter().filter(|server| !is_loopback(&server.host)).collect();
    if named.is_empty() {
        return Ok(members.iter().map(|member| (member.clone(), CLIENT_PORT)).collect());
    }
    let find = |server: &Server| {
        let own = |member: &&Member| {
            member.name == server.host || server.host.parse::<IpAddr>().is_ok_and(|address| address == member.address)
        };
        let found = members.iter().find(own).map(|member| (member.clone(), server.port));
        found.with_context(|| {
            format!(
                "{}{} is none of MEMBERS: only a server on a member can be configured from these settings",
                settings.place(&["DCS_HOSTS"]),
                server.host
            )
        })
    };
    named.into_iter().map(find).collect()
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Files {
    fn read(root: &Root, settings: &Settings, address: IpAddr) -> Result<Self> {
        let (certificate, key) = match (settings.path("ETCD_CERT")?, settings.path("ETCD_KEY")?) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) => certificate_files::files(root, "etcd")?,
            _ => bail!(
                "{}ETCD_CERT and ETCD_KEY go together: set both, or none",
                settings.place(&["ETCD_CERT", "ETCD_KEY"])
            ),
        };
        let found = certificate::read_pair(root, &certificate, &key)?;
        if let Err(others) = found.is_for(address) {
            bail!(
                "{} is not for {address}, the address of this member, but for {others}: the other servers would refuse it",
                certificate.display()
            );
        }
        let Some(signers) = settings.path("DCS_CACERT")? else {
            bail!(
                "{}DCS_CACERT is not set, by which etcd knows its other servers and its clients",
                settings.place(&["DCS_CERT", "DCS_PROTOCOL"])
            );
        };
        let quoted = |path: &Path| envfile::quote(&path.display().to_string());
        Ok(Self {
            certificate: quoted(&certificate),
            key: quoted(&key),
            signers: quoted(&signers),
            clients: settings.get("DCS_CERT").is_some(),
        })
    }
}
