//! What a Patroni makes of a store's section: combinations that cannot work, and such that do not do what they seem to.
//! It knows nothing of settings, so that it holds for files that others wrote, too.

use serde_json::{Map, Value};

use crate::patroni::version::Patroni;
use crate::patroni_yml::dcs::Kind;

/// Something about a section.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// Patroni cannot work so.
    pub fatal: bool,
    /// The option that it is about; the store's name where it is about the store.
    pub option: &'static str,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Finding {
    /// Both, for one sentence.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}: {}", self.what, self.remedy)
    }
}

/// Looks at a section; without a known version of Patroni as a new one would.
#[must_use]
pub fn look(kind: Kind, options: &Map<String, Value>, patroni: &Patroni) -> Vec<Finding> {
    let mut found = Findings { options, found: Vec::new() };
    found.texts(kind);
    match kind {
        Kind::Etcd3 | Kind::Etcd => found.etcd(kind),
        Kind::Consul => found.consul(),
        Kind::Zookeeper => found.zookeeper(patroni),
        Kind::Kubernetes => found.kubernetes(),
        Kind::Exhibitor => found.exhibitor(),
        Kind::Raft => found.raft(),
    }
    found.found
}

struct Findings<'a> {
    options: &'a Map<String, Value>,
    found: Vec<Finding>,
}

impl Findings<'_> {
    fn fatal(&mut self, option: &'static str, what: impl Into<String>, remedy: &str) {
        self.found.push(Finding { fatal: true, option, what: what.into(), remedy: remedy.to_owned() });
    }

    fn warn(&mut self, option: &'static str, what: impl Into<String>, remedy: &str) {
        self.found.push(Finding { fatal: false, option, what: what.into(), remedy: remedy.to_owned() });
    }

    fn has(&self, option: &str) -> bool {
        self.options.contains_key(option)
    }

    fn text(&self, option: &str) -> &str {
        self.options.get(option).and_then(Value::as_str).unwrap_or_default()
    }

    /// Which of the options of TLS there are.
    fn tls_files(&self) -> Option<&'static str> {
        ["cacert", "cert", "key"].into_iter().find(|option| self.has(option))
    }

    /// A value that Patroni joins with others or sends as it is must be a text; YAML makes a number of 1234.
    fn texts(&mut self, kind: Kind) {
        for option in
            ["username", "password", "token", "host", "url", "proxy", "srv", "dc", "self_addr", "key_password"]
        {
            if matches!(self.options.get(option), Some(Value::Number(_) | Value::Bool(_))) {
                let name = kind.name();
                self.fatal(
                    option,
                    format!("{name}.{option} is a number or a truth value, but Patroni needs a text"),
                    "put it in quotes",
                );
            }
        }
    }

    fn etcd(&mut self, kind: Kind) {
        if kind == Kind::Etcd {
            self.warn(
                "etcd",
                "the store 'etcd' is the second API of etcd, which etcd 3.6 does not have and 3.4 and 3.5 have only with \
                 --enable-v2",
"use etcd3",
            );
        }
        let sources = ["host", "hosts", "srv", "url", "proxy"];
        if !sources.iter().any(|option| self.has(option)) {
            self.fatal("hosts", format!("{} names no server", kind.name()), "add hosts");
        }
        // `get_etcd_client` takes user and password from the URL then, also where it has none.
        for option in ["url", "proxy"] {
            if self.has(option) && self.has("username") {
                self.warn(
                    "username",
                    format!("with {option} Patroni takes user and password from there alone"),
                    "use hosts and protocol in its place",
                );
            }
        }
        let plain = sources[..2].iter().any(|option| self.has(option)) && self.text("protocol") != "https";
        if let Some(file) = self.tls_files().filter(|_| plain) {
            self.warn(
                "protocol",
                format!("{} has {file}, but not protocol: https, so Patroni talks to it in the clear", kind.name()),
                "add it",
            );
        }
        if self.has("username") != self.has("password") && !self.has("url") && !self.has("proxy") {
            self.warn(
                "username",
                format!("{}: username and password go together, Patroni uses neither alone", kind.name()),
                "set both",
            );
        }
    }

    fn consul(&mut self) {
        let host = self.text("host").to_owned();
        if !self.has("host") && !self.has("url") {
            self.fatal("host", "consul names no agent", "add host");
        }
        if host.contains("://") {
            self.fatal(
                "host",
                "consul.host is a URL, which Patroni takes for a host name",
                "write HOST:PORT there, and http or https in scheme",
            );
        } else if host.contains(',') {
            self.fatal(
                "host",
                "consul.host has several servers, but Patroni talks to one",
                "name the agent of this host",
            );
        }
        let https = self.text("scheme") == "https" || self.text("url").starts_with("https:");
        if let Some(file) = self.tls_files().filter(|_| !https) {
            self.warn(
                "scheme",
                format!("consul has {file}, but not scheme: https, so Patroni talks to it in the clear"),
                "add it",
            );
        }
        if self.has("cacert") && self.options.get("verify") == Some(&Value::Bool(false)) {
            self.warn(
                "verify",
                "consul.verify: false has no effect beside cacert, with which Patroni always verifies",
                "remove one of them",
            );
        }
        if self.has("service_tags") && self.options.get("register_service") != Some(&Value::Bool(true)) {
            self.warn(
                "service_tags",
                "consul.service_tags has no effect without register_service",
                "add register_service: true",
            );
        }
    }

    fn zookeeper(&mut self, patroni: &Patroni) {
        let quoted = self.text("hosts").contains(['\'', '"']);
        if !self.has("hosts") {
            self.fatal("hosts", "zookeeper names no server", "add hosts");
        } else if quoted {
            self.fatal(
                "hosts",
                "zookeeper.hosts has quotes inside of a text, which become part of the names",
                "write a list",
            );
        }
        let tls = self.options.get("use_ssl") == Some(&Value::Bool(true));
        if let Some(file) = self.tls_files().filter(|_| !tls) {
            self.warn(
                "use_ssl",
                format!("zookeeper has {file}, but not use_ssl: true, so Patroni talks to it in the clear"),
                "add it",
            );
        }
        if tls && self.has("cert") != self.has("key") {
            self.warn(
                "cert",
                "zookeeper: cert and key go together, Patroni shows no certificate with only one of them",
                "set both",
            );
        }
        // Patroni writes these ACLs, and is then nobody among those whom they admit.
        if self.has("set_acls") && !(tls && self.has("cert") && self.has("key")) {
            self.fatal(
                "set_acls",
                "zookeeper.set_acls admits owners of certificates, but Patroni shows none, and would be locked out of what it \
                 makes itself",
 "add use_ssl: true, cert and key",
            );
        }
        if self.has("auth_data") {
            match patroni.lacks_zookeeper_users() {
                Some(version) => self.fatal(
                    "auth_data",
                    format!(
                        "Patroni {version} cannot give ZooKeeper a user and ignores it, which is possible since 3.3"
                    ),
                    "use certificates, or upgrade Patroni",
                ),
                _ if !self.has("set_acls") => self.warn(
                    "auth_data",
                    "a user opens what others have protected in ZooKeeper, but what Patroni makes is open to everybody",
                    "only certificates with set_acls (ZOOKEEPER_ACL) protect it",
                ),
                _ => {}
            }
        }
    }

    fn kubernetes(&mut self) {
        if !self.has("labels") {
            self.fatal("labels", "kubernetes has no labels, by which Patroni finds its objects", "add them");
        }
        if self.options.get("use_endpoints") == Some(&Value::Bool(true)) && !self.has("pod_ip") {
            self.fatal("pod_ip", "kubernetes.use_endpoints needs pod_ip", "add the address of the pod");
        }
    }

    fn exhibitor(&mut self) {
        if !matches!(self.options.get("hosts"), Some(Value::Array(_))) {
            self.fatal("hosts", "exhibitor.hosts is not a list", "write one");
        }
        if !self.has("port") {
            self.fatal("port", "exhibitor has no port", "add the port of its servers");
        }
    }

    fn raft(&mut self) {
        self.warn(
            "raft",
            "Patroni has deprecated raft in its version 3.0 and will remove it",
            "good for a trial, for everything else use etcd3, consul or zookeeper",
        );
        let partners = match self.options.get("partner_addrs") {
            Some(Value::Array(partners)) => partners.len(),
            Some(_) => {
                self.fatal("partner_addrs", "raft.partner_addrs is not a list", "write one");
                return;
            }
            None => 0,
        };
        if partners == 1 {
            self.warn(
                "partner_addrs",
                "raft of two members stands still as soon as one is away",
                "add a third member, or patroni_raft_controller on a third host",
            );
        }
        let addresses = self.options.get("partner_addrs").and_then(Value::as_array).into_iter().flatten();
        let addresses = addresses.chain(self.options.get("self_addr")).filter_map(Value::as_str);
        if addresses.into_iter().any(|address| address.contains('[')) {
            self.found.push(Finding {
                fatal: partners > 0,
                option: "self_addr",
                what: "raft reaches nobody by an IPv6 address in brackets, which pysyncobj does not understand"
                    .to_owned(),
                remedy: "write fd00::1:2222".to_owned(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The options that are complained about, those that are fatal with a '!'.
    fn complaints(kind: Kind, options: Value, patroni: Patroni) -> Vec<String> {
        let Value::Object(options) = options else { panic!("not a section") };
        look(kind, &options, &patroni)
            .into_iter()
            .map(|finding| format!("{}{}", finding.option, if finding.fatal { "!" } else { "" }))
            .collect()
    }

    #[test]
    fn what_works_is_not_complained_about() {
        for (kind, options) in [
            (
                Kind::Etcd3,
                json!({"hosts": ["a:1"], "protocol": "https", "cacert": "/c", "username": "u", "password": "p"}),
            ),
            (Kind::Etcd3, json!({"url": "https://u:p@a:1", "cacert": "/c"})),
            (Kind::Etcd3, json!({"srv": "example.org", "cacert": "/c"})),
            (
                Kind::Consul,
                json!({"host": "a:1", "scheme": "https", "cacert": "/c", "register_service": true, "service_tags": ["a"]}),
            ),
            (Kind::Zookeeper, json!({"hosts": "a:1,b:1"})),
            (
                Kind::Zookeeper,
                json!({"hosts": ["a:1"], "use_ssl": true, "cert": "/c", "key": "/k", "set_acls": {"CN=a": ["ALL"]}}),
            ),
            (Kind::Kubernetes, json!({"labels": {"a": "b"}, "use_endpoints": true, "pod_ip": "10.0.0.1"})),
            (Kind::Exhibitor, json!({"hosts": ["a"], "port": 8080})),
        ] {
            assert_eq!(complaints(kind, options.clone(), Patroni::version("3.0.3")), Vec::<String>::new(), "{options}");
        }
    }

    #[test]
    fn what_cannot_work_is() {
        for (kind, options, expected) in [
            (Kind::Etcd, json!({"hosts": "a:1"}), vec!["etcd"]),
            (Kind::Etcd3, json!({"protocol": "http"}), vec!["hosts!"]),
            (Kind::Etcd3, json!({"url": "http://a", "username": "u", "password": "p"}), vec!["username"]),
            (Kind::Etcd3, json!({"host": "a:1", "cacert": "/c"}), vec!["protocol"]),
            (Kind::Etcd3, json!({"host": "a:1", "username": "u", "password": 1}), vec!["password!"]),
            (Kind::Etcd3, json!({"host": "a:1", "username": "u"}), vec!["username"]),
            (Kind::Consul, json!({"host": "http://a:1"}), vec!["host!"]),
            (Kind::Consul, json!({"host": "a:1,b:1"}), vec!["host!"]),
            (Kind::Consul, json!({"token": "t"}), vec!["host!"]),
            (Kind::Consul, json!({"host": "a:1", "cert": "/c"}), vec!["scheme"]),
            (Kind::Consul, json!({"url": "https://a", "cacert": "/c", "verify": false}), vec!["verify"]),
            (Kind::Zookeeper, json!({"hosts": "'a:1','b:1'"}), vec!["hosts!"]),
            (Kind::Zookeeper, json!({"hosts": "a:1", "cacert": "/c"}), vec!["use_ssl"]),
            (Kind::Zookeeper, json!({"hosts": "a:1", "set_acls": {"CN=a": ["ALL"]}}), vec!["set_acls!"]),
            (Kind::Zookeeper, json!({"hosts": "a:1", "auth_data": {"digest": "u:p"}}), vec!["auth_data!"]),
            (Kind::Kubernetes, json!({"use_endpoints": true}), vec!["labels!", "pod_ip!"]),
            (Kind::Exhibitor, json!({"hosts": "a"}), vec!["hosts!", "port!"]),
            (Kind::Raft, json!({"self_addr": "a:1", "partner_addrs": ["b:1"]}), vec!["raft", "partner_addrs"]),
            (
                Kind::Raft,
                json!({"self_addr": "[fd00::1]:1", "partner_addrs": ["b:1", "c:1"]}),
                vec!["raft", "self_addr!"],
            ),
        ] {
            assert_eq!(complaints(kind, options.clone(), Patroni::version("3.2.9")), expected, "{options}");
        }
        let digest = json!({"hosts": "a:1", "auth_data": {"digest": "u:p"}});
        assert_eq!(complaints(Kind::Zookeeper, digest.clone(), Patroni::version("3.3.0")), ["auth_data"]);
        assert_eq!(complaints(Kind::Zookeeper, digest, Patroni::UNKNOWN), ["auth_data"]);
    }
}
