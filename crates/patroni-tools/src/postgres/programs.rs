//! The programs of one version of PostgreSQL.

use std::path::PathBuf;

use host::trouble::Trouble;
use host::{ClusterId, PgVersion, Root, trouble};

/// A program of the version of a cluster, whether it is there or not.
pub(crate) fn server_program(root: &Root, id: &ClusterId, name: &str) -> PathBuf {
    root.path(format!("/usr/lib/postgresql/{}/bin/{name}", id.version))
}

/// The other versions of which this host has a server, the newest first.
fn others(root: &Root, id: &ClusterId) -> Vec<PgVersion> {
    let names = root.list("/usr/lib/postgresql").unwrap_or_default();
    let mut versions: Vec<PgVersion> = names.iter().filter_map(|name| name.parse().ok()).collect();
    versions.retain(|version| {
        *version != id.version && root.path(format!("/usr/lib/postgresql/{version}/bin/initdb")).exists()
    });
    versions.sort_by_key(|version| std::cmp::Reverse(version.number()));
    versions
}

/// The version of a cluster is not installed. A release of Debian has one, and others come from elsewhere, so the installed ones are named.
pub(crate) fn not_installed(root: &Root, id: &ClusterId) -> Trouble {
    let version = &id.version;
    let others = others(root, id);
    let Some(newest) = others.first() else {
        return trouble!("PostgreSQL {version} is not installed"; "Install it with: apt install postgresql-{version}");
    };
    let names: Vec<&str> = others.iter().map(PgVersion::as_str).collect();
    trouble!(
        "PostgreSQL {version} is not installed, but this host has {}", names.join(", ");
        "Name a cluster of that version, as in {newest}/{}, or install PostgreSQL {version} with: apt install postgresql-{version}", id.name
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_missing_version_names_those_that_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let id = "16/main".parse().unwrap();
        assert_eq!(not_installed(&root, &id).line(), "PostgreSQL 16 is not installed");
        for version in ["9.6", "18", "16", "15"] {
            let programs = root.path(format!("/usr/lib/postgresql/{version}/bin"));
            std::fs::create_dir_all(&programs).unwrap();
            std::fs::write(programs.join("initdb"), "").unwrap();
        }
        // A server that was removed leaves its directory if it has other files.
        std::fs::create_dir_all(root.path("/usr/lib/postgresql/17/lib")).unwrap();
        let trouble = not_installed(&root, &id);
        assert_eq!(trouble.line(), "PostgreSQL 16 is not installed, but this host has 18, 15, 9.6");
        let hint =
            "Name a cluster of that version, as in 18/main, or install PostgreSQL 16 with: apt install postgresql-16";
        assert_eq!(trouble.hint.as_deref(), Some(hint));
    }
}
