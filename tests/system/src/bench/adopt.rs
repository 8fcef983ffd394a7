//! How long writes pause while a cluster is adopted and given back: for a client with one connection, beside a time in which nothing
//! happens.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Options, Row, shown};
use crate::patroni::{self, Cluster};
use crate::writer::Steady;
use crate::{Lab, Release};

const MACHINES: [&str; 3] = ["pg1", "pg2", "pg3"];

/// What may be added to the longest gap of the time before.
const MORE: f64 = 0.2;

/// Measures on three machines: one with the cluster, all with etcd, one with the client.
pub(super) fn measure(options: &Options) -> Result<Vec<String>> {
    let lab = Lab::boot_named("bench-adopt", Release::Debian13, &MACHINES)?;
    let main = Cluster::with_members(&lab, "main", 1);
    lab.offer(&options.deb)?;
    patroni::install_offered(&lab)?;
    lab.start_etcd()?;
    let (server, app) = (lab.find("pg1")?, lab.find("pg3")?);
    let etc = main.etc();
    server.run(&format!(
        "pg_createcluster 17 main && echo \"listen_addresses = '*'\" > {etc}/conf.d/site.conf
         echo 'host all app 10.88.0.0/24 scram-sha-256' >> {etc}/pg_hba.conf && systemctl start postgresql@17-main"
    ))?;
    // 300 MB.
    main.sql(server, "create table kept as select n, repeat('x', 1000) as t from generate_series(1, 270000) as n")?;
    let client = Steady::start((&main, server), app, "bench", &server.ipv4(), 5432)?;
    let start = client.now()?;
    sleep(Duration::from_secs(if options.quick { 10 } else { 60 }));
    let control = client.seen()?.longest_gap(start, client.now()?);
    let mut rows = Vec::new();
    for (job, command) in [
        ("adopting a cluster of 300 MB", "pg_adoptcluster_patroni --yes 17/main"),
        ("giving it back", "pg_releasecluster_patroni --yes 17/main"),
    ] {
        let before = client.now()?;
        server.run(command)?;
        sleep(Duration::from_secs(2));
        rows.push((job, client.seen()?.longest_gap(before, client.now()?)));
    }
    let seen = client.seen()?;
    ensure!(seen.broken.is_none(), "the connection broke: {:?}", seen.broken);
    client.stop()?;
    client.nothing_lost((&main, server))?;
    for (job, gap) in rows {
        Row {
            job: format!("{job}, longest gap between two writes over one connection"),
            ours: shown(gap),
            against: format!("the time before: {}", shown(control)),
            reach: "at most 0.2 s more".to_owned(),
            result: format!("{} more", shown((gap - control).max(0.0))),
            met: gap <= control + MORE,
        }
        .print();
    }
    Ok(Vec::new())
}
