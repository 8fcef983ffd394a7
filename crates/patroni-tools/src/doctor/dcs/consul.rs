//! Consul, by the agent that Patroni talks to (`patroni/dcs/consul.py`).

use std::time::Instant;

use host::net::Fault;
use host::net::http::{self, Answer, Server};
use openssl::base64;
use serde_json::{Value, json};

use crate::doctor::dcs::{Complaint, Content, Question, Said};

struct Session<'a> {
    question: &'a Question,
    server: Server,
    end: Instant,
    token: Option<String>,
}

/// Leader, token, rights and content.
pub fn ask(question: &Question, host: &str, port: u16, end: Instant) -> Result<Said, Complaint> {
    let server = Server { host: host.to_owned(), port };
    let session = Session { question, server, end, token: question.text("token") };
    session.leader()?;
    session.rights()?;
    Ok(Said { content: session.content()?, notes: Vec::new() })
}

impl Session<'_> {
    fn call(&self, path: &str, body: Option<&Value>) -> Result<Answer, Complaint> {
        let body = body.map(Value::to_string);
        let headers: Vec<(&str, &str)> = self.token.iter().map(|token| ("X-Consul-Token", token.as_str())).collect();
        let question = http::Question { path, body: body.as_deref(), headers: &headers };
        let answer = self.server.ask(self.question.tls.as_ref(), &question, self.end);
        let answer = answer.map_err(|fault| self.question.complain(&self.server.host, &fault))?;
        // Consul's words, for an agent that has lost the servers, too.
        let said = answer.body.trim();
        if answer.status == 403
            && (said.contains("ACL not found") || said.contains("Unknown token"))
            && self.token.is_some()
        {
            let remedy = self.question.then_generate("correct the token in DCS_TOKEN_FILE");
            return Err(Complaint::error(format!("it refuses our token ({said})"), remedy));
        }
        if answer.status == 500 && said.contains("No path to datacenter") {
            let what = format!("it knows no datacenter {}", self.question.text("dc").unwrap_or_default());
            return Err(Complaint::error(what, self.question.then_generate("correct CONSUL_DC")));
        }
        if answer.status == 500 {
            return Err(if said.contains("leader") || said.contains("No known Consul servers") {
                no_leader()
            } else {
                Complaint::error(format!("it answers only with an error ({said})"), "see its log")
            });
        }
        Ok(answer)
    }

    /// With the datacenter, where one is set.
    fn path(&self, path: &str) -> String {
        let separator = if path.contains('?') { '&' } else { '?' };
        self.question.text("dc").map_or_else(|| path.to_owned(), |dc| format!("{path}{separator}dc={dc}"))
    }

    fn leader(&self) -> Result<(), Complaint> {
        let answer = self.call("/v1/status/leader", None)?;
        match serde_json::from_str::<Value>(&answer.body) {
            Ok(Value::String(leader)) if leader.is_empty() => Err(no_leader()),
            Ok(Value::String(_)) => Ok(()),
            _ => Err(self.question.complain(&self.server.host, &Fault::OtherProtocol)),
        }
    }

    /// What the token allows, by the question that Consul's own pages ask (`ACLAuthorize` in `agent/acl_endpoint.go`; run with 1.8.7).
    /// Nothing where ACLs are off, or for a Consul that has not the question.
    fn rights(&self) -> Result<(), Complaint> {
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
        let Ok(Value::Array(said)) = serde_json::from_str(&answer.body) else { return Ok(()) };
        let denied = asked.iter().zip(&said).filter(|(_, said)| said.get("Allow") == Some(&Value::Bool(false)));
        let rules: Vec<String> = denied.map(|((_, _, rule), _)| format!("{rule} {{ policy = \"write\" }}")).collect();
        if rules.is_empty() {
            return Ok(());
        }
        let rules = rules.join(" ");
        Err(match self.token {
            Some(_) => {
                Complaint::error("our token does not allow what Patroni does there", format!("give its policy {rules}"))
            }
            None => Complaint::error(
                "it does not allow what Patroni does there without a token",
                self.question.then_generate(&format!("set DCS_TOKEN_FILE to a token with {rules}")),
            ),
        })
    }

    /// The agent's node, to which a session belongs; none for who may not know.
    fn node(&self) -> Result<Option<String>, Complaint> {
        let answer = self.call("/v1/agent/self", None)?;
        let body: Option<Value> = serde_json::from_str(&answer.body).ok();
        Ok(body.and_then(|body| Some(body.pointer("/Config/NodeName")?.as_str()?.to_owned())))
    }

    fn content(&self) -> Result<Content, Complaint> {
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

fn no_leader() -> Complaint {
    Complaint::error(
        "it answers, but Consul has no leader",
        "start the other servers of Consul, of which more than half have to run (consul operator raft list-peers)",
    )
}
