//! The locale with which a cluster is created here, or with which the one that is there works.

use host::clusters;
use host::trouble::Trouble;

use crate::doctor::cluster::Cluster;
use crate::doctor::finding::{Finding, Level};
use crate::doctor::methods::uses_hooks;
use crate::postgres::locales::{Locales, missing_at_bootstrap};

/// PostgreSQL does not start if one of these is not valid in its configuration (`check_locale_messages` and others in `pg_locale.c`).
const PARAMETERS: [&str; 4] = ["lc_messages", "lc_monetary", "lc_numeric", "lc_time"];

/// A locale that is not generated on this host.
pub fn check(cluster: &Cluster) -> Vec<Finding> {
    let found = |trouble: Trouble| Finding::of(Level::Error, &trouble.into());
    if !cluster.root.path(cluster.data_directory().join("PG_VERSION")).exists() {
        return before_bootstrap(cluster).map(found).into_iter().collect();
    }
    let conf = clusters::effective_conf(cluster.root, cluster.id).unwrap_or_default();
    let value = |name: &str| cluster.text(&["postgresql", "parameters", name]).or_else(|| conf.get(name).cloned());
    let used: Vec<(&str, String)> = PARAMETERS.iter().filter_map(|name| Some((*name, value(name)?))).collect();
    if used.is_empty() {
        return Vec::new();
    }
    let Some(locales) = Locales::of(cluster.root) else { return Vec::new() };
    let missing = used.iter().filter_map(|(name, value)| Some((name, locales.missing(cluster.root, value)?)));
    missing
        .map(|(name, mut trouble)| {
            trouble.what = format!("{}, but {name} of {} needs it", trouble.what, cluster.id);
            found(trouble)
        })
        .take(1)
        .collect()
}

fn before_bootstrap(cluster: &Cluster) -> Option<Trouble> {
    if !uses_hooks(cluster) {
        return None;
    }
    let method = cluster.text(&["bootstrap", "method"])?;
    let command = cluster.text(&["bootstrap", &method, "command"])?;
    let option = |name: &str| command.split_whitespace().find_map(|word| word.strip_prefix(name).map(str::to_owned));
    let asked = option("--locale=").or_else(|| cluster.text(&["bootstrap", &method, "locale"]));
    // Options for single categories are rare, and the machine's locale then does not decide.
    if asked.is_none() && command.contains("--lc-") {
        return None;
    }
    missing_at_bootstrap(cluster.root, cluster.id, asked.as_deref())
}
