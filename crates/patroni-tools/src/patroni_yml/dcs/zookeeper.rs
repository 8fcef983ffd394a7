//! ZooKeeper, and Exhibitor, which tells where it is (`patroni/dcs/zookeeper.py`, `exhibitor.py`).

use anyhow::{Result, bail};
use host::Root;
use host::settings::Settings;
use serde_json::{Map, Value, json};

use crate::patroni_yml::dcs::hosts::server;
use crate::patroni_yml::dcs::tls::Tls;
use crate::patroni_yml::dcs::{Options, credentials, push};

/// The section's options. The hosts are a list: Patroni's validator does not understand the other form.
pub fn options(root: &Root, settings: &Settings) -> Result<Options> {
    let hosts = settings.list("DCS_HOSTS", |text| Ok(server(text, 2181)?.to_string()))?;
    let mut options = vec![("hosts".to_owned(), json!(hosts.unwrap_or_else(|| vec!["127.0.0.1:2181".to_owned()])))];
    if let Some(tls) = Tls::read(root, settings)? {
        // Without it Patroni ignores every other option of TLS.
        options.push(("use_ssl".to_owned(), json!(true)));
        push(&mut options, "verify", tls.verify);
        options.extend(tls.files);
    }
    let subjects = settings.parse("ZOOKEEPER_ACL", subjects)?;
    if subjects.is_some() && settings.get("DCS_CERT").is_none() {
        bail!(
            "{}ZOOKEEPER_ACL names subjects of certificates, but this member shows none: set DCS_CERT and DCS_KEY",
            settings.place(&["ZOOKEEPER_ACL"])
        );
    }
    push(&mut options, "set_acls", subjects);
    if let Some((user, password)) = credentials(root, settings)? {
        if user.contains(':') {
            bail!(
                "{}DCS_USERNAME has a ':', which ends a user name in a digest: choose another user",
                settings.place(&["DCS_USERNAME"])
            );
        }
        options.push(("auth_data".to_owned(), json!({ "digest": format!("{user}:{password}") })));
    }
    Ok(options)
}

/// `CN=pg1,O=Example;CN=pg2,O=Example`: a subject has commas itself.
fn subjects(text: &str) -> Result<Value> {
    let mut acl = Map::new();
    for subject in text.split(';').map(str::trim).filter(|subject| !subject.is_empty()) {
        if !subject.contains('=') {
            bail!("'{subject}' is not the subject of a certificate: write it as CN=pg1,O=Example");
        }
        // A key of YAML has 1024 characters at most, and one of ours can become six.
        if subject.len() > 160 {
            bail!(
                "'{subject}' is longer than 160 characters: describe the store in {}",
                crate::patroni_yml::dcs::dcs_yml::FILE
            );
        }
        acl.insert(subject.to_owned(), json!(["ALL"]));
    }
    if acl.is_empty() {
        bail!("'{text}' names nobody: write it as CN=pg1;CN=pg2");
    }
    Ok(Value::Object(acl))
}

/// Exhibitor's options: its servers, which have one port.
pub fn exhibitor(settings: &Settings) -> Result<Options> {
    let servers = settings.list("DCS_HOSTS", |text| server(text, 8080))?;
    let Some(servers) = servers else {
        bail!("{}DCS=exhibitor needs its servers: set DCS_HOSTS", settings.place(&["DCS"]));
    };
    let port = servers.first().map_or(8080, |server| server.port);
    if let Some(other) = servers.iter().find(|server| server.port != port) {
        bail!(
            "{}DCS_HOSTS has the ports {port} and {}, but Patroni knows one port for all servers of Exhibitor: make them the same",
            settings.place(&["DCS_HOSTS"]),
            other.port
        );
    }
    let hosts: Vec<&str> = servers.iter().map(|server| server.host.as_str()).collect();
    Ok(vec![("hosts".to_owned(), json!(hosts)), ("port".to_owned(), json!(port))])
}
