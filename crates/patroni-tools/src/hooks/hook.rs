//! What the hooks have in common: how Patroni calls them, and how they begin and end.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use host::report::{self, Reporter};
use host::{ClusterId, Root};
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
    /// Does it take words that are no options?
    pub(crate) words: bool,
    /// Does it start programs that must not outlive it?
    pub(crate) tied: bool,
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
            reporter.say(report::Level::Error, format!("{error}; see {} --help", hook.name));
            return ExitCode::from(USAGE);
        }
    };
    // Patroni 3 leaves us 0022, Patroni 4 gives us 0077: others must be able to read what is in /etc.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let context = Context { root: Root::from_environment(), reporter };
    if geteuid().is_root() && context.root.path("/") == Path::new("/") {
        let error = "must not be run by root, to whom everything would belong: runuser -u postgres -- ...";
        return context.reporter.finish(Err(anyhow::anyhow!(error)));
    }
    let work = || context.reporter.finish((hook.work)(&context, &arguments));
    if hook.tied { child::run(&context.reporter, work) } else { work() }
}

/// The port that the instance will have, so that `pg_lsclusters` is right before Patroni has started anything:
/// as told, else from the Patroni file.
pub(crate) fn port(context: &Context, id: &ClusterId, arguments: &Arguments) -> Result<Option<u16>> {
    if let Some(port) = arguments.value("port") {
        return Ok(Some(port.parse().with_context(|| format!("--port is '{port}', which is not a port number"))?));
    }
    match read_patroni_file(&context.root, id).and_then(|file| file.map(|file| file.port("postgresql")).transpose()) {
        Ok(port) => Ok(port),
        Err(error) => {
            context.reporter.warn(format!("the port is left to pg_createcluster: {error:#}"));
            Ok(None)
        }
    }
}

/// What to do about the `/initialize` key of a bootstrap that did not come to its end. Patroni before 4 leaves it when
/// it is stopped, every Patroni when it is killed.
pub(crate) fn initialize_key(id: &ClusterId, scope: &str) -> String {
    format!(
        "If all members now log 'waiting for leader to bootstrap', the interrupted bootstrap has left the key \
         'initialize' without a value in the store: stop Patroni on all of them, run 'patronictl -c {} remove {scope}', \
         and start them again",
        patroni_file(id).display()
    )
}
