//! The programs that Patroni and its unit run: they create, clone and prepare clusters with postgresql-common.

mod arguments;
pub mod clone;
pub mod create;
pub(crate) mod directories;
mod hook;
mod log_file;
pub(crate) mod marker;
pub mod prepare;
mod unadopted;
pub(crate) mod unmanaged;
