//! From their file to settings.

use std::net::IpAddr;
use std::path::Path;

use host::settings::PARAMETER_PREFIX;
use host::{ClusterId, clusters};
use serde_json::{Map, Value};

use crate::handover::decision::Line;
use crate::handover::foreign::rows::{Fate, Row};
use crate::handover::foreign::values::{at, dcs_section, host_and_port, of_postgresql, text, text_at};
use crate::patroni::paths::REST_OFFSET;
use crate::patroni_yml::parameters;

/// What is mapped.
pub(crate) struct Source<'a> {
    pub(crate) id: &'a ClusterId,
    /// Its path, as it is called in comments.
    pub(crate) path: String,
    pub(crate) file: &'a Value,
    /// The dynamic configuration of the running cluster.
    pub(crate) dynamic: &'a Value,
    /// The address of `postgresql.connect_address`.
    pub(crate) address: Option<IpAddr>,
}

/// A file that a setting names, beside the Patroni file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedFile {
    pub(crate) key: &'static str,
    /// `replication.password` for `/etc/patroni/17-main.replication.password`.
    pub(crate) suffix: &'static str,
    pub(crate) text: String,
    pub(crate) origin: String,
}

/// Settings, and what becomes of keys whose new value is not at the same place.
#[derive(Debug, Default)]
pub(crate) struct Mapped {
    pub(crate) lines: Vec<Line>,
    pub(crate) files: Vec<NamedFile>,
    pub(crate) rows: Vec<Row>,
}

impl Mapped {
    pub(crate) fn line(&mut self, key: &str, value: impl Into<String>, origin: impl Into<String>) {
        self.lines.push(Line { key: key.to_owned(), value: value.into(), origin: origin.into() });
    }

    pub(super) fn row(&mut self, key: &str, fate: Fate) {
        self.rows.push(Row { key: key.to_owned(), fate });
    }

    pub(crate) fn file(&mut self, key: &'static str, suffix: &'static str, text: String, origin: String) {
        self.files.push(NamedFile { key, suffix, text, origin });
    }
}

/// The settings of the file.
pub(crate) fn from_file(source: &Source) -> Mapped {
    let mut mapped = Mapped::default();
    identity(source, &mut mapped);
    if let Some((kind, section)) = dcs_section(source.file) {
        dcs(source, kind, section, &mut mapped);
    }
    rest_api(source, &mut mapped);
    postgresql(source, &mut mapped);
    roles(source, &mut mapped);
    member(source, &mut mapped);
    for key in source.file.get("bootstrap").and_then(Value::as_object).into_iter().flat_map(Map::keys) {
        let reason = match key.as_str() {
            "dcs" => "not used, because the configuration in the DCS applies",
            _ => "not used, because the cluster exists already",
        };
        mapped.row(&format!("bootstrap.{key}"), Fate::Unused(reason.to_owned()));
    }
    mapped
}

fn identity(source: &Source, mapped: &mut Mapped) {
    let origin = |key: &str| format!("{key} in {}", source.path);
    let scope = text_at(source.file, &["scope"]).unwrap_or_default();
    if scope != source.id.dashed() {
        mapped.line("SCOPE", scope, origin("scope"));
    }
    // The default of Patroni (`AbstractDCS.__init__`).
    let namespace = text_at(source.file, &["namespace"]).unwrap_or_else(|| "service".to_owned());
    mapped.line("NAMESPACE", format!("/{}/", namespace.trim_matches('/')), origin("namespace"));
    if let Some(name) = text_at(source.file, &["name"]) {
        mapped.line("MEMBER_NAME", name, origin("name"));
    }
}

fn dcs(source: &Source, kind: &str, section: &Map<String, Value>, mapped: &mut Mapped) {
    let origin = |key: &str| format!("{kind}.{key} in {}", source.path);
    mapped.line("DCS", kind, format!("{kind} in {}", source.path));
    if kind == "etcd" {
        mapped.line("DCS_ALLOW_V2", "yes", format!("{kind} in {}", source.path));
    }
    let value = |key: &str| section.get(key).and_then(text).filter(|text| !text.is_empty());
    let hosts = value("hosts").map(|hosts| ("hosts", hosts)).or_else(|| {
        let port = value("port").map(|port| format!(":{port}")).unwrap_or_default();
        Some(("host", value("host")? + &port))
    });
    if let Some((key, hosts)) = hosts.filter(|_| ["etcd", "etcd3", "consul", "zookeeper"].contains(&kind)) {
        mapped.line("DCS_HOSTS", hosts.replace(' ', ""), origin(key));
    }
    let is_etcd = kind.starts_with("etcd");
    for (key, setting, applies) in [
        ("srv", "DCS_SRV", is_etcd),
        ("protocol", "DCS_PROTOCOL", is_etcd),
        ("scheme", "DCS_PROTOCOL", kind == "consul"),
        ("cacert", "DCS_CACERT", true),
        ("cert", "DCS_CERT", true),
        ("key", "DCS_KEY", true),
        ("verify", "DCS_VERIFY", kind == "consul"),
        ("dc", "CONSUL_DC", kind == "consul"),
        ("checks", "CONSUL_CHECKS", kind == "consul"),
        ("register_service", "CONSUL_REGISTER_SERVICE", kind == "consul"),
        ("service_tags", "CONSUL_SERVICE_TAGS", kind == "consul"),
        ("username", "DCS_USERNAME", is_etcd),
    ] {
        if let Some(value) = value(key).filter(|_| applies) {
            mapped.line(setting, truth(value), origin(key));
        }
    }
    if let Some(password) = value("password").filter(|_| is_etcd) {
        mapped.file("DCS_PASSWORD_FILE", "dcs.password", password + "\n", origin("password"));
    }
    if let Some(token) = value("token").filter(|_| kind == "consul") {
        mapped.file("DCS_TOKEN_FILE", "dcs.token", token + "\n", origin("token"));
    }
}

/// `yes` and `no`, as they are written in the settings.
fn truth(value: String) -> String {
    match value.as_str() {
        "true" => "yes".to_owned(),
        "false" => "no".to_owned(),
        _ => value,
    }
}

fn rest_api(source: &Source, mapped: &mut Mapped) {
    let origin = |key: &str| format!("restapi.{key} in {}", source.path);
    let value = |path: &[&str]| text_at(source.file, path);
    let port = |path: &[&str]| value(path).as_deref().and_then(host_and_port).map(|(_, port)| port);
    let usual = port(&["postgresql", "listen"]).map(|port| u32::from(port) + u32::from(REST_OFFSET));
    if let Some(port) = port(&["restapi", "listen"]).filter(|port| Some(u32::from(*port)) != usual) {
        mapped.line("RESTAPI_PORT", port.to_string(), origin("listen"));
    }
    for (key, setting) in [
        ("certfile", "RESTAPI_CERT"),
        ("keyfile", "RESTAPI_KEY"),
        ("cafile", "RESTAPI_CACERT"),
        ("verify_client", "RESTAPI_VERIFY_CLIENT"),
    ] {
        if let Some(value) = value(&["restapi", key]).filter(|value| key != "verify_client" || value != "none") {
            mapped.line(setting, value, origin(key));
        }
    }
    if let Some(user) = value(&["restapi", "authentication", "username"]) {
        mapped.line("RESTAPI_USERNAME", user, origin("authentication.username"));
    }
    if let Some(password) = value(&["restapi", "authentication", "password"]) {
        mapped.file("RESTAPI_PASSWORD_FILE", "restapi.password", password + "\n", origin("authentication.password"));
    }
}

fn postgresql(source: &Source, mapped: &mut Mapped) {
    let origin = |key: &str| format!("postgresql.{key} in {}", source.path);
    let value = |key: &str| text_at(source.file, &["postgresql", key]);
    if let Some((addresses, port)) = value("listen").as_deref().and_then(|listen| listen.rsplit_once(':')) {
        let addresses = addresses.replace(['[', ']', ' '], "");
        mapped.line("LISTEN_ADDRESSES", addresses, origin("listen"));
        mapped.line("PORT", port.trim(), origin("listen"));
    }
    if let Some(address) = source.address {
        mapped.line("HOST_ADDRESS", address.to_string(), origin("connect_address"));
        if value("connect_address")
            .as_deref()
            .and_then(host_and_port)
            .is_some_and(|(host, _)| host.parse::<IpAddr>().is_err())
        {
            mapped.row("postgresql.connect_address", Fate::Changed(format!("HOST_ADDRESS is its address, {address}")));
        }
    }
    let directory = clusters::config_directory(source.id);
    if value("config_dir").is_some_and(|path| Path::new(&path).components().ne(directory.components())) {
        let what = format!("{}, from the next restart of PostgreSQL on", directory.display());
        mapped.row("postgresql.config_dir", Fate::Changed(what));
    }
    mapped.row("postgresql.pgpass", Fate::Changed("Patroni writes another file of this kind".to_owned()));
    if value("use_unix_socket").as_deref() != Some("true") {
        mapped.row("postgresql.use_unix_socket", Fate::Changed("Patroni logs in over the Unix socket".to_owned()));
    }
    clone_methods(source, mapped);
    for (key, setting, suffix) in [("pg_hba", "PG_HBA_FILE", "pg_hba"), ("pg_ident", "PG_IDENT_FILE", "pg_ident")] {
        let of_member = at(source.file, &["postgresql", key]);
        let (lines, origin) = match of_member {
            Some(lines) => (Some(lines), origin(key)),
            None => (at(source.dynamic, &["postgresql", key]), format!("postgresql.{key} in the DCS")),
        };
        let Some(lines) = lines.and_then(Value::as_array) else { continue };
        let text: String = lines.iter().filter_map(text).map(|line| line + "\n").collect();
        mapped.file(setting, suffix, text, origin);
        if of_member.is_some() {
            mapped.row(
                &format!("postgresql.{key}"),
                Fate::Changed(format!(
                    "{setting}; {key}.conf stays as it is, until 'apply' brings the lines to the DCS"
                )),
            );
        }
    }
}

/// The methods that create a replica.
fn clone_methods(source: &Source, mapped: &mut Mapped) {
    let Some(postgresql) = source.file.get("postgresql") else { return };
    let list = ["create_replica_methods", "create_replica_method"];
    let listed = list.iter().find_map(|key| at(postgresql, &[key]).and_then(text)).unwrap_or_default();
    let reason = || Fate::Changed("a new replica is cloned by pg_clonecluster_patroni".to_owned());
    for key in list {
        mapped.row(&format!("postgresql.{key}"), reason());
    }
    for method in listed.split(',').map(str::trim).filter(|method| !method.is_empty()).chain(["basebackup"]) {
        mapped.row(&format!("postgresql.{method}"), reason());
    }
    for (option, setting) in [("max-rate", "CLONE_MAX_RATE"), ("checkpoint", "CLONE_CHECKPOINT")] {
        // A list of mappings, or one mapping.
        let options = at(postgresql, &["basebackup"]);
        let found = options.and_then(|options| match options {
            Value::Array(items) => items.iter().find_map(|item| at(item, &[option])),
            other => at(other, &[option]),
        });
        if let Some(value) = found.and_then(text) {
            mapped.line(setting, value, format!("postgresql.basebackup in {}", source.path));
        }
    }
}

fn roles(source: &Source, mapped: &mut Mapped) {
    for (role, name, password, suffix) in [
        ("superuser", "SUPERUSER_NAME", "SUPERUSER_PASSWORD_FILE", "superuser.password"),
        ("replication", "REPLICATION_NAME", "REPLICATION_PASSWORD_FILE", "replication.password"),
        ("rewind", "REWIND_NAME", "REWIND_PASSWORD_FILE", "rewind.password"),
    ] {
        let path = ["postgresql", "authentication", role];
        let Some(section) = at(source.file, &path) else { continue };
        let origin = |key: &str| format!("{}.{key} in {}", path.join("."), source.path);
        if let Some(user) = text_at(section, &["username"]) {
            mapped.line(name, user, origin("username"));
        }
        if let Some(text) = text_at(section, &["password"]) {
            mapped.file(password, suffix, text + "\n", origin("password"));
        }
        if text_at(section, &["sslmode"]).as_deref() == Some("prefer") {
            mapped.row(&format!("{}.sslmode", path.join(".")), Fate::Same);
        }
    }
    // The members that have not been taken over may have no certificate.
    let sslmode = text_at(source.file, &["postgresql", "authentication", "replication", "sslmode"]);
    if sslmode.is_none_or(|mode| ["disable", "allow", "prefer"].contains(&mode.as_str())) {
        mapped.line("SSL", "allowed", format!("postgresql.authentication in {}, which requires no TLS", source.path));
    }
}

/// Settings for parameters of this member that the generator would set as well: then it leaves them to the template.
pub(crate) fn own_parameters(source: &Source, ours: &Value) -> Vec<Line> {
    let path = ["postgresql", "parameters"];
    let (Some(theirs), Some(ours)) = (at(source.file, &path), at(ours, &path)) else { return Vec::new() };
    let theirs = theirs.as_object().into_iter().flatten();
    theirs
        .filter(|(name, value)| ours.get(name.as_str()).is_some_and(|ours| of_postgresql(ours) != of_postgresql(value)))
        .filter_map(|(name, value)| {
            let value = of_postgresql(value).filter(|value| parameters::check(name, value, false).is_ok())?;
            Some(Line {
                key: format!("{PARAMETER_PREFIX}{name}"),
                value,
                origin: format!("postgresql.parameters in {}", source.path),
            })
        })
        .collect()
}

fn member(source: &Source, mapped: &mut Mapped) {
    for (tag, setting) in [
        ("nofailover", "NOFAILOVER"),
        ("noloadbalance", "NOLOADBALANCE"),
        ("clonefrom", "CLONEFROM"),
        ("nosync", "NOSYNC"),
    ] {
        match text_at(source.file, &["tags", tag]).as_deref() {
            Some("true" | "yes" | "on") => {
                mapped.line(setting, "yes", format!("tags.{tag} in {}", source.path));
            }
            Some("false" | "no" | "off") => mapped.row(&format!("tags.{tag}"), Fate::Same),
            _ => {}
        }
    }
    for (path, setting) in [
        (["tags", "failover_priority"], "FAILOVER_PRIORITY"),
        (["watchdog", "mode"], "WATCHDOG"),
        (["watchdog", "device"], "WATCHDOG_DEVICE"),
        (["log", "level"], "LOG_LEVEL"),
        (["log", "format"], "LOG_FORMAT"),
        (["log", "dir"], "LOG_DIR"),
        (["log", "file_num"], "LOG_FILE_NUM"),
        (["log", "file_size"], "LOG_FILE_SIZE"),
    ] {
        if let Some(value) = text_at(source.file, &path) {
            // YAML reads the mode "off" as a Boolean.
            let value = if setting == "WATCHDOG" && value == "false" { "off".to_owned() } else { value };
            mapped.line(setting, value, format!("{} in {}", path.join("."), source.path));
        }
    }
}
