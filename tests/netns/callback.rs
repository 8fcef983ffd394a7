//! The built program in a network namespace of its own, beside somebody who answers as Patroni does. This shows the wiring;
//! that Patroni really answers so is shown by the system tests.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../pki.rs"]
mod pki;

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lab::world::rest::{PRIMARY, REPLICA, Rest, SILENT, STOPPING};
use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, gettid};
use openssl::pkey::PKey;
use openssl::ssl::{SslAcceptor, SslMethod};
use openssl::x509::X509;

const VIP: &str = "10.77.0.100";

/// A member with `eth0`, its settings, and who answers for Patroni.
struct Member {
    folder: tempfile::TempDir,
    patroni: Rest,
}

impl Member {
    fn new(settings: &str) -> Self {
        ip("link set lo up");
        ip("link add eth0 type veth peer name far");
        ip("link set far up");
        ip("link set eth0 up");
        ip("address add 10.77.0.1/24 broadcast 10.77.0.255 dev eth0");
        let folder = tempfile::tempdir().unwrap();
        for directory in ["etc/default", "etc/patroni", "run/postgresql", "run/patroni-tools", "proc/1", "data"] {
            std::fs::create_dir_all(folder.path().join(directory)).unwrap();
        }
        let patroni = Rest::listen("127.0.0.1:8008").unwrap();
        let member = Self { folder, patroni };
        member.write("etc/default/patroni", settings);
        member.write(
            "etc/patroni/16-main.dnscp",
            "NAME=pg1\nRESTAPI=http://127.0.0.1:8008\nADDRESS=10.77.0.1\nDATA_DIRECTORY=/data\n",
        );
        member
    }

    fn write(&self, path: &str, text: &str) {
        std::fs::write(self.folder.path().join(path), text).unwrap();
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dnscp"));
        command
            .args(line.split_whitespace())
            .env("PATRONI_TOOLS_ROOT", self.folder.path())
            .env_remove("JOURNAL_STREAM");
        command
    }

    fn dnscp(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    fn service(&self) -> Service {
        Service(self.command("--service 16-main").stdin(Stdio::null()).spawn().unwrap())
    }
}

/// Ends with the test.
struct Service(Child);

impl Service {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    fn status(&self, key: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// In user and kernel mode, in hundredths of a second (`proc(5)`, fields 14 and 15 of `stat`).
    fn ticks(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn acceptor(authority: &pki::Authority) -> SslAcceptor {
    acceptor_of(&authority.issue("127.0.0.1".parse().unwrap(), pki::NOW, false))
}

fn acceptor_of(pair: &pki::Pair) -> SslAcceptor {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    builder.set_certificate(&X509::from_pem(pair.certificate.as_bytes()).unwrap()).unwrap();
    builder.set_private_key(&PKey::private_key_from_pem(pair.key.as_bytes()).unwrap()).unwrap();
    builder.build()
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn has() -> bool {
    ip("-o address show").contains(&format!(" {VIP}/"))
}

/// The address has so many seconds left; none: it stays.
fn left() -> Option<u64> {
    let text = ip(&format!("-o address show to {VIP}"));
    let word = text.split_whitespace().skip_while(|word| *word != "valid_lft").nth(1).unwrap().to_owned();
    word.strip_suffix("sec").map(|seconds| seconds.parse().unwrap())
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn wait(what: &str, limit: u64, condition: impl Fn() -> bool) -> Duration {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(limit), "not within {limit} s: {what}");
        thread::sleep(Duration::from_millis(10));
    }
    begin.elapsed()
}

/// In a thread with its own network.
fn alone(test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("REQUIRE_ALL").is_none(), "needs root");
        eprintln!("skipped: needs root");
        return;
    }
    thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        test();
    })
    .join()
    .unwrap();
}

const SETTINGS: &str = "VIPS=10.77.0.100/24,10.78.0.100/24\nVIP_LEASE=3\n";

#[test]
fn events_take_and_give_up() {
    alone(|| {
        let member = Member::new(SETTINGS);
        for (event, answer, here) in [
            ("on_start master 16-main", PRIMARY, true),
            ("on_start primary 16-main", PRIMARY, true),
            ("on_role_change replica 16-main", PRIMARY, false),
            // Patroni's word wins over an event that says more.
            ("on_role_change primary 16-main", REPLICA, false),
            ("on_role_change primary 16-main", STOPPING, false),
            // Without an answer Patroni's own event is believed.
            ("on_role_change primary 16-main", SILENT, true),
            ("before_stop primary 16-main", PRIMARY, false),
            ("on_role_change promoted 16-main", PRIMARY, true),
            ("on_stop primary 16-main", SILENT, false),
            ("on_start primary 16-main", PRIMARY, true),
            ("on_role_change demoted 16-main", PRIMARY, false),
        ] {
            member.patroni.say(answer);
            let begin = Instant::now();
            let mut run = member.command(event).stderr(Stdio::null()).spawn().unwrap();
            wait(event, 2, || has() == here || run_ended(&run));
            let took = begin.elapsed();
            if here {
                run.kill().unwrap();
            }
            run.wait().unwrap();
            assert_eq!(has(), here, "{event} with {answer:?}");
            println!("{event}: {took:?}");
        }
    });
}

fn run_ended(run: &Child) -> bool {
    std::fs::read_to_string(format!("/proc/{}/stat", run.id())).is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn the_plan_is_shown_and_not_done() {
    alone(|| {
        let member = Member::new(SETTINGS);
        let output = member.dnscp("--dry-run on_start primary 16-main");
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(text, "add 10.77.0.100/24 on eth0\nannounce 10.77.0.100 on eth0\n");
        assert!(!has());
        member.patroni.say(REPLICA);
        let output = member.dnscp("--dry-run on_start primary 16-main");
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("nothing, because Patroni reports"), "{output:?}");
    });
}

#[test]
fn the_service_follows_patroni() {
    alone(|| {
        let member = Member::new(SETTINGS);
        member.patroni.say(REPLICA);
        let service = member.service();
        thread::sleep(Duration::from_millis(1500));
        assert!(!has());
        member.patroni.say(PRIMARY);
        println!("missed gain repaired after {:?}", wait("the service takes", 4, has));
        for _ in 0..50 {
            assert!(has() && left().is_some_and(|left| left <= 3));
            thread::sleep(Duration::from_millis(100));
        }
        // Who stops does not get it back, although the lock is still held.
        member.patroni.say(STOPPING);
        assert!(member.dnscp("before_stop primary 16-main").status.success());
        assert!(!has());
        for _ in 0..25 {
            assert!(!has());
            thread::sleep(Duration::from_millis(100));
        }
        member.patroni.say(PRIMARY);
        wait("the service takes again", 4, has);
        member.patroni.say(REPLICA);
        println!("missed loss repaired after {:?}", wait("the service gives up", 3, || !has()));
        member.patroni.say(PRIMARY);
        wait("the service takes again", 4, has);
        member.patroni.say(SILENT);
        let gone = wait("the lease ends", 5, || !has());
        println!("silent Patroni: gone after {gone:?}");
        member.patroni.say(PRIMARY);
        wait("the service takes again", 5, has);
        // Most of it are pages of the program, which is larger without optimization.
        assert!(service.status("VmRSS") < 9 * 1024);
        println!("resident: {} kB, at most {} kB", service.status("VmRSS"), service.status("VmHWM"));
        let before = service.ticks();
        thread::sleep(Duration::from_secs(10));
        println!("in 10 s: {} hundredths of a second", service.ticks() - before);
        // Stopped for longer than the lease, and woken up in a world that has gone on.
        service.signal(Signal::SIGSTOP);
        wait("the lease ends", 5, || !has());
        member.patroni.say(REPLICA);
        service.signal(Signal::SIGCONT);
        for _ in 0..100 {
            assert!(!has());
            thread::sleep(Duration::from_millis(20));
        }
        member.patroni.say(PRIMARY);
        wait("the service takes again", 4, has);
        // Without it the address stays, and a new one gives it a lease.
        service.signal(Signal::SIGTERM);
        wait("no lease", 3, || left().is_none());
        drop(service);
        let service = member.service();
        wait("a lease", 3, || left().is_some());
        // A killed service takes the address with it, in time.
        drop(service);
        wait("the lease ends", 5, || !has());
    });
}

/// patroni-gen-config writes another way to ask, and Patroni takes it over some seconds after it is told to, or its
/// certificates are replaced: the primary has its address all the time.
#[test]
fn a_patroni_that_is_asked_otherwise_keeps_the_address() {
    alone(|| {
        let member = Member::new(SETTINGS);
        let (site, other) = (pki::Authority::new("site"), pki::Authority::new("other"));
        let service = member.service();
        wait("the service takes", 4, has);
        let stays = |what: &str, seconds: u64| {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(seconds) {
                assert!(has(), "{what}: gone after {:?}", begin.elapsed());
                thread::sleep(Duration::from_millis(20));
            }
        };
        member.write("etc/patroni/ca.pem", &site.pem());
        member.write(
            "etc/patroni/16-main.dnscp",
            "NAME=pg1\nRESTAPI=https://127.0.0.1:8008\nRESTAPI_CACERT=/etc/patroni/ca.pem\nADDRESS=10.77.0.1\nDATA_DIRECTORY=/data\n",
        );
        service.signal(Signal::SIGHUP);
        stays("Patroni has not been reloaded yet", 5);
        member.patroni.speak_tls(acceptor(&site));
        stays("Patroni speaks TLS now", 6);
        for key in ["VmRSS", "RssAnon"] {
            println!("{key} with TLS: {} kB", service.status(key));
        }
        assert!(service.status("RssAnon") < 3 * 1024);
        let before = service.ticks();
        thread::sleep(Duration::from_secs(10));
        println!("in 10 s with TLS: {} hundredths of a second", service.ticks() - before);
        member.write("etc/patroni/ca.pem", &(site.pem() + &other.pem()));
        member.patroni.speak_tls(acceptor(&other));
        stays("Patroni has a certificate of another authority", 6);
        let stranger = pki::Authority::new("stranger");
        member.patroni.speak_tls(acceptor(&stranger));
        println!("not believed: gone after {:?}", wait("the lease ends", 5, || !has()));
    });
}

#[test]
fn what_ends_patroni_ends_the_address_but_in_pause() {
    alone(|| {
        let member = Member::new(SETTINGS);
        let (name, pid) = ("postgres", std::process::id());
        member.write("data/postmaster.pid", &format!("{pid}\n/data\n"));
        std::fs::create_dir_all(member.folder.path().join(format!("proc/{pid}"))).unwrap();
        member.write(&format!("proc/{pid}/comm"), &format!("{name}\n"));
        let ended = |code: &str, status: &str| {
            ip(&format!("address replace {VIP}/24 dev eth0 preferred_lft 0"));
            member.command("--stopped 16-main").env("EXIT_CODE", code).env("EXIT_STATUS", status).status().unwrap();
        };
        ended("killed", "KILL");
        assert!(!has());
        ended("exited", "1");
        assert!(!has());
        ended("exited", "0");
        assert_eq!(left(), Some(3));
        std::fs::remove_file(member.folder.path().join("data/postmaster.pid")).unwrap();
        ended("exited", "0");
        assert!(!has());
    });
}

/// Who waits for an answer is told, as he would be by a PostgreSQL that stops. A kernel that cannot do it is no failure.
#[test]
fn clients_of_an_address_that_goes_are_not_left_waiting() {
    alone(|| {
        let member = Member::new(SETTINGS);
        ip(&format!("address add {VIP}/24 dev eth0 preferred_lft 0"));
        let server = TcpListener::bind("0.0.0.0:5432").unwrap();
        let mut client = std::net::TcpStream::connect((VIP, 5432)).unwrap();
        let mut other = std::net::TcpStream::connect("10.77.0.1:5432").unwrap();
        let sessions = [server.accept().unwrap().0, server.accept().unwrap().0];
        for stream in [&client, &other] {
            stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        }
        let output = member.dnscp("before_stop primary 16-main");
        assert!(!has());
        println!("{}", errors(&output));
        let error = client.read(&mut [0; 1]).unwrap_err();
        println!("the client got: {error}");
        assert_eq!(other.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "not this one");
        drop(sessions);
        let able = errors(&output).contains("1 connections reset");
        assert_eq!(error.kind() == std::io::ErrorKind::ConnectionReset, able);
    });
}

#[test]
fn the_test_run_of_the_script() {
    alone(|| {
        let member = Member::new("");
        let mut run = member
            .command("-vips 10.77.0.100,10.78.0.100 -- on_role_change master patroniclustername")
            .spawn()
            .unwrap();
        wait("the address", 2, has);
        run.kill().unwrap();
        run.wait().unwrap();
        let output = member.dnscp("-vips 10.77.0.100,10.78.0.100 -- on_stop master patroniclustername");
        assert!(output.status.success() && !has(), "{}", errors(&output));
    });
}

#[test]
fn settings_that_others_can_write_move_nothing() {
    alone(|| {
        let member = Member::new(SETTINGS);
        let file = member.folder.path().join("etc/default/patroni");
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        let output = member.dnscp("on_start primary 16-main");
        assert!(!output.status.success() && !has());
        assert!(errors(&output).contains("can be changed by other users than root"), "{}", errors(&output));
    });
}

const POSTGRES: u32 = 4242;
const MALLORY: u32 = 4711;

/// A server on a port of its own that says what a primary's Patroni says, as a user of the host. Ends with the test.
struct Server(Child);

impl Server {
    /// With `certificate`, whose key is beside it, it speaks TLS; a slow one accepts a connection only after that time.
    fn run(uid: u32, port: u16, certificate: Option<&Path>, slow: &str) -> Self {
        let id = uid.to_string();
        let mut command = Command::new("setpriv");
        // Another user has not root's PATH.
        command.env("PATH", "/usr/bin:/bin");
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "python3", "-c"]);
        command.arg(include_str!("../dnscp/patroni.py")).env("PORT", port.to_string()).env("SLOW", slow);
        if let Some(certificate) = certificate {
            command.arg(certificate).arg(certificate.with_extension("key")).args(["", "none"]);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), port.to_string(), "python3 does not serve");
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Member {
    /// A member whose users are others than root, and can reach its files.
    fn with_users(settings: &str) -> Self {
        let member = Self::new(settings);
        member
            .write("etc/passwd", &format!("postgres:x:{POSTGRES}:{POSTGRES}::/:\nmallory:x:{MALLORY}:{MALLORY}::/:\n"));
        std::fs::set_permissions(member.folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        member
    }

    /// Patroni is asked there.
    fn ask(&self, url: &str, more: &str) {
        let text = format!("NAME=pg1\nRESTAPI={url}\n{more}ADDRESS=10.77.0.1\nDATA_DIRECTORY=/data\n");
        self.write("etc/patroni/16-main.dnscp", &text);
    }

    /// A certificate of an authority, with its key beside it.
    fn certificate(&self, name: &str, authority: &pki::Authority) -> PathBuf {
        let pair = authority.issue("127.0.0.1".parse().unwrap(), pki::NOW, false);
        self.write(&format!("etc/patroni/{name}.pem"), &pair.certificate);
        self.write(&format!("etc/patroni/{name}.key"), &pair.key);
        self.folder.path().join(format!("etc/patroni/{name}.pem"))
    }

    /// The line of `dnscp status` about the REST API.
    fn said(&self) -> String {
        let errors = errors(&self.dnscp("status 16-main"));
        errors.lines().find(|line| line.contains("REST API")).unwrap_or_default().to_owned()
    }

    /// As another user of the group postgres.
    fn dnscp_as(&self, uid: u32, line: &str) -> Output {
        let (uid, group) = (uid.to_string(), POSTGRES.to_string());
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &uid, "--regid", &group, "--clear-groups", env!("CARGO_BIN_EXE_dnscp")]);
        command.args(line.split_whitespace()).env("PATRONI_TOOLS_ROOT", self.folder.path()).output().unwrap()
    }

    fn lock(&self) -> PathBuf {
        self.folder.path().join("run/patroni-tools/dnscp.16-main.lock")
    }
}

/// The service is started, and looks for a while.
fn never_taken(member: &Member, what: &str) {
    let _service = member.service();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        assert!(!has(), "{what}: taken after {:?}", begin.elapsed());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn another_user_on_the_port_is_never_trusted() {
    alone(|| {
        let member = Member::with_users(SETTINGS);
        let (site, other) = (pki::Authority::new("site"), pki::Authority::new("other"));
        member.write("etc/patroni/ca.pem", &site.pem());
        let pg1 = member.certificate("pg1", &site);
        let etcd = member.certificate("etcd", &site);
        let foreign = member.certificate("foreign", &other);
        for file in [&pg1, &etcd, &foreign] {
            // Only root could read it otherwise, and who has Patroni's own key is not believed either.
            std::fs::set_permissions(file.with_extension("key"), PermissionsExt::from_mode(0o644)).unwrap();
        }
        let by_ca = "RESTAPI_CACERT=/etc/patroni/ca.pem\n";
        let pinned = format!("{by_ca}RESTAPI_CERT=/etc/patroni/pg1.pem\n");
        let mut port = 8010;
        let mut run = |uid: u32, certificate: Option<&Path>, slow: &str, more: &str| {
            port += 1;
            let server = Server::run(uid, port, certificate, slow);
            let protocol = if certificate.is_some() { "https" } else { "http" };
            member.ask(&format!("{protocol}://127.0.0.1:{port}"), more);
            (server, format!("{protocol} {more} slow {slow}"))
        };
        // These are seen to serve: as root, and as who runs Patroni.
        for (uid, certificate, more) in
            [(0, None, ""), (POSTGRES, None, ""), (POSTGRES, Some(&*pg1), &*pinned), (POSTGRES, Some(&*pg1), by_ca)]
        {
            let (server, what) = run(uid, certificate, "0.02", more);
            let service = member.service();
            // A busy host answers late now and then.
            wait(&what, 20, has);
            wait(&what, 20, || member.said().is_empty());
            drop((service, server));
            wait("the lease ends", 5, || !has());
        }
        for (certificate, more) in
            [(None, ""), (Some(&*etcd), by_ca), (Some(&*etcd), &*pinned), (Some(&*pg1), &*pinned)]
        {
            for slow in ["0", "0.1"] {
                let (server, what) = run(MALLORY, certificate, slow, more);
                never_taken(&member, &what);
                // The folder stands for the machine.
                let process = format!("proc/{}", server.0.id());
                std::fs::create_dir_all(member.folder.path().join(&process)).unwrap();
                member.write(&format!("{process}/comm"), "python3\n");
                let descriptors = member.folder.path().join(&process).join("fd");
                std::os::unix::fs::symlink(format!("/{process}/fd"), descriptors).unwrap();
                let who = format!(
                    "python3 (process {}) of user mallory (uid {MALLORY}) answers there instead of Patroni",
                    server.0.id()
                );
                wait(&format!("{what}: {who}"), 20, || member.said().contains(&who));
            }
        }
        // A connection that is never accepted belongs to no user.
        let (_server, what) = run(MALLORY, None, "5", "");
        never_taken(&member, &what);
        assert!(member.said().contains("did not answer within"), "{}", member.said());
        // The service itself says it once.
        let (_server, _) = run(MALLORY, None, "0", "");
        let mut service = member.command("--service 16-main").stderr(Stdio::piped()).spawn().unwrap();
        thread::sleep(Duration::from_secs(4));
        service.kill().unwrap();
        let said = errors(&service.wait_with_output().unwrap());
        let times = said.matches("of user mallory (uid 4711) answers there instead of Patroni").count();
        assert!(times == 1 || (times == 2 && said.contains("did not answer within")), "{said}");
    });
}

/// Where the kernel cannot say who answers, Patroni's own certificate is the only one that counts.
#[test]
fn what_is_not_on_this_host_is_believed_by_patronis_own_certificate_alone() {
    alone(|| {
        let member = Member::with_users(SETTINGS);
        let site = pki::Authority::new("site");
        member.write("etc/patroni/ca.pem", &site.pem());
        let (jobs, queue) = std::sync::mpsc::channel::<Box<dyn FnOnce() -> Rest + Send>>();
        let (answers, answered) = std::sync::mpsc::channel();
        let (ready, started) = std::sync::mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(gettid()).unwrap();
            for job in queue {
                answers.send(job()).unwrap();
            }
        });
        ip(&format!("link set far netns {}", started.recv().unwrap()));
        jobs.send(Box::new(|| {
            ip("address add 10.77.0.3/24 dev far");
            ip("link set far up");
            Rest::listen("10.77.0.3:8008").unwrap()
        }))
        .unwrap();
        let far = answered.recv().unwrap();
        let role = || String::from_utf8(member.dnscp("status 16-main").stdout).unwrap();
        member.ask("http://10.77.0.3:8008", "");
        assert!(role().contains("role:    Patroni does not answer\n"), "{}", role());
        assert!(member.said().contains("the kernel does not report who answers there"), "{}", member.said());

        let by_ca = "RESTAPI_CACERT=/etc/patroni/ca.pem\n";
        let pair = site.issue("127.0.0.1".parse().unwrap(), pki::NOW, false);
        member.write("etc/patroni/pg1.pem", &pair.certificate);
        far.speak_tls(acceptor_of(&pair));
        member.ask("https://10.77.0.3:8008", &format!("{by_ca}RESTAPI_CERT=/etc/patroni/pg1.pem\n"));
        assert!(role().contains("role:    primary\n"), "{} {}", role(), member.said());
        member.ask("https://10.77.0.3:8008", by_ca);
        assert!(member.said().contains("Patroni's own certificate is not known"), "{}", member.said());
        assert!(role().contains("role:    Patroni does not answer\n"), "{}", role());
        member.ask("https://10.77.0.3:8008", &format!("{by_ca}RESTAPI_CERT=/etc/patroni/pg1.pem\n"));
        far.speak_tls(acceptor(&site));
        assert!(member.said().contains("its certificate is not the one in /etc/patroni/pg1.pem"), "{}", member.said());
        assert!(role().contains("role:    Patroni does not answer\n"), "{}", role());
    });
}

/// Whoever makes them first, and with whatever umask; and no other user can hold them.
#[test]
fn the_locks_are_open_to_their_owner_alone() {
    alone(|| {
        let member = Member::with_users(SETTINGS);
        let directory = member.folder.path().join("run/patroni-tools");
        std::os::unix::fs::chown(&directory, None, Some(POSTGRES)).unwrap();
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o1770)).unwrap();
        for (umask, line) in [
            ("000", "status 16-main"),
            ("022", "-ttl 30 -- on_role_change replica 16-main"),
            ("777", "on_stop primary 16-main"),
            ("077", "--stopped 16-main"),
        ] {
            let program = env!("CARGO_BIN_EXE_dnscp");
            let script = format!("umask {umask}; exec {program} {line}");
            let mut command = Command::new("sh");
            command.args(["-c", &script]).env("PATRONI_TOOLS_ROOT", member.folder.path());
            let output = command.output().unwrap();
            let data = member.lock().metadata().unwrap_or_else(|_| panic!("{line}: {output:?}"));
            assert_eq!((data.uid(), data.mode() & 0o7777), (POSTGRES, 0o600), "{line}");
            // Both are in the group.
            for (uid, can) in [(POSTGRES, true), (MALLORY, false)] {
                let id = uid.to_string();
                let group = POSTGRES.to_string();
                let mut flock = Command::new("setpriv");
                flock.args(["--reuid", &id, "--regid", &group, "--clear-groups", "flock", "-n"]).arg(member.lock());
                let output = flock.arg("true").output().unwrap();
                assert_eq!(output.status.success(), can, "{line}, {uid}: {output:?}");
            }
            // It is taken by the others as it is, where the kernel protects it (`fs.protected_regular`), too.
            for uid in [0, POSTGRES] {
                let said = errors(&member.dnscp_as(uid, "status 16-main"));
                assert!(!said.contains("run/patroni-tools"), "{line}, {uid}: {said}");
            }
            std::fs::remove_file(member.lock()).unwrap();
        }
        // Another member of the group makes none, which would be its own.
        let said = errors(&member.dnscp_as(MALLORY, "status 16-main"));
        assert!(said.contains("Run this as root or postgres") && !member.lock().exists(), "{said}");
        let _ = member.dnscp_as(POSTGRES, "status 16-main");
        assert_eq!(member.lock().metadata().unwrap().uid(), POSTGRES);
        std::fs::remove_file(member.lock()).unwrap();
        let left: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name == "dnscp.16-main.service"), "{left:?}");
        // Without the directory a callback does its work, and says what is wrong.
        std::fs::remove_dir_all(&directory).unwrap();
        ip(&format!("address add {VIP}/24 dev eth0 preferred_lft 0"));
        let output = member.dnscp("before_stop primary 16-main");
        assert!(output.status.success() && !has(), "{output:?}");
        assert!(errors(&output).contains("systemd-tmpfiles --create patroni-tools.conf"), "{}", errors(&output));
        ip(&format!("address add {VIP}/24 dev eth0 preferred_lft 0"));
        let output = member.dnscp("--stopped 16-main");
        assert!(output.status.success() && !has(), "{output:?}");
    });
}

#[test]
fn a_service_that_waits_for_the_lock_says_so_once() {
    alone(|| {
        let member = Member::new(SETTINGS);
        let mut service = member.command("--service 16-main").stderr(Stdio::piped()).spawn().unwrap();
        wait("the service takes", 4, has);
        std::fs::create_dir_all(member.folder.path().join(format!("proc/{}", std::process::id()))).unwrap();
        let file = std::fs::File::open(member.lock()).unwrap();
        let mut file = Some(file);
        let lock = loop {
            match Flock::lock(file.take().unwrap(), FlockArg::LockExclusiveNonblock) {
                Ok(lock) => break lock,
                Err((back, _)) => file = Some(back),
            }
        };
        wait("the lease ends", 5, || !has());
        thread::sleep(Duration::from_secs(4));
        let status = errors(&member.dnscp("status 16-main"));
        assert!(
            status.contains("another process has held the lock /run/patroni-tools/dnscp.16-main.lock for longer than"),
            "{status}"
        );
        drop(lock);
        wait("the service takes again", 4, has);
        thread::sleep(Duration::from_secs(1));
        let status = errors(&member.dnscp("status 16-main"));
        assert!(!status.contains("lock"), "{status}");
        service.kill().unwrap();
        let said = errors(&service.wait_with_output().unwrap());
        for line in [
            "warning: another process holds the lock /run/patroni-tools/dnscp.16-main.lock",
            "the lock was released after",
        ] {
            assert_eq!(said.matches(line).count(), 1, "{said}");
        }
    });
}

/// Whatever is set: an address that dnscp did not add may be the only one of the host.
#[test]
fn what_dnscp_did_not_add_stays_as_it_is() {
    alone(|| {
        let member = Member::new(SETTINGS);
        ip(&format!("address add {VIP}/24 dev eth0"));
        let kept = |what: &str| assert!(has() && left().is_none(), "{what}: {}", ip("address show dev eth0"));
        for (event, answer) in [
            ("on_start primary 16-main", PRIMARY),
            ("on_role_change replica 16-main", REPLICA),
            ("before_stop primary 16-main", STOPPING),
            ("--stopped 16-main", REPLICA),
        ] {
            member.patroni.say(answer);
            let said = errors(&member.dnscp(event));
            kept(event);
            assert!(said.contains("dnscp did not add it") || event.starts_with("--"), "{event}: {said}");
        }
        for answer in [PRIMARY, REPLICA, SILENT] {
            member.patroni.say(answer);
            let mut service = member.command("--service 16-main").stderr(Stdio::piped()).spawn().unwrap();
            thread::sleep(Duration::from_secs(4));
            kept("service");
            service.kill().unwrap();
            let said = errors(&service.wait_with_output().unwrap());
            let times = said.matches(&format!("remove it with: ip address delete {VIP}/24 dev eth0")).count();
            assert_eq!(times, usize::from(answer != SILENT), "{said}");
        }
        // The remedy, typed as it stands, on a primary.
        member.patroni.say(PRIMARY);
        let _service = member.service();
        ip(&format!("address delete {VIP}/24 dev eth0"));
        wait("the service takes", 4, || has() && left().is_some());
    });
}

#[test]
fn a_service_that_starts_before_patroni_says_nothing() {
    alone(|| {
        let member = Member::new(SETTINGS);
        member.write(
            "etc/patroni/16-main.dnscp",
            "NAME=pg1\nRESTAPI=http://127.0.0.1:8009\nADDRESS=10.77.0.1\nDATA_DIRECTORY=/data\n",
        );
        let mut service = member.command("--service 16-main").stderr(Stdio::piped()).spawn().unwrap();
        thread::sleep(Duration::from_secs(3));
        let patroni = Rest::listen("127.0.0.1:8009").unwrap();
        wait("the service takes", 4, has);
        patroni.say(REPLICA);
        wait("the service gives up", 4, || !has());
        service.kill().unwrap();
        let said = errors(&service.wait_with_output().unwrap());
        assert!(!said.contains("warning"), "{said}");
    });
}

#[test]
fn what_the_settings_no_longer_have_goes() {
    alone(|| {
        let member = Member::new(SETTINGS);
        let start = || {
            let child = member.command("--service 16-main").stderr(Stdio::piped()).spawn().unwrap();
            wait("the service takes", 4, has);
            child
        };
        let signal = |child: &Child, signal| kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        let service = start();
        member.write("etc/default/patroni", "VIPS=10.77.0.101/24\nVIP_LEASE=3\n");
        signal(&service, Signal::SIGHUP);
        wait("the old address goes", 3, || !has());
        wait("the new one comes", 4, || ip("-o address show").contains(" 10.77.0.101/"));
        member.write("etc/default/patroni", "");
        signal(&service, Signal::SIGHUP);
        let output = service.wait_with_output().unwrap();
        let said = errors(&output);
        assert!(output.status.success() && !ip("-o address show").contains(" 10.77.0.101/"), "{said}");
        for part in [
            "settings reloaded: VIPS=10.77.0.101/24 (was 10.77.0.100/24,10.78.0.100/24)\n",
            "the settings no longer have it: removed 10.77.0.100 from eth0",
            "neither VIPS nor a DNS name is set any more, so the service ends",
        ] {
            assert!(said.contains(part), "no '{part}' in: {said}");
        }
        // So it does when it is stopped.
        member.write("etc/default/patroni", SETTINGS);
        let service = start();
        member.write("etc/default/patroni", "");
        signal(&service, Signal::SIGTERM);
        assert!(service.wait_with_output().unwrap().status.success());
        assert!(!has());
    });
}

/// What the doctor reads.
#[test]
fn the_status_has_findings_with_hints() {
    alone(|| {
        let member = Member::new("VIPS=10.77.0.100/24\n");
        let findings = || -> Vec<String> {
            let output = member.dnscp("status --json 16-main");
            let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            let text = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
            let all = status["findings"].as_array().unwrap();
            all.iter().map(|one| ["level", "place", "what", "hint"].map(|key| text(one, key)).join("|")).collect()
        };
        let start = "Start it with: systemctl start dnscp@16-main";
        let missing = "error||10.77.0.100 is not here, but this member is the primary";
        assert_eq!(findings(), [format!("{missing}, and dnscp@16-main is not running|{start}")]);
        member.patroni.say(REPLICA);
        assert_eq!(findings(), [""; 0]);
        ip(&format!("address add {VIP}/24 dev eth0 preferred_lft 0"));
        let held =
            "error||10.77.0.100 is on eth0, but this member is not the primary, and dnscp@16-main is not running";
        assert_eq!(findings(), [format!("{held}|{start}")]);
        ip(&format!("address del {VIP}/24 dev eth0"));
        // keepalived moves it, and is stopped.
        member.write("etc/default/patroni", "VIPS=10.77.0.100/24\nVIP_MANAGER=keepalived\n");
        let slice = member.folder.path().join("sys/fs/cgroup/system.slice");
        std::fs::create_dir_all(&slice).unwrap();
        let _service = member.service();
        thread::sleep(Duration::from_millis(1500));
        let stopped = "keepalived is not running";
        assert!(
            findings()[0].starts_with("warning||keepalived, which moves the virtual IP address (VIP_MANAGER), is not")
        );
        member.patroni.say(PRIMARY);
        thread::sleep(Duration::from_millis(1500));
        let hint = "Start it with: systemctl start keepalived";
        assert_eq!(findings(), [format!("{missing}, and {stopped}, which moves it (VIP_MANAGER)|{hint}")]);
        std::fs::create_dir_all(slice.join("keepalived.service")).unwrap();
        let journal = "See why with: journalctl -u keepalived";
        assert_eq!(findings(), [format!("{missing} (VIP_MANAGER is keepalived)|{journal}")]);
        ip(&format!("address add {VIP}/24 dev eth0"));
        assert_eq!(findings(), [""; 0]);
        // Settings that dnscp does not believe.
        let settings = member.folder.path().join("etc/default/patroni");
        std::fs::set_permissions(settings, std::fs::Permissions::from_mode(0o666)).unwrap();
        let close = "Close it to them with: chmod go-w /etc/default/patroni";
        assert_eq!(
            findings(),
            [format!("error||/etc/default/patroni can be changed by other users than root|{close}")]
        );
    });
}
