//! What a client notices, and who holds the virtual address, while a standby, a server of etcd, or a link fails: the faults of
//! `docs/reliability.md` that do not hit the primary itself.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::patroni::{self, Cluster};
use lab::watch::{Watch, overlap};
use lab::writer::Writer;
use lab::{Lab, Node, Release, loss};
use serde_json::Value;

/// The last one is the client's, and has a server of etcd as all of them.
const MACHINES: [&str; 4] = ["pg1", "pg2", "pg3", "app"];

const VIP: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 100);

/// Those of tests/point.rs.
const SETTINGS: &str = "TTL=20\nLOOP_WAIT=2\nRETRY_TIMEOUT=5\nSYNCHRONOUS_MODE=yes\nVIPS=10.88.0.100/24\nVIP_LEASE=6\n";

/// `wal_sender_timeout` of a generated file + `LOOP_WAIT` + 1 s.
const BOUND: f64 = 4.0 + 2.0 + 1.0;

/// If a server of etcd fails, too, or alone: one election, and another one if two servers have begun the first at the same time, which
/// takes twice `ETCD_ELECTION_TIMEOUT`.
const BOUND_WITH_ETCD: f64 = 10.0 + 5.0;

/// The ports of etcd.
const ETCD: &str = "2379-2380";

#[test]
fn debian_12() -> Result<()> {
    lab::test(Release::Debian12, &MACHINES, synchronous_standby)
}

#[test]
fn debian_13() -> Result<()> {
    lab::test(Release::Debian13, &MACHINES, synchronous_standby)
}

#[test]
#[ignore = "six minutes, a part of make check-all"]
fn etcd_debian_12() -> Result<()> {
    lab::test(Release::Debian12, &MACHINES, etcd)
}

#[test]
#[ignore = "six minutes, a part of make check-all"]
fn etcd_debian_13() -> Result<()> {
    lab::test(Release::Debian13, &MACHINES, etcd)
}

#[test]
#[ignore = "six minutes, a part of make check-all"]
fn partition_debian_12() -> Result<()> {
    lab::test(Release::Debian12, &MACHINES, partition)
}

#[test]
#[ignore = "six minutes, a part of make check-all"]
fn partition_debian_13() -> Result<()> {
    lab::test(Release::Debian13, &MACHINES, partition)
}

/// Sets a fault and ends it. It gets the watch, because machines that go off leave it.
type Event<'a> = &'a dyn Fn(&Watch) -> Result<()>;

/// Three members under load.
struct Scene<'a> {
    lab: &'a Lab,
    main: Cluster<'a>,
    writer: Writer<'a>,
}

impl<'a> Scene<'a> {
    fn set_up(lab: &'a Lab) -> Result<Self> {
        let main = Cluster::with_members(lab, "main", 3);
        patroni::install(lab)?;
        lab.start_etcd()?;
        lab.each(|node| node.write("/etc/default/patroni", SETTINGS, 0o644))?;
        main.generate()?;
        main.start()?;
        main.wait_streaming(2, Duration::from_secs(60))?;
        let writer = Writer::start(&main, lab.node("app"), "numbers", &VIP.to_string())?;
        Ok(Self { lab, main, writer })
    }

    /// Lets one event happen under watch. Fails if the address was on two members. With a bound it also fails if writes stopped for
    /// longer, or if the primary changed.
    fn row(&self, standbys: usize, event: &str, bound: Option<f64>, happen: Event) -> Result<()> {
        self.try_row(standbys, event, bound, happen).with_context(|| format!("Debian {}: {event}", self.lab.release()))
    }

    fn try_row(&self, standbys: usize, event: &str, bound: Option<f64>, happen: Event) -> Result<()> {
        self.wait_until_well(standbys)?;
        move_etcd(self.lab, self.lab.node("app"))?;
        std::thread::sleep(Duration::from_secs(3));
        let primary = self.main.primary()?;
        let before = self.writer.now()?;
        let watch = Watch::begin(self.lab, VIP)?;
        happen(&watch)?;
        self.lab.wait_until(Duration::from_secs(90), "the client inserts again", || {
            Ok(self.writer.last_answer()? > self.writer.now()? - 0.5)
        })?;
        let after = self.writer.now()?;
        let (held, pause) = watch.end()?;
        let (gap, both) = (self.writer.longest_gap(before, after)?, overlap(&held).as_millis());
        self.wait_until_well(standbys)?;
        let stayed = if self.main.primary()?.name() == primary.name() { "stayed" } else { "changed" };
        let load = std::fs::read_to_string("/proc/loadavg")?;
        println!(
            "Debian {}: {event}: {gap:.2} s without an answer, {both} ms on two members, the primary {stayed} (load {})",
            self.lab.release(),
            load.split_whitespace().next().unwrap_or_default()
        );
        ensure!(
            pause < Duration::from_millis(200),
            "the watch itself paused for {pause:?}: the machine was too busy to tell"
        );
        ensure!(both == 0, "two members held the address for {both} ms");
        if let Some(bound) = bound {
            ensure!(gap <= bound, "writes stopped for {gap:.2} s, but {bound} s are allowed");
            ensure!(stayed == "stayed", "the primary changed");
        }
        Ok(())
    }

    /// All servers of etcd answer, all standbys stream, one is synchronous, and the client writes. A server of etcd 3.4 that comes back
    /// calls an election, and a fault during that would be two faults.
    fn wait_until_well(&self, standbys: usize) -> Result<()> {
        self.lab.wait_until(Duration::from_secs(60), "all servers of etcd are healthy", || {
            self.lab.node("app").run("ETCDCTL_API=3 etcdctl endpoint health --cluster").map(|_| true)
        })?;
        self.main.wait_streaming(standbys, Duration::from_secs(120))?;
        self.lab.wait_until(Duration::from_secs(60), "there is a synchronous standby, and the client inserts", || {
            let members = self.main.members(self.main.primary()?)?;
            let synchronous =
                members.iter().filter(|member| ["Sync Standby", "Quorum Standby"].contains(&member.role.as_str()));
            Ok(synchronous.count() > 0 && self.writer.last_answer()? > self.writer.now()? - 0.2)
        })
    }

    fn nothing_lost(self) -> Result<()> {
        let release = self.lab.release();
        let (acknowledged, lost) = self.writer.stop(&self.main)?;
        println!("Debian {release}: {acknowledged} acknowledged rows, {} lost", lost.len());
        ensure!(lost.is_empty(), "{} acknowledged rows are lost: {}", lost.len(), lost.join(" "));
        Ok(())
    }

    /// Freeze, cut and power-off of the synchronous standby.
    fn standby_fails(&self, standbys: usize, which: &str, bound: f64) -> Result<()> {
        const FOR: Duration = Duration::from_secs(12);
        let during = |stop: &dyn Fn(&Node) -> Result<()>, go_on: &dyn Fn(&Node) -> Result<()>| {
            let standby = self.main.candidate()?;
            stop(standby)?;
            std::thread::sleep(FOR);
            go_on(standby)
        };
        self.row(standbys, &format!("{which}: SIGSTOP of everything for 12 s"), Some(bound), &|_| {
            during(&Node::freeze, &Node::thaw)
        })?;
        self.row(standbys, &format!("{which}: cable cut for 12 s"), Some(bound), &|_| during(&Node::cut, &Node::mend))?;
        self.row(standbys, &format!("{which}: power-off"), Some(bound), &|watch| self.power_off(watch, FOR))
    }

    fn power_off(&self, watch: &Watch, time: Duration) -> Result<()> {
        let standby = self.main.candidate()?;
        watch.leave(standby)?;
        // Otherwise the kernel, which is that of all machines, would close the connections of the processes that it kills.
        standby.cut()?;
        standby.power_off()?;
        std::thread::sleep(time);
        standby.mend()?;
        standby.start()?;
        watch.resume(standby)
    }
}

fn synchronous_standby(lab: &Lab) -> Result<()> {
    let scene = Scene::set_up(lab)?;
    let Scene { main, .. } = &scene;
    let primary = main.primary()?;
    let timeout = main.sql(primary, "show wal_sender_timeout")?;
    ensure!(timeout == "4s", "wal_sender_timeout is {timeout}");
    the_check_names_a_long_stop(main)?;
    scene.standby_fails(2, "synchronous standby", BOUND)?;
    scene.row(
        2,
        "synchronous standby and the leader of etcd on its host: power-off",
        Some(BOUND_WITH_ETCD),
        &|watch| {
            move_etcd(lab, main.candidate()?)?;
            scene.power_off(watch, Duration::from_secs(12))
        },
    )?;
    // A loss that only the two of them notice: the standby keeps its key in the DCS.
    scene.row(2, "primary cut off from the synchronous standby only, for 25 s", Some(BOUND), &|_| {
        between(main.primary()?, main.candidate()?, Duration::from_secs(25))
    })?;
    let used = [main.primary()?.name(), main.candidate()?.name()];
    let third = main.nodes().iter().find(|node| !used.contains(&node.name())).context("a third member")?;
    third.run(&format!("systemctl stop {}", main.unit()))?;
    scene.standby_fails(1, "the only standby", BOUND)?;
    third.run(&format!("systemctl start {}", main.unit()))?;
    if lab.release() == Release::Debian13 {
        quorum(&scene)?;
    }
    scene.nothing_lost()
}

/// The check asks the running cluster, and its hint cures it.
fn the_check_names_a_long_stop(main: &Cluster) -> Result<()> {
    let (primary, id) = (main.primary()?, main.slashed());
    let said = || -> Result<String> { Ok(primary.try_run(&format!("patroni-gen-config check {id}"))?.stderr) };
    ensure!(!said()?.contains("stops responding"), "noise: {}", said()?);
    primary.run(&format!("pg_patronictl {id} edit-config --force -p wal_sender_timeout=60s"))?;
    let found = said()?;
    let hint = format!("patroni-gen-config apply {id}");
    for part in ["writes stop for up to 63 s", &format!(" with: {hint}\n")] {
        ensure!(found.contains(part), "no '{part}' in {found}");
    }
    primary.run(&format!("{hint} --yes"))?;
    ensure!(!said()?.contains("stops responding"), "the hint did not help: {}", said()?);
    Ok(())
}

fn quorum(scene: &Scene) -> Result<()> {
    let Scene { lab, main, .. } = scene;
    lab.each(|node| node.write("/etc/default/patroni", SETTINGS.replace("MODE=yes", "MODE=quorum"), 0o644))?;
    let primary = main.primary()?;
    primary.run(&format!("patroni-gen-config apply --yes {}", main.slashed()))?;
    lab.wait_until(Duration::from_secs(60), "any standby acknowledges", || {
        let names = main.sql(main.primary()?, "show synchronous_standby_names")?;
        Ok(names.starts_with("ANY 1 (") && names.contains(','))
    })?;
    scene.standby_fails(2, "a standby, `quorum`", 2.0)
}

fn etcd(lab: &Lab) -> Result<()> {
    // Longer than TTL: a primary that cannot renew its lock loses it.
    const FOR: Duration = Duration::from_secs(24);
    let scene = Scene::set_up(lab)?;
    let Scene { main, .. } = &scene;
    for leads in [true, false] {
        let name = if leads {
            "the leader of etcd, on the host of the primary"
        } else {
            "another server of etcd, on the host of the primary"
        };
        let server = || -> Result<&Node> {
            let primary = main.primary()?;
            if leads {
                move_etcd(lab, primary)?;
            }
            Ok(primary)
        };
        scene.row(2, &format!("{name}: stopped for 24 s"), Some(BOUND_WITH_ETCD), &|_| {
            let server = server()?;
            server.run("systemctl stop etcd")?;
            std::thread::sleep(FOR);
            server.run("systemctl start etcd").map(drop)
        })?;
        scene.row(2, &format!("{name}: SIGSTOP for 24 s"), Some(BOUND_WITH_ETCD), &|_| {
            let server = server()?;
            server.run("systemctl kill --signal=STOP etcd")?;
            std::thread::sleep(FOR);
            server.run("systemctl kill --signal=CONT etcd").map(drop)
        })?;
        scene.row(2, &format!("{name}: cut off from the others for 24 s"), Some(BOUND_WITH_ETCD), &|_| {
            let server = server()?;
            loss::lose_ports(server, loss::NETWORK, ETCD)?;
            std::thread::sleep(FOR);
            loss::nothing(server)
        })?;
    }
    for leads in [true, false] {
        let name = if leads { "the leader of etcd" } else { "another server of etcd" };
        scene.row(2, &format!("primary cut off from {name} only, for 24 s"), Some(BOUND_WITH_ETCD), &|_| {
            let (primary, server) = (main.primary()?, lab.node("app"));
            if !leads {
                move_etcd(lab, main.candidate()?)?;
            }
            for (from, to) in [(primary, server), (server, primary)] {
                loss::lose_ports(from, &to.ipv4(), ETCD)?;
            }
            std::thread::sleep(FOR);
            [primary, server].into_iter().try_for_each(loss::nothing)
        })?;
    }
    scene.nothing_lost()
}

fn partition(lab: &Lab) -> Result<()> {
    const SHORT: Duration = Duration::from_secs(15);
    const LONG: Duration = Duration::from_secs(60);
    let scene = Scene::set_up(lab)?;
    let Scene { main, .. } = &scene;
    let during = |node: &Node, time: Duration, part: &dyn Fn(&Node) -> Result<()>| {
        part(node)?;
        std::thread::sleep(time);
        loss::nothing(node)
    };
    scene.row(2, "synchronous standby receives, but what it sends is lost, for 15 s", Some(BOUND), &|_| {
        during(main.candidate()?, SHORT, &|node| loss::lose(node, loss::NETWORK))
    })?;
    scene.row(2, "synchronous standby sends, but receives nothing, for 15 s", Some(BOUND), &|_| {
        during(main.candidate()?, SHORT, &loss::receive_nothing)
    })?;
    scene.row(2, "primary receives, but what it sends is lost, for 60 s", None, &|_| {
        during(main.primary()?, LONG, &|node| loss::lose(node, loss::NETWORK))
    })?;
    scene.row(2, "primary sends, but receives nothing, for 60 s", None, &|_| {
        during(main.primary()?, LONG, &loss::receive_nothing)
    })?;
    scene.nothing_lost()
}

/// Cuts the link between two machines in both directions for a time; both reach everybody else.
fn between(one: &Node, other: &Node, time: Duration) -> Result<()> {
    loss::lose(one, &other.ipv4())?;
    loss::lose(other, &one.ipv4())?;
    std::thread::sleep(time);
    [one, other].into_iter().try_for_each(loss::nothing)
}

/// Lets the server of etcd on this machine lead.
fn move_etcd(lab: &Lab, to: &Node) -> Result<()> {
    lab.wait_until(Duration::from_secs(30), &format!("etcd on {} leads", to.name()), || {
        let printed = to.run("ETCDCTL_API=3 etcdctl endpoint status --cluster -w json")?;
        let servers: Vec<Value> = serde_json::from_str(&printed)?;
        let number = |server: &Value, key: &str| server.pointer(key).and_then(Value::as_u64).unwrap_or_default();
        let endpoint = |server: &Value| server.get("Endpoint").and_then(Value::as_str).unwrap_or_default().to_owned();
        let wanted = servers.iter().find(|server| endpoint(server).contains(&to.ipv4())).context("no such server")?;
        let wanted = number(wanted, "/Status/header/member_id");
        let leads = |server: &&Value| number(server, "/Status/header/member_id") == number(server, "/Status/leader");
        let leader = servers.iter().find(leads).context("etcd has no leader")?;
        if number(leader, "/Status/leader") == wanted {
            return Ok(true);
        }
        to.run(&format!("ETCDCTL_API=3 etcdctl --endpoints={} move-leader {wanted:x}", endpoint(leader)))?;
        Ok(false)
    })
}
