//! The Patroni of another set-up that runs on this host: its process, its unit and its environment.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context as _, Result};
use host::{Root, envfile, fail, program};

use crate::handover::groups;
use crate::patroni::paths::ENVIRONMENT;
use crate::patroni::process;

/// The other Patroni.
pub(crate) struct OtherPatroni {
    pub(crate) process: u32,
    pub(crate) started: u64,
    pub(crate) unit: String,
}

/// The process that runs with the file, or the main process of the unit.
pub(crate) fn find_patroni(root: &Root, file: &Path, unit: Option<&str>) -> Result<OtherPatroni> {
    let process = match unit {
        Some(unit) => main_process(root, unit)?,
        None => process_with(root, file)?,
    };
    let Some(process) = process else {
        fail!(
            "no Patroni runs with {}", file.display();
            "Start it, or name its unit with --unit."
        );
    };
    let group = groups::of_process(root, process)?.unwrap_or_default();
    let name = group.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !name.ends_with(".service") {
        fail!(
            "Patroni (process {process}) is not run by a unit of systemd";
            "Run it by one, so that it can be stopped and disabled."
        );
    }
    // The name of a group can also be that of a unit of a user, and a process of another unit can call itself Patroni.
    if main_process(root, name)? != Some(process) {
        fail!("process {process} is not the main process of {name}"; "Name the unit of Patroni with --unit.");
    }
    let user = root.path(format!("/proc/{process}")).metadata().map(|found| found.uid()).ok();
    if user != Some(root.user_id("postgres")?) {
        fail!("Patroni (process {process}) is not run by user postgres"; "patroni@ runs as postgres, who must own the data.");
    }
    let started = host::process::started(root, process).with_context(|| format!("process {process} has ended"))?;
    Ok(OtherPatroni { process, started, unit: name.to_owned() })
}

fn main_process(root: &Root, unit: &str) -> Result<Option<u32>> {
    let mut command = program::command(root, "systemctl")?;
    let printed = program::capture(command.args(["show", "--property=MainPID", "--value", unit]))?;
    Ok(printed.trim().parse().ok().filter(|pid| *pid != 0))
}

/// The process that runs with the file; one of user postgres rather than another that calls itself Patroni.
fn process_with(root: &Root, file: &Path) -> Result<Option<u32>> {
    let postgres = root.user_id("postgres")?;
    let mut found = process::with_file(root, file);
    found.sort_by_key(|process| process.user != postgres);
    Ok(found.first().map(|process| process.pid))
}

/// Variables override the file, and `patroni@` has none but those in its own file.
pub(crate) fn check_environment(root: &Root, patroni: &OtherPatroni) -> Result<()> {
    let bytes = std::fs::read(root.path(format!("/proc/{}/environ", patroni.process)))
        .with_context(|| format!("could not read the environment of process {}", patroni.process))?;
    let ours = envfile::parse(ENVIRONMENT, &root.read(ENVIRONMENT)?.unwrap_or_default())?;
    let foreign: Vec<String> = bytes
        .split(|byte| *byte == 0)
        .filter_map(|word| {
            String::from_utf8_lossy(word).split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()))
        })
        .filter(|(key, _)| key.starts_with("PATRONI_") && !key.starts_with("PATRONI_TOOLS_"))
        .filter(|(key, value)| !ours.iter().any(|ours| ours.key == *key && ours.value == *value))
        .map(|(key, _)| key)
        .collect();
    if !foreign.is_empty() {
        fail!(
            "{} has variables that override its file: {}", patroni.unit, foreign.join(", ");
            "Put their values into the file, remove them, and restart Patroni; or set them in {ENVIRONMENT}, which patroni@ reads."
        );
    }
    Ok(())
}
