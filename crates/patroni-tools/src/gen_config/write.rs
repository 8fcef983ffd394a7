//! Writes the Patroni file of an instance, or shows what would be written.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use host::keys::SiteKey;
use host::report::{self, Level, Reporter};
use host::{ClusterId, Root};

use crate::files::header::{Author, author};
use crate::files::yaml::Yaml;
use crate::files::{diff, install};
use crate::hooks::unmanaged::{is_unmanaged, other_name};
use crate::patroni::paths::patroni_file;
use crate::patroni::version::Patroni;
use crate::patroni_yml::config::Config;
use crate::patroni_yml::dnscp_file;
use crate::patroni_yml::inputs::{Overrides, render, settings, site_key, site_key_path};

/// Prints what would be written, without its secrets.
pub(crate) fn show(root: &Root, overrides: &Overrides, id: &ClusterId) -> Result<()> {
    let (_, text) = wanted(root, overrides, id)?;
    report::print(&diff::Mask::default().hide(&text));
    Ok(())
}

/// Prints how the file would change; an error if it would.
pub(crate) fn difference(root: &Root, overrides: &Overrides, id: &ClusterId) -> Result<()> {
    let path = patroni_file(id);
    let (present, text) = wanted(root, overrides, id)?;
    let difference = diff::unified(&path.display().to_string(), present.as_deref().unwrap_or_default(), &text);
    report::print(&difference);
    if difference.is_empty() { Ok(()) } else { bail!("{} would change", path.display()) }
}

/// The file that is there, and the text that would be written.
fn wanted(root: &Root, overrides: &Overrides, id: &ClusterId) -> Result<(Option<String>, String)> {
    let present = root.read(patroni_file(id))?;
    let settings = settings(root, overrides, Some(id))?;
    let key = site_key(root, &settings)?.unwrap_or_else(SiteKey::placeholder);
    let (_, text) = render(root, overrides, id, &settings, &key, present.as_deref())?;
    Ok((present, text))
}

/// Writes the file and what goes with it; nothing if it is up to date, and with `force` also over one that was edited by hand.
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
    // Everything that can be wrong is found out before the first file is made.
    let (config, mut text) = render(
        root,
        overrides,
        id,
        &settings,
        known_key.as_ref().unwrap_or(&SiteKey::placeholder()),
        present.as_deref(),
    )?;
    if present.is_none() {
        refuse_unmanaged(root, &config)?;
    }
    if known_key.is_none() {
        let key = SiteKey::create(root, &key_path)?;
        reporter.info(format!(
            "made {}: copy it to the other members before you run patroni-gen-config there",
            key_path.display()
        ));
        text = render(root, overrides, id, &settings, &key, present.as_deref())?.1;
    }
    for warning in &config.warnings {
        reporter.tell(Level::Warning, warning);
    }
    // Not Patroni: whoever calls patronictl first would make it, and only its owner could write it.
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
    let ours = author(&present) == Author::Generator;
    if !ours && !force {
        report::print(&diff::unified(&path.display().to_string(), &present, &text));
        bail!(
            "{} was {} by hand and is left as it is: put the difference into {} or a template, or use --force",
            path.display(),
            if author(&present) == Author::Other { "written" } else { "edited" },
            host::settings::SITE_FILE
        );
    }
    let old = PathBuf::from(format!("{}.old", path.display()));
    dnscp_file::install(root, &config, &text)?;
    install::install(root, &path, &text, (!ours).then_some(old.as_path()))?;
    explain_dynamic(root, &config, &present, &text, reporter);
    explain_protocol(root, &config, &present, &text, reporter)?;
    report::print(&written(&path, &config));
    Ok(())
}

fn written(path: &Path, config: &Config) -> String {
    format!("{}: written (port {}, REST API {})\n", path.display(), config.port, config.rest_port)
}

/// Is there a cluster in the data directory?
fn bootstrapped(root: &Root, config: &Config) -> bool {
    root.path(config.data_directory.join("PG_VERSION")).exists()
}

/// Before any file is made or changed. Who has a Patroni file already has decided, or runs it.
fn refuse_unmanaged(root: &Root, config: &Config) -> Result<()> {
    let (id, data) = (&config.id, &config.data_directory);
    if is_unmanaged(root, id, data) {
        bail!(
            "{id} holds data in {} which no Patroni manages, and Patroni would leave it read-only for ever, so nothing was written: {}",
            data.display(),
            other_name(id)
        );
    }
    Ok(())
}

/// A change below `bootstrap.dcs` no longer reaches a cluster that exists (`Patroni.apply_dynamic_configuration`).
fn explain_dynamic(root: &Root, config: &Config, present: &str, text: &str, reporter: &Reporter) {
    let path = patroni_file(&config.id);
    let (Ok(old), Ok(new)) = (Yaml::parse(&path, present), Yaml::parse(&path, text)) else { return };
    let dynamic = ["bootstrap", "dcs"];
    if old.get(&dynamic) != new.get(&dynamic) && bootstrapped(root, config) {
        reporter.warn(format!(
            "bootstrap.dcs has no effect on {0} any more, since it exists; to change the running cluster, run: \
             patroni-gen-config --apply {0}",
            config.id
        ));
    }
}

/// Before 3.1.0 Patroni hands what it needs for TLS to connections without it, too, which fail then, and keeps it when it is
/// reloaded (`assert_hostname` in `PatroniRequest.reload_config`; corrected by pull request 2768).
fn explain_protocol(root: &Root, config: &Config, present: &str, text: &str, reporter: &Reporter) -> Result<()> {
    let path = patroni_file(&config.id);
    let has_tls = |text| Yaml::parse(&path, text).is_ok_and(|yaml| yaml.get(&["restapi", "certfile"]).is_some());
    let patroni = Patroni::of(root)?;
    let Some(version) = patroni.always_verifies() else { return Ok(()) };
    let unit = config.id.dashed();
    match (has_tls(present), has_tls(text)) {
        (false, true) => reporter.warn(format!(
            "Patroni {version} with TLS cannot ask a member without: run this on the others too, and then systemctl reload \
             patroni@{unit} everywhere"
        )),
        (true, false) => reporter.warn(format!(
            "Patroni {version} cannot ask members without TLS until it is restarted: run systemctl restart patroni@{unit} on each, \
             the primary last"
        )),
        _ => {}
    }
    Ok(())
}
