//! The connection point on three machines: who holds the virtual address, and what a client sees through it, while everything
//! happens that can happen to a primary.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::patroni::{self, Cluster};
use lab::watch::{Held, Watch, overlap};
use lab::writer::Writer;
use lab::{Lab, Node, Release, names};
use serde_json::Value;

const ETCD_STOPPED: &str = "all of etcd stopped for 60 s, failsafe mode";

/// The last one is the client's.
const MACHINES: [&str; 4] = ["pg1", "pg2", "pg3", "app"];

const VIP: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 100);

const SETTINGS: &str = "TTL=20\nLOOP_WAIT=2\nRETRY_TIMEOUT=5\nSYNCHRONOUS_MODE=yes\nVIPS=10.88.0.100/24\nVIP_LEASE=6\n";

const PROGRAM: &str = "/usr/libexec/patroni-tools/dnscp";

/// How long a machine or a program is stopped.
const STOPPED: Duration = Duration::from_secs(90);

#[test]
fn debian_12() -> Result<()> {
    lab::test(Release::Debian12, &MACHINES, follow)
}

#[test]
fn debian_13() -> Result<()> {
    lab::test(Release::Debian13, &MACHINES, follow)
}

/// What happens, and how it is made to happen under watch.
type Event<'a> = (&'static str, &'a dyn Fn(&Watch) -> Result<()>);

/// What is known of one event.
struct Row {
    event: &'static str,
    gap: f64,
    both: Duration,
}

fn follow(lab: &Lab) -> Result<()> {
    let main = Cluster::with_members(lab, "main", 3);
    set_up(lab, &main)?;
    only_postgres_may_run_it(&main)?;
    systemd_knows_it(lab, &main)?;
    the_service_repairs_the_name(lab, &main)?;
    if lab.release() == Release::Debian12 {
        an_old_primary_cannot_take_the_lock(lab)?;
    }
    let writer = Writer::start(&main, lab.node("app"), "numbers", &VIP.to_string())?;
    let events: [Event; 11] = [
        ("switchover", &|_| main.switch_over(main.candidate()?)),
        ("SIGKILL of Patroni alone", &|_| signal_patroni(&main, main.primary()?, "KILL")),
        ("SIGKILL of PostgreSQL", &|_| kill_postgresql(&main)),
        ("power-off", &|watch| power_off(lab, &main, watch)),
        ("SIGSTOP of Patroni for 90 s", &|_| stop_patroni(&main)),
        ("SIGSTOP of everything for 90 s", &|_| pause_with(main.primary()?, Node::freeze, Node::thaw)),
        ("cable cut for 90 s", &|_| pause_with(main.primary()?, Node::cut, Node::mend)),
        (ETCD_STOPPED, &|_| stop_etcd(lab)),
        ("restart of Patroni in pause", &|_| restart_in_pause(&main)),
        ("systemctl stop of Patroni on the primary", &|_| stop_primary(lab, &main)),
        ("reboot of the primary", &|watch| reboot(&main, watch)),
    ];
    let mut rows = Vec::new();
    for (event, happen) in events {
        main.wait_streaming(2, Duration::from_secs(120)).with_context(|| format!("before {event}"))?;
        lab.wait_until(Duration::from_secs(30), "the primary holds the address", || holds(main.primary()?))?;
        // Without one Patroni promotes nobody, in favour of the rows.
        lab.wait_until(Duration::from_secs(60), "there is a synchronous standby", || {
            Ok(main.members(main.primary()?)?.iter().any(|member| member.role == "Sync Standby"))
        })?;
        let row = observe(lab, &writer, event, happen).with_context(|| format!("Debian {}: {event}", lab.release()))?;
        println!(
            "Debian {}: {event}: {:.2} s without an answer, {} ms on two machines",
            lab.release(),
            row.gap,
            row.both.as_millis()
        );
        ensure!(
            event != ETCD_STOPPED || lab.release() == Release::Debian12 || row.gap < 10.0,
            "Debian {}: {event}: the primary was away for {:.1} s, although the members reach each other",
            lab.release(),
            row.gap
        );
        rows.push(row);
        name_is(lab, &main, &VIP.to_string()).with_context(|| format!("Debian {}: after {event}", lab.release()))?;
    }
    main.wait_streaming(2, Duration::from_secs(120))?;
    let (acknowledged, lost) = writer.stop(&main)?;
    println!("Debian {}: {acknowledged} acknowledged rows, {} lost", lab.release(), lost.len());
    ensure!(lost.is_empty(), "{} acknowledged rows are lost: {}", lost.len(), lost.join(" "));
    println!("\n| Debian {} | seconds without an answer | ms on two machines |\n| --- | --- | --- |", lab.release());
    for row in &rows {
        println!("| {} | {:.2} | {} |", row.event, row.gap, row.both.as_millis());
    }
    for row in &rows {
        // A machine that cannot act gives the address up when the kernel's lease has ended; the new primary waits no longer
        // than Patroni's own time, which is more.
        let allowed = Duration::ZERO;
        ensure!(row.both <= allowed, "{}: two machines held the address for {} ms", row.event, row.both.as_millis());
    }
    the_name_follows_alone(lab, &main)
}

fn settings(lab: &Lab) -> String {
    format!("{SETTINGS}{}", names::settings(lab.node("app")))
}

fn set_up(lab: &Lab, main: &Cluster) -> Result<()> {
    patroni::install(lab)?;
    lab.start_etcd()?;
    names::start(lab, lab.node("app"))?;
    lab.each(|node| node.write("/etc/default/patroni", settings(lab), 0o644))?;
    main.generate()?;
    let file = lab.node("pg1").read(&main.file())?;
    ensure!(
        file.contains("\n  before_stop: ") == (lab.release() == Release::Debian13),
        "before_stop belongs into the file of every Patroni that has it:\n{file}"
    );
    main.start()?;
    main.wait_streaming(2, Duration::from_secs(60))
}

/// Lets one event happen under watch.
fn observe(lab: &Lab, writer: &Writer, event: &'static str, happen: &dyn Fn(&Watch) -> Result<()>) -> Result<Row> {
    let before = writer.now()?;
    let watch = Watch::begin(lab, VIP)?;
    happen(&watch)?;
    // What comes late, such as a second holder, comes in this time.
    std::thread::sleep(Duration::from_secs(4));
    lab.wait_until(Duration::from_secs(90), "the client inserts again", || {
        Ok(writer.last_answer()? > writer.now()? - 0.5)
    })?;
    let after = writer.now()?;
    let (held, pause) = watch.end()?;
    ensure!(
        pause < Duration::from_millis(200),
        "the watch itself paused for {pause:?}: the machine was too busy to tell"
    );
    show(&held);
    println!("  the longest time between two looks was {} ms", pause.as_millis());
    Ok(Row { event, gap: writer.longest_gap(before, after)?, both: overlap(&held) })
}

fn show(held: &[Held]) {
    for held in held {
        println!("  {} held it from {:.3} s to {:.3} s", held.node, held.from.as_secs_f64(), held.to.as_secs_f64());
    }
}

/// Patroni 3.0.2 alone lets it, and the rows of its successor are lost; as our unit starts it, it does not.
fn an_old_primary_cannot_take_the_lock(lab: &Lab) -> Result<()> {
    let node = lab.node("pg1");
    node.write("/var/tmp/leader.py", include_str!("leader.py"), 0o755)?;
    let run = |scope_and_program: &str| {
        node.run_as("postgres", &format!("timeout 60 python3 /var/tmp/leader.py {scope_and_program}"))
    };
    let alone = run("alone")?;
    ensure!(alone.contains("old keeps the lock and old has the key"), "Patroni alone: {alone}");
    let corrected = run("corrected /usr/libexec/patroni-tools/patroni")?;
    ensure!(corrected.contains("old has lost the lock and new has the key"), "as we start it: {corrected}");
    Ok(())
}

/// Who is not root and not in the group postgres cannot even start the program; who is gets two capabilities and no more.
fn only_postgres_may_run_it(main: &Cluster) -> Result<()> {
    let primary = main.primary()?;
    let mode = primary.run(&format!("stat -c '%U:%G %a' {PROGRAM}"))?;
    ensure!(mode.trim() == "root:postgres 750", "{PROGRAM} is {mode}");
    let capabilities = primary.run(&format!("/sbin/getcap {PROGRAM}"))?;
    ensure!(capabilities.trim().ends_with(" cap_net_admin,cap_net_raw=ep"), "{capabilities}");
    let as_nobody = format!("setpriv --reuid=nobody --regid=nogroup --clear-groups {PROGRAM} status {}", main.dashed());
    let nobody = primary.try_run(&as_nobody)?;
    ensure!(!nobody.status.success() && nobody.stderr.contains("Permission denied"), "{nobody}");
    // What postgres may say moves nothing: the addresses are root's.
    let moved =
        primary.try_run_as("postgres", &format!("{PROGRAM} -vips 10.88.0.99/24 on_start primary {}", main.dashed()))?;
    ensure!(!moved.status.success(), "{moved}");
    let addresses = primary.run("ip -j address show")?;
    ensure!(!addresses.contains("10.88.0.99"), "postgres has set an address");
    Ok(())
}

/// The sandbox, what systemd is told, and what `dnscp status` says.
fn systemd_knows_it(lab: &Lab, main: &Cluster) -> Result<()> {
    let primary = main.primary()?;
    let unit = format!("dnscp@{}.service", main.dashed());
    let exposure = primary.run(&format!("systemd-analyze security --no-pager {unit} | tail -n 1"))?;
    let level = exposure.split_whitespace().find_map(|word| word.parse::<f32>().ok());
    println!("Debian {}: {}", lab.release(), exposure.trim());
    ensure!(level.is_some_and(|level| level < 2.5), "{exposure}");
    let shown = primary.run(&format!("systemctl show -p Type,WatchdogUSec,StatusText {unit}"))?;
    for part in ["Type=notify", "WatchdogUSec=15s", "primary; 10.88.0.100/24 on host0", main_name(main).as_str()] {
        ensure!(shown.contains(part), "no '{part}' in {shown}");
    }
    lab.wait_until(Duration::from_secs(15), "dnscp status finds nothing wrong", || {
        let status: Value = serde_json::from_str(&primary.run(&format!("dnscp status --json {}", main.dashed()))?)?;
        let held = status.pointer("/addresses/0/held") == Some(&Value::Bool(true));
        let named = status.pointer("/dns/addresses/0") == Some(&Value::from(VIP.to_string()));
        Ok(held && named && status.get("problems") == Some(&Value::Array(Vec::new())))
    })
}

/// By Kerberos, out of the sandbox of the service.
fn the_service_repairs_the_name(lab: &Lab, main: &Cluster) -> Result<()> {
    name_is(lab, main, &VIP.to_string())?;
    names::remove(lab.node("app"), &main.dashed())?;
    main.primary()?.run(&format!("systemctl reload dnscp@{}", main.dashed()))?;
    name_is(lab, main, &VIP.to_string()).context("after it was removed")
}

fn name_is(lab: &Lab, main: &Cluster, address: &str) -> Result<()> {
    let app = lab.node("app");
    lab.wait_until(Duration::from_secs(20), &format!("{} is {address}", main_name(main)), || {
        let found = names::look_up(app, &main.dashed())?;
        ensure!(found == [address], "it is {found:?}");
        Ok(true)
    })
}

fn main_name(main: &Cluster) -> String {
    format!("{}.{}", main.dashed(), names::ZONE)
}

/// Without a virtual address the name has the primary's own.
fn the_name_follows_alone(lab: &Lab, main: &Cluster) -> Result<()> {
    lab.each(|node| node.write("/etc/default/patroni", settings(lab).replace("VIPS=", "#VIPS="), 0o644))?;
    for node in main.nodes() {
        node.run(&format!(
            "patroni-gen-config {0} && systemctl reload patroni@{1} dnscp@{1}",
            main.slashed(),
            main.dashed()
        ))?;
    }
    name_is(lab, main, &main.primary()?.ipv4())?;
    let candidate = main.candidate()?;
    main.switch_over(candidate)?;
    name_is(lab, main, &candidate.ipv4()).context("after the switchover")?;
    lab.wait_until(Duration::from_secs(20), "nobody holds the address", || {
        Ok(main.nodes().iter().map(holds).collect::<Result<Vec<_>>>()?.iter().all(|held| !held))
    })
}

fn holds(node: &Node) -> Result<bool> {
    Ok(node.run("ip -j address show")?.contains(&format!("\"{VIP}\"")))
}

fn signal_patroni(main: &Cluster, node: &Node, signal: &str) -> Result<()> {
    node.run(&format!("systemctl kill --kill-whom=main --signal={signal} {}", main.unit())).map(drop)
}

fn kill_postgresql(main: &Cluster) -> Result<()> {
    let primary = main.primary()?;
    let directory = main.data_directory(primary)?;
    primary.run(&format!("kill -KILL $(head -n 1 {directory}/postmaster.pid)")).map(drop)
}

fn power_off(lab: &Lab, main: &Cluster, watch: &Watch) -> Result<()> {
    let old = main.primary()?;
    watch.leave(old)?;
    old.power_off()?;
    lab.wait_until(Duration::from_secs(60), "another member is primary", || Ok(main.primary()?.name() != old.name()))?;
    old.start()?;
    watch.resume(old)
}

fn stop_patroni(main: &Cluster) -> Result<()> {
    let primary = main.primary()?;
    signal_patroni(main, primary, "STOP")?;
    std::thread::sleep(STOPPED);
    signal_patroni(main, primary, "CONT")
}

fn pause_with(node: &Node, stop: impl Fn(&Node) -> Result<()>, go_on: impl Fn(&Node) -> Result<()>) -> Result<()> {
    stop(node)?;
    std::thread::sleep(STOPPED);
    go_on(node)
}

/// On Debian 13 every server has been asked for something when it is stopped, because it did not answer for a while.
fn stop_etcd(lab: &Lab) -> Result<()> {
    let busy = match lab.release() {
        Release::Debian12 => "true",
        Release::Debian13 => "systemctl kill --signal=STOP etcd && sleep 1.5",
    };
    lab.each(|node| node.run(&format!("{busy} && systemctl stop etcd")).map(drop))?;
    std::thread::sleep(Duration::from_secs(60));
    lab.each(|node| node.run_within(Duration::from_secs(60), "systemctl start etcd").map(drop))
}

fn restart_in_pause(main: &Cluster) -> Result<()> {
    let primary = main.primary()?;
    main.patronictl(primary, "pause --wait")?;
    primary.run(&format!("systemctl restart {}", main.unit()))?;
    std::thread::sleep(Duration::from_secs(10));
    ensure!(holds(primary)?, "the primary has lost the address");
    main.patronictl(primary, "resume --wait").map(drop)
}

fn stop_primary(lab: &Lab, main: &Cluster) -> Result<()> {
    let old = main.primary()?;
    old.run(&format!("systemctl stop {}", main.unit()))?;
    ensure!(!holds(old)?, "the address stayed where Patroni was stopped");
    lab.wait_until(Duration::from_secs(60), "another member is primary", || {
        let other =
            lab.nodes().iter().find(|node| node.name() != old.name() && node.name() != "app").context("machines")?;
        let members = main.members(other)?;
        Ok(members.iter().any(|member| member.role == "Leader" && member.name != old.name()))
    })?;
    old.run(&format!("systemctl start {}", main.unit())).map(drop)
}

fn reboot(main: &Cluster, watch: &Watch) -> Result<()> {
    let primary = main.primary()?;
    watch.leave(primary)?;
    let begin = Instant::now();
    primary.reboot()?;
    println!("  the reboot took {:.1} s", begin.elapsed().as_secs_f32());
    watch.resume(primary)
}
