//! What the sections of all DCSs have in common.

use std::net::IpAddr;

use anyhow::Result;
use host::settings::Settings;
use host::{Root, fail};
use serde::Serialize;
use serde_json::{Value, json};

use crate::patroni::version::Patroni;

/// Options of a section, in order.
pub type Options = Vec<(String, Value)>;

/// Appends an option, if it has a value.
pub(crate) fn push<T: Serialize>(options: &mut Options, name: &str, value: Option<T>) {
    options.extend(value.map(|value| (name.to_owned(), json!(value))));
}

/// The member, as far as the options of a DCS depend on it.
pub struct Member<'a> {
    /// Its cluster, as in `16-main`.
    pub cluster: &'a str,
    /// The address by which the other members reach it.
    pub address: IpAddr,
    /// PostgreSQL's port.
    pub port: u16,
    /// The Patroni that runs it.
    pub patroni: &'a Patroni,
    /// Why a port is not free, as the end of a sentence that begins with the port.
    pub taken: &'a dyn Fn(u16) -> Option<String>,
}

/// User and password, which must be set together.
pub(crate) fn credentials(root: &Root, settings: &Settings) -> Result<Option<(String, String)>> {
    let password = settings.secret(root, "DCS_PASSWORD_FILE")?;
    match (settings.text("DCS_USERNAME"), password) {
        (Some(user), Some(password)) => Ok(Some((user.to_owned(), password))),
        (None, None) => Ok(None),
        _ => fail!(
            at settings.place(&["DCS_USERNAME", "DCS_PASSWORD_FILE"]),
            "DCS_USERNAME and DCS_PASSWORD_FILE must be set together";
            "Set both or neither."
        ),
    }
}
