//! An instance of `patroni@` whose file is not that of a cluster, such as `patroni@acme` with `/etc/patroni/acme.yml`. Debian's unit runs any
//! file, so this one does, too. There is no cluster of postgresql-common, so most checks have no subject.

use std::path::Path;

use host::program::quoted;
use host::{ClusterId, Root, clusters};

use crate::doctor::check_name::CheckName;
use crate::doctor::cluster::{AS_ROOT, denied};
use crate::doctor::examined::Outcome;
use crate::doctor::finding::{Finding, Level, by};
use crate::doctor::looked::Looked;
use crate::files::yaml::Yaml;
use crate::hooks::unmanaged::ADOPT;
use crate::patroni::paths::Instance;
use crate::patroni::rival::{self, Own};
use crate::postgres::data_dir::running_server;

/// Checks what can be checked.
pub(super) fn check(root: &Root, instance: &Instance) -> Outcome {
    let Outcome { findings, looked } = look(root, instance);
    Outcome { findings: by(CheckName::PatroniFile, findings).collect(), looked }
}

fn look(root: &Root, instance: &Instance) -> Outcome {
    let path = instance.file.as_path();
    let of = |findings| Outcome { findings, looked: Looked::default() };
    let text = match root.read(path) {
        Ok(text) => text.unwrap_or_default(),
        Err(error) => {
            let findings = vec![Finding::of(Level::Fatal, &error).or_hint(AS_ROOT)];
            let looked = if denied(&error) { Looked::blind() } else { Looked::default() };
            return Outcome { findings, looked };
        }
    };
    let yaml = match Yaml::parse(path, &text) {
        Ok(yaml) => yaml,
        Err(error) => return of(vec![Finding::of(Level::Fatal, &error).or_hint("Correct it.")]),
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
    of(findings)
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
