//! An instance of `patroni@` whose file is not that of a cluster, such as `patroni@acme` with `/etc/patroni/acme.yml`. Debian's unit runs any
//! file, so this one does, too. There is no cluster of postgresql-common, so most checks have no subject.

use std::path::Path;

use anyhow::Result;
use host::program::quoted;
use host::report::{self, Reporter};
use host::{ClusterId, Root, clusters};
use serde_json::Value;

use crate::doctor::cluster::{AS_ROOT, Depth, Options};
use crate::doctor::finding::{Finding, Level, document};
use crate::files::yaml::Yaml;
use crate::hooks::unmanaged::ADOPT;
use crate::patroni::paths::Instance;
use crate::patroni::rival::{self, Own};
use crate::postgres::data_dir::running_server;

/// Checks what can be checked. Of the programs that the unit runs, only `--offline` reports anything.
pub fn run(root: &Root, options: Options, instance: &Instance, reporter: &Reporter) -> Result<()> {
    if matches!(options.depth, Depth::Ports | Depth::Dcs) {
        return Ok(());
    }
    let path = instance.file.as_path();
    let findings = check(root, instance);
    if options.json {
        report::print(&format!("{:#}\n", Value::Array(vec![document(&instance.name, path, &findings)])));
    }
    let mut fatal = None;
    for finding in findings {
        let trouble = finding.trouble(path);
        if finding.level > Level::Warning {
            fatal = Some(trouble);
        } else if !options.json {
            reporter.warn(trouble);
        }
    }
    match fatal {
        Some(trouble) => Err(trouble.into()),
        None => Ok(()),
    }
}

fn check(root: &Root, instance: &Instance) -> Vec<Finding> {
    let path = instance.file.as_path();
    let text = match root.read(path) {
        Ok(text) => text.unwrap_or_default(),
        Err(error) => return vec![Finding::of(Level::Fatal, &error).or_hint(AS_ROOT)],
    };
    let yaml = match Yaml::parse(path, &text) {
        Ok(yaml) => yaml,
        Err(error) => return vec![Finding::of(Level::Fatal, &error).or_hint("Correct it.")],
    };
    let mut findings = Vec::new();
    let data = yaml.text(&["postgresql", "data_dir"]);
    if let Some(data) = data.as_deref().map(Path::new) {
        let unit = format!("patroni@{}.service", instance.name);
        let rival = rival::find(root, &Own { unit: &unit, file: path, data }, running_server(root, data));
        findings.extend(rival.map(|rival| {
            let trouble = rival.without_cluster();
            Finding::fatal(trouble.what, trouble.hint.unwrap_or_default()).at("")
        }));
    }
    let cluster = cluster(root, &yaml).map_or_else(|| "VERSION/NAME".to_owned(), |id| id.slashed());
    findings.push(Finding::warning(
        "not the file of a cluster (VERSION-NAME.yml), so it is checked only for its syntax and for other Patronis on its data",
        format!("Make it the member of a cluster, without stopping it, with: {ADOPT} --from {} {cluster}", quoted(&path.display().to_string())),
    ));
    findings
}

/// The cluster of postgresql-common that such a file runs.
fn cluster(root: &Root, yaml: &Yaml) -> Option<ClusterId> {
    let directory = |key: &str| yaml.text(&["postgresql", key]).map(|text| text.trim_end_matches('/').to_owned());
    let (config, data) = (directory("config_dir"), directory("data_dir"));
    let known = clusters::installed(root).known;
    let runs = |cluster: &&clusters::Installed| {
        let own = clusters::config_directory(&cluster.id);
        config.as_deref().map(Path::new) == Some(own.as_path())
            || data.is_some() && cluster.data_directory.as_deref() == data.as_deref().map(Path::new)
    };
    known.iter().find(runs).map(|cluster| cluster.id.clone())
}
