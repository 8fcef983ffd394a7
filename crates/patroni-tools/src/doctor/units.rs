//! The unit of postgresql-common, which would run the same instance, and the cluster that the installation of a server makes.

use std::path::Path;

use anyhow::Result;
use host::clusters;
use host::createcluster::{self, CreateCluster};

use crate::doctor::finding::Finding;
use crate::doctor::instance::Instance;
use crate::hooks::unmanaged::examine;
use crate::postgres::units::is_active;

/// What is enabled by `systemctl enable`.
const ENABLED: &str = "/etc/systemd/system/multi-user.target.wants";

/// postgresql@ that runs, or would at boot.
pub fn look(instance: &Instance) -> Result<Vec<Finding>> {
    let root = instance.root;
    let unit = format!("postgresql@{}.service", instance.id.dashed());
    let name = unit.trim_end_matches(".service");
    if is_active(root, &unit) {
        let what = format!("{name} runs this instance, so that patroni@{} does not start", instance.id.dashed());
        let remedy = match examine(root, instance.id, &instance.data_directory()) {
            Some(_) => {
                "Keep it running until its data, which Patroni does not manage, is in a cluster with another name."
                    .to_owned()
            }
            None => format!("run systemctl disable --now {name}"),
        };
        return Ok(vec![Finding::fatal(what, remedy).at("")]);
    }
    let enabled = |unit: &str| root.path(Path::new(ENABLED).join(unit)).symlink_metadata().is_ok();
    if enabled(&unit) {
        let what =
            format!("{name} is enabled, and starts this instance without Patroni wherever Patroni is not enabled");
        return Ok(vec![Finding::warning(what, format!("run systemctl disable {name}")).at("")]);
    }
    let start = clusters::config_directory(instance.id).join("start.conf");
    let text = root.read(&start)?.unwrap_or_default();
    let word = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).find(|line| !line.is_empty());
    // Where patroni@ is enabled, a condition of postgresql@ keeps it from starting.
    if word == Some("auto") && !enabled(&format!("patroni@{}.service", instance.id.dashed())) {
        let what =
            format!("it says auto, and patroni@{} is not enabled, so that {name} starts at boot", instance.id.dashed());
        let remedy = format!("run systemctl enable patroni@{}, or write manual there", instance.id.dashed());
        return Ok(vec![Finding::warning(what, remedy).at(start.display().to_string())]);
    }
    Ok(Vec::new())
}

/// A cluster `main` of each host's own could never join the others.
pub fn creates_main(instance: &Instance) -> Result<Vec<Finding>> {
    if !CreateCluster::read(instance.root)?.creates_main_cluster() {
        return Ok(Vec::new());
    }
    let what = "create_main_cluster is on, so that the installation of a server makes a cluster main, which takes a port and cannot \
                become a member";
    Ok(vec![Finding::warning(what, "write create_main_cluster = false there").at(createcluster::PATH)])
}
