//! The roles with which the members of a cluster log in to each other, as SQL that creates them or gives them what they lack.

use std::fmt::Write as _;

use anyhow::Result;
use host::fail;
use serde::{Deserialize, Serialize};

/// What `pg_rewind` calls on the server that it reads from (its manual page, and `Bootstrap.post_bootstrap`).
pub(crate) const REWIND_FUNCTIONS: [&str; 4] = [
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
];

/// What a role is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Purpose {
    /// Streaming.
    Replication,
    /// Reading files for `pg_rewind`.
    Rewind,
}

/// A role, and the verifier of its password if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) name: String,
    /// `None` for the superuser, which exists and needs no permission.
    pub(crate) purpose: Option<Purpose>,
    pub(crate) verifier: Option<String>,
}

/// One transaction that gives the roles what Patroni's own bootstrap gives them (`Bootstrap.post_bootstrap`), and creates those that are
/// missing. A permission that a role has besides stays. It does not wait for standbys, like Patroni itself
/// (`Bootstrap.create_or_update_role`). It contains verifiers, with which nobody can log in; still they do not need to be in a log.
pub(crate) fn statements(roles: &[Login]) -> Result<String> {
    let mut sql = String::from(
        "SET search_path = pg_catalog;\nSET log_statement TO 'none';\nSET log_min_duration_statement TO -1;\n\
         SET pg_stat_statements.track_utility TO off;\nSET synchronous_commit TO local;\nBEGIN;\n",
    );
    for Login { name: role, purpose, verifier } in roles {
        if role.contains('\0') {
            fail!("the name of a role contains a NUL character");
        }
        let name = format!("\"{}\"", role.replace('"', "\"\""));
        let literal = literal(role);
        let password = verifier.as_ref().map(|verifier| format!(" PASSWORD '{verifier}'")).unwrap_or_default();
        let Some(purpose) = purpose else {
            if !password.is_empty() {
                let _ = writeln!(sql, "ALTER ROLE {name}{password};");
            }
            continue;
        };
        let create = self::literal(&format!("CREATE ROLE {name}"));
        let prolong = self::literal(&format!("ALTER ROLE {name} VALID UNTIL 'infinity'"));
        let _ = writeln!(
            sql,
            "SELECT {create} WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal}) \\gexec\n\
             SELECT {prolong} FROM pg_roles WHERE rolname = {literal} AND rolvaliduntil < now() \\gexec"
        );
        let right = if *purpose == Purpose::Replication { " REPLICATION" } else { "" };
        let _ = writeln!(sql, "ALTER ROLE {name} WITH LOGIN{right}{password};");
        if *purpose == Purpose::Rewind {
            for function in REWIND_FUNCTIONS {
                let _ = writeln!(sql, "GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {name};");
            }
        }
    }
    sql += "COMMIT;\n";
    Ok(sql)
}

/// A string of SQL, with backslashes as they are, whatever `standard_conforming_strings` is.
pub(crate) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_role_gets_what_its_purpose_needs() {
        let role = |name: &str, purpose, verifier: Option<&str>| Login {
            name: name.to_owned(),
            purpose,
            verifier: verifier.map(str::to_owned),
        };
        let sql = statements(&[
            role("postgres", None, Some("SCRAM-1")),
            role("a'b\"c", Some(Purpose::Replication), None),
            role("r", Some(Purpose::Rewind), Some("SCRAM-2")),
        ])
        .unwrap();
        for line in [
            "ALTER ROLE \"postgres\" PASSWORD 'SCRAM-1';",
            "SELECT 'CREATE ROLE \"a''b\"\"c\"' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'a''b\"c') \\gexec",
            "ALTER ROLE \"a'b\"\"c\" WITH LOGIN REPLICATION;",
            "ALTER ROLE \"r\" WITH LOGIN PASSWORD 'SCRAM-2';",
            "GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text) TO \"r\";",
        ] {
            assert!(sql.lines().any(|found| found == line), "{line} is not in {sql}");
        }
        assert!(!sql.contains("CREATE ROLE \"postgres\"") && sql.trim_end().ends_with("COMMIT;"), "{sql}");
        assert_eq!(literal(r"a\b'"), r"E'a\\b'''");
    }
}
