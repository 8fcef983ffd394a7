//! What else could run the same cluster: the unit of postgresql-common and another Patroni; and the cluster that the installation of a
//! server creates.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Result;
use host::clusters;
use host::createcluster::{self, CreateCluster};
use host::program::quoted;
use host::units::is_enabled;

use crate::doctor::cluster::{Cluster, USER};
use crate::doctor::finding::{Finding, Subject};
use crate::hooks::unmanaged::{ADOPT, examine};
use crate::patroni::paths::{ADOPTIONS, RELEASES, TAKE_OVERS};
use crate::patroni::process;
use crate::patroni::rival::{self, Own};
use crate::postgres::data_dir::running_server;
use crate::postgres::units::{is_active, is_active_beside};

/// A handover that has not been completed. Only root can see it.
pub(crate) fn interrupted(cluster: &Cluster) -> Option<Finding> {
    let root = cluster.root;
    let record = |directory: &str| Path::new(directory).join(cluster.id.dashed());
    let is_open = |directory: &str| root.path(record(directory).join("decision.json")).exists();
    let adopted = || {
        let steps = root.read(record(ADOPTIONS).join("journal")).ok().flatten().unwrap_or_default();
        steps.lines().any(|line| line.ends_with(" done finish"))
    };
    let found = |what: &str, directory: &str, program: &str| {
        Finding::warning(what, format!("Complete it with: {program} {}", cluster.id))
            .at(record(directory).display().to_string())
    };
    if is_open(TAKE_OVERS) {
        let what = "the take-over of this member was interrupted, and the cluster may still be in maintenance mode";
        return Some(found(what, TAKE_OVERS, ADOPT));
    }
    if is_open(RELEASES) {
        let what = "giving this cluster back was interrupted, and it may still be in maintenance mode";
        return Some(found(what, RELEASES, "pg_releasecluster_patroni"));
    }
    (is_open(ADOPTIONS) && !adopted()).then(|| found("the adoption of this cluster was interrupted", ADOPTIONS, ADOPT))
}

/// Another Patroni that runs this data. In the unit, the check is that of user postgres, who sees all of his own processes; those of others
/// do not count.
fn rival(cluster: &Cluster) -> Option<Finding> {
    let (root, data) = (cluster.root, cluster.text(&["postgresql", "data_dir"])?);
    let (unit, data) = (format!("patroni@{}.service", cluster.id.dashed()), Path::new(&data));
    let rival = rival::find(root, &Own { unit: &unit, file: &cluster.path, data }, running_server(root, data))?;
    let trouble = rival.trouble(root, cluster.id, is_active_beside(root, &unit));
    Some(Finding::fatal(trouble.what, trouble.hint.unwrap_or_default()).at(""))
}

/// A server that another unit has started, and would stop without Patroni. One that was started in a session is not known to be wrong.
fn foreign_server(cluster: &Cluster, server: u32) -> Option<Finding> {
    let root = cluster.root;
    let owner = root.path(format!("/proc/{server}")).metadata().ok()?.uid();
    let unit = process::unit(root, server).filter(|_| root.user_id(USER).ok() == Some(owner))?;
    let own = ["patroni", "postgresql"].map(|kind| format!("{kind}@{}.service", cluster.id.dashed()));
    (!own.contains(&unit)).then(|| {
        let what = format!("PostgreSQL (process {server}) is run by {unit}, which can stop it without Patroni");
        Finding::warning(
            what,
            format!("Stop it, so that Patroni starts it, with: systemctl disable --now {}", quoted(&unit)),
        )
        .at("")
    })
}

/// Another Patroni on this data, a postgresql@ unit that is running, or would start at boot, or a handover that has not been completed.
pub fn check(cluster: &Cluster) -> Result<Vec<Finding>> {
    if let Some(finding) = interrupted(cluster) {
        return Ok(vec![finding]);
    }
    if let Some(finding) = rival(cluster) {
        return Ok(vec![finding]);
    }
    let root = cluster.root;
    if let Some(finding) = running_server(root, &cluster.data_directory()).and_then(|pid| foreign_server(cluster, pid))
    {
        return Ok(vec![finding]);
    }
    let unit = format!("postgresql@{}.service", cluster.id.dashed());
    let name = unit.trim_end_matches(".service");
    if is_active(root, &unit) {
        let what = format!("{name} is running this cluster, so patroni@{} does not start", cluster.id.dashed());
        let hint = match examine(root, cluster.id, &cluster.data_directory()) {
            Some(_) => format!("Keep it running. Patroni can take over its data with: {ADOPT} {}", cluster.id),
            None => format!("Stop and disable it with: systemctl disable --now {name}"),
        };
        return Ok(vec![Finding::fatal(what, hint).at("")]);
    }
    if is_enabled(root, &unit) {
        let what = format!("{name} is enabled, and starts this cluster without Patroni if patroni@ is not enabled");
        return Ok(vec![Finding::warning(what, format!("Disable it with: systemctl disable {name}")).at("")]);
    }
    let start = clusters::config_directory(cluster.id).join("start.conf");
    let text = root.read(&start)?.unwrap_or_default();
    let word = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).find(|line| !line.is_empty());
    // If patroni@ is enabled, a condition prevents postgresql@ from starting.
    if word == Some("auto") && !is_enabled(root, &format!("patroni@{}.service", cluster.id.dashed())) {
        let unit = format!("patroni@{}", cluster.id.dashed());
        let what = format!("set to auto, and {unit} is not enabled, so {name} starts at boot");
        let hint = format!("Set start.conf to manual, or run: systemctl enable {unit}");
        let finding = Finding::warning(what, hint).at(start.display().to_string());
        return Ok(vec![Finding { subject: Some(Subject::Enabled), ..finding }]);
    }
    Ok(Vec::new())
}

/// Units that start only together with `postgresql@`, such as the timers of backups: `systemctl enable` has linked them before the drop-ins of
/// this package were there, or they have no drop-in.
pub(crate) fn waiting(cluster: &Cluster) -> Result<Vec<Finding>> {
    let id = cluster.id.dashed();
    let wanted = |unit: &str| cluster.root.list(format!("/etc/systemd/system/{unit}@{id}.service.wants"));
    if is_active(cluster.root, &format!("postgresql@{id}.service")) {
        return Ok(Vec::new());
    }
    let started = wanted("patroni")?;
    let finding = |name: String| {
        let what = format!("{name} is enabled, but starts only with postgresql@{id}, which never starts under Patroni");
        let hint = format!("Let it start with Patroni: systemctl add-wants patroni@{id}.service {}", quoted(&name));
        Finding::warning(what, hint).at("")
    };
    Ok(wanted("postgresql")?.into_iter().filter(|name| !started.contains(name)).map(finding).collect())
}

/// A separate cluster `main` on each host could never join the others.
pub fn creates_main(cluster: &Cluster) -> Result<Vec<Finding>> {
    if !CreateCluster::read(cluster.root)?.creates_main_cluster() {
        return Ok(Vec::new());
    }
    let what = "create_main_cluster is on, so the installation of a server creates a cluster main, which uses a port and cannot become \
                a member";
    let hint = format!("Turn it off with: echo 'create_main_cluster = false' >> {}", createcluster::PATH);
    Ok(vec![Finding::warning(what, hint).at(createcluster::PATH)])
}
