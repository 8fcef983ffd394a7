//! Consul, through the agent that Patroni uses (`patroni/dcs/consul.py`).

use std::time::Instant;

use host::net::Fault;
use host::net::http::{self, Answer, Server};
use openssl::base64;
use serde_json::{Value, json};

use crate::doctor::dcs::question::{Content, Question, Served};
use crate::doctor::finding::{Finding, Subject};

struct Session<'a> {
    question: &'a Question,
    server: Server,
    end: Instant,
    token: Option<String>,
}

/// Leader, token, permissions and content.
pub fn ask(question: &Question, host: &str, port: u16, end: Instant) -> Result<Served, Finding> {
    let server = Server { host: host.to_owned(), port };
    let session = Session { question, server, end, token: question.text("token") };
    session.leader()?;
    session.permissions()?;
    Ok(Served { content: session.content()?, notes: Vec::new() })
}

impl Session<'_> {
    fn call(&self, path: &str, body: Option<&Value>) -> Result<Answer, Finding> {
        let body = body.map(Value::to_string);
        let headers: Vec<(&str, &str)> = self.token.iter().map(|token| ("X-Consul-Token", token.as_str())).collect();
        let question = http::Question { path, body: body.as_deref(), headers: &headers };
        let answer = self.server.ask(self.question.tls.as_ref(), &question, self.end);
        let answer = answer.map_err(|fault| self.question.explain(&self.server.host, &fault))?;
        // The error message of Consul, also of an agent that has lost the servers.
        let error = answer.body.trim();
        if answer.status == 403
            && (error.contains("ACL not found") || error.contains("Unknown token"))
            && self.token.is_some()
        {
            let hint = self.question.then_generate("Correct the token in DCS_TOKEN_FILE");
            return Err(Finding::error(format!("it rejects the token ({error})"), hint));
        }
        if answer.status == 500 && error.contains("No path to datacenter") {
            let what = format!("it does not know the datacenter {}", self.question.text("dc").unwrap_or_default());
            return Err(Finding::error(what, self.question.then_generate("Correct CONSUL_DC")));
        }
        if answer.status == 500 {
            return Err(if error.contains("leader") || error.contains("No known Consul servers") {
                no_leader()
            } else {
                Finding::error(format!("it responds with an error ({error})"), "Check its log.")
            });
        }
        Ok(answer)
    }

    /// With the datacenter, if one is set.
    fn path(&self, path: &str) -> String {
        let separator = if path.contains('?') { '&' } else { '?' };
        self.question.text("dc").map_or_else(|| path.to_owned(), |dc| format!("{path}{separator}dc={dc}"))
    }

    fn leader(&self) -> Result<(), Finding> {
        let answer = self.call("/v1/status/leader", None)?;
        match serde_json::from_str::<Value>(&answer.body) {
            Ok(Value::String(leader)) if leader.is_empty() => Err(no_leader()),
            Ok(Value::String(_)) => Ok(()),
            _ => Err(self.question.explain(&self.server.host, &Fault::OtherProtocol)),
        }
    }

    /// What the token allows, with the request of Consul's own web pages (`ACLAuthorize` in `agent/acl_endpoint.go`; run with 1.8.7).
    /// Nothing is found if ACLs are off, or if this Consul does not know the request.
    fn permissions(&self) -> Result<(), Finding> {
        let base = self.question.base();
        let mut asked = vec![("key", format!("{base}/leader"), format!("key_prefix \"{base}/\""))];
        if let Some(node) = self.node()? {
            asked.push(("session", node, "session_prefix \"\"".to_owned()));
        }
        if self.question.options.get("register_service") == Some(&Value::Bool(true)) {
            let scope = &self.question.scope;
            asked.push(("service", scope.clone(), format!("service_prefix \"{scope}\"")));
        }
        let body: Vec<Value> = asked
            .iter()
            .map(|(resource, segment, _)| json!({"Resource": resource, "Access": "write", "Segment": segment}))
            .collect();
        let answer = self.call(&self.path("/v1/internal/acl/authorize"), Some(&Value::Array(body)))?;
        let Ok(Value::Array(answers)) = serde_json::from_str(&answer.body) else { return Ok(()) };
        let denied = asked.iter().zip(&answers).filter(|(_, answer)| answer.get("Allow") == Some(&Value::Bool(false)));
        let rules: Vec<String> = denied.map(|((_, _, rule), _)| format!("{rule} {{ policy = \"write\" }}")).collect();
        if rules.is_empty() {
            return Ok(());
        }
        let rules = rules.join(" ");
        Err(match self.token {
            Some(_) => {
                Finding::error("the token lacks permissions that Patroni needs", format!("Add to its policy: {rules}"))
            }
            None => Finding::error(
                "without a token, Patroni lacks permissions that it needs",
                self.question.then_generate(&format!("Set DCS_TOKEN_FILE to a token with {rules}")),
            ),
        })
    }

    /// The agent's node, to which a session belongs; `None` without the permission to read it.
    fn node(&self) -> Result<Option<String>, Finding> {
        let answer = self.call("/v1/agent/self", None)?;
        let body: Option<Value> = serde_json::from_str(&answer.body).ok();
        Ok(body.and_then(|body| Some(body.pointer("/Config/NodeName")?.as_str()?.to_owned())))
    }

    fn content(&self) -> Result<Content, Finding> {
        let prefix = format!("{}/", self.question.base());
        let answer = self.call(&self.path(&format!("/v1/kv/{prefix}?recurse")), None)?;
        let Ok(Value::Array(found)) = serde_json::from_str(&answer.body) else { return Ok(Content::new()) };
        let pairs = found.iter().filter_map(|pair| {
            let key = pair.get("Key")?.as_str()?.strip_prefix(&prefix)?.to_owned();
            let value = pair.get("Value").and_then(Value::as_str).and_then(|value| base64::decode_block(value).ok());
            Some((key, String::from_utf8(value.unwrap_or_default()).ok()?))
        });
        Ok(pairs.collect())
    }
}

fn no_leader() -> Finding {
    let finding = Finding::error(
        "it responds, but Consul has no leader",
        "Start the other servers of Consul: more than half must be running (see consul operator raft list-peers).",
    );
    Finding { subject: Some(Subject::Connection), ..finding }
}
