//! `pg_preparecluster_patroni`: what must be in order before Patroni starts.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use host::clusters::{config_directory, effective_conf};
use host::{ClusterId, Root};

use crate::context::Context;
use crate::hooks::arguments::{self, Arguments};
use crate::hooks::hook::{self, Hook, initialize_key};
use crate::hooks::marker::{Content, Kind, Unfinished, remove_remains};
use crate::patroni::paths::{patroni_file, read_patroni_file};
use crate::postgres::conf_dir;

const HOOK: Hook = Hook {
    name: "pg_preparecluster_patroni",
    usage: "\
Usage: pg_preparecluster_patroni VERSION-NAME

Puts one instance in order before Patroni starts: removes the remains of an interrupted clone or bootstrap, and makes
/etc/postgresql/VERSION/NAME again where it is lost. patroni@.service runs it.

  VERSION-NAME    the instance: 17-main, 17/main, or 17 main
  --help, --version

See pg_preparecluster_patroni(8).
",
    words: true,
    tied: false,
    work,
};

/// Runs the program `pg_preparecluster_patroni`.
#[must_use]
pub fn main() -> ExitCode {
    hook::main(&HOOK)
}

fn work(context: &Context, arguments: &Arguments) -> Result<()> {
    if let Some((option, _)) = arguments.options().next() {
        bail!("unknown option --{option}; see {} --help", HOOK.name);
    }
    let id = ClusterId::from_words(&arguments.words)?;
    let file = patroni_file(&id);
    let Some(settings) = read_patroni_file(&context.root, &id)? else {
        bail!("{} is missing: make it with 'patroni-gen-config {id}'", file.display());
    };
    let data = settings
        .text(&["postgresql", "data_dir"])
        .with_context(|| format!("{}: postgresql.data_dir is missing", file.display()))?;
    let data = arguments::directory(&format!("{}: postgresql.data_dir", file.display()), &data)?;

    if Unfinished::exists(&context.root, &id) {
        remove_interrupted(context, &id, &settings.text(&["scope"]).unwrap_or_else(|| id.dashed()))?;
    }
    // A configuration elsewhere (upstream's default is the data directory) is not postgresql-common's.
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

/// PostgreSQL 14 and older write statistics to `stats_temp_directory`, which Debian puts below /run, so that it is gone after a boot.
/// Made here, as postgres, as `pg_ctlcluster` makes it: systemd would make it as root in a directory that postgres can write.
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
        .with_context(|| format!("cannot make {path}, the stats_temp_directory of {id}"))
}

fn remove_interrupted(context: &Context, id: &ClusterId, scope: &str) -> Result<()> {
    let unfinished = Unfinished::take(&context.root, id)?;
    if let Some(claim) = unfinished.before().cloned() {
        let directory = claim.data_directory.display().to_string();
        match unfinished.content(&context.root, &claim.data_directory)? {
            Content::Foreign(why) => {
                context
                    .reporter
                    .warn(format!("{directory} stays as it is after an interrupted {}: {why}", claim.kind.name()));
            }
            Content::Empty | Content::Remains(_) => {
                remove_remains(&context.root, id, &claim)?;
                context
                    .reporter
                    .info(format!("removed the remains of an interrupted {} from {directory}", claim.kind.name()));
            }
        }
        if claim.kind == Kind::Bootstrap {
            context.reporter.warn(format!("the bootstrap of {id} was interrupted. {}", initialize_key(id, scope)));
        }
    }
    unfinished.end()
}

fn restore_configuration(context: &Context, id: &ClusterId, data: &Path, port: u16) -> Result<()> {
    // Not the primary's, which is not known here; what initdb would take from this host.
    let mut settings = conf_dir::from_data(context, id, data)?;
    if let Some(zone) = timezone(&context.root) {
        settings.insert("timezone", zone.clone());
        settings.insert("log_timezone", zone);
    }
    let unfinished = Unfinished::take(&context.root, id)?;
    conf_dir::begin(context, id, Some(port))?.finish(context, data, &settings)?;
    unfinished.end()?;
    context.reporter.warn(format!(
        "{} had no configuration: made one with the defaults of pg_createcluster; local settings must be made again",
        config_directory(id).display()
    ));
    Ok(())
}

/// The name of this host's time zone, as initdb finds it (`select_default_timezone`).
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
        context.reporter.warn(format!(
            "{} says 'auto', so that postgresql@{} starts the server beside Patroni: write 'manual' there, and run \
             'systemctl daemon-reload'",
            path.display(),
            id.dashed()
        ));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Directories that postgres owns, and those below them.
    const OF_POSTGRES: [&str; 4] = ["postgresql", "/etc/postgresql", "/var/lib/postgresql", "/var/log/postgresql"];

    /// What systemd makes, or gives away, as root.
    const MADE_BY_SYSTEMD: [&str; 5] =
        ["RuntimeDirectory=", "StateDirectory=", "CacheDirectory=", "LogsDirectory=", "ConfigurationDirectory="];

    fn made_in_a_directory_of_postgres(line: &str) -> bool {
        let of_postgres =
            |path: &str| OF_POSTGRES.iter().any(|tree| path.starts_with(tree)) || path.contains("/postgresql/");
        match MADE_BY_SYSTEMD.iter().find_map(|directive| line.strip_prefix(directive)) {
            Some(paths) => paths.split_whitespace().any(of_postgres),
            None if line.contains('=') => false,
            // tmpfiles.d(5): a type, and a path.
            None => line.split_whitespace().nth(1).is_some_and(|path| path.starts_with('/') && of_postgres(path)),
        }
    }

    #[test]
    fn systemd_makes_nothing_in_a_directory_that_postgres_can_write() {
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
                assert!(!made_in_a_directory_of_postgres(line), "{}: {line}", file.display());
            }
        }
        assert!(made_in_a_directory_of_postgres("RuntimeDirectory=postgresql/%i.pg_stat_tmp"));
        assert!(made_in_a_directory_of_postgres("d /run/postgresql/x 0755 postgres postgres"));
        assert!(!made_in_a_directory_of_postgres("d /run/patroni-tools 0700 postgres postgres"));
    }

    #[test]
    fn what_postgresql_14_needs_below_run_is_made_as_it_is_set() {
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
