//! Where the certificates of `for tls` are, for the programs that are configured with them.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use host::Root;

/// Where all of it is. The settings that name the files are shown in the shipped `/etc/default/patroni`.
pub const DIRECTORY: &str = "/etc/patroni/tls";

/// The files of a pair, if it is there; else how it gets there.
pub fn files(root: &Root, name: &str) -> Result<(PathBuf, PathBuf)> {
    let path = |end: &str| Path::new(DIRECTORY).join(format!("{name}.{end}"));
    for path in [path("pem"), path("key")] {
        if !root.path(&path).exists() {
            bail!("there is no file {}: run patroni-gen-config --for tls", path.display());
        }
    }
    Ok((path("pem"), path("key")))
}
