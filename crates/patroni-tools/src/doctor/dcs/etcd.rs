//! etcd, by the same gateway from HTTP to gRPC that Patroni uses (`patroni/dcs/etcd3.py`, `Etcd3Client`).

use std::time::Instant;

use host::net::Fault;
use host::net::http::{self, Answer, Server};
use openssl::base64;
use serde_json::{Value, json};

use crate::doctor::dcs::{Complaint, Content, Question, Said};
use crate::patroni::version::{Version, etcd_gateway};
use crate::patroni_yml::dcs::{Kind, users_need};

struct Session<'a> {
    question: &'a Question,
    server: Server,
    end: Instant,
    /// Of the gateway, by the server's version.
    prefix: &'static str,
    token: Option<String>,
}

/// Version, user, rights and content.
pub fn ask(question: &Question, host: &str, port: u16, end: Instant) -> Result<Said, Complaint> {
    let server = Server { host: host.to_owned(), port };
    let mut session = Session { question, server, end, prefix: "/v3", token: None };
    let version = session.version()?;
    if question.kind == Kind::Etcd {
        return session.second_api();
    }
    session.prefix = etcd_gateway(version).ok_or_else(|| {
        Complaint::error(format!("it is etcd {version}, which Patroni does not work with"), "upgrade it")
    })?;
    let mut notes = Vec::new();
    session.log_in(version, &mut notes)?;
    let content = session.content()?;
    notes.extend(session.advertised());
    Ok(Said { content, notes })
}

impl Session<'_> {
    fn call(&self, path: &str, body: Option<&Value>) -> Result<Answer, Fault> {
        let body = body.map(Value::to_string);
        let headers: Vec<(&str, &str)> = self.token.iter().map(|token| ("Authorization", token.as_str())).collect();
        let question = http::Question { path, body: body.as_deref(), headers: &headers };
        self.server.ask(self.question.tls.as_ref(), &question, self.end)
    }

    fn complain(&self, fault: &Fault) -> Complaint {
        self.question.complain(&self.server.host, fault)
    }

    fn version(&self) -> Result<Version, Complaint> {
        let answer = self.call("/version", None).map_err(|fault| self.complain(&fault))?;
        let body: Option<Value> = serde_json::from_str(&answer.body).ok();
        let version = body.as_ref().and_then(|body| body.get("etcdserver")?.as_str()).and_then(Version::parse);
        version.ok_or_else(|| self.complain(&Fault::OtherProtocol))
    }

    /// A call of the third API: the answer, or etcd's own words for why not.
    fn rpc(&self, method: &str, body: &Value) -> Result<Result<Value, String>, Complaint> {
        let answer = self.call(&format!("{}{method}", self.prefix), Some(body)).map_err(|fault| match fault {
            // It has said its version, so what is missing are the others, without whom it decides nothing.
            Fault::Unresponsive => no_leader(),
            fault => self.complain(&fault),
        })?;
        // `accessController.ServeHTTP` in etcd's `embed/serve.go`, where it has users and verifies certificates.
        if answer.body.starts_with("CommonName of client") {
            return Err(Complaint::error(
                "it has users, and then takes no certificate that has a common name (CN) from us",
                "have DCS_CERT issued with a subject without one, such as O=Example",
            ));
        }
        let body: Value = serde_json::from_str(&answer.body).map_err(|_| self.complain(&Fault::OtherProtocol))?;
        if answer.status == 200 {
            return Ok(Ok(body));
        }
        let said = ["message", "error"].into_iter().find_map(|key| body.get(key)?.as_str()).unwrap_or_default();
        let said = said.trim_start_matches("etcdserver: ").to_owned();
        if said.contains("no leader") || said.contains("timed out") {
            return Err(no_leader());
        }
        Ok(Err(said))
    }

    fn log_in(&mut self, version: Version, notes: &mut Vec<Complaint>) -> Result<(), Complaint> {
        let (Some(user), Some(password)) = (self.question.text("username"), self.question.text("password")) else {
            return Ok(());
        };
        let answer = self.rpc("/auth/authenticate", &json!({"name": user, "password": password}))?;
        match answer {
            Ok(body) => self.token = body.get("token").and_then(Value::as_str).map(str::to_owned),
            Err(said) if said.contains("not enabled") => {
                notes.push(Complaint::warning(
                    "it has no users, so that anybody who reaches it can change what is there",
                    "run etcdctl auth enable, or remove DCS_USERNAME",
                ));
                return Ok(());
            }
            Err(said) => {
                return Err(Complaint::error(
                    format!("it refuses the user {user} ({said})"),
                    self.question.then_generate("correct DCS_USERNAME or the password in DCS_PASSWORD_FILE"),
                ));
            }
        }
        match users_need(version, &self.question.patroni) {
            Some(trouble) => Err(Complaint::error(trouble.what, trouble.hint.unwrap_or_default())),
            None => Ok(()),
        }
    }

    /// All keys of the cluster, by a transaction that would write one of them if something impossible were true: etcd looks at the
    /// rights of both branches (`checkTxnAuth` in `apply_auth.go`; run with 3.4.23 and 3.5.16), so that this tells whether we
    /// could write, and writes nothing.
    fn content(&self) -> Result<Content, Complaint> {
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
            Err(said) => return Err(self.denied(&said, &prefix, &range)),
        };
        let found = body.pointer("/responses/0/response_range/kvs").and_then(Value::as_array);
        let text = |value: Option<&Value>| {
            let bytes = base64::decode_block(value?.as_str()?).ok()?;
            String::from_utf8(bytes).ok()
        };
        let pairs = found.into_iter().flatten().filter_map(|pair| {
            let key = text(pair.get("key"))?.strip_prefix(&prefix)?.to_owned();
            // An empty value is left out.
            Some((key, text(pair.get("value")).unwrap_or_default()))
        });
        Ok(pairs.collect())
    }

    fn denied(&self, said: &str, prefix: &str, range: &Value) -> Complaint {
        let user = self.question.text("username").filter(|_| self.token.is_some());
        let Some(user) = user.filter(|_| !said.contains("user name is empty")) else {
            // With certificates the gateway shows its own, whose name is the user then.
            let remedy = self.question.then_generate("set DCS_USERNAME and DCS_PASSWORD_FILE");
            return Complaint::error(format!("it wants a user ({said})"), remedy);
        };
        if said.contains("permission denied") {
            let read = matches!(self.rpc("/kv/range", range), Ok(Ok(_)));
            let what = if read { "only read" } else { "neither read nor write" };
            return Complaint::error(
                format!("the user {user} may {what} the keys below {prefix} ({said})"),
                format!(
                    "run etcdctl role grant-permission ROLE --prefix=true readwrite {prefix}, with a role of this user"
                ),
            );
        }
        Complaint::error(format!("it refuses to work for us ({said})"), "see its log")
    }

    /// Patroni asks a server for all of them, and then uses the addresses that they themselves say (`_get_members`).
    fn advertised(&self) -> Vec<Complaint> {
        let Ok(Ok(body)) = self.rpc("/cluster/member/list", &json!({})) else { return Vec::new() };
        let members = body.get("members").and_then(Value::as_array).cloned().unwrap_or_default();
        let urls = |member: &Value| -> Vec<String> {
            let urls = member.get("clientURLs").and_then(Value::as_array).cloned().unwrap_or_default();
            urls.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let local = |host: &str| host == "localhost" || host == "::1" || host.starts_with("127.");
        let alone = members.len() < 2 && local(&self.server.host);
        let wrong: Vec<String> = members
            .iter()
            .flat_map(urls)
            .filter(|url| {
                let (host, _) = crate::doctor::dcs::endpoint(crate::doctor::dcs::authority(url), 0);
                (local(&host) && !alone) || url.starts_with("https") != self.question.tls.is_some()
            })
            .collect();
        if wrong.is_empty() {
            return Vec::new();
        }
        vec![Complaint::warning(
            format!("it tells its clients, and so Patroni, to use {}", wrong.join(", ")),
            "correct ETCD_ADVERTISE_CLIENT_URLS there",
        )]
    }

    /// The second API: there or not, and open to our user.
    fn second_api(&self) -> Result<Said, Complaint> {
        let (user, password) = (self.question.text("username"), self.question.text("password"));
        let basic = user
            .zip(password)
            .map(|(user, password)| format!("Basic {}", base64::encode_block(format!("{user}:{password}").as_bytes())));
        let headers: Vec<(&str, &str)> = basic.iter().map(|basic| ("Authorization", basic.as_str())).collect();
        let path = format!("/v2/keys/{}/", self.question.base());
        let question = http::Question { path: &path, body: None, headers: &headers };
        let answer = self.server.ask(self.question.tls.as_ref(), &question, self.end);
        let answer = answer.map_err(|fault| self.complain(&fault))?;
        let keyed = answer.body.contains("errorCode");
        match answer.status {
            200 => Ok(Said::default()),
            404 if keyed => Ok(Said::default()),
            401 | 403 => Err(Complaint::error(
                format!("it refuses our user for the keys below /{}/", self.question.base()),
                self.question.then_generate("correct DCS_USERNAME or the password in DCS_PASSWORD_FILE"),
            )),
            _ => Err(Complaint::error("it has no second API", self.question.then_generate("set DCS=etcd3"))),
        }
    }
}

fn no_leader() -> Complaint {
    Complaint::error(
        "it answers, but has no leader",
        "start the other servers of etcd, of which more than half have to run (etcdctl endpoint status --cluster)",
    )
}
