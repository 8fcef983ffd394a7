//! Single values that more than one section needs.

use std::path::Path;

use anyhow::{Context, Result, bail};
use host::settings::Settings;
use host::{Root, facts, members};

/// Where in the store all instances are, with a slash at both ends.
pub fn namespace(settings: &Settings) -> Result<String> {
    let namespace = settings.parse("NAMESPACE", |text| {
        if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_.-".contains(&b)) {
            Ok(format!("/{}/", text.trim_matches('/')))
        } else {
            bail!("'{text}' is not a path of the store: use letters, digits, '_', '.', '-' and '/'")
        }
    })?;
    Ok(namespace.unwrap_or_else(|| "/postgresql-common/".to_owned()))
}

/// The name of this member.
pub fn member_name(root: &Root, settings: &Settings) -> Result<String> {
    let name = settings.parse("MEMBER_NAME", members::member_name)?;
    name.map_or_else(|| facts::host_name(root), Ok)
}

/// A path as Patroni takes it.
pub fn path_text(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .with_context(|| format!("{} is not UTF-8: Patroni cannot take this path", path.display()))
}
