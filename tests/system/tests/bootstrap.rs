//! While Patroni bootstraps a cluster, no other user gets into PostgreSQL, by whatever way; and a Patroni that we do not know
//! bootstraps none. One machine with etcd, on each Debian release.
//!
//! `PATRONI_WHEEL=patroni-4.1.5-py3-none-any.whl` puts another Patroni into the machine's `/usr/local` before that.

use std::env;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::patroni::{self, Cluster};
use lab::{Lab, Node, Release};

const BOOTSTRAPS: usize = 10;
const SETTINGS: &str = "TTL=20\nLOOP_WAIT=2\nRETRY_TIMEOUT=5\n";
/// Refusals that only the `pg_hba.conf` of a bootstrap gives: it rejects where the later one asks for a password.
const MEANWHILE: &str = "pg_hba.conf rejects";
/// Long enough to be seen by mallory each time; and a script of the administrator's gets in by what Patroni gives it.
const POST_BOOTSTRAP: &str = "#!/bin/sh\nsleep 3; psql \"$1\" -Xqc 'create database made'\n";
const TEMPLATE: &str = "{% extends \"shipped/patroni.yml.j2\" %}\n{% block dcs %}\n{{ super() }}\n  \
                        post_bootstrap: /var/tmp/post_bootstrap\n{% endblock %}\n";
const CONFIG: &str = "$(python3 -c 'import patroni.postgresql.config as c; print(c.__file__)')";

#[test]
fn debian_12() -> Result<()> {
    lab::test(Release::Debian12, &["pg1"], story)
}

#[test]
fn debian_13() -> Result<()> {
    lab::test(Release::Debian13, &["pg1"], story)
}

fn story(lab: &Lab) -> Result<()> {
    let main = Cluster::new(lab, "main");
    patroni::install(lab)?;
    lab.start_etcd()?;
    let node = lab.node("pg1");
    if let Some(wheel) = env::var_os("PATRONI_WHEEL") {
        node.copy_in(&wheel, "/var/tmp/patroni.whl")?;
        node.run("python3 -m zipfile -e /var/tmp/patroni.whl $(ls -d /usr/local/lib/python3.*/dist-packages)")?;
    }
    node.write("/etc/default/patroni", SETTINGS, 0o644)?;
    node.write("/var/tmp/mallory.sh", include_str!("mallory.sh"), 0o755)?;
    node.write("/var/tmp/post_bootstrap", POST_BOOTSTRAP, 0o755)?;
    node.write("/etc/patroni/templates/patroni.yml.j2", TEMPLATE, 0o644)?;
    node.run("useradd --create-home mallory")?;
    main.generate()?;
    println!("Debian {}: Patroni {}", lab.release(), version(node)?);
    let steps: [(&str, &dyn Fn() -> Result<()>); 5] = [
        ("no query is answered during ten bootstraps", &|| attack(lab, &main)),
        ("a cluster of an unknown Patroni goes on", &|| unknown_goes_on(lab, &main)),
        ("an unknown Patroni bootstraps nothing, and leaves nothing", &|| unknown_refuses(lab, &main)),
        ("the administrator may trust it", &|| unknown_is_trusted(lab, &main)),
        ("a Patroni that the unit did not start bootstraps nothing", &|| by_hand(&main)),
    ];
    for (what, step) in steps {
        let begin = Instant::now();
        step().with_context(|| format!("Debian {}: {what}", lab.release()))?;
        println!("Debian {}: {what}: ok, {:.1} s", lab.release(), begin.elapsed().as_secs_f32());
    }
    Ok(())
}

fn version(node: &Node) -> Result<String> {
    let printed = node.run("python3 -c 'import patroni.version; print(patroni.version.__version__)'")?;
    Ok(printed.trim().to_owned())
}

fn attack(lab: &Lab, main: &Cluster) -> Result<()> {
    let node = lab.node("pg1");
    let bin = format!("/usr/lib/postgresql/{}/bin", lab.release().postgresql());
    let ways = [
        ("socket", "/var/run/postgresql".to_owned()),
        ("loopback", "127.0.0.1 ::1".to_owned()),
        ("address", format!("{} {}", node.ipv4(), node.ipv6())),
    ];
    let file = |way: &str, kind: &str| format!("/home/mallory/{way}.{kind}");
    let mut tasks = Vec::new();
    for (way, hosts) in &ways {
        let (answers, refusals) = (file(way, "answers"), file(way, "refusals"));
        node.run_as("mallory", &format!("touch {answers} {refusals}"))?;
        tasks.push(
            node.spawn_as("mallory", &format!("exec /var/tmp/mallory.sh {bin} 5432 {answers} {refusals} {hosts}"))?,
        );
    }
    let refused = |way: &str| -> Result<usize> {
        let count = node.run(&format!("grep -c '{MEANWHILE}' {}; test $? -le 1", file(way, "refusals")))?;
        count.trim().parse().with_context(|| format!("grep printed {count}"))
    };
    let mut seen = Vec::new();
    for number in 1..=BOOTSTRAPS {
        let before = [refused("socket")?, refused("loopback")?];
        bootstrap(lab, main)?;
        let after = [refused("socket")?, refused("loopback")?];
        println!("Debian {}: bootstrap {number} is done", lab.release());
        seen.push([after[0] - before[0], after[1] - before[1]]);
        let answered = node.run("cat /home/mallory/*.answers")?;
        ensure!(main.sql(node, "select count(*) from pg_database where datname = 'made'")? == "1", "no post_bootstrap");
        ensure!(answered.is_empty(), "in bootstrap {number} PostgreSQL answered mallory:\n{answered}");
        if number < BOOTSTRAPS {
            forget(node, main)?;
        }
    }
    for task in tasks {
        task.kill()?;
    }
    println!("Debian {}: refused in each bootstrap, over the socket and loopback: {seen:?}", lab.release());
    ensure!(
        seen.iter().all(|[socket, loopback]| *socket > 0 && *loopback > 0),
        "mallory was too slow to be refused in each bootstrap, so this shows nothing: {seen:?}"
    );
    Ok(())
}

/// A bootstrap to its end, as Patroni says it.
fn bootstrap(lab: &Lab, main: &Cluster) -> Result<()> {
    let node = lab.node("pg1");
    let mark = cursor(node)?;
    node.run(&format!("systemctl start {}", main.unit()))?;
    lab.wait_until(Duration::from_secs(60), "Patroni has initialized a new cluster", || {
        Ok(since(node, main, &mark)?.contains("initialized a new cluster"))
    })?;
    lab.wait_until(Duration::from_secs(30), "the cluster has a leader", || Ok(main.primary()?.name() == node.name()))
}

/// The cluster is gone, in the DCS too; the Patroni file stays.
fn forget(node: &Node, main: &Cluster) -> Result<()> {
    let words = main.slashed().replace('/', " ");
    node.run(&format!(
        "systemctl stop {unit}; systemctl reset-failed {unit} 2>/dev/null; pg_dropcluster {words} 2>/dev/null; \
         rm -rf {}; ETCDCTL_API=3 etcdctl del --prefix '' >/dev/null && ! test -e /var/lib/postgresql/{}",
        main.etc(),
        main.slashed(),
        unit = main.unit(),
    ))
    .map(drop)
}

/// Where the journal ends now.
fn cursor(node: &Node) -> Result<String> {
    let shown = node.run("journalctl --sync && journalctl -n 0 --show-cursor -q")?;
    let cursor = shown.lines().find_map(|line| line.strip_prefix("-- cursor: "));
    Ok(cursor.context("the journal has no cursor")?.to_owned())
}

fn since(node: &Node, main: &Cluster, cursor: &str) -> Result<String> {
    node.run(&format!("journalctl -q -o cat -u {} --after-cursor '{cursor}'", main.unit()))
}

/// The same function in other words, as a security update could bring it.
fn unknown_goes_on(lab: &Lab, main: &Cluster) -> Result<()> {
    let node = lab.node("pg1");
    node.run(&format!(
        "cp {CONFIG} /var/tmp/config.py && sed -i \
         's/if self._postgresql.bootstrap.running_custom_bootstrap:$/if bool(self._postgresql.bootstrap.running_custom_bootstrap):/' \
         {CONFIG} && ! cmp -s {CONFIG} /var/tmp/config.py"
    ))?;
    let mark = cursor(node)?;
    node.run(&format!("systemctl restart {}", main.unit()))?;
    lab.wait_until(Duration::from_secs(60), "the cluster has its leader again", || {
        Ok(main.primary()?.name() == node.name() && main.sql(node, "select not pg_is_in_recovery()")? == "t")
    })?;
    let said = since(node, main, &mark)?;
    ensure!(said.contains("ConfigHandler.replace_pg_hba that patroni-tools does not know"), "{said}");
    ensure!(said.contains("bootstraps no cluster by a custom method; upgrade patroni-tools"), "{said}");
    Ok(())
}

fn unknown_refuses(lab: &Lab, main: &Cluster) -> Result<()> {
    let node = lab.node("pg1");
    forget(node, main)?;
    let mark = cursor(node)?;
    node.run(&format!("systemctl start {}", main.unit()))?;
    lab.wait_until(Duration::from_secs(60), "the bootstrap is refused", || {
        Ok(node.try_run(&format!("systemctl is-failed {}", main.unit()))?.stdout.trim() == "failed")
    })?;
    let said = since(node, main, &mark)?;
    for part in ["refused to bootstrap a cluster by pg_createcluster", "Nothing was made. Upgrade patroni-tools"] {
        ensure!(said.contains(part), "no {part:?} in:\n{said}");
    }
    nothing_is_left(node, main)
}

fn nothing_is_left(node: &Node, main: &Cluster) -> Result<()> {
    let left = node.run(&format!(
        "ls -d /var/lib/postgresql/{0}* {1} 2>/dev/null; ETCDCTL_API=3 etcdctl get --prefix --keys-only '' | grep initialize; true",
        main.slashed(),
        main.etc()
    ))?;
    ensure!(left.trim().is_empty(), "something is left:\n{left}");
    Ok(())
}

fn unknown_is_trusted(lab: &Lab, main: &Cluster) -> Result<()> {
    let node = lab.node("pg1");
    forget(node, main)?;
    node.write("/etc/patroni/env.conf", "PATRONI_TOOLS_BOOTSTRAP=trust\n", 0o644)?;
    let mark = cursor(node)?;
    bootstrap(lab, main)?;
    let said = since(node, main, &mark)?;
    ensure!(said.contains("any user of this host can log in as PostgreSQL's superuser"), "{said}");
    node.run(&format!("rm /etc/patroni/env.conf && cp /var/tmp/config.py {CONFIG}"))?;
    forget(node, main)
}

fn by_hand(main: &Cluster) -> Result<()> {
    let node = &main.nodes()[0];
    let run = node.try_run_as("postgres", &format!("timeout 40 patroni {} 2>&1", main.file()))?;
    ensure!(run.stdout.contains("may let any user of this host log in as PostgreSQL's superuser"), "{}", run.stdout);
    ensure!(run.stdout.contains("Failed to bootstrap cluster"), "{}", run.stdout);
    nothing_is_left(node, main)
}
