//! The roles in a Patroni file with which the members log in.

use crate::files::yaml::Yaml;
use crate::patroni_yml::role_names::{REPLICATION, REWIND, SUPERUSER};
use crate::postgres::roles::Purpose;

/// A role in the Patroni file.
pub(crate) struct FileRole {
    /// Its section below `postgresql.authentication`.
    pub(crate) section: &'static str,
    pub(crate) name: String,
    /// `None` for the superuser.
    pub(crate) purpose: Option<Purpose>,
    pub(crate) password: Option<String>,
}

/// The superuser if it has a password, and the roles of the members, which may log in with certificates. Without its section,
/// `pg_rewind` logs in as the superuser (`ConfigHandler.rewind_credentials`).
pub(crate) fn of_file(yaml: &Yaml) -> Vec<FileRole> {
    let all = [
        ("superuser", SUPERUSER, None),
        ("replication", REPLICATION, Some(Purpose::Replication)),
        ("rewind", REWIND, Some(Purpose::Rewind)),
    ];
    let role = |(section, usual, purpose): (&'static str, &str, Option<Purpose>)| {
        yaml.get(&["postgresql", "authentication", section])?;
        let get = |key| yaml.text(&["postgresql", "authentication", section, key]);
        let (name, password) = (get("username").unwrap_or_else(|| usual.to_owned()), get("password"));
        (purpose.is_some() || password.is_some()).then_some(FileRole { section, name, purpose, password })
    };
    all.into_iter().filter_map(role).collect()
}
