//! `check` on a host without Patroni, such as one that only has HAProxy or a DCS: whether what `for` has written matches the settings, and
//! whether its programs run.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use host::report::Reporter;
use host::units::is_service_active;
use host::{Root, fail};

use crate::doctor::check_name::CheckName;
use crate::doctor::examined::{Examined, Outcome};
use crate::doctor::finding::{Finding, Level, by};
use crate::doctor::looked::Looked;
use crate::doctor::{self, Options};
use crate::integrations::{Compared, Standing, standing};
use crate::patroni::installed::is_absent;
use crate::patroni::paths::instances;

/// Is this host without Patroni, and without a Patroni file?
pub(crate) fn is_one(root: &Root) -> bool {
    is_absent(root) && instances(root).is_ok_and(|ids| ids.is_empty())
}

/// Checks the programs, and reports the findings. Returns the exit status; a person gets an error if one of them cannot work.
pub(crate) fn check(root: &Root, options: &Options, reporter: &Reporter) -> Result<u8> {
    let begin = Instant::now();
    let programs = standing(root)?;
    if programs.is_empty() {
        fail!(
            "this host has no Patroni, and no configuration that patroni-gen-config has written";
            "Write one with 'patroni-gen-config for PROGRAM'. To make this host a member, run: apt install patroni-tools postgresql"
        );
    }
    let examined = programs.iter().map(|program| {
        let mut looked;
        if let Ok(Compared::Date(_)) = program.compared {
            looked = Looked::at(&["expiry", "services"]);
            looked.add("files", Some("the site key is not on this host"));
        } else {
            looked = Looked::at(&["files", "services"]);
        }
        looked.add("cluster", Some("this host has no Patroni"));
        let outcome = Outcome { findings: findings(root, program), looked };
        let examined = Examined::new(program.words.clone(), &program.path, options.depth, outcome, begin.elapsed());
        Examined { command: "patroni-gen-config check".to_owned(), ..examined }
    });
    doctor::show(root, options, examined, begin, reporter)
}

fn findings(root: &Root, program: &Standing) -> Vec<Finding> {
    let command = format!("patroni-gen-config for {}", program.words);
    let each = |paths: &[PathBuf], what: &str, hint: String| {
        let finding = |path: &PathBuf| Finding::warning(what, hint.as_str()).at(path.display().to_string());
        paths.iter().map(finding).collect()
    };
    let of_files = match &program.compared {
        Ok(Compared::Settings(changed)) => {
            each(changed, "the file does not match the settings", format!("Write it again with: {command}"))
        }
        Ok(Compared::Date(expiring)) => {
            let hint = format!("Copy the site key from a member, and renew it with: {command}");
            each(expiring, "the certificate is about to expire", hint)
        }
        Err(error) => vec![Finding::of(Level::Error, error).or_hint(&format!("See: {command} --diff"))],
    };
    let stopped = program.unit.filter(|unit| !is_service_active(root, &format!("{unit}.service")));
    let of_unit = stopped.map(|unit| {
        let hint = format!("Start it with: systemctl enable --now {unit}");
        Finding::error(format!("{unit} does not run"), hint).at("")
    });
    by(CheckName::Settings, of_files).chain(by(CheckName::Units, of_unit)).collect()
}
