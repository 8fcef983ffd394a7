//! A client on a machine that inserts all the time, and what it saw: the gaps between two answers.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};

use crate::Node;
use crate::patroni::Cluster;

const PROGRAM: &str = include_str!("scripts/client.py");
const STEADY: &str = include_str!("scripts/steady.py");
const ROLE: &str = "do 'begin create role app login password ''app''; exception when duplicate_object then end'";

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
        main.sql(
            main.primary()?,
            &format!("{ROLE}; create table {name} (n bigint primary key); grant all on {name} to app"),
        )?;
        node.write("/var/tmp/client.py", PROGRAM, 0o755)?;
        node.run(&format!(
            "systemd-run --quiet --unit=client-{name} python3 /var/tmp/client.py {hosts} {port} {name} /var/tmp/{name}"
        ))?;
        Ok(Self { node, name })
    }

    /// The machine's monotonic clock in seconds, which is the client's.
    pub fn now(&self) -> Result<f64> {
        clock(self.node)
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

/// A client that inserts a number every 10 ms over one connection, which it never opens again.
#[derive(Debug)]
pub struct Steady<'a> {
    node: &'a Node,
    name: String,
}

/// What a [`Steady`] has seen so far.
#[derive(Debug)]
pub struct Seen {
    /// When each row was acknowledged: the first has the number 1.
    pub rows: Vec<f64>,
    /// Why the connection broke, if it did.
    pub broken: Option<String>,
}

impl<'a> Steady<'a> {
    /// Makes the table of this name on a server, which need not be one of Patroni yet, and starts the client on a machine.
    pub fn start(server: (&Cluster, &Node), node: &'a Node, name: &str, host: &str, port: u16) -> Result<Self> {
        let (cluster, at) = server;
        let columns = "n bigint primary key, place bigint generated always as identity";
        cluster.sql(at, &format!("{ROLE}; create table {name} ({columns}); grant all on {name} to app"))?;
        node.write("/var/tmp/steady.py", STEADY, 0o755)?;
        node.run(&format!(
            "systemd-run --quiet --unit=client-{name} python3 /var/tmp/steady.py {host} {port} {name} /var/tmp/{name}
             until grep -q . /var/tmp/{name}; do sleep 0.05; done"
        ))?;
        Ok(Self { node, name: name.to_owned() })
    }

    /// The machine's monotonic clock in seconds, which is the client's.
    pub fn now(&self) -> Result<f64> {
        clock(self.node)
    }

    /// What it has seen so far; also after its machine has been off.
    pub fn seen(&self) -> Result<Seen> {
        let log = self.node.read(&format!("/var/tmp/{}", self.name))?;
        let mut seen = Seen { rows: Vec::new(), broken: None };
        for line in log.lines() {
            let (time, what) = line.split_once(' ').with_context(|| format!("the client wrote {line}"))?;
            if let Some(why) = what.strip_prefix("broken: ") {
                seen.broken = Some(why.to_owned());
            } else {
                seen.rows.push(time.parse()?);
                ensure!(what == seen.rows.len().to_string(), "row {what} was acknowledged out of order");
            }
        }
        Ok(seen)
    }

    /// Ends the client, if its machine has not been off meanwhile.
    pub fn stop(&self) -> Result<()> {
        self.node
            .run(&format!(
                "systemctl stop client-{0}.service 2>/dev/null || ! systemctl -q is-active client-{0}",
                self.name
            ))
            .map(drop)
    }

    /// Fails unless a server has every acknowledged row, in the order in which they were written, and no hole between them.
    pub fn nothing_lost(&self, server: (&Cluster, &Node)) -> Result<usize> {
        let acknowledged = self.seen()?.rows.len();
        let (cluster, at) = server;
        let found = cluster.sql(
            at,
            &format!(
                "select count(*), count(*) filter (where n <> before + 1)
                 from (select n, lag(n, 1, 0::bigint) over (order by place) as before from {}) as rows",
                self.name
            ),
        )?;
        let (stored, wrong) = found.split_once('|').with_context(|| format!("psql printed {found}"))?;
        // One can be stored and not acknowledged.
        ensure!(
            wrong == "0" && stored.parse::<usize>()? >= acknowledged,
            "{acknowledged} rows were acknowledged, {stored} are stored, {wrong} of them at the wrong place"
        );
        Ok(acknowledged)
    }
}

impl Seen {
    /// The longest time without an answer, in seconds, between two times.
    #[must_use]
    pub fn longest_gap(&self, from: f64, to: f64) -> f64 {
        let within = self.rows.iter().copied().filter(|time| (from..=to).contains(time));
        let mut last = from;
        within.chain([to]).fold(0.0, |longest: f64, time| longest.max(time - std::mem::replace(&mut last, time)))
    }
}

fn clock(node: &Node) -> Result<f64> {
    Ok(node.run("cut -d' ' -f1 /proc/uptime")?.trim().parse()?)
}
