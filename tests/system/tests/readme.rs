//! `README.md`: its commands, as they are written there, create a cluster on three machines with etcd, and give it a virtual
//! IP address and TLS.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::patroni::{self, Cluster};
use lab::{Lab, Release, page};

const PAGE: &str = include_str!("../../../README.md");
const VERSION: &str = env!("CARGO_PKG_VERSION");

const MACHINES: [&str; 3] = ["pg1", "pg2", "pg3"];

/// The section after which the cluster is there.
const FIRST: &str = "The first cluster";

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
    lab.each(|node| {
        // Nobody is there to agree with apt. The host's key is needed by ssh.
        node.write("/etc/apt/apt.conf.d/90readme", "APT::Get::Assume-Yes \"true\";\n", 0o644)?;
        node.run("mkdir -p -m 0700 /root/.ssh && systemctl start ssh").map(drop)
    })?;
    page::let_in_root_of_the_first(lab)?;
    lab.start_etcd()?;
    let main = Cluster::new(lab, "main");
    // The page has the names of Debian 13, and packages that are files.
    let page = PAGE
        .replace(
            &["", "-common"].map(|end| format!("./patroni-tools{end}_{VERSION}_amd64.deb")).join(" "),
            "patroni-tools",
        )
        .replace("17/main", &main.slashed())
        .replace("17-main", &main.dashed());
    let blocks = page::blocks(&page, &MACHINES, "etcd")?;
    ensure!(blocks.len() > 8, "the page has only {} blocks", blocks.len());
    for block in &blocks {
        if block.section == FIRST && block.commands.contains("pg_lsclusters") {
            main.wait_streaming(2, Duration::from_secs(60))?;
        }
        for node in block.nodes_beside(|| Ok(main.primary()?.name().to_owned()))? {
            block.run(lab, &[node])?;
            if block.section != FIRST {
                main.wait_streaming(2, Duration::from_secs(90))?;
            }
        }
    }
    verified(lab)?;
    lab.wait_until(Duration::from_secs(30), "the primary alone holds the virtual address", || {
        let primary = main.primary()?.name();
        for node in lab.nodes() {
            if node.run("ip -brief address")?.contains("10.88.0.100") != (node.name() == primary) {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// The REST API of each member and PostgreSQL behind the virtual address have a certificate of the site's CA with their address.
fn verified(lab: &Lab) -> Result<()> {
    let addresses = lab.nodes().iter().map(|node| (node.ipv4(), "8008"));
    let endpoint = [("10.88.0.100".to_owned(), "5432 -starttls postgres")];
    for (address, port) in addresses.chain(endpoint) {
        let command = format!(
            "openssl s_client -connect {address}:{port} -CAfile /etc/patroni/tls/ca.pem -verify_return_error \
             -verify_ip {address} </dev/null"
        );
        lab.wait_until(Duration::from_secs(40), &format!("{address} has the site's certificate"), || {
            Ok(lab.node("pg2").try_run(&command)?.status.success())
        })?;
    }
    Ok(())
}
