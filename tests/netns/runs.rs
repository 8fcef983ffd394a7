//! The built program as Patroni calls it, beside real name servers: killed anywhere, and with servers that fail.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use lab::world::capture::Capture;
use lab::world::record::Asker;
use lab::world::rest::{PRIMARY, REPLICA, Rest};
use lab::world::servers::{kdc, named, secret, sh};
use lab::world::{INTERFACE, PEER, SERVER, World};

const LIMIT: Duration = Duration::from_secs(180);
const SEED: &str = "LAB_SEED";

const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// What the name has while another member is the primary.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);

const TAKE: &str = "on_role_change primary 16-main";
const GIVE_UP: &str = "on_role_change replica 16-main";

/// A member, and who looks at it.
struct Member {
    patroni: Rest,
    capture: Capture,
}

impl Member {
    fn new() -> Self {
        fs::create_dir_all("/etc/patroni").unwrap();
        fs::create_dir_all("/run/postgresql").unwrap();
        fs::create_dir_all("/run/patroni-tools").unwrap();
        fs::write(
            "/etc/patroni/16-main.dnscp",
            "NAME=pg1\nRESTAPI=http://127.0.0.1:8008\nADDRESS=10.77.0.2\nDATA_DIRECTORY=/data\n",
        )
        .unwrap();
        Self {
            patroni: Rest::listen("127.0.0.1:8008").unwrap(),
            capture: Capture::begin("/run/netns/dns", PEER).unwrap(),
        }
    }

    /// With the time of its start.
    fn run(&self, event: &str) -> Run {
        self.patroni.say(if event == TAKE { PRIMARY } else { REPLICA });
        start(event)
    }

    /// The time from the start of a run to its first announcement.
    fn announced(&self, run: &Run, address: Ipv4Addr) -> anyhow::Result<Duration> {
        let frame = self.capture.announcement(address, run.begin, Duration::from_secs(5))?;
        Ok(frame.at.duration_since(run.begin)?)
    }
}

struct Run {
    child: Child,
    begin: SystemTime,
}

fn start(line: &str) -> Run {
    let begin = SystemTime::now();
    let child = Command::new("/dnscp")
        .args(line.split(' '))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Run { child, begin }
}

impl Run {
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end: how it ended, what it said, how long it took.
    fn end(self) -> (ExitStatus, String, Duration) {
        let output = self.child.wait_with_output().unwrap();
        (output.status, String::from_utf8(output.stderr).unwrap(), self.begin.elapsed().unwrap())
    }
}

fn settings(vip: Ipv4Addr, zone: &str, server: &str, rest: &str) {
    let text = format!("VIPS={vip}/24\nDNS_NAME=pgsql\nDNS_ZONE={zone}\nDNS_SERVERS={server}\nDNS_TTL=30\n{rest}");
    fs::write("/etc/default/patroni", text).unwrap();
}

fn has(address: Ipv4Addr) -> bool {
    sh(&format!("ip -o address show to {address}")).unwrap().contains(&format!(" {INTERFACE} "))
}

fn asker(zone: &str) -> Asker {
    Asker::new(&format!("pgsql.{zone}"), format!("{SERVER}:53").parse().unwrap()).unwrap()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// `SplitMix64`, by Sebastiano Vigna: a seed is enough to do a run again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: Duration) -> Duration {
        Duration::from_nanos(self.next() % u64::try_from(limit.as_nanos()).unwrap().max(1))
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

/// A way to update, and who does it for the other member.
struct Way {
    zone: &'static str,
    settings: &'static str,
    nsupdate: &'static str,
    asker: Asker,
}

impl Way {
    fn ways() -> [Self; 3] {
        [
            ("example.test", "", "nsupdate"),
            (
                "tsig.test",
                "DNS_AUTH=tsig\nDNS_TSIG_KEY_FILE=/etc/bind/updkey.key\n",
                "nsupdate -k /etc/bind/updkey.key",
            ),
            (
                "gss.test",
                "DNS_AUTH=gss\nDNS_PRINCIPAL='pgsql$@GSS.TEST'\nDNS_KEYTAB=/etc/pgsql.keytab\n",
                "KRB5CCNAME=MEMORY: KRB5_CLIENT_KTNAME=/etc/pgsql.keytab nsupdate -g",
            ),
        ]
        .map(|(zone, settings, nsupdate)| Self { zone, settings, nsupdate, asker: asker(zone) })
    }

    fn set(&self) {
        settings(VIP, self.zone, SERVER, self.settings);
    }

    /// Another member has registered itself.
    fn other_member(&self) {
        if self.asker.ask().unwrap() == [OTHER] {
            return;
        }
        let Self { zone, nsupdate, .. } = self;
        sh(&format!(
            "printf 'server {SERVER}\nupdate delete pgsql.{zone} A\nupdate add pgsql.{zone} 30 A {OTHER}\nsend\n' | {nsupdate}"
        ))
        .unwrap();
    }
}

/// How far the runs were that were killed.
#[derive(Debug, Default)]
struct Killed {
    taking_before_the_address: u32,
    taking_before_the_record: u32,
    taking_after_both: u32,
    giving_up_before: u32,
    giving_up_after: u32,
    giving_up_nothing: u32,
}

/// Patroni kills a callback that still runs when the next event comes.
#[test]
fn wherever_a_run_is_killed_the_next_one_converges() {
    const NAME: &str = "wherever_a_run_is_killed_the_next_one_converges";
    const RUNS: u32 = 200;
    let world = World::new(LIMIT).with_file(Path::new(env!("CARGO_BIN_EXE_dnscp")), "/dnscp").with_variable(SEED);
    if !world.test(NAME).unwrap() {
        return;
    }
    let _kdc = kdc().unwrap();
    let _named = named().unwrap();
    let member = Member::new();
    let ways = Way::ways();
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
    println!("{SEED}={seed}");
    let mut random = Random(seed);

    // How long a run takes that nobody kills.
    let spans = ways.each_ref().map(|way| {
        way.set();
        let times = (0..5).map(|_| {
            way.other_member();
            sh(&format!("ip address del {VIP}/24 dev {INTERFACE} 2>&- || :")).unwrap();
            let run = member.run(TAKE);
            way.asker.until(VIP, Duration::from_secs(5)).unwrap();
            let took = run.begin.elapsed().unwrap();
            run.kill();
            took
        });
        median(times.collect())
    });
    println!("to the right record: {spans:.1?}");

    let mut killed = Killed::default();
    let begin = Instant::now();
    for number in 0..RUNS {
        // Kerberos is slow.
        let index = [0, 1, 0, 1, 0, 1, 0, 1, 0, 2][number as usize % 10];
        let way = &ways[index];
        way.set();
        way.other_member();
        let (first, next) = (random.coin(), random.coin());
        let instant = random.below(spans[index].mul_f64(if first { 1.3 } else { 1.0 }));
        let held = has(VIP);
        let run = member.run(if first { TAKE } else { GIVE_UP });
        thread::sleep((run.begin + instant).duration_since(SystemTime::now()).unwrap_or_default());
        run.kill();
        let here = has(VIP);
        let count = match (first, held, here, way.asker.ask().unwrap() == [VIP]) {
            (true, false, false, _) => &mut killed.taking_before_the_address,
            (true, _, true, false) => &mut killed.taking_before_the_record,
            (true, _, true, true) => &mut killed.taking_after_both,
            (false, true, true, _) => &mut killed.giving_up_before,
            (false, true, false, _) => &mut killed.giving_up_after,
            (false, false, false, _) => &mut killed.giving_up_nothing,
            wrong => panic!("{SEED}={seed}, run {number}: {wrong:?}"),
        };
        *count += 1;
        let what = format!(
            "{SEED}={seed}, run {number}: {} killed after {instant:.1?} (address held {held}, then {here}), then {}",
            if first { TAKE } else { GIVE_UP },
            if next { TAKE } else { GIVE_UP },
        );

        let run = member.run(if next { TAKE } else { GIVE_UP });
        if next {
            member.announced(&run, VIP).unwrap_or_else(|error| panic!("{what}: {error}"));
            way.asker.until(VIP, Duration::from_secs(5)).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(has(VIP), "{what}: no address");
            // It goes on for three seconds, repeating its announcement.
            if number % 100 < 98 {
                run.kill();
                continue;
            }
        }
        let (status, said, took) = run.end();
        assert!(status.success(), "{what}: {status:?}, signal {:?}\n{said}", status.signal());
        assert!(took < Duration::from_secs(5), "{what}: took {took:?}");
        assert_eq!(has(VIP), next, "{what}");
    }
    let took = begin.elapsed();
    println!("{RUNS} runs killed and {RUNS} converged in {took:.1?}: {killed:?}");
    assert!(took < Duration::from_secs(60), "{took:?}");
    for count in [
        killed.taking_before_the_address,
        killed.taking_before_the_record,
        killed.taking_after_both,
        killed.giving_up_before,
        killed.giving_up_after,
    ] {
        assert!(count >= 3, "the instants do not cover the run: {killed:?}");
    }
    assert_eq!(sh("ls -A /dev/shm; pgrep -r R,S,D -l 'nsupdate|kinit' || true").unwrap(), "", "something is left");
}

/// A way in which the name cannot be registered, and what the log has to say: what failed, and what to do.
struct Fault {
    what: &'static str,
    zone: &'static str,
    server: &'static str,
    settings: &'static str,
    cause: &'static str,
    remedy: &'static str,
}

const FAULTS: [Fault; 8] = [
    Fault {
        what: "refused",
        zone: "tsig.test",
        server: SERVER,
        settings: "",
        cause: "the update is refused",
        remedy: "accept A and AAAA of pgsql.tsig.test",
    },
    Fault {
        what: "wrong key",
        zone: "tsig.test",
        server: SERVER,
        settings: "DNS_AUTH=tsig\nDNS_TSIG_KEY_FILE=/etc/wrong.key\n",
        cause: "BADSIG",
        remedy: "Copy the key file again",
    },
    Fault {
        what: "no server",
        zone: "example.test",
        server: "10.77.0.53:5300",
        settings: "",
        cause: "no DNS server runs there",
        remedy: "Start it",
    },
    Fault {
        what: "silent server",
        zone: "example.test",
        server: "10.99.0.1",
        settings: "",
        cause: "it did not answer within",
        remedy: "Start it, or open port 53",
    },
    Fault {
        what: "server without a host",
        zone: "example.test",
        server: "10.77.0.99",
        settings: "",
        cause: "it cannot be reached",
        remedy: "Check the network",
    },
    Fault {
        what: "hanging server",
        zone: "example.test",
        server: "127.0.0.1:5399",
        settings: "",
        cause: "it accepts the connection, but did not answer",
        remedy: "Restart it",
    },
    Fault {
        what: "silent KDC, keytab",
        zone: "gss.test",
        server: SERVER,
        settings: "DNS_AUTH=gss\nDNS_PRINCIPAL='pgsql$@GSS.TEST'\nDNS_KEYTAB=/etc/pgsql.keytab\n",
        cause: "no KDC",
        remedy: "Check /etc/krb5.conf and the network",
    },
    Fault {
        what: "silent KDC, password",
        zone: "gss.test",
        server: SERVER,
        settings: "DNS_AUTH=gss\nDNS_PRINCIPAL='pgsql$@GSS.TEST'\nDNS_PASSWORD_FILE=/etc/pgsql.password\n",
        cause: "no KDC",
        remedy: "Check /etc/krb5.conf and the network",
    },
];

/// The address comes first, whatever becomes of the name.
#[test]
fn a_faulty_name_server_never_costs_the_address() {
    const RUNS: usize = 9;
    /// What a busy host adds by chance; the least of the faults costs seconds if it is waited for.
    const NOISE: Duration = Duration::from_millis(20);
    let world = World::new(LIMIT).with_file(Path::new(env!("CARGO_BIN_EXE_dnscp")), "/dnscp");
    if !world.test("a_faulty_name_server_never_costs_the_address").unwrap() {
        return;
    }
    let running_kdc = kdc().unwrap();
    let _named = named().unwrap();
    let member = Member::new();
    let key = sh("tsig-keygen -a hmac-sha256 updkey").unwrap();
    secret("/etc/wrong.key", key).unwrap();
    // The kernel takes the connection, and nobody reads from it.
    let _tcp = TcpListener::bind("127.0.0.1:5399").unwrap();
    let _udp = UdpSocket::bind("127.0.0.1:5399").unwrap();

    // Each its own address: the last run goes on announcing it.
    let taken = |vip: Ipv4Addr| {
        let mut times = Vec::new();
        loop {
            sh(&format!("ip address del {vip}/24 dev {INTERFACE} 2>&- || :")).unwrap();
            let run = member.run(TAKE);
            times.push(member.announced(&run, vip).unwrap());
            assert!(has(vip));
            if times.len() == RUNS {
                return (median(times), run);
            }
            run.kill();
        }
    };
    settings(VIP, "example.test", SERVER, "");
    let (without, run) = taken(VIP);
    let (status, said, took) = run.end();
    assert!(status.success(), "{said}");
    println!("{:>5.1} ms to the first announcement, {took:.1?} in all: no fault", without.as_secs_f64() * 1e3);
    drop(running_kdc);
    sh("sed -i 's/kdc = .*/kdc = 10.99.0.1/' /etc/krb5.conf").unwrap();
    let mut runs = Vec::new();
    for (fault, vip) in FAULTS.iter().zip((101..).map(|last| Ipv4Addr::new(10, 77, 0, last))) {
        settings(vip, fault.zone, fault.server, fault.settings);
        let (with, run) = taken(vip);
        runs.push((fault, vip, with, run));
    }
    for (fault, vip, with, run) in runs {
        let (status, said, took) = run.end();
        let what = fault.what;
        println!("{:>5.1} ms to the first announcement, {took:.1?} in all: {what}", with.as_secs_f64() * 1e3);
        let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("dnscp: error: ")).collect();
        assert_eq!((errors.len(), status.code()), (1, Some(1)), "{what}: {said}");
        println!("         {}", errors[0]);
        let hinted = |line: &str| line.starts_with("dnscp: hint: ") && line.contains(fault.remedy);
        assert!(errors[0].contains(fault.cause) && said.lines().any(hinted), "{what}: {said}");
        assert!(with < without + NOISE, "{what}: announced after {with:?}, without a fault after {without:?}");
        assert!(has(vip), "{what}: the address has gone");
        assert!(took < Duration::from_secs(25), "{what}: {took:?}");
    }
}

#[test]
fn the_service_registers_the_name_once_its_server_is_back() {
    let world = World::new(LIMIT).with_file(Path::new(env!("CARGO_BIN_EXE_dnscp")), "/dnscp");
    if !world.test("the_service_registers_the_name_once_its_server_is_back").unwrap() {
        return;
    }
    drop(named().unwrap());
    let member = Member::new();
    settings(VIP, "example.test", SERVER, "");
    member.patroni.say(PRIMARY);
    let service = start("--service 16-main");
    println!("announced after {:.1?}", member.announced(&service, VIP).unwrap());
    // Its first try, and its second, fail.
    thread::sleep(Duration::from_secs(10));
    assert!(has(VIP));
    let _named = named().unwrap();
    let begin = Instant::now();
    asker("example.test").until(VIP, Duration::from_secs(30)).unwrap();
    println!("registered {:.1?} after the server was back", begin.elapsed());
    assert!(has(VIP));
    sh(&format!("kill {}", service.child.id())).unwrap();
    let (status, said, _) = service.end();
    assert!(status.success(), "{said}");
    let complaints = said.lines().filter(|line| line.contains("no DNS server runs there")).count();
    assert_eq!(complaints, 1, "said once, as long as it is the same: {said}");
}

/// The settings get another name: its records replace the old ones. `dnscp status` says why a name is missing.
#[test]
fn a_name_that_the_settings_no_longer_have_goes() {
    const NAME: &str = "a_name_that_the_settings_no_longer_have_goes";
    let world = World::new(LIMIT).with_file(Path::new(env!("CARGO_BIN_EXE_dnscp")), "/dnscp");
    if !world.test(NAME).unwrap() {
        return;
    }
    let _named = named().unwrap();
    let member = Member::new();
    member.patroni.say(PRIMARY);
    settings(VIP, "example.test", SERVER, "");
    let mut service = start("--service 16-main");
    let until = |what: &str, done: &dyn Fn() -> bool| {
        let begin = Instant::now();
        while !done() {
            assert!(begin.elapsed() < Duration::from_secs(15), "{what}");
            thread::sleep(Duration::from_millis(100));
        }
    };
    let is = |zone: &str, expected: &[Ipv4Addr]| asker(zone).ask().is_ok_and(|found| found == expected);
    let signal = |run: &Run, name: &str| sh(&format!("kill -{name} {}", run.child.id())).unwrap();
    let status = || {
        let (_, said, took) = start("status 16-main").end();
        assert!(took < Duration::from_secs(8), "{took:?}");
        said
    };
    until("the first name", &|| is("example.test", &[VIP]));
    assert_eq!(status(), "");
    // A key with another secret than the server's.
    let key = fs::read_to_string("/etc/bind/updkey.key").unwrap();
    let secret_of = |text: &str| text.split('"').nth(3).unwrap().to_owned();
    let wrong = secret_of(&sh("tsig-keygen updkey").unwrap());
    secret("/etc/wrong.key", key.replace(&secret_of(&key), &wrong)).unwrap();
    settings(VIP, "tsig.test", SERVER, "DNS_AUTH=tsig\nDNS_TSIG_KEY_FILE=/etc/wrong.key\n");
    signal(&service, "HUP");
    until("the first name goes", &|| is("example.test", &[]));
    let said = status();
    for part in [
        "pgsql.tsig.test is unknown at 10.77.0.53:53, but should be 10.77.0.100",
        "the secret of the key updkey differs from the server's (BADSIG)",
        "hint: Copy the key file again.",
    ] {
        assert!(said.contains(part), "no '{part}' in: {said}");
    }
    settings(VIP, "tsig.test", SERVER, "DNS_AUTH=tsig\nDNS_TSIG_KEY_FILE=/etc/bind/updkey.key\n");
    signal(&service, "HUP");
    until("the second name", &|| is("tsig.test", &[VIP]));
    assert_eq!(status(), "");
    // The records are no longer ours: they stay, and the command removes them.
    sh(&format!(
        "printf 'server {SERVER}\nupdate add pgsql.tsig.test 30 A {OTHER}\nsend\n' | nsupdate -k /etc/bind/updkey.key"
    ))
    .unwrap();
    settings(VIP, "example.test", SERVER, "");
    signal(&service, "HUP");
    until("the third name", &|| is("example.test", &[VIP]));
    thread::sleep(Duration::from_secs(1));
    assert_eq!(asker("tsig.test").ask().unwrap().len(), 2);
    // At its end it removes a name that is no longer set.
    fs::write("/etc/default/patroni", "").unwrap();
    signal(&service, "TERM");
    assert!(service.child.wait().unwrap().success());
    assert!(is("example.test", &[]) && !has(VIP));
    let (_, said, _) = service.end();
    let hint = said.lines().find_map(|line| line.split_once("If no client uses it, remove it with: ")).expect(&said).1;
    sh(hint).unwrap();
    assert!(is("tsig.test", &[]), "{hint}");
    for part in [
        "DNS_NAME=pgsql.tsig.test (was pgsql.example.test)",
        "the settings no longer have it: removed pgsql.example.test at 10.77.0.53:53",
        "pgsql.tsig.test: not removed: 10.77.0.53:53: its addresses are not those of this member; the settings no longer have this \
         name, but it stays in the DNS",
    ] {
        assert!(said.contains(part), "no '{part}' in: {said}");
    }
}
