//! Authentication in PostgreSQL: TLS, `pg_hba`, and the roles with which the members log in to each other.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use host::keys::SiteKey;
use host::settings::Settings;
use host::trouble::{Explain, in_line};
use host::{ClusterId, Root, facts, fail};
use serde::Serialize;

use crate::patroni_yml::channel_binding::can_bind;
use crate::patroni_yml::parameters::Values;
use crate::patroni_yml::values::path_text;
use crate::postgres::conf_dir;

/// The role for replication.
pub const REPLICATION: &str = "replicator";

/// The role for `pg_rewind`.
pub const REWIND: &str = "rewind_user";

/// The superuser.
pub const SUPERUSER: &str = "postgres";

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
        networks: &[String],
    ) -> Result<Self> {
        let tls = Tls::resolve(root, id, settings)?;
        let by_certificate = by_certificate(root, settings, &tls)?;
        let extra = extra_lines(root, settings)?;
        Ok(Self {
            hba: hba(networks, &tls, by_certificate.is_some(), &extra),
            ident: match by_certificate {
                Some(_) => [REPLICATION, REWIND].map(|role| format!("{MAP} {REPLICATION} {role}")).into(),
                None => Vec::new(),
            },
            roles: roles(root, id, settings, key, &tls, by_certificate.as_ref())?,
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
fn by_certificate(root: &Root, settings: &Settings, tls: &Tls) -> Result<Option<(String, String)>> {
    let files = pair(root, settings, "REPLICATION_CERT", "REPLICATION_KEY")?;
    let place = settings.place(&["REPLICATION_AUTH", "REPLICATION_CERT"]);
    match (settings.choice("REPLICATION_AUTH", &["password", "cert"])?, files) {
        (Some("cert"), None) => fail!(
            at place,
            "REPLICATION_AUTH is cert, but REPLICATION_CERT is not set";
            "Set REPLICATION_CERT and REPLICATION_KEY to a certificate for the name {REPLICATION}."
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
    by_certificate: Option<&(String, String)>,
) -> Result<Roles> {
    let scope = password_scope(settings, id)?;
    let role = |name: &str, file: &str| -> Result<Options> {
        let mut options = vec![("username", name.to_owned())];
        if let Some((cert, key)) = by_certificate {
            options.extend([("sslcert", cert.clone()), ("sslkey", key.clone())]);
            if !tls.own {
                options.push(("sslmode", "require".to_owned()));
            }
        } else {
            let password = password(root, settings, file)?;
            options.push(("password", password.unwrap_or_else(|| key.role_password(&scope, name))));
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
    let mut superuser = vec![("username", SUPERUSER.to_owned())];
    superuser.extend(password(root, settings, "SUPERUSER_PASSWORD_FILE")?.map(|password| ("password", password)));
    Ok(Roles {
        superuser,
        replication: role(REPLICATION, "REPLICATION_PASSWORD_FILE")?,
        rewind: role(REWIND, "REWIND_PASSWORD_FILE")?,
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

/// The first line that matches applies, so the lines for Patroni come first: the superuser over the socket; replication from
/// the members, and from this host to itself, with which Patroni determines a replica's timeline before a switchover
/// (`Postgresql.get_replica_timeline`); `pg_rewind`. Then the administrator's own lines, then those for all users.
fn hba(networks: &[String], tls: &Tls, by_certificate: bool, extra: &[String]) -> Vec<String> {
    let local = ["127.0.0.1/32".to_owned(), "::1/128".to_owned()];
    let addresses =
        || local.iter().map(|address| ("host", address)).chain(networks.iter().map(|net| (tls.connection, net)));
    let mut lines = vec![format!("local all {SUPERUSER} peer")];
    for (database, role) in [("replication", REPLICATION), ("postgres", REWIND)] {
        for (connection, address) in addresses() {
            lines.push(if by_certificate {
                format!("hostssl {database} {role} {address} cert map={MAP}")
            } else {
                format!("{connection} {database} {role} {address} scram-sha-256")
            });
        }
    }
    lines.extend_from_slice(extra);
    lines.push("local all all peer".to_owned());
    lines.extend(addresses().map(|(connection, address)| format!("{connection} all all {address} scram-sha-256")));
    let mut seen = BTreeSet::new();
    lines.retain(|line| seen.insert(line.clone()));
    lines
}

/// The lines of `PG_HBA_FILE`, without comments.
fn extra_lines(root: &Root, settings: &Settings) -> Result<Vec<String>> {
    let Some(path) = settings.path("PG_HBA_FILE")? else { return Ok(Vec::new()) };
    let read = settings.parse("PG_HBA_FILE", |_| {
        let Some(text) = root.read(&path)? else { fail!("there is no file {}", path.display()) };
        let mut lines = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let checked = words(line).and_then(|words| {
                if !words.is_empty() {
                    check(&words)?;
                }
                Ok(words)
            });
            let words = checked.at(in_line(&path, index + 1))?;
            if !words.is_empty() {
                lines.push(words.join(" "));
            }
        }
        Ok(lines)
    })?;
    Ok(read.unwrap_or_default())
}

/// The words of a line, with their quotes (`next_token` in `hba.c`).
fn words(line: &str) -> Result<Vec<String>> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '#' if !quoted => break,
            c if c.is_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => {
                quoted ^= c == '"';
                word.push(c);
            }
        }
    }
    if quoted {
        fail!("unterminated quoted string"; "Add the missing quote.");
    }
    if !word.is_empty() {
        words.push(word);
    }
    if words.last().is_some_and(|word| word == "\\") {
        fail!("continuation lines are not supported"; "Write it on one line.");
    }
    Ok(words)
}

/// Checks the syntax of a line (PostgreSQL's manual, "The `pg_hba.conf` File"). With an invalid line a running PostgreSQL
/// keeps its previous rules, and a stopped one does not start.
fn check(words: &[String]) -> Result<()> {
    const TYPES: [&str; 6] = ["local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"];
    const METHODS: [&str; 13] = [
        "trust",
        "reject",
        "scram-sha-256",
        "md5",
        "password",
        "gss",
        "ident",
        "peer",
        "pam",
        "ldap",
        "radius",
        "cert",
        "oauth",
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let Some((kind, rest)) = words.split_first().filter(|(kind, _)| TYPES.contains(kind)) else {
        fail!("'{}' is not a connection type", words.first().unwrap_or(&""); "Use one of {}.", TYPES.join(", "));
    };
    let (Some(_database), Some(_user)) = (rest.first(), rest.get(1)) else {
        fail!("the line is incomplete"; "Write TYPE DATABASE USER [ADDRESS] METHOD [OPTION=VALUE...].");
    };
    let rest = &rest[2..];
    let rest = if *kind == "local" { rest } else { after_address(rest)? };
    let Some((method, options)) = rest.split_first() else {
        fail!("the authentication method is missing"; "Add it, for example scram-sha-256.");
    };
    if !METHODS.contains(method) {
        fail!("'{method}' is not an authentication method"; "Use one of {}.", METHODS.join(", "));
    }
    if *method == "peer" && *kind != "local" {
        fail!("peer applies to local lines only"; "Choose another method.");
    }
    if *method == "cert" && *kind != "hostssl" {
        fail!("cert applies to hostssl lines only"; "Write hostssl.");
    }
    match options.iter().find(|option| !option.trim_matches('"').contains('=')) {
        Some(option) => fail!("'{option}' follows the method, but is not OPTION=VALUE"),
        None => Ok(()),
    }
}

/// The words after the address, which is a network, an address with a mask, or a name.
fn after_address<'w, 's>(words: &'w [&'s str]) -> Result<&'w [&'s str]> {
    let Some((address, rest)) = words.split_first() else {
        fail!("the address is missing"; "Add it, for example 10.0.0.0/8 or all.");
    };
    let bare = address.trim_matches('"');
    if bare.parse::<IpAddr>().is_ok() {
        return match rest.split_first() {
            Some((mask, rest)) if mask.parse::<IpAddr>().is_ok() => Ok(rest),
            _ => fail!("{address} has no prefix length"; "Write {address}/32 for one host (IPv6: /128)."),
        };
    }
    let name = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    let looks_like_name =
        !bare.is_empty() && bare.bytes().all(name) && bare.contains(|c: char| c.is_ascii_alphabetic());
    if facts::parse_network(bare).is_ok() || looks_like_name {
        return Ok(rest);
    }
    fail!("'{address}' is not an address"; "Write 10.0.0.0/8, a host name, samenet, samehost or all.")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_of_pg_hba_are_checked() {
        let read = |line: &str| words(line).and_then(|words| if words.is_empty() { Ok(()) } else { check(&words) });
        for line in [
            "",
            "   # comment",
            "local all all peer",
            "host all all 10.0.0.0/8 scram-sha-256 # the office",
            "host \"my db\",other +staff,\"A\" 10.0.0.1 255.255.255.255 reject",
            "hostssl app app fd00::/64 cert map=people clientname=DN",
            "host all all .example.org ldap ldapserver=ldap.example.org \"ldapprefix=cn=\"",
            "host replication standby samenet scram-sha-256",
        ] {
            assert!(read(line).is_ok(), "{line}: {:?}", read(line));
        }
        for (line, word) in [
            ("hots all all all trust", "connection type"),
            ("include other.conf", "connection type"),
            ("host all", "incomplete"),
            ("host all all scram-sha-256", "method is missing"),
            ("host all all 10.0.0.1 trust", "no prefix length"),
            ("host all all 10.0.0.0/33 trust", "not an address"),
            ("host all all all scram", "not an authentication method"),
            ("host all all all peer", "local"),
            ("host all all all cert", "hostssl"),
            ("local all all peer map", "OPTION=VALUE"),
            ("local all \"all peer", "quote"),
            ("local all all \\", "continuation"),
        ] {
            let error = read(line).unwrap_err().to_string();
            assert!(error.contains(word), "{line}: {error}");
        }
    }
}
