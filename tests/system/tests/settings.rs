//! A running cluster takes new settings, new passwords, and a standby cluster beside it, on three machines of each release.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::page::{self, Role};
use lab::patroni::{self, Cluster};
use lab::writer::Writer;
use lab::{Lab, Node, Release};

const MACHINES: [&str; 3] = ["pg1", "pg2", "pg3"];

/// Patroni's shortest times, so that the test does not wait for its default ones.
const TIMES: &str = "TTL=20\nLOOP_WAIT=2\nRETRY_TIMEOUT=5\n";

/// The same and what is changed while the cluster runs.
const CHANGED: &str = "TTL=24\nLOOP_WAIT=2\nRETRY_TIMEOUT=5\nSYNCHRONOUS_MODE=yes\nSLOTS=standby:physical\n\
    PG_work_mem=7MB\nPG_max_connections=130\nPG_HBA_FILE=/etc/patroni/hba\n";

/// What is written down for the administrator.
const PASSWORDS: &str = include_str!("../../../docs/passwords.md");

#[test]
fn debian_12() -> Result<()> {
    lab::test_with_stores(Release::Debian12, &MACHINES, story)
}

#[test]
fn debian_13() -> Result<()> {
    lab::test_with_stores(Release::Debian13, &MACHINES, story)
}

fn story(lab: &Lab) -> Result<()> {
    let main = Cluster::new(lab, "main");
    let standby = Cluster::new(lab, "standby");
    let secure = Cluster::new(lab, "secure");
    let story: [(&str, &dyn Fn() -> Result<()>); 11] = [
        ("three members stream, with TLS", &|| bootstrap(lab, &main)),
        ("nothing is changed without somebody who agrees", &|| not_asked(&main)),
        ("--apply changes what runs", &|| apply(lab, &main)),
        ("one synchronous standby, and two", &|| synchronous(lab, &main)),
        ("new passwords by the book, while a client inserts", &|| rotate(lab, &main)),
        ("new passwords while a member is off", &|| rotate_without_one(lab, &main)),
        ("all members restart between the two steps", &|| restarted_between(lab, &main)),
        ("a new site key by the book, while a client inserts", &|| new_site_key(lab, &main)),
        ("a standby cluster follows", &|| follow(lab, &main, &standby)),
        ("and becomes independent", &|| become_independent(lab, &main, &standby)),
        ("members log in by certificate", &|| certificates(lab, &standby, &secure)),
    ];
    for (what, event) in story {
        let begin = Instant::now();
        event().with_context(|| format!("Debian {}: {what}", lab.release()))?;
        println!("Debian {}: {what}: ok, {:.1} s", lab.release(), begin.elapsed().as_secs_f32());
    }
    Ok(())
}

fn bootstrap(lab: &Lab, main: &Cluster) -> Result<()> {
    patroni::install(lab)?;
    lab.start_etcd()?;
    lab.each(|node| node.write("/etc/default/patroni", TIMES, 0o644))?;
    main.generate()?;
    main.start()?;
    main.wait_streaming(2, Duration::from_secs(40))?;
    main.insert("first")?;
    let primary = main.primary()?;
    let plain =
        main.sql(primary, "select count(*) from pg_stat_replication join pg_stat_ssl using (pid) where not ssl")?;
    ensure!(plain == "0", "{plain} replicas stream without TLS");
    main.sql(primary, "create role visitor login password 'visitor'")?;
    let other = main.replica()?;
    let visit = |mode: &str| {
        let to = format!("host={} user=visitor dbname=postgres sslmode={mode}", primary.ipv4());
        other.try_run_as("postgres", &format!("PGPASSWORD=visitor timeout 20 psql -XAtc 'select 1' '{to}'"))
    };
    ensure!(visit("require")?.status.success(), "nobody gets in with TLS");
    let refused = visit("disable")?;
    ensure!(refused.stderr.contains("no pg_hba.conf entry"), "who has no TLS gets in: {}", refused.stderr);
    // The members know of each other that they have the same key.
    let listed = main.patronictl(primary, "list --format json")?;
    ensure!(listed.matches("site_key").count() == 3, "the tags are missing: {listed}");
    Ok(())
}

/// Without a terminal and without --yes the difference is shown and that is all.
fn not_asked(main: &Cluster) -> Result<()> {
    let primary = main.primary()?;
    for node in main.nodes() {
        node.write("/etc/patroni/hba", "hostssl all office 10.99.0.0/16 scram-sha-256\n", 0o644)?;
        node.write("/etc/default/patroni", CHANGED, 0o644)?;
    }
    let before = main.patronictl(primary, "show-config")?;
    let said = primary.try_run(&format!("patroni-gen-config --apply {} < /dev/null", main.slashed()))?;
    ensure!(said.status.code() == Some(1), "it ended with {:?}", said.status);
    ensure!(said.stdout.contains("+ttl: 24") && said.stdout.contains("-ttl: 20"), "no difference: {}", said.stdout);
    ensure!(main.patronictl(primary, "show-config")? == before, "it changed the cluster all the same");
    let typo =
        primary.try_run(&format!("patroni-gen-config --apply --yes {} --set PG_wrok_mem=1MB", main.slashed()))?;
    ensure!(typo.stderr.contains("Did you mean work_mem?"), "PG_wrok_mem: {}", typo.stderr);
    Ok(())
}

fn apply(lab: &Lab, main: &Cluster) -> Result<()> {
    let primary = main.primary()?;
    let apply = format!("patroni-gen-config --apply --yes {}", main.slashed());
    primary.run(&apply)?;
    let config = main.patronictl(primary, "show-config")?;
    for line in ["ttl: 24", "synchronous_mode: true", "work_mem: 7MB", "hostssl all office 10.99.0.0/16 scram-sha-256"]
    {
        ensure!(config.contains(line), "show-config has no {line}:\n{config}");
    }
    for node in main.nodes() {
        lab.wait_until(Duration::from_secs(20), &format!("{} has PG_work_mem", node.name()), || {
            Ok(main.sql(node, "show work_mem")? == "7MB")
        })?;
        let said = node.run(&apply)?;
        ensure!(said.contains("the running cluster is up to date"), "{}: {said}", node.name());
        node.run(&format!("patroni-gen-config {}", main.slashed()))?;
    }
    lab.wait_until(Duration::from_secs(20), "the slot is there, and pg_hba has the line", || {
        let slots = main.sql(primary, "select count(*) from pg_replication_slots where slot_name = 'standby'")?;
        let lines = main.sql(primary, "select count(*) from pg_hba_file_rules where user_name = '{office}'")?;
        Ok(slots == "1" && lines == "1")
    })?;
    let broken = main.sql(primary, "select count(*) from pg_hba_file_rules where error is not null")?;
    ensure!(broken == "0", "PostgreSQL does not understand {broken} lines of pg_hba");
    // A larger max_connections has to be on the standbys no later than on the primary: Patroni sees to that.
    lab.wait_until(Duration::from_secs(20), "all members wait for a restart", || {
        Ok(main.patronictl(primary, "list --format json")?.matches("Pending restart\"").count() == 3)
    })?;
    let replicas: Vec<&Node> = main.nodes().iter().filter(|node| node.name() != primary.name()).collect();
    for node in replicas.into_iter().chain([primary]) {
        main.patronictl(primary, &format!("restart {} {} --pending --force", main.dashed(), node.name()))?;
    }
    main.wait_streaming(2, Duration::from_secs(60))?;
    for node in main.nodes() {
        ensure!(main.sql(node, "show max_connections")? == "130", "{} has another max_connections", node.name());
    }
    Ok(())
}

fn synchronous(lab: &Lab, main: &Cluster) -> Result<()> {
    for (count, settings) in [(1, String::new()), (2, "SYNCHRONOUS_NODE_COUNT=2\n".to_owned())] {
        lab.each(|node| node.write("/etc/default/patroni", format!("{CHANGED}{settings}"), 0o644))?;
        let primary = main.primary()?;
        primary.run(&format!("patroni-gen-config --apply --yes {}", main.slashed()))?;
        lab.wait_until(Duration::from_secs(30), &format!("{count} synchronous standbys"), || {
            let members = main.members(primary)?;
            let synchronous = members.iter().filter(|member| member.role == "Sync Standby").count();
            let seen = main.sql(primary, "select count(*) from pg_stat_replication where sync_state = 'sync'")?;
            Ok(synchronous == count && seen == count.to_string())
        })?;
    }
    main.insert("synchronous")?;
    // One standby that is away must not stop the rest of the test.
    lab.each(|node| node.write("/etc/default/patroni", CHANGED, 0o644))?;
    main.primary()?.run(&format!("patroni-gen-config --apply --yes {}", main.slashed()))?;
    let config = main.patronictl(main.primary()?, "show-config")?;
    ensure!(config.contains("synchronous_node_count: 1"), "it stayed at 2:\n{config}");
    lab.each(|node| node.run(&format!("patroni-gen-config {}", main.slashed())).map(drop))
}

/// The commands of the two steps, as they are written down.
fn steps(main: &Cluster) -> Result<(String, String)> {
    let page = page::of_cluster(PASSWORDS, main);
    let blocks = page::blocks(&page, &MACHINES, "etcd")?;
    let mut steps = blocks.into_iter().filter(|block| block.section == "New passwords for a running cluster");
    let (Some(prepare), Some(set), None) = (steps.next(), steps.next(), steps.next()) else {
        bail!("docs/passwords.md has not two steps");
    };
    ensure!((prepare.role, set.role) == (Role::Any, Role::Primary), "{prepare:?}, {set:?}");
    Ok((prepare.commands, set.commands))
}

/// The password of a role in a member's file.
fn password(main: &Cluster, node: &Node, role: &str) -> Result<String> {
    let file = node.read(&main.file())?;
    let (_, rest) = file.split_once(&format!("username: \"{role}\"")).with_context(|| format!("no {role}"))?;
    let (_, rest) = rest.split_once("password: \"").context("no password")?;
    Ok(rest.split('"').next().unwrap_or_default().to_owned())
}

/// Can one log in by this password, over the network?
fn logs_in(node: &Node, to: &Node, password: &str) -> Result<bool> {
    node.write("/var/tmp/pgpass", format!("*:*:*:*:{password}\n"), 0o600)?;
    node.run("chown postgres /var/tmp/pgpass")?;
    let connection = format!("host={} user=replicator dbname=postgres replication=true", to.ipv4());
    let login = format!("PGPASSFILE=/var/tmp/pgpass timeout 20 psql -XAtwc IDENTIFY_SYSTEM '{connection}'");
    Ok(node.try_run_as("postgres", &login)?.status.success())
}

/// Who streams, and since when.
fn streams(main: &Cluster) -> Result<String> {
    main.sql(main.primary()?, "select application_name, backend_start from pg_stat_replication order by 1")
}

/// After a change of something else, and after its removal, the generator names one command and not the other.
fn comes_next(main: &Cluster, node: &Node, named: &str, other: &str) -> Result<()> {
    for change in ["--set NOLOADBALANCE=yes", ""] {
        let said = node.try_run(&format!("patroni-gen-config {change} {}", main.slashed()))?;
        let right = said.status.success() && said.stderr.contains(named) && !said.stderr.contains(other);
        ensure!(right, "patroni-gen-config {change} on {}: {said}", node.name());
    }
    Ok(())
}

fn rotate(lab: &Lab, main: &Cluster) -> Result<()> {
    let (prepare, set) = steps(main)?;
    let primary = main.primary()?;
    let client = main.replica()?;
    let hosts: Vec<String> = main.nodes().iter().map(Node::ipv4).collect();
    let writer = Writer::start(main, client, "rotation", &hosts.join(","))?;
    lab.wait_until(Duration::from_secs(20), "the client inserts", || Ok(writer.last_answer().is_ok()))?;
    let (begin, old) = (writer.now()?, password(main, primary, "replicator")?);
    let before = streams(main)?;
    lab.each(|node| node.run(&prepare).map(drop))?;
    // A second time makes no difference.
    client.run(&prepare)?;
    let new = password(main, primary, "replicator")?;
    ensure!(new != old, "the password is the old one");
    for node in main.nodes() {
        ensure!(password(main, node, "replicator")? == new, "{} has another password", node.name());
    }
    ensure!(logs_in(client, primary, &old)? && !logs_in(client, primary, &new)?, "the first step changed the database");
    for node in main.nodes() {
        comes_next(main, node, "set-passwords", "systemctl reload")?;
    }
    let elsewhere = client.try_run(&set)?;
    ensure!(elsewhere.stderr.contains(primary.name()), "on a replica it says {}", elsewhere.stderr);
    let said = primary.run(&set)?;
    ensure!(said.contains("all members have read the new passwords"), "{said}");
    ensure!(
        !logs_in(client, primary, &old)? && logs_in(client, primary, &new)?,
        "the second step did not change the database"
    );
    for node in main.nodes() {
        comes_next(main, node, "systemctl reload", "set-passwords")?;
    }
    ensure!(streams(main)? == before, "a replica lost its connection: before\n{before}\nafter\n{}", streams(main)?);
    std::thread::sleep(Duration::from_secs(2));
    let gap = writer.longest_gap(begin, writer.now()?)?;
    println!("  the client's longest time without an answer: {gap:.2} s");
    ensure!(gap < 1.0, "the client had no answer for {gap:.2} s");
    let (acknowledged, lost) = writer.stop(main)?;
    ensure!(acknowledged > 100 && lost.is_empty(), "{acknowledged} rows acknowledged, lost: {lost:?}");
    nobody_saw(main, &[&old, &new, &password(main, primary, "rewind_user")?])?;
    // Every connection that the members need is a new one: streams, clone, pg_rewind.
    main.sql(primary, "select pg_terminate_backend(pid) from pg_stat_replication")?;
    main.wait_streaming(2, Duration::from_secs(40))?;
    main.insert("rotated")?;
    main.patronictl(primary, &format!("reinit {} {} --force", main.dashed(), client.name()))?;
    std::thread::sleep(Duration::from_secs(3));
    main.wait_streaming(2, Duration::from_secs(60))?;
    main.wait_for_row("rotated")?;
    rewind(lab, main)
}

/// The old primary gets WAL that nobody else has, so that it has to log in as `rewind_user`.
fn rewind(lab: &Lab, main: &Cluster) -> Result<()> {
    let old = main.primary()?;
    old.cut()?;
    old.run_as(
        "postgres",
        &format!(
            "echo 'set synchronous_commit to local; create table lost as select generate_series(1, 1000); checkpoint' | \
             timeout 50 psql --cluster {} -Xq",
            main.slashed()
        ),
    )?;
    old.power_off()?;
    lab.wait_until(Duration::from_secs(60), "another member is primary", || Ok(main.primary()?.name() != old.name()))?;
    main.sql(main.primary()?, "checkpoint")?;
    old.mend()?;
    old.start()?;
    main.wait_streaming(2, Duration::from_secs(90))?;
    ensure!(old.journal()?.contains("pg_rewind"), "the old primary was not rewound");
    main.insert("rewound")
}

/// No password is in a log, in the journal or in a file that others can read.
fn nobody_saw(main: &Cluster, passwords: &[&String]) -> Result<()> {
    for node in main.nodes() {
        let logs = node.run("cat /var/log/postgresql/*")? + &node.journal()?;
        for password in passwords {
            ensure!(!logs.contains(password.as_str()), "{}: a password is in the logs", node.name());
            let found = node.run(&format!(
                "grep -rlF {password} /etc /var/lib/postgresql /var/tmp /run /tmp 2>/dev/null | xargs -r stat -c '%a %n' || true"
            ))?;
            let open: Vec<&str> =
                found.lines().filter(|line| !line.starts_with("640 ") && !line.starts_with("600 ")).collect();
            ensure!(open.is_empty(), "{}: {}", node.name(), open.join(", "));
        }
    }
    Ok(())
}

/// A member that was off is named, or comes back with the old passwords and is put right by the first step.
fn rotate_without_one(lab: &Lab, main: &Cluster) -> Result<()> {
    let (prepare, set) = steps(main)?;
    let (primary, late) = (main.primary()?, main.replica()?);
    for node in main.nodes().iter().filter(|node| node.name() != late.name()) {
        node.run(&prepare)?;
    }
    // It runs, and its file is the old one.
    let said = primary.try_run(&set)?;
    ensure!(said.status.code() == Some(1), "a member without its file is not noticed: {}", said.stdout);
    ensure!(said.stderr.contains(&format!("Run on {}: ", late.name())), "it is not named: {}", said.stderr);
    late.run(&prepare)?;
    late.run(&format!("systemctl reload {}", main.unit()))?;
    main.sql(primary, "select pg_terminate_backend(pid) from pg_stat_replication")?;
    main.wait_streaming(2, Duration::from_secs(40))?;
    ensure!(password(main, late, "replicator")? == password(main, primary, "replicator")?, "it has another password");
    same_fingerprint(lab, main)
}

/// No member becomes primary with passwords that the database has not, until the previous generation is back.
fn restarted_between(lab: &Lab, main: &Cluster) -> Result<()> {
    let (prepare, _) = steps(main)?;
    let line = format!("generation {} ", main.dashed());
    let key = main.nodes()[0].read("/etc/patroni/site.key")?;
    let previous = key.lines().find(|known| known.starts_with(&line)).context("no generation")?.to_owned();
    lab.each(|node| node.run(&prepare).map(drop))?;
    lab.each(|node| node.run(&format!("systemctl stop {}", main.unit())).map(drop))?;
    main.start()?;
    std::thread::sleep(Duration::from_secs(15));
    ensure!(main.primary().is_err(), "there is a primary: docs/passwords.md is wrong");
    lab.each(|node| {
        node.run(&format!("sed -i 's/^{line}.*/{previous}/' /etc/patroni/site.key"))?;
        node.run(&format!("patroni-gen-config {} && systemctl restart {}", main.slashed(), main.unit())).map(drop)
    })?;
    main.wait_streaming(2, Duration::from_secs(60))
}

/// Everything but what certificates need, see `three_nodes.rs`, and without a pool.
fn new_site_key(lab: &Lab, main: &Cluster) -> Result<()> {
    lab.each(|node| node.run("mkdir -p -m 0700 /root/.ssh && systemctl start ssh").map(drop))?;
    page::let_in_root_of_the_first(lab)?;
    let (primary, client) = (main.primary()?, main.replica()?);
    let hosts: Vec<String> = main.nodes().iter().map(Node::ipv4).collect();
    let writer = Writer::start(main, client, "key", &hosts.join(","))?;
    lab.wait_until(Duration::from_secs(20), "the client inserts", || Ok(writer.last_answer().is_ok()))?;
    let (begin, old, before) = (writer.now()?, password(main, primary, "replicator")?, streams(main)?);
    let page = page::of_cluster(PASSWORDS, main);
    let blocks = page::blocks(&page, &MACHINES, "etcd")?;
    let of_passwords = blocks.iter().filter(|block| block.section == "A new site key");
    for block in of_passwords.filter(|block| !block.commands.contains("pgbouncer")) {
        if !block.commands.contains("set-passwords") {
            block.run(lab, &block.nodes_beside(|| Ok(primary.name().to_owned()))?)?;
            continue;
        }
        let said = primary.try_run(&block.commands)?;
        println!("{said}");
        ensure!(said.stdout.contains("new passwords for") && said.status.code() == Some(1), "{said}");
        // That would prepare the next generation on a member that has the new file.
        ensure!(!said.stderr.contains("patroni-gen-config rotate"), "{said}");
    }
    let new = password(main, primary, "replicator")?;
    ensure!(new != old, "the password is the old one");
    ensure!(!logs_in(client, primary, &old)? && logs_in(client, primary, &new)?, "the database has the old password");
    same_fingerprint(lab, main)?;
    ensure!(streams(main)? == before, "a replica lost its connection: before\n{before}\nafter\n{}", streams(main)?);
    let gap = writer.longest_gap(begin, writer.now()?)?;
    let (acknowledged, lost) = writer.stop(main)?;
    ensure!(gap < 1.0 && acknowledged > 100 && lost.is_empty(), "{gap:.2} s, {acknowledged} rows, lost: {lost:?}");
    main.sql(primary, "select pg_terminate_backend(pid) from pg_stat_replication")?;
    main.wait_streaming(2, Duration::from_secs(40))?;
    lab.wait_until(Duration::from_secs(30), "there is a synchronous standby", || {
        Ok(main.members(primary)?.iter().any(|member| member.role == "Sync Standby"))
    })?;
    // The REST API has one password again.
    main.switch_over(main.candidate()?)?;
    main.wait_streaming(2, Duration::from_secs(60))
}

fn same_fingerprint(lab: &Lab, main: &Cluster) -> Result<()> {
    lab.wait_until(Duration::from_secs(20), "all have the same fingerprint", || {
        let listed = main.patronictl(main.primary()?, "list --format json")?;
        let tags: Vec<&str> = listed.split("site_key").skip(1).filter_map(|rest| rest.get(4..12)).collect();
        Ok(tags.len() == 3 && tags.iter().all(|tag| *tag == tags[0]))
    })
}

fn standby_settings(source: &Node, main: &Cluster) -> String {
    format!(
        "STANDBY_HOST={}\nSTANDBY_SLOT=standby\nPASSWORD_SCOPE={}\nSLOTS=\nSYNCHRONOUS_MODE=no\n",
        source.ipv4(),
        main.slashed()
    )
}

/// A second instance on the same machines, whose leader gets everything from the primary of the first.
fn follow(lab: &Lab, main: &Cluster, standby: &Cluster) -> Result<()> {
    let source = main.primary()?;
    let settings = standby_settings(source, main);
    lab.each(|node| {
        node.write(&format!("/etc/default/patroni@{}", standby.dashed()), &settings, 0o644)?;
        node.run(&format!("patroni-gen-config {}", standby.slashed())).map(drop)
    })?;
    standby.start()?;
    let roles = || -> Result<Vec<String>> {
        let members = standby.members(source)?;
        let mut roles: Vec<String> = members.iter().map(|member| format!("{} {}", member.role, member.state)).collect();
        roles.sort();
        Ok(roles)
    };
    lab.wait_until(Duration::from_secs(120), "a standby leader and two replicas", || {
        let roles = roles()?;
        let leader = roles.iter().filter(|role| role.starts_with("Standby Leader")).count();
        let running = roles.iter().filter(|role| role.ends_with("running") || role.ends_with("streaming")).count();
        ensure!(leader == 1 && running == 3, "{roles:?}");
        Ok(true)
    })?;
    main.insert("for the standby cluster")?;
    standby.wait_for_row("for the standby cluster")?;
    let slot = main.sql(source, "select active from pg_replication_slots where slot_name = 'standby'")?;
    ensure!(slot == "t", "the slot of the standby cluster is not used");
    for node in lab.nodes() {
        let listed = node.run(&format!("pg_lsclusters --no-header {}", standby.slashed().replace('/', " ")))?;
        ensure!(listed.contains("online,recovery,patroni"), "pg_lsclusters on {} says {listed}", node.name());
    }
    let refused = source.try_run(&format!("patroni-gen-config --rotate {}", standby.slashed()))?;
    ensure!(refused.stderr.contains("passwords of another cluster"), "--rotate says {}", refused.stderr);
    Ok(())
}

fn become_independent(lab: &Lab, main: &Cluster, standby: &Cluster) -> Result<()> {
    let node = &lab.nodes()[0];
    lab.each(|node| {
        let settings = format!("PASSWORD_SCOPE={}\nSLOTS=\nSYNCHRONOUS_MODE=no\n", main.slashed());
        node.write(&format!("/etc/default/patroni@{}", standby.dashed()), settings, 0o644)?;
        node.run(&format!("patroni-gen-config {}", standby.slashed())).map(drop)
    })?;
    let said = node.run(&format!("patroni-gen-config --apply --yes {} 2>&1", standby.slashed()))?;
    ensure!(said.contains("kept (--prune removes it): standby_cluster"), "it says {said}");
    node.run(&format!("patroni-gen-config --apply --yes --prune {}", standby.slashed()))?;
    standby.wait_streaming(2, Duration::from_secs(90))?;
    standby.insert("of its own")?;
    let there = main.sql(main.primary()?, "select count(*) from events where what = 'of its own'")?;
    ensure!(there == "0", "the two clusters are still one");
    main.wait_streaming(2, Duration::from_secs(20))
}

/// Makes an authority, a certificate for each machine, and one for the members' role.
fn authority(lab: &Lab) -> Result<()> {
    let (first, others) = lab.nodes().split_first().context("a lab has machines")?;
    let directory = "/etc/patroni/tls";
    let request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30";
    let mut script = format!(
        "install -d {directory} && cd {directory} && {request} -subj /CN=site -keyout ca.key -out ca.pem -addext keyUsage=keyCertSign\n"
    );
    for name in ["replicator"].into_iter().chain(lab.nodes().iter().map(Node::name)) {
        let sign = format!("{request} -CA ca.pem -CAkey ca.key -addext basicConstraints=CA:FALSE");
        script.extend([&sign, " -subj /CN=", name, " -keyout ", name, ".key -out ", name, ".pem\n"]);
    }
    first.run(&format!("set -e\n{script}chgrp postgres *.key && chmod 0640 *.key"))?;
    for node in others {
        node.run(&format!("install -d {directory}"))?;
        for name in [
            "ca.pem",
            "replicator.pem",
            "replicator.key",
            &format!("{}.pem", node.name()),
            &format!("{}.key", node.name()),
        ] {
            let path = format!("{directory}/{name}");
            node.write(&path, first.read(&path)?, 0o640)?;
            node.run(&format!("chgrp postgres {path}"))?;
        }
    }
    Ok(())
}

fn certificates(lab: &Lab, standby: &Cluster, secure: &Cluster) -> Result<()> {
    lab.each(|node| node.run(&format!("systemctl disable --quiet --now {}", standby.unit())).map(drop))?;
    authority(lab)?;
    let quorum = lab.release() == Release::Debian13;
    lab.each(|node| {
        let tls = "/etc/patroni/tls";
        let name = node.name();
        let mut settings = format!(
            "SSL_CERT={tls}/{name}.pem\nSSL_KEY={tls}/{name}.key\nSSL_CACERT={tls}/ca.pem\nREPLICATION_AUTH=cert\n\
             REPLICATION_CERT={tls}/replicator.pem\nREPLICATION_KEY={tls}/replicator.key\n\
             SUPERUSER_PASSWORD_FILE=/etc/patroni/postgres.password\nPG_TUNE=auto\nPG_shared_buffers=64MB\nSLOTS=\n"
        );
        settings += if quorum { "SYNCHRONOUS_MODE=quorum\n" } else { "SYNCHRONOUS_MODE=on\n" };
        settings += if name == "pg3" { "NOFAILOVER=yes\n" } else { "CLONEFROM=yes\n" };
        node.write("/etc/patroni/postgres.password", "b\"a'd \\pass:word\n", 0o600)?;
        node.write(&format!("/etc/default/patroni@{}", secure.dashed()), settings, 0o644)?;
        node.run(&format!("patroni-gen-config {}", secure.slashed())).map(drop)
    })?;
    // The first two before the third, which must not create the cluster.
    for node in lab.nodes() {
        node.run(&format!("systemctl enable --quiet --now {}", secure.unit()))?;
    }
    secure.wait_streaming(2, Duration::from_secs(90))?;
    secure.insert("by certificate")?;
    let primary = secure.primary()?;
    let names =
        secure.sql(primary, "select distinct client_dn from pg_stat_replication join pg_stat_ssl using (pid)")?;
    ensure!(names == "/CN=replicator", "the replicas are known as {names}");
    let without =
        "select count(*) from pg_authid where rolname in ('replicator', 'rewind_user') and rolpassword is null";
    ensure!(secure.sql(primary, without)? == "2", "the members' roles have passwords");
    let other = secure.replica()?;
    let connection = format!(
        "host={} port={} user=postgres dbname=postgres sslmode=verify-ca sslrootcert=/etc/patroni/tls/ca.pem",
        primary.ipv4(),
        secure.sql(primary, "show port")?
    );
    other.write("/var/tmp/pgpass", "*:*:*:*:b\"a'd \\\\pass\\:word\n", 0o600)?;
    other.run("chown postgres /var/tmp/pgpass")?;
    let login = format!("PGPASSFILE=/var/tmp/pgpass timeout 20 psql -XAtwc 'select 1' '{connection}'");
    ensure!(other.run_as("postgres", &login)?.trim() == "1", "the administrator's password is another");
    let wanted = if quorum { "Quorum Standby" } else { "Sync Standby" };
    lab.wait_until(Duration::from_secs(30), &format!("there is a {wanted}"), || {
        Ok(secure.members(primary)?.iter().any(|member| member.role == wanted))
    })?;
    let listed = secure.patronictl(primary, "list --format json")?;
    ensure!(
        listed.matches("nofailover").count() == 1 && listed.matches("clonefrom").count() == 2,
        "the tags are {listed}"
    );
    let cache = secure.sql(primary, "show effective_cache_size")?;
    ensure!(cache != "4GB" && secure.sql(primary, "show shared_buffers")? == "64MB", "PG_TUNE made {cache}");
    let refused = primary.try_run(&format!("patroni-gen-config --rotate {}", secure.slashed()))?;
    ensure!(refused.stderr.contains("no password to change"), "--rotate says {}", refused.stderr);
    // The administrator's password is the only one that there is to set.
    primary.run(&format!("patroni-gen-config --set-passwords {}", secure.slashed()))?;
    ensure!(other.run_as("postgres", &login)?.trim() == "1", "--set-passwords set another password");
    rewind(lab, secure)
}
