//! What PostgreSQL on this host reports about itself, over its socket and as user postgres: one call, which changes nothing.

use anyhow::Result;
use host::{ClusterId, Root};
use serde::Deserialize;

use crate::doctor::cluster::LIMIT;
use crate::postgres::place::Place;
use crate::postgres::psql::State;
use crate::postgres::roles::{REWIND_FUNCTIONS, literal};

/// A server.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Database {
    /// Is it a standby?
    pub(crate) recovery: bool,
    /// The seconds since it was started.
    pub(crate) uptime: f64,
    /// As `postgres --version` prints it after the name.
    pub(crate) version: String,
    /// `default_transaction_read_only`, unless it is only that of a session.
    pub(crate) read_only: bool,
    /// Does a standby stream?
    pub(crate) streams: bool,
    /// How far the WAL is received, replayed or written.
    pub(crate) position: u64,
    /// Parameters that wait for a restart.
    pub(crate) pending: Vec<String>,
    pub(crate) roles: Vec<Role>,
    pub(crate) slots: Vec<Slot>,
    /// Lines of `pg_hba.conf` and `pg_ident.conf` that it does not accept.
    pub(crate) lines: Vec<Rejected>,
}

/// A role of those that were asked for.
#[derive(Debug, Default, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is a column of pg_authid")]
pub(crate) struct Role {
    pub(crate) name: String,
    pub(crate) login: bool,
    pub(crate) replication: bool,
    pub(crate) superuser: bool,
    pub(crate) verifier: Option<String>,
    /// Its password is no longer valid.
    pub(crate) expired: bool,
    /// May it call everything that `pg_rewind` needs?
    pub(crate) rewinds: bool,
}

/// A physical replication slot that is not in use and keeps WAL.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Slot {
    pub(crate) name: String,
    /// How many bytes.
    pub(crate) kept: u64,
}

/// A line that the server does not accept.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Rejected {
    pub(crate) file: String,
    pub(crate) line: u64,
    pub(crate) error: String,
}

/// Functions and views of `pg_catalog` only. `pg_ident_file_mappings` exists since PostgreSQL 15, and `file_name` in both views since 16.
fn question(roles: &[&str]) -> String {
    let names: Vec<String> = [""].iter().chain(roles).map(|role| literal(role)).collect();
    let rewinds: Vec<String> = REWIND_FUNCTIONS
        .iter()
        .map(|function| format!("has_function_privilege(oid, 'pg_catalog.{function}', 'EXECUTE')"))
        .collect();
    let lines = |view: &str, file: &str| {
        format!(
            "SELECT coalesce(json_agg(json_build_object('file', coalesce(to_jsonb(v)->>'file_name', current_setting('{file}')), \
             'line', line_number, 'error', error)), '[]') FROM {view} v WHERE error IS NOT NULL"
        )
    };
    format!(
        "SET search_path = pg_catalog;
SET statement_timeout = '2500ms';
SET lc_messages = 'C';
SET default_transaction_read_only = on;
SELECT json_build_object(
 'recovery', pg_is_in_recovery(),
 'uptime', extract(epoch FROM now() - pg_postmaster_start_time()),
 'version', current_setting('server_version'),
 'read_only', (SELECT reset_val = 'on' FROM pg_settings WHERE name = 'default_transaction_read_only'),
 'streams', EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming'),
 'position', (CASE WHEN pg_is_in_recovery() THEN greatest(coalesce(pg_last_wal_receive_lsn(), '0/0'),
   coalesce(pg_last_wal_replay_lsn(), '0/0')) ELSE pg_current_wal_lsn() END - '0/0'::pg_lsn)::bigint,
 'pending', (SELECT coalesce(json_agg(name ORDER BY name), '[]') FROM pg_settings WHERE pending_restart),
 'roles', (SELECT coalesce(json_agg(json_build_object('name', rolname, 'login', rolcanlogin, 'replication', rolreplication,
   'superuser', rolsuper, 'verifier', rolpassword, 'expired', coalesce(rolvaliduntil < now(), false), 'rewinds', {rewinds})), '[]')
   FROM pg_authid WHERE rolname IN ({names})),
 'slots', (SELECT coalesce(json_agg(json_build_object('name', slot_name, 'kept',
   greatest((CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - restart_lsn)::bigint, 0))), '[]')
   FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT active AND NOT temporary AND restart_lsn IS NOT NULL),
 'lines', ({hba}));
SELECT current_setting('server_version_num')::int >= 150000 AS has_ident \\gset
\\if :has_ident
{ident};
\\endif
",
        rewinds = rewinds.join(" AND "),
        names = names.join(", "),
        hba = lines("pg_hba_file_rules", "hba_file"),
        ident = lines("pg_ident_file_mappings", "ident_file"),
    )
}

/// Asks the server; an error if it does not answer in time, or if the caller may not ask.
pub(crate) fn ask(root: &Root, id: &ClusterId, place: &Place, roles: &[&str]) -> Result<Database> {
    let answer = place.psql(root, id)?.within(LIMIT).run(&question(roles))?;
    if answer.state != State::Done {
        host::fail!("{}", answer.messages.join("; "));
    }
    let mut rows = serde_json::Deserializer::from_str(&answer.rows).into_iter::<serde_json::Value>();
    let first = rows.next().transpose()?.unwrap_or_default();
    let mut database: Database = serde_json::from_value(first)?;
    if let Some(lines) = rows.next().transpose()? {
        database.lines.extend(serde_json::from_value::<Vec<Rejected>>(lines)?);
    }
    Ok(database)
}

/// Is the server still in recovery?
pub(crate) fn is_in_recovery(root: &Root, id: &ClusterId, place: &Place) -> Result<bool> {
    Ok(place.psql(root, id)?.within(LIMIT).run("SELECT pg_catalog.pg_is_in_recovery()")?.rows.trim() == "t")
}
