//! A document with all findings.

use anyhow::Result;
use host::fail;
use host::report::{self, plain};
use serde_json::{Value, json};

use crate::doctor::check_name::CheckName;
use crate::doctor::examined::Examined;

/// Prints the document. An error if one of the clusters has one.
pub(crate) fn show(examined: &[Examined]) -> Result<()> {
    report::print(&format!("{:#}\n", Value::Array(examined.iter().map(document).collect())));
    let Some(last) = examined.iter().rfind(|examined| examined.errors() > 0) else { return Ok(()) };
    fail!("{} cannot work: {} of {} findings are errors", last.cluster, last.errors(), last.findings.len())
}

fn document(examined: &Examined) -> Value {
    let findings = examined.findings.iter().map(|finding| {
        json!({
            "check": finding.check.map(CheckName::name),
            "level": finding.level.name(),
            "place": plain(&finding.place.clone().unwrap_or_else(|| examined.path.display().to_string())),
            "what": plain(&finding.what),
            "hint": plain(&finding.hint),
            // The name of the hint before version 0.2.0.
            "remedy": plain(&finding.hint),
        })
    });
    json!({"cluster": examined.cluster, "findings": findings.collect::<Vec<_>>()})
}
