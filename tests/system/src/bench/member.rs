//! dnscp on a booted machine, with the package, beside a real Patroni.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::{Cost, Options, Row, Sample, follow, shown};
use crate::patroni::Cluster;
use crate::world::capture::Capture;
use crate::{Lab, Release};

const RUNS: u32 = 20;
const INSTALL_LIMIT: Duration = Duration::from_secs(180);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 100);

/// Measures on one machine of the lab.
pub(super) fn measure(options: &Options) -> Result<Vec<String>> {
    let lab = Lab::boot_named("bench", Release::Debian13, &["pg1"])?;
    lab.offer(&options.deb)?;
    let node = lab.find("pg1")?;
    node.run_within(INSTALL_LIMIT, "apt-get install -y patroni-tools")?;
    node.write("/etc/default/patroni", format!("VIPS={VIP}/24\n"), 0o644)?;
    lab.start_etcd()?;
    let main = Cluster::new(&lab, "main");
    main.generate()?;
    main.start()?;
    let held = || Ok(node.run(&format!("ip -o address show to {VIP}"))?.contains("valid_lft"));
    lab.wait_until(Duration::from_secs(60), "the primary holds the address", held)?;
    // What follows the start has ended.
    std::thread::sleep(Duration::from_secs(20));

    let process = "pid=$(systemctl show --property=MainPID --value dnscp@17-main.service)";
    let look = || {
        let read = |file: &str| node.run(&format!("{process}; cat /proc/$pid/{file}"));
        Ok((read("status")?, read("stat")?))
    };
    Cost::of(follow(options.quick), look)?.print("beside a real Patroni");

    let capture = Capture::begin(lab.network(), &lab.cable(node))?;
    let mut times = Vec::new();
    // The first run does not count.
    for run in 0..=RUNS {
        node.run(&format!("systemctl stop dnscp@17-main.service; ip address del {VIP}/24 dev host0"))?;
        let before = SystemTime::now();
        let program = "/usr/libexec/patroni-tools/dnscp on_role_change primary 17-main";
        let task = node.spawn_as("postgres", &format!("echo $EPOCHREALTIME && exec {program}"))?;
        let frame = capture.announcement(VIP, before, Duration::from_secs(10))?.at;
        let begin: f64 = task.stdout_so_far()?.trim().parse().context("no time")?;
        task.kill()?;
        if run > 0 {
            times.push(frame.duration_since(UNIX_EPOCH)?.as_secs_f64() - begin);
        }
    }
    let sample = Sample::of(times);
    Row {
        job: "`dnscp`, first ARP frame, beside a real Patroni".to_owned(),
        ours: sample.to_string(),
        against: "–".to_owned(),
        reach: "at most 10.0 ms".to_owned(),
        result: shown(sample.median),
        met: sample.median <= 0.01,
    }
    .print();
    Ok(vec![super::versions(node, "patroni postgresql-17 etcd-server")?])
}
