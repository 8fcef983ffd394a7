//! The paths of Patroni's files on this host, and names and numbers on which several parts depend.

use std::path::PathBuf;

use anyhow::Result;
use host::{ClusterId, Root};

use crate::files::yaml::Yaml;

/// The directory of the Patroni files.
pub(crate) const DIRECTORY: &str = "/etc/patroni";

/// Debian's file of variables for the units, which override the Patroni files.
pub(crate) const ENVIRONMENT: &str = "/etc/patroni/env.conf";

/// The records of clusters that `pg_adoptcluster_patroni` has adopted. They stay, so that a cluster can be given back.
pub(crate) const ADOPTIONS: &str = "/var/lib/patroni-tools/adopt";

/// The records of clusters that `pg_releasecluster_patroni` is giving back. One that is still there was interrupted.
pub(crate) const RELEASES: &str = "/var/lib/patroni-tools/release";

/// The records of members that are being taken over from another set-up of Patroni. One that is still there was interrupted.
pub(crate) const TAKE_OVERS: &str = "/var/lib/patroni-tools/take-over";

/// The tag that shows whether members have the same site key: `SiteKey::fingerprint`. Patroni publishes an unknown tag
/// unchanged (`Tags._filter_tags`).
pub const FINGERPRINT_TAG: &str = "site_key";

/// The REST API's port is PostgreSQL's plus this unless `RESTAPI_PORT` is set, so that 5432 gives 8008, as in Debian's package.
pub const REST_OFFSET: u16 = 8008 - 5432;

/// The directory of the hooks.
pub const HOOKS: &str = "/usr/libexec/patroni-tools";

/// The Patroni file of a cluster.
#[must_use]
pub fn patroni_file(id: &ClusterId) -> PathBuf {
    PathBuf::from(format!("{}/{}.yml", DIRECTORY, id.dashed()))
}

/// An instance of `patroni@` that is not named after a cluster, and its file.
#[derive(Debug)]
pub(crate) struct Instance {
    /// As in `patroni@acme`.
    pub(crate) name: String,
    /// `/etc/patroni/acme.yml`.
    pub(crate) file: PathBuf,
}

/// The instance that one word names if it is not a cluster's and has a file. Debian's `patroni@.service` runs any name.
pub(crate) fn other_instance(root: &Root, words: &[String]) -> Option<Instance> {
    let [name] = words else { return None };
    if name.parse::<ClusterId>().is_ok() || name.is_empty() || name.starts_with(['-', '.']) || name.contains('/') {
        return None;
    }
    let file = PathBuf::from(format!("{DIRECTORY}/{name}.yml"));
    root.path(&file).is_file().then(|| Instance { name: name.clone(), file })
}

/// All clusters that have a Patroni file.
pub(crate) fn instances(root: &Root) -> Result<Vec<ClusterId>> {
    let names = root.list(DIRECTORY)?;
    let mut ids: Vec<ClusterId> =
        names.iter().filter_map(|name| name.strip_suffix(".yml")).filter_map(|stem| stem.parse().ok()).collect();
    ids.sort();
    Ok(ids)
}

/// Reads the Patroni file of a cluster; `None` if there is none.
pub(crate) fn read_patroni_file(root: &Root, id: &ClusterId) -> Result<Option<Yaml>> {
    let path = patroni_file(id);
    root.read(&path)?.map(|text| Yaml::parse(&path, &text)).transpose()
}
