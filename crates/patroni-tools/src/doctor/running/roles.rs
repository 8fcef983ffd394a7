//! The roles with which the members log in to each other, as the server has them.

use host::program::quoted;
use host::scram;

use crate::doctor::cluster::Cluster;
use crate::doctor::finding::{Finding, Level};
use crate::doctor::running::database::{Database, Role};
use crate::patroni_yml::logins::{FileRole, of_file};
use crate::postgres::roles::Purpose;

/// Where the roles can be changed.
pub(crate) enum Primary<'a> {
    /// On this member.
    Here,
    /// On another one.
    Elsewhere(&'a str),
    /// There is none.
    Nowhere,
    /// In the cluster from which this one gets all its data.
    Source,
}

/// Roles that are missing, lack a permission or have another password. `rotated`: new passwords have been prepared, and Patroni has not read
/// them yet.
pub(crate) fn check(cluster: &Cluster, database: &Database, primary: &Primary, rotated: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for role in of_file(&cluster.yaml) {
        let found = database.roles.iter().find(|found| found.name == role.name);
        // Only failing over and back needs the role of pg_rewind.
        let level = match role.purpose {
            Some(Purpose::Rewind) => Level::Warning,
            // Over the socket Patroni needs no password (`peer`).
            None if cluster.text(&["postgresql", "use_unix_socket"]).as_deref() == Some("true") => Level::Warning,
            _ => Level::Error,
        };
        let hint = hint(cluster, primary);
        match found {
            None => findings.push(Finding::new(level, format!("the role {} does not exist", role.name), hint)),
            Some(found) => {
                findings.extend(lacks(&role, found).map(|what| Finding::new(level, what, hint)));
                findings.extend(password(&role, found).map(|what| {
                    let level = if rotated { Level::Warning } else { level };
                    Finding::new(level, what, password_hint(cluster, primary))
                }));
            }
        }
    }
    findings.into_iter().map(|finding| finding.at("")).collect()
}

/// Does the server have other passwords than the file, or not all roles? A Patroni that reads the file cannot log in then.
pub(crate) fn differ(cluster: &Cluster, database: &Database) -> bool {
    let differs = |role: &FileRole| match database.roles.iter().find(|found| found.name == role.name) {
        Some(found) => password(role, found).is_some(),
        None => true,
    };
    of_file(&cluster.yaml).iter().any(differs)
}

fn hint(cluster: &Cluster, primary: &Primary) -> String {
    let set = format!("patroni-gen-config set-passwords {}", cluster.id);
    match primary {
        Primary::Here => format!("Correct it with: {set}"),
        Primary::Elsewhere(name) => format!("Correct it, on {}, with: {set}", quoted(name)),
        Primary::Nowhere => format!("When the cluster has a primary, run there: {set}"),
        Primary::Source => {
            "The roles are those of the source of this standby cluster: correct them on its primary.".to_owned()
        }
    }
}

/// On a standby it is either the file of this member that is wrong, or the role.
fn password_hint(cluster: &Cluster, primary: &Primary) -> String {
    let Primary::Elsewhere(name) = primary else { return hint(cluster, primary) };
    let name = quoted(name);
    format!(
        "If 'patroni-gen-config check {0}' reports the same on {name}, run there: patroni-gen-config set-passwords {0}. Otherwise this file \
         is wrong: copy the site key from {name}, then run: patroni-gen-config {0}",
        cluster.id
    )
}

fn lacks(role: &FileRole, found: &Role) -> Option<String> {
    let name = &role.name;
    match role.purpose {
        _ if !found.login => Some(format!("the role {name} may not log in")),
        Some(Purpose::Replication) if !found.replication && !found.superuser => {
            Some(format!("the role {name} may not replicate (it has no REPLICATION)"))
        }
        Some(Purpose::Rewind) if !found.rewinds && !found.superuser => Some(format!(
            "the role {name} may not call the functions that pg_rewind needs, so a former primary cannot rejoin"
        )),
        _ => None,
    }
}

fn password(role: &FileRole, found: &Role) -> Option<String> {
    let (name, password) = (&role.name, role.password.as_ref()?);
    match &found.verifier {
        None => Some(format!("the role {name} has no password, but the Patroni file has one")),
        Some(_) if found.expired => Some(format!("the password of the role {name} has expired (VALID UNTIL)")),
        Some(verifier) => (scram::is_password(verifier, name, password) == Some(false))
            .then(|| format!("the role {name} has another password than the Patroni file")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::doctor::finding::lines;
    use host::{ClusterId, Root};

    #[test]
    fn a_role_that_members_cannot_use_is_named() {
        let (root, id): (Root, ClusterId) = (Root::new("/nowhere"), "17/main".parse().unwrap());
        let file = "postgresql: {authentication: {superuser: {username: postgres}, replication: {username: replicator, password: s}, \
                    rewind: {username: rewind_user, password: s}}}";
        let cluster = Cluster::with(&root, &id, file);
        let verifier = scram::verifier("s").unwrap();
        let role = |name: &str| Role {
            name: name.to_owned(),
            login: true,
            replication: name == "replicator",
            verifier: Some(verifier.clone()),
            rewinds: name == "rewind_user",
            ..Role::default()
        };
        let of = |replicator: Role, rewind: Role| {
            let database = Database { roles: vec![replicator, rewind], ..Database::default() };
            let found = check(&cluster, &database, &Primary::Here, false);
            lines(&found).join("; ").replace(" | Correct it with: patroni-gen-config set-passwords 17/main", "")
        };
        let (replicator, rewind) = (|| role("replicator"), || role("rewind_user"));
        let other = || Some(scram::verifier("t").unwrap());
        let with_roles =
            |replicator: Role, rewind: Role| Database { roles: vec![replicator, rewind], ..Database::default() };
        for (found, expected) in [
            (with_roles(replicator(), rewind()), false),
            (with_roles(Role { rewinds: false, ..replicator() }, rewind()), false),
            (with_roles(Role { verifier: other(), ..replicator() }, rewind()), true),
            (with_roles(replicator(), role("x")), true),
        ] {
            assert_eq!(differ(&cluster, &found), expected);
        }
        for (found, expected) in [
            (of(replicator(), rewind()), ""),
            (of(role("x"), rewind()), "Error the role replicator does not exist"),
            (of(Role { login: false, ..replicator() }, rewind()), "Error the role replicator may not log in"),
            (
                of(Role { replication: false, ..replicator() }, rewind()),
                "Error the role replicator may not replicate (it has no REPLICATION)",
            ),
            (of(Role { replication: false, superuser: true, ..replicator() }, rewind()), ""),
            (
                of(Role { verifier: other(), ..replicator() }, rewind()),
                "Error the role replicator has another password than the Patroni file",
            ),
            (
                of(Role { verifier: None, ..replicator() }, rewind()),
                "Error the role replicator has no password, but the Patroni file has one",
            ),
            (of(Role { verifier: Some("x".to_owned()), ..replicator() }, rewind()), ""),
            (
                of(Role { expired: true, ..replicator() }, rewind()),
                "Error the password of the role replicator has expired (VALID UNTIL)",
            ),
            (
                of(replicator(), Role { rewinds: false, ..rewind() }),
                "Warning the role rewind_user may not call the functions that pg_rewind needs, so a former primary cannot rejoin",
            ),
            (of(replicator(), Role { rewinds: false, superuser: true, ..rewind() }), ""),
        ] {
            assert_eq!(found, expected);
        }
        // Patroni logs in as the superuser over the socket, where its password does not count.
        let socket = file.replace("postgresql: {", "postgresql: {use_unix_socket: true, ");
        let socket = socket.replace("username: postgres", "username: postgres, password: s");
        let superuser = Role { superuser: true, verifier: None, ..role("postgres") };
        let database = Database { roles: vec![superuser, replicator(), rewind()], ..Database::default() };
        let found = lines(&check(&Cluster::with(&root, &id, &socket), &database, &Primary::Here, false));
        assert!(found.len() == 1 && found[0].starts_with("Warning the role postgres has no password"), "{found:?}");
        let database =
            Database { roles: vec![Role { verifier: other(), ..replicator() }, rewind()], ..Database::default() };
        let with = |primary: Primary, rotated| lines(&check(&cluster, &database, &primary, rotated)).join("; ");
        assert!(with(Primary::Here, true).starts_with("Warning "));
        assert!(
            with(Primary::Elsewhere("pg2"), false)
                .contains("on pg2, run there: patroni-gen-config set-passwords 17/main.")
        );
        assert!(
            with(Primary::Nowhere, false)
                .ends_with("When the cluster has a primary, run there: patroni-gen-config set-passwords 17/main")
        );
        // With certificates there is no password to compare.
        let certificates = Cluster::with(
            &root,
            &id,
            "postgresql: {authentication: {replication: {username: replicator, sslcert: /x}}}",
        );
        assert_eq!(lines(&check(&certificates, &database, &Primary::Here, false)), [""; 0]);
    }
}
