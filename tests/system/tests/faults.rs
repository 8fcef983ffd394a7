//! Faults on a running cluster, on three machines of each release: the doctor names each of them, and the command of its hint, typed as it
//! stands, cures it. On the sound cluster before and after, it says nothing on any member.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::patroni::{self, Cluster};
use lab::{Lab, Node, Release};
use serde_json::Value;

const MACHINES: [&str; 3] = ["pg1", "pg2", "pg3"];

const SETTINGS: &str = "TTL=20\nLOOP_WAIT=2\nRETRY_TIMEOUT=5\nWATCHDOG=off\nVIPS=10.88.0.100/24\n\
    DCS_HOSTS=10.88.0.11,10.88.0.12,10.88.0.13\nMEMBERS=pg1=10.88.0.11,pg2=10.88.0.12,pg3=10.88.0.13\n";

/// How long the doctor may take to see a fault, and to see that it is cured.
const LIMIT: Duration = Duration::from_secs(45);

#[test]
fn debian_12() -> Result<()> {
    lab::test(Release::Debian12, &MACHINES, story)
}

#[test]
fn debian_13() -> Result<()> {
    lab::test(Release::Debian13, &MACHINES, story)
}

/// Where a fault is set.
#[derive(Debug, Clone, Copy)]
enum On {
    Primary,
    Replica,
}

/// A fault. In its texts `17/main` and `17-main` stand for the cluster of the release, and `17` for its version.
struct Fault {
    name: &'static str,
    on: On,
    /// What sets it.
    set: &'static str,
    /// What the doctor says.
    says: &'static str,
    /// What the administrator edits, where the hint says so, before the command of the hint.
    edit: &'static str,
}

/// In this order: a fault that makes another member the primary comes last.
const FAULTS: [Fault; 23] = [
    Fault {
        name: "Patroni is stopped",
        on: On::Replica,
        set: "systemctl stop patroni@17-main",
        says: "patroni@17-main is stopped",
        edit: "",
    },
    Fault {
        name: "Patroni is not enabled",
        on: On::Replica,
        set: "systemctl disable --quiet patroni@17-main",
        says: "not enabled",
        edit: "",
    },
    Fault {
        name: "maintenance mode",
        on: On::Primary,
        set: "patronictl -c /etc/patroni/17-main.yml pause --wait",
        says: "maintenance mode",
        edit: "",
    },
    Fault {
        name: "a restart is pending",
        on: On::Replica,
        set: "patronictl -c /etc/patroni/17-main.yml edit-config --quiet --force -s postgresql.parameters.max_locks_per_transaction=65",
        says: "must be restarted",
        edit: "",
    },
    Fault {
        name: "the file has a tag that the running member has not",
        on: On::Replica,
        set: "echo NOFAILOVER=yes >> /etc/default/patroni@17-main; patroni-gen-config 17/main",
        says: "nofailover",
        edit: "",
    },
    Fault {
        name: "the tag is gone from the settings",
        on: On::Replica,
        set: "rm /etc/default/patroni@17-main",
        says: "no longer matches the settings",
        edit: "",
    },
    Fault {
        name: "the role for pg_rewind is missing",
        on: On::Primary,
        set: "runuser -u postgres -- psql --cluster 17/main -qc 'drop owned by rewind_user; drop role rewind_user'",
        says: "rewind_user does not exist",
        edit: "",
    },
    Fault {
        name: "the role for pg_rewind lacks a privilege",
        on: On::Primary,
        set: "runuser -u postgres -- psql --cluster 17/main -qc \
              'revoke execute on function pg_read_binary_file(text) from rewind_user'",
        says: "may not call the functions",
        edit: "",
    },
    Fault {
        name: "the replication role has another password",
        on: On::Primary,
        set: "runuser -u postgres -- psql --cluster 17/main -qc \"alter role replicator password 'other'\"",
        says: "replicator has another password",
        edit: "",
    },
    Fault {
        name: "a file of this host breaks the configuration",
        on: On::Replica,
        set: "echo 'work_mem = banana' > /etc/postgresql/17/main/conf.d/x.conf",
        says: "x.conf",
        edit: "rm /etc/postgresql/17/main/conf.d/x.conf",
    },
    Fault {
        name: "a misspelt parameter",
        on: On::Replica,
        set: "echo 'work_men = 4MB' > /etc/postgresql/17/main/conf.d/x.conf",
        says: "work_men",
        edit: "rm /etc/postgresql/17/main/conf.d/x.conf",
    },
    Fault {
        name: "a variable overrides the file",
        on: On::Replica,
        set: "echo PATRONI_NAME=other > /etc/patroni/env.conf",
        says: "PATRONI_NAME",
        edit: "rm /etc/patroni/env.conf",
    },
    Fault {
        name: "the site key belongs to postgres",
        on: On::Replica,
        set: "chown postgres /etc/patroni/site.key",
        says: "postgres",
        edit: "",
    },
    Fault {
        name: "all users can read the Patroni file",
        on: On::Replica,
        set: "chmod 0644 /etc/patroni/17-main.yml",
        says: "can read the passwords",
        edit: "",
    },
    Fault {
        name: "postgresql@ is enabled",
        on: On::Replica,
        set: "mkdir -p /etc/systemd/system/multi-user.target.wants; \
              ln -s /lib/systemd/system/postgresql@.service /etc/systemd/system/multi-user.target.wants/postgresql@17-main.service",
        says: "postgresql@17-main is enabled",
        edit: "",
    },
    Fault {
        name: "a member that the settings do not name",
        on: On::Replica,
        set: "sed -i 's/,pg3=10.88.0.13//' /etc/default/patroni",
        says: "pg3",
        edit: "sed -i 's/^MEMBERS=.*/&,pg3=10.88.0.13/' /etc/default/patroni",
    },
    Fault {
        name: "the virtual IP address is the host's own",
        on: On::Replica,
        set: "sed -i \"s|^VIPS=.*|VIPS=$(hostname -I | tr ' ' '\\n' | grep -m 1 10.88)/24|\" /etc/default/patroni",
        says: "VIPS",
        edit: "sed -i 's|^VIPS=.*|VIPS=10.88.0.100/24|' /etc/default/patroni",
    },
    Fault {
        name: "dnscp is stopped",
        on: On::Primary,
        set: "systemctl stop dnscp@17-main",
        says: "dnscp@17-main",
        edit: "",
    },
    Fault {
        name: "nobody else can reach PostgreSQL",
        on: On::Replica,
        set: "echo LISTEN_ADDRESSES=127.0.0.1 >> /etc/default/patroni",
        says: "PostgreSQL listens on 127.0.0.1",
        edit: "sed -i /^LISTEN_ADDRESSES/d /etc/default/patroni",
    },
    Fault {
        name: "a locale that this host has not generated",
        on: On::Replica,
        set: "systemctl disable --quiet --now patroni@17-main; pg_dropcluster 17 main; rm -rf /etc/postgresql/17/main; \
              echo LOCALE=xx_XX.UTF-8 >> /etc/default/patroni",
        says: "xx_XX.UTF-8",
        edit: "sed -i /^LOCALE/d /etc/default/patroni; systemctl enable --quiet --now patroni@17-main",
    },
    Fault {
        name: "the data directory is a symbolic link",
        on: On::Replica,
        set: "systemctl stop patroni@17-main; install -d -o postgres -g postgres /big/17; \
              mv /var/lib/postgresql/17/main /big/17/main; ln -s /big/17/main /var/lib/postgresql/17/main; \
              systemctl start patroni@17-main",
        says: "symbolic link",
        edit: "",
    },
    Fault {
        name: "another Patroni has the data",
        on: On::Replica,
        set: "systemctl stop patroni@17-main; \
              sed 's/^scope:.*/scope: other/' /etc/patroni/17-main.yml > /etc/patroni/other.yml; chown postgres /etc/patroni/other.yml; \
              systemd-run --quiet --unit theirs --uid postgres /usr/bin/patroni /etc/patroni/other.yml",
        says: "theirs.service",
        edit: "",
    },
    Fault {
        name: "PostgreSQL runs an old binary",
        on: On::Replica,
        set: "cp -p /usr/lib/postgresql/17/bin/postgres /usr/lib/postgresql/17/bin/new && \
              mv /usr/lib/postgresql/17/bin/new /usr/lib/postgresql/17/bin/postgres",
        says: "old",
        edit: "",
    },
];

fn story(lab: &Lab) -> Result<()> {
    let main = Cluster::new(lab, "main");
    patroni::install(lab)?;
    lab.start_etcd()?;
    lab.each(|node| node.write("/etc/default/patroni", SETTINGS, 0o644))?;
    main.generate()?;
    for node in main.nodes() {
        is_sound(lab, &main, node)?;
    }
    main.start()?;
    main.wait_streaming(2, Duration::from_secs(60))?;
    for node in main.nodes() {
        is_sound(lab, &main, node)?;
    }
    let mut failed = Vec::new();
    for fault in &FAULTS {
        let begin = Instant::now();
        let outcome = set_and_cure(lab, &main, fault);
        let end = begin.elapsed().as_secs_f32();
        match outcome {
            Ok(hint) => println!("Debian {}: {}: ok, {end:.1} s: {hint}", lab.release(), fault.name),
            Err(error) => {
                println!("Debian {}: {}: {error:#}", lab.release(), fault.name);
                failed.push(fault.name);
                undo(lab, &main).with_context(|| format!("after {}", failed.join(", ")))?;
            }
        }
    }
    ensure!(failed.is_empty(), "{} of {} faults: {}", failed.len(), FAULTS.len(), failed.join(", "));
    Ok(())
}

/// What the doctor finds, as what and hint; its exit status is 1 if and only if one of them is an error.
fn findings(main: &Cluster, node: &Node) -> Result<Vec<(String, String)>> {
    let said = node.try_run(&format!("patroni-gen-config check --json {}", main.slashed()))?;
    let documents: Value = serde_json::from_str(&said.stdout).with_context(|| format!("no JSON: {said}"))?;
    let found = documents[0]["findings"].as_array().with_context(|| format!("no findings: {said}"))?;
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let is_error = found.iter().any(|finding| finding["level"] == "error");
    ensure!(said.status.code() == Some(i32::from(is_error)), "the exit status does not tell of errors: {said}");
    Ok(found
        .iter()
        .map(|finding| (format!("{}: {}", text(finding, "place"), text(finding, "what")), text(finding, "hint")))
        .collect())
}

fn is_sound(lab: &Lab, main: &Cluster, node: &Node) -> Result<()> {
    lab.wait_until(LIMIT, &format!("the doctor on {} finds nothing", node.name()), || {
        let found = findings(main, node)?;
        ensure!(found.is_empty(), "it finds {found:?}");
        Ok(true)
    })
}

/// The command at the end of a hint, or the one in quotation marks.
fn command(hint: &str) -> Option<&str> {
    let quoted = || hint.split('\'').nth(1);
    hint.rsplit_once(": ").map(|(_, command)| command).filter(|command| !command.ends_with('.')).or_else(quoted)
}

/// Returns the hint that cured it.
fn set_and_cure(lab: &Lab, main: &Cluster, fault: &Fault) -> Result<String> {
    let version = lab.release().postgresql();
    let of_release = |text: &str| text.replace("17", version);
    let node = match fault.on {
        On::Primary => main.primary()?,
        On::Replica => main.replica()?,
    };
    node.run(&of_release(fault.set))?;
    let says = of_release(fault.says);
    let mut hint = String::new();
    lab.wait_until(LIMIT, &format!("the doctor on {} says {says:?}", node.name()), || {
        let found = findings(main, node)?;
        let named =
            found.iter().find(|(what, _)| what.contains(&says)).with_context(|| format!("it finds {found:?}"))?;
        hint.clone_from(&named.1);
        Ok(true)
    })?;
    if !fault.edit.is_empty() {
        node.run(&of_release(fault.edit))?;
    }
    if fault.edit.is_empty() || command(&hint).is_some() {
        node.run_within(LIMIT, &typed(&hint)?)?;
    }
    // What is cured can be the cause of something else, which the doctor then names.
    let mut hints = vec![hint];
    lab.wait_until(2 * LIMIT, &format!("the doctor on {} finds nothing", node.name()), || {
        let found = findings(main, node)?;
        let Some((_, hint)) = found.first() else { return Ok(true) };
        if hints.last() != Some(hint) && hints.len() < 4 {
            hints.push(hint.clone());
            node.run_within(LIMIT, &typed(hint)?)?;
        }
        bail!("after the hints {hints:?} it finds {found:?}")
    })?;
    recovered(lab, main)?;
    Ok(hints.join(" "))
}

/// The command of a hint, with the answers to what it may ask: when, whether it is to be done, and for which version.
fn typed(hint: &str) -> Result<String> {
    let command = command(hint).with_context(|| format!("the hint has no command: {hint:?}"))?;
    Ok(format!("printf '\\ny\\n\\n\\n' | {{ {command}; }}"))
}

/// So that a fault that was not cured does not hide what follows.
fn undo(lab: &Lab, main: &Cluster) -> Result<()> {
    lab.each(|node| {
        node.write("/etc/default/patroni", SETTINGS, 0o644)?;
        node.run(&format!(
            "rm -f {}/conf.d/x.conf /etc/patroni/env.conf /etc/default/patroni@{dashed} \
                 /etc/systemd/system/multi-user.target.wants/postgresql@{dashed}.service
             chown root /etc/patroni/site.key
             systemctl stop theirs 2>/dev/null
             patroni-gen-config {slashed}
             patroni-gen-config set-passwords {slashed} 2>/dev/null
             systemctl enable --quiet --now patroni@{dashed} dnscp@{dashed}
             systemctl reload patroni@{dashed}
             pg_patronictl {slashed} resume --wait 2>/dev/null
             pg_patronictl {slashed} restart --force {dashed} --pending {} 2>/dev/null || true",
            main.etc(),
            node.name(),
            dashed = main.dashed(),
            slashed = main.slashed(),
        ))
        .map(drop)
    })?;
    recovered(lab, main)
}

/// The whole cluster works, by Patroni's and PostgreSQL's own word.
fn recovered(lab: &Lab, main: &Cluster) -> Result<()> {
    main.wait_streaming(2, Duration::from_secs(60))?;
    lab.wait_until(LIMIT, "the cluster accepts writes", || {
        main.sql(main.primary()?, "create table if not exists written (n int); insert into written values (1)")
            .map(|_| true)
    })
}
