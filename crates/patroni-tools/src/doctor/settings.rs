//! The settings from which the file is generated, and those of the running cluster.

use std::path::{Path, PathBuf};

use anyhow::Result;
use host::keys::SiteKey;
use host::settings::Settings;
use serde_json::Value;

use crate::doctor::cluster::{Cluster, denied};
use crate::doctor::dcs::question::Content;
use crate::doctor::finding::{Finding, Level};
use crate::files::header::{Author, author};
use crate::files::yaml::Yaml;
use crate::patroni_yml::drift::{Difference, would_stop_writes};
use crate::patroni_yml::effect::Effect;
use crate::patroni_yml::inputs::{Overrides, render, site_key, site_key_path};

/// The file that the settings would give.
#[derive(Default)]
pub struct Generated {
    /// What is wrong with the settings.
    pub findings: Vec<Finding>,
    /// The file, if it can be generated and the installed one is generated as well: a file that the administrator edited is intended to
    /// differ.
    text: Option<String>,
}

/// Would patroni-gen-config generate a file?
pub fn check(cluster: &Cluster) -> Generated {
    let found = |finding| Generated { findings: vec![finding], text: None };
    let settings = match &cluster.settings {
        Ok(settings) => settings,
        Err(error) => return found(broken(error)),
    };
    let ours = author(&cluster.text) == Author::Generator;
    match generate(cluster, settings) {
        Ok(Written::Text(text)) => Generated { findings: Vec::new(), text: ours.then_some(text) },
        Ok(Written::WithoutKey(path)) if ours => {
            let what = format!("the site key {} does not exist", path.display());
            found(Finding::warning(what, "Copy it from another member.").at(""))
        }
        // Only root may read the key.
        Err(error) if !denied(&error) => found(broken(&error)),
        Ok(Written::WithoutKey(_)) | Err(_) => Generated::default(),
    }
}

/// Is it the file that is installed, and does the running cluster have what it says? `content` is that of the DCS, if it is known. Each
/// difference is reported with the command that ends it: a running cluster does not read `bootstrap.dcs`, so a difference there is none
/// while the cluster has the values.
pub fn compare(cluster: &Cluster, generated: &Generated, content: Option<&Content>) -> Vec<Finding> {
    let Some(text) = &generated.text else { return Vec::new() };
    let Ok(wanted) = Yaml::parse(&cluster.path, text) else { return Vec::new() };
    let effect = Effect::of(&cluster.yaml, &wanted);
    let running: Option<Value> =
        content.and_then(|content| content.get("config")).and_then(|config| serde_json::from_str(config).ok());
    let mut findings = Vec::new();
    if effect.member || (running.is_none() && !effect.bootstrap.is_empty()) {
        findings.push(Finding::warning(
            "the file no longer matches the settings, the site key and this host",
            format!("See patroni-gen-config diff {0}, then run: patroni-gen-config {0}", cluster.id),
        ));
    }
    findings.extend(
        running.and_then(|running| drift(cluster, &Difference::new(&running, wanted.get(&["bootstrap", "dcs"])?))),
    );
    findings
}

/// The running cluster has other values than the settings.
fn drift(cluster: &Cluster, difference: &Difference) -> Option<Finding> {
    let keys = difference.keys();
    if keys.is_empty() {
        return None;
    }
    if difference.becomes_standby_cluster() {
        return Some(Finding::of(Level::Warning, &would_stop_writes(cluster.id).into()));
    }
    let id = cluster.id;
    Some(
        Finding::warning(
            format!("the running cluster has another value than the settings for {}", keys.join(", ")),
            format!(
                "See the difference with 'patroni-gen-config apply --dry-run {id}'. Put the values that are right into the settings, then \
                 run: patroni-gen-config apply {id}"
            ),
        )
        .at(""),
    )
}

/// The file as it would be generated.
enum Written {
    Text(String),
    /// The site key does not exist; its path.
    WithoutKey(PathBuf),
}

fn generate(cluster: &Cluster, settings: &Settings) -> Result<Written> {
    let Cluster { root, id, .. } = cluster;
    let (path, key) = (site_key_path(settings)?, site_key(root, settings)?);
    let known = key.is_some();
    let key = key.unwrap_or_else(SiteKey::placeholder);
    let (_, text) = render(root, &Overrides::default(), id, settings, &key, Some(&cluster.text))?;
    Ok(if known { Written::Text(text) } else { Written::WithoutKey(path) })
}

/// An error about a file, such as the site key, may be that of another check.
fn broken(error: &anyhow::Error) -> Finding {
    let finding = Finding::of(Level::Warning, error);
    match finding.place.clone() {
        Some(place) if place.starts_with('/') => finding.about(Path::new(&place)),
        _ => finding,
    }
}
