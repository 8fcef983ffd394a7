//! Generates the text of the Patroni file from configuration and template, and parses it to verify it.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use host::trouble::Explain;
use host::{Root, fail};

use crate::files::header::with_header;
use crate::files::template::{environment, explain};
use crate::files::yaml::{self, Yaml};
use crate::patroni::paths::patroni_file;
use crate::patroni_yml::config::Config;

const NAME: &str = "patroni.yml.j2";

/// The text of the Patroni file.
pub fn render(root: &Root, config: &Config, template: Option<&Path>) -> Result<String> {
    let environment = environment(root);
    let body = match template {
        None => environment.get_template(NAME).and_then(|found| found.render(config)),
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
            // The end of the name makes minijinja quote the values, as in the shipped template.
            environment.render_named_str(&format!("{}/{NAME}", path.display()), &text, config)
        }
    }
    .map_err(|error| explain(&error, NAME))?;
    let body = printable(&body);
    let sources = format!("{} and {}", host::settings::SITE_FILE, host::settings::cluster_file(&config.id).display());
    let text = with_header(&body, &sources, &config.id.slashed());
    read_back(&text, config)?;
    Ok(text)
}

/// JSON is YAML except for these characters: YAML 1.1 (5.1, 5.4) treats some as line breaks and refuses the others. They
/// occur only in values, which are in double quotes.
fn printable(body: &str) -> String {
    let mut out = String::with_capacity(body.len());
    for c in body.chars() {
        match c {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            other => out.push(other),
        }
    }
    out
}

/// The text must have the resolved values, whatever the template does with them.
fn read_back(text: &str, config: &Config) -> Result<()> {
    let path = patroni_file(&config.id);
    let yaml = Yaml::parse(&path, text).context("the template generates an unusable file")?;
    if yaml.document().is_none() {
        fail!("the template generates an empty file"; "Correct the template.");
    }
    if let Some(twice) = yaml::twice(text) {
        fail!(
            "the template defines a key twice, so that Patroni would ignore one of them ({twice})";
            "Add it to the block that defines it already."
        );
    }
    if let Some(place) = yaml.first_empty() {
        fail!(
            "the template leaves {place} empty, which makes Patroni ignore the whole section";
            "Give it a value, or leave it out."
        );
    }
    let meant = [("scope", config.scope.as_str()), ("name", config.name.as_str())];
    for (key, meant) in meant {
        if yaml.text(&[key]).as_deref() != Some(meant) {
            fail!(
                "the template changes {key} from '{meant}'";
                "Remove the change from the template. SCOPE sets the scope, MEMBER_NAME the name of the member."
            );
        }
    }
    let ports =
        [("postgresql", config.port, "set PORT or use --port"), ("restapi", config.rest_port, "set RESTAPI_PORT")];
    for (section, meant, instead) in ports {
        let port = yaml
            .port(section)
            .context("the template generates an unusable file")
            .or_hint(|| "Correct the template.".to_owned())?;
        if port != meant {
            fail!(
                "the template makes {section} listen on port {port}, not on {meant}";
                "Remove the change from the template, and {instead}."
            );
        }
    }
    let data_dir = yaml.text(&["postgresql", "data_dir"]).unwrap_or_default();
    if Path::new(&data_dir) != config.data_directory {
        fail!(
            "the template sets data_dir to '{data_dir}', but the data directory of {} is {}", config.id, config.data_directory.display();
            "Set data_directory in {} instead.", host::createcluster::PATH
        );
    }
    Ok(())
}
