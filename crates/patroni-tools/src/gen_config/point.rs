//! What dnscp(8) has to know of the Patroni file, since it reads no YAML: `/etc/patroni/16-main.dnscp`.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use site::{Root, envfile, facts};

use super::config::{self, Config};
use super::install;
use crate::yaml::Yaml;
use site::point::file;

/// Writes the file that goes with the text of a Patroni file, or removes it where the member has no connection point.
pub fn install(root: &Root, config: &Config, patroni: &str) -> Result<()> {
    let path = file(&config.id);
    let present = root.read(&path)?;
    if !config.point {
        if present.is_some() {
            std::fs::remove_file(root.path(&path)).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        return Ok(());
    }
    let wanted = text(config, &Yaml::parse(&config::file(&config.id), patroni)?);
    if present.as_deref() == Some(wanted.as_str()) {
        return Ok(());
    }
    install::install(root, &path, &wanted, None)
}

fn text(config: &Config, patroni: &Yaml) -> String {
    let protocol = if patroni.text(&["restapi", "certfile"]).is_some() { "https" } else { "http" };
    let rest = listens(&patroni.text(&["restapi", "listen"]).unwrap_or_default())
        .unwrap_or_else(|| facts::host_port(config.address, config.rest_port));
    let mut text = format!("# Written by patroni-gen-config {} for dnscp(8).\n", config.id);
    for (key, value) in [
        ("SCOPE", config.scope.as_str()),
        ("NAME", &config.name),
        ("RESTAPI", &format!("{protocol}://{rest}")),
        ("ADDRESS", &config.address.to_string()),
        ("PORT", &config.port.to_string()),
        ("DATA_DIRECTORY", &config.data_directory.display().to_string()),
    ] {
        let _ = writeln!(text, "{key}={}", envfile::quote(value));
    }
    text
}

/// Where a local program reaches who listens there; none where that is not an address.
fn listens(listen: &str) -> Option<String> {
    let listen: SocketAddr = listen.parse().ok()?;
    let address = match listen.ip() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    Some(facts::host_port(address, listen.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_rest_api_is_asked() {
        assert_eq!(listens("10.0.0.1:8008").as_deref(), Some("10.0.0.1:8008"));
        assert_eq!(listens("0.0.0.0:8008").as_deref(), Some("127.0.0.1:8008"));
        assert_eq!(listens("[::]:8008").as_deref(), Some("[::1]:8008"));
        assert_eq!(listens("*:8008"), None);
    }
}
