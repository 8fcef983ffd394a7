//! Writes the Patroni file of a cluster, or shows what would be written.

use std::path::{Path, PathBuf};

use anyhow::Result;
use host::createcluster::CreateCluster;
use host::keys::SiteKey;
use host::report::{self, Level, Reporter};
use host::trouble::Trouble;
use host::{ClusterId, Root, fail, trouble};

use crate::files::header::{Author, author};
use crate::files::yaml::Yaml;
use crate::files::{diff, install};
use crate::hooks::directories::{Directories, Problem};
use crate::hooks::unmanaged::{Unmanaged, examine};
use crate::patroni::paths::patroni_file;
use crate::patroni::version::Patroni;
use crate::patroni_yml::config::Config;
use crate::patroni_yml::dnscp_file;
use crate::patroni_yml::inputs::{Overrides, render, settings, site_key, site_key_path};

/// Prints what would be written, without its secrets.
pub(crate) fn show(root: &Root, overrides: &Overrides, id: &ClusterId, reporter: &Reporter) -> Result<()> {
    let (_, text) = wanted(root, overrides, id, reporter)?;
    report::print(&diff::Mask::default().hide(&text));
    Ok(())
}

/// Prints how the file would change; an error if it would.
pub(crate) fn difference(root: &Root, overrides: &Overrides, id: &ClusterId, reporter: &Reporter) -> Result<()> {
    let path = patroni_file(id);
    let (present, text) = wanted(root, overrides, id, reporter)?;
    let difference = diff::unified(&path.display().to_string(), present.as_deref().unwrap_or_default(), &text);
    report::print(&difference);
    if !difference.is_empty() {
        fail!("{} would change", path.display());
    }
    Ok(())
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

/// Writes the file and those that belong to it, unless it is up to date. With `force`, it also replaces a file that was edited by hand, and
/// writes a missing file beside a running member.
pub(crate) fn write(
    root: &Root,
    overrides: &Overrides,
    id: &ClusterId,
    force: bool,
    reporter: &Reporter,
) -> Result<()> {
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
    let ours = present.as_deref().is_none_or(|present| author(present) == Author::Generator);
    if let Some(present) = present.as_deref().filter(|present| !ours && !force && *present != text) {
        return Err(keep_edited(id, &path, present, &text).into());
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
    for problem in directories(root, &config) {
        reporter.tell(Level::Warning, &problem.trouble);
    }
    // Otherwise the first user of patronictl would create it, and nobody else could write to it.
    if let Some(directory) = config.raft_directory() {
        install::directory(root, directory)?;
    }
    let Some(present) = present else {
        dnscp_file::install(root, &config, &text)?;
        install::install(root, &path, &text, None)?;
        report::print(&written(&path, &config));
        return Ok(());
    };
    if present == text {
        dnscp_file::install(root, &config, &text)?;
        report::print(&format!("{}: up to date\n", path.display()));
        return Ok(());
    }
    let old = PathBuf::from(format!("{}.old", path.display()));
    dnscp_file::install(root, &config, &text)?;
    install::install(root, &path, &text, (!ours).then_some(old.as_path()))?;
    explain_dynamic(root, &config, &present, &text, reporter);
    explain_verification(root, &config, &present, &text, reporter);
    explain_protocol(root, &config, &present, &text, reporter)?;
    report::print(&written(&path, &config));
    Ok(())
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

/// What is wrong with the directories of the cluster on this host.
fn directories(root: &Root, config: &Config) -> Vec<Problem> {
    let waldir = CreateCluster::read(root).and_then(|set| set.waldir(&config.id)).ok().flatten();
    let (id, data) = (&config.id, config.data_directory.as_path());
    Directories { root, id, data, waldir: waldir.as_deref(), by_hooks: true, member: &config.name, by_hand: None }
        .problems()
}

/// Is there a cluster in the data directory?
fn bootstrapped(root: &Root, config: &Config) -> bool {
    root.path(config.data_directory.join("PG_VERSION")).exists()
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

/// A change below `bootstrap.dcs` has no effect on an existing cluster (`Patroni.apply_dynamic_configuration`).
fn explain_dynamic(root: &Root, config: &Config, present: &str, text: &str, reporter: &Reporter) {
    let path = patroni_file(&config.id);
    let (Ok(old), Ok(new)) = (Yaml::parse(&path, present), Yaml::parse(&path, text)) else { return };
    let dynamic = ["bootstrap", "dcs"];
    if old.get(&dynamic) != new.get(&dynamic) && bootstrapped(root, config) {
        reporter.warn(trouble!(
            "a change of bootstrap.dcs has no effect on {}, which already exists", config.id;
            "Change the running cluster with: patroni-gen-config apply {}", config.id
        ));
    }
}

/// A replica that verifies the primary before the primary has the certificate stops to replicate.
fn explain_verification(root: &Root, config: &Config, present: &str, text: &str, reporter: &Reporter) {
    let path = patroni_file(&config.id);
    let (Ok(old), Ok(new)) = (Yaml::parse(&path, present), Yaml::parse(&path, text)) else { return };
    let ca = ["postgresql", "authentication", "replication", "sslrootcert"];
    if new.get(&ca).is_some() && old.get(&ca) != new.get(&ca) && bootstrapped(root, config) {
        reporter.warn(trouble!(
            "this member will verify the certificate of the primary as soon as Patroni is reloaded";
            "Run this on all members, and then on the primary first: systemctl reload patroni@{}", config.id.dashed()
        ));
    }
}

/// Before 3.1.0 Patroni also passes its TLS options to connections without TLS, which then fail, and keeps them when it is
/// reloaded (`assert_hostname` in `PatroniRequest.reload_config`; corrected by pull request 2768).
fn explain_protocol(root: &Root, config: &Config, present: &str, text: &str, reporter: &Reporter) -> Result<()> {
    let path = patroni_file(&config.id);
    let has_tls = |text| Yaml::parse(&path, text).is_ok_and(|yaml| yaml.get(&["restapi", "certfile"]).is_some());
    let patroni = Patroni::of(root)?;
    let Some(version) = patroni.always_verifies() else { return Ok(()) };
    let unit = config.id.dashed();
    match (has_tls(present), has_tls(text)) {
        (false, true) => reporter.warn(trouble!(
            "Patroni {version} with TLS cannot ask members without TLS";
            "Run this on the other members too, and then on each of them: systemctl reload patroni@{unit}"
        )),
        (true, false) => reporter.warn(trouble!(
            "Patroni {version} cannot ask members without TLS until it is restarted";
            "Run on each member, on the primary last: systemctl restart patroni@{unit}"
        )),
        _ => {}
    }
    Ok(())
}
