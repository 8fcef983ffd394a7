//! What the other members publish about themselves in the DCS, compared with this member.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use host::net::Fault;
use host::net::http::{Question, Server};
use host::net::tls::{Client, Files, Own, Verify};
use serde_json::Value;

use crate::doctor::cluster::{Cluster, LIMIT};
use crate::doctor::dcs::question::Content;
use crate::doctor::finding::Finding;
use crate::patroni::paths::FINGERPRINT_TAG;

/// Its first eight bytes are the system identifier (`ControlFileData`).
const CONTROL_FILE: &str = "global/pg_control";

/// A member as it describes itself below `members/` (`Ha.touch_member`).
struct Member {
    name: String,
    data: Value,
}

impl Member {
    fn text(&self, key: &str) -> Option<&str> {
        self.data.get(key)?.as_str()
    }

    fn fingerprint(&self) -> Option<&str> {
        self.data.get("tags")?.get(FINGERPRINT_TAG)?.as_str()
    }

    /// The host and port of its REST API, if that uses TLS.
    fn secure_api(&self) -> Option<(String, u16)> {
        let rest = self.text("api_url")?.strip_prefix("https://")?;
        let (host, port) = rest.split('/').next()?.rsplit_once(':')?;
        Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
    }
}

/// The name of this member, site keys, data, and the certificates of the others.
pub fn check(cluster: &Cluster, content: &Content) -> Vec<Finding> {
    let members: Vec<Member> = content
        .iter()
        .filter_map(|(key, value)| {
            let name = key.strip_prefix("members/")?.to_owned();
            Some(Member { name, data: serde_json::from_str(value).ok()? })
        })
        .collect();
    let name = cluster.text(&["name"]).unwrap_or_default();
    let (own, others): (Vec<Member>, Vec<Member>) = members.into_iter().partition(|member| member.name == name);
    let leader = content.get("leader").map(String::as_str);
    let mut findings: Vec<Finding> = own.first().and_then(|own| twin(cluster, own)).into_iter().collect();
    findings.extend(site_key(cluster, leader, &others));
    findings.extend(same_data(cluster, content, leader, own.len() + others.len()));
    findings.extend(no_primary(cluster, content, leader, own.len() + others.len()));
    findings.extend(apis(cluster, &others));
    findings
}

/// A cluster that was bootstrapped, whose members are there, and none of them leads.
fn no_primary(cluster: &Cluster, content: &Content, leader: Option<&str>, members: usize) -> Option<Finding> {
    let is_bootstrapped = content.get("initialize").is_some_and(|system| !system.is_empty());
    let is_led = leader.is_some_and(|leader| !leader.is_empty());
    (is_bootstrapped && !is_led && members > 0).then(|| {
        Finding::error(
            "the cluster has no primary, so it accepts no writes",
            format!(
                "See 'pg_patronictl {} list', and on each member: journalctl -u patroni@{}",
                cluster.id,
                cluster.id.dashed()
            ),
        )
    })
}

/// Another member with the name of this one.
fn twin(cluster: &Cluster, own: &Member) -> Option<Finding> {
    let theirs = own.text("api_url")?;
    let ours = cluster.text(&["restapi", "connect_address"])?;
    let host = |address: &str| address.rsplit_once(':').map(|(host, _)| host.to_owned());
    let theirs_host = host(theirs.split_once("://")?.1.split('/').next()?)?;
    if host(&ours)? == theirs_host {
        return None;
    }
    let what = format!("the cluster already has a member {}, at {theirs_host}", own.name);
    let hint = cluster.then_generate("Set MEMBER_NAME to an unused name, or stop that member");
    Some(Finding::error(what, hint))
}

/// Passwords are derived from the site key, so a member with another key cannot replicate.
fn site_key(cluster: &Cluster, leader: Option<&str>, others: &[Member]) -> Option<Finding> {
    let ours = cluster.text(&["tags", FINGERPRINT_TAG])?;
    let differs = |member: &&Member| member.fingerprint().is_some_and(|theirs| theirs != ours);
    let is_leader = |member: &&Member| Some(member.name.as_str()) == leader;
    let with = |members: Vec<&Member>| {
        let names =
            members.iter().map(|member| format!("{} ({})", member.name, member.fingerprint().unwrap_or_default()));
        names.collect::<Vec<_>>().join(", ")
    };
    let differing: Vec<&Member> = others.iter().filter(differs).collect();
    let primary = others.iter().find(is_leader);
    match primary.and_then(Member::fingerprint) {
        // The key of the primary is the right one.
        Some(theirs) if theirs == ours && differing.is_empty() => None,
        Some(theirs) if theirs == ours => Some(Finding::warning(
            format!("the site key of {} differs from that of this member and the primary ({ours})", with(differing)),
            "Copy the file from this host to that one and run patroni-gen-config there, or finish the password rotation.",
        )),
        _ if differing.is_empty() => None,
        _ => Some(Finding::error(
            format!("the site key of this member ({ours}) differs from that of {}", with(differing)),
            cluster.then_generate("Copy the file (SITE_KEY_FILE) from that host or finish the password rotation"),
        )),
    }
}

/// Data of another cluster, and a bootstrap that was not finished.
fn same_data(cluster: &Cluster, content: &Content, leader: Option<&str>, members: usize) -> Option<Finding> {
    let theirs = content.get("initialize")?;
    if theirs.is_empty() {
        let scope = cluster.text(&["scope"]).unwrap_or_default();
        return (leader.is_none() && members == 0).then(|| {
            Finding::warning(
                "a bootstrap of this cluster was started but not finished, and all members wait for it",
                format!(
                    "If no member is bootstrapping now, run: patronictl -c {} remove {scope}",
                    cluster.path.display()
                ),
            )
        });
    }
    let directory = PathBuf::from(cluster.text(&["postgresql", "data_dir"])?);
    let bytes = cluster.root.for_postgres().bytes(directory.join(CONTROL_FILE)).ok()??;
    let ours = u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?).to_string();
    if ours == *theirs {
        return None;
    }
    let what = format!(
        "{} belongs to another cluster: its system identifier is {ours}, that of the cluster is {theirs}",
        directory.display()
    );
    let (version, name) = (&cluster.id.version, &cluster.id.name);
    let hint =
        format!("If nothing in it is needed, let Patroni create a replica after: pg_dropcluster {version} {name}");
    Some(Finding::error(what, hint))
}

/// The members query each other before one becomes primary, with the TLS files of patronictl (`PatroniRequest.reload_config`).
fn apis(cluster: &Cluster, others: &[Member]) -> Vec<Finding> {
    let text = |key: &[&str]| cluster.text(key);
    let insecure = text(&["ctl", "insecure"]).as_deref() == Some("true");
    let own = text(&["ctl", "certfile"]).map(|certificate| Own {
        key: text(&["ctl", "keyfile"]).unwrap_or_else(|| certificate.clone()).into(),
        certificate: certificate.into(),
        password: text(&["ctl", "keyfile_password"]),
    });
    let ca = text(&["ctl", "cacert"]).or_else(|| text(&["restapi", "cafile"])).map(PathBuf::from);
    let apis: Vec<(String, (String, u16))> =
        others.iter().filter_map(|member| Some((member.name.clone(), member.secure_api()?))).collect();
    if insecure || apis.is_empty() {
        return Vec::new();
    }
    // The check of certificates reports faults of the files.
    let Ok(client) = Client::new(cluster.root, &Files { ca_file: ca.clone(), own }, Verify::Name) else {
        return Vec::new();
    };
    let client = Arc::new(client);
    let (sender, receiver) = mpsc::channel();
    let end = Instant::now() + LIMIT;
    for (name, (host, port)) in apis {
        let (client, sender) = (Arc::clone(&client), sender.clone());
        thread::spawn(move || {
            let server = Server { host, port };
            let question = Question { path: "/liveness", ..Question::default() };
            let fault = server.ask(Some(&client), &question, end).err();
            let _ = sender.send((name, server.host, fault));
        });
    }
    drop(sender);
    let mut found = BTreeMap::new();
    while let Some(left) = (end + Duration::from_secs(1)).checked_duration_since(Instant::now()) {
        let Ok((name, host, fault)) = receiver.recv_timeout(left) else { break };
        found.extend(fault.and_then(|fault| api(&name, &host, &fault, ca.as_deref())).map(|finding| (name, finding)));
    }
    found.into_values().collect()
}

/// A TLS fault. Others are not reported: a member may be stopped.
fn api(name: &str, host: &str, fault: &Fault, ca: Option<&Path>) -> Option<Finding> {
    let (what, hint) = match fault {
        Fault::Untrusted(why) => {
            let ca = ca.map_or_else(|| "a CA that this host trusts".to_owned(), |path| path.display().to_string());
            (
                format!("its certificate is not signed by {ca} ({why})"),
                "Correct RESTAPI_CACERT on this host, or RESTAPI_CERT on that one.",
            )
        }
        Fault::OtherName(shown) => (
            format!("its certificate is for {}, not for {host}", shown.summary.names),
            "Reissue the certificate for that address.",
        ),
        Fault::Expired(_) => (fault.to_string(), "Renew RESTAPI_CERT on that host."),
        Fault::NotYetValid(_) => (fault.to_string(), "Correct the clock of this host, or the certificate."),
        Fault::Invalid(_) => (fault.to_string(), "Reissue the certificate."),
        Fault::Rejected(why) => (
            format!("it rejects the client certificate of this host ({why})"),
            "Correct CTL_CERT on this host, or RESTAPI_CACERT on that one.",
        ),
        _ => return None,
    };
    Some(Finding::warning(what, hint).at(format!("REST API of {name}")))
}
