//! Messages for a person, and for the journal.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal};

use anyhow::Result;
use host::report::{self, Reporter};
use host::trouble::Trouble;

use crate::doctor::cluster::Depth;
use crate::doctor::examined::Examined;
use crate::doctor::finding::Level;

/// Shows one cluster after the other.
pub(crate) struct Messages<'a> {
    reporter: &'a Reporter,
    depth: Depth,
    shown: BTreeSet<(String, Option<String>)>,
    /// The last error, which ends the program.
    last: Option<Trouble>,
}

impl<'a> Messages<'a> {
    pub(crate) fn new(reporter: &'a Reporter, depth: Depth) -> Self {
        Self { reporter, depth, shown: BTreeSet::new(), last: None }
    }

    pub(crate) fn show(&mut self, examined: &Examined) {
        for finding in &examined.findings {
            let trouble = finding.trouble(&examined.path);
            // A problem of the host is found for each of its clusters.
            if !self.shown.insert((trouble.line(), trouble.hint.clone())) {
                continue;
            }
            if finding.level == Level::Warning {
                self.reporter.warn(trouble);
            } else if let Some(earlier) = self.last.replace(trouble) {
                self.reporter.tell(report::Level::Error, &earlier);
            }
        }
        let looked = examined.looked.sentence();
        // Before and after every start, the journal needs only what is wrong.
        let is_wanted = self.depth == Depth::Full || io::stdout().is_terminal();
        if examined.errors() == 0 && !looked.is_empty() && is_wanted {
            report::print(&format!("{}: no errors found ({looked})\n", examined.cluster));
        }
    }

    /// An error if there was one.
    pub(crate) fn finish(self) -> Result<()> {
        match self.last {
            Some(trouble) => Err(trouble.into()),
            None => Ok(()),
        }
    }
}
