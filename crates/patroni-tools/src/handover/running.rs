//! The server that runs, as it describes itself: what a handover has to preserve. One question in one transaction, which changes nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use host::{ClusterId, Root, fail};
use serde::{Deserialize, Serialize};

use crate::postgres::place::Place;

/// A server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Running {
    /// Is it a standby?
    pub(crate) recovery: bool,
    /// The system identifier, in decimal.
    pub(crate) system: String,
    pub(crate) timeline: u64,
    pub(crate) settings: Vec<Setting>,
    pub(crate) roles: Vec<Role>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) standbys: Vec<Standby>,
    pub(crate) tablespaces: Vec<String>,
    /// Extensions of any database are in `pg_available_extensions` only for this one, so these are those of database postgres.
    pub(crate) extensions: Vec<String>,
    /// Prepared transactions.
    pub(crate) prepared: u64,
}

/// A row of `pg_settings`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Setting {
    pub(crate) name: String,
    /// As `SHOW` prints it, with a unit.
    pub(crate) value: String,
    /// The unit of a number without one: `kB`, `8kB`, `ms` …
    pub(crate) unit: Option<String>,
    /// `bool`, `integer`, `real`, `string` or `enum`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// `postmaster` if a change needs a restart.
    pub(crate) context: String,
    /// `default`, `configuration file`, `command line` …
    pub(crate) source: String,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u64>,
    /// The value with which the server was built.
    pub(crate) boot: Option<String>,
    /// The value without a unit.
    pub(crate) plain: String,
    pub(crate) pending: bool,
}

impl Setting {
    /// Is the value only that of the session, or not a setting at all?
    pub(crate) fn is_of_session(&self) -> bool {
        ["client", "session"].contains(&self.source.as_str()) || self.context == "internal"
    }
}

/// A role that can log in for replication, or one whose name Patroni would use.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Role {
    pub(crate) name: String,
    pub(crate) login: bool,
    pub(crate) replication: bool,
    pub(crate) superuser: bool,
    /// The verifier that PostgreSQL stores for its password.
    pub(crate) verifier: Option<String>,
}

/// A replication slot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Slot {
    pub(crate) name: String,
    pub(crate) plugin: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) active: bool,
}

/// A standby that streams.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Standby {
    pub(crate) name: String,
    pub(crate) address: Option<String>,
    pub(crate) role: String,
    pub(crate) slot: Option<String>,
}

/// Everything, as one JSON document. Only functions of `pg_catalog` are called, and with an empty search path nothing else can be meant.
const QUESTION: &str = "
SET search_path = pg_catalog;
SET default_transaction_read_only = on;
SELECT json_build_object(
 'recovery', pg_is_in_recovery(),
 'system', (SELECT system_identifier::text FROM pg_control_system()),
 'timeline', (SELECT timeline_id FROM pg_control_checkpoint()),
 'settings', (SELECT json_agg(json_build_object('name', name, 'value', current_setting(name), 'plain', setting, 'unit', unit,
   'type', vartype, 'context', context, 'source', source, 'file', sourcefile, 'line', sourceline, 'boot', boot_val,
   'pending', pending_restart) ORDER BY name) FROM pg_settings),
 'roles', (SELECT coalesce(json_agg(json_build_object('name', rolname, 'login', rolcanlogin, 'replication', rolreplication,
   'superuser', rolsuper, 'verifier', rolpassword) ORDER BY rolname), '[]') FROM pg_authid),
 'slots', (SELECT coalesce(json_agg(json_build_object('name', slot_name, 'plugin', plugin, 'database', database, 'active', active)
   ORDER BY slot_name), '[]') FROM pg_replication_slots WHERE NOT temporary),
 'standbys', (SELECT coalesce(json_agg(json_build_object('name', application_name, 'address', host(client_addr), 'role', usename,
   'slot', (SELECT slot_name FROM pg_replication_slots s WHERE s.active_pid = r.pid))), '[]') FROM pg_stat_replication r),
 'tablespaces', (SELECT coalesce(json_agg(pg_tablespace_location(oid) ORDER BY 1), '[]') FROM pg_tablespace
   WHERE pg_tablespace_location(oid) <> ''),
 'extensions', (SELECT coalesce(json_agg(extname ORDER BY extname), '[]') FROM pg_extension),
 'prepared', (SELECT count(*) FROM pg_prepared_xacts));
";

impl Running {
    /// Asks the server.
    pub(crate) fn ask(root: &Root, id: &ClusterId, place: &Place) -> Result<Self> {
        let rows = place.sql(root, id, QUESTION)?;
        serde_json::from_str(&rows)
            .with_context(|| format!("could not read what the server of {id} reports about itself"))
    }

    /// The value of a parameter, as `SHOW` prints it.
    pub(crate) fn value(&self, name: &str) -> &str {
        self.settings.iter().find(|setting| setting.name == name).map_or("", |setting| &setting.value)
    }

    /// All values by name.
    pub(crate) fn values(&self) -> BTreeMap<&str, &Setting> {
        self.settings.iter().map(|setting| (setting.name.as_str(), setting)).collect()
    }

    pub(crate) fn role(&self, name: &str) -> Option<&Role> {
        self.roles.iter().find(|role| role.name == name)
    }
}

/// The data directory of a cluster in its configuration.
pub(crate) fn data_directory(root: &Root, id: &ClusterId) -> Result<PathBuf> {
    match host::clusters::find(root, id)? {
        Some(host::clusters::Installed { data_directory: Some(directory), .. }) => Ok(directory),
        Some(_) => {
            fail!("the configuration of {id} names no data directory"; "Set data_directory in its postgresql.conf.")
        }
        None => fail!("there is no cluster {id} on this host"; "See which there are with: pg_lsclusters"),
    }
}

#[cfg(test)]
impl Running {
    /// A primary with these settings and nothing else, for tests.
    pub(crate) fn with(settings: Vec<Setting>) -> Self {
        Self {
            recovery: false,
            system: "7".to_owned(),
            timeline: 1,
            settings,
            roles: Vec::new(),
            slots: Vec::new(),
            standbys: Vec::new(),
            tablespaces: Vec::new(),
            extensions: Vec::new(),
            prepared: 0,
        }
    }
}
