//! What an administrator of Debian is used to, on a running cluster of two members: backups with the programs and timers of
//! postgresql-common, logs, commands of postgresql-common that Patroni must not be surprised by, and a restore.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::page::{self, Block};
use lab::patroni::{self, Cluster};
use lab::{Lab, Node, Release};

const SETTINGS: &str = "TTL=20\nLOOP_WAIT=2\nRETRY_TIMEOUT=5\nWATCHDOG=off\nDCS_HOSTS=10.88.0.11,10.88.0.12\n\
    MEMBERS=pg1=10.88.0.11,pg2=10.88.0.12\nPG_HBA_FILE=/etc/patroni/hba\n";

const MACHINES: [&str; 2] = ["pg1", "pg2"];

/// What is written down for the administrator.
const HABITS: &str = include_str!("../../../docs/habits.md");

/// A base backup of postgresql-common waits for a checkpoint that takes its time.
const BACKUP_LIMIT: Duration = Duration::from_secs(240);

/// A slot that Patroni does not know would be gone after this time, which is more than two of its loops.
const LOOPS: &str = "sleep 6";

/// As `perldoc` has it: needrestart evaluates each file of its directory, and looks for the first pattern that fits the unit.
const NEEDRESTART: &str = r#"perl -e 'our %nrconf; local $/; open F, "/etc/needrestart/conf.d/patroni-tools.conf" or die; eval <F>; die $@ if $@;
    for my $rc (@ARGV) { my ($re) = grep { $rc =~ /$_/ } keys %{$nrconf{override_rc}};
        print defined $re ? $nrconf{override_rc}->{$re} : "default", "\n" }' "#;

#[test]
fn debian_12() -> Result<()> {
    lab::test_with_stores(Release::Debian12, &MACHINES, story)
}

#[test]
fn debian_13() -> Result<()> {
    lab::test_with_stores(Release::Debian13, &MACHINES, story)
}

/// A service that has the library of Patroni's interpreter open.
const OTHER_SERVICE: &str = "[Service]\nExecStart=/usr/bin/python3 -c 'import time; time.sleep(86400)'\n";

type Event<'a> = (&'static str, &'a dyn Fn() -> Result<()>);

fn story(lab: &Lab) -> Result<()> {
    let main = Cluster::new(lab, "main");
    let page = page::of_cluster(HABITS, &main);
    let blocks = page::blocks(&page, &MACHINES, "etcd")?;
    let habits = Habits { lab, main: &main, words: main.slashed().replace('/', " "), blocks };
    let events: [Event; 11] = [
        ("two members", &|| habits.begin()),
        ("backups on each member", &|| habits.backups()),
        ("the WAL archive of postgresql-common", &|| habits.wal_archive()),
        ("logs for group adm, which are rotated", &|| habits.logs()),
        ("pg_hba.conf, and files that it includes", &|| habits.access()),
        ("what is refused, and by whose hint it works", &|| habits.refused()),
        ("postgresql@ is skipped, and shows why", &|| habits.postgresql_unit()),
        ("a server that outlives Patroni in maintenance mode", &|| habits.maintenance()),
        ("needrestart leaves the units alone", &|| habits.needrestart()),
        ("what is enabled starts at boot", &|| habits.boot()),
        ("a backup is restored", &|| habits.restore()),
    ];
    for (what, event) in events {
        let begin = Instant::now();
        event().with_context(|| format!("Debian {}: {what}", lab.release()))?;
        println!("Debian {}: {what}: ok, {:.1} s", lab.release(), begin.elapsed().as_secs_f32());
    }
    Ok(())
}

struct Habits<'a> {
    lab: &'a Lab,
    main: &'a Cluster<'a>,
    /// `17 main`.
    words: String,
    /// The commands of the page.
    blocks: Vec<Block<'a>>,
}

impl Habits<'_> {
    fn begin(&self) -> Result<()> {
        patroni::install(self.lab)?;
        self.lab.start_etcd()?;
        self.lab.each(|node| {
            node.run("useradd --create-home --groups adm reader && useradd --create-home guest")?;
            node.write("/etc/patroni/hba", "local all guest reject\n", 0o644)?;
            node.write("/etc/default/patroni", SETTINGS, 0o644)
        })?;
        self.main.generate()?;
        self.main.start()?;
        self.main.wait_streaming(1, Duration::from_secs(60))?;
        self.main.insert("begin")
    }

    /// The block of a section that has this in it.
    fn block(&self, section: &str, part: &str) -> Result<&Block<'_>> {
        let found = self.blocks.iter().find(|block| block.section == section && block.commands.contains(part));
        found.with_context(|| format!("docs/habits.md has no block with '{part}' under {section}"))
    }

    /// `/var/backups/postgresql/17-main`.
    fn backup_directory(&self) -> String {
        format!("/var/backups/postgresql/{}", self.main.dashed())
    }

    /// The complete backups of a member, the newest last.
    fn backups_of(&self, node: &Node, kind: &str) -> Result<Vec<String>> {
        let printed = node.run(&format!("ls -d {}/*.{kind}/status 2>/dev/null || :", self.backup_directory()))?;
        Ok(printed.lines().filter_map(|line| line.strip_suffix("/status")).map(str::to_owned).collect())
    }

    fn backups(&self) -> Result<()> {
        self.main.sql(self.main.primary()?, "checkpoint")?;
        self.block("Backups", "createdirectory")?.run(self.lab, &MACHINES)?;
        for node in self.main.nodes() {
            node.run_within(BACKUP_LIMIT, &format!("systemctl start pg_basebackup@{}.service", self.main.dashed()))?;
            let found = self.backups_of(node, "backup")?;
            ensure!(found.len() == 2, "{} has the base backups {found:?}", node.name());
            for backup in found {
                node.run(&format!("tar -tzf {backup}/base.tar.gz | grep -x '\\(./\\)\\?PG_VERSION' >/dev/null && test -s {backup}/config.tar.gz"))?;
            }
        }
        let primary = self.main.primary()?;
        primary.run(&format!("systemctl start pg_dump@{}.service", self.main.dashed()))?;
        ensure!(self.backups_of(primary, "dump")?.len() == 1, "there is no dump");
        // pg_basebackup as another tool calls it: over TCP, with a password.
        self.main.sql(primary, "create role backup replication login password 'of backups'")?;
        primary.run_within(
            BACKUP_LIMIT,
            "PGPASSWORD='of backups' pg_basebackup -h 127.0.0.1 -U backup --checkpoint=fast -D /var/tmp/tcp && rm -r /var/tmp/tcp",
        )?;
        self.main.sql(primary, "drop role backup").map(drop)
    }

    fn slot(&self, node: &Node) -> Result<String> {
        self.main.sql(node, "select active from pg_replication_slots where slot_name = 'pg_receivewal_service'")
    }

    /// The slot outlives a stop of the unit. Otherwise the archive would have a gap.
    fn wal_archive(&self) -> Result<()> {
        let unit = format!("pg_receivewal@{}.service", self.main.dashed());
        for node in self.main.nodes() {
            let used = || Ok(self.slot(node)? == "t");
            self.lab.wait_until(Duration::from_secs(20), "the WAL archive has its slot", used)?;
            node.run(&format!("systemctl stop {unit}; {LOOPS}"))?;
            ensure!(self.slot(node)? == "f", "Patroni has dropped the slot of pg_receivewal@ on {}", node.name());
            node.run(&format!("systemctl start {unit}"))?;
            self.lab.wait_until(Duration::from_secs(20), "the WAL archive goes on", used)?;
        }
        self.main.sql(self.main.primary()?, "select pg_switch_wal()")?;
        let begin = format!("ls {}/wal/*.gz*", self.backup_directory());
        self.lab.wait_until(Duration::from_secs(20), "WAL is archived", || {
            Ok(self.main.primary()?.try_run(&begin)?.status.success())
        })?;
        self.finds_nothing()
    }

    /// The doctor has nothing to say on any member.
    fn finds_nothing(&self) -> Result<()> {
        for node in self.main.nodes() {
            let said = node.try_run(&format!("patroni-gen-config check {}", self.main.slashed()))?;
            ensure!(said.status.success() && said.stderr.is_empty(), "the doctor on {}: {}", node.name(), said.stderr);
        }
        Ok(())
    }

    fn log(&self) -> String {
        format!("/var/log/postgresql/postgresql-{}.log", self.main.dashed())
    }

    fn logs(&self) -> Result<()> {
        let log = self.log();
        for node in self.main.nodes() {
            ensure!(node.run(&format!("stat -c '%U:%G %a' {log}"))?.trim() == "postgres:adm 640", "{}", node.name());
            node.run_as("reader", &format!("grep -q . {log}"))?;
            let refused = node.try_run_as("guest", &format!("cat {log}"))?;
            ensure!(!refused.status.success(), "every user can read the log");
            node.run("logrotate --force /etc/logrotate.d/postgresql-common")?;
            self.main.sql(node, "do $$ begin raise log 'after the rotation'; end $$")?;
            let line = "after the rotation";
            self.lab.wait_until(Duration::from_secs(20), "the server logs after the rotation", || {
                Ok(node.try_run_as("reader", &format!("grep -q '{line}' {log}"))?.status.success())
            })?;
            node.run_as("reader", &format!("test -s {log}.1 && ! grep -q '{line}' {log}.1"))?;
        }
        // What postgres has created without the unit, and a log that was removed.
        let replica = self.main.replica()?;
        replica.run(&format!("chown postgres:postgres {log} && systemctl restart {}", self.main.unit()))?;
        ensure!(replica.run(&format!("stat -c %G {log}"))?.trim() == "adm", "a start does not give the log to adm");
        replica
            .run(&format!("systemctl stop {unit} && rm {log} && systemctl start {unit}", unit = self.main.unit()))?;
        ensure!(replica.run(&format!("stat -c '%U:%G %a' {log}"))?.trim() == "postgres:adm 640", "a new log");
        self.main.wait_streaming(1, Duration::from_secs(60))
    }

    fn access(&self) -> Result<()> {
        let hba = format!("{}/pg_hba.conf", self.main.etc());
        for node in self.main.nodes() {
            ensure!(
                node.run(&format!("stat -c '%U %a' {hba}"))?.trim() == "postgres 640",
                "pg_hba.conf of {}",
                node.name()
            );
            ensure!(
                !node.try_run_as("guest", &format!("cat {hba}"))?.status.success(),
                "every user can read pg_hba.conf"
            );
        }
        let line = "include_if_exists more\n";
        self.lab.each(|node| node.write("/etc/patroni/hba", line, 0o644))?;
        let first = &self.main.nodes()[0];
        let written = first.try_run(&format!("patroni-gen-config {}", self.main.slashed()))?;
        if self.lab.release() == Release::Debian12 {
            ensure!(written.stderr.contains("PostgreSQL 15 cannot include files"), "{}", written.stderr);
            self.lab.each(|node| node.write("/etc/patroni/hba", "local all guest reject\n", 0o644))?;
            return self.finds_nothing();
        }
        written.ok()?;
        self.lab.each(|node| node.run(&format!("patroni-gen-config {}", self.main.slashed())).map(drop))?;
        let primary = self.main.primary()?;
        primary.run(&format!("patroni-gen-config apply --yes {}", self.main.slashed()))?;
        let rules = |node: &Node, what: &str| {
            self.main.sql(node, &format!("select count(*) from pg_hba_file_rules where {what}"))
        };
        for node in self.main.nodes() {
            ensure!(rules(node, "error is not null")? == "0", "PostgreSQL cannot read pg_hba.conf");
            node.write("/etc/patroni/more", "local all guest reject\n", 0o644)?;
            node.run("chgrp postgres /etc/patroni/more && chmod 640 /etc/patroni/more")?;
            // What is included is the administrator's own, and is read at a reload.
            node.run(&format!("pg_ctlcluster {} reload", self.words))?;
            self.lab.wait_until(Duration::from_secs(20), "the included line applies", || {
                Ok(rules(node, "file_name like '%/more' and 'guest' = any(user_name)")? == "1")
            })?;
        }
        self.finds_nothing()
    }

    fn started(&self, node: &Node) -> Result<String> {
        self.main.sql(node, "select pg_postmaster_start_time()")
    }

    fn refused(&self) -> Result<()> {
        let (slashed, words, unit) = (self.main.slashed(), &self.words, self.main.unit());
        let unit = unit.trim_end_matches(".service");
        let primary = self.main.primary()?;
        let restart = format!("pg_patronictl {slashed} restart {}", primary.name());
        let release = format!("pg_releasecluster_patroni {slashed}");
        for node in self.main.nodes() {
            let before = self.started(node)?;
            let timeline = "select timeline_id from pg_control_checkpoint()";
            let timeline_before = self.main.sql(node, timeline)?;
            for (command, hint) in [
                (format!("pg_ctlcluster {words} restart"), format!("pg_patronictl {slashed} restart {}", node.name())),
                (format!("pg_ctlcluster {} restart", self.main.dashed()), format!("restart {}", node.name())),
                (format!("pg_ctlcluster -m immediate {words} stop"), format!("systemctl stop {unit}")),
                (format!("pg_ctlcluster {words} start"), format!("patroni-gen-config check {slashed}")),
                (format!("pg_ctlcluster {words} promote"), format!("pg_patronictl {slashed} switchover")),
                (format!("pg_renamecluster {words} other"), release.clone()),
                (format!("pg_upgradecluster {words}"), release.clone()),
                (format!("pg_dropcluster --stop {words}"), format!("systemctl disable --now {unit}")),
                (format!("pg_restorecluster {words} /nonexistent.backup"), format!("systemctl stop {unit}")),
            ] {
                for user in ["root", "postgres"] {
                    let said = node.try_run_as(user, &command)?;
                    ensure!(
                        said.status.code() == Some(1)
                            && said.stderr.contains(&hint)
                            && said.stderr.contains("managed by Patroni"),
                        "{command} as {user} on {}: {} {}{}",
                        node.name(),
                        said.status,
                        said.stdout,
                        said.stderr
                    );
                }
            }
            for command in ["status", "reload"] {
                node.run(&format!("pg_ctlcluster {words} {command}"))?;
                node.run_as("postgres", &format!("pg_ctlcluster {words} {command}"))?;
            }
            ensure!(self.started(node)? == before, "the server of {} was restarted", node.name());
            ensure!(self.main.sql(node, timeline)? == timeline_before, "{} was promoted", node.name());
        }
        // The hint for a restart; patronictl would ask.
        let before = self.started(primary)?;
        primary.run(&format!("{restart} --force"))?;
        self.lab.wait_until(Duration::from_secs(30), "the primary has restarted", || {
            Ok(self.started(primary)? != before)
        })?;
        self.main.wait_streaming(1, Duration::from_secs(60))?;
        // Clusters that are not Patroni's are not concerned.
        let version = self.lab.release().postgresql();
        let own = "pg_createcluster V stock --port 5499 --start && pg_ctlcluster V stock restart && pg_renamecluster V stock own &&
            pg_ctlcluster V own stop && pg_dropcluster V own && ! test -e /etc/postgresql/V/own";
        primary.run(&own.replace('V', version))?;
        self.finds_nothing()
    }

    fn postgresql_unit(&self) -> Result<()> {
        let primary = self.main.primary()?;
        let before = self.started(primary)?;
        let name = format!("postgresql@{}", self.main.dashed());
        primary.run(&format!("systemctl restart {name}; systemctl restart postgresql; systemctl stop {name}"))?;
        ensure!(self.started(primary)? == before, "the server was restarted");
        primary.run(&format!("systemctl start {name}"))?;
        let shown = primary.try_run(&format!("systemctl status {name}"))?.stdout;
        ensure!(
            shown.contains(&format!("patroni@{}", self.main.dashed())),
            "systemctl status does not name Patroni: {shown}"
        );
        let listed = primary.run(&format!("pg_lsclusters --no-header {}", self.words))?;
        ensure!(listed.contains("online,patroni"), "pg_lsclusters has {listed}");
        Ok(())
    }

    fn maintenance(&self) -> Result<()> {
        let (replica, unit) = (self.main.replica()?, self.main.unit());
        self.main.patronictl(replica, "pause --wait")?;
        let before = self.started(replica)?;
        replica.run(&format!("systemctl stop {unit}"))?;
        ensure!(self.started(replica)? == before, "the server has not outlived Patroni");
        let said = replica.try_run(&format!("pg_ctlcluster {} restart", self.words))?;
        ensure!(
            said.stderr.contains(&format!("systemctl start {}", unit.trim_end_matches(".service"))),
            "{}",
            said.stderr
        );
        replica.run(&format!("pg_ctlcluster {} stop", self.words))?;
        let listed = replica.run(&format!("pg_lsclusters --no-header {} || :", self.words))?;
        ensure!(listed.contains("down"), "it runs: {listed}");
        self.main.patronictl(replica, "resume")?;
        replica.run(&format!("systemctl start {unit}"))?;
        self.main.wait_streaming(1, Duration::from_secs(60))
    }

    fn needrestart(&self) -> Result<()> {
        let id = self.main.dashed();
        let units = format!("patroni@{id}.service dnscp@{id}.service postgresql@{id}.service ssh.service");
        let printed = self.main.nodes()[0].run(&format!("{NEEDRESTART}{units}"))?;
        ensure!(printed == "0\n0\ndefault\ndefault\n", "needrestart: {printed}");

        // A library that Patroni, PostgreSQL and another service have open is replaced, as by an upgrade.
        let replica = self.main.replica()?;
        replica.run("apt-get install -y --no-install-recommends needrestart")?;
        replica.write("/etc/systemd/system/other.service", OTHER_SERVICE, 0o644)?;
        replica.run("systemctl daemon-reload && systemctl start other.service")?;
        let process = |unit: &str| replica.run(&format!("systemctl show --property=MainPID --value {unit}"));
        let (patroni, other) = (process(&self.main.unit())?, process("other.service")?);
        replica.run(
            "library=$(readlink -f /usr/lib/*/libz.so.1) && cp -a $library $library.new && mv $library.new $library",
        )?;
        let said = replica.run_within(Duration::from_secs(60), "needrestart -r a 2>&1")?;
        ensure!(process("other.service")? != other, "needrestart restarts nothing: {said}");
        ensure!(process(&self.main.unit())? == patroni, "needrestart has restarted Patroni: {said}");
        ensure!(
            said.contains(&format!("systemctl restart {}", self.main.unit())),
            "needrestart does not name it: {said}"
        );
        replica
            .run("systemctl stop other.service && rm /etc/systemd/system/other.service && systemctl daemon-reload")?;
        replica.run("apt-get purge -y needrestart").map(drop)
    }

    fn boot(&self) -> Result<()> {
        let (replica, id) = (self.main.replica()?, self.main.dashed());
        let units =
            [format!("pg_basebackup@{id}.timer"), format!("pg_dump@{id}.timer"), format!("pg_receivewal@{id}.service")];
        // As if it had been enabled before the package was there: the doctor names it, and its command cures it.
        replica.run(&format!(
            "systemctl enable --quiet {0} && rm /etc/systemd/system/patroni@{id}.service.wants/{0}",
            units[1]
        ))?;
        let said = replica.try_run(&format!("patroni-gen-config check {}", self.main.slashed()))?.stderr;
        let (_, cure) =
            said.split_once("Let it start with Patroni: ").with_context(|| format!("the doctor says: {said}"))?;
        replica.run(cure.lines().next().unwrap_or_default())?;
        self.finds_nothing()?;
        replica.reboot()?;
        self.main.wait_streaming(1, Duration::from_secs(90))?;
        for unit in &units {
            self.lab.wait_until(Duration::from_secs(90), &format!("{unit} runs after a boot"), || {
                Ok(replica.try_run(&format!("systemctl is-active --quiet {unit}"))?.status.success())
            })?;
        }
        Ok(())
    }

    /// Of docs/habits.md: all members are stopped, one is restored and started first.
    fn restore(&self) -> Result<()> {
        let (first, second) = (self.main.primary()?, self.main.replica()?);
        let words = &self.words;
        self.main.insert("in the backup")?;
        self.main.sql(first, "checkpoint")?;
        first.run_within(BACKUP_LIMIT, &format!("pg_backupcluster {words} basebackup"))?;
        let backups = self.backups_of(first, "backup")?;
        let backup = backups.last().context("there is no backup")?;
        self.main.insert("after the backup")?;
        // What an earlier bootstrap that failed has left there.
        first.run(&format!("install -d -o postgres -g postgres {}/replaced", self.main.etc()))?;
        self.block("Backups", "pg_drop_replication_slot")?.run(self.lab, &MACHINES)?;
        self.block("A restore", "disable")?.run(self.lab, &[second.name(), first.name()])?;
        // patronictl asks for the name of the cluster, and whether one is aware.
        let restore = &self.block("A restore", "pg_restorecluster")?.commands;
        let (file, typed) = (backup.rsplit('/').next().unwrap_or_default(), self.main.dashed());
        let commands = restore.replace("BACKUP.backup", file);
        first.run_within(
            BACKUP_LIMIT,
            &format!("set -e; exec < <(printf '%s\\nYes I am aware\\n' {typed})\n{commands}"),
        )?;
        self.lab.wait_until(Duration::from_secs(60), "the restored member is the primary", || {
            Ok(self.main.primary()?.name() == first.name())
        })?;
        let rows = self.main.sql(first, "select string_agg(what, ', ' order by what) from events")?;
        ensure!(rows == "begin, in the backup", "the restored rows are {rows}");
        second.run(&format!("systemctl enable --quiet --now {}", self.main.unit()))?;
        self.main.wait_streaming(1, Duration::from_secs(120))?;
        self.main.insert("after the restore")?;
        self.finds_nothing()
    }
}
