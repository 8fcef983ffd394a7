//! Asks the store through `patronictl`, which knows every kind of it. Nothing secret is on its command line: it reads the
//! instance's file, and changes come to it on stdin.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use site::{ClusterId, Root, facts, program};

use super::config::file;
use super::member::FINGERPRINT_TAG;
use crate::yaml::Yaml;

/// It waits without an end for some stores that are not there.
const LIMIT: Duration = Duration::from_secs(40);

/// `patronictl` with the file of one instance.
pub struct Patronictl<'a> {
    root: &'a Root,
    file: PathBuf,
    scope: String,
}

/// A member, as `patronictl list` has it.
#[derive(Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// `Leader`, `Standby Leader`, `Replica`, `Sync Standby` …
    pub role: String,
    /// The fingerprint that it publishes.
    pub fingerprint: Option<String>,
}

impl<'a> Patronictl<'a> {
    /// For the instance, whose file must be there.
    pub fn new(root: &'a Root, id: &ClusterId, scope: &str) -> Result<Self> {
        let file = file(id);
        if !root.path(&file).exists() {
            bail!("{} does not exist: run patroni-gen-config {id}", file.display());
        }
        Ok(Self { root, file, scope: scope.to_owned() })
    }

    /// The dynamic configuration of the running cluster; `None` where there is none yet.
    pub fn configuration(&self) -> Result<Option<Yaml>> {
        let output = self.run(&["show-config", &self.scope], "")?;
        let said = String::from_utf8_lossy(&output.stderr);
        // Patroni 3.0 ends with this where 4.0 prints nothing.
        if !output.status.success() && said.contains("'NoneType' object has no attribute 'data'") {
            return Ok(None);
        }
        let printed = self.printed(&output, "show-config")?;
        let configuration = Yaml::parse(Path::new("patronictl show-config"), &printed)?;
        Ok(configuration.document().is_some().then_some(configuration))
    }

    /// Merges a change into the dynamic configuration: `null` takes a key away (`patch_config` in `patroni/utils.py`).
    pub fn change(&self, patch: &Value) -> Result<()> {
        let words = ["edit-config", &self.scope, "--quiet", "--force", "--apply", "-"];
        let output = self.run(&words, &patch.to_string())?;
        self.printed(&output, "edit-config").map(drop)
    }

    /// The members.
    pub fn members(&self) -> Result<Vec<Member>> {
        Ok(self
            .list()?
            .iter()
            .map(|row| Member {
                name: text(row, "Member"),
                role: text(row, "Role"),
                fingerprint: row
                    .get("Tags")
                    .and_then(|tags| tags.get(FINGERPRINT_TAG))
                    .and_then(Value::as_str)
                    .map(str::to_owned),
            })
            .collect())
    }

    /// The members with their addresses. Patroni puts the port behind one only where it is not the same for all, and where it is not
    /// 5432 (`output_members` in `patroni/ctl.py`).
    pub fn addresses(&self) -> Result<Vec<site::members::Member>> {
        let mut members = Vec::new();
        for row in self.list()? {
            let host = text(&row, "Host");
            let name = text(&row, "Member");
            let address = match host.rsplit_once(':') {
                Some((start, _)) if start.ends_with(']') || !start.contains(':') => start,
                _ => &host,
            };
            let address = facts::parse_address(address.trim_start_matches('[').trim_end_matches(']'));
            members.push(site::members::Member { address: address.with_context(|| format!("member {name}"))?, name });
        }
        members.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(members)
    }

    fn list(&self) -> Result<Vec<Value>> {
        let output = self.run(&["list", &self.scope, "--format", "json"], "")?;
        let printed = self.printed(&output, "list")?;
        match serde_json::from_str(&printed) {
            Ok(rows) => Ok(rows),
            Err(error) => bail!("patronictl list did not print JSON: {error}"),
        }
    }

    /// Tells all members to read their files, and gives what went wrong for whom.
    pub fn reload(&self) -> Result<Vec<String>> {
        let output = self.run(&["reload", &self.scope, "--force"], "")?;
        // It ends with 0 whatever the members say.
        let printed = self.printed(&output, "reload")?;
        Ok(printed.lines().filter_map(|line| line.strip_prefix("Failed: ")).map(str::to_owned).collect())
    }

    fn run(&self, words: &[&str], input: &str) -> Result<Output> {
        let mut command = program::command(self.root, "patronictl")?;
        command.env("LC_ALL", "C.UTF-8").arg("-c").arg(self.root.path(&self.file)).args(words);
        // Patroni takes these before what is in the file.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PATRONI")) {
            command.env_remove(name);
        }
        program::output_within(&mut command, input, LIMIT)
    }

    fn printed(&self, output: &Output, what: &str) -> Result<String> {
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it said nothing");
        bail!(
            "patronictl {what} failed ({last}): see if the store answers, with patronictl -c {} list",
            self.file.display()
        )
    }
}

fn text(row: &Value, key: &str) -> String {
    row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}
