//! A running cluster of postgresql-common, with its settings, access rules, roles and standby, becomes a Patroni cluster, while a client
//! inserts over one connection that stays open; and what becomes of it if the command is killed, or the power is cut, at any step.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::patroni::{self, Cluster};
use lab::writer::Steady;
use lab::{Lab, Node, Release, Task};
use serde_json::Value;

/// The primary, its standby, and a machine without a cluster, which is the client's.
const MACHINES: [&str; 3] = ["pg1", "pg2", "pg3"];

/// Patroni's shortest times, so that the test does not wait for its default ones.
const TIMES: &str = "TTL=20\nLOOP_WAIT=2\nRETRY_TIMEOUT=5\n";

/// The command takes a few seconds, and waits for Patroni a minute and a half at most.
const LIMIT: Duration = Duration::from_secs(150);

/// How long the client inserts before anything happens, to know what its gaps are without an adoption.
const CONTROL: Duration = Duration::from_secs(10);

/// What an adoption may add to the longest gap; other tests share this machine, so that it may be three times as long.
const PAUSE: f64 = 0.2;
const LOADED: f64 = 3.0;

/// A stock cluster and what an administrator has changed in it, in each of the ways that there are.
const STOCK: &str = r#"
pg_createcluster @V@ main --start-conf auto
cd /etc/postgresql/@V@/main
sed -i "s/^max_connections.*/max_connections = 150/; s/^#listen_addresses.*/listen_addresses = '*'/" postgresql.conf
cat > conf.d/site.conf <<END
shared_buffers = 64MB
max_locks_per_transaction = 128
wal_keep_size = 256MB
shared_preload_libraries = 'auto_explain'
auto_explain.log_min_duration = '5s'
log_line_prefix = '%m [%p] %q''%u''@%d \$(id) '
END
cat >> pg_hba.conf <<END
# Of the site.
host all app 10.88.0.0/24 scram-sha-256
host all app fd00::/8 scram-sha-256 # the client
host replication replicator 10.88.0.0/24 scram-sha-256
END
"#;

const PRIMARY: &str = "
alter system set random_page_cost = 1.1;
create role replicator replication login password 'theirs';
select pg_create_physical_replication_slot('old_standby'), pg_create_physical_replication_slot('spare');
create table filler as select n, repeat('x', 1000) as x from generate_series(1, 270000) as n;
select pg_reload_conf();
";

/// The roles that are made, and base backups of the superuser over the Unix socket, as `pg_hba_file_rules` has them.
const ROLES: [&str; 3] = ["{patroni_replicator}", "{rewind_user}", "{replication} {postgres}"];

/// By these a standby knows its primary, which Patroni tells it.
const OF_STANDBYS: [&str; 2] = ["primary_conninfo", "primary_slot_name"];

const STANDBY: &str = "
rm -r /var/lib/postgresql/@V@/main
PGPASSWORD=theirs setpriv --reuid=postgres --regid=postgres --init-groups pg_basebackup --host=pg1 --username=replicator \
    --slot=old_standby --wal-method=stream --checkpoint=fast --write-recovery-conf --pgdata=/var/lib/postgresql/@V@/main
systemctl start postgresql@@V@-main
";

#[test]
fn debian_12() -> Result<()> {
    lab::test(Release::Debian12, &MACHINES, adopted)
}

#[test]
fn debian_13() -> Result<()> {
    lab::test(Release::Debian13, &MACHINES, adopted)
}

#[test]
fn interrupted_on_debian_12() -> Result<()> {
    interrupted(Release::Debian12, MOVE, |machine| {
        let points = machine.after(&MATTER)?;
        machine.killed_each(&points)?;
        machine.cut(&points)
    })
}

#[test]
fn interrupted_on_debian_13() -> Result<()> {
    interrupted(Release::Debian13, MOVE, |machine| {
        let every: Vec<Point> = machine.points().into_iter().filter(|point| point.done).collect();
        let second: Vec<Point> = every.iter().copied().skip(1).step_by(2).collect();
        machine.killed(&every)?;
        machine.cut(&second)
    })
}

#[test]
#[ignore = "make check-all: a cluster of its own for each step, before and after"]
fn interrupted_anywhere_on_debian_12() -> Result<()> {
    interrupted(Release::Debian12, MOVE, anywhere)
}

#[test]
#[ignore = "make check-all: a cluster of its own for each step, before and after"]
fn interrupted_anywhere_on_debian_13() -> Result<()> {
    interrupted(Release::Debian13, MOVE, anywhere)
}

#[test]
#[ignore = "make check-all: the way that stops and starts the server"]
fn interrupted_restart_on_debian_12() -> Result<()> {
    interrupted(Release::Debian12, RESTART, chained)
}

#[test]
#[ignore = "make check-all: the way that stops and starts the server"]
fn interrupted_restart_on_debian_13() -> Result<()> {
    interrupted(Release::Debian13, RESTART, chained)
}

fn chained(machine: &Machine) -> Result<()> {
    machine.killed(&machine.points())?;
    machine.cut(&machine.points())
}

fn anywhere(machine: &Machine) -> Result<()> {
    machine.killed_each(&machine.points())?;
    machine.points().iter().try_for_each(|point| machine.cut(&[*point]))
}

/// Does something, and prints how long it took.
fn timed<T>(lab: &Lab, what: &str, event: impl FnOnce() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    let done = event().with_context(|| format!("Debian {}: {what}", lab.release()))?;
    println!("Debian {}: {what}: ok, {:.1} s", lab.release(), begin.elapsed().as_secs_f32());
    Ok(done)
}

// ---- one cluster, and everything that it has

fn adopted(lab: &Lab) -> Result<()> {
    let main = Cluster::new(lab, "main");
    let story = Story { lab, main: &main, primary: lab.node("pg1"), standby: lab.node("pg2"), third: lab.node("pg3") };
    timed(lab, "a stock cluster with 300 MB, own settings and a standby", || story.stock())?;
    timed(lab, "what cannot be adopted is refused", || story.refused())?;
    timed(lab, "an empty member that came first, and the remedy", || story.wrong_order())?;
    let said = timed(lab, "a dry run changes nothing", || story.dry_run(story.primary))?;
    let client = story.client()?;
    timed(lab, "the primary is adopted without a pause", || story.adopt_primary(&client, &said))?;
    timed(lab, "its standby is adopted in place", || story.adopt_standby(&client))?;
    timed(lab, "a third member joins", || story.join())?;
    let rows = timed(lab, "the client has lost nothing", || {
        client.stop()?;
        ensure!(client.seen()?.broken.is_none(), "the connection broke");
        client.nothing_lost((&main, story.primary))
    })?;
    println!("Debian {}: {rows} rows over one connection", lab.release());
    timed(lab, "the next restart changes what was announced", || story.restart(&said))?;
    timed(lab, "switchover", || main.switch_over(main.candidate()?))?;
    timed(lab, "power-off of the primary, and rejoin", || story.power_off())
}

struct Story<'a> {
    lab: &'a Lab,
    main: &'a Cluster<'a>,
    primary: &'a Node,
    standby: &'a Node,
    third: &'a Node,
}

/// What is in force, and what a dry run says of it.
struct Said {
    settings: BTreeMap<String, String>,
    rules: Vec<String>,
    plan: Value,
}

impl Story<'_> {
    fn command(&self) -> String {
        format!("pg_adoptcluster_patroni {}", self.main.slashed())
    }

    fn here(&self, script: &str) -> String {
        format!("set -e\n{}", script.replace("@V@", self.lab.release().postgresql()))
    }

    fn stock(&self) -> Result<()> {
        patroni::install(self.lab)?;
        self.lab.start_etcd()?;
        self.lab.each(|node| node.write("/etc/default/patroni", TIMES, 0o644))?;
        Lab::each_of(&self.lab.nodes()[..2], |node| node.run(&self.here(STOCK)).map(drop))?;
        self.primary.run(&format!("systemctl start postgresql@{}", self.main.dashed()))?;
        self.main.sql(self.primary, PRIMARY)?;
        self.standby.run(&self.here(STANDBY))?;
        self.lab.wait_until(Duration::from_secs(20), "the standby streams", || {
            Ok(self.walsender()?.ends_with("|old_standby"))
        })
    }

    /// The process of the primary that serves the standby, and the slot.
    fn walsender(&self) -> Result<String> {
        let sql = "select active_pid, slot_name from pg_replication_slots where active";
        self.main.sql(self.primary, sql)
    }

    fn refused(&self) -> Result<()> {
        let (command, version) = (self.command(), self.lab.release().postgresql());
        let as_postgres = format!("PATH=/usr/sbin:$PATH; {command} --yes 2>&1");
        let said = self.primary.try_run_as("postgres", &as_postgres)?;
        ensure!(!said.status.success(), "postgres has adopted a cluster: {said}");
        expect(&said.stdout, "only root can adopt a cluster", "Run this program as root.")?;
        refused(
            self.standby,
            &command,
            "is a standby, and its primary has not been adopted yet",
            &format!("First run on pg1: {command}"),
        )?;
        refused(self.third, &command, &format!("there is no cluster {}", self.main.slashed()), "pg_lsclusters")?;
        self.third.run(&format!("pg_createcluster {version} still"))?;
        refused(
            self.third,
            &format!("pg_adoptcluster_patroni {version}/still"),
            "is not running",
            &format!("Start it with: pg_ctlcluster {version} still start"),
        )?;
        self.third.run(&format!(
            "systemctl start postgresql@{version}-still && touch /var/lib/postgresql/{version}/still/recovery.signal"
        ))?;
        refused(
            self.third,
            &format!("pg_adoptcluster_patroni {version}/still"),
            "is recovering to a point in time",
            "Wait until the recovery has ended, and run this again.",
        )?;
        self.third.run(&format!("pg_dropcluster --stop {version} still")).map(drop)
    }

    /// The third machine initialises a cluster of the same scope, if it does not know the other members. That cluster is then in the way.
    /// What the message says helps.
    fn wrong_order(&self) -> Result<()> {
        let (command, unit) = (self.command(), self.main.unit());
        let members = format!("{TIMES}MEMBERS=pg1={},pg3={}\n", self.primary.ipv4(), self.third.ipv4());
        self.third.write("/etc/default/patroni", members, 0o644)?;
        self.third.run(&format!("patroni-gen-config {} && systemctl start {unit}", self.main.slashed()))?;
        let refusal = format!("adopt it there first, with: {command}");
        self.lab.wait_until(Duration::from_secs(30), "the third machine refuses to create a cluster", || {
            let state = self.third.try_run(&format!("systemctl is-active {unit}"))?;
            Ok(state.stdout.trim() == "failed" && self.third.journal()?.contains(&refusal))
        })?;
        self.third.write("/etc/default/patroni", TIMES, 0o644)?;
        self.third
            .run(&format!("patroni-gen-config {} && systemctl enable --quiet --now {unit}", self.main.slashed()))?;
        self.lab.wait_until(Duration::from_secs(60), "the third machine leads", || {
            let listed = self.main.members(self.third)?;
            Ok(listed.iter().any(|member| member.role == "Leader" && member.state == "running"))
        })?;
        refused(
            self.third,
            &command,
            "is already managed by Patroni",
            &format!("pg_patronictl {} list", self.main.slashed()),
        )?;
        let before = etc(self.primary)?;
        let said = refused(
            self.primary,
            &format!("{command} --yes"),
            &format!("the scope {} in the DCS belongs to another cluster", self.main.dashed()),
            "run this again",
        )?;
        ensure!(etc(self.primary)? == before, "a refused adoption has changed /etc");
        // The commands between quotes.
        let commands = ["systemctl ", "patronictl ", "pg_dropcluster "];
        let remedy: Vec<&str> =
            said.split('\'').filter(|part| commands.iter().any(|word| part.starts_with(word))).collect();
        ensure!(remedy.len() == 3, "the hint has other commands: {said}");
        for command in remedy {
            self.third
                .run(&format!("printf '%s\\nYes I am aware\\n' {} | timeout 60 {command}", self.main.dashed()))?;
        }
        self.third.run(&format!("rm -f {}", self.main.file())).map(drop)
    }

    /// What is in force on a machine, and what would be different.
    fn dry_run(&self, node: &Node) -> Result<Said> {
        let before = etc(node)?;
        let printed = node.run_within(LIMIT, &format!("{} --dry-run --json", self.command()))?;
        ensure!(etc(node)? == before, "a dry run has changed /etc");
        node.run(&format!("! test -e /var/lib/patroni-tools/adopt/{}", self.main.dashed()))?;
        let plan = serde_json::from_str(&printed).with_context(|| format!("a dry run printed {printed}"))?;
        Ok(Said { settings: self.settings(node)?, rules: self.rules(node)?, plan })
    }

    fn settings(&self, node: &Node) -> Result<BTreeMap<String, String>> {
        let printed = self.main.sql(node, "select json_object_agg(name, current_setting(name)) from pg_settings")?;
        Ok(serde_json::from_str(&printed)?)
    }

    fn rules(&self, node: &Node) -> Result<Vec<String>> {
        let rule = "concat_ws(' ', type, database, user_name, address, netmask, auth_method, options, error)";
        let printed = self.main.sql(node, &format!("select {rule} from pg_hba_file_rules order by line_number"))?;
        Ok(printed.lines().map(str::to_owned).collect())
    }

    /// Exactly those parameters are different that were announced, and the access rules are the former ones and those for Patroni's roles.
    fn as_announced(&self, node: &Node, said: &Said, restarted: bool) -> Result<()> {
        let now = self.settings(node)?;
        let differences = said.plan["differences"].as_array().context("a plan has differences")?;
        let announced: BTreeSet<&str> = differences
            .iter()
            .filter(|found| restarted || found["restart"] == false)
            .filter_map(|found| found["name"].as_str())
            .collect();
        let standby = said.plan["standby"] == true;
        let changed: BTreeSet<&str> = now
            .iter()
            .filter(|(name, value)| said.settings.get(*name) != Some(value))
            .map(|(name, _)| name.as_str())
            .filter(|name| !(standby && OF_STANDBYS.contains(name)))
            .collect();
        let show = |names: Vec<&&str>| -> String {
            let shown = names.iter().map(|name| {
                let values = [&said.settings, &now].map(|of| of.get(**name).cloned().unwrap_or_default());
                format!("{name}: {}", values.join(" -> "))
            });
            shown.collect::<Vec<_>>().join(", ")
        };
        ensure!(
            changed == announced,
            "{}: unannounced: {}; announced in vain: {}",
            node.name(),
            show(changed.difference(&announced).collect()),
            show(announced.difference(&changed).collect())
        );
        let rules = self.rules(node)?;
        let of_others: Vec<&String> =
            rules.iter().filter(|rule| !ROLES.iter().any(|role| rule.contains(role))).collect();
        let lines = said.plan["pg_hba"].as_array().context("a plan has lines of pg_hba.conf")?;
        ensure!(
            of_others == said.rules.iter().collect::<Vec<_>>() && rules.len() == lines.len(),
            "the access rules on {} were {:#?} and are {rules:#?}",
            node.name(),
            said.rules
        );
        Ok(())
    }

    fn client(&self) -> Result<Steady<'_>> {
        Steady::start((self.main, self.primary), self.third, "steady", &self.primary.ipv4(), 5432)
    }

    /// Lets something happen that the client must not notice.
    fn without_pause(&self, client: &Steady, event: impl FnOnce() -> Result<()>) -> Result<()> {
        let begin = client.now()?;
        std::thread::sleep(CONTROL);
        let control = client.now()?;
        event()?;
        let end = client.now()?;
        let seen = client.seen()?;
        let (usual, gap) = (seen.longest_gap(begin, control), seen.longest_gap(control, end));
        println!("Debian {}: the longest gap was {usual:.3} s before, {gap:.3} s meanwhile", self.lab.release());
        ensure!(seen.broken.is_none(), "the connection broke: {seen:?}");
        ensure!(gap <= LOADED * (usual + PAUSE), "the client waited for {gap:.3} s");
        Ok(())
    }

    fn adopt_primary(&self, client: &Steady, said: &Said) -> Result<()> {
        let (walsender, data) = (self.walsender()?, self.main.data_directory(self.primary)?);
        let born = birth(self.primary, &data)?;
        self.without_pause(client, || {
            println!("{}", self.primary.run_within(LIMIT, &format!("{} --yes 2>&1", self.command()))?);
            Ok(())
        })?;
        ensure!(self.main.primary()?.name() == "pg1", "pg1 is not the primary of Patroni");
        ensure!(
            self.main.sql(self.primary, "select timeline_id from pg_control_checkpoint()")? == "1",
            "another timeline"
        );
        ensure!(birth(self.primary, &data)? == born, "the data directory is another one");
        ensure!(
            self.walsender()? == walsender,
            "the standby has lost its connection, or its slot: {}",
            self.walsender()?
        );
        self.as_announced(self.primary, said, false)?;
        is_managed(self.main, self.primary)?;
        let modes =
            self.primary.run(&format!("cd {} && stat -c '%n %U:%G %a' pg_hba.conf pg_ident.conf", self.main.etc()))?;
        ensure!(
            modes == "pg_hba.conf postgres:postgres 640\npg_ident.conf postgres:postgres 640\n",
            "access files are {modes}"
        );
        // The role was left as it was.
        let login = "PGPASSWORD=theirs psql -XAt 'host=pg1 user=replicator replication=true dbname=postgres' -c 'IDENTIFY_SYSTEM'";
        self.standby.run(login).map(drop)
    }

    /// The settings and the key of the first member, on another one.
    fn same_settings(&self, node: &Node) -> Result<()> {
        let files = self.primary.run(&format!(
            "ls /etc/patroni/site.key /etc/patroni/{0}.p* /etc/default/patroni@{0}",
            self.main.dashed()
        ))?;
        for file in files.lines() {
            let mode = if file.ends_with("site.key") { 0o600 } else { 0o644 };
            node.write(file, self.primary.read(file)?, mode)?;
        }
        Ok(())
    }

    fn adopt_standby(&self, client: &Steady) -> Result<()> {
        self.same_settings(self.standby)?;
        let data = self.main.data_directory(self.standby)?;
        let born = birth(self.standby, &data)?;
        let said = self.dry_run(self.standby)?;
        let walsender = self.walsender()?;
        self.without_pause(client, || {
            ensure!(
                self.walsender()? == walsender,
                "the standby has lost its connection, or its slot: {}",
                self.walsender()?
            );
            println!("{}", self.standby.run_within(LIMIT, &format!("{} --yes 2>&1", self.command()))?);
            Ok(())
        })?;
        is_managed(self.main, self.standby)?;
        ensure!(birth(self.standby, &data)? == born, "the data directory is another one");
        self.main.wait_streaming(1, Duration::from_secs(30))?;
        self.has_slots(&["pg2", "spare"])?;
        self.as_announced(self.standby, &said, false)
    }

    fn has_slots(&self, expected: &[&str]) -> Result<()> {
        let slots = self.main.sql(self.main.primary()?, "select slot_name from pg_replication_slots order by 1")?;
        ensure!(slots.lines().eq(expected.iter().copied()), "the slots are {slots}");
        Ok(())
    }

    fn join(&self) -> Result<()> {
        self.same_settings(self.third)?;
        self.third.run(&format!(
            "patroni-gen-config {} && systemctl enable --quiet --now {}",
            self.main.slashed(),
            self.main.unit()
        ))?;
        self.main.wait_streaming(2, Duration::from_secs(90))
    }

    fn restart(&self, said: &Said) -> Result<()> {
        for node in [self.standby, self.primary] {
            let command = format!("timeout 60 pg_patronictl {} restart {} --force", self.main.slashed(), node.name());
            node.run_within(LIMIT, &command)?;
        }
        self.main.wait_streaming(2, Duration::from_secs(60))?;
        self.has_slots(&["pg2", "pg3", "spare"])?;
        self.as_announced(self.primary, said, true)
    }

    fn power_off(&self) -> Result<()> {
        let old = self.main.primary()?;
        self.main.insert("before the power cut")?;
        old.power_off()?;
        self.lab.wait_until(Duration::from_secs(60), "another member is primary", || {
            Ok(self.main.primary()?.name() != old.name())
        })?;
        self.main.insert("while it was off")?;
        old.start()?;
        self.main.wait_streaming(2, Duration::from_secs(90))?;
        self.main.wait_for_row("before the power cut")?;
        self.main.wait_for_row("while it was off")
    }
}

/// The server is in the control group of Patroni, which starts it at the next boot, and nothing is left of the move.
fn is_managed(cluster: &Cluster, node: &Node) -> Result<()> {
    let id = cluster.dashed();
    // While Patroni writes postgresql.conf, which it does in place, pg-common's programs can find it empty.
    let data = eventually(|| cluster.data_directory(node))?;
    let state = node.run(&format!(
        "set -e; systemctl is-enabled --quiet {}; systemctl is-active {0} postgresql@{id} || true
         grep -o '[^/]*$' /proc/$(head -n 1 {data}/postmaster.pid)/cgroup
         grep -v '^#' {}/start.conf | grep . ; ls -d /run/systemd/system/postgresql@{id}* 2>/dev/null || true",
        cluster.unit(),
        cluster.etc()
    ))?;
    let expected = format!("active\ninactive\n{}\nmanual\n", cluster.unit());
    ensure!(state == expected, "{} is not as Patroni's should be: {state}", cluster.slashed());
    eventually(|| {
        let listed = node.run(&format!("pg_lsclusters --no-header {}", cluster.slashed().replace('/', " ")))?;
        ensure!(listed.contains("online") && listed.contains(",patroni"), "pg_lsclusters says {listed}");
        Ok(())
    })
}

/// Tries for 5 s.
fn eventually<T>(mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    loop {
        match look() {
            Err(_) if begin.elapsed() < Duration::from_secs(5) => std::thread::sleep(Duration::from_millis(100)),
            found => return found,
        }
    }
}

/// What a base backup would change.
fn birth(node: &Node, data: &str) -> Result<String> {
    node.run(&format!("stat -c '%i %W' {data}; stat -c '%i %Z' {data}/PG_VERSION"))
}

fn etc(node: &Node) -> Result<String> {
    node.run("cd /etc && find . -printf '%p %m %u:%g %l\\n' | sort; find . -type f -exec md5sum {} + | sort")
}

/// A command that must fail, with this message and this hint; returns both.
fn refused(node: &Node, command: &str, what: &str, hint: &str) -> Result<String> {
    let said = node.try_run_within(LIMIT, command)?;
    ensure!(!said.status.success(), "this was not refused: {said}");
    expect(&said.stderr, what, hint)?;
    Ok(said.stderr)
}

fn expect(said: &str, what: &str, hint: &str) -> Result<()> {
    let has = |begin: &str, phrase: &str| said.lines().any(|line| line.contains(begin) && line.contains(phrase));
    ensure!(has("error: ", what) && has("hint: ", hint), "{what:?} and {hint:?} are not in: {said}");
    Ok(())
}

// ---- many small ones, interrupted at one step after the other

/// The steps that matter: what is decided is on disk; the server is in the scope; postgresql@ does not know it; the next boot gives it
/// to Patroni; it is Patroni's.
const MATTER: [&str; 5] = ["settings", "move-out", "forget-server", "enable", "move-in"];

/// How the command is asked to do it.
const MOVE: &str = "";
const RESTART: &str = "--restart";

/// A record of the command's journal, at which it is stopped: that a step begins, or that it is done.
#[derive(Debug, Clone, Copy)]
struct Point {
    step: usize,
    done: bool,
}

/// A machine, and the names of the steps.
struct Machine<'a> {
    lab: &'a Lab,
    node: &'a Node,
    way: &'static str,
    steps: Vec<String>,
    made: Cell<u16>,
}

/// A running cluster of postgresql-common.
struct Small<'a> {
    cluster: Cluster<'a>,
    name: String,
    port: u16,
}

fn interrupted(release: Release, way: &'static str, body: impl FnOnce(&Machine) -> Result<()>) -> Result<()> {
    lab::test(release, &["pg1"], |lab| body(&timed(lab, "a machine for small clusters", || Machine::set_up(lab, way))?))
}

impl<'a> Machine<'a> {
    fn set_up(lab: &'a Lab, way: &'static str) -> Result<Self> {
        patroni::install(lab)?;
        lab.start_etcd()?;
        let node = lab.node("pg1");
        node.write("/etc/default/patroni", TIMES, 0o644)?;
        let mut machine = Self { lab, node, way, steps: Vec::new(), made: Cell::new(0) };
        let small = machine.small()?;
        let plan = node.run_within(LIMIT, &format!("{} --dry-run --json", machine.command(&small)))?;
        let plan: Value = serde_json::from_str(&plan)?;
        let steps = plan["steps"].as_array().context("a plan has steps")?;
        machine.steps = steps.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        ensure!(machine.steps.len() > 5, "the steps are {:?}", machine.steps);
        machine.remove(&small)?;
        Ok(machine)
    }

    fn points(&self) -> Vec<Point> {
        (0..self.steps.len()).flat_map(|step| [false, true].map(|done| Point { step, done })).collect()
    }

    /// After these steps.
    fn after(&self, names: &[&str]) -> Result<Vec<Point>> {
        let step = |name| self.steps.iter().position(|step| step == name).with_context(|| format!("no step {name}"));
        names.iter().map(|name| Ok(Point { step: step(name)?, done: true })).collect()
    }

    /// As the journal has it.
    fn record(&self, point: Point) -> String {
        format!("{} {}", if point.done { "done" } else { "begin" }, self.steps[point.step])
    }

    fn small(&self) -> Result<Small<'a>> {
        self.made.set(self.made.get() + 1);
        let (name, port) = (format!("k{}", self.made.get()), 5440 + self.made.get());
        let cluster = Cluster::new(self.lab, &name);
        self.node.run(&format!(
            "pg_createcluster {} --port {port} --start -o shared_buffers=16MB -- --no-sync",
            cluster.slashed().replace('/', " ")
        ))?;
        Ok(Small { cluster, name, port })
    }

    fn client(&self, small: &Small, table: &str) -> Result<Steady<'a>> {
        Steady::start((&small.cluster, self.node), self.node, table, "127.0.0.1", small.port)
    }

    /// So that the machine is free for the next one.
    fn remove(&self, small: &Small) -> Result<()> {
        self.node.run(&format!(
            "systemctl disable --quiet --now {} 2>/dev/null; pg_dropcluster --stop {}",
            small.cluster.unit(),
            small.cluster.slashed().replace('/', " ")
        ))?;
        Ok(())
    }

    fn command(&self, small: &Small) -> String {
        format!("pg_adoptcluster_patroni {} {}", self.way, small.cluster.slashed())
    }

    /// Starts the command, which gets a signal in the fdatasync(2) of this record.
    fn start(&self, small: &Small, point: Point, signal: &str) -> Result<Task> {
        let call = 2 * point.step + 1 + usize::from(point.done);
        self.node.spawn(&format!(
            "exec strace -f -qq -o /dev/null -e trace=fdatasync -e inject=fdatasync:signal={signal}:when={call} \
             {} --yes",
            self.command(small)
        ))
    }

    fn last_record(&self, small: &Small) -> Result<String> {
        let journal = format!("/var/lib/patroni-tools/adopt/{}/journal", small.cluster.dashed());
        let last = self.node.run(&format!("tail -n 1 {journal} 2>/dev/null || true"))?;
        Ok(last.trim().split_once(' ').unwrap_or_default().1.to_owned())
    }

    /// A cluster of its own for each point.
    fn killed_each(&self, points: &[Point]) -> Result<()> {
        points.iter().try_for_each(|point| self.killed(&[*point]))
    }

    /// The command is killed at these points, one after the other, and then completes the adoption. The client notices none of it, unless
    /// the server is restarted.
    fn killed(&self, points: &[Point]) -> Result<()> {
        let small = self.small()?;
        let client = self.client(&small, &small.name)?;
        let begin = client.now()?;
        for point in points {
            timed(self.lab, &format!("killed at \"{}\"", self.record(*point)), || {
                let said = self.start(&small, *point, "KILL")?.wait(LIMIT)?;
                let last = self.last_record(&small)?;
                ensure!(
                    !said.status.success() && last == self.record(*point),
                    "the journal ends with {last:?}; {said}"
                );
                self.is_inserting(&client)
            })?;
        }
        timed(self.lab, "completed", || {
            self.complete(&small)?;
            self.is_inserting(&client)?;
            if self.way == MOVE {
                let timeline = small.cluster.sql(self.node, "select timeline_id from pg_control_checkpoint()")?;
                ensure!(timeline == "1", "timeline {timeline}");
            }
            let gap = client.seen()?.longest_gap(begin, client.now()?);
            client.stop()?;
            let rows = client.nothing_lost((&small.cluster, self.node))?;
            println!("Debian {}: {rows} rows, the longest gap was {gap:.3} s", self.lab.release());
            self.remove(&small)
        })
    }

    /// The connection is the first one still, and rows are acknowledged.
    fn is_inserting(&self, client: &Steady) -> Result<()> {
        if self.way == RESTART {
            return Ok(());
        }
        let before = client.seen()?.rows.len();
        self.lab.wait_until(Duration::from_secs(5), "the client inserts", || {
            let seen = client.seen()?;
            ensure!(seen.broken.is_none(), "the connection broke: {:?}", seen.broken);
            Ok(seen.rows.len() > before)
        })
    }

    /// The power is cut at these points, one after the other. After each boot the cluster takes writes, without anybody doing anything,
    /// and has every row. Then the adoption is completed.
    fn cut(&self, points: &[Point]) -> Result<()> {
        let small = self.small()?;
        for (number, point) in points.iter().enumerate() {
            timed(self.lab, &format!("power cut at \"{}\"", self.record(*point)), || {
                let client = self.client(&small, &format!("{}_{number}", small.name))?;
                let mut task = self.start(&small, *point, "STOP")?;
                self.lab.wait_until(LIMIT, "the command stands still", || {
                    task.still_running()?;
                    let states = self.node.run("ps -o state= -C pg_adoptcluster || true")?;
                    Ok(self.last_record(&small)? == self.record(*point) && states.trim().starts_with(['T', 't']))
                })?;
                if number == 0 {
                    self.refuses_a_second(&small)?;
                }
                self.node.power_off()?;
                self.node.start()?;
                self.lab.wait_until(Duration::from_secs(60), "the cluster takes writes", || {
                    small.cluster.sql(self.node, &format!("create table written_{number} (n int)")).map(|_| true)
                })?;
                client.nothing_lost((&small.cluster, self.node)).map(drop)
            })?;
        }
        timed(self.lab, "completed", || {
            self.complete(&small)?;
            self.remove(&small)
        })
    }

    /// While one command is at work, another one does nothing.
    fn refuses_a_second(&self, small: &Small) -> Result<()> {
        let last = self.last_record(small)?;
        refused(
            self.node,
            &format!("{} --yes", self.command(small)),
            "another",
            "Run this program again when it has finished.",
        )?;
        ensure!(self.last_record(small)? == last, "a second command has gone on with the journal of the first");
        Ok(())
    }

    /// The same command completes what was begun.
    fn complete(&self, small: &Small) -> Result<()> {
        self.node.run_within(LIMIT, &format!("{} --yes", self.command(small)))?;
        let last = self.last_record(small)?;
        ensure!(last == format!("done {}", self.steps[self.steps.len() - 1]), "the journal ends with {last:?}");
        is_managed(&small.cluster, self.node)?;
        small.cluster.primary()?;
        small.cluster.sql(self.node, "create table adopted (n int)").map(drop)
    }
}
