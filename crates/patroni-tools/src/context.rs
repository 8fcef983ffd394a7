//! What a program works on, and how it reports.

use host::Root;
use host::report::Reporter;

/// What a program works on, and how it reports.
pub(crate) struct Context {
    pub(crate) root: Root,
    pub(crate) reporter: Reporter,
}
