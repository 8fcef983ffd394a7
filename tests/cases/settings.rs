//! The table of settings is the source: the shipped file is generated from it, the manual states its defaults, and each of these
//! is what the program does without the setting.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use host::envfile;
use host::settings::{KEYS, Key, Origin, Settings};

use crate::machine::Machine;

fn path(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn project_file(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

const SHIPPED: &str = "debian/patroni.default";

const HEAD: &str = "\
# Settings of all Patroni clusters of this host, read by patroni-gen-config(8). They are explained in patroni.default(5).
#
# After a change, run:  patroni-gen-config diff 16/main   and then   patroni-gen-config 16/main
# To set a key for one cluster only, put it in /etc/default/patroni@16-main. That file has the same format and takes precedence.
#
# The format is KEY=value; sh and systemd read it alike, and nothing is substituted. Never put a secret here: a key that ends
# in _FILE names the file that contains it.
#
# A commented setting shows its default. If the line above it ends with \"Example:\", it shows an example instead.
";

/// The first key of a section, and its heading.
const SECTIONS: &[(&str, &str)] = &[
    ("DCS", "The DCS, in which the members agree which of them is the primary"),
    ("MEMBER_NAME", "This member and its network"),
    ("SITE_KEY_FILE", "The site key"),
    ("RESTAPI_PORT", "The REST API and patronictl"),
    (
        "TTL",
        "The Patroni cluster. Written to the DCS when the cluster is bootstrapped; later: patroni-gen-config apply 16/main",
    ),
    ("PG_TUNE", "PostgreSQL"),
    ("SSL", "TLS and authentication of PostgreSQL"),
    ("NOFAILOVER", "This member in the Patroni cluster"),
    ("LOCALE", "A new cluster"),
    ("CLONE_MAX_RATE", "A new replica"),
    ("VIPS", "The client endpoint: a virtual IP address and a DNS name that follow the primary; see dnscp(8)"),
    ("HAPROXY_WRITE_PORT", "Programs around the cluster; see patroni-gen-config(8), INTEGRATIONS"),
    ("ETCD_CERT", "A DCS that runs on the members"),
];

/// Keys of the form `PG_name` are in no table.
const PARAMETERS: &str = "\
# Any parameter of PostgreSQL: PG_ and its name in lower case. Example:
#PG_max_connections=200
";

/// In single quotes if a shell would do something with it.
fn written(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/.,:=_-".contains(&b);
    if value.bytes().all(plain) { value.to_owned() } else { format!("'{value}'") }
}

fn shipped() -> String {
    let mut text = HEAD.to_owned();
    for key in KEYS {
        if let Some((_, heading)) = SECTIONS.iter().find(|(first, _)| *first == key.name) {
            let _ = writeln!(text, "\n### {heading}");
        }
        if key.name == "PG_TUNE" {
            text += PARAMETERS;
        }
        let mark = if key.default.is_some() { "" } else { " Example:" };
        let _ = writeln!(text, "# {}{mark}\n#{}={}", key.meaning, key.name, written(key.sample));
    }
    text
}

#[test]
fn the_shipped_file_is_generated_from_the_table() {
    let generated = shipped();
    if std::env::var_os("BLESS").is_some_and(|value| value == "1") {
        std::fs::write(path(SHIPPED), &generated).unwrap();
    }
    assert_eq!(project_file(SHIPPED), generated, "BLESS=1 generates {SHIPPED}");
    for (first, heading) in SECTIONS {
        assert!(KEYS.iter().any(|key| key.name == *first), "{heading} begins at no key");
    }
}

/// The shipped file with every setting in force.
fn uncommented() -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(|c: char| c.is_ascii_uppercase()) => format!("{setting}\n"),
        _ => format!("{line}\n"),
    };
    project_file(SHIPPED).lines().map(line).collect()
}

#[test]
fn the_shipped_file_is_valid_with_every_line_in_force() {
    let mut settings = Settings::default();
    for assignment in envfile::parse("/f", &uncommented()).unwrap() {
        settings.put(&assignment.key, assignment.value, Origin::Option("shipped")).unwrap();
    }
    for key in KEYS {
        assert_eq!(settings.text(key.name), Some(key.sample));
    }
    assert_eq!(settings.number("TTL", 20, 100).unwrap(), Some(30));
}

#[test]
fn a_shell_reads_the_shipped_file_alike() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("patroni");
    let mut script = uncommented();
    for key in KEYS {
        let _ = writeln!(script, "printf '%s\\n' \"${}\"", key.name);
    }
    std::fs::write(&file, script).unwrap();
    let output = Command::new("sh").env_clear().arg(&file).output().unwrap();
    let expected: Vec<&str> = KEYS.iter().map(|key| key.sample).collect();
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().collect::<Vec<_>>(), expected);
}

/// What the manual says about a key: the paragraphs below its heading.
fn paragraphs<'m>(manual: &'m str, key: &Key) -> Option<&'m str> {
    let name = format!("*{}*", key.name);
    let heading = manual.lines().find(|line| line.starts_with('*') && line.split(", ").any(|part| part == name))?;
    // Without an empty line before it, it would be a part of the paragraph above.
    let (_, text) = manual.split_once(&format!("\n\n{heading}\n\t"))?;
    Some(["\n\n*", "\n\n#"].iter().fold(text, |text, end| text.split_once(end).map_or(text, |(own, _)| own)))
}

#[test]
fn the_manual_explains_every_key_and_states_its_default() {
    let manual = project_file("docs/man/patroni.default.5.scd");
    for key in KEYS {
        let text = paragraphs(&manual, key).unwrap_or_else(|| panic!("patroni.default(5) lacks {}", key.name));
        let stated = text.replace('\n', " ").replace('\t', "");
        let Some((_, stated)) = stated.split_once("Default: ") else {
            panic!("patroni.default(5) states no default of {}", key.name)
        };
        if let Some(default) = key.default {
            assert!(stated.contains(&format!("*{default}*")), "{}: the default is {default}, not {stated}", key.name);
        }
    }
}

/// The settings without which a key may not be set.
fn context(key: &str) -> &'static [&'static str] {
    match key {
        "DCS_VERIFY" => &["DCS=consul", "DCS_PROTOCOL=https"],
        "CONSUL_REGISTER_SERVICE" => &["DCS=consul"],
        "STANDBY_PORT" => &["STANDBY_HOST=10.0.3.9"],
        "SYNCHRONOUS_MODE_STRICT" | "SYNCHRONOUS_NODE_COUNT" => &["SYNCHRONOUS_MODE=yes"],
        "KUBERNETES_NAMESPACE" | "KUBERNETES_LABELS" | "KUBERNETES_USE_ENDPOINTS" => &["DCS=kubernetes"],
        "LOG_FILE_NUM" | "LOG_FILE_SIZE" => &["LOG_DIR=/etc"],
        key if key.starts_with("VIP_") => &["VIPS=10.0.3.100/24"],
        _ => &[],
    }
}

/// Defaults of Patroni and of the clone hook, which are written only if they are set.
const OF_OTHERS: &[(&str, &str)] = &[
    ("DCS_VERIFY", "verify: true"),
    ("KUBERNETES_NAMESPACE", "namespace: \"default\""),
    ("KUBERNETES_USE_ENDPOINTS", "use_endpoints: false"),
    ("FAILOVER_PRIORITY", "failover_priority: 1"),
    ("WATCHDOG_DEVICE", "device: \"/dev/watchdog\""),
    ("LOG_LEVEL", "level: \"INFO\""),
    ("LOG_FORMAT", "format: \"%(asctime)s %(levelname)s: %(message)s\""),
    ("LOG_FILE_NUM", "file_num: 4"),
    ("LOG_FILE_SIZE", "file_size: 25000000"),
    ("CLONE_CHECKPOINT", "checkpoint: \"fast\""),
];

#[test]
fn a_default_that_is_set_changes_nothing() {
    let machine = Machine::base();
    std::fs::create_dir_all(machine.path("usr/bin")).unwrap();
    // All that PgBouncer is asked for here is a version.
    std::os::unix::fs::symlink("/bin/echo", machine.path("usr/bin/pgbouncer")).unwrap();
    let members = "MEMBERS=pg1=10.0.3.141,pg2=10.0.3.142,pg3=10.0.3.143";
    let show = |verb: &[&str], settings: &[&str]| {
        let set = settings.iter().flat_map(|setting| ["--set", setting]);
        let words: Vec<&str> = verb.iter().copied().chain(set).collect();
        let output = machine.run(&words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    };
    for key in KEYS {
        let Some(default) = key.default else { continue };
        let verb: &[&str] = match key.name {
            name if name.starts_with("HAPROXY_") => &["for", "haproxy", "16/main", "--dry-run"],
            name if name.starts_with("PGBOUNCER_") => &["for", "pgbouncer", "16/main", "--dry-run"],
            "ETCD_STATE" => &["for", "etcd", "--dry-run"],
            // With certificates only: three-nodes.md is run as a test.
            "ETCD_CERT" | "ETCD_KEY" | "CONSUL_CERT" | "CONSUL_KEY" => continue,
            _ => &["show", "16/main"],
        };
        let mut settings = vec![members];
        if key.name.starts_with("PGBOUNCER_") {
            settings.push("VIPS=10.0.3.100/24");
        }
        settings.extend(context(key.name));
        let without = show(verb, &settings);
        let setting = format!("{}={default}", key.name);
        settings.push(&setting);
        let mut with = show(verb, &settings);
        if let Some((_, line)) = OF_OTHERS.iter().find(|(name, _)| *name == key.name) {
            let others = with.lines().filter(|with| with.trim() != *line).flat_map(|line| [line, "\n"]).collect();
            assert_ne!(std::mem::replace(&mut with, others), with, "{setting}: {line} is not written");
        }
        // The header names the options, and the section log is there only for its keys.
        let content = |line: &&str| !line.starts_with('#') && *line != "log:";
        let same = |text: &str| text.lines().filter(content).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(same(&with), same(&without), "{setting}");
    }
}
