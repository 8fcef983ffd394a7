//! The doctor against real stores: etcd, Consul and ZooKeeper of Debian, with TLS, users and tokens, and what can be wrong with them.
//!
//! Each test runs in namespaces of its own, in a throw-away copy of an image with the servers; they are on the other host.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use lab::image::Image;
use lab::world::servers::{Daemon, sh, until_listening, until_ok};
use lab::world::{OWN, SECOND, SERVER, World};
use openssl::pkey::PKey;
use openssl::ssl::{SslAcceptor, SslMethod};
use openssl::x509::X509;

#[path = "changes.rs"]
mod changes;
#[path = "../pki.rs"]
mod pki;
use pki::{Authority, NOW, PAST, Pair};

const LIMIT: Duration = Duration::from_secs(180);
const PROGRAM: &str = "/patroni-gen-config";
/// The folder that stands for the machine of the member.
const MACHINE: &str = "/machine";
const TLS: &str = "/second/etc/lab";

/// Runs the test again in the namespaces. True for that second run, in which the machine is there.
fn inside(name: &str, image: Image) -> bool {
    let program = Path::new(env!("CARGO_BIN_EXE_patroni-tools"));
    if !World::new(LIMIT).with_second(image).with_file(program, PROGRAM).test(name).unwrap() {
        return false;
    }
    for (path, text) in [
        ("etc/passwd", "root:x:0:0::/root:/bin/sh\npostgres:x:112:117::/:/bin/sh\n"),
        ("etc/group", "root:x:0:\npostgres:x:117:\n"),
        ("etc/default/patroni", "HOST_ADDRESS=10.77.0.2\nNETWORK=10.77.0.0/24\nWATCHDOG=off\n"),
        ("etc/postgresql-common/createcluster.conf", "create_main_cluster = false\n"),
        ("proc/net/tcp", ""),
        ("run/systemd/container", "lxc\n"),
        ("usr/bin/patroni", ""),
        ("usr/lib/postgresql/17/bin/postgres", ""),
        ("usr/lib/postgresql/17/bin/initdb", ""),
        ("usr/share/patroni-tools/templates/patroni.yml.j2", include_str!("../../templates/patroni.yml.j2")),
        ("proc/sys/kernel/hostname", "pg1\n"),
    ] {
        write(&format!("{MACHINE}/{path}"), text, 0o755);
    }
    fs::create_dir_all(TLS).unwrap();
    // postgres can create its data there.
    fs::create_dir_all(format!("{MACHINE}/srv")).unwrap();
    chown(format!("{MACHINE}/srv"), Some(112), Some(117)).unwrap();
    true
}

fn write(path: &str, text: &str, mode: u32) {
    fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A file of the member in `/etc/patroni`, for postgres.
fn ours(name: &str, text: &str) {
    let path = format!("{MACHINE}/etc/patroni/{name}");
    write(&path, text, 0o640);
    chown(path, Some(0), Some(117)).unwrap();
}

fn pair(name: &str, pair: &Pair) {
    ours(&format!("{name}.pem"), &pair.certificate);
    ours(&format!("{name}.key"), &pair.key);
}

/// What a server shows: servers read it for each connection, or when they start.
fn theirs(pair: &Pair) {
    write(&format!("{TLS}/server.pem"), &pair.certificate, 0o644);
    write(&format!("{TLS}/server.key"), &pair.key, 0o644);
    write(&format!("{TLS}/both.pem"), &(pair.key.clone() + &pair.certificate), 0o644);
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The certificates of the tests: the server's authority and another one.
fn certificates() -> (Authority, Authority) {
    let (site, other) = (Authority::new("site"), Authority::new("other"));
    ours("ca.pem", &site.pem());
    ours("other.pem", &other.pem());
    pair("own", &site.issue_nameless(address(OWN)));
    pair("named", &site.issue(address(OWN), NOW, true));
    pair("foreign", &other.issue(address(OWN), NOW, true));
    pair("expired", &site.issue(address(OWN), PAST, true));
    write(&format!("{TLS}/ca.pem"), &site.pem(), 0o644);
    theirs(&site.issue(address(SERVER), NOW, true));
    (site, other)
}

/// The findings of the doctor with this section, each with its hint behind a colon, and without dates.
fn doctor(section: &str, more: &str) -> Vec<String> {
    ours(
        "17-main.yml",
        &format!(
            "scope: 17-main\nname: pg1\nnamespace: /lab/\n{section}\nrestapi:\n  listen: {OWN}:8008\n  connect_address: {OWN}:8008\n\
             postgresql:\n  listen: {OWN}:5432\n  connect_address: {OWN}:5432\n  data_dir: /srv/data\n\
             \u{20} bin_dir: /usr/lib/postgresql/17/bin\n  config_dir: /etc/postgresql/17/main\nwatchdog: {{mode: 'off'}}\n{more}"
        ),
    );
    let begin = Instant::now();
    let output = Command::new(PROGRAM)
        .args(["--check", "17/main"])
        .env_clear()
        .env("PATRONI_TOOLS_ROOT", MACHINE)
        .output()
        .unwrap();
    assert!(begin.elapsed() < Duration::from_secs(10), "it took {:?}", begin.elapsed());
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let failed = err.lines().any(|line| line.contains(": error: "));
    assert_eq!(output.status.code(), Some(i32::from(failed)), "{out}{err}");
    assert_eq!(out.is_empty(), failed, "{out}{err}");
    let mut findings: Vec<String> = Vec::new();
    for line in err.lines().map(|line| without_date(line.strip_prefix("patroni-gen-config: ").unwrap_or(line))) {
        match (line.strip_prefix("hint: "), findings.last_mut()) {
            (Some(hint), Some(finding)) => finding.extend([": ", hint]),
            _ => findings.push(line),
        }
    }
    findings
}

/// `Nov 21 06:00:00 2026 GMT` is DATE; what OpenSSL 3.2 calls otherwise, too.
fn without_date(line: &str) -> String {
    let line = line.replace("ssl/tls alert", "sslv3 alert");
    let Some(end) = line.find(" GMT") else { return line };
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let begin = months.iter().filter_map(|month| line[..end].rfind(&format!("{month} "))).max().unwrap();
    format!("{}DATE{}", &line[..begin], &line[end + 4..])
}

fn etcd(more: &str) -> Daemon {
    let words = format!(
        "chroot {SECOND} etcd --name a --data-dir /tmp/a --listen-peer-urls http://{SERVER}:2380 \
         --initial-advertise-peer-urls http://{SERVER}:2380 --initial-cluster a=http://{SERVER}:2380{more}"
    );
    let daemon = Daemon::start(&words.split_whitespace().collect::<Vec<_>>(), "/run/etcd.log").unwrap();
    until_ok(&etcdctl("endpoint health"), "/run/etcd.log").unwrap();
    daemon
}

/// Whatever it speaks.
fn etcdctl(words: &str) -> String {
    let tls = "--cacert=/etc/lab/ca.pem --cert=/etc/lab/server.pem --key=/etc/lab/server.key";
    format!(
        "nsenter --net=/run/netns/dns chroot {SECOND} env ETCDCTL_API=3 sh -c 'if grep -q https /tmp/url; then \
         exec etcdctl {tls} --endpoints=https://{SERVER}:2379 {words}; else exec etcdctl --endpoints=http://{SERVER}:2379 {words}; fi'"
    )
}

fn url(protocol: &str) -> String {
    write(&format!("{SECOND}/tmp/url"), protocol, 0o644);
    format!(" --listen-client-urls {protocol}://{SERVER}:2379 --advertise-client-urls {protocol}://{SERVER}:2379")
}

/// What a command of patroni-gen-config says on its standard error.
fn says(words: &[&str]) -> String {
    let output = Command::new(PROGRAM).args(words).env_clear().env("PATRONI_TOOLS_ROOT", MACHINE).output().unwrap();
    String::from_utf8(output.stderr).unwrap()
}

fn plain_etcd(image: Image, name: &str) {
    if !inside(name, image) {
        return;
    }
    let section = &format!("etcd3:\n  hosts: ['{SERVER}:2379']");
    let refused = format!(
        "error: etcd3 at {SERVER}:2379: it is unreachable (Connection refused): Start the server, or correct DCS_HOSTS or the firewall."
    );
    assert_eq!(doctor(section, ""), [refused]);
    let server = etcd(&url("http"));
    assert_eq!(doctor(section, ""), [""; 0]);
    // One of several that answers is enough; nobody answers at the second address.
    let away = "etcd3 at 10.99.0.1:2379: it is unreachable (no answer): Start the server, or correct DCS_HOSTS or the firewall.";
    let both = &format!("etcd3:\n  hosts: ['10.99.0.1:2379', '{SERVER}:2379']");
    assert_eq!(doctor(both, ""), [format!("warning: {away}")]);
    assert_eq!(doctor("etcd3:\n  hosts: ['10.99.0.1:2379']", ""), [format!("error: {away}")]);
    // TLS with a server that has none.
    ours("ca.pem", &Authority::new("site").pem());
    assert_eq!(
        doctor(&format!("{section}\n  protocol: https\n  cacert: /etc/patroni/ca.pem"), ""),
        [format!(
            "error: etcd3 at {SERVER}:2379: it does not use TLS: Enable TLS on the server, or remove DCS_CACERT and DCS_CERT and \
             set DCS_PROTOCOL=http, then run: patroni-gen-config 17/main"
        )]
    );
    // A user where there are none.
    let user = &format!("{section}\n  username: patroni\n  password: secret");
    assert_eq!(
        doctor(user, ""),
        [format!(
            "warning: etcd3 at {SERVER}:2379: authentication is off, so all clients can change its data: Remove DCS_USERNAME, or run: \
             etcdctl auth enable"
        )]
    );
    others(section);
    synchronous(section);
    // Something else.
    let listener = TcpListener::bind((OWN, 2379)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"SSH-2.0-x\r\n");
        }
    });
    assert_eq!(
        doctor(&format!("etcd3:\n  hosts: ['{OWN}:2379']"), ""),
        [format!(
            "error: etcd3 at {OWN}:2379: the server is not etcd: Correct DCS_HOSTS, then run: patroni-gen-config 17/main"
        )]
    );
    // What it tells its clients is what Patroni uses.
    drop(server);
    fs::remove_dir_all(format!("{SECOND}/tmp/a")).unwrap();
    let _server = etcd(
        &url("http")
            .replace(&format!("advertise-client-urls http://{SERVER}"), "advertise-client-urls http://localhost"),
    );
    assert_eq!(
        doctor(section, ""),
        [format!(
            "warning: etcd3 at {SERVER}:2379: it advertises http://localhost:2379 to its clients, including Patroni: Correct \
             ETCD_ADVERTISE_CLIENT_URLS on that host."
        )]
    );
}

fn put(key: &str, value: &str) {
    fs::write(format!("{SECOND}/tmp/value"), value).unwrap();
    sh(&etcdctl(&format!("put /lab/17-main/{key} < /tmp/value"))).unwrap();
}

fn member(address: &str, key: &str) -> String {
    format!(r#"{{"api_url":"http://{address}:8008/patroni","state":"running","tags":{{"site_key":"{key}"}}}}"#)
}

/// What the store says of the cluster; its leader is gone afterwards.
fn cluster_as_a_whole(section: &str, tag: &str) {
    // Maintenance mode, a parameter that waits for a restart, and members that are not those of MEMBERS.
    put("config", r#"{"pause": true}"#);
    put("members/pg1", &member(OWN, "aaaaaaaa").replacen('{', r#"{"pending_restart":true,"#, 1));
    let default = fs::read_to_string(format!("{MACHINE}/etc/default/patroni")).unwrap();
    let members = format!("{default}MEMBERS=pg1={OWN},pg2=10.77.0.3,pg4=10.77.0.5\n");
    write(&format!("{MACHINE}/etc/default/patroni"), &members, 0o644);
    assert_eq!(
        doctor(section, tag),
        [
            "warning: /etc/default/patroni:4: MEMBERS has pg4, but the cluster does not: If there is no such member, remove it from MEMBERS on \
             every host and run 'patroni-gen-config 17/main'. Otherwise, run on pg4: systemctl start patroni@17-main",
            "warning: /etc/default/patroni:4: the cluster has the member pg3, but MEMBERS does not: Add pg3=10.77.0.4 to MEMBERS on every \
             host, then run: patroni-gen-config 17/main",
            "warning: /etc/patroni/17-main.yml: the cluster is in maintenance mode, in which no failover happens: End it with: pg_patronictl \
             17/main resume --wait",
            "warning: /etc/patroni/17-main.yml: PostgreSQL of this member must be restarted before new values apply: Restart it with: \
             pg_patronictl 17/main restart --pending pg1",
        ]
    );
    sh(&etcdctl("del /lab/17-main/config")).unwrap();
    sh(&etcdctl("del /lab/17-main/leader")).unwrap();
    assert_eq!(
        doctor(section, tag),
        [
            "warning: /etc/patroni/17-main.yml: PostgreSQL of this member must be restarted before new values apply: Restart it with: \
             pg_patronictl 17/main restart --pending pg1",
            "error: /etc/patroni/17-main.yml: the cluster has no primary, so it accepts no writes; pg4 of MEMBERS is not running: If a \
             running member does not become primary, run on pg4: systemctl start patroni@17-main"
        ]
    );
    write(&format!("{MACHINE}/etc/default/patroni"), &default, 0o644);
    sh(&etcdctl("del /lab/17-main/members/pg1")).unwrap();
}

/// How long the failure of a synchronous standby stops the writes of the running cluster.
fn synchronous(section: &str) {
    const COST: &str = "A replica whose link or disk pauses for longer than wal_sender_timeout is disconnected, as is pg_basebackup over a slow link.";
    let put = |value: &str| {
        fs::write(format!("{SECOND}/tmp/value"), value).unwrap();
        sh(&etcdctl("put /lab/17-main/config < /tmp/value")).unwrap();
    };
    let event = "if a synchronous standby stops responding, writes stop for";
    for silent in [
        r#"{"loop_wait": 60}"#,
        r#"{"loop_wait": 10, "synchronous_mode": true, "postgresql": {"parameters": {"wal_sender_timeout": "4s"}}}"#,
        // With two standbys the other one acknowledges.
        r#"{"loop_wait": 10, "synchronous_mode": "quorum"}"#,
    ] {
        for name in ["pg1", "pg2", "pg3"] {
            sh(&etcdctl(&format!("put /lab/17-main/members/{name} {{}}"))).unwrap();
        }
        put(silent);
        assert_eq!(doctor(section, ""), [""; 0], "{silent}");
        sh(&etcdctl("del --prefix /lab/17-main/members/")).unwrap();
    }
    put(r#"{"synchronous_mode": true}"#);
    assert_eq!(
        doctor(section, ""),
        [format!(
            "warning: dynamic configuration: {event} up to 71 s: wal_sender_timeout (60 s) + loop_wait (10 s) + 1 s: {COST} Set it with: \
             pg_patronictl 17/main edit-config -p wal_sender_timeout=4s"
        )]
    );
    put(r#"{"synchronous_mode": true, "loop_wait": 20, "postgresql": {"parameters": {"wal_sender_timeout": 5000}}}"#);
    assert_eq!(
        doctor(section, ""),
        [format!(
            "warning: dynamic configuration: {event} up to 26 s: wal_sender_timeout (5 s) + loop_wait (20 s) + 1 s: {COST} Set it with: \
             pg_patronictl 17/main edit-config -s loop_wait=10 -p wal_sender_timeout=4s"
        )]
    );
    // A generated file: the settings are applied, or lowered before.
    let settings = |more: &str| {
        let text = format!(
            "HOST_ADDRESS=10.77.0.2\nNETWORK=10.77.0.0/24\nWATCHDOG=off\nDCS_HOSTS={SERVER}:2379\nNAMESPACE=/lab/\nSYNCHRONOUS_MODE=yes\n{more}"
        );
        write(&format!("{MACHINE}/etc/default/patroni"), &text, 0o644);
        fs::remove_file(format!("{MACHINE}/etc/patroni/17-main.yml")).unwrap();
        sh(&format!("PATRONI_TOOLS_ROOT={MACHINE} {PROGRAM} 17/main")).unwrap();
        let output =
            Command::new(PROGRAM).args(["check", "17/main"]).env("PATRONI_TOOLS_ROOT", MACHINE).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    put(r#"{"synchronous_mode": true}"#);
    let apply = format!("{COST} Apply the settings of this host with: patroni-gen-config apply 17/main");
    assert!(settings("").contains(&apply));
    let lower = "Set LOOP_WAIT=10 in /etc/default/patroni:7, then run: patroni-gen-config apply 17/main";
    assert!(settings("LOOP_WAIT=11\nRETRY_TIMEOUT=5\n").contains(lower));
    sh(&etcdctl("del --prefix /lab/17-main/")).unwrap();
    write(
        &format!("{MACHINE}/etc/default/patroni"),
        "HOST_ADDRESS=10.77.0.2\nNETWORK=10.77.0.0/24\nWATCHDOG=off\n",
        0o644,
    );
}

/// What the other members have written into the store.
fn others(section: &str) {
    let tag = "tags: {site_key: 'aaaaaaaa'}\n";
    put("leader", "pg2");
    put("members/pg2", &member("10.77.0.3", "aaaaaaaa"));
    put("members/pg1", &member(OWN, "bbbbbbbb"));
    assert_eq!(doctor(section, tag), [""; 0]);
    put("members/pg3", &member("10.77.0.4", "cccccccc"));
    assert_eq!(
        doctor(section, tag),
        [
            "warning: /etc/patroni/17-main.yml: the site key of pg3 (cccccccc) differs from that of this member and the primary (aaaaaaaa): Copy \
          the file from this host to that one and run patroni-gen-config there, or finish the password rotation."
        ]
    );
    assert_eq!(
        doctor(section, "tags: {site_key: 'cccccccc'}\n"),
        [
            "error: /etc/patroni/17-main.yml: the site key of this member (cccccccc) differs from that of pg2 (aaaaaaaa): Copy the file (SITE_KEY_FILE) \
          from that host or finish the password rotation, then run: patroni-gen-config 17/main"
        ]
    );
    // A host that has made a key of its own, at its first start. One that has none makes none beside a cluster that has one.
    let started = says(&["check", "--dcs", "17/main"]);
    assert!(
        started.contains("the site key of this member (cccccccc) differs from that of pg2 (aaaaaaaa)"),
        "{started}"
    );
    let file = format!("{MACHINE}/etc/patroni/17-main.yml");
    fs::remove_file(&file).unwrap();
    let generated = says(&["17/main", "--set", &format!("DCS_HOSTS={SERVER}:2379"), "--set", "NAMESPACE=/lab/"]);
    assert!(generated.contains("the member pg2 of the running cluster 17/main has one (aaaaaaaa)"), "{generated}");
    assert!(!Path::new(&file).exists() && !Path::new(&format!("{MACHINE}/etc/patroni/site.key")).exists());
    put("members/pg1", &member("10.77.0.9", "aaaaaaaa"));
    put("members/pg3", &member("10.77.0.4", "aaaaaaaa"));
    assert_eq!(
        doctor(section, tag),
        [
            "error: /etc/patroni/17-main.yml: the cluster already has a member pg1, at 10.77.0.9: Set MEMBER_NAME to an unused name, or stop \
          that member, then run: patroni-gen-config 17/main"
        ]
    );
    // Data of another cluster.
    sh(&etcdctl("del /lab/17-main/members/pg1")).unwrap();
    put("initialize", "7");
    write(&format!("{MACHINE}/srv/data/PG_VERSION"), "17\n", 0o600);
    write(&format!("{MACHINE}/srv/data/patroni.dynamic.json"), "{}", 0o600);
    write(&format!("{MACHINE}/srv/data/global/pg_control"), "", 0o600);
    fs::write(format!("{MACHINE}/srv/data/global/pg_control"), 8u64.to_ne_bytes()).unwrap();
    fs::set_permissions(format!("{MACHINE}/srv/data"), Permissions::from_mode(0o700)).unwrap();
    for entry in ["", "/PG_VERSION", "/patroni.dynamic.json", "/global", "/global/pg_control"] {
        chown(format!("{MACHINE}/srv/data{entry}"), Some(112), None).unwrap();
    }
    assert_eq!(
        doctor(section, ""),
        [
            "error: /etc/patroni/17-main.yml: /srv/data belongs to another cluster: its system identifier is 8, that of the cluster is 7: If nothing \
          in it is needed, let Patroni create a replica after: pg_dropcluster 17 main"
        ]
    );
    fs::write(format!("{MACHINE}/srv/data/global/pg_control"), 7u64.to_ne_bytes()).unwrap();
    assert_eq!(doctor(section, ""), [""; 0]);
    cluster_as_a_whole(section, tag);
    assert_eq!(
        doctor(section, ""),
        [
            "error: /etc/patroni/17-main.yml: the cluster has no primary, so it accepts no writes: See 'pg_patronictl 17/main list', and on \
          each member: journalctl -u patroni@17-main"
        ]
    );
    sh(&etcdctl("del --prefix /lab/17-main/")).unwrap();
    fs::remove_dir_all(format!("{MACHINE}/srv/data")).unwrap();
    fs::write(format!("{SECOND}/tmp/value"), "").unwrap();
    sh(&etcdctl("put /lab/17-main/initialize \"\"")).unwrap();
    assert_eq!(
        doctor(section, ""),
        [
            "warning: /etc/patroni/17-main.yml: a bootstrap of this cluster was started but not finished, and all members wait for it: If \
          no member is bootstrapping now, run: patronictl -c /etc/patroni/17-main.yml remove 17-main"
        ]
    );
    sh(&etcdctl("del --prefix /lab/17-main/")).unwrap();
}

#[test]
fn etcd_34() {
    plain_etcd(Image::Stores12, "etcd_34");
}

#[test]
fn etcd_35() {
    plain_etcd(Image::Stores13, "etcd_35");
}

/// One who may do what Patroni does, one who may only read, one who may nothing.
fn users() {
    for words in [
        "user add root:root",
        "user grant-role root root",
        "role add patroni",
        "role grant-permission patroni --prefix=true readwrite /lab/",
        "user add patroni:secret",
        "user grant-role patroni patroni",
        "role add reader",
        "role grant-permission reader --prefix=true read /lab/",
        "user add reader:secret",
        "user grant-role reader reader",
        "user add nobody:secret",
        "auth enable",
    ] {
        sh(&etcdctl(words)).unwrap();
    }
}

#[test]
fn etcd_with_tls_and_users() {
    if !inside("etcd_with_tls_and_users", Image::Stores13) {
        return;
    }
    let (site, other) = certificates();
    let files = "--cert-file /etc/lab/server.pem --key-file /etc/lab/server.key --trusted-ca-file /etc/lab/ca.pem --client-cert-auth";
    let _server = etcd(&format!("{} {files}", url("https")));
    users();
    let with = |ca: &str, own: &str, user: &str, password: &str| {
        let own = if own.is_empty() {
            String::new()
        } else {
            format!("  cert: /etc/patroni/{own}.pem\n  key: /etc/patroni/{own}.key\n")
        };
        let user =
            if user.is_empty() { String::new() } else { format!("  username: {user}\n  password: {password}\n") };
        let section = format!(
            "etcd3:\n  hosts: ['{SERVER}:2379']\n  protocol: https\n  cacert: /etc/patroni/{ca}.pem\n{own}{user}"
        );
        doctor(section.trim_end(), "").join("\n").replace(&format!("error: etcd3 at {SERVER}:2379: "), "")
    };
    let good = || with("ca", "own", "patroni", "secret");
    let then = ", then run: patroni-gen-config 17/main";
    assert_eq!(good(), "");
    assert_eq!(
        with("other", "own", "patroni", "secret"),
        "its certificate is not signed by /etc/patroni/other.pem (self-signed certificate in certificate chain): Add the CA \
         certificate that signed it to that file (DCS_CACERT)."
            .replace("self-signed certificate in certificate chain", "unable to get local issuer certificate")
    );
    assert_eq!(
        with("ca", "", "patroni", "secret"),
        format!("it requires a client certificate (tlsv13 alert certificate required): Set DCS_CERT and DCS_KEY{then}")
    );
    assert_eq!(
        with("ca", "foreign", "patroni", "secret"),
        "it rejects the client certificate /etc/patroni/foreign.pem (tlsv1 alert unknown ca): Correct DCS_CERT, or the CA certificate on the \
         server."
    );
    assert_eq!(
        with("ca", "named", "patroni", "secret"),
        "it has users, and therefore accepts no client certificate with a common name (CN): Reissue DCS_CERT with a subject without one, \
         such as O=Example."
    );
    // Once, though the server refuses it too.
    assert_eq!(
        with("ca", "expired", "patroni", "secret"),
        "error: /etc/patroni/17-main.yml: etcd3.cert /etc/patroni/expired.pem has expired (DATE): Renew it."
    );
    assert_eq!(
        with("ca", "own", "patroni", "wrong"),
        format!(
            "it rejects the user patroni (authentication failed, invalid user ID or password): Correct DCS_USERNAME or the password in \
             DCS_PASSWORD_FILE{then}"
        )
    );
    assert_eq!(
        with("ca", "own", "", ""),
        format!("it requires a user (permission denied): Set DCS_USERNAME and DCS_PASSWORD_FILE{then}")
    );
    let grant = "Grant it to a role of this user with: etcdctl role grant-permission ROLE --prefix=true readwrite /lab/17-main/";
    assert_eq!(
        with("ca", "own", "nobody", "secret"),
        format!("the user nobody may neither read nor write the keys below /lab/17-main/ (permission denied): {grant}")
    );
    assert_eq!(
        with("ca", "own", "reader", "secret"),
        format!("the user reader may only read the keys below /lab/17-main/ (permission denied): {grant}")
    );
    let clear = doctor(&format!("etcd3:\n  hosts: ['{SERVER}:2379']"), "").join("\n");
    assert_eq!(
        clear,
        format!(
            "error: etcd3 at {SERVER}:2379: it closed the connection (without an answer): Check its log, or, if it requires \
             TLS, set DCS_CACERT{then}"
        )
    );
    // The server reads its files for each connection.
    theirs(&site.issue(address(SERVER), PAST, true));
    assert_eq!(good(), "its certificate (CN=member) has expired (DATE): Renew it on the server.");
    theirs(&site.issue(address(SERVER), 5..30, true));
    assert_eq!(
        good(),
        "its certificate (CN=member) is not valid before DATE: Correct the clock of this host, or the certificate."
    );
    theirs(&site.issue(address(OWN), NOW, true));
    assert_eq!(
        good(),
        format!(
            "its certificate is for {OWN}, not for {SERVER}: Use that name in DCS_HOSTS, or reissue the certificate{then}"
        )
    );
    theirs(&other.issue(address(SERVER), NOW, true));
    assert!(good().starts_with("its certificate is not signed by /etc/patroni/ca.pem ("), "{}", good());
}

/// A server that has lost the others answers, but decides nothing.
#[test]
fn etcd_without_a_leader() {
    if !inside("etcd_without_a_leader", Image::Stores13) {
        return;
    }
    let start = |name: &str, number: u16| {
        let words = format!(
            "chroot {SECOND} etcd --name {name} --data-dir /tmp/{name} --listen-peer-urls http://{SERVER}:{number}1 \
             --initial-advertise-peer-urls http://{SERVER}:{number}1 --initial-cluster a=http://{SERVER}:231,b=http://{SERVER}:241 \
             --listen-client-urls http://{SERVER}:{number}9 --advertise-client-urls http://{SERVER}:{number}9"
        );
        let words: Vec<&str> = words.split_whitespace().collect();
        Daemon::start(&words, &format!("/run/{name}.log")).unwrap()
    };
    let (_first, second) = (start("a", 23), start("b", 24));
    let section = format!("etcd3:\n  hosts: ['{SERVER}:239']");
    until_ok(
        &format!(
            "nsenter --net=/run/netns/dns chroot {SECOND} env ETCDCTL_API=3 etcdctl --endpoints=http://{SERVER}:239 endpoint health"
        ),
        "/run/a.log",
    )
    .unwrap();
    assert_eq!(
        doctor(&section, ""),
        [format!(
            "warning: etcd3 at {SERVER}:239: Patroni knows only this one of 2 servers when it starts: Set DCS_HOSTS={SERVER}:239,{SERVER}:249, \
             then run: patroni-gen-config 17/main && systemctl restart patroni@17-main"
        )]
    );
    drop(second);
    thread::sleep(Duration::from_secs(3));
    assert_eq!(
        doctor(&section, ""),
        [format!(
            "error: etcd3 at {SERVER}:239: it responds, but etcd has no leader: Start the other servers of etcd: more than half must be running \
             (see etcdctl endpoint status --cluster)."
        )]
    );
}

#[test]
fn consul_with_acl_and_tls() {
    const MANAGEMENT: &str = "0f4d4d2e-64d1-4f6a-9c0b-9b3c2c1ad0c0";
    const TOKEN: &str = "6f6e2a57-7b52-4c1c-8bd4-0d5a1a4e8a11";
    const READER: &str = "6f6e2a57-7b52-4c1c-8bd4-0d5a1a4e8a12";
    if !inside("consul_with_acl_and_tls", Image::Stores13) {
        return;
    }
    let (site, _) = certificates();
    write(
        &format!("{TLS}/consul.json"),
        &format!(
            r#"{{"server": true, "bootstrap_expect": 1, "datacenter": "lab", "bind_addr": "{SERVER}", "data_dir": "/tmp/consul",
            "performance": {{"raft_multiplier": 1}}, "ports": {{"http": 8500, "https": 8501}}, "client_addr": "{SERVER}",
            "verify_incoming_https": true, "ca_file": "/etc/lab/ca.pem", "cert_file": "/etc/lab/server.pem",
            "key_file": "/etc/lab/server.key",
            "acl": {{"enabled": true, "default_policy": "deny", "tokens": {{"master": "{MANAGEMENT}"}}}}}}"#
        ),
        0o644,
    );
    let start = || {
        let words = ["chroot", SECOND, "consul", "agent", "-config-file", "/etc/lab/consul.json"];
        let server = Daemon::start(&words, "/run/consul.log").unwrap();
        until_listening(8500, "/run/consul.log").unwrap();
        until_listening(8501, "/run/consul.log").unwrap();
        server
    };
    let consul = |words: &str| {
        format!(
            "nsenter --net=/run/netns/dns chroot {SECOND} env CONSUL_HTTP_TOKEN={MANAGEMENT} CONSUL_HTTP_ADDR=http://{SERVER}:8500 \
             consul {words}"
        )
    };
    let server = start();
    until_ok(&consul("acl policy create -name probe"), "/run/consul.log").unwrap();
    let rules = r#"key_prefix "lab/17-main/" { policy = "write" } session_prefix "" { policy = "write" }
        service_prefix "17-main" { policy = "write" } node_prefix "" { policy = "read" } agent_prefix "" { policy = "read" }"#;
    write(&format!("{TLS}/patroni.hcl"), rules, 0o644);
    write(&format!("{TLS}/reader.hcl"), &rules.replace("\"write\"", "\"read\""), 0o644);
    for (name, token) in [("patroni", TOKEN), ("reader", READER)] {
        sh(&consul(&format!("acl policy create -name {name} -rules @/etc/lab/{name}.hcl"))).unwrap();
        sh(&consul(&format!("acl token create -secret {token} -policy-name {name}"))).unwrap();
    }
    let place = |port: u16| format!("error: consul at {SERVER}:{port}: ");
    let with = |token: &str, more: &str| {
        let token = if token.is_empty() { String::new() } else { format!("  token: {token}\n") };
        let section = format!("consul:\n  host: {SERVER}:8500\n  register_service: true\n{token}{more}");
        doctor(section.trim_end(), "").join("\n").replace(&place(8500), "")
    };
    let then = ", then run: patroni-gen-config 17/main";
    assert_eq!(with(TOKEN, ""), "");
    assert_eq!(
        with("6f6e2a57-7b52-4c1c-8bd4-000000000000", ""),
        format!("it rejects the token (ACL not found): Correct the token in DCS_TOKEN_FILE{then}")
    );
    let rights = r#"key_prefix "lab/17-main/" { policy = "write" } session_prefix "" { policy = "write" } service_prefix "17-main" { policy = "write" }"#;
    assert_eq!(
        with(READER, ""),
        format!("the token lacks permissions that Patroni needs: Add to its policy: {rights}")
    );
    let some = rights.replace(r#" session_prefix "" { policy = "write" }"#, "");
    assert_eq!(
        with("", ""),
        format!(
            "without a token, Patroni lacks permissions that it needs: Set DCS_TOKEN_FILE to a token with {some}{then}"
        )
    );
    assert_eq!(
        with(TOKEN, "  dc: nowhere\n"),
        format!("it does not know the datacenter nowhere: Correct CONSUL_DC{then}")
    );
    assert_eq!(with(TOKEN, "  dc: lab\n"), "");
    let secure = |ca: &str, own: &str| {
        let own = if own.is_empty() {
            String::new()
        } else {
            format!("  cert: /etc/patroni/{own}.pem\n  key: /etc/patroni/{own}.key\n")
        };
        let section = format!(
            "consul:\n  host: {SERVER}:8501\n  scheme: https\n  cacert: /etc/patroni/{ca}.pem\n  token: {TOKEN}\n{own}"
        );
        doctor(section.trim_end(), "").join("\n").replace(&place(8501), "")
    };
    assert_eq!(secure("ca", "own"), "");
    assert!(secure("other", "own").starts_with("its certificate is not signed by /etc/patroni/other.pem ("));
    assert_eq!(
        secure("ca", ""),
        format!("it requires a client certificate (sslv3 alert bad certificate): Set DCS_CERT and DCS_KEY{then}")
    );
    let clear = doctor(&format!("consul:\n  host: {SERVER}:8501"), "");
    assert_eq!(clear, [format!("{}it requires TLS: Set DCS_CACERT or DCS_PROTOCOL=https{then}", place(8501))]);
    drop(server);
    theirs(&site.issue(address(SERVER), PAST, true));
    let _server = start();
    until_ok(&consul("catalog datacenters"), "/run/consul.log").unwrap();
    assert_eq!(secure("ca", "own"), "its certificate (CN=member) has expired (DATE): Renew it on the server.");
}

const ZOOKEEPER: &str = "tickTime=1000
initLimit=10
syncLimit=5
dataDir=/tmp/zookeeper
clientPort=2181
clientPortAddress=10.77.0.53
secureClientPort=2281
serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory
ssl.keyStore.location=/etc/lab/both.pem
ssl.keyStore.type=PEM
ssl.trustStore.location=/etc/lab/ca.pem
ssl.trustStore.type=PEM
ssl.clientAuth=need
authProvider.x509=org.apache.zookeeper.server.auth.X509AuthenticationProvider
admin.enableServer=false
4lw.commands.whitelist=ruok
";

/// Makes a node that only the digest user may use.
const PROTECT: &str = "
from kazoo.client import KazooClient
from kazoo.security import make_digest_acl
client = KazooClient(hosts='10.77.0.53:2181')
client.start(timeout=20)
client.create('/lab', acl=[make_digest_acl('patroni', 'secret', all=True)])
client.stop()
";

fn zookeeper(image: Image, name: &str) {
    if !inside(name, image) {
        return;
    }
    let (_site, _other) = certificates();
    write(&format!("{TLS}/zoo.cfg"), ZOOKEEPER, 0o644);
    write(&format!("{TLS}/protect.py"), PROTECT, 0o644);
    let section = format!("zookeeper:\n  hosts: ['{SERVER}:2181']");
    let start = || {
        // Debian's class path lacks the codecs of Netty (doc of the lab); both names of the same file would be too many.
        let line = "exec java -cp /etc/zookeeper/conf:/usr/share/java/zookeeper.jar:$(ls /usr/share/java/netty*.jar | grep -v Final | \
                    tr '\\n' :) org.apache.zookeeper.server.quorum.QuorumPeerMain /etc/lab/zoo.cfg";
        let server = Daemon::start(&["chroot", SECOND, "sh", "-c", line], "/run/zookeeper.log").unwrap();
        until_listening(2181, "/run/zookeeper.log").unwrap();
        until_listening(2281, "/run/zookeeper.log").unwrap();
        server
    };
    let _server = start();
    let begin = Instant::now();
    while !doctor(&section, "").is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(40), "{}", fs::read_to_string("/run/zookeeper.log").unwrap());
        thread::sleep(Duration::from_millis(200));
    }
    sh(&format!("nsenter --net=/run/netns/dns chroot {SECOND} python3 /etc/lab/protect.py")).unwrap();
    let then = ", then run: patroni-gen-config 17/main";
    let place = format!("error: zookeeper at {SERVER}:2181: ");
    assert_eq!(
        doctor(&section, ""),
        [format!(
            "{place}reading /lab is not permitted (NoAuth): Set DCS_USERNAME and DCS_PASSWORD_FILE, or DCS_CERT{then}"
        )]
    );
    let user = |password: &str| doctor(&format!("{section}\n  auth_data: {{digest: 'patroni:{password}'}}"), "");
    let open = "everyone can change the nodes that Patroni creates";
    assert!(user("secret").len() == 1 && user("secret")[0].contains(open), "{:?}", user("secret"));
    assert_eq!(
        user("wrong")[1],
        format!("{place}reading /lab is not permitted (NoAuth): Correct DCS_USERNAME and DCS_PASSWORD_FILE{then}")
    );
    let secure = |ca: &str, own: &str| {
        let own = if own.is_empty() {
            String::new()
        } else {
            format!("\n  cert: /etc/patroni/{own}.pem\n  key: /etc/patroni/{own}.key")
        };
        let section = format!(
            "zookeeper:\n  hosts: ['{SERVER}:2281']\n  use_ssl: true\n  cacert: /etc/patroni/{ca}.pem\n  auth_data: {{digest: 'patroni:secret'}}{own}"
        );
        // The first handshakes of a Java program take seconds on a busy host.
        let asked = (0..20).map(|_| doctor(&section, ""));
        let said =
            asked.into_iter().find(|said| !said.iter().any(|line| line.contains("did not respond within"))).unwrap();
        let said: Vec<&String> = said.iter().filter(|line| !line.contains(open)).collect();
        said.first().map_or_else(String::new, |line| line.replace(&format!("error: zookeeper at {SERVER}:2281: "), ""))
    };
    assert_eq!(secure("ca", "own"), "");
    assert!(secure("other", "own").starts_with("its certificate is not signed by /etc/patroni/other.pem ("));
    assert!(secure("ca", "").contains("requires a client certificate"), "{}", secure("ca", ""));
    assert!(secure("ca", "foreign").contains("/etc/patroni/foreign.pem"), "{}", secure("ca", "foreign"));
    // Without TLS at the port that has it.
    let clear = doctor(&format!("zookeeper:\n  hosts: ['{SERVER}:2281']"), "");
    assert!(
        clear[0].contains("If this is a TLS port, set DCS_CACERT") || clear[0].contains("if it requires TLS"),
        "{clear:?}"
    );
}

#[test]
fn zookeeper_38() {
    zookeeper(Image::Stores12, "zookeeper_38");
}

#[test]
fn zookeeper_39() {
    zookeeper(Image::Stores13, "zookeeper_39");
}

/// The REST APIs of the other members, of which this one knows by the store.
#[test]
fn the_others_rest_apis() {
    if !inside("the_others_rest_apis", Image::Stores13) {
        return;
    }
    let (site, other) = certificates();
    let _server = etcd(&url("http"));
    let api = |port: u16, pair: &Pair| {
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
        acceptor.set_certificate(&X509::from_pem(pair.certificate.as_bytes()).unwrap()).unwrap();
        acceptor.set_private_key(&PKey::private_key_from_pem(pair.key.as_bytes()).unwrap()).unwrap();
        let acceptor = acceptor.build();
        let listener = TcpListener::bind((OWN, port)).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = acceptor.accept(stream.unwrap()) else { continue };
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n");
                let _ = stream.shutdown();
            }
        });
        let value = format!(r#"{{"api_url":"https://{OWN}:{port}/patroni"}}"#);
        fs::write(format!("{SECOND}/tmp/value"), value).unwrap();
        sh(&etcdctl(&format!("put /lab/17-main/members/pg{port} < /tmp/value"))).unwrap();
    };
    api(1, &site.issue(address(OWN), NOW, true));
    api(2, &site.issue(address(OWN), PAST, true));
    api(3, &site.issue(address(SERVER), NOW, true));
    api(4, &other.issue(address(OWN), NOW, true));
    // One that is away.
    fs::write(format!("{SECOND}/tmp/value"), format!(r#"{{"api_url":"https://{OWN}:5/patroni"}}"#)).unwrap();
    sh(&etcdctl("put /lab/17-main/members/pg5 < /tmp/value")).unwrap();
    let section = format!("ctl: {{cacert: /etc/patroni/ca.pem}}\netcd3:\n  hosts: ['{SERVER}:2379']");
    let mut said = doctor(&section, "");
    let last = said.pop().unwrap_or_default();
    assert_eq!(
        said,
        [
            "warning: REST API of pg2: its certificate (CN=member) has expired (DATE): Renew RESTAPI_CERT on that host."
                .to_owned(),
            format!(
                "warning: REST API of pg3: its certificate is for {SERVER}, not for {OWN}: Reissue the certificate for that address."
            ),
        ]
    );
    assert!(
        last.starts_with("warning: REST API of pg4: its certificate is not signed by /etc/patroni/ca.pem ("),
        "{last}"
    );
    assert!(last.ends_with("): Correct RESTAPI_CACERT on this host, or RESTAPI_CERT on that one."), "{last}");
}
