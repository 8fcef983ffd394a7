//! `patroni-gen-config`, the command: knows every verb, and nothing knows it.
//!
//! May read the host's configuration and run `ip`; writes only below `/etc/patroni`, and makes the directory of raft. Only where it
//! is asked to does it change a running cluster: its configuration in the DCS (`apply`), and the passwords of its roles
//! (`set-passwords`).

mod apply;
mod args;
mod passwords;
mod write;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use host::report::{self, Reporter};
use host::{ClusterId, Root};
use nix::sys::prctl::set_dumpable;

use crate::files::install::Lock;
use crate::patroni::paths::DIRECTORY;
use crate::{doctor, integrations};
use args::{CommandLine, Verb};

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let reporter = Reporter::new("patroni-gen-config");
    let verb = match CommandLine::read() {
        Ok(CommandLine { verb }) => verb,
        Err(error) => return reporter.usage(&error.to_string(), error.use_stderr()),
    };
    // A core dump would have the passwords. Where the kernel refuses, it also makes none.
    let _ = set_dumpable(false);
    reporter.finish(run(&Root::from_environment(), verb, &reporter))
}

fn run(root: &Root, verb: Verb, reporter: &Reporter) -> Result<()> {
    match verb {
        Verb::Check(check) => doctor::run(root, check.options(), &check.which.ids(root)?, reporter),
        Verb::For(wanted) => {
            let (program, ids) = (wanted.program, wanted.ids(root)?);
            integrations::run(root, &wanted.options(), program, &ids, reporter)
        }
        Verb::Show(show) => {
            let (ids, overrides) = (show.which.ids(root)?, show.inputs.into());
            each(&ids, reporter, |id| write::show(root, &overrides, id))
        }
        Verb::Diff(show) => {
            let (ids, overrides) = (show.which.ids(root)?, show.inputs.into());
            each(&ids, reporter, |id| write::difference(root, &overrides, id))
        }
        Verb::Apply(apply) => {
            let (ids, overrides) = (apply.which.ids(root)?, apply.inputs.into());
            let consent = apply::Consent { yes: apply.yes, prune: apply.prune };
            each(&ids, reporter, |id| apply::run(root, &overrides, id, consent, reporter))
        }
        Verb::SetPasswords(which) => each(&which.ids(root)?, reporter, |id| passwords::set(root, id, reporter)),
        Verb::Rotate(wanted) => {
            let (ids, overrides) = (wanted.which.ids(root)?, wanted.inputs.into());
            let _lock = Lock::take(root, Path::new(DIRECTORY))?;
            each(&ids, reporter, |id| passwords::rotate(root, &overrides, id, wanted.force, reporter))
        }
        Verb::Write(wanted) => {
            let (ids, overrides) = (wanted.which.ids(root)?, wanted.inputs.into());
            let _lock = Lock::take(root, Path::new(DIRECTORY))?;
            each(&ids, reporter, |id| write::write(root, &overrides, id, wanted.force, reporter))
        }
    }
}

/// Works on every instance, whatever happened to those before it.
fn each(ids: &[ClusterId], reporter: &Reporter, mut work: impl FnMut(&ClusterId) -> Result<()>) -> Result<()> {
    let mut failed = None;
    for id in ids {
        if let Err(error) = work(id) {
            if let Some(earlier) = failed.replace(error) {
                reporter.say(report::Level::Error, format!("{earlier:#}"));
            }
        }
    }
    failed.map_or(Ok(()), Err)
}
