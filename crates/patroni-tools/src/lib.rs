//! The generator of Patroni files and the hooks by which Patroni works through postgresql-common.

pub mod gen_config;
pub mod yaml;
