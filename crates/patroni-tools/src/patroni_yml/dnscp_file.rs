//! What dnscp(8) has to know of the Patroni file, since it reads no YAML: `/etc/patroni/16-main.dnscp`.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use host::endpoint::file;
use host::{Root, envfile, facts};

use crate::files::install;
use crate::files::yaml::Yaml;
use crate::patroni::paths::patroni_file;
use crate::patroni_yml::config::Config;

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
    let wanted = text(config, &Yaml::parse(&patroni_file(&config.id), patroni)?);
    if present.as_deref() == Some(wanted.as_str()) {
        return Ok(());
    }
    install::install(root, &path, &wanted, None)
}

fn text(config: &Config, patroni: &Yaml) -> String {
    let tls = tls(patroni);
    let protocol = if tls.is_some() { "https" } else { "http" };
    let rest = listens(&patroni.text(&["restapi", "listen"]).unwrap_or_default())
        .unwrap_or_else(|| facts::host_port(config.address, config.rest_port));
    let mut lines = vec![
        ("SCOPE", config.scope.clone()),
        ("NAME", config.name.clone()),
        ("RESTAPI", format!("{protocol}://{rest}")),
    ];
    lines.extend(tls.unwrap_or_default());
    lines.extend([
        ("ADDRESS", config.address.to_string()),
        ("PORT", config.port.to_string()),
        ("DATA_DIRECTORY", config.data_directory.display().to_string()),
    ]);
    let mut text = format!("# Written by patroni-gen-config {} for dnscp(8).\n", config.id);
    for (key, value) in lines {
        let _ = writeln!(text, "{key}={}", envfile::quote(&value));
    }
    text
}

/// Whom dnscp believes and what it shows, as patronictl would with the same file; `None` where there is no TLS. A certificate that
/// nobody has signed is believed itself. A certificate of its own dnscp needs only where one is required, as it changes nothing.
fn tls(patroni: &Yaml) -> Option<Vec<(&'static str, String)>> {
    let certificate = patroni.text(&["restapi", "certfile"])?;
    let insecure = patroni.text(&["ctl", "insecure"]).as_deref() == Some("true");
    let signers = patroni
        .text(&["ctl", "cacert"])
        .or_else(|| patroni.text(&["restapi", "cafile"]))
        .or_else(|| insecure.then(|| certificate.clone()));
    let mut lines: Vec<(&str, String)> = signers.map(|signers| ("RESTAPI_CACERT", signers)).into_iter().collect();
    lines.push(("RESTAPI_CERT", certificate));
    if patroni.text(&["restapi", "verify_client"]).is_some_and(|verify| verify.eq_ignore_ascii_case("required")) {
        let own = ["ctl", "restapi"].into_iter().find(|section| patroni.text(&[section, "certfile"]).is_some())?;
        let certificate = patroni.text(&[own, "certfile"])?;
        let key = patroni.text(&[own, "keyfile"]).unwrap_or_else(|| certificate.clone());
        lines.extend([("CTL_CERT", certificate), ("CTL_KEY", key)]);
    }
    Some(lines)
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
    fn whom_dnscp_believes_and_what_it_shows() {
        let lines = |text: &str| {
            let yaml = Yaml::parse(std::path::Path::new("f"), text).unwrap();
            tls(&yaml)
                .map(|lines| lines.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" "))
        };
        let cert = "certfile: /c, keyfile: /k";
        for (text, expected) in [
            ("restapi: {cafile: /ca}".to_owned(), None),
            (format!("restapi: {{{cert}}}"), Some("RESTAPI_CERT=/c")),
            (format!("restapi: {{{cert}}}\nctl: {{insecure: true}}"), Some("RESTAPI_CACERT=/c RESTAPI_CERT=/c")),
            (
                format!("restapi: {{{cert}, cafile: /ca}}\nctl: {{insecure: true}}"),
                Some("RESTAPI_CACERT=/ca RESTAPI_CERT=/c"),
            ),
            (
                format!("restapi: {{{cert}, cafile: /ca}}\nctl: {{cacert: /ctl}}"),
                Some("RESTAPI_CACERT=/ctl RESTAPI_CERT=/c"),
            ),
            (
                format!("restapi: {{{cert}, cafile: /ca, verify_client: optional}}\nctl: {{{cert}}}"),
                Some("RESTAPI_CACERT=/ca RESTAPI_CERT=/c"),
            ),
            (
                format!("restapi: {{{cert}, cafile: /ca, verify_client: required}}\nctl: {{certfile: /both}}"),
                Some("RESTAPI_CACERT=/ca RESTAPI_CERT=/c CTL_CERT=/both CTL_KEY=/both"),
            ),
            (
                format!("restapi: {{{cert}, cafile: /ca, verify_client: required}}"),
                Some("RESTAPI_CACERT=/ca RESTAPI_CERT=/c CTL_CERT=/c CTL_KEY=/k"),
            ),
        ] {
            assert_eq!(lines(&text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn where_the_rest_api_is_asked() {
        assert_eq!(listens("10.0.0.1:8008").as_deref(), Some("10.0.0.1:8008"));
        assert_eq!(listens("0.0.0.0:8008").as_deref(), Some("127.0.0.1:8008"));
        assert_eq!(listens("[::]:8008").as_deref(), Some("[::1]:8008"));
        assert_eq!(listens("*:8008"), None);
    }
}
