//! Patroni as it is installed here: where its files are, which release it is and what that can do, and how it is run.

pub(crate) mod paths;
pub(crate) mod patronictl;
pub(crate) mod version;
