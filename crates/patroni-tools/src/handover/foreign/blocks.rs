//! What no setting expresses, as blocks of a template. A template belongs to all clusters of the host, so each block names its cluster.

use host::ClusterId;
use serde_json::{Map, Value};

use crate::handover::foreign::values::{at, dcs_section, is_empty, same, without_empty};

/// A block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) name: &'static str,
    /// Replaces what the package's template has, or follows it?
    replaces: bool,
    text: String,
    /// The keys that it keeps, as `restapi` or `postgresql.recovery_conf`.
    pub(crate) keeps: Vec<String>,
}

/// Sections that have a block of their own or are written as a whole.
const OWN: [&str; 11] =
    ["scope", "namespace", "name", "restapi", "ctl", "bootstrap", "postgresql", "tags", "watchdog", "log", "more"];

/// The blocks with which `ours`, a file from the settings alone, would do what `theirs` does.
pub(crate) fn blocks(theirs: &Value, ours: &Value, done: &dyn Fn(&str) -> bool) -> Vec<Block> {
    let mut blocks = Vec::new();
    let dcs = dcs_section(theirs).map(|(kind, _)| kind);
    if let Some(kind) = dcs {
        let (their, our) = (without_empty(&theirs[kind]), without_empty(&ours[kind]));
        if !same_dcs(&their, &our) {
            blocks.push(whole("store", kind, &their));
        }
    }
    blocks.extend(rest_api(theirs, ours));
    let their_ctl = theirs.get("ctl").map(without_empty).unwrap_or_default();
    if !is_empty(&their_ctl) && ours.get("ctl").is_none_or(|ours| !same(&their_ctl, &without_empty(ours))) {
        blocks.push(whole("ctl", "ctl", &their_ctl));
    }
    blocks.extend(callbacks(theirs));
    blocks.extend(postgresql(theirs, ours, done));
    for (section, block) in [("tags", "tags"), ("watchdog", "watchdog"), ("log", "log")] {
        blocks.extend(added(section, block, theirs, ours, done));
    }
    let others: Vec<Block> = theirs
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, value)| !OWN.contains(&key.as_str()) && Some(key.as_str()) != dcs && !is_empty(value))
        .map(|(key, value)| whole("more", key, &without_empty(value)))
        .collect();
    if let Some(first) = others.first() {
        blocks.push(Block {
            replaces: false,
            text: others.iter().map(|block| block.text.as_str()).collect(),
            keeps: others.iter().flat_map(|block| block.keeps.clone()).collect(),
            ..first.clone()
        });
    }
    blocks
}

/// `host` and `hosts` are two names of one thing, and some values are Patroni's defaults.
fn same_dcs(theirs: &Value, ours: &Value) -> bool {
    let plain = |section: &Value| {
        let mut section = section.as_object().cloned().unwrap_or_default();
        if let (Some(host), None) = (section.get("host").cloned(), section.get("hosts")) {
            section.insert("hosts".to_owned(), host);
        }
        section.remove("host");
        let usual = |key: &str, value: &Value| {
            value == &Value::Bool(false) || ["protocol", "scheme"].contains(&key) && value == "http"
        };
        section.retain(|key, value| !usual(key, value));
        Value::Object(section)
    };
    same(&plain(theirs), &plain(ours))
}

/// A value on one line, into which the template engine does not look.
fn literal(value: &Value) -> String {
    let text = value.to_string();
    if ["{{", "{%", "{#"].iter().any(|open| text.contains(open)) {
        return format!("{{{{ {} | safe }}}}", Value::String(text));
    }
    text
}

/// A key, in quotes if YAML could take it for something else than a string.
fn key_literal(key: &str) -> String {
    let plain = key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        && !["y", "n", "yes", "no", "on", "off", "true", "false", "null"].contains(&key.to_ascii_lowercase().as_str());
    if plain { key.to_owned() } else { literal(&Value::String(key.to_owned())) }
}

fn lines(map: &Map<String, Value>, indent: &str) -> String {
    let mut text = String::new();
    for (key, value) in map.iter().filter(|(_, value)| !is_empty(value)) {
        text.extend([indent, &key_literal(key), ": ", &literal(&without_empty(value)), "\n"]);
    }
    text
}

fn whole(block: &'static str, section: &str, value: &Value) -> Block {
    let text = match value {
        Value::Object(map) => format!("{}:\n{}", key_literal(section), lines(map, "  ")),
        other => format!("{}: {}\n", key_literal(section), literal(other)),
    };
    Block { name: block, replaces: true, text, keeps: vec![section.to_owned()] }
}

/// The section as it is, if the generator's would be another one: it listens at one address only, and always asks for a password, with
/// which members that have not been taken over would not answer each other. The password itself comes from the settings.
fn rest_api(theirs: &Value, ours: &Value) -> Option<Block> {
    let their = without_empty(theirs.get("restapi")?);
    let our = without_empty(ours.get("restapi")?);
    if same(&their, &our) {
        return None;
    }
    let mut map = their.as_object()?.clone();
    let authentication = map.remove("authentication");
    let mut text = format!("restapi:\n{}", lines(&map, "  "));
    if authentication.is_some() {
        text += "  authentication:\n    username: {{ restapi.username }}\n    password: {{ restapi.password }}\n";
    }
    Some(Block { name: "restapi", replaces: true, text, keeps: vec!["restapi".to_owned()] })
}

fn callbacks(theirs: &Value) -> Option<Block> {
    let callbacks = at(theirs, &["postgresql", "callbacks"])?.as_object()?;
    Some(Block {
        name: "callbacks",
        replaces: true,
        text: format!("  callbacks:\n{}", lines(callbacks, "    ")),
        keeps: vec!["postgresql.callbacks".to_owned()],
    })
}

/// Parameters of this member, and keys that the generator does not write.
fn postgresql(theirs: &Value, ours: &Value, done: &dyn Fn(&str) -> bool) -> Option<Block> {
    let empty = Map::new();
    let their = theirs.get("postgresql")?.as_object()?;
    let our = ours.get("postgresql").and_then(Value::as_object).unwrap_or(&empty);
    let our_parameters = our.get("parameters").and_then(Value::as_object).unwrap_or(&empty);
    let (mut text, mut keeps) = (String::new(), Vec::new());
    let parameters: Map<String, Value> = their
        .get("parameters")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(name, value)| !our_parameters.contains_key(*name) && !is_empty(value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !parameters.is_empty() {
        // The package's block ends with the parameters, if there are any.
        if our_parameters.is_empty() {
            text += "  parameters:\n";
        }
        text += &lines(&parameters, "    ");
        keeps.extend(parameters.keys().map(|name| format!("postgresql.parameters.{name}")));
    }
    let others: Map<String, Value> = their
        .iter()
        .filter(|(key, value)| {
            !our.contains_key(*key)
                && !["parameters", "callbacks", "authentication"].contains(&key.as_str())
                && !is_empty(value)
                && !done(&format!("postgresql.{key}"))
        })
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    text += &lines(&others, "  ");
    keeps.extend(others.keys().map(|key| format!("postgresql.{key}")));
    (!text.is_empty()).then_some(Block { name: "postgresql", replaces: false, text, keeps })
}

/// Keys that a section has in addition.
fn added(
    section: &'static str,
    block: &'static str,
    theirs: &Value,
    ours: &Value,
    done: &dyn Fn(&str) -> bool,
) -> Option<Block> {
    let our = ours.get(section).and_then(Value::as_object);
    let map: Map<String, Value> = theirs
        .get(section)?
        .as_object()?
        .iter()
        .filter(|(key, value)| {
            our.is_none_or(|our| !our.contains_key(*key)) && !is_empty(value) && !done(&format!("{section}.{key}"))
        })
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if map.is_empty() {
        return None;
    }
    let head = if our.is_none() { format!("{section}:\n") } else { String::new() };
    Some(Block {
        name: block,
        replaces: false,
        text: head + &lines(&map, "  "),
        keeps: map.keys().map(|key| format!("{section}.{key}")).collect(),
    })
}

/// The template with the blocks. `base` is what it extends: the package's, or the one that the administrator had.
pub(crate) fn template(id: &ClusterId, base: &str, source: &str, blocks: &[Block]) -> String {
    let mut text = format!(
        "{{#- Written by pg_adoptcluster_patroni: what {id} has from {} and no setting expresses.\n    Remove a block \
         when it is no longer needed, and run: patroni-gen-config {id} -#}}\n{{% extends \"{base}\" %}}\n",
        source.replace("#}", "")
    );
    for block in blocks {
        let (before, after) = if block.replaces { ("", "{% else %}\n{{ super() }}") } else { ("{{ super() }}", "") };
        text.extend(["{% block ", block.name, " %}\n", before, "{% if cluster == \"", &id.slashed(), "\" %}\n"]);
        text.extend([&block.text, after, "{% endif %}\n{% endblock %}\n"]);
    }
    text
}
