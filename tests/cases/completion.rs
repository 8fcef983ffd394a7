//! The completions offer what `--help` lists.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::machine::Machine;

/// What bash offers for the last of some words of patroni-gen-config.
fn completed(words: &[&str]) -> Vec<String> {
    completed_by("patroni-gen-config", words)
}

/// The same for any program.
fn completed_by(program: &str, words: &[&str]) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../debian").join(format!("{program}.completion"));
    let function = format!("_{}", program.replace('-', "_"));
    let script = r#". "$0"; function=$1; shift; COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        $function; printf '%s\n' "${COMPREPLY[@]}""#;
    let output =
        Command::new("bash").args(["-c", script]).arg(file).args([&function, program]).args(words).output().unwrap();
    assert!(output.stderr.is_empty(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    let mut offered: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    offered.sort();
    offered
}

/// The words that begin the lines of a part of `--help`.
fn listed(help: &str, heading: &str) -> Vec<String> {
    let (_, part) = help.split_once(&format!("\n{heading}:\n")).unwrap();
    let lines = part.lines().take_while(|line| line.is_empty() || line.starts_with(' '));
    let mut words: Vec<String> = lines
        .filter_map(|line| {
            let words = line.split_whitespace().find(|word| !word.ends_with(','))?;
            let option =
                words.strip_prefix("--").is_some_and(|name| name.starts_with(|c: char| c.is_ascii_lowercase()));
            (heading != "Options" || option).then(|| words.to_owned())
        })
        .collect();
    words.sort();
    words
}

#[test]
fn each_verb_is_completed_with_its_own_options() {
    let machine = Machine::base();
    let help = |words: &[&str]| String::from_utf8(machine.run(words).stdout).unwrap();
    let verbs: Vec<String> = listed(&help(&["-h"]), "Commands").into_iter().filter(|verb| verb != "help").collect();
    let first = completed(&[""]);
    for verb in &verbs {
        assert!(first.contains(verb), "{verb}");
        let mut offered = completed(&[verb, "-"]);
        // Other names of --dcs and --dry-run.
        let is_other =
            |option: &str| ["--store", "--stdout"].contains(&option) || (verb == "apply" && option == "--diff");
        offered.retain(|option| !is_other(option));
        assert_eq!(offered, listed(&help(&[verb, "-h"]), "Options"), "{verb}");
    }
}

#[test]
fn a_verb_that_is_an_option_is_completed_alike() {
    for (words, meant) in [
        (&["16/main", "--check", "-"] as &[&str], &["check", "-"]),
        (&["--for", ""], &["for", ""]),
        (&["--stdout", "16/main", "-"], &["show", "-"]),
        (&["for", "haproxy", "--diff", "-"], &["for", "-"]),
    ] {
        assert_eq!(completed(words), completed(meant), "{words:?}");
    }
    assert_eq!(completed(&["--rot"]), ["--rotate"]);
    assert_eq!(completed(&["for", "haproxy", "--mem"]), ["--members-from-cluster"]);
    for words in [&["check", "--format", "n"] as &[&str], &["check", "--format", "=", "n"]] {
        assert_eq!(completed(words), ["nagios"], "{words:?}");
    }
    assert_eq!(completed(&["check", "--format", "="]), ["json", "nagios", "prometheus", "text"]);
}

#[test]
fn an_adoption_is_completed_with_all_options() {
    let program = "pg_adoptcluster_patroni";
    let ours = assert_cmd::cargo::cargo_bin!("patroni-tools");
    let help = Command::new(ours).arg0(program).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert_eq!(completed_by(program, &["-"]), listed(&help, "Options"));
}
