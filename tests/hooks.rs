//! The hooks against real `pg_createcluster`, `pg_basebackup` and PostgreSQL, in namespaces with directories of their own
//! (as postgresql-common's own tests); that needs root and a PostgreSQL server package.
//!
//! `TOOLS_UNDER_TEST=/usr/share/patroni` runs the same cases against Debian's scripts, and shows what is different.

#![allow(clippy::unwrap_used)]

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PROGRAMS: [&str; 3] = ["pg_createcluster_patroni", "pg_clonecluster_patroni", "pg_preparecluster_patroni"];
const OURS: &str = env!("CARGO_BIN_EXE_patroni-tools");
const LIMIT: &str = "90";
const SOURCE: &str = "--connstring=dbname=postgres user=replicator host=localhost port=5499";

/// A process, mount and network namespace in which the hooks are the only users of PostgreSQL.
struct Machine {
    holder: Child,
    first: String,
    version: String,
}

impl Machine {
    fn new() -> Option<Self> {
        let Some(version) = newest_server() else { return skip("a PostgreSQL server and postgresql-common") };
        if !is_root() {
            return skip("root");
        }
        let script = "set -e
            for d in /etc/postgresql /var/lib/postgresql /var/log/postgresql /run/postgresql /etc/patroni /mnt; do
                mkdir -p $d; mount -t tmpfs -o mode=755,size=2g tmpfs $d
            done
            chown postgres: /etc/postgresql /var/lib/postgresql /var/log/postgresql /run/postgresql
            ip link set lo up
            cd /; echo ready; while :; do sleep 1; done";
        let mut holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"])
            .args(["--mount-proc", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.take().unwrap()), &mut ready).unwrap();
        if ready != "ready\n" {
            let _ = holder.kill();
            let _ = holder.wait();
            return skip("the right to make namespaces");
        }
        let children = format!("/proc/{0}/task/{0}/children", holder.id());
        let first = std::fs::read_to_string(children).unwrap().trim().to_owned();
        let machine = Self { holder, first, version };
        let theirs = std::env::var_os("TOOLS_UNDER_TEST").map(PathBuf::from);
        for name in PROGRAMS {
            let program = theirs.as_ref().map(|folder| folder.join(name)).filter(|program| program.exists());
            machine.put(&format!("/mnt/{name}"), &std::fs::read(program.unwrap_or_else(|| OURS.into())).unwrap());
            assert!(machine.root("chmod", &["755", &format!("/mnt/{name}")]).status.success());
        }
        Some(machine)
    }

    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--wdns=/", "--target", &self.first, "--mount", "--root", "--net", "--pid", "timeout", LIMIT])
            .stdin(Stdio::null());
        command
    }

    fn root(&self, program: &str, arguments: &[&str]) -> Output {
        self.enter().arg(program).args(arguments).output().unwrap()
    }

    /// A file of root's, as the Patroni file is.
    fn put(&self, path: &str, text: &[u8]) {
        let mut child =
            self.enter().args(["dd", "status=none", &format!("of={path}")]).stdin(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), text).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// As Patroni runs a hook: user postgres, a few variables, nothing on stdin.
    fn postgres(&self, umask: &str) -> Command {
        let mut command = self.enter();
        command.args(["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "env", "-i"]);
        command.args(["HOME=/var/lib/postgresql", "PATH=/usr/bin:/bin", "LANG=C.UTF-8", "PGPORT=5499"]);
        command.args(["PGPASSFILE=/var/lib/postgresql/pgpass", "sh", "-c"]);
        command.arg(format!("umask {umask}; cd /; exec \"$@\"")).arg("sh");
        command
    }

    fn hook(&self, name: &str, arguments: &[&str]) -> (i32, String) {
        let output = self.postgres("0077").arg(format!("/mnt/{name}")).args(arguments).output().unwrap();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    #[track_caller]
    fn done(&self, name: &str, arguments: &[&str]) -> String {
        let (code, said) = self.hook(name, arguments);
        assert_eq!(code, 0, "{name} {arguments:?}: {said}");
        said
    }

    /// Exit status 1, and at the end one error, with or without a hint, that has all of `parts`.
    #[track_caller]
    fn refused(&self, name: &str, arguments: &[&str], parts: &[&str]) {
        let (code, said) = self.hook(name, arguments);
        assert_eq!(code, 1, "{name} {arguments:?}: {said}");
        let error = said.find(&format!("{name}: error: ")).map(|at| &said[at..]).unwrap_or_default();
        let hint = format!("{name}: hint: ");
        assert!(!error.is_empty() && error.lines().skip(1).all(|line| line.starts_with(&hint)), "{said}");
        assert!(error.lines().count() <= 2, "{said}");
        for part in parts {
            assert!(error.contains(part), "no {part:?} in: {said}");
        }
    }

    fn start(&self, name: &str, arguments: &[&str]) -> Child {
        self.postgres("0022").arg(format!("/mnt/{name}")).args(arguments).spawn().unwrap()
    }

    /// What a shell says as postgres.
    #[track_caller]
    fn shell(&self, script: &str) -> String {
        let output = self.postgres("0022").args(["sh", "-ec", script]).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn data(&self, name: &str) -> String {
        format!("/var/lib/postgresql/{}/{name}", self.version)
    }

    fn etc(&self, name: &str) -> String {
        format!("/etc/postgresql/{}/{name}", self.version)
    }

    fn named(&self, name: &str) -> [String; 2] {
        [format!("--scope={}-{name}", self.version), format!("--datadir={}", self.data(name))]
    }

    /// A running cluster `first` on port 5499 to copy, with something in it.
    fn primary(&self) {
        let [scope, data] = self.named("first");
        self.done("pg_createcluster_patroni", &[&scope, &data, "--port=5499", "--encoding=UTF8"]);
        self.shell(&format!(
            "pg_ctlcluster {} first start
             psql -qXc \"create role replicator login replication password 'secret'\"
             psql -qXc \"create table t as select repeat('x', 500) from generate_series(1, 40000)\"
             echo 'localhost:5499:*:replicator:secret' > ~/pgpass; chmod 600 ~/pgpass
             touch {1}/pg_hba.conf.backup {1}/postgresql.base.conf.backup",
            self.version,
            self.data("first")
        ));
    }

    fn clone_words(&self, name: &str) -> [String; 3] {
        let [scope, data] = self.named(name);
        [scope, data, SOURCE.to_owned()]
    }

    #[track_caller]
    fn clones(&self, name: &str) -> String {
        let words = self.clone_words(name);
        self.done("pg_clonecluster_patroni", &[&words[0], "--role=replica", "--keep_data=False", &words[1], &words[2]])
    }

    /// The numbers of the processes with this name that are not dead, as seen by the machine.
    fn alive(&self, program: &str) -> Vec<String> {
        let list = self.root("ps", &["-eo", "stat=,pid=,args="]);
        String::from_utf8_lossy(&list.stdout)
            .lines()
            .filter_map(|line| {
                let mut fields = line.split_whitespace();
                let (state, pid, program_path) = (fields.next()?, fields.next()?, fields.next()?);
                (!state.starts_with('Z') && program_path.ends_with(program)).then(|| pid.to_owned())
            })
            .collect()
    }

    fn patroni_file(&self, name: &str, data: &str) {
        let text = format!(
            "scope: {0}-{name}\npostgresql:\n  listen: '*:5501'\n  data_dir: '{data}'\n  config_dir: /etc/postgresql/{0}/{name}\n",
            self.version
        );
        self.put(&format!("/etc/patroni/{}-{name}.yml", self.version), text.as_bytes());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[track_caller]
fn until(what: &str, limit: Duration, true_at_last: impl Fn() -> bool) {
    let start = Instant::now();
    while !true_at_last() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}

fn newest_server() -> Option<String> {
    let mut versions: Vec<u32> = std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .flatten()
        .filter(|entry| entry.path().join("bin/initdb").exists() && Path::new("/usr/bin/pg_createcluster").exists())
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable();
    versions.pop().map(|version| version.to_string())
}

fn skip<T>(needs: &str) -> Option<T> {
    assert!(std::env::var_os("REQUIRE_ALL").is_none_or(|value| value != "1"), "this test needs {needs}");
    eprintln!("skipped: needs {needs}");
    None
}

#[test]
fn the_file_by_a_name_of_its_own_is_a_usage_error() {
    let output = Command::new(OURS).arg("--help").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && PROGRAMS.iter().all(|name| said.contains(name)), "{said}");
}

#[test]
fn a_link_of_the_administrators_is_the_program_that_it_leads_to() {
    let folder = tempfile::tempdir().unwrap();
    let links =
        [("pg_patronictl", Path::new(OURS)), ("second", Path::new("pg_patronictl")), ("first", Path::new("second"))];
    for (name, target) in links {
        std::os::unix::fs::symlink(target, folder.path().join(name)).unwrap();
    }
    for call in [folder.path().join("first"), PathBuf::from("first")] {
        let output = Command::new(call).arg("--version").env("PATH", folder.path()).output().unwrap();
        assert!(String::from_utf8(output.stdout).unwrap().starts_with("pg_patronictl "), "{:?}", output.stderr);
    }
}

#[test]
fn a_call_that_cannot_be_understood_is_a_usage_error() {
    for name in PROGRAMS {
        let run = |words: &[&str]| {
            let folder = std::env::temp_dir();
            let output = Command::new(OURS).arg0(name).args(words).env("PATRONI_TOOLS_ROOT", folder).output().unwrap();
            (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
        };
        let (code, shown, _) = run(&["--help"]);
        assert!(code == Some(0) && shown.starts_with(&format!("Usage: {name} ")), "{shown}");
        let (code, shown, _) = run(&["--version"]);
        assert_eq!((code, shown), (Some(0), format!("{name} {}\n", env!("CARGO_PKG_VERSION"))));
        let (code, _, said) = run(&["-x"]);
        assert!(code == Some(2) && said.contains("--help"), "{said}");
        let manual =
            std::fs::read_to_string(format!("{}/../../docs/man/{name}.8.scd", env!("CARGO_MANIFEST_DIR"))).unwrap();
        for word in run(&["--help"]).1.split(|c: char| c.is_whitespace() || c == ',') {
            let option = word.split(['=', '*']).next().unwrap();
            assert!(!option.starts_with("--") || manual.contains(option), "{option} is not in {name}.8");
        }
    }
    for (scope, part) in
        [("--scope=prod", "--cluster=VERSION/NAME"), ("--scope=eu/17-x", "eu"), ("--x", "--scope is missing")]
    {
        let output = Command::new(OURS)
            .arg0(PROGRAMS[1])
            .args([scope, "--datadir=/srv/x", "--connstring=host=x"])
            .env("PATRONI_TOOLS_ROOT", "/nowhere")
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains(part) && said.lines().count() <= 2, "{said}");
    }
}

#[test]
fn bootstrap_makes_the_same_files_under_any_umask_and_passes_options_on() {
    let Some(machine) = Machine::new() else { return };
    machine.patroni_file("my-app.x", &machine.data("a b"));
    let scope = format!("--scope={}-my-app.x", machine.version);
    let place = format!("--datadir={}", machine.data("a b"));
    let said = machine.done(
        "pg_createcluster_patroni",
        &["--encoding=LATIN1", "--locale=C", "--data-checksums=True", "--wal-segsize=32", "--what=1", &scope, &place],
    );
    assert!(said.contains("warning: --what"), "{said}");
    let [plain, data] = machine.named("main");
    let umask = machine.postgres("0022").args(["/mnt/pg_createcluster_patroni", &plain, &data]).output().unwrap();
    assert!(umask.status.success());
    let modes = "stat -c '%a %F %U %n' . start.conf environment pg_ctl.conf postgresql.conf pg_hba.conf pg_ident.conf conf.d $PWD/../../../..";
    let of =
        |name: &str| machine.shell(&format!("cd {}; {}", machine.etc(name), modes.replace(" $PWD/../../../..", "")));
    assert_eq!(of("my-app.x"), of("main"));
    assert!(
        of("main").contains("640 regular file postgres pg_hba.conf")
            && of("main").contains("644 regular file postgres postgresql.conf")
    );
    assert_eq!(machine.shell(&format!("stat -c %a '{}' {}", machine.data("a b"), machine.data("main"))), "700\n700");
    let list = machine.shell("pg_lsclusters -h");
    let app = list.lines().find(|line| line.contains("my-app.x")).unwrap();
    assert!(app.contains(" 5501 ") && app.contains("/a b"), "{list}");
    let control = machine.shell(&format!(
        "/usr/lib/postgresql/{0}/bin/pg_controldata '{1}'; pg_ctlcluster {0} my-app.x start >&2; psql -p 5501 -XAtc 'show server_encoding'; cat {2}/start.conf",
        machine.version, machine.data("a b"), machine.etc("my-app.x")
    ));
    for part in [
        "Bytes per WAL segment:                33554432",
        "Data page checksum version:           1",
        "LATIN1",
        "\nmanual",
    ] {
        assert!(control.contains(part), "{part}: {control}");
    }
    assert!(machine.shell("ls /var/lib/postgresql/*.unfinished 2>/dev/null || echo none").contains("none"));
}

#[test]
fn a_failed_bootstrap_can_be_repeated() {
    let Some(machine) = Machine::new() else { return };
    let [scope, data] = machine.named("main");
    machine.done("pg_createcluster_patroni", &[&scope, &data]);
    // What Patroni does with a bootstrap that fails after the hook.
    machine.shell(&format!(
        "cd {}; mv postgresql.conf postgresql.base.conf; echo \"include 'postgresql.base.conf'\" > postgresql.conf
         echo 'local all postgres trust' > pg_hba.conf; cp pg_hba.conf pg_hba.conf.backup
         echo 'work_mem = 11MB' > conf.d/local.conf; mv {data} {data}.failed",
        machine.etc("main"),
        data = machine.data("main")
    ));
    let said = machine.done("pg_createcluster_patroni", &[&scope, &data]);
    assert!(said.contains("replaced: postgresql.conf, postgresql.base.conf, pg_hba.conf"), "{said}");
    let etc = machine.shell(&format!(
        "cd {}; ls; grep -c 'trust$' pg_hba.conf || true; cat replaced/pg_hba.conf conf.d/local.conf",
        machine.etc("main")
    ));
    assert!(!etc.contains("base.conf") && etc.contains("\n0\nlocal all postgres trust\nwork_mem"), "{etc}");
    machine.shell(&format!("test -f {}.failed/PG_VERSION", machine.data("main")));
    // A bootstrap that initdb refuses leaves nothing.
    let [other, data] = machine.named("other");
    machine.refused(
        "pg_createcluster_patroni",
        &["--encoding=NONE", &other, &data],
        &["pg_createcluster failed", "NONE"],
    );
    assert_eq!(machine.shell("pg_lsclusters -h | grep -c other || true"), "0");
    machine.done("pg_createcluster_patroni", &[&other, &data]);
}

#[test]
fn a_bootstrap_that_cannot_begin_names_the_remedy() {
    let Some(machine) = Machine::new() else { return };
    let [scope, data] = machine.named("main");
    // createcluster.conf can name directories whose parents only root can create.
    let version = &machine.version;
    let words = [scope.clone(), "--datadir=/mnt/none/data".to_owned(), "--waldir=/mnt/wal/none/main".to_owned()];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    for (label, directory) in [("data", "/mnt/none"), ("WAL", "/mnt/wal/none")] {
        let command = format!("install -d -o postgres -g postgres {directory}");
        let what = format!("the {label} directory {directory}/");
        machine.refused("pg_createcluster_patroni", &words, &[&what, "postgres cannot create it in /mnt", &command]);
        assert!(machine.root("sh", &["-ec", &command]).status.success());
    }
    machine.done("pg_createcluster_patroni", &words);
    machine.shell(&format!("pg_ctlcluster {version} main start; pg_dropcluster --stop {version} main"));
    // A locale that is not generated, as an option and as that of the machine, in which case perl complains, too.
    let locale = "xx_YY.UTF-8";
    let missing = "error: the locale xx_YY.UTF-8 is not generated on this host";
    machine.refused("pg_createcluster_patroni", &[&scope, &data, &format!("--locale={locale}")], &[missing]);
    let said =
        machine.shell(&format!("LANG={locale} /mnt/pg_createcluster_patroni {scope} {data} 2>&1 && echo done || true"));
    assert!(said.contains(missing) && !said.contains("perl") && !said.ends_with("done"), "{said}");
    machine.done("pg_createcluster_patroni", &[&scope, &data]);
}

#[test]
fn nothing_that_is_somebodys_is_touched() {
    let Some(machine) = Machine::new() else { return };
    let [scope, data] = machine.named("app");
    machine.done("pg_createcluster_patroni", &[&scope, &data]);
    machine.shell(&format!("touch {}/PRECIOUS", machine.data("app")));
    let sum = || machine.shell("find /etc/postgresql /var/lib/postgresql -type f | sort | xargs md5sum");
    let before = sum();
    let [_, _, source] = machine.clone_words("app");
    for hook in ["pg_createcluster_patroni", "pg_clonecluster_patroni"] {
        // The configuration of app leads elsewhere.
        machine.refused(
            hook,
            &[&scope, &format!("--datadir={}", machine.data("new")), &source],
            &["data_directory is", "Nothing was changed"],
        );
        machine.refused(hook, &[&scope, &data, &source], &["not empty"]);
        let my_app = format!("--scope={}-my-app", machine.version);
        machine.refused(hook, &[&my_app, &data, &source], &["is the data directory of", "/app"]);
        machine.refused(hook, &[&scope, "--datadir=/var/lib/../etc", &source], &["--datadir"]);
    }
    machine.refused("pg_clonecluster_patroni", &[&scope, &data, "--connstring="], &["no leader"]);
    assert_eq!(sum(), before);
    machine.shell(&format!("pg_ctlcluster {} app start", machine.version));
    machine.refused("pg_clonecluster_patroni", &[&scope, &data, &source], &["is running in"]);
}

#[test]
fn a_clone_is_a_replica_with_the_configuration_of_a_bootstrap() {
    let Some(machine) = Machine::new() else { return };
    machine.primary();
    machine.patroni_file("main", &machine.data("main"));
    let said = machine.clones("main");
    assert!(said.contains("copied") && said.contains("/s)"), "{said}");
    // Comments that initdb adapts to the platform say nothing.
    let different = machine.shell(&format!(
        "for f in postgresql.conf pg_hba.conf pg_ident.conf start.conf environment pg_ctl.conf; do
           sed 's/\\bmain\\b/first/g; s/5501/5499/; /^#[a-z]*_flush_after/d' {}/$f > /tmp/{2}.a; sed '/^#[a-z]*_flush_after/d' {}/$f | diff -b - /tmp/{2}.a || true
         done; rm -f /tmp/{2}.a",
        machine.etc("main"),
        machine.etc("first"),
        machine.first
    ));
    assert_eq!(different, "");
    assert_eq!(
        machine.shell(&format!("stat -c %a {} {}/*", machine.data("main"), machine.etc("main"))),
        machine.shell(&format!("stat -c %a {} {}/*", machine.data("first"), machine.etc("first")))
    );
    assert_eq!(machine.shell(&format!("ls {} | grep -c backup$ || true", machine.data("main"))), "0");
    let count = machine.shell(&format!(
        "touch {}/standby.signal; pg_ctlcluster {} main start; psql -p 5501 -XAtc 'select count(*), pg_is_in_recovery() from t'",
        machine.data("main"),
        machine.version
    ));
    assert_eq!(count, "40000|t");
}

#[test]
fn a_second_clone_keeps_the_local_configuration_and_a_lost_one_comes_back() {
    let Some(machine) = Machine::new() else { return };
    machine.primary();
    machine.patroni_file("main", &machine.data("main"));
    machine.clones("main");
    machine.shell(&format!(
        "cd {}; mv postgresql.conf postgresql.base.conf; echo 'work_mem = 11MB # local' >> postgresql.base.conf
         echo \"include 'postgresql.base.conf'\" > postgresql.conf; echo disabled > start.conf; rm pg_ident.conf; rm -r {}",
        machine.etc("main"),
        machine.data("main")
    ));
    let kept =
        || machine.shell(&format!("cd {}; md5sum postgresql.base.conf start.conf pg_hba.conf", machine.etc("main")));
    let before = kept();
    machine.clones("main");
    assert_eq!(kept(), before);
    machine.shell(&format!("test -f {}/pg_ident.conf", machine.etc("main")));

    let instance = format!("{}-main", machine.version);
    assert_eq!(machine.done("pg_preparecluster_patroni", &[&instance]), "");
    machine.shell(&format!("rm -r {}", machine.etc("main")));
    let said = machine.done("pg_preparecluster_patroni", &[&instance]);
    assert!(said.contains("had no configuration"), "{said}");
    let list = machine.shell("pg_lsclusters -h | grep main");
    assert!(list.contains(" 5501 ") && list.contains(&machine.data("main")), "{list}");
    machine.shell(&format!(
        "touch {}/standby.signal; pg_ctlcluster {} main start",
        machine.data("main"),
        machine.version
    ));
    assert_eq!(machine.done("pg_preparecluster_patroni", &[&instance]), "");
    machine.shell(&format!(
        "pg_ctlcluster {} main stop; rm -r {} {}",
        machine.version,
        machine.etc("main"),
        machine.data("main")
    ));
    machine.clones("main");
}

#[test]
fn nothing_outlives_a_clone_that_is_killed_and_the_next_attempt_succeeds() {
    let Some(machine) = Machine::new() else { return };
    machine.primary();
    machine.patroni_file("main", &machine.data("main"));
    let words = machine.clone_words("main");
    let slow = ["--max-rate=1M", &words[0], "--role=replica", &words[1], &words[2]];
    for (signal, which) in
        [("TERM", "first"), ("KILL", "first"), ("KILL", "worker"), ("TERM", "worker"), ("KILL", "both")]
    {
        let mut hook = machine.start("pg_clonecluster_patroni", &slow);
        let filled = machine.data("main");
        until("the copy has begun", Duration::from_secs(15), || {
            machine.shell(&format!("test -f {filled}/PG_VERSION && echo yes || true")) == "yes"
                && machine.alive("pg_basebackup").len() == 2
        });
        // The hook, its worker, and around them the two programs by which the test enters the machine.
        let hooks = machine.alive("/pg_clonecluster_patroni");
        assert_eq!(hooks.len(), 2, "{hooks:?}");
        let doomed = match which {
            "first" => &hooks[..1],
            "worker" => &hooks[1..],
            _ => &hooks[..],
        };
        let mut kill = vec![format!("-{signal}")];
        kill.extend(doomed.iter().cloned());
        machine.root("kill", &kill.iter().map(String::as_str).collect::<Vec<_>>());
        if which == "both" {
            // The process that receives WAL does not notice; the next attempt ends it.
            until("pg_basebackup is dead", Duration::from_secs(2), || machine.alive("pg_basebackup").len() <= 1);
        } else {
            until("pg_basebackup is dead", Duration::from_secs(2), || machine.alive("pg_basebackup").is_empty());
        }
        assert!(!hook.wait().unwrap().success());
    }
    let said = machine.clones("main");
    assert!(said.contains("removing the remains of an interrupted clone"), "{said}");
    assert!(machine.alive("pg_basebackup").is_empty());
    assert!(machine.shell("ls /var/lib/postgresql").lines().all(|name| !name.ends_with("unfinished")));

    machine.shell(&format!("rm -r {}", machine.data("main")));
    let mut hook = machine.start("pg_clonecluster_patroni", &slow);
    until("the copy has begun", Duration::from_secs(15), || machine.alive("pg_basebackup").len() == 2);
    machine.refused(
        "pg_clonecluster_patroni",
        &[&words[0], &words[1], &words[2]],
        &["another clone (pid ", "is running"],
    );
    machine.root("kill", &[&machine.alive("/pg_clonecluster_patroni")[0]]);
    assert!(!hook.wait().unwrap().success());
    // The unit's preparation removes the remains too.
    let said = machine.done("pg_preparecluster_patroni", &[&format!("{}/main", machine.version)]);
    assert!(said.contains("removed the remains of an interrupted clone"), "{said}");
    assert_eq!(machine.shell(&format!("ls -A {}", machine.data("main"))), "");
}

#[test]
fn a_clone_that_pauses_for_longer_than_the_clusters_timeout_goes_on() {
    let Some(machine) = Machine::new() else { return };
    machine.primary();
    machine.shell("psql -qX -c \"alter system set wal_sender_timeout = '1s'\" -c 'select pg_reload_conf()'");
    machine.patroni_file("main", &machine.data("main"));
    let words = machine.clone_words("main");
    let mut hook =
        machine.start("pg_clonecluster_patroni", &["--max-rate=8M", &words[0], "--role=replica", &words[1], &words[2]]);
    until("the copy has begun", Duration::from_secs(15), || machine.alive("pg_basebackup").len() == 2);
    let signal = |signal: &str| {
        for pid in machine.alive("pg_basebackup") {
            machine.root("kill", &[signal, &pid]);
        }
    };
    signal("-STOP");
    std::thread::sleep(Duration::from_secs(4));
    signal("-CONT");
    assert!(hook.wait().unwrap().success());
}

#[test]
fn an_interrupted_bootstrap_is_explained_and_removed() {
    let Some(machine) = Machine::new() else { return };
    machine.patroni_file("main", &machine.data("main"));
    let [scope, data] = machine.named("main");
    let mut hook = machine.start("pg_createcluster_patroni", &[&scope, &data]);
    until("initdb is at work", Duration::from_secs(10), || !machine.alive("/initdb").is_empty());
    machine.root("kill", &["-KILL", &machine.alive("/pg_createcluster_patroni")[0]]);
    until("initdb is dead", Duration::from_secs(2), || {
        machine.alive("/initdb").is_empty()
            && machine.alive("bin/postgres").is_empty()
            && machine.alive("pg_createcluster").is_empty()
    });
    assert!(!hook.wait().unwrap().success());
    let said = machine.done("pg_preparecluster_patroni", &[&machine.version, "main"]);
    assert!(said.contains("'initialize'") && said.contains(&format!("remove {}-main", machine.version)), "{said}");
    machine.done("pg_createcluster_patroni", &[&scope, &data]);
    machine.shell(&format!("pg_ctlcluster {} main start", machine.version));
}

#[test]
fn a_cluster_that_has_run_since_is_not_taken_for_remains() {
    let Some(machine) = Machine::new() else { return };
    machine.patroni_file("main", &machine.data("main"));
    let [scope, data] = machine.named("main");
    machine.done("pg_createcluster_patroni", &[&scope, &data]);
    machine.shell(&format!(
        "pg_ctlcluster {0} main start; pg_ctlcluster {0} main stop
         printf 'kind=bootstrap\\ndata_directory={1}\\npid=1\\n' > ~/{0}-main.unfinished",
        machine.version,
        machine.data("main")
    ));
    let said = machine.done("pg_preparecluster_patroni", &[&format!("{}-main", machine.version)]);
    assert!(said.contains("has run there since"), "{said}");
    machine.shell(&format!("pg_ctlcluster {} main start", machine.version));
}

#[test]
fn the_preparation_refuses_and_warns() {
    let Some(machine) = Machine::new() else { return };
    let instance = format!("{}-main", machine.version);
    machine.refused("pg_preparecluster_patroni", &[&instance], &["patroni-gen-config"]);
    machine.patroni_file("main", &machine.data("main"));
    assert_eq!(machine.done("pg_preparecluster_patroni", &[&instance]), "");
    let [scope, data] = machine.named("main");
    machine.done("pg_createcluster_patroni", &[&scope, &data]);
    machine.shell(&format!("sed -i s/manual/auto/ {}/start.conf", machine.etc("main")));
    let said = machine.done("pg_preparecluster_patroni", &[&instance]);
    assert!(said.contains("start.conf is set to 'auto'"), "{said}");
    machine.patroni_file("main", "/srv/elsewhere");
    machine.refused("pg_preparecluster_patroni", &[&instance], &["/srv/elsewhere", &machine.data("main")]);
    machine.refused("pg_preparecluster_patroni", &["17"], &["does not name a cluster"]);
}

#[test]
fn another_patroni_is_found_by_what_the_kernel_says_of_it() {
    let Some(machine) = Machine::new() else { return };
    if !machine.root("python3", &["--version"]).status.success() {
        return skip("python3").unwrap_or_default();
    }
    machine.patroni_file("main", &machine.data("main"));
    machine.put("/mnt/patroni-gen-config", &std::fs::read(OURS).unwrap());
    machine.put("/mnt/patroni", b"import time\ntime.sleep(60)\n");
    // Another path to the same directory, in a file that is named without its directory.
    let other = format!("scope: other\npostgresql: {{data_dir: /mnt/link/{}/main}}\n", machine.version);
    machine.put("/mnt/other.yml", other.as_bytes());
    machine.root("ln", &["-s", "/var/lib/postgresql", "/mnt/link"]);
    assert!(machine.root("chmod", &["755", "/mnt/patroni-gen-config"]).status.success());
    machine.shell(&format!("mkdir -p {}", machine.data("main")));
    let cluster = format!("{}/main", machine.version);
    let check = || {
        let words = ["/mnt/patroni-gen-config", "check", "--offline", &cluster];
        String::from_utf8(machine.postgres("0022").args(words).output().unwrap().stderr).unwrap()
    };
    let rival = |user: &str, environment: &str, line: &str| {
        let mut command = machine.enter();
        let group = if user == "nobody" { "nogroup" } else { user };
        command.args(["setpriv", &format!("--reuid={user}"), &format!("--regid={group}"), "--clear-groups"]);
        command.args(["env", "-i", "-C", "/mnt", environment]);
        let child = command.args(["python3", "/mnt/patroni"]).args(line.split_whitespace()).spawn().unwrap();
        until("it runs", Duration::from_secs(10), || machine.alive("python3").len() == 1);
        child
    };
    let data = format!("PATRONI_POSTGRESQL_DATA_DIR={}", machine.data("main"));
    for (user, environment, line, found) in [
        ("postgres", "X=1", "other.yml", true),
        ("postgres", "X=1", "--validate-config other.yml", false),
        ("postgres", &data, "none.yml", true),
        ("postgres", "X=1", "none.yml", false),
        ("nobody", &data, "other.yml", false),
    ] {
        let mut child = rival(user, environment, line);
        let pid = machine.alive("python3").remove(0);
        let said = check();
        assert_eq!(said.contains("another Patroni runs on"), found, "{user} {environment} {line}: {said}");
        assert!(!found || said.contains(&format!("process {pid}")), "{said}");
        machine.root("kill", &[&pid]);
        child.wait().unwrap();
    }
    assert!(!check().contains("another Patroni"));
}

#[test]
fn a_full_disk_is_named_and_the_next_attempt_has_all_of_it() {
    let Some(machine) = Machine::new() else { return };
    machine.primary();
    let (data, words) = (machine.data("main"), machine.clone_words("main"));
    let mount = format!("mkdir -p {data}; mount -t tmpfs -o size=20m tmpfs {data}; chown postgres: {data}");
    assert!(machine.root("sh", &["-c", &mount]).status.success());
    let arguments = [words[0].as_str(), &words[1], &words[2]];
    machine.shell(&format!("mkdir {data}/lost+found"));
    machine.refused("pg_clonecluster_patroni", &arguments, &["lost+found", "a directory below it"]);
    machine.shell(&format!("rmdir {data}/lost+found"));
    machine.refused("pg_clonecluster_patroni", &arguments, &["the disk is full", "20 MB are free", "Free some space"]);
    assert_eq!(machine.shell(&format!("ls {data}; ls -A ~ /etc/postgresql/*")).matches("unfinished").count(), 0);
    assert!(machine.root("mount", &["-o", "remount,size=500m", &data]).status.success());
    machine.clones("main");
}

#[test]
fn a_clone_that_cannot_begin_says_why_and_touches_nothing() {
    let Some(machine) = Machine::new() else { return };
    machine.primary();
    let words = machine.clone_words("main");
    let with = |source: &str, parts: &[&str]| {
        machine.refused("pg_clonecluster_patroni", &[&words[0], &words[1], &format!("--connstring={source}")], parts);
    };
    with("user=replicator host=no-such-host.invalid port=5499", &["no-such-host.invalid", "DNS"]);
    with("user=replicator host=127.0.0.1 port=5498", &["127.0.0.1 port 5498 does not respond", "firewall"]);
    machine.shell("echo '*:*:*:*:wrong' > ~/pgpass");
    with("user=replicator host=localhost port=5499", &["password of replicator", "/etc/patroni/site.key"]);
    machine.shell(&format!(
        "sed -i '/replication/d' {}/pg_hba.conf; pg_ctlcluster {} first reload; echo '*:*:*:*:secret' > ~/pgpass",
        machine.etc("first"),
        machine.version
    ));
    with("user=replicator host=127.0.0.1 port=5499", &["does not allow replicator to replicate", "NETWORK"]);
    assert_eq!(
        machine.shell(&format!("ls -A ~; ls -A ~/{} /etc/postgresql/{0}", machine.version)).matches("main").count(),
        0
    );
}

#[test]
fn wal_goes_where_it_is_told() {
    let Some(machine) = Machine::new() else { return };
    machine.primary();
    assert!(machine.root("install", &["-d", "-o", "postgres", "/mnt/wal", "/mnt/full"]).status.success());
    machine.shell("touch /mnt/full/precious");
    let words = machine.clone_words("main");
    let full = ["--waldir=/mnt/full", &words[0], &words[1], &words[2]];
    machine.refused("pg_clonecluster_patroni", &full, &["/mnt/full is not empty"]);
    machine.done("pg_clonecluster_patroni", &["--waldir=/mnt/wal/%v-%c", &words[0], &words[1], &words[2]]);
    assert_eq!(
        machine.shell(&format!("readlink {}/pg_wal", machine.data("main"))),
        format!("/mnt/wal/{}-main", machine.version)
    );
    let [scope, data] = machine.named("other");
    machine.done("pg_createcluster_patroni", &["--waldir=/mnt/wal/o", &scope, &data]);
    assert_eq!(
        machine.shell(&format!("readlink {}/pg_wal; ls /mnt/full", machine.data("other"))),
        "/mnt/wal/o\nprecious"
    );
}

#[test]
fn the_doctor_asks_the_server_about_its_roles_and_its_configuration() {
    let Some(machine) = Machine::new() else { return };
    machine.primary();
    machine.put("/mnt/patroni-gen-config", &std::fs::read(OURS).unwrap());
    assert!(machine.root("chmod", &["755", "/mnt/patroni-gen-config"]).status.success());
    let (version, data, etc) = (machine.version.clone(), machine.data("first"), machine.etc("first"));
    // What shows that Patroni manages the data.
    machine.shell(&format!("touch {data}/patroni.dynamic.json"));
    let text = format!(
        "scope: {version}-first\nname: pg1\nraft: {{self_addr: '127.0.0.1:2222', data_dir: /mnt}}\n\
             restapi: {{listen: '127.0.0.1:8008', connect_address: '127.0.0.1:8008'}}\n\
             postgresql:\n  listen: '127.0.0.1:5499'\n  connect_address: '127.0.0.1:5499'\n  data_dir: '{data}'\n  config_dir: '{etc}'\n\
             \x20 bin_dir: /usr/lib/postgresql/{version}/bin\n\
             \x20 authentication:\n    superuser: {{username: postgres}}\n\
             \x20   replication: {{username: replicator, password: secret}}\n    rewind: {{username: rewind, password: other}}\n"
    );
    machine.put(&format!("/etc/patroni/{version}-first.yml"), text.as_bytes());
    // Each finding in a line, with its hint if it is of interest; without what is about the file or the host.
    let found = || {
        let output = machine.root("/mnt/patroni-gen-config", &["check", &format!("{version}/first")]);
        let said = String::from_utf8(output.stderr).unwrap();
        let said = said.replace("patroni-gen-config: ", "").replace("\nhint: ", " | ");
        let about =
            |line: &&str| ["the role ", "of the role ", "conf:", "PostgreSQL"].iter().any(|word| line.contains(word));
        said.lines()
            .filter(|line| !line.contains("createcluster.conf"))
            .filter(about)
            .map(str::to_owned)
            .collect::<Vec<_>>()
            .join("\n")
    };
    let sql = |sql: &str| machine.shell(&format!("psql -qXc \"{sql}\""));
    let set = format!(" | Correct it with: patroni-gen-config set-passwords {version}/first");
    assert_eq!(found(), format!("warning: the role rewind does not exist{set}"));
    sql("create role rewind login password 'other'");
    let rights =
        "warning: the role rewind may not call the functions that pg_rewind needs, so a former primary cannot rejoin";
    assert_eq!(found(), format!("{rights}{set}"));
    for function in ["pg_ls_dir(text, boolean, boolean)", "pg_stat_file(text, boolean)", "pg_read_binary_file(text)"] {
        sql(&format!("grant execute on function {function} to rewind"));
        assert_eq!(found(), format!("{rights}{set}"));
    }
    sql("grant execute on function pg_read_binary_file(text, bigint, bigint, boolean) to rewind");
    assert_eq!(found(), "");
    for (change, undo, expected) in [
        ("password 'x'", "password 'secret'", "error: the role replicator has another password than the Patroni file"),
        (
            "password null",
            "password 'secret'",
            "error: the role replicator has no password, but the Patroni file has one",
        ),
        ("noreplication", "replication", "error: the role replicator may not replicate (it has no REPLICATION)"),
        ("nologin", "login", "error: the role replicator may not log in"),
        (
            "valid until '2020-01-01'",
            "valid until 'infinity'",
            "error: the password of the role replicator has expired (VALID UNTIL)",
        ),
    ] {
        sql(&format!("alter role replicator {change}"));
        assert_eq!(found(), format!("{expected}{set}"));
        sql(&format!("alter role replicator {undo}"));
        assert_eq!(found(), "", "{undo}");
    }
    sql("set password_encryption = md5; alter role replicator password 'secret'");
    assert_eq!(found(), "");
    // The configuration of a server that runs, and of one that does not.
    let reload = format!(" | Correct it, then run: systemctl reload patroni@{version}-first");
    for (line, expected) in [
        ("work_mem = banana", "invalid value for parameter \"work_mem\": \"banana\""),
        ("workmem = 4MB", "unrecognized configuration parameter \"workmem\""),
        (
            "max_connections = 5000000",
            "5000000 is outside the valid range for parameter \"max_connections\" (1 .. 262143)",
        ),
    ] {
        machine.shell(&format!("printf '# mine\n{line}\n' > {etc}/conf.d/x.conf"));
        let place = format!("{etc}/conf.d/x.conf:2: PostgreSQL does not");
        assert_eq!(found(), format!("warning: {place} start again with this: {expected}{reload}"));
    }
    machine.shell(&format!("echo 'max_connections = 50' > {etc}/conf.d/x.conf"));
    assert_eq!(found(), "");
    machine.shell(&format!("rm {etc}/conf.d/x.conf; echo 'local all all nomethod' >> {etc}/pg_hba.conf"));
    let said = found();
    assert!(
        said.contains(&format!("{etc}/pg_hba.conf:")) && said.contains("\"nomethod\"") && said.ends_with(&reload),
        "{said}"
    );
    machine.shell(&format!("sed -i '$d' {etc}/pg_hba.conf; echo 'work_mem = banana' > {etc}/conf.d/x.conf"));
    machine.shell(&format!("pg_ctlcluster {version} first stop"));
    let restart = reload.replace(" reload ", " restart ");
    let error = format!(
        "work_mem: PostgreSQL {version} refuses the value: invalid value for parameter \"work_mem\": \"banana\", so PostgreSQL"
    );
    let restart = restart.replace("Correct it", "Correct that line");
    assert_eq!(found(), format!("error: {etc}/conf.d/x.conf:1: {error} does not start{restart}"));
}

#[test]
fn the_generator_asks_the_server_for_the_logins_of_a_new_file() {
    let Some(machine) = Machine::new() else { return };
    machine.primary();
    machine.put("/mnt/patroni-gen-config", &std::fs::read(OURS).unwrap());
    let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../templates");
    let prepare = format!(
        "chmod 755 /mnt/patroni-gen-config; ip address add 10.0.3.1/24 dev lo; mkdir /mnt/upper /mnt/work
         mount -t overlay -o lowerdir=/usr/share,upperdir=/mnt/upper,workdir=/mnt/work overlay /usr/share
         mkdir -p /usr/share/patroni-tools; cp -r {} /usr/share/patroni-tools/templates",
        templates.display()
    );
    assert!(machine.root("sh", &["-ec", &prepare]).status.success());
    let (version, data, etc) = (machine.version.clone(), machine.data("first"), machine.etc("first"));
    machine.shell(&format!("touch {data}/patroni.dynamic.json"));
    // As Debian's pg_createconfig_patroni writes it, which has no role for pg_rewind.
    let text = format!(
        "scope: {version}-first\nname: pg1\npostgresql:\n  listen: '127.0.0.1:5499'\n  data_dir: '{data}'\n  config_dir: '{etc}'\n\
             \x20 authentication:\n    superuser: {{username: postgres}}\n    replication: {{username: replicator, password: secret}}\n"
    );
    let file = format!("/etc/patroni/{version}-first.yml");
    machine.put(&file, text.as_bytes());
    // The roles that the server lacks, or has with another password.
    let lacks = |setting: &str| {
        let cluster = format!("{version}/first");
        let set = ["--set", "HOST_ADDRESS=10.0.3.1", "--set", setting];
        let words = [&["--force", cluster.as_str()][..], &set].concat();
        let output = machine.root("/mnt/patroni-gen-config", &words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        let what = said.lines().find_map(|line| line.split_once("the new file has logins for "));
        assert_eq!(what.is_some(), said.contains("set-passwords"), "{said}");
        what.map(|(_, roles)| roles.trim_end_matches(" that the running cluster does not have").to_owned())
    };
    assert_eq!(lacks("NOFAILOVER=no").as_deref(), Some("replicator and rewind_user"));
    assert_eq!(lacks("NOFAILOVER=yes").as_deref(), Some("replicator and rewind_user"));
    let file = String::from_utf8(machine.root("cat", &[&file]).stdout).unwrap();
    let password = |role: &str| {
        let (_, rest) = file.split_once(&format!("username: \"{role}\"")).unwrap();
        rest.split_once("password: \"").unwrap().1.split('"').next().unwrap().to_owned()
    };
    machine.shell(&format!("psql -qXc \"alter role replicator password '{}'\"", password("replicator")));
    assert_eq!(lacks("NOFAILOVER=no").as_deref(), Some("rewind_user"));
    machine.shell(&format!("psql -qXc \"create role rewind_user login password '{}'\"", password("rewind_user")));
    assert_eq!(lacks("NOFAILOVER=yes"), None);
}
