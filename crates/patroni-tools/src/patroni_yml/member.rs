//! The settings of this member alone: tags, watchdog and Patroni's log.

use anyhow::Result;
use host::settings::Settings;
use host::trouble::Trouble;
use host::{Root, fail, trouble};
use serde_json::{Value, json};

use crate::patroni::paths::FINGERPRINT_TAG;
use crate::patroni::version::Patroni;
use crate::patroni_yml::values::path_text;

/// Keys and values, in order.
pub type Options = Vec<(&'static str, Value)>;

/// The default watchdog device (`LinuxWatchdogDevice.DEFAULT_DEVICE`).
const DEVICE: &str = "/dev/watchdog";

/// The tags, including the fingerprint of the site key.
pub fn tags(settings: &Settings, patroni: &Patroni, fingerprint: &str) -> Result<Options> {
    let mut tags = Options::new();
    for (key, tag) in [
        ("NOFAILOVER", "nofailover"),
        ("NOLOADBALANCE", "noloadbalance"),
        ("CLONEFROM", "clonefrom"),
        ("NOSYNC", "nosync"),
    ] {
        if settings.boolean(key)? == Some(true) {
            tags.push((tag, json!(true)));
        }
    }
    let priority = settings.number("FAILOVER_PRIORITY", 0, 1_000_000)?;
    settings.parse("FAILOVER_PRIORITY", |_| match patroni.lacks_failover_priority() {
        Some(version) => fail!("it needs Patroni 3.2, but {version} is installed"; "Remove it, or set NOFAILOVER."),
        None => Ok(()),
    })?;
    if let Some(priority) = priority {
        if settings.boolean("NOFAILOVER")?.is_some() {
            fail!(
                at settings.place(&["FAILOVER_PRIORITY"]),
                "NOFAILOVER and FAILOVER_PRIORITY contradict each other";
                "Set only one of them. A priority of 0 means nofailover."
            );
        }
        tags.push(("failover_priority", json!(priority)));
    }
    tags.push((FINGERPRINT_TAG, json!(fingerprint)));
    Ok(tags)
}

/// Mode and device of the watchdog. Warns if the device is required but missing.
pub fn watchdog(
    root: &Root,
    settings: &Settings,
    warnings: &mut Vec<Trouble>,
) -> Result<(&'static str, Option<String>)> {
    let mode = settings.choice("WATCHDOG", &["off", "automatic", "required"])?.unwrap_or("automatic");
    let device = settings.path("WATCHDOG_DEVICE")?.map(|path| path_text(&path)).transpose()?;
    let path = device.as_deref().unwrap_or(DEVICE);
    if mode == "required" && !root.path(path).exists() {
        warnings.push(trouble!(
            at settings.place(&["WATCHDOG"]),
            "WATCHDOG is required, but {path} does not exist, so this member would never become primary";
            "Load a driver, for softdog with: echo softdog > /etc/modules-load.d/softdog.conf; modprobe softdog"
        ));
    }
    Ok((mode, device))
}

/// The section `log`; empty if Patroni's defaults apply.
pub fn log(root: &Root, settings: &Settings) -> Result<Options> {
    let mut log = Options::new();
    let level = settings.parse("LOG_LEVEL", |text| {
        let upper = text.to_ascii_uppercase();
        if !["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"].contains(&upper.as_str()) {
            fail!("'{text}' is not a log level of Patroni"; "Use DEBUG, INFO, WARNING, ERROR or CRITICAL.");
        }
        Ok(upper)
    })?;
    log.extend(level.map(|level| ("level", json!(level))));
    log.extend(settings.text("LOG_FORMAT").map(|format| ("format", json!(format))));
    let directory = settings.path("LOG_DIR")?;
    settings.parse("LOG_DIR", |text| {
        if !root.path(text).is_dir() {
            fail!("there is no directory {text}"; "Create it with: install -d -o postgres -g postgres {text}");
        }
        Ok(())
    })?;
    let number = settings.number("LOG_FILE_NUM", 0, 10_000)?;
    let size = settings.number("LOG_FILE_SIZE", 1_000, u64::from(u32::MAX))?;
    if directory.is_none() && (number.is_some() || size.is_some()) {
        fail!(
            at settings.place(&["LOG_FILE_NUM", "LOG_FILE_SIZE"]),
            "LOG_FILE_NUM and LOG_FILE_SIZE have no effect without LOG_DIR";
            "Set LOG_DIR too, or remove them."
        );
    }
    log.extend(directory.map(|directory| path_text(&directory)).transpose()?.map(|text| ("dir", json!(text))));
    log.extend(number.map(|number| ("file_num", json!(number))));
    log.extend(size.map(|size| ("file_size", json!(size))));
    Ok(log)
}
