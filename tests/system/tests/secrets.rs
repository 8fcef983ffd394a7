//! No secret is where it does not belong, from the first file to new passwords: not in a command line or an environment, not in a
//! log, and not in a file that others can read. Every process of three machines is looked at all the time.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::patroni::{self, Cluster};
use lab::{Lab, Node, Release};

const MACHINES: [&str; 3] = ["pg1", "pg2", "pg3"];

const SITE_KEY: &str = "6b1f0d3c5a7e9182a4b6c8d0e2f41357913579bdf02468ace13579bdf0864200";

const TSIG: &str = "mVYtDk5nTLcVGWLHSuoXk1Hw1yMDu7bPzIS6H5UXBys=";

/// Nobody answers there: the callback reads its key, and says what is wrong.
const SETTINGS: &str = "TTL=20\nLOOP_WAIT=2\nRETRY_TIMEOUT=5\nVIPS=10.88.0.100/24\nVIP_LEASE=6\nDNS_ZONE=db.test\n\
    DNS_SERVERS=127.0.0.1\nDNS_AUTH=tsig\nDNS_TSIG_KEY_FILE=/etc/patroni/tsig.key\n";

/// Where files of all programs end up.
const PLACES: &str = "/etc /var /run /tmp /dev/shm /root /home";

#[test]
fn debian_12() -> Result<()> {
    lab::test(Release::Debian12, &MACHINES, story)
}

#[test]
fn debian_13() -> Result<()> {
    lab::test(Release::Debian13, &MACHINES, story)
}

fn story(lab: &Lab) -> Result<()> {
    let main = Cluster::new(lab, "main");
    let mut secrets = BTreeSet::from([SITE_KEY.to_owned(), TSIG.to_owned()]);
    set_up(lab, &main, &mut secrets)?;
    the_search_finds(lab.node("pg1"))?;

    watch(lab, &secrets)?;
    lab.each(|node| {
        let generate = format!("patroni-gen-config {}", main.slashed());
        node.run(&format!("{generate} && {generate} --check && {generate} --dry-run && {generate} --diff"))?;
        // What is wrong is said without the value of what is right.
        node.try_run(&format!("{generate} --diff --set TTL=25"))?;
        node.try_run(&format!("{generate} --set DNS_TSIG_KEY_FILE=/etc/patroni/site.key"))?;
        node.try_run(&format!("echo broken >> {0}; {generate} --check; {generate} --force", main.file())).map(drop)
    })?;
    main.start()?;
    main.wait_streaming(2, Duration::from_secs(90))?;
    main.insert("first")?;
    main.switch_over(main.candidate()?)?;
    main.wait_streaming(2, Duration::from_secs(60))?;
    nothing_seen(lab)?;

    // The first member's new passwords are those of all.
    let first = lab.node("pg1");
    let rotate = format!("patroni-gen-config --rotate {}", main.slashed());
    first.run(&rotate)?;
    let before = secrets.len();
    secrets.extend(passwords(&main, first)?);
    ensure!(secrets.len() >= before + 2, "no new passwords in {}", main.file());
    watch(lab, &secrets)?;
    lab.each(|node| node.run(&rotate).map(drop))?;
    let primary = main.primary()?;
    primary.run_within(Duration::from_secs(60), &format!("patroni-gen-config --set-passwords {}", main.slashed()))?;
    primary.run(&format!("patroni-gen-config --apply --yes {} --set TTL=25", main.slashed()))?;
    let replica = main.replica()?;
    main.patronictl(primary, &format!("reinit {} {} --force", main.dashed(), replica.name()))?;
    main.insert("second")?;
    main.wait_streaming(2, Duration::from_secs(90))?;
    nothing_seen(lab)?;
    lab.each(|node| nothing_kept(node, &secrets))
}

fn set_up(lab: &Lab, main: &Cluster, secrets: &mut BTreeSet<String>) -> Result<()> {
    patroni::install(lab)?;
    lab.start_etcd()?;
    lab.each(|node| {
        node.write("/etc/patroni/site.key", format!("{SITE_KEY}\n"), 0o600)?;
        let key = format!("key \"lab\" {{\n\talgorithm hmac-sha256;\n\tsecret \"{TSIG}\";\n}};\n");
        node.write("/etc/patroni/tsig.key", key, 0o640)?;
        node.run("chgrp postgres /etc/patroni/tsig.key")?;
        node.write("/etc/default/patroni", SETTINGS, 0o644)
    })?;
    let first = lab.node("pg1");
    first.run(&format!("patroni-gen-config {}", main.slashed()))?;
    secrets.extend(passwords(main, first)?);
    ensure!(secrets.len() >= 5, "{} has only {} passwords", main.file(), secrets.len() - 2);
    first.run(&format!("rm {} /etc/patroni/{}.dnscp", main.file(), main.dashed()))?;
    Ok(())
}

fn passwords(main: &Cluster, node: &Node) -> Result<Vec<String>> {
    let file = node.read(&main.file())?;
    let quoted = |line: &str| Some(line.trim().strip_prefix("password: \"")?.strip_suffix('"')?.to_owned());
    Ok(file.lines().filter_map(quoted).collect())
}

/// Begins to look at all processes of all machines.
fn watch(lab: &Lab, secrets: &BTreeSet<String>) -> Result<()> {
    let list: Vec<&str> = secrets.iter().map(String::as_str).collect();
    lab.each(|node| {
        node.write("/root/secrets", list.join("\n"), 0o600)?;
        node.write("/root/watch.py", include_str!("watch_secrets.py"), 0o700)?;
        begin_watch(node, "--nice=5")
    })
}

/// Starts the program, and waits until it looks.
fn begin_watch(node: &Node, options: &str) -> Result<()> {
    node.run(&format!(
        "rm -f /root/seen; systemd-run --quiet --unit=watch {options} python3 /root/watch.py /root/secrets /root/seen
         until [ -e /root/seen ]; do sleep 0.1; done"
    ))
    .map(drop)
}

fn nothing_seen(lab: &Lab) -> Result<()> {
    lab.each(|node| {
        node.run("systemctl stop watch")?;
        let seen = node.run("sort /root/seen | uniq -c")?;
        ensure!(seen.trim().is_empty(), "a secret was seen on {}:\n{seen}", node.name());
        let looks = node.run("journalctl --no-pager -o cat -u watch | grep looked | tail -n 1")?;
        println!("{}: {}", node.name(), looks.trim());
        Ok(())
    })
}

/// The logs, and what somebody without any rights can read.
fn nothing_kept(node: &Node, secrets: &BTreeSet<String>) -> Result<()> {
    let list: Vec<&str> = secrets.iter().map(String::as_str).collect();
    node.write("/root/secrets", list.join("\n"), 0o600)?;
    let logged = node
        .run("(journalctl --no-pager -o verbose; cat /var/log/postgresql/*) | grep -c -F -f /root/secrets || true")?;
    ensure!(logged.trim() == "0", "{logged} lines of the logs of {} have a secret", node.name());
    let open = readable(node)?;
    ensure!(open.is_empty(), "everybody can read a secret on {}: {open}", node.name());
    Ok(())
}

fn readable(node: &Node) -> Result<String> {
    // The list comes over standard input, which is open before the rights go.
    let nobody = format!(
        "setpriv --reuid=nobody --regid=nogroup --clear-groups sh -c 'grep -r -l -s -F -D skip -f - {PLACES} || true'"
    );
    Ok(node.run_within(Duration::from_secs(120), &format!("{nobody} < /root/secrets"))?.trim().to_owned())
}

/// Each way of looking finds what is there to be found.
fn the_search_finds(node: &Node) -> Result<()> {
    node.write("/root/secrets", SITE_KEY, 0o600)?;
    node.write("/root/watch.py", include_str!("watch_secrets.py"), 0o700)?;
    begin_watch(node, "")?;
    node.run(&format!(
        "sh -c 'sleep 0.5; :' {SITE_KEY}; SECRET={SITE_KEY} sh -c 'sleep 0.5; :'; systemctl stop watch"
    ))?;
    let seen = node.run("cat /root/seen")?;
    ensure!(seen.contains(" cmdline ") && seen.contains(" environ "), "the watch saw only: {seen}");
    node.write("/var/tmp/open", SITE_KEY, 0o644)?;
    let open = readable(node)?;
    ensure!(open == "/var/tmp/open", "the search found only: {open}");
    node.run("rm /var/tmp/open").map(drop).context("the search")
}
