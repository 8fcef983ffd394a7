//! The running member: its unit, Patroni, PostgreSQL and the cluster. What can be learned is gathered once, from all at the same time;
//! the findings are functions of it.

mod cluster_state;
mod database;
mod process;
mod rest_api;
mod roles;
mod server;
mod stale;
mod unit;

use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use host::members::members;
use host::net::Fault;
use serde_json::Value;

use crate::doctor::cluster::Cluster;
use crate::doctor::finding::Finding;
use crate::doctor::units;
use crate::doctor::view::View;
use crate::hooks::unmanaged::examine;
use crate::patroni::paths::FINGERPRINT_TAG;
use crate::patroni_yml::logins::of_file;
use crate::patroni_yml::role_names::SUPERUSER;
use crate::postgres::data_dir::running_server;
use crate::postgres::place::Place;
use crate::postgres::units::{is_active, processes};
use database::Database;
use process::Old;
use rest_api::Answer;
use roles::Primary;
use server::Broken;
use unit::{Activity, Unit};

/// As long after its start Patroni may still be waiting or looking around.
const STARTING: Duration = Duration::from_secs(30);

/// What was learned.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Running {
    /// `None` if systemd cannot be asked.
    unit: Option<Unit>,
    /// The process of Patroni, in whatever unit.
    patroni: Option<u32>,
    /// It has been running for a while, and no program of it works on the data.
    is_settled: bool,
    api: Answer,
    postmaster: Option<u32>,
    place: Option<Place>,
    /// `None` if there is no server, or none that may be asked.
    database: Option<Result<Database>>,
    broken: Vec<Broken>,
    /// The version of the installed PostgreSQL.
    installed: Option<String>,
    /// There are data that Patroni manages.
    has_data: bool,
    /// Another finding explains why nothing runs.
    is_explained: bool,
    may_ask: bool,
    dnscp_is_old: bool,
}

/// Asks all at the same time.
pub(crate) fn look(cluster: &Cluster) -> Running {
    let (root, id) = (cluster.root, cluster.id);
    let data = cluster.data_directory();
    let may_ask = cluster.sees_own();
    let names: Vec<String> = of_file(&cluster.yaml).into_iter().map(|role| role.name).collect();
    let superuser = cluster.text(&["postgresql", "authentication", "superuser", "username"]);
    let superuser = superuser.unwrap_or_else(|| SUPERUSER.to_owned());
    let postmaster = running_server(&root.for_postgres(), &data);
    let unmanaged = examine(root, id, &data);
    let place = postmaster.and_then(|_| Place::find(root, id, &data, &superuser).ok().flatten());
    thread::scope(|scope| {
        let unit = scope.spawn(|| unit::ask(root, &format!("patroni@{}.service", id.dashed())));
        let dnscp = scope.spawn(|| unit::ask(root, &format!("dnscp@{}.service", id.dashed())));
        let api = scope.spawn(|| rest_api::ask(cluster));
        let broken = scope.spawn(|| if may_ask { server::errors(cluster) } else { Vec::new() });
        let installed = scope.spawn(|| may_ask.then(|| server::installed(cluster)).flatten());
        let roles: Vec<&str> = names.iter().map(String::as_str).collect();
        let database = place.as_ref().filter(|_| may_ask).map(|place| database::ask(root, id, place, &roles));
        let unit = unit.join().unwrap_or_default();
        let main = unit.as_ref().filter(|unit| unit.activity == Activity::Running).and_then(|unit| unit.main);
        let patroni = main.or_else(|| process::with_file(root, &cluster.path));
        let dnscp = dnscp.join().unwrap_or_default().and_then(|dnscp| dnscp.main);
        Running {
            is_settled: is_settled(cluster, patroni, unit.as_ref()),
            patroni,
            unit,
            api: api.join().unwrap_or(Answer::Unknown),
            place: place.clone(),
            postmaster,
            database,
            broken: broken.join().unwrap_or_default(),
            installed: installed.join().unwrap_or_default(),
            has_data: root.path(data.join("PG_VERSION")).exists() && unmanaged.is_none(),
            is_explained: units::interrupted(cluster).is_some()
                || is_active(root, &format!("postgresql@{}.service", id.dashed()))
                || unmanaged.is_some(),
            may_ask,
            dnscp_is_old: dnscp.is_some_and(|pid| process::is_replaced(root, pid)),
        }
    })
}

/// Has Patroni run for a while, without a program that copies, rewinds or creates the data?
fn is_settled(cluster: &Cluster, patroni: Option<u32>, unit: Option<&Unit>) -> bool {
    let root = cluster.root;
    let Some(patroni) = patroni else { return false };
    if unit.is_none_or(|unit| unit.activity != Activity::Running) {
        return false;
    }
    let since = process::started(root, patroni).and_then(|since| SystemTime::now().duration_since(since).ok());
    let is_server = |pid: &u32| {
        let name = root.read(format!("/proc/{pid}/comm")).ok().flatten().unwrap_or_default();
        name.trim() == "postgres"
    };
    let others = processes(root, &format!("patroni@{}.service", cluster.id.dashed()));
    since.is_some_and(|since| since > STARTING) && others.iter().all(|pid| *pid == patroni || is_server(pid))
}

impl Running {
    /// Is Patroni of this member running on this host?
    pub(crate) fn runs_here(&self) -> bool {
        self.patroni.is_some()
    }

    /// Why the running member was not looked at; `None` if it was.
    pub(crate) fn not_looked_at(&self) -> Option<&'static str> {
        if !self.may_ask {
            return Some("only root can ask it");
        }
        match (&self.database, self.patroni) {
            (Some(Ok(_)), Some(_)) => None,
            (Some(Err(_)), _) => Some("PostgreSQL did not answer"),
            (_, None) if self.has_data => Some("Patroni is not running"),
            (_, None) => Some("Patroni is not running yet"),
            (None, Some(_)) => Some("PostgreSQL is not running"),
        }
    }
}

/// The findings. `view`: the cluster in the DCS, if that was asked.
pub(crate) fn check(cluster: &Cluster, running: &Running, view: Option<&View>) -> Vec<Finding> {
    let name = cluster.text(&["name"]).unwrap_or_default();
    let own = view.and_then(|view| view.member(&name));
    let mut findings = Vec::new();
    if let Some(unit) = running.unit.as_ref().filter(|unit| !running.is_explained && is_of_unit(unit, running)) {
        let member = unit::Member {
            exists: running.has_data || own.is_some_and(|own| is_here(cluster, own)),
            serves: running.postmaster.is_some(),
        };
        findings.extend(unit::check(cluster, unit, member));
    }
    let paused = view.is_some_and(View::is_paused);
    findings.extend(server_findings(cluster, running, own.and_then(|own| own.text("state")), view));
    let published = own.and_then(|own| own.text("version")).or_else(|| version(running.api.status()?));
    let old = Old {
        postgres: old_postgres(cluster, running),
        patroni: running
            .patroni
            .and_then(|pid| process::old_patroni(cluster.root, pid, cluster.patroni.number(), published)),
        dnscp: running.dnscp_is_old,
    };
    findings.extend(process::check(cluster, &old, paused));
    let database = running.database.as_ref().and_then(|database| database.as_ref().ok());
    if running.runs_here() {
        let written = server::written_by_patroni(cluster);
        let other_passwords = database.is_some_and(|database| roles::differ(cluster, database));
        findings.extend(stale::check(cluster, own, written.as_deref(), other_passwords));
        // It was asked as the file says.
        if own.is_none_or(|own| stale::rest_api(cluster, own).is_none()) {
            findings.extend(silent(cluster, running, view));
        }
    }
    if let Some(database) = database.filter(|_| !running.is_explained) {
        let published = own.and_then(crate::doctor::view::Member::fingerprint);
        let rotated =
            published.is_some_and(|theirs| cluster.text(&["tags", FINGERPRINT_TAG]).is_some_and(|ours| ours != theirs));
        findings.extend(roles::check(cluster, database, &primary(&name, view, database), rotated));
    }
    if let Some(view) = view {
        let listed =
            cluster.settings.as_ref().ok().and_then(|settings| members(settings).ok().flatten()).unwrap_or_default();
        let listed: Vec<String> = listed.into_iter().map(|member| member.name).collect();
        let own = cluster_state::Own {
            name: &name,
            database,
            has_data: running.has_data,
            stays_in_recovery: stays_in_recovery(cluster, running, view, &name),
        };
        findings.extend(cluster_state::check(cluster, view, &own, &listed));
    }
    findings
}

/// Does the unit run this Patroni, or none?
fn is_of_unit(unit: &Unit, running: &Running) -> bool {
    unit.activity == Activity::Running || running.patroni.is_none()
}

/// Is the address under which a member is in the DCS that of this file?
fn is_here(cluster: &Cluster, own: &crate::doctor::view::Member) -> bool {
    let host = |address: &str| address.rsplit_once(':').map(|(host, _)| host.trim_matches(['[', ']']).to_owned());
    let ours = cluster.text(&["restapi", "connect_address"]).and_then(|address| host(&address));
    own.api().is_some_and(|(theirs, _)| ours == Some(theirs))
}

fn version(status: &Value) -> Option<&str> {
    status.get("patroni")?.get("version")?.as_str()
}

/// The configuration, and a server that does not run although Patroni does.
fn server_findings(cluster: &Cluster, running: &Running, published: Option<&str>, view: Option<&View>) -> Vec<Finding> {
    let mut findings = server::check_files(cluster, &running.broken, running.postmaster.is_some());
    if let Some(Ok(database)) = &running.database {
        findings.extend(server::check_lines(cluster, &database.lines));
    }
    let state = running.api.status().and_then(|status| status.get("state")?.as_str()).or(published);
    let is_down = running.postmaster.is_none() && running.is_settled && running.has_data && running.broken.is_empty();
    // A former primary stays down until the next one has been promoted.
    let is_on_its_way = |state: &str| state == "stopped" && view.is_none_or(|view| view.is_settling(SystemTime::now()));
    if let Some(state) = state.filter(|state| is_down && !is_on_its_way(state)) {
        let said = server::last_fatal(cluster, server::is_cause);
        findings.extend(server::check_down(cluster, state, view.is_some_and(View::is_paused), said.as_deref()));
    }
    findings
}

fn old_postgres(cluster: &Cluster, running: &Running) -> Option<String> {
    let replaced = running.postmaster.is_some_and(|pid| process::is_replaced(cluster.root, pid));
    if let (Some(Ok(database)), Some(installed)) = (&running.database, &running.installed) {
        if database.version != *installed {
            return Some(format!("PostgreSQL {} is running, but {installed} is installed", database.version));
        }
    }
    replaced.then(|| "PostgreSQL was upgraded, but the old one is still running".to_owned())
}

/// The other members ask the REST API before one becomes primary. Without the DCS Patroni does not open it.
fn silent(cluster: &Cluster, running: &Running, view: Option<&View>) -> Option<Finding> {
    // One that closes the connection has other settings of TLS than the file, which Patroni may not have read yet.
    let Answer::None(fault @ (Fault::Unreachable(_) | Fault::Unresponsive)) = &running.api else { return None };
    if !running.is_settled || view.is_none() {
        return None;
    }
    let server = rest_api::server(cluster)?;
    let what = format!("Patroni's REST API does not respond at {}:{} ({fault})", server.host, server.port);
    Some(Finding::error(what, format!("See: journalctl -u patroni@{}", cluster.id.dashed())).at(""))
}

fn primary<'a>(name: &str, view: Option<&'a View>, database: &Database) -> Primary<'a> {
    match view {
        Some(view) if view.is_standby_cluster() => Primary::Source,
        _ if !database.recovery => Primary::Here,
        Some(view) => match view.leader.as_deref().filter(|leader| *leader != name) {
            Some(leader) => Primary::Elsewhere(leader),
            None => Primary::Nowhere,
        },
        None => Primary::Nowhere,
    }
}

/// A promotion takes a moment: only what is the same after a while is reported.
fn stays_in_recovery(cluster: &Cluster, running: &Running, view: &View, name: &str) -> bool {
    const MOMENT: Duration = Duration::from_secs(3);
    let leads = view.leader.as_deref() == Some(name) && !view.is_standby_cluster();
    let recovers = matches!(&running.database, Some(Ok(database)) if database.recovery);
    let Some(place) = running.place.as_ref().filter(|_| leads && recovers) else { return false };
    thread::sleep(MOMENT);
    database::is_in_recovery(cluster.root, cluster.id, place).unwrap_or(false)
}
