//! Consul: one agent, which knows the servers (`patroni/dcs/consul.py`).

use anyhow::{Result, bail};
use host::settings::Settings;
use host::{Root, envfile};
use serde_json::json;

use crate::patroni::version;
use crate::patroni_yml::dcs::hosts::{is_name, server};
use crate::patroni_yml::dcs::tls::Tls;
use crate::patroni_yml::dcs::{Finding, Options, push};

/// What the unit gives Patroni as its environment.
const ENVIRONMENT: &str = "/etc/patroni/env.conf";

/// The section's options.
pub fn options(root: &Root, settings: &Settings) -> Result<Options> {
    let tls = Tls::read(root, settings)?;
    let port = if tls.is_some() { 8501 } else { 8500 };
    let host = match settings.list("DCS_HOSTS", |text| server(text, port))?.as_deref() {
        None => format!("127.0.0.1:{port}"),
        Some([one]) => one.to_string(),
        Some(several) => bail!(
            "{}DCS_HOSTS has {} servers, but Patroni talks to one: name the Consul agent of this host, which knows the \
             servers, or one name that has all their addresses",
            settings.place(&["DCS_HOSTS"]),
            several.len()
        ),
    };
    let mut options = vec![("host".to_owned(), json!(host))];
    if let Some(tls) = tls {
        let authority = tls.files.iter().any(|(option, _)| option == "cacert");
        if authority && tls.verify == Some(false) {
            bail!(
                "{}DCS_VERIFY is no, but with DCS_CACERT Patroni verifies Consul's certificate whatever else is set: remove \
                 one of them",
                settings.place(&["DCS_VERIFY"])
            );
        }
        options.push(("scheme".to_owned(), json!("https")));
        push(&mut options, "verify", tls.verify);
        options.extend(tls.files);
    }
    push(&mut options, "token", settings.secret(root, "DCS_TOKEN_FILE")?);
    push(&mut options, "dc", settings.parse("CONSUL_DC", |text| word(text, "datacenter"))?);
    push(&mut options, "checks", settings.list("CONSUL_CHECKS", |text| Ok(text.to_owned()))?);
    let register = settings.truth("CONSUL_REGISTER_SERVICE")?;
    push(&mut options, "register_service", register.filter(|register| *register));
    let tags = settings.list("CONSUL_SERVICE_TAGS", |text| word(text, "tag"))?;
    if tags.is_some() && register != Some(true) {
        bail!(
            "{}CONSUL_SERVICE_TAGS are tags of the service: set CONSUL_REGISTER_SERVICE=yes, or remove them",
            settings.place(&["CONSUL_SERVICE_TAGS"])
        );
    }
    push(&mut options, "service_tags", tags);
    Ok(options)
}

fn word(text: &str, what: &str) -> Result<String> {
    if is_name(text) {
        Ok(text.to_owned())
    } else {
        bail!("'{text}' is not a name of a {what}: use letters, digits, '-', '_' and '.'")
    }
}

/// Variables of Patroni's environment that win over its file: in every client the token; in python-consul 0.7 of
/// Debian 12 also host, port, scheme and verification, and it ends on an address such as `http://HOST:PORT`
/// (`consul/base.py`, `Consul`).
pub fn environment(root: &Root) -> Result<Vec<Finding>> {
    let old = version::consul_client_reads_environment(root)?;
    // What cannot be read as a settings file is for systemd to say.
    let variables = envfile::parse(&root.read(ENVIRONMENT)?.unwrap_or_default()).unwrap_or_default();
    let variables =
        variables.iter().filter(|variable| variable.key.starts_with("CONSUL_HTTP_") && !variable.value.is_empty());
    Ok(variables
        .map(|variable| {
            let place = format!("{ENVIRONMENT}:{}: {}", variable.line, variable.key);
            if old && variable.key == "CONSUL_HTTP_ADDR" && variable.value.split(':').count() != 2 {
                let what = format!("{place} is not HOST:PORT, at which python3-consul 0.7 ends");
                return Finding { fatal: true, option: "host", what, remedy: "remove it".to_owned() };
            }
            let what = format!("{place} can win over what the Patroni file says about Consul");
            Finding { fatal: false, option: "host", what, remedy: "remove it".to_owned() }
        })
        .collect())
}
