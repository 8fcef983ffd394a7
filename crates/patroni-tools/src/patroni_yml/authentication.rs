//! Authentication in PostgreSQL: TLS, `pg_hba`, and the roles with which the members log in to each other.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use host::keys::SiteKey;
use host::settings::Settings;
use host::{ClusterId, Root, fail};
use serde::Serialize;

use crate::patroni_yml::auth_files::{self, Kind};
use crate::patroni_yml::channel_binding::can_bind;
use crate::patroni_yml::parameters::Values;
use crate::patroni_yml::role_names::{self, REPLICATION, REWIND, RoleNames, in_file};
use crate::patroni_yml::values::path_text;
use crate::postgres::conf_dir;

/// The user name map that admits one certificate for both roles.
const MAP: &str = "members";

/// Options of a role under `postgresql.authentication`, in order.
type Options = Vec<(&'static str, String)>;

/// The result of the settings.
#[derive(Debug)]
pub struct Access {
    /// Lines of `pg_hba`; the first that matches applies.
    pub hba: Vec<String>,
    /// Lines of `pg_ident`.
    pub ident: Vec<String>,
    /// PostgreSQL's TLS parameters.
    pub tls: Values,
    /// The roles.
    pub roles: Roles,
}

/// The credentials with which Patroni logs in.
#[derive(Debug, Serialize)]
pub struct Roles {
    superuser: Options,
    replication: Options,
    rewind: Options,
}

impl Access {
    /// Resolves everything.
    pub fn resolve(
        root: &Root,
        id: &ClusterId,
        settings: &Settings,
        key: &SiteKey,
        names: &RoleNames,
        networks: &[String],
    ) -> Result<Self> {
        let tls = Tls::resolve(root, id, settings)?;
        let by_certificate = by_certificate(root, settings, &tls, names)?;
        let mut ident: Vec<String> = names.map().into_iter().collect();
        let mut own_maps: Vec<&str> = ident.iter().map(|_| role_names::MAP).collect();
        if by_certificate.is_some() {
            let [subject, rewind] = [&names.replication, &names.rewind].map(|name| in_file(name));
            ident.extend([&subject, &rewind].map(|role| format!("{MAP} {subject} {role}")));
            own_maps.push(MAP);
        }
        let version = id.version.number();
        let lines = |key, kind, own: &[&str]| auth_files::lines(root, settings, key, kind, version, own);
        ident.extend(lines("PG_IDENT_FILE", Kind::Ident, &own_maps)?);
        let hba = Hba {
            names,
            networks,
            connection: tls.connection,
            by_certificate: by_certificate.is_some(),
            extra: lines("PG_HBA_FILE", Kind::Hba, &[])?,
            general: settings.boolean("PG_HBA_GENERAL")?.unwrap_or(true),
        };
        Ok(Self {
            hba: hba.lines(),
            ident,
            roles: roles(root, id, settings, key, &tls, names, by_certificate.as_ref())?,
            tls: tls.parameters,
        })
    }
}

/// The scope from which the passwords are derived: that of the cluster itself, or for a standby cluster that of its source.
pub fn password_scope(settings: &Settings, id: &ClusterId) -> Result<String> {
    let other = settings.parse("PASSWORD_SCOPE", |text| Ok(text.parse::<ClusterId>()?))?;
    Ok(other.as_ref().unwrap_or(id).dashed())
}

/// The TLS settings of the server.
struct Tls {
    /// `hostssl` if TLS is required for network connections, else `host`.
    connection: &'static str,
    parameters: Values,
    /// The CA certificate with which members verify each other.
    ca: Option<String>,
    /// Is the certificate set, and not Debian's snakeoil?
    own: bool,
    /// Can SCRAM bind a login to the server's certificate?
    binds: bool,
}

impl Tls {
    fn resolve(root: &Root, id: &ClusterId, settings: &Settings) -> Result<Self> {
        let asked = settings.choice("SSL", &["required", "allowed", "off"])?;
        let files = pair(root, settings, "SSL_CERT", "SSL_KEY")?;
        let ca = readable(root, settings, "SSL_CACERT")?;
        let own = files.is_some();
        let mut parameters = Values::new();
        let mut set = |name: &str, value: &str| parameters.push((name.to_owned(), value.to_owned()));
        if asked == Some("off") {
            if own || ca.is_some() {
                fail!(
                    at settings.place(&["SSL", "SSL_CERT", "SSL_CACERT"]),
                    "SSL is off, but a certificate is set";
                    "Remove one of them."
                );
            }
            set("ssl", "off");
        }
        let has_certificate = own || (asked != Some("off") && conf_dir::has_tls(root, id)?);
        if !has_certificate && (asked == Some("required") || ca.is_some()) {
            fail!(
                at settings.place(&["SSL", "SSL_CACERT"]),
                "{id} has no certificate";
                "Set SSL_CERT and SSL_KEY, or for testing only run: apt install ssl-cert"
            );
        }
        if let Some((cert, key)) = &files {
            set("ssl", "on");
            set("ssl_cert_file", cert);
            set("ssl_key_file", key);
        }
        if let Some(ca) = &ca {
            set("ssl_ca_file", ca);
        }
        let required = has_certificate && asked != Some("allowed");
        let certificate = files.as_ref().map_or(conf_dir::CERTIFICATE, |(certificate, _)| certificate);
        let binds = has_certificate && can_bind(root, Path::new(certificate));
        Ok(Self { connection: if required { "hostssl" } else { "host" }, parameters, ca, own, binds })
    }

    /// How a member verifies the server. Without a CA certificate libpq's default applies, which prefers TLS.
    fn of_client(&self) -> Options {
        match &self.ca {
            // Not verify-full: the certificate need not have the address by which members reach each other.
            Some(ca) if self.own => {
                vec![("sslmode", "verify-ca".to_owned()), ("sslrootcert", ca.clone())]
            }
            _ => Options::new(),
        }
    }
}

/// Passwords are stored as SCRAM verifiers by default since PostgreSQL 14.
const SCRAM_BY_DEFAULT: (u32, u32) = (14, 0);

/// The path of a file that PostgreSQL reads itself.
fn readable(root: &Root, settings: &Settings, key: &str) -> Result<Option<String>> {
    settings.file(root, key)?.map(|path| path_text(&path)).transpose()
}

/// A certificate and its key. PostgreSQL and libpq refuse a key that other users can read.
fn pair(root: &Root, settings: &Settings, cert: &str, key: &str) -> Result<Option<(String, String)>> {
    match (readable(root, settings, cert)?, readable(root, settings, key)?) {
        (Some(cert), Some(key_file)) => {
            settings.parse(key, |text| {
                let metadata = root.path(text).metadata().with_context(|| format!("could not read {text}"))?;
                if metadata.permissions().mode() & 0o007 != 0 {
                    fail!("other users can read the key {text}"; "Prevent it with: chmod 0640 {text}");
                }
                Ok(())
            })?;
            Ok(Some((cert, key_file)))
        }
        (None, None) => Ok(None),
        _ => fail!(at settings.place(&[cert, key]), "{cert} and {key} must be set together"; "Set both or neither."),
    }
}

/// The certificate and key with which members log in to each other, if they do not use passwords.
fn by_certificate(root: &Root, settings: &Settings, tls: &Tls, names: &RoleNames) -> Result<Option<(String, String)>> {
    let files = pair(root, settings, "REPLICATION_CERT", "REPLICATION_KEY")?;
    let place = settings.place(&["REPLICATION_AUTH", "REPLICATION_CERT"]);
    match (settings.choice("REPLICATION_AUTH", &["password", "cert"])?, files) {
        (Some("cert"), None) => fail!(
            at place,
            "REPLICATION_AUTH is cert, but REPLICATION_CERT is not set";
            "Set REPLICATION_CERT and REPLICATION_KEY to a certificate for the name {}.", names.replication
        ),
        (Some("cert"), Some(files)) => {
            if tls.ca.is_none() {
                fail!(
                    at place,
                    "REPLICATION_AUTH is cert, but SSL_CACERT is not set";
                    "Set SSL_CACERT to the CA certificate with which PostgreSQL verifies REPLICATION_CERT."
                );
            }
            let passwords = ["REPLICATION_PASSWORD_FILE", "REWIND_PASSWORD_FILE"];
            if let Some(unused) = passwords.iter().find(|key| settings.get(key).is_some()) {
                fail!(
                    at settings.place(&[unused]),
                    "{unused} has no effect with REPLICATION_AUTH=cert";
                    "Remove one of them."
                );
            }
            Ok(Some(files))
        }
        (_, Some(_)) => fail!(
            at place,
            "REPLICATION_CERT has no effect without REPLICATION_AUTH=cert";
            "Set REPLICATION_AUTH=cert, or remove it."
        ),
        (_, None) => Ok(None),
    }
}

fn roles(
    root: &Root,
    id: &ClusterId,
    settings: &Settings,
    key: &SiteKey,
    tls: &Tls,
    names: &RoleNames,
    by_certificate: Option<&(String, String)>,
) -> Result<Roles> {
    let scope = password_scope(settings, id)?;
    let role = |name: &str, usual: &str, file: &str| -> Result<Options> {
        let mut options = vec![("username", name.to_owned())];
        if let Some((cert, key)) = by_certificate {
            options.extend([("sslcert", cert.clone()), ("sslkey", key.clone())]);
            if !tls.own {
                options.push(("sslmode", "require".to_owned()));
            }
        } else {
            let password = password(root, settings, file)?;
            options.push(("password", password.unwrap_or_else(|| key.role_password(&scope, usual))));
        }
        options.extend(tls.of_client());
        if by_certificate.is_none() && tls.connection == "hostssl" && settings.get("STANDBY_HOST").is_none() {
            if !options.iter().any(|(key, _)| *key == "sslmode") {
                options.push(("sslmode", "require".to_owned()));
            }
            if tls.binds && id.version.number() >= SCRAM_BY_DEFAULT {
                options.push(("channel_binding", "require".to_owned()));
            }
        }
        Ok(options)
    };
    let mut superuser = vec![("username", names.superuser.clone())];
    superuser.extend(password(root, settings, "SUPERUSER_PASSWORD_FILE")?.map(|password| ("password", password)));
    Ok(Roles {
        superuser,
        replication: role(&names.replication, REPLICATION, "REPLICATION_PASSWORD_FILE")?,
        rewind: role(&names.rewind, REWIND, "REWIND_PASSWORD_FILE")?,
    })
}

/// A password that SCRAM does not normalise.
fn password(root: &Root, settings: &Settings, key: &str) -> Result<Option<String>> {
    let secret = settings.secret(root, key)?;
    settings.parse(key, |_| match &secret {
        Some(secret) if !secret.bytes().all(|byte| matches!(byte, b' '..=b'~')) => {
            fail!("the password has a character that is not printable ASCII"; "Choose another password.")
        }
        _ => Ok(()),
    })?;
    Ok(secret)
}

/// What the lines of `pg_hba.conf` depend on.
struct Hba<'a> {
    names: &'a RoleNames,
    networks: &'a [String],
    /// `hostssl` or `host`, for the networks.
    connection: &'static str,
    by_certificate: bool,
    /// The administrator's own lines.
    extra: Vec<String>,
    /// Are there lines for all users?
    general: bool,
}

impl Hba<'_> {
    /// The first line that matches applies, so the lines for Patroni come first: the superuser over the socket, also for base
    /// backups; replication from the members, and from this host to itself, with which Patroni determines a replica's timeline
    /// before a switchover (`Postgresql.get_replica_timeline`); `pg_rewind`. Then the administrator's own lines, then those for all users. On this host they
    /// include replication, as in the file that initdb creates (`pg_hba.conf.sample`).
    fn lines(self) -> Vec<String> {
        let local = ["127.0.0.1/32".to_owned(), "::1/128".to_owned()];
        let addresses = || {
            let networks = self.networks.iter().map(|network| (self.connection, network));
            local.iter().map(|address| ("host", address)).chain(networks)
        };
        let mut lines = self.names.socket_lines().to_vec();
        for (database, role) in [("replication", &self.names.replication), ("postgres", &self.names.rewind)] {
            let role = in_file(role);
            for (connection, address) in addresses() {
                lines.push(if self.by_certificate {
                    format!("hostssl {database} {role} {address} cert map={MAP}")
                } else {
                    format!("{connection} {database} {role} {address} scram-sha-256")
                });
            }
        }
        let general = self.general.then(|| {
            let all = addresses().map(|(connection, address)| format!("{connection} all all {address} scram-sha-256"));
            let replication = local.iter().map(|address| format!("host replication all {address} scram-sha-256"));
            let socket = ["all", "replication"].map(|database| format!("local {database} all peer"));
            socket.into_iter().chain(all).chain(replication).collect::<Vec<_>>()
        });
        lines.extend(self.extra);
        lines.extend(general.into_iter().flatten());
        let mut seen = BTreeSet::new();
        lines.retain(|line| seen.insert(line.clone()));
        lines
    }
}
