//! The generator of Patroni files, the hooks with which Patroni uses postgresql-common, and `pg_patronictl`.

mod context;
mod doctor;
pub mod files;
pub mod gen_config;
pub mod hooks;
mod integrations;
mod patroni;
mod patroni_yml;
pub mod pg_patronictl;
mod postgres;
