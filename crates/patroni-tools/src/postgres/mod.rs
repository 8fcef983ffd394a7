//! PostgreSQL and postgresql-common on this host: data directories, their configuration, and the programs that are run for them.

pub(crate) mod as_postgres;
pub(crate) mod child;
pub(crate) mod conf_dir;
pub(crate) mod data_dir;
pub(crate) mod host_needs;
pub(crate) mod locales;
pub(crate) mod place;
pub(crate) mod programs;
pub(crate) mod psql;
pub(crate) mod roles;
pub(crate) mod units;
