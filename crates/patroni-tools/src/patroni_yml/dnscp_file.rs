//! `/etc/patroni/16-main.dnscp`: the parts of the Patroni file that dnscp(8) needs, since it does not read YAML.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use host::endpoint::file;
use host::{ClusterId, Root, envfile, facts};

use crate::files::install;
use crate::files::yaml::Yaml;
use crate::patroni::paths::patroni_file;
use crate::patroni_yml::config::Config;

/// The setting with the whole client endpoint in one line, which shows later whether it has changed.
const ENDPOINT: &str = "ENDPOINT";

/// How the file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The member has no client endpoint.
    Off,
    /// It had none.
    New,
    /// The service has to read it again.
    Changed,
    /// It is as before.
    Same,
}

/// Writes the file that belongs to the text of a Patroni file, or removes it if the member has no client endpoint.
pub fn install(root: &Root, config: &Config, patroni: &str) -> Result<Change> {
    let path = file(&config.id);
    let present = root.read(&path)?;
    let Some(endpoint) = &config.endpoint else {
        if present.is_some() {
            std::fs::remove_file(root.path(&path)).with_context(|| format!("could not remove {}", path.display()))?;
        }
        return Ok(Change::Off);
    };
    let wanted = text(config, endpoint, &Yaml::parse(&patroni_file(&config.id), patroni)?);
    let change = match &present {
        None => Change::New,
        Some(present) if *present == wanted => return Ok(Change::Same),
        Some(present) if is_same(present, &wanted) => Change::Same,
        Some(_) => Change::Changed,
    };
    install::install(root, &path, &wanted, None)?;
    Ok(change)
}

/// Does the service work on as before? It finds out itself how Patroni is reached. An earlier version has written no line for the client
/// endpoint.
fn is_same(present: &str, wanted: &str) -> bool {
    let endpoint = format!("{ENDPOINT}=");
    let had_endpoint = present.lines().any(|line| line.starts_with(&endpoint));
    let counts = |line: &&str| {
        let of_patroni = ["#", "RESTAPI", "CTL_"].iter().any(|start| line.starts_with(start));
        !of_patroni && (had_endpoint || !line.starts_with(&endpoint))
    };
    present.lines().filter(counts).eq(wanted.lines().filter(counts))
}

/// The client endpoint for which the file was written, if it says so.
pub fn written_for(root: &Root, id: &ClusterId) -> Result<Option<String>> {
    let path = file(id);
    let Some(text) = root.read(&path)? else { return Ok(None) };
    let assignments = envfile::parse(&path, &text)?;
    Ok(assignments.into_iter().find(|assignment| assignment.key == ENDPOINT).map(|assignment| assignment.value))
}

fn text(config: &Config, endpoint: &str, patroni: &Yaml) -> String {
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
        (ENDPOINT, endpoint.to_owned()),
    ]);
    let mut text = format!("# Written by patroni-gen-config {} for dnscp(8).\n", config.id);
    for (key, value) in lines {
        let _ = writeln!(text, "{key}={}", envfile::quote(&value));
    }
    text
}

/// The CA certificate that dnscp trusts and the certificates that it presents, as patronictl would with the same file;
/// `None` without TLS. A self-signed certificate is trusted itself. dnscp presents a certificate only if one is required, as
/// it changes nothing.
fn tls(patroni: &Yaml) -> Option<Vec<(&'static str, String)>> {
    let certificate = patroni.text(&["restapi", "certfile"])?;
    let insecure = patroni.text(&["ctl", "insecure"]).as_deref() == Some("true");
    let ca = patroni
        .text(&["ctl", "cacert"])
        .or_else(|| patroni.text(&["restapi", "cafile"]))
        .or_else(|| insecure.then(|| certificate.clone()));
    let mut lines: Vec<(&str, String)> = ca.map(|ca| ("RESTAPI_CACERT", ca)).into_iter().collect();
    lines.push(("RESTAPI_CERT", certificate));
    if patroni.text(&["restapi", "verify_client"]).is_some_and(|verify| verify.eq_ignore_ascii_case("required")) {
        let own = ["ctl", "restapi"].into_iter().find(|section| patroni.text(&[section, "certfile"]).is_some())?;
        let certificate = patroni.text(&[own, "certfile"])?;
        let key = patroni.text(&[own, "keyfile"]).unwrap_or_else(|| certificate.clone());
        lines.extend([("CTL_CERT", certificate), ("CTL_KEY", key)]);
    }
    Some(lines)
}

/// The address at which a local program reaches a server that listens there; none if that is not an address.
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
    fn certificates_that_dnscp_trusts_and_presents() {
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
    fn the_service_reads_again_what_it_does_not_find_out_itself() {
        let file = "# c\nNAME=\"a\"\nRESTAPI=\"http://10.0.0.1:8008\"\nPORT=\"5432\"\nENDPOINT=\"VIPS=10.0.0.9\"\n";
        for (from, to, same) in [
            ("http:", "https:", true),
            ("PORT", "RESTAPI_CERT=\"/c\"\nPORT", true),
            ("5432", "5433", false),
            ("10.0.0.9", "10.0.0.8", false),
        ] {
            assert_eq!(is_same(file, &file.replace(from, to)), same, "{from} -> {to}");
        }
        let earlier = file.replace("ENDPOINT=\"VIPS=10.0.0.9\"\n", "");
        assert!(is_same(&earlier, file) && !is_same(&earlier, &file.replace("5432", "5433")));
    }

    #[test]
    fn the_address_of_the_rest_api() {
        assert_eq!(listens("10.0.0.1:8008").as_deref(), Some("10.0.0.1:8008"));
        assert_eq!(listens("0.0.0.0:8008").as_deref(), Some("127.0.0.1:8008"));
        assert_eq!(listens("[::]:8008").as_deref(), Some("[::1]:8008"));
        assert_eq!(listens("*:8008"), None);
    }
}
