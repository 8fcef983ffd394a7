//! Writes the Patroni file of a cluster, or shows what would be written.

use std::path::{Path, PathBuf};

use anyhow::Result;
use host::keys::SiteKey;
use host::report::{self, Level, Reporter};
use host::{ClusterId, Root, fail};

use crate::files::header::{Author, author};
use crate::files::yaml::Yaml;
use crate::files::{diff, install};
use crate::hooks::unmanaged::{Unmanaged, examine};
use crate::patroni::paths::patroni_file;
use crate::patroni_yml::config::Config;
use crate::patroni_yml::dnscp_file;
use crate::patroni_yml::inputs::{Overrides, render, settings, site_key, site_key_path};

/// Prints what would be written, without its secrets.
pub(crate) fn show(root: &Root, overrides: &Overrides, id: &ClusterId, reporter: &Reporter) -> Result<()> {
    let (_, text) = wanted(root, overrides, id, reporter)?;
    report::print(&diff::Mask::default().hide(&text));
    Ok(())
}

/// Prints how the file would change, and returns whether it would.
pub(crate) fn difference(root: &Root, overrides: &Overrides, id: &ClusterId, reporter: &Reporter) -> Result<bool> {
    let path = patroni_file(id);
    let (present, text) = wanted(root, overrides, id, reporter)?;
    let difference = diff::unified(&path.display().to_string(), present.as_deref().unwrap_or_default(), &text);
    report::print(&difference);
    Ok(!difference.is_empty())
}

/// The existing file, and the text that would be written. It is only a warning that it would not be.
fn wanted(root: &Root, overrides: &Overrides, id: &ClusterId, reporter: &Reporter) -> Result<(Option<String>, String)> {
    let present = root.read(patroni_file(id))?;
    let settings = settings(root, overrides, Some(id))?;
    let key = site_key(root, &settings)?.unwrap_or_else(SiteKey::placeholder);
    let (config, text) = render(root, overrides, id, &settings, &key, present.as_deref())?;
    if present.is_none() {
        if let Some(unmanaged) = examine(root, id, &config.data_directory) {
            reporter.warn(unmanaged.without_file(id, &config.data_directory));
        }
    }
    Ok((present, text))
}

/// A file that was written.
pub(crate) struct Change {
    pub(crate) config: Config,
    /// What was there before.
    pub(crate) old: Option<String>,
    pub(crate) new: String,
}

/// Writes the file and those that belong to it, unless it is up to date. With `force`, it also replaces a file that was edited by hand, and
/// writes a missing file beside a running member.
pub(crate) fn write(
    root: &Root,
    overrides: &Overrides,
    id: &ClusterId,
    force: bool,
    reporter: &Reporter,
) -> Result<Option<Change>> {
    let path = patroni_file(id);
    let present = root.read(&path)?;
    let settings = settings(root, overrides, Some(id))?;
    let key_path = site_key_path(&settings)?;
    let known_key = site_key(root, &settings)?;
    // All errors are found before the first file is created.
    let (config, mut text) = render(
        root,
        overrides,
        id,
        &settings,
        known_key.as_ref().unwrap_or(&SiteKey::placeholder()),
        present.as_deref(),
    )?;
    if present.is_none() {
        refuse_unmanaged(root, &config, force, known_key.is_some(), &key_path)?;
    }
    if known_key.is_none() {
        let key = SiteKey::create(root, &key_path)?;
        reporter.info(format!(
            "created {}: copy it to the other members before you run patroni-gen-config there",
            key_path.display()
        ));
        text = render(root, overrides, id, &settings, &key, present.as_deref())?.1;
    }
    for warning in &config.warnings {
        reporter.tell(Level::Warning, warning);
    }
    // Otherwise the first user of patronictl would create it, and nobody else could write to it.
    if let Some(directory) = config.raft_directory() {
        install::directory(root, directory)?;
    }
    let Some(present) = present else {
        dnscp_file::install(root, &config, &text)?;
        install::install(root, &path, &text, None)?;
        report::print(&written(&path, &config));
        return Ok(Some(Change { config, old: None, new: text }));
    };
    if present == text {
        dnscp_file::install(root, &config, &text)?;
        report::print(&format!("{}: up to date\n", path.display()));
        return Ok(None);
    }
    let ours = author(&present) == Author::Generator;
    if !ours && !force {
        report::print(&diff::unified(&path.display().to_string(), &present, &text));
        let site = host::settings::SITE_FILE;
        let is_file = Yaml::parse(&path, &present).is_ok_and(|yaml| yaml.text(&["scope"]).is_some());
        if author(&present) == Author::Other && is_file {
            fail!(
                "{} was written by hand, so it was left unchanged", path.display();
                "If Patroni runs with it, take the member over with 'pg_adoptcluster_patroni --from {} {id}'. Otherwise put the difference \
                 into {site} or a template, or use --force.", path.display()
            );
        }
        fail!(
            "{} was {} by hand, so it was left unchanged", path.display(), if author(&present) == Author::Other { "written" } else { "edited" };
            "Put the difference into {site} or a template, or use --force."
        );
    }
    let old = PathBuf::from(format!("{}.old", path.display()));
    dnscp_file::install(root, &config, &text)?;
    install::install(root, &path, &text, (!ours).then_some(old.as_path()))?;
    report::print(&written(&path, &config));
    Ok(Some(Change { config, old: Some(present), new: text }))
}

fn written(path: &Path, config: &Config) -> String {
    format!("{}: written (port {}, REST API {})\n", path.display(), config.port, config.rest_port)
}

/// Refuses to write the first Patroni file for data that Patroni does not manage. If Patroni is running on them, the file was lost: then
/// it is written with `force`, which takes no effect before Patroni is reloaded, but not with passwords of a new site key.
fn refuse_unmanaged(root: &Root, config: &Config, force: bool, has_key: bool, key: &Path) -> Result<()> {
    let (id, data) = (&config.id, &config.data_directory);
    match examine(root, id, data) {
        None => Ok(()),
        Some(Unmanaged::Running) if force && has_key => Ok(()),
        Some(Unmanaged::Running) if force => fail!(
            "the site key {}, from which the passwords of the running cluster are derived, is missing", key.display();
            "Copy it from another member. If no member has it, create it on one member with '(umask 077; openssl rand -hex 32 > {})' and \
             copy it to all others. Then run this again on all members, and at last on the primary: patroni-gen-config set-passwords {id}",
            key.display()
        ),
        Some(unmanaged) => Err(unmanaged.without_file(id, data).into()),
    }
}
