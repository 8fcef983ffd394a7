//! Limits of Patroni with the options of a DCS: combinations that cannot work, and those that have another effect than they
//! seem to. Independent of the settings, so that it also applies to files that were written by hand.

use host::trouble;
use host::trouble::Trouble;
use serde_json::{Map, Value};

use crate::patroni::version::Patroni;
use crate::patroni_yml::dcs::kind::Kind;

/// A problem with an option.
#[derive(Debug)]
pub struct Limit {
    /// Patroni cannot work with it.
    pub fatal: bool,
    /// The option; the name of the DCS if it is about the DCS as a whole.
    pub option: &'static str,
    /// What is wrong, and what to do about it.
    pub trouble: Trouble,
}

/// The limits of this Patroni with the options of a section; those of a new one if its version is unknown.
#[must_use]
pub fn limits(kind: Kind, options: &Map<String, Value>, patroni: &Patroni) -> Vec<Limit> {
    let mut section = Section { options, found: Vec::new() };
    section.strings(kind);
    match kind {
        Kind::Etcd3 | Kind::Etcd => section.etcd(kind),
        Kind::Consul => section.consul(),
        Kind::Zookeeper => section.zookeeper(patroni),
        Kind::Kubernetes => section.kubernetes(),
        Kind::Exhibitor => section.exhibitor(),
        Kind::Raft => section.raft(),
    }
    section.found
}

struct Section<'a> {
    options: &'a Map<String, Value>,
    found: Vec<Limit>,
}

impl Section<'_> {
    fn fatal(&mut self, option: &'static str, what: impl Into<String>, hint: &str) {
        self.found.push(Limit { fatal: true, option, trouble: Trouble::new(what).hint(hint) });
    }

    fn warn(&mut self, option: &'static str, what: impl Into<String>, hint: &str) {
        self.found.push(Limit { fatal: false, option, trouble: Trouble::new(what).hint(hint) });
    }

    fn has(&self, option: &str) -> bool {
        self.options.contains_key(option)
    }

    fn text(&self, option: &str) -> &str {
        self.options.get(option).and_then(Value::as_str).unwrap_or_default()
    }

    /// The first of the TLS options that is set.
    fn tls_option(&self) -> Option<&'static str> {
        ["cacert", "cert", "key"].into_iter().find(|option| self.has(option))
    }

    /// A value that Patroni joins with others or sends unchanged must be a string, but YAML reads 1234 as a number.
    fn strings(&mut self, kind: Kind) {
        for option in
            ["username", "password", "token", "host", "url", "proxy", "srv", "dc", "self_addr", "key_password"]
        {
            if matches!(self.options.get(option), Some(Value::Number(_) | Value::Bool(_))) {
                let what = format!("{}.{option} is a number or Boolean, but Patroni requires a string", kind.name());
                self.fatal(option, what, "Quote it.");
            }
        }
    }

    fn etcd(&mut self, kind: Kind) {
        if kind == Kind::Etcd {
            self.warn(
                "etcd",
                "the section 'etcd' uses the v2 API of etcd, which etcd 3.4 and 3.5 provide only with --enable-v2, and 3.6 not at all",
                "Use etcd3.",
            );
        }
        let sources = ["host", "hosts", "srv", "url", "proxy"];
        if !sources.iter().any(|option| self.has(option)) {
            self.fatal("hosts", format!("{} has no server", kind.name()), "Add hosts.");
        }
        // `get_etcd_client` then takes user and password from the URL, even if it contains none.
        for option in ["url", "proxy"] {
            if self.has(option) && self.has("username") {
                self.warn(
                    "username",
                    format!("with {option} Patroni uses only the user and password in that URL"),
                    "Use hosts and protocol instead.",
                );
            }
        }
        let plain = sources[..2].iter().any(|option| self.has(option)) && self.text("protocol") != "https";
        if let Some(option) = self.tls_option().filter(|_| plain) {
            self.warn(
                "protocol",
                format!(
                    "{} has {option}, but without protocol: https Patroni does not encrypt the connection",
                    kind.name()
                ),
                "Add protocol: https.",
            );
        }
        if self.has("username") != self.has("password") && !self.has("url") && !self.has("proxy") {
            self.warn(
                "username",
                format!("{} has only one of username and password, which Patroni ignores", kind.name()),
                "Set both.",
            );
        }
    }

    fn consul(&mut self) {
        let host = self.text("host").to_owned();
        if !self.has("host") && !self.has("url") {
            self.fatal("host", "consul has no agent", "Add host.");
        }
        if host.contains("://") {
            self.fatal(
                "host",
                "consul.host is a URL, but Patroni requires a host name",
                "Write HOST:PORT there, and set scheme to http or https.",
            );
        } else if host.contains(',') {
            self.fatal(
                "host",
                "consul.host has several servers, but Patroni connects to only one",
                "Use the agent of this host.",
            );
        }
        let https = self.text("scheme") == "https" || self.text("url").starts_with("https:");
        if let Some(option) = self.tls_option().filter(|_| !https) {
            self.warn(
                "scheme",
                format!("consul has {option}, but without scheme: https Patroni does not encrypt the connection"),
                "Add scheme: https.",
            );
        }
        if self.has("cacert") && self.options.get("verify") == Some(&Value::Bool(false)) {
            self.warn(
                "verify",
                "consul.verify: false has no effect together with cacert, with which Patroni always verifies",
                "Remove one of them.",
            );
        }
        if self.has("service_tags") && self.options.get("register_service") != Some(&Value::Bool(true)) {
            self.warn(
                "service_tags",
                "consul.service_tags has no effect without register_service",
                "Add register_service: true.",
            );
        }
    }

    fn zookeeper(&mut self, patroni: &Patroni) {
        let quoted = self.text("hosts").contains(['\'', '"']);
        if !self.has("hosts") {
            self.fatal("hosts", "zookeeper has no server", "Add hosts.");
        } else if quoted {
            self.fatal(
                "hosts",
                "zookeeper.hosts has quotes within the string, which become part of the names",
                "Write a list.",
            );
        }
        let tls = self.options.get("use_ssl") == Some(&Value::Bool(true));
        if let Some(option) = self.tls_option().filter(|_| !tls) {
            self.warn(
                "use_ssl",
                format!("zookeeper has {option}, but without use_ssl: true Patroni does not encrypt the connection"),
                "Add use_ssl: true.",
            );
        }
        if tls && self.has("cert") != self.has("key") {
            self.warn(
                "cert",
                "zookeeper has only one of cert and key, so Patroni presents no certificate",
                "Set both.",
            );
        }
        // Patroni creates its nodes with these ACLs, which would then not admit itself.
        if self.has("set_acls") && !(tls && self.has("cert") && self.has("key")) {
            self.fatal(
                "set_acls",
                "zookeeper.set_acls admits certificates, but Patroni presents none and would lock itself out",
                "Add use_ssl: true, cert and key.",
            );
        }
        if self.has("auth_data") {
            match patroni.lacks_zookeeper_users() {
                Some(version) => self.fatal(
                    "auth_data",
                    format!("zookeeper.auth_data needs Patroni 3.3, but {version} is installed, which ignores it"),
                    "Use certificates, or upgrade Patroni.",
                ),
                _ if !self.has("set_acls") => self.warn(
                    "auth_data",
                    "zookeeper.auth_data logs in a user, but everyone can change the nodes that Patroni creates",
                    "To protect them, use certificates and set_acls (ZOOKEEPER_ACL).",
                ),
                _ => {}
            }
        }
    }

    fn kubernetes(&mut self) {
        if !self.has("labels") {
            self.fatal("labels", "kubernetes has no labels, by which Patroni selects its objects", "Add labels.");
        }
        if self.options.get("use_endpoints") == Some(&Value::Bool(true)) && !self.has("pod_ip") {
            self.fatal("pod_ip", "kubernetes.use_endpoints needs pod_ip", "Add the address of the pod.");
        }
    }

    fn exhibitor(&mut self) {
        if !matches!(self.options.get("hosts"), Some(Value::Array(_))) {
            self.fatal("hosts", "exhibitor.hosts is not a list", "Write a list.");
        }
        if !self.has("port") {
            self.fatal("port", "exhibitor has no port", "Add the port of its servers.");
        }
    }

    fn raft(&mut self) {
        self.warn(
            "raft",
            "Raft is deprecated since Patroni 3.0 and will be removed",
            "Use etcd3, consul or zookeeper, except for testing.",
        );
        let partners = match self.options.get("partner_addrs") {
            Some(Value::Array(partners)) => partners.len(),
            Some(_) => {
                self.fatal("partner_addrs", "raft.partner_addrs is not a list", "Write a list.");
                return;
            }
            None => 0,
        };
        if partners == 1 {
            self.warn(
                "partner_addrs",
                "a two-member Raft loses its quorum when either member fails",
                "Add a third member, or patroni_raft_controller on a third host.",
            );
        }
        let addresses = self.options.get("partner_addrs").and_then(Value::as_array).into_iter().flatten();
        let addresses = addresses.chain(self.options.get("self_addr")).filter_map(Value::as_str);
        if addresses.into_iter().any(|address| address.contains('[')) {
            let trouble = trouble!(
                "pysyncobj cannot connect to an IPv6 address in brackets";
                "Write it without brackets, as in fd00::1:2222."
            );
            self.found.push(Limit { fatal: partners > 0, option: "self_addr", trouble });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The options with a limit, fatal ones with a '!'.
    fn found(kind: Kind, options: Value, patroni: Patroni) -> Vec<String> {
        let Value::Object(options) = options else { panic!("not a section") };
        limits(kind, &options, &patroni)
            .into_iter()
            .map(|limit| format!("{}{}", limit.option, if limit.fatal { "!" } else { "" }))
            .collect()
    }

    #[test]
    fn options_that_work_have_no_limit() {
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
            assert_eq!(found(kind, options.clone(), Patroni::version("3.0.3")), Vec::<String>::new(), "{options}");
        }
    }

    #[test]
    fn options_that_cannot_work_have_one() {
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
            assert_eq!(found(kind, options.clone(), Patroni::version("3.2.9")), expected, "{options}");
        }
        let digest = json!({"hosts": "a:1", "auth_data": {"digest": "u:p"}});
        assert_eq!(found(Kind::Zookeeper, digest.clone(), Patroni::version("3.3.0")), ["auth_data"]);
        assert_eq!(found(Kind::Zookeeper, digest, Patroni::UNKNOWN), ["auth_data"]);
    }
}
