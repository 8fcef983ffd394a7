//! The DCS: its section in the Patroni file, and whether its servers accept this member.

mod consul;
mod etcd;
pub(crate) mod question;
mod zookeeper;

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use host::net::Fault;
use host::net::tls::{Client, Files, Own, Verify};
use serde_json::{Map, Value};

use crate::doctor::cluster::{AS_ROOT, Cluster, LIMIT};
use crate::doctor::dcs::question::{Content, Question, Served, authority, endpoint};
use crate::doctor::finding::{Finding, Level, Subject};
use crate::patroni::version;
use crate::patroni_yml::dcs::{self, Kind, Limit};

/// The additional time after which a thread is not waited for any longer.
const GRACE: Duration = Duration::from_secs(1);

/// The DCS of the Patroni file; the first one, as Patroni uses it.
pub fn kind(cluster: &Cluster) -> Option<Kind> {
    kinds(cluster).first().copied()
}

fn kinds(cluster: &Cluster) -> Vec<Kind> {
    let named = |kind: &Kind| cluster.yaml.get(&[kind.name()]).is_some_and(|options| !options.is_null());
    Kind::ALL.into_iter().filter(named).collect()
}

fn options<'a>(cluster: &'a Cluster, kind: Kind) -> Option<&'a Map<String, Value>> {
    cluster.yaml.get(&[kind.name()])?.as_object()
}

/// The DCS section, the Python module that Patroni needs for it, and Raft's directory.
pub fn section(cluster: &Cluster) -> Result<Vec<Finding>> {
    let kinds = kinds(cluster);
    let Some(&kind) = kinds.first() else {
        let hint = format!("Add a section such as etcd3 (one of {}).", dcs::names());
        return Ok(vec![Finding::fatal("no DCS is configured", hint)]);
    };
    let mut findings = Vec::new();
    if kinds.len() > 1 {
        let all: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
        let what = format!("{} DCS are configured ({}), but Patroni uses one", all.len(), all.join(", "));
        findings.push(Finding::warning(what, "Remove the others."));
    }
    let Some(options) = options(cluster, kind) else {
        findings.push(Finding::fatal(format!("{} has no options", kind.name()), "Add its hosts."));
        return Ok(findings);
    };
    let on_host = dcs::host_limits(cluster.root, kind, cluster.depth.ask())?;
    for Limit { fatal, trouble, .. } in dcs::limits(kind, options, &cluster.patroni).into_iter().chain(on_host) {
        let finding = Finding::of(if fatal { Level::Fatal } else { Level::Warning }, &trouble.into());
        findings.push(Finding { place: finding.place.clone().filter(|place| !place.is_empty()), ..finding });
    }
    if kind == Kind::Raft {
        findings.extend(raft_directory(cluster));
    }
    Ok(findings)
}

fn raft_directory(cluster: &Cluster) -> Option<Finding> {
    let directory = cluster.text(&["raft", "data_dir"])?;
    if cluster.root.path(&directory).is_dir() {
        return None;
    }
    let hint =
        format!("Create it with: install -d -o postgres -g postgres -m 0770 {}", host::program::quoted(&directory));
    Some(Finding::fatal(format!("{directory}, the directory of Raft's log, is missing"), hint))
}

/// The result of asking all servers.
#[derive(Default)]
pub struct Answered {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What the DCS contains, if a server reported it.
    pub content: Option<Content>,
    /// Was there a server to ask?
    pub asked: bool,
}

/// Asks all servers at the same time, with a timeout.
pub fn ask(cluster: &Cluster, known: &[Finding]) -> Answered {
    let Some(kind) = kind(cluster) else { return Answered::default() };
    let Some(options) = options(cluster, kind) else { return Answered::default() };
    let Some(target) = target(kind, options) else { return Answered::default() };
    let files = target.files.clone();
    let tls = match target.tls.map(|verify| Client::new(cluster.root, &files, verify)).transpose() {
        Ok(tls) => tls,
        Err(error) => {
            return Answered { findings: not_asked(kind, &files, known, &error), content: None, asked: false };
        }
    };
    let question = Arc::new(Question {
        kind,
        options: options.clone(),
        verifies: files.ca_file.is_some() || kind != Kind::Etcd3 || verifies_by_default(cluster),
        tls,
        files,
        patroni: cluster.patroni,
        id: cluster.id.slashed(),
        namespace: cluster.text(&["namespace"]).unwrap_or_else(|| "service".to_owned()),
        scope: cluster.text(&["scope"]).unwrap_or_default(),
    });
    let answers = each_server(&question, &target.servers);
    conclude(&question, answers, known)
}

/// Without the TLS files no server is asked. Another check has reported what is wrong with them, unless the caller lacks permissions.
fn not_asked(kind: Kind, files: &Files, known: &[Finding], error: &anyhow::Error) -> Vec<Finding> {
    let own = files.own.iter().flat_map(|own| [&own.certificate, &own.key]);
    if files.ca_file.iter().chain(own).any(|file| is_bad(known, &Subject::File(file.clone()))) {
        return Vec::new();
    }
    vec![Finding::within(Level::Warning, &format!("could not contact {}", kind.name()), error).or_hint(AS_ROOT)]
}

/// Has another check found an error of the same subject?
fn is_bad(known: &[Finding], subject: &Subject) -> bool {
    known.iter().any(|finding| finding.level > Level::Warning && finding.subject.as_ref() == Some(subject))
}

/// urllib3 verifies by default since version 2, which Debian 13 has (its release notes).
fn verifies_by_default(cluster: &Cluster) -> bool {
    version::urllib3_verifies(cluster.root).unwrap_or(true)
}

/// The servers of the DCS, and how they are contacted.
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
        // kazoo verifies no name (`create_tcp_connection` in `handlers/utils.py`).
        Kind::Zookeeper => {
            let verify = if truth("verify") == Some(false) { Verify::Nothing } else { Verify::Issuer };
            (2181, (truth("use_ssl") == Some(true)).then_some(verify))
        }
        // Exhibitor only reports the addresses of ZooKeeper; the others have no server.
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

/// `host:port` for display.
fn shown(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

type Answers = Vec<(String, Result<Served, Finding>)>;

fn each_server(question: &Arc<Question>, servers: &[(String, u16)]) -> Answers {
    let (sender, receiver) = mpsc::channel();
    let end = Instant::now() + LIMIT;
    for (index, (host, port)) in servers.iter().cloned().enumerate() {
        let (question, sender) = (Arc::clone(question), sender.clone());
        // Not joined: a thread that is late ends with the program.
        thread::spawn(move || {
            let answer = match question.kind {
                Kind::Consul => consul::ask(&question, &host, port, end),
                Kind::Zookeeper => zookeeper::ask(&question, &host, port, end),
                _ => etcd::ask(&question, &host, port, end),
            };
            let _ = sender.send((index, answer));
        });
    }
    drop(sender);
    let mut answers: Answers = servers
        .iter()
        .map(|(host, port)| (shown(host, *port), Err(question.explain(host, &Fault::Unresponsive))))
        .collect();
    while let Some(left) = (end + GRACE).checked_duration_since(Instant::now()) {
        let Ok((index, answer)) = receiver.recv_timeout(left) else { break };
        answers[index].1 = answer;
    }
    answers
}

/// One finding for each fault, with all servers that have it.
fn conclude(question: &Question, answers: Answers, known: &[Finding]) -> Answered {
    let mut content = None;
    let mut faults: Vec<(Finding, Vec<String>)> = Vec::new();
    let served = answers.iter().any(|(_, answer)| answer.is_ok());
    for (server, answer) in answers {
        let found = match answer {
            Ok(answer) => {
                content.get_or_insert(answer.content);
                answer.notes
            }
            // Patroni works with another server.
            Err(finding) if served => vec![Finding { level: Level::Warning, ..finding }],
            Err(finding) => vec![finding],
        };
        for finding in found {
            match faults.iter_mut().find(|(known, _)| *known == finding) {
                Some((_, servers)) => servers.push(server.clone()),
                None => faults.push((finding, vec![server.clone()])),
            }
        }
    }
    // The servers reject a client certificate that is bad, which another check has reported.
    let is_new = |finding: &Finding| !finding.subject.as_ref().is_some_and(|subject| is_bad(known, subject));
    let findings = faults.into_iter().filter(|(finding, _)| is_new(finding)).map(|(finding, servers)| {
        let unverified = !question.verifies && finding.subject == Some(Subject::ServerCertificate);
        let level = if unverified { Level::Warning } else { finding.level };
        Finding { level, ..finding }.at(format!("{} at {}", question.kind.name(), servers.join(", ")))
    });
    Answered { findings: findings.collect(), content, asked: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patroni::version::Patroni;
    use serde_json::json;
    use std::path::Path;

    fn line(finding: &Finding) -> String {
        let trouble = finding.trouble(Path::new("f"));
        [Some(trouble.line()), trouble.hint].into_iter().flatten().collect::<Vec<_>>().join(": ")
    }
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
    fn a_dcs_is_as_good_as_its_best_server() {
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
        let away = || Err(Finding::error("it is unreachable", "Start it."));
        let of = |answers: Vec<Result<Served, Finding>>| {
            let answers = answers.into_iter().zip(1..).map(|(answer, number)| (format!("s{number}"), answer)).collect();
            let asked = conclude(&question(), answers, &[]);
            let lines: Vec<(Level, String)> =
                asked.findings.iter().map(|finding| (finding.level, line(finding))).collect();
            (lines, asked.content.is_some())
        };
        let line = "etcd3 at s1, s2: it is unreachable: Start it.".to_owned();
        assert_eq!(of(vec![away(), away()]), (vec![(Level::Error, line.clone())], false));
        assert_eq!(of(vec![away(), away(), Ok(Served::default())]), (vec![(Level::Warning, line)], true));
        assert_eq!(question().base(), "a/16-main");
    }
}
