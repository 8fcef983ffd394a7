//! etcd, through the same gateway from HTTP to gRPC that Patroni uses (`patroni/dcs/etcd3.py`, `Etcd3Client`).

use std::net::IpAddr;
use std::time::Instant;

use host::net::Fault;
use host::net::http::{self, Answer, Server};
use host::trouble::Trouble;
use openssl::base64;
use serde_json::{Value, json};

use crate::doctor::dcs::question::{Content, Question, Served, authority, endpoint};
use crate::doctor::finding::{Finding, Subject};
use crate::patroni::release::Version;
use crate::patroni::version::etcd_gateway;
use crate::patroni_yml::dcs::{Kind, users_need};

struct Session<'a> {
    question: &'a Question,
    server: Server,
    end: Instant,
    /// The path of the gateway, which depends on the server's version.
    prefix: &'static str,
    token: Option<String>,
}

/// Version, user, permissions and content.
pub fn ask(question: &Question, host: &str, port: u16, end: Instant) -> Result<Served, Finding> {
    let server = Server { host: host.to_owned(), port };
    let mut session = Session { question, server, end, prefix: "/v3", token: None };
    let version = session.version()?;
    if question.kind == Kind::Etcd {
        return session.v2_api();
    }
    session.prefix = etcd_gateway(version)
        .ok_or_else(|| Finding::error(format!("Patroni does not support etcd {version}"), "Upgrade etcd."))?;
    let mut notes = Vec::new();
    session.log_in(version, &mut notes)?;
    let content = session.content()?;
    notes.extend(session.advertised());
    Ok(Served { content, notes })
}

impl Session<'_> {
    fn call(&self, path: &str, body: Option<&Value>) -> Result<Answer, Fault> {
        let body = body.map(Value::to_string);
        let headers: Vec<(&str, &str)> = self.token.iter().map(|token| ("Authorization", token.as_str())).collect();
        let question = http::Question { path, body: body.as_deref(), headers: &headers };
        self.server.ask(self.question.tls.as_ref(), &question, self.end)
    }

    fn explain(&self, fault: &Fault) -> Finding {
        self.question.explain(&self.server.host, fault)
    }

    fn version(&self) -> Result<Version, Finding> {
        let answer = self.call("/version", None).map_err(|fault| self.explain(&fault))?;
        let body: Option<Value> = serde_json::from_str(&answer.body).ok();
        let version = body.as_ref().and_then(|body| body.get("etcdserver")?.as_str()).and_then(Version::parse);
        version.ok_or_else(|| self.explain(&Fault::OtherProtocol))
    }

    /// A call of the v3 API: the answer, or etcd's error message.
    fn rpc(&self, method: &str, body: &Value) -> Result<Result<Value, String>, Finding> {
        let answer = self.call(&format!("{}{method}", self.prefix), Some(body)).map_err(|fault| match fault {
            // It has reported its version, so only its quorum is missing.
            Fault::Unresponsive => no_leader(),
            fault => self.explain(&fault),
        })?;
        // `accessController.ServeHTTP` in etcd's `embed/serve.go`, if it has users and verifies certificates.
        if answer.body.starts_with("CommonName of client") {
            return Err(Finding::error(
                "it has users, and therefore accepts no client certificate with a common name (CN)",
                "Reissue DCS_CERT with a subject without one, such as O=Example.",
            ));
        }
        let body: Value = serde_json::from_str(&answer.body).map_err(|_| self.explain(&Fault::OtherProtocol))?;
        if answer.status == 200 {
            return Ok(Ok(body));
        }
        let error = ["message", "error"].into_iter().find_map(|key| body.get(key)?.as_str()).unwrap_or_default();
        let error = error.trim_start_matches("etcdserver: ").to_owned();
        if error.contains("no leader") || error.contains("timed out") {
            return Err(no_leader());
        }
        Ok(Err(error))
    }

    fn log_in(&mut self, version: Version, notes: &mut Vec<Finding>) -> Result<(), Finding> {
        let (Some(user), Some(password)) = (self.question.text("username"), self.question.text("password")) else {
            return Ok(());
        };
        let answer = self.rpc("/auth/authenticate", &json!({"name": user, "password": password}))?;
        match answer {
            Ok(body) => self.token = body.get("token").and_then(Value::as_str).map(str::to_owned),
            Err(error) if error.contains("not enabled") => {
                notes.push(Finding::warning(
                    "authentication is off, so all clients can change its data",
                    "Remove DCS_USERNAME, or run: etcdctl auth enable",
                ));
                return Ok(());
            }
            Err(error) => {
                return Err(Finding::error(
                    format!("it rejects the user {user} ({error})"),
                    self.question.then_generate("Correct DCS_USERNAME or the password in DCS_PASSWORD_FILE"),
                ));
            }
        }
        match users_need(version, &self.question.patroni) {
            Some(Trouble { what, hint, .. }) => Err(Finding::error(what, hint.unwrap_or_default())),
            None => Ok(()),
        }
    }

    /// All keys of the cluster, with a transaction that would write one of them under an impossible condition. etcd checks the
    /// permissions of both branches (`checkTxnAuth` in `apply_auth.go`; run with 3.4.23 and 3.5.16), so this shows whether the user may
    /// write, and writes nothing.
    fn content(&self) -> Result<Content, Finding> {
        let prefix = format!("/{}/", self.question.base());
        let key = |text: &str| base64::encode_block(text.as_bytes());
        let range = json!({"key": key(&prefix), "range_end": key(&format!("/{}0", self.question.base()))});
        let leader = key(&format!("{prefix}leader"));
        let transaction = json!({
            "compare": [{"key": leader, "target": "VERSION", "result": "LESS", "version": "0"}],
            "success": [{"requestPut": {"key": leader, "value": ""}}],
            "failure": [{"requestRange": range}],
        });
        let body = match self.rpc("/kv/txn", &transaction)? {
            Ok(body) => body,
            Err(error) => return Err(self.denied(&error, &prefix, &range)),
        };
        let found = body.pointer("/responses/0/response_range/kvs").and_then(Value::as_array);
        let text = |value: Option<&Value>| {
            let bytes = base64::decode_block(value?.as_str()?).ok()?;
            String::from_utf8(bytes).ok()
        };
        let pairs = found.into_iter().flatten().filter_map(|pair| {
            let key = text(pair.get("key"))?.strip_prefix(&prefix)?.to_owned();
            // etcd omits an empty value.
            Some((key, text(pair.get("value")).unwrap_or_default()))
        });
        Ok(pairs.collect())
    }

    fn denied(&self, error: &str, prefix: &str, range: &Value) -> Finding {
        let user = self.question.text("username").filter(|_| self.token.is_some());
        let Some(user) = user.filter(|_| !error.contains("user name is empty")) else {
            // With client certificates the gateway presents its own, whose name is then the user.
            let hint = self.question.then_generate("Set DCS_USERNAME and DCS_PASSWORD_FILE");
            return Finding::error(format!("it requires a user ({error})"), hint);
        };
        if error.contains("permission denied") {
            let read = matches!(self.rpc("/kv/range", range), Ok(Ok(_)));
            let what = if read { "only read" } else { "neither read nor write" };
            return Finding::error(
                format!("the user {user} may {what} the keys below {prefix} ({error})"),
                format!(
                    "Grant it to a role of this user with: etcdctl role grant-permission ROLE --prefix=true readwrite {prefix}"
                ),
            );
        }
        Finding::error(format!("it rejects the request ({error})"), "Check its log.")
    }

    /// Patroni asks one server for all members, and then uses the addresses that they advertise (`_get_members`).
    fn advertised(&self) -> Vec<Finding> {
        let Ok(Ok(body)) = self.rpc("/cluster/member/list", &json!({})) else { return Vec::new() };
        let members = body.get("members").and_then(Value::as_array).cloned().unwrap_or_default();
        let only: Vec<Finding> = self.only_one(&members).into_iter().collect();
        let alone = members.len() < 2 && is_local(&self.server.host);
        let wrong: Vec<String> = members
            .iter()
            .flat_map(urls)
            .filter(|url| {
                let (host, _) = endpoint(authority(url), 0);
                (is_local(&host) && !alone) || url.starts_with("https") != self.question.tls.is_some()
            })
            .collect();
        if wrong.is_empty() {
            return only;
        }
        vec![Finding::warning(
            format!("it advertises {} to its clients, including Patroni", wrong.join(", ")),
            "Correct ETCD_ADVERTISE_CLIENT_URLS on that host.",
        )]
    }

    /// Patroni learns the other servers from the one that it knows, so it cannot start while that one is down. A name may stand for several
    /// servers, and a URL for a proxy.
    fn only_one(&self, members: &[Value]) -> Option<Finding> {
        let options = &self.question.options;
        let is_proxy = ["url", "proxy", "use_proxies"].iter().any(|option| options.contains_key(*option));
        let several = match options.get("hosts") {
            Some(Value::Array(hosts)) => hosts.len() > 1,
            Some(hosts) => hosts.as_str().is_none_or(|hosts| hosts.contains(',')),
            None => false,
        };
        let host = &self.server.host;
        if members.len() < 2 || several || is_proxy || !(is_local(host) || host.parse::<IpAddr>().is_ok()) {
            return None;
        }
        let servers: Vec<String> = members
            .iter()
            .filter_map(|member| urls(member).first().map(|url| authority(url).trim_end_matches(":2379").to_owned()))
            .collect();
        let id = &self.question.id;
        Some(Finding::warning(
            format!("Patroni knows only this one of {} servers when it starts", members.len()),
            format!(
                "Set DCS_HOSTS={}, then run: patroni-gen-config {id} && systemctl restart patroni@{}",
                servers.join(","),
                id.replacen('/', "-", 1)
            ),
        ))
    }

    /// The v2 API: whether it is enabled, and accepts the user.
    fn v2_api(&self) -> Result<Served, Finding> {
        let (user, password) = (self.question.text("username"), self.question.text("password"));
        let basic = user
            .zip(password)
            .map(|(user, password)| format!("Basic {}", base64::encode_block(format!("{user}:{password}").as_bytes())));
        let headers: Vec<(&str, &str)> = basic.iter().map(|basic| ("Authorization", basic.as_str())).collect();
        let path = format!("/v2/keys/{}/", self.question.base());
        let question = http::Question { path: &path, body: None, headers: &headers };
        let answer = self.server.ask(self.question.tls.as_ref(), &question, self.end);
        let answer = answer.map_err(|fault| self.explain(&fault))?;
        let keyed = answer.body.contains("errorCode");
        match answer.status {
            200 => Ok(Served::default()),
            404 if keyed => Ok(Served::default()),
            401 | 403 => Err(Finding::error(
                format!("it rejects the user for the keys below /{}/", self.question.base()),
                self.question.then_generate("Correct DCS_USERNAME or the password in DCS_PASSWORD_FILE"),
            )),
            _ => Err(Finding::error("it has no v2 API", self.question.then_generate("Set DCS=etcd3"))),
        }
    }
}

/// The addresses for clients that a server of etcd advertises.
fn urls(member: &Value) -> Vec<String> {
    let urls = member.get("clientURLs").and_then(Value::as_array).cloned().unwrap_or_default();
    urls.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn is_local(host: &str) -> bool {
    host == "localhost" || host == "::1" || host.starts_with("127.")
}

fn no_leader() -> Finding {
    let finding = Finding::error(
        "it responds, but etcd has no leader",
        "Start the other servers of etcd: more than half must be running (see etcdctl endpoint status --cluster).",
    );
    Finding { subject: Some(Subject::Connection), ..finding }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patroni::version::Patroni;
    use host::net::tls::Files;
    use serde_json::Map;

    #[test]
    fn one_of_several_servers_is_not_enough() {
        let of = |options: Value, host: &str, servers: usize| {
            let options = options.as_object().cloned().unwrap_or_else(Map::new);
            let question = Question {
                kind: Kind::Etcd3,
                options,
                tls: None,
                files: Files::default(),
                verifies: true,
                patroni: Patroni::UNKNOWN,
                id: "17/main".to_owned(),
                namespace: String::new(),
                scope: String::new(),
            };
            let server = Server { host: host.to_owned(), port: 2379 };
            let session = Session { question: &question, server, end: Instant::now(), prefix: "/v3", token: None };
            let member = |number: usize| json!({"clientURLs": [format!("http://10.0.0.{number}:2379")]});
            let members: Vec<Value> = (1..=servers).map(member).collect();
            session.only_one(&members).map(|finding| format!("{} | {}", finding.what, finding.hint))
        };
        let one = json!({"hosts": ["127.0.0.1:2379"]});
        assert_eq!(
            of(one.clone(), "127.0.0.1", 3).as_deref(),
            Some(
                "Patroni knows only this one of 3 servers when it starts | Set DCS_HOSTS=10.0.0.1,10.0.0.2,10.0.0.3, then run: \
                 patroni-gen-config 17/main && systemctl restart patroni@17-main"
            )
        );
        assert!(of(json!({"host": "10.0.0.1:2379"}), "10.0.0.1", 3).is_some());
        for (options, host, servers) in [
            (one.clone(), "127.0.0.1", 1),
            (json!({"hosts": ["10.0.0.1:2379", "10.0.0.2:2379"]}), "10.0.0.1", 3),
            (json!({"hosts": "10.0.0.1,10.0.0.2"}), "10.0.0.1", 3),
            (json!({"url": "http://10.0.0.1:2379"}), "10.0.0.1", 3),
            (json!({"host": "etcd.example.org:2379"}), "etcd.example.org", 3),
        ] {
            assert_eq!(of(options, host, servers), None);
        }
    }
}
