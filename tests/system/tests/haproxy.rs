//! `HAProxy` on three machines, its configuration made by `patroni-gen-config --for haproxy`: who writes reaches the primary and who
//! reads the replicas, by any of the three, and what a client sees while the primary changes.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::patroni::{self, Cluster};
use lab::writer::Writer;
use lab::{Lab, Node, Release};

const MACHINES: [&str; 3] = ["pg1", "pg2", "pg3"];

const SETTINGS: &str = "TTL=20\nLOOP_WAIT=2\nRETRY_TIMEOUT=5\nSYNCHRONOUS_MODE=yes\n\
    MEMBERS=pg1=10.88.0.11,pg2=10.88.0.12,pg3=10.88.0.13\n";

const WRITE: u16 = 15432;
const READ: u16 = 25432;
const POOL: u16 = 6432;

#[test]
fn haproxy_12() -> Result<()> {
    lab::test_with_stores(Release::Debian12, &MACHINES, access)
}

#[test]
fn haproxy_13() -> Result<()> {
    lab::test_with_stores(Release::Debian13, &MACHINES, access)
}

fn access(lab: &Lab) -> Result<()> {
    let main = Cluster::new(lab, "main");
    patroni::install(lab)?;
    lab.start_etcd()?;
    lab.each(|node| node.write("/etc/default/patroni", SETTINGS, 0o644))?;
    main.generate()?;
    main.start()?;
    main.wait_streaming(2, Duration::from_secs(60))?;
    main.sql(
        main.primary()?,
        "create role app login password 'app' in role pg_monitor; create role anybody login password 'x'",
    )?;

    let steps: [(&str, &dyn Fn() -> Result<()>); 9] = [
        ("generated, validated, started", &|| generate(lab, &main)),
        ("through any of the three", &|| through_any(lab, &main)),
        ("a pool on every member", &|| pools(lab, &main)),
        ("a member that refuses", &|| refuses(lab, &main)),
        ("a replica that was stopped", &|| stopped_replica(lab, &main)),
        ("more services, reloaded", &|| reload(lab, &main)),
        ("what somebody edited stays", &|| edited(&main)),
        ("a client during changes of the primary", &|| gaps(lab, &main)),
        ("the pools after them", &|| through_the_pools(lab, &main)),
    ];
    for (name, step) in steps {
        let begin = Instant::now();
        step().with_context(|| format!("Debian {}: {name}", lab.release()))?;
        println!("Debian {}: {name}: ok, {:.1} s", lab.release(), begin.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Debian's own configuration, which nobody has touched, is replaced without a word; Debian's unit reads ours.
fn generate(lab: &Lab, main: &Cluster) -> Result<()> {
    lab.each(|node| {
        let said = node.run(&format!("patroni-gen-config --for haproxy {}", main.slashed()))?;
        ensure!(said == "/etc/haproxy/haproxy.cfg: written\n", "{said}");
        node.run("haproxy -c -q -f /etc/haproxy/haproxy.cfg && systemctl enable --quiet haproxy && systemctl restart haproxy")?;
        node.wait_listening(&[7000, WRITE, READ])?;
        let again = node.run(&format!("patroni-gen-config --for haproxy {}", main.slashed()))?;
        ensure!(again == "/etc/haproxy/haproxy.cfg: up to date\n", "{again}");
        Ok(())
    })?;
    let files: BTreeSet<String> =
        lab.nodes().iter().map(|node| node.read("/etc/haproxy/haproxy.cfg")).collect::<Result<_>>()?;
    ensure!(files.len() == 1, "the members have different files: {files:#?}");
    let stats = lab.nodes()[0]
        .run("python3 -c \"import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:7000/').status)\"")?;
    ensure!(stats.trim() == "200", "{stats}");
    Ok(())
}

/// Asks the database that a service of a machine's `HAProxy` leads to.
fn ask(node: &Node, port: u16, sql: &str) -> Result<String> {
    let answer = node.run_within(
        Duration::from_secs(10),
        &format!(
            "PGPASSWORD=app PGCONNECT_TIMEOUT=5 psql -XAtqw -h 127.0.0.1 -p {port} -U app -d postgres -c \"{sql}\""
        ),
    )?;
    Ok(answer.trim().to_owned())
}

/// Who answered how many questions.
fn readers(node: &Node, questions: usize) -> Result<BTreeSet<String>> {
    (0..questions).map(|_| ask(node, READ, "select host(inet_server_addr())")).collect()
}

fn addresses(nodes: &[&Node]) -> BTreeSet<String> {
    nodes.iter().map(|node| node.ipv4()).collect()
}

fn replicas<'a>(lab: &'a Lab, main: &Cluster) -> Result<Vec<&'a Node>> {
    let primary = main.primary()?.name();
    Ok(lab.nodes().iter().filter(|node| node.name() != primary).collect())
}

fn through_any(lab: &Lab, main: &Cluster) -> Result<()> {
    lab.wait_until(Duration::from_secs(10), "reads are spread over the replicas", || {
        let expected = addresses(&replicas(lab, main)?);
        for node in lab.nodes() {
            let written = ask(node, WRITE, "select pg_is_in_recovery(), host(inet_server_addr())")?;
            ensure!(written == format!("f|{}", main.primary()?.ipv4()), "{}: writes go to {written}", node.name());
            let read = readers(node, 6)?;
            ensure!(read == expected, "{}: reads go to {read:?}, not to {expected:?}", node.name());
        }
        Ok(true)
    })
}

/// `PgBouncer` finds the primary by `HAProxy` of its host, because there is neither a virtual address nor a name.
fn pools(lab: &Lab, main: &Cluster) -> Result<()> {
    lab.each(|node| {
        node.run(&format!("patroni-gen-config --for pgbouncer {}", main.slashed()))?;
        let file = node.read("/etc/pgbouncer/pgbouncer.ini")?;
        ensure!(file.contains(&format!("host=127.0.0.1 port={WRITE}\n")), "the pool goes elsewhere: {file}");
        node.run("systemctl enable --quiet pgbouncer && systemctl restart pgbouncer")?;
        node.wait_listening(&[POOL])
    })?;
    let sql = format!("psql --cluster {} -d postgres -f /etc/pgbouncer/auth.sql", main.slashed());
    main.primary()?.run(&format!("runuser -u postgres -- {sql}"))?;
    through_the_pools(lab, main)
}

fn through_the_pools(lab: &Lab, main: &Cluster) -> Result<()> {
    let expected = format!("f|{}", main.primary()?.ipv4());
    lab.wait_until(Duration::from_secs(15), "every pool leads to the primary", || {
        for node in lab.nodes() {
            let found = ask(node, POOL, "select pg_is_in_recovery(), host(inet_server_addr())")?;
            ensure!(found == expected, "the pool of {} leads to {found}, the primary is {expected}", node.name());
        }
        Ok(true)
    })
}

/// While `HAProxy` still takes a member for good that takes no connection any more: who reads is on another one and never notices, who
/// writes hears it at once and can ask anew.
fn refuses(lab: &Lab, main: &Cluster) -> Result<()> {
    let primary = main.primary()?;
    let [first, second] = replicas(lab, main)?[..] else { bail!("there are two replicas") };
    let out = |node: &Node| format!("to {} ipproto tcp dport 5432 unreachable", node.ipv4());
    primary.run(&format!("ip rule add pref 10 {}", out(first)))?;
    let read = readers(primary, 8)?;
    ensure!(read == addresses(&[second]), "reads go to {read:?}, and {} takes none", first.ipv4());
    primary.run(&format!("ip rule del pref 10 {}", out(first)))?;

    first.run(&format!("ip rule add pref 10 {}", out(primary)))?;
    let asked = first.try_run(&format!(
        "PGPASSWORD=app timeout 1 psql -XAtqw -h 127.0.0.1 -p {WRITE} -U app -d postgres -c 'select 1'"
    ))?;
    ensure!(asked.status.code() == Some(2), "who writes does not hear at once that nobody is there: {asked}");
    first.run(&format!("ip rule del pref 10 {}", out(primary))).map(drop)
}

/// It is out of the rotation; the timeline changes without it; and while it is back, who reads from it is on the primary's timeline.
fn stopped_replica(lab: &Lab, main: &Cluster) -> Result<()> {
    let candidate = main.candidate()?;
    let stopped = replicas(lab, main)?.into_iter().find(|node| node.name() != candidate.name());
    let stopped = stopped.context("there are two replicas")?;
    stopped.run(&format!("systemctl stop {}", main.unit()))?;
    let observer = main.primary()?;
    lab.wait_until(Duration::from_secs(10), "it is out of the rotation", || {
        Ok(readers(observer, 4)? == addresses(&[candidate]))
    })?;
    main.switch_over(candidate)?;
    main.wait_streaming(1, Duration::from_secs(60))?;
    let timeline = main.sql(candidate, "select timeline_id from pg_control_checkpoint()")?;
    stopped.run(&format!("systemctl start --no-block {}", main.unit()))?;
    let begin = Instant::now();
    let mut seen = 0;
    while seen < 5 {
        if begin.elapsed() > Duration::from_secs(60) {
            bail!("it does not come back into the rotation");
        }
        let said =
            ask(observer, READ, "select host(inet_server_addr()), (select received_tli from pg_stat_wal_receiver)")?;
        if let Some(received) = said.strip_prefix(&format!("{}|", stopped.ipv4())) {
            ensure!(received == timeline, "it is read on timeline '{received}', the primary is on {timeline}");
            seen += 1;
        }
    }
    main.wait_streaming(2, Duration::from_secs(60))
}

/// A port for the synchronous standbys, and reads from the primary too; a connection that is open outlives the reload.
fn reload(lab: &Lab, main: &Cluster) -> Result<()> {
    let node = main.replica()?;
    let open = node.spawn(
        "PGPASSWORD=app psql -XAtqw -h 127.0.0.1 -p 15432 -U app -d postgres -c 'select pg_sleep(6)' -c 'select 42' > /var/tmp/open",
    )?;
    sleep(Duration::from_secs(1));
    let master = node.run("systemctl show --property=MainPID --value haproxy")?;
    node.write(
        "/etc/default/patroni",
        format!("{SETTINGS}HAPROXY_SYNC_PORT=30432\nHAPROXY_READ_PRIMARY=yes\n"),
        0o644,
    )?;
    node.run(&format!("patroni-gen-config --for haproxy {} && systemctl reload haproxy", main.slashed()))?;
    ensure!(master == node.run("systemctl show --property=MainPID --value haproxy")?, "HAProxy was started anew");
    lab.wait_until(Duration::from_secs(10), "the new services serve", || {
        let everybody = addresses(&lab.nodes().iter().collect::<Vec<_>>());
        let synchronous = main.candidate()?.ipv4();
        ensure!(readers(node, 9)? == everybody, "the primary is not read from");
        let asked = ask(node, 30432, "select host(inet_server_addr())")?;
        ensure!(asked == synchronous, "the synchronous standby is {synchronous}, but {asked} answered");
        Ok(true)
    })?;
    open.wait(Duration::from_secs(20))?;
    ensure!(node.read("/var/tmp/open")?.contains("42"), "an open connection was broken by the reload");
    // Another instance on the same HAProxy, with members of its own, from the members that the running cluster has.
    node.write("/etc/default/patroni@99-other", "PORT=5499\nHAPROXY_SYNC_PORT=30499\n", 0o644)?;
    node.run(&format!("patroni-gen-config --for haproxy {} 99/other && systemctl reload haproxy", main.slashed()))?;
    lab.wait_until(Duration::from_secs(10), "both instances are served", || {
        let listening = node.run("ss -Hltn")?;
        for port in ["15432", "25432", "30432", "15499", "25499", "30499"] {
            ensure!(listening.contains(&format!(":{port} ")), "nobody listens on {port}: {listening}");
        }
        Ok(true)
    })?;
    node.write("/etc/default/patroni", SETTINGS, 0o644)?;
    let forgets = node.try_run(&format!("patroni-gen-config --for haproxy {}", main.slashed()))?;
    ensure!(!forgets.status.success() && forgets.stderr.contains("also serves 99/other"), "{forgets}");
    node.run(&format!("patroni-gen-config --for haproxy {} --force && systemctl reload haproxy", main.slashed()))?;
    let own = node.read("/etc/haproxy/haproxy.cfg")?;
    node.run(&format!("patroni-gen-config --for haproxy --members-from-cluster {}", main.slashed()))?;
    ensure!(node.read("/etc/haproxy/haproxy.cfg")? == own, "the running cluster has other members than MEMBERS");
    Ok(())
}

/// What somebody changed is shown and kept, and what `HAProxy` refuses never gets there.
fn edited(main: &Cluster) -> Result<()> {
    let node = main.primary()?;
    let file = "/etc/haproxy/haproxy.cfg";
    let ours = node.read(file)?;
    node.write(file, ours.replace("timeout connect 2s", "timeout connect 3s"), 0o644)?;
    let generate = format!("patroni-gen-config --for haproxy {}", main.slashed());
    let refused = node.try_run(&generate)?;
    ensure!(!refused.status.success() && refused.stderr.contains("was edited by hand"), "{refused}");
    ensure!(refused.stdout.contains("-    timeout connect 3s"), "the difference is not shown: {refused}");
    node.run(&format!("{generate} --force"))?;
    ensure!(
        node.read(file)? == ours && node.read(&format!("{file}.old"))?.contains("connect 3s"),
        "--force keeps nothing"
    );
    node.write(
        "/etc/patroni/templates/haproxy.cfg.j2",
        "{% extends \"shipped/haproxy.cfg.j2\" %}\n{% block stats %}\nnonsense\n{% endblock %}\n",
        0o644,
    )?;
    let refused = node.try_run(&generate)?;
    ensure!(!refused.status.success() && refused.stderr.contains("haproxy rejects the generated file"), "{refused}");
    ensure!(node.read(file)? == ours, "what HAProxy refuses was written");
    node.run("rm -r /etc/patroni/templates").map(drop)
}

/// The same client as in point.rs, once at its own machine's `HAProxy`.
fn gaps(lab: &Lab, main: &Cluster) -> Result<()> {
    main.wait_streaming(2, Duration::from_secs(60))?;
    let client = {
        let (primary, candidate) = (main.primary()?.name(), main.candidate()?.name());
        lab.nodes().iter().find(|node| node.name() != primary && node.name() != candidate).context("a third machine")?
    };
    let writer = Writer::start_at(main, client, "numbers", "127.0.0.1", WRITE)?;
    sleep(Duration::from_secs(5));
    let mut rows = Vec::new();
    for event in ["switchover", "power-off"] {
        let from = writer.now()?;
        let old = main.primary()?;
        match event {
            "switchover" => main.switch_over(main.candidate()?)?,
            _ => old.power_off()?,
        }
        lab.wait_until(Duration::from_secs(90), "somebody writes again", || {
            let new = client_view(client)?;
            Ok(new != old.ipv4() && writer.last_answer()? > from + 1.0)
        })?;
        sleep(Duration::from_secs(5));
        let gap = writer.longest_gap(from, writer.now()?)?;
        rows.push((event, gap));
        if !old.is_on() {
            old.start()?;
        }
        main.wait_streaming(2, Duration::from_secs(120))?;
        // The client's machine must be none that is switched off.
        if main.primary()?.name() == client.name() {
            main.switch_over(main.candidate()?)?;
            main.wait_streaming(2, Duration::from_secs(60))?;
        }
    }
    let (acknowledged, lost) = writer.stop(main)?;
    ensure!(lost.is_empty(), "{} of {acknowledged} acknowledged rows are lost", lost.len());
    for (event, gap) in rows {
        println!("Debian {}: HAProxy: {event}: {gap:.2} s without an answer", lab.release());
    }
    through_any(lab, main)
}

fn client_view(client: &Node) -> Result<String> {
    ask(client, WRITE, "select host(inet_server_addr())")
}
