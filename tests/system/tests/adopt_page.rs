//! `docs/adopt.md`: its commands, as they are written there, bring a cluster of postgresql-common and its standby under Patroni without
//! restarting a server, add a member, and end the pending restart.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::page;
use lab::patroni::{self, Cluster};
use lab::{Lab, Node, Release};

const PAGE: &str = include_str!("../../../docs/adopt.md");
const MACHINES: [&str; 3] = ["pg1", "pg2", "pg3"];

/// The section that restarts PostgreSQL.
const RESTART: &str = "The pending restart";

/// The section that gives the cluster back.
const BACK: &str = "Give it back";

#[test]
fn debian_12() -> Result<()> {
    lab::test_with_stores(Release::Debian12, &MACHINES, commands)
}

#[test]
fn debian_13() -> Result<()> {
    lab::test_with_stores(Release::Debian13, &MACHINES, commands)
}

fn commands(lab: &Lab) -> Result<()> {
    lab.offer(&[patroni::package()?])?;
    lab.each(|node| node.run("mkdir -p -m 0700 /root/.ssh && systemctl start ssh").map(drop))?;
    page::let_in_root_of_the_first(lab)?;
    lab.start_etcd()?;
    let main = Cluster::new(lab, "main");
    let (first, second) = (lab.node("pg1"), lab.node("pg2"));
    stock(lab, &main, first, second)?;
    let since = |node: &Node| main.sql(node, "select pg_postmaster_start_time()");
    let started = (since(first)?, since(second)?);
    // The page has the names of Debian 13.
    let page = PAGE
        .replace("17/main", &main.slashed())
        .replace("17-main", &main.dashed())
        .replace("17 main", &main.slashed().replace('/', " "));
    let blocks = page::blocks(&page, &MACHINES, "etcd")?;
    ensure!(blocks.len() > 10, "the page has only {} blocks", blocks.len());
    let mut restarted = false;
    let mut primary = first.name().to_owned();
    for block in &blocks {
        if block.section == RESTART && !restarted {
            restarted = true;
            main.wait_streaming(2, Duration::from_secs(60))?;
            let now = (since(first)?, since(second)?);
            ensure!(now == started, "a server was restarted: {started:?}, now {now:?}");
            ensure!(
                main.sql(first, "select timeline_id from pg_control_checkpoint()")? == "1",
                "there was a promotion"
            );
        }
        if block.section == "A new member" && block.commands.contains("list") {
            main.wait_streaming(2, Duration::from_secs(60))?;
        }
        if block.section == BACK && !block.nodes_beside(|| Ok(primary.clone()))?.contains(&primary.as_str()) {
            main.wait_streaming(2, Duration::from_secs(90))?;
            afterwards(lab, &main)?;
            // Without a replica there is nobody to ask.
            main.primary()?.name().clone_into(&mut primary);
        }
        block.run(lab, &block.nodes_beside(|| Ok(primary.clone()))?)?;
    }
    ensure!(restarted, "the page has no section {RESTART}");
    given_back(&main, lab.node(&primary))
}

/// The server that was the primary is Debian's own, accepts writes, and starts at boot.
fn given_back(main: &Cluster, node: &Node) -> Result<()> {
    let listed = node.run("pg_lsclusters -h")?;
    ensure!(listed.contains(" online ") && !listed.contains("patroni"), "{listed}");
    main.sql(node, "insert into kept values (0)")?;
    node.run(&format!(
        "systemctl is-active postgresql@{0} && ! systemctl is-enabled --quiet patroni@{0}",
        main.dashed()
    ))?;
    node.run(&format!("pg_ctlcluster {} restart", main.slashed().replace('/', " ")))?;
    let rows = main.sql(node, "select count(*) from kept")?;
    ensure!(rows == "100001", "{rows} rows");
    Ok(())
}

/// A cluster as postgresql-common creates it, with settings, data, a role and a slot of its own; and a standby of it.
fn stock(lab: &Lab, main: &Cluster, first: &Node, second: &Node) -> Result<()> {
    let (etc, unit) = (main.etc(), format!("postgresql@{}", main.dashed()));
    for node in [first, second] {
        node.run(&format!("pg_createcluster {} --start-conf auto", main.slashed().replace('/', " ")))?;
        node.write(
            &format!("{etc}/conf.d/site.conf"),
            "listen_addresses = '*'\nmax_connections = 150\nwork_mem = 8MB\nshared_preload_libraries = 'auto_explain'\n\
             auto_explain.log_min_duration = 5s\n",
            0o644,
        )?;
        node.run(&format!("echo 'host replication standby 10.88.0.0/24 scram-sha-256' >> {etc}/pg_hba.conf"))?;
    }
    first.run(&format!("systemctl start {unit}"))?;
    main.sql(
        first,
        "create role standby replication login password 'theirs'; \
         select pg_create_physical_replication_slot('standby_of_pg1'); \
         create table kept as select generate_series(1, 100000) as n",
    )?;
    let data = format!("/var/lib/postgresql/{}", main.slashed());
    second.run_as(
        "postgres",
        &format!(
            "rm -rf {data} && PGPASSWORD=theirs pg_basebackup --host={} --username=standby --slot=standby_of_pg1 \
             --pgdata={data} --wal-method=stream --checkpoint=fast --write-recovery-conf",
            first.ipv4()
        ),
    )?;
    second.run(&format!("systemctl start {unit}"))?;
    let streams = "select count(*) from pg_stat_replication where state = 'streaming'";
    lab.wait_until(Duration::from_secs(30), "the standby streams under postgresql-common", || {
        Ok(main.sql(first, streams)? == "1")
    })
}

/// Every member has the settings and lines that the cluster had, nothing waits for a restart, and the old slot is gone.
fn afterwards(lab: &Lab, main: &Cluster) -> Result<()> {
    for node in lab.nodes() {
        for (sql, expected) in [
            ("show work_mem", "8MB"),
            ("show max_connections", "150"),
            ("show wal_log_hints", "on"),
            ("show auto_explain.log_min_duration", "5s"),
            ("select count(*) from pg_settings where pending_restart", "0"),
            ("select count(*) from kept", "100000"),
            ("select count(*) from pg_hba_file_rules where 'standby' = any(user_name)", "1"),
            ("select count(*) from pg_replication_slots where slot_name = 'standby_of_pg1'", "0"),
        ] {
            let found = main.sql(node, sql)?;
            ensure!(found == expected, "{}: {sql}: {found}, not {expected}", node.name());
        }
        node.run(&format!("patroni-gen-config diff {}", main.slashed()))?;
        node.run(&format!("! systemctl is-active --quiet postgresql@{}", main.dashed()))?;
    }
    main.primary()?.run(&format!("patroni-gen-config apply {} </dev/null", main.slashed())).map(drop)
}
