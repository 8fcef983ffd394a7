//! The settings from which the file is generated.

use std::path::PathBuf;

use anyhow::Result;
use host::keys::SiteKey;
use host::settings::Settings;

use crate::doctor::cluster::{Cluster, denied};
use crate::doctor::finding::{Finding, Level};
use crate::files::header::{Author, author};
use crate::patroni_yml::inputs::{Overrides, render, site_key, site_key_path};

/// Would patroni-gen-config generate the same file again?
pub fn check(cluster: &Cluster) -> Vec<Finding> {
    let settings = match &cluster.settings {
        Ok(settings) => settings,
        Err(error) => return vec![broken(error)],
    };
    let ours = author(&cluster.text) == Author::Generator;
    let written = match generate(cluster, settings) {
        Ok(Generated::Written(written)) => written,
        Ok(Generated::WithoutKey(path)) if ours => {
            let what = format!("the site key {} does not exist", path.display());
            return vec![Finding::warning(what, "Copy it from another member.").at("")];
        }
        // Only root may read the key.
        Err(error) if !denied(&error) => return vec![broken(&error)],
        Ok(Generated::WithoutKey(_)) | Err(_) => return Vec::new(),
    };
    // A file that the administrator edited is intended to differ.
    if !ours || written == cluster.text {
        return Vec::new();
    }
    vec![Finding::warning(
        "the file no longer matches the settings, the site key and this host",
        format!("See patroni-gen-config diff {0}, then run: patroni-gen-config {0}", cluster.id),
    )]
}

/// The file as it would be generated.
enum Generated {
    Written(String),
    /// The site key does not exist; its path.
    WithoutKey(PathBuf),
}

fn generate(cluster: &Cluster, settings: &Settings) -> Result<Generated> {
    let Cluster { root, id, .. } = cluster;
    let (path, key) = (site_key_path(settings)?, site_key(root, settings)?);
    let known = key.is_some();
    let key = key.unwrap_or_else(SiteKey::placeholder);
    let (_, text) = render(root, &Overrides::default(), id, settings, &key, Some(&cluster.text))?;
    Ok(if known { Generated::Written(text) } else { Generated::WithoutKey(path) })
}

fn broken(error: &anyhow::Error) -> Finding {
    Finding::of(Level::Warning, error)
}
