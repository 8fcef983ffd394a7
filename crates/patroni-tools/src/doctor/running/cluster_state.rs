//! The cluster as a whole, and this member's place in it.

use std::time::SystemTime;

use host::members::slot_name;
use serde_json::Value;

use crate::doctor::cluster::Cluster;
use crate::doctor::finding::Finding;
use crate::doctor::running::database::Database;
use crate::doctor::running::server;
use crate::doctor::view::View;

/// As long after its start, in seconds, a server may still be on its way.
const STARTING: f64 = 60.0;

/// The default of `maximum_lag_on_failover` (`global_config.maximum_lag_on_failover`).
const LAG: u64 = 1 << 20;

/// What is known of this member.
pub(crate) struct Own<'a> {
    pub(crate) name: &'a str,
    pub(crate) database: Option<&'a Database>,
    /// Its data are here.
    pub(crate) has_data: bool,
    /// It has the leader lock, and PostgreSQL was still in recovery when it was asked for the second time.
    pub(crate) stays_in_recovery: bool,
}

/// All of it. `members`: the names in `MEMBERS`.
pub(crate) fn check(cluster: &Cluster, view: &View, own: &Own, members: &[String]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = no_primary(cluster, view, own, members).into_iter().collect();
    let settling = view.is_settling(SystemTime::now());
    findings.extend(leader_without_key(cluster, view));
    findings.extend(paused(cluster, view));
    findings.extend(pending(cluster, view, own));
    if let Some(database) = own.database {
        if view.leader.as_deref() == Some(own.name) {
            findings.extend(read_only(cluster, view, own, database));
            if !settling && database.uptime >= STARTING {
                findings.extend(no_synchronous(cluster, view));
            }
            findings.extend(slots(cluster, view, database));
        } else if !settling {
            findings.extend(behind(cluster, view, own, database));
        }
    }
    findings
}

fn see(cluster: &Cluster) -> String {
    format!(
        "See 'pg_patronictl {} list', and on each member: journalctl -u patroni@{}",
        cluster.id,
        cluster.id.dashed()
    )
}

/// A cluster that was bootstrapped, and none of its members leads.
fn no_primary(cluster: &Cluster, view: &View, own: &Own, members: &[String]) -> Option<Finding> {
    if !view.is_bootstrapped() || view.leader.is_some() {
        return None;
    }
    // In maintenance mode PostgreSQL goes on as the primary while its Patroni is restarted or stopped.
    let serves = view.members.iter().any(|member| member.is_primary() && member.text("state") == Some("running"));
    if view.is_paused() && (serves || own.database.is_some_and(|database| !database.recovery)) {
        return None;
    }
    let start = format!("systemctl start patroni@{}", cluster.id.dashed());
    let away: Vec<&str> = members.iter().map(String::as_str).filter(|name| view.member(name).is_none()).collect();
    if view.members.is_empty() {
        // Whether this member should run is another question, which the state of its unit answers.
        let hint = format!("Start those that have data, the last primary first, with: {start}");
        return Some(Finding::error("no member of the cluster is running, so it accepts no writes", hint));
    }
    let what = "the cluster has no primary, so it accepts no writes";
    if view.member(own.name).is_some() && view.members.len() == 1 && !own.has_data {
        let what = format!("{what}: this member has no data, and waits for one that has");
        let on = if away.is_empty() { "the members that have data".to_owned() } else { away.join(" and ") };
        return Some(Finding::error(what, format!("Run on {on}: {start}")));
    }
    if !away.is_empty() {
        let what = format!(
            "{what}; {} of MEMBERS {} not running",
            away.join(" and "),
            if away.len() == 1 { "is" } else { "are" }
        );
        return Some(Finding::error(
            what,
            format!("If a running member does not become primary, run on {}: {start}", away.join(" and ")),
        ));
    }
    Some(Finding::error(what, see(cluster)))
}

/// Both keys of a member expire together.
fn leader_without_key(cluster: &Cluster, view: &View) -> Option<Finding> {
    let leader = view.leader.as_ref().filter(|leader| view.member(leader).is_none())?;
    let what = format!("{leader} has the leader lock, but the cluster has no such member");
    Some(Finding::warning(what, see(cluster)))
}

fn paused(cluster: &Cluster, view: &View) -> Option<Finding> {
    if !view.is_paused() || crate::doctor::units::interrupted(cluster).is_some() {
        return None;
    }
    let what = "the cluster is in maintenance mode, in which no failover happens";
    Some(Finding::warning(what, format!("End it with: pg_patronictl {} resume --wait", cluster.id)))
}

/// Patroni decides which parameters need a restart (`Postgresql.pending_restart`); since 4.0 it names them.
fn pending(cluster: &Cluster, view: &View, own: &Own) -> Option<Finding> {
    // One that was stopped starts with the new values.
    let member = view.member(own.name).filter(|member| member.text("state") == Some("running"))?;
    let reasons = member.data.get("pending_restart_reason").and_then(Value::as_object);
    let is_pending = member.data.get("pending_restart").is_some_and(|pending| *pending == Value::Bool(true));
    if !is_pending && reasons.is_none_or(serde_json::Map::is_empty) {
        return None;
    }
    let by_server = || own.database.map(|database| database.pending.clone()).unwrap_or_default();
    let names: Vec<String> = reasons.map_or_else(by_server, |reasons| reasons.keys().cloned().collect());
    let of = if names.is_empty() { String::new() } else { format!(" of {}", names.join(", ")) };
    let what = format!("PostgreSQL of this member must be restarted before new values{of} apply");
    let name = host::program::quoted(own.name);
    let hint = format!("Restart it with: pg_patronictl {} restart --pending {name}", cluster.id);
    Some(Finding::warning(what, hint))
}

/// A primary that refuses writes.
fn read_only(cluster: &Cluster, view: &View, own: &Own, database: &Database) -> Option<Finding> {
    if view.is_standby_cluster() {
        return None;
    }
    if own.stays_in_recovery {
        let what =
            "this member has the leader lock, but PostgreSQL is still in recovery, so the cluster accepts no writes";
        return Some(Finding::warning(what, format!("See: journalctl -u patroni@{}", cluster.id.dashed())));
    }
    database.read_only.then(|| {
        let what =
            "default_transaction_read_only is on, so the primary refuses the writes of clients that do not turn it off";
        let hint = format!(
            "Turn it off with: pg_patronictl {} edit-config --pg default_transaction_read_only=off",
            cluster.id
        );
        Finding::warning(what, hint)
    })
}

/// `SyncState`: the leader writes it for as long as a synchronous mode is set.
fn no_synchronous(cluster: &Cluster, view: &View) -> Option<Finding> {
    let mode = view.config.get("synchronous_mode")?;
    let on = match mode {
        Value::Bool(on) => *on,
        Value::String(text) => !matches!(text.to_ascii_lowercase().as_str(), "" | "off" | "false" | "no"),
        _ => false,
    };
    if !on || view.is_standby_cluster() || !view.synchronous().is_empty() {
        return None;
    }
    let strict = view.config.get("synchronous_mode_strict") == Some(&Value::Bool(true));
    let what = if strict {
        "there is no synchronous standby, so writes wait (synchronous_mode_strict)"
    } else {
        "synchronous_mode is on, but there is no synchronous standby, so a failover may lose transactions"
    };
    let hint = format!("See which members stream with: pg_patronictl {} list", cluster.id);
    Some(if strict { Finding::error(what, hint) } else { Finding::warning(what, hint) })
}

/// Replication slots that belong to no member. Patroni drops slots that it does not know, but not those that `ignore_slots` matches (`SlotsHandler`).
fn slots(cluster: &Cluster, view: &View, database: &Database) -> Vec<Finding> {
    // In maintenance mode and for a while after the start nothing is dropped.
    if view.is_paused() || database.uptime < STARTING {
        return Vec::new();
    }
    let members: Vec<String> = view.members.iter().map(|member| slot_name(&member.name)).collect();
    let configured = view.config.get("slots").and_then(Value::as_object);
    let retained = view.retained_slots();
    let is_known = |name: &str| {
        members.iter().any(|member| member == name)
            || configured.is_some_and(|slots| slots.contains_key(name))
            || retained.contains(&name)
    };
    let port = cluster.yaml.port("postgresql").unwrap_or(5432);
    // The name becomes a part of a command, and postgres can answer anything (`ReplicationSlotValidateName`).
    let is_name = |name: &str| name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    let unknown = database.slots.iter().filter(|slot| is_name(&slot.name) && !is_known(&slot.name));
    let finding = |slot: &crate::doctor::running::database::Slot| {
        let what = format!(
            "the replication slot {} is of no member, is not in use, and keeps {} MB of WAL",
            slot.name,
            slot.kept >> 20
        );
        let hint = format!(
            "If no one needs it, drop it with: runuser -u postgres -- psql -p {port} -c \"SELECT pg_drop_replication_slot('{}')\"",
            slot.name
        );
        Finding::warning(what, hint).at("")
    };
    unknown.map(finding).collect()
}

/// A standby that does not stream, or is too far behind to become primary.
fn behind(cluster: &Cluster, view: &View, own: &Own, database: &Database) -> Option<Finding> {
    let (leader, member) = (view.leading()?, view.member(own.name)?);
    let tag = |name: &str| member.data.get("tags").and_then(|tags| tags.get(name)) == Some(&Value::Bool(true));
    if !database.recovery || database.uptime < STARTING {
        return None;
    }
    let id = cluster.id;
    if !database.streams && !tag("nostream") {
        let number = |data: &Value| data.get("timeline").and_then(Value::as_u64);
        let (ours, theirs) = (number(&member.data), number(&leader.data));
        let timeline = match (ours, theirs) {
            (Some(ours), Some(theirs)) if ours != theirs => format!(", and is on timeline {ours} instead of {theirs}"),
            _ => String::new(),
        };
        let said = server::last_fatal(cluster, server::is_of_streaming);
        let removed = said.as_ref().is_some_and(|said| said.contains("has already been removed"));
        let said = said.map(|said| format!("; its log ends with: {said}")).unwrap_or_default();
        let what = format!("this member does not stream from the primary{timeline}{said}");
        let hint = if removed {
            format!("Copy the primary again with: pg_patronictl {id} reinit {}", host::program::quoted(own.name))
        } else {
            format!("See the log of PostgreSQL, and: journalctl -u patroni@{}", id.dashed())
        };
        // It may have to read an archive for hours before it streams (`Postgresql.replication_state_from_parameters`).
        let restores =
            member.text("replication_state") == Some("in archive recovery") && !removed && timeline.is_empty();
        let finding = if restores { Finding::warning(what, hint) } else { Finding::error(what, hint) };
        return Some(finding.at(""));
    }
    // One that never takes over may be behind, as with recovery_min_apply_delay.
    let priority = member.data.get("tags").and_then(|tags| tags.get("failover_priority")).and_then(Value::as_i64);
    if tag("nofailover") || tag("nostream") || priority.is_some_and(|priority| priority <= 0) {
        return None;
    }
    let most = view.config.get("maximum_lag_on_failover").and_then(Value::as_u64).unwrap_or(LAG);
    // The primary has been there at the end of its last loop, so that a standby that keeps up is beyond it.
    let lag = view.position()?.saturating_sub(database.position);
    (lag > most).then(|| {
        let what = format!(
            "this member is {} MB behind the primary, more than maximum_lag_on_failover ({} MB), so it cannot take over",
            lag >> 20,
            most >> 20
        );
        Finding::warning(what, format!("See how it catches up with: pg_patronictl {id} list")).at("")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::doctor::finding::lines;
    use host::{ClusterId, Root};
    use serde_json::json;

    fn view(keys: &[(&str, Value)]) -> View {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        View::of(&keys.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect())
    }

    fn of(name: &str, keys: &[(&str, Value)], database: Option<&Database>, members: &[&str]) -> String {
        let (root, id): (Root, ClusterId) = (Root::new("/nowhere"), "17/main".parse().unwrap());
        let cluster = Cluster::with(&root, &id, "postgresql: {listen: '*:5432'}");
        let members: Vec<String> = members.iter().map(|name| (*name).to_owned()).collect();
        let own = Own { name, database, has_data: database.is_some(), stays_in_recovery: false };
        lines(&check(&cluster, &view(keys), &own, &members)).join("\n")
    }

    fn primary() -> Database {
        Database { uptime: 1000.0, ..Database::default() }
    }

    fn standby(streams: bool, position: u64) -> Database {
        Database { recovery: true, streams, position, ..primary() }
    }

    fn cluster_of_two() -> Vec<(&'static str, Value)> {
        vec![
            ("initialize", json!("7")),
            ("leader", json!("pg1")),
            ("members/pg1", json!({"role": "primary", "state": "running", "timeline": 2})),
            ("members/pg2", json!({"role": "replica", "state": "running", "timeline": 1})),
            ("status", json!({"optime": 30_000_000, "retain_slots": ["gone"]})),
            ("config", json!({"slots": {"mine": {"type": "physical"}}})),
        ]
    }

    fn with(key: &'static str, value: Value) -> Vec<(&'static str, Value)> {
        let mut keys = cluster_of_two();
        keys.retain(|(present, _)| *present != key);
        keys.extend((!value.is_null()).then_some((key, value)));
        keys
    }

    #[test]
    fn a_sound_cluster_is_silent() {
        assert_eq!(of("pg1", &cluster_of_two(), Some(&primary()), &[]), "");
        assert_eq!(of("pg2", &cluster_of_two(), Some(&standby(true, 30_000_000)), &[]), "");
        // Right after its start, and right after a promotion.
        assert_eq!(of("pg2", &cluster_of_two(), Some(&Database { uptime: 5.0, ..standby(false, 0) }), &[]), "");
        let promoting = with("members/pg1", json!({"role": "replica", "state": "running"}));
        assert_eq!(of("pg2", &promoting, Some(&standby(false, 0)), &[]), "");
        let nostream = with("members/pg2", json!({"role": "replica", "timeline": 2, "tags": {"nostream": true}}));
        assert_eq!(of("pg2", &nostream, Some(&standby(false, 30_000_000)), &[]), "");
    }

    #[test]
    fn what_is_meant_to_be_so_is_no_error() {
        let hour = |streams| Database { uptime: 3600.0, ..standby(streams, 0) };
        // A standby that is meant to be late, and one that never takes over.
        for tags in [json!({"nofailover": true}), json!({"failover_priority": 0}), json!({"nostream": true})] {
            let late = with("members/pg2", json!({"role": "replica", "timeline": 2, "tags": tags}));
            assert_eq!(of("pg2", &late, Some(&hour(true)), &[]), "");
        }
        // A replica that reads the archive.
        let member = json!({"role": "replica", "timeline": 2, "replication_state": "in archive recovery"});
        assert!(of("pg2", &with("members/pg2", member), Some(&hour(false)), &[]).starts_with("Warning "));
        // Patroni of the primary is restarted in maintenance mode.
        let mut paused = with("leader", Value::Null);
        paused.retain(|(key, _)| *key != "config");
        paused.push(("config", json!({"pause": true})));
        let said = of("pg1", &paused, Some(&primary()), &[]);
        assert!(said.starts_with("Warning ") && !said.contains("accepts no writes"), "{said}");
    }

    #[test]
    fn a_slot_with_a_name_that_no_server_accepts_comes_into_no_command() {
        let slot = |name: &str| crate::doctor::running::database::Slot { name: name.to_owned(), kept: 5 << 20 };
        let of = |name: &str| {
            let database = Database { slots: vec![slot(name)], ..primary() };
            of("pg1", &cluster_of_two(), Some(&database), &[])
        };
        assert!(of("old_1").contains("drop_replication_slot('old_1')"));
        assert_eq!(of("x'); $(touch /tmp/x)"), "");
    }

    #[test]
    fn a_cluster_without_a_primary_says_what_to_start() {
        let without = with("leader", Value::Null);
        let error = "Error f: the cluster has no primary, so it accepts no writes";
        assert_eq!(
            of("pg2", &without, Some(&standby(false, 1)), &[]),
            format!("{error} | See 'pg_patronictl 17/main list', and on each member: journalctl -u patroni@17-main")
        );
        assert_eq!(
            of("pg2", &without, Some(&standby(false, 1)), &["pg1", "pg2", "pg3"]),
            format!(
                "{error}; pg3 of MEMBERS is not running | If a running member does not become primary, run on pg3: systemctl start \
                 patroni@17-main"
            )
        );
        let alone = [("initialize", json!("7")), ("members/pg2", json!({"state": "stopped"}))];
        assert_eq!(
            of("pg2", &alone, None, &["pg1", "pg2"]),
            format!(
                "{error}: this member has no data, and waits for one that has | Run on pg1: systemctl start patroni@17-main"
            )
        );
        assert_eq!(
            of("pg2", &alone[..1], None, &[]),
            "Error f: no member of the cluster is running, so it accepts no writes | Start those that have data, the last primary first, \
             with: systemctl start patroni@17-main"
        );
        assert!(
            of("pg2", &with("members/pg1", Value::Null), None, &[])
                .starts_with("Warning f: pg1 has the leader lock, but")
        );
    }

    #[test]
    fn a_standby_that_falls_behind_is_an_error_or_a_warning() {
        assert_eq!(
            of("pg2", &cluster_of_two(), Some(&standby(false, 30_000_000)), &[]),
            "Error this member does not stream from the primary, and is on timeline 1 instead of 2 | See the log of PostgreSQL, and: \
             journalctl -u patroni@17-main"
        );
        assert_eq!(
            of("pg2", &cluster_of_two(), Some(&standby(true, 20_000_000)), &[]),
            "Warning this member is 9 MB behind the primary, more than maximum_lag_on_failover (1 MB), so it cannot take over | See how \
             it catches up with: pg_patronictl 17/main list"
        );
        let config = with("config", json!({"maximum_lag_on_failover": 20_000_000}));
        assert_eq!(of("pg2", &config, Some(&standby(true, 20_000_000)), &[]), "");
    }

    #[test]
    fn what_bites_later_is_a_warning() {
        let config = |config: Value| with("config", config);
        assert_eq!(
            of("pg1", &config(json!({"pause": true})), Some(&primary()), &[]),
            "Warning f: the cluster is in maintenance mode, in which no failover happens | End it with: pg_patronictl 17/main resume --wait"
        );
        let pending = json!({"role": "primary", "state": "running", "timeline": 2, "pending_restart": true});
        let database = Database { pending: vec!["shared_buffers".to_owned()], ..primary() };
        assert_eq!(
            of("pg1", &with("members/pg1", pending), Some(&database), &[]),
            "Warning f: PostgreSQL of this member must be restarted before new values of shared_buffers apply | Restart it with: \
             pg_patronictl 17/main restart --pending pg1"
        );
        let reasons = json!({"role": "replica", "state": "running", "pending_restart_reason": {"max_connections": {"old_value": "1", "new_value": "2"}}});
        assert!(of("pg2", &with("members/pg2", reasons), None, &[]).contains("new values of max_connections apply"));
        let stopped = json!({"role": "replica", "state": "stopped", "pending_restart": true});
        assert_eq!(of("pg2", &with("members/pg2", stopped), None, &[]), "", "it starts with the new values");
        let read_only = Database { read_only: true, ..primary() };
        assert!(
            of("pg1", &cluster_of_two(), Some(&read_only), &[])
                .contains("edit-config --pg default_transaction_read_only=off")
        );
        let slot = |name: &str| crate::doctor::running::database::Slot { name: name.to_owned(), kept: 5 << 20 };
        let slots = Database { slots: ["pg2", "mine", "gone", "old"].map(slot).into(), ..primary() };
        assert_eq!(
            of("pg1", &cluster_of_two(), Some(&slots), &[]),
            "Warning the replication slot old is of no member, is not in use, and keeps 5 MB of WAL | If no one needs it, drop it with: \
             runuser -u postgres -- psql -p 5432 -c \"SELECT pg_drop_replication_slot('old')\""
        );
    }

    #[test]
    fn a_synchronous_mode_needs_a_standby() {
        for (mode, strict, standbys, expected) in [
            (json!(true), false, "", "Warning f: synchronous_mode is on"),
            (json!("quorum"), false, "", "Warning f: synchronous_mode is on"),
            (json!(true), true, "", "Error f: there is no synchronous standby, so writes wait"),
            (json!(true), true, "pg2", ""),
            (json!(false), false, "", ""),
            (json!("off"), false, "", ""),
        ] {
            let mut keys = with("config", json!({"synchronous_mode": mode, "synchronous_mode_strict": strict}));
            keys.push(("sync", json!({"leader": "pg1", "sync_standby": standbys})));
            let found = of("pg1", &keys, Some(&primary()), &[]);
            assert!(found.starts_with(expected) && found.is_empty() == expected.is_empty(), "{mode} {strict}: {found}");
        }
    }
}
