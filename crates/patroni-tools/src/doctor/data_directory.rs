//! The installed programs and the existing data.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Result;
use host::createcluster::CreateCluster;
use host::file_access::User;
use host::trouble::Trouble;
use host::{PgVersion, clusters, conf, program};
use nix::unistd::geteuid;
use serde_json::Value;

use crate::doctor::cluster::{Cluster, USER};
use crate::doctor::finding::{Finding, Level};
use crate::doctor::methods::{method_names, uses_hooks};
use crate::doctor::patroni;
use crate::files::header::{Author, author};
use crate::hooks::directories::{Directories, Problem, give, link_of_postgres, remove_link};
use crate::hooks::marker::Marker;
use crate::hooks::unmanaged::examine;
use crate::postgres::conf_dir;
use crate::postgres::programs::{not_installed, server_program};
use crate::postgres::units::is_active_beside;

/// Programs and data.
pub fn check(cluster: &Cluster) -> Result<Vec<Finding>> {
    let mut findings = patroni::check(cluster);
    findings.extend(programs(cluster));
    if let Some(data) = cluster.text(&["postgresql", "data_dir"]).map(PathBuf::from) {
        findings.extend(data_directory(cluster, &data)?);
        findings.extend(directories(cluster, &data));
    }
    Ok(findings)
}

fn programs(cluster: &Cluster) -> Vec<Finding> {
    let root = cluster.root;
    let mut findings = Vec::new();
    match cluster.text(&["postgresql", "bin_dir"]) {
        Some(bin_dir) if !root.path(Path::new(&bin_dir).join("postgres")).exists() => {
            let usual = root.inside(&server_program(root, cluster.id, ""));
            let what = format!("bin_dir is {bin_dir}, which has no postgres");
            findings.push(if root.path(usual.join("postgres")).exists() {
                Finding::fatal(what, format!("Set postgresql.bin_dir to {}", usual.display()))
            } else {
                let Trouble { what: why, hint, .. } = not_installed(root, cluster.id);
                Finding::fatal(format!("{what}: {why}"), hint.unwrap_or_default())
            });
        }
        _ => {}
    }
    for path in hook_commands(cluster) {
        let executable = root.path(&path).metadata().is_ok_and(|data| data.permissions().mode() & 0o111 != 0);
        if path.is_absolute() && !executable {
            let what = format!("{} is not an executable program on this host", path.display());
            findings.push(Finding::fatal(what, "Correct the command."));
        }
    }
    findings
}

fn hook_commands(cluster: &Cluster) -> Vec<PathBuf> {
    let yaml = &cluster.yaml;
    let mut commands = Vec::new();
    for method in method_names(yaml) {
        for section in ["bootstrap", "postgresql"] {
            commands.extend(yaml.text(&[section, &method, "command"]));
        }
    }
    if let Some(Value::Object(callbacks)) = yaml.get(&["postgresql", "callbacks"]) {
        commands.extend(callbacks.values().filter_map(Value::as_str).map(str::to_owned));
    }
    commands.iter().filter_map(|command| command.split_whitespace().next()).map(PathBuf::from).collect()
}

/// What is wrong with the directories on this host.
fn directories(cluster: &Cluster, data: &Path) -> Vec<Finding> {
    let Cluster { root, id, .. } = cluster;
    let by_hooks = uses_hooks(cluster);
    let waldir = if by_hooks { CreateCluster::read(root).and_then(|set| set.waldir(id)).ok().flatten() } else { None };
    let by_hand = (author(&cluster.text) == Author::Other).then_some(cluster.path.as_path());
    let member = cluster.text(&["name"]).unwrap_or_default();
    let directories = Directories { root, id, data, waldir: waldir.as_deref(), by_hooks, member: &member, by_hand };
    let finding = |problem: Problem| {
        let level = if problem.certain { Level::Error } else { Level::Warning };
        Finding::of(level, &problem.trouble.into())
    };
    directories.problems().into_iter().map(finding).collect()
}

fn data_directory(cluster: &Cluster, data: &Path) -> Result<Vec<Finding>> {
    let Cluster { root, id, .. } = cluster;
    let shown = data.display();
    let mut findings = Vec::new();
    // Patroni starts PostgreSQL with -D, but a data_directory in the base configuration overrides it.
    let config =
        cluster.text(&["postgresql", "config_dir"]).map_or_else(|| clusters::config_directory(id), PathBuf::from);
    let base = ["postgresql.base.conf", "postgresql.conf"].map(|name| config.join(name));
    // pg_preparecluster_patroni moves the remains of a dropped cluster aside.
    let dropped = conf_dir::is_dropped(root, id, data);
    if let Some(base) = base.iter().find(|base| !dropped && root.path(base).exists()) {
        let conf = conf::read(root, base)?;
        if let Some(other) = conf.get("data_directory").filter(|other| !conf_dir::same(root, Path::new(other), data)) {
            let what = format!(
                "data_dir is {shown}, but {} sets data_directory = '{other}', which PostgreSQL would use",
                base.display()
            );
            let hint = format!(
                "Write the directory with the data into both files, then run: systemctl restart patroni@{}",
                id.dashed()
            );
            findings.push(Finding::fatal(what, hint));
        }
    }
    let Ok(Some(version)) = root.for_postgres().read(data.join("PG_VERSION")) else { return Ok(findings) };
    if version.trim() != id.version.as_str() {
        let theirs = version.trim().parse::<PgVersion>().map_or("unknown".to_owned(), |version| version.to_string());
        let what = format!("{shown} holds a cluster of version {theirs}, not {}", id.version);
        let word = program::quoted(&shown.to_string());
        let hint = format!(
            "Set data_dir to the directory of {id} in {}. If {id} is to be created in this one, move its content away with: mv {word} \
             {word}.old",
            cluster.path.display()
        );
        findings.push(Finding::fatal(what, hint));
    }
    findings.extend(lost_configuration(cluster, &config));
    if let Some(unmanaged) = examine(root, id, data) {
        let trouble = unmanaged.with_file(id, data);
        findings.push(Finding::error(trouble.what, trouble.hint.unwrap_or_default()).at(""));
    }
    // PostgreSQL refuses to start otherwise (`checkDataDir` in `miscinit.c`).
    let found = root.path(data).metadata()?;
    let owner = root.user_id(USER)?;
    if found.uid() != owner || found.mode() & 0o027 != 0 {
        let what = format!("{shown} does not belong to {USER} alone (mode {:04o})", found.mode() & 0o7777);
        // Only the user that runs the unit is known to be the right owner.
        let level = if geteuid().as_raw() == owner { Level::Fatal } else { Level::Error };
        let link = link_of_postgres(root, &User::of(root, USER)?, data);
        let hint = link.map_or_else(|| format!("Run: {}", give(root, data, "-R ")), |link| remove_link(root, &link));
        findings.push(Finding::new(level, what, hint).at(""));
    }
    Ok(findings)
}

/// The configuration was lost while Patroni runs, which then cannot start PostgreSQL again. The unit creates it before a start, and the hook with
/// a replica, but `reinit --from-leader` does not call the hook.
fn lost_configuration(cluster: &Cluster, config: &Path) -> Option<Finding> {
    let Cluster { root, id, .. } = cluster;
    let unit = format!("patroni@{}", id.dashed());
    let lost = config == clusters::config_directory(id) && !conf_dir::exists(root, id) && !Marker::exists(root, id);
    (lost && is_active_beside(root, &format!("{unit}.service"))).then(|| {
        let what = format!("{} has no configuration, so Patroni cannot start PostgreSQL", config.display());
        Finding::error(what, format!("Create it again with: systemctl restart {unit}")).at("")
    })
}
