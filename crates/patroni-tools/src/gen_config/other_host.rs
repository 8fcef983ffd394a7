//! `check` on a host without Patroni, such as one that only has HAProxy or a DCS: whether what `for` has written matches the settings, and
//! whether its programs run.

use anyhow::Result;
use host::report::{self, Reporter};
use host::{Root, fail, trouble};
use serde_json::Value;

use crate::doctor::finding::{Finding, Level, document};
use crate::integrations::{Standing, standing};
use crate::patroni::installed::is_absent;
use crate::patroni::paths::instances;
use crate::postgres::units::is_service_active;

/// Is this host without Patroni, and without a Patroni file?
pub(crate) fn is_one(root: &Root) -> bool {
    is_absent(root) && instances(root).is_ok_and(|ids| ids.is_empty())
}

/// Checks the programs, and reports the findings. Fails if one of them cannot work.
pub(crate) fn check(root: &Root, json: bool, reporter: &Reporter) -> Result<()> {
    let programs = standing(root)?;
    if programs.is_empty() {
        fail!(
            "this host has no Patroni, and no configuration that patroni-gen-config has written";
            "Write one with 'patroni-gen-config for PROGRAM'. To make this host a member, run: apt install patroni-tools postgresql"
        );
    }
    let (mut documents, mut last) = (Vec::new(), None);
    for program in &programs {
        let findings = findings(root, program);
        if json {
            documents.push(document(&program.words, &program.path, &findings));
        }
        for finding in findings {
            let found = finding.trouble(&program.path);
            if json {
                let is_error = finding.level > Level::Warning;
                last = if is_error { Some(trouble!("{} does not work", program.words)) } else { last };
            } else if finding.level == Level::Warning {
                reporter.warn(found);
            } else if let Some(earlier) = last.replace(found) {
                reporter.tell(report::Level::Error, &earlier);
            }
        }
    }
    if json {
        report::print(&format!("{:#}\n", Value::Array(documents)));
    } else if last.is_none() {
        let words: Vec<&str> = programs.iter().map(|program| program.words.as_str()).collect();
        report::print(&format!(
            "{}: no errors found (files and services; this host has no Patroni)\n",
            words.join(", ")
        ));
    }
    last.map_or(Ok(()), |last| Err(last.into()))
}

fn findings(root: &Root, program: &Standing) -> Vec<Finding> {
    let command = format!("patroni-gen-config for {}", program.words);
    let mut findings = match &program.changed {
        Ok(changed) => changed
            .iter()
            .map(|path| {
                Finding::warning("the file does not match the settings", format!("Write it again with: {command}"))
                    .at(path.display().to_string())
            })
            .collect(),
        Err(error) => vec![Finding::of(Level::Error, error).or_hint(&format!("See: {command} --diff"))],
    };
    if let Some(unit) = program.unit.filter(|unit| !is_service_active(root, &format!("{unit}.service"))) {
        let hint = format!("Start it with: systemctl enable --now {unit}");
        findings.push(Finding::error(format!("{unit} does not run"), hint).at(""));
    }
    findings
}
