#![allow(clippy::unwrap_used)]
//! A whole file of another set-up, and what becomes of it.

use std::path::Path;

use host::ClusterId;
use minijinja::Environment;
use serde_json::{Value, json};

use crate::files::yaml::Yaml;
use crate::handover::foreign::{Fate, Mapped, Row, Source, added, blocks, from_dynamic, from_file, judge, template};

/// As autobase writes it, with a member's own parameters and other keys that no setting expresses.
const AUTOBASE: &str = r#"
scope: postgres-cluster
name: pg1
namespace: /service
log: {level: INFO, dir: /var/log/patroni, traceback_level: ERROR}
restapi:
  listen: 0.0.0.0:8009
  connect_address: 10.0.0.1:8009
  authentication: {username: patroni, password: rest pass}
etcd3: {hosts: "10.0.0.1:2379,10.0.0.2:2379", protocol: https, cacert: /etc/etcd/ca.crt, username: patroni, password: dcs pass}
bootstrap:
  method: initdb
  dcs: {ttl: 99}
postgresql:
  listen: 0.0.0.0:5432
  connect_address: 10.0.0.1:5432
  data_dir: /var/lib/postgresql/17/main
  bin_dir: /usr/lib/postgresql/17/bin
  config_dir: /etc/postgresql/17/main
  pgpass: /var/lib/postgresql/.pgpass_patroni
  authentication:
    replication: {username: replicator, password: repl pass}
    superuser: {username: postgres, password: super pass}
  parameters: {unix_socket_directories: /var/run/postgresql, archive_command: "cp %p '/a b/{{ %f'"}
  pg_hba: [local all all peer, host all all 0.0.0.0/0 md5]
  callbacks: {on_role_change: /usr/local/bin/callback}
  create_replica_methods: [pgbackrest, basebackup]
  pgbackrest: {command: pgbackrest restore}
  basebackup: [{max-rate: 100M}, {checkpoint: fast}]
  recovery_conf: {restore_command: pgbackrest archive-get %f %p}
  remove_data_directory_on_rewind_failure: false
watchdog: {mode: off, device: /dev/watchdog, safety_margin: 5}
tags: {nosync: false, nofailover: true, zone: a}
citus: {group: 0, database: shop}
"#;

fn dynamic() -> Value {
    json!({
        "ttl": 40, "loop_wait": 10, "master_start_timeout": 60, "synchronous_mode": true, "maximum_lag_on_failover": 1_048_576,
        "slots": {"a": {"type": "physical"}, "b": {"type": "logical", "database": "shop", "plugin": "pgoutput"}},
        "postgresql": {
            "use_pg_rewind": false,
            "parameters": {
                "max_connections": "150", "hot_standby": "on", "jit": false, "auto_explain.log_min_duration": "10s",
                "synchronous_standby_names": "x", "log_line_prefix": "%t '$(id)'\\ "
            }
        }
    })
}

fn parse(text: &str) -> Value {
    Yaml::parse(Path::new("/etc/patroni/patroni.yml"), text).unwrap().document().unwrap().clone()
}

fn mapped(file: &Value, dynamic: &Value) -> Mapped {
    let id: ClusterId = "17/main".parse().unwrap();
    let source = Source {
        id: &id,
        path: "/etc/patroni/patroni.yml".to_owned(),
        file,
        dynamic,
        address: Some("10.0.0.1".parse().unwrap()),
    };
    let mut mapped = from_file(&source);
    from_dynamic(&source, &mut mapped);
    mapped
}

/// What the generator makes of the settings, as far as these tests need it.
const OURS: &str = r#"
scope: postgres-cluster
name: pg1
namespace: /service/
log: {level: INFO, dir: /var/log/patroni}
restapi: {listen: "10.0.0.1:8009", connect_address: "10.0.0.1:8009", authentication: {username: patroni, password: rest pass}}
etcd3: {hosts: ["10.0.0.1:2379", "10.0.0.2:2379"], protocol: https, cacert: /etc/etcd/ca.crt, username: patroni, password: dcs pass}
bootstrap: {dcs: {ttl: 40, loop_wait: 10, primary_start_timeout: 60, postgresql: {use_pg_rewind: true}}}
postgresql:
  listen: 0.0.0.0:5432
  connect_address: 10.0.0.1:5432
  use_unix_socket: true
  data_dir: /var/lib/postgresql/17/main
  bin_dir: /usr/lib/postgresql/17/bin
  config_dir: /etc/postgresql/17/main
  pgpass: /var/lib/postgresql/17-main.pgpass
  create_replica_methods: [pg_clonecluster]
  authentication:
    superuser: {username: postgres, password: super pass}
    replication: {username: replicator, password: repl pass}
    rewind: {username: rewind_user, password: x}
  parameters: {unix_socket_directories: /var/run/postgresql}
tags: {nofailover: true, site_key: abc}
watchdog: {mode: "off", device: /dev/watchdog}
"#;

#[test]
fn a_file_becomes_settings() {
    let mapped = mapped(&parse(AUTOBASE), &dynamic());
    let lines: Vec<String> = mapped.lines.iter().map(|line| format!("{}={}", line.key, line.value)).collect();
    for line in [
        "SCOPE=postgres-cluster",
        "NAMESPACE=/service/",
        "MEMBER_NAME=pg1",
        "DCS=etcd3",
        "DCS_HOSTS=10.0.0.1:2379,10.0.0.2:2379",
        "DCS_PROTOCOL=https",
        "DCS_CACERT=/etc/etcd/ca.crt",
        "DCS_USERNAME=patroni",
        "RESTAPI_PORT=8009",
        "RESTAPI_USERNAME=patroni",
        "LISTEN_ADDRESSES=0.0.0.0",
        "PORT=5432",
        "HOST_ADDRESS=10.0.0.1",
        "CLONE_MAX_RATE=100M",
        "REPLICATION_NAME=replicator",
        "SSL=allowed",
        "NOFAILOVER=yes",
        "WATCHDOG=off",
        "LOG_DIR=/var/log/patroni",
        "TTL=40",
        "PRIMARY_START_TIMEOUT=60",
        "SYNCHRONOUS_MODE=yes",
        "FAILSAFE_MODE=no",
        "SLOTS=a:physical,b:logical:shop:pgoutput",
        "PG_max_connections=150",
        "PG_jit=off",
        "PG_log_line_prefix=%t '$(id)'\\ ",
    ] {
        assert!(lines.iter().any(|found| found == line), "{line} is not in {lines:#?}");
    }
    for absent in ["LOOP_WAIT=", "MAXIMUM_LAG", "PG_hot_standby", "PG_synchronous_standby_names", "NOSYNC"] {
        assert!(!lines.iter().any(|line| line.starts_with(absent)), "{absent}");
    }
    let files: Vec<(&str, &str)> = mapped.files.iter().map(|file| (file.key, file.text.as_str())).collect();
    for file in [
        ("DCS_PASSWORD_FILE", "dcs pass\n"),
        ("RESTAPI_PASSWORD_FILE", "rest pass\n"),
        ("PG_HBA_FILE", "local all all peer\nhost all all 0.0.0.0/0 md5\n"),
        ("SUPERUSER_PASSWORD_FILE", "super pass\n"),
        ("REPLICATION_PASSWORD_FILE", "repl pass\n"),
        ("PG_PARAMETERS_FILE", "auto_explain.log_min_duration = '10s'\n"),
    ] {
        assert!(files.contains(&file), "{file:?} is not in {files:?}");
    }
}

/// The package's template, reduced to the blocks.
fn rendered(template: &str, ours: &Value) -> Value {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_keep_trailing_newline(true);
    let mut shipped = String::new();
    for (section, block) in [
        ("scope", ""),
        ("name", ""),
        ("namespace", ""),
        ("etcd3", "store"),
        ("restapi", "restapi"),
        ("bootstrap", ""),
        ("postgresql", "postgresql"),
        ("tags", "tags"),
        ("watchdog", "watchdog"),
        ("log", "log"),
    ] {
        let mut text = format!("{section}:");
        match &ours[section] {
            Value::Object(map) => {
                for (key, value) in map.iter().filter(|(key, _)| *key != "parameters") {
                    text.extend(["\n  ", key, ": ", &value.to_string()]);
                }
            }
            other => text.extend([" ", &other.to_string()]),
        }
        text.push('\n');
        if section == "postgresql" {
            text += "{% block callbacks %}\n{% endblock %}\n  parameters:\n    unix_socket_directories: /var/run/postgresql\n";
        }
        if block.is_empty() {
            shipped += &text;
        } else {
            shipped.extend(["{% block ", block, " %}\n", &text, "{% endblock %}\n"]);
        }
    }
    shipped += "{% block ctl %}\n{% endblock %}\n{% block more %}\n{% endblock %}\n";
    environment.add_template_owned("shipped/patroni.yml.j2", shipped).unwrap();
    environment.add_template("patroni.yml.j2", template).unwrap();
    let values = json!({"cluster": "17/main", "restapi": {"username": "patroni", "password": "rest pass"}});
    parse(&environment.get_template("patroni.yml.j2").unwrap().render(values).unwrap())
}

fn fate<'r>(rows: &'r [Row], key: &str) -> &'r Fate {
    &rows.iter().find(|row| row.key == key).unwrap_or_else(|| panic!("{key} is not in {rows:#?}")).fate
}

#[test]
fn what_no_setting_expresses_is_kept_and_every_key_has_a_fate() {
    let (theirs, ours) = (parse(AUTOBASE), parse(OURS));
    let mapped = mapped(&theirs, &dynamic());
    let done = |key: &str| mapped.rows.iter().any(|row| row.key == key);
    let blocks = blocks(&theirs, &ours, &done);
    let names: Vec<&str> = blocks.iter().map(|block| block.name).collect();
    assert_eq!(names, ["restapi", "callbacks", "postgresql", "tags", "watchdog", "log", "more"]);
    let id: ClusterId = "17/main".parse().unwrap();
    let template = template(&id, "shipped/patroni.yml.j2", "/etc/patroni/patroni.yml", &blocks);
    assert!(!template.contains("rest pass"), "{template}");
    let file = rendered(&template, &ours);
    assert_eq!(file["restapi"]["listen"], "0.0.0.0:8009");
    assert_eq!(file["restapi"]["authentication"]["password"], "rest pass");
    assert_eq!(file["postgresql"]["parameters"]["archive_command"], "cp %p '/a b/{{ %f'");
    assert_eq!(file["citus"], json!({"group": 0, "database": "shop"}));
    let rows = judge(&theirs, &dynamic(), &file, &mapped, &blocks);
    assert!(rows.iter().all(|row| row.fate != Fate::Lost), "{rows:#?}");
    let template = |block: &str| Fate::Template(block.to_owned());
    assert_eq!(*fate(&rows, "restapi.listen"), template("restapi"));
    assert_eq!(*fate(&rows, "postgresql.callbacks.on_role_change"), template("callbacks"));
    assert_eq!(*fate(&rows, "postgresql.recovery_conf.restore_command"), template("postgresql"));
    assert_eq!(*fate(&rows, "tags.zone"), template("tags"));
    assert_eq!(*fate(&rows, "etcd3.hosts"), Fate::Setting("DCS, DCS_…".to_owned()));
    assert!(matches!(fate(&rows, "postgresql.pgbackrest"), Fate::Changed(_)));
    assert!(matches!(fate(&rows, "bootstrap.method"), Fate::Unused(_)));
    assert_eq!(*fate(&rows, "postgresql.use_pg_rewind in the DCS"), Fate::Dynamic(Some("true".to_owned())));
    assert_eq!(*fate(&rows, "master_start_timeout in the DCS"), Fate::Same);
    let added = added(&theirs, &file);
    assert!(added.contains(&"tags.site_key".to_owned()) && !added.iter().any(|key| key.starts_with("bootstrap")));
}

#[test]
fn what_would_change_is_found() {
    let theirs = parse(&AUTOBASE.replace("password: repl pass", "password: repl pass, sslmode: verify-full"));
    let ours = parse(&OURS.replace("/usr/lib/postgresql/17/bin", "/usr/lib/postgresql/16/bin"));
    let mapped = mapped(&theirs, &Value::Null);
    let rows = judge(&theirs, &Value::Null, &ours, &mapped, &[]);
    for key in ["postgresql.bin_dir", "postgresql.authentication.replication.sslmode", "restapi.listen", "tags.zone"] {
        assert_eq!(*fate(&rows, key), Fate::Lost, "{key}");
    }
    assert!(!mapped.lines.iter().any(|line| line.key == "SSL"));
}

#[test]
fn a_dcs_that_no_setting_expresses_is_kept_as_it_is() {
    let theirs = parse("etcd: {host: 'a:2379', retries: 3}\n");
    let ours = parse("etcd: {hosts: ['a:2379']}\n");
    let kept = blocks(&theirs, &ours, &|_| false);
    assert_eq!(kept.iter().map(|block| block.name).collect::<Vec<_>>(), ["store"]);
    // `host` is another name of `hosts`, http is the default, and an empty list is no list.
    let theirs = parse("consul: {host: 'a:8500', scheme: http, register_service: false, checks: []}\n");
    assert_eq!(blocks(&theirs, &parse("consul: {host: 'a:8500'}\n"), &|_| false), []);
}
