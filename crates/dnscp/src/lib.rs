//! The client endpoint: virtual IP address, gratuitous ARP and DNS record that follow the primary.
//!
//! The privileged program of this project (`cap_net_admin`, `cap_net_raw`), called by the unprivileged user postgres. So it
//! knows no YAML and no templates, and what it may do is defined only in files of root.

pub mod announce;
pub mod apply;
mod cli;
mod connections;
pub mod dns;
pub mod event;
pub mod instance;
pub mod netlink;
mod notify;
pub mod peer;
pub mod plan;
pub mod privilege;
pub mod rest;
pub mod run;
mod service;
pub mod state;
mod status;
mod stopped;
pub mod tls;

pub use cli::main;
