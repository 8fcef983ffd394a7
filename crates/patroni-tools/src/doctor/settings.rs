//! The settings, from which the file would be written again.

use std::path::PathBuf;

use anyhow::Result;
use host::keys::SiteKey;
use host::settings::Settings;

use crate::doctor::finding::{Finding, Level};
use crate::doctor::instance::{Instance, denied};
use crate::files::header::{Author, author};
use crate::patroni_yml::inputs::{Overrides, render, site_key, site_key_path};

/// Would patroni-gen-config still write the file, and write it as it is?
pub fn look(instance: &Instance) -> Vec<Finding> {
    let settings = match &instance.settings {
        Ok(settings) => settings,
        Err(error) => return vec![broken(error)],
    };
    let ours = author(&instance.text) == Author::Generator;
    let written = match again(instance, settings) {
        Ok(Again::Written(written)) => written,
        Ok(Again::WithoutKey(path)) if ours => {
            let what = format!("there is no site key {}", path.display());
            return vec![Finding::warning(what, "copy it from another member").at("")];
        }
        // Who is not root may not read the key, as it should be.
        Err(error) if !denied(&error) => return vec![broken(&error)],
        Ok(Again::WithoutKey(_)) | Err(_) => return Vec::new(),
    };
    // What somebody edited is as he wants it.
    if !ours || written == instance.text {
        return Vec::new();
    }
    vec![Finding::warning(
        "it is not what the settings, the site key and this host give now",
        format!("see patroni-gen-config --diff {0}, and run patroni-gen-config {0}", instance.id),
    )]
}

/// The file as it would be written.
enum Again {
    Written(String),
    /// There is no site key, which would be here.
    WithoutKey(PathBuf),
}

fn again(instance: &Instance, settings: &Settings) -> Result<Again> {
    let Instance { root, id, .. } = instance;
    let (path, key) = (site_key_path(settings)?, site_key(root, settings)?);
    let known = key.is_some();
    let key = key.unwrap_or_else(SiteKey::placeholder);
    let (_, text) = render(root, &Overrides::default(), id, settings, &key, Some(&instance.text))?;
    Ok(if known { Again::Written(text) } else { Again::WithoutKey(path) })
}

fn broken(error: &anyhow::Error) -> Finding {
    Finding::of(Level::Warning, error)
}
