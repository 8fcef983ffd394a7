//! The settings from which the file is generated.

use std::path::PathBuf;

use anyhow::Result;
use host::keys::SiteKey;
use host::settings::Settings;

use crate::doctor::finding::{Finding, Level};
use crate::doctor::instance::{Instance, denied};
use crate::files::header::{Author, author};
use crate::patroni_yml::inputs::{Overrides, render, site_key, site_key_path};

/// Would patroni-gen-config generate the same file again?
pub fn check(instance: &Instance) -> Vec<Finding> {
    let settings = match &instance.settings {
        Ok(settings) => settings,
        Err(error) => return vec![broken(error)],
    };
    let ours = author(&instance.text) == Author::Us;
    let written = match generate(instance, settings) {
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
    if !ours || written == instance.text {
        return Vec::new();
    }
    vec![Finding::warning(
        "the file differs from what the settings, the site key and this host give now",
        format!("See patroni-gen-config diff {0}, then run: patroni-gen-config {0}", instance.id),
    )]
}

/// The file as it would be generated.
enum Generated {
    Written(String),
    /// The site key does not exist; its path.
    WithoutKey(PathBuf),
}

fn generate(instance: &Instance, settings: &Settings) -> Result<Generated> {
    let Instance { root, id, .. } = instance;
    let (path, key) = (site_key_path(settings)?, site_key(root, settings)?);
    let known = key.is_some();
    let key = key.unwrap_or_else(SiteKey::placeholder);
    let (_, text) = render(root, &Overrides::default(), id, settings, &key, Some(&instance.text))?;
    Ok(if known { Generated::Written(text) } else { Generated::WithoutKey(path) })
}

fn broken(error: &anyhow::Error) -> Finding {
    Finding::of(Level::Warning, error)
}
