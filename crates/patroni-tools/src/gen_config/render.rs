//! Config and template make the text of the file; the text is read back before it is believed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use serde::Serialize;
use sha2::{Digest, Sha256};
use site::Root;

use super::config::{Config, file};
use crate::yaml::{self, Yaml};

/// Where the package's templates are.
pub const SHIPPED: &str = "/usr/share/patroni-tools/templates";

/// Where the administrator's are, which win over those of the same name.
pub const LOCAL: &str = "/etc/patroni/templates";

const NAME: &str = "patroni.yml.j2";
const HEADER: &str = "# Written by patroni-gen-config";
const RUN: &str = ", and run: patroni-gen-config ";
const CHECKSUM: &str = "# Checksum of what follows: ";

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
    let sources = format!("{} and {}", site::settings::SITE_FILE, site::settings::instance_file(&config.id).display());
    let text = with_header(&body, &sources, &config.id.slashed());
    read_back(&text, config)?;
    Ok(text)
}

/// The text that the template `name` makes of `values`.
pub fn body(root: &Root, name: &str, values: impl Serialize) -> Result<String> {
    let environment = environment(root);
    environment.get_template(name).and_then(|template| template.render(values)).map_err(|error| explain(&error, name))
}

/// Says above a text where it comes from and how it is made anew, and who wrote it (see [`author`]).
pub fn with_header(body: &str, sources: &str, arguments: &str) -> String {
    format!(
        "{HEADER} from {sources}.\n# Change it there or in {LOCAL}{RUN}{arguments}\n{CHECKSUM}{}\n{body}",
        checksum(body),
    )
}

/// The arguments by which a text with our header was made.
pub fn arguments(text: &str) -> Vec<&str> {
    let line = text.lines().nth(1).and_then(|line| line.split_once(RUN));
    line.map(|(_, arguments)| arguments.split(' ').collect()).unwrap_or_default()
}

fn environment(root: &Root) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // With it, an error would show the values of variables, passwords among them.
    environment.set_debug(false);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_keep_trailing_newline(true);
    let root = root.clone();
    environment.set_loader(move |name| load(&root, name));
    environment
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

fn load(root: &Root, name: &str) -> Result<Option<String>, Error> {
    let places = match name.strip_prefix("shipped/") {
        Some(name) => vec![PathBuf::from(SHIPPED).join(name)],
        None => vec![PathBuf::from(LOCAL).join(name), PathBuf::from(SHIPPED).join(name)],
    };
    for place in places {
        match root.read(&place) {
            Ok(Some(text)) => return Ok(Some(text)),
            Ok(None) => {}
            Err(error) => return Err(Error::new(ErrorKind::InvalidOperation, format!("{error:#}"))),
        }
    }
    Ok(None)
}

fn explain(error: &Error, template: &str) -> anyhow::Error {
    if error.kind() == ErrorKind::TemplateNotFound {
        return anyhow::anyhow!(
            "the template {SHIPPED}/{template} is missing: run apt install --reinstall patroni-tools"
        );
    }
    let place = match (error.name(), error.line()) {
        (Some(name), Some(line)) => format!("template {name}:{line}: "),
        _ => "template: ".to_owned(),
    };
    anyhow::anyhow!("{place}{}", error.detail().map_or_else(|| error.kind().to_string(), str::to_owned))
}

/// The text must say what was meant, whatever the template did to it.
fn read_back(text: &str, config: &Config) -> Result<()> {
    let path = file(&config.id);
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
            site::createcluster::PATH
        );
    }
    Ok(())
}

/// What is below our header, where we wrote it and nobody has changed it since.
#[must_use]
pub fn body_of(text: &str) -> Option<&str> {
    let body = text.splitn(4, '\n').nth(3);
    body.filter(|_| author(text) == Author::Us)
}

fn checksum(body: &str) -> String {
    site::keys::to_hex(&Sha256::digest(body.as_bytes()))
}

/// Who wrote a file that is there.
#[derive(Debug, PartialEq, Eq)]
pub enum Author {
    /// We did, and nobody has changed it since.
    Us,
    /// We did, and somebody has changed it.
    UsThenEdited,
    /// It is not ours.
    Somebody,
}

/// Tells by header and checksum.
#[must_use]
pub fn author(text: &str) -> Author {
    let mut lines = text.splitn(4, '\n');
    let ours = lines.next().is_some_and(|line| line.starts_with(HEADER));
    let sum = lines.nth(1).and_then(|line| line.strip_prefix(CHECKSUM));
    match (ours, sum, lines.next()) {
        (true, Some(sum), Some(body)) if sum == checksum(body) => Author::Us,
        (true, ..) => Author::UsThenEdited,
        _ => Author::Somebody,
    }
}
