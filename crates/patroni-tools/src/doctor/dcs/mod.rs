//! The store: its section in the file, and what its servers say to us.

mod consul;
mod etcd;
mod zookeeper;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use host::net::tls::{Client, Files, Own, Verify};
use host::net::{Fault, reason};
use serde_json::{Map, Value};

use crate::doctor::finding::{Finding, Level};
use crate::doctor::instance::{Instance, LIMIT};
use crate::patroni::version::{self, Patroni};
use crate::patroni_yml::dcs::{self, Kind, Limit};

/// How much longer than a server may take we wait for what cannot be bounded: the resolver.
const GRACE: Duration = Duration::from_secs(1);

/// The store that the file names; the first, as Patroni takes it.
pub fn kind(instance: &Instance) -> Option<Kind> {
    kinds(instance).first().copied()
}

fn kinds(instance: &Instance) -> Vec<Kind> {
    let named = |kind: &Kind| instance.yaml.get(&[kind.name()]).is_some_and(|options| !options.is_null());
    Kind::ALL.into_iter().filter(named).collect()
}

fn options<'a>(instance: &'a Instance, kind: Kind) -> Option<&'a Map<String, Value>> {
    instance.yaml.get(&[kind.name()])?.as_object()
}

/// The store's section, the module that Patroni needs for it, and raft's directory.
pub fn section(instance: &Instance) -> Result<Vec<Finding>> {
    let kinds = kinds(instance);
    let Some(&kind) = kinds.first() else {
        let remedy = format!("add a section such as etcd3 (one of {})", dcs::names());
        return Ok(vec![Finding::fatal("it names no store", remedy)]);
    };
    let mut findings = Vec::new();
    if kinds.len() > 1 {
        let all: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
        let what = format!("it names {} stores ({}), but Patroni uses one", all.len(), all.join(", "));
        findings.push(Finding::warning(what, "keep one"));
    }
    let Some(options) = options(instance, kind) else {
        findings.push(Finding::fatal(format!("{} has no options", kind.name()), "add its hosts"));
        return Ok(findings);
    };
    let on_host = dcs::host_limits(instance.root, kind)?;
    for Limit { fatal, trouble, .. } in dcs::limits(kind, options, &instance.patroni).into_iter().chain(on_host) {
        let level = if fatal { Level::Fatal } else { Level::Warning };
        let finding = Finding::new(level, trouble.what, trouble.hint.unwrap_or_default());
        findings.push(match trouble.place {
            Some(place) => finding.at(place),
            None => finding,
        });
    }
    if kind == Kind::Raft {
        findings.extend(raft_directory(instance));
    }
    Ok(findings)
}

fn raft_directory(instance: &Instance) -> Option<Finding> {
    let directory = instance.text(&["raft", "data_dir"])?;
    if instance.root.path(&directory).is_dir() {
        return None;
    }
    let remedy = format!("run install -d -o postgres -g postgres -m 0770 {directory}");
    Some(Finding::fatal(format!("{directory} is missing, where raft keeps its log"), remedy))
}

/// What the store has about our cluster: keys below its own, and their values.
pub type Content = BTreeMap<String, String>;

/// What came of asking all servers.
#[derive(Default)]
pub struct Answered {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What the store has; none where nobody said it.
    pub content: Option<Content>,
    /// Is there a server that can be asked?
    pub asked: bool,
}

/// A server that was asked.
#[derive(Debug, Default)]
struct Said {
    /// What it has.
    content: Content,
    /// What needs a look though it serves us.
    notes: Vec<Complaint>,
}

/// What is wrong with a server, without its name, so that what is wrong with all of them is said once.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Complaint {
    what: String,
    remedy: String,
    level: Level,
}

impl Complaint {
    fn error(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into(), level: Level::Error }
    }

    fn warning(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into(), level: Level::Warning }
    }
}

/// What there is to know for asking a server, whatever kind it is of.
struct Question {
    kind: Kind,
    options: Map<String, Value>,
    /// None in the clear.
    tls: Option<Client>,
    files: Files,
    /// Is the other side's certificate verified by Patroni, too?
    verifies: bool,
    patroni: Patroni,
    id: String,
    namespace: String,
    scope: String,
}

impl Question {
    fn text(&self, option: &str) -> Option<String> {
        match self.options.get(option)? {
            Value::String(text) => Some(text.clone()),
            other @ (Value::Number(_) | Value::Bool(_)) => Some(other.to_string()),
            _ => None,
        }
    }

    /// `postgresql-common/16-main`, without slashes at its ends (`AbstractDCS.__init__`).
    fn base(&self) -> String {
        let parts = [self.namespace.trim_matches('/'), &self.scope];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
    }

    fn then_generate(&self, remedy: &str) -> String {
        format!("{remedy}, and run patroni-gen-config {}", self.id)
    }

    /// What a fault means for the administrator, by the names of the settings.
    fn complain(&self, host: &str, fault: &Fault) -> Complaint {
        let certificate = self.tls.is_some() && self.files.own.is_some();
        let (what, remedy) = match fault {
            Fault::Name(_) => (fault.to_string(), "correct DCS_HOSTS, or the resolver of this host".to_owned()),
            Fault::Unreachable(_) => (fault.to_string(), "start it, or correct DCS_HOSTS or the firewall".to_owned()),
            Fault::Unresponsive => (
                format!("it did not answer within {} s", LIMIT.as_secs()),
                "see its log, and whether more than half of the servers run".to_owned(),
            ),
            Fault::Closed(error) => (
                format!("it ended the connection ({})", reason(error)),
                match (self.tls.is_some(), certificate) {
                    (false, _) => self.then_generate("see its log; or, if it wants TLS, set DCS_CACERT"),
                    (true, false) => {
                        self.then_generate("see its log; or, if it wants a certificate of ours, set DCS_CERT")
                    }
                    (true, true) => "see its log; it may refuse DCS_CERT".to_owned(),
                },
            ),
            Fault::NoTls => (
                fault.to_string(),
                self.then_generate("turn TLS on there, or remove DCS_CACERT and DCS_CERT and set DCS_PROTOCOL=http"),
            ),
            Fault::RequiresTls => (fault.to_string(), self.then_generate("set DCS_CACERT, or DCS_PROTOCOL=https")),
            Fault::OtherProtocol => (
                format!("what answers there is not {}", self.kind.name().trim_end_matches('3')),
                self.then_generate("correct DCS_HOSTS"),
            ),
            Fault::Untrusted(why) => match &self.files.ca_file {
                Some(path) => (
                    format!("its certificate is not signed by {} ({why})", path.display()),
                    "put the certificate of the authority that signed it into that file (DCS_CACERT)".to_owned(),
                ),
                None => (
                    format!("its certificate is not signed by anybody whom this host trusts ({why})"),
                    self.then_generate("set DCS_CACERT"),
                ),
            },
            Fault::Expired(_) => (fault.to_string(), "renew it there".to_owned()),
            Fault::NotYetValid(_) => {
                (fault.to_string(), "correct the clock of this host, or the certificate".to_owned())
            }
            Fault::OtherName(shown) => (
                format!("its certificate is for {}, not for {host}", shown.summary.names),
                self.then_generate("name it so in DCS_HOSTS, or have it issued for that"),
            ),
            Fault::Invalid(_) => (fault.to_string(), "have it issued anew".to_owned()),
            Fault::Rejected(why) => match &self.files.own {
                Some(own) => (
                    format!("it refuses our certificate {} ({why})", own.certificate.display()),
                    "correct DCS_CERT, or the authority that it believes".to_owned(),
                ),
                None => {
                    (format!("it wants a certificate of ours ({why})"), self.then_generate("set DCS_CERT and DCS_KEY"))
                }
            },
            Fault::Tls(_) => (fault.to_string(), "see its log".to_owned()),
        };
        Complaint::error(what, remedy)
    }
}

/// Asks all servers at once, and is back soon whatever they do.
pub fn ask(instance: &Instance, known: &[Finding]) -> Answered {
    let Some(kind) = kind(instance) else { return Answered::default() };
    let Some(options) = options(instance, kind) else { return Answered::default() };
    let Some(target) = target(kind, options) else { return Answered::default() };
    let files = target.files.clone();
    let tls = match target.tls.map(|verify| Client::new(instance.root, &files, verify)).transpose() {
        Ok(tls) => tls,
        Err(error) => return Answered { findings: unasked(kind, known, &error), content: None, asked: false },
    };
    let question = Arc::new(Question {
        kind,
        options: options.clone(),
        verifies: files.ca_file.is_some() || kind != Kind::Etcd3 || verifies_by_default(instance),
        tls,
        files,
        patroni: instance.patroni,
        id: instance.id.slashed(),
        namespace: instance.text(&["namespace"]).unwrap_or_else(|| "service".to_owned()),
        scope: instance.text(&["scope"]).unwrap_or_default(),
    });
    let answers = each_server(&question, &target.servers);
    // An own certificate that is bad by itself is refused for that, which is said already.
    let own = question.files.own.as_ref().map(|own| own.certificate.display().to_string());
    let bad = |finding: &Finding| own.as_ref().is_some_and(|own| finding.what.contains(own.as_str()));
    let own_is_bad = known.iter().any(|finding| finding.level > Level::Warning && bad(finding));
    conclude(&question, answers, own_is_bad)
}

/// Without the files of TLS no server is asked. What is wrong with them is said already, unless we may not see it.
fn unasked(kind: Kind, known: &[Finding], error: &anyhow::Error) -> Vec<Finding> {
    let start = format!("{}.c", kind.name());
    if known.iter().any(|finding| finding.level > Level::Warning && finding.what.starts_with(&start)) {
        return Vec::new();
    }
    vec![Finding::warning(format!("{} was not asked: {error:#}", kind.name()), "run this check as root")]
}

fn verifies_by_default(instance: &Instance) -> bool {
    version::urllib3_verifies(instance.root).unwrap_or(true)
}

/// Where the store is, and how it is talked to.
struct Target {
    servers: Vec<(String, u16)>,
    tls: Option<Verify>,
    files: Files,
}

fn target(kind: Kind, options: &Map<String, Value>) -> Option<Target> {
    let text = |option: &str| options.get(option).and_then(Value::as_str).map(str::to_owned);
    let truth = |option: &str| match options.get(option) {
        Some(Value::Bool(truth)) => Some(*truth),
        Some(Value::String(text)) => Some(matches!(text.to_ascii_lowercase().as_str(), "true" | "on" | "yes" | "1")),
        _ => None,
    };
    let own = text("cert").map(|certificate| Own {
        key: text("key").unwrap_or_else(|| certificate.clone()).into(),
        certificate: certificate.into(),
        password: text("key_password"),
    });
    let files = Files { ca_file: text("cacert").map(PathBuf::from), own };
    let url = text("url").or_else(|| text("proxy"));
    let secure = |option: &str| url.as_ref().or(text(option).as_ref()).is_some_and(|text| text.starts_with("https"));
    let (port, tls) = match kind {
        Kind::Etcd3 | Kind::Etcd => (2379, secure("protocol").then_some(Verify::Name)),
        Kind::Consul => {
            let verify =
                if truth("verify") == Some(false) && files.ca_file.is_none() { Verify::Nothing } else { Verify::Name };
            (8500, secure("scheme").then_some(verify))
        }
        // kazoo looks at no name (`create_tcp_connection` in `handlers/utils.py`).
        Kind::Zookeeper => {
            let verify = if truth("verify") == Some(false) { Verify::Nothing } else { Verify::Issuer };
            (2181, (truth("use_ssl") == Some(true)).then_some(verify))
        }
        // Exhibitor only says where ZooKeeper is; the others have no server.
        Kind::Exhibitor | Kind::Kubernetes | Kind::Raft => return None,
    };
    let port = options.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok()).unwrap_or(port);
    let mut servers: Vec<(String, u16)> = match (options.get("hosts"), options.get("host"), &url) {
        (_, _, Some(url)) => vec![endpoint(authority(url), port)],
        (Some(Value::Array(hosts)), _, _) => {
            hosts.iter().filter_map(Value::as_str).map(|host| endpoint(host, port)).collect()
        }
        (Some(Value::String(hosts)), _, _) => hosts.split(',').map(|host| endpoint(host, port)).collect(),
        (_, Some(Value::String(host)), _) => vec![endpoint(host, port)],
        // Only SRV records name them.
        _ => return None,
    };
    servers.dedup();
    Some(Target { servers, tls, files })
}

/// `user:password@host:port` of a URL, without the user.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// `host`, `host:port`, `[fd00::1]:port`.
fn endpoint(text: &str, default: u16) -> (String, u16) {
    let text = text.trim();
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().unwrap_or(default)),
        _ => (text, default),
    };
    (host.trim_start_matches('[').trim_end_matches(']').to_owned(), port)
}

/// `host:port` for people.
fn shown(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

type Answers = Vec<(String, Result<Said, Complaint>)>;

fn each_server(question: &Arc<Question>, servers: &[(String, u16)]) -> Answers {
    let (sender, receiver) = mpsc::channel();
    let end = Instant::now() + LIMIT;
    for (index, (host, port)) in servers.iter().cloned().enumerate() {
        let (question, sender) = (Arc::clone(question), sender.clone());
        // Not joined: one that hangs in the resolver ends with the program.
        thread::spawn(move || {
            let said = match question.kind {
                Kind::Consul => consul::ask(&question, &host, port, end),
                Kind::Zookeeper => zookeeper::ask(&question, &host, port, end),
                _ => etcd::ask(&question, &host, port, end),
            };
            let _ = sender.send((index, said));
        });
    }
    drop(sender);
    let mut answers: Answers = servers
        .iter()
        .map(|(host, port)| (shown(host, *port), Err(question.complain(host, &Fault::Unresponsive))))
        .collect();
    while let Some(left) = (end + GRACE).checked_duration_since(Instant::now()) {
        let Ok((index, said)) = receiver.recv_timeout(left) else { break };
        answers[index].1 = said;
    }
    answers
}

/// One line for each thing that is wrong, with all servers of which it is.
fn conclude(question: &Question, answers: Answers, own_is_bad: bool) -> Answered {
    let mut content = None;
    let mut complaints: Vec<(Complaint, Vec<String>)> = Vec::new();
    let served = answers.iter().any(|(_, said)| said.is_ok());
    for (server, said) in answers {
        let found = match said {
            Ok(said) => {
                content.get_or_insert(said.content);
                said.notes
            }
            // With another server Patroni works.
            Err(complaint) if served => vec![Complaint { level: Level::Warning, ..complaint }],
            Err(complaint) => vec![complaint],
        };
        for complaint in found {
            match complaints.iter_mut().find(|(known, _)| *known == complaint) {
                Some((_, servers)) => servers.push(server.clone()),
                None => complaints.push((complaint, vec![server.clone()])),
            }
        }
    }
    let refused = |complaint: &Complaint| own_is_bad && complaint.what.contains("our certificate");
    let findings = complaints.into_iter().filter(|(complaint, _)| !refused(complaint)).map(|(complaint, servers)| {
        let unverified = !question.verifies && complaint.what.contains("its certificate");
        let level = if unverified { Level::Warning } else { complaint.level };
        let place = format!("{} at {}", question.kind.name(), servers.join(", "));
        Finding::new(level, complaint.what, complaint.remedy).at(place)
    });
    Answered { findings: findings.collect(), content, asked: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(finding: &Finding) -> String {
        let trouble = finding.trouble(Path::new("f"));
        [Some(trouble.line()), trouble.hint].into_iter().flatten().collect::<Vec<_>>().join(": ")
    }
    use serde_json::json;
    use std::path::Path;

    fn target_of(kind: Kind, options: Value) -> Option<Target> {
        let Value::Object(options) = options else { panic!("not a section") };
        target(kind, &options)
    }

    #[test]
    fn servers_are_found_in_every_form_that_patroni_reads() {
        let one = |host: &str, port: u16| vec![(host.to_owned(), port)];
        for (kind, options, expected, tls) in [
            (Kind::Etcd3, json!({"hosts": ["a:1"]}), one("a", 1), None),
            (Kind::Etcd3, json!({"hosts": "a:1,a:1", "protocol": "https"}), one("a", 1), Some(Verify::Name)),
            (Kind::Etcd3, json!({"host": "[fd00::1]:12"}), one("fd00::1", 12), None),
            (Kind::Etcd3, json!({"url": "https://u:p@a:1/x"}), one("a", 1), Some(Verify::Name)),
            (Kind::Consul, json!({"host": "a", "port": 8501, "scheme": "https"}), one("a", 8501), Some(Verify::Name)),
            (
                Kind::Consul,
                json!({"host": "a:1", "scheme": "https", "verify": false}),
                one("a", 1),
                Some(Verify::Nothing),
            ),
            (Kind::Zookeeper, json!({"hosts": ["a"], "use_ssl": true}), one("a", 2181), Some(Verify::Issuer)),
        ] {
            let target = target_of(kind, options.clone()).unwrap();
            assert_eq!((target.servers, target.tls), (expected, tls), "{options}");
        }
        assert!(target_of(Kind::Etcd3, json!({"srv": "example.org"})).is_none());
        assert!(target_of(Kind::Raft, json!({"self_addr": "a:1"})).is_none());
    }

    #[test]
    fn a_store_is_as_good_as_its_best_server() {
        let question = || Question {
            kind: Kind::Etcd3,
            options: Map::new(),
            tls: None,
            files: Files::default(),
            verifies: true,
            patroni: Patroni::UNKNOWN,
            id: "16/main".to_owned(),
            namespace: "/a/".to_owned(),
            scope: "16-main".to_owned(),
        };
        let away = || Err(Complaint::error("it is away", "start it"));
        let of = |answers: Vec<Result<Said, Complaint>>| {
            let answers = answers.into_iter().zip(1..).map(|(said, number)| (format!("s{number}"), said)).collect();
            let asked = conclude(&question(), answers, false);
            let lines: Vec<(Level, String)> =
                asked.findings.iter().map(|finding| (finding.level, said(finding))).collect();
            (lines, asked.content.is_some())
        };
        let line = "etcd3 at s1, s2: it is away: start it".to_owned();
        assert_eq!(of(vec![away(), away()]), (vec![(Level::Error, line.clone())], false));
        assert_eq!(of(vec![away(), away(), Ok(Said::default())]), (vec![(Level::Warning, line)], true));
        assert_eq!(question().base(), "a/16-main");
    }
}
