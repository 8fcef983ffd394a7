//! One table of all clusters of this host: `pg_lsclusters` for the members of Patroni clusters. The clusters are asked independently and at
//! the same time, so that an unreachable DCS does not prevent the others from being shown.

use std::net::IpAddr;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::slice::from_ref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use host::endpoint::Endpoint;
use host::report::{self, Level, Reporter};
use host::trouble::{Explain, Trouble};
use host::{ClusterId, Root, clusters};
use serde::Serialize;
use serde_json::Value;

use crate::doctor::dcs_content_unless_down;
use crate::files::yaml::Yaml;
use crate::patroni::paths::patroni_file;
use crate::patroni::patronictl::{Member, Patronictl};
use crate::pg_patronictl::rights;
use crate::pg_patronictl::source::{patronictl, read, scope};

/// How long one DCS may take: longer than patronictl waits for an unreachable server of it.
const LIMIT: Duration = Duration::from_secs(20);

/// How many are asked at a time; a host can have hundreds of clusters.
const AT_A_TIME: usize = 16;

/// The columns of the table. New ones come last, so that the others keep their place.
const COLUMNS: [&str; 12] = [
    "Ver",
    "Cluster",
    "Port",
    "Member",
    "Role",
    "State",
    "TL",
    "Lag in MB",
    "VIP",
    "DNS name",
    "Pending restart",
    "Maintenance mode",
];

/// A member, or a cluster that could not be asked.
#[derive(Debug, Default, Serialize)]
struct Row {
    version: String,
    cluster: String,
    port: Option<u16>,
    member: Option<String>,
    /// Is it the member on this host?
    own: bool,
    role: Option<String>,
    state: String,
    timeline: Option<u64>,
    lag_in_mb: Option<Value>,
    /// Does a parameter take effect only when PostgreSQL of this member restarts?
    pending_restart: Option<bool>,
    /// Is the cluster in maintenance mode (`patronictl pause`)?
    maintenance_mode: Option<bool>,
    /// The virtual IP addresses that this member should have.
    vip: Vec<IpAddr>,
    /// The DNS name that should resolve to them.
    dns_name: Option<String>,
    /// Why the cluster could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Row {
    fn new(id: &ClusterId, state: &str) -> Self {
        Self {
            version: id.version.to_string(),
            cluster: id.name.to_string(),
            state: state.to_owned(),
            ..Self::default()
        }
    }

    fn cells(&self) -> [String; COLUMNS.len()] {
        let vips: Vec<String> = self.vip.iter().map(ToString::to_string).collect();
        let own = if self.own { "*" } else { "" };
        let cells = [
            self.version.clone(),
            self.cluster.clone(),
            self.port.map(|port| port.to_string()).unwrap_or_default(),
            self.member.as_ref().map(|member| format!("{member}{own}")).unwrap_or_default(),
            self.role.clone().unwrap_or_default(),
            self.state.clone(),
            self.timeline.map(|timeline| timeline.to_string()).unwrap_or_default(),
            self.lag_in_mb
                .as_ref()
                .map(|lag| lag.as_str().map_or_else(|| lag.to_string(), str::to_owned))
                .unwrap_or_default(),
            vips.join(","),
            self.dns_name.clone().unwrap_or_default(),
            if self.pending_restart == Some(true) { "*".to_owned() } else { String::new() },
            if self.maintenance_mode == Some(true) { "on".to_owned() } else { String::new() },
        ];
        // Text from the DCS must not move the cursor.
        cells.map(|cell| if cell.is_empty() { "-".to_owned() } else { report::plain(&cell) })
    }
}

/// Prints the table. A cluster that could not be asked has a row; the reason is written to stderr.
pub fn run(root: &Root, ids: &[ClusterId], json: bool, reporter: &Reporter) -> Result<()> {
    if !ids.is_empty() {
        patronictl(root)?;
    }
    let mut rows = Vec::new();
    let mut errors = Vec::new();
    for (id, looked) in ids.iter().zip(all(ids, |id| look(root, id, reporter))) {
        match looked {
            Ok(members) => rows.extend(members),
            Err(error) => {
                let mut trouble = Trouble::of(&error);
                rows.push(Row { port: port_here(root, id), error: Some(trouble.line()), ..Row::new(id, "unknown") });
                trouble.place = Some(trouble.place.map_or_else(|| id.to_string(), |place| format!("{id}: {place}")));
                errors.push((id, trouble));
            }
        }
    }
    report::print(&if json { format!("{}\n", serde_json::to_string_pretty(&rows)?) } else { table(&rows) });
    let files: Vec<PathBuf> = ids.iter().map(patroni_file).collect();
    let refused = rights::check(root, &files);
    // One message for all unreadable files, which have the same hint.
    errors.retain(|(id, _)| !rights::refused(root, &patroni_file(id)));
    let mut troubles: Vec<Trouble> = errors.into_iter().map(|(_, trouble)| trouble).collect();
    troubles.extend(refused.err().map(|error| Trouble::of(&error)));
    let last = troubles.pop();
    for trouble in troubles {
        reporter.tell(Level::Error, &trouble);
    }
    last.map_or(Ok(()), |last| Err(last.into()))
}

/// Does the same for all clusters, some at a time; the answers are in the order of `ids`.
fn all<T: Send>(ids: &[ClusterId], work: impl Fn(&ClusterId) -> Result<T> + Sync) -> Vec<Result<T>> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(id) = ids.get(index) else { return done };
            done.push((index, work(id)));
        }
    };
    let mut answers: Vec<(usize, Result<T>)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..ids.len().min(AT_A_TIME)).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// The members of one cluster, and the one on this host even if the DCS does not know it.
fn look(root: &Root, id: &ClusterId, reporter: &Reporter) -> Result<Vec<Row>> {
    let file = patroni_file(id);
    rights::check(root, from_ref(&file))?;
    let (yaml, text) = read(root, &file)?;
    rights::check(root, &rights::of_dcs(&yaml))?;
    let begin = Instant::now();
    let content = dcs_content_unless_down(root, id, &text)?;
    let scope = scope(&yaml, &file)?;
    let left =
        || Ok::<_, anyhow::Error>(Patronictl::new(root, id, &scope)?.within(LIMIT.saturating_sub(begin.elapsed())));
    let members = left()?.members()?;
    let maintenance = match content {
        Some(content) => content.get("config").and_then(|text| serde_json::from_str(text).ok()),
        // Of a DCS that only patronictl can ask.
        None => left()?.configuration().ok().flatten().and_then(|yaml| yaml.document().cloned()),
    }
    .map(|dynamic: Value| dynamic.get("pause") == Some(&Value::Bool(true)));
    let point = Endpoint::read(root, id).at(id).unwrap_or_else(|error| {
        reporter.warn(Trouble::of(&error));
        None
    });
    let own = yaml.text(&["name"]);
    let port = yaml.port("postgresql").ok();
    let mut rows: Vec<Row> =
        members.into_iter().map(|member| row(id, member, own.as_deref(), port, point.as_ref())).collect();
    if !rows.iter().any(|row| row.own) {
        rows.push(Row { port, member: own, own: true, ..Row::new(id, "absent") });
    }
    for row in &mut rows {
        row.maintenance_mode = maintenance;
    }
    Ok(rows)
}

fn row(id: &ClusterId, member: Member, own: Option<&str>, port: Option<u16>, point: Option<&Endpoint>) -> Row {
    let own = own == Some(member.name.as_str());
    let leads = match member.role.as_str() {
        "Leader" => true,
        "Standby Leader" => point.is_some_and(|point| point.standby_leader),
        _ => false,
    };
    let point = point.filter(|_| leads);
    Row {
        port: member.address_and_port().map(|(_, port)| port).or(port.filter(|_| own)),
        own,
        timeline: member.timeline,
        lag_in_mb: member.lag,
        pending_restart: Some(member.pending_restart),
        vip: point.map_or_else(Vec::new, |point| point.vips.iter().map(|vip| vip.address).collect()),
        dns_name: point.and_then(|point| point.dns.as_ref()).map(|dns| dns.name.clone()),
        role: Some(member.role),
        member: Some(member.name),
        ..Row::new(id, &member.state)
    }
}

/// The port of a cluster that could not be asked.
fn port_here(root: &Root, id: &ClusterId) -> Option<u16> {
    let listens = || Yaml::parse(&patroni_file(id), &root.read(patroni_file(id)).ok()??).ok()?.port("postgresql").ok();
    listens().or_else(|| Some(clusters::find(root, id).ok()??.port))
}

/// Aligned like the table of `pg_lsclusters`.
fn table(rows: &[Row]) -> String {
    let header = COLUMNS.map(str::to_owned);
    let lines: Vec<[String; COLUMNS.len()]> = std::iter::once(header).chain(rows.iter().map(Row::cells)).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.extend([cells.join(" ").trim_end(), "\n"]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_should_have_the_address() {
        let id: ClusterId = "16/main".parse().unwrap();
        let point = |standby_leader| Endpoint {
            id: id.clone(),
            vips: vec![host::endpoint::Vip { address: IpAddr::from([10, 0, 3, 100]), prefix: Some(24) }],
            manager: host::endpoint::Manager::Dnscp,
            interface: None,
            lease: Duration::from_secs(10),
            standby_leader,
            dns: None,
        };
        for (role, standby_leader, has) in [
            ("Leader", false, true),
            ("Standby Leader", false, false),
            ("Standby Leader", true, true),
            ("Sync Standby", true, false),
            ("Replica", true, false),
        ] {
            let member = Member {
                name: "pg1".to_owned(),
                role: role.to_owned(),
                host: "10.0.3.1".to_owned(),
                state: "running".to_owned(),
                timeline: None,
                lag: None,
                pending_restart: false,
                fingerprint: None,
            };
            let row = row(&id, member, Some("pg1"), None, Some(&point(standby_leader)));
            assert_eq!(!row.vip.is_empty(), has, "{role}, {standby_leader}");
        }
    }
}
