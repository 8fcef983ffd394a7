//! What a program works on, and how it reports.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::Result;
use host::report::Reporter;
use host::{Root, fail};

/// What a program works on, and how it reports.
pub(crate) struct Context {
    pub(crate) root: Root,
    pub(crate) reporter: Reporter,
}

/// Asks the administrator for confirmation. An error at `place` if the answer is not yes, or if there is no terminal.
pub(crate) fn agree(place: &str, question: &str) -> Result<()> {
    if !std::io::stdin().is_terminal() {
        fail!(at place, "nothing was changed, because stdin is not a terminal"; "Run this on a terminal, or with --yes.");
    }
    let _ = write!(std::io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    if ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()) {
        Ok(())
    } else {
        fail!(at place, "nothing was changed")
    }
}
