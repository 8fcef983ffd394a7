//! The installed Patroni: its files, its release and what that can do, and `patronictl`.

pub(crate) mod installed;
pub(crate) mod paths;
pub(crate) mod patronictl;
pub(crate) mod process;
pub(crate) mod release;
pub(crate) mod rival;
pub(crate) mod version;
