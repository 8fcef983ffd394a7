//! The programs around a cluster that move its address or follow it, on three machines, everything generated from one settings
//! file: keepalived, vip-manager and `PgBouncer`.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::patroni::{self, Cluster};
use lab::watch::{Watch, overlap};
use lab::writer::Writer;
use lab::{Lab, Node, Release};

/// The last one is the client's.
const MACHINES: [&str; 4] = ["pg1", "pg2", "pg3", "app"];
const VIP: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 100);
const VIP6: &str = "fd00:88::64";

/// How long keepalived's journal is looked at, in seconds.
const QUIET: u64 = 600;

/// From the promotion until the address is there.
const MOVED: Duration = Duration::from_millis(1500);

/// vip-manager looks at the store itself, and its key changes before the promotion has ended.
const MOVED_BY_STORE: Duration = Duration::from_secs(3);

/// Prints by how many milliseconds the address is later than the promotion.
const LATE: &str = r#"
    promoted=$(mktemp); chmod 666 "$promoted"
    runuser -u postgres -- psql --cluster CLUSTER -XAtq -d postgres \
        -c 'do $$ begin while pg_is_in_recovery() loop perform pg_sleep(0.005); end loop; end $$' \
        -c 'select (extract(epoch from clock_timestamp()) * 1000)::bigint' > "$promoted" &
    until ip -4 -oneline address show | grep -q 'inet VIP/'; do sleep 0.01; done
    there=$(date +%s%3N)
    wait $!
    echo $(( there - $(cat "$promoted") ))
"#;

#[test]
fn debian_12() -> Result<()> {
    lab::test_with_stores(Release::Debian12, &MACHINES, life)
}

#[test]
fn debian_13() -> Result<()> {
    lab::test_with_stores(Release::Debian13, &MACHINES, life)
}

fn life(lab: &Lab) -> Result<()> {
    let main = Cluster::with_members(lab, "main", 3);
    patroni::install(lab)?;
    lab.start_etcd()?;
    lab.each(|node| node.write("/etc/default/patroni", settings(&main, "keepalived"), 0o644))?;
    main.generate()?;
    main.start()?;
    main.wait_streaming(2, Duration::from_secs(60))?;
    Lab::each_of(main.nodes(), |node| configure(node, &main, "keepalived", "keepalived"))?;
    lab.wait_until(Duration::from_secs(15), "the primary alone has the address", || only_the_primary_has_it(&main))?;
    let writer = Writer::start(&main, lab.node("app"), "numbers", &VIP.to_string())?;
    pool(&main)?;

    keepalived_says_nothing_twice(&main)?;
    keepalived_follows(lab, &main, &writer).context("keepalived")?;
    keepalived_loses_it_with_dnscp_and_patroni(lab, &main)?;
    written_through_every_pool(&main, "after keepalived")?;
    vip_manager(lab, &main, &writer)?;
    let (acknowledged, lost) = writer.stop(&main)?;
    println!("Debian {}: {acknowledged} acknowledged rows, {} lost", lab.release(), lost.len());
    ensure!(lost.is_empty(), "{} acknowledged rows are lost: {}", lost.len(), lost.join(" "));
    Ok(())
}

fn settings(main: &Cluster, manager: &str) -> String {
    let members: Vec<String> = main.nodes().iter().map(|node| format!("{}={}", node.name(), node.ipv4())).collect();
    format!(
        "MEMBERS={}\nTTL=20\nLOOP_WAIT=2\nRETRY_TIMEOUT=5\nSYNCHRONOUS_MODE=yes\nVIPS={VIP}/24,{VIP6}/64\nVIP_LEASE=6\nVIP_MANAGER={manager}\n\
         PGBOUNCER_POOL_MODE=transaction\n",
        members.join(",")
    )
}

/// Generates, and starts what was generated for.
fn configure(node: &Node, main: &Cluster, program: &str, unit: &str) -> Result<()> {
    node.run(&format!("patroni-gen-config --for {program} {}", main.slashed()))?;
    let again = node.run(&format!("patroni-gen-config --for {program} {}", main.slashed()))?;
    ensure!(again.lines().all(|line| line.ends_with(": up to date")), "the second run says: {again}");
    node.run(&format!("systemctl enable --quiet {unit} && systemctl restart {unit}")).map(drop)
}

fn holds(node: &Node) -> Result<bool> {
    Ok(node.run("ip -j address show")?.contains(&format!("\"{VIP}\"")))
}

fn only_the_primary_has_it(main: &Cluster) -> Result<bool> {
    let primary = main.primary()?.name();
    for node in main.nodes().iter().filter(|node| node.is_on()) {
        ensure!(holds(node)? == (node.name() == primary), "the primary is {primary}, {} is wrong", node.name());
    }
    Ok(true)
}

/// The pools, and a table to write through them.
fn pool(main: &Cluster) -> Result<()> {
    Lab::each_of(main.nodes(), |node| {
        configure(node, main, "pgbouncer", "pgbouncer")?;
        node.wait_listening(&[6432])
    })?;
    let primary = main.primary()?;
    main.sql(primary, "create table written (what text)")?;
    main.sql(primary, "grant insert on written to app")?;
    let sql =
        format!("runuser -u postgres -- psql --cluster {} -d postgres -f /etc/pgbouncer/auth.sql", main.slashed());
    primary.run(&sql)?;
    primary.run(&sql).context("the second time")?;
    written_through_every_pool(main, "at first")?;
    for (user, password) in [("app", "wrong"), ("postgres", "app"), ("replicator", "app")] {
        let refused = primary.try_run(&through_the_pool(user, password, "select 1"))?;
        ensure!(!refused.status.success(), "{user} came in by the pool with the password {password}");
    }
    Ok(())
}

fn through_the_pool(user: &str, password: &str, sql: &str) -> String {
    format!("PGPASSWORD={password} timeout 30 psql -X -h 127.0.0.1 -p 6432 -U {user} -d postgres -qAtc \"{sql}\"")
}

/// A row through each machine's pool, which only the primary takes.
fn written_through_every_pool(main: &Cluster, when: &str) -> Result<()> {
    for node in main.nodes() {
        let row = format!("{} {when}", node.name());
        node.run(&through_the_pool("app", "app", &format!("insert into written values ('{row}')")))
            .with_context(|| format!("through the pool of {}, {when}", node.name()))?;
    }
    let rows = main.sql(main.primary()?, &format!("select count(*) from written where what like '% {when}'"))?;
    ensure!(rows == main.nodes().len().to_string(), "the primary has {rows} rows written {when}");
    Ok(())
}

/// The drawback of the check that fails on every replica.
fn keepalived_says_nothing_twice(main: &Cluster) -> Result<()> {
    std::thread::sleep(Duration::from_secs(QUIET));
    for node in main.nodes() {
        let journal = format!("journalctl --since=-{QUIET}s --no-pager --output=cat -u keepalived -u 'dnscp@*'");
        let twice = node.run(&format!("{journal} | sort | uniq --repeated"))?;
        ensure!(twice.is_empty(), "{} says in {QUIET} s more than once: {twice}", node.name());
        let lines = node.run(&format!("{journal} | grep -vc '^-- No entries --$' || true"))?;
        println!("{}: {} lines of keepalived and dnscp in {QUIET} s", node.name(), lines.trim());
    }
    Ok(())
}

fn keepalived_follows(lab: &Lab, main: &Cluster, writer: &Writer) -> Result<()> {
    let version = lab.nodes()[0].run("keepalived --version 2>&1 | head -n 1")?;
    println!("Debian {}: {}", lab.release(), version.trim());
    moves(lab, main, writer, "switchover", MOVED, |_| main.switch_over(main.candidate()?))?;
    written_through_every_pool(main, "after a switchover")?;
    power_off(lab, main, writer, "power-off", MOVED)?;
    let primary = main.primary()?;
    ensure!(primary.run("ip -j address show")?.contains(VIP6), "{} lacks {VIP6}", primary.name());
    written_through_every_pool(main, "after a power-off")
}

/// The primary's machine, which comes back without the address.
fn power_off(lab: &Lab, main: &Cluster, writer: &Writer, event: &str, limit: Duration) -> Result<()> {
    moves(lab, main, writer, event, limit, |watch| {
        let old = main.primary()?;
        watch.leave(old)?;
        old.power_off()?;
        lab.wait_until(
            Duration::from_secs(60),
            "another member is primary",
            || Ok(main.primary()?.name() != old.name()),
        )
    })?;
    let off = main.nodes().iter().find(|node| !node.is_on()).context("a machine is off")?;
    off.start()?;
    main.wait_streaming(2, Duration::from_secs(90))?;
    lab.wait_until(Duration::from_secs(15), "it is not on the machine that is back", || only_the_primary_has_it(main))
}

/// Lets the primary change under watch.
fn moves(
    lab: &Lab,
    main: &Cluster,
    writer: &Writer,
    event: &str,
    limit: Duration,
    happen: impl FnOnce(&Watch) -> Result<()>,
) -> Result<()> {
    main.wait_streaming(2, Duration::from_secs(60)).with_context(|| format!("before the {event}"))?;
    lab.wait_until(Duration::from_secs(15), "the primary alone has the address", || only_the_primary_has_it(main))?;
    // Without one Patroni promotes nobody, in favour of the rows.
    lab.wait_until(Duration::from_secs(60), "there is a synchronous standby", || {
        Ok(main.members(main.primary()?)?.iter().any(|member| member.role == "Sync Standby"))
    })?;
    let old = main.primary()?.name();
    let script = LATE.replace("CLUSTER", &main.slashed()).replace("VIP", &VIP.to_string());
    let others: Vec<&Node> = main.nodes().iter().filter(|node| node.name() != old).collect();
    let mut looking = Vec::new();
    for node in others {
        looking.push((node, node.spawn(&script)?));
        lab.wait_until(Duration::from_secs(30), &format!("{} looks for its promotion", node.name()), || {
            Ok(main.sql(node, "select count(*) from pg_stat_activity where query like 'do % pg_is_in_recovery()%'")?
                == "1")
        })?;
    }
    let before = writer.now()?;
    let watch = Watch::begin(lab, VIP)?;
    happen(&watch)?;
    let new = main.primary()?.name();
    let (promoted, others): (Vec<_>, Vec<_>) = looking.into_iter().partition(|(node, _)| node.name() == new);
    let (_, late) = promoted.into_iter().next().context("the primary is an old one")?;
    let late: i64 = late.wait(Duration::from_secs(30))?.ok()?.trim().parse().context("the milliseconds")?;
    // Else they would be taken for those of the next event.
    for (node, looking) in others {
        main.sql(
            node,
            "select pg_terminate_backend(pid) from pg_stat_activity where query like 'do % pg_is_in_recovery()%'",
        )?;
        drop(looking);
    }
    std::thread::sleep(Duration::from_secs(3));
    let (held, _) = watch.end()?;
    for held in &held {
        println!("  {} held it from {:.3} s to {:.3} s", held.node, held.from.as_secs_f64(), held.to.as_secs_f64());
    }
    lab.wait_until(Duration::from_secs(30), "the client inserts again", || {
        Ok(writer.last_answer()? > writer.now()? - 0.5)
    })?;
    println!(
        "Debian {}: {event}: the address came {late} ms after the promotion, {:.2} s without an answer",
        lab.release(),
        writer.longest_gap(before, writer.now()?)?
    );
    ensure!(
        i128::from(late) <= i128::try_from(limit.as_millis())?,
        "{event}: the address came {late} ms after the promotion"
    );
    ensure!(overlap(&held).is_zero(), "{event}: two machines held the address for {:?}", overlap(&held));
    only_the_primary_has_it(main).map(drop)
}

/// Without the word of dnscp nobody has it, no replica either.
fn keepalived_loses_it_with_dnscp_and_patroni(lab: &Lab, main: &Cluster) -> Result<()> {
    let primary = main.primary()?;
    let gone = |what: &str| {
        lab.wait_until(Duration::from_secs(10), what, || {
            let held: Vec<bool> = main.nodes().iter().map(holds).collect::<Result<_>>()?;
            Ok(held.iter().all(|held| !held))
        })
    };
    let back = || lab.wait_until(Duration::from_secs(20), "it is back", || only_the_primary_has_it(main));
    let service = format!("dnscp@{}", main.dashed());
    for (event, begin, end) in [
        ("stopped", format!("systemctl stop {service}"), format!("systemctl start {service}")),
        ("killed", format!("systemctl kill --kill-whom=main --signal=KILL {service}"), "true".to_owned()),
    ] {
        primary.run(&begin)?;
        gone(&format!("dnscp was {event}, and the address is gone"))?;
        primary.run(&end)?;
        back().with_context(|| format!("after dnscp was {event}"))?;
    }
    let signal = |signal| primary.run(&format!("systemctl kill --kill-whom=main --signal={signal} {}", main.unit()));
    signal("STOP")?;
    let hung = gone("Patroni hangs, and the address is gone");
    signal("CONT")?;
    hung?;
    main.wait_streaming(2, Duration::from_secs(90))?;
    back()
}

/// Debian 12 has only the version that cannot work.
fn vip_manager(lab: &Lab, main: &Cluster, writer: &Writer) -> Result<()> {
    let program = format!("patroni-gen-config --for vip-manager {}", main.slashed());
    let refused = lab.nodes()[0].try_run(&program)?;
    match lab.release() {
        Release::Debian12 => {
            ensure!(refused.status.code() == Some(1) && refused.stderr.contains("VIP_MANAGER=keepalived"), "{refused}");
            return Ok(());
        }
        Release::Debian13 => {
            ensure!(refused.stderr.contains("two programs must not move the same address"), "{refused}");
        }
    }
    let one = settings(main, "vip-manager").replace(&format!(",{VIP6}/64"), "");
    Lab::each_of(main.nodes(), |node| {
        node.write("/etc/default/patroni", &one, 0o644)?;
        node.run("systemctl disable --quiet --now keepalived")?;
        node.run(&format!("patroni-gen-config {} && systemctl reload dnscp@{}", main.slashed(), main.dashed()))?;
        configure(node, main, "vip-manager", &format!("vip-manager@{}", main.dashed()))
    })?;
    lab.wait_until(Duration::from_secs(20), "the primary alone has the address", || only_the_primary_has_it(main))?;
    moves(lab, main, writer, "switchover with vip-manager", MOVED_BY_STORE, |_| main.switch_over(main.candidate()?))?;
    power_off(lab, main, writer, "power-off with vip-manager", MOVED_BY_STORE)?;
    written_through_every_pool(main, "after vip-manager")
}
