//! The cluster as the DCS shows it: what Patroni's members have written below the key of the scope (`Cluster` in `patroni/dcs/__init__.py`).

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::doctor::dcs::question::Content;
use crate::patroni::paths::FINGERPRINT_TAG;

/// For as long after a promotion, in seconds, standbys may still be on the way to the new primary: `wal_retrieve_retry_interval`,
/// a loop of Patroni, a rewind of a small server.
const SETTLING: u64 = 60;

/// A member as it describes itself below `members/` (`Ha.touch_member`).
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) data: Value,
}

impl Member {
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.data.get(key)?.as_str()
    }

    pub(crate) fn fingerprint(&self) -> Option<&str> {
        self.data.get("tags")?.get(FINGERPRINT_TAG)?.as_str()
    }

    /// The host and port of its REST API.
    pub(crate) fn api(&self) -> Option<(String, u16)> {
        let (_, rest) = self.text("api_url")?.split_once("://")?;
        let (host, port) = rest.split('/').next()?.rsplit_once(':')?;
        Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
    }

    /// The host and port of its PostgreSQL, as in `postgres://HOST:PORT/DATABASE` (`ConfigHandler.resolve_connection_addresses`).
    pub(crate) fn server(&self) -> Option<&str> {
        self.text("conn_url")?.split_once("://")?.1.split('/').next()
    }

    /// The host and port of its REST API, if that uses TLS.
    pub(crate) fn secure_api(&self) -> Option<(String, u16)> {
        self.api().filter(|_| self.text("api_url").is_some_and(|url| url.starts_with("https://")))
    }

    /// Does it describe itself as a primary, whatever release of Patroni it is?
    pub(crate) fn is_primary(&self) -> bool {
        matches!(self.text("role"), Some("primary" | "master"))
    }
}

/// What the DCS contains about the cluster.
pub(crate) struct View {
    /// The system identifier; empty while the cluster is being bootstrapped.
    pub(crate) system: Option<String>,
    /// The member that has the leader lock.
    pub(crate) leader: Option<String>,
    pub(crate) members: Vec<Member>,
    /// The dynamic configuration.
    pub(crate) config: Value,
    status: Value,
    sync: Value,
    history: Value,
    /// The key of Patroni before 2.1, `optime/leader`.
    old_position: Option<u64>,
}

impl View {
    pub(crate) fn of(content: &Content) -> Self {
        let json = |key: &str| content.get(key).and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
        let members = content.iter().filter_map(|(key, value)| {
            let name = key.strip_prefix("members/")?.to_owned();
            Some(Member { name, data: serde_json::from_str(value).ok()? })
        });
        Self {
            system: content.get("initialize").cloned(),
            leader: content.get("leader").filter(|leader| !leader.is_empty()).cloned(),
            members: members.collect(),
            config: json("config"),
            status: json("status"),
            sync: json("sync"),
            history: json("history"),
            old_position: content.get("optime/leader").and_then(|position| position.trim().parse().ok()),
        }
    }

    pub(crate) fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// The member that has the leader lock, if it is one.
    pub(crate) fn leading(&self) -> Option<&Member> {
        self.member(self.leader.as_deref()?)
    }

    pub(crate) fn is_bootstrapped(&self) -> bool {
        self.system.as_ref().is_some_and(|system| !system.is_empty())
    }

    /// Maintenance mode.
    pub(crate) fn is_paused(&self) -> bool {
        self.config.get("pause").is_some_and(|pause| *pause == Value::Bool(true))
    }

    pub(crate) fn is_standby_cluster(&self) -> bool {
        self.config.get("standby_cluster").is_some_and(Value::is_object)
    }

    /// Where the primary has been in the WAL at the end of its last loop.
    pub(crate) fn position(&self) -> Option<u64> {
        self.status.get("optime").and_then(Value::as_u64).or(self.old_position)
    }

    /// Slots of members that are gone, which Patroni keeps for a while (`member_slots_ttl` of Patroni 4).
    pub(crate) fn retained_slots(&self) -> Vec<&str> {
        let slots = self.status.get("retain_slots").and_then(Value::as_array);
        slots.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// The synchronous standbys that the leader has chosen (`SyncState`).
    pub(crate) fn synchronous(&self) -> Vec<&str> {
        let names = self.sync.get("sync_standby").and_then(Value::as_str).unwrap_or_default();
        names.split(',').map(str::trim).filter(|name| !name.is_empty()).collect()
    }

    /// Has a primary been promoted just now, so that nothing about its standbys is certain? The leader adds the promotion to the
    /// history only afterwards.
    pub(crate) fn is_settling(&self, now: SystemTime) -> bool {
        let Some(leader) = self.leading() else { return true };
        if !leader.is_primary() && !self.is_standby_cluster() {
            return true;
        }
        let last = self.history.as_array().and_then(|rows| rows.last()).and_then(Value::as_array);
        let ended = last.and_then(|row| row.first()).and_then(Value::as_u64).unwrap_or(0);
        if leader.data.get("timeline").and_then(Value::as_u64).is_some_and(|timeline| timeline > ended + 1) && ended > 0
        {
            return true;
        }
        let promoted = last.and_then(|row| row.get(3)).and_then(Value::as_str).and_then(seconds);
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        promoted.is_some_and(|promoted| now < promoted + SETTLING)
    }
}

/// The seconds since 1970 of a date as Patroni writes it: `2026-11-28T01:40:00.123456+00:00` (`datetime.isoformat`).
fn seconds(text: &str) -> Option<u64> {
    let (date, time) = text.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, offset) = match time.find(['+', '-', 'Z']) {
        Some(at) => time.split_at(at),
        None => (time, ""),
    };
    let parts = |text: &str| -> Option<i64> {
        let mut parts = text.splitn(3, ':').map(|part| part.split('.').next()?.parse::<i64>().ok());
        let (hours, minutes) = (parts.next()??, parts.next().unwrap_or(Some(0))?);
        Some(hours * 3600 + minutes * 60 + parts.next().unwrap_or(Some(0))?)
    };
    let ahead = match offset.strip_prefix('+') {
        Some(offset) => parts(offset)?,
        None => -offset.strip_prefix('-').map_or(Some(0), parts)?,
    };
    // The days of the proleptic Gregorian calendar, counted from March, so that a leap day is the last one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    u64::try_from(days * 86_400 + parts(clock)? - ahead).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_read() {
        for (text, expected) in [
            ("1970-01-01T00:00:00+00:00", Some(0)),
            ("2026-11-28T01:40:00.123456+00:00", Some(1_795_830_000)),
            ("2026-11-28T03:40:00+02:00", Some(1_795_830_000)),
            ("2024-02-29T23:59:59", Some(1_709_251_199)),
            ("2024-02-29", None),
            ("x", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }

    #[test]
    fn nothing_is_certain_right_after_a_promotion() {
        let at = UNIX_EPOCH + Duration::from_secs(1_795_830_000);
        let of = |role: &str, timeline: u64, history: &str| {
            let content = [
                ("leader", "pg1".to_owned()),
                ("members/pg1", format!(r#"{{"role":"{role}","timeline":{timeline}}}"#)),
                ("history", history.to_owned()),
            ];
            let content = content.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            View::of(&content).is_settling(at)
        };
        let row = |time: &str| format!(r#"[[1,100,"no recovery target specified","{time}","pg1"]]"#);
        assert!(!of("primary", 1, "null"));
        assert!(of("replica", 1, "null"));
        assert!(of("master", 2, &row("2026-11-28T01:39:30+00:00")));
        assert!(!of("master", 2, &row("2026-11-28T01:30:00+00:00")));
        // Promoted, and not in the history yet.
        assert!(of("primary", 3, &row("2026-11-28T01:30:00+00:00")));
    }
}
