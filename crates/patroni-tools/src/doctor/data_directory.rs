//! What has to be installed, and the data that is there already.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Result;
use host::{PgVersion, clusters, conf, program};
use nix::unistd::geteuid;
use serde_json::Value;

use crate::doctor::finding::{Finding, Level};
use crate::doctor::instance::{Instance, USER};
use crate::doctor::patroni_yml::method_names;
use crate::hooks::unmanaged::examine;

/// Programs and data.
pub fn look(instance: &Instance) -> Result<Vec<Finding>> {
    let mut findings = programs(instance);
    if let Some(data) = instance.text(&["postgresql", "data_dir"]).map(PathBuf::from) {
        findings.extend(data_directory(instance, &data)?);
    }
    Ok(findings)
}

fn programs(instance: &Instance) -> Vec<Finding> {
    let root = instance.root;
    let version = &instance.id.version;
    let mut findings = Vec::new();
    // One that is not Debian's has a unit of its own.
    if root.program("patroni").is_err() && !root.path("/usr/local/bin/patroni").exists() {
        findings.push(Finding::error("Patroni is not installed", "run apt install patroni").at(""));
    }
    match instance.text(&["postgresql", "bin_dir"]) {
        Some(bin_dir) if !root.path(Path::new(&bin_dir).join("postgres")).exists() => {
            let what = format!("bin_dir {bin_dir} has no postgres");
            findings.push(Finding::fatal(what, format!("run apt install postgresql-{version}")));
        }
        _ => {}
    }
    for path in hook_commands(instance) {
        let executable = root.path(&path).metadata().is_ok_and(|data| data.permissions().mode() & 0o111 != 0);
        if path.is_absolute() && !executable {
            let what = format!("{} is not a program of this host", path.display());
            findings.push(Finding::fatal(what, "correct the command"));
        }
    }
    findings
}

fn hook_commands(instance: &Instance) -> Vec<PathBuf> {
    let yaml = &instance.yaml;
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

fn data_directory(instance: &Instance, data: &Path) -> Result<Vec<Finding>> {
    let Instance { root, id, .. } = instance;
    let shown = data.display();
    let mut findings = Vec::new();
    // Patroni gives PostgreSQL -D, but a data_directory in the base configuration wins over it.
    let config =
        instance.text(&["postgresql", "config_dir"]).map_or_else(|| clusters::config_directory(id), PathBuf::from);
    let base = ["postgresql.base.conf", "postgresql.conf"].map(|name| config.join(name));
    // What a dropped cluster left is moved aside by pg_preparecluster_patroni.
    let dropped = crate::postgres::conf_dir::is_dropped(root, id, data);
    if let Some(base) = base.iter().find(|base| !dropped && root.path(base).exists()) {
        let conf = conf::read(root, base)?;
        if let Some(other) = conf.get("data_directory").filter(|other| Path::new(other) != data) {
            let what = format!(
                "data_dir is {shown}, but {} has data_directory = '{other}', where PostgreSQL would run",
                base.display()
            );
            findings.push(Finding::fatal(what, "make them the same"));
        }
    }
    let Ok(Some(version)) = root.for_postgres().read(data.join("PG_VERSION")) else { return Ok(findings) };
    if version.trim() != id.version.as_str() {
        // It can be any file.
        let theirs = version.trim().parse::<PgVersion>().map_or("unknown".to_owned(), |version| version.to_string());
        let what = format!("{shown} holds a cluster of version {theirs}, not {}", id.version);
        let remedy = format!("name the directory of {id} in data_dir, or upgrade the cluster with pg_upgradecluster");
        findings.push(Finding::fatal(what, remedy));
    }
    if let Some(unmanaged) = examine(root, id, data) {
        let trouble = unmanaged.with_file(id, data);
        findings.push(Finding::error(trouble.what, trouble.hint.unwrap_or_default()).at(""));
    }
    // PostgreSQL refuses to start otherwise (`checkDataDir` in `miscinit.c`).
    let found = root.path(data).metadata()?;
    let owner = root.user_id(USER)?;
    if found.uid() != owner || found.mode() & 0o027 != 0 {
        let what = format!("{shown} does not belong to {USER} alone (mode {:04o})", found.mode() & 0o7777);
        // A unit may have another user, whom only this one would know.
        let level = if geteuid().as_raw() == owner { Level::Fatal } else { Level::Error };
        // The name was postgres's choice, and somebody pastes this.
        let word = program::quoted(&shown.to_string());
        findings.push(Finding::new(level, what, format!("run chown -R {USER}: {word} && chmod 0700 {word}")).at(""));
    }
    Ok(findings)
}
