//! The commands of ours that Patroni calls: to bootstrap, to clone, and when the role of the member changes.

use anyhow::{Result, bail};
use host::settings::Settings;
use serde::Serialize;

use crate::patroni::paths::HOOKS;
use crate::patroni::version::Patroni;

#[derive(Debug, Serialize)]
pub(crate) struct Callbacks {
    pub(crate) command: String,
    before_stop: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Command {
    pub(crate) command: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct CloneMethod {
    pub(crate) command: String,
    options: Vec<(&'static str, String)>,
}

/// What Patroni calls. It puts event, role and scope behind the command, but nothing behind `before_stop`.
pub(crate) fn callbacks(patroni: &Patroni, scope: &str) -> Callbacks {
    let command = format!("{HOOKS}/dnscp");
    let before_stop = patroni.has_before_stop().then(|| format!("{command} before_stop primary {scope}"));
    Callbacks { command, before_stop }
}

/// Patroni splits the command as a shell would; the values have none of a shell's characters.
pub(crate) fn bootstrap_command(settings: &Settings) -> Result<String> {
    let plain = |text: &str| {
        if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.@-".contains(&b)) {
            Ok(text.to_owned())
        } else {
            bail!("'{text}' has a character that no name of a locale or encoding has")
        }
    };
    let mut words = vec![format!("{HOOKS}/pg_createcluster_patroni")];
    words.extend(settings.parse("LOCALE", plain)?.map(|locale| format!("--locale={locale}")));
    words.extend(settings.parse("ENCODING", plain)?.map(|encoding| format!("--encoding={encoding}")));
    match settings.boolean("DATA_CHECKSUMS")? {
        Some(true) => words.push("--data-checksums".to_owned()),
        Some(false) => words.push("--no-data-checksums".to_owned()),
        None => {}
    }
    Ok(words.join(" "))
}

pub(crate) fn clone_method(settings: &Settings) -> Result<CloneMethod> {
    let mut options = Vec::new();
    let rate = settings.parse("CLONE_MAX_RATE", |text| {
        let digits = text.strip_suffix(['k', 'M']).unwrap_or(text);
        match digits.parse::<u32>() {
            Ok(number) if number > 0 => Ok(text.to_owned()),
            _ => bail!("'{text}' is not a rate of pg_basebackup: write it as 50M, 900k or kilobytes per second"),
        }
    })?;
    let compress = settings.parse("CLONE_COMPRESS", |text| {
        if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-:=,".contains(&b)) {
            Ok(text.to_owned())
        } else {
            bail!("'{text}' is not METHOD[:DETAIL] of pg_basebackup --compress")
        }
    })?;
    let checkpoint = settings.choice("CLONE_CHECKPOINT", &["fast", "spread"])?.map(str::to_owned);
    for (name, value) in [("max-rate", rate), ("compress", compress), ("checkpoint", checkpoint)] {
        options.extend(value.map(|value| (name, value)));
    }
    Ok(CloneMethod { command: format!("{HOOKS}/pg_clonecluster_patroni"), options })
}
