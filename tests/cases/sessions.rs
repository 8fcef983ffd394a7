//! Runs the folders in `gen-config`, `pg_patronictl` and `postgresql-common`.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_yaml::Value;
use similar::TextDiff;

use crate::machine::{Machine, Tree, cases, tree};

fn all() -> Vec<PathBuf> {
    let programs = ["gen-config", "pg_patronictl", "postgresql-common"]
        .map(|program| fs::read_dir(cases().join(program)).unwrap());
    let mut folders: Vec<PathBuf> = programs.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

/// Runs a session: gives it with what really came out.
fn play(machine: &Machine, session: &str) -> String {
    let root = machine.root().display().to_string();
    let mut played = String::new();
    for line in session.lines() {
        if line.starts_with("## ") {
            let _ = writeln!(played, "{line}");
        }
        let Some(command) = line.strip_prefix("$ ") else { continue };
        let output = machine.shell(command);
        let _ = writeln!(played, "{line}");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&root, "ROOT");
        played += &text(&output.stdout);
        if !output.stdout.is_empty() && !output.stdout.ends_with(b"\n") {
            played += "(no line end)\n";
        }
        for line in text(&output.stderr).lines() {
            let _ = writeln!(played, "2> {line}");
        }
        match output.status.code() {
            Some(0) => {}
            Some(code) => _ = writeln!(played, "[{code}]"),
            None => _ = writeln!(played, "[{}]", output.status),
        }
    }
    played
}

fn difference(name: &str, expected: &[u8], found: &[u8]) -> String {
    let (expected, found) = (String::from_utf8_lossy(expected), String::from_utf8_lossy(found));
    TextDiff::from_lines(&*expected, &*found)
        .unified_diff()
        .header(&format!("{name} (expected)"), &format!("{name} (found)"))
        .to_string()
}

/// What a session changed, as files to put into expected/.
fn changes(before: &Tree, after: &Tree) -> Tree {
    let lock = Path::new("run/patroni-gen-config.lock");
    let changed = after.iter().filter(|(path, content)| before.get(*path) != Some(content) && path.as_path() != lock);
    changed.map(|(path, content)| (path.clone(), content.clone())).collect()
}

fn bless(case: &Path, session: &str, changes: &Tree) {
    fs::write(case.join("session"), session).unwrap();
    let expected = case.join("expected");
    if expected.exists() {
        fs::remove_dir_all(&expected).unwrap();
    }
    for (path, content) in changes {
        let path = expected.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// What is wrong with a case, nothing if all is as expected.
fn run(case: &Path) -> String {
    let session = fs::read_to_string(case.join("session")).unwrap();
    let machine = Machine::of(case);
    let before = machine.tree();
    let played = play(&machine, &session);
    let after = machine.tree();
    let changes = changes(&before, &after);
    if std::env::var_os("BLESS").is_some_and(|value| value == "1") {
        bless(case, &played, &changes);
    }
    let session = fs::read(case.join("session")).unwrap();
    let mut wrong = difference("session", &session, played.as_bytes());
    let expected = tree(&case.join("expected"));
    let nothing = Vec::new();
    for path in expected.keys().chain(changes.keys().filter(|path| !expected.contains_key(*path))) {
        let content = |tree: &Tree| tree.get(path).unwrap_or(&nothing).clone();
        wrong += &difference(&path.display().to_string(), &content(&expected), &content(&changes));
    }
    for path in before.keys().filter(|path| !after.contains_key(*path)) {
        let _ = writeln!(wrong, "{} is gone", path.display());
    }
    wrong + &modes(&machine, &changes)
}

/// Whatever the case: what we write is `root:postgres 0640`, the key `0600`.
fn modes(machine: &Machine, changes: &Tree) -> String {
    let mut wrong = String::new();
    for path in changes.keys().filter(|path| path.starts_with("etc/patroni")) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let metadata = machine.root().join(path).metadata().unwrap();
        let ours = Path::new(&name).extension().is_some_and(|extension| extension == "yml") && name != "dcs.yml";
        let mode = if name == "site.key" { 0o600 } else { 0o640 };
        if (ours || name == "site.key") && metadata.mode() & 0o7777 != mode {
            let _ = writeln!(wrong, "{} has mode {:04o}", path.display(), metadata.mode() & 0o7777);
        }
        // postgres has the group 117 in base/etc/group.
        if ours && nix::unistd::Uid::effective().is_root() && (metadata.uid(), metadata.gid()) != (0, 117) {
            let _ = writeln!(wrong, "{} belongs to {}:{}", path.display(), metadata.uid(), metadata.gid());
        }
    }
    wrong
}

#[test]
fn every_session_goes_as_written() {
    let mut cases = all();
    assert!(cases.len() > 40, "the cases are missing");
    if let Ok(wanted) = std::env::var("CASE") {
        cases.retain(|case| case.to_string_lossy().contains(&wanted));
        assert!(!cases.is_empty(), "no case has '{wanted}' in its name");
    }
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let wrong = run(case);
            if !wrong.is_empty() {
                failed.fetch_add(1, Ordering::Relaxed);
                eprintln!("{}:\n{wrong}", case.file_name().unwrap_or_default().to_string_lossy());
            }
        }
    };
    // Mostly waiting for the disk, so more threads than processors are of use.
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner();
    assert_eq!(failed, 0, "{failed} of {} cases failed", cases.len());
}

/// Empty values make Patroni ignore more than the key that has them, so that none may ever be written.
#[test]
fn no_expected_file_has_a_null_or_an_empty_list() {
    let mut seen = 0;
    for case in all() {
        for (path, content) in tree(&case.join("expected")) {
            let text = String::from_utf8(content).unwrap();
            let is_patroni_file = path.extension().is_some_and(|extension| extension == "yml");
            if !is_patroni_file || !text.starts_with("# Written by patroni-gen-config") {
                continue;
            }
            seen += 1;
            let place = format!("{}: {}", case.display(), path.display());
            let value: Value = serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{place}: {error}"));
            full(&value, &place);
        }
    }
    assert!(seen >= 5, "only {seen} files were looked at");
}

fn full(value: &Value, place: &str) {
    match value {
        Value::Null => panic!("{place} is null"),
        Value::Sequence(items) => {
            assert!(!items.is_empty(), "{place} is an empty list");
            for item in items {
                full(item, place);
            }
        }
        Value::Mapping(map) => {
            assert!(!map.is_empty(), "{place} is an empty mapping");
            for (key, value) in map {
                full(value, &format!("{place}: {}", key.as_str().unwrap_or("?")));
            }
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        Value::Tagged(_) => panic!("{place} has a tag"),
    }
}
