//! The only module that knows `serde_yaml` (archived upstream, so it must be replaceable in one place).

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde_yaml::Value;

/// A parsed YAML document.
#[derive(Debug, Clone, PartialEq)]
pub struct Yaml(Value);

impl Yaml {
    /// Parses `text`; an error says `FILE:LINE: what`.
    pub fn parse(file: &Path, text: &str) -> Result<Self> {
        serde_yaml::from_str(text).map(Self).map_err(|error| {
            let line = error.location().map_or(1, |location| location.line());
            let what = error.to_string();
            let what = what.split(" at line ").next().unwrap_or_default().to_owned();
            anyhow!("{}:{line}: not valid YAML: {what}", file.display())
        })
    }

    /// The value at a path of keys, `None` where there is none.
    #[must_use]
    pub fn get(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(&self.0, |value, key| value.get(key))
    }

    /// The text at a path of keys; numbers and booleans as YAML writes them.
    #[must_use]
    pub fn text(&self, path: &[&str]) -> Option<String> {
        match self.get(path)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
            _ => None,
        }
    }

    /// The port at the end of `postgresql.listen` or `restapi.listen`: `10.0.0.1,127.0.0.1:5432`.
    pub fn port(&self, section: &str) -> Result<u16> {
        let listen = self.text(&[section, "listen"]).with_context(|| format!("{section}.listen is missing"))?;
        listen
            .rsplit_once(':')
            .and_then(|(_, port)| port.trim().parse().ok())
            .with_context(|| format!("{section}.listen is '{listen}', which does not end in :PORT"))
    }
}
