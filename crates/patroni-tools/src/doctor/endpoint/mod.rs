//! The client endpoint: the Patroni file must contain what is set for dnscp, and dnscp needs its programs and secrets.

pub mod running;

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use host::endpoint::{self, Auth, Endpoint, GssSecret, Manager};
use host::facts::Interface;
use host::file_access::User;
use host::vip::Fault;
use host::{facts, vip};
use ipnet::IpNet;

use crate::doctor::cluster::{Cluster, Depth, USER};
use crate::doctor::finding::{Finding, Level};
use crate::patroni_yml::dnscp_file;
use crate::patroni_yml::network::{self, Listens};

/// Callbacks, the configuration of dnscp, addresses and programs.
pub fn check(cluster: &Cluster) -> Result<Vec<Finding>> {
    let Cluster { root, id, .. } = cluster;
    let calls_dnscp = |path: &[&str]| cluster.text(path).is_some_and(|command| command.contains("dnscp"));
    let (called, missing): (Vec<&str>, Vec<&str>) = ["on_start", "on_restart", "on_role_change", "on_stop"]
        .into_iter()
        .partition(|event| calls_dnscp(&["postgresql", "callbacks", event]));
    let point = match &cluster.settings {
        Ok(settings) => {
            Endpoint::from_settings(root, id, settings).map_err(|error| Finding::of(Level::Warning, &error))
        }
        Err(error) => Err(Finding::of(Level::Warning, error)),
    };
    let point = match point {
        Ok(Some(point)) => point,
        Err(mut finding) if !called.is_empty() => {
            finding.what += " (until this is corrected, dnscp updates neither the address nor the DNS name)";
            return Ok(vec![finding]);
        }
        Ok(None) | Err(_) => return Ok(Vec::new()),
    };
    let mut findings = Vec::new();
    let hint = format!("Keep the block callbacks if you use a template of your own, and run: patroni-gen-config {id}");
    if !missing.is_empty() {
        let what = format!(
            "VIPS or a DNS name is set, but postgresql.callbacks does not call dnscp for {}",
            missing.join(", ")
        );
        findings.push(Finding::warning(what, hint.clone()));
    }
    // Patroni passes its scope, which then does not name the cluster.
    let named = |event: &&str| {
        cluster.text(&["postgresql", "callbacks", event]).is_some_and(|command| command.contains("--cluster"))
    };
    let scope = cluster.text(&["scope"]).filter(|scope| *scope != id.dashed());
    if let Some(scope) = scope.filter(|_| !called.iter().all(named)) {
        findings.push(Finding::warning(
            format!("postgresql.callbacks does not tell dnscp which cluster the scope {scope} is"),
            format!("Write the command as: dnscp --cluster {}", id.dashed()),
        ));
    }
    if cluster.patroni.has_before_stop() && !calls_dnscp(&["postgresql", "before_stop"]) {
        findings.push(Finding::warning(
            "postgresql.before_stop does not call dnscp, although the installed Patroni supports it, so this host may keep the \
             address until PostgreSQL has stopped",
            hint,
        ));
    }
    let file = endpoint::file(id);
    if !root.path(&file).exists() {
        let what = format!("{} is missing, so dnscp@{} does not start", file.display(), id.dashed());
        findings.push(Finding::warning(what, format!("Create it with: patroni-gen-config {id}")).at(""));
    }
    let addresses = addresses(cluster, &point)?;
    // Settings that are refused cannot be applied.
    let refused = addresses.iter().any(|finding| finding.level > Level::Warning);
    findings.extend(addresses);
    if !refused && dnscp_file::written_for(root, id)?.is_some_and(|line| line != point.line()) {
        let what = "the settings of the client endpoint have changed since the file was written";
        let place = file.display().to_string();
        findings.push(Finding::warning(what, format!("Apply them with: patroni-gen-config {id}")).at(place));
    }
    findings.extend(lease(cluster, &point));
    findings.extend(manager(cluster, &point)?);
    findings.extend(programs_and_secrets(cluster, &point));
    Ok(findings)
}

/// Does PostgreSQL listen on the virtual IP address, and does its interface exist?
fn addresses(cluster: &Cluster, point: &Endpoint) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let listen = cluster.text(&["postgresql", "listen"]).unwrap_or_default();
    let hosts = listen.rsplit_once(':').map_or("", |(hosts, _)| hosts);
    let hosts: Vec<String> = hosts.split(',').map(|host| host.trim().trim_matches(['[', ']']).to_owned()).collect();
    let own = crate::doctor::certificates::address(cluster, "postgresql");
    let interfaces = match cluster.depth {
        Depth::Full if !point.vips.is_empty() => facts::interfaces(cluster.root),
        _ => Ok(Vec::new()),
    };
    let known = interfaces.as_deref().unwrap_or_default();
    findings.extend(meaning(cluster, point, own, known));
    // An address that is not virtual needs no interface.
    if findings.iter().any(|finding| finding.level > Level::Warning) {
        return Ok(findings);
    }
    let interface = point.interface.as_deref().filter(|_| !point.vips.is_empty());
    let missing = interface.filter(|name| !cluster.root.path(Path::new("/sys/class/net").join(name)).exists());
    if let Some(interface) = missing {
        let what = format!("VIP_INTERFACE is {interface}, which this host does not have");
        findings.push(Finding::error(what, "Correct it.").at(""));
    } else if let Err(error) = &interfaces {
        findings.push(Finding::of(Level::Warning, error));
    } else if !known.is_empty() {
        findings.extend(placing(point, known));
    }
    for vip in &point.vips {
        // A member uses only those addresses of the site that are in its own networks.
        let network = vip.prefix.and_then(|prefix| IpNet::new(vip.address, prefix).ok());
        if point.interface.is_none() && network.zip(own).is_some_and(|(network, own)| !network.contains(&own)) {
            continue;
        }
        let (level, trouble) = match network::listens(cluster.root, "postgresql.listen", &hosts, vip.address)? {
            Listens::Always => continue,
            Listens::Sometimes(trouble) => (Level::Warning, trouble),
            Listens::Never(trouble) => (Level::Error, trouble),
        };
        findings.push(Finding::new(level, trouble.what, trouble.hint.unwrap_or_default()));
    }
    Ok(findings)
}

/// What the addresses and the name mean on this host, as patroni-gen-config judges them.
fn meaning(cluster: &Cluster, point: &Endpoint, own: Option<IpAddr>, interfaces: &[Interface]) -> Vec<Finding> {
    let Ok(settings) = &cluster.settings else { return Vec::new() };
    let place = settings.place(&["VIPS", "DNS_NAME", "DNS_ZONE"]);
    let finding = |Fault { certain, trouble }| {
        let level = if certain { Level::Error } else { Level::Warning };
        Finding::of(level, &trouble.into()).at(place.clone())
    };
    vip::faults(cluster.root, settings, point, own, interfaces).into_iter().map(finding).collect()
}

/// Can dnscp add the addresses on this host? It is an error if it can add none of them; a site in several networks has addresses
/// that only other members can add.
fn placing(point: &Endpoint, interfaces: &[Interface]) -> Vec<Finding> {
    let pick = vip::pick(&point.vips, point.interface.as_deref(), interfaces);
    let level = if pick.placed.is_empty() { Level::Error } else { Level::Warning };
    pick.problems.into_iter().map(|problem| Finding::of(level, &problem.into())).collect()
}

/// The address must expire before another member can acquire it.
fn lease(cluster: &Cluster, point: &Endpoint) -> Option<Finding> {
    let seconds = |key: &str, default: u64| {
        cluster.yaml.get(&["bootstrap", "dcs", key]).and_then(serde_json::Value::as_u64).unwrap_or(default)
    };
    let (ttl, used) = (seconds("ttl", 30), point.lease.as_secs() + seconds("loop_wait", 10));
    if point.vips.is_empty() || point.manager == Manager::VipManager || used < ttl {
        return None;
    }
    let what = format!(
        "VIP_LEASE + LOOP_WAIT is {used}, but TTL is {ttl}: a hung primary could still hold the virtual IP address when a new primary \
         acquires it"
    );
    Some(Finding::warning(what, "Lower VIP_LEASE.").at(""))
}

/// A program that moves the address instead of dnscp must be configured.
fn manager(cluster: &Cluster, point: &Endpoint) -> Result<Option<Finding>> {
    let Cluster { root, id, .. } = cluster;
    let (file, wanted) = match point.manager {
        Manager::Keepalived if !point.vips.is_empty() => {
            ("/etc/keepalived/keepalived.conf".to_owned(), endpoint::state_file(id).display().to_string())
        }
        Manager::VipManager if !point.vips.is_empty() => (format!("/etc/patroni/{}.vip", id.dashed()), String::new()),
        _ => return Ok(None),
    };
    let name = point.manager.name();
    let configured = root.read(&file)?.is_some_and(|text| text.contains(&wanted));
    Ok((!configured).then(|| {
        let what = format!("VIP_MANAGER is {name}, but {file} does not configure it for {id}");
        Finding::warning(what, format!("Configure it with: patroni-gen-config for {name} {id}")).at("")
    }))
}

/// The programs that dnscp runs, and the secrets that it reads.
fn programs_and_secrets(cluster: &Cluster, point: &Endpoint) -> Vec<Finding> {
    let Some(dns) = &point.dns else { return Vec::new() };
    let root = cluster.root;
    let mut findings: Vec<Finding> = dns
        .auth
        .programs()
        .iter()
        .filter(|(program, _)| root.program(program).is_err())
        .map(|(program, package)| {
            Finding::error(format!("DNS_AUTH=gss needs {program}"), format!("Install it with: apt install {package}"))
                .at("")
        })
        .collect();
    let secret = match &dns.auth {
        Auth::Tsig(key) => Some(("DNS_TSIG_KEY_FILE", key)),
        Auth::Gss { secret: GssSecret::Keytab(keytab), .. } => Some(("DNS_KEYTAB", keytab)),
        Auth::Gss { secret: GssSecret::Password(password), .. } => Some(("DNS_PASSWORD_FILE", password)),
        Auth::None => None,
    };
    if let Some((key, path)) = secret {
        if !root.path(path).exists() {
            let what = format!("{key} is {}, which does not exist", path.display());
            findings.push(Finding::error(what, "Create the file, or correct the setting.").at(""));
        } else if let Err(error) = User::of(root, USER).and_then(|user| user.check_reads(root, path)).context(key) {
            findings.push(Finding::of(Level::Error, &error));
        }
    }
    findings
}
