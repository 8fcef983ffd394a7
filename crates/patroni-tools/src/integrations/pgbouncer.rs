//! PgBouncer: a pool on the host of the clients. It finds the primary through the virtual IP address, the DNS name or HAProxy. Users and
//! passwords stay in PostgreSQL: an otherwise unprivileged role reads the SCRAM verifier of the user that logs in.

use std::path::PathBuf;

use anyhow::Result;
use host::endpoint::Endpoint;
use host::settings::Settings;
use host::{facts, fail, program, scram, trouble};
use serde::Serialize;

use crate::files::install::Rights;
use crate::files::template;
use crate::integrations::cluster::{Cluster, Site};
use crate::integrations::plan::{Generated, LIMIT, Plan};
use crate::integrations::{haproxy, vip};
use crate::patroni_yml::inputs::site_key;
use crate::patroni_yml::methods::shell_word;
use crate::patroni_yml::role_names::RoleNames;
use crate::patroni_yml::values::path_text;

pub const FILE: &str = "/etc/pgbouncer/pgbouncer.ini";
const USERS: &str = "/etc/pgbouncer/userlist.txt";
const SQL: &str = "/etc/pgbouncer/auth.sql";

/// The role that reads the verifiers.
const ROLE: &str = "pgbouncer";

const QUERY: &str = "SELECT username, password FROM pgbouncer.get_auth($1)";

/// The seconds after which a server that does not respond is considered dead.
const DEAD: u64 = 8;

/// Debian's unit runs it as postgres.
const RIGHTS: Rights = Rights { user: "root", group: "postgres", mode: 0o640 };

#[derive(Debug, Serialize)]
struct Values {
    cluster: String,
    what: String,
    host: String,
    port: u16,
    listen: String,
    listen_port: u64,
    users: &'static str,
    role: &'static str,
    query: &'static str,
    /// Does one database serve the query for all?
    auth_database: bool,
    tls: &'static str,
    #[serde(rename = "authority")]
    ca: Option<String>,
    mode: &'static str,
    dead: u64,
}

/// The pool of one cluster. PgBouncer finds a database by its name alone, so it cannot serve a second one.
pub fn plan(site: &Site) -> Result<Plan> {
    let [cluster] = site.clusters.as_slice() else {
        fail!("PgBouncer cannot serve more than one cluster, because it finds a database by its name alone"; "Name one cluster.");
    };
    let Cluster { id, settings, .. } = cluster;
    let name = id.dashed();
    let Some(key) = site_key(site.root, settings)? else {
        fail!(
            "the site key, from which the password of the role {ROLE} is derived, does not exist";
            "Copy it from a member, or create it with: patroni-gen-config {id}"
        );
    };
    let (major, minor) = version(site)?;
    let auth_database = (major, minor) >= (1, 19);
    let (what, host, port) = primary(site, cluster)?;
    let (tls, ca) = tls(settings)?;
    let values = Values {
        cluster: id.slashed(),
        what,
        host,
        port,
        listen: listen(settings)?,
        listen_port: settings.number("PGBOUNCER_PORT", 1, u64::from(u16::MAX))?.unwrap_or(6432),
        users: USERS,
        role: ROLE,
        query: QUERY,
        auth_database,
        tls,
        ca,
        mode: settings.choice("PGBOUNCER_POOL_MODE", &["session", "transaction"])?.unwrap_or("session"),
        dead: DEAD,
    };
    let password = key.password(&name, ROLE);
    let mut salt = [0; 16];
    salt.iter_mut().zip(key.password(&name, "pgbouncer salt").bytes()).for_each(|(to, from)| *to = from);
    let verifier = scram::verifier_with_salt(&password, &salt)?;
    let file = |path: &str, body: String, secret: &str| Generated {
        path: PathBuf::from(path),
        body,
        rights: RIGHTS,
        validator: None,
        secrets: vec![secret.to_owned()],
    };
    let files = vec![
        file(USERS, format!("\"{ROLE}\" \"{password}\"\n"), &password),
        file(SQL, sql(&verifier), &verifier),
        Generated { secrets: Vec::new(), ..file(FILE, template::body(site.root, "pgbouncer.ini.j2", values)?, "") },
    ];
    let mut plan = Plan { files, ..Plan::default() };
    let names = RoleNames::read(settings)?;
    let user = if names.needs_map() { format!(" -U {}", shell_word(&names.superuser)) } else { String::new() };
    let run = |database: &str| format!("runuser -u postgres -- psql --cluster {id}{user} -d {database} -f {SQL}");
    plan.next.push(format!("create the role {ROLE} once, on the primary, with: {}", run("postgres")));
    if !auth_database {
        plan.next.push(format!(
            "PgBouncer {major}.{minor} queries the database of the client, so run this for every other database, too: {}",
            run("DATABASE")
        ));
    }
    plan.next.push("apply it with: systemctl enable pgbouncer && systemctl restart pgbouncer".to_owned());
    Ok(plan)
}

/// `PgBouncer 1.24.1`.
fn version(site: &Site) -> Result<(u32, u32)> {
    vip::installed(site.root, "pgbouncer", "pgbouncer")?;
    let mut command = program::command(site.root, "pgbouncer")?;
    let output = program::output_within(command.arg("--version"), "", LIMIT)?;
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = parse_version(&output);
    Ok(version
        .ok_or_else(|| trouble!("could not find a version in the output of pgbouncer --version: {}", output.trim()))?)
}

fn parse_version(output: &str) -> Option<(u32, u32)> {
    let mut numbers = output.split_whitespace().find(|word| word.contains('.'))?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Where the primary is found: a description, host and port.
fn primary(site: &Site, cluster: &Cluster) -> Result<(String, String, u16)> {
    let Cluster { id, settings, port, .. } = cluster;
    let set = settings.parse("PGBOUNCER_SERVER", |text| server(text, *port))?;
    if let Some((host, port)) = set {
        return Ok(("PGBOUNCER_SERVER".to_owned(), host, port));
    }
    let point = Endpoint::from_settings(site.root, id, settings)?;
    let vips = point.as_ref().map(|point| point.vips.as_slice()).unwrap_or_default();
    if let Some(address) = vip::only(vips) {
        return Ok(("the virtual address".to_owned(), address.to_string(), *port));
    }
    if let Some(dns) = point.as_ref().and_then(|point| point.dns.as_ref()) {
        return Ok(("the DNS name".to_owned(), dns.name.clone(), *port));
    }
    if !vips.is_empty() {
        fail!(
            at settings.place(&["VIPS"]),
            "PgBouncer connects to one address, but there are virtual addresses for several subnets";
            "Set a DNS name, or PGBOUNCER_SERVER."
        );
    }
    let port = haproxy::write_port(cluster)?;
    let proxied = site.root.read(haproxy::FILE)?.is_some_and(|text| text.contains(&format!(":{port}")));
    if !proxied {
        fail!(
            "PgBouncer cannot find the primary of {id}";
            "Set VIPS, a DNS name or PGBOUNCER_SERVER, or configure HAProxy on this host with: patroni-gen-config for haproxy {id}"
        );
    }
    Ok(("HAProxy on this host".to_owned(), "127.0.0.1".to_owned(), port))
}

/// `pgsql.example.org`, `10.0.3.100:5433`, `[fd00::64]:5433`.
fn server(text: &str, default: u16) -> Result<(String, u16)> {
    let plain = |host: &str| !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
    if let Ok(address) = facts::parse_address(text) {
        return Ok((address.to_string(), default));
    }
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        return Ok((address.ip().to_string(), address.port()));
    }
    match text.split_once(':').map_or((text, Ok(default)), |(host, port)| (host, port.parse())) {
        (host, Ok(port)) if plain(host) && port > 0 => Ok((host.to_owned(), port)),
        _ => fail!("'{text}' is not a server"; "Write it as pgsql.example.org, 10.0.3.100:5433 or [fd00::64]:5433."),
    }
}

fn listen(settings: &Settings) -> Result<String> {
    let addresses = settings.list("PGBOUNCER_LISTEN", |text| match text {
        "*" => Ok(text.to_owned()),
        text => Ok(facts::parse_address(text)?.to_string()),
    })?;
    Ok(addresses.map_or_else(|| "127.0.0.1".to_owned(), |addresses| addresses.join(",")))
}

/// As between members. The name or address of the server is not in every certificate, so not verify-full.
fn tls(settings: &Settings) -> Result<(&'static str, Option<String>)> {
    let mode = settings.choice("SSL", &["required", "allowed", "off"])?;
    let ca = settings.path("SSL_CACERT")?.filter(|_| settings.get("SSL_CERT").is_some());
    Ok(match (mode, ca) {
        (Some("off"), _) => ("disable", None),
        (_, Some(ca)) => ("verify-ca", Some(path_text(&ca)?)),
        (Some("required"), None) => ("require", None),
        (_, None) => ("prefer", None),
    })
}

/// Can be run again. Superusers and replication roles cannot log in through the pool.
fn sql(verifier: &str) -> String {
    format!(
        "\\set ON_ERROR_STOP on
BEGIN;
SET LOCAL client_min_messages = warning;
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{ROLE}') THEN CREATE ROLE {ROLE}; END IF;
END $$;
ALTER ROLE {ROLE} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD '{verifier}';
CREATE SCHEMA IF NOT EXISTS pgbouncer;
REVOKE ALL ON SCHEMA pgbouncer FROM PUBLIC;
GRANT USAGE ON SCHEMA pgbouncer TO {ROLE};
CREATE OR REPLACE FUNCTION pgbouncer.get_auth(name text) RETURNS TABLE (username text, password text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT rolname::text, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM pg_catalog.pg_authid
    WHERE rolname = name AND rolcanlogin AND NOT rolsuper AND NOT rolreplication
$$;
REVOKE ALL ON FUNCTION pgbouncer.get_auth(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pgbouncer.get_auth(text) TO {ROLE};
COMMIT;
"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn servers_and_versions() {
        for (text, host, port) in [
            ("pgsql.example.org", "pgsql.example.org", 5432),
            ("pgsql:5433", "pgsql", 5433),
            ("10.0.3.100", "10.0.3.100", 5432),
            ("10.0.3.100:5433", "10.0.3.100", 5433),
            ("fd00::64", "fd00::64", 5432),
            ("[fd00::64]:5433", "fd00::64", 5433),
        ] {
            assert_eq!(server(text, 5432).unwrap(), (host.to_owned(), port), "{text}");
        }
        for text in ["a b", "a:", "a:0", ":5432", "a=b", "pg user=postgres"] {
            assert!(server(text, 5432).is_err(), "{text}");
        }
        assert_eq!(parse_version("PgBouncer 1.18.0\nlibevent 2.1.12-stable\n"), Some((1, 18)));
    }
}
