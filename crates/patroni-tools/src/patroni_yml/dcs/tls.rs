//! TLS to the DCS: `DCS_PROTOCOL`, `DCS_CACERT`, `DCS_CERT`, `DCS_KEY` and `DCS_VERIFY`.

use anyhow::Result;
use host::settings::Settings;
use host::{Root, fail};
use serde_json::{Value, json};

/// The TLS settings.
#[derive(Debug)]
pub struct Tls {
    /// The files, as options that have the same names for every DCS: `cacert`, `cert`, `key`.
    pub files: Vec<(String, Value)>,
    /// Is the DCS's certificate verified? None if that is not set.
    pub verify: Option<bool>,
}

impl Tls {
    /// None if the connection is not encrypted.
    pub fn read(root: &Root, settings: &Settings) -> Result<Option<Self>> {
        let certificate = ["DCS_CACERT", "DCS_CERT"].iter().any(|key| settings.get(key).is_some());
        let protocol = settings.choice("DCS_PROTOCOL", &["http", "https"])?;
        if certificate && protocol == Some("http") {
            fail!(
                at settings.place(&["DCS_PROTOCOL"]),
                "DCS_PROTOCOL is http, but a certificate is set";
                "Remove one of them."
            );
        }
        settings.pair("DCS_CERT", "DCS_KEY")?;
        let verify = settings.boolean("DCS_VERIFY")?;
        if !certificate && protocol != Some("https") {
            if verify.is_some() {
                fail!(
                    at settings.place(&["DCS_VERIFY"]),
                    "DCS_VERIFY has no effect without TLS";
                    "Set DCS_CACERT or DCS_PROTOCOL=https, or remove it."
                );
            }
            return Ok(None);
        }
        let mut files = Vec::new();
        for (key, option) in [("DCS_CACERT", "cacert"), ("DCS_CERT", "cert"), ("DCS_KEY", "key")] {
            if let Some(path) = settings.file(root, key)? {
                files.push((option.to_owned(), json!(path)));
            }
        }
        Ok(Some(Self { files, verify }))
    }
}
