//! TLS to a store: `DCS_PROTOCOL`, `DCS_CACERT`, `DCS_CERT`, `DCS_KEY` and `DCS_VERIFY`.

use anyhow::{Result, anyhow, bail};
use host::Root;
use host::settings::Settings;
use serde_json::{Value, json};

/// What is set about TLS.
#[derive(Debug)]
pub struct Tls {
    /// The files that are set, as options that every store calls the same: `cacert`, `cert`, `key`.
    pub files: Vec<(String, Value)>,
    /// Whether the store's certificate has to be one that we believe; only where that is set.
    pub verify: Option<bool>,
}

impl Tls {
    /// None where the store is talked to in the clear.
    pub fn read(root: &Root, settings: &Settings) -> Result<Option<Self>> {
        let certificate = ["DCS_CACERT", "DCS_CERT"].iter().any(|key| settings.get(key).is_some());
        let protocol = settings.choice("DCS_PROTOCOL", &["http", "https"])?;
        if certificate && protocol == Some("http") {
            bail!(
                "{}DCS_PROTOCOL is http, but a certificate is set: remove one of them",
                settings.place(&["DCS_PROTOCOL"])
            );
        }
        if settings.get("DCS_CERT").is_some() != settings.get("DCS_KEY").is_some() {
            bail!("{}DCS_CERT and DCS_KEY go together: set both, or none", settings.place(&["DCS_CERT", "DCS_KEY"]));
        }
        let verify = settings.boolean("DCS_VERIFY")?;
        if !certificate && protocol != Some("https") {
            if verify.is_some() {
                bail!(
                    "{}DCS_VERIFY is about TLS, which is not used: set DCS_CACERT or DCS_PROTOCOL=https, or remove it",
                    settings.place(&["DCS_VERIFY"])
                );
            }
            return Ok(None);
        }
        let mut files = Vec::new();
        for (key, option) in [("DCS_CACERT", "cacert"), ("DCS_CERT", "cert"), ("DCS_KEY", "key")] {
            if let Some(path) = settings.path(key)? {
                settings.parse(key, |text| {
                    if root.path(text).exists() { Ok(()) } else { Err(anyhow!("there is no file {text}")) }
                })?;
                files.push((option.to_owned(), json!(path)));
            }
        }
        Ok(Some(Self { files, verify }))
    }
}
