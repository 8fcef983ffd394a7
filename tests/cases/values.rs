//! Whatever is written into the settings comes out in the Patroni file as it was meant; nothing makes a reader panic.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use host::{ClusterId, Root, conf, envfile};
use serde_yaml::Value;

use crate::install::Random;
use crate::machine::Machine;
use crate::skip;

/// Characters that some reader on the way gives a meaning.
const TRICKY: &[&str] = &[
    "a", "Z", "0", "-", "_", ".", ":", ": ", "#", " #", "'", "\"", "\\", "$", "`", "&", "@", "%", "{", "}", "{{", "}}",
    "{%", "[", "]", ",", "!", "|", ">", "*", "?", "=", "~", "^", "<", "(", ")", ";", "é", "\u{85}", "\u{2028}", "日",
    "😀", "null", "true", "\\n", "\\x41", "\u{7f}", "- ",
];

fn text(random: &mut Random, pieces: &[&str], longest: u64) -> String {
    let count = 1 + random.below(longest);
    (0..count).map(|_| pieces[usize::try_from(random.below(pieces.len() as u64)).unwrap()]).collect()
}

/// How many cases a property gets: few for every few minutes, a million with `PROPERTY_CASES=1000000`.
fn cases() -> u64 {
    number("PROPERTY_CASES").unwrap_or(20_000)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

/// A generator of its own for each property. A failure comes again with `PROPERTY_SEED`.
fn random(property: u64) -> Random {
    let seed = number("PROPERTY_SEED").unwrap_or(1);
    eprintln!("PROPERTY_SEED={seed}");
    // Neighbouring seeds of this generator begin alike, and it has none from 0.
    let mut random = Random((seed.wrapping_mul(1000).wrapping_add(property)).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    (0..9).for_each(|_| _ = random.next());
    random
}

/// Any text: characters that mean something somewhere, and every other that there is.
fn any_text(random: &mut Random) -> String {
    let mut made = String::new();
    for _ in 0..random.below(12) {
        match random.below(8) {
            0 => made.push(char::from(u8::try_from(random.below(128)).unwrap())),
            1 => made.extend(char::from_u32(u32::try_from(random.below(0x3000)).unwrap())),
            2 => made.extend(char::from_u32(u32::try_from(random.below(0x11_0000)).unwrap())),
            3 => made.extend(char::from_u32(0xFFE0 + u32::try_from(random.below(0x40)).unwrap())),
            4 => {
                made +=
                    ["\n", "\t", " ", "  ", "\r", "\0", "\r\n", "\n\n  "][usize::try_from(random.below(8)).unwrap()];
            }
            _ => made += &text(random, TRICKY, 3),
        }
    }
    made
}

fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    path.iter().try_fold(value, |value, key| value.get(key))?.as_str()
}

/// Runs the program on `machine` and reads what it wrote as Patroni would.
fn written(machine: &Machine) -> Result<Value, String> {
    let _ = std::fs::remove_file(machine.path("etc/patroni/16-main.yml"));
    let output = machine.run(&["16/main"]);
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(serde_yaml::from_str(&machine.read("etc/patroni/16-main.yml")).unwrap())
}

#[test]
fn any_member_name_comes_out_as_it_went_in() {
    let machine = Machine::base();
    let mut random = random(1);
    for _ in 0..60 {
        let name = text(&mut random, TRICKY, 8);
        machine.write("etc/default/patroni", format!("MEMBER_NAME={}\n", envfile::quote(&name)));
        match written(&machine) {
            Ok(yaml) => assert_eq!(at(&yaml, &["name"]), Some(name.as_str())),
            Err(error) => {
                let refused = name.contains(|c: char| c.is_whitespace() || c.is_control()) || name.starts_with('-');
                assert!(refused, "{name:?}: {error}");
            }
        }
    }
}

/// Every setting of a store that takes any text, and every file with a secret.
#[test]
fn any_text_of_a_store_comes_out_as_it_went_in() {
    let machine = Machine::base();
    let mut random = random(2);
    for round in 0..90 {
        let (user, secret) = (text(&mut random, TRICKY, 12), text(&mut random, TRICKY, 12));
        let end = if round % 2 == 0 { "\n" } else { "" };
        machine.write("etc/patroni/secret", format!("{secret}{end}"));
        let directory = format!("/srv/{}", text(&mut random, TRICKY, 8));
        // A file with this name, for the certificate.
        let name = format!("{}.pem", text(&mut random, TRICKY, 8));
        machine.write(&format!("etc/patroni/tls/{name}"), "a certificate\n");
        let certificate = format!("/etc/patroni/tls/{name}");
        let quote = envfile::quote;
        let user = user.replace(':', ".");
        let digest = format!("{user}:{secret}");
        let (settings, meant) = match round % 4 {
            0 => (
                format!(
                    "DCS_USERNAME={}\nDCS_PASSWORD_FILE=/etc/patroni/secret\nDCS_CACERT={}\n",
                    quote(&user),
                    quote(&certificate)
                ),
                vec![("etcd3 username", &user), ("etcd3 password", &secret), ("etcd3 cacert", &certificate)],
            ),
            1 => ("DCS=consul\nDCS_TOKEN_FILE=/etc/patroni/secret\n".to_owned(), vec![("consul token", &secret)]),
            2 => (
                format!("DCS=zookeeper\nDCS_USERNAME={}\nDCS_PASSWORD_FILE=/etc/patroni/secret\n", quote(&user)),
                vec![("zookeeper auth_data digest", &digest)],
            ),
            _ => (
                format!("DCS=raft\nRAFT_DATA_DIR={}\nDCS_PASSWORD_FILE=/etc/patroni/secret\n", quote(&directory)),
                vec![("raft data_dir", &directory), ("raft password", &secret)],
            ),
        };
        machine.write("etc/default/patroni", settings);
        let yaml = written(&machine).unwrap_or_else(|error| panic!("{meant:?}: {error}"));
        let masked = machine.run(&["16/main", "--dry-run"]).stdout;
        let masked: Value = serde_yaml::from_slice(&masked).unwrap();
        for (path, meant) in meant {
            let path: Vec<&str> = path.split(' ').collect();
            assert_eq!(at(&yaml, &path), Some(meant.as_str()), "{path:?}");
            // Nor may the masked output have a secret.
            if *meant == secret || *meant == digest {
                let shown = at(&masked, &path[..2]);
                assert!(shown.is_some_and(|shown| shown.starts_with("(secret ")), "{path:?}: {shown:?}");
            }
        }
    }
}

#[test]
fn any_password_of_dcs_yml_comes_out_as_it_went_in() {
    let machine = Machine::base();
    let mut random = random(3);
    for _ in 0..60 {
        let password = text(&mut random, TRICKY, 12);
        let yaml = serde_json::json!({"etcd3": {"host": "10.0.0.1:2379", "username": "u", "password": password}});
        machine.write("etc/patroni/dcs.yml", serde_yaml::to_string(&yaml).unwrap());
        let yaml = written(&machine).unwrap_or_else(|error| panic!("{password:?}: {error}"));
        assert_eq!(at(&yaml, &["etcd3", "password"]), Some(password.as_str()));
    }
}

/// What is written into a settings file, piece by piece.
const PIECES: &[&str] = &[
    "A", "B", "=", "\n", " ", "\t", "#", "\"", "'", "\\", "\\\n", "x", "y z", "$", "`", ";", "&", "|", "(", "*", "~",
    "é", "/", ",", ":", "[", "!", "\\\"", "\\$", "\\\\", "%", "^", "{a,b}", "export ", "0", "-", "\\x", "\\a", "\\'",
];

/// Lines that look like settings, more or less.
fn settings(random: &mut Random) -> String {
    let mut file = String::new();
    for _ in 0..=random.below(2) {
        let quote = ["", "", "\"", "'"][usize::try_from(random.below(4)).unwrap()];
        let key = ["A", "B", "KEY", "# A", " A", "A "][usize::try_from(random.below(6)).unwrap()];
        let _ = write!(file, "{key}={quote}{}{quote}", text(random, PIECES, 4));
        file += ["\n", "\n", "\n", " \n", "\\\n", "", " # x\n"][usize::try_from(random.below(7)).unwrap()];
    }
    file
}

/// A settings file that we accept means the same to a shell, byte for byte.
#[test]
fn what_the_reader_accepts_a_shell_reads_alike() {
    let mut random = random(4);
    let folder = tempfile::tempdir().unwrap();
    let (mut script, mut expected, mut accepted) = (String::new(), String::new(), 0);
    for round in 0..15_000 {
        let text = settings(&mut random);
        let Ok(assignments) = envfile::parse("/f", &text) else { continue };
        if assignments.is_empty() {
            continue;
        }
        accepted += 1;
        let file = folder.path().join(round.to_string());
        std::fs::write(&file, &text).unwrap();
        let _ = write!(script, "unset A B KEY; . {}; printf '%s:' {round}", file.display());
        let _ = write!(expected, "{round}:");
        for key in ["A", "B", "KEY"] {
            let value = assignments.iter().rev().find(|assignment| assignment.key == key);
            let _ = write!(script, "; printf '<%s>' \"${{{key}-unset}}\"");
            let _ = write!(expected, "<{}>", value.map_or("unset", |assignment| assignment.value.as_str()));
        }
        script += "; echo\n";
        expected += "\n";
    }
    assert!(accepted > 1000, "only {accepted} files were accepted");
    let file = folder.path().join("script");
    std::fs::write(&file, script).unwrap();
    let output = Command::new("sh").arg(&file).env("LC_ALL", "C.UTF-8").current_dir(folder.path()).output().unwrap();
    let found = String::from_utf8_lossy(&output.stdout);
    for (found, expected) in found.split_inclusive('\n').zip(expected.split_inclusive('\n')) {
        let number = expected.split(':').next().unwrap_or_default();
        let text = std::fs::read_to_string(folder.path().join(number)).unwrap_or_default();
        assert_eq!(found, expected, "{text:?} (sh, reader)");
    }
    assert_eq!(found, expected);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_is_quoted_comes_back() {
    let mut random = random(5);
    for _ in 0..cases() {
        let value = any_text(&mut random);
        if value.contains(['\0', '\r']) {
            continue;
        }
        let parsed = envfile::parse("/f", &format!("A={}\n", envfile::quote(&value))).unwrap();
        assert_eq!(parsed[0].value, value);
    }
}

#[test]
fn no_bytes_make_a_reader_panic() {
    let mut random = random(6);
    let folder = tempfile::tempdir().unwrap();
    let root = Root::new(folder.path());
    for round in 0..cases() / 2 {
        let length = random.below(60);
        let bytes: Vec<u8> = if round % 2 == 0 {
            (0..length).map(|_| u8::try_from(random.below(256)).unwrap()).collect()
        } else {
            (settings(&mut random) + &text(&mut random, PIECES, 9)).into_bytes()
        };
        let text = String::from_utf8_lossy(&bytes);
        let _ = envfile::parse("/f", &text);
        let _ = patroni_tools::files::yaml::Yaml::parse(Path::new("/x.yml"), &text).map(|yaml| {
            let _ = (yaml.first_empty(), yaml.port("postgresql"), yaml.text(&["a"]));
        });
        if let Ok(id) = text.parse::<ClusterId>() {
            assert_eq!(id.slashed().parse::<ClusterId>().unwrap(), id);
            assert_eq!(id.dashed().parse::<ClusterId>().unwrap(), id);
        }
        if round % 10 == 0 {
            std::fs::write(folder.path().join("x.conf"), &bytes).unwrap();
            let _ = conf::read(&root, "/x.conf");
            let _ = host::facts::parse_address(&text).map(|address| host::facts::host_port(address, 1));
        }
    }
}

/// How many texts one file has: few in the first, which Patroni's own, slow reader reads, too.
const BATCHES: [usize; 2] = [500, 10_000];

/// The verdict of `PyYAML` on files: from stdin lines of "READER<TAB>FILE<TAB>FILE WITH WHAT IS MEANT", the latter as JSON.
const PYYAML: &str = "
import json, sys, yaml
count = 0
for line in sys.stdin:
    reader, name, meant = line.rstrip('\\n').split('\\t')
    with open(name, 'rb') as file:
        written = yaml.load(file, getattr(yaml, reader, yaml.SafeLoader))
    with open(meant, encoding='utf-8') as file:
        meant = json.load(file)
    found = written['consul']['checks'] if 'consul' in written else list(written['zookeeper']['set_acls'])
    if len(found) != len(meant):
        sys.exit(f'{name}: {len(found)} texts in place of {len(meant)}')
    for one, other in zip(found, meant):
        if one != other:
            sys.exit(f'{name}: {ascii(one)} in place of {ascii(other)}')
    count += len(found)
print(count)
";

/// A text of YAML that needs no knowledge of what YAML finds printable.
fn yaml_ascii(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            other => _ = write!(quoted, "\\U{:08x}", u32::from(other)),
        }
    }
    quoted.push('"');
    quoted
}

/// Writes one file from `texts`, by `dcs.yml` or by a setting, and gives what our reader has to say; what is meant is
/// in `meant.json`.
fn batch(machine: &Machine, by_setting: bool, texts: &[String]) {
    let _ = std::fs::remove_file(machine.path("etc/default/patroni"));
    let mut meant: Vec<String> = texts.to_vec();
    if by_setting {
        // Keys of a mapping, in order, separated by ';': what a setting can have, but for that and blanks at its ends.
        meant = texts
            .iter()
            .enumerate()
            .map(|(number, text)| format!("CN={number},O={}.", text.replace([';', '\0', '\r'], "")))
            .collect();
        meant.sort();
        let settings = format!(
            "DCS=zookeeper\nDCS_CERT=/etc/group\nDCS_KEY=/etc/group\nZOOKEEPER_ACL={}\n",
            envfile::quote(&meant.join(";"))
        );
        machine.write("etc/default/patroni", settings);
    } else {
        let checks: Vec<String> = texts.iter().map(|text| yaml_ascii(text)).collect();
        machine.write("etc/patroni/dcs.yml", format!("consul: {{host: 'a:1', checks: [{}]}}\n", checks.join(",")));
    }
    let yaml = written(machine).unwrap_or_else(|error| panic!("{error}"));
    let found: Vec<String> = if by_setting {
        let acl = yaml["zookeeper"]["set_acls"].as_mapping().unwrap();
        acl.keys().map(|key| key.as_str().unwrap().to_owned()).collect()
    } else {
        let checks = yaml["consul"]["checks"].as_sequence().unwrap();
        checks.iter().map(|check| check.as_str().unwrap_or_else(|| panic!("{check:?}")).to_owned()).collect()
    };
    for (found, meant) in found.iter().zip(&meant) {
        assert_eq!(found, meant);
    }
    assert_eq!(found.len(), meant.len());
    machine.write("meant.json", serde_json::to_string(&meant).unwrap());
}

/// From a setting or from `dcs.yml` through the whole program into the file, which Patroni's reader and ours read alike.
#[test]
fn any_text_is_the_same_for_patroni() {
    let python = Command::new("python3").args(["-c", "import yaml"]).output();
    if !python.is_ok_and(|output| output.status.success()) {
        return skip("any_text_is_the_same_for_patroni", "python3-yaml is missing");
    }
    let mut random = random(8);
    let mut batches = Vec::new();
    let mut left = usize::try_from(cases()).unwrap();
    while left > 0 {
        let size = BATCHES[usize::from(batches.len() >= 2)].min(left);
        batches.push((0..size).map(|_| any_text(&mut random)).collect::<Vec<String>>());
        left -= size;
    }
    let (next, read) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((number, texts)) = {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    batches.get(usize::try_from(number).unwrap()).map(|texts| (number, texts))
                } {
                    let machine = Machine::base();
                    batch(&machine, number % 2 == 1, texts);
                    let reader = if number < 2 { "SafeLoader" } else { "CSafeLoader" };
                    read.fetch_add(pyyaml(&machine, reader), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(read.into_inner(), cases());
}

/// What `PyYAML` finds in the file of `machine` is what is meant; gives how many texts that are.
fn pyyaml(machine: &Machine, reader: &str) -> u64 {
    let mut python = Command::new("python3")
        .args(["-c", PYYAML])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let files = ["etc/patroni/16-main.yml", "meant.json"].map(|file| machine.path(file).display().to_string());
    writeln!(python.stdin.take().unwrap(), "{reader}\t{}\t{}", files[0], files[1]).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
}

/// The program itself on random settings: it says what is wrong and exits 1, or writes a file; nothing else.
#[test]
fn the_program_never_panics_on_random_settings() {
    let machine = Machine::base();
    let mut random = random(7);
    let keys: Vec<&str> = host::settings::KEYS.iter().map(|key| key.name).collect();
    let values = [
        "0",
        "1",
        "30",
        "-1",
        "yes",
        "no",
        "10.0.0.1",
        "fd00::1",
        "/",
        "/etc/group",
        ",",
        " ",
        "\u{e9}",
        "a",
        ":",
        "[",
        "]",
    ];
    for _ in 0..150 {
        let mut file = String::new();
        for _ in 0..=random.below(3) {
            let key = keys[usize::try_from(random.below(keys.len() as u64)).unwrap()];
            let _ = writeln!(file, "{key}={}", envfile::quote(&text(&mut random, &values, 3)));
        }
        machine.write("etc/default/patroni", &file);
        let output = machine.run(&["16/main", "--dry-run"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{file}: {said}");
        assert!(!said.contains("panicked"), "{file}: {said}");
        if output.status.code() == Some(1) {
            let known = ["/etc/default/patroni:", "PostgreSQL "].iter().any(|known| said.contains(known));
            assert!(known, "{file}does not say where: {said}");
        }
    }
}
