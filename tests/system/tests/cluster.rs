//! Three members on three machines, all through the installed package, on each Debian release: what a cluster goes
//! through in its life, one event after the other. A row inserted before each event is there after it on every member.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::patroni::{self, Cluster};
use lab::{Lab, Node, Release};

const MACHINES: [&str; 3] = ["pg1", "pg2", "pg3"];

/// Patroni's shortest times, so that the tests do not wait for its default ones.
const SETTINGS: &str =
    "TTL=20\nLOOP_WAIT=2\nRETRY_TIMEOUT=5\nDATA_CHECKSUMS=yes\nDCS_HOSTS=10.88.0.11,10.88.0.12,10.88.0.13\n";

#[test]
fn debian_12() -> Result<()> {
    lab::test(Release::Debian12, &MACHINES, life)
}

#[test]
fn debian_13() -> Result<()> {
    lab::test(Release::Debian13, &MACHINES, life)
}

fn life(lab: &Lab) -> Result<()> {
    let main = Cluster::new(lab, "main");
    let app = Cluster::new(lab, "my-app");
    let story: [(&str, &dyn Fn() -> Result<()>); 18] = [
        ("install", &|| patroni::install(lab)),
        ("three members stream within 30 s", &|| bootstrap(lab, &main)),
        ("Debian's tools know the members", &|| is_debian(lab, &main)),
        ("a second instance beside it, with its own data directory", &|| second_instance(lab, &main, &app)),
        ("switchover there and back", &|| switchover(&main)),
        ("power-off of the primary, and rejoin by pg_rewind", &|| power_off(lab, &main)),
        ("reinit keeps local configuration", &|| reinit(lab, &main)),
        ("lost configuration comes back", &|| lost_configuration(&main)),
        ("postgresql@ does not interfere", &|| postgresql_unit(&main)),
        ("a killed Patroni comes back to its server", &|| killed_patroni(&main)),
        ("a Patroni that stops in the middle of a clone takes it along", &|| stop_in_clone(lab, &app)),
        ("a killed clone is tried again", &|| killed_clone(lab, &app)),
        ("a power cut during a clone", &|| power_cut_clone(lab, &app)),
        ("disk full during a clone", &|| disk_full(lab, &app)),
        ("reboot of a replica and of the primary", &|| reboot(&[&main, &app])),
        ("a failed bootstrap is tried again", &|| failed_bootstrap(lab)),
        ("an interrupted bootstrap is explained, and the remedy works", &|| interrupted_bootstrap(lab)),
        ("no member was refused by another", &|| quiet(lab, &main)),
    ];
    for (what, event) in story {
        let begin = Instant::now();
        event().with_context(|| format!("Debian {}: {what}", lab.release()))?;
        println!("Debian {}: {what}: ok, {:.1} s", lab.release(), begin.elapsed().as_secs_f32());
    }
    Ok(())
}

/// Inserts a row, lets the event happen, waits until two replicas stream again, and looks for the row everywhere.
fn with_row(cluster: &Cluster, row: &str, event: impl FnOnce() -> Result<()>) -> Result<()> {
    cluster.insert(row)?;
    event()?;
    cluster.wait_streaming(2, Duration::from_secs(90))?;
    cluster.wait_for_row(row)
}

fn bootstrap(lab: &Lab, main: &Cluster) -> Result<()> {
    lab.start_etcd()?;
    lab.each(|node| node.write("/etc/default/patroni", SETTINGS, 0o644))?;
    main.generate()?;
    lab.each(|node| validate(node, main))?;
    main.start()?;
    main.wait_streaming(2, Duration::from_secs(30))?;
    main.insert("first")
}

/// Patroni's own validator accepts the file.
fn validate(node: &Node, cluster: &Cluster) -> Result<()> {
    let command = format!("env -i PATH=/usr/bin:/bin timeout 20 patroni --validate-config {} 2>&1", cluster.file());
    let said = node.run_as("postgres", &command)?;
    ensure!(said.trim().is_empty(), "patroni --validate-config said: {said}");
    Ok(())
}

fn is_debian(lab: &Lab, main: &Cluster) -> Result<()> {
    let primary = main.primary()?;
    for node in lab.nodes() {
        let line = node.run(&format!("pg_lsclusters --no-header {}", main.slashed().replace('/', " ")))?;
        let state = if node.name() == primary.name() { "online,patroni" } else { "online,recovery,patroni" };
        ensure!(line.split_whitespace().nth(3) == Some(state), "pg_lsclusters on {} says {line}", node.name());
        let modes = node.run(&format!(
            "cd {} && stat -c '%n %U:%G %a' /etc/patroni/{}.yml postgresql.base.conf pg_hba.conf conf.d .",
            main.etc(),
            main.dashed()
        ))?;
        ensure!(modes.contains("yml root:postgres 640"), "{modes}");
        ensure!(modes.contains("postgresql.base.conf postgres:postgres 644"), "{modes}");
        ensure!(modes.contains("conf.d postgres:postgres 755") && modes.contains(". postgres:postgres 755"), "{modes}");
        node.run(&format!("systemctl is-enabled --quiet {}", main.unit()))?;
        // A member of the group reads the file, and needs no options but -c.
        main.sql(node, "select 1")?;
    }
    ensure!(main.sql(primary, "show data_checksums")? == "on", "DATA_CHECKSUMS did not reach initdb");
    // Every member has the same settings, whether it was created or cloned.
    let settings = "select string_agg(name || '=' || setting, E'\\n' order by name) from pg_settings \
        where source = 'configuration file' and name !~ '^(primary|recovery)_'";
    let expected = main.sql(primary, settings)?;
    for node in lab.nodes() {
        let found = main.sql(node, settings)?;
        ensure!(found == expected, "{} has other settings than the primary:\n{found}\n---\n{expected}", node.name());
    }
    Ok(())
}

/// On a file system of its own, whose size the row about full disks changes. It is in memory: a member that boots again
/// has lost it, and clones.
fn second_instance(lab: &Lab, main: &Cluster, app: &Cluster) -> Result<()> {
    lab.each(|node| {
        node.write("/etc/postgresql-common/createcluster.d/place.conf", "data_directory = '/srv/pg/%c/%v'\n", 0o644)?;
        let mount = "mkdir -p /srv/pg && echo 'tmpfs /srv/pg tmpfs size=1500m,uid=postgres,gid=postgres' >> /etc/fstab";
        node.run(&format!("{mount} && systemctl daemon-reload && mount /srv/pg")).map(drop)
    })?;
    app.generate()?;
    lab.each(|node| validate(node, app))?;
    app.start()?;
    app.wait_streaming(2, Duration::from_secs(40))?;
    app.insert("first")?;
    for node in lab.nodes() {
        let listed = node.run("pg_lsclusters --no-header")?;
        ensure!(listed.lines().count() == 2, "pg_lsclusters says {listed}");
        let port = app.sql(node, "show port")?;
        ensure!(port == "5433", "my-app has port {port}");
        ensure!(app.data_directory(node)?.starts_with("/srv/pg/my-app/"), "createcluster.d was not read");
    }
    main.wait_for_row("first")
}

fn switchover(main: &Cluster) -> Result<()> {
    let (old, new) = (main.primary()?, main.replica()?);
    with_row(main, "switchover", || main.switch_over(new))?;
    with_row(main, "switchover back", || main.switch_over(old))
}

/// The old primary gets WAL that nobody else has, so that it cannot just follow the new one.
fn power_off(lab: &Lab, main: &Cluster) -> Result<()> {
    let old = main.primary()?;
    let birth = birth(old, &main.data_directory(old)?)?;
    main.insert("power-off")?;
    old.cut()?;
    main.sql(old, "create table lost as select generate_series(1, 1000); checkpoint")?;
    old.power_off()?;
    lab.wait_until(Duration::from_secs(60), "another member is primary", || Ok(main.primary()?.name() != old.name()))?;
    main.insert("while it was off")?;
    old.mend()?;
    old.start()?;
    main.wait_streaming(2, Duration::from_secs(90))?;
    main.wait_for_row("power-off")?;
    main.wait_for_row("while it was off")?;
    ensure!(self::birth(old, &main.data_directory(old)?)? == birth, "the old primary was cloned again");
    ensure!(old.journal()?.contains("pg_rewind"), "the journal of the old primary does not name pg_rewind");
    Ok(())
}

/// When and as which inode the data directory was made: a clone makes another one.
fn birth(node: &Node, directory: &str) -> Result<String> {
    node.run(&format!("stat -c '%i %W' {directory}"))
}

fn reinit(lab: &Lab, main: &Cluster) -> Result<()> {
    let replica = main.replica()?;
    let birth = birth(replica, &main.data_directory(replica)?)?;
    let line = "log_min_duration_statement = 4321 # by hand";
    replica.run(&format!("echo '{line}' >> {}/postgresql.base.conf", main.etc()))?;
    with_row(main, "reinit", || {
        main.patronictl(main.primary()?, &format!("reinit {} {} --force", main.dashed(), replica.name()))?;
        wait_for_clone(lab, main, replica, &birth)
    })?;
    ensure!(replica.read(&format!("{}/postgresql.base.conf", main.etc()))?.contains(line), "the local line is gone");
    ensure!(main.sql(replica, "show log_min_duration_statement")? == "4321ms", "the local line is not in force");
    Ok(())
}

/// Waits until the data directory is another one than before, and the server in it answers.
fn wait_for_clone(lab: &Lab, cluster: &Cluster, node: &Node, before: &str) -> Result<()> {
    lab.wait_until(Duration::from_secs(60), "the data directory is a new one", || {
        let directory = cluster.data_directory(node)?;
        Ok(birth(node, &directory)? != before)
    })
}

fn lost_configuration(main: &Cluster) -> Result<()> {
    let replica = main.replica()?;
    let birth = birth(replica, &main.data_directory(replica)?)?;
    with_row(main, "lost configuration", || {
        replica
            .run(&format!("systemctl stop {0} && rm -rf {1} && systemctl start {0}", main.unit(), main.etc()))
            .map(drop)
    })?;
    ensure!(self::birth(replica, &main.data_directory(replica)?)? == birth, "the replica was cloned again");
    replica.run(&format!("test -f {}/postgresql.base.conf", main.etc()))?;
    Ok(())
}

fn postgresql_unit(main: &Cluster) -> Result<()> {
    let primary = main.primary()?;
    let pid = || main.sql(primary, "select pg_postmaster_start_time()");
    let before = pid()?;
    with_row(main, "postgresql@", || {
        primary.try_run(&format!("systemctl start postgresql@{}", main.dashed()))?;
        primary.try_run("systemctl restart postgresql.service")?;
        Ok(())
    })?;
    ensure!(pid()? == before, "postgresql@ restarted the server");
    let line = primary.run(&format!("pg_lsclusters --no-header {}", main.slashed().replace('/', " ")))?;
    ensure!(line.contains("online,patroni"), "pg_lsclusters says {line}");
    Ok(())
}

fn killed_patroni(main: &Cluster) -> Result<()> {
    let primary = main.primary()?;
    let server = || main.sql(primary, "select pg_postmaster_start_time()");
    let patroni = || primary.run(&format!("systemctl show --property MainPID --value {}", main.unit()));
    let (server_before, patroni_before) = (server()?, patroni()?);
    with_row(main, "killed Patroni", || {
        primary.run(&format!("systemctl kill --kill-whom=main --signal=KILL {}", main.unit()))?;
        std::thread::sleep(Duration::from_secs(3));
        Ok(())
    })?;
    ensure!(patroni()? != patroni_before, "Patroni was not killed");
    ensure!(server()? == server_before, "the server was restarted");
    ensure!(main.primary()?.name() == primary.name(), "the primary has changed");
    Ok(())
}

/// Gives the cluster enough data, and the clones little enough speed, that a clone has a middle.
fn slow_clones(lab: &Lab, app: &Cluster) -> Result<()> {
    app.wait_streaming(2, Duration::from_secs(90))?;
    app.sql(app.primary()?, "create table filler as select generate_series(1, 1000000) n, repeat('x', 100) x")?;
    lab.each(|node| {
        let settings = format!("{SETTINGS}CLONE_MAX_RATE=20M\n");
        node.write(&format!("/etc/default/patroni@{}", app.dashed()), settings, 0o644)?;
        node.run(&format!("patroni-gen-config {} && systemctl reload {}", app.slashed(), app.unit())).map(drop)
    })?;
    // Patroni takes the new file in its next cycle.
    std::thread::sleep(Duration::from_secs(4));
    Ok(())
}

/// Begins a clone of a replica and returns when it is under way.
fn begin_clone(lab: &Lab, app: &Cluster, replica: &Node) -> Result<()> {
    app.patronictl(app.primary()?, &format!("reinit {} {} --force", app.dashed(), replica.name()))?;
    lab.wait_until(Duration::from_secs(40), "pg_basebackup runs", || {
        // One process for the data, one for the WAL.
        Ok(replica.run("pgrep -x pg_basebackup | wc -l")?.trim() == "2")
    })
}

fn no_clone_left(lab: &Lab, replica: &Node, hook: &str) -> Result<()> {
    lab.wait_until(Duration::from_secs(2), "nothing of the clone is left", || {
        Ok(replica.run(&format!("ps -o args= -p {hook} --ppid {hook} || echo gone"))?.trim() == "gone")
    })
}

fn stop_in_clone(lab: &Lab, app: &Cluster) -> Result<()> {
    slow_clones(lab, app)?;
    let replica = app.replica()?;
    with_row(app, "stop in a clone", || {
        begin_clone(lab, app, replica)?;
        let begin = Instant::now();
        replica.run(&format!("systemctl stop {}", app.unit()))?;
        ensure!(begin.elapsed() < Duration::from_secs(30), "to stop took {:?}", begin.elapsed());
        lab.wait_until(Duration::from_secs(2), "nothing of the clone is left", || {
            Ok(!replica.try_run("pgrep -x 'pg_basebackup|pg_clonecluster'")?.status.success())
        })?;
        replica.run(&format!("systemctl start {}", app.unit())).map(drop)
    })
}

fn killed_clone(lab: &Lab, app: &Cluster) -> Result<()> {
    let replica = app.replica()?;
    let birth = birth(replica, &app.data_directory(replica)?)?;
    with_row(app, "killed clone", || {
        begin_clone(lab, app, replica)?;
        let hook = replica.run("pgrep -o -x pg_clonecluster")?;
        let before = replica.run("pgrep -x pg_basebackup")?;
        replica.run(&format!("kill -KILL {}", hook.trim()))?;
        no_clone_left(lab, replica, &before.split_whitespace().collect::<Vec<_>>().join(","))?;
        wait_for_clone(lab, app, replica, &birth)
    })
}

/// What a power cut leaves of a clone is discarded at the next start, without anybody's help.
fn power_cut_clone(lab: &Lab, app: &Cluster) -> Result<()> {
    let replica = app.replica()?;
    // In memory nothing would outlive a power cut.
    lab.each(|node| node.run("echo '# no more' > /etc/postgresql-common/createcluster.d/place.conf").map(drop))?;
    app.insert("power cut")?;
    let (unit, slashed) = (app.unit(), app.slashed().replace('/', " "));
    replica.run(&format!(
        "systemctl stop {unit} && pg_dropcluster {slashed} && rm -f /etc/patroni/{}.yml",
        app.dashed()
    ))?;
    replica.run(&format!("patroni-gen-config {} --port 5433 && systemctl start {unit}", app.slashed()))?;
    lab.wait_until(Duration::from_secs(40), "pg_basebackup runs", || {
        Ok(replica.run("pgrep -x pg_basebackup | wc -l")?.trim() == "2")
    })?;
    std::thread::sleep(Duration::from_secs(1));
    replica.power_off()?;
    replica.start()?;
    app.wait_streaming(2, Duration::from_secs(90))?;
    app.wait_for_row("power cut")?;
    let journal = replica.journal()?;
    ensure!(journal.contains("pg_preparecluster_patroni"), "nothing was said about the unfinished clone");
    Ok(())
}

fn disk_full(lab: &Lab, app: &Cluster) -> Result<()> {
    let primary = app.primary()?;
    let on_tmpfs = |node: &&Node| {
        node.name() != primary.name() && app.data_directory(node).is_ok_and(|d| d.starts_with("/srv/pg/"))
    };
    let replica = lab.nodes().iter().find(on_tmpfs).context("no replica has its data on the small file system")?;
    let birth = birth(replica, &app.data_directory(replica)?)?;
    with_row(app, "disk full", || {
        replica.run(&format!(
            "systemctl stop {} && rm -rf /srv/pg/my-app/* && mount -o remount,size=60m /srv/pg",
            app.unit()
        ))?;
        replica.run(&format!("systemctl start {}", app.unit()))?;
        lab.wait_until(Duration::from_secs(60), "the journal says that the disk is full", || {
            Ok(replica.journal()?.to_lowercase().contains("disk full") || replica.journal()?.contains("is full"))
        })?;
        replica.run("mount -o remount,size=1500m /srv/pg")?;
        wait_for_clone(lab, app, replica, &birth)
    })
}

fn reboot(clusters: &[&Cluster]) -> Result<()> {
    for role in ["replica", "primary"] {
        for cluster in clusters {
            cluster.insert(&format!("reboot of the {role}"))?;
        }
        let main = clusters[0];
        let node = if role == "primary" { main.primary()? } else { main.replica()? };
        node.reboot()?;
        for cluster in clusters {
            cluster.wait_streaming(2, Duration::from_secs(90))?;
            cluster.wait_for_row(&format!("reboot of the {role}"))?;
        }
    }
    Ok(())
}

/// A script of the administrator fails after the bootstrap; when it is mended, the next start succeeds.
fn failed_bootstrap(lab: &Lab) -> Result<()> {
    let again = Cluster::new(lab, "again");
    let node = &lab.nodes()[0];
    let template = "{% extends \"shipped/patroni.yml.j2\" %}\n{% block dcs %}\n{{ super() }}\n  post_bootstrap: /bin/false\n{% endblock %}\n";
    node.write("/etc/patroni/templates/patroni.yml.j2", template, 0o644)?;
    node.run(&format!("patroni-gen-config {}", again.slashed()))?;
    node.run(&format!("systemctl start {}", again.unit()))?;
    lab.wait_until(Duration::from_secs(40), "the bootstrap has failed", || {
        let state = node.try_run(&format!("systemctl is-failed {}", again.unit()))?;
        Ok(state.stdout.trim() == "failed")
    })?;
    let access = node.read(&format!("{}/pg_hba.conf", again.etc()))?;
    ensure!(
        access.contains("While Patroni bootstraps") && !access.contains("trust"),
        "this is not the pg_hba.conf of a bootstrap, or it trusts:\n{access}"
    );
    node.run("rm /etc/patroni/templates/patroni.yml.j2")?;
    node.run(&format!("patroni-gen-config {0} && systemctl start {1}", again.slashed(), again.unit()))?;
    lab.wait_until(Duration::from_secs(40), "the second bootstrap has a primary", || {
        Ok(again.sql(node, "select not pg_is_in_recovery()")? == "t")
    })?;
    lab.wait_until(Duration::from_secs(20), "pg_hba.conf is that of the cluster", || {
        Ok(!node.read(&format!("{}/pg_hba.conf", again.etc()))?.contains("While Patroni bootstraps"))
    })?;
    node.run(&format!("systemctl stop {}", again.unit())).map(drop)
}

/// The power goes in the middle of a bootstrap: the store keeps a key that stops every member.
fn interrupted_bootstrap(lab: &Lab) -> Result<()> {
    let cut = Cluster::new(lab, "cut");
    let node = &lab.nodes()[1];
    node.run(&format!("patroni-gen-config {}", cut.slashed()))?;
    // initdb waits until the test goes on.
    let initdb = format!("/usr/lib/postgresql/{}/bin/initdb", lab.release().postgresql());
    node.run(&format!(
        "mv {initdb} {initdb}.real && printf '#!/bin/sh\\nsleep 600\\n' > {initdb} && chmod 755 {initdb}"
    ))?;
    node.run(&format!("systemctl start {}", cut.unit()))?;
    lab.wait_until(Duration::from_secs(40), "the bootstrap is under way", || {
        Ok(node.try_run("pgrep -f 'sleep 60[0]'")?.status.success())
    })?;
    node.power_off()?;
    node.start()?;
    node.run(&format!("mv {initdb}.real {initdb}"))?;
    node.run(&format!("systemctl start {}", cut.unit()))?;
    let remedy = format!("patronictl -c {} remove {}", cut.file(), cut.dashed());
    lab.wait_until(Duration::from_secs(20), "the journal explains the remedy", || {
        Ok(node.journal()?.contains(&remedy))
    })?;
    std::thread::sleep(Duration::from_secs(5));
    ensure!(
        !node.try_run("pg_lsclusters --no-header | grep -w cut | grep -w online")?.status.success(),
        "there was nothing to remedy"
    );
    node.run(&format!("systemctl stop {}", cut.unit()))?;
    node.run(&format!("printf '%s\\nYes I am aware\\n' {} | timeout 40 {remedy}", cut.dashed()))?;
    node.run(&format!("systemctl start {}", cut.unit()))?;
    lab.wait_until(Duration::from_secs(40), "there is a primary", || {
        Ok(cut.sql(node, "select not pg_is_in_recovery()")? == "t")
    })?;
    node.run(&format!("systemctl stop {}", cut.unit())).map(drop)
}

/// Nothing in the logs of what a wrong `pg_hba` or a wrong password would leave there; and the doctor finds nothing.
fn quiet(lab: &Lab, main: &Cluster) -> Result<()> {
    for node in lab.nodes() {
        let logs = node.run("cat /var/log/postgresql/*")? + &node.journal()?;
        for sign in ["no pg_hba.conf entry", "password authentication failed"] {
            let lines: Vec<&str> = logs.lines().filter(|line| line.contains(sign)).collect();
            ensure!(lines.is_empty(), "{}: {}", node.name(), lines.join("\n"));
        }
        let said = node.run(&format!("patroni-gen-config --check {} 2>&1", main.slashed()))?;
        let nothing = format!("{}: no errors found (files, host, running member and DCS)", main.slashed());
        ensure!(said.trim() == nothing, "--check on {} said {said}", node.name());
    }
    Ok(())
}
