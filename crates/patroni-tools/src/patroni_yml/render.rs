//! Config and template make the text of the file; the text is read back before it is believed.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use host::Root;

use crate::files::header::with_header;
use crate::files::template::{environment, explain};
use crate::files::yaml::{self, Yaml};
use crate::patroni::paths::patroni_file;
use crate::patroni_yml::config::Config;

const NAME: &str = "patroni.yml.j2";

/// The whole text of an instance's file.
pub fn render(root: &Root, config: &Config, template: Option<&Path>) -> Result<String> {
    let environment = environment(root);
    let body = match template {
        None => environment.get_template(NAME).and_then(|found| found.render(config)),
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            // The name ends as the shipped one does, because it decides that values are quoted.
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

/// JSON is YAML but for these characters: YAML 1.1 (5.1, 5.4) takes some for line breaks and refuses the others. They can
/// only come from values, which are in double quotes.
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

/// The text must say what was meant, whatever the template did to it.
fn read_back(text: &str, config: &Config) -> Result<()> {
    let path = patroni_file(&config.id);
    let yaml = Yaml::parse(&path, text).context("the template does not make YAML")?;
    if yaml.document().is_none() {
        bail!("the template makes an empty file: correct it");
    }
    if let Some(twice) = yaml::twice(text) {
        bail!(
            "the template makes a key twice, of which Patroni would drop one ({twice}): put it into the block that has it already"
        );
    }
    if let Some(place) = yaml.first_empty() {
        bail!(
            "the template leaves {place} empty, by which Patroni would ignore more than that: give it a value or leave it out"
        );
    }
    let meant = [("scope", config.scope.as_str()), ("name", config.name.as_str())];
    for (key, meant) in meant {
        if yaml.text(&[key]).as_deref() != Some(meant) {
            bail!("the template changes {key} from '{meant}': set MEMBER_NAME instead of changing it there");
        }
    }
    for (section, meant) in [("postgresql", config.port), ("restapi", config.rest_port)] {
        let port = yaml.port(section).context("the template makes a file that Patroni cannot use")?;
        if port != meant {
            bail!("the template makes {section} listen on port {port}, not on {meant}: use --port or PORT");
        }
    }
    let data_dir = yaml.text(&["postgresql", "data_dir"]).unwrap_or_default();
    if Path::new(&data_dir) != config.data_directory {
        bail!(
            "the template sets data_dir to '{data_dir}', but {} is in {}: set data_directory in {}",
            config.id,
            config.data_directory.display(),
            host::createcluster::PATH
        );
    }
    Ok(())
}
