//! What is set for this member alone: its tags, its watchdog, Patroni's log.

use anyhow::{Result, bail};
use host::Root;
use host::settings::Settings;
use serde_json::{Value, json};

use crate::patroni::paths::FINGERPRINT_TAG;
use crate::patroni::version::Patroni;
use crate::patroni_yml::values::path_text;

/// Keys and values, in order.
pub type Options = Vec<(&'static str, Value)>;

/// The watchdog of Linux that is taken where none is named (`LinuxWatchdogDevice.DEFAULT_DEVICE`).
const DEVICE: &str = "/dev/watchdog";

/// The tags, the fingerprint among them.
pub fn tags(settings: &Settings, patroni: &Patroni, fingerprint: &str) -> Result<Options> {
    let mut tags = Options::new();
    for (key, tag) in [
        ("NOFAILOVER", "nofailover"),
        ("NOLOADBALANCE", "noloadbalance"),
        ("CLONEFROM", "clonefrom"),
        ("NOSYNC", "nosync"),
    ] {
        if settings.truth(key)? == Some(true) {
            tags.push((tag, json!(true)));
        }
    }
    let priority = settings.number("FAILOVER_PRIORITY", 0, 1_000_000)?;
    settings.parse("FAILOVER_PRIORITY", |_| match patroni.lacks_failover_priority() {
        Some(version) => bail!("it needs Patroni 3.2, and {version} is installed: remove it, or set NOFAILOVER"),
        None => Ok(()),
    })?;
    if let Some(priority) = priority {
        if settings.truth("NOFAILOVER")?.is_some() {
            bail!(
                "{}NOFAILOVER and FAILOVER_PRIORITY contradict each other: set one of them (a priority of 0 is nofailover)",
                settings.place(&["FAILOVER_PRIORITY"])
            );
        }
        tags.push(("failover_priority", json!(priority)));
    }
    tags.push((FINGERPRINT_TAG, json!(fingerprint)));
    Ok(tags)
}

/// Mode and device of the watchdog; warns of a device that is required and not there.
pub fn watchdog(
    root: &Root,
    settings: &Settings,
    warnings: &mut Vec<String>,
) -> Result<(&'static str, Option<String>)> {
    let mode = settings.choice("WATCHDOG", &["off", "automatic", "required"])?.unwrap_or("automatic");
    let device = settings.path("WATCHDOG_DEVICE")?.map(|path| path_text(&path)).transpose()?;
    let path = device.as_deref().unwrap_or(DEVICE);
    if mode == "required" && !root.path(path).exists() {
        warnings.push(format!(
            "{}WATCHDOG is required, but there is no {path}, so this member would never become primary: load the driver of the \
             watchdog (for softdog: echo softdog > /etc/modules-load.d/softdog.conf; modprobe softdog)",
            settings.place(&["WATCHDOG"])
        ));
    }
    Ok((mode, device))
}

/// The section `log`; empty where Patroni's defaults hold.
pub fn log(root: &Root, settings: &Settings) -> Result<Options> {
    let mut log = Options::new();
    let level = settings.parse("LOG_LEVEL", |text| {
        let upper = text.to_ascii_uppercase();
        if ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"].contains(&upper.as_str()) {
            Ok(upper)
        } else {
            bail!("'{text}' is none of DEBUG, INFO, WARNING, ERROR, CRITICAL")
        }
    })?;
    log.extend(level.map(|level| ("level", json!(level))));
    log.extend(settings.text("LOG_FORMAT").map(|format| ("format", json!(format))));
    let directory = settings.path("LOG_DIR")?;
    settings.parse("LOG_DIR", |text| {
        if root.path(text).is_dir() {
            Ok(())
        } else {
            bail!("there is no directory {text}: make it with install -d -o postgres -g postgres {text}")
        }
    })?;
    let number = settings.number("LOG_FILE_NUM", 0, 10_000)?;
    let size = settings.number("LOG_FILE_SIZE", 1_000, u64::from(u32::MAX))?;
    if directory.is_none() && (number.is_some() || size.is_some()) {
        bail!(
            "{}LOG_FILE_NUM and LOG_FILE_SIZE are of files: set LOG_DIR too, or remove them",
            settings.place(&["LOG_FILE_NUM", "LOG_FILE_SIZE"])
        );
    }
    log.extend(directory.map(|directory| path_text(&directory)).transpose()?.map(|text| ("dir", json!(text))));
    log.extend(number.map(|number| ("file_num", json!(number))));
    log.extend(size.map(|size| ("file_size", json!(size))));
    Ok(log)
}
