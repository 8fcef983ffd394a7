//! The generator of Patroni files, the hooks by which Patroni works through postgresql-common, and `pg_patronictl`.

pub mod clone;
pub mod create;
mod etc;
pub mod gen_config;
mod hook;
mod patronictl;
pub mod pg_patronictl;
pub mod prepare;
mod tied;
mod unfinished;
pub mod yaml;
