//! The generator of Patroni files, the hooks with which Patroni uses postgresql-common, and `pg_patronictl`.

mod context;
mod doctor;
pub mod files;
mod gen_config;
mod handover;
mod hooks;
mod integrations;
mod patroni;
mod patroni_yml;
mod pg_patronictl;
mod postgres;
pub mod programs;
