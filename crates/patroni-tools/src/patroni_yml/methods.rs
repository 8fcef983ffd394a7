//! The commands of this package that Patroni calls: to bootstrap a cluster, to create a replica, and after a change of role.

use anyhow::Result;
use host::createcluster::CreateCluster;
use host::settings::Settings;
use host::{ClusterId, Root, fail};
use serde::Serialize;

use crate::patroni::paths::HOOKS;
use crate::patroni::version::Patroni;
use crate::patroni_yml::role_names::RoleNames;
use crate::patroni_yml::values::path_text;

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
    /// The same for Patroni's own method, which `patronictl reinit --from-leader` of Patroni 4.1 always uses (`Bootstrap.create_replica`).
    basebackup: Vec<(&'static str, String)>,
}

/// The callbacks. Patroni appends event, role and scope to the command, but nothing to `before_stop`. A scope that is set does not
/// name the cluster, even if it looks like one.
pub(crate) fn callbacks(settings: &Settings, id: &ClusterId, patroni: &Patroni, scope: &str) -> Callbacks {
    let cluster = settings.get("SCOPE").map_or_else(String::new, |_| format!(" --cluster {}", id.dashed()));
    let command = format!("{HOOKS}/dnscp{cluster}");
    let before_stop = patroni.has_before_stop().then(|| format!("{command} before_stop primary {}", shell_word(scope)));
    Callbacks { command, before_stop }
}

/// Patroni splits the command as a shell does. Of its values, only the name of the superuser can contain shell metacharacters.
pub(crate) fn bootstrap_command(settings: &Settings, id: &ClusterId, names: &RoleNames) -> Result<Command> {
    let plain = |text: &str| {
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.@-".contains(&b)) {
            fail!("'{text}' is not the name of a locale or encoding"; "Use a name such as C.UTF-8, de_DE.UTF-8 or UTF8.");
        }
        Ok(text.to_owned())
    };
    let mut words = vec![hook(settings, id, "pg_createcluster_patroni")];
    words.extend(settings.parse("LOCALE", plain)?.map(|locale| format!("--locale={locale}")));
    words.extend(settings.parse("ENCODING", plain)?.map(|encoding| format!("--encoding={encoding}")));
    match settings.boolean("DATA_CHECKSUMS")? {
        Some(true) => words.push("--data-checksums".to_owned()),
        Some(false) => words.push("--no-data-checksums".to_owned()),
        None => {}
    }
    if names.needs_map() {
        words.push(format!("--username={}", shell_word(&names.superuser)));
    }
    Ok(Command { command: words.join(" ") })
}

/// A word for a shell, in quotes if it needs them.
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.@-".contains(&b);
    if text.bytes().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// A hook, to which Patroni passes its scope.
fn hook(settings: &Settings, id: &ClusterId, name: &str) -> String {
    let cluster = settings.get("SCOPE").map_or_else(String::new, |_| format!(" --cluster={}", id.dashed()));
    format!("{HOOKS}/{name}{cluster}")
}

/// Server-side compression is the only one that Patroni allows there, and only from this version of PostgreSQL on
/// (`Bootstrap.basebackup`).
const FIRST_WITH_SERVER_COMPRESSION: (u32, u32) = (15, 0);

pub(crate) fn clone_method(root: &Root, settings: &Settings, id: &ClusterId) -> Result<CloneMethod> {
    let mut options = Vec::new();
    let rate = settings.parse("CLONE_MAX_RATE", |text| {
        let digits = text.strip_suffix(['k', 'M']).unwrap_or(text);
        match digits.parse::<u32>() {
            Ok(number) if number > 0 => Ok(text.to_owned()),
            _ => fail!("'{text}' is not a transfer rate of pg_basebackup"; "Write it as 50M, 900k or kilobytes per second."),
        }
    })?;
    let compress = settings.parse("CLONE_COMPRESS", |text| {
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-:=,".contains(&b)) {
            fail!("'{text}' is not a compression method of pg_basebackup"; "Write METHOD[:DETAIL], for example server-zstd:3.");
        }
        Ok(text.to_owned())
    })?;
    let checkpoint = settings.choice("CLONE_CHECKPOINT", &["fast", "spread"])?.map(str::to_owned);
    let waldir = CreateCluster::read(root)?.waldir(id)?.map(|directory| path_text(&directory)).transpose()?;
    let by_server = id.version.number() >= FIRST_WITH_SERVER_COMPRESSION;
    let server_compress = compress.clone().filter(|method| by_server && method.starts_with("server-"));
    let basebackup = [
        ("checkpoint", Some(checkpoint.clone().unwrap_or_else(|| "fast".to_owned()))),
        ("max-rate", rate.clone()),
        ("waldir", waldir),
        ("compress", server_compress),
    ];
    let basebackup = basebackup.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    for (name, value) in [("max-rate", rate), ("compress", compress), ("checkpoint", checkpoint)] {
        options.extend(value.map(|value| (name, value)));
    }
    Ok(CloneMethod { command: hook(settings, id, "pg_clonecluster_patroni"), options, basebackup })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_copy_of_the_leader_has_the_options_of_every_other() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let basebackup = |cluster: &str, set: &[&str]| {
            let mut settings = Settings::default();
            for assignment in set {
                settings.set(assignment).unwrap();
            }
            let method = clone_method(&root, &settings, &cluster.parse().unwrap()).unwrap();
            method.basebackup.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(basebackup("17/main", &[]), "checkpoint=fast");
        let directory = root.path("/etc/postgresql-common");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("createcluster.conf"), "waldir = '/srv/wal/%v/%c'\n").unwrap();
        let all = ["CLONE_MAX_RATE=5M", "CLONE_CHECKPOINT=spread", "CLONE_COMPRESS=server-lz4"];
        assert_eq!(
            basebackup("17/main", &all),
            "checkpoint=spread max-rate=5M waldir=/srv/wal/17/main compress=server-lz4"
        );
        assert_eq!(basebackup("14/main", &all), "checkpoint=spread max-rate=5M waldir=/srv/wal/14/main");
        assert_eq!(basebackup("17/main", &["CLONE_COMPRESS=client-zstd"]), "checkpoint=fast waldir=/srv/wal/17/main");
    }
}
