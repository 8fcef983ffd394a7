//! How the findings are shown: a module for each format.

pub(super) mod json;
pub(super) mod nagios;
pub(super) mod prometheus;
pub(super) mod text;

use clap::ValueEnum;

/// The formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Messages for a person
    Text,
    /// A document with all findings
    Json,
    /// The line and the exit status of a monitoring plugin
    Nagios,
    /// Metrics in the text format of Prometheus
    Prometheus,
}
