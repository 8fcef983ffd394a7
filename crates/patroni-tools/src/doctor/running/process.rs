//! Programs that an upgrade has replaced on the disk, while the old ones are still running.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use host::Root;
use nix::unistd::geteuid;

use crate::doctor::cluster::Cluster;
use crate::doctor::finding::Finding;
use crate::patroni::installed::only_debians;
use crate::patroni::process;
use crate::patroni::release::Version;

/// A file of Debian's package. Its inode changes when dpkg unpacks the package; its time of modification is that of the package.
const UNPACKED: &str = "/usr/lib/python3/dist-packages/patroni/version.py";

/// What is known of the processes of this member.
#[derive(Debug, Default)]
pub(crate) struct Old {
    /// The postmaster's program is gone from the disk, or is of another release.
    pub(crate) postgres: Option<String>,
    pub(crate) patroni: Option<String>,
    pub(crate) dnscp: bool,
}

/// Was the program of a process replaced or removed? The kernel shows this only to root and to the owner of the process.
pub(crate) fn is_replaced(root: &Root, pid: u32) -> bool {
    let program = std::fs::read_link(root.path(format!("/proc/{pid}/exe"))).unwrap_or_default();
    program.to_string_lossy().ends_with(" (deleted)")
}

/// The Patroni that runs with a file, in whatever unit.
pub(crate) fn with_file(root: &Root, file: &Path) -> Option<u32> {
    // Another user can give a process any name.
    let postgres = root.user_id("postgres").ok();
    let is_trusted = |user: u32| user == 0 || Some(user) == postgres || user == geteuid().as_raw();
    process::with_file(root, file).iter().find(|process| is_trusted(process.user)).map(|process| process.pid)
}

/// When a process was started (`proc_stat(5)`; a tick is a hundredth of a second in all kernels of Debian).
pub(crate) fn started(root: &Root, pid: u32) -> Option<SystemTime> {
    let ticks = host::process::started(root, pid)?;
    let kernel = std::fs::read_to_string(root.path("/proc/stat")).ok()?;
    let boot: u64 = kernel.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(UNIX_EPOCH + Duration::from_secs(boot) + Duration::from_millis(ticks * 10))
}

/// Is the Patroni of a process older than the installed one? In which way. `published`: the version that it reports.
pub(crate) fn old_patroni(
    root: &Root,
    pid: u32,
    installed: Option<Version>,
    published: Option<&str>,
) -> Option<String> {
    if let (Some(installed), Some(running)) = (installed, published.and_then(Version::parse)) {
        if running != installed {
            return Some(format!("Patroni {running} is running, but {installed} is installed"));
        }
    }
    // Another Patroni than Debian's is not in that package.
    let unpacked = root.path(UNPACKED).metadata().ok().filter(|_| only_debians(root));
    let unpacked = unpacked.and_then(|found| u64::try_from(found.ctime()).ok());
    let unpacked = unpacked.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
    let since = started(root, pid);
    let reinstalled = unpacked.zip(since).is_some_and(|(unpacked, since)| unpacked > since + Duration::from_secs(2));
    let what = if reinstalled {
        "Patroni was upgraded, but the old one is still running"
    } else if is_replaced(root, pid) {
        "Python was upgraded, but Patroni is still running with the old one"
    } else {
        return None;
    };
    Some(what.to_owned())
}

/// What to restart. Patroni restarts in maintenance mode, in which PostgreSQL goes on.
pub(crate) fn check(cluster: &Cluster, old: &Old, paused: bool) -> Vec<Finding> {
    let (id, unit) = (cluster.id, cluster.id.dashed());
    let name = host::program::quoted(&cluster.text(&["name"]).unwrap_or_default());
    let mut findings = Vec::new();
    if let Some(what) = &old.postgres {
        findings.push(Finding::warning(what.clone(), format!("Restart it with: pg_patronictl {id} restart {name}")));
    }
    if let Some(what) = &old.patroni {
        let restart = if paused {
            format!("systemctl restart patroni@{unit}")
        } else {
            format!(
                "pg_patronictl {id} pause --wait && systemctl restart patroni@{unit} && pg_patronictl {id} resume --wait"
            )
        };
        findings.push(Finding::warning(what.clone(), format!("Restart it, without PostgreSQL, with: {restart}")));
    }
    if old.dnscp {
        let what = format!("dnscp was upgraded, but dnscp@{unit} is still running the old one");
        findings.push(Finding::warning(what, format!("Restart it with: systemctl restart dnscp@{unit}")));
    }
    findings.into_iter().map(|finding| finding.at("")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use host::ClusterId;
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    #[test]
    fn programs_that_an_upgrade_has_replaced_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let path = |path: &str| {
            let path = root.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        };
        let file = Path::new("/etc/patroni/17-main.yml");
        assert_eq!(with_file(&root, file), None);
        symlink("/usr/bin/python3.13", path("/proc/12/exe")).unwrap();
        fs::write(path("/proc/12/cmdline"), "/usr/bin/python3\0/usr/bin/patroni\0/etc/patroni/17-main.yml\0").unwrap();
        fs::write(path("/proc/11/cmdline"), "vi\0/etc/patroni/17-main.yml\0").unwrap();
        assert_eq!(with_file(&root, file), Some(12));
        // Started a minute after the boot, which was at 1000000000.
        fs::write(path("/proc/stat"), "cpu 1\nbtime 1000000000\n").unwrap();
        let fields: Vec<String> = (3..22).map(|field| field.to_string()).collect();
        fs::write(path("/proc/12/stat"), format!("12 (a) b) {} 6000 0", fields.join(" "))).unwrap();
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(started(&root, 12), Some(at(1_000_000_060)));
        let of = |published| old_patroni(&root, 12, Version::parse("4.0.7"), published);
        assert_eq!(of(None), None);
        assert_eq!(of(Some("4.0.7")), None);
        assert_eq!(of(Some("4.0.6")).unwrap(), "Patroni 4.0.6 is running, but 4.0.7 is installed");
        File::create(path(UNPACKED)).unwrap().set_modified(at(1_000_000_000)).unwrap();
        let booted = |at: u64| fs::write(path("/proc/stat"), format!("btime {at}\n")).unwrap();
        booted(9_000_000_000);
        assert_eq!(of(Some("4.0.7")), None);
        booted(1_000_000_000);
        assert_eq!(of(Some("4.0.7")).unwrap(), "Patroni was upgraded, but the old one is still running");
        let of_pip = path("/usr/local/lib/python3.13/dist-packages/patroni/version.py");
        fs::write(&of_pip, "__version__ = '4.0.7'\n").unwrap();
        assert_eq!(of(Some("4.0.7")), None);
        fs::remove_file(of_pip).unwrap();
        fs::remove_file(path(UNPACKED)).unwrap();
        fs::remove_file(path("/proc/12/exe")).unwrap();
        symlink("/usr/bin/python3.13 (deleted)", path("/proc/12/exe")).unwrap();
        assert!(of(Some("4.0.7")).unwrap().starts_with("Python was upgraded"));
        let id: ClusterId = "17/main".parse().unwrap();
        let cluster = Cluster::with(&root, &id, "name: pg1");
        let old = Old { postgres: Some("old".to_owned()), patroni: Some("old".to_owned()), dnscp: true };
        let hints = |paused| check(&cluster, &old, paused).into_iter().map(|finding| finding.hint).collect::<Vec<_>>();
        assert_eq!(
            hints(false),
            [
                "Restart it with: pg_patronictl 17/main restart pg1",
                "Restart it, without PostgreSQL, with: pg_patronictl 17/main pause --wait && systemctl restart patroni@17-main && \
                 pg_patronictl 17/main resume --wait",
                "Restart it with: systemctl restart dnscp@17-main",
            ]
        );
        assert_eq!(hints(true)[1], "Restart it, without PostgreSQL, with: systemctl restart patroni@17-main");
        assert!(check(&cluster, &Old::default(), false).is_empty());
    }
}
