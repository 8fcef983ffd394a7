//! The connection point on three machines: who holds the virtual address, and what a client sees through it, while everything
//! happens that can happen to a primary.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::patroni::{self, Cluster};
use lab::watch::{Held, Watch, overlap};
use lab::{Lab, Node, Release};

/// The last one is the client's.
const MACHINES: [&str; 4] = ["pg1", "pg2", "pg3", "app"];

const VIP: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 100);

const SETTINGS: &str = "TTL=20\nLOOP_WAIT=2\nRETRY_TIMEOUT=5\nSYNCHRONOUS_MODE=yes\nVIPS=10.88.0.100/24\nVIP_LEASE=6\n";

/// How long a machine or a program is stopped.
const STOPPED: Duration = Duration::from_secs(90);

/// Inserts numbers through the address as fast as one after the other goes, and writes down each that was acknowledged.
const CLIENT: &str = include_str!("client.py");

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
    let events: [Event; 11] = [
        ("switchover", &|_| main.switch_over(main.candidate()?)),
        ("SIGKILL of Patroni alone", &|_| signal_patroni(&main, main.primary()?, "KILL")),
        ("SIGKILL of PostgreSQL", &|_| kill_postgresql(&main)),
        ("power-off", &|watch| power_off(lab, &main, watch)),
        ("SIGSTOP of Patroni for 90 s", &|_| stop_patroni(&main)),
        ("SIGSTOP of everything for 90 s", &|_| pause_with(main.primary()?, Node::freeze, Node::thaw)),
        ("cable cut for 90 s", &|_| pause_with(main.primary()?, Node::cut, Node::mend)),
        ("all of etcd stopped for 60 s, failsafe mode", &|_| stop_etcd(lab)),
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
        let row = observe(lab, event, happen).with_context(|| format!("Debian {}: {event}", lab.release()))?;
        println!(
            "Debian {}: {event}: {:.2} s without an answer, {} ms on two machines",
            lab.release(),
            row.gap,
            row.both.as_millis()
        );
        rows.push(row);
    }
    main.wait_streaming(2, Duration::from_secs(120))?;
    no_row_is_lost(lab, &main)?;
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
    Ok(())
}

fn set_up(lab: &Lab, main: &Cluster) -> Result<()> {
    patroni::install(lab)?;
    lab.start_etcd()?;
    lab.each(|node| node.write("/etc/default/patroni", SETTINGS, 0o644))?;
    main.generate()?;
    main.start()?;
    main.wait_streaming(2, Duration::from_secs(60))?;
    let primary = main.primary()?;
    main.sql(primary, "create role app login password 'app'; create table numbers (n bigint primary key); grant all on numbers to app")?;
    let app = lab.node("app");
    app.write("/var/tmp/client.py", CLIENT, 0o755)?;
    app.run("systemd-run --quiet --unit=client python3 /var/tmp/client.py 10.88.0.100 5432").map(drop)
}

/// Lets one event happen under watch.
fn observe(lab: &Lab, event: &'static str, happen: &dyn Fn(&Watch) -> Result<()>) -> Result<Row> {
    let app = lab.node("app");
    let before = now(app)?;
    let watch = Watch::begin(lab, VIP)?;
    happen(&watch)?;
    // What comes late, such as a second holder, comes in this time.
    std::thread::sleep(Duration::from_secs(4));
    lab.wait_until(Duration::from_secs(90), "the client inserts again", || Ok(last_answer(app)? > now(app)? - 0.5))?;
    let after = now(app)?;
    let (held, pause) = watch.end()?;
    ensure!(
        pause < Duration::from_millis(200),
        "the watch itself paused for {pause:?}: the machine was too busy to tell"
    );
    show(&held);
    Ok(Row { event, gap: longest_gap(app, before, after)?, both: overlap(&held) })
}

fn show(held: &[Held]) {
    for held in held {
        println!("  {} held it from {:.3} s to {:.3} s", held.node, held.from.as_secs_f64(), held.to.as_secs_f64());
    }
}

/// The machine's monotonic clock, which is the client's.
fn now(app: &Node) -> Result<f64> {
    Ok(app.run("cut -d' ' -f1 /proc/uptime")?.trim().parse()?)
}

fn last_answer(app: &Node) -> Result<f64> {
    let line = app.run("tail -n 1 /var/tmp/acknowledged")?;
    line.split_whitespace().next().context("the client has inserted nothing")?.parse().context("the client's clock")
}

fn longest_gap(app: &Node, from: f64, to: f64) -> Result<f64> {
    let program = format!(
        "$1 >= {from} && $1 <= {to} {{ if (last && $1 - last > gap) gap = $1 - last; last = $1 }} END {{ print gap + 0 }}"
    );
    Ok(app.run(&format!("awk '{program}' /var/tmp/acknowledged"))?.trim().parse()?)
}

fn no_row_is_lost(lab: &Lab, main: &Cluster) -> Result<()> {
    let app = lab.node("app");
    app.run("systemctl stop client")?;
    let acknowledged = app.run("cut -d' ' -f2 /var/tmp/acknowledged")?;
    let stored = main.sql(main.primary()?, "select n from numbers order by n")?;
    let stored: std::collections::HashSet<&str> = stored.lines().collect();
    let lost: Vec<&str> = acknowledged.lines().filter(|n| !stored.contains(n)).collect();
    ensure!(lost.is_empty(), "{} acknowledged rows are lost: {}", lost.len(), lost.join(" "));
    println!("Debian {}: {} acknowledged rows, none lost", lab.release(), acknowledged.lines().count());
    Ok(())
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

fn stop_etcd(lab: &Lab) -> Result<()> {
    lab.each(|node| node.run("systemctl stop etcd").map(drop))?;
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
