//! Data for which Patroni must not get a Patroni file.

use std::path::Path;

use host::trouble::Trouble;
use host::{ClusterId, Root, trouble};

use crate::hooks::marker::Marker;
use crate::patroni::paths::patroni_file;
use crate::postgres::data_dir::running_server;
use crate::postgres::units;

/// The program that makes Patroni manage the data.
pub(crate) const ADOPT: &str = "pg_adoptcluster_patroni";

/// Why a data directory looks as if Patroni did not manage it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unmanaged {
    /// Patroni does not manage it. Patroni would start it as a standby and wait for a leader without end: it creates its roles only when
    /// it bootstraps, and asks the timeline of a member that has data as one of them (`Ha._run_cycle`, `get_replica_timeline`).
    Never,
    /// Patroni is running on it at this moment, and its file in the data directory is missing.
    Running,
}

/// Examines a data directory; `None` if it is empty or Patroni manages it.
///
/// A primary under Patroni has `patroni.dynamic.json` within its first `loop_wait` (`Config.save_cache`), and so has each base
/// backup of it. The remains of an interrupted bootstrap or clone do not have it, but `pg_preparecluster_patroni` removes them.
pub(crate) fn examine(root: &Root, id: &ClusterId, data: &Path) -> Option<Unmanaged> {
    let exists = |name: &str| root.path(data.join(name)).exists();
    if !exists("PG_VERSION") || exists("patroni.dynamic.json") || Marker::exists(root, id) {
        return None;
    }
    let runs =
        units::is_active_beside(root, &format!("patroni@{}.service", id.dashed())) || started_by_patroni(root, data);
    Some(if runs { Unmanaged::Running } else { Unmanaged::Never })
}

/// Does a server run there that Patroni has started? Patroni alone passes the name of the cluster on the command line, and its server
/// keeps running while Patroni is stopped in pause (`Postgresql.start`, `CMDLINE_OPTIONS`).
fn started_by_patroni(root: &Root, data: &Path) -> bool {
    let Some(pid) = running_server(root, data) else { return false };
    let line = std::fs::read(root.path(format!("/proc/{pid}/cmdline"))).unwrap_or_default();
    line.split(|byte| *byte == 0).any(|word| word.starts_with(b"--cluster_name="))
}

impl Unmanaged {
    /// What is wrong, and what to do about it, when the Patroni file does not exist.
    pub(crate) fn without_file(self, id: &ClusterId, data: &Path) -> Trouble {
        match self {
            Self::Never => trouble!(
                "{} contains data that Patroni does not manage and would leave read-only", data.display();
                "Let Patroni take over the running cluster with '{ADOPT} {id}', which does not stop it. If none of its data is needed, \
                 remove it with pg_dropcluster."
            ),
            Self::Running => trouble!(
                "{} and patroni.dynamic.json in {} are missing, but Patroni is running on this data",
                patroni_file(id).display(), data.display();
                "Do not drop the cluster. Write the Patroni file again with: patroni-gen-config --force {id}"
            ),
        }
    }

    /// The same when it exists.
    pub(crate) fn with_file(self, id: &ClusterId, data: &Path) -> Trouble {
        match self {
            Self::Never => trouble!(
                "{} contains data that Patroni does not manage and would leave read-only", data.display();
                "Move {} away, and let Patroni take over the running cluster with: {ADOPT} {id}", patroni_file(id).display()
            ),
            Self::Running => {
                let (version, unit) = (&id.version, id.dashed());
                trouble!(
                    "patroni.dynamic.json is missing in {}, on which Patroni is running", data.display();
                    "If 'pg_patronictl {id} list' shows a leader, Patroni writes this file when the dynamic configuration changes. \
                     If the member waits for a leader, Patroni has never managed this data. Then create a cluster with another name \
                     (patroni-gen-config {version}/NAME), copy the data with pg_dump and pg_restore, and stop patroni@{unit}."
                )
            }
        }
    }
}
