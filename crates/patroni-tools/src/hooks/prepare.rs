//! `pg_preparecluster_patroni`: repairs what would keep Patroni from starting.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use host::clusters::{config_directory, effective_conf};
use host::trouble::Explain;
use host::{ClusterId, Root, fail, trouble};

use crate::context::Context;
use crate::hooks::arguments::{self, Arguments};
use crate::hooks::hook::{self, Hook, initialize_key};
use crate::hooks::log_file;
use crate::hooks::marker::{Content, Kind, Marker, remove_remains};
use crate::patroni::paths::{other_instance, patroni_file, read_patroni_file};
use crate::postgres::conf_dir;

/// Prepares only the log, for which root is needed.
const LOG: &str = "log";

const HOOK: Hook = Hook {
    name: "pg_preparecluster_patroni",
    usage: "\
Usage: pg_preparecluster_patroni [--log] VERSION-NAME

Prepares a cluster for the start of Patroni: removes the incomplete data of an
interrupted clone or bootstrap, and creates /etc/postgresql/VERSION/NAME again
if it is missing. patroni@.service runs it.

  VERSION-NAME       the cluster: 17-main, 17/main or 17 main
  --log              only let group adm read the log, as root
  --help, --version  show this text or the version, and exit

Manual: pg_preparecluster_patroni(8)
",
    words: true,
    by_root: Some(LOG),
    supervised: false,
    work,
};

/// Runs the program `pg_preparecluster_patroni`.
#[must_use]
pub fn main() -> ExitCode {
    hook::main(&HOOK)
}

fn work(context: &Context, arguments: &Arguments) -> Result<()> {
    if let Some((option, _)) = arguments.options().find(|(option, _)| *option != LOG) {
        fail!("unknown option --{option}"; "See {} --help.", HOOK.name);
    }
    // The check has reported that such an instance has no cluster.
    if other_instance(&context.root, &arguments.words).is_some() {
        return Ok(());
    }
    let id = ClusterId::from_words(&arguments.words)?;
    if arguments.options().next().is_some() {
        return log_file::prepare(&context.root, &id);
    }
    let file = patroni_file(&id);
    let Some(settings) = read_patroni_file(&context.root, &id)? else {
        fail!("{} does not exist", file.display(); "Create it with: patroni-gen-config {id}");
    };
    let data =
        settings.text(&["postgresql", "data_dir"]).context("postgresql.data_dir is missing").at(file.display())?;
    let data = arguments::directory("postgresql.data_dir", &data).at(file.display())?;

    if Marker::exists(&context.root, &id) {
        remove_interrupted(context, &id, &settings.text(&["scope"]).unwrap_or_else(|| id.dashed()))?;
    }
    // A configuration elsewhere (upstream's default is the data directory) does not belong to postgresql-common.
    let config = settings.text(&["postgresql", "config_dir"]).map(PathBuf::from);
    if config.as_deref() != Some(config_directory(&id).as_path()) {
        return Ok(());
    }
    conf_dir::settle(context, &id, &data)?;
    if !conf_dir::exists(&context.root, &id) && context.root.path(&data).join("PG_VERSION").is_file() {
        restore_configuration(context, &id, &data, settings.port("postgresql")?)?;
    }
    statistics_directory(context, &id)?;
    warn_of_start_conf(context, &id);
    Ok(())
}

/// PostgreSQL 14 and older write statistics to `stats_temp_directory`, which Debian puts below /run, so that it is missing after a boot.
/// It is created here, as postgres, as `pg_ctlcluster` does: systemd would create it as root in a directory that postgres can write.
fn statistics_directory(context: &Context, id: &ClusterId) -> Result<()> {
    const FIRST_WITHOUT: (u32, u32) = (15, 0);
    if id.version.number() >= FIRST_WITHOUT {
        return Ok(());
    }
    let Some(path) = effective_conf(&context.root, id)?.remove("stats_temp_directory") else { return Ok(()) };
    let real = context.root.path(&path);
    if !path.starts_with('/') || real.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .mode(0o750)
        .create(&real)
        .with_context(|| format!("could not create {path}, the stats_temp_directory of {id}"))
}

fn remove_interrupted(context: &Context, id: &ClusterId, scope: &str) -> Result<()> {
    let marker = Marker::lock(&context.root, id)?;
    if let Some(claim) = marker.interrupted().cloned() {
        let directory = claim.data_directory.display().to_string();
        match marker.content(&context.root, &claim.data_directory)? {
            Content::Foreign(why) => {
                let what = trouble!("{directory} is kept after an interrupted {}: {why}", claim.kind.name());
                context.reporter.warn(what);
            }
            Content::Empty | Content::Remains(_) => {
                remove_remains(&context.root, id, &claim)?;
                context
                    .reporter
                    .info(format!("removed the remains of an interrupted {} from {directory}", claim.kind.name()));
            }
        }
        if claim.kind == Kind::Bootstrap {
            let interrupted = trouble!("the bootstrap of {id} was interrupted");
            context.reporter.warn(interrupted.hint(initialize_key(id, scope)));
        }
    }
    marker.remove()
}

fn restore_configuration(context: &Context, id: &ClusterId, data: &Path, port: u16) -> Result<()> {
    // Those of the primary are not known here, so these are what initdb would find on this host.
    let mut settings = conf_dir::from_data(context, id, data)?;
    if let Some(zone) = timezone(&context.root) {
        settings.insert("timezone", zone.clone());
        settings.insert("log_timezone", zone);
    }
    let marker = Marker::lock(&context.root, id)?;
    conf_dir::begin(context, id, Some(port))?.finish(context, data, &settings)?;
    marker.remove()?;
    context.reporter.warn(trouble!(
        "{} had no configuration: created one with the defaults of pg_createcluster", config_directory(id).display();
        "Make your own changes there again."
    ));
    Ok(())
}

/// The time zone of this host, as initdb finds it (`select_default_timezone`).
fn timezone(root: &Root) -> Option<String> {
    let named = root.read("/etc/timezone").ok().flatten().map(|text| text.trim().to_owned());
    let linked = std::fs::read_link(root.path("/etc/localtime"))
        .ok()
        .and_then(|target| Some(target.to_str()?.split_once("zoneinfo/")?.1.to_owned()));
    linked.or(named).filter(|zone| !zone.is_empty() && root.path("/usr/share/zoneinfo").join(zone).is_file())
}

fn warn_of_start_conf(context: &Context, id: &ClusterId) {
    let path = config_directory(id).join("start.conf");
    let text = context.root.read(&path).ok().flatten().unwrap_or_default();
    if text.lines().any(|line| line.split_whitespace().next() == Some("auto")) {
        context.reporter.warn(trouble!(
            at path.display(), "start.conf is set to 'auto', so that postgresql@{} starts the server without Patroni", id.dashed();
            "Write 'manual' into it, and run: systemctl daemon-reload"
        ));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Directories of postgres, and those below them.
    const OF_POSTGRES: [&str; 4] = ["postgresql", "/etc/postgresql", "/var/lib/postgresql", "/var/log/postgresql"];

    /// Directories that systemd creates, or changes the owner of, as root.
    const CREATED_BY_SYSTEMD: [&str; 5] =
        ["RuntimeDirectory=", "StateDirectory=", "CacheDirectory=", "LogsDirectory=", "ConfigurationDirectory="];

    fn created_in_a_directory_of_postgres(line: &str) -> bool {
        let of_postgres =
            |path: &str| OF_POSTGRES.iter().any(|tree| path.starts_with(tree)) || path.contains("/postgresql/");
        match CREATED_BY_SYSTEMD.iter().find_map(|directive| line.strip_prefix(directive)) {
            Some(paths) => paths.split_whitespace().any(of_postgres),
            None if line.contains('=') => false,
            // tmpfiles.d(5): a type, and a path.
            None => line.split_whitespace().nth(1).is_some_and(|path| path.starts_with('/') && of_postgres(path)),
        }
    }

    #[test]
    fn systemd_creates_nothing_in_a_directory_that_postgres_can_write() {
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut files = Vec::new();
        for directory in ["systemd", "debian", "udev"] {
            for entry in walkdir::WalkDir::new(project.join(directory)).into_iter().map(Result::unwrap) {
                let name = entry.file_name().to_string_lossy().into_owned();
                let ours = [".service", ".conf", ".socket", ".timer", ".tmpfiles", ".rules"]
                    .iter()
                    .any(|end| name.ends_with(end));
                if ours && entry.file_type().is_file() {
                    files.push(entry.into_path());
                }
            }
        }
        assert!(files.len() >= 4, "{files:?}");
        for file in files {
            for line in std::fs::read_to_string(&file).unwrap().lines().filter(|line| !line.starts_with('#')) {
                assert!(!created_in_a_directory_of_postgres(line), "{}: {line}", file.display());
            }
        }
        assert!(created_in_a_directory_of_postgres("RuntimeDirectory=postgresql/%i.pg_stat_tmp"));
        assert!(created_in_a_directory_of_postgres("d /run/postgresql/x 0755 postgres postgres"));
        assert!(!created_in_a_directory_of_postgres("d /run/patroni-tools 0700 postgres postgres"));
    }

    #[test]
    fn an_instance_that_is_not_a_cluster_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let context = Context { root: Root::new(folder.path()), reporter: host::report::Reporter::new(HOOK.name) };
        let prepare = |word: &str| {
            let mut arguments = Arguments::default();
            arguments.words.push(word.to_owned());
            work(&context, &arguments)
        };
        let error = prepare("acme").unwrap_err().to_string();
        assert!(error.contains("'acme' does not name a cluster"), "{error}");
        std::fs::create_dir_all(context.root.path("/etc/patroni")).unwrap();
        for name in ["acme", "17-main"] {
            std::fs::write(context.root.path(format!("/etc/patroni/{name}.yml")), "scope: acme\n").unwrap();
        }
        prepare("acme").unwrap();
        assert!(prepare("../patroni/acme").is_err());
        let error = format!("{:#}", prepare("17-main").unwrap_err());
        assert!(error.contains("data_dir is missing"), "{error}");
    }

    #[test]
    fn the_statistics_directory_of_postgresql_14_is_created() {
        let folder = tempfile::tempdir().unwrap();
        let context = Context { root: Root::new(folder.path()), reporter: host::report::Reporter::new(HOOK.name) };
        let id: ClusterId = "14/main".parse().unwrap();
        let conf = context.root.path(config_directory(&id));
        std::fs::create_dir_all(&conf).unwrap();
        std::fs::create_dir_all(context.root.path("/run/postgresql")).unwrap();
        let directory = context.root.path("/run/postgresql/14-main.pg_stat_tmp");
        std::fs::write(conf.join("postgresql.conf"), "port = 5432\n").unwrap();
        statistics_directory(&context, &id).unwrap();
        assert!(!directory.exists());
        std::fs::write(conf.join("postgresql.conf"), "stats_temp_directory = '/run/postgresql/14-main.pg_stat_tmp'\n")
            .unwrap();
        statistics_directory(&context, &id).unwrap();
        statistics_directory(&context, &id).unwrap();
        assert!(directory.is_dir());
        std::fs::remove_dir(&directory).unwrap();
        std::os::unix::fs::symlink("/nowhere", &directory).unwrap();
        let error = statistics_directory(&context, &id).unwrap_err().to_string();
        assert!(error.contains("14-main.pg_stat_tmp"), "{error}");
    }
}
