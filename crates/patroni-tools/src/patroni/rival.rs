//! Another Patroni that runs the data of a cluster. Two of them make decisions about one server with two keys in the DCS.
//!
//! Only processes of user postgres count: another user can neither run its server nor keep a member from starting by a name.

use std::path::{Path, PathBuf};

use host::program::quoted;
use host::trouble::Trouble;
use host::{ClusterId, Root, trouble};

use crate::files::header::{Author, author};
use crate::patroni::process::{self, Process};

/// The Patroni that should run the data.
pub(crate) struct Own<'a> {
    /// Its unit, as in `patroni@16-main.service`.
    pub(crate) unit: &'a str,
    /// Its file.
    pub(crate) file: &'a Path,
    /// The data directory.
    pub(crate) data: &'a Path,
}

/// Another one that runs them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rival {
    process: Process,
    unit: Option<String>,
    scope: Option<String>,
    data: PathBuf,
}

/// Finds another Patroni on the data: one with the same data directory, or, if its data directory cannot be found out, one in whose control
/// group the server runs.
pub(crate) fn find(root: &Root, own: &Own, server: Option<u32>) -> Option<Rival> {
    let postgres = root.user_id("postgres").ok()?;
    let wanted = root.real(own.data);
    let group_of_server =
        || process::control_group(root, server?).filter(|group| group.contains(".service") || group.contains(".scope"));
    process::all(root, Some(postgres)).into_iter().find_map(|process| {
        let unit = process::unit(root, process.pid);
        // Without systemd, or where its control groups cannot be seen, Patroni is started with this file in another way.
        let is_hidden =
            !root.path("/run/systemd/system").exists() || process::control_group(root, process.pid).is_none();
        let by_hand = unit.is_none() && is_hidden;
        let is_own = unit.as_deref() == Some(own.unit) || by_hand && process.file.as_deref() == Some(own.file);
        if is_own {
            return None;
        }
        let told = process.told(root);
        let runs = match &told.data {
            Some(data) => root.real(data) == wanted,
            None => process::control_group(root, process.pid).is_some_and(|group| group_of_server() == Some(group)),
        };
        runs.then(|| Rival { process, unit, scope: told.scope, data: own.data.to_owned() })
    })
}

impl Rival {
    fn what(&self) -> String {
        let scope = self.scope.as_ref().map_or_else(String::new, |scope| format!(", scope {scope}"));
        let pid = self.process.pid;
        let who = self.unit.as_ref().map_or_else(|| format!("process {pid}"), |unit| format!("{unit} (process {pid})"));
        format!("another Patroni runs on {}: {who}{scope}", self.data.display())
    }

    /// The unit as a word of a command: systemd escapes characters with `\`.
    fn word(&self) -> Option<String> {
        self.unit.as_deref().map(quoted)
    }

    /// What is wrong and what to do about it, for the cluster that this data would get or has; `runs` if its own Patroni runs, too.
    pub(crate) fn trouble(&self, root: &Root, id: &ClusterId, runs: bool) -> Trouble {
        let (what, own) = (self.what(), format!("patroni@{}", id.dashed()));
        if runs {
            let who = self.word().unwrap_or_else(|| format!("process {}", self.process.pid));
            return trouble!(
                "{what}, beside {own}";
                "Only one may run. Keep {who}, and stop this one with: systemctl disable --now {own}"
            );
        }
        let Some(unit) = self.word() else {
            return trouble!(
                "{what}";
                "No unit runs it. Stop it, which stops PostgreSQL, and let the unit do its work: kill {} && systemctl enable --now {own}",
                self.process.pid
            );
        };
        match self.foreign_file(root) {
            Some(file) => trouble!(
                "{what}";
                "To stop that Patroni and its PostgreSQL, run 'systemctl disable --now {unit}'. To keep the cluster and make this its unit, run: \
                 pg_adoptcluster_patroni --from {} {id}", quoted(&file.display().to_string())
            ),
            None => trouble!("{what}"; "Stop and disable it, and its PostgreSQL, with: systemctl disable --now {unit}"),
        }
    }

    /// The same for a unit whose file is not that of a cluster.
    pub(crate) fn without_cluster(&self) -> Trouble {
        let stop = match self.word() {
            Some(unit) => format!("systemctl disable --now {unit}"),
            None => format!("kill {}", self.process.pid),
        };
        trouble!("{}", self.what(); "Stop it, and its PostgreSQL, with: {stop}")
    }

    /// Its file, if a member can be taken over with it: one file, which patroni-gen-config has not written.
    fn foreign_file(&self, root: &Root) -> Option<&Path> {
        let file = self.process.file.as_deref()?;
        let text = root.for_postgres().read(file).ok()??;
        (author(&text) == Author::Other).then_some(file)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    /// A host with a process that runs Patroni as this user, in a control group.
    struct Host(tempfile::TempDir, Root);

    impl Host {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let root = Root::new(folder.path());
            let host = Self(folder, root);
            let user = host.0.path().metadata().unwrap().uid();
            host.write("etc/passwd", &format!("postgres:x:{user}:1::/:/bin/sh\n"));
            host.write("etc/patroni/config.yml", "scope: shop02\npostgresql:\n  data_dir: /data/shop02\n");
            host.write("run/systemd/system/x", "");
            std::fs::create_dir_all(host.1.path("/data/shop02")).unwrap();
            host
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn process(&self, line: &str, group: &str, environment: &str) {
            self.write("proc/4711/cmdline", &line.replace(' ', "\0"));
            self.write("proc/4711/cgroup", &format!("0::{group}\n"));
            self.write("proc/4711/environ", &environment.replace(' ', "\0"));
        }

        fn rival(&self) -> Option<Rival> {
            let file = Path::new("/etc/patroni/17-shop02.yml");
            find(&self.1, &Own { unit: "patroni@17-shop02.service", file, data: Path::new("/data/shop02") }, Some(99))
        }

        fn hint(&self, runs: bool) -> String {
            let trouble = self.rival().unwrap().trouble(&self.1, &"17/shop02".parse().unwrap(), runs);
            format!("{}\n{}", trouble.line(), trouble.hint.unwrap())
        }
    }

    const UNIT: &str = "/system.slice/patroni.service";
    const PATRONI: &str = "/usr/bin/python3 /usr/bin/patroni";

    #[test]
    fn another_unit_on_the_data_is_found_with_the_way_to_take_it_over() {
        let host = Host::new();
        assert_eq!(host.rival(), None);
        host.process(&format!("{PATRONI} /etc/patroni/config.yml"), UNIT, "");
        let hint = host.hint(false);
        assert!(
            hint.starts_with("another Patroni runs on /data/shop02: patroni.service (process 4711), scope shop02\n")
        );
        assert!(hint.ends_with(": pg_adoptcluster_patroni --from /etc/patroni/config.yml 17/shop02"), "{hint}");
        assert!(hint.contains("'systemctl disable --now patroni.service'"), "{hint}");
        assert!(host.hint(true).ends_with("stop this one with: systemctl disable --now patroni@17-shop02"));
        // As systemd escapes a name.
        host.process(
            &format!("{PATRONI} /x.yml"),
            r"/system.slice/pg\x2dshop.service",
            "PATRONI_POSTGRESQL_DATA_DIR=/data/shop02",
        );
        assert!(
            host.hint(false).ends_with(r"with: systemctl disable --now 'pg\x2dshop.service'"),
            "{}",
            host.hint(false)
        );
    }

    #[test]
    fn it_is_found_however_it_names_the_data() {
        let host = Host::new();
        symlink("shop02", host.1.path("/data/other")).unwrap();
        host.write("srv/a.yml", "postgresql: {data_dir: /data/none}\n");
        host.write("srv/b.yml", "postgresql: {data_dir: /data/other/}\n");
        host.write("srv/none.yml", "scope: x\n");
        host.process("python3 -m patroni /srv", UNIT, "");
        assert!(host.rival().is_some(), "a directory of files, and a link");
        host.process("python3 -m patroni b.yml", UNIT, "");
        assert_eq!(host.rival(), None);
        symlink("/srv", host.1.path("/proc/4711/cwd")).unwrap();
        assert!(host.rival().is_some(), "a file in its directory");
        host.process(&format!("{PATRONI} /srv/a.yml"), UNIT, "");
        assert_eq!(host.rival(), None);
        host.process(
            &format!("{PATRONI} /srv/a.yml"),
            UNIT,
            "PATRONI_SCOPE=env PATRONI_POSTGRESQL_DATA_DIR=/data/shop02",
        );
        assert!(host.rival().unwrap().what().ends_with("scope env"), "a variable that overrides the file");
        host.process(PATRONI, UNIT, "PATRONI_CONFIGURATION={postgresql:\u{a0}{data_dir:\u{a0}/data/shop02}}");
        assert_eq!(host.rival(), None, "not YAML");
        host.write("proc/4711/environ", "PATRONI_CONFIGURATION={postgresql: {data_dir: /data/shop02}}\0");
        assert!(host.rival().is_some(), "a document in the environment");
        assert!(host.hint(false).ends_with("its PostgreSQL, with: systemctl disable --now patroni.service"));
        // While Patroni clones a member again, what the link leads to is gone.
        std::fs::remove_dir(host.1.path("/data/shop02")).unwrap();
        host.process(&format!("{PATRONI} /srv/b.yml"), UNIT, "");
        assert!(host.rival().is_some(), "a link to data that are being cloned");
        // What it was told is not to be seen, but the server runs in its group.
        host.process(PATRONI, UNIT, "");
        assert_eq!(host.rival(), None);
        host.write("proc/99/cgroup", "0::/system.slice/other.service\n");
        assert_eq!(host.rival(), None);
        host.write("proc/99/cgroup", &format!("0::{UNIT}\n"));
        assert!(host.rival().is_some(), "the server in its control group");
    }

    #[test]
    fn its_own_patroni_is_no_rival() {
        let host = Host::new();
        host.write("etc/patroni/17-shop02.yml", "scope: x\npostgresql: {data_dir: /data/shop02}\n");
        let line = format!("{PATRONI} /etc/patroni/17-shop02.yml");
        host.process(&line, "/system.slice/system-postgresql.slice/patroni@17-shop02.service", "");
        assert_eq!(host.rival(), None);
        host.process(&line, "/user.slice/user-0.slice/session-1.scope", "");
        assert!(host.hint(false).ends_with(": kill 4711 && systemctl enable --now patroni@17-shop02"));
        // A name in the tree of a user's systemd is chosen by that user.
        host.process(&line, "/user.slice/user-1.slice/user@1.service/app.slice/patroni@17-shop02.service", "");
        assert!(host.rival().is_some());
        host.process(&line, "/", "");
        assert_eq!(host.rival(), None, "its control group cannot be seen");
        host.process(&line, "/user.slice/user-0.slice/session-1.scope", "");
        std::fs::remove_dir_all(host.1.path("/run/systemd")).unwrap();
        assert_eq!(host.rival(), None, "without systemd, it is started in another way");
    }

    #[test]
    fn another_user_cannot_keep_a_member_from_starting() {
        let host = Host::new();
        host.process(&format!("{PATRONI} /etc/patroni/config.yml"), UNIT, "");
        assert!(host.rival().is_some());
        let user = host.0.path().metadata().unwrap().uid();
        host.write("etc/passwd", &format!("postgres:x:{}:1::/:/bin/sh\n", user + 1));
        assert_eq!(host.rival(), None);
    }

    #[test]
    fn a_patroni_of_a_container_is_none_of_this_host() {
        let host = Host::new();
        host.process(&format!("{PATRONI} /etc/patroni/config.yml"), UNIT, "");
        for (process, namespace) in [("self", "pid:[1]"), ("4711", "pid:[2]")] {
            std::fs::create_dir_all(host.1.path(format!("/proc/{process}/ns"))).unwrap();
            symlink(namespace, host.1.path(format!("/proc/{process}/ns/pid"))).unwrap();
        }
        assert_eq!(host.rival(), None);
    }
}
