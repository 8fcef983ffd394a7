//! The result of an integration: the files, their validators, warnings and the next steps. Nothing here runs or changes anything.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use host::trouble::Trouble;
use host::{Root, fail, program};

use crate::files::install::Rights;
use crate::patroni_yml::inputs::Overrides;

/// The timeout of a program.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// The output of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// The files are written.
    Files {
        /// Files that were edited by hand are replaced, too.
        force: bool,
    },
    /// The files are printed without their secrets.
    Show,
    /// The differences from the installed files are printed.
    Difference,
}

/// The options of an integration.
#[derive(Debug)]
pub struct Options {
    /// The output of the run.
    pub output: Output,
    /// The members are those of the running cluster instead of `MEMBERS`.
    pub members_from_cluster: bool,
    /// Certificates that are still valid are reissued.
    pub renew: bool,
    /// May the run create the site key if it does not exist?
    pub may_create_site_key: bool,
    /// Settings for this run only.
    pub overrides: Overrides,
}

/// The files to be written, and what to report.
#[derive(Debug, Default)]
pub struct Plan {
    /// Directories that are created if they are missing, readable by all users.
    pub directories: Vec<PathBuf>,
    /// The files in the order of writing: a file precedes those that refer to it. None is written if one of them was edited by hand. If
    /// a validator rejects a file, that file and those behind it are not written.
    pub files: Vec<Generated>,
    /// What works, but should be checked.
    pub warnings: Vec<Trouble>,
    /// What the administrator runs next to apply the files, reported only if a file changed.
    pub next: Vec<String>,
}

/// A file that is generated.
#[derive(Debug)]
pub struct Generated {
    /// Its path.
    pub path: PathBuf,
    /// Its text without the header.
    pub body: String,
    /// Its owner and mode.
    pub rights: Rights,
    /// Checks it before it is put in place.
    pub validator: Option<Validator>,
    /// The parts of its text that are never shown.
    pub secrets: Vec<String>,
}

impl Generated {
    /// How its comments begin.
    pub(crate) fn comment(&self) -> &'static str {
        match self.path.extension().and_then(OsStr::to_str) {
            Some("sql") => "--",
            Some("txt") => ";",
            _ => "#",
        }
    }
}

/// A program whose exit status shows whether a file is valid.
#[derive(Debug)]
pub struct Validator {
    /// Its name.
    pub program: &'static str,
    /// Its Debian package.
    pub package: &'static str,
    /// Its arguments, which the path of the file follows.
    pub arguments: &'static [&'static str],
}

impl Validator {
    pub(crate) fn command(&self, root: &Root) -> Result<Command> {
        let Self { program: name, package, .. } = self;
        let Ok(command) = program::command(root, name) else {
            fail!("{name} is not installed, so nothing was written"; "Install it with: apt install {package}");
        };
        Ok(command)
    }
}
