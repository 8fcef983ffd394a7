//! The host as postgresql-common organizes it, and the administrator's settings.
//!
//! Everything that a program of patroni-tools reads, writes or runs is below one [`Root`], so that
//! a folder can stand for a machine. No templates, no YAML; the network only in `net`, the kernel in `netlink`.

pub mod certificate;
pub mod cluster;
pub mod clusters;
pub mod conf;
pub mod createcluster;
pub mod endpoint;
pub mod envfile;
pub mod facts;
pub mod file_access;
pub mod files;
pub mod holder;
pub mod keys;
pub mod members;
pub mod net;
pub mod netlink;
pub mod process;
pub mod program;
pub mod report;
pub mod root;
pub mod scram;
pub mod settings;
pub mod trouble;
pub mod units;
pub mod vip;

pub use cluster::{ClusterId, ClusterName, PgVersion};
pub use root::Root;
