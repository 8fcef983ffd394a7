//! How long writes pause in a switchover: for a client of the virtual address, and for one whose libpq has the list of all
//! members, in the same switchovers of the same cluster.

use std::time::Duration;

use anyhow::Result;

use super::{Options, Row, Sample};
use crate::patroni::{self, Cluster};
use crate::writer::Writer;
use crate::{Lab, Release};

const MACHINES: [&str; 4] = ["pg1", "pg2", "pg3", "app"];

const VIP: &str = "10.88.0.100";

const SWITCHOVERS: usize = 20;
const QUICK_SWITCHOVERS: usize = 5;

/// Measures on four machines.
pub(super) fn measure(options: &Options) -> Result<Vec<String>> {
    let (ours, theirs) = switchovers(options)?;
    let (ours, theirs) = (Sample::of(ours), Sample::of(theirs));
    let ratio = ours.median / theirs.median;
    Row {
        job: "switchover, longest gap between two writes through the virtual address".to_owned(),
        ours: ours.to_string(),
        against: format!("libpq with the list of all members: {theirs}"),
        reach: "at most 1.05 times as long".to_owned(),
        result: format!("{ratio:.3} times as long"),
        met: ratio <= 1.05,
    }
    .print();
    Ok(Vec::new())
}

/// The gaps in seconds, through the address and through libpq's list, one of each for every switchover.
fn switchovers(options: &Options) -> Result<(Vec<f64>, Vec<f64>)> {
    let lab = Lab::boot_named("bench-gap", Release::Debian13, &MACHINES)?;
    let main = Cluster::with_members(&lab, "main", 3);
    lab.offer(&options.deb)?;
    patroni::install_offered(&lab)?;
    lab.start_etcd()?;
    let settings = format!("TTL=20\nLOOP_WAIT=2\nRETRY_TIMEOUT=5\nVIPS={VIP}/24\n");
    lab.each(|node| node.write("/etc/default/patroni", &settings, 0o644))?;
    main.generate()?;
    main.start()?;
    main.wait_streaming(2, Duration::from_secs(60))?;
    let members: Vec<String> = main.nodes().iter().map(crate::Node::ipv4).collect();
    let app = lab.find("app")?;
    let through_vip = Writer::start(&main, app, "vip", VIP)?;
    let through_list = Writer::start(&main, app, "list", &members.join(","))?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for number in 1..=if options.quick { QUICK_SWITCHOVERS } else { SWITCHOVERS } {
        main.wait_streaming(2, Duration::from_secs(60))?;
        let before = through_vip.now()?;
        main.switch_over(main.candidate()?)?;
        lab.wait_until(Duration::from_secs(30), "both clients insert again", || {
            let recent = through_vip.now()? - 0.3;
            Ok(through_vip.last_answer()? > recent && through_list.last_answer()? > recent)
        })?;
        std::thread::sleep(Duration::from_secs(1));
        let after = through_vip.now()?;
        ours.push(through_vip.longest_gap(before, after)?);
        theirs.push(through_list.longest_gap(before, after)?);
        eprintln!("bench: switchover {number}: {:.2} s, libpq's list {:.2} s", ours[number - 1], theirs[number - 1]);
    }
    Ok((ours, theirs))
}
