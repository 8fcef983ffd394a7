//! The contents of `/etc/patroni/16-main.yml`, generated from the settings and facts about the host. Writes nothing except
//! dnscp's file.

pub(crate) mod admission;
pub(crate) mod auth_files;
pub(crate) mod authentication;
pub(crate) mod bootstrap_dcs;
pub(crate) mod channel_binding;
pub(crate) mod config;
pub(crate) mod dcs;
pub(crate) mod dnscp_file;
pub(crate) mod drift;
pub(crate) mod effect;
pub(crate) mod endpoint;
pub(crate) mod inputs;
pub(crate) mod logins;
pub(crate) mod member;
pub(crate) mod methods;
pub(crate) mod network;
pub(crate) mod parameters;
pub(crate) mod ports;
pub(crate) mod postgresql;
pub(crate) mod render;
pub(crate) mod rest_api;
pub(crate) mod role_names;
pub(crate) mod standby_failure;
pub(crate) mod values;
