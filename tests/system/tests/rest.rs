//! The REST API with TLS on two machines: turned on under a running cluster, asked by Patroni, by `patronictl` of a member of
//! group postgres, and by dnscp.

#[path = "../../pki.rs"]
mod pki;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::patroni::{self, Cluster};
use lab::watch::Watch;
use lab::{Lab, Node, Release};
use pki::{Authority, NOW};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 100);
/// With times that a busy host keeps, too: nothing here is about how fast it is.
const SETTINGS: &str = "TTL=30\nLOOP_WAIT=2\nRETRY_TIMEOUT=10\nVIPS=10.88.0.100/24\nVIP_LEASE=10\n";
const LEASE: Duration = Duration::from_secs(10);
const TLS: &str = "RESTAPI_CERT=/etc/patroni/rest/member.pem\nRESTAPI_KEY=/etc/patroni/rest/member.key\n\
    RESTAPI_CACERT=/etc/patroni/rest/ca.pem\nRESTAPI_VERIFY_CLIENT=required\nRESTAPI_ALLOWLIST=yes\n";
const SNAKEOIL: &str = "RESTAPI_CERT=snakeoil\nRESTAPI_CACERT=/etc/patroni/rest/all.pem\n";

/// Who is in group postgres, and nobody else.
const PERSON: &str = "dba";

#[test]
fn debian_12() -> Result<()> {
    lab::test(Release::Debian12, &["pg1", "pg2"], life)
}

#[test]
fn debian_13() -> Result<()> {
    lab::test(Release::Debian13, &["pg1", "pg2"], life)
}

fn life(lab: &Lab) -> Result<()> {
    let main = Cluster::new(lab, "main");
    patroni::install(lab)?;
    lab.start_etcd()?;
    lab.each(|node| {
        node.run(&format!("useradd --create-home --groups postgres {PERSON}"))?;
        node.write("/etc/default/patroni", SETTINGS, 0o644)
    })?;
    main.generate()?;
    main.start()?;
    main.wait_streaming(1, Duration::from_secs(60))?;
    lab.wait_until(Duration::from_secs(30), "dnscp has nothing to complain about", || all_well(lab, &main))?;
    certificates(lab)?;

    let members: Vec<String> = lab.nodes().iter().map(|node| format!("{}={}", node.name(), node.ipv4())).collect();
    let tls = format!("{SETTINGS}MEMBERS={}\n{TLS}", members.join(","));
    change(lab, &main, &tls).context("TLS is turned on")?;
    ensure!(!answers(lab.node("pg1"), "")?, "who shows no certificate is answered");
    asked_by_a_person(lab, &main).context("TLS")?;
    without_the_store(lab, &main).context("TLS")?;

    // Patroni 3.0 reads the key of the REST API for patronictl, too.
    lab.each(|node| node.run(&format!("usermod --append --groups ssl-cert {PERSON}")).map(drop))?;
    change(lab, &main, &format!("{SETTINGS}{SNAKEOIL}")).context("snakeoil takes its place")?;
    asked_by_a_person(lab, &main).context("snakeoil")?;
    match lab.release() {
        // Patroni 3.0 cannot ask others without TLS until it is restarted.
        Release::Debian12 => restart(lab, &main, SETTINGS),
        Release::Debian13 => change(lab, &main, SETTINGS),
    }
    .context("TLS is turned off")?;
    asked_by_a_person(lab, &main).context("no TLS")
}

/// The file anew, and Patroni restarted, on the primary last.
fn restart(lab: &Lab, main: &Cluster, settings: &str) -> Result<()> {
    for node in [main.replica()?, main.primary()?] {
        node.write("/etc/default/patroni", settings, 0o644)?;
        node.run(&format!("patroni-gen-config {}", main.slashed()))?;
        node.run(&format!("systemctl restart {}", main.unit()))?;
        main.wait_streaming(1, Duration::from_secs(90))?;
    }
    lab.wait_until(Duration::from_secs(30), "dnscp has nothing to complain about", || all_well(lab, main))
}

/// Each machine gets a certificate of the site's authority, and a snakeoil of its own.
fn certificates(lab: &Lab) -> Result<()> {
    let site = Authority::new("site");
    let mut all = String::new();
    for node in lab.nodes() {
        let pair = site.issue(node.ipv4().parse::<IpAddr>()?, NOW, true);
        node.write("/etc/patroni/rest/ca.pem", site.pem(), 0o644)?;
        node.write("/etc/patroni/rest/member.pem", pair.certificate, 0o644)?;
        node.write("/etc/patroni/rest/member.key", pair.key, 0o640)?;
        node.run("chgrp postgres /etc/patroni/rest/member.key")?;
        node.run("make-ssl-cert generate-default-snakeoil --force-overwrite")?;
        all += &node.read("/etc/ssl/certs/ssl-cert-snakeoil.pem")?;
    }
    lab.each(|node| node.write("/etc/patroni/rest/all.pem", &all, 0o644))
}

/// As the manual says: the file anew, and Patroni reloaded, on one member after the other. The primary has its address all
/// the time.
fn change(lab: &Lab, main: &Cluster, settings: &str) -> Result<()> {
    let primary = main.primary()?.name().to_owned();
    let watch = Watch::begin(lab, VIP)?;
    for node in lab.nodes() {
        node.write("/etc/default/patroni", settings, 0o644)?;
        node.run(&format!("patroni-gen-config {0} && patroni-gen-config --check {0}", main.slashed()))?;
        node.run(&format!("systemctl reload {}", main.unit()))?;
        let way = if settings.contains("RESTAPI_CERT") { "https" } else { "http" };
        lab.wait_until(Duration::from_secs(30), &format!("{} answers by {way}", node.name()), || {
            let own = if settings.contains("required") { "/etc/patroni/rest/member" } else { "" };
            Ok(node.try_run(&asks(node, way, own))?.status.success())
        })?;
    }
    lab.wait_until(Duration::from_secs(30), "dnscp has nothing to complain about", || all_well(lab, main))?;
    std::thread::sleep(LEASE + Duration::from_secs(2));
    let (held, _) = watch.end()?;
    ensure!(held.len() == 1 && held[0].node == primary, "the address did not stay with {primary}: {held:?}");
    for node in lab.nodes() {
        let status = format!("/proc/$(systemctl show --property=MainPID --value dnscp@{})/status", main.dashed());
        let sizes = node.run(&format!("grep -E '^(VmRSS|RssAnon)' {status}"))?;
        println!(
            "Debian {}, {}: dnscp@ has {}",
            lab.release(),
            node.name(),
            sizes.split_whitespace().collect::<Vec<_>>().join(" ")
        );
    }
    Ok(())
}

/// A command that succeeds if Patroni answers, whoever signed its certificate.
fn asks(node: &Node, way: &str, own: &str) -> String {
    let show = if own.is_empty() { String::new() } else { format!("c.load_cert_chain('{own}.pem', '{own}.key');") };
    format!(
        "python3 -c \"import ssl, urllib.request; c = ssl._create_unverified_context(); {show} \
         urllib.request.urlopen('{way}://{}:8008/liveness', context=c, timeout=5)\"",
        node.ipv4()
    )
}

fn answers(node: &Node, own: &str) -> Result<bool> {
    Ok(node.try_run(&asks(node, "https", own))?.status.success())
}

fn all_well(lab: &Lab, main: &Cluster) -> Result<bool> {
    for node in lab.nodes() {
        node.run(&format!("/usr/libexec/patroni-tools/dnscp status {}", main.slashed()))?;
    }
    Ok(true)
}

/// Without options, each member's REST API is asked and told something.
fn asked_by_a_person(lab: &Lab, main: &Cluster) -> Result<()> {
    let (old, new) = (main.primary()?, main.replica()?);
    let patronictl =
        |arguments: &str| new.run_as(PERSON, &format!("timeout 50 patronictl -c {} {arguments}", main.file()));
    let versions = patronictl(&format!("version {}", main.dashed()))?;
    for node in lab.nodes() {
        ensure!(versions.contains(&format!("{}: Patroni ", node.name())), "{} was not asked: {versions}", node.name());
    }
    let restarted = patronictl(&format!("restart {} {} --force", main.dashed(), new.name()))?;
    ensure!(restarted.contains("Success: restart on member"), "{restarted}");
    main.wait_streaming(1, Duration::from_secs(60))?;
    // For this the primary asks the candidate how far it is.
    let switched = patronictl(&format!("switchover --candidate {} --force", new.name()))?;
    ensure!(switched.contains("Successfully switched over"), "{switched}");
    main.wait_streaming(1, Duration::from_secs(60))?;
    ensure!(main.primary()?.name() == new.name(), "{} is the primary still", old.name());
    lab.wait_until(Duration::from_secs(30), "dnscp has nothing to complain about", || all_well(lab, main))
}

/// In failsafe mode the primary asks the other members, who have to believe it.
fn without_the_store(lab: &Lab, main: &Cluster) -> Result<()> {
    let primary = main.primary()?;
    let watch = Watch::begin(lab, VIP)?;
    lab.each(|node| node.run("systemctl stop etcd").map(drop))?;
    std::thread::sleep(Duration::from_secs(40));
    let recovery = main.sql(primary, "select pg_is_in_recovery()")?;
    lab.each(|node| node.run_within(Duration::from_secs(60), "systemctl start etcd").map(drop))?;
    let (held, _) = watch.end()?;
    ensure!(recovery == "f", "{} is no primary without the store", primary.name());
    ensure!(
        held.len() == 1 && held[0].node == primary.name(),
        "the address did not stay with {}: {held:?}",
        primary.name()
    );
    main.wait_streaming(1, Duration::from_secs(60))
}
