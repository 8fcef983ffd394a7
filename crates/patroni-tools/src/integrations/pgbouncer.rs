//! `PgBouncer`: a pool on the host of the clients, which follows the primary by the address, name or proxy that does so. Users and
//! passwords stay in PostgreSQL: a role that can do no more asks for the SCRAM verifier of who logs in.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use host::endpoint::Endpoint;
use host::settings::Settings;
use host::{facts, program, scram};
use serde::Serialize;

use crate::files::install::Rights;
use crate::files::template;
use crate::integrations::cluster::{Given, Instance};
use crate::integrations::plan::{Generated, LIMIT, Plan};
use crate::integrations::{haproxy, vip};
use crate::patroni_yml::inputs::site_key;

const FILE: &str = "/etc/pgbouncer/pgbouncer.ini";
const USERS: &str = "/etc/pgbouncer/userlist.txt";
const SQL: &str = "/etc/pgbouncer/auth.sql";

/// The role that asks.
const ROLE: &str = "pgbouncer";

const QUERY: &str = "SELECT username, password FROM pgbouncer.get_auth($1)";

/// After how many seconds without an answer a server is dead.
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
    /// Can one database answer the query for all?
    auth_database: bool,
    tls: &'static str,
    authority: Option<String>,
    mode: &'static str,
    dead: u64,
}

/// The pool of one instance: a database is found by its name alone, so there can be no second.
pub fn plan(given: &Given) -> Result<Plan> {
    let [instance] = given.instances.as_slice() else {
        bail!("PgBouncer finds a database by its name alone, so it is for one instance: name one");
    };
    let Instance { id, settings, .. } = instance;
    let scope = id.dashed();
    let Some(key) = site_key(given.root, settings)? else {
        bail!(
            "there is no site key, from which the password of the role {ROLE} comes: run patroni-gen-config {id} first, or copy \
               the key from a member"
        );
    };
    let (major, minor) = version(given)?;
    let auth_database = (major, minor) >= (1, 19);
    let (what, host, port) = primary(given, instance)?;
    let (tls, authority) = tls(settings)?;
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
        authority,
        mode: settings.choice("PGBOUNCER_POOL_MODE", &["session", "transaction"])?.unwrap_or("session"),
        dead: DEAD,
    };
    let password = key.password(&scope, ROLE);
    let mut salt = [0; 16];
    salt.iter_mut().zip(key.password(&scope, "pgbouncer salt").bytes()).for_each(|(to, from)| *to = from);
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
        Generated { secrets: Vec::new(), ..file(FILE, template::body(given.root, "pgbouncer.ini.j2", values)?, "") },
    ];
    let mut plan = Plan { files, ..Plan::default() };
    let run = |database: &str| format!("runuser -u postgres -- psql --cluster {id} -d {database} -f {SQL}");
    plan.next.push(format!("run this once on the primary, which makes the role {ROLE}: {}", run("postgres")));
    if !auth_database {
        plan.next.push(format!(
            "PgBouncer {major}.{minor} asks in the database of the client: run this for every other database too: {}",
            run("DATABASE")
        ));
    }
    plan.next.push("run systemctl enable pgbouncer and systemctl restart pgbouncer".to_owned());
    Ok(plan)
}

/// `PgBouncer 1.24.1`.
fn version(given: &Given) -> Result<(u32, u32)> {
    vip::installed(given.root, "pgbouncer", "pgbouncer")?;
    let mut command = program::command(given.root, "pgbouncer")?;
    let output = program::output_within(command.arg("--version"), "", LIMIT)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    parse_version(&said).with_context(|| format!("pgbouncer --version prints no version: {}", said.trim()))
}

fn parse_version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.split_whitespace().find(|word| word.contains('.'))?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Where the primary is found: what that is, host and port.
fn primary(given: &Given, instance: &Instance) -> Result<(String, String, u16)> {
    let Instance { id, settings, port, .. } = instance;
    let asked = settings.parse("PGBOUNCER_SERVER", |text| server(text, *port))?;
    if let Some((host, port)) = asked {
        return Ok(("PGBOUNCER_SERVER".to_owned(), host, port));
    }
    let point = Endpoint::from_settings(given.root, id, settings)?;
    let vips = point.as_ref().map(|point| point.vips.as_slice()).unwrap_or_default();
    if let Some(address) = vip::only(vips) {
        return Ok(("the virtual address".to_owned(), address.to_string(), *port));
    }
    if let Some(dns) = point.as_ref().and_then(|point| point.dns.as_ref()) {
        return Ok(("the DNS name".to_owned(), dns.name.clone(), *port));
    }
    if !vips.is_empty() {
        bail!(
            "{}the members are in several subnets, and PgBouncer connects to one address: set a DNS name, or PGBOUNCER_SERVER",
            settings.place(&["VIPS"])
        );
    }
    let port = haproxy::write_port(instance)?;
    let proxied = given.root.read(haproxy::FILE)?.is_some_and(|text| text.contains(&format!(":{port}")));
    if !proxied {
        bail!(
            "nothing follows the primary of {id} for PgBouncer: set VIPS, a DNS name or PGBOUNCER_SERVER, or run patroni-gen-config \
             --for haproxy {id} on this host first"
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
        _ => bail!("'{text}' is not a server: write it as pgsql.example.org, 10.0.3.100:5433 or [fd00::64]:5433"),
    }
}

fn listen(settings: &Settings) -> Result<String> {
    let addresses = settings.list("PGBOUNCER_LISTEN", |text| match text {
        "*" => Ok(text.to_owned()),
        text => Ok(facts::parse_address(text)?.to_string()),
    })?;
    Ok(addresses.map_or_else(|| "127.0.0.1".to_owned(), |addresses| addresses.join(",")))
}

/// As members do it among themselves: the name of what is connected to is in no certificate, so not verify-full.
fn tls(settings: &Settings) -> Result<(&'static str, Option<String>)> {
    let asked = settings.choice("SSL", &["required", "allowed", "off"])?;
    let authority = settings.path("SSL_CACERT")?.filter(|_| settings.get("SSL_CERT").is_some());
    Ok(match (asked, authority) {
        (Some("off"), _) => ("disable", None),
        (_, Some(authority)) => ("verify-ca", Some(crate::patroni_yml::values::path_text(&authority)?)),
        (Some("required"), None) => ("require", None),
        (_, None) => ("prefer", None),
    })
}

/// Can be run again. Superusers and who replicates do not come in by the pool.
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
