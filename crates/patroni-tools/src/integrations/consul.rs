//! Consul on the members: a server or an agent, encrypted, with TLS, closed to everybody without a token; and the policies that its
//! tokens need. In HCL, because JSON has no comments, which our header is.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use host::members;
use host::settings::Settings;
use serde::Serialize;

use crate::files::install::{READABLE, Rights};
use crate::files::{certificate, template};
use crate::integrations::certificate_files;
use crate::integrations::cluster::Given;
use crate::integrations::plan::{Generated, Plan, Validator};
use crate::patroni_yml::dcs::Tls;
use crate::patroni_yml::values::namespace;

/// In the directory that Debian's unit reads (`consul.service`).
const FILE: &str = "/etc/consul.d/patroni-tools.hcl";

/// Of the policies: in the directory of Consul itself, they would be taken for configuration.
const POLICIES: &str = "/etc/patroni/consul";

const SECRET: Rights = Rights { user: "root", group: "consul", mode: 0o640 };

#[derive(Debug, Serialize)]
struct Values {
    name: String,
    address: IpAddr,
    loopback: &'static str,
    datacenter: String,
    /// How many servers there are, where this is one of them.
    servers: Option<usize>,
    join: Vec<IpAddr>,
    gossip: String,
    certificate: PathBuf,
    key: PathBuf,
    signers: PathBuf,
    /// Does a client have to show a certificate?
    clients: bool,
    token: Option<String>,
}

/// The datacenter, by Consul's own default where none is set.
pub fn datacenter(settings: &Settings) -> String {
    settings.text("CONSUL_DC").unwrap_or("dc1").to_owned()
}

/// The configuration of this member's agent.
pub fn plan(given: &Given) -> Result<Plan> {
    let settings = &given.settings;
    refuse_other_stores(settings)?;
    let (name, members) = (given.name()?, given.members()?);
    let address = members::address_of(settings, &members, &name)?;
    let servers = settings.list("CONSUL_SERVERS", |name| {
        if members.iter().any(|member| member.name == name) {
            Ok(name.to_owned())
        } else {
            bail!("{name} is none of MEMBERS: write names as they stand there")
        }
    })?;
    let servers = servers.unwrap_or_else(|| members.iter().map(|member| member.name.clone()).collect());
    let (Some(_), Some(signers)) = (Tls::read(given.root, settings)?, settings.path("DCS_CACERT")?) else {
        bail!(
            "{}Consul is configured with TLS alone, because its tokens would be read by everybody otherwise: run \
             patroni-gen-config --for tls, and set DCS_CACERT, DCS_CERT and DCS_KEY",
            settings.place(&["DCS"])
        )
    };
    let (certificate, key) = match (settings.path("CONSUL_CERT")?, settings.path("CONSUL_KEY")?) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) => certificate_files::files(given.root, "consul")?,
        _ => bail!(
            "{}CONSUL_CERT and CONSUL_KEY go together: set both, or none",
            settings.place(&["CONSUL_CERT", "CONSUL_KEY"])
        ),
    };
    certificate::read_pair(given.root, &certificate, &key)?;
    let mut plan = Plan::default();
    let token = token(given, &mut plan)?;
    let gossip = openssl::base64::encode_block(&given.key().bytes_for::<32>("consul gossip"));
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
        signers,
        clients: settings.get("DCS_CERT").is_some(),
        token,
        name,
    };
    plan.files.push(Generated {
        path: PathBuf::from(FILE),
        body: template::body(given.root, "consul.hcl.j2", values)?,
        rights: SECRET,
        validator: Some(Validator {
            program: "consul",
            package: "consul",
            arguments: &["validate", "-config-format=hcl"],
        }),
        secrets,
    });
    plan.next.push(
        "run systemctl enable consul and systemctl restart consul to put it into force; for a new token alone, systemctl reload \
         consul is enough"
            .to_owned(),
    );
    Ok(plan)
}

fn refuse_other_stores(settings: &Settings) -> Result<()> {
    match settings.text("DCS") {
        Some("consul") => Ok(()),
        other => bail!(
            "{}the store is {}, not Consul: set DCS=consul",
            settings.place(&["DCS"]),
            other.unwrap_or("etcd3, the default")
        ),
    }
}

/// The agents' own token, which can be made only when Consul runs.
fn token(given: &Given, plan: &mut Plan) -> Result<Option<String>> {
    match given.settings.path("CONSUL_AGENT_TOKEN_FILE")? {
        Some(path) if given.root.path(&path).exists() => given.settings.secret(given.root, "CONSUL_AGENT_TOKEN_FILE"),
        Some(path) => {
            plan.warnings.push(format!(
                "there is no {} yet, without which this agent is in no catalogue: make the token as \
                 /usr/share/doc/patroni-tools/three-nodes.md.gz shows, and run this again",
                path.display()
            ));
            Ok(None)
        }
        None => {
            plan.warnings.push(
                "CONSUL_AGENT_TOKEN_FILE is not set, so that this agent has no token: give it one by consul acl set-agent-token"
                    .to_owned(),
            );
            Ok(None)
        }
    }
}

#[derive(Debug, Serialize)]
struct Rules {
    members: Vec<String>,
    /// Of the keys of each instance.
    keys: Vec<String>,
    services: Vec<String>,
}

/// What the tokens of Patroni and of the agents may do.
pub fn policies(given: &Given) -> Result<Plan> {
    let mut rules = Rules {
        members: given.members()?.into_iter().map(|member| member.name).collect(),
        keys: Vec::new(),
        services: Vec::new(),
    };
    for instance in &given.instances {
        refuse_other_stores(&instance.settings)?;
        let namespace = namespace(&instance.settings)?;
        rules.keys.push(format!("{}{}/", namespace.trim_start_matches('/'), instance.id.dashed()));
        if instance.settings.boolean("CONSUL_REGISTER_SERVICE")? == Some(true) {
            rules.services.push(service(&instance.id.dashed()));
        }
    }
    let mut plan = Plan { directories: vec![PathBuf::from(POLICIES)], ..Plan::default() };
    for (name, template) in [("patroni.hcl", "consul-patroni.hcl.j2"), ("agent.hcl", "consul-agent.hcl.j2")] {
        plan.files.push(Generated {
            path: Path::new(POLICIES).join(name),
            body: template::body(given.root, template, &rules)?,
            rights: READABLE,
            validator: None,
            secrets: Vec::new(),
        });
    }
    plan.next.push(format!(
        "with a token that may do that, run consul acl policy create -name patroni -rules @{POLICIES}/patroni.hcl, or update where there is \
         one, and the same for agent"
    ));
    Ok(plan)
}

/// The name under which Patroni registers an instance (`service_name_from_scope_name` in `patroni/dcs/consul.py`).
fn service(scope: &str) -> String {
    let translate = |c: char| match c {
        'a'..='z' | '0'..='9' | '-' => c.to_string(),
        '.' | ' ' | '_' => "-".to_owned(),
        other => format!("u{:04}", u32::from(other)),
    };
    scope.to_lowercase().chars().map(translate).collect::<String>().chars().take(230).collect()
}
