//! What the other members publish about themselves in the DCS, compared with this member.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use host::members::members;
use host::net::Fault;
use host::net::http::{Question, Server};
use host::net::tls::{Client, Files, Own, Verify};
use host::program::quoted;

use crate::doctor::cluster::{Cluster, LIMIT};
use crate::doctor::finding::Finding;
use crate::doctor::view::{Member, View};
use crate::patroni::paths::FINGERPRINT_TAG;

/// Its first eight bytes are the system identifier (`ControlFileData`).
const CONTROL_FILE: &str = "global/pg_control";

/// The name of this member, site keys, data, the list of members, and the certificates of the others. `runs_here`: Patroni of this member
/// is running on this host.
pub fn check(cluster: &Cluster, view: &View, runs_here: bool) -> Vec<Finding> {
    let name = cluster.text(&["name"]).unwrap_or_default();
    let (own, others): (Vec<&Member>, Vec<&Member>) = view.members.iter().partition(|member| member.name == name);
    let own = own.first().copied();
    let mut findings: Vec<Finding> =
        own.filter(|_| !runs_here).and_then(|own| twin(cluster, own)).into_iter().collect();
    findings.extend(site_key(cluster, view));
    findings.extend(same_data(cluster, view));
    if own.is_some() && view.leader.is_some() {
        findings.extend(listed(cluster, view, &name));
    }
    findings.extend(apis(cluster, &others));
    findings
}

/// `MEMBERS` and the members of the cluster.
fn listed(cluster: &Cluster, view: &View, own: &str) -> Vec<Finding> {
    let Ok(settings) = &cluster.settings else { return Vec::new() };
    let Ok(Some(listed)) = members(settings) else { return Vec::new() };
    let (place, id) = (settings.place(&["MEMBERS"]), cluster.id);
    // Hosts that only have servers of Consul are in MEMBERS as well.
    let servers: Vec<&str> =
        settings.text("CONSUL_SERVERS").into_iter().flat_map(|list| list.split([',', ' '])).map(str::trim).collect();
    let missing: Vec<&str> = listed
        .iter()
        .map(|member| member.name.as_str())
        .filter(|name| view.member(name).is_none() && !servers.contains(name))
        .collect();
    // The generator reports that this member is not in the list.
    let is_unlisted = |member: &&Member| member.name != own && listed.iter().all(|listed| listed.name != member.name);
    let unlisted: Vec<&Member> = view.members.iter().filter(is_unlisted).collect();
    let mut findings = Vec::new();
    if !missing.is_empty() {
        let names = missing.join(" and ");
        let what = format!("MEMBERS has {names}, but the cluster does not");
        let hint = format!(
            "If there is no such member, remove it from MEMBERS on every host and run 'patroni-gen-config {id}'. Otherwise, run on {names}: \
             systemctl start patroni@{}",
            id.dashed()
        );
        findings.push(Finding::warning(what, hint).at(&*place));
    }
    if !unlisted.is_empty() {
        let names: Vec<&str> = unlisted.iter().map(|member| member.name.as_str()).collect();
        // A member writes both itself, and they become a part of a file of settings.
        let address = |member: &Member| member.api()?.0.parse::<IpAddr>().ok();
        let word =
            |name: &str| if quoted(name) == name && !name.contains(['=', ',']) { name } else { "NAME" }.to_owned();
        let add: Vec<String> = unlisted
            .iter()
            .map(|member| {
                let address = address(member).map_or("ADDRESS".to_owned(), |address| address.to_string());
                format!("{}={address}", word(&member.name))
            })
            .collect();
        let what = format!("the cluster has the member {}, but MEMBERS does not", names.join(" and "));
        let hint = cluster.then_generate(&format!("Add {} to MEMBERS on every host", add.join(",")));
        findings.push(Finding::warning(what, hint).at(place));
    }
    findings
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
pub fn site_key(cluster: &Cluster, view: &View) -> Option<Finding> {
    let ours = cluster.text(&["tags", FINGERPRINT_TAG])?;
    let name = cluster.text(&["name"]).unwrap_or_default();
    let others: Vec<&Member> = view.members.iter().filter(|member| member.name != name).collect();
    let leader = view.leader.as_deref();
    let differs = |member: &&&Member| member.fingerprint().is_some_and(|theirs| theirs != ours);
    let is_leader = |member: &&&Member| Some(member.name.as_str()) == leader;
    let with = |members: Vec<&Member>| {
        let names =
            members.iter().map(|member| format!("{} ({})", member.name, member.fingerprint().unwrap_or_default()));
        names.collect::<Vec<_>>().join(", ")
    };
    let differing: Vec<&Member> = others.iter().filter(differs).copied().collect();
    let primary = others.iter().find(is_leader);
    match primary.and_then(|primary| primary.fingerprint()) {
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
fn same_data(cluster: &Cluster, view: &View) -> Option<Finding> {
    let theirs = view.system.as_ref()?;
    if theirs.is_empty() {
        let scope = cluster.text(&["scope"]).unwrap_or_default();
        return (view.leader.is_none() && view.members.is_empty()).then(|| {
            Finding::warning(
                "a bootstrap of this cluster was started but not finished, and all members wait for it",
                format!(
                    "If no member is bootstrapping now, run: patronictl -c {} remove {}",
                    cluster.path.display(),
                    quoted(&scope)
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
fn apis(cluster: &Cluster, others: &[&Member]) -> Vec<Finding> {
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
