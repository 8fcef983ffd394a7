//! The certificates and keys on this host: there, readable, belonging together, valid now, for this host, and signed by whom the
//! others believe. What servers show is for [`crate::doctor::dcs`] and [`crate::doctor::members`].

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use host::clusters;
use host::conf;

use crate::doctor::finding::{Finding, Level};
use crate::doctor::instance::{Instance, USER, denied};
use crate::files::certificate::{self, Certificates, How, Purpose};

/// A certificate and who uses it how.
struct Use {
    /// The key of the Patroni file.
    label: String,
    certificate: PathBuf,
    key: PathBuf,
    /// The key's password, as Patroni gives it to OpenSSL. A key that has one is not looked into.
    password: bool,
    /// The certificates by which others verify it, as the Patroni file says, and what it is shown as.
    signers: Option<(String, PathBuf, Purpose)>,
    /// The address that others look for in it.
    address: Option<IpAddr>,
    /// What it means if it cannot be loaded.
    level: Level,
    /// PostgreSQL and libpq have rules of their own about the mode of a key.
    strict: bool,
}

/// All files of TLS.
pub fn look(instance: &Instance) -> Result<Vec<Finding>> {
    let postgresql = Postgresql::of(instance)?;
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for (label, path) in authorities(instance, &postgresql) {
        if seen.insert(path.clone()) {
            findings.extend(authority(instance, &label, &path));
        }
    }
    // What is wrong with files that have several uses is said for the one that suffers most.
    let mut uses = uses(instance, &postgresql);
    uses.sort_by_key(|used| Reverse(used.level));
    let mut pairs = BTreeSet::new();
    for used in uses {
        let first = pairs.insert((used.certificate.clone(), used.key.clone()));
        findings.extend(judge(instance, &used, first));
    }
    Ok(findings)
}

/// The parameters of TLS that hold: this member's, those with which PostgreSQL ran last, those of a new cluster.
struct Postgresql {
    on: bool,
    password: bool,
    files: [Option<PathBuf>; 3],
}

impl Postgresql {
    fn of(instance: &Instance) -> Result<Self> {
        let there = clusters::find(instance.root, instance.id)?.is_some();
        let conf = if there { clusters::effective_conf(instance.root, instance.id)? } else { conf::Conf::default() };
        let parameter = |name: &str| {
            let local = instance.text(&["postgresql", "parameters", name]);
            let of_new = || instance.text(&["bootstrap", "dcs", "postgresql", "parameters", name]);
            local.or_else(|| if there { conf.get(name).cloned() } else { of_new() }).filter(|value| !value.is_empty())
        };
        let data = instance.text(&["postgresql", "data_dir"]).unwrap_or_default();
        let file = |name| parameter(name).map(|path| Path::new(&data).join(path));
        let files = [file("ssl_cert_file"), file("ssl_key_file"), file("ssl_ca_file")];
        let password = parameter("ssl_passphrase_command").is_some();
        Ok(Self { on: parameter("ssl").is_some_and(|value| conf::is_true(&value)), password, files })
    }
}

/// Files with certificates of authorities.
fn authorities(instance: &Instance, postgresql: &Postgresql) -> Vec<(String, PathBuf)> {
    let kind = crate::doctor::dcs::kind(instance).map_or("", |kind| kind.name());
    let mut keys = vec![vec![kind, "cacert"], vec!["restapi", "cafile"], vec!["ctl", "cacert"]];
    for role in ["superuser", "replication", "rewind"] {
        keys.push(vec!["postgresql", "authentication", role, "sslrootcert"]);
    }
    let named = keys.into_iter().filter_map(|key| Some((key.join("."), PathBuf::from(instance.text(&key)?))));
    let own = postgresql.files[2].clone().filter(|_| postgresql.on).map(|path| ("ssl_ca_file".to_owned(), path));
    named.chain(own).collect()
}

fn authority(instance: &Instance, label: &str, path: &Path) -> Vec<Finding> {
    // With TLS Patroni reads it before it listens.
    let needed = label == "restapi.cafile" && instance.text(&["restapi", "certfile"]).is_some();
    let level = if needed { Level::Fatal } else { Level::Error };
    let mut findings: Vec<Finding> = readable(instance, path, level).into_iter().collect();
    match certificate::read(&instance.root.for_postgres(), path) {
        Err(error) if denied(&error) => {}
        Err(error) => findings.push(broken(level, label, &error)),
        Ok(signers) => findings.extend(signers.all_out_of_date().map(|why| {
            let what = format!("{label} {} {why}", path.display());
            Finding::error(what, "put the certificate that signs the others now into it")
        })),
    }
    findings
}

fn uses(instance: &Instance, postgresql: &Postgresql) -> Vec<Use> {
    let path = |key: &[&str]| instance.text(key).map(PathBuf::from);
    let mut uses = Vec::new();
    let mut push = |section: &[&str], cert: &str, key: &str, level: Level| {
        let join = |name| [section, &[name]].concat();
        let certificate = path(&join(cert))?;
        // A file can have both.
        let key_path = path(&join(key)).unwrap_or_else(|| certificate.clone());
        let password = ["key_password", "keyfile_password"].iter().any(|name| instance.text(&join(name)).is_some());
        let label = join(cert).join(".");
        let (signers, address, strict) = (None, None, false);
        uses.push(Use { label, certificate, key: key_path, password, signers, address, level, strict });
        uses.len().checked_sub(1)
    };
    if let Some(kind) = crate::doctor::dcs::kind(instance) {
        push(&[kind.name()], "cert", "key", Level::Error);
    }
    let rest = push(&["restapi"], "certfile", "keyfile", Level::Fatal);
    let ctl = push(&["ctl"], "certfile", "keyfile", Level::Error);
    let roles = ["superuser", "replication", "rewind"]
        .map(|role| push(&["postgresql", "authentication", role], "sslcert", "sslkey", Level::Error));
    let signers = |key: &[&str], purpose| path(key).map(|path| (key.join("."), path, purpose));
    if let Some(rest) = rest {
        uses[rest].signers =
            signers(&["ctl", "cacert"], Purpose::Server).or(signers(&["restapi", "cafile"], Purpose::Server));
        // Who verifies nothing looks for no name.
        let insecure = instance.text(&["ctl", "insecure"]).as_deref() == Some("true");
        uses[rest].address = address(instance, "restapi").filter(|_| !insecure);
    }
    if let Some(ctl) = ctl {
        uses[ctl].signers = signers(&["restapi", "cafile"], Purpose::Client);
    }
    for role in roles.into_iter().flatten() {
        uses[role].strict = true;
        let signer = postgresql.files[2].clone().filter(|_| postgresql.on);
        uses[role].signers = signer.map(|path| ("ssl_ca_file".to_owned(), path, Purpose::Client));
    }
    if let ([Some(certificate), Some(key), _], true) = (&postgresql.files, postgresql.on) {
        let replication = ["postgresql", "authentication", "replication"];
        let root = signers(&[replication[0], replication[1], replication[2], "sslrootcert"], Purpose::Server);
        let mode = instance.text(&[replication[0], replication[1], replication[2], "sslmode"]).unwrap_or_default();
        uses.push(Use {
            label: "ssl_cert_file".to_owned(),
            certificate: certificate.clone(),
            key: key.clone(),
            password: postgresql.password,
            signers: root.filter(|_| mode.starts_with("verify")),
            address: address(instance, "postgresql").filter(|_| mode == "verify-full"),
            level: Level::Fatal,
            strict: true,
        });
    }
    uses
}

/// By which address the others reach this member; a name is not looked at.
pub fn address(instance: &Instance, section: &str) -> Option<IpAddr> {
    let text = instance.text(&[section, "connect_address"])?;
    let (host, _) = text.rsplit_once(':')?;
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn judge(instance: &Instance, used: &Use, first: bool) -> Vec<Finding> {
    let (label, shown) = (&used.label, used.certificate.display());
    let loaded = if used.password {
        certificate::read(&instance.root.for_postgres(), &used.certificate)
    } else {
        certificate::read_pair(&instance.root.for_postgres(), &used.certificate, &used.key)
    };
    let mut findings = Vec::new();
    if first {
        let files = BTreeSet::from([&used.certificate, &used.key]);
        findings.extend(files.into_iter().filter_map(|path| readable(instance, path, used.level)));
    }
    findings.extend(loose(instance, used).filter(|_| first || used.strict));
    let own = match loaded {
        Ok(own) => own,
        Err(error) if first && !denied(&error) => {
            findings.push(broken(used.level, label, &error));
            return findings;
        }
        Err(_) => return findings,
    };
    if first {
        findings.extend(own.out_of_date().map(|why| Finding::error(format!("{label} {shown} {why}"), "renew it")));
    }
    findings.extend(used.signers.as_ref().and_then(|signers| unsigned(instance, used, &own, signers)));
    if let Some(Err(names)) = used.address.map(|address| own.is_for(address)) {
        let address = used.address.map(|address| address.to_string()).unwrap_or_default();
        let what = format!("{label} {shown} is for {names}, not for {address}, where the others reach this member");
        findings.push(Finding::error(what, format!("have it issued with the subjectAltName IP:{address}")));
    }
    findings
}

fn unsigned(
    instance: &Instance,
    used: &Use,
    own: &Certificates,
    (label, path, purpose): &(String, PathBuf, Purpose),
) -> Option<Finding> {
    let signers = certificate::read(&instance.root.for_postgres(), path).ok()?;
    let why = own.signed_by(&signers, *purpose, How::AtAnyTime).err()?;
    let what =
        format!("{} {} is not signed by {label} {} ({why})", used.label, used.certificate.display(), path.display());
    let remedy = "correct one of them; what stands between belongs behind the member's own certificate";
    Some(Finding::error(what, remedy))
}

fn readable(instance: &Instance, path: &Path, level: Level) -> Option<Finding> {
    instance.root.path(path).exists().then(|| instance.unreadable(path, level)).flatten()
}

/// A key that others can read. PostgreSQL refuses to start with one, and libpq to use one (`check_ssl_key_file_permissions` in
/// `be-secure-common.c`, `initialize_SSL` in `fe-secure-openssl.c`).
fn loose(instance: &Instance, used: &Use) -> Option<Finding> {
    let found = instance.root.path(&used.key).metadata().ok()?;
    let (mode, key) = (found.mode() & 0o7777, used.key.display());
    let (forbidden, remedy) = match found.uid() {
        0 if used.strict => (0o037, "0640"),
        _ if used.strict => (0o077, "0600"),
        _ => (0o007, "o="),
    };
    if mode & forbidden == 0 {
        return None;
    }
    let level = if used.strict { used.level } else { Level::Warning };
    let who = if mode & 0o007 != 0 { "others can".to_owned() } else { format!("others than {USER} can") };
    Some(
        Finding::new(
            level,
            format!("{key}: {who} use this key (mode {mode:04o})"),
            format!("run chmod {remedy} {key}"),
        )
        .at(""),
    )
}

/// What is wrong with a file, with its remedy where it has one.
fn broken(level: Level, label: &str, error: &anyhow::Error) -> Finding {
    let text = format!("{error:#}");
    match text.split_once(": ") {
        Some((what, remedy)) => Finding::new(level, format!("{label}: {what}"), remedy),
        None => Finding::new(level, format!("{label}: {text}"), "correct it"),
    }
}
