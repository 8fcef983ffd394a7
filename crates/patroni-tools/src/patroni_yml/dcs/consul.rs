//! Consul: one agent, which forwards requests to the servers (`patroni/dcs/consul.py`).

use anyhow::Result;
use host::settings::Settings;
use host::trouble::in_line;
use host::{Root, envfile, fail, trouble};
use serde_json::json;

use crate::patroni::installed::Ask;
use crate::patroni::paths::ENVIRONMENT;
use crate::patroni::version;
use crate::patroni_yml::dcs::hosts::{is_name, server};
use crate::patroni_yml::dcs::limits::Limit;
use crate::patroni_yml::dcs::section::{Options, push};
use crate::patroni_yml::dcs::tls::Tls;

/// The section's options.
pub fn options(root: &Root, settings: &Settings) -> Result<Options> {
    let tls = Tls::read(root, settings)?;
    let port = if tls.is_some() { 8501 } else { 8500 };
    let host = match settings.list("DCS_HOSTS", |text| server(text, port))?.as_deref() {
        None => format!("127.0.0.1:{port}"),
        Some([one]) => one.to_string(),
        Some(several) => fail!(
            at settings.place(&["DCS_HOSTS"]),
            "DCS_HOSTS has {} servers, but Patroni connects to only one", several.len();
            "Use the Consul agent of this host, which knows the servers, or one name that resolves to all their addresses."
        ),
    };
    let mut options = vec![("host".to_owned(), json!(host))];
    if let Some(tls) = tls {
        let has_ca = tls.files.iter().any(|(option, _)| option == "cacert");
        if has_ca && tls.verify == Some(false) {
            fail!(
                at settings.place(&["DCS_VERIFY"]),
                "DCS_VERIFY is no, but with DCS_CACERT Patroni always verifies Consul's certificate";
                "Remove one of them."
            );
        }
        options.push(("scheme".to_owned(), json!("https")));
        push(&mut options, "verify", tls.verify);
        options.extend(tls.files);
    }
    push(&mut options, "token", settings.secret(root, "DCS_TOKEN_FILE")?);
    push(&mut options, "dc", settings.parse("CONSUL_DC", |text| word(text, "datacenter"))?);
    push(&mut options, "checks", settings.list("CONSUL_CHECKS", |text| Ok(text.to_owned()))?);
    let register = settings.boolean("CONSUL_REGISTER_SERVICE")?;
    push(&mut options, "register_service", register.filter(|register| *register));
    let tags = settings.list("CONSUL_SERVICE_TAGS", |text| word(text, "tag"))?;
    if tags.is_some() && register != Some(true) {
        fail!(
            at settings.place(&["CONSUL_SERVICE_TAGS"]),
            "CONSUL_SERVICE_TAGS has no effect without CONSUL_REGISTER_SERVICE";
            "Set CONSUL_REGISTER_SERVICE=yes, or remove it."
        );
    }
    push(&mut options, "service_tags", tags);
    Ok(options)
}

fn word(text: &str, what: &str) -> Result<String> {
    if !is_name(text) {
        fail!("'{text}' is not the name of a {what}"; "Use letters, digits, '-', '_' and '.'.");
    }
    Ok(text.to_owned())
}

/// Variables in Patroni's environment that override its file: with every client the token; with an old python-consul also
/// others (see [`version::consul_client_reads_environment`]).
pub fn environment(root: &Root, ask: Ask) -> Result<Vec<Limit>> {
    let old = version::consul_client_reads_environment(root, ask)?;
    // systemd reports a file that it cannot parse.
    let variables = envfile::parse(ENVIRONMENT, &root.read(ENVIRONMENT)?.unwrap_or_default()).unwrap_or_default();
    let variables =
        variables.iter().filter(|variable| variable.key.starts_with("CONSUL_HTTP_") && !variable.value.is_empty());
    Ok(variables
        .map(|variable| {
            let fatal = old && variable.key == "CONSUL_HTTP_ADDR" && variable.value.split(':').count() != 2;
            let what = if fatal {
                "is not HOST:PORT, which makes python3-consul 0.7 fail"
            } else {
                "can override what the Patroni file defines about Consul"
            };
            let trouble = trouble!(at in_line(ENVIRONMENT, variable.line), "{} {what}", variable.key; "Remove it.");
            Limit { fatal, option: "host", trouble }
        })
        .collect())
}
