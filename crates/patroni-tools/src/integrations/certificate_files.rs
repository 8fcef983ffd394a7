//! The certificates that `for tls` creates, for the programs that use them.

use std::path::{Path, PathBuf};

use anyhow::Result;
use host::{Root, fail};

/// Their directory. The shipped `/etc/default/patroni` shows the settings that name the files.
pub const DIRECTORY: &str = "/etc/patroni/tls";

/// Certificate and key; fails if they do not exist.
pub fn files(root: &Root, name: &str) -> Result<(PathBuf, PathBuf)> {
    let path = |end: &str| Path::new(DIRECTORY).join(format!("{name}.{end}"));
    for path in [path("pem"), path("key")] {
        if !root.path(&path).exists() {
            fail!("{} does not exist", path.display(); "Create it with: patroni-gen-config for tls");
        }
    }
    Ok((path("pem"), path("key")))
}
