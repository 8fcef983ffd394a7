//! How long the failure of a synchronous standby stops the writes of the running cluster.

use host::keys::SiteKey;
use host::settings::{SITE_FILE, Settings};

use crate::doctor::cluster::Cluster;
use crate::doctor::finding::Finding;
use crate::doctor::view::View;
use crate::files::header::{Author, author};
use crate::files::yaml::Yaml;
use crate::patroni_yml::inputs::{Overrides, render};
use crate::patroni_yml::standby_failure::{COST, Failure};

/// The parameter of a member, which overrides that of the cluster.
const OWN: [&str; 3] = ["postgresql", "parameters", "wal_sender_timeout"];

/// The values in the DCS count, not those of the Patroni file, which Patroni reads only when the cluster is bootstrapped.
pub fn check(cluster: &Cluster, view: &View) -> Option<Finding> {
    let own = cluster.text(&OWN);
    let failure = Failure::of(&view.config, own.as_deref())?;
    let members = view.members.len() as u64;
    let standbys = Some(members.saturating_sub(1));
    let what = failure.too_long(standbys)?;
    Some(if own.is_some() {
        let reload = format!("systemctl reload patroni@{}", cluster.id.dashed());
        Finding::warning(what, format!("{COST} Remove {} from this file, then run: {reload}", OWN.join(".")))
    } else {
        Finding::warning(what, hint(cluster, &failure, standbys)).at("dynamic configuration")
    })
}

fn hint(cluster: &Cluster, failure: &Failure, standbys: Option<u64>) -> String {
    let id = cluster.id;
    let Some(wanted) = wanted(cluster) else {
        return format!("{COST} Set it with: pg_patronictl {id} edit-config {}", failure.cure_by_patronictl());
    };
    let apply = format!("patroni-gen-config apply {id}");
    if wanted.too_long(standbys).is_none() {
        return format!("{COST} Apply the settings of this host with: {apply}");
    }
    let place = |settings: &Settings| settings.place(&["PG_wal_sender_timeout", "LOOP_WAIT"]);
    let place = cluster.settings.as_ref().map(place).ok().filter(|place| !place.is_empty());
    format!("{COST} Set {} in {}, then run: {apply}", wanted.cure(), place.as_deref().unwrap_or(SITE_FILE))
}

/// What the settings would make of it. `None` if the Patroni file was not generated from settings.
fn wanted(cluster: &Cluster) -> Option<Failure> {
    if author(&cluster.text) != Author::Generator {
        return None;
    }
    let settings = cluster.settings.as_ref().ok()?;
    let key = SiteKey::placeholder();
    let present = Some(cluster.text.as_str());
    let (_, text) = render(cluster.root, &Overrides::default(), cluster.id, settings, &key, present).ok()?;
    let yaml = Yaml::parse(&cluster.path, &text).ok()?;
    Failure::of(yaml.get(&["bootstrap", "dcs"])?, yaml.text(&OWN).as_deref())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::PathBuf;

    use host::Root;

    use super::*;
    use crate::doctor::cluster::Depth;
    use crate::patroni::version::Patroni;

    fn found(text: &str, dynamic: &str) -> Option<Finding> {
        let (folder, id) = (tempfile::tempdir().unwrap(), "17/main".parse().unwrap());
        let (root, path) = (Root::new(folder.path()), PathBuf::from("/etc/patroni/17-main.yml"));
        let (text, yaml) = (text.to_owned(), Yaml::parse(&path, text).unwrap());
        let settings = Settings::read(&root, &id);
        let cluster =
            Cluster { root: &root, id: &id, path, text, yaml, patroni: Patroni::UNKNOWN, settings, depth: Depth::Full };
        check(&cluster, &View::of(&[("config".to_owned(), dynamic.to_owned())].into()))
    }

    #[test]
    fn a_value_of_the_member_is_removed_from_its_file() {
        const SYNCHRONOUS: &str =
            r#"{"synchronous_mode": true, "postgresql": {"parameters": {"wal_sender_timeout": "4s"}}}"#;
        assert_eq!(found("scope: a\n", SYNCHRONOUS), None);
        assert_eq!(found("scope: a\n", "not JSON"), None);
        let finding = found("postgresql: {parameters: {wal_sender_timeout: 0}}\n", SYNCHRONOUS).unwrap();
        assert!(finding.what.contains("wal_sender_timeout is 0"), "{finding:?}");
        assert!(
            finding.hint.ends_with(
                "Remove postgresql.parameters.wal_sender_timeout from this file, then run: systemctl reload patroni@17-main"
            ),
            "{finding:?}"
        );
    }
}
