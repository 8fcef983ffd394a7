//! Writes the Patroni file of a cluster, or shows what would be written.

use std::path::{Path, PathBuf};

use anyhow::Result;
use host::createcluster::CreateCluster;
use host::keys::SiteKey;
use host::program::quoted;
use host::report::{self, Level, Reporter};
use host::trouble::Trouble;
use host::{ClusterId, Root, fail, trouble};

use crate::doctor::published_site_key;
use crate::files::header::{Author, author};
use crate::files::yaml::Yaml;
use crate::files::{diff, install};
use crate::gen_config::endpoint::Next;
use crate::gen_config::no_member;
use crate::hooks::directories::{Directories, Problem};
use crate::hooks::unmanaged::{Unmanaged, examine};
use crate::patroni::paths::patroni_file;
use crate::patroni::rival::{self, Own};
use crate::patroni_yml::config::Config;
use crate::patroni_yml::inputs::{Overrides, create_site_key, render, settings, site_key, site_key_path};
use crate::postgres::data_dir::running_server;
use crate::postgres::units::is_active;

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
    no_member::refuse_file(root, id)?;
    let present = root.read(patroni_file(id))?;
    let settings = settings(root, overrides, Some(id))?;
    let key = site_key(root, &settings)?.unwrap_or_else(SiteKey::placeholder);
    let (config, text) = render(root, overrides, id, &settings, &key, present.as_deref())?;
    if let Some(rival) = rival(root, &config) {
        reporter.warn(rival);
    } else if present.is_none() {
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

/// What a run may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Permission {
    /// Replace a file that was edited by hand, and write a missing file beside a running member.
    pub(crate) force: bool,
    /// Create the site key if it does not exist.
    pub(crate) site_key: bool,
}

/// Writes the file and those that belong to it, unless it is up to date.
pub(crate) fn write(
    root: &Root,
    overrides: &Overrides,
    id: &ClusterId,
    may: Permission,
    reporter: &Reporter,
) -> Result<Option<Change>> {
    let force = may.force;
    no_member::refuse_file(root, id)?;
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
    if let Some(rival) = rival(root, &config) {
        return Err(rival.into());
    }
    if present.is_none() {
        refuse_unmanaged(root, &config, force, known_key.is_some(), &key_path)?;
    }
    let ours = present.as_deref().is_none_or(|present| author(present) == Author::Generator);
    if let Some(present) = present.as_deref().filter(|present| !ours && !force && *present != text) {
        return Err(keep_edited(id, &path, present, &text).into());
    }
    if known_key.is_none() {
        if may.site_key {
            refuse_second_key(root, id, &text, &key_path)?;
        }
        let key = create_site_key(root, &settings, may.site_key)?;
        reporter.info(format!(
            "created {}: copy it to the other members before you run patroni-gen-config there",
            key_path.display()
        ));
        text = render(root, overrides, id, &settings, &key, present.as_deref())?.1;
    }
    for warning in &config.warnings {
        reporter.tell(Level::Warning, warning);
    }
    for problem in directories(root, &config) {
        reporter.tell(Level::Warning, &problem.trouble);
    }
    // Otherwise the first user of patronictl would create it, and nobody else could write to it.
    if let Some(directory) = config.raft_directory() {
        install::directory(root, directory)?;
    }
    let Some(present) = present else {
        let endpoint = Next::install(root, &config, &text)?;
        install::install(root, &path, &text, None)?;
        report::print(&written(&path, &config));
        endpoint.tell(reporter);
        return Ok(Some(Change { config, old: None, new: text }));
    };
    if present == text {
        let endpoint = Next::install(root, &config, &text)?;
        report::print(&format!("{}: up to date\n", path.display()));
        endpoint.tell(reporter);
        return Ok(None);
    }
    let old = PathBuf::from(format!("{}.old", path.display()));
    let endpoint = Next::install(root, &config, &text)?;
    install::install(root, &path, &text, (!ours).then_some(old.as_path()))?;
    report::print(&written(&path, &config));
    endpoint.tell(reporter);
    Ok(Some(Change { config, old: Some(present), new: text }))
}

/// Refuses to create a site key beside those of running members: this member could not log in to them. Before the first start of a
/// cluster, the DCS has nothing about it, and hosts that create their keys at the same time do not know of each other.
fn refuse_second_key(root: &Root, id: &ClusterId, text: &str, key: &Path) -> Result<()> {
    let Some((member, fingerprint)) = published_site_key(root, id, text) else { return Ok(()) };
    fail!(
        "the site key {} does not exist, but the member {} of the running cluster {id} has one ({fingerprint})", key.display(), quoted(&member);
        "Copy it from that host to {}. If no host has it any more, create it with: patroni-gen-config site-key", key.display()
    );
}

/// Shows how a file of the administrator would change, which stays as it is.
fn keep_edited(id: &ClusterId, path: &Path, present: &str, text: &str) -> Trouble {
    report::print(&diff::unified(&path.display().to_string(), present, text));
    let site = host::settings::SITE_FILE;
    let is_file = Yaml::parse(path, present).is_ok_and(|yaml| yaml.text(&["scope"]).is_some());
    if author(present) == Author::Other && is_file {
        return trouble!(
            "{} was written by hand, so it was left unchanged", path.display();
            "If Patroni runs with it, take the member over with 'pg_adoptcluster_patroni --from {} {id}'. Otherwise put the difference \
             into {site} or a template, or use --force.", path.display()
        );
    }
    trouble!(
        "{} was {} by hand, so it was left unchanged", path.display(), if author(present) == Author::Other { "written" } else { "edited" };
        "Put the difference into {site} or a template, or use --force."
    )
}

fn written(path: &Path, config: &Config) -> String {
    format!("{}: written (port {}, REST API {})\n", path.display(), config.port, config.rest_port)
}

/// Another Patroni that runs the data.
fn rival(root: &Root, config: &Config) -> Option<Trouble> {
    let (id, data) = (&config.id, config.data_directory.as_path());
    let (unit, file) = (format!("patroni@{}.service", id.dashed()), patroni_file(id));
    let rival = rival::find(root, &Own { unit: &unit, file: &file, data }, running_server(root, data))?;
    Some(rival.trouble(root, id, is_active(root, &unit)))
}

/// What is wrong with the directories of the cluster on this host.
fn directories(root: &Root, config: &Config) -> Vec<Problem> {
    let waldir = CreateCluster::read(root).and_then(|set| set.waldir(&config.id)).ok().flatten();
    let (id, data) = (&config.id, config.data_directory.as_path());
    Directories { root, id, data, waldir: waldir.as_deref(), by_hooks: true, member: &config.name, by_hand: None }
        .problems()
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
            "Copy it from another member. If no member has it, create it on one member with 'patroni-gen-config site-key' and \
             copy it to all others. Then run this again on all members, and at last on the primary: patroni-gen-config set-passwords {id}"
        ),
        Some(unmanaged) => Err(unmanaged.without_file(id, data).into()),
    }
}
