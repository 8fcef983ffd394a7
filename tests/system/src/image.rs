//! The images: Debian root directories that are built once and shared by all labs as the lower half of an overlay.
//!
//! An image is `<cache>/images/<name>-<hash of its recipe>`. It appears by a rename, when it is whole.

use std::env;
use std::fmt::{self, Display, Write as _};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::command::host;
use crate::node::last_lines;

const APT_LIMIT: Duration = Duration::from_secs(300);
const TRIES: u32 = 3;

const NODE_BEFORE: &str = include_str!("../image/node-before.sh");
const NODE_AFTER: &str = include_str!("../image/node-after.sh");
const STORES: &str = include_str!("../image/stores.sh");
const SUITE: &str = include_str!("../image/suite.sh");
const BUILDER_AFTER: &str = include_str!("../image/builder-after.sh");
const SERVER_AFTER: &str =
    "#!/bin/sh\nset -eu\nrm -f \"$1\"/etc/apt/apt.conf.d/99mmdebstrap \"$1\"/etc/dpkg/dpkg.cfg.d/99mmdebstrap\n";

const NODE_PACKAGES: &str = "apt-utils,systemd,systemd-sysv,dbus,iproute2,iputils-ping,procps,postgresql,\
    postgresql-contrib,patroni,python3-etcd,etcd-server,etcd-client,openssl,less,jq,man-db,bash-completion,\
    logrotate,bind9,bind9-dnsutils,krb5-kdc,krb5-admin-server,krb5-user";
/// For `tests/adopt.rs`, which stops a program at one of its system calls.
const TRACE_PACKAGES: &str = "strace";
const STORE_PACKAGES: &str = "zookeeperd,python3-consul,python3-kazoo,python3-pysyncobj,haproxy,keepalived,pgbouncer";
/// For `docs/three-nodes.md`, which copies files between machines.
const COPY_PACKAGES: &str = "openssh-server,openssh-client";
/// What postgresql-common's own tests need (its `debian/tests/control`).
const SUITE_PACKAGES: &str = "build-essential,debhelper,fakeroot,hunspell-en-us,libipc-run-perl,locales-all,\
    netcat-openbsd,perl,postgresql-all,postgresql-doc";
/// Version 1.0.2.
const OLD_VIP_MANAGER: &str = "vip-manager";
/// Version 3, which Debian 12 has not.
const VIP_MANAGER: &str = "vip-manager2";
const PACKAGE_BUILDER_PACKAGES: &str = "build-essential,debhelper,scdoc,lintian,fakeroot,rustc-web,cargo-web,\
    libssl-dev,pkg-config,ca-certificates,git,make,man-db,systemd";
const RUST_PACKAGES: &str = "rustc,cargo,gcc,libc6-dev,libssl-dev,pkg-config,ca-certificates,git,make";
const DNS_PACKAGES: &str =
    "bind9,bind9-utils,bind9-dnsutils,krb5-kdc,krb5-admin-server,krb5-user,faketime,iproute2,procps";
const SCRIPT_PACKAGES: &str = "dnsutils,iputils-arping,sudo,cron,krb5-user,iproute2,procps";
const SAMBA_PACKAGES: &str = "samba,samba-ad-dc,samba-ad-provision,samba-dsdb-modules,samba-vfs-modules,winbind,\
    krb5-user,ldb-tools,bind9-dnsutils,iproute2,procps";

/// A Debian release that machines run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// bookworm: PostgreSQL 15, Patroni 3.0.2.
    Debian12,
    /// trixie: PostgreSQL 17, Patroni 4.0.7.
    Debian13,
}

impl Release {
    /// The major version of PostgreSQL in this release.
    #[must_use]
    pub fn postgresql(self) -> &'static str {
        match self {
            Self::Debian12 => "15",
            Self::Debian13 => "17",
        }
    }

    /// The image of its machines.
    #[must_use]
    pub fn image(self) -> Image {
        match self {
            Self::Debian12 => Image::Debian12,
            Self::Debian13 => Image::Debian13,
        }
    }

    /// The image of its machines with postgresql-common's own tests.
    #[must_use]
    pub fn image_with_suite(self) -> Image {
        match self {
            Self::Debian12 => Image::Suite12,
            Self::Debian13 => Image::Suite13,
        }
    }

    /// The image of its machines with all stores, not only etcd.
    #[must_use]
    pub fn image_with_stores(self) -> Image {
        match self {
            Self::Debian12 => Image::Stores12,
            Self::Debian13 => Image::Stores13,
        }
    }
}

impl Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.image().name())
    }
}

impl FromStr for Release {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "12" => Ok(Self::Debian12),
            "13" => Ok(Self::Debian13),
            _ => bail!("no release {text:?}: use 12 or 13"),
        }
    }
}

/// An image by its purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// A machine with Debian 12.
    Debian12,
    /// A machine with Debian 13.
    Debian13,
    /// Builds the package: Debian 12, so that the package runs on its glibc as well as on a newer one.
    Build,
    /// Checks that Debian 13's own compiler builds the project.
    Build13,
    /// BIND, and a Kerberos KDC, of Debian 13.
    Dns,
    /// What dnscp.sh needs, of Debian 12.
    Script,
    /// Samba 4.17, as an Active Directory.
    Samba12,
    /// Samba 4.22.
    Samba13,
    /// A machine with Debian 12 and all stores, not only etcd.
    Stores12,
    /// A machine with Debian 13 and all stores.
    Stores13,
    /// A machine with Debian 12, and all that postgresql-common's own tests need.
    Suite12,
    /// A machine with Debian 13, and the same.
    Suite13,
}

impl Image {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Debian12,
        Self::Debian13,
        Self::Build,
        Self::Build13,
        Self::Dns,
        Self::Script,
        Self::Samba12,
        Self::Samba13,
        Self::Stores12,
        Self::Stores13,
        Self::Suite12,
        Self::Suite13,
    ];

    /// The name on the command line and in the cache.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Debian12 => "12",
            Self::Debian13 => "13",
            Self::Build => "build",
            Self::Build13 => "build13",
            Self::Dns => "dns",
            Self::Script => "script",
            Self::Samba12 => "samba12",
            Self::Samba13 => "samba13",
            Self::Stores12 => "stores12",
            Self::Stores13 => "stores13",
            Self::Suite12 => "suite12",
            Self::Suite13 => "suite13",
        }
    }

    fn recipe(self) -> Recipe {
        match self {
            Self::Debian12 => Recipe::machine("bookworm"),
            Self::Debian13 => Recipe::machine("trixie"),
            Self::Build => Recipe::builder("bookworm", &[PACKAGE_BUILDER_PACKAGES]),
            Self::Build13 => Recipe::builder("trixie", &[RUST_PACKAGES]),
            Self::Dns => Recipe::server("trixie", &[DNS_PACKAGES]),
            Self::Script => Recipe::server("bookworm", &[SCRIPT_PACKAGES]),
            Self::Samba12 => Recipe::server("bookworm", &[SAMBA_PACKAGES]),
            Self::Samba13 => Recipe::server("trixie", &[SAMBA_PACKAGES]),
            Self::Stores12 => {
                Recipe::stores("bookworm", &[NODE_PACKAGES, STORE_PACKAGES, COPY_PACKAGES, OLD_VIP_MANAGER])
            }
            Self::Stores13 => Recipe::stores("trixie", &[NODE_PACKAGES, STORE_PACKAGES, COPY_PACKAGES, VIP_MANAGER]),
            Self::Suite12 => Recipe::suite("bookworm"),
            Self::Suite13 => Recipe::suite("trixie"),
        }
    }
}

impl FromStr for Image {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|image| image.name() == text);
        found.with_context(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|image| image.name()).collect();
            format!("no image {text:?}: use one of {}", names.join(", "))
        })
    }
}

/// What an image is made from.
struct Recipe {
    suite: &'static str,
    packages: &'static [&'static str],
    before: Option<&'static str>,
    /// Run in this order.
    after: &'static [&'static str],
}

impl Recipe {
    fn machine(suite: &'static str) -> Self {
        Self { suite, packages: &[NODE_PACKAGES, TRACE_PACKAGES], before: Some(NODE_BEFORE), after: &[NODE_AFTER] }
    }

    fn stores(suite: &'static str, packages: &'static [&'static str]) -> Self {
        Self { suite, packages, before: Some(NODE_BEFORE), after: &[STORES, NODE_AFTER] }
    }

    fn suite(suite: &'static str) -> Self {
        Self {
            suite,
            packages: &[NODE_PACKAGES, SUITE_PACKAGES],
            before: Some(NODE_BEFORE),
            after: &[SUITE, NODE_AFTER],
        }
    }

    fn builder(suite: &'static str, packages: &'static [&'static str]) -> Self {
        Self { suite, packages, before: None, after: &[BUILDER_AFTER] }
    }

    fn server(suite: &'static str, packages: &'static [&'static str]) -> Self {
        Self { suite, packages, before: None, after: &[SERVER_AFTER] }
    }

    fn hash(&self) -> String {
        let (packages, after) = (self.packages.join(","), self.after.join("\0"));
        let parts = [self.suite, &packages, self.before.unwrap_or_default(), &after];
        format!("{:016x}", fnv(parts.join("\0").as_bytes()))
    }
}

/// FNV-1a: the same in every version of Rust, which the standard hasher does not promise.
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// An image in use: it is not removed as long as this exists.
#[derive(Debug)]
pub struct Ready {
    path: PathBuf,
    _in_use: Flock<File>,
}

impl Ready {
    /// Its root directory. Not to be written to.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The directory for all that is kept between runs.
pub(crate) fn cache() -> PathBuf {
    directory_from("PATRONI_TOOLS_CACHE").unwrap_or_else(|| PathBuf::from("/var/cache/patroni-tools-lab"))
}

/// A directory that the environment names; an empty name is none, as in the shell's `${NAME:-default}`.
pub(crate) fn directory_from(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The image, built if it is not there or if its recipe is another one now.
pub fn ensure(image: Image) -> Result<Ready> {
    let directory = cache().join("images");
    let recipe = image.recipe();
    let path = directory.join(format!("{}-{}", image.name(), recipe.hash()));
    if let Some(ready) = open(&path)? {
        return Ok(ready);
    }
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let lock = exclusive_lock(&directory.join(format!("{}.lock", image.name())))?;
    // Somebody else may have built it while we waited.
    if !path.exists() {
        remove_old(&directory, image)?;
        build(image, &recipe, &path)?;
    }
    drop(lock);
    open(&path)?.with_context(|| format!("{} has disappeared", path.display()))
}

/// Locks a file, waiting for whoever holds it.
pub(crate) fn exclusive_lock(path: &Path) -> Result<Flock<File>> {
    let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("cannot lock {}", path.display()))
}

fn open(path: &Path) -> Result<Option<Ready>> {
    let Ok(directory) = File::open(path) else { return Ok(None) };
    let in_use = Flock::lock(directory, FlockArg::LockShared)
        .map_err(|(_, error)| error)
        .with_context(|| format!("cannot lock {}", path.display()))?;
    // It may have been removed before we had the lock.
    Ok(path.exists().then(|| Ready { path: path.to_owned(), _in_use: in_use }))
}

/// Removes what an earlier recipe or a killed build left; an image that a lab still runs from stays for now.
fn remove_old(directory: &Path, image: Image) -> Result<()> {
    let prefix = format!("{}-", image.name());
    for entry in fs::read_dir(directory)?.flatten() {
        let path = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(&prefix) || !path.is_dir() {
            continue;
        }
        match Flock::lock(File::open(&path)?, FlockArg::LockExclusiveNonblock) {
            Ok(_unused) => remove_tree(&path)?,
            Err((_, Errno::EWOULDBLOCK)) => {}
            Err((_, error)) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
    Ok(())
}

/// Removes a root directory, but nothing that is mounted in it.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    let mut command = Command::new("rm");
    command.args(["--recursive", "--force", "--one-file-system", "--"]).arg(path);
    host(command, APT_LIMIT).map(drop)
}

fn build(image: Image, recipe: &Recipe, path: &Path) -> Result<()> {
    let sources = sources(recipe.suite)?;
    let log = path.with_file_name(format!("{}.log", image.name()));
    eprintln!("lab: building image {} (Debian {}); log: {}", image.name(), recipe.suite, log.display());
    let begin = Instant::now();
    let mut attempt = 1;
    while !mmdebstrap(image, recipe, &sources, path, &log)? {
        let said = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        // apt has tried each file several times by itself; a mirror that was just being updated needs a new start.
        ensure!(
            attempt < TRIES && said.contains("ailed to fetch"),
            "cannot build image {}; the end of {}:\n{}",
            image.name(),
            log.display(),
            last_lines(&said, 30)
        );
        attempt += 1;
        eprintln!("lab: the mirror failed; attempt {attempt} of {TRIES}");
    }
    eprintln!("lab: image {} built in {} s", image.name(), begin.elapsed().as_secs());
    Ok(())
}

/// One attempt. True if the image is there.
fn mmdebstrap(image: Image, recipe: &Recipe, sources: &str, path: &Path, log: &Path) -> Result<bool> {
    // In the same file system, for the rename; with the image's prefix, so that a killed build is found again.
    let work = path.with_file_name(format!("{}-building", image.name()));
    remove_tree(&work)?;
    fs::create_dir(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let root = work.join("root");
    // It mounts /proc and /sys in the new root: in namespaces of its own they vanish with it, even if it is killed.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig=KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args([
            "mmdebstrap",
            "--mode=root",
            "--variant=apt",
            "--dpkgopt=force-unsafe-io",
            "--aptopt=Acquire::Languages \"none\"",
        ])
        .args(["--aptopt=Acquire::Retries \"5\"", "--aptopt=Acquire::http::Timeout \"30\""])
        .args(proxy_options()?)
        .arg(format!("--include={}", recipe.packages.join(",")));
    let before = recipe.before.iter().map(|script| ("essential", script));
    let after = recipe.after.iter().map(|script| ("customize", script));
    for (number, (stage, script)) in before.chain(after).enumerate() {
        let file = work.join(format!("hook-{number}"));
        fs::write(&file, script)?;
        // Read by sh and not run: while another thread starts a process, it may be "busy".
        command.arg(format!("--{stage}-hook=sh {} \"$1\"", file.display()));
    }
    let log = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
    let mut child = command
        .arg(recipe.suite)
        .arg(&root)
        .arg("-")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start setpriv: apt-get install util-linux mmdebstrap")?;
    child.stdin.take().context("mmdebstrap has no standard input")?.write_all(sources.as_bytes())?;
    let built = child.wait()?.success();
    if built {
        fs::rename(&root, path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    remove_tree(&work)?;
    Ok(built)
}

/// The host's proxies, which mmdebstrap does not take over by itself.
fn proxy_options() -> Result<Vec<String>> {
    let mut command = Command::new("apt-config");
    command.arg("dump");
    let settings = host(command, APT_LIMIT)?;
    let wanted = |line: &&str| {
        let key = line.split(' ').next().unwrap_or_default().to_ascii_lowercase();
        key.starts_with("acquire::http") && key.contains("proxy")
    };
    Ok(settings.lines().filter(wanted).map(|line| format!("--aptopt={}", line.trim_end_matches(';'))).collect())
}

/// The lines of a `sources.list` for a suite, on the mirrors that this host's own apt uses.
fn sources(suite: &str) -> Result<String> {
    let mut targets = debian_targets()?;
    if targets.is_empty() {
        // apt does not know whose a source is until it has fetched its index once.
        let mut update = Command::new("apt-get");
        update.args(["-qq", "update"]);
        host(update, APT_LIMIT)?;
        targets = debian_targets()?;
    }
    let text = sources_from(&targets, suite);
    ensure!(
        text.contains(&format!(" {suite} ")),
        "apt has no Debian mirror here: add one to /etc/apt/sources.list.d and run apt-get update"
    );
    Ok(text)
}

/// What apt fetches from Debian: pairs of URI and suite.
fn debian_targets() -> Result<Vec<(String, String)>> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(ORIGIN)|$(COMPONENT)|$(REPO_URI)|$(RELEASE)", "Created-By: Packages"]);
    let targets = host(command, APT_LIMIT)?;
    let parse = |line: &str| {
        let rest = line.strip_prefix("Debian|main|")?;
        let (uri, suite) = rest.split_once('|')?;
        (uri.starts_with("http") || uri.starts_with("mirror+")).then(|| (uri.to_owned(), suite.to_owned()))
    };
    Ok(targets.lines().filter_map(parse).collect())
}

fn sources_from(targets: &[(String, String)], suite: &str) -> String {
    let mut text = String::new();
    for ending in ["", "-updates", "-security"] {
        let found = targets.iter().find(|(_, name)| suite_ending(name) == ending);
        if let Some((uri, _)) = found {
            let _ = writeln!(text, "deb {uri} {suite}{ending} main");
        }
    }
    text
}

/// `-security` of `bookworm-security`, nothing of `bookworm`.
fn suite_ending(suite: &str) -> &str {
    suite.find('-').map_or("", |dash| &suite[dash..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(uri, suite)| ((*uri).to_owned(), (*suite).to_owned())).collect()
    }

    #[test]
    fn sources_keep_the_mirror_and_change_the_suite() {
        let host = targets(&[
            ("http://a.test/debian/", "bookworm"),
            ("http://a.test/debian/", "bookworm-updates"),
            ("http://b.test/debian-security/", "bookworm-security"),
            ("http://a.test/debian/", "bookworm-backports"),
        ]);
        assert_eq!(
            sources_from(&host, "trixie"),
            "deb http://a.test/debian/ trixie main\n\
             deb http://a.test/debian/ trixie-updates main\n\
             deb http://b.test/debian-security/ trixie-security main\n"
        );
    }

    #[test]
    fn a_host_without_security_updates_gives_images_without() {
        let host = targets(&[("http://a.test/debian/", "testing")]);
        assert_eq!(sources_from(&host, "bookworm"), "deb http://a.test/debian/ bookworm main\n");
    }

    #[test]
    fn a_changed_recipe_is_another_image() {
        let [mut one, two] = [Recipe::machine("trixie"), Recipe::machine("trixie")];
        assert_eq!(one.hash(), two.hash());
        one.packages = &["systemd"];
        assert_ne!(one.hash(), two.hash());
    }
}
