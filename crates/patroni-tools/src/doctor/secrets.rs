//! The owners of secrets: the owner of a file can replace the secret in it, and root reads some of these files.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use host::endpoint::{self, Auth, Endpoint, GssSecret};
use host::program::quoted;
use host::{holder, keys};
use nix::unistd::geteuid;

use crate::doctor::cluster::Cluster;
use crate::doctor::finding::{Finding, Level};
use crate::files::header::{Author, author};
use crate::patroni::paths::DIRECTORY;
use crate::patroni_yml::inputs::site_key_path;

/// Files and directories that do not belong to root.
pub fn check(cluster: &Cluster) -> Result<Vec<Finding>> {
    let id = cluster.id;
    // Another user that runs this sees its own files.
    if !geteuid().is_root() {
        return Ok(Vec::new());
    }
    let mut files: Vec<(PathBuf, &str)> = vec![(PathBuf::from(DIRECTORY), "root:root")];
    if author(&cluster.text) != Author::Other {
        files.push((cluster.path.clone(), "root:postgres"));
    }
    files.push((endpoint::file(id), "root:postgres"));
    if let Ok(settings) = &cluster.settings {
        files.push((site_key_path(settings)?, "root:root"));
    }
    let mut findings: Vec<Finding> =
        files.into_iter().filter_map(|(file, owner)| foreign(cluster, &file, owner)).collect();
    findings.extend(of_dns(cluster));
    Ok(findings)
}

/// The secret for updates of the DNS name, which dnscp refuses with another owner or mode.
fn of_dns(cluster: &Cluster) -> Option<Finding> {
    let settings = cluster.settings.as_ref().ok()?;
    let dns = Endpoint::from_settings(cluster.root, cluster.id, settings).ok()??.dns?;
    let file = match dns.auth {
        Auth::Tsig(file) | Auth::Gss { secret: GssSecret::Keytab(file) | GssSecret::Password(file), .. } => file,
        Auth::None => return None,
    };
    let error = keys::secret_bytes(cluster.root, &file, keys::FOR_POSTGRES).err()?;
    Some(Finding::of(Level::Error, &error).about(&file))
}

fn foreign(cluster: &Cluster, file: &Path, owner: &str) -> Option<Finding> {
    let found = cluster.root.path(file).metadata().ok()?;
    if found.uid() == 0 {
        return None;
    }
    let (shown, user) = (file.display(), holder::user(cluster.root, found.uid()));
    let what = if found.is_dir() {
        format!("{shown} belongs to {user}, who can replace the secrets in it")
    } else {
        format!("{shown} belongs to {user}, who can change it")
    };
    let hint = format!("Run: chown {owner} {}", quoted(&shown.to_string()));
    Some(Finding::warning(what, hint).at("").about(file))
}
