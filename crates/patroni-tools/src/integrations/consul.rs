//! Consul on the members: a server or an agent with TLS and gossip encryption that rejects clients without a token, and the policies of
//! the tokens. In HCL, because JSON does not support comments such as the header.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use host::settings::Settings;
use host::{fail, members, trouble};
use serde::Serialize;

use crate::files::install::{READABLE, Rights};
use crate::files::{certificate, template};
use crate::integrations::certificate_files;
use crate::integrations::cluster::Site;
use crate::integrations::plan::{Generated, Plan, Validator};
use crate::patroni_yml::dcs::Tls;
use crate::patroni_yml::values::namespace;

/// In the directory that Debian's unit reads (`consul.service`).
pub const FILE: &str = "/etc/consul.d/patroni-tools.hcl";

/// The directory of the policies. In its own directory, Consul would read them as its configuration.
const POLICIES: &str = "/etc/patroni/consul";

const SECRET: Rights = Rights { user: "root", group: "consul", mode: 0o640 };

#[derive(Debug, Serialize)]
struct Values {
    name: String,
    address: IpAddr,
    loopback: &'static str,
    datacenter: String,
    /// The number of servers, if this is one of them.
    servers: Option<usize>,
    join: Vec<IpAddr>,
    gossip: String,
    certificate: PathBuf,
    key: PathBuf,
    #[serde(rename = "signers")]
    ca: PathBuf,
    /// Are client certificates required?
    clients: bool,
    token: Option<String>,
}

/// The datacenter; Consul's default if none is set.
pub fn datacenter(settings: &Settings) -> String {
    settings.text("CONSUL_DC").unwrap_or("dc1").to_owned()
}

/// The configuration of this member's agent.
pub fn plan(site: &Site) -> Result<Plan> {
    let settings = &site.settings;
    require_consul(settings)?;
    let (name, members) = (site.name()?, site.members()?);
    let address = members::address_of(settings, &members, &name)?;
    let servers = settings.list("CONSUL_SERVERS", |name| {
        if members.iter().any(|member| member.name == name) {
            Ok(name.to_owned())
        } else {
            fail!("{name} is not in MEMBERS"; "Use the names in MEMBERS.")
        }
    })?;
    let servers = servers.unwrap_or_else(|| members.iter().map(|member| member.name.clone()).collect());
    let (Some(_), Some(ca)) = (Tls::read(site.root, settings)?, settings.path("DCS_CACERT")?) else {
        fail!(
            at settings.place(&["DCS"]),
            "Consul requires TLS, because its tokens could otherwise be read on the network";
            "Set DCS_CACERT, DCS_CERT and DCS_KEY to the certificates that this command creates: patroni-gen-config for tls"
        )
    };
    let (certificate, key) = match (settings.path("CONSUL_CERT")?, settings.path("CONSUL_KEY")?) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) => certificate_files::files(site.root, "consul")?,
        _ => fail!(
            at settings.place(&["CONSUL_CERT", "CONSUL_KEY"]),
            "only one of CONSUL_CERT and CONSUL_KEY is set";
            "Set both, or neither."
        ),
    };
    certificate::read_pair(site.root, &certificate, &key)?;
    let mut plan = Plan::default();
    let token = token(site, &mut plan)?;
    let gossip = openssl::base64::encode_block(&site.key().bytes_for::<32>("consul gossip"));
    let mut secrets = vec![gossip.clone()];
    secrets.extend(token.clone());
    let values = Values {
        address,
        loopback: if address.is_ipv4() { "127.0.0.1" } else { "::1" },
        datacenter: datacenter(settings),
        servers: servers.contains(&name).then_some(servers.len()),
        join: members.iter().filter(|member| servers.contains(&member.name)).map(|member| member.address).collect(),
        gossip,
        certificate,
        key,
        ca,
        clients: settings.get("DCS_CERT").is_some(),
        token,
        name,
    };
    plan.files.push(Generated {
        path: PathBuf::from(FILE),
        body: template::body(site.root, "consul.hcl.j2", values)?,
        rights: SECRET,
        validator: Some(Validator {
            program: "consul",
            package: "consul",
            arguments: &["validate", "-config-format=hcl"],
        }),
        secrets,
    });
    plan.next.push(
        "apply it with: systemctl enable consul && systemctl restart consul (after a change of the token alone: systemctl reload consul)"
            .to_owned(),
    );
    Ok(plan)
}

fn require_consul(settings: &Settings) -> Result<()> {
    match settings.text("DCS") {
        Some("consul") => Ok(()),
        other => fail!(
            at settings.place(&["DCS"]),
            "the DCS is {}, not Consul", other.unwrap_or("etcd3, the default");
            "Set DCS=consul."
        ),
    }
}

/// The agents' own token, which can be created only when Consul is running.
fn token(site: &Site, plan: &mut Plan) -> Result<Option<String>> {
    match site.settings.path("CONSUL_AGENT_TOKEN_FILE")? {
        Some(path) if site.root.path(&path).exists() => site.settings.secret(site.root, "CONSUL_AGENT_TOKEN_FILE"),
        Some(path) => {
            plan.warnings.push(trouble!(
                "{} does not exist yet, so this agent cannot register itself in the catalog", path.display();
                "Create the token as described in /usr/share/doc/patroni-tools/three-nodes.md.gz, and run this command again."
            ));
            Ok(None)
        }
        None => {
            plan.warnings.push(trouble!(
                "CONSUL_AGENT_TOKEN_FILE is not set, so this agent has no token";
                "Set it, or set a token with: consul acl set-agent-token"
            ));
            Ok(None)
        }
    }
}

#[derive(Debug, Serialize)]
struct Rules {
    members: Vec<String>,
    /// The prefixes of the keys of each cluster.
    keys: Vec<String>,
    services: Vec<String>,
}

/// The permissions of the tokens of Patroni and of the agents.
pub fn policies(site: &Site) -> Result<Plan> {
    let mut rules = Rules {
        members: site.members()?.into_iter().map(|member| member.name).collect(),
        keys: Vec::new(),
        services: Vec::new(),
    };
    for cluster in &site.clusters {
        require_consul(&cluster.settings)?;
        let namespace = namespace(&cluster.settings)?;
        rules.keys.push(format!("{}{}/", namespace.trim_start_matches('/'), cluster.scope));
        if cluster.settings.boolean("CONSUL_REGISTER_SERVICE")? == Some(true) {
            rules.services.push(service(&cluster.scope));
        }
    }
    let mut plan = Plan { directories: vec![PathBuf::from(POLICIES)], ..Plan::default() };
    for (name, template) in [("patroni.hcl", "consul-patroni.hcl.j2"), ("agent.hcl", "consul-agent.hcl.j2")] {
        plan.files.push(Generated {
            path: Path::new(POLICIES).join(name),
            body: template::body(site.root, template, &rules)?,
            rights: READABLE,
            validator: None,
            secrets: Vec::new(),
        });
    }
    plan.next.push(format!(
        "create the policy patroni, and in the same way agent, with: consul acl policy create -name patroni -rules \
         @{POLICIES}/patroni.hcl (if it exists, use update instead of create)"
    ));
    Ok(plan)
}

/// The service name that Patroni registers for a cluster (`service_name_from_scope_name` in `patroni/dcs/consul.py`).
fn service(scope: &str) -> String {
    let translate = |c: char| match c {
        'a'..='z' | '0'..='9' | '-' => c.to_string(),
        '.' | ' ' | '_' => "-".to_owned(),
        other => format!("u{:04}", u32::from(other)),
    };
    scope.to_lowercase().chars().map(translate).collect::<String>().chars().take(230).collect()
}
