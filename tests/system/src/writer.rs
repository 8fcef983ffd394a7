//! A client on a machine that inserts all the time, and what it saw: the gaps between two answers.

use std::collections::HashSet;

use anyhow::{Context, Result};

use crate::Node;
use crate::patroni::Cluster;

const PROGRAM: &str = include_str!("scripts/client.py");

/// A client that inserts numbers into a table of its own, and writes down each that was acknowledged.
#[derive(Debug)]
pub struct Writer<'a> {
    node: &'a Node,
    name: &'static str,
}

impl<'a> Writer<'a> {
    /// Makes the table on the primary and starts the client on another machine. `hosts` is an address, or several with commas
    /// between them, of which libpq takes the first that can be written to.
    pub fn start(main: &Cluster, node: &'a Node, name: &'static str, hosts: &str) -> Result<Self> {
        Self::start_at(main, node, name, hosts, 5432)
    }

    /// The same at another port.
    pub fn start_at(main: &Cluster, node: &'a Node, name: &'static str, hosts: &str, port: u16) -> Result<Self> {
        let role = "do 'begin create role app login password ''app''; exception when duplicate_object then end'";
        main.sql(
            main.primary()?,
            &format!("{role}; create table {name} (n bigint primary key); grant all on {name} to app"),
        )?;
        node.write("/var/tmp/client.py", PROGRAM, 0o755)?;
        node.run(&format!(
            "systemd-run --quiet --unit=client-{name} python3 /var/tmp/client.py {hosts} {port} {name} /var/tmp/{name}"
        ))?;
        Ok(Self { node, name })
    }

    /// The machine's monotonic clock in seconds, which is the client's.
    pub fn now(&self) -> Result<f64> {
        Ok(self.node.run("cut -d' ' -f1 /proc/uptime")?.trim().parse()?)
    }

    /// When the last row was acknowledged.
    pub fn last_answer(&self) -> Result<f64> {
        let line = self.node.run(&format!("tail -n 1 /var/tmp/{}", self.name))?;
        line.split_whitespace().next().context("the client has inserted nothing")?.parse().context("the client's clock")
    }

    /// The longest time without an answer, in seconds, between two times.
    pub fn longest_gap(&self, from: f64, to: f64) -> Result<f64> {
        let program = format!(
            "$1 >= {from} && $1 <= {to} {{ if (last && $1 - last > gap) gap = $1 - last; last = $1 }} END {{ print gap + 0 }}"
        );
        Ok(self.node.run(&format!("awk '{program}' /var/tmp/{}", self.name))?.trim().parse()?)
    }

    /// Ends the client: how many rows were acknowledged, and those of them that the primary does not have.
    pub fn stop(self, main: &Cluster) -> Result<(usize, Vec<String>)> {
        self.node.run(&format!("systemctl stop client-{}", self.name))?;
        let acknowledged = self.node.run(&format!("cut -d' ' -f2 /var/tmp/{}", self.name))?;
        let stored = main.sql(main.primary()?, &format!("select n from {}", self.name))?;
        let stored: HashSet<&str> = stored.lines().collect();
        let lost = acknowledged.lines().filter(|n| !stored.contains(n)).map(str::to_owned).collect();
        Ok((acknowledged.lines().count(), lost))
    }
}
