//! The package patroni-tools-common on machines without Patroni and PostgreSQL: etcd and HAProxy on hosts of their own, by the commands of
//! its README.Debian, for a cluster on two others.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::patroni::{self, Cluster};
use lab::{Lab, Node, Release, page};

const README: &str = include_str!("../../../debian/patroni-tools-common.README.Debian");

/// Where to begin, as the installation of the small package alone says.
const BEGIN: &str = "/usr/share/doc/patroni-tools-common/README.Debian";

/// The members come first.
const MACHINES: [&str; 4] = ["pg1", "pg2", "lb1", "et1"];

const LIMIT: Duration = page::LIMIT;

/// Nothing that the small package could rely on: no Patroni, no PostgreSQL, no user of theirs.
const BARE: &str = "apt-get purge -y --autoremove postgresql-client-common patroni haproxy keepalived pgbouncer etcd-server etcd-client \
        consul python3-etcd python3-consul &&
    rm -rf /var/lib/etcd /etc/etcd /etc/patroni /etc/postgresql /etc/postgresql-common /var/lib/postgresql &&
    { ! getent passwd postgres || userdel postgres; } && { ! getent group postgres || groupdel postgres; }";

/// Service, server and state, as HAProxy's page shows them; without any program that the small package does not need.
const STATISTICS: &str =
    r#"bash -c 'exec 3<>/dev/tcp/127.0.0.1/7000; printf "GET /;csv HTTP/1.0\r\n\r\n" >&3; cut -d , -f 1,2,18 <&3'"#;

#[test]
fn debian_12() -> Result<()> {
    lab::test_with_stores(Release::Debian12, &MACHINES, site)
}

#[test]
fn debian_13() -> Result<()> {
    lab::test_with_stores(Release::Debian13, &MACHINES, site)
}

fn site(lab: &Lab) -> Result<()> {
    lab.offer(&[patroni::package()?])?;
    let (members, others) = lab.nodes().split_at(2);
    Lab::each_of(others, |node| node.run_within(LIMIT, BARE).map(drop))?;
    let main = Cluster::with_members(lab, "main", 2);
    let [first, lb, et] = ["pg1", "lb1", "et1"].map(|name| lab.node(name));
    let listed: Vec<String> = members.iter().map(|node| format!("{}={}", node.name(), node.ipv4())).collect();
    let settings = format!(
        "MEMBERS={}\nDCS_HOSTS={}\nDCS_CACERT=/etc/patroni/tls/ca.pem\nDCS_CERT=/etc/patroni/tls/store.pem\n\
         DCS_KEY=/etc/patroni/tls/store.key\nRESTAPI_CERT=/etc/patroni/tls/member.pem\nRESTAPI_KEY=/etc/patroni/tls/member.key\n\
         RESTAPI_CACERT=/etc/patroni/tls/ca.pem\nRESTAPI_VERIFY_CLIENT=required\n",
        listed.join(","),
        et.ipv4()
    );
    // The settings and the key are there before any package.
    lab.each(|node| node.write("/etc/default/patroni", &settings, 0o644))?;
    Lab::each_of(members, |node| node.run_within(LIMIT, "apt-get install -y patroni-tools postgresql").map(drop))?;
    first.run("patroni-gen-config site-key")?;
    let key = first.read("/etc/patroni/site.key")?;
    Lab::each_of(&lab.nodes()[1..], |node| {
        node.run("install -d /etc/patroni")?;
        node.write("/etc/patroni/site.key", &key, 0o600)
    })?;
    by_the_readme(
        et,
        "etcd or Consul on hosts of their own",
        &main,
        &[("et1=10.0.3.51,et2=10.0.3.52,et3=10.0.3.53", &format!("et1={}", et.ipv4()))],
    )?;
    et.run("systemctl daemon-reload && systemctl enable etcd && systemctl restart --no-block etcd")?;
    et.wait_listening(&[2379])?;
    // They know of each other's keys by the fingerprint, before anything runs.
    let fingerprints = [first, lb, et].map(|node| node.run("patroni-gen-config site-key || true"));
    let [of_first, _, of_etcd] = fingerprints;
    ensure!(of_first? == of_etcd?, "the fingerprints differ");
    for node in members {
        node.run(&format!("patroni-gen-config for tls && patroni-gen-config --no-site-key {}", main.slashed()))?;
    }
    main.start()?;
    main.wait_streaming(1, Duration::from_secs(60))?;
    let said = by_the_readme(lb, "HAProxy", &main, &[])?;
    ensure!(said.matches(BEGIN).count() == 1, "the installation does not say where to begin: {said}");
    lb.run(&format!("test -s {BEGIN}"))?;
    lb.wait_listening(&[15432, 25432])?;
    lab.wait_until(Duration::from_secs(30), "HAProxy leads to the primary, and to the replica", || {
        let state = lb.run(STATISTICS)?;
        let up =
            |service: &str, node: &Node| state.contains(&format!("{}-{service},{},UP", main.dashed(), node.name()));
        let (primary, replica) = (main.primary()?, main.replica()?);
        Ok(up("write", primary) && !up("write", replica) && up("read", replica) && !up("read", primary))
    })?;
    for node in others {
        is_small(node).with_context(|| node.name().to_owned())?;
    }
    by_the_readme(lb, "Check", &main, &[])?;
    let without_key = lb.run(
        "mv /etc/patroni/site.key /root/ && patroni-gen-config check 2>&1 && ! patroni-gen-config for tls 2>&1 && mv /root/site.key /etc/patroni/",
    )?;
    ensure!(
        without_key.contains("the site key is not on this host") && without_key.contains("is derived from one"),
        "{without_key}"
    );
    let stopped = lb.try_run("systemctl stop haproxy && patroni-gen-config check")?;
    ensure!(stopped.stderr.contains("systemctl enable --now haproxy") && !stopped.status.success(), "{stopped}");
    lb.run("systemctl enable --now haproxy && patroni-gen-config check")?;
    second_key(lab, &main)?;
    gone(lb)
}

/// Another site key on a member: it is named at its start, and no second key is made beside the cluster.
fn second_key(lab: &Lab, main: &Cluster) -> Result<()> {
    let replica = main.replica()?;
    let refused = replica.try_run(&format!(
        "mv /etc/patroni/site.key /root/ && mv {} /root/ && patroni-gen-config {}",
        main.file(),
        main.slashed()
    ))?;
    ensure!(refused.stderr.contains("of the running cluster") && !refused.status.success(), "{refused}");
    replica.run(&format!(
        "patroni-gen-config site-key && patroni-gen-config --force {0} && systemctl restart {1}",
        main.slashed(),
        main.unit()
    ))?;
    lab.wait_until(Duration::from_secs(30), "the journal names the key", || {
        Ok(replica.run(&format!("journalctl -u {}", main.unit()))?.contains("the site key of this member ("))
    })?;
    replica.run(&format!(
        "mv /root/site.key /etc/patroni/ && mv /root/{}.yml {} && systemctl restart {}",
        main.dashed(),
        main.file(),
        main.unit()
    ))?;
    main.wait_streaming(1, Duration::from_secs(60))
}

/// Neither package nor user of Patroni or PostgreSQL has come with it, and no key for them.
fn is_small(node: &Node) -> Result<()> {
    let installed = node.run(
        "dpkg-query -W -f '${db:Status-Status} ${Package}\n' 'patroni*' 'postgresql*' python3-psycopg2 2>/dev/null | grep '^installed' || :",
    )?;
    ensure!(installed.trim() == "installed patroni-tools-common", "installed: {installed}");
    ensure!(!node.try_run("getent passwd postgres")?.status.success(), "there is a user postgres");
    let keys = node.run("cd /etc/patroni/tls && stat -c '%n %U:%G %a' *.key")?;
    let expected: &[&str] = match node.name() {
        "et1" => &["etcd.key root:etcd 640", "member.key root:root 640", "store.key root:root 640"],
        _ => &["member.key root:root 640"],
    };
    ensure!(keys.lines().collect::<Vec<_>>() == expected, "the keys are {keys}");
    let verified = node.run("dpkg --verify patroni-tools-common")?;
    ensure!(verified.trim().is_empty(), "dpkg --verify: {verified}");
    Ok(())
}

/// A purge leaves what other programs use.
fn gone(node: &Node) -> Result<()> {
    let said = node.run_within(LIMIT, "apt-get -qq purge -y patroni-tools-common 2>&1")?;
    ensure!(said.contains("may use it: /etc/patroni/tls"), "{said}");
    let left = node.run("cd / && ls -d etc/default/patroni* etc/patroni/* usr/share/patroni-tools usr/libexec/patroni-tools 2>/dev/null || :")?;
    ensure!(left.trim() == "etc/patroni/tls", "left: {left}");
    Ok(())
}

/// Runs the commands of a section of README.Debian without those that copy files, which are there already.
fn by_the_readme(node: &Node, section: &str, main: &Cluster, replaced: &[(&str, &str)]) -> Result<String> {
    let page = page::of_cluster(README, main);
    let blocks = page::prompted(&page);
    let commands: Vec<&str> =
        blocks.iter().filter(|block| block.section == section).map(|block| block.commands.as_str()).collect();
    ensure!(!commands.is_empty(), "README.Debian has no commands under {section}");
    let commands: Vec<&str> =
        commands.iter().flat_map(|text| text.lines()).filter(|line| !line.starts_with("scp ")).collect();
    let mut commands = commands.join("\n");
    for (from, to) in replaced {
        commands = commands.replace(from, to);
    }
    node.write("/etc/apt/apt.conf.d/90readme", "APT::Get::Assume-Yes \"true\";\n", 0o644)?;
    node.run_within(LIMIT, &format!("set -e\n{commands}"))
}
