//! The configuration of one cluster, `/etc/postgresql/VERSION/NAME`, for a data directory that already exists.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result};
use host::clusters::{self, config_directory};
use host::trouble::Explain;
use host::{ClusterId, Root, conf, createcluster, fail};

use crate::context::Context;
use crate::postgres::child;
use crate::postgres::programs::server_program;

/// The server certificate of Debian (package ssl-cert), which `pg_createcluster` uses if it can be read.
pub(crate) const CERTIFICATE: &str = "/etc/ssl/certs/ssl-cert-snakeoil.pem";

/// What Patroni and postgresql-common read at every start, newest first.
const MAIN_FILES: [&str; 2] = ["postgresql.conf", "postgresql.base.conf"];

/// The files that `pg_createcluster` and Patroni write, which a failed bootstrap leaves behind.
const WRITTEN: [&str; 11] = [
    "postgresql.conf",
    "postgresql.base.conf",
    "pg_hba.conf",
    "pg_ident.conf",
    "start.conf",
    "pg_ctl.conf",
    "environment",
    "postgresql.conf.backup",
    "postgresql.base.conf.backup",
    "pg_hba.conf.backup",
    "pg_ident.conf.backup",
];

/// Patroni's copies of the configuration. Upstream's Patroni keeps them in the data directory, so that a base backup contains those of the
/// primary.
const COPIES: [&str; 4] =
    ["postgresql.conf.backup", "postgresql.base.conf.backup", "pg_hba.conf.backup", "pg_ident.conf.backup"];

/// Where this project prepares a configuration before it is put in place as a whole.
const STAGE: &str = ".new";

/// Settings by name.
pub(crate) type Settings = BTreeMap<&'static str, String>;

/// Has the cluster a configuration from which Patroni can start it?
pub(crate) fn exists(root: &Root, id: &ClusterId) -> bool {
    MAIN_FILES.iter().any(|name| root.path(config_directory(id).join(name)).symlink_metadata().is_ok())
}

/// Refuses a configuration with which PostgreSQL would use another directory than the one that Patroni watches. PostgreSQL
/// prefers `data_directory` in its file to `-D`, and Patroni passes only `-D`.
pub(crate) fn check_data_directory(root: &Root, id: &ClusterId, directory: &Path) -> Result<()> {
    for name in MAIN_FILES {
        let file = config_directory(id).join(name);
        if let Some(other) = conf::read(root, &file)?.get("data_directory") {
            if !same(root, Path::new(other), directory) {
                fail!(
                    at file.display(), "data_directory is {other}, but Patroni's is {}", directory.display();
                    "Nothing was changed. Correct postgresql.data_dir in the Patroni file, or data_directory in {}.", file.display()
                );
            }
        }
    }
    Ok(())
}

/// Is the configuration only what is left of a cluster that was dropped? `pg_dropcluster` removes `postgresql.conf` but not
/// Patroni's `postgresql.base.conf`, which Patroni would prefer to the configuration of a new cluster.
pub(crate) fn is_dropped(root: &Root, id: &ClusterId, directory: &Path) -> bool {
    let present = |name: &str| root.path(config_directory(id).join(name)).symlink_metadata().is_ok();
    let has_cluster = |directory: &Path| root.path(directory).join("PG_VERSION").exists();
    if present("postgresql.conf") || !present("postgresql.base.conf") || has_cluster(directory) {
        return false;
    }
    let base = conf::read(root, config_directory(id).join("postgresql.base.conf")).unwrap_or_default();
    !base.get("data_directory").is_some_and(|other| has_cluster(Path::new(other)))
}

/// Ensures that the configuration, if there is one, belongs to this data directory: what is left of a dropped cluster is moved
/// aside, a configuration for another directory is refused.
pub(crate) fn settle(context: &Context, id: &ClusterId, directory: &Path) -> Result<()> {
    if is_dropped(&context.root, id, directory) {
        report_moved(context, id, "a dropped cluster", &set_aside(&context.root, id)?);
    }
    check_data_directory(&context.root, id, directory)
}

/// Reports what [`set_aside`] has moved.
pub(crate) fn report_moved(context: &Context, id: &ClusterId, whose: &str, files: &[&str]) {
    if !files.is_empty() {
        let directory = config_directory(id);
        context.reporter.info(format!(
            "moved what {whose} left in {} to {}: {}",
            directory.display(),
            directory.join("replaced").display(),
            files.join(", ")
        ));
    }
}

/// Refuses a directory that is in the configuration of another cluster of this host.
pub(crate) fn check_owner(context: &Context, id: &ClusterId, directory: &Path) -> Result<()> {
    let clusters = clusters::installed(&context.root);
    // An unreadable file of another cluster must not prevent a replica of this one.
    if let Some(doubt) = clusters.warning() {
        let mut warning = doubt;
        warning.what = format!("could not check if another cluster uses {}: {}", directory.display(), warning.what);
        context.reporter.warn(warning);
    }
    for other in clusters.known.iter().filter(|other| other.id != *id) {
        if other.data_directory.as_ref().is_some_and(|other| same(&context.root, other, directory)) {
            fail!("{} is the data directory of {}", directory.display(), other.id; "Choose another one for {id}.");
        }
    }
    Ok(())
}

/// Are both the same directory, perhaps by way of a link?
pub(crate) fn same(root: &Root, one: &Path, other: &Path) -> bool {
    one.components().eq(other.components()) || root.real(one) == root.real(other)
}

/// Moves the files of an earlier, failed bootstrap into `replaced`, and returns their names. `pg_createcluster` fails if they are
/// there, and Patroni would prefer their `postgresql.base.conf` to the new file. Other files stay.
pub(crate) fn set_aside(root: &Root, id: &ClusterId) -> Result<Vec<&'static str>> {
    let directory = config_directory(id);
    let real = root.path(&directory);
    remove_tree(&real.join(STAGE))?;
    let found: Vec<&str> = WRITTEN.into_iter().filter(|name| real.join(name).symlink_metadata().is_ok()).collect();
    if found.is_empty() {
        return Ok(found);
    }
    let replaced = real.join("replaced");
    remove_tree(&replaced)?;
    make_directory(&replaced)?;
    for name in &found {
        std::fs::rename(real.join(name), replaced.join(name))
            .with_context(|| format!("could not move {} aside", directory.join(name).display()))?;
    }
    Ok(found)
}

fn remove_tree(real: &Path) -> Result<()> {
    match std::fs::remove_dir_all(real) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {}", real.display()))
        }
        _ => Ok(()),
    }
}

fn make_directory(real: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(real)
        .with_context(|| format!("could not create the directory {}", real.display()))
        .or_hint(|| "The directory above it must belong to postgres.".to_owned())
}

/// A configuration that is being created, as `pg_createcluster` would have created it together with the data.
///
/// `pg_createcluster` works on a stand-in that contains only the three files which it moves: when it fails, it runs
/// `pg_dropcluster`, which removes the data directory of the new configuration, and that must not be one with data.
/// So it can also work while the data are still being copied.
pub(crate) struct Draft {
    running: Option<Child>,
    directory: PathBuf,
    real: PathBuf,
    created: PathBuf,
    /// Did the directory not exist before?
    new: bool,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.kill();
            let _ = running.wait();
        }
        let _ = remove_tree(&self.real.join(STAGE));
        if self.new {
            // This fails if there is anything else in it, which then stays.
            let _ = std::fs::remove_dir(&self.real);
        }
    }
}

/// Starts to create a configuration.
pub(crate) fn begin(context: &Context, id: &ClusterId, port: Option<u16>) -> Result<Draft> {
    let directory = config_directory(id);
    let real = context.root.path(&directory);
    let new = !real.exists();
    let stage = real.join(STAGE);
    remove_tree(&stage)?;
    let stand_in = stage.join("data");
    make_directory(&stand_in)?;
    let created = stage.join(id.version.as_str()).join(id.name.as_str());
    let mut draft = Draft { running: None, directory, real, created, new };
    for (name, text) in samples(&context.root, id)? {
        write(&stand_in.join(name), &text, 0o600)?;
    }
    write(&stand_in.join("PG_VERSION"), &format!("{}\n", id.version), 0o600)?;
    let mut call = child::command(&context.root, &context.root.program("pg_createcluster")?)?;
    call.env("PG_CLUSTER_CONF_ROOT", &stage).args(["--quiet", "--no-status", "--start-conf=manual"]);
    call.arg(format!("--datadir={}", stand_in.display()));
    if let Some(port) = port {
        call.arg(format!("--port={port}"));
    }
    call.args([id.version.as_str(), id.name.as_str()]).stdout(Stdio::null()).stderr(Stdio::piped());
    draft.running = Some(call.spawn().context("could not run pg_createcluster")?);
    Ok(draft)
}

impl Draft {
    /// Completes it for this data directory: file by file, `postgresql.conf` last. No existing file is replaced.
    pub(crate) fn finish(mut self, context: &Context, data: &Path, settings: &Settings) -> Result<()> {
        let running = self.running.take().context("pg_createcluster was not run")?;
        let output = running.wait_with_output().context("could not wait for pg_createcluster")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            fail!("pg_createcluster failed ({}): {}", output.status, said.trim().replace('\n', "; "));
        }
        let conf_file = self.created.join("postgresql.conf");
        let mut text =
            std::fs::read_to_string(&conf_file).with_context(|| format!("could not read {}", conf_file.display()))?;
        let in_place = |name: &str| self.directory.join(name).display().to_string();
        text = set_value(&text, "data_directory", &data.display().to_string());
        text = set_value(&text, "hba_file", &in_place("pg_hba.conf"));
        text = set_value(&text, "ident_file", &in_place("pg_ident.conf"));
        for (key, value) in settings.iter().chain(&tls(&context.root)?) {
            text = set_value(&text, key, value);
        }
        write(&conf_file, &text, 0o644)?;
        put_in_place(&self.created, &self.real)
    }
}

fn put_in_place(created: &Path, real: &Path) -> Result<()> {
    let list = |directory: &Path| -> std::io::Result<Vec<std::ffi::OsString>> {
        std::fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
    };
    let mut names = list(created).with_context(|| format!("could not list {}", created.display()))?;
    names.sort_by_key(|name| name == "postgresql.conf");
    for name in names {
        let target = real.join(&name);
        if target.symlink_metadata().is_err() {
            std::fs::rename(created.join(&name), &target)
                .with_context(|| format!("could not put {} in place", target.display()))?;
        }
    }
    File::open(real)
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("could not sync {}", real.display()))
}

/// Removes from a base backup the copies that Patroni made of the primary's configuration.
pub(crate) fn remove_copies(root: &Root, data: &Path) -> Result<()> {
    for name in COPIES {
        match std::fs::remove_file(root.path(data).join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error)
                    .with_context(|| format!("could not remove the primary's {name} from the base backup"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Adds `pg_hba.conf` and `pg_ident.conf` if they are missing beside a configuration that names them, and returns their names.
pub(crate) fn complete(root: &Root, id: &ClusterId) -> Result<Vec<&'static str>> {
    let real = root.path(config_directory(id));
    let mut added = Vec::new();
    let missing = |name: &str| real.join(name).symlink_metadata().is_err();
    if !missing("pg_hba.conf") && !missing("pg_ident.conf") {
        return Ok(added);
    }
    for (name, text) in samples(root, id)? {
        if name != "postgresql.conf" && missing(name) {
            write(&real.join(name), &text, 0o640)?;
            added.push(name);
        }
    }
    Ok(added)
}

/// Writes a file as a whole.
fn write(real: &Path, text: &str, mode: u32) -> Result<()> {
    use std::io::Write;
    let mut temporary = real.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let write = || -> std::io::Result<()> {
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, real)
    };
    write().with_context(|| format!("could not write {}", real.display()))
}

/// The three files that initdb puts into a data directory of this version.
fn samples(root: &Root, id: &ClusterId) -> Result<[(&'static str, String); 3]> {
    let sample = |name: &str| -> Result<String> {
        let path = format!("/usr/share/postgresql/{}/{name}.sample", id.version);
        root.read(&path)?
            .with_context(|| format!("{path} does not exist"))
            .or_hint(|| format!("Install it with: apt install postgresql-{}", id.version))
    };
    Ok([
        ("postgresql.conf", sample("postgresql.conf")?),
        ("pg_hba.conf", access(&sample("pg_hba.conf")?, id.version.number())),
        ("pg_ident.conf", sample("pg_ident.conf")?),
    ])
}

/// Fills in `pg_hba.conf` as initdb does (`setup_config`), and adds postgresql-common's entry for the administrator
/// (`setup_pg_hba` in `pg_createcluster`, which does it for new clusters only).
fn access(sample: &str, version: (u32, u32)) -> String {
    const ADMINISTRATOR: &str = "
# DO NOT DISABLE!
# If you change this first entry you will need to make sure that the
# database superuser can access the database using some other method.
# Noninteractive access to all databases is required during automatic
# maintenance (custom daily cronjobs, replication, and similar tasks).
#
# Database administrative login by Unix domain socket
local   all             postgres                                peer

";
    let host = if version >= (14, 0) { "scram-sha-256" } else { "md5" };
    let text = sample
        .replace("@remove-line-for-nolocal@", "")
        .replace("@authmethodlocal@", "peer")
        .replace("@authmethodhost@", host)
        .replace("@authcomment@", "");
    let mut out = String::with_capacity(text.len() + ADMINISTRATOR.len());
    let mut added = false;
    for line in text.split_inclusive('\n') {
        let heading = line.find('#').is_some_and(|at| {
            let mut words = line[at + 1..].split_whitespace();
            words.next() == Some("TYPE") && words.next().is_some_and(|word| word.starts_with("DATABASE"))
        });
        if heading && !added {
            out.push_str(ADMINISTRATOR);
            added = true;
        }
        out.push_str(line);
    }
    out
}

/// Has PostgreSQL a certificate from postgresql-common? For an existing cluster its configuration says so; a new one gets what
/// `pg_createcluster` sets.
pub(crate) fn has_tls(root: &Root, id: &ClusterId) -> Result<bool> {
    let files = ["postgresql.base.conf", "postgresql.conf"].map(|name| config_directory(id).join(name));
    match files.iter().find(|file| root.path(file).exists()) {
        Some(file) => Ok(conf::read(root, file)?.get("ssl").is_some_and(|ssl| conf::is_true(ssl))),
        None => Ok(tls(root)?.contains_key("ssl")),
    }
}

/// The server certificate as `pg_createcluster` would set it for a new cluster; it does not for a cluster that it adopts.
fn tls(root: &Root) -> Result<Settings> {
    const KEY: &str = "/etc/ssl/private/ssl-cert-snakeoil.key";
    const CA: &str = "/etc/postgresql-common/root.crt";
    const CRL: &str = "/etc/postgresql-common/root.crl";
    let site_wide = conf::read(root, createcluster::PATH)?;
    let mut found = Settings::new();
    if site_wide.get("ssl").is_some_and(|ssl| !conf::is_true(ssl)) {
        return Ok(found);
    }
    if root.path(CERTIFICATE).exists() && File::open(root.path(KEY)).is_ok() {
        found.insert("ssl", "on".to_owned());
        found.insert("ssl_cert_file", CERTIFICATE.to_owned());
        found.insert("ssl_key_file", KEY.to_owned());
    }
    if root.read(CA).is_ok_and(|text| text.is_some_and(|text| text.contains("-----BEGIN CERTIFICATE-----"))) {
        found.insert("ssl_ca_file", CA.to_owned());
    }
    if root.path(CRL).exists() {
        found.insert("ssl_crl_file", CRL.to_owned());
    }
    // The values of createcluster.conf are already in the file.
    found.retain(|key, _| *key == "ssl" || !site_wide.contains_key(*key));
    Ok(found)
}

/// Sets a value in the text of a `postgresql.conf` where it is set, or where it is commented out, or at the end, and
/// keeps the comment after it (as `PgCommon::set_conf_value` does).
fn set_value(text: &str, key: &str, value: &str) -> String {
    let plain = !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let value = if plain { value.to_owned() } else { format!("'{}'", value.replace('\'', "''")) };
    let place = |commented: bool| text.split_inclusive('\n').position(|line| tail(line, key, commented).is_some());
    let (at, commented) = match (place(false), place(true)) {
        (Some(at), _) => (at, false),
        (None, Some(at)) => (at, true),
        (None, None) => {
            let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            return format!("{text}{newline}{key} = {value}\n");
        }
    };
    text.split_inclusive('\n')
        .enumerate()
        .map(|(index, line)| match tail(line, key, commented) {
            Some(tail) if index == at => format!("{key} = {value}{tail}\n"),
            _ => line.to_owned(),
        })
        .collect()
}

/// What follows the value in a line that sets `key`, or would without its `#`.
fn tail<'l>(line: &'l str, key: &str, commented: bool) -> Option<&'l str> {
    let line = line.trim_end_matches('\n');
    let line = if commented { line.trim_start().strip_prefix('#')? } else { line }.trim_start();
    let rest = line.strip_prefix(key)?;
    let after = rest.trim_start();
    if after.len() == rest.len() && !after.starts_with('=') {
        return None;
    }
    let after = after.strip_prefix('=').unwrap_or(after).trim_start();
    let end = match after.strip_prefix('\'') {
        Some(quoted) => quoted.find('\'')? + 2,
        None => after.find(|c: char| c.is_whitespace() || c == '#').unwrap_or(after.len()),
    };
    let tail = &after[end..];
    (end > 0 && (tail.trim().is_empty() || tail.trim_start().starts_with('#'))).then(|| tail.trim_end())
}

/// The settings that initdb chooses and `pg_createcluster` does not, as far as they follow from the data directory.
pub(crate) fn from_data(context: &Context, id: &ClusterId, data: &Path) -> Result<Settings> {
    // What initdb chooses on every host with enough memory.
    let mut settings = Settings::from([
        ("max_connections", "100".to_owned()),
        ("shared_buffers", "128MB".to_owned()),
        ("dynamic_shared_memory_type", "posix".to_owned()),
    ]);
    let program = server_program(&context.root, id, "pg_controldata");
    let said = host::program::capture(host::program::at(&program).arg("-D").arg(context.root.path(data)))?;
    let segment = said
        .lines()
        .find_map(|line| line.strip_prefix("Bytes per WAL segment:")?.trim().parse::<u64>().ok())
        .with_context(|| format!("{} did not print the size of a WAL segment", program.display()))?;
    // A server with large segments does not start with the built-in minimum (initdb's pretty_wal_size).
    let megabytes = segment / (1024 * 1024);
    let pretty = |segments: u64| match megabytes * segments {
        amount if amount % 1024 == 0 => format!("{}GB", amount / 1024),
        amount => format!("{amount}MB"),
    };
    settings.insert("min_wal_size", pretty(5));
    settings.insert("max_wal_size", pretty(64));
    Ok(settings)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sets_a_value_in_its_line() {
        let text = "#ssl = off\nport = 5432\t\t# (change requires restart)\n# port 1\n#log_timezone = 'x y' # c\n";
        assert_eq!(set_value(text, "ssl", "on").lines().next(), Some("ssl = on"));
        assert_eq!(set_value(text, "port", "5433").lines().nth(1), Some("port = 5433\t\t# (change requires restart)"));
        assert_eq!(set_value(text, "log_timezone", "Etc/UTC").lines().nth(3), Some("log_timezone = 'Etc/UTC' # c"));
        assert_eq!(set_value(text, "data_directory", "/a'b c").lines().last(), Some("data_directory = '/a''b c'"));
        assert_eq!(set_value("a = 1", "b", "2"), "a = 1\nb = 2\n");
        let twice = set_value(&set_value(text, "ssl", "on"), "ssl", "off");
        assert_eq!(twice.matches("ssl").count(), 1);
        assert_eq!(set_value("ssl_ca_file = 'x'\n", "ssl", "on"), "ssl_ca_file = 'x'\nssl = on\n");
    }

    #[test]
    fn access_is_what_initdb_and_pg_createcluster_write() {
        let sample = "# head\n\n@authcomment@\n\n# TYPE  DATABASE        USER\n\n\
            @remove-line-for-nolocal@local   all             all                                     @authmethodlocal@\n\
            host    all             all             ::1/128                 @authmethodhost@\n";
        let text = access(sample, (17, 0));
        assert!(!text.contains('@'), "{text}");
        let entries: Vec<&str> = text.lines().filter(|line| line.starts_with(['l', 'h'])).collect();
        assert_eq!(entries[0], "local   all             postgres                                peer");
        assert!(entries[1].ends_with("peer") && entries[2].ends_with("scram-sha-256"));
        assert!(access(sample, (13, 0)).contains("md5"));
    }

    #[test]
    fn what_a_failed_bootstrap_left_is_moved_and_local_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let id: ClusterId = "17/main".parse().unwrap();
        let etc = root.path("/etc/postgresql/17/main");
        std::fs::create_dir_all(etc.join("conf.d")).unwrap();
        std::fs::create_dir_all(etc.join("replaced")).unwrap();
        for name in ["pg_hba.conf", "postgresql.base.conf", "conf.d/x.conf", "mine", "replaced/old"] {
            std::fs::write(etc.join(name), name).unwrap();
        }
        assert_eq!(set_aside(&root, &id).unwrap(), ["postgresql.base.conf", "pg_hba.conf"]);
        assert_eq!(root.list("/etc/postgresql/17/main").unwrap(), ["conf.d", "mine", "replaced"]);
        assert_eq!(root.list("/etc/postgresql/17/main/replaced").unwrap(), ["pg_hba.conf", "postgresql.base.conf"]);
        assert!(set_aside(&root, &id).unwrap().is_empty());
        assert_eq!(root.list("/etc/postgresql/17/main/replaced").unwrap().len(), 2);
    }

    #[test]
    fn a_dropped_cluster_has_neither_configuration_nor_data() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let id: ClusterId = "17/main".parse().unwrap();
        let etc = root.path("/etc/postgresql/17/main");
        std::fs::create_dir_all(&etc).unwrap();
        let dropped = || is_dropped(&root, &id, Path::new("/srv/a"));
        assert!(!dropped());
        std::fs::write(etc.join("postgresql.base.conf"), "data_directory = '/srv/b'").unwrap();
        assert!(dropped());
        for holder in ["/srv/a", "/srv/b"] {
            std::fs::create_dir_all(root.path(holder)).unwrap();
            std::fs::write(root.path(holder).join("PG_VERSION"), "17").unwrap();
            assert!(!dropped(), "{holder} has data");
            std::fs::remove_file(root.path(holder).join("PG_VERSION")).unwrap();
        }
        std::fs::write(etc.join("postgresql.conf"), "").unwrap();
        assert!(!dropped());
    }

    #[test]
    fn a_configuration_for_another_directory_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let id: ClusterId = "17/main".parse().unwrap();
        let etc = root.path("/etc/postgresql/17/main");
        std::fs::create_dir_all(&etc).unwrap();
        assert!(check_data_directory(&root, &id, Path::new("/srv/a")).is_ok());
        std::fs::write(etc.join("postgresql.base.conf"), "data_directory = '/srv/b/'").unwrap();
        assert!(check_data_directory(&root, &id, Path::new("/srv/b")).is_ok());
        let error = check_data_directory(&root, &id, Path::new("/srv/a")).unwrap_err().to_string();
        assert!(error.contains("/srv/a") && error.contains("/srv/b/") && error.contains("base.conf"), "{error}");
        std::fs::create_dir_all(root.path("/srv/a")).unwrap();
        std::os::unix::fs::symlink(root.path("/srv/a"), root.path("/srv/b")).unwrap();
        assert!(check_data_directory(&root, &id, Path::new("/srv/a")).is_ok());
    }
}
