//! A cluster is given back to postgresql-common while a client inserts over one connection that stays open; and what becomes of it if
//! the command is killed at any step, or the power is cut.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::patroni::{self, Cluster};
use lab::writer::Steady;
use lab::{Lab, Node, Release};
use serde_json::Value;

/// Patroni's shortest times, so that the test does not wait for its default ones.
const TIMES: &str = "TTL=20\nLOOP_WAIT=2\nRETRY_TIMEOUT=5\n";

/// The command takes some ten seconds.
const LIMIT: Duration = Duration::from_secs(150);

/// What giving back may add to the longest gap of the time before; other tests share this machine.
const PAUSE: f64 = 0.2;
const LOADED: f64 = 3.0;

#[test]
fn debian_12() -> Result<()> {
    lab::test(Release::Debian12, &["pg1"], |lab| story(lab, &["disable", "start"]))
}

#[test]
fn debian_13() -> Result<()> {
    lab::test(Release::Debian13, &["pg1"], |lab| {
        story(lab, &["disable", "stop-patroni", "move-out", "files", "start", "dcs"])
    })
}

fn timed<T>(lab: &Lab, what: &str, event: impl FnOnce() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    let done = event().with_context(|| format!("Debian {}: {what}", lab.release()))?;
    println!("Debian {}: {what}: ok, {:.1} s", lab.release(), begin.elapsed().as_secs_f32());
    Ok(done)
}

fn story(lab: &Lab, cuts: &[&str]) -> Result<()> {
    patroni::install(lab)?;
    lab.start_etcd()?;
    let main = Cluster::new(lab, "main");
    let machine = Machine { lab, node: lab.node("pg1"), main: &main };
    machine.node.write("/etc/default/patroni", TIMES, 0o644)?;
    machine.stock()?;
    timed(lab, "adopted and given back", || machine.given_back())?;
    timed(lab, "what was changed under Patroni stays", || machine.changed())?;
    let steps = machine.steps()?;
    timed(lab, "killed after each step", || machine.killed(&steps))?;
    for step in cuts {
        timed(lab, &format!("power cut after {step}"), || machine.cut(&steps, step))?;
    }
    Ok(())
}

struct Machine<'a> {
    lab: &'a Lab,
    node: &'a Node,
    main: &'a Cluster<'a>,
}

impl<'a> Machine<'a> {
    fn stock(&self) -> Result<()> {
        let (etc, words) = (self.main.etc(), self.main.slashed().replace('/', " "));
        self.node.run(&format!(
            "set -e
             pg_createcluster {words} --start-conf auto
             printf 'work_mem = 8MB\\nmax_connections = 150\\n' > {etc}/conf.d/site.conf
             echo 'host all app 127.0.0.1/32 scram-sha-256 # mine' >> {etc}/pg_hba.conf
             systemctl start postgresql@{}
             cp -a {etc} /root/before",
            self.main.dashed()
        ))?;
        self.main.sql(self.node, "create role app login password 'app'").map(drop)
    }

    fn adopt(&self) -> Result<()> {
        self.node.run_within(LIMIT, &format!("pg_adoptcluster_patroni --yes {}", self.main.slashed())).map(drop)
    }

    fn release(&self) -> Result<String> {
        self.node.run_within(LIMIT, &format!("pg_releasecluster_patroni --yes {} 2>&1", self.main.slashed()))
    }

    /// Its steps, by name.
    fn steps(&self) -> Result<Vec<String>> {
        self.adopt()?;
        let command = format!("pg_releasecluster_patroni --dry-run --json {}", self.main.slashed());
        let plan: Value = serde_json::from_str(&self.node.run_within(LIMIT, &command)?)?;
        let steps = plan["steps"].as_array().context("a plan has steps")?;
        let steps: Vec<String> = steps.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        ensure!(steps.len() > 5, "the steps are {steps:?}");
        Ok(steps)
    }

    fn client(&self, table: &str) -> Result<Steady<'a>> {
        Steady::start((self.main, self.node), self.node, table, "127.0.0.1", 5432)
    }

    /// The connection is the first one still, and rows are acknowledged.
    fn is_inserting(&self, client: &Steady) -> Result<()> {
        let before = client.seen()?;
        ensure!(before.broken.is_none(), "the connection broke: {:?}", before.broken);
        self.lab.wait_until(Duration::from_secs(10), "rows go on", || {
            Ok(client.seen()?.rows.len() > before.rows.len() + 10)
        })
    }

    fn given_back(&self) -> Result<()> {
        let client = self.client("given_back")?;
        let start = client.now()?;
        std::thread::sleep(Duration::from_secs(5));
        let control = client.seen()?.longest_gap(start, client.now()?);
        self.adopt()?;
        let begin = client.now()?;
        self.release()?;
        self.is_inserting(&client)?;
        let gap = client.seen()?.longest_gap(begin, client.now()?);
        client.stop()?;
        let rows = client.nothing_lost((self.main, self.node))?;
        println!(
            "Debian {}: {rows} rows, the longest gap was {control:.3} s before, {gap:.3} s meanwhile",
            self.lab.release()
        );
        ensure!(gap <= LOADED * (control + PAUSE), "{gap} s without an answer, {control} s before");
        ensure!(self.main.sql(self.node, "select timeline_id from pg_control_checkpoint()")? == "1", "a promotion");
        self.is_as_before()?;
        let words = self.main.slashed().replace('/', " ");
        self.node.run(&format!("pg_ctlcluster {words} restart"))?;
        self.is_debians()?;
        self.node.reboot()?;
        self.lab.wait_until(Duration::from_secs(60), "it is online after a boot", || self.is_debians().map(|()| true))
    }

    /// `/etc` is as it was, byte for byte.
    fn is_as_before(&self) -> Result<()> {
        let (etc, dashed) = (self.main.etc(), self.main.dashed());
        self.node.run(&format!(
            "set -e
             diff -r /root/before {etc}
             list() {{ (cd $1 && find . -printf '%P %m %u %g\\n' | sort); }}
             diff <(list /root/before) <(list {etc})
             test ! -e /etc/default/patroni@{dashed}
             test -z \"$(ls /etc/patroni | grep ^{dashed})\""
        ))?;
        let keys =
            self.node.run(&format!("ETCDCTL_API=3 etcdctl get --prefix --keys-only / | grep {dashed} || true"))?;
        ensure!(keys.trim().is_empty(), "in etcd: {keys}");
        self.is_debians()
    }

    /// systemd and `pg_lsclusters` have it as a cluster of postgresql-common.
    fn is_debians(&self) -> Result<()> {
        let dashed = self.main.dashed();
        let listed = self.node.run(&format!("pg_lsclusters -h {}", self.main.slashed().replace('/', " ")))?;
        ensure!(listed.contains(" online ") && !listed.contains("patroni"), "{listed}");
        self.node.run(&format!(
            "set -e
             test $(systemctl show -p MainPID --value postgresql@{dashed}) = $(head -n 1 {}/postmaster.pid)
             test $(systemctl is-active patroni@{dashed}) = inactive
             test $(systemctl is-enabled patroni@{dashed}) = disabled",
            self.main.data_directory(self.node)?
        ))?;
        ensure!(self.main.sql(self.node, "select pg_is_in_recovery()")? == "f", "it is read-only");
        Ok(())
    }

    fn changed(&self) -> Result<()> {
        self.adopt()?;
        let slashed = self.main.slashed();
        self.node.run_within(
            LIMIT,
            &format!(
                "sed -i 's/^PG_work_mem=.*/PG_work_mem=16MB/' /etc/default/patroni@{}
                 patroni-gen-config {slashed} && patroni-gen-config apply --yes {slashed}",
                self.main.dashed()
            ),
        )?;
        self.lab.wait_until(Duration::from_secs(20), "the new value applies", || {
            Ok(self.main.sql(self.node, "show work_mem")? == "16MB")
        })?;
        let said = self.release()?;
        ensure!(said.contains("work_mem"), "it does not say that work_mem stays: {said}");
        self.is_debians()?;
        ensure!(self.main.sql(self.node, "show work_mem")? == "16MB", "the change is lost");
        self.node.run(&format!(
            "rm {}/conf.d/zz-patroni.conf && pg_ctlcluster {} restart",
            self.main.etc(),
            slashed.replace('/', " ")
        ))?;
        ensure!(self.main.sql(self.node, "show work_mem")? == "8MB", "there was more than that file");
        Ok(())
    }

    /// The command with a signal in the fdatasync(2) by which it records that a step is done.
    fn traced(&self, steps: &[String], step: &str, signal: &str) -> Result<String> {
        let index = steps.iter().position(|name| name == step).with_context(|| format!("no step {step}"))?;
        Ok(format!(
            "exec strace -f -qq -o /dev/null -e trace=fdatasync -e inject=fdatasync:signal={signal}:when={} \
             pg_releasecluster_patroni --yes {}",
            2 * index + 2,
            self.main.slashed()
        ))
    }

    fn last_record(&self) -> Result<String> {
        let journal = format!("/var/lib/patroni-tools/release/{}/journal", self.main.dashed());
        let last = self.node.run(&format!("tail -n 1 {journal} 2>/dev/null || true"))?;
        Ok(last.trim().split_once(' ').unwrap_or_default().1.to_owned())
    }

    /// One after the other, and then the command completes it. The client notices nothing.
    fn killed(&self, steps: &[String]) -> Result<()> {
        let client = self.client("killed")?;
        let begin = client.now()?;
        // After the last step the record is closed.
        for step in &steps[..steps.len() - 1] {
            let said = self.node.spawn(&self.traced(steps, step, "KILL")?)?.wait(LIMIT)?;
            let last = self.last_record()?;
            ensure!(
                !said.status.success() && last == format!("done {step}"),
                "killed after {step}: the journal ends with {last:?}; {said}"
            );
            self.is_inserting(&client)?;
        }
        self.release()?;
        self.is_inserting(&client)?;
        let gap = client.seen()?.longest_gap(begin, client.now()?);
        client.stop()?;
        let rows = client.nothing_lost((self.main, self.node))?;
        println!("Debian {}: {rows} rows, the longest gap was {gap:.3} s", self.lab.release());
        self.is_as_before()
    }

    /// After the boot it accepts writes without anybody doing anything, and the same command completes it.
    fn cut(&self, steps: &[String], step: &str) -> Result<()> {
        // At the boot after an earlier cut it may have been started with Patroni's parameters.
        self.node.run(&format!("pg_ctlcluster {} restart", self.main.slashed().replace('/', " ")))?;
        self.adopt()?;
        let table = format!("cut_{}", step.replace('-', "_"));
        let client = self.client(&table)?;
        let mut task = self.node.spawn(&self.traced(steps, step, "STOP")?)?;
        self.lab.wait_until(LIMIT, "the command stands still", || {
            task.still_running()?;
            Ok(self.last_record()? == format!("done {step}"))
        })?;
        self.node.power_off()?;
        self.node.start()?;
        self.lab.wait_until(Duration::from_secs(60), "the cluster takes writes", || {
            self.main.sql(self.node, &format!("create table written_{table} (n int)")).map(|_| true)
        })?;
        client.nothing_lost((self.main, self.node))?;
        self.lab.wait_until(Duration::from_secs(60), "etcd responds", || {
            Ok(self.node.try_run("ETCDCTL_API=3 timeout 5 etcdctl endpoint health")?.status.success())
        })?;
        self.release()?;
        self.is_as_before()
    }
}
