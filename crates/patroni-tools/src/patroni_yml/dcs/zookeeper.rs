//! ZooKeeper, and Exhibitor, which reports its servers (`patroni/dcs/zookeeper.py`, `exhibitor.py`).

use anyhow::Result;
use host::settings::Settings;
use host::{Root, fail};
use serde_json::{Map, Value, json};

use crate::patroni_yml::dcs::dcs_yml;
use crate::patroni_yml::dcs::hosts::server;
use crate::patroni_yml::dcs::section::{Options, credentials, push};
use crate::patroni_yml::dcs::tls::Tls;

/// The section's options. The hosts are a list, because Patroni's validator rejects the other form.
pub fn options(root: &Root, settings: &Settings) -> Result<Options> {
    let hosts = settings.list("DCS_HOSTS", |text| Ok(server(text, 2181)?.to_string()))?;
    let mut options = vec![("hosts".to_owned(), json!(hosts.unwrap_or_else(|| vec!["127.0.0.1:2181".to_owned()])))];
    if let Some(tls) = Tls::read(root, settings)? {
        // Without it Patroni ignores every other TLS option.
        options.push(("use_ssl".to_owned(), json!(true)));
        push(&mut options, "verify", tls.verify);
        options.extend(tls.files);
    }
    let subjects = settings.parse("ZOOKEEPER_ACL", subjects)?;
    if subjects.is_some() && settings.get("DCS_CERT").is_none() {
        fail!(
            at settings.place(&["ZOOKEEPER_ACL"]),
            "ZOOKEEPER_ACL lists certificate subjects, but this member presents no certificate";
            "Set DCS_CERT and DCS_KEY."
        );
    }
    push(&mut options, "set_acls", subjects);
    if let Some((user, password)) = credentials(root, settings)? {
        if user.contains(':') {
            fail!(
                at settings.place(&["DCS_USERNAME"]),
                "DCS_USERNAME contains ':', which a digest user name cannot have";
                "Choose another user."
            );
        }
        options.push(("auth_data".to_owned(), json!({ "digest": format!("{user}:{password}") })));
    }
    Ok(options)
}

/// `CN=pg1,O=Example;CN=pg2,O=Example`: separated by semicolons, because a subject contains commas.
fn subjects(text: &str) -> Result<Value> {
    let mut acl = Map::new();
    for subject in text.split(';').map(str::trim).filter(|subject| !subject.is_empty()) {
        if !subject.contains('=') {
            fail!("'{subject}' is not the subject of a certificate"; "Write it as CN=pg1,O=Example.");
        }
        // A YAML key has at most 1024 characters, and a character can be escaped to six.
        if subject.len() > 160 {
            fail!("'{subject}' is longer than 160 characters"; "Configure the DCS in {} instead.", dcs_yml::FILE);
        }
        acl.insert(subject.to_owned(), json!(["ALL"]));
    }
    if acl.is_empty() {
        fail!("'{text}' lists no subjects"; "Write it as CN=pg1;CN=pg2.");
    }
    Ok(Value::Object(acl))
}

/// Exhibitor's options: its servers, which all have the same port.
pub fn exhibitor(settings: &Settings) -> Result<Options> {
    let servers = settings.list("DCS_HOSTS", |text| server(text, 8080))?;
    let Some(servers) = servers else {
        fail!(at settings.place(&["DCS"]), "DCS is exhibitor, but DCS_HOSTS is not set"; "Set DCS_HOSTS to its servers.");
    };
    let port = servers.first().map_or(8080, |server| server.port);
    if let Some(other) = servers.iter().find(|server| server.port != port) {
        fail!(
            at settings.place(&["DCS_HOSTS"]),
            "DCS_HOSTS has the ports {port} and {}, but Patroni uses the same port for all Exhibitor servers", other.port;
            "Use the same port for all servers."
        );
    }
    let hosts: Vec<&str> = servers.iter().map(|server| server.host.as_str()).collect();
    Ok(vec![("hosts".to_owned(), json!(hosts)), ("port".to_owned(), json!(port))])
}
