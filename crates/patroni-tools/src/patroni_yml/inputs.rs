//! From the settings and files of this host to the text of a Patroni file.

use std::path::PathBuf;

use anyhow::Result;
use host::keys::SiteKey;
use host::settings::{Origin, Settings, cluster_file};
use host::{ClusterId, Root, clusters, fail};

use crate::files::yaml::Yaml;
use crate::patroni::paths::{DIRECTORY, instances, patroni_file};
use crate::patroni_yml::config::Config;
use crate::patroni_yml::dcs::Kind;
use crate::patroni_yml::ports::{Ports, RestPort, claims};
use crate::patroni_yml::render;

/// What the command line sets in addition to the settings.
#[derive(Debug, Default, Clone)]
pub(crate) struct Overrides {
    /// `KEY=VALUE`, as in `/etc/default/patroni`.
    pub(crate) set: Vec<String>,
    /// PostgreSQL's TCP port.
    pub(crate) port: Option<String>,
    /// A template instead of `patroni.yml.j2`.
    pub(crate) template: Option<PathBuf>,
}

/// The settings of a cluster, or only those of the site.
pub(crate) fn settings(root: &Root, overrides: &Overrides, id: Option<&ClusterId>) -> Result<Settings> {
    let mut settings = id.map_or_else(|| Settings::read_site(root), |id| Settings::read(root, id))?;
    for assignment in &overrides.set {
        settings.set(assignment)?;
    }
    if let Some(port) = &overrides.port {
        settings.put("PORT", port.clone(), Origin::Option("--port"))?;
    }
    Ok(settings)
}

pub(crate) fn render(
    root: &Root,
    overrides: &Overrides,
    id: &ClusterId,
    settings: &Settings,
    key: &SiteKey,
    present: Option<&str>,
) -> Result<(Config, String)> {
    // A file that is not valid YAML has no port; it is reported when it would be replaced.
    let present = present.and_then(|text| Yaml::parse(&patroni_file(id), text).ok());
    let port = present.as_ref().and_then(|yaml| yaml.port("postgresql").ok());
    let raft = present.as_ref().and_then(|yaml| yaml.text(&["raft", "self_addr"])?.rsplit_once(':')?.1.parse().ok());
    // Its own configuration first: an error in that of another cluster is only a warning.
    let own = clusters::find(root, id)?;
    let clusters = clusters::installed(root);
    let rest = present.as_ref().and_then(|yaml| yaml.port("restapi").ok());
    let same_rest = port.and_then(|port| RestPort::read(settings).ok()?.beside(port)) == rest;
    let stays = port.is_some() && same_rest && settings.get("PORT").is_none() && settings.text("DCS") != Some("raft");
    let claims = if stays { Vec::new() } else { claims(root, id)? };
    let claimed_by = |port: u16| claims.iter().find(|(claimed, _)| *claimed == port).map(|(_, other)| other.clone());
    let ports = Ports { clusters: &clusters.known, own: own.as_ref(), present: port, claimed_by: &claimed_by, raft };
    let mut config = Config::resolve(root, id, settings, key, &ports)?;
    config.warnings.extend(clusters.warning());
    let text = render::render(root, &config, overrides.template.as_deref())?;
    let same_scope = present.is_some_and(|yaml| yaml.text(&["scope"]).as_ref() == Some(&config.scope));
    if !same_scope {
        refuse_shared(root, &config, settings, &text)?;
    }
    Ok((config, text))
}

/// Two clusters with one scope in one DCS would be members of each other's Patroni cluster. Of the files of other clusters, which can be
/// hundreds, only those with the same scope are parsed.
fn refuse_shared(root: &Root, config: &Config, settings: &Settings, text: &str) -> Result<()> {
    let scope = |line: &str| Some(line.strip_prefix("scope:")?.trim().trim_matches(['"', '\'']).to_owned());
    let place = |id: &ClusterId, text: &str| -> Result<_> {
        let yaml = Yaml::parse(&patroni_file(id), text)?;
        let namespace = yaml.text(&["namespace"]).unwrap_or_else(|| "service".to_owned());
        let sections = Kind::ALL.map(|kind| yaml.get(&[kind.name()]).cloned());
        Ok((namespace.trim_matches('/').to_owned(), sections))
    };
    for other in instances(root)?.into_iter().filter(|other| *other != config.id) {
        let Some(theirs) = root.read(patroni_file(&other))? else { continue };
        if theirs.lines().find_map(scope).as_ref() != Some(&config.scope) {
            continue;
        }
        // A file that is not valid YAML is an error of that cluster.
        if place(&other, &theirs).is_ok_and(|theirs| place(&config.id, text).is_ok_and(|own| own == theirs)) {
            fail!(
                at settings.place(&["SCOPE"]),
                "{} has the scope '{}' in the same DCS", patroni_file(&other).display(), config.scope;
                "Set another SCOPE in {}.", cluster_file(&config.id).display()
            );
        }
    }
    Ok(())
}

/// The site key. An error has the place of the setting that names it.
pub(crate) fn site_key(root: &Root, settings: &Settings) -> Result<Option<SiteKey>> {
    let read = || SiteKey::read(root, &site_key_path(settings)?);
    if settings.get("SITE_KEY_FILE").is_none() {
        return read();
    }
    Ok(settings.parse("SITE_KEY_FILE", |_| read())?.flatten())
}

/// Creates the site key. A run that `may` not (`--no-site-key`) fails instead.
pub(crate) fn create_site_key(root: &Root, settings: &Settings, may: bool) -> Result<SiteKey> {
    let path = site_key_path(settings)?;
    if !may {
        fail!(
            "the site key {} does not exist, and --no-site-key prevents its creation", path.display();
            "Copy it from the host that has it. If no host has it, create it on one of them with: patroni-gen-config site-key"
        );
    }
    SiteKey::create(root, &path)
}

pub(crate) fn site_key_path(settings: &Settings) -> Result<PathBuf> {
    Ok(settings.path("SITE_KEY_FILE")?.unwrap_or_else(|| PathBuf::from(DIRECTORY).join("site.key")))
}
