//! The connection point: what is set for dnscp has to be in the Patroni file too, and dnscp needs what it runs and reads.

use std::path::Path;

use anyhow::{Context, Result};
use host::endpoint::{self, Auth, Endpoint, GssSecret, Manager};
use host::file_access::User;
use host::trouble::Trouble;
use host::{facts, vip};
use ipnet::IpNet;

use crate::doctor::finding::{Finding, Level};
use crate::doctor::instance::{Depth, Instance, USER};
use crate::patroni_yml::network::{self, Listens};

/// Callbacks, the file of dnscp, addresses and programs.
pub fn look(instance: &Instance) -> Result<Vec<Finding>> {
    let Instance { root, id, .. } = instance;
    let calls_dnscp = |path: &[&str]| instance.text(path).is_some_and(|command| command.contains("dnscp"));
    let (called, missing): (Vec<&str>, Vec<&str>) = ["on_start", "on_restart", "on_role_change", "on_stop"]
        .into_iter()
        .partition(|event| calls_dnscp(&["postgresql", "callbacks", event]));
    let point = match &instance.settings {
        Ok(settings) => {
            Endpoint::from_settings(root, id, settings).map_err(|error| Finding::of(Level::Warning, &error))
        }
        Err(error) => Err(Finding::of(Level::Warning, error)),
    };
    let point = match point {
        Ok(Some(point)) => point,
        Err(mut finding) if !called.is_empty() => {
            finding.what += " (until this is corrected, dnscp moves neither the address nor the name)";
            return Ok(vec![finding]);
        }
        Ok(None) | Err(_) => return Ok(Vec::new()),
    };
    let mut findings = Vec::new();
    let remedy = format!("run patroni-gen-config {id} (a template of your own has to keep the block callbacks)");
    if !missing.is_empty() {
        let what = format!(
            "VIPS or a DNS name is set, but postgresql.callbacks does not call dnscp for {}",
            missing.join(", ")
        );
        findings.push(Finding::warning(what, remedy.clone()));
    }
    if instance.patroni.has_before_stop() && !calls_dnscp(&["postgresql", "before_stop"]) {
        findings.push(Finding::warning(
            "postgresql.before_stop does not call dnscp, though the installed Patroni has it, so the address may stay here until \
             PostgreSQL has stopped",
            remedy,
        ));
    }
    let file = endpoint::file(id);
    if !root.path(&file).exists() {
        let what = format!("{} is missing, so dnscp@{} does not start", file.display(), id.dashed());
        findings.push(Finding::warning(what, format!("run patroni-gen-config {id}")).at(""));
    }
    findings.extend(addresses(instance, &point)?);
    findings.extend(lease(instance, &point));
    findings.extend(manager(instance, &point)?);
    findings.extend(needs(instance, &point));
    Ok(findings)
}

/// Does PostgreSQL listen on the virtual address, and is there an interface for it?
fn addresses(instance: &Instance, point: &Endpoint) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let listen = instance.text(&["postgresql", "listen"]).unwrap_or_default();
    let hosts = listen.rsplit_once(':').map_or("", |(hosts, _)| hosts);
    let hosts: Vec<String> = hosts.split(',').map(|host| host.trim().trim_matches(['[', ']']).to_owned()).collect();
    let own = crate::doctor::certificates::address(instance, "postgresql");
    if instance.depth == Depth::Full && point.manager != Manager::VipManager {
        let pick = vip::pick(&point.vips, point.interface.as_deref(), &facts::interfaces(instance.root)?);
        let findings_of = |problem: Trouble| Finding::of(Level::Warning, &problem.into());
        findings.extend(pick.problems.into_iter().map(findings_of));
    }
    for vip in &point.vips {
        // Of the addresses of the whole site a member has those of its own networks.
        let network = vip.prefix.and_then(|prefix| IpNet::new(vip.address, prefix).ok());
        if point.interface.is_none() && network.zip(own).is_some_and(|(network, own)| !network.contains(&own)) {
            continue;
        }
        let (level, trouble) = match network::listens(instance.root, "postgresql.listen", &hosts, vip.address)? {
            Listens::Always => continue,
            Listens::Sometimes(trouble) => (Level::Warning, trouble),
            Listens::Never(trouble) => (Level::Error, trouble),
        };
        findings.push(Finding::new(level, trouble.what, trouble.hint.unwrap_or_default()));
    }
    if let Some(interface) = point.interface.as_deref().filter(|_| !point.vips.is_empty()) {
        if !instance.root.path(Path::new("/sys/class/net").join(interface)).exists() {
            let what = format!("VIP_INTERFACE is {interface}, which this host does not have");
            findings.push(Finding::error(what, "correct it").at(""));
        }
    }
    Ok(findings)
}

/// The address has to be gone before another member can take it.
fn lease(instance: &Instance, point: &Endpoint) -> Option<Finding> {
    let seconds = |key: &str, default: u64| {
        instance.yaml.get(&["bootstrap", "dcs", key]).and_then(serde_json::Value::as_u64).unwrap_or(default)
    };
    let (ttl, used) = (seconds("ttl", 30), point.lease.as_secs() + seconds("loop_wait", 10));
    if point.vips.is_empty() || point.manager == Manager::VipManager || used < ttl {
        return None;
    }
    let what = format!(
        "VIP_LEASE + LOOP_WAIT is {used}, but TTL is {ttl}: a primary that hangs could have the address when another one takes it"
    );
    Some(Finding::warning(what, "lower VIP_LEASE").at(""))
}

/// Who moves the address in place of dnscp has to be told to.
fn manager(instance: &Instance, point: &Endpoint) -> Result<Option<Finding>> {
    let Instance { root, id, .. } = instance;
    let (file, says) = match point.manager {
        Manager::Keepalived if !point.vips.is_empty() => {
            ("/etc/keepalived/keepalived.conf".to_owned(), endpoint::state_file(id).display().to_string())
        }
        Manager::VipManager if !point.vips.is_empty() => (format!("/etc/patroni/{}.vip", id.dashed()), String::new()),
        _ => return Ok(None),
    };
    let name = point.manager.name();
    let told = root.read(&file)?.is_some_and(|text| text.contains(&says));
    Ok((!told).then(|| {
        let what = format!("VIP_MANAGER is {name}, but {file} does not configure it for {id}");
        Finding::warning(what, format!("run patroni-gen-config --for {name} {id}")).at("")
    }))
}

/// The programs that dnscp runs, and the secrets that it reads.
fn needs(instance: &Instance, point: &Endpoint) -> Vec<Finding> {
    let Some(dns) = &point.dns else { return Vec::new() };
    let root = instance.root;
    let mut findings: Vec<Finding> = dns
        .auth
        .programs()
        .iter()
        .filter(|(program, _)| root.program(program).is_err())
        .map(|(program, package)| {
            Finding::error(format!("DNS_AUTH=gss needs {program}"), format!("run apt install {package}")).at("")
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
            let what = format!("{key}: there is no file {}", path.display());
            findings.push(Finding::error(what, "put it there, or correct the setting").at(""));
        } else if let Err(error) = User::of(root, USER).and_then(|user| user.check_reads(root, path)).context(key) {
            findings.push(Finding::of(Level::Error, &error));
        }
    }
    findings
}
