//! The section of the Patroni file that names the store (DCS).

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};
use site::Root;
use site::settings::Settings;

use crate::yaml::{self, Yaml};

/// The file of Debian's package, in which an administrator may have described the store already.
pub const DEBIAN_FILE: &str = "/etc/patroni/dcs.yml";

/// What Patroni calls its stores.
pub const STORES: [&str; 7] = ["etcd3", "etcd", "consul", "zookeeper", "kubernetes", "exhibitor", "raft"];

/// A section of the file with its options, in order.
pub type Section = (String, Vec<(String, Value)>);

/// The store by our settings; or, where none of them is set, as `dcs.yml` has it; or etcd on this host.
pub fn sections(root: &Root, settings: &Settings) -> Result<Vec<Section>> {
    let ours = ["DCS", "DCS_HOSTS", "DCS_PROTOCOL", "DCS_CACERT", "DCS_CERT", "DCS_USERNAME"];
    if !ours.iter().any(|key| settings.get(key).is_some()) {
        if let Some(sections) = debian_sections(root)? {
            return Ok(sections);
        }
    }
    settings.parse("DCS", |text| match text {
        "etcd3" => Ok(()),
        other if STORES.contains(&other) => {
            bail!("'{other}' cannot be set here yet: describe it in {DEBIAN_FILE} and remove the DCS settings")
        }
        other => bail!("'{other}' is not a store of Patroni: set etcd3"),
    })?;
    etcd3(root, settings).map(|section| vec![section])
}

fn etcd3(root: &Root, settings: &Settings) -> Result<Section> {
    let hosts =
        settings.list("DCS_HOSTS", |text| host_port(text, 2379))?.unwrap_or_else(|| vec!["127.0.0.1:2379".to_owned()]);
    let mut options = vec![("hosts".to_owned(), json!(hosts))];
    let tls = settings.get("DCS_CACERT").is_some() || settings.get("DCS_CERT").is_some();
    let protocol = settings.choice("DCS_PROTOCOL", &["http", "https"])?;
    if tls && protocol == Some("http") {
        bail!(
            "{}DCS_PROTOCOL is http, but a certificate is set: remove one of them",
            settings.place(&["DCS_PROTOCOL"])
        );
    }
    if tls || protocol == Some("https") {
        options.push(("protocol".to_owned(), json!("https")));
    }
    if settings.get("DCS_CERT").is_some() != settings.get("DCS_KEY").is_some() {
        bail!("{}DCS_CERT and DCS_KEY go together: set both, or none", settings.place(&["DCS_CERT", "DCS_KEY"]));
    }
    for (key, option) in [("DCS_CACERT", "cacert"), ("DCS_CERT", "cert"), ("DCS_KEY", "key")] {
        let path = settings.path(key)?;
        if let Some(path) = path {
            settings.parse(key, |text| {
                if root.path(text).exists() { Ok(()) } else { Err(anyhow!("there is no file {text}")) }
            })?;
            options.push((option.to_owned(), json!(path)));
        }
    }
    let password = settings.secret(root, "DCS_PASSWORD_FILE")?;
    match (settings.text("DCS_USERNAME"), password) {
        (Some(user), Some(password)) => {
            options.push(("username".to_owned(), json!(user)));
            options.push(("password".to_owned(), json!(password)));
        }
        (None, None) => {}
        _ => bail!(
            "{}DCS_USERNAME and DCS_PASSWORD_FILE go together: set both, or none",
            settings.place(&["DCS_USERNAME", "DCS_PASSWORD_FILE"])
        ),
    }
    Ok(("etcd3".to_owned(), options))
}

/// `host[:port]`; Patroni 3.0 wants the port to be there.
fn host_port(text: &str, default_port: u16) -> Result<String> {
    let (host, port) = match text.rsplit_once(':') {
        _ if text.contains("://") => {
            bail!("'{text}': write HOST or HOST:PORT alone, and http or https in DCS_PROTOCOL")
        }
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.to_owned()),
        Some(_) if !text.ends_with(']') => {
            bail!("'{text}': put brackets around the IPv6 address, as in [fd00::1]:{default_port}")
        }
        _ => (text, default_port.to_string()),
    };
    let name = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let valid_host = match name {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    };
    match port.parse::<u16>() {
        Ok(port) if port > 0 && valid_host => Ok(format!("{host}:{port}")),
        _ => bail!("'{text}' is not HOST or HOST:PORT"),
    }
}

/// `dcs.yml` as the administrator left it; none where the file is missing, empty or still as Debian ships it, with
/// a ZooKeeper on this host that nobody asked for.
fn debian_sections(root: &Root) -> Result<Option<Vec<Section>>> {
    let Some(text) = root.read(DEBIAN_FILE)? else { return Ok(None) };
    let yaml = Yaml::parse(Path::new(DEBIAN_FILE), &text)?;
    let Some(document) = yaml.document() else { return Ok(None) };
    if *document == json!({"zookeeper": {"hosts": "127.0.0.1:2181"}}) {
        return Ok(None);
    }
    if let Some(twice) = yaml::twice(&text) {
        bail!("{DEBIAN_FILE}: {twice}: keep one");
    }
    let Value::Object(sections) = document.clone() else {
        bail!("{DEBIAN_FILE}:1: this is not a store section such as 'etcd3:' with its options below it");
    };
    let mut found = Vec::new();
    for (name, options) in sections {
        if !STORES.contains(&name.as_str()) {
            bail!("{DEBIAN_FILE}: '{name}' is not a store of Patroni: use one of {}", STORES.join(", "));
        }
        match options {
            Value::Object(options) if !options.is_empty() => {
                if let Some(empty) = yaml.first_empty() {
                    bail!("{DEBIAN_FILE}: {empty} has no value: give it one, or remove it");
                }
                found.push((name, options.into_iter().collect()));
            }
            _ => bail!("{DEBIAN_FILE}: '{name}' has no options: add its hosts"),
        }
    }
    match found.len() {
        1 => Ok(Some(found)),
        _ => bail!("{DEBIAN_FILE} describes {} stores, but Patroni uses one: keep one", found.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_get_a_port_and_keep_their_brackets() {
        for (text, expected) in [
            ("10.0.0.1", "10.0.0.1:2379"),
            ("etcd-1.example.org:1234", "etcd-1.example.org:1234"),
            ("[fd00::1]", "[fd00::1]:2379"),
            ("[fd00::1]:99", "[fd00::1]:99"),
        ] {
            assert_eq!(host_port(text, 2379).unwrap(), expected);
        }
        for text in ["fd00::1", "a:b", "a:0", ":2379", "http://a:1", "a b", "[fd00::x]:1", "a:65536"] {
            assert!(host_port(text, 2379).is_err(), "{text} was accepted");
        }
    }
}
