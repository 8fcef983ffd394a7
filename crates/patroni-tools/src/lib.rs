//! The generator of Patroni files and the hooks by which Patroni works through postgresql-common.

pub mod clone;
pub mod create;
mod etc;
pub mod gen_config;
mod hook;
pub mod prepare;
mod tied;
mod unfinished;
pub mod yaml;
