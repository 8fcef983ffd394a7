//! Single values that several sections need, and where a setting is defined.

use std::path::Path;

use anyhow::{Result, anyhow};
use host::settings::Settings;
use host::{ClusterId, Root, facts, fail, members, trouble};

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

/// Patroni's name of the cluster: `SCOPE`, or else `16-main`. It names the cluster in the DCS and to patronictl; units, files and
/// passwords do not depend on it.
pub fn scope(settings: &Settings, id: &ClusterId) -> Result<String> {
    let scope = settings.parse("SCOPE", |text| {
        let of_kubernetes = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
        if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') || [".", ".."].contains(&text) {
            fail!("'{text}' cannot be part of a path in the DCS"; "Use a name without spaces and slashes.");
        }
        if text.starts_with('-') {
            fail!("'{text}' begins with a hyphen, so patronictl would take it for an option"; "Choose another scope.");
        }
        // The scope is also the value of a label (RFC 1123).
        if settings.text("DCS") == Some("kubernetes") && text.len() > 63 {
            fail!("'{text}' has {} characters, more than a label of Kubernetes can have", text.len(); "Use at most 63.");
        }
        if settings.text("DCS") == Some("kubernetes") && !text.bytes().all(of_kubernetes) {
            fail!("'{text}' is not a name of Kubernetes objects"; "Use lower-case letters, digits, '-' and '.'.");
        }
        Ok(text.to_owned())
    })?;
    Ok(scope.unwrap_or_else(|| id.dashed()))
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
