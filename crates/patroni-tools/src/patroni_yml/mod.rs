//! `/etc/patroni/16-main.yml` as a thing: settings and host in, text out. Writes nothing; what is done with the text is the caller's.

pub(crate) mod authentication;
pub(crate) mod bootstrap_dcs;
pub(crate) mod config;
pub(crate) mod dcs;
pub(crate) mod dnscp_file;
pub(crate) mod inputs;
pub(crate) mod member;
pub(crate) mod methods;
pub(crate) mod network;
pub(crate) mod parameters;
pub(crate) mod ports;
pub(crate) mod render;
pub(crate) mod rest_api;
pub(crate) mod values;
