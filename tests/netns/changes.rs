//! What follows a change, and `pg_patronictl`: with a real etcd, the real patronictl of the image, and a real Patroni.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use lab::image::Image;
use lab::world::servers::{Daemon, sh, until_ok};
use lab::world::{OWN, SECOND, SERVER};

use crate::{MACHINE, PROGRAM, etcd, etcdctl, inside, ours, url, write};

/// patronictl of the image, with the Patroni file of the machine.
fn real_patronictl() {
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = -c ] || exit 2\nfile=/tmp/$$.yml\ncp \"$2\" {SECOND}$file\nchmod 644 {SECOND}$file\nshift 2\n\
         exec chroot {SECOND} /usr/bin/patronictl -c $file \"$@\"\n"
    );
    write(&format!("{MACHINE}/usr/bin/patronictl"), &script, 0o755);
}

/// Runs a program of the machine: exit status, stdout, stderr, and how long it took.
fn called(line: &str) -> (Option<i32>, String, String, Duration) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let begin = Instant::now();
    let output = Command::new(PROGRAM)
        .arg0(words[0])
        .args(&words[1..])
        .env_clear()
        .env("PATRONI_TOOLS_ROOT", MACHINE)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr), begin.elapsed())
}

/// What patronictl itself does for ever.
#[test]
fn pg_patronictl_ends_without_a_dcs() {
    if !inside("changes::pg_patronictl_ends_without_a_dcs", Image::Stores13) {
        return;
    }
    real_patronictl();
    let file = |hosts: &str| {
        ours(
            "17-main.yml",
            &format!(
                "scope: 17-main\nname: pg1\nnamespace: /lab/\netcd3: {{hosts: [{hosts}]}}\nrestapi: {{listen: '{OWN}:8008', \
                 connect_address: '{OWN}:8008'}}\npostgresql: {{listen: '{OWN}:5432', connect_address: '{OWN}:5432', data_dir: /data}}\n"
            ),
        );
    };
    let commands = [
        "17/main list",
        "17/main show-config",
        "17/main version",
        "17/main switchover --force",
        "17/main edit-config",
        "list",
    ];
    for (hosts, limit, why) in [
        (format!("'{SERVER}:2379', '{SERVER}:2381', '{SERVER}:2383'"), 5, "Connection refused"),
        ("'10.99.0.1:2379', '10.99.0.2:2379', '10.99.0.3:2379'".to_owned(), 15, "no answer"),
    ] {
        file(&hosts);
        for command in commands {
            let (status, _, said, time) = called(&format!("pg_patronictl {command}"));
            assert!(time < Duration::from_secs(limit), "{command}: {time:?}");
            assert_eq!(status, Some(1), "{command}: {said}");
            let lines: Vec<&str> = said.lines().collect();
            assert!(
                lines.len() == 2
                    && lines[0].contains("17/main: etcd3 at ")
                    && lines[0].contains(why)
                    && lines[1].contains("hint: "),
                "{command}: {said}"
            );
        }
    }
    let _server = etcd(&url("http"));
    file(&format!("'{SERVER}:2379'"));
    let (status, printed, said, _) = called("pg_patronictl 17/main list");
    assert!(status == Some(0) && printed.contains("17-main"), "{status:?} {printed}{said}");
    assert_eq!(called("pg_patronictl 17/main list --no-such-option").0, Some(2));
    // A patronictl that hangs all the same, with what it has started.
    write(&format!("{MACHINE}/usr/bin/patronictl"), "#!/bin/sh\ntrap '' TERM\nsleep 300\n", 0o755);
    let (status, _, said, time) = called("pg_patronictl 17/main list");
    assert!(time < Duration::from_secs(17), "{time:?}");
    assert_eq!(
        (status, said.as_str()),
        (
            Some(1),
            "pg_patronictl: error: 17/main: patronictl list was still running after 14 s and was terminated\n\
             pg_patronictl: hint: See the cause with: patroni-gen-config check 17/main\n"
        )
    );
}

/// The commands of the program that are named, each at the end of a line.
fn named(said: &str) -> Vec<String> {
    let commands = said.lines().filter_map(|line| line.rsplit_once(": ").map(|(_, last)| last));
    let is_command =
        |text: &&str| ["patroni-gen-config ", "systemctl ", "pg_patronictl "].iter().any(|name| text.starts_with(name));
    commands.filter(is_command).map(str::to_owned).collect()
}

/// Follows what a command says, to its end.
fn follow(command: &str) -> Vec<String> {
    let mut done = Vec::new();
    let mut left = vec![command.to_owned()];
    while !left.is_empty() {
        let command = left.remove(0);
        assert!(!done.contains(&command), "{command} is named again after {done:?}");
        if !command.starts_with("systemctl ") {
            let line = if command.contains(" apply ") { format!("{command} --yes") } else { command.clone() };
            let (status, _, said, _) = called(&line);
            assert!(status == Some(0) || line.contains(" check "), "{line}: {said}");
            let fresh = named(&said).into_iter().filter(|command| !left.contains(command)).collect::<Vec<_>>();
            left.extend(fresh);
        }
        done.push(command);
    }
    done[1..].to_vec()
}

/// Whatever changes first, the commands that are named end it, and none of them names one that has been followed.
#[test]
fn changes_end_where_they_begin() {
    if !inside("changes::changes_end_where_they_begin", Image::Stores13) {
        return;
    }
    real_patronictl();
    let _server = etcd(&url("http"));
    let unit = format!("{MACHINE}/sys/fs/cgroup/system.slice/system-postgresql.slice/patroni@17-main.service");
    fs::create_dir_all(unit).unwrap();
    for directory in ["etc/patroni", "run"] {
        fs::create_dir_all(format!("{MACHINE}/{directory}")).unwrap();
    }
    write(&format!("{MACHINE}/var/lib/postgresql/17/main/PG_VERSION"), "17\n", 0o644);
    write(&format!("{MACHINE}/var/lib/postgresql/17/main/patroni.dynamic.json"), "{}", 0o644);
    write(&format!("{MACHINE}/etc/postgresql/17/main/postgresql.conf"), "", 0o644);
    let settings = |more: &str| {
        let text = format!("HOST_ADDRESS={OWN}\nNETWORK=10.77.0.0/24\nWATCHDOG=off\nDCS_HOSTS={SERVER}:2379\n{more}");
        write(&format!("{MACHINE}/etc/default/patroni"), &text, 0o644);
    };
    let edit_config = |json: &str| {
        fs::write(format!("{SECOND}/tmp/value"), json).unwrap();
        sh(&etcdctl("put /postgresql-common/17-main/config < /tmp/value")).unwrap();
    };
    let none: [&str; 0] = [];
    let (check, write_file, apply) =
        ("patroni-gen-config check 17/main", "patroni-gen-config 17/main", "patroni-gen-config apply 17/main");
    let reload = "systemctl reload patroni@17-main";
    settings("");
    // Patroni runs with the file: it is written anew.
    assert_eq!(follow(write_file), [reload]);
    edit_config(r#"{"ttl": 30}"#);
    assert_eq!(follow(check), [apply]);
    assert_eq!(follow(check), none);
    assert_eq!(called("patroni-gen-config apply --dry-run 17/main").0, Some(0));

    // A setting of the cluster: first the file.
    settings("TTL=40\n");
    assert_eq!(follow(write_file), [apply]);
    assert_eq!(follow(check), none);
    // First the cluster: the doctor says nothing of the file, and writing it ends there.
    settings("TTL=41\n");
    assert_eq!(called("patroni-gen-config apply --dry-run 17/main").0, Some(3));
    assert_eq!(called("patroni-gen-config diff 17/main").0, Some(3));
    assert_eq!(follow(apply), none);
    assert_eq!(follow(check), none);
    assert_eq!(follow(write_file), none);
    assert_eq!(called("patroni-gen-config diff 17/main").0, Some(0));
    // First the doctor.
    settings("TTL=42\n");
    assert_eq!(follow(check), [apply]);
    assert_eq!(follow(check), none);

    // A setting of the member, and both.
    settings("TTL=42\nNOFAILOVER=yes\n");
    assert_eq!(follow(check), [write_file, reload]);
    assert_eq!(follow(check), none);
    settings("TTL=43\nNOFAILOVER=no\n");
    assert_eq!(follow(write_file), [reload, apply]);
    assert_eq!(follow(check), none);

    // By hand in the running cluster.
    edit_config(r#"{"ttl": 50, "loop_wait": 10, "maximum_lag_on_syncnode": 5, "pause": true}"#);
    assert_eq!(called("patroni-gen-config apply --dry-run 17/main").0, Some(3));
    assert_eq!(follow(write_file), none);
    // No member runs here that could end the maintenance mode.
    assert_eq!(named(&called(check).2), [apply, "pg_patronictl 17/main resume --wait"]);
    edit_config(r#"{"ttl": 50, "loop_wait": 10, "maximum_lag_on_syncnode": 5}"#);
    assert_eq!(follow(check), [apply]);
    assert_eq!(follow(check), none);

    // A standby cluster that was promoted.
    settings("TTL=43\nNOFAILOVER=no\nSTANDBY_HOST=10.9.0.1\n");
    let (_, _, said, _) = called(check);
    assert!(
        said.contains("STANDBY_HOST: it is set, but the running cluster 17/main is not a standby cluster"),
        "{said}"
    );
    let (_, _, said, _) = called(write_file);
    assert!(said.contains("remove STANDBY_HOST") && !named(&said).contains(&apply.to_owned()), "{said}");

    // Without the DCS each of them ends, too.
    settings(&format!("TTL=44\nDCS_HOSTS={SERVER}:1\n"));
    assert_eq!(called(write_file).0, Some(0));
    settings(&format!("TTL=45\nDCS_HOSTS={SERVER}:1\n"));
    let (_, _, said, _) = called(write_file);
    assert!(said.contains("if 'patroni-gen-config apply --dry-run 17/main' shows a difference"), "{said}");
    let (_, _, said, _) = called(check);
    assert!(named(&said).is_empty(), "{said}");
}

/// A member of a real Patroni.
fn real_patroni(version: &str) -> Daemon {
    let bin = format!("/usr/lib/postgresql/{version}/bin");
    sh(&format!("install -d -o 103 -g 106 {SECOND}/run/postgresql {SECOND}/tmp/member; chmod 1777 {SECOND}/tmp"))
        .unwrap();
    let file = format!(
        "scope: {version}-main\nname: pg1\nnamespace: /postgresql-common/\netcd3: {{hosts: ['{SERVER}:2379']}}\n\
         restapi: {{listen: '{OWN}:8008', connect_address: '{OWN}:8008'}}\n\
         bootstrap:\n  dcs: {{ttl: 20, loop_wait: 2, retry_timeout: 3, postgresql: {{parameters: {{work_mem: 4MB}}}}}}\n\
         \u{20} initdb: [{{encoding: UTF8}}]\n\
         postgresql:\n  listen: '{OWN}:5432'\n  connect_address: '{OWN}:5432'\n  use_unix_socket: true\n  data_dir: /tmp/member/data\n\
         \u{20} bin_dir: {bin}\n  pgpass: /tmp/member/pgpass\n\
         \u{20} pg_hba: [local all all peer, host replication all {OWN}/32 trust]\n\
         \u{20} authentication: {{superuser: {{username: postgres}}, replication: {{username: replicator, password: x}}}}\n"
    );
    write(&format!("{SECOND}/tmp/member.yml"), &file, 0o644);
    let as_postgres = "setpriv --reuid=103 --regid=106 --clear-groups";
    write(
        &format!("{MACHINE}{bin}/psql"),
        &format!("#!/bin/sh\nexec chroot {SECOND} {as_postgres} {bin}/psql \"$@\"\n"),
        0o755,
    );
    // The first process of the namespace is bash because it reaps the orphans that are left to it, such as PostgreSQL.
    write(&format!("{SECOND}/tmp/run"), &format!("{as_postgres} patroni /tmp/member.yml &\nwait $!\n"), 0o755);
    let words =
        format!("--net=/proc/self/ns/net chroot {SECOND} unshare --pid --fork --kill-child --mount-proc bash /tmp/run");
    let daemon = Daemon::start(&words.split_whitespace().collect::<Vec<_>>(), "/run/patroni.log").unwrap();
    until_ok(
        &format!("timeout 10 chroot {SECOND} patronictl -c /tmp/member.yml list --format json | grep -q '\"running\"'"),
        "/run/patroni.log",
    )
    .unwrap();
    daemon
}

/// A parameter that waits for a restart, from the settings to the end, and what the table of all clusters shows meanwhile.
fn pending_restart(image: Image, name: &str, version: &str) {
    if !inside(name, image) {
        return;
    }
    real_patronictl();
    // Only root may enter the other image.
    write(&format!("{MACHINE}/etc/passwd"), "root:x:0:0::/root:/bin/sh\npostgres:x:0:0::/:/bin/sh\n", 0o644);
    write(&format!("{MACHINE}/etc/group"), "root:x:0:\npostgres:x:0:\n", 0o644);
    for program in ["postgres", "initdb"] {
        write(&format!("{MACHINE}/usr/lib/postgresql/{version}/bin/{program}"), "#!/bin/sh\nexit 0\n", 0o755);
    }
    for directory in ["etc/patroni", "run"] {
        fs::create_dir_all(format!("{MACHINE}/{directory}")).unwrap();
    }
    let _server = etcd(&url("http"));
    let _patroni = real_patroni(version);
    let settings = |more: &str| {
        let text = format!(
            "HOST_ADDRESS={OWN}\nNETWORK=10.77.0.0/24\nWATCHDOG=off\nDCS_HOSTS={SERVER}:2379\nTTL=20\nLOOP_WAIT=2\nRETRY_TIMEOUT=3\n{more}"
        );
        write(&format!("{MACHINE}/etc/default/patroni"), &text, 0o644);
    };
    let id = format!("{version}/main");
    let apply = || {
        let (status, printed, said, _) = called(&format!("patroni-gen-config apply --yes {id}"));
        assert!(status == Some(0) && printed.ends_with(&format!("{id}: changed\n")), "{printed}{said}");
        said
    };
    let row = || -> serde_json::Value {
        let (status, printed, said, _) = called("pg_patronictl list --json");
        assert_eq!(status, Some(0), "{said}");
        serde_json::from_str::<Vec<serde_json::Value>>(&printed).unwrap().remove(0)
    };
    settings("");
    assert_eq!(called(&format!("patroni-gen-config {id}")).0, Some(0));
    assert_eq!(named(&apply()), [""; 0]);
    assert_eq!((&row()["pending_restart"], &row()["maintenance_mode"]), (&false.into(), &false.into()));
    // One that the server reads at once needs nothing, and one that it reads when it starts needs a restart.
    settings("PG_work_mem=5MB\n");
    assert_eq!(named(&apply()), [""; 0]);
    settings("PG_work_mem=5MB\nPG_max_connections=130\n");
    let restart = format!("pg_patronictl {id} restart --pending");
    let said = apply();
    assert_eq!(named(&said), [restart.as_str()], "{said}");
    assert!(said.contains("max_connections will take effect when PostgreSQL restarts on pg1"), "{said}");
    assert_eq!(row()["pending_restart"], true);
    let (status, printed, said, _) = called(&format!("{restart} --force"));
    assert!(status == Some(0) && printed.contains("Success"), "{printed}{said}");
    let end = Instant::now() + Duration::from_secs(20);
    while row()["pending_restart"] != false {
        assert!(Instant::now() < end, "it still waits for a restart");
        thread::sleep(Duration::from_millis(200));
    }
    let (status, _, said, _) = called(&format!("pg_patronictl {id} pause"));
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(row()["maintenance_mode"], true);
    let (_, printed, _, _) = called("pg_patronictl list");
    assert!(printed.lines().nth(1).unwrap().ends_with(" on"), "{printed}");
}

#[test]
fn pending_restart_12() {
    pending_restart(Image::Stores12, "changes::pending_restart_12", "15");
}

#[test]
fn pending_restart_13() {
    pending_restart(Image::Stores13, "changes::pending_restart_13", "17");
}
