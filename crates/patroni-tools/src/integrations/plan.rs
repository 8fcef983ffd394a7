//! What an integration makes: the files, who looks at them, and what is to be done next. Nothing here asks or changes anything.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use host::{Root, program};

use crate::files::install::Rights;
use crate::patroni_yml::inputs::Overrides;

/// None of the programs needs long to look at a file.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// What comes of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// The files are written; with `force`, also over those that were edited by hand.
    Files {
        /// Over files that were edited by hand, too.
        force: bool,
    },
    /// They are printed, without their secrets.
    Show,
    /// It is printed how they would change.
    Difference,
}

/// What an integration is asked.
#[derive(Debug)]
pub struct Options {
    /// What comes of the run.
    pub output: Output,
    /// The running cluster says who its members are, and not `MEMBERS`.
    pub members_from_cluster: bool,
    /// Certificates that are still valid are reissued.
    pub renew: bool,
    /// What is set for this run.
    pub overrides: Overrides,
}

/// What is to be written, and what to say about it.
#[derive(Debug, Default)]
pub struct Plan {
    /// Directories that are made where they are missing, open to everybody for reading.
    pub directories: Vec<PathBuf>,
    /// The files, written in this order: first those that others name. None is written if one of them is somebody's, and one that
    /// its program refuses is not, nor those behind it.
    pub files: Vec<Generated>,
    /// What works, but needs a look.
    pub warnings: Vec<String>,
    /// What the administrator runs next to put it into force, and why; said only where something has changed.
    pub next: Vec<String>,
}

/// A file that is generated.
#[derive(Debug)]
pub struct Generated {
    /// Where it belongs.
    pub path: PathBuf,
    /// Its text without our header.
    pub body: String,
    /// Who may read it.
    pub rights: Rights,
    /// What looks at it before it takes its place.
    pub validator: Option<Validator>,
    /// What of its text nobody is to see.
    pub secrets: Vec<String>,
}

impl Generated {
    /// What begins a comment in it.
    pub(crate) fn comment(&self) -> &'static str {
        match self.path.extension().and_then(OsStr::to_str) {
            Some("sql") => "--",
            Some("txt") => ";",
            _ => "#",
        }
    }
}

/// A program that says whether a file is right, by its exit status.
#[derive(Debug)]
pub struct Validator {
    /// Its name.
    pub program: &'static str,
    /// Debian's package of it.
    pub package: &'static str,
    /// Its arguments; the path of the file comes after them.
    pub arguments: &'static [&'static str],
}

impl Validator {
    pub(crate) fn command(&self, root: &Root) -> Result<Command> {
        let Self { program: name, package, .. } = self;
        let Ok(command) = program::command(root, name) else {
            bail!("{name} is not installed here, so that nothing was written: run apt install {package}");
        };
        Ok(command)
    }
}
