//! The lab does what the other system tests rely on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Lab, Release};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SOON: Duration = Duration::from_secs(10);

fn pings(lab: &Lab, from: &str, to: &str) -> Result<bool> {
    Ok(lab.node(from).try_run(&format!("ping -c1 -W1 {to}"))?.status.success())
}

fn boots_cuts_and_keeps(release: Release) -> Result<()> {
    lab::test(release, &["pg1", "pg2"], |lab| {
        let pg1 = lab.node("pg1");
        assert_eq!(pg1.run("hostname")?, "pg1\n");
        assert_eq!(pg1.run_as("postgres", "id -un; pwd")?, "postgres\n/var/lib/postgresql\n");
        for address in ["pg2", "pg2-v6"] {
            ensure!(pings(lab, "pg1", address)?, "{address} does not answer");
        }

        lab.node("pg2").cut()?;
        ensure!(!pings(lab, "pg1", "pg2")?, "a cut cable carries packets");
        lab.node("pg2").reboot()?;
        ensure!(!pings(lab, "pg1", "pg2")?, "a reboot mended the cable");
        lab.node("pg2").mend()?;
        lab.wait_until(SOON, "pg2 answers again", || pings(lab, "pg1", "pg2"))?;

        pg1.write("/srv/deep/file", "kept\n", 0o600)?;
        let boot = pg1.run("cat /proc/sys/kernel/random/boot_id; stat -c %Y /proc/1")?;
        pg1.power_off()?;
        ensure!(!pg1.is_on(), "it is on after power_off");
        ensure!(pg1.run("true").is_err(), "a command ran in a machine that is off");
        assert_eq!(pg1.read("/srv/deep/file")?, "kept\n");
        pg1.start()?;
        ensure!(pg1.run("cat /proc/sys/kernel/random/boot_id; stat -c %Y /proc/1")? != boot, "the same boot");
        assert_eq!(pg1.run("stat -c %a%U /srv/deep/file; cat /srv/deep/file")?, "600root\nkept\n");
        ensure!(
            pg1.journal()?.matches("Reached target multi-user.target").count() >= 2,
            "the journal of a boot is missing"
        );
        pg1.shut_down()
    })
}

#[test]
fn debian_12_boots_cuts_and_keeps() -> Result<()> {
    boots_cuts_and_keeps(Release::Debian12)
}

#[test]
fn debian_13_boots_cuts_and_keeps() -> Result<()> {
    boots_cuts_and_keeps(Release::Debian13)
}

#[test]
fn commands_end_in_time_and_say_what_failed() -> Result<()> {
    lab::test(Release::Debian13, &["pg1"], |lab| {
        let pg1 = lab.node("pg1");
        let error = pg1.run("echo out; echo err >&2; exit 3").err().context("no error")?.to_string();
        for part in ["pg1: echo out", "exit status: 3", "\nout", "\nerr"] {
            ensure!(error.contains(part), "{part:?} is not in {error:?}");
        }
        let begin = Instant::now();
        let error = pg1.run_within(Duration::from_millis(300), "echo before; sleep 100").err().context("no error")?;
        ensure!(error.to_string().contains("before"), "what it said is lost: {error}");
        ensure!(begin.elapsed() < SOON, "the limit did not hold");
        // A daemon that keeps the command's output open does not keep the command.
        pg1.run("sleep 55 & echo $!")?;
        lab.wait_until(SOON, "only the daemon is left", || Ok(pg1.run("pgrep -cx sleep")? == "1\n"))?;
        Ok(())
    })
}

#[test]
fn a_frozen_machine_stops_and_goes_on() -> Result<()> {
    lab::test(Release::Debian13, &["pg1"], |lab| {
        let pg1 = lab.node("pg1");
        let counter = pg1.spawn("while :; do echo; sleep 0.05; done")?;
        let lines = || counter.stdout_so_far().map(|text| text.len());
        pg1.freeze()?;
        let before = lines()?;
        thread::sleep(Duration::from_millis(300));
        assert_eq!(lines()?, before);
        pg1.thaw()?;
        lab.wait_until(SOON, "the counter goes on", || Ok(lines()? > before))?;
        pg1.freeze()?;
        pg1.power_off()?;
        pg1.start()
    })
}

#[test]
fn a_server_that_listens_late_is_waited_for() -> Result<()> {
    lab::test(Release::Debian13, &["pg1"], |lab| {
        let pg1 = lab.node("pg1");
        let connects = || Ok::<_, anyhow::Error>(pg1.try_run("exec 3<>/dev/tcp/127.0.0.1/7379")?.status.success());
        pg1.run("systemd-run --quiet sh -c 'sleep 3; exec python3 -m http.server 7379'")?;
        ensure!(!connects()?, "it listens already, so that this shows nothing");
        pg1.wait_listening(&[7379])?;
        ensure!(connects()?, "it was seen to listen, and takes no connection");
        Ok(())
    })
}

#[test]
fn apt_installs_what_is_offered() -> Result<()> {
    lab::test(Release::Debian13, &["pg1", "pg2"], |lab| {
        for version in ["1.0", "2.0"] {
            let package = tiny_package(version)?;
            lab.offer(&[&package])?;
            lab.each(|node| node.run("apt-get install -y tiny").map(drop))?;
            for node in lab.nodes() {
                assert_eq!(node.run("dpkg-query -W -f '${Version}' tiny")?, version);
            }
        }
        lab.node("pg1").run(
            "apt-get purge -y patroni && ! command -v patroni && apt-get install -y patroni && patroni --version",
        )?;
        Ok(())
    })
}

#[test]
fn a_member_of_etcd_comes_back_after_power_off() -> Result<()> {
    lab::test(Release::Debian13, &["pg1", "pg2", "pg3"], |lab| {
        lab.start_etcd()?;
        lab.node("pg1").run("etcdctl put /key value")?;
        lab.node("pg3").power_off()?;
        lab.node("pg3").start()?;
        lab.wait_until(SOON, "pg3 has the key", || {
            Ok(lab.node("pg3").run("etcdctl get --print-value-only /key")? == "value\n")
        })
    })
}

#[test]
fn a_killed_lab_leaves_nothing() -> Result<()> {
    if !lab::ready()? {
        return Ok(());
    }
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut child = this_test("holds_a_lab_until_killed").stdout(Stdio::piped()).spawn()?;
    let ready = scratch("ready")?;
    let end = Instant::now() + Duration::from_secs(300);
    while !ready.exists() {
        ensure!(child.try_wait()?.is_none() && Instant::now() < end, "the lab to kill did not come up");
        thread::sleep(Duration::from_millis(50));
    }
    let cgroup = PathBuf::from(fs::read_to_string(&ready)?);
    fs::remove_file(&ready)?;
    ensure!(!processes_in(&cgroup)?.is_empty(), "no process in {}", cgroup.display());
    let pids = processes_in(&cgroup)?;

    kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGKILL)?;
    child.wait()?;

    let end = Instant::now() + SOON;
    while cgroup.exists() || pids.iter().any(|pid| alive(*pid)) {
        ensure!(
            Instant::now() < end,
            "left: {} {:?}",
            cgroup.display(),
            pids.iter().filter(|pid| alive(**pid)).collect::<Vec<_>>()
        );
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(fs::read_to_string("/proc/self/mounts")?, mounts);
    Ok(())
}

/// Not a test: the process that [`a_killed_lab_leaves_nothing`] kills.
#[test]
#[ignore = "started by a_killed_lab_leaves_nothing"]
fn holds_a_lab_until_killed() -> Result<()> {
    let lab = Lab::boot(Release::Debian13, &["pg1", "pg2"])?;
    let _running = lab.node("pg1").spawn("sleep 1000")?;
    fs::write(scratch("ready.new")?, lab.cgroup().context("no cgroup v2")?.as_os_str().as_encoded_bytes())?;
    fs::rename(scratch("ready.new")?, scratch("ready")?)?;
    thread::sleep(Duration::from_secs(600));
    Ok(())
}

#[test]
fn a_detached_lab_lives_until_it_is_removed() -> Result<()> {
    if !lab::ready()? {
        return Ok(());
    }
    let name = format!("test-{}", std::process::id());
    let run = |words: &[&str]| -> Result<String> {
        let output = Command::new(env!("CARGO_BIN_EXE_lab")).args(words).stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "lab {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    run(&["up", "--name", &name, "--nodes", "a,b"])?;
    assert_eq!(run(&["exec", "--name", &name, "b", "--", "hostname"])?, "b\n");
    run(&["off", "--name", &name, "a"])?;
    ensure!(run(&["list"])?.contains(&format!("{name}: Debian 13: a off, b on")), "{}", run(&["list"])?);
    run(&["on", "--name", &name, "a"])?;
    let cgroup = Lab::attach(&name)?.cgroup().context("no cgroup v2")?;
    ensure!(cgroup.exists(), "no {}", cgroup.display());
    run(&["down", "--name", &name])?;
    ensure!(!cgroup.exists(), "{} is left", cgroup.display());
    ensure!(!run(&["list"])?.contains(&name), "it is still listed");
    run(&["down", "--name", &name]).map(drop)
}

fn this_test(name: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", name, "--ignored", "--nocapture"]);
    command
}

/// A path for this run of the tests, the same in the process that [`this_test`] starts.
fn scratch(name: &str) -> Result<PathBuf> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("killed-lab");
    fs::create_dir_all(&directory)?;
    Ok(directory.join(name))
}

fn processes_in(cgroup: &Path) -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type()?.is_dir() {
            pids.extend(processes_in(&entry.path())?);
        } else if entry.file_name() == "cgroup.procs" {
            pids.extend(fs::read_to_string(entry.path())?.lines().filter_map(|line| line.parse::<u32>().ok()));
        }
    }
    Ok(pids)
}

/// True for a process that has not ended; what the host's init has not reaped has ended.
fn alive(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

fn tiny_package(version: &str) -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tiny-{version}"));
    fs::create_dir_all(root.join("DEBIAN"))?;
    let control = format!(
        "Package: tiny\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: nothing\n"
    );
    fs::write(root.join("DEBIAN/control"), control)?;
    let package = root.with_extension("deb");
    let status = Command::new("dpkg-deb")
        .args(["--build", "--root-owner-group"])
        .args([&root, &package])
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success(), "dpkg-deb failed");
    Ok(package)
}
