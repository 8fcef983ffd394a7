//! What the other members say of themselves in the store, beside what this one is about to say.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use host::net::Fault;
use host::net::http::{Question, Server};
use host::net::tls::{Client, Files, Own, Verify};
use serde_json::Value;

use crate::doctor::dcs::Content;
use crate::doctor::finding::Finding;
use crate::doctor::instance::{Instance, LIMIT};
use crate::patroni::paths::FINGERPRINT_TAG;

/// Where PostgreSQL keeps the number of its cluster, in the first eight bytes (`ControlFileData`).
const CONTROL_FILE: &str = "global/pg_control";

/// A member, as it describes itself below `members/` (`Ha.touch_member`).
struct Member {
    name: String,
    said: Value,
}

impl Member {
    fn text(&self, key: &str) -> Option<&str> {
        self.said.get(key)?.as_str()
    }

    fn fingerprint(&self) -> Option<&str> {
        self.said.get("tags")?.get(FINGERPRINT_TAG)?.as_str()
    }

    /// The host and port of its REST API, if it has TLS.
    fn secure_api(&self) -> Option<(String, u16)> {
        let rest = self.text("api_url")?.strip_prefix("https://")?;
        let (host, port) = rest.split('/').next()?.rsplit_once(':')?;
        Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
    }
}

/// Name, site key, data and the certificates of the others.
pub fn look(instance: &Instance, content: &Content) -> Vec<Finding> {
    let members: Vec<Member> = content
        .iter()
        .filter_map(|(key, value)| {
            let name = key.strip_prefix("members/")?.to_owned();
            Some(Member { name, said: serde_json::from_str(value).ok()? })
        })
        .collect();
    let name = instance.text(&["name"]).unwrap_or_default();
    let (own, others): (Vec<Member>, Vec<Member>) = members.into_iter().partition(|member| member.name == name);
    let leader = content.get("leader").map(String::as_str);
    let mut findings: Vec<Finding> = own.first().and_then(|own| twin(instance, own)).into_iter().collect();
    findings.extend(site_key(instance, leader, &others));
    findings.extend(data(instance, content, leader, own.len() + others.len()));
    findings.extend(apis(instance, &others));
    findings
}

/// Somebody else with our name.
fn twin(instance: &Instance, own: &Member) -> Option<Finding> {
    let theirs = own.text("api_url")?;
    let ours = instance.text(&["restapi", "connect_address"])?;
    let host = |address: &str| address.rsplit_once(':').map(|(host, _)| host.to_owned());
    let theirs_host = host(theirs.split_once("://")?.1.split('/').next()?)?;
    if host(&ours)? == theirs_host {
        return None;
    }
    let what = format!("the cluster has a member {} already, at {theirs_host}", own.name);
    let remedy = instance.then_generate("set MEMBER_NAME to a name that is free, or stop that one");
    Some(Finding::error(what, remedy))
}

/// Another site key gives other passwords, with which nobody replicates.
fn site_key(instance: &Instance, leader: Option<&str>, others: &[Member]) -> Option<Finding> {
    let ours = instance.text(&["tags", FINGERPRINT_TAG])?;
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
        // Who has the primary's is right.
        Some(theirs) if theirs == ours && differing.is_empty() => None,
        Some(theirs) if theirs == ours => Some(Finding::warning(
            format!("the site key of {} is not that of this member and the primary ({ours})", with(differing)),
            "copy the file from here to there, and run patroni-gen-config there, or finish the change of the passwords",
        )),
        _ if differing.is_empty() => None,
        _ => Some(Finding::error(
            format!("the site key of this member ({ours}) is not that of {}", with(differing)),
            instance.then_generate("copy the file from there (SITE_KEY_FILE), or finish the change of the passwords"),
        )),
    }
}

/// Data of another cluster, and a bootstrap that nobody finishes.
fn data(instance: &Instance, content: &Content, leader: Option<&str>, members: usize) -> Option<Finding> {
    let theirs = content.get("initialize")?;
    if theirs.is_empty() {
        let scope = instance.text(&["scope"]).unwrap_or_default();
        return (leader.is_none() && members == 0).then(|| {
            Finding::warning(
                "a bootstrap of this cluster was begun and has not come to its end, for which all members wait",
                format!("if none is bootstrapping now, run patronictl -c {} remove {scope}", instance.path.display()),
            )
        });
    }
    let directory = PathBuf::from(instance.text(&["postgresql", "data_dir"])?);
    let bytes = instance.root.for_postgres().bytes(directory.join(CONTROL_FILE)).ok()??;
    let ours = u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?).to_string();
    if ours == *theirs {
        return None;
    }
    let what = format!(
        "{} is of another cluster: its system identifier is {ours}, that of the cluster is {theirs}",
        directory.display()
    );
    let (version, name) = (&instance.id.version, &instance.id.name);
    let remedy =
        format!("if nothing in it is needed, run pg_dropcluster {version} {name}, and Patroni clones the cluster");
    Some(Finding::error(what, remedy))
}

/// The members ask each other before one becomes primary, with what patronictl uses too (`PatroniRequest.reload_config`).
fn apis(instance: &Instance, others: &[Member]) -> Vec<Finding> {
    let text = |key: &[&str]| instance.text(key);
    let insecure = text(&["ctl", "insecure"]).as_deref() == Some("true");
    let own = text(&["ctl", "certfile"]).map(|certificate| Own {
        key: text(&["ctl", "keyfile"]).unwrap_or_else(|| certificate.clone()).into(),
        certificate: certificate.into(),
        password: text(&["ctl", "keyfile_password"]),
    });
    let signers = text(&["ctl", "cacert"]).or_else(|| text(&["restapi", "cafile"])).map(PathBuf::from);
    let apis: Vec<(String, (String, u16))> =
        others.iter().filter_map(|member| Some((member.name.clone(), member.secure_api()?))).collect();
    if insecure || apis.is_empty() {
        return Vec::new();
    }
    // What is wrong with the files is said by the check of certificates.
    let Ok(client) = Client::new(instance.root, &Files { ca_file: signers.clone(), own }, Verify::Name) else {
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
        found.extend(
            fault.and_then(|fault| api(&name, &host, &fault, signers.as_deref())).map(|finding| (name, finding)),
        );
    }
    found.into_values().collect()
}

/// Only what is wrong with TLS: a member may be stopped.
fn api(name: &str, host: &str, fault: &Fault, signers: Option<&std::path::Path>) -> Option<Finding> {
    let (what, remedy) = match fault {
        Fault::Untrusted(why) => {
            let signers =
                signers.map_or_else(|| "anybody whom this host trusts".to_owned(), |path| path.display().to_string());
            (
                format!("its certificate is not signed by {signers} ({why})"),
                "correct RESTAPI_CACERT here, or RESTAPI_CERT there",
            )
        }
        Fault::OtherName(shown) => (
            format!("its certificate is for {}, not for {host}", shown.summary.names),
            "have it issued for that address",
        ),
        Fault::Expired(_) => (fault.to_string(), "renew RESTAPI_CERT there"),
        Fault::NotYetValid(_) => (fault.to_string(), "correct the clock of this host, or the certificate"),
        Fault::Invalid(_) => (fault.to_string(), "have it issued anew"),
        Fault::Rejected(why) => (format!("it refuses us ({why})"), "correct CTL_CERT here, or RESTAPI_CACERT there"),
        _ => return None,
    };
    Some(Finding::warning(what, remedy).at(format!("the REST API of {name}")))
}
