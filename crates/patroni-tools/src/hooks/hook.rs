//! What the hooks have in common: how Patroni calls them, and how they start and exit.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use host::report::{self, Level, Reporter};
use host::trouble::{Explain, Trouble};
use host::{ClusterId, Root, trouble};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;

use crate::context::Context;
use crate::hooks::arguments::{Arguments, Request, read};
use crate::patroni::paths::{patroni_file, read_patroni_file};
use crate::postgres::child;

/// A program that Patroni or its unit runs.
pub(crate) struct Hook {
    pub(crate) name: &'static str,
    pub(crate) usage: &'static str,
    /// Does it accept arguments that are not options?
    pub(crate) words: bool,
    /// The option with which root runs it. Otherwise it is run as postgres.
    pub(crate) by_root: Option<&'static str>,
    /// Does it start programs that must not outlive it?
    pub(crate) supervised: bool,
    pub(crate) work: fn(&Context, &Arguments) -> Result<()>,
}

/// Runs a hook to its exit status.
pub(crate) fn main(hook: &Hook) -> ExitCode {
    const USAGE: u8 = 2;
    let reporter = Reporter::new(hook.name);
    let arguments = match read(std::env::args_os().skip(1), hook.words) {
        Ok(Request::Work(arguments)) => arguments,
        Ok(Request::Help) => {
            report::print(hook.usage);
            return ExitCode::SUCCESS;
        }
        Ok(Request::Version) => {
            report::print(&format!("{} {}\n", hook.name, env!("CARGO_PKG_VERSION")));
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            reporter.tell(Level::Error, &error.hint(format!("See: /usr/libexec/patroni-tools/{} --help", hook.name)));
            return ExitCode::from(USAGE);
        }
    };
    // Patroni 3 passes 0022 on, Patroni 4 sets 0077; other users must be able to read the files in /etc.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let context = Context { root: Root::from_environment(), reporter };
    let by_root = hook.by_root.is_some_and(|option| arguments.options().any(|(name, _)| name == option));
    if geteuid().is_root() && context.root.path("/") == Path::new("/") && !by_root {
        let error = trouble!("cannot be run as root"; "Run it as postgres: runuser -u postgres -- /usr/libexec/patroni-tools/{} ...", hook.name);
        return context.reporter.finish(Err(error.into()));
    }
    let work = || context.reporter.finish((hook.work)(&context, &arguments));
    if hook.supervised { child::supervise(&context.reporter, work) } else { work() }
}

/// The port of the cluster, so that `pg_lsclusters` is right before Patroni has started anything: from the option, or else from the
/// Patroni file.
pub(crate) fn port(context: &Context, id: &ClusterId, arguments: &Arguments) -> Result<Option<u16>> {
    if let Some(port) = arguments.value("port") {
        return port.parse().map(Some).with_context(|| format!("'{port}' is not a port number")).at("--port");
    }
    match read_patroni_file(&context.root, id).and_then(|file| file.map(|file| file.port("postgresql")).transpose()) {
        Ok(port) => Ok(port),
        Err(error) => {
            let why = Trouble::of(&error.context("pg_createcluster chooses the port"));
            context.reporter.warn(why);
            Ok(None)
        }
    }
}

/// What to do about the `/initialize` key of an interrupted bootstrap. Patroni before 4 leaves it when it is stopped, every Patroni
/// when it is killed.
pub(crate) fn initialize_key(id: &ClusterId, scope: &str) -> String {
    format!(
        "If all members now log 'waiting for leader to bootstrap', the bootstrap has left the key 'initialize' without a value in the \
         DCS. Stop Patroni on all of them, run 'patronictl -c {} remove {scope}', and start them again.",
        patroni_file(id).display()
    )
}
