//! `patroni-gen-config`, the command: it knows every verb, and no other module knows it.
//!
//! It reads the configuration of the host and asks the kernel. It writes only below `/etc/patroni`, and creates the directory of Raft. Only two
//! verbs change a running cluster: `apply` its configuration in the DCS, and `set-passwords` the passwords of its roles.

mod apply;
mod args;
mod endpoint;
mod passwords;
mod write;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use host::report::Reporter;
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
    // A core dump would contain the passwords. If the kernel refuses this, it writes no core dump either.
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
            each(&ids, reporter, |id| write::show(root, &overrides, id, reporter))
        }
        Verb::Diff(show) => {
            let (ids, overrides) = (show.which.ids(root)?, show.inputs.into());
            each(&ids, reporter, |id| write::difference(root, &overrides, id, reporter))
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

/// Works on every cluster, even if it failed on those before it.
fn each(ids: &[ClusterId], reporter: &Reporter, mut work: impl FnMut(&ClusterId) -> Result<()>) -> Result<()> {
    let mut failed = None;
    for id in ids {
        if let Err(error) = work(id) {
            if let Some(earlier) = failed.replace(error) {
                reporter.error(&earlier);
            }
        }
    }
    failed.map_or(Ok(()), Err)
}
