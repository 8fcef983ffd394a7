//! The package of 0.1.0 becomes this one under load, on three machines that share a virtual address: it is never on two of them, and
//! never away for longer than a switchover takes. Patroni and PostgreSQL go on; each dnscp@ is the new program then.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::patroni::{self, Cluster};
use lab::watch::{Held, Watch, overlap};
use lab::writer::Writer;
use lab::{Lab, Node, Release};

/// The last one is the client's.
const MACHINES: [&str; 4] = ["pg1", "pg2", "pg3", "app"];

const VIP: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 100);

const SETTINGS: &str = "TTL=20\nLOOP_WAIT=2\nRETRY_TIMEOUT=5\nVIPS=10.88.0.100/24\nVIP_LEASE=6\n";

/// A switchover takes 1.4 s on a machine that has nothing else to do.
const SWITCHOVER: f64 = 5.0;

const LIMIT: Duration = Duration::from_secs(180);

const UPGRADE: &str = "/run/patroni-tools.upgrade-from-0.1.0";

#[test]
fn debian_12() -> Result<()> {
    lab::test(Release::Debian12, &MACHINES, upgrade)
}

#[test]
fn debian_13() -> Result<()> {
    lab::test(Release::Debian13, &MACHINES, upgrade)
}

fn upgrade(lab: &Lab) -> Result<()> {
    let main = Cluster::with_members(lab, "main", 3);
    lab.offer(&[patroni::previous_package()?])?;
    patroni::install_offered(lab)?;
    lab.start_etcd()?;
    lab.each(|node| node.write("/etc/default/patroni", SETTINGS, 0o644))?;
    main.generate()?;
    main.start()?;
    main.wait_streaming(2, Duration::from_secs(60))?;
    lab.wait_until(Duration::from_secs(30), "the primary holds the address", || holds(main.primary()?))?;
    let writer = Writer::start(&main, lab.node("app"), "numbers", &VIP.to_string())?;
    lab.offer(&[patroni::package()?])?;
    let before = main.nodes().iter().map(|node| processes(&main, node)).collect::<Result<Vec<_>>>()?;

    // As apt has it for as long as it unpacks other packages: the callbacks are the new program, and each service is the old one.
    Lab::each_of(main.nodes(), |node| {
        node.run_within(LIMIT, "dpkg --auto-deconfigure --unpack /srv/repo/patroni-tools*.deb")?;
        node.run(&format!("test -f {UPGRADE}")).map(drop)
    })?;
    observe(lab, &writer, "a switchover between unpacking and configuring", || main.switch_over(main.candidate()?))?;
    main.wait_streaming(2, Duration::from_secs(60))?;

    let servers = servers_started(&main)?;
    let held = observe(lab, &writer, "the new package is configured, on the primary too", || {
        main.nodes().iter().try_for_each(|node| node.run_within(LIMIT, "dpkg --configure -a").map(drop))
    })?;
    ensure!(held.len() == 1, "the address did not stay where it was: {held:?}");
    ensure!(servers_started(&main)? == servers, "a PostgreSQL was restarted");

    for (node, (patroni, service)) in main.nodes().iter().zip(before) {
        ensure!(node.read("/etc/default/patroni")? == SETTINGS, "{}: the settings are not as they were", node.name());
        let (patroni_now, service_now) = processes(&main, node)?;
        ensure!(patroni == patroni_now, "{}: Patroni was restarted: {patroni} is {patroni_now} now", node.name());
        ensure!(service != service_now && service_now != "0", "{}: dnscp@ is the old one still", node.name());
        is_clean(&main, node).with_context(|| node.name().to_owned())?;
    }
    observe(lab, &writer, "a switchover after the upgrade", || main.switch_over(main.candidate()?))?;
    main.wait_streaming(2, Duration::from_secs(60))?;
    let held = observe(lab, &writer, "the package is installed once more", || {
        main.primary()?.run_within(LIMIT, "dpkg --install /srv/repo/patroni-tools*.deb").map(drop)
    })?;
    ensure!(held.len() == 1, "the address did not stay where it was: {held:?}");
    generate_again(&main)?;
    let (acknowledged, lost) = writer.stop(&main)?;
    println!("Debian {}: {acknowledged} acknowledged rows", lab.release());
    // Replication is asynchronous, but each switchover waits for its candidate.
    ensure!(lost.is_empty(), "{} acknowledged rows are lost: {}", lost.len(), lost.join(" "));
    Ok(())
}

/// What NEWS.Debian says: on every member the file, once the configuration in the DCS, and a restart of one member after the other.
fn generate_again(main: &Cluster) -> Result<()> {
    let id = main.slashed();
    for node in main.nodes() {
        node.run(&format!("patroni-gen-config {id} && patroni-gen-config diff {id}"))?;
    }
    main.primary()?.run(&format!("patroni-gen-config apply --yes {id}"))?;
    let last = main.primary()?;
    for node in main.nodes().iter().filter(|node| node.name() != last.name()) {
        node.run(&format!("systemctl restart {}", main.unit()))?;
        main.wait_streaming(2, Duration::from_secs(60))?;
    }
    main.switch_over(main.candidate()?)?;
    main.wait_streaming(2, Duration::from_secs(60))?;
    last.run(&format!("systemctl restart {}", main.unit()))?;
    main.wait_streaming(2, Duration::from_secs(60))?;
    for node in main.nodes() {
        node.run(&format!("patroni-gen-config check {id}"))?;
    }
    Ok(())
}

/// When PostgreSQL was started, of each member.
fn servers_started(main: &Cluster) -> Result<Vec<String>> {
    main.nodes().iter().map(|node| main.sql(node, "select pg_postmaster_start_time()")).collect()
}

/// The processes of Patroni and of its service.
fn processes(main: &Cluster, node: &Node) -> Result<(String, String)> {
    let process = |unit: &str| -> Result<String> {
        Ok(node.run(&format!("systemctl show --property=MainPID --value {unit}"))?.trim().to_owned())
    };
    Ok((process(&main.unit())?, process(&format!("dnscp@{}.service", main.dashed()))?))
}

/// Lets something happen under watch: the address is on one machine at most, and the client waits no longer than in a switchover.
fn observe(lab: &Lab, writer: &Writer, what: &str, happen: impl FnOnce() -> Result<()>) -> Result<Vec<Held>> {
    let before = writer.now()?;
    let watch = Watch::begin(lab, VIP)?;
    happen().with_context(|| what.to_owned())?;
    std::thread::sleep(Duration::from_secs(8));
    let after = writer.now()?;
    let (held, _) = watch.end()?;
    let (gap, both) = (writer.longest_gap(before, after)?, overlap(&held));
    println!("Debian {}: {what}: {gap:.2} s without an answer, {} ms on two machines", lab.release(), both.as_millis());
    ensure!(both.is_zero(), "{what}: two machines held the address for {} ms: {held:?}", both.as_millis());
    ensure!(gap < SWITCHOVER, "{what}: the client waited for {gap:.2} s");
    ensure!(writer.last_answer()? > after - 2.0, "{what}: the client does not insert any more");
    Ok(held)
}

/// Nothing of the upgrade is left, and the locks are their owner's alone.
fn is_clean(main: &Cluster, node: &Node) -> Result<()> {
    let left = node.run(&format!(
        "ls -d {UPGRADE} /run/postgresql/.dnscp.*.lock /run/postgresql/.dnscp.*.service 2>/dev/null || true"
    ))?;
    ensure!(left.is_empty(), "left: {left}");
    let directory = node.run("stat -c '%U:%G %a' /run/patroni-tools")?;
    ensure!(directory.trim() == "postgres:postgres 700", "/run/patroni-tools is {directory}");
    let locks = node.run(&format!("stat -c '%U %a' /run/patroni-tools/dnscp.{}.*", main.dashed()))?;
    ensure!(locks.lines().count() == 2 && locks.lines().all(|line| line == "postgres 600"), "the locks: {locks}");
    let status = node.try_run(&format!("dnscp status {}", main.dashed()))?;
    ensure!(status.stdout.contains("service: running"), "{status}");
    Ok(())
}

fn holds(node: &Node) -> Result<bool> {
    Ok(node.run("ip -j address show")?.contains(&format!("\"{VIP}\"")))
}
