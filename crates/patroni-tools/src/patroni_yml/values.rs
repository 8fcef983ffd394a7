//! Single values that several sections need, and where a setting is defined.

use std::path::Path;

use anyhow::{Result, anyhow};
use host::settings::Settings;
use host::{Root, facts, fail, members, trouble};

/// The path in the DCS below which all clusters are, with a slash at both ends.
pub fn namespace(settings: &Settings) -> Result<String> {
    let namespace = settings.parse("NAMESPACE", |text| {
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_.-".contains(&b)) {
            fail!("'{text}' is not a path in the DCS"; "Use letters, digits, '_', '.', '-' and '/'.");
        }
        Ok(format!("/{}/", text.trim_matches('/')))
    })?;
    Ok(namespace.unwrap_or_else(|| "/postgresql-common/".to_owned()))
}

/// The name of this member.
pub fn member_name(root: &Root, settings: &Settings) -> Result<String> {
    let name = settings.parse("MEMBER_NAME", members::member_name)?;
    name.map_or_else(|| facts::host_name(root), Ok)
}

/// A path as Patroni reads it.
pub fn path_text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        anyhow!(
            trouble!("the path {} is not UTF-8", path.display(); "Choose another path: Patroni cannot use this one.")
        )
    })
}
