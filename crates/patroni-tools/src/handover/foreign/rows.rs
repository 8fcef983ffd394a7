//! The table of the keys.

use serde::Serialize;

/// What becomes of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fate {
    /// A setting has its value.
    Setting(String),
    /// The new file has the same value, or Patroni's default is the same.
    Same,
    /// A block of the template keeps it.
    Template(String),
    /// It stays in the DCS. If the settings have another value, `apply` would write this one.
    Dynamic(Option<String>),
    /// It is replaced by something else, which is said.
    Changed(String),
    /// It is not taken over, for this reason.
    Unused(String),
    /// It would change, and nothing has been found to prevent that.
    Lost,
}

/// A key and its fate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Row {
    pub(crate) key: String,
    pub(crate) fate: Fate,
}
