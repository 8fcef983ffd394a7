//! What an adoption or a take-over records before it changes anything, and how it compares the result with that.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use host::keys::SiteKey;
use host::report::Reporter;
use host::settings::Settings;
use host::{ClusterId, Root, clusters, fail, settings, trouble};

use crate::handover::decision::{Decision, Kept};
use crate::handover::differences;
use crate::handover::groups::Unit;
use crate::handover::journal::Journal;
use crate::handover::running::Running;
use crate::handover::steps::copy_name;
use crate::patroni_yml::inputs::{site_key, site_key_path};
use crate::postgres::place::Place;

/// The files that change, with owner and mode. They are copied when the decision is recorded.
pub(crate) fn files_as_they_are(root: &Root, id: &ClusterId) -> Result<Vec<Kept>> {
    let directory = clusters::config_directory(id);
    let mut paths = vec![settings::cluster_file(id)];
    for name in root.list(&directory)? {
        let path = directory.join(&name);
        let real = root.path(&path);
        match real.symlink_metadata() {
            Ok(found) if found.is_file() => paths.push(path),
            Ok(found) if found.is_dir() => {
                for inner in root.list(&path)? {
                    let inner = path.join(inner);
                    if root.path(&inner).symlink_metadata().is_ok_and(|found| found.is_file()) {
                        paths.push(inner);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(paths.into_iter().map(|path| as_it_is(root, path)).collect())
}

/// A file with owner and mode.
pub(crate) fn as_it_is(root: &Root, path: PathBuf) -> Kept {
    let found = root.path(&path).symlink_metadata().ok();
    Kept {
        uid: found.as_ref().map_or(0, MetadataExt::uid),
        gid: found.as_ref().map_or(0, MetadataExt::gid),
        mode: found.as_ref().map_or(0o644, |found| found.mode() & 0o7777),
        copy: found.map(|_| copy_name(&path)),
        path,
    }
}

/// Copies the files and writes the decision.
pub(crate) fn record(root: &Root, journal: &Journal, decision: &Decision) -> Result<()> {
    record_files(root, journal, &decision.kept)?;
    journal.decide(decision)
}

/// Copies the files.
pub(crate) fn record_files(root: &Root, journal: &Journal, files: &[Kept]) -> Result<()> {
    for kept in files {
        if let (Some(copy), Some(bytes)) = (&kept.copy, root.for_postgres().bytes(&kept.path)?) {
            journal.keep(copy, &bytes)?;
        }
    }
    Ok(())
}

pub(crate) fn create_site_key(root: &Root, id: &ClusterId, reporter: &Reporter) -> Result<()> {
    let settings = Settings::read(root, id)?;
    if site_key(root, &settings)?.is_none() {
        let path = site_key_path(&settings)?;
        SiteKey::create(root, &path)?;
        reporter.info(format!(
            "created {}: copy it to the other members before you run patroni-gen-config there",
            path.display()
        ));
    }
    Ok(())
}

/// Compares the server with what was announced. True if there is a difference that was not.
pub(crate) fn verify(root: &Root, id: &ClusterId, decision: &Decision, reporter: &Reporter) -> Result<bool> {
    /// Patroni reloads the server within this time.
    const LONGEST: Duration = Duration::from_secs(15);
    let begin = Instant::now();
    let (now, unsaid) = loop {
        let Some(place) = Place::find(root, id, &decision.data_directory, &decision.superuser)? else {
            fail!("the server of {id} is not running"; "See: journalctl -u {}", Unit::Patroni.name(id));
        };
        let now = Running::ask(root, id, &place)?;
        let unsaid = differences::unannounced(decision, &now);
        if (unsaid.is_empty() && differences::applied(decision, &now)) || begin.elapsed() > LONGEST {
            break (now, unsaid);
        }
        sleep(Duration::from_millis(300));
    };
    for name in &unsaid {
        let before = decision.setting(name).map_or("", |setting| &setting.value);
        reporter.warn(trouble!(at id, "{name} was '{before}' and is now '{}'", now.value(name)));
    }
    let pending: Vec<&str> =
        now.settings.iter().filter(|setting| setting.pending).map(|setting| setting.name.as_str()).collect();
    if !pending.is_empty() {
        reporter.info(format!(
            "{id}: a restart is pending for {}; when it suits you, run: pg_patronictl {id} restart --pending",
            pending.join(", ")
        ));
    }
    Ok(!unsaid.is_empty())
}
