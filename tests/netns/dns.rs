//! The DNS record of the client endpoint against real servers: BIND, MIT Kerberos, Samba.
//!
//! Acts with our code, looks with dig. Each test runs in namespaces of its own, in a throw-away copy of an image.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::cell::Cell;
use std::fs;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dnscp::dns::trial::{ask_all, trial};
use dnscp::dns::withdraw::{command, withdraw};
use dnscp::dns::{self, Outcome};
use host::Root;
use host::endpoint::{Auth, Dns, GssSecret};
use host::trouble::Trouble;
use lab::image::Image;
use lab::world::record::Asker;
use lab::world::servers::{domain_controller, kdc, named};
use lab::world::{SERVER, World, servers};

const LIMIT: Duration = Duration::from_secs(180);

/// Runs the test `name` again in namespaces of its own. True for that second run.
fn inside(name: &str, second: Option<Image>) -> bool {
    second.into_iter().fold(World::new(LIMIT), World::with_second).test(name).unwrap()
}

fn sh(line: &str) -> String {
    servers::sh(line).unwrap()
}

fn secret(path: &str, text: impl AsRef<[u8]>) {
    servers::secret(path, text).unwrap();
}

/// The settings of a name at the test's server.
fn settings(name: &str) -> Dns {
    Dns { name: name.to_owned(), zone: None, servers: vec![SERVER.to_owned()], ttl: 30, auth: Auth::None }
}

fn gss(principal: &str, secret: GssSecret) -> Auth {
    Auth::Gss { principal: principal.to_owned(), secret }
}

/// What dig shows, sorted: `TTL type data`.
fn dig(name: &str) -> Vec<String> {
    let line = format!("for t in A AAAA; do dig +noall +answer @{SERVER} {name} $t; done");
    let mut found: Vec<String> = sh(&line)
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            format!("{} {} {}", words[1], words[3], words[4])
        })
        .collect();
    found.sort();
    found
}

fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

fn root() -> Root {
    Root::new("/")
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

/// Registers as a primary does.
fn register(dns: &Dns, wanted: &[&str]) -> anyhow::Result<Outcome> {
    dns::register(&root(), dns, &addresses(wanted), false, &|| true, soon())
}

fn changed(dns: &Dns, wanted: &[&str]) {
    let outcome = register(dns, wanted).unwrap();
    assert!(matches!(outcome, Outcome::Changed { .. }), "{outcome}");
}

/// Registers, and gives the reason why it does not work, and how long that took.
fn refused(dns: &Dns) -> (String, Duration) {
    let begin = Instant::now();
    let error = register(dns, &["10.77.0.10"]).expect_err("it works");
    let (text, took) = (shown(&error), begin.elapsed());
    println!("{:>6.0} ms  {text}", took.as_secs_f64() * 1e3);
    assert!(!text.contains('\n'), "one line: {text}");
    (text, took)
}

/// The error with its hint.
fn shown(error: &anyhow::Error) -> String {
    let trouble = Trouble::of(error);
    format!("{} ({})", trouble.line(), trouble.hint.unwrap_or_default())
}

fn refused_at_a_change(dns: &Dns, part: &str) {
    let (text, _) = refused(dns);
    assert!(text.contains(part), "no '{part}' in: {text}");
}

/// The trial finds the same, and changes nothing.
fn refused_because(dns: &Dns, part: &str) {
    refused_at_a_change(dns, part);
    let before = dig(&dns.name);
    let error = trial(&root(), dns, &addresses(&["10.77.0.10"]), soon()).expect_err("the trial works");
    assert!(shown(&error).contains(part), "no '{part}' in: {}", shown(&error));
    assert_eq!(dig(&dns.name), before);
}

/// The trial finds nothing wrong, and changes nothing.
fn tried(dns: &Dns) {
    let before = dig(&dns.name);
    trial(&root(), dns, &addresses(&["10.77.0.10"]), soon()).unwrap();
    assert_eq!(dig(&dns.name), before);
}

fn tsig(file: &str) -> Auth {
    Auth::Tsig(PathBuf::from(file))
}

/// The median time of some replaces.
fn measure(what: &str, dns: &Dns, count: u8) -> Duration {
    let mut times: Vec<Duration> = (1..=count)
        .map(|number| {
            let begin = Instant::now();
            changed(dns, &[&format!("10.77.1.{number}")]);
            begin.elapsed()
        })
        .collect();
    times.sort();
    let median = times[times.len() / 2];
    println!("{what}: median {median:.2?}, longest {:.2?} of {count}", times[times.len() - 1]);
    median
}

#[test]
fn anonymous() {
    if !inside("anonymous", None) {
        return;
    }
    let _named = named().unwrap();
    let mut dns = settings("pgsql.example.test");
    changed(&dns, &["10.77.0.10"]);
    assert_eq!(dig("pgsql.example.test"), ["30 A 10.77.0.10"]);
    assert!(matches!(register(&dns, &["10.77.0.10"]).unwrap(), Outcome::Unchanged { .. }));
    // Both families, in place of the one.
    changed(&dns, &["fd77::10", "10.77.0.11"]);
    assert_eq!(dig("pgsql.example.test"), ["30 A 10.77.0.11", "30 AAAA fd77::10"]);
    let answer = dns::lookup(&root(), &dns, soon()).unwrap();
    assert_eq!((answer.addresses, answer.ttl), (addresses(&["10.77.0.11", "fd77::10"]), Some(30)));
    assert_eq!(answer.server.to_string(), "10.77.0.53:53");
    // An address more, and the other family gone.
    changed(&dns, &["10.77.0.11", "10.77.0.12"]);
    assert_eq!(dig("pgsql.example.test"), ["30 A 10.77.0.11", "30 A 10.77.0.12"]);
    // So many that neither the update nor the answer goes by UDP.
    let many: Vec<String> = (1..=60).map(|number| format!("10.77.5.{number}")).collect();
    changed(&dns, &many.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(dns::lookup(&root(), &dns, soon()).unwrap().addresses.len(), 60);
    dns.ttl = 0;
    changed(&dns, &["10.77.0.11"]);
    assert_eq!(dig("pgsql.example.test"), ["0 A 10.77.0.11"]);
    // Asked to, it registers again what is right.
    let again = dns::register(&root(), &dns, &addresses(&["10.77.0.11"]), true, &|| true, soon()).unwrap();
    assert!(matches!(again, Outcome::Changed { .. }));
    // Other records of the name stay.
    sh("printf 'server 10.77.0.53\nupdate add pgsql.example.test 60 TXT keep\nsend\n' | nsupdate");
    changed(&dns, &["10.77.0.13"]);
    assert_eq!(sh("dig +short @10.77.0.53 pgsql.example.test TXT"), "\"keep\"");
    // By IPv6, by the zone's own name, and with the zone given.
    dns.servers = vec!["[fd77::53]:53".to_owned()];
    dns.zone = Some("example.test".to_owned());
    changed(&dns, &["10.77.0.14"]);
    // A name that a wildcard answers for: what is seen is not what the name has.
    changed(&settings("a.wild.example.test"), &["10.77.0.15"]);
    assert_eq!(dig("a.wild.example.test"), ["30 A 10.77.0.15"]);
    assert_eq!(dig("b.wild.example.test"), ["300 A 10.77.0.8"]);
    dns.servers = vec![SERVER.to_owned()];
    dns.zone = None;
    assert!(measure("anonymous", &dns, 50) < Duration::from_millis(40));
}

#[test]
fn reasons() {
    if !inside("reasons", None) {
        return;
    }
    let _named = named().unwrap();
    refused_because(&settings("pgsql.tsig.test"), "Let the zone tsig.test accept A and AAAA of pgsql.tsig.test");
    refused_because(&settings("pgsql.foreign.test"), "the zone of pgsql.foreign.test is not known there");
    let foreign = Dns { zone: Some("foreign.test".to_owned()), ..settings("pgsql.foreign.test") };
    refused_because(&foreign, "not authoritative for the zone foreign.test");
    let outside = Dns { zone: Some("example.test".to_owned()), ..settings("pgsql.tsig.test") };
    refused_because(&outside, "the name pgsql.tsig.test is not in the zone example.test");
    refused_because(&settings("alias.example.test"), "is an alias (CNAME) of elsewhere.example.test");
    let error = dns::lookup(&root(), &settings("pgsql.foreign.test"), soon()).unwrap_err();
    assert!(shown(&error).contains("not authoritative"), "{}", shown(&error));
    let outcome =
        dns::register(&root(), &settings("p.example.test"), &addresses(&["10.77.0.9"]), false, &|| false, soon());
    assert_eq!(outcome.unwrap(), Outcome::NotPrimary);
    assert!(dig("p.example.test").is_empty(), "sent all the same");
}

#[test]
fn tsig_keys() {
    if !inside("tsig_keys", None) {
        return;
    }
    let _named = named().unwrap();
    let with = |auth: Auth| Dns { auth, ..settings("pgsql.tsig.test") };
    changed(&with(tsig("/etc/bind/updkey.key")), &["10.77.0.10", "fd77::10"]);
    assert_eq!(dig("pgsql.tsig.test"), ["30 A 10.77.0.10", "30 AAAA fd77::10"]);
    changed(&with(tsig("/etc/bind/sha512.key")), &["10.77.0.11"]);
    tried(&with(tsig("/etc/bind/updkey.key")));
    // Where only A is granted, an AAAA that is not there needs no removal.
    changed(&Dns { name: "pgsql.narrow.test".to_owned(), ..with(tsig("/etc/bind/updkey.key")) }, &["10.77.0.10"]);
    let other = Dns { name: "other.narrow.test".to_owned(), ..with(tsig("/etc/bind/updkey.key")) };
    refused_because(&other, "accept A and AAAA of other.narrow.test");

    let key = fs::read_to_string("/etc/bind/updkey.key").unwrap();
    let right = key.split('"').nth(3).unwrap();
    let wrong = sh("tsig-keygen updkey").split('"').nth(3).unwrap().to_owned();
    secret("/etc/wrong.key", key.replace(right, &wrong));
    refused_because(&with(tsig("/etc/wrong.key")), "BADSIG");
    secret("/etc/unknown.key", key.replace("updkey", "unknown"));
    refused_because(&with(tsig("/etc/unknown.key")), "BADKEY");
    secret("/etc/algorithm.key", key.replace("sha256", "sha384"));
    refused_because(&with(tsig("/etc/algorithm.key")), "BADKEY");
    secret("/etc/broken.key", key.replace(right, "?"));
    refused_because(&with(tsig("/etc/broken.key")), "/etc/broken.key:3: the secret is not base64");
    refused_because(&with(tsig("/etc/none.key")), "there is no file /etc/none.key");
    secret("/etc/open.key", &key);
    sh("chmod 644 /etc/open.key");
    refused_because(&with(tsig("/etc/open.key")), "other users can read this secret (mode 0644)");
    secret("/etc/theirs.key", &key);
    sh("chown nobody /etc/theirs.key");
    refused_because(&with(tsig("/etc/theirs.key")), "does not belong to root");
    assert_eq!(dig("pgsql.tsig.test"), ["30 A 10.77.0.11"]);

    // With the clock of this process an hour ahead, and then 4 minutes.
    let faketime = |shift: &str| sh(&format!("PART=tsig DONT_FAKE_MONOTONIC=1 timeout 20 faketime -f {shift} {PART}"));
    let hour = faketime("+3600s");
    println!("{}", hour.lines().find(|line| line.contains("BADTIME")).expect(&hour));
    assert!(faketime("+240s").contains("part: registered"));

    assert!(measure("TSIG", &with(tsig("/etc/bind/updkey.key")), 50) < Duration::from_millis(40));
}

/// A process of its own for the tests that need one: with another clock, as another user, or to be killed.
#[test]
#[ignore = "a part of other tests"]
fn part() {
    let (name, auth) = match std::env::var("PART").as_deref() {
        Ok("tsig") => ("part.tsig.test", tsig("/etc/bind/updkey.key")),
        Ok("keytab") => ("pgsql.gss.test", gss("pgsql$@GSS.TEST", GssSecret::Keytab("/etc/pgsql.keytab".into()))),
        Ok("password") => ("pgsql.gss.test", gss("pgsql$@GSS.TEST", GssSecret::Password("/etc/pgsql.password".into()))),
        _ => return,
    };
    match register(&Dns { auth, ..settings(name) }, &["10.77.9.9"]) {
        Ok(outcome) => println!("part: {outcome}"),
        Err(error) => println!("part: {}", shown(&error)),
    }
}

const PART: &str = "/program --exact part --ignored --nocapture --test-threads=1";

/// What is frozen between its look at Patroni and its message comes too late.
#[test]
fn a_late_update_of_an_old_primary_does_not_win() {
    if !inside("a_late_update_of_an_old_primary_does_not_win", None) {
        return;
    }
    let _kdc = kdc().unwrap();
    let _named = named().unwrap();
    let keytab = || gss("pgsql$@GSS.TEST", GssSecret::Keytab("/etc/pgsql.keytab".into()));
    for (name, auth, options) in [
        ("pgsql.example.test", Auth::None, ""),
        ("pgsql.tsig.test", tsig("/etc/bind/updkey.key"), "-k /etc/bind/updkey.key"),
        ("pgsql.gss.test", keytab(), "-g"),
    ] {
        let dns = Dns { auth, ..settings(name) };
        changed(&dns, &["10.77.0.1"]);
        // The new primary registers while the old one believes that it still is the primary.
        let looks = Cell::new(0);
        let new_primary = |address: &str| {
            sh(&format!(
                "export KRB5CCNAME=MEMORY: KRB5_CLIENT_KTNAME=/etc/pgsql.keytab
                printf 'server {SERVER}\nupdate delete {name} A\nupdate add {name} 30 A {address}\nsend\n' | nsupdate {options}"
            ));
        };
        let frozen = || {
            looks.set(looks.get() + 1);
            if looks.get() == 1 {
                new_primary("10.77.0.2");
            }
            looks.get() == 1
        };
        let outcome = dns::register(&root(), &dns, &addresses(&["10.77.0.3"]), false, &frozen, soon()).unwrap();
        assert_eq!((outcome, looks.get()), (Outcome::NotPrimary, 2), "{name}");
        assert_eq!(dig(name), ["30 A 10.77.0.2"], "{name}");
        // Who still is the primary registers all the same.
        looks.set(0);
        let interrupted = || {
            looks.set(looks.get() + 1);
            if looks.get() == 1 {
                new_primary("10.77.0.4");
            }
            true
        };
        let outcome = dns::register(&root(), &dns, &addresses(&["10.77.0.3"]), false, &interrupted, soon()).unwrap();
        assert!(matches!(outcome, Outcome::Changed { .. }), "{name}: {outcome}");
        assert_eq!(dig(name), ["30 A 10.77.0.3"], "{name}");
    }
}

/// A name that the settings no longer have is removed if its records are those of this member; else the command for it works.
#[test]
fn an_old_name_is_removed() {
    if !inside("an_old_name_is_removed", None) {
        return;
    }
    let _kdc = kdc().unwrap();
    let _named = named().unwrap();
    let keytab = || gss("pgsql$@GSS.TEST", GssSecret::Keytab("/etc/pgsql.keytab".into()));
    for (name, auth) in [
        ("pgsql.example.test", Auth::None),
        ("pgsql.tsig.test", tsig("/etc/bind/updkey.key")),
        ("pgsql.gss.test", keytab()),
    ] {
        let dns = Dns { auth, ..settings(name) };
        let gone = |ours: &[&str], primary: bool| withdraw(&root(), &dns, &addresses(ours), &|| primary, soon());
        changed(&dns, &["10.77.0.10", "fd77::10"]);
        tried(&dns);
        assert!(gone(&["10.77.0.10"], true).is_err(), "{name}: not all of them are ours");
        assert_eq!(gone(&["fd77::10", "10.77.0.10"], false).unwrap(), Outcome::NotPrimary);
        assert_eq!(dig(name).len(), 2, "{name}");
        assert!(matches!(gone(&["fd77::10", "10.77.0.10"], true).unwrap(), Outcome::Changed { .. }));
        assert!(dig(name).is_empty(), "{name}");
        assert!(matches!(gone(&["10.77.0.10"], true).unwrap(), Outcome::Unchanged { .. }));
        tried(&dns);
        changed(&dns, &["10.77.0.11"]);
        let program = command(&dns).replace("kinit ", "export KRB5CCNAME=FILE:/run/ticket; kinit ");
        sh(&program);
        assert!(dig(name).is_empty(), "{name}: {program}");
    }
}

/// Each server is asked, at the same time.
#[test]
fn every_server_has_its_say() {
    if !inside("every_server_has_its_say", None) {
        return;
    }
    let _named = named().unwrap();
    let servers = ["10.99.0.1", SERVER, "10.77.0.53:5300"].map(str::to_owned).to_vec();
    let dns = Dns { servers, auth: tsig("/etc/bind/updkey.key"), ..settings("pgsql.tsig.test") };
    let (begin, three) = (Instant::now(), Duration::from_secs(3));
    let opinions = ask_all(&root(), &dns, &addresses(&["10.77.0.10"]), three, three);
    assert!(begin.elapsed() < Duration::from_millis(3700), "{:?}", begin.elapsed());
    let said: Vec<String> = opinions
        .iter()
        .map(|opinion| match (&opinion.answer, &opinion.login) {
            (Ok(answer), Ok(())) => answer.server.to_string(),
            (Err(why), _) | (_, Err(why)) => why.line(),
        })
        .collect();
    assert!(said[0].contains("10.99.0.1:53: it did not answer within"), "{said:?}");
    assert_eq!(said[1], "10.77.0.53:53");
    assert!(said[2].contains("10.77.0.53:5300: no DNS server runs there"), "{said:?}");
}

/// The first resolver does not respond.
const HALF_DEAD: &str = "nameserver 10.99.0.1\nnameserver 10.77.0.53\n";

/// `dnscp status` has 3 s.
fn in_time_for_status(dns: &Dns) {
    let begin = Instant::now();
    dns::lookup(&root(), dns, begin + Duration::from_secs(3)).unwrap();
    println!("{:>6.0} ms  with the first resolver dead", begin.elapsed().as_secs_f64() * 1e3);
}

#[test]
fn silent_servers_are_bounded() {
    if !inside("silent_servers_are_bounded", None) {
        return;
    }
    let _named = named().unwrap();
    let at = |servers: &[&str]| Dns {
        servers: servers.iter().map(|&server| server.to_owned()).collect(),
        ..settings("pgsql.example.test")
    };
    // A listener that nobody accepts from: the kernel takes the connection.
    let _tcp = TcpListener::bind("127.0.0.1:5399").unwrap();
    let _udp = UdpSocket::bind("127.0.0.1:5399").unwrap();
    for (server, part) in [
        ("10.77.0.53:5300", "connection refused"),
        ("127.0.0.1:5399", "accepts the connection, but did not answer"),
        ("10.99.0.1", "it did not answer within"),
        ("10.77.0.99", "cannot be reached"),
        ("nobody.example.test", "its name cannot be resolved"),
        ("nobody.foreign.test", "nobody.foreign.test:53: its name cannot be resolved"),
    ] {
        let (text, took) = refused(&at(&[server]));
        assert!(text.contains(part), "no '{part}' in: {text}");
        assert!(took < Duration::from_millis(5150), "{server}: {took:?}");
        let begin = Instant::now();
        changed(&at(&[server, SERVER]), &[&format!("10.77.1.{}", part.len())]);
        let took = begin.elapsed();
        println!("{:>6.0} ms  with {server} before the one that works", took.as_secs_f64() * 1e3);
        assert!(took < Duration::from_millis(950), "{server}: {took:?}");
    }
    // A resolver that does not respond, before one that does. The system waits for it for 5 s.
    fs::write("/etc/resolv.conf", HALF_DEAD).unwrap();
    in_time_for_status(&at(&["ns1.example.test"]));
    changed(&at(&["ns1.example.test"]), &["10.77.0.77"]);
    fs::write("/etc/resolv.conf", "nameserver 10.99.0.1\n").unwrap();
    let (text, took) = refused(&at(&["ns1.example.test"]));
    assert!(
        text.contains("ns1.example.test:53: its name cannot be resolved") && took < Duration::from_millis(5150),
        "{text}"
    );
    // In less time than it takes the kernel to give an address up.
    for server in ["10.77.0.99", "10.99.0.1", "127.0.0.1:5399"] {
        let begin = Instant::now();
        let end = begin + Duration::from_millis(400);
        dns::register(&root(), &at(&[server]), &addresses(&["10.77.0.9"]), false, &|| true, end).unwrap_err();
        assert!(begin.elapsed() < Duration::from_millis(480), "{server}: {:?}", begin.elapsed());
    }
}

#[test]
fn servers_are_found() {
    if !inside("servers_are_found", None) {
        return;
    }
    let _named = named().unwrap();
    let found = |name: &str| Dns { servers: Vec::new(), ..settings(name) };
    changed(&found("pgsql.example.test"), &["10.77.0.10"]);
    changed(&found("a.b.c.example.test"), &["10.77.0.11"]);
    assert_eq!(dig("a.b.c.example.test"), ["30 A 10.77.0.11"]);
    // The primary server that the SOA names is down: the NS takes it.
    let begin = Instant::now();
    changed(&found("pgsql.hidden.test"), &["10.77.0.12"]);
    println!("with the SOA's server down: {:.2?}", begin.elapsed());
    let answer = dns::lookup(&root(), &found("pgsql.hidden.test"), soon()).unwrap();
    assert_eq!(answer.addresses, addresses(&["10.77.0.12"]));
    refused_because(&found("pgsql.foreign.test"), "its servers are not set in DNS_SERVERS, and were not found");
    let given = Dns { zone: Some("example.test".to_owned()), ..found("x.example.test") };
    changed(&given, &["10.77.0.13"]);
    fs::write("/etc/resolv.conf", HALF_DEAD).unwrap();
    in_time_for_status(&found("pgsql.example.test"));
}

/// Asks in a tight loop whether the name has an address.
fn absences(name: &str, count: u32, change: impl Fn(u32)) -> (u64, u64) {
    let asker = Asker::new(name, format!("{SERVER}:53").parse().unwrap()).unwrap();
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let (mut answers, mut absent) = (0, 0);
            while !end.load(Ordering::Relaxed) {
                answers += 1;
                absent += u64::from(asker.ask().unwrap().is_empty());
            }
            (answers, absent)
        });
        for number in 0..count {
            change(number);
        }
        end.store(true, Ordering::Relaxed);
        watcher.join().unwrap()
    })
}

#[test]
fn the_name_is_never_absent() {
    if !inside("the_name_is_never_absent", None) {
        return;
    }
    let _kdc = kdc().unwrap();
    let _named = named().unwrap();
    let keytab = gss("pgsql$@GSS.TEST", GssSecret::Keytab("/etc/pgsql.keytab".into()));
    for (name, auth) in [
        ("pgsql.example.test", Auth::None),
        ("pgsql.tsig.test", tsig("/etc/bind/updkey.key")),
        ("pgsql.gss.test", keytab),
    ] {
        let dns = Dns { auth, ..settings(name) };
        changed(&dns, &["10.77.2.1"]);
        let (asked, absent) = absences(name, 100, |number| {
            changed(&dns, &[&format!("10.77.3.{number}")]);
            thread::sleep(Duration::from_millis(2));
        });
        println!("{name}: absent in {absent} of {asked} answers during 100 replaces");
        assert!(asked > 500 && absent == 0);
    }
    // The watcher does see what dnscp.sh does: two messages.
    let (_, absent) = absences("pgsql.example.test", 30, |number| {
        sh(&format!(
            "printf 'server {SERVER}\nupdate delete pgsql.example.test A\nsend\nupdate add pgsql.example.test 30 A 10.77.4.{number}\nsend\n' | nsupdate"
        ));
    });
    println!("in two messages: absent in {absent}");
    assert!(absent > 0);
}

/// Nothing of a run is left: no ticket, no child (but for zombies, which the first process of a namespace should reap).
fn nothing_left() {
    assert_eq!(sh("ls -A /dev/shm"), "");
    assert_eq!(sh("pgrep -r R,S,D -l 'nsupdate|kinit' || true"), "");
}

#[test]
fn kerberos() {
    if !inside("kerberos", None) {
        return;
    }
    let kdc = kdc().unwrap();
    let _named = named().unwrap();
    let with = |account: &str, secret: GssSecret| Dns { auth: gss(account, secret), ..settings("pgsql.gss.test") };
    let keytab = |file: &str| GssSecret::Keytab(file.into());
    let password = |file: &str| GssSecret::Password(file.into());
    let good = with("pgsql$@GSS.TEST", keytab("/etc/pgsql.keytab"));
    changed(&good, &["10.77.0.10", "fd77::10"]);
    assert_eq!(dig("pgsql.gss.test"), ["30 A 10.77.0.10", "30 AAAA fd77::10"]);
    assert!(matches!(register(&good, &["10.77.0.10", "fd77::10"]).unwrap(), Outcome::Unchanged { .. }));
    changed(&with("pgsql$", keytab("/etc/pgsql.keytab")), &["10.77.0.11"]);
    changed(&with("pgsql$@GSS.TEST", password("/etc/pgsql.password")), &["10.77.0.12"]);
    // The first account of this keytab is the host's.
    changed(&with("pgsql$@GSS.TEST", keytab("/etc/host.keytab")), &["10.77.0.13"]);
    assert_eq!(dig("pgsql.gss.test"), ["30 A 10.77.0.13"]);
    nothing_left();

    refused_because(&settings("pgsql.gss.test"), "REFUSED");
    refused_because(&with("pgsql2$@GSS.TEST", keytab("/etc/pgsql2.keytab")), "REFUSED");
    refused_because(
        &with("pgsql$@GSS.TEST", keytab("/etc/pgsql2.keytab")),
        "has no key of pgsql$@GSS.TEST, but of pgsql2$@GSS.TEST",
    );
    let other = Dns { name: "other.gss.test".to_owned(), ..good.clone() };
    refused_because(&other, "accept A and AAAA of other.gss.test");
    secret("/etc/wrong.password", "P@ssw0rd-wrong\n");
    let (text, _) = refused(&with("pgsql$@GSS.TEST", password("/etc/wrong.password")));
    assert!(text.contains("not those of the account") && !text.contains("P@ssw0rd"), "{text}");
    secret("/etc/bad.keytab", "P@ssw0rd-1");
    refused_because(&with("pgsql$@GSS.TEST", keytab("/etc/bad.keytab")), "/etc/bad.keytab is not a keytab");
    sh("cp /etc/pgsql.keytab /etc/open.keytab; chmod 644 /etc/open.keytab");
    refused_because(&with("pgsql$@GSS.TEST", keytab("/etc/open.keytab")), "other users can read this secret");
    nothing_left();

    let keytab_time = measure("Kerberos, keytab", &good, 20);
    measure("Kerberos, password", &with("pgsql$@GSS.TEST", password("/etc/pgsql.password")), 20);
    assert!(keytab_time < Duration::from_millis(500));

    // The password was changed: keytab and password file are stale.
    sh("cp /etc/pgsql.keytab /etc/new.keytab; kadmin.local -q 'cpw -pw P@ssw0rd-3 pgsql$'");
    refused_because(&good, "not those of the account");
    refused_because(&with("pgsql$@GSS.TEST", password("/etc/pgsql.password")), "not those of the account");
    sh(
        "kadmin.local -q 'cpw -pw P@ssw0rd-1 pgsql$'; rm /etc/pgsql.keytab; kadmin.local -q 'ktadd -k /etc/pgsql.keytab -norandkey pgsql$'; chmod 640 /etc/pgsql.keytab",
    );
    changed(&good, &["10.77.0.14"]);

    // No KDC: closed port, and one that drops.
    drop(kdc);
    refused_because(&good, "no KDC answers");
    sh("sed -i 's/kdc = .*/kdc = 10.99.0.1/' /etc/krb5.conf");
    for kind in ["keytab", "password"] {
        // Killed while it waits for a KDC: nobody goes on in its place.
        sh(&format!(
            "PART={kind} {PART} & sleep 1; pgrep 'nsupdate|kinit'; kill -9 $!; sleep 0.1; ! pgrep -r R,S,D 'nsupdate|kinit'"
        ));
    }
    // What it left of its ticket goes with the next run that finds it old.
    sh("[ $(ls -A /dev/shm | wc -l) = 1 ]; touch -d '11 minutes ago' /dev/shm/*; mkdir -m 700 /dev/shm/other");
    for dns in [good.clone(), with("pgsql$@GSS.TEST", password("/etc/pgsql.password"))] {
        let (text, took) = refused(&dns);
        assert!(text.contains("KDC of GSS.TEST"), "{text}");
        assert!(took < Duration::from_millis(5150), "{took:?}");
    }
    sh("rmdir /dev/shm/other");
    nothing_left();
}

/// What the children of a run get to see, and may do.
#[test]
fn children_have_no_rights() {
    if !inside("children_have_no_rights", None) {
        return;
    }
    let _kdc = kdc().unwrap();
    let _named = named().unwrap();
    sh("for p in nsupdate kinit; do mv /usr/bin/$p /usr/bin/$p.real; cat > /usr/bin/$p <<'X'
#!/bin/sh
{ echo $0 $*; env; grep -E '^(Cap|NoNewPrivs)' /proc/self/status; } >> /run/seen
exec $0.real \"$@\"
X
chmod 755 /usr/bin/$p; done");
    let secret = GssSecret::Password("/etc/pgsql.password".into());
    changed(&Dns { auth: gss("pgsql$@GSS.TEST", secret), ..settings("pgsql.gss.test") }, &["10.77.0.10"]);
    let seen = fs::read_to_string("/run/seen").unwrap();
    println!("{seen}");
    for line in seen.lines().filter(|line| line.starts_with("Cap")) {
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
    assert_eq!(seen.matches("NoNewPrivs:\t1").count(), 2);
    assert!(!seen.contains("P@ssw0rd") && !seen.contains("LAB_WORLD_INSIDE"));

    // As the user that Patroni runs as: its group may read the secrets, and ambient capabilities do not pass.
    sh("chgrp nogroup /etc/pgsql.* /etc/bind/updkey.key; rm /run/seen; install -m 666 /dev/null /run/seen");
    for (kind, name) in [("tsig", "part.tsig.test"), ("keytab", "pgsql.gss.test"), ("password", "pgsql.gss.test")] {
        register(&Dns { auth: tsig("/etc/bind/updkey.key"), ..settings("part.tsig.test") }, &["10.77.0.20"]).unwrap();
        let keytab = gss("pgsql$@GSS.TEST", GssSecret::Keytab("/etc/pgsql.keytab".into()));
        register(&Dns { auth: keytab, ..settings("pgsql.gss.test") }, &["10.77.0.20"]).unwrap();
        fs::write("/run/seen", "").unwrap();
        let user = "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=+net_admin,+net_raw --ambient-caps=+net_admin,+net_raw";
        let said = sh(&format!("PART={kind} SSLKEYLOGFILE=/x KRB5_TRACE=/dev/stderr {user} {PART}"));
        assert!(said.contains("part: registered"), "{kind}: {said}");
        assert_eq!(dig(name), ["30 A 10.77.9.9"]);
        let seen = fs::read_to_string("/run/seen").unwrap();
        assert_eq!(seen.contains("CapEff"), kind != "tsig");
        for line in seen.lines().filter(|line| line.starts_with("Cap") && !line.starts_with("CapBnd")) {
            assert!(line.ends_with("\t0000000000000000"), "{kind}: {line}");
        }
        assert!(!seen.contains("KRB5_TRACE"), "{seen}");
    }
    nothing_left();
}

fn active_directory(name: &str, image: Image) {
    if !inside(name, Some(image)) {
        return;
    }
    let _samba = domain_controller().unwrap();
    let with = |account: &str, secret: GssSecret| Dns { auth: gss(account, secret), ..settings("pgsql.ad.test") };
    let keytab = |file: &str| GssSecret::Keytab(file.into());
    let first = with("pgsql$@AD.TEST", keytab("/etc/pgsql.keytab"));
    let second = with("pgsql2$@AD.TEST", keytab("/etc/pgsql2.keytab"));
    refused_because(&settings("pgsql.ad.test"), "REFUSED");
    changed(&first, &["10.77.0.10"]);
    assert_eq!(dig("pgsql.ad.test"), ["30 A 10.77.0.10"]);
    assert!(matches!(register(&first, &["10.77.0.10"]).unwrap(), Outcome::Unchanged { .. }));
    changed(&with("pgsql$@AD.TEST", GssSecret::Password("/etc/pgsql.password".into())), &["10.77.0.11", "fd77::11"]);
    assert_eq!(dig("pgsql.ad.test"), ["30 A 10.77.0.11", "30 AAAA fd77::11"]);
    changed(&Dns { ttl: 60, ..first.clone() }, &["10.77.0.11"]);
    assert_eq!(dig("pgsql.ad.test"), ["60 A 10.77.0.11"]);
    // Against scavenging.
    let again =
        dns::register(&root(), &Dns { ttl: 60, ..first.clone() }, &addresses(&["10.77.0.11"]), true, &|| true, soon());
    assert!(matches!(again.unwrap(), Outcome::Changed { .. }));
    // Servers, zone and realm by discovery.
    changed(&Dns { servers: Vec::new(), ..first.clone() }, &["10.77.0.12"]);
    assert_eq!(dns::lookup(&root(), &first, soon()).unwrap().addresses, addresses(&["10.77.0.12"]));
    // Active Directory looks at the owner of a record only if it would change.
    // The record belongs to the account that made it.
    refused_at_a_change(&second, "the record may belong to another account");
    assert_eq!(dig("pgsql.ad.test"), ["30 A 10.77.0.12"]);
    changed(&Dns { name: "pgsql2.ad.test".to_owned(), ..second.clone() }, &["10.77.0.13"]);
    refused_at_a_change(
        &Dns { name: "pgsql2.ad.test".to_owned(), ..first.clone() },
        "the record may belong to another account",
    );
    // An entry of the administrator lets the other account change it.
    let sid = servers::on_dc("samba-tool computer show 'pgsql$' --attributes=objectSid").unwrap();
    let sid = sid.lines().find_map(|line| line.strip_prefix("objectSid: ")).expect(&sid);
    servers::on_dc(&format!(
        "samba-tool dsacl set -H /var/lib/samba/private/sam.ldb --sddl='(A;;GA;;;{sid})' \
        --objectdn='DC=pgsql2,DC=ad.test,CN=MicrosoftDNS,DC=DomainDnsZones,DC=ad,DC=test'"
    ))
    .unwrap();
    changed(&Dns { name: "pgsql2.ad.test".to_owned(), ..first.clone() }, &["10.77.0.14"]);
    assert_eq!(dig("pgsql2.ad.test"), ["30 A 10.77.0.14"]);
    // What he removes belongs to who registers it next.
    servers::on_dc(
        "samba-tool dns delete 10.77.0.53 ad.test pgsql A 10.77.0.12 -U 'administrator%Adm1n-Passw0rd!' 2>&1",
    )
    .unwrap();
    changed(&second, &["10.77.0.15"]);
    refused_at_a_change(&first, "the record may belong to another account");
    servers::on_dc(
        "samba-tool dns delete 10.77.0.53 ad.test pgsql A 10.77.0.15 -U 'administrator%Adm1n-Passw0rd!' 2>&1",
    )
    .unwrap();
    changed(&first, &["10.77.0.12"]);

    // Frozen between its look at Patroni and its message.
    let looks = Cell::new(0);
    let frozen = || {
        looks.set(looks.get() + 1);
        if looks.get() == 1 {
            changed(&first, &["10.77.0.20"]);
        }
        looks.get() == 1
    };
    let outcome = dns::register(&root(), &first, &addresses(&["10.77.0.21"]), false, &frozen, soon()).unwrap();
    assert_eq!((outcome, looks.get()), (Outcome::NotPrimary, 2));
    assert_eq!(dig("pgsql.ad.test"), ["30 A 10.77.0.20"]);

    let (asked, absent) = absences("pgsql.ad.test", 30, |number| changed(&first, &[&format!("10.77.3.{number}")]));
    println!("{name}: absent in {absent} of {asked} answers during 30 replaces");
    assert!(asked > 100 && absent == 0);
    measure(name, &first, 20);
    nothing_left();

    servers::on_dc("samba-tool user setpassword 'pgsql$' --newpassword='P@ssw0rd-3'").unwrap();
    refused_because(&first, "not those of the account");
}

#[test]
fn samba_4_22() {
    active_directory("samba_4_22", Image::Samba13);
}

/// Its answers are signed wrongly, even when it did what it was asked.
#[test]
fn samba_4_17() {
    active_directory("samba_4_17", Image::Samba12);
}
