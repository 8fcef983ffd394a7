//! When a change of the Patroni file takes effect.

use serde_json::{Map, Value};

use crate::files::yaml::Yaml;
use crate::patroni_yml::dcs::Kind;

/// Read once: the member and its place in the DCS (`AbstractDCS.__init__`, `Postgresql.__init__`), and its kind of Citus (`get_mpp`).
const AT_START: [&str; 4] = ["scope", "namespace", "name", "citus"];

/// Keys below `postgresql` that are read once (`Postgresql.__init__`, `ConfigHandler.__init__`).
const POSTGRESQL_AT_START: [&str; 6] = ["data_dir", "bin_dir", "config_dir", "config_base_name", "pgpass", "database"];

/// Keys below `postgresql` that change parameters of the server, some of which require its restart (`ConfigHandler.reload_config`).
const PARAMETERS: [&str; 2] = ["listen", "parameters"];

/// What has to be done so that a change takes effect.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Effect {
    /// Does the part of the member differ? Patroni reads it when it is reloaded.
    pub(crate) member: bool,
    /// The keys that Patroni reads only when it starts.
    pub(crate) at_start: Vec<String>,
    /// Do parameters of PostgreSQL differ, which may require its restart?
    pub(crate) parameters: bool,
    /// The keys below `bootstrap` that differ. They only count when the cluster is bootstrapped (`Patroni.apply_dynamic_configuration`).
    pub(crate) bootstrap: Vec<String>,
}

impl Effect {
    /// Does the dynamic configuration differ?
    pub(crate) fn is_dynamic(&self) -> bool {
        self.bootstrap.iter().any(|key| key == "dcs")
    }

    /// Of the change from one file to another. Comments have none.
    pub(crate) fn of(old: &Yaml, new: &Yaml) -> Self {
        let empty = Map::new();
        let top = |yaml: &Yaml| yaml.document().and_then(Value::as_object).unwrap_or(&empty).clone();
        let (old, new) = (top(old), top(new));
        let mut effect = Self::default();
        for (key, was, is) in changes(&old, &new) {
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == key);
            match (key, kind) {
                ("bootstrap", _) => {
                    effect.bootstrap = below(was, is);
                    continue;
                }
                ("postgresql", _) => {
                    let keys = below(was, is);
                    effect.parameters = keys.iter().any(|key| PARAMETERS.contains(&key.as_str()));
                    let at_start = keys.iter().filter(|key| POSTGRESQL_AT_START.contains(&key.as_str()));
                    effect.at_start.extend(at_start.map(|option| format!("{key}.{option}")));
                }
                (_, Some(kind)) if below(was, is).iter().any(|option| !reloads(kind).contains(&option.as_str())) => {
                    effect.at_start.push(key.to_owned());
                }
                _ if AT_START.contains(&key) => effect.at_start.push(key.to_owned()),
                _ => {}
            }
            effect.member = true;
        }
        effect
    }
}

/// The options of a DCS that Patroni reads when it is reloaded: `AbstractEtcdClientWithFailover.reload_config`,
/// `ConsulClient.reload_config` and `Consul.reload_config`. The other kinds only read the timeouts of the dynamic configuration.
fn reloads(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Etcd | Kind::Etcd3 => &["username", "password"],
        Kind::Consul => &["token", "consistency", "dc", "register_service", "service_tags"],
        _ => &[],
    }
}

type Mapping = Map<String, Value>;

/// The keys whose values differ, with both values.
fn changes<'a>(
    old: &'a Mapping,
    new: &'a Mapping,
) -> impl Iterator<Item = (&'a str, Option<&'a Value>, Option<&'a Value>)> {
    let all = new.keys().chain(old.keys().filter(|key| !new.contains_key(*key)));
    all.map(|key| (key.as_str(), old.get(key), new.get(key))).filter(|(_, was, is)| was != is)
}

/// The keys of a section that differ.
fn below(old: Option<&Value>, new: Option<&Value>) -> Vec<String> {
    let empty = Map::new();
    let [old, new] = [old, new].map(|value| value.and_then(Value::as_object).unwrap_or(&empty));
    changes(old, new).map(|(key, _, _)| key.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::Path;

    #[test]
    fn a_change_takes_effect_when_patroni_reads_it() {
        let file = "scope: a\nname: pg1\netcd3: {hosts: [a], password: x}\nrestapi: {listen: 'a:1'}\nbootstrap: {method: m, dcs: {ttl: 30}}\n\
                    postgresql: {listen: 'a:5432', data_dir: /a, parameters: {port: 1}}\ntags: {nofailover: false}\n";
        let parse = |text: &str| Yaml::parse(Path::new("f"), text).unwrap();
        let bootstrap = |key: &str| Effect { bootstrap: vec![key.to_owned()], ..Effect::default() };
        let member = || Effect { member: true, ..Effect::default() };
        let start = |key: &str| Effect { at_start: vec![key.to_owned()], ..member() };
        for (from, to, expected) in [
            ("scope", "# a comment\nscope", Effect::default()),
            ("nofailover: false", "nofailover: true", member()),
            ("a:1", "b:1", member()),
            ("tags: {nofailover: false}\n", "", member()),
            ("ttl: 30", "ttl: 40", bootstrap("dcs")),
            ("method: m", "method: n", bootstrap("method")),
            ("pg1", "pg2", start("name")),
            ("hosts: [a]", "hosts: [b]", start("etcd3")),
            ("password: x", "password: y", member()),
            ("/a", "/b", start("postgresql.data_dir")),
            ("a:5432", "b:5432", Effect { parameters: true, ..member() }),
            ("port: 1", "port: 2", Effect { parameters: true, ..member() }),
            (
                "etcd3: {hosts: [a], password: x}\n",
                "consul: {host: a}\n",
                Effect { at_start: vec!["consul".to_owned(), "etcd3".to_owned()], ..member() },
            ),
        ] {
            assert!(file.contains(from), "{from}");
            let mut effect = Effect::of(&parse(file), &parse(&file.replacen(from, to, 1)));
            effect.at_start.sort();
            assert_eq!(effect, expected, "{from} -> {to}");
        }
    }
}
