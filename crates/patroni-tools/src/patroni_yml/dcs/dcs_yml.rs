//! `dcs.yml` of Debian's package, in which an administrator may have configured the DCS already.

use std::path::Path;

use anyhow::Result;
use host::trouble::in_line;
use host::{Root, fail};
use serde_json::{Value, json};

use crate::files::yaml::{self, Yaml};
use crate::patroni_yml::dcs::kind::{Kind, names};
use crate::patroni_yml::dcs::section::Options;

/// The file.
pub const FILE: &str = "/etc/patroni/dcs.yml";

/// The DCS that the administrator configured. None if the file is missing, empty or still as shipped by Debian, with a
/// ZooKeeper on this host.
pub fn read(root: &Root) -> Result<Option<(Kind, Options)>> {
    let Some(text) = root.read(FILE)? else { return Ok(None) };
    let yaml = Yaml::parse(Path::new(FILE), &text)?;
    let Some(document) = yaml.document() else { return Ok(None) };
    if *document == json!({"zookeeper": {"hosts": "127.0.0.1:2181"}}) {
        return Ok(None);
    }
    if let Some(twice) = yaml::twice(&text) {
        fail!(at FILE, "{twice}"; "Remove one of them.");
    }
    let Value::Object(sections) = document.clone() else {
        fail!(at in_line(FILE, 1), "this is not a mapping"; "Write a section such as 'etcd3:' with its options below it.");
    };
    let mut found = Vec::new();
    for (name, options) in sections {
        let Some(kind) = Kind::of(&name) else {
            fail!(at FILE, "'{name}' is not a DCS that Patroni supports"; "Use one of {}.", names());
        };
        match options {
            Value::Object(options) if !options.is_empty() => {
                if let Some(empty) = yaml.first_empty() {
                    fail!(at FILE, "{empty} has no value"; "Give it a value, or remove it.");
                }
                found.push((kind, options.into_iter().collect()));
            }
            _ => fail!(at FILE, "'{name}' has no options"; "Add its hosts."),
        }
    }
    if found.len() > 1 {
        fail!(at FILE, "it configures {} DCSs, but Patroni uses only one", found.len(); "Keep one of them.");
    }
    Ok(found.pop())
}
