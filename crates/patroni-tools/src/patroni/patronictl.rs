//! Accesses the DCS with `patronictl`, which supports every kind of it. No secret is on its command line: it reads the
//! cluster's Patroni file, and receives changes on stdin. Used by the generator and by `pg_patronictl`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result};
use host::clusters::DEFAULT_PORT;
use host::trouble::Explain;
use host::{ClusterId, Root, facts, fail, program};
use serde_json::Value;

use crate::files::yaml::Yaml;
use crate::patroni::paths::{FINGERPRINT_TAG, patroni_file};

/// patronictl waits for ever for some unreachable DCSs.
const LIMIT: Duration = Duration::from_secs(40);

/// `patronictl` with the Patroni file of one cluster.
pub struct Patronictl<'a> {
    root: &'a Root,
    file: PathBuf,
    scope: String,
    limit: Duration,
    hint: String,
}

/// A member, as in `patronictl list`.
#[derive(Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// `Leader`, `Standby Leader`, `Replica`, `Sync Standby` …
    pub role: String,
    /// Its address; also `:PORT` if one of the members has another port than 5432. IPv6 without brackets.
    pub host: String,
    /// `running`, `streaming`, `stopped` …
    pub state: String,
    /// Its timeline, if it has one.
    pub timeline: Option<u64>,
    /// Its replication lag in megabytes, or `unknown`; a leader has none.
    pub lag: Option<Value>,
    /// Does a parameter take effect only when PostgreSQL restarts?
    pub pending_restart: bool,
    /// The fingerprint of its site key.
    pub fingerprint: Option<String>,
}

impl Member {
    /// The address and port in the column `Host`; none if it is empty. patronictl omits the port if all members have 5432
    /// (`output_members` in `patroni/ctl.py`). After an IPv6 address, which has no brackets there, a port cannot always be
    /// distinguished from a part of the address: it is treated as a port if that is possible.
    pub fn address_and_port(&self) -> Option<(&str, u16)> {
        const BRACKETS: [char; 2] = ['[', ']'];
        let host = self.host.as_str();
        let Some((address, last)) = host.rsplit_once(':') else {
            return (!host.is_empty()).then_some((host, DEFAULT_PORT));
        };
        let port: Option<u16> = last.parse().ok().filter(|port| *port >= 1024);
        if address.contains(':') && (port.is_none() || address.trim_matches(BRACKETS).parse::<IpAddr>().is_err()) {
            return Some((host.trim_matches(BRACKETS), DEFAULT_PORT));
        }
        Some((address.trim_matches(BRACKETS), port?))
    }
}

impl<'a> Patronictl<'a> {
    /// For a cluster, whose Patroni file must exist.
    pub fn new(root: &'a Root, id: &ClusterId, scope: &str) -> Result<Self> {
        let file = patroni_file(id);
        if !root.path(&file).exists() {
            fail!("{} does not exist", file.display(); "Create it with: patroni-gen-config {id}");
        }
        let hint = format!("See the cause with: patroni-gen-config check {id}");
        Ok(Self { hint, ..Self::with_file(root, file, scope) })
    }

    /// With any Patroni file.
    pub fn with_file(root: &'a Root, file: PathBuf, scope: &str) -> Self {
        let hint = format!("Check that the DCS responds, with: timeout 20 patronictl -c {} list", file.display());
        Self { root, file, scope: scope.to_owned(), limit: LIMIT, hint }
    }

    /// The same with another timeout for each call.
    pub fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// The dynamic configuration of the running cluster; `None` if there is none yet.
    pub fn configuration(&self) -> Result<Option<Yaml>> {
        let output = self.run(&["show-config", &self.scope], "")?;
        let said = String::from_utf8_lossy(&output.stderr);
        // Patroni 3.0 fails with this error when 4.0 prints nothing.
        if !output.status.success() && said.contains("'NoneType' object has no attribute 'data'") {
            return Ok(None);
        }
        let printed = self.printed(&output, "show-config")?;
        let configuration = Yaml::parse(Path::new("patronictl show-config"), &printed)?;
        Ok(configuration.document().is_some().then_some(configuration))
    }

    /// Merges a change into the dynamic configuration: `null` removes a key (`patch_config` in `patroni/utils.py`).
    pub fn change(&self, patch: &Value) -> Result<()> {
        let words = ["edit-config", &self.scope, "--quiet", "--force", "--apply", "-"];
        let output = self.run(&words, &patch.to_string())?;
        self.printed(&output, "edit-config").map(drop)
    }

    /// The members.
    pub fn members(&self) -> Result<Vec<Member>> {
        let output = self.run(&["list", &self.scope, "--format", "json"], "")?;
        let printed = self.printed(&output, "list")?;
        let rows: Vec<Value> = serde_json::from_str(&printed).context("patronictl list did not print JSON")?;
        let text = |row: &Value, key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(rows
            .iter()
            .map(|row| Member {
                name: text(row, "Member"),
                role: text(row, "Role"),
                host: text(row, "Host"),
                state: text(row, "State"),
                timeline: row.get("TL").and_then(Value::as_u64),
                // Patroni 4.1 has two lags.
                lag: row.get("Lag in MB").or_else(|| row.get("Replay Lag")).filter(|lag| *lag != "").cloned(),
                pending_restart: !text(row, "Pending restart").is_empty(),
                fingerprint: row
                    .get("Tags")
                    .and_then(|tags| tags.get(FINGERPRINT_TAG))
                    .and_then(Value::as_str)
                    .map(str::to_owned),
            })
            .collect())
    }

    /// The members with their addresses.
    pub fn addresses(&self) -> Result<Vec<host::members::Member>> {
        let mut members = Vec::new();
        for member in self.members()? {
            let (address, _) = member.address_and_port().unwrap_or_default();
            let address = facts::parse_address(address).with_context(|| format!("member {}", member.name))?;
            members.push(host::members::Member { name: member.name, address });
        }
        members.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(members)
    }

    /// Makes all members reload their files, and returns the failures.
    pub fn reload(&self) -> Result<Vec<String>> {
        let output = self.run(&["reload", &self.scope, "--force"], "")?;
        // The exit status is 0 even if members fail.
        let printed = self.printed(&output, "reload")?;
        Ok(printed.lines().filter_map(|line| line.strip_prefix("Failed: ")).map(str::to_owned).collect())
    }

    /// Pauses the cluster, and waits until its members know.
    pub fn pause(&self) -> Result<()> {
        let output = self.run(&["pause", &self.scope, "--wait"], "")?;
        self.printed(&output, "pause").map(drop)
    }

    /// Removes everything of the cluster from the DCS. patronictl asks for the scope, for a sentence and, if there still is a leader key,
    /// for its name.
    pub fn remove(&self, leader: Option<&str>) -> Result<()> {
        let answers = format!("{}\nYes I am aware\n{}\n", self.scope, leader.unwrap_or_default());
        let output = self.run(&["remove", &self.scope], &answers)?;
        self.printed(&output, "remove").map(drop)
    }

    fn run(&self, words: &[&str], input: &str) -> Result<Output> {
        let mut command = program::command(self.root, "patronictl")?;
        command.env("LC_ALL", "C.UTF-8").arg("-c").arg(self.root.path(&self.file)).args(words);
        only_the_file(&mut command);
        let output = program::output_within(&mut command, input, self.limit);
        output.or_hint(|| self.hint.clone())
    }

    fn printed(&self, output: &Output, what: &str) -> Result<String> {
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = program::last_line(&said).unwrap_or("it printed no message");
        fail!("patronictl {what} failed ({last})"; "{}", self.hint)
    }
}

/// Removes the environment variables that override the file (`patroni/config.py`), and the one that selects another DCS
/// (`patroni/ctl.py`).
pub fn only_the_file(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PATRONI") || name == "DCS_URL" {
            command.env_remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_patronictl_prints_them() {
        for (host, found) in [
            ("10.0.3.1", Some(("10.0.3.1", 5432))),
            ("10.0.3.1:5433", Some(("10.0.3.1", 5433))),
            ("pg1.example.org:5433", Some(("pg1.example.org", 5433))),
            ("fd00::1", Some(("fd00::1", 5432))),
            ("fd00::1:5433", Some(("fd00::1", 5433))),
            ("[fd00::1]:5433", Some(("fd00::1", 5433))),
            ("fd00:0:0:0:0:0:0:1", Some(("fd00:0:0:0:0:0:0:1", 5432))),
            ("fd00::1:2", Some(("fd00::1:2", 5432))),
            ("", None),
        ] {
            let member = Member {
                name: String::new(),
                role: String::new(),
                host: host.to_owned(),
                state: String::new(),
                timeline: None,
                lag: None,
                pending_restart: false,
                fingerprint: None,
            };
            assert_eq!(member.address_and_port(), found, "{host}");
        }
    }
}
