//! How a file is generated, compared, parsed and installed. Nothing here depends on Patroni.

pub(crate) mod certificate;
pub(crate) mod conffile;
pub(crate) mod diff;
pub(crate) mod export;
pub(crate) mod header;
pub(crate) mod install;
pub(crate) mod template;
pub mod yaml;
