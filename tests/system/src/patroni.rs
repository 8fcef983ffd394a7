//! A Patroni cluster on the machines of a lab: set up with our package, looked at with Debian's own tools.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

pub use crate::previous::{VERSION as PREVIOUS_VERSION, package as previous_package};
use crate::{Lab, Node};

/// How long `apt-get install` of our package may take.
const INSTALL_LIMIT: Duration = Duration::from_secs(180);

/// The package under test: the file that `PATRONI_TOOLS_DEB` names, or the one in `dist/`.
pub fn package() -> Result<PathBuf> {
    if let Some(path) = env::var_os("PATRONI_TOOLS_DEB") {
        return Ok(PathBuf::from(path));
    }
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist");
    let entries = std::fs::read_dir(&dist).into_iter().flatten().flatten();
    let named = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with("patroni-tools_") && path.extension().is_some_and(|extension| extension == "deb")
    };
    let newest = entries
        .map(|entry| entry.path())
        .filter(named)
        .max_by_key(|path| path.metadata().and_then(|data| data.modified()).ok());
    newest.with_context(|| format!("no patroni-tools_*.deb in {}: run make deb", dist.display()))
}

/// Installs the package by apt on all machines.
pub fn install(lab: &Lab) -> Result<()> {
    lab.offer(&[package()?])?;
    install_offered(lab)
}

/// The same with the package that was offered before.
pub fn install_offered(lab: &Lab) -> Result<()> {
    lab.each(|node| node.run_within(INSTALL_LIMIT, "apt-get install -y patroni-tools").map(drop))
}

/// One member as `patronictl list` shows it.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name, that of its machine.
    pub name: String,
    /// `Leader`, `Replica`, `Sync Standby` …
    pub role: String,
    /// `running`, `streaming` …
    pub state: String,
    /// Its timeline.
    pub timeline: Option<u64>,
}

/// A cluster with a member on every machine of the lab, or on the first ones.
pub struct Cluster<'a> {
    lab: &'a Lab,
    members: usize,
    version: &'static str,
    name: String,
}

impl<'a> Cluster<'a> {
    /// The cluster of this name, in the version of PostgreSQL that the release has.
    #[must_use]
    pub fn new(lab: &'a Lab, name: &str) -> Self {
        Self::with_members(lab, name, lab.nodes().len())
    }

    /// The same on the first machines only.
    #[must_use]
    pub fn with_members(lab: &'a Lab, name: &str, members: usize) -> Self {
        Self { lab, members, version: lab.release().postgresql(), name: name.to_owned() }
    }

    /// Its machines.
    #[must_use]
    pub fn nodes(&self) -> &'a [Node] {
        &self.lab.nodes()[..self.members]
    }

    /// `17/main`.
    #[must_use]
    pub fn slashed(&self) -> String {
        format!("{}/{}", self.version, self.name)
    }

    /// `17-main`.
    #[must_use]
    pub fn dashed(&self) -> String {
        format!("{}-{}", self.version, self.name)
    }

    /// The Patroni file.
    #[must_use]
    pub fn file(&self) -> String {
        format!("/etc/patroni/{}.yml", self.dashed())
    }

    /// The unit.
    #[must_use]
    pub fn unit(&self) -> String {
        format!("patroni@{}.service", self.dashed())
    }

    /// The configuration directory.
    #[must_use]
    pub fn etc(&self) -> String {
        format!("/etc/postgresql/{}", self.slashed())
    }

    /// The data directory, as the server says it.
    pub fn data_directory(&self, node: &Node) -> Result<String> {
        self.sql(node, "show data_directory")
    }

    /// Runs patroni-gen-config everywhere; the first machine's site key goes to the others before.
    pub fn generate(&self) -> Result<()> {
        let (first, others) = self.nodes().split_first().context("a lab has machines")?;
        first.run(&format!("patroni-gen-config {}", self.slashed()))?;
        let key = first.read("/etc/patroni/site.key")?;
        for node in others {
            node.write("/etc/patroni/site.key", &key, 0o600)?;
            node.run(&format!("patroni-gen-config {}", self.slashed()))?;
        }
        Ok(())
    }

    /// Enables and starts the unit everywhere.
    pub fn start(&self) -> Result<()> {
        Lab::each_of(self.nodes(), |node| {
            node.run(&format!("systemctl enable --quiet --now {}", self.unit())).map(drop)
        })
    }

    /// Ends the cluster everywhere: Patroni, PostgreSQL, data and configuration. The store is not asked.
    pub fn remove(&self) -> Result<()> {
        Lab::each_of(self.nodes(), |node| {
            node.run(&format!(
                "systemctl disable --quiet --now {} && pg_dropcluster {} && rm -f {}",
                self.unit(),
                self.slashed().replace('/', " "),
                self.file()
            ))
            .map(drop)
        })
    }

    /// `patronictl` with this cluster's file, and a limit, because it hangs on some errors of the store.
    pub fn patronictl(&self, node: &Node, arguments: &str) -> Result<String> {
        node.run(&format!("timeout 40 patronictl -c {} {arguments}", self.file()))
    }

    /// The members, as one machine sees them.
    pub fn members(&self, node: &Node) -> Result<Vec<Member>> {
        let printed = self.patronictl(node, "list --format json")?;
        let rows: Vec<Value> =
            serde_json::from_str(&printed).with_context(|| format!("patronictl printed {printed}"))?;
        let text = |row: &Value, key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(rows
            .iter()
            .map(|row| Member {
                name: text(row, "Member"),
                role: text(row, "Role"),
                state: text(row, "State"),
                timeline: row.get("TL").and_then(Value::as_u64),
            })
            .collect())
    }

    /// The machine of the primary, as the machines that are on see it.
    pub fn primary(&self) -> Result<&'a Node> {
        let node = self.any()?;
        let members = self.members(node)?;
        let leader = members.iter().find(|member| member.role == "Leader" && member.state == "running");
        let leader = leader.with_context(|| format!("{} has no primary: {members:?}", self.slashed()))?;
        self.lab.find(&leader.name)
    }

    /// A machine that is no primary.
    pub fn replica(&self) -> Result<&'a Node> {
        let primary = self.primary()?.name();
        let other = self.nodes().iter().find(|node| node.is_on() && node.name() != primary);
        other.context("no machine but the primary is on")
    }

    /// A machine that may become primary: the synchronous standby where there is one.
    pub fn candidate(&self) -> Result<&'a Node> {
        let members = self.members(self.any()?)?;
        match members.iter().find(|member| member.role == "Sync Standby") {
            Some(member) => self.lab.find(&member.name),
            None => self.replica(),
        }
    }

    fn any(&self) -> Result<&'a Node> {
        self.nodes().iter().find(|node| node.is_on()).context("all machines are off")
    }

    /// Runs SQL over the Unix socket as postgres, by pg-common's wrapper, and returns the bare rows.
    pub fn sql(&self, node: &Node, sql: &str) -> Result<String> {
        // Over standard input nothing needs quoting twice.
        let sql = sql.replace('\'', r"'\''");
        let printed = node.run_as(
            "postgres",
            &format!(
                "echo '{sql}' | PGCONNECT_TIMEOUT=5 timeout 50 psql --cluster {} -XAtq -v ON_ERROR_STOP=1",
                self.slashed()
            ),
        )?;
        Ok(printed.trim_end().to_owned())
    }

    /// Waits until there is a primary and `replicas` members stream from it, on its timeline, by the primary's own word.
    pub fn wait_streaming(&self, replicas: usize, limit: Duration) -> Result<()> {
        self.lab.wait_until(limit, &format!("{} replicas of {} stream", replicas, self.slashed()), || {
            let primary = self.primary()?;
            let streaming = self.sql(
                primary,
                "select count(*) from pg_stat_replication where state = 'streaming' \
                 and application_name !~ '^pg_'",
            )?;
            let members = self.members(primary)?;
            let timelines: Vec<_> = members.iter().map(|member| member.timeline).collect();
            let well = members.iter().all(|member| ["running", "streaming"].contains(&member.state.as_str()));
            let together = timelines.iter().all(|timeline| timeline.is_some() && *timeline == timelines[0]);
            if streaming != replicas.to_string() || !well || !together || members.len() != replicas + 1 {
                bail!("{streaming} stream, and patronictl list has {members:?}");
            }
            Ok(true)
        })
    }

    /// Inserts a row on the primary and waits until every member that is on has it.
    pub fn insert(&self, row: &str) -> Result<()> {
        let primary = self.primary()?;
        self.sql(
            primary,
            &format!("create table if not exists events (what text primary key); insert into events values ('{row}')"),
        )?;
        self.wait_for_row(row)
    }

    /// Waits until every member that is on has the row.
    pub fn wait_for_row(&self, row: &str) -> Result<()> {
        for node in self.nodes().iter().filter(|node| node.is_on()) {
            self.lab.wait_until(Duration::from_secs(30), &format!("{} has the row {row}", node.name()), || {
                Ok(self.sql(node, &format!("select count(*) from events where what = '{row}'"))? == "1")
            })?;
        }
        Ok(())
    }

    /// Makes another machine the primary, in order.
    pub fn switch_over(&self, to: &Node) -> Result<()> {
        let from = self.primary()?.name();
        ensure!(from != to.name(), "{from} is the primary already");
        self.patronictl(to, &format!("switchover --candidate {} --force", to.name()))?;
        self.lab.wait_until(Duration::from_secs(40), &format!("{} is primary", to.name()), || {
            Ok(self.primary()?.name() == to.name())
        })
    }
}
