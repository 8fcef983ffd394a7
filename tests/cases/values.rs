//! Whatever is written into the settings comes out in the Patroni file as it was meant; nothing makes a reader panic.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde_yaml::Value;
use site::{ClusterId, Root, conf, envfile};

use crate::install::Random;
use crate::machine::Machine;

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
    let mut random = Random(1);
    for _ in 0..60 {
        let name = text(&mut random, TRICKY, 8);
        machine.write("etc/default/patroni", format!("MEMBER_NAME={}\n", envfile::quote(&name)));
        match written(&machine) {
            Ok(yaml) => assert_eq!(at(&yaml, &["name"]), Some(name.as_str())),
            Err(error) => assert!(name.contains(char::is_whitespace), "{name:?}: {error}"),
        }
    }
}

#[test]
fn any_password_of_the_store_comes_out_as_it_went_in() {
    let machine = Machine::base();
    machine.write("etc/default/patroni", "DCS_USERNAME=patroni\nDCS_PASSWORD_FILE=/etc/patroni/password\n");
    let mut random = Random(2);
    for round in 0..60 {
        let password = text(&mut random, TRICKY, 12);
        let end = if round % 2 == 0 { "\n" } else { "" };
        machine.write("etc/patroni/password", format!("{password}{end}"));
        let yaml = written(&machine).unwrap_or_else(|error| panic!("{password:?}: {error}"));
        assert_eq!(at(&yaml, &["etcd3", "password"]), Some(password.as_str()));
        // Nor may the masked output have it.
        let masked = machine.run(&["16/main", "--dry-run"]).stdout;
        let masked: Value = serde_yaml::from_slice(&masked).unwrap();
        assert!(at(&masked, &["etcd3", "password"]).is_some_and(|shown| shown.starts_with("(secret ")));
    }
}

#[test]
fn any_password_of_dcs_yml_comes_out_as_it_went_in() {
    let machine = Machine::base();
    let mut random = Random(3);
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
    let mut random = Random(4);
    let folder = tempfile::tempdir().unwrap();
    let (mut script, mut expected, mut accepted) = (String::new(), String::new(), 0);
    for round in 0..15_000 {
        let text = settings(&mut random);
        let Ok(assignments) = envfile::parse(&text) else { continue };
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
    let mut random = Random(5);
    for _ in 0..20_000 {
        let value = text(&mut random, TRICKY, 20);
        let parsed = envfile::parse(&format!("A={}\n", envfile::quote(&value))).unwrap();
        assert_eq!(parsed[0].value, value);
    }
}

#[test]
fn no_bytes_make_a_reader_panic() {
    let mut random = Random(6);
    let folder = tempfile::tempdir().unwrap();
    let root = Root::new(folder.path());
    for round in 0..10_000 {
        let length = random.below(60);
        let bytes: Vec<u8> = if round % 2 == 0 {
            (0..length).map(|_| u8::try_from(random.below(256)).unwrap()).collect()
        } else {
            (settings(&mut random) + &text(&mut random, PIECES, 9)).into_bytes()
        };
        let text = String::from_utf8_lossy(&bytes);
        let _ = envfile::parse(&text);
        let _ = patroni_tools::yaml::Yaml::parse(Path::new("/x.yml"), &text).map(|yaml| {
            let _ = (yaml.first_empty(), yaml.port("postgresql"), yaml.text(&["a"]));
        });
        if let Ok(id) = text.parse::<ClusterId>() {
            assert_eq!(id.slashed().parse::<ClusterId>().as_ref(), Ok(&id));
            assert_eq!(id.dashed().parse::<ClusterId>().as_ref(), Ok(&id));
        }
        if round % 10 == 0 {
            std::fs::write(folder.path().join("x.conf"), &bytes).unwrap();
            let _ = conf::read(&root, "/x.conf");
            let _ = site::facts::parse_address(&text).map(|address| site::facts::host_port(address, 1));
        }
    }
}

/// The program itself on random settings: it says what is wrong and exits 1, or writes a file; nothing else.
#[test]
fn the_program_never_panics_on_random_settings() {
    let machine = Machine::base();
    let mut random = Random(7);
    let keys: Vec<&str> = site::settings::KEYS.iter().map(|key| key.name).collect();
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
