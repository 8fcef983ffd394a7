//! etcd on the members: `/etc/default/etcd`, which Debian's unit reads, for the server on this member.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use host::facts::host_port;
use host::members::Member;
use host::settings::Settings;
use host::{Root, envfile, fail, trouble};
use serde::Serialize;

use crate::files::install::READABLE;
use crate::files::{certificate, template};
use crate::integrations::certificate_files;
use crate::integrations::cluster::Site;
use crate::integrations::plan::{Generated, Plan};
use crate::patroni_yml::dcs::{Server, Tls, is_name, server};

/// What Debian's unit reads (`etcd.service`).
pub const FILE: &str = "/etc/default/etcd";

/// Additions to the unit.
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

/// The TLS files, quoted.
#[derive(Debug, Serialize)]
struct Files {
    certificate: String,
    key: String,
    #[serde(rename = "signers")]
    ca: String,
    /// Are client certificates required?
    clients: bool,
}

/// The settings of etcd, and the additions to its unit.
pub fn plan(site: &Site) -> Result<Plan> {
    let settings = &site.settings;
    let dcs = settings.text("DCS").unwrap_or("etcd3");
    if !["etcd3", "etcd"].contains(&dcs) {
        fail!(at settings.place(&["DCS"]), "the DCS is {dcs}, not etcd"; "Set DCS=etcd3.");
    }
    let name = site.name()?;
    let servers = servers(settings, &site.members()?)?;
    let Some((own, port)) = servers.iter().find(|(member, _)| member.name == name) else {
        let names: Vec<&str> = servers.iter().map(|(member, _)| member.name.as_str()).collect();
        fail!(
            at settings.place(&["DCS_HOSTS", "MEMBERS"]),
            "{name} is not an etcd server (the servers are {})", names.join(", ");
            "Run this command on the servers."
        );
    };
    let tls = match Tls::read(site.root, settings)? {
        Some(_) => Some(Files::read(site.root, settings, own.address)?),
        None => None,
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = |address: IpAddr, port: u16| format!("{scheme}://{}", host_port(address, port));
    let cluster = servers.iter().map(|(member, _)| format!("{}={}", member.name, url(member.address, PEER_PORT)));
    let loopback = if own.address.is_ipv4() { [127, 0, 0, 1].into() } else { IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]) };
    let mut plan = Plan { directories: vec![PathBuf::from(DROP_IN)], ..Plan::default() };
    if tls.is_none() {
        plan.warnings.push(trouble!(
            "etcd does not use TLS, so all clients can change the primary";
            "Set DCS_CACERT, DCS_CERT and DCS_KEY to the certificates that this command creates: patroni-gen-config for tls"
        ));
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
        let body = template::body(site.root, template, &values)?;
        plan.files.push(Generated { path, body, rights: READABLE, validator: None, secrets: Vec::new() });
    }
    plan.next.push(
        "a new etcd responds when more than half of its servers are running; apply it with: systemctl daemon-reload && systemctl enable \
         etcd && systemctl restart --no-block etcd"
            .to_owned(),
    );
    Ok(plan)
}

/// The members with a server and its client port: those in `DCS_HOSTS`, or all.
fn servers(settings: &Settings, members: &[Member]) -> Result<Vec<(Member, u16)>> {
    for member in members {
        if !is_name(&member.name) {
            fail!(
                at settings.place(&["MEMBERS"]),
                "etcd does not support '{}' as the name of a server", member.name;
                "Use only letters, digits, '-', '_' and '.'."
            );
        }
    }
    let named = settings.list("DCS_HOSTS", |text| server(text, CLIENT_PORT))?.unwrap_or_default();
    // A loopback address is the server that each member asks, not the only server.
    let named: Vec<&Server> = named.iter().filter(|server| !is_loopback(&server.host)).collect();
    if named.is_empty() {
        return Ok(members.iter().map(|member| (member.clone(), CLIENT_PORT)).collect());
    }
    let find = |server: &Server| {
        let own = |member: &&Member| {
            member.name == server.host || server.host.parse::<IpAddr>().is_ok_and(|address| address == member.address)
        };
        let found = members.iter().find(own).map(|member| (member.clone(), server.port));
        Ok(found.ok_or_else(|| {
            trouble!(
                at settings.place(&["DCS_HOSTS"]),
                "{} is not in MEMBERS, but only servers on members can be configured", server.host;
                "Correct DCS_HOSTS or MEMBERS. On hosts that only have etcd, set MEMBERS to the servers of etcd."
            )
        })?)
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
            _ => fail!(
                at settings.place(&["ETCD_CERT", "ETCD_KEY"]),
                "only one of ETCD_CERT and ETCD_KEY is set";
                "Set both, or neither."
            ),
        };
        let found = certificate::read_pair(root, &certificate, &key)?;
        if let Err(others) = found.is_for(address) {
            fail!(
                "{} is not for {address}, the address of this member, but for {others}, so the other servers would reject it",
                certificate.display();
                "Reissue it for that address."
            );
        }
        let Some(ca) = settings.path("DCS_CACERT")? else {
            fail!(
                at settings.place(&["DCS_CERT", "DCS_PROTOCOL"]),
                "DCS_CACERT is not set, which etcd needs to verify its other servers and its clients";
                "Set it to the CA certificate."
            );
        };
        let quoted = |path: &Path| envfile::quote(&path.display().to_string());
        Ok(Self {
            certificate: quoted(&certificate),
            key: quoted(&key),
            ca: quoted(&ca),
            clients: settings.get("DCS_CERT").is_some(),
        })
    }
}
