//! The roles of a new Patroni file, which the server must have before a member reads it. A Patroni with other passwords cannot even find
//! out the timeline of its own server when it starts, so none of the members becomes primary (`Postgresql.get_replica_timeline`).

use std::collections::BTreeMap;
use std::time::Duration;

use host::trouble::Trouble;
use host::{ClusterId, Root, scram, trouble};

use crate::files::yaml::Yaml;
use crate::gen_config::server::Server;
use crate::patroni_yml::logins::{FileRole, of_file};
use crate::postgres::roles::literal;

/// What the server of this member has of the roles in the new file.
#[derive(Debug)]
pub(crate) enum Roles {
    /// All of them, with their passwords; or it cannot be asked, and they are those of the old file.
    Same,
    /// Others. `set-passwords` gives it the new ones, and lets all members read their files.
    Other(Trouble),
    /// They are not those of the old file, and the server cannot be asked.
    Unknown(Trouble),
}

/// How long the server is waited for.
const LIMIT: Duration = Duration::from_secs(3);

/// The roles of a server with the verifiers of their passwords.
type Stored = BTreeMap<String, Option<String>>;

impl Roles {
    /// Asks the server of this member, where the old file says that it is, if there was one.
    pub(crate) fn of(root: &Root, id: &ClusterId, old: Option<&Yaml>, new: &Yaml) -> Self {
        let roles = of_file(new);
        Self::judge(id, old, new, ask(&Server { root, id, yaml: old.unwrap_or(new) }, &roles).as_ref())
    }

    fn judge(id: &ClusterId, old: Option<&Yaml>, new: &Yaml, stored: Option<&Stored>) -> Self {
        let roles = of_file(new);
        let known = old.map(of_file).unwrap_or_default();
        let differs = |role: &&FileRole| match stored {
            Some(stored) => lacks(stored, role),
            None => old.is_some() && !known.iter().any(|old| old.name == role.name && old.password == role.password),
        };
        let names: Vec<&str> = roles.iter().filter(differs).map(|role| role.name.as_str()).collect();
        if names.is_empty() {
            return Self::Same;
        }
        let names = names.join(" and ");
        let is_standby = new.get(&["bootstrap", "dcs", "standby_cluster"]).is_some();
        let hint = |condition: &str| {
            if is_standby {
                return "The roles of a standby cluster are those of its source: see PASSWORD_SCOPE in patroni.default(5).".to_owned();
            }
            format!("{condition}, run on the primary: patroni-gen-config set-passwords {id}")
        };
        if stored.is_some() {
            return Self::Other(trouble!(
                "the new file has logins for {names} that the running cluster does not have";
                "{}", hint(
                    "If they are not to change, copy the site key from the primary, and run this again. Otherwise write the file on all \
                     members. Then, before Patroni is reloaded or restarted on any of them"
                )
            ));
        }
        Self::Unknown(trouble!(
            "the new file has other logins for {names} than the one before, and PostgreSQL cannot be asked here for its own";
            "{}", hint("If the running cluster does not have them yet, then, before Patroni reads the file on any member")
        ))
    }
}

fn lacks(stored: &Stored, role: &FileRole) -> bool {
    let Some(found) = stored.get(&role.name) else { return true };
    let Some(password) = &role.password else { return false };
    found.as_ref().is_none_or(|verifier| scram::is_password(verifier, &role.name, password) == Some(false))
}

fn ask(server: &Server, roles: &[FileRole]) -> Option<Stored> {
    let names: Vec<String> = roles.iter().map(|role| literal(&role.name)).collect();
    if names.is_empty() {
        return None;
    }
    let sql = format!(
        "SET search_path = pg_catalog;\nSELECT coalesce(json_object_agg(rolname, rolpassword), '{{}}') FROM pg_authid WHERE rolname IN ({});",
        names.join(", ")
    );
    serde_json::from_str(server.ask_within(LIMIT, &sql).ok()?.trim()).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::Path;

    #[test]
    fn a_file_with_other_roles_than_the_server_is_not_read_first() {
        let id: ClusterId = "17/main".parse().unwrap();
        let parse = |text: &str| Yaml::parse(Path::new("f"), text).unwrap();
        let file = "postgresql: {authentication: {superuser: {username: postgres}, \
                    replication: {username: replicator, password: s}, rewind: {username: rewind_user, password: s}}}";
        let of = |old: &str, new: &str, stored: Option<&[(&str, Option<&str>)]>| {
            let verifier = |password: &&str| scram::verifier(password).unwrap();
            let stored: Option<Stored> = stored.map(|stored| {
                stored.iter().map(|(name, password)| ((*name).to_owned(), password.as_ref().map(verifier))).collect()
            });
            match Roles::judge(&id, Some(&parse(old)), &parse(new), stored.as_ref()) {
                Roles::Same => String::new(),
                Roles::Other(trouble) => {
                    assert!(trouble.hint.unwrap().ends_with("patroni-gen-config set-passwords 17/main"));
                    format!("other: {}", trouble.what)
                }
                Roles::Unknown(trouble) => format!("unknown: {}", trouble.what),
            }
        };
        let theirs = file.replace("password: s", "password: t");
        let stored = |one, two| [("replicator", one), ("rewind_user", two)];
        assert_eq!(of(&theirs, file, Some(&stored(Some("s"), Some("s")))), "");
        assert_eq!(of(file, file, None), "");
        for (found, expected) in [
            (
                of(&theirs, file, Some(&stored(Some("t"), Some("t")))),
                "other: the new file has logins for replicator and rewind_user that",
            ),
            (
                of(file, file, Some(&stored(Some("s"), Some("t")))),
                "other: the new file has logins for rewind_user that",
            ),
            (of(file, file, Some(&stored(None, Some("s")))), "other: the new file has logins for replicator that"),
            (of(file, file, Some(&[("replicator", Some("s"))])), "other: the new file has logins for rewind_user that"),
            (of(&theirs, file, None), "unknown: the new file has other logins for replicator and rewind_user than"),
            (
                of(file, &file.replace("rewind_user", "rewinder"), None),
                "unknown: the new file has other logins for rewinder than",
            ),
        ] {
            assert!(found.starts_with(expected), "{found}");
        }
        // With a certificate there is no password to compare.
        let certificate = file.replace("password: s", "sslcert: /x");
        assert_eq!(of(&certificate, &certificate, Some(&stored(None, None))), "");
    }
}
