//! `pg_patronictl` with three instances on a host: as root, as a member of group postgres and as a user with no rights, beside what
//! `patronictl` and `pg_lsclusters` say.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::patroni::{self, Cluster};
use lab::{Lab, Node, Release};
use serde_json::{Value, json};

const SETTINGS: &str = "TTL=20\nLOOP_WAIT=2\nRETRY_TIMEOUT=5\n";
const VIP: &str = "10.88.0.100";

/// Who is in group postgres, and who is not.
const PERSON: &str = "dba";
const GUEST: &str = "guest";

#[test]
fn debian_12() -> Result<()> {
    lab::test(Release::Debian12, &["pg1", "pg2"], story)
}

#[test]
fn debian_13() -> Result<()> {
    lab::test(Release::Debian13, &["pg1", "pg2"], story)
}

fn story(lab: &Lab) -> Result<()> {
    let host = lab.node("pg1");
    let main = Cluster::new(lab, "main");
    let instances = [&main, &Cluster::with_members(lab, "app", 1), &Cluster::with_members(lab, "my-db", 1)];
    let story: [(&str, &dyn Fn() -> Result<()>); 6] = [
        ("three instances", &|| begin(lab, &instances)),
        ("the table is what patronictl and pg_lsclusters say", &|| table(host, &instances)),
        ("who may not is told why", &|| guest(host, &main)),
        ("commands reach the right cluster", &|| commands(host, &instances)),
        ("words are completed", &|| completion(host, &main)),
        ("a silent store hides no other", &|| silent_store(host, &instances)),
    ];
    for (what, event) in story {
        let begin = Instant::now();
        event().with_context(|| format!("Debian {}: {what}", lab.release()))?;
        println!("Debian {}: {what}: ok, {:.1} s", lab.release(), begin.elapsed().as_secs_f32());
    }
    Ok(())
}

fn begin(lab: &Lab, instances: &[&Cluster]) -> Result<()> {
    patroni::install(lab)?;
    lab.start_etcd()?;
    let main = instances[0];
    lab.each(|node| {
        node.run(&format!("useradd --create-home --groups postgres {PERSON} && useradd --create-home {GUEST}"))?;
        node.write("/etc/default/patroni", SETTINGS, 0o644)?;
        node.write(&format!("/etc/default/patroni@{}", main.dashed()), format!("VIPS={VIP}/24\n"), 0o644)
    })?;
    for instance in instances {
        instance.generate()?;
        instance.start()?;
    }
    for instance in instances {
        instance.wait_streaming(instance.nodes().len() - 1, Duration::from_secs(60))?;
    }
    Ok(())
}

fn list(node: &Node, user: &str) -> Result<Vec<Value>> {
    let printed = node.run_as(user, "pg_patronictl list --json")?;
    serde_json::from_str(&printed).with_context(|| format!("it printed {printed}"))
}

/// What patronictl says of all instances, in our words.
fn theirs(node: &Node, instances: &[&Cluster]) -> Result<BTreeSet<String>> {
    let mut lines = BTreeSet::new();
    for instance in instances {
        let rows: Vec<Value> = serde_json::from_str(&instance.patronictl(node, "list --format json")?)?;
        for row in rows {
            let or_null = |key: &str| row.get(key).filter(|value| **value != "").cloned().unwrap_or_default();
            let line = json!([
                instance.slashed(),
                row["Member"],
                row["Role"],
                row["State"],
                or_null("TL"),
                or_null("Lag in MB")
            ]);
            lines.insert(line.to_string());
        }
    }
    Ok(lines)
}

fn slashed(row: &Value) -> String {
    format!("{}/{}", row["version"].as_str().unwrap_or_default(), row["cluster"].as_str().unwrap_or_default())
}

fn table(host: &Node, instances: &[&Cluster]) -> Result<()> {
    let main = instances[0];
    let clusters: BTreeSet<String> = host
        .run("pg_lsclusters --no-header")?
        .lines()
        .map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
        .collect();
    ensure!(clusters.len() == 3, "pg_lsclusters has {clusters:?}");
    for user in ["root", PERSON] {
        let rows = list(host, user)?;
        let ours: BTreeSet<String> = rows
            .iter()
            .map(|row| {
                let fields = ["member", "role", "state", "timeline", "lag_in_mb"].map(|key| row[key].clone());
                json!([slashed(row), fields[0], fields[1], fields[2], fields[3], fields[4]]).to_string()
            })
            .collect();
        let theirs = theirs(host, instances)?;
        ensure!(ours == theirs, "{user} sees {ours:?}, patronictl says {theirs:?}");
        let holders: Vec<&Value> = rows.iter().filter(|row| row["vip"] == json!([VIP])).collect();
        ensure!(
            holders.len() == 1
                && slashed(holders[0]) == main.slashed()
                && holders[0]["member"] == main.primary()?.name(),
            "the address is at {holders:?}"
        );
        let held = main.primary()?.run("ip -brief address")?;
        ensure!(held.contains(&format!("{VIP}/24")), "the primary has {held}");

        let printed = host.run_as(user, "pg_patronictl list")?;
        ensure!(printed.lines().count() == 5, "{printed}");
        let marked = printed.lines().filter(|line| line.contains("pg1* "));
        let own: BTreeSet<String> =
            marked.map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" ")).collect();
        ensure!(own == clusters, "our own are {own:?}, pg_lsclusters has {clusters:?}");
    }
    Ok(())
}

fn guest(host: &Node, main: &Cluster) -> Result<()> {
    let refusal = format!(
        "hint: Run this as root (sudo), or become a member of group postgres (adduser {GUEST} postgres, and log in again)."
    );
    for arguments in ["list".to_owned(), format!("{} list", main.slashed()), format!("{} pause", main.slashed())] {
        let said = host.try_run_as(GUEST, &format!("pg_patronictl {arguments}"))?;
        ensure!(said.status.code() == Some(1), "{arguments}: {said}");
        ensure!(
            said.stderr.lines().count() == 2
                && said.stderr.starts_with("pg_patronictl: error: you cannot read /etc/patroni/")
                && said.stderr.contains(&main.file())
                && said.stderr.trim_end().ends_with(&refusal),
            "{arguments}: {}",
            said.stderr
        );
    }
    // The way to the store may need another group.
    let (version, _) =
        main.dashed().split_once('-').map(|(v, n)| (v.to_owned(), n.to_owned())).context("no version")?;
    host.run(&format!(
        "patroni-gen-config {version}/tls --set DCS_CERT=/etc/ssl/certs/ssl-cert-snakeoil.pem \
         --set DCS_KEY=/etc/ssl/private/ssl-cert-snakeoil.key"
    ))?;
    let said = host.try_run_as(PERSON, &format!("pg_patronictl {version}/tls list"))?;
    ensure!(said.stderr.contains(&format!("a member of group ssl-cert (adduser {PERSON} ssl-cert,")), "{said}");
    host.run(&format!("rm /etc/patroni/{version}-tls.yml"))?;
    // What the message says helps.
    host.run(&format!("adduser {GUEST} postgres"))?;
    ensure!(list(host, GUEST)?.len() == 4, "a member of group postgres does not see all");
    host.run(&format!("deluser {GUEST} postgres")).map(drop)
}

fn commands(host: &Node, instances: &[&Cluster]) -> Result<()> {
    let (main, app) = (instances[0], instances[1]);
    let started = |cluster: &Cluster| cluster.sql(host, "select pg_postmaster_start_time()");
    let before = (started(main)?, started(app)?);
    let restarted = host.run_as(PERSON, &format!("PGCLUSTER={} pg_patronictl restart pg1 --force", app.dashed()))?;
    ensure!(restarted.contains("Success: restart on member pg1"), "{restarted}");
    app.wait_streaming(0, Duration::from_secs(30))?;
    ensure!(started(main)? == before.0 && started(app)? != before.1, "another one was restarted");

    let to = main.replica()?.name();
    let version = main.slashed().replace('/', " ");
    let switched = host.run_as(PERSON, &format!("pg_patronictl {version} switchover --candidate {to} --force"))?;
    ensure!(switched.contains("Successfully switched over"), "{switched}");
    main.wait_streaming(1, Duration::from_secs(60))?;
    let holder =
        list(host, PERSON)?.into_iter().find(|row| row["vip"] == json!([VIP])).context("nobody has the address")?;
    ensure!(holder["member"] == to, "the address is at {holder}");

    // It is patronictl itself that asks, with our terminal or pipe, and that ends.
    let asked = host.try_run_as(PERSON, &format!("printf '\\nn\\n' | pg_patronictl {} restart pg1", app.slashed()))?;
    ensure!(asked.status.code() == Some(1) && asked.stdout.contains("[y/N]"), "{asked}");
    let which = host.try_run_as(PERSON, "pg_patronictl pause")?;
    ensure!(which.status.code() == Some(1), "{which}");
    for instance in instances {
        ensure!(which.stderr.contains(&instance.slashed()), "{}", which.stderr);
    }
    Ok(())
}

fn completion(host: &Node, main: &Cluster) -> Result<()> {
    let complete = |words: &str| {
        let printed = host.run_as(
            PERSON,
            &format!(
                "set -- pg_patronictl {words}; . /usr/share/bash-completion/completions/pg_patronictl
                 COMP_WORDS=(\"$@\") COMP_CWORD=$(($# - 1)); _pg_patronictl; printf '%s\\n' \"${{COMPREPLY[@]}}\""
            ),
        )?;
        Ok::<_, anyhow::Error>(printed.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" "))
    };
    let id = main.slashed();
    let (version, _) = id.split_once('/').context("no version")?;
    for (words, expected) in [
        (format!("{version}/m"), format!("{version}/main {version}/my-db")),
        ("''".to_owned(), format!("{version}/app")),
        (format!("{id} sw"), "switchover".to_owned()),
        (format!("{} re", main.dashed()), "reinit reload remove restart resume".to_owned()),
        (format!("{version} main restart ''"), "pg1 pg2".to_owned()),
        (format!("{id} switchover --candidate pg2"), "pg2".to_owned()),
        ("list -".to_owned(), "--help --json".to_owned()),
    ] {
        // Members are asked for three seconds at most, which patronictl needs on a busy host.
        let mut completed = complete(&words)?;
        for _ in 0..10 {
            if completed.contains(&expected) {
                break;
            }
            completed = complete(&words)?;
        }
        ensure!(completed.contains(&expected), "{words}: {completed}");
    }
    let options = host.run("pg_patronictl --help | grep -Eo -- '^ +(-., )?--[a-z-]+' | grep -Eo -- '--.*' | sort")?;
    ensure!(complete("-")? == options.split_whitespace().collect::<Vec<_>>().join(" "), "options: {options}");
    Ok(())
}

/// One store refuses the connection, and one takes it and says nothing, so that patronictl would wait.
fn silent_store(host: &Node, instances: &[&Cluster]) -> Result<()> {
    let id = instances[1].slashed();
    let (version, _) = id.split_once('/').context("no version")?;
    host.run(
        "systemd-run --quiet --unit silent python3 -c \
         \"import socket, time; s = socket.create_server(('127.0.0.1', 9)); time.sleep(300)\"",
    )?;
    host.wait_listening(&[9])?;
    for (name, store) in
        [("new", ""), ("silent", "--set DCS_HOSTS=127.0.0.1:9"), ("refusing", "--set DCS_HOSTS=127.0.0.1:1")]
    {
        host.run(&format!("patroni-gen-config {version}/{name} {store}"))?;
    }
    let begin = Instant::now();
    let said = host.try_run_as(PERSON, "pg_patronictl list --json")?;
    let took = begin.elapsed();
    println!("  after {took:.1?}: {}", said.stderr.trim_end());
    ensure!(said.status.code() == Some(1) && took < Duration::from_secs(40), "{said}");
    let lines: Vec<&str> = said.stderr.lines().collect();
    ensure!(
        lines.len() == 4 && lines.iter().skip(1).step_by(2).all(|line| line.starts_with("pg_patronictl: hint: ")),
        "{}",
        said.stderr
    );
    for (line, name) in lines.iter().step_by(2).zip(["refusing", "silent"]) {
        ensure!(line.starts_with(&format!("pg_patronictl: error: {version}/{name}: etcd3 at ")), "{line}");
    }
    let rows: Vec<Value> = serde_json::from_str(&said.stdout)?;
    let states = |name: &str| -> Vec<&str> {
        let of_name = rows.iter().filter(|row| row["cluster"] == name);
        of_name.map(|row| row["state"].as_str().unwrap_or_default()).collect()
    };
    for (name, expected) in [("silent", "unknown"), ("refusing", "unknown"), ("new", "absent"), ("app", "running")] {
        ensure!(states(name) == [expected], "{name}: {}", said.stdout);
    }
    ensure!(states("main").len() == 2, "{}", said.stdout);
    Ok(())
}
