//! Where patronictl is, and what it needs from a Patroni file.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use host::trouble::Explain;
use host::{Root, fail};

use crate::files::yaml::Yaml;

pub(crate) fn patronictl(root: &Root) -> Result<PathBuf> {
    let Ok(program) = root.program("patronictl") else {
        fail!("patronictl is not installed"; "Install it with: apt install patroni");
    };
    Ok(program)
}

pub(crate) fn read(root: &Root, file: &Path) -> Result<(Yaml, String)> {
    match root.read(file)? {
        Some(text) => Ok((Yaml::parse(file, &text)?, text)),
        None => fail!("{} has just been removed", file.display()),
    }
}

pub(crate) fn scope(yaml: &Yaml, file: &Path) -> Result<String> {
    yaml.text(&["scope"])
        .context("scope is missing")
        .at(file.display())
        .or_hint(|| "Add it: it is the name of the Patroni cluster.".to_owned())
}
