//! What the member that is copied is asked before anything is touched.

use std::collections::BTreeMap;

use anyhow::Result;
use host::{ClusterId, fail, trouble};

use crate::context::Context;
use crate::hooks::clone::explain::{Failure, explain};
use crate::postgres::conf_dir::Settings;
use crate::postgres::programs::server_program;
use crate::postgres::psql::{Psql, State};

/// Settings that initdb would have written and that clients see, and what else must be known of the primary.
const ASKED: [&str; 10] = [
    "server_version_num",
    "data_directory_mode",
    "TimeZone",
    "log_timezone",
    "DateStyle",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "default_text_search_config",
];

/// The settings of the primary, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct Primary(BTreeMap<String, String>);

impl Primary {
    /// Asks over the same kind of connection as that of the base backup, so that what would prevent one is known before anything is
    /// touched. `source` is a URI only if someone runs the hook by hand; then nothing is asked.
    pub(super) fn ask(context: &Context, id: &ClusterId, source: &str) -> Result<Self> {
        if source.contains("://") || !server_program(&context.root, id, "psql").is_file() {
            return Ok(Self::default());
        }
        let psql = Psql::replication(&context.root, id, source, "pg_clonecluster_patroni")?;
        let commands = ASKED.map(|name| format!("SHOW {name};")).join("\n");
        let answer = psql.run(&commands)?;
        if answer.state == State::NoConnection {
            let lines: Vec<&str> = answer.messages.iter().map(String::as_str).collect();
            return Err(explain(&Failure { id, source, said: &lines, space: None }).into());
        }
        let primary = Self::read(&answer.rows);
        if primary.0.len() < ASKED.len() {
            let said = answer.messages.join("; ");
            context.reporter.warn(trouble!("the primary did not report all of its settings: {said}"));
        }
        Ok(primary)
    }

    /// Each answer is a heading, the name of the setting, and its value.
    fn read(rows: &str) -> Self {
        let mut settings = BTreeMap::new();
        let mut lines = rows.lines();
        while let Some(line) = lines.next() {
            if let Some(name) = ASKED.into_iter().find(|name| name.eq_ignore_ascii_case(line)) {
                settings.insert(name.to_ascii_lowercase(), lines.next().unwrap_or_default().to_owned());
            }
        }
        Self(settings)
    }

    pub(super) fn check_version(&self, id: &ClusterId) -> Result<()> {
        let Some(number) = self.0.get("server_version_num").and_then(|number| number.parse::<u32>().ok()) else {
            return Ok(());
        };
        let version = if number >= 100_000 {
            (number / 10_000).to_string()
        } else {
            format!("{}.{}", number / 10_000, number / 100 % 100)
        };
        if version != id.version.as_str() {
            fail!(
                "the primary is PostgreSQL {version}, but {id} is PostgreSQL {}", id.version;
                "All members must have the same major version."
            );
        }
        Ok(())
    }

    /// May the group of the data directory read it?
    pub(super) fn has_group_access(&self) -> bool {
        self.0.get("data_directory_mode").is_some_and(|mode| mode == "0750")
    }

    /// What initdb would have written into the configuration of the replica.
    pub(super) fn settings(&self) -> Settings {
        let mut settings = Settings::new();
        for key in [
            "timezone",
            "log_timezone",
            "datestyle",
            "lc_messages",
            "lc_monetary",
            "lc_numeric",
            "lc_time",
            "default_text_search_config",
        ] {
            if let Some(value) = self.0.get(key).filter(|value| !value.is_empty()) {
                let value = if key == "datestyle" { value.to_lowercase() } else { value.clone() };
                settings.insert(key, value);
            }
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_answers() {
        let primary = Primary::read("server_version_num\n170005\nTimeZone\nEtc/UTC\nlc_messages\n\n");
        assert_eq!(primary.0["timezone"], "Etc/UTC");
        assert_eq!(primary.0["lc_messages"], "");
        assert!(primary.check_version(&"17/main".parse().unwrap()).is_ok());
        let error = primary.check_version(&"15/main".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("PostgreSQL 17"));
        assert_eq!(primary.settings().keys().copied().collect::<Vec<_>>(), ["timezone"]);
    }
}
