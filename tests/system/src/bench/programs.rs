//! The generator and the hooks, beside Debian's and beside what they call, on booted machines.
//!
//! Both sides of a comparison run in turns, so that other work on the host falls on both.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Options, Row, Sample, load, shown};
use crate::patroni::Cluster;
use crate::{Lab, Node, Release};

/// How often a program runs that takes less than a second, some seconds, and minutes.
const OFTEN: usize = 31;
const SOME: usize = 11;
const FEW: usize = 5;

/// Debian's script waits for a checkpoint that is spread over 4.5 minutes.
const RUN_LIMIT: Duration = Duration::from_secs(900);
const PGBENCH_LIMIT: Duration = Duration::from_secs(300);

/// pgbench's scale for 1 GB.
const SCALE: u32 = 68;
const INSTANCES: u32 = 200;

const BENCH: &str = "--scope=17-bench --datadir=/var/lib/postgresql/17/bench";
const DATA: &str = "/var/lib/postgresql/17/main";
const PASSWORD_FILE: &str = "/var/lib/postgresql/bench.pgpass";

/// Measures, and gives the versions of what was compared.
pub(super) fn measure(options: &Options) -> Result<Vec<String>> {
    let lab = Lab::boot_named("bench", Release::Debian13, &["pg1", "pg2"])?;
    lab.offer(&options.deb)?;
    lab.each(|node| node.run_within(RUN_LIMIT, "apt-get install -y patroni-tools").map(drop))?;
    let (first, second) = (lab.find("pg1")?, lab.find("pg2")?);
    // Debian's own tool needs the store in this file, and ours takes it from there too.
    lab.each(|node| node.write("/etc/patroni/dcs.yml", "etcd3:\n  hosts: 127.0.0.1:2379\n", 0o644))?;

    gen_config(first)?;
    gen_config_of_many(first, second)?;
    create(first)?;
    let source = primary(&lab, first, second)?;
    clone_of_idle(first, second, &source)?;
    clone_of_busy(first, second, &source, options.quick)?;
    Ok(vec![super::versions(first, "patroni postgresql-17 postgresql-common")?])
}

fn gen_config(node: &Node) -> Result<()> {
    let fresh = || node.run("rm -f /etc/patroni/17-main.yml").map(drop);
    Comparison {
        job: "`patroni-gen-config` of one instance",
        ours: Side::new("", node, "root", "patroni-gen-config 17/main", &fresh),
        theirs: Side::new(
            "Debian's `pg_createconfig_patroni`",
            node,
            "root",
            "pg_createconfig_patroni 17 main",
            &fresh,
        ),
        runs: (OFTEN, OFTEN),
        reach: Reach::Faster(10.0),
    }
    .measure()?;
    fresh()
}

/// The one machine has one instance, the other one has many.
fn gen_config_of_many(one: &Node, many: &Node) -> Result<()> {
    // Data that no Patroni manages would be refused.
    let first = "pg_createcluster --start-conf=manual --port 5501 17 x001 \
        && touch /var/lib/postgresql/17/x001/patroni.dynamic.json && patroni-gen-config 17/x001";
    let others = format!(
        r#"cd /etc/postgresql/17 && data=/var/lib/postgresql/17
        for number in $(seq 2 {INSTANCES}); do
            name=$(printf x%03d "$number")
            cp -a x001 "$name"
            sed -i "s/x001/$name/g; s/^port = .*/port = $((5500 + number))/" "$name/postgresql.conf"
            install -d -m 0700 -o postgres -g postgres "$data/$name"
            cp -a $data/x001/PG_VERSION $data/x001/postgresql.auto.conf $data/x001/patroni.dynamic.json "$data/$name/"
            patroni-gen-config "17/$name"
        done"#
    );
    one.run(first)?;
    many.run_within(RUN_LIMIT, &format!("set -e; {first}; {others}"))?;
    let found = many.run("ls /etc/postgresql/17/*/postgresql.conf /etc/patroni/17-*.yml | wc -l")?;
    ensure!(found.trim() == (2 * INSTANCES).to_string(), "{found} files of instances");

    let (fresh_one, fresh_many) =
        (|| one.run("rm -f /etc/patroni/17-new.yml").map(drop), || many.run("rm -f /etc/patroni/17-new.yml").map(drop));
    Comparison {
        job: "the same with 200 instances on the host",
        ours: Side::new("", many, "root", "patroni-gen-config 17/new", &fresh_many),
        theirs: Side::new("itself with 1", one, "root", "patroni-gen-config 17/new", &fresh_one),
        runs: (OFTEN, OFTEN),
        reach: Reach::AtMost(5.0),
    }
    .measure()?;
    for node in [one, many] {
        node.run("rm -rf /etc/patroni/17-*.yml /etc/postgresql/17 /var/lib/postgresql/17 /var/log/postgresql/*")?;
    }
    Ok(())
}

fn create(node: &Node) -> Result<()> {
    let fresh = || node.run("[ ! -d /etc/postgresql/17/bench ] || pg_dropcluster 17 bench").map(drop);
    let ours = format!("/usr/share/patroni/pg_createcluster_patroni {BENCH}");
    let theirs = "pg_createcluster --start-conf=manual --datadir=/var/lib/postgresql/17/bench 17 bench";
    Comparison {
        job: "`pg_createcluster_patroni`",
        ours: Side::new("", node, "postgres", &ours, &fresh),
        theirs: Side::new("bare `pg_createcluster`", node, "postgres", theirs, &fresh),
        runs: (OFTEN, OFTEN),
        reach: Reach::AtMost(1.05),
    }
    .measure()?;
    fresh()
}

/// Starts a primary with 1 GB of data on the first machine, and returns how the second one reaches it.
fn primary(lab: &Lab, first: &Node, second: &Node) -> Result<String> {
    let main = Cluster::new(lab, "main");
    lab.start_etcd()?;
    main.generate()?;
    first.run(&format!("systemctl start {}", main.unit()))?;
    main.wait_streaming(0, Duration::from_secs(60))?;
    let init = format!("pgbench --cluster 17/main --initialize --quiet --scale={SCALE} postgres");
    first.spawn_as("postgres", &init)?.wait(PGBENCH_LIMIT)?.ok()?;
    let size = first.run_as("postgres", &format!("du -sh --exclude=pg_wal {DATA} | cut -f1"))?;
    eprintln!("bench: the primary has {}", size.trim());

    let file = first.read(&main.file())?;
    let mut lines = file.lines().map(str::trim).skip_while(|line| *line != "replication:");
    let password = lines.find_map(|line| line.strip_prefix("password: ")).context("no password of the replicator")?;
    second.write(PASSWORD_FILE, format!("*:*:*:*:{}\n", password.trim_matches('"')), 0o600)?;
    second.run(&format!("chown postgres:postgres {PASSWORD_FILE}"))?;
    Ok(format!("dbname=postgres user=replicator host={} port=5432", first.ipv4()))
}

fn clone_of_idle(primary: &Node, replica: &Node, source: &str) -> Result<()> {
    let idle = || {
        no_replica(replica)?;
        checkpoint(primary)
    };
    let bare = format!(
        "PGPASSFILE={PASSWORD_FILE} /usr/lib/postgresql/17/bin/pg_basebackup --pgdata={DATA} -X stream -c fast --dbname='{source}'"
    );
    Comparison {
        job: "`pg_clonecluster_patroni`, 1 GB, idle primary",
        ours: Side::new("", replica, "postgres", &clone(source, ""), &idle),
        theirs: Side::new("bare `pg_basebackup -c fast`", replica, "postgres", &bare, &idle),
        runs: (SOME, SOME),
        reach: Reach::AtMost(1.1),
    }
    .measure()
}

fn clone_of_busy(primary: &Node, replica: &Node, source: &str, quick: bool) -> Result<()> {
    let busy = || {
        no_replica(replica)?;
        // A checkpoint that begins by itself, because it is time or for the WAL that a fast machine makes in 25 s, would have
        // to end before the one that Debian's script waits for: twice the time (538 s seen).
        checkpoint(primary)?;
        let pgbench = "pgbench --cluster 17/main --no-vacuum --client=4 --time=25 --rate=800 postgres";
        primary.spawn_as("postgres", pgbench)?.wait(PGBENCH_LIMIT)?.ok().map(drop)
    };
    Comparison {
        job: "`pg_clonecluster_patroni`, 1 GB, after 25 s of pgbench",
        ours: Side::new("", replica, "postgres", &clone(source, ""), &busy),
        theirs: Side::new("Debian's script", replica, "postgres", &clone(source, ".debian"), &busy),
        runs: (FEW, if quick { 1 } else { FEW }),
        reach: Reach::Faster(30.0),
    }
    .measure()
}

/// The hook as Patroni calls it: ours, or Debian's where our package has diverted it to.
fn clone(source: &str, suffix: &str) -> String {
    format!(
        "PGPASSFILE={PASSWORD_FILE} /usr/share/patroni/pg_clonecluster_patroni{suffix} --scope=17-main --role=replica \
         --datadir={DATA} --connstring='{source}'"
    )
}

fn checkpoint(primary: &Node) -> Result<()> {
    let checkpoint = "psql --cluster 17/main -XAtqc checkpoint";
    primary.spawn_as("postgres", checkpoint)?.wait(PGBENCH_LIMIT)?.ok().map(drop)
}

fn no_replica(node: &Node) -> Result<()> {
    node.run(&format!("rm -rf {DATA} /etc/postgresql/17/main /var/log/postgresql/*")).map(drop)
}

/// One side of a comparison.
struct Side<'a> {
    name: &'static str,
    node: &'a Node,
    user: &'static str,
    command: String,
    /// Done before each run, and not timed.
    before: &'a dyn Fn() -> Result<()>,
}

impl<'a> Side<'a> {
    fn new(
        name: &'static str,
        node: &'a Node,
        user: &'static str,
        command: &str,
        before: &'a dyn Fn() -> Result<()>,
    ) -> Self {
        Self { name, node, user, command: command.to_owned(), before }
    }

    /// The time of one run, in seconds. The machine's own shell takes it, so that the way into the machine does not count.
    fn time(&self) -> Result<f64> {
        (self.before)()?;
        let script = format!("begin=$EPOCHREALTIME && {} >&2 && echo \"$begin $EPOCHREALTIME\"", self.command);
        let printed = self.node.spawn_as(self.user, &script)?.wait(RUN_LIMIT)?.ok()?;
        let times: Vec<f64> = printed.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [begin, end] = times[..] else { bail!("no times in {printed}") };
        Ok(end - begin)
    }
}

/// What is wanted of a comparison.
#[derive(Clone, Copy)]
enum Reach {
    /// Ours is at least so many times faster.
    Faster(f64),
    /// Ours takes at most so many times as long.
    AtMost(f64),
}

struct Comparison<'a> {
    job: &'static str,
    ours: Side<'a>,
    theirs: Side<'a>,
    runs: (usize, usize),
    reach: Reach,
}

impl Comparison<'_> {
    /// Runs both sides in turns, and prints a line of the table.
    fn measure(&self) -> Result<()> {
        let begin = Instant::now();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        // What the first run alone does (a site key, cold files) belongs to neither; a run of minutes does not show it.
        if self.runs.1 > FEW {
            self.ours.time()?;
            self.theirs.time()?;
        }
        for run in 0..self.runs.0.max(self.runs.1) {
            for (side, runs, times) in [(&self.ours, self.runs.0, &mut ours), (&self.theirs, self.runs.1, &mut theirs)]
            {
                if run < runs {
                    times.push(side.time()?);
                    eprintln!("bench: {}: {} {}", self.job, side.name, shown(times[run]));
                }
            }
        }
        let (ours, theirs) = (Sample::of(ours), Sample::of(theirs));
        let (wanted, result, met) = match self.reach {
            Reach::Faster(times) => {
                let ratio = theirs.median / ours.median;
                (format!("at least {times} times faster"), format!("{ratio:.1} times faster"), ratio >= times)
            }
            Reach::AtMost(times) => {
                let ratio = ours.median / theirs.median;
                (format!("at most {times} times as long"), format!("{ratio:.3} times as long"), ratio <= times)
            }
        };
        Row {
            job: self.job.to_owned(),
            ours: ours.to_string(),
            against: format!("{}: {theirs}", self.theirs.name),
            reach: wanted,
            result,
            met,
        }
        .print();
        eprintln!("bench: {}: {} s in all, load average {}", self.job, begin.elapsed().as_secs(), load()?);
        Ok(())
    }
}
