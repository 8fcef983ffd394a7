//! dnscp beside dnscp.sh: from the start of the program to the first ARP frame, and to the right record.
//!
//! In the two hosts of [`crate::world`], ours on Debian 13 and the script on Debian 12, since it ends on 13 before it has done
//! anything: a package that it looks for, `dnsutils`, has another name there. Both as postgres, ours with its file capabilities,
//! the script with sudo. The frame is seen at the other end of the cable, the record by asking the name server itself.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::{Cost, Options, Row, Sample, follow, load, shown};
use crate::image::Image;
use crate::world::capture::Capture;
use crate::world::record::Asker;
use crate::world::rest::Rest;
use crate::world::servers::{self, sh};
use crate::world::{INTERFACE, PEER, SECOND, SERVER, World};

const RUNS: usize = 20;
const QUICK_RUNS: usize = 3;
const LIMIT: Duration = Duration::from_secs(1800);
/// dnscp.sh takes eight seconds.
const RUN_LIMIT: Duration = Duration::from_secs(60);

const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// What the name has before each run, as if another member had been the primary.
const BEFORE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);

const PROGRAM: &str = "/usr/libexec/patroni-tools/dnscp";
const PACKAGE: &str = "/patroni-tools.deb";
const SCRIPT: &str = "/dnscp.sh";
const SAID: &str = "/run/said";

const NO_SCRIPT: &str = "dnscp.sh: not measured: give --dnscp-sh PATH";

/// Measures in namespaces.
pub(super) fn measure(options: &Options) -> Result<Vec<String>> {
    let mut world = World::new(LIMIT).with_file(options.package()?, PACKAGE);
    if let Some(script) = &options.dnscp_sh {
        ensure!(script.is_file(), "no file {}", script.display());
        world = world.with_second(Image::Script).with_file(script, SCRIPT);
    }
    let quick: &[&str] = if options.quick { &["--quick"] } else { &[] };
    world.run(&[&["bench-inside"], quick].concat())?;
    Ok(Vec::new())
}

/// The part that runs in there.
pub fn inside(quick: bool) -> Result<()> {
    let _kdc = servers::kdc()?;
    let _named = servers::named()?;
    install()?;
    let script = fs::metadata(SCRIPT).is_ok();
    if script {
        install_script()?;
    }
    let _rest = Rest::listen("127.0.0.1:8008")?;
    let bench = Bench { capture: Capture::begin("/run/netns/dns", PEER)? };
    bench.compare(if quick { QUICK_RUNS } else { RUNS }, script)?;
    size()?;
    watch_service(follow(quick))
}

/// What the package patroni-tools has, as its postinst leaves it, and the instance as patroni-gen-config does.
fn install() -> Result<()> {
    sh(&format!(
        "dpkg-deb --extract {PACKAGE} /
        groupadd --system postgres
        useradd --system --gid postgres --home-dir /var/lib/postgresql --shell /bin/bash postgres
        chown root:postgres {PROGRAM}
        chmod 0750 {PROGRAM}
        setcap cap_net_admin,cap_net_raw=ep {PROGRAM}
        install -d -o postgres -g postgres -m 2775 /run/postgresql
        install -d -o postgres -g postgres -m 0700 /run/patroni-tools
        install -d /etc/patroni
        chgrp postgres /etc/bind/updkey.key /etc/pgsql.keytab /etc/pgsql.password
        printf 'NAME=pg1\\nRESTAPI=http://127.0.0.1:8008\\nADDRESS=10.77.0.2\\nDATA_DIRECTORY=/data\\n' > /etc/patroni/17-main.dnscp"
    ))
    .map(drop)
}

/// dnscp.sh as its README says. What needs a booted machine or one that is a member of a domain answers at once: `hostnamectl` and
/// `net ads testjoin`.
fn install_script() -> Result<()> {
    fs::write(
        "/run/install-script",
        "groupadd --system postgres
        useradd --system --gid postgres --home-dir /var/lib/postgresql --shell /bin/bash postgres
        install -d /etc/patroni
        chmod ugo+x /etc/patroni/dnscp.sh
        printf 'P@ssw0rd-1\\n' > /etc/patroni/dnscp.secret
        chown postgres:postgres /etc/patroni/dnscp.secret
        chmod 0600 /etc/patroni/dnscp.secret
        echo 'postgres ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/postgres
        printf '#!/bin/sh\\necho \"Operating System: Debian GNU/Linux 12 (bookworm)\"\\n' > /usr/local/bin/hostnamectl
        printf '#!/bin/sh\\necho \"Join is OK\"\\n' > /usr/local/bin/net
        chmod 0755 /usr/local/bin/*
        echo '127.0.0.1 localhost dc1' > /etc/hosts
        echo 'nameserver 10.77.0.53' > /etc/resolv.conf\n",
    )?;
    sh(&format!(
        "install -D {SCRIPT} {SECOND}/etc/patroni/dnscp.sh
        install -m 0644 /etc/krb5.conf {SECOND}/etc/krb5.conf
        chroot {SECOND} sh -eu < /run/install-script"
    ))
    .map(drop)
}

/// How an update is allowed.
#[derive(Debug, Clone, Copy)]
struct Way {
    shown: &'static str,
    zone: &'static str,
    /// Ours.
    settings: &'static str,
    /// The script's own options, where it can do it at all.
    script: Option<&'static str>,
    /// The way of the script that it is compared with.
    beside: usize,
    /// `nsupdate` with this sets the record back.
    reset: &'static str,
    /// The reach, in seconds.
    within: f64,
}

const WAYS: [Way; 4] = [
    Way {
        shown: "anonymous",
        zone: "example.test",
        settings: "",
        script: Some(""),
        beside: 0,
        reset: "nsupdate",
        within: 0.04,
    },
    Way {
        shown: "TSIG",
        zone: "tsig.test",
        settings: "DNS_AUTH=tsig\nDNS_TSIG_KEY_FILE=/etc/bind/updkey.key\n",
        script: None,
        beside: 0,
        reset: "nsupdate -k /etc/bind/updkey.key",
        within: 0.04,
    },
    Way {
        shown: "Kerberos, keytab",
        zone: "gss.test",
        settings: "DNS_AUTH=gss\nDNS_PRINCIPAL='pgsql$@GSS.TEST'\nDNS_KEYTAB=/etc/pgsql.keytab\n",
        script: None,
        beside: 3,
        reset: "KRB5CCNAME=MEMORY: KRB5_CLIENT_KTNAME=/etc/pgsql.keytab nsupdate -g",
        within: 0.15,
    },
    Way {
        shown: "Kerberos, password",
        zone: "gss.test",
        settings: "DNS_AUTH=gss\nDNS_PRINCIPAL='pgsql$@GSS.TEST'\nDNS_PASSWORD_FILE=/etc/pgsql.password\n",
        script: Some("-pwdfile /etc/patroni/dnscp.secret"),
        beside: 3,
        reset: "KRB5CCNAME=MEMORY: KRB5_CLIENT_KTNAME=/etc/pgsql.keytab nsupdate -g",
        within: 0.15,
    },
];

impl Way {
    fn settings(&self) -> String {
        let Self { zone, settings, .. } = self;
        format!("VIPS={VIP}/24\nDNS_NAME=pgsql\nDNS_ZONE={zone}\nDNS_SERVERS={SERVER}\nDNS_TTL=30\n{settings}")
    }

    /// As if another member had been the primary; and who asks for the name.
    fn reset(&self) -> Result<Asker> {
        let Self { zone, reset, .. } = self;
        sh(&format!(
            "ip address del {VIP}/24 dev {INTERFACE} 2>&- || :
            printf 'server {SERVER}\\nzone {zone}\\nupdate delete pgsql.{zone} A\\nupdate add pgsql.{zone} 30 A {BEFORE}\\nsend\\n' | {reset}"
        ))?;
        let asker = Asker::new(&format!("pgsql.{zone}"), format!("{SERVER}:53").parse()?)?;
        asker.expect(BEFORE)?;
        Ok(asker)
    }
}

/// From the start of the program, in seconds.
#[derive(Debug, Clone, Copy)]
struct Times {
    frame: f64,
    record: f64,
}

struct Bench {
    capture: Capture,
}

impl Bench {
    /// All ways, both sides, in turns.
    fn compare(&self, runs: usize, script: bool) -> Result<()> {
        let mut ours: [Vec<Times>; WAYS.len()] = Default::default();
        let mut theirs: [Vec<Times>; WAYS.len()] = Default::default();
        let mut failed = [0; WAYS.len()];
        // The first run of each does not count.
        for run in 0..=runs {
            for (index, way) in WAYS.iter().enumerate() {
                let times = self.ours(way).with_context(|| said("dnscp", way))?;
                ours[index].extend((run > 0).then_some(times));
                if let Some(options) = way.script.filter(|_| script) {
                    match self.theirs(way, options).with_context(|| said("dnscp.sh", way)) {
                        Ok(times) => theirs[index].extend((run > 0).then_some(times)),
                        // Seen once, on a host with ten times the load that it has processors for.
                        Err(error) => {
                            failed[index] += 1;
                            eprintln!("bench: {error:#}");
                        }
                    }
                }
            }
            eprintln!("bench: dnscp: run {run} of {runs}, load average {}", load()?);
        }
        let sample = |times: &[Times], of: fn(&Times) -> f64| Sample::of(times.iter().map(of).collect());
        let against = |beside: usize, of| {
            let times = &theirs[beside];
            let without = match failed[beside] {
                0 => String::new(),
                number => format!("; {number} more without a record after {} s", RUN_LIMIT.as_secs()),
            };
            (!times.is_empty()).then(|| Against { way: WAYS[beside].shown, sample: sample(times, of), without })
        };
        let frame = |times: &Times| times.frame;
        let record = |times: &Times| times.record;
        print("`dnscp`, first ARP frame", &sample(&ours[0], frame), against(0, frame).as_ref(), (0.01, None));
        for (index, way) in WAYS.iter().enumerate() {
            print(
                &format!("`dnscp`, right record, {}", way.shown),
                &sample(&ours[index], record),
                against(way.beside, record).as_ref(),
                (way.within, Some(100.0)),
            );
        }
        Ok(())
    }

    fn ours(&self, way: &Way) -> Result<Times> {
        fs::write("/etc/default/patroni", way.settings())?;
        // It would go on for three seconds, repeating its announcement.
        self.once(way, "/", &format!("{PROGRAM} on_role_change primary 17-main")).map(|(_, times)| times)
    }

    fn theirs(&self, way: &Way, options: &str) -> Result<Times> {
        let line = format!(
            "/etc/patroni/dnscp.sh -vips {VIP} {options} -dnszonefqdn {} -dnsserver {SERVER} -ttl 30 -- on_role_change primary pgsql",
            way.zone
        );
        let (mut child, times) = self.once(way, SECOND, &line)?;
        let end = Instant::now() + RUN_LIMIT;
        while child.0.try_wait()?.is_none() {
            ensure!(Instant::now() < end, "it does not end");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(times)
    }

    /// One run, up to the right record.
    fn once(&self, way: &Way, root: &str, line: &str) -> Result<(Running, Times)> {
        let asker = way.reset()?;
        let mut child = start(root, line)?;
        let begin = started(&mut child)?;
        asker.until(VIP, RUN_LIMIT)?;
        let record = since(begin, SystemTime::now())?;
        let frame = since(begin, self.capture.announcement(VIP, begin, Duration::from_secs(1))?.at)?;
        eprintln!("bench: {line}: frame {}, record {}", shown(frame), shown(record));
        Ok((child, Times { frame, record }))
    }
}

/// The service, while nothing happens.
fn watch_service(over: Duration) -> Result<()> {
    let way = &WAYS[1];
    fs::write("/etc/default/patroni", way.settings())?;
    let asker = way.reset()?;
    let mut child = start("/", &format!("{PROGRAM} --service 17-main"))?;
    started(&mut child)?;
    asker.until(VIP, Duration::from_secs(20))?;
    thread::sleep(Duration::from_secs(5));
    let directory = format!("/proc/{}", child.0.id());
    let look = || {
        let read = |file: &str| fs::read_to_string(format!("{directory}/{file}"));
        Ok((read("status")?, read("stat")?))
    };
    Cost::of(over, look)?.print("after it has registered a record");
    Ok(())
}

/// What a run that failed said.
fn said(program: &str, way: &Way) -> String {
    format!("{program}, {}: {}", way.shown, fs::read_to_string(SAID).unwrap_or_default())
}

/// Starts a line as postgres. It prints the time at which the program itself is executed; what that says goes to a file.
fn start(root: &str, line: &str) -> Result<Running> {
    let child = Command::new("chroot")
        .args(["--userspec=postgres:postgres", root, "bash", "-c"])
        .arg(format!("echo $EPOCHREALTIME && exec {line} >&2"))
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LANG", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(SAID)?)
        .process_group(0)
        .spawn()
        .context("cannot start chroot")?;
    Ok(Running(child))
}

/// A program with all that it has started, until it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let (Ok(None), Ok(group)) = (self.0.try_wait(), i32::try_from(self.0.id())) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            let _ = self.0.wait();
        }
    }
}

fn started(Running(child): &mut Running) -> Result<SystemTime> {
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no standard output")?).read_line(&mut line)?;
    let seconds: f64 = line.trim().parse().with_context(|| format!("no time in {line:?}"))?;
    Ok(UNIX_EPOCH + Duration::from_secs_f64(seconds))
}

fn since(begin: SystemTime, end: SystemTime) -> Result<f64> {
    Ok(end.duration_since(begin).context("the clock was set")?.as_secs_f64())
}

/// A way of the script, and how many runs of it came to nothing.
struct Against {
    way: &'static str,
    sample: Sample,
    without: String,
}

/// Ours beside a way of the script.
fn print(job: &str, ours: &Sample, theirs: Option<&Against>, (within, faster): (f64, Option<f64>)) {
    let ratio = theirs.map(|theirs| theirs.sample.median / ours.median);
    let faster = faster.filter(|_| ratio.is_some());
    let reach = format!("at most {}", shown(within));
    Row {
        job: job.to_owned(),
        ours: ours.to_string(),
        against: theirs.map_or_else(
            || NO_SCRIPT.to_owned(),
            |Against { way, sample, without }| format!("dnscp.sh, {way}: {sample}{without}"),
        ),
        reach: faster.map_or_else(|| reach.clone(), |times| format!("{reach}, at least {times} times faster")),
        result: ratio.map_or_else(|| shown(ours.median), |ratio| format!("{ratio:.1} times faster")),
        met: ours.median <= within && faster.is_none_or(|wanted| ratio.is_some_and(|ratio| ratio >= wanted)),
    }
    .print();
}

fn size() -> Result<()> {
    let bytes = fs::metadata(PROGRAM)?.len();
    let shown = format!("{}.{:02} MB", bytes / 1_000_000, bytes % 1_000_000 / 10_000);
    Row {
        job: "`dnscp`, the whole program on disk".to_owned(),
        ours: shown.clone(),
        against: "–".to_owned(),
        reach: "under 3 MB".to_owned(),
        result: shown,
        met: bytes < 3_000_000,
    }
    .print();
    Ok(())
}
