//! `dcs.yml` of Debian's package, in which an administrator may have described the store already.

use std::path::Path;

use anyhow::{Result, bail};
use host::Root;
use serde_json::{Value, json};

use crate::files::yaml::{self, Yaml};
use crate::patroni_yml::dcs::{Kind, Options, names};

/// The file.
pub const FILE: &str = "/etc/patroni/dcs.yml";

/// The store as the administrator left it; none where the file is missing, empty or still as Debian ships it, with a
/// ZooKeeper on this host that nobody asked for.
pub fn store(root: &Root) -> Result<Option<(Kind, Options)>> {
    let Some(text) = root.read(FILE)? else { return Ok(None) };
    let yaml = Yaml::parse(Path::new(FILE), &text)?;
    let Some(document) = yaml.document() else { return Ok(None) };
    if *document == json!({"zookeeper": {"hosts": "127.0.0.1:2181"}}) {
        return Ok(None);
    }
    if let Some(twice) = yaml::twice(&text) {
        bail!("{FILE}: {twice}: keep one");
    }
    let Value::Object(sections) = document.clone() else {
        bail!("{FILE}:1: this is not a store section such as 'etcd3:' with its options below it");
    };
    let mut found = Vec::new();
    for (name, options) in sections {
        let Some(kind) = Kind::of(&name) else {
            bail!("{FILE}: '{name}' is not a store of Patroni: use one of {}", names());
        };
        match options {
            Value::Object(options) if !options.is_empty() => {
                if let Some(empty) = yaml.first_empty() {
                    bail!("{FILE}: {empty} has no value: give it one, or remove it");
                }
                found.push((kind, options.into_iter().collect()));
            }
            _ => bail!("{FILE}: '{name}' has no options: add its hosts"),
        }
    }
    if found.len() > 1 {
        bail!("{FILE} describes {} stores, but Patroni uses one: keep one", found.len());
    }
    Ok(found.pop())
}
