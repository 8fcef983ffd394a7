//! Handing a running cluster over: from postgresql-common to Patroni, from another set-up of Patroni, and back.
//!
//! The programs are `pg_adoptcluster_patroni` and `pg_releasecluster_patroni`. They change what systemd runs, write in `/etc/patroni` and
//! `/etc/default`, and create roles; files that belong to postgres are written as postgres.

pub(crate) mod adopt;
mod decision;
mod differences;
mod foreign;
pub(crate) mod from;
mod from_steps;
mod groups;
mod journal;
mod other_patroni;
mod proposed;
mod record;
pub(crate) mod release;
mod release_steps;
mod returned;
mod running;
mod steps;
mod taken_over;
