//! The documents: their links lead somewhere, the programs understand the commands that they show, and the manual has every option.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Every document with its text.
fn documents() -> Vec<(PathBuf, String)> {
    let folders = ["", "docs", "tests", "tests/cases", "tests/launcher"].map(|folder| project().join(folder));
    let mut found: Vec<PathBuf> = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    found.push(project().join("debian/README.Debian"));
    found.sort();
    found.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The name of a heading in a link, as GitHub and GitLab make it.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrong = Vec::new();
    for (path, text) in documents() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, heading) = link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let has = |heading: &str| {
                let text = fs::read_to_string(&target).unwrap_or_default();
                text.lines().any(|line| line.starts_with('#') && anchor(line) == heading)
            };
            if !target.exists() || heading.is_some_and(|heading| !has(heading)) {
                wrong.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "these links lead nowhere: {wrong:#?}");
}

/// The programs whose commands the documents show, with the number of commands that are there at least.
const PROGRAMS: [(&str, usize); 2] = [("patroni-gen-config", 30), ("pg_adoptcluster_patroni", 5)];

fn ours(program: &str) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("patroni-tools"));
    command.arg0(program);
    command
}

/// The commands of a program in code: between backticks, indented, or in a block.
fn commands(program: &str, text: &str) -> Vec<String> {
    let quoted = text.split('`').filter(|piece| !piece.contains('\n'));
    let mut in_block = false;
    let lines = text.lines().filter_map(|line| {
        in_block ^= line.starts_with("```");
        let code = line.strip_prefix("    ").or_else(|| line.strip_prefix("  # ")).or(in_block.then_some(line))?;
        Some(code.trim())
    });
    quoted
        .chain(lines)
        .filter_map(|code| code.strip_prefix(program)?.strip_prefix(' '))
        .map(|words| {
            // Without what stands beside it, and with a version in place of the shell's.
            let words = words.split("  ").next().unwrap_or_default().split(" | ").next().unwrap_or_default();
            words.replace("$V", "17").replace("$(ls /usr/lib/postgresql)", "17")
        })
        .filter(|words| !words.contains("PROGRAM"))
        .collect()
}

#[test]
fn every_command_is_understood() {
    let empty = tempfile::tempdir().unwrap();
    for (program, least) in PROGRAMS {
        let mut seen = 0;
        for (path, text) in documents() {
            // The changes name commands as they were.
            if path.ends_with("CHANGELOG.md") {
                continue;
            }
            for command in commands(program, &text) {
                // In an empty folder it can do nothing. A command that it does not understand has a status of its own.
                let output = ours(program)
                    .env_clear()
                    .env("PATRONI_TOOLS_ROOT", empty.path())
                    .args(command.split_whitespace())
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&output.stderr);
                assert_ne!(output.status.code(), Some(2), "{}: {program} {command}: {said}", path.display());
                seen += 1;
            }
        }
        assert!(seen > least, "the documents have only {seen} commands of {program}");
    }
}

#[test]
fn every_option_is_in_the_manual() {
    for (program, _) in PROGRAMS {
        let manual = fs::read_to_string(project().join(format!("docs/man/{program}.8.scd"))).unwrap();
        let help = ours(program).arg("--help").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(help.contains("--help"), "{program}: {help}");
        for option in help.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').filter(|word| word.starts_with("--"))
        {
            assert!(manual.contains(&format!("*{option}*")), "{program}(8) lacks {option}");
        }
    }
}
