//! What the DCS has about a cluster, for commands that decide by it.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use host::settings::Settings;
use host::{ClusterId, Root, fail};

use crate::doctor::cluster::{Cluster, Depth};
use crate::doctor::dcs;
use crate::doctor::finding::{Finding, Level, Subject};
use crate::doctor::view::View;
use crate::files::yaml::Yaml;
use crate::patroni::paths::patroni_file;
use crate::patroni::version::Patroni;

/// How often a decision that depends on the DCS asks it, since its servers may be electing a leader, or be slow for a moment.
const ATTEMPTS: u32 = 4;

/// The time between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// What the DCS of a Patroni file contains about its cluster, by the names of the keys below that of the scope. An error if no server of
/// the DCS responds, or if it is of a kind that cannot be asked.
pub(crate) fn dcs_content(root: &Root, id: &ClusterId, text: &str) -> Result<BTreeMap<String, String>> {
    let mut left = ATTEMPTS;
    loop {
        let answered = ask_dcs(root, id, text)?;
        if let Some(content) = answered.content {
            return Ok(content);
        }
        let Some(finding) = answered.findings.into_iter().max_by_key(|finding| finding.level) else {
            fail!("this kind of DCS cannot be asked whether it has the cluster already"; "Use etcd, Consul or ZooKeeper.")
        };
        left -= 1;
        if left == 0 {
            return Err(finding.trouble(&patroni_file(id)).into());
        }
        thread::sleep(PAUSE);
    }
}

/// The same, asked once: `None` if no server gives it to this caller.
pub(crate) fn dcs_content_now(root: &Root, id: &ClusterId, text: &str) -> Option<BTreeMap<String, String>> {
    ask_dcs(root, id, text).ok()?.content
}

/// A member in the DCS of a Patroni file that publishes the fingerprint of its site key, the primary if possible, with this fingerprint.
pub(crate) fn published_site_key(root: &Root, id: &ClusterId, text: &str) -> Option<(String, String)> {
    let view = View::of(&dcs_content_now(root, id, text)?);
    let (primary, others): (Vec<_>, Vec<_>) =
        view.members.iter().partition(|member| Some(member.name.as_str()) == view.leader.as_deref());
    let mut members = primary.into_iter().chain(others);
    members.find_map(|member| Some((member.name.clone(), member.fingerprint()?.to_owned())))
}

/// How long servers of the DCS that cannot be reached are asked again.
const PATIENCE: Duration = Duration::from_secs(3);

/// The same if a server of the DCS can be asked and gives it to this caller. An error if for some seconds no server can be reached or
/// responds, or none has a certificate that Patroni accepts: then `patronictl` would try for ever.
pub(crate) fn dcs_content_unless_down(
    root: &Root,
    id: &ClusterId,
    text: &str,
) -> Result<Option<BTreeMap<String, String>>> {
    let is_certain = |finding: &Finding| {
        finding.level > Level::Warning
            && matches!(finding.subject, Some(Subject::Connection | Subject::ServerCertificate))
    };
    let begin = Instant::now();
    loop {
        let answered = ask_dcs(root, id, text)?;
        if answered.content.is_some() || !answered.findings.iter().all(is_certain) {
            return Ok(answered.content);
        }
        let Some(finding) = answered.findings.into_iter().next() else { return Ok(None) };
        if begin.elapsed() > PATIENCE {
            return Err(finding.trouble(&patroni_file(id)).into());
        }
        thread::sleep(PAUSE);
    }
}

fn ask_dcs(root: &Root, id: &ClusterId, text: &str) -> Result<dcs::Answered> {
    let path = patroni_file(id);
    let yaml = Yaml::parse(&path, text)?;
    let patroni = Patroni::of(root).unwrap_or(Patroni::UNKNOWN);
    let settings = Settings::read(root, id);
    let cluster = Cluster { root, id, path, text: text.to_owned(), yaml, patroni, settings, depth: Depth::Dcs };
    Ok(dcs::ask(&cluster, &[]))
}
