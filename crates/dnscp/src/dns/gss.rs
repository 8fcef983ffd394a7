//! Updates with Kerberos (RFC 3645) through `nsupdate -g`: no maintained crate implements GSS-TSIG.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use host::endpoint::{GSS_PROGRAMS, GssSecret};
use host::trouble::{Explain, Trouble};
use host::{Root, fail, trouble};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid};

use super::exchange::Limits;
use super::key::read_secret;
use super::keytab;
use super::records::Seen;
use super::update::{Change, Sent, reason};

/// The directory of credential caches during a run: in memory, never on a disk.
const SHARED_MEMORY: &str = "/dev/shm";
const CACHE_PREFIX: &str = "dnscp-krb5-";

/// A cache of this age was left behind by a run that was killed.
const STALE: Duration = Duration::from_secs(600);

/// An account and its secret.
pub(super) struct Client {
    root: Root,
    principal: String,
    secret: Secret,
}

enum Secret {
    /// The library itself gets a ticket with the keytab, and keeps it in memory.
    Direct(PathBuf),
    /// The first account of the keytab is another one: only kinit can choose.
    Keytab(PathBuf),
    Password(Vec<u8>),
}

impl Client {
    pub(super) fn read(root: &Root, principal: &str, secret: &GssSecret) -> Result<Self> {
        // It becomes a word in the input of nsupdate.
        let good = |c: char| c.is_ascii_graphic() && !"\";".contains(c);
        if !principal.chars().all(good) || principal.starts_with('-') {
            fail!("DNS_PRINCIPAL '{principal}' is not a Kerberos account"; "Write it as pgsql$@EXAMPLE.ORG.");
        }
        let secret = match secret {
            GssSecret::Keytab(path) => {
                let accounts = keytab::accounts(&read_secret(root, path)?)
                    .with_context(|| format!("{} is not a keytab", path.display()))
                    .or_hint(|| "Export it again.".to_owned())?;
                let real = root.path(path);
                match accounts.iter().position(|account| keytab::same(account, principal)) {
                    Some(0) => Secret::Direct(real),
                    Some(_) => Secret::Keytab(real),
                    None => fail!(
                        "{} has no key of {principal}, but of {}", path.display(),
                        if accounts.is_empty() { "no account".to_owned() } else { accounts.join(", ") };
                        "Export it again."
                    ),
                }
            }
            GssSecret::Password(path) => {
                let bytes = read_secret(root, path)?;
                let password = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
                let password = password.strip_suffix(b"\r").unwrap_or(password);
                if password.is_empty() || password.contains(&b'\n') {
                    fail!("{} does not have exactly one line", path.display(); "Write the password as its only line.");
                }
                Secret::Password(password.to_owned())
            }
        };
        Ok(Self { root: root.clone(), principal: principal.to_owned(), secret })
    }

    /// Sends one change.
    pub(super) fn send(
        &self,
        server: SocketAddr,
        change: &Change,
        still_primary: &dyn Fn() -> bool,
        until: Instant,
    ) -> Result<Sent> {
        // Removed when it is dropped, after nsupdate has exited.
        let cache = match &self.secret {
            Secret::Direct(_) => None,
            Secret::Keytab(_) | Secret::Password(_) => Some(Cache::new(&self.root)?),
        };
        if let Some(cache) = &cache {
            self.kinit(cache, until)?;
        }
        let mut nsupdate = self.child("nsupdate", cache.as_ref())?;
        let seconds = until.saturating_duration_since(Instant::now()).as_secs() + 1;
        // -v: -t applies only to TCP.
        nsupdate.args(["-g", "-v", "-t", &seconds.to_string()]);
        if !still_primary() {
            return Ok(Sent::NotPrimary);
        }
        let input = script(server, self.realm(), change);
        let Some(ended) = run(nsupdate, input.as_bytes(), until)? else {
            fail!(
                "nsupdate did not finish in time, although the server answers: probably no KDC of {} does",
                self.realm().unwrap_or("the realm");
                "Check /etc/krb5.conf and the network. To test, run: kinit {}", self.principal
            );
        };
        if ended.status.success() {
            return Ok(Sent::Done);
        }
        self.explain(&ended, server, change, until)
    }

    fn realm(&self) -> Option<&str> {
        self.principal.rsplit_once('@').map(|(_, realm)| realm)
    }

    fn kinit(&self, cache: &Cache, until: Instant) -> Result<()> {
        let mut kinit = self.child("kinit", Some(cache))?;
        let input = match &self.secret {
            Secret::Password(password) => [password.as_slice(), b"\n"].concat(),
            Secret::Keytab(path) | Secret::Direct(path) => {
                kinit.arg("-k").arg("-t").arg(path);
                Vec::new()
            }
        };
        kinit.arg("--").arg(&self.principal);
        match run(kinit, &input, until)? {
            Some(ended) if ended.status.success() => Ok(()),
            Some(ended) => Err(self.kerberos_fault(&last_line(&ended.stderr)).into()),
            None => fail!(
                "no KDC of {} answered kinit in time", self.realm().unwrap_or("the realm");
                "Check /etc/krb5.conf and the network."
            ),
        }
    }

    /// A child without the environment and the capabilities of this process.
    ///
    /// Capabilities of a file are not inherited by children, and a program that has some starts without ambient ones
    /// (capabilities(7)). But a unit may set ambient ones, and root has all. `setpriv` also kills the child together with this process,
    /// so that a killed run does not update later.
    fn child(&self, program: &str, cache: Option<&Cache>) -> Result<Command> {
        let mut command = Command::new(self.root.program("setpriv")?);
        command.args(["--no-new-privs", "--pdeathsig=KILL", "--inh-caps=-all", "--ambient-caps=-all"]);
        if geteuid().is_root() {
            command.arg("--bounding-set=-all");
        }
        let package = GSS_PROGRAMS.iter().find(|(name, _)| *name == program).map_or(program, |(_, package)| package);
        let found = self.root.program(program);
        let Ok(program) = found else {
            fail!("DNS_AUTH=gss requires {program}"; "Install it with: apt install {package}");
        };
        command.arg("--").arg(program);
        command.env_clear().env("LC_ALL", "C").env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("HOME", "/nonexistent");
        let mut name = OsString::from("FILE:");
        match (cache, &self.secret) {
            (Some(cache), _) => name.push(cache.directory.join("ticket")),
            (None, Secret::Direct(path) | Secret::Keytab(path)) => {
                name = "MEMORY:".into();
                command.env("KRB5_CLIENT_KTNAME", path);
            }
            (None, Secret::Password(_)) => fail!("there is no cache for the ticket"),
        }
        command.env("KRB5CCNAME", name).current_dir("/");
        Ok(command)
    }

    /// What a failed nsupdate means.
    fn explain(&self, ended: &Ended, server: SocketAddr, change: &Change, until: Instant) -> Result<Sent> {
        let said = &ended.stderr;
        let code = said.lines().rev().find_map(|line| line.strip_prefix("update failed: "));
        // Samba before 4.19.8 signs every answer wrongly (its bug 13019). Then the answer is not trusted, but the record is.
        if said.contains("TSIG error with server") {
            let seen = Seen::ask(server, change.name, Limits { patience: until, until })
                .context("its answer is not properly signed")?;
            // A trial changes nothing: only a code would say that it is refused.
            if (change.trial && code.is_none()) || (!change.trial && seen.is(change.wanted, change.ttl)) {
                return Ok(Sent::Done);
            }
        }
        match code {
            Some("NXRRSET" | "YXRRSET" | "NXDOMAIN" | "YXDOMAIN") if change.seen.is_some() => Ok(Sent::Overtaken),
            Some(code) => Err(reason(code, change).into()),
            None if said.contains("GSSAPI error") || said.contains("tkey") => {
                Err(self.kerberos_fault(&last_line(said)).into())
            }
            None => fail!("nsupdate failed ({}): {}", ended.status, last_line(said)),
        }
    }

    fn kerberos_fault(&self, said: &str) -> Trouble {
        let principal = &self.principal;
        let any = |parts: &[&str]| parts.iter().any(|part| said.contains(part));
        let (what, hint) = if any(&["Preauthentication failed", "Password incorrect", "Decrypt integrity check failed"])
        {
            ("key or password are not those of the account", "Export the keytab again, or correct the password file.")
        } else if any(&["not found in Kerberos database"]) {
            (
                "unknown account or service",
                "Create the account, or the service DNS/ of the zone's primary server, in the KDC.",
            )
        } else if any(&["Cannot contact any KDC", "Cannot find KDC"]) {
            ("no KDC answers", "Check /etc/krb5.conf and the network.")
        } else if any(&["skew"]) {
            ("the clock differs from the KDC's by more than 5 minutes", "Set the clock.")
        } else {
            ("authentication failed", "Check /etc/krb5.conf.")
        };
        trouble!(at format!("Kerberos as {principal}"), "{what} ({said})"; "{hint}")
    }
}

/// The input of nsupdate: one message (see its manual page).
fn script(server: SocketAddr, realm: Option<&str>, change: &Change) -> String {
    let (name, zone, ttl) = (change.name, change.zone, change.ttl);
    let mut text = format!("server {} {}\n", server.ip(), server.port());
    if let Some(realm) = realm {
        let _ = writeln!(text, "realm {realm}");
    }
    let _ = writeln!(text, "zone {zone}.");
    let steps = change.steps();
    for step in &steps {
        let rtype = step.rtype();
        match step.expected.as_deref() {
            Some([]) => {
                let _ = writeln!(text, "prereq nxrrset {name}. IN {rtype}");
            }
            Some(addresses) => {
                for address in addresses {
                    let _ = writeln!(text, "prereq yxrrset {name}. IN {rtype} {address}");
                }
            }
            None => {}
        }
    }
    for step in &steps {
        let rtype = step.rtype();
        if step.delete {
            let _ = writeln!(text, "update delete {name}. {rtype}");
        }
        for address in &step.add {
            let _ = writeln!(text, "update add {name}. {ttl} {rtype} {address}");
        }
    }
    text.push_str("send\n");
    text
}

/// A private directory for a ticket, removed when it is dropped.
struct Cache {
    directory: PathBuf,
}

impl Cache {
    fn new(root: &Root) -> Result<Self> {
        let parent = root.path(SHARED_MEMORY);
        sweep(&parent);
        let directory = parent.join(format!("{CACHE_PREFIX}{:016x}", getrandom::u64()?));
        nix::unistd::mkdir(&directory, nix::sys::stat::Mode::S_IRWXU)
            .with_context(|| format!("could not create {}", directory.display()))?;
        Ok(Self { directory })
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        // It is in memory, and the next run removes what is left: an error here would help no one.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Removes what killed runs left behind.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry.file_name().as_encoded_bytes().starts_with(CACHE_PREFIX.as_bytes());
        let Ok(metadata) = entry.metadata() else { continue };
        let age = metadata.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
        if ours && metadata.is_dir() && metadata.uid() == geteuid().as_raw() && age.is_some_and(|age| age > STALE) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

struct Ended {
    status: ExitStatus,
    stderr: String,
}

/// Runs a child in a process group of its own. At the deadline the whole group is killed; `None` then.
fn run(mut command: Command, input: &[u8], until: Instant) -> Result<Option<Ended>> {
    let shown = command.get_args().map(|word| word.to_string_lossy()).skip_while(|word| word != "--").nth(1);
    let shown = shown.unwrap_or_default().into_owned();
    let child = command
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not run {shown}"))?;
    let mut group = Group(child);
    if let Some(mut stdin) = group.0.stdin.take() {
        // It fits into a pipe; a child that does not read it reports why on stderr.
        let _ = stdin.write_all(input);
    }
    let mut pause = Duration::from_millis(1);
    let status = loop {
        if let Some(status) = group.0.try_wait().with_context(|| format!("could not wait for {shown}"))? {
            break status;
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    };
    let mut stderr = Vec::new();
    if let Some(pipe) = group.0.stderr.take() {
        pipe.take(65_536)
            .read_to_end(&mut stderr)
            .with_context(|| format!("could not read the messages of {shown}"))?;
    }
    Ok(Some(Ended { status, stderr: String::from_utf8_lossy(&stderr).into_owned() }))
}

/// A child with its group, killed when it is dropped.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        if let (Ok(None), Ok(group)) = (self.0.try_wait(), i32::try_from(self.0.id())) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            let _ = self.0.wait();
        }
    }
}

/// The last line that is not empty, without its full stop.
fn last_line(text: &str) -> String {
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no message");
    line.trim_end_matches('.').to_owned()
}
