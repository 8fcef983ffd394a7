//! The parameters of PostgreSQL that the administrator wrote by hand: the server of this version is asked whether it has them, and the
//! host whether it has what they need.

use std::path::PathBuf;

use anyhow::Result;
use host::trouble::{Trouble, in_line};
use host::{clusters, conf};
use serde_json::Value;

use crate::doctor::cluster::Cluster;
use crate::doctor::finding::{Finding, Level};
use crate::files::header::{Author, author};
use crate::patroni_yml::parameters::{Asked, Named, refused};
use crate::postgres::data_dir::running_server;
use crate::postgres::host_needs;
use crate::postgres::programs::server_program;

/// Names of files and directories, which say nothing about the parameters, and would be looked for.
const PLACES: [&str; 6] =
    ["data_directory", "hba_file", "ident_file", "config_file", "external_pid_file", "stats_temp_directory"];

/// Parameters that PostgreSQL refuses, and what is missing on this host.
pub fn check(cluster: &Cluster) -> Result<Vec<Finding>> {
    let mut named = Named::new();
    // The running server reports its own files.
    if running_server(cluster.root, &cluster.data_directory()).is_none() {
        named.extend(in_configuration(cluster)?);
    }
    if author(&cluster.text) != Author::Generator {
        for section in [&["bootstrap", "dcs", "postgresql", "parameters"][..], &["postgresql", "parameters"]] {
            named.extend(in_patroni_file(cluster, section));
        }
    }
    named.retain(|name, _| !PLACES.contains(&name.as_str()) && !name.starts_with("include"));
    let mut findings = needs(cluster);
    let server = server_program(cluster.root, cluster.id, "postgres");
    if named.is_empty() || !server.exists() {
        return Ok(findings);
    }
    // It looks at values only if it knows all names.
    for _ in 0..2 {
        // A server that answers nothing about its parameters finds nothing.
        let found = refused(cluster.root, cluster.id, &named).unwrap_or_default();
        for Trouble { place, what, hint, .. } in found {
            let place = place.unwrap_or_default();
            named.retain(|name, asked| asked.place != place || !what.starts_with(&format!("{name}: ")));
            let restart = format!("then run: systemctl restart patroni@{}", cluster.id.dashed());
            let hint = format!("{} Correct that line, {restart}", hint.unwrap_or_default());
            findings.push(Finding::error(what + ", so PostgreSQL does not start", hint.trim_start()).at_line(place));
        }
    }
    Ok(findings)
}

/// Those of the files in `/etc/postgresql` that belong to the administrator: the base configuration, and `conf.d`.
fn in_configuration(cluster: &Cluster) -> Result<Named> {
    let (root, directory) = (cluster.root, clusters::config_directory(cluster.id));
    let base = ["postgresql.base.conf", "postgresql.conf"].map(|name| directory.join(name));
    let mut files: Vec<PathBuf> = base.into_iter().find(|file| root.path(file).exists()).into_iter().collect();
    let parts = directory.join("conf.d");
    files.extend(
        root.list(&parts)?
            .iter()
            .map(|name| parts.join(name))
            .filter(|file| file.extension().is_some_and(|end| end == "conf")),
    );
    let mut named = Named::new();
    for file in files {
        let text = root.for_postgres().read(&file)?.unwrap_or_default();
        for (name, value) in conf::read(root, &file)? {
            let name = name.to_ascii_lowercase();
            // What it includes is in a file of its own.
            let Some(line) = conf::line_of(&text, &name) else { continue };
            let place = in_line(&file, line);
            named.insert(name.clone(), Asked { value, place, key: name });
        }
    }
    Ok(named)
}

fn in_patroni_file(cluster: &Cluster, section: &[&str]) -> Named {
    let Some(Value::Object(map)) = cluster.yaml.get(section) else { return Named::new() };
    // As a key of its own line, or in a mapping on one line.
    let line = |name: &str| {
        let is_key = |line: &str, at: usize| {
            let before = line[..at].chars().next_back().is_none_or(|c| c.is_whitespace() || "{,'\"".contains(c));
            before && line[at + name.len()..].trim_start_matches(['\'', '"']).trim_start().starts_with(':')
        };
        let has = |line: &str| line.match_indices(name).any(|(at, _)| is_key(line, at));
        cluster.text.lines().position(has).map_or(1, |index| index + 1)
    };
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(on) => Some(if *on { "on" } else { "off" }.to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    map.iter()
        .filter_map(|(name, value)| {
            let place = in_line(&cluster.path, line(name));
            let name = name.to_ascii_lowercase();
            Some((name.clone(), Asked { value: text(value)?, place, key: name }))
        })
        .collect()
}

fn needs(cluster: &Cluster) -> Vec<Finding> {
    let own_programs = cluster.text(&["postgresql", "bin_dir"]);
    let debians = format!("/usr/lib/postgresql/{}/bin", cluster.id.version);
    if own_programs.is_some_and(|directory| directory.trim_end_matches('/') != debians) {
        return Vec::new();
    }
    let there = clusters::effective_conf(cluster.root, cluster.id).unwrap_or_default();
    let value = |name: &str| {
        let local = cluster.text(&["postgresql", "parameters", name]);
        let of_new = || cluster.text(&["bootstrap", "dcs", "postgresql", "parameters", name]);
        let value = local.or_else(|| if there.is_empty() { of_new() } else { there.get(name).cloned() });
        // YAML's notation of a Boolean.
        value.map(|value| if value == "true" { "on".to_owned() } else { value })
    };
    let found = host_needs::check(cluster.root, cluster.id, value);
    let small =
        host_needs::small_shared_memory(cluster.root).map(|trouble| Finding::of(Level::Warning, &trouble.into()));
    found.into_iter().map(|(_, trouble)| Finding::of(Level::Error, &trouble.into())).chain(small).collect()
}
