//! The programs of one version of PostgreSQL.

use std::path::PathBuf;

use host::{ClusterId, Root};

/// A program of the version of a cluster, whether it is there or not.
pub(crate) fn server_program(root: &Root, id: &ClusterId, name: &str) -> PathBuf {
    root.path(format!("/usr/lib/postgresql/{}/bin/{name}", id.version))
}
