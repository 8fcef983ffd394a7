//! How long commits wait when a synchronous standby stops responding.
//!
//! The primary's `walsender` ends after `wal_sender_timeout` (`WalSndCheckTimeOut` in `walsender.c`), and the standby leaves
//! `pg_stat_replication`. Nothing wakes Patroni then: its next run of the HA loop chooses another synchronous standby, or none
//! (`Ha.process_sync_replication`, `SyncHandler.current_state`). Without the timeout Patroni waits until the key of the member expires
//! after `ttl`, and for ever if only the link between the two is cut.

use serde_json::Value;

/// `wal_sender_timeout` of a cluster in synchronous mode, unless a setting says otherwise. With the default of `LOOP_WAIT`, writes stop
/// for at most [`LONGEST`].
pub const WAL_SENDER_TIMEOUT: &str = "4s";

/// The number of seconds up to which there is no warning.
pub const LONGEST: u64 = 15;

/// Patroni's defaults (`GlobalConfig`), and that of PostgreSQL for `wal_sender_timeout`.
const LOOP_WAIT: u64 = 10;
const NODE_COUNT: u64 = 1;
const POSTGRESQLS_TIMEOUT: u64 = 60_000;

/// What determines the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Can any standby acknowledge a commit (`quorum`)?
    pub quorum: bool,
    /// How many standbys acknowledge each commit.
    pub node_count: u64,
    /// Seconds between two runs of Patroni's HA loop.
    pub loop_wait: u64,
    /// Milliseconds; 0 if it is disabled.
    pub wal_sender_timeout: u64,
}

impl Failure {
    /// Reads a dynamic configuration, in which a member's own parameters take precedence. `None` if its commits wait for no standby, or
    /// if it is a standby cluster (`GlobalConfig.is_synchronous_mode`).
    #[must_use]
    pub fn of(dynamic: &Value, own_timeout: Option<&str>) -> Option<Self> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mode = dynamic.get("synchronous_mode").map(text)?.to_lowercase();
        let standby_cluster = dynamic.get("standby_cluster").is_some_and(|value| value.as_object().is_some());
        if standby_cluster || !["true", "on", "yes", "1", "quorum"].contains(&mode.as_str()) {
            return None;
        }
        let number = |key: &str| dynamic.get(key).and_then(|value| text(value).parse().ok());
        let timeout = dynamic.pointer("/postgresql/parameters/wal_sender_timeout").map(text);
        Some(Self {
            quorum: mode == "quorum",
            node_count: number("synchronous_node_count").unwrap_or(NODE_COUNT),
            loop_wait: number("loop_wait").unwrap_or(LOOP_WAIT),
            wal_sender_timeout: timeout_of(own_timeout.or(timeout.as_deref())),
        })
    }

    /// What is wrong if the failure of one synchronous standby stops writes for longer than [`LONGEST`]. With quorum, nothing waits
    /// while enough other standbys acknowledge. `standbys` is their number, if it is known.
    #[must_use]
    pub fn too_long(&self, standbys: Option<u64>) -> Option<String> {
        const EVENT: &str = "if a synchronous standby stops responding";
        if self.quorum && standbys.is_none_or(|standbys| standbys > self.node_count) {
            return None;
        }
        if self.wal_sender_timeout == 0 {
            return Some(format!("wal_sender_timeout is 0: {EVENT}, writes stop for an unlimited time"));
        }
        let timeout = self.wal_sender_timeout.div_ceil(1000);
        let longest = timeout + self.loop_wait + 1;
        (longest > LONGEST).then(|| {
            format!(
                "{EVENT}, writes stop for up to {longest} s: wal_sender_timeout ({timeout} s) + loop_wait ({} s) + 1 s",
                self.loop_wait
            )
        })
    }

    /// The settings that cure it, as they are written in `/etc/default/patroni`.
    #[must_use]
    pub fn cure(&self) -> String {
        self.changes(&format!("LOOP_WAIT={LOOP_WAIT}"), &format!("PG_wal_sender_timeout={WAL_SENDER_TIMEOUT}"), " and ")
    }

    /// The options of `patronictl edit-config` that cure it.
    #[must_use]
    pub fn cure_by_patronictl(&self) -> String {
        self.changes(&format!("-s loop_wait={LOOP_WAIT}"), &format!("-p wal_sender_timeout={WAL_SENDER_TIMEOUT}"), " ")
    }

    fn changes(&self, loop_wait: &str, timeout: &str, between: &str) -> String {
        let is_long = !(1..=timeout_of(Some(WAL_SENDER_TIMEOUT))).contains(&self.wal_sender_timeout);
        let changes = [(self.loop_wait > LOOP_WAIT, loop_wait), (is_long, timeout)];
        let changes: Vec<&str> = changes.iter().filter(|(needed, _)| *needed).map(|(_, change)| *change).collect();
        changes.join(between)
    }
}

/// What a low `wal_sender_timeout` costs, for a hint.
pub const COST: &str = "A replica whose link or disk pauses for longer than wal_sender_timeout is disconnected, as is pg_basebackup over a slow link.";

/// Milliseconds of a value of `wal_sender_timeout`, or of PostgreSQL's default.
#[must_use]
pub fn timeout_of(value: Option<&str>) -> u64 {
    value.and_then(milliseconds).unwrap_or(POSTGRESQLS_TIMEOUT)
}

/// A time in PostgreSQL's notation (`convert_to_base_unit` in `guc.c`); milliseconds if it has no unit.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn milliseconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    let unit = match text[end..].trim_start() {
        "us" => 0.001,
        "" | "ms" => 1.0,
        "s" => 1000.0,
        "min" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        _ => return None,
    };
    Some((number * unit).round() as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn times_are_read_as_postgresql_reads_them() {
        for (text, wanted) in [
            ("4s", 4000),
            ("4000", 4000),
            (" 1 min", 60_000),
            ("1.5s", 1500),
            ("0", 0),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(milliseconds(text), Some(wanted), "{text}");
        }
        assert_eq!([milliseconds("s"), milliseconds("4 S"), milliseconds("")], [None; 3]);
        assert_eq!([timeout_of(None), timeout_of(Some(WAL_SENDER_TIMEOUT))], [60_000, 4000]);
    }

    #[test]
    fn the_sum_decides() {
        let found = |dynamic: Value, own: Option<&str>, standbys| Failure::of(&dynamic, own)?.too_long(standbys);
        let cluster = |mode: Value, loop_wait: u64, timeout: Value| {
            json!({
                "synchronous_mode": mode, "loop_wait": loop_wait,
                "postgresql": {"parameters": {"wal_sender_timeout": timeout}}
            })
        };
        assert_eq!(found(cluster(json!(true), 10, json!("4s")), None, None), None);
        assert_eq!(found(cluster(json!(true), 2, json!(12_000)), None, None), None);
        assert!(found(cluster(json!(true), 2, json!("12001")), None, None).unwrap().contains("up to 16 s"));
        let default = found(json!({"synchronous_mode": "on"}), None, Some(2)).unwrap();
        assert!(default.ends_with("up to 71 s: wal_sender_timeout (60 s) + loop_wait (10 s) + 1 s"), "{default}");
        assert!(found(cluster(json!(true), 10, json!(0)), None, None).unwrap().contains("unlimited"));
        // The member's own parameter takes precedence.
        assert!(found(cluster(json!(true), 10, json!("4s")), Some("1min"), None).is_some());
        // Nobody waits.
        for mode in [json!(false), json!("off"), Value::Null] {
            assert_eq!(found(cluster(mode, 10, json!("60s")), None, None), None);
        }
        let mut standby = cluster(json!(true), 10, json!("60s"));
        standby["standby_cluster"] = json!({"host": "10.0.0.1"});
        assert_eq!(found(standby, None, None), None);
        // Another standby acknowledges.
        let quorum = cluster(json!("quorum"), 10, json!("60s"));
        assert_eq!([found(quorum.clone(), None, None), found(quorum.clone(), None, Some(2))], [None, None]);
        assert!(found(quorum, None, Some(1)).is_some());
    }

    #[test]
    fn what_is_generated_is_not_too_long() {
        let timeout = timeout_of(Some(WAL_SENDER_TIMEOUT));
        let generated = Failure { quorum: false, node_count: 1, loop_wait: LOOP_WAIT, wal_sender_timeout: timeout };
        assert_eq!(generated.too_long(Some(2)), None);
        let slow = Failure { loop_wait: LOOP_WAIT + 1, ..generated.clone() };
        assert!(slow.too_long(Some(2)).is_some());
        assert_eq!((slow.cure(), slow.cure_by_patronictl()), ("LOOP_WAIT=10".to_owned(), "-s loop_wait=10".to_owned()));
        let off = Failure { wal_sender_timeout: 0, ..generated };
        assert_eq!(off.cure(), "PG_wal_sender_timeout=4s");
        let both = Failure { wal_sender_timeout: 5000, ..slow };
        assert_eq!(both.cure(), "LOOP_WAIT=10 and PG_wal_sender_timeout=4s");
        assert_eq!(both.cure_by_patronictl(), "-s loop_wait=10 -p wal_sender_timeout=4s");
    }
}
