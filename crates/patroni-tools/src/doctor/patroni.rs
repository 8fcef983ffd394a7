//! The Patroni that the unit starts.

use host::settings::SITE_FILE;

use crate::doctor::cluster::{Cluster, Depth};
use crate::doctor::finding::{Finding, Level};
use crate::patroni::installed::{self, KEY};

/// Is there a Patroni, and which one of several is started?
pub fn check(cluster: &Cluster) -> Vec<Finding> {
    let root = cluster.root;
    let chosen = match installed::chosen(root) {
        Ok(chosen) => chosen,
        // A setting that cannot be read is reported with the settings.
        Err(_) if cluster.settings.is_err() => return Vec::new(),
        Err(error) => return vec![Finding::of(Level::Fatal, &error)],
    };
    let copies = installed::copies(root);
    if chosen.is_none() {
        let program = root.program("patroni").is_ok() || root.path("/usr/local/bin/patroni").exists();
        if copies.is_empty() && !program {
            return vec![Finding::error("Patroni is not installed", "Install it with: apt install patroni").at("")];
        }
        if copies.len() < 2 {
            return Vec::new();
        }
    }
    if cluster.depth != Depth::Full {
        return Vec::new();
    }
    let about = match installed::ask(root) {
        Ok(about) => about,
        Err(error) => return vec![Finding::of(Level::Error, &error)],
    };
    if chosen.is_some() {
        return Vec::new();
    }
    let others = copies.iter().filter(|copy| copy.directory != about.directory).map(|copy| {
        let version = copy.version.map_or_else(|| "one".to_owned(), |version| version.to_string());
        format!("{version} in {}", copy.directory.display())
    });
    let others: Vec<String> = others.collect();
    let (version, directory) = (about.version, about.directory.display());
    let what = format!(
        "{} Patronis are installed: patroni@ starts {version} in {directory}, not {}",
        copies.len(),
        others.join(" or ")
    );
    // pip removes the copy that Python finds first.
    let of_postgres = copies.first().is_some_and(|copy| copy.directory.starts_with("/var/lib/postgresql"));
    let user = if of_postgres { "runuser -u postgres -- " } else { "" };
    let hint = format!(
        "Set {KEY} in {SITE_FILE} to the one that patroni@ should start, or remove that of pip with: \
         {user}pip3 uninstall --break-system-packages patroni"
    );
    vec![Finding::warning(what, hint).at("")]
}
