//! `patroni-gen-config`, the command: it knows every verb, and no other module knows it.
//!
//! It reads the configuration of the host and asks the kernel. It writes only below `/etc/patroni`, and creates the directory of Raft. Only two
//! verbs change a running cluster: `apply` its configuration in the DCS, and `set-passwords` the passwords of its roles.

mod apply;
mod args;
mod endpoint;
mod in_time;
mod next;
mod no_member;
mod other_host;
mod passwords;
mod restart;
mod roles;
mod server;
mod site_key;
mod write;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use host::report::Reporter;
use host::trouble::Trouble;
use host::{ClusterId, Root};
use nix::sys::prctl::set_dumpable;

use crate::files::install::Lock;
use crate::patroni::paths::DIRECTORY;
use crate::{doctor, integrations};
use args::{Check, CommandLine, Verb};

/// The exit status of a command that only shows what would change, if something would.
const WOULD_CHANGE: u8 = 3;

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let reporter = Reporter::new("patroni-gen-config");
    let verb = match CommandLine::read() {
        Ok(CommandLine { verb }) => verb,
        Err(error) if error.use_stderr() && args::is_plugin(std::env::args_os()) => {
            return ExitCode::from(doctor::unknown(&wrong_command_line(&error.to_string())));
        }
        Err(error) => return reporter.usage(&error.to_string(), error.use_stderr()),
    };
    // A core dump would contain the passwords. If the kernel refuses this, it writes no core dump either.
    let _ = set_dumpable(false);
    match run(&Root::from_environment(), verb, &reporter) {
        Ok(status) => ExitCode::from(status),
        Err(error) => reporter.finish(Err(error)),
    }
}

/// What clap says, in one line.
fn wrong_command_line(said: &str) -> anyhow::Error {
    let line = said.lines().next().unwrap_or_default();
    let hint = "Run 'patroni-gen-config check --help'.";
    Trouble::new(line.strip_prefix("error: ").unwrap_or(line)).at("the command line is wrong").hint(hint).into()
}

/// Returns the exit status.
fn run(root: &Root, verb: Verb, reporter: &Reporter) -> Result<u8> {
    match verb {
        Verb::Check(check) => {
            let work = || match checked(root, &check, reporter) {
                Err(error) if check.is_plugin() => Ok(doctor::unknown(&error)),
                result => result,
            };
            if !check.is_for_monitoring() {
                return work();
            }
            match in_time::run(check.is_plugin(), work) {
                Err(error) if check.is_plugin() => Ok(doctor::unknown(&error)),
                result => result,
            }
        }
        Verb::For(wanted) => {
            let (program, ids) = (wanted.program, wanted.ids(root)?);
            integrations::run(root, &wanted.options(), program, &ids, reporter).map(status)
        }
        Verb::Show(show) => {
            let (ids, overrides) = (show.which.ids(root)?, show.inputs.into());
            each(&ids, reporter, |id| write::show(root, &overrides, id, reporter).map(|()| false))
        }
        Verb::Diff(show) => {
            let (ids, overrides) = (show.which.ids(root)?, show.inputs.into());
            each(&ids, reporter, |id| write::difference(root, &overrides, id, reporter))
        }
        Verb::Apply(apply) => {
            let (ids, overrides) = (apply.which.ids(root)?, apply.inputs.into());
            let consent = apply::Consent { yes: apply.yes, prune: apply.prune, dry_run: apply.dry_run };
            each(&ids, reporter, |id| apply::run(root, &overrides, id, consent, reporter))
        }
        Verb::SetPasswords(which) => {
            each(&which.ids(root)?, reporter, |id| passwords::set(root, id, reporter).map(|()| false))
        }
        Verb::Rotate(wanted) => {
            let (ids, overrides) = (wanted.which.ids(root)?, wanted.inputs.into());
            let _lock = Lock::take(root, Path::new(DIRECTORY))?;
            each(&ids, reporter, |id| passwords::rotate(root, &overrides, id, wanted.force, reporter).map(|()| false))
        }
        Verb::SiteKey(wanted) => {
            let id = wanted.id()?;
            let _lock = Lock::take(root, Path::new(DIRECTORY))?;
            site_key::run(root, &wanted.overrides(), id.as_ref(), reporter).map(|()| 0)
        }
        Verb::Write(wanted) => {
            let may = write::Permission { force: wanted.force, site_key: wanted.key.site_key };
            let (ids, overrides) = (wanted.which.ids(root)?, wanted.inputs.into());
            let _lock = Lock::take(root, Path::new(DIRECTORY))?;
            each(&ids, reporter, |id| {
                if let Some(change) = write::write(root, &overrides, id, may, reporter)? {
                    next::explain(root, &change, reporter);
                }
                Ok(false)
            })
        }
    }
}

fn checked(root: &Root, check: &Check, reporter: &Reporter) -> Result<u8> {
    let options = check.options()?;
    if check.is_full() && other_host::is_one(root) {
        return other_host::check(root, &options, reporter);
    }
    match check.which.other_instance(root) {
        Some(instance) => doctor::run_other_name(root, &options, &instance, reporter),
        None => doctor::run(root, &options, &check.which.ids(root)?, reporter),
    }
}

/// The exit status of a command that has done its work.
fn status(would_change: bool) -> u8 {
    if would_change { WOULD_CHANGE } else { 0 }
}

/// Works on every cluster, even if it failed on those before it. `work` returns whether a cluster would change.
fn each(ids: &[ClusterId], reporter: &Reporter, mut work: impl FnMut(&ClusterId) -> Result<bool>) -> Result<u8> {
    let mut failed = None;
    let mut would_change = false;
    for id in ids {
        match work(id) {
            Ok(changes) => would_change |= changes,
            Err(error) => {
                if let Some(earlier) = failed.replace(error) {
                    reporter.error(&earlier);
                }
            }
        }
    }
    failed.map_or_else(|| Ok(status(would_change)), Err)
}
