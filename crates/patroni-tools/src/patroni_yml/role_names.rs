//! The names of the roles with which Patroni logs in, and how they are written in the lines of `pg_hba.conf` and `pg_ident.conf`.

use anyhow::Result;
use host::fail;
use host::settings::Settings;

/// The superuser, unless `SUPERUSER_NAME` is set.
pub const SUPERUSER: &str = "postgres";

/// The role for replication, unless `REPLICATION_NAME` is set. Its password is derived with this name in any case.
pub const REPLICATION: &str = "replicator";

/// The role for `pg_rewind`, unless `REWIND_NAME` is set. Its password is derived with this name in any case.
pub const REWIND: &str = "rewind_user";

/// The user who runs Patroni and PostgreSQL.
const USER: &str = "postgres";

/// The user name map of a superuser with another name. The launcher uses it, too, while a cluster is bootstrapped
/// (`MAP_OF_GENERATOR` in `systemd/patroni`).
pub const MAP: &str = "patroni";

/// The roles with which Patroni logs in. No two are the same.
#[derive(Debug, Clone)]
pub struct RoleNames {
    /// The superuser, over the Unix socket.
    pub superuser: String,
    /// The role with which members replicate.
    pub replication: String,
    /// The role with which `pg_rewind` reads from the primary.
    pub rewind: String,
}

impl RoleNames {
    /// The names from the settings.
    pub fn read(settings: &Settings) -> Result<Self> {
        let name = |key: &str, usual: &str| -> Result<String> {
            Ok(settings.parse(key, role_name)?.unwrap_or_else(|| usual.to_owned()))
        };
        let names = Self {
            superuser: name("SUPERUSER_NAME", SUPERUSER)?,
            replication: name("REPLICATION_NAME", REPLICATION)?,
            rewind: name("REWIND_NAME", REWIND)?,
        };
        let of = [
            ("SUPERUSER_NAME", &names.superuser),
            ("REPLICATION_NAME", &names.replication),
            ("REWIND_NAME", &names.rewind),
        ];
        for (index, (key, name)) in of.iter().enumerate() {
            if let Some((other, _)) = of[index + 1..].iter().find(|(_, other)| other == name) {
                fail!(at settings.place(&[other, key]), "{key} and {other} are both '{name}'"; "Choose three different roles.");
            }
        }
        Ok(names)
    }

    /// Does the superuser have another name than the user who runs Patroni, so that `peer` needs a user name map?
    #[must_use]
    pub fn needs_map(&self) -> bool {
        self.superuser != USER
    }

    /// The line of that map.
    #[must_use]
    pub fn map(&self) -> Option<String> {
        self.needs_map().then(|| format!("{MAP} {USER} {}", in_file(&self.superuser)))
    }

    /// The lines of `pg_hba.conf` that admit Patroni as superuser. `all` does not include replication, which the base backups of
    /// postgresql-common need (`pg_backupcluster`, `pg_basebackup@`, `pg_receivewal@`).
    #[must_use]
    pub fn socket_lines(&self) -> [String; 2] {
        let map = if self.needs_map() { format!(" map={MAP}") } else { String::new() };
        ["all", "replication"].map(|database| format!("local {database} {} peer{map}", in_file(&self.superuser)))
    }
}

/// A name that PostgreSQL, its configuration files and Patroni accept.
fn role_name(text: &str) -> Result<String> {
    // NAMEDATALEN - 1.
    const MOST: usize = 63;
    if text.len() > MOST {
        fail!("'{text}' is longer than {MOST} bytes, to which PostgreSQL cuts names"; "Choose a shorter name.");
    }
    if text.chars().any(char::is_control) {
        fail!("'{text}' contains a character that is not printable"; "Choose another name.");
    }
    if text.starts_with("pg_") || ["public", "none"].contains(&text) {
        fail!("PostgreSQL reserves the name '{text}'"; "Choose another name.");
    }
    // Since version 16, even in quotes.
    if text.starts_with('/') {
        fail!("pg_hba.conf cannot name the role '{text}', because a slash begins a regular expression"; "Choose another name.");
    }
    // `Bootstrap.create_or_update_role` writes the name between two of them.
    if text.contains("$$") {
        fail!("Patroni cannot create the role '{text}', because it contains '$$'"; "Choose another name.");
    }
    Ok(text.to_owned())
}

/// A name in a line of `pg_hba.conf` or `pg_ident.conf`, in quotes if PostgreSQL would take it for something else (`next_token` and
/// `check_role` in `hba.c`).
#[must_use]
pub fn in_file(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    if name.bytes().all(plain) && name != "all" {
        return name.to_owned();
    }
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use host::trouble::Trouble;

    fn read(assignments: &[&str]) -> Result<RoleNames> {
        let mut settings = Settings::default();
        for assignment in assignments {
            settings.set(assignment).unwrap();
        }
        RoleNames::read(&settings)
    }

    #[test]
    fn names_are_quoted_if_needed() {
        for (name, written) in [
            ("replicator", "replicator"),
            ("app.repl-1", "app.repl-1"),
            ("all", "\"all\""),
            ("+staff", "\"+staff\""),
            ("@file", "\"@file\""),
            ("a,b", "\"a,b\""),
            ("a b", "\"a b\""),
            ("a#b", "\"a#b\""),
            ("a\"b", "\"a\"\"b\""),
            ("Zoë", "\"Zoë\""),
        ] {
            assert_eq!(read(&[&format!("REPLICATION_NAME={name}")]).unwrap().replication, name);
            assert_eq!(in_file(name), written);
        }
    }

    #[test]
    fn names_that_cannot_be_used() {
        for (name, why) in [
            (&*"x".repeat(64), "longer than 63 bytes"),
            (&*"é".repeat(32), "longer than 63 bytes"),
            ("a\nb", "not printable"),
            ("pg_app", "reserves"),
            ("public", "reserves"),
            ("none", "reserves"),
            ("/app", "regular expression"),
            ("a$$b", "Patroni cannot create"),
        ] {
            let error = read(&[&format!("REWIND_NAME={name}")]).unwrap_err();
            assert!(Trouble::of(&error).line().contains(why), "{error:#}");
        }
        for (assignments, keys) in [
            (&["REWIND_NAME=replicator"][..], "REPLICATION_NAME and REWIND_NAME"),
            (&["REPLICATION_NAME=postgres"], "SUPERUSER_NAME and REPLICATION_NAME"),
            (&["SUPERUSER_NAME=x", "REWIND_NAME=x"], "SUPERUSER_NAME and REWIND_NAME"),
        ] {
            let error = Trouble::of(&read(assignments).unwrap_err()).line();
            assert!(error.starts_with(&format!("--set: {keys} are both ")), "{error}");
        }
        assert!(read(&["REPLICATION_NAME=rewind_user", "REWIND_NAME=replicator"]).is_ok());
    }

    #[test]
    fn a_superuser_of_another_name_has_a_map() {
        let usual = read(&[]).unwrap();
        assert_eq!(usual.socket_lines(), ["local all postgres peer", "local replication postgres peer"]);
        assert_eq!(usual.map(), None);
        let other = read(&["SUPERUSER_NAME=db admin"]).unwrap();
        assert_eq!(
            other.socket_lines(),
            ["local all \"db admin\" peer map=patroni", "local replication \"db admin\" peer map=patroni"]
        );
        assert_eq!(other.map().as_deref(), Some("patroni postgres \"db admin\""));
    }
}
