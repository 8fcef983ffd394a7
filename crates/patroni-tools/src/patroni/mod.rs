//! The installed Patroni: its files, its release and what that can do, and `patronictl`.

pub(crate) mod paths;
pub(crate) mod patronictl;
pub(crate) mod version;
