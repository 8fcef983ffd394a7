//! `docs/from-debian.md` and `docs/from-autobase.md`: their commands, as they are written there, take over the members of a running Patroni
//! cluster, one after the other, while a client writes over one connection that is never opened again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::page;
use lab::patroni::{self, Cluster};
use lab::{Lab, Node, Release};

const FROM_DEBIAN: &str = include_str!("../../../docs/from-debian.md");
const FROM_AUTOBASE: &str = include_str!("../../../docs/from-autobase.md");
const MACHINES: [&str; 3] = ["pg1", "pg2", "pg3"];

const CLIENT: &str = include_str!("../src/scripts/steady.py");
const LOG: &str = "/tmp/client.log";

/// The longest that the client may wait. No step interrupts it, so this is what a loaded machine needs.
const GAP: f64 = 3.0;

/// As autobase writes it, with keys that no setting expresses.
const PATRONI_YML: &str = "\
scope: postgres-cluster
name: NAME
namespace: /service
log: {level: INFO, traceback_level: ERROR, dir: /var/log/patroni, file_num: 4, file_size: 25000000, loggers: {urllib3: WARNING}}
restapi:
  listen: 0.0.0.0:8009
  connect_address: ADDRESS:8009
  authentication: {username: patroni, password: rest-pass}
etcd3: {hosts: 'HOSTS'}
bootstrap:
  method: initdb
  dcs:
    ttl: 30
    loop_wait: 10
    retry_timeout: 10
    maximum_lag_on_failover: 1048576
    master_start_timeout: 300
    synchronous_mode: false
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters: {max_connections: 150, shared_preload_libraries: auto_explain, auto_explain.log_min_duration: 10s, wal_level: logical}
  initdb: [{encoding: UTF8}, {locale: C.UTF-8}, data-checksums]
  pg_hba: ['host replication replicator 127.0.0.1/32 scram-sha-256', 'host all all 0.0.0.0/0 scram-sha-256']
postgresql:
  listen: 0.0.0.0:5432
  connect_address: ADDRESS:5432
  use_unix_socket: true
  data_dir: /var/lib/postgresql/CLUSTER
  bin_dir: /usr/lib/postgresql/VERSION/bin
  config_dir: /etc/postgresql/CLUSTER
  pgpass: /var/lib/postgresql/.pgpass_patroni
  authentication:
    replication: {username: replicator, password: replicator-pass}
    superuser: {username: postgres, password: postgres-pass}
  parameters: {unix_socket_directories: /var/run/postgresql}
  pg_hba:
  - local all postgres peer
  - local all all peer
  - host all all 127.0.0.1/32 scram-sha-256
  - host replication replicator 127.0.0.1/32 scram-sha-256
  - host replication replicator 10.88.0.0/24 scram-sha-256
  remove_data_directory_on_rewind_failure: false
  callbacks: {on_role_change: /bin/true}
  create_replica_methods: [basebackup]
  basebackup: {max-rate: 100M}
watchdog: {mode: off, device: /dev/watchdog, safety_margin: 5}
tags: {nosync: false, noloadbalance: false, nofailover: false, clonefrom: false, zone: a}
";

/// With `KillMode=control-group`, which would also end PostgreSQL if it were still there.
const PATRONI_SERVICE: &str = "\
[Unit]
After=network.target
[Service]
User=postgres
Group=postgres
ExecStart=/usr/bin/patroni /etc/patroni/patroni.yml
KillMode=control-group
TimeoutSec=60
Restart=on-failure
[Install]
WantedBy=multi-user.target
";

#[test]
fn from_debian_12() -> Result<()> {
    lab::test_with_stores(Release::Debian12, &MACHINES, |lab| take_over(lab, FROM_DEBIAN, of_debian))
}

#[test]
fn from_debian_13() -> Result<()> {
    lab::test_with_stores(Release::Debian13, &MACHINES, |lab| take_over(lab, FROM_DEBIAN, of_debian))
}

#[test]
fn from_autobase_12() -> Result<()> {
    lab::test_with_stores(Release::Debian12, &MACHINES, |lab| take_over(lab, FROM_AUTOBASE, of_autobase))
}

#[test]
fn from_autobase_13() -> Result<()> {
    lab::test_with_stores(Release::Debian13, &MACHINES, |lab| take_over(lab, FROM_AUTOBASE, of_autobase))
}

/// Debian's own file, under the unit of Debian's package.
fn of_debian(lab: &Lab, main: &Cluster, node: &Node) -> Result<()> {
    node.write("/etc/patroni/dcs.yml", format!("etcd3:\n  hosts: {}\n", hosts(lab)), 0o644)?;
    node.run(&format!(
        "pg_createconfig_patroni --hostip={} --network=10.88.0.0/24 {} && systemctl enable --quiet --now patroni@{}",
        node.ipv4(),
        main.slashed().replace('/', " "),
        main.dashed()
    ))
    .map(drop)
}

/// A file and a unit as those of autobase, whose directory belongs to postgres.
fn of_autobase(lab: &Lab, main: &Cluster, node: &Node) -> Result<()> {
    let cluster = main.slashed();
    let version = cluster.split('/').next().unwrap_or_default();
    let file = PATRONI_YML
        .replace("NAME", node.name())
        .replace("ADDRESS", &node.ipv4())
        .replace("HOSTS", &hosts(lab))
        .replace("CLUSTER", &cluster)
        .replace("VERSION", version);
    node.write("/etc/patroni/patroni.yml", file, 0o640)?;
    node.write("/etc/systemd/system/patroni.service", PATRONI_SERVICE, 0o644)?;
    node.run(&format!(
        "pg_createcluster {} >/dev/null; rm -rf /var/lib/postgresql/{cluster}; \
         install -d -o postgres -g postgres /var/log/patroni && chown -R postgres:postgres /etc/patroni && \
         systemctl daemon-reload && systemctl enable --quiet --now patroni.service",
        cluster.replace('/', " ")
    ))
    .map(drop)
}

fn hosts(lab: &Lab) -> String {
    lab.nodes().iter().map(|node| format!("{}:2379", node.ipv4())).collect::<Vec<_>>().join(",")
}

fn take_over(lab: &Lab, page: &str, set_up: fn(&Lab, &Cluster, &Node) -> Result<()>) -> Result<()> {
    lab.offer(&[patroni::package()?])?;
    lab.each(|node| node.run("mkdir -p -m 0700 /root/.ssh && systemctl start ssh").map(drop))?;
    page::let_in_root_of_the_first(lab)?;
    lab.start_etcd()?;
    let main = Cluster::new(lab, "main");
    let first = lab.node("pg1");
    for node in lab.nodes() {
        set_up(lab, &main, node)?;
        lab.wait_until(Duration::from_secs(90), "the member is ready", || {
            Ok(node.try_run_as("postgres", "psql -Atc 'select 1'")?.status.success())
        })?;
    }
    streaming(lab, first)?;
    let sql = |node: &Node, sql: &str| node.run_as("postgres", &format!("psql -Atc \"{sql}\""));
    sql(first, "create role app login password 'app'")?;
    sql(first, "create table steady (n integer)")?;
    sql(first, "grant all on steady to app")?;
    let started = |node: &Node| sql(node, "select pg_postmaster_start_time()");
    let before = lab.nodes().iter().map(started).collect::<Result<Vec<_>>>()?;
    first.write("/tmp/steady.py", CLIENT, 0o644)?;
    first.run(&format!("systemd-run --quiet --unit=client python3 /tmp/steady.py 127.0.0.1 5432 steady {LOG}"))?;

    let text = page::of_cluster(page, &main);
    let blocks = page::blocks(&text, &MACHINES, "etcd")?;
    ensure!(blocks.len() > 5, "the page has only {} blocks", blocks.len());
    for block in &blocks {
        block.run(lab, &block.nodes)?;
    }

    streaming(lab, first)?;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        std::thread::sleep(Duration::from_millis(500));
    }
    first.run("systemctl stop client")?;
    seen(lab, first)?;
    let after = lab.nodes().iter().map(started).collect::<Result<Vec<_>>>()?;
    ensure!(before == after, "a server was restarted: {before:?}, now {after:?}");
    ensure!(sql(first, "select timeline_id from pg_control_checkpoint()")?.trim() == "1", "there was a promotion");
    for node in lab.nodes() {
        node.run(&format!("patroni-gen-config diff {}", main.slashed()))?;
        node.run(&format!("systemctl is-active {0} && systemctl is-enabled {0}", main.unit()))?;
        node.run("! systemctl is-active --quiet patroni.service")?;
        ensure!(
            sql(node, "select count(*) from pg_roles where rolname = 'rewind_user'")?.trim() == "1",
            "no rewind_user"
        );
    }
    // The cluster is not in maintenance mode, and its members obey each other.
    let second = lab.node("pg2");
    main.switch_over(second)?;
    main.wait_streaming(2, Duration::from_secs(90))
}

/// Both replicas stream from this primary.
fn streaming(lab: &Lab, primary: &Node) -> Result<()> {
    let sql = "select count(*) from pg_stat_replication where state = 'streaming'";
    lab.wait_until(Duration::from_secs(90), "two replicas stream", || {
        Ok(primary.run_as("postgres", &format!("psql -Atc \"{sql}\""))?.trim() == "2")
    })
}

/// What the client has seen: its connection did not break, it never waited long, and every acknowledged row is on all members.
fn seen(lab: &Lab, first: &Node) -> Result<()> {
    let log = first.read(LOG)?;
    ensure!(!log.contains("broken"), "the connection was closed: {}", log.lines().last().unwrap_or_default());
    let rows: Vec<(f64, u64)> = log
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(time, number)| Some((time.parse().ok()?, number.parse().ok()?)))
        .collect();
    let gap = rows.windows(2).map(|pair| pair[1].0 - pair[0].0).fold(0.0, f64::max);
    let last = rows.last().context("the client wrote nothing")?.1;
    println!("Debian {}: {last} rows, longest gap {gap:.3} s", lab.release());
    ensure!(rows.len() > 500 && gap < GAP, "the client wrote {last} rows and waited {gap:.3} s");
    let missing = format!(
        "select count(*) from generate_series(1, {last}) as g (n) where not exists (select from steady s where s.n = g.n)"
    );
    for node in lab.nodes() {
        lab.wait_until(Duration::from_secs(30), "every acknowledged row is there", || {
            Ok(node.run_as("postgres", &format!("psql -Atc \"{missing}\""))?.trim() == "0")
        })?;
    }
    Ok(())
}
