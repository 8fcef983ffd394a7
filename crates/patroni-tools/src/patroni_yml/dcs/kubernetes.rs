//! Kubernetes: the state is in its own objects, selected by labels (`patroni/dcs/kubernetes.py`).

use anyhow::Result;
use host::settings::Settings;
use host::{facts, fail};
use serde_json::{Map, Value, json};

use crate::patroni_yml::dcs::section::{Member, Options, push};

/// The section's options.
pub fn options(settings: &Settings, member: &Member) -> Result<Options> {
    let mut options = Options::new();
    let namespace = settings.parse("KUBERNETES_NAMESPACE", |text| {
        if !plain(text) {
            fail!("'{text}' is not a namespace"; "Use letters, digits and '-'.");
        }
        Ok(text.to_owned())
    })?;
    push(&mut options, "namespace", namespace);
    let labels = settings.list("KUBERNETES_LABELS", |text| match text.split_once('=') {
        Some((name, value)) if plain(name) && (value.is_empty() || plain(value)) => Ok((name.to_owned(), json!(value))),
        _ => fail!("'{text}' is not a label"; "Write it as application=patroni."),
    })?;
    let labels = labels.unwrap_or_else(|| vec![("application".to_owned(), json!("patroni"))]);
    options.push(("labels".to_owned(), Value::Object(labels.into_iter().collect::<Map<_, _>>())));
    let endpoints = settings.boolean("KUBERNETES_USE_ENDPOINTS")?;
    push(&mut options, "use_endpoints", endpoints);
    let address = settings.parse("KUBERNETES_POD_IP", facts::parse_address)?;
    // Endpoints require it.
    let address = address.or_else(|| (endpoints == Some(true)).then_some(member.address));
    push(&mut options, "pod_ip", address);
    Ok(options)
}

fn plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
}
