//! The certificates and keys on this host: they exist, are readable, belong together, are valid now and for this host, and are signed
//! by a CA that the other members trust. [`crate::doctor::dcs`] and [`crate::doctor::members`] check what servers present.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use host::clusters;
use host::conf;
use host::file_access::User;
use host::program::quoted;

use crate::doctor::cluster::{Cluster, USER, denied};
use crate::doctor::finding::{Finding, Level};
use crate::files::certificate::{self, Certificates, How, Purpose};
use crate::hooks::directories::{link_of_postgres, remove_link};

/// A certificate and its use.
struct Use {
    /// The key of the Patroni file.
    label: String,
    certificate: PathBuf,
    key: PathBuf,
    /// Does the key have a password, which Patroni passes to OpenSSL? Such a key is not read.
    password: bool,
    /// The CA certificates with which others verify it: the key of the Patroni file, the file, and the purpose.
    ca: Option<(String, PathBuf, Purpose)>,
    /// The address that others expect in it.
    address: Option<IpAddr>,
    /// How bad it is if it cannot be loaded.
    level: Level,
    /// Do the rules of PostgreSQL and libpq about the mode of a key apply?
    strict: bool,
}

/// All TLS files.
pub fn check(cluster: &Cluster) -> Result<Vec<Finding>> {
    let postgresql = Postgresql::of(cluster)?;
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for (label, path) in ca_files(cluster, &postgresql) {
        if seen.insert(path.clone()) {
            findings.extend(check_ca(cluster, &label, &path));
        }
    }
    // A fault of a file with several uses is reported for the most important one.
    let mut uses = uses(cluster, &postgresql);
    uses.sort_by_key(|used| Reverse(used.level));
    let mut pairs = BTreeSet::new();
    for used in uses {
        let first = pairs.insert((used.certificate.clone(), used.key.clone()));
        findings.extend(check_pair(cluster, &used, first));
    }
    Ok(findings)
}

/// The effective TLS parameters: those of this member, those with which PostgreSQL ran last, or those of a new cluster.
struct Postgresql {
    on: bool,
    password: bool,
    files: [Option<PathBuf>; 3],
}

impl Postgresql {
    fn of(cluster: &Cluster) -> Result<Self> {
        let there = clusters::find(cluster.root, cluster.id)?.is_some();
        let conf = if there { clusters::effective_conf(cluster.root, cluster.id)? } else { conf::Conf::default() };
        let parameter = |name: &str| {
            let local = cluster.text(&["postgresql", "parameters", name]);
            let of_new = || cluster.text(&["bootstrap", "dcs", "postgresql", "parameters", name]);
            local.or_else(|| if there { conf.get(name).cloned() } else { of_new() }).filter(|value| !value.is_empty())
        };
        let data = cluster.text(&["postgresql", "data_dir"]).unwrap_or_default();
        let file = |name| parameter(name).map(|path| Path::new(&data).join(path));
        let files = [file("ssl_cert_file"), file("ssl_key_file"), file("ssl_ca_file")];
        let password = parameter("ssl_passphrase_command").is_some();
        Ok(Self { on: parameter("ssl").is_some_and(|value| conf::is_true(&value)), password, files })
    }
}

/// The files with CA certificates.
fn ca_files(cluster: &Cluster, postgresql: &Postgresql) -> Vec<(String, PathBuf)> {
    let kind = crate::doctor::dcs::kind(cluster).map_or("", |kind| kind.name());
    let mut keys = vec![vec![kind, "cacert"], vec!["restapi", "cafile"], vec!["ctl", "cacert"]];
    for role in ["superuser", "replication", "rewind"] {
        keys.push(vec!["postgresql", "authentication", role, "sslrootcert"]);
    }
    let named = keys.into_iter().filter_map(|key| Some((key.join("."), PathBuf::from(cluster.text(&key)?))));
    let own = postgresql.files[2].clone().filter(|_| postgresql.on).map(|path| ("ssl_ca_file".to_owned(), path));
    named.chain(own).collect()
}

fn check_ca(cluster: &Cluster, label: &str, path: &Path) -> Vec<Finding> {
    // With TLS, Patroni reads it before it listens.
    let needed = label == "restapi.cafile" && cluster.text(&["restapi", "certfile"]).is_some();
    let level = if needed { Level::Fatal } else { Level::Error };
    let mut findings: Vec<Finding> = readable(cluster, path, level).into_iter().collect();
    match certificate::read(&cluster.root.for_postgres(), path) {
        Err(error) if denied(&error) => {}
        Err(error) => findings.push(broken(level, label, path, &error)),
        Ok(certificates) => findings.extend(certificates.all_out_of_date().map(|why| {
            let what = format!("{label} {} {why}", path.display());
            Finding::error(what, "Add the current CA certificate to it.").about(path)
        })),
    }
    findings
}

fn uses(cluster: &Cluster, postgresql: &Postgresql) -> Vec<Use> {
    let path = |key: &[&str]| cluster.text(key).map(PathBuf::from);
    let mut uses = Vec::new();
    let mut push = |section: &[&str], cert: &str, key: &str, level: Level| {
        let join = |name| [section, &[name]].concat();
        let certificate = path(&join(cert))?;
        // One file can contain both.
        let key_path = path(&join(key)).unwrap_or_else(|| certificate.clone());
        let password = ["key_password", "keyfile_password"].iter().any(|name| cluster.text(&join(name)).is_some());
        let label = join(cert).join(".");
        let (ca, address, strict) = (None, None, false);
        uses.push(Use { label, certificate, key: key_path, password, ca, address, level, strict });
        uses.len().checked_sub(1)
    };
    if let Some(kind) = crate::doctor::dcs::kind(cluster) {
        push(&[kind.name()], "cert", "key", Level::Error);
    }
    let rest = push(&["restapi"], "certfile", "keyfile", Level::Fatal);
    let ctl = push(&["ctl"], "certfile", "keyfile", Level::Error);
    let roles = ["superuser", "replication", "rewind"]
        .map(|role| push(&["postgresql", "authentication", role], "sslcert", "sslkey", Level::Error));
    let ca = |key: &[&str], purpose| path(key).map(|path| (key.join("."), path, purpose));
    if let Some(rest) = rest {
        uses[rest].ca = ca(&["ctl", "cacert"], Purpose::Server).or(ca(&["restapi", "cafile"], Purpose::Server));
        // Without verification no address is checked.
        let insecure = cluster.text(&["ctl", "insecure"]).as_deref() == Some("true");
        uses[rest].address = address(cluster, "restapi").filter(|_| !insecure);
    }
    if let Some(ctl) = ctl {
        uses[ctl].ca = ca(&["restapi", "cafile"], Purpose::Client);
    }
    for role in roles.into_iter().flatten() {
        uses[role].strict = true;
        let file = postgresql.files[2].clone().filter(|_| postgresql.on);
        uses[role].ca = file.map(|path| ("ssl_ca_file".to_owned(), path, Purpose::Client));
    }
    if let ([Some(certificate), Some(key), _], true) = (&postgresql.files, postgresql.on) {
        let replication = ["postgresql", "authentication", "replication"];
        let root = ca(&[replication[0], replication[1], replication[2], "sslrootcert"], Purpose::Server);
        let mode = cluster.text(&[replication[0], replication[1], replication[2], "sslmode"]).unwrap_or_default();
        uses.push(Use {
            label: "ssl_cert_file".to_owned(),
            certificate: certificate.clone(),
            key: key.clone(),
            password: postgresql.password,
            ca: root.filter(|_| mode.starts_with("verify")),
            address: address(cluster, "postgresql").filter(|_| mode == "verify-full"),
            level: Level::Fatal,
            strict: true,
        });
    }
    uses
}

/// The address at which the others reach this member; `None` for a name.
pub fn address(cluster: &Cluster, section: &str) -> Option<IpAddr> {
    let text = cluster.text(&[section, "connect_address"])?;
    let (host, _) = text.rsplit_once(':')?;
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn check_pair(cluster: &Cluster, used: &Use, first: bool) -> Vec<Finding> {
    let (label, shown) = (&used.label, used.certificate.display());
    let loaded = if used.password {
        certificate::read(&cluster.root.for_postgres(), &used.certificate)
    } else {
        certificate::read_pair(&cluster.root.for_postgres(), &used.certificate, &used.key)
    };
    let mut findings = Vec::new();
    if first {
        let files = BTreeSet::from([&used.certificate, &used.key]);
        findings.extend(files.into_iter().filter_map(|path| readable(cluster, path, used.level)));
    }
    findings.extend(loose(cluster, used).filter(|_| first || used.strict));
    let own = match loaded {
        Ok(own) => own,
        Err(error) if first && !denied(&error) => {
            findings.push(broken(used.level, label, &used.certificate, &error));
            return findings;
        }
        Err(_) => return findings,
    };
    if first {
        let expired = |why| Finding::error(format!("{label} {shown} {why}"), "Renew it.").about(&used.certificate);
        findings.extend(own.out_of_date().map(expired));
    }
    findings.extend(used.ca.as_ref().and_then(|ca| unsigned(cluster, used, &own, ca)));
    if let Some(Err(names)) = used.address.map(|address| own.is_for(address)) {
        let address = used.address.map(|address| address.to_string()).unwrap_or_default();
        let what = format!("{label} {shown} is for {names}, not for {address}, the connect_address of this member");
        let hint = format!("Reissue it with the subjectAltName IP:{address}.");
        findings.push(Finding::error(what, hint).about(&used.certificate));
    }
    findings
}

fn unsigned(
    cluster: &Cluster,
    used: &Use,
    own: &Certificates,
    (label, path, purpose): &(String, PathBuf, Purpose),
) -> Option<Finding> {
    let ca = certificate::read(&cluster.root.for_postgres(), path).ok()?;
    let why = own.signed_by(&ca, *purpose, How::AtAnyTime).err()?;
    let what =
        format!("{} {} is not signed by {label} {} ({why})", used.label, used.certificate.display(), path.display());
    let hint = "Correct one of them. Intermediate certificates belong behind the member's own certificate.";
    Some(Finding::error(what, hint).about(&used.certificate))
}

fn readable(cluster: &Cluster, path: &Path, level: Level) -> Option<Finding> {
    cluster.root.path(path).exists().then(|| cluster.unreadable(path, level)).flatten()
}

/// A key that others can read. PostgreSQL does not start with it and libpq does not use it (`check_ssl_key_file_permissions` in
/// `be-secure-common.c`, `initialize_SSL` in `fe-secure-openssl.c`).
fn loose(cluster: &Cluster, used: &Use) -> Option<Finding> {
    let found = cluster.root.path(&used.key).metadata().ok()?;
    let (mode, key) = (found.mode() & 0o7777, used.key.display());
    let (forbidden, mode_needed) = match found.uid() {
        0 if used.strict => (0o037, "0640"),
        _ if used.strict => (0o077, "0600"),
        _ => (0o007, "o="),
    };
    // postgres can choose the path, and what is there.
    let postgres = User::of(cluster.root, USER).ok();
    let word = quoted(&key.to_string());
    let hint = |command: &str| match &postgres {
        Some(postgres) if postgres.uid() == found.uid() => format!("Run: runuser -u {USER} -- {command} {word}"),
        Some(postgres) => match link_of_postgres(cluster.root, postgres, &used.key) {
            Some(link) => remove_link(cluster.root, &link),
            None => format!("Run: {command} {word}"),
        },
        None => format!("Run: {command} {word}"),
    };
    let is_own = found.uid() == 0 || cluster.root.user_id(USER).is_ok_and(|own| own == found.uid());
    if used.strict && !is_own {
        let what = format!("{key} belongs neither to root nor to {USER}, so PostgreSQL does not use it");
        return Some(Finding::new(used.level, what, hint(&format!("chown {USER}:"))).at("").about(&used.key));
    }
    if mode & forbidden == 0 {
        return None;
    }
    let level = if used.strict { used.level } else { Level::Warning };
    let who = if mode & 0o007 != 0 { "all users".to_owned() } else { format!("users other than {USER}") };
    let what = format!("{key}: {who} can access this key (mode {mode:04o})");
    Some(Finding::new(level, what, hint(&format!("chmod {mode_needed}"))).at("").about(&used.key))
}

/// A file that cannot be used.
fn broken(level: Level, label: &str, path: &Path, error: &anyhow::Error) -> Finding {
    Finding::within(level, label, error).or_hint("Correct it.").about(path)
}
