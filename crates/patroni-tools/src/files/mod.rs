//! How a file is made, compared, read back and put in its place. Nothing here knows Patroni.

pub(crate) mod certificate;
pub(crate) mod conffile;
pub(crate) mod diff;
pub(crate) mod header;
pub(crate) mod install;
pub(crate) mod template;
pub mod yaml;
