//! Data that no Patroni manages, which Patroni must not be given.

use std::path::Path;

use host::{ClusterId, Root};

use crate::hooks::marker::Unfinished;

/// Does a directory hold data that no Patroni manages? Patroni would start it as a standby and wait for ever for a leader: it makes
/// its roles only at a bootstrap, and asks the timeline of a member that has data as one of them (`Ha._run_cycle`,
/// `get_replica_timeline`).
///
/// A primary that Patroni runs has this file within its first `loop_wait` (`Config.save_cache`), and every base backup of it has it,
/// too. What a bootstrap or a clone that was cut short left has not, but `pg_preparecluster_patroni` removes that.
pub(crate) fn is_unmanaged(root: &Root, id: &ClusterId, data: &Path) -> bool {
    let there = |name: &str| root.path(data.join(name)).exists();
    there("PG_VERSION") && !there("patroni.dynamic.json") && !Unfinished::exists(root, id)
}

/// What to do with a cluster that no Patroni manages.
pub(crate) fn other_name(id: &ClusterId) -> String {
    let (version, name) = (&id.version, &id.name);
    format!(
        "make a cluster by another name (patroni-gen-config {version}/NAME) and copy the data there by pg_dump and pg_restore; if \
         nothing in it is needed, run pg_dropcluster --stop {version} {name} and then patroni-gen-config {id}"
    )
}
