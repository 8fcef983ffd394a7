//! The section `bootstrap.dcs`, except PostgreSQL's parameters and `pg_hba`. Patroni reads it only when the cluster is
//! bootstrapped; `patroni-gen-config apply` changes it in a running cluster.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow};
use host::settings::{Settings, boolean};
use host::{fail, trouble};
use serde::Serialize;
use serde_json::{Value, json};

use crate::patroni::version::Patroni;

/// The dynamic configuration, as the template shows it.
#[derive(Debug, Serialize)]
pub struct Dynamic {
    /// Seconds after which a primary that does not renew the leader lock loses it.
    pub ttl: u64,
    /// Seconds between two runs of Patroni's HA loop.
    pub loop_wait: u64,
    retry_timeout: u64,
    maximum_lag_on_failover: u64,
    primary_start_timeout: u64,
    failsafe_mode: bool,
    /// `true`, `false` or `"quorum"`.
    synchronous_mode: Value,
    synchronous_mode_strict: bool,
    /// How many standbys acknowledge each commit in synchronous mode.
    pub synchronous_node_count: u64,
    standby_cluster: Option<StandbyCluster>,
    slots: Vec<(String, Slot)>,
}

#[derive(Debug, Serialize)]
struct StandbyCluster {
    host: String,
    port: u64,
    primary_slot_name: Option<String>,
}

/// The options of a slot, in order.
type Slot = Vec<(&'static str, String)>;

impl Dynamic {
    /// Resolves the settings.
    pub fn resolve(settings: &Settings, patroni: &Patroni) -> Result<Self> {
        const DAY: u64 = 86_400;
        let dynamic = Self {
            ttl: settings.number("TTL", 20, DAY)?.unwrap_or(30),
            loop_wait: settings.number("LOOP_WAIT", 1, DAY)?.unwrap_or(10),
            retry_timeout: settings.number("RETRY_TIMEOUT", 3, DAY)?.unwrap_or(10),
            maximum_lag_on_failover: settings.number("MAXIMUM_LAG_ON_FAILOVER", 0, u64::MAX)?.unwrap_or(1_048_576),
            primary_start_timeout: settings.number("PRIMARY_START_TIMEOUT", 0, DAY)?.unwrap_or(300),
            failsafe_mode: settings.boolean("FAILSAFE_MODE")?.unwrap_or(true),
            synchronous_mode: synchronous_mode(settings, patroni)?,
            synchronous_mode_strict: settings.boolean("SYNCHRONOUS_MODE_STRICT")?.unwrap_or(false),
            synchronous_node_count: settings.number("SYNCHRONOUS_NODE_COUNT", 1, 100)?.unwrap_or(1),
            standby_cluster: standby_cluster(settings)?,
            slots: settings.list("SLOTS", slot)?.unwrap_or_default(),
        };
        let least = dynamic.loop_wait + 2 * dynamic.retry_timeout;
        if dynamic.ttl < least {
            fail!(
                at settings.place(&["TTL", "LOOP_WAIT", "RETRY_TIMEOUT"]),
                "TTL is {}, but LOOP_WAIT + 2 * RETRY_TIMEOUT is {least}, so the primary could lose its lock during a retry", dynamic.ttl;
                "Raise TTL, or lower the others."
            );
        }
        if dynamic.synchronous_mode_strict && !dynamic.is_synchronous() {
            fail!(
                at settings.place(&["SYNCHRONOUS_MODE_STRICT"]),
                "SYNCHRONOUS_MODE_STRICT has no effect without SYNCHRONOUS_MODE";
                "Set SYNCHRONOUS_MODE too, or remove it."
            );
        }
        settings.parse("SLOTS", |_| {
            let mut seen = BTreeSet::new();
            match dynamic.slots.iter().find(|(name, _)| !seen.insert(name)) {
                Some((twice, _)) => fail!("slot '{twice}' is defined twice"; "Remove one of the definitions."),
                None => Ok(()),
            }
        })?;
        Ok(dynamic)
    }

    /// Is a commit acknowledged only after a standby has received it?
    #[must_use]
    pub fn is_synchronous(&self) -> bool {
        self.synchronous_mode != Value::Bool(false)
    }

    /// Does any standby acknowledge a commit?
    #[must_use]
    pub fn is_quorum(&self) -> bool {
        self.synchronous_mode == json!("quorum")
    }

    /// Are there logical replication slots?
    #[must_use]
    pub fn has_logical_slots(&self) -> bool {
        self.slots.iter().any(|(_, options)| options.contains(&("type", "logical".to_owned())))
    }
}

fn synchronous_mode(settings: &Settings, patroni: &Patroni) -> Result<Value> {
    let mode = settings.parse("SYNCHRONOUS_MODE", |text| match (text, patroni.lacks_quorum_commit()) {
        ("quorum", None) => Ok(json!("quorum")),
        ("quorum", Some(version)) => {
            fail!("quorum needs Patroni 4.0, but {version} is installed"; "Set yes, or install a newer Patroni.")
        }
        _ => boolean(text)
            .map(Value::Bool)
            .ok_or_else(|| anyhow!(trouble!("'{text}' is not a synchronous mode"; "Use no, yes or quorum."))),
    })?;
    Ok(mode.unwrap_or(Value::Bool(false)))
}

fn standby_cluster(settings: &Settings) -> Result<Option<StandbyCluster>> {
    let hosts = settings.list("STANDBY_HOST", |text| {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if bare.is_empty() || !bare.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:".contains(&b)) {
            fail!("'{text}' is not a host"; "Write its name or address, and set its port in STANDBY_PORT.");
        }
        if bare.contains(':') && bare.parse::<std::net::Ipv6Addr>().is_err() {
            fail!("'{text}' is not an IPv6 address"; "Set the port in STANDBY_PORT.");
        }
        Ok(bare.to_owned())
    })?;
    let port = settings.number("STANDBY_PORT", 1, 65535)?;
    let slot = settings.parse("STANDBY_SLOT", |text| slot_name(text).map(str::to_owned))?;
    match hosts {
        Some(hosts) => {
            Ok(Some(StandbyCluster { host: hosts.join(","), port: port.unwrap_or(5432), primary_slot_name: slot }))
        }
        None if port.is_some() || slot.is_some() => fail!(
            at settings.place(&["STANDBY_PORT", "STANDBY_SLOT"]),
            "STANDBY_PORT and STANDBY_SLOT have no effect without STANDBY_HOST";
            "Set STANDBY_HOST for a standby cluster, or remove them."
        ),
        None => Ok(None),
    }
}

/// `name:physical` or `name:logical:database:plugin`.
fn slot(text: &str) -> Result<(String, Slot)> {
    let parts: Vec<&str> = text.split(':').collect();
    let name = slot_name(parts.first().copied().unwrap_or_default())?.to_owned();
    match parts.as_slice() {
        [_, "physical"] => Ok((name, vec![("type", "physical".to_owned())])),
        [_, "logical", database, plugin] if !database.is_empty() && !plugin.is_empty() => Ok((
            name,
            vec![
                ("type", "logical".to_owned()),
                ("database", (*database).to_owned()),
                ("plugin", (*plugin).to_owned()),
            ],
        )),
        _ => fail!("'{text}' is not a replication slot"; "Write name:physical or name:logical:database:plugin."),
    }
}

/// Checked as by `ReplicationSlotValidateName` in PostgreSQL.
fn slot_name(text: &str) -> Result<&str> {
    const LONGEST: usize = 63;
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    (!text.is_empty() && text.len() <= LONGEST && text.bytes().all(plain)).then_some(text).ok_or_else(|| {
        anyhow!(trouble!(
            "'{text}' is not the name of a replication slot";
            "Use lower-case letters, digits and underscores, at most {LONGEST}."
        ))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn slots_as_people_write_them() {
        let read = |text: &str| slot(text).map_err(|error| error.to_string());
        assert_eq!(read("site_b:physical").unwrap().1, [("type", "physical".to_owned())]);
        let (name, options) = read("app:logical:shop:pgoutput").unwrap();
        assert_eq!((name.as_str(), options[1].1.as_str(), options[2].1.as_str()), ("app", "shop", "pgoutput"));
        for wrong in [
            "a",
            "a:",
            ":physical",
            "a:physical:b",
            "a:logical",
            "a:logical:b",
            "a:logical:b:",
            "A:physical",
            "a-b:physical",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
