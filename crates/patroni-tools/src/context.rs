//! Where a program works, and how it speaks.

use host::Root;
use host::report::Reporter;

/// Where a program works, and how it speaks.
pub(crate) struct Context {
    pub(crate) root: Root,
    pub(crate) reporter: Reporter,
}
