//! The crates that are linked into the programs: under which licences, and from where.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// `NAME LICENCE-EXPRESSION` of each crate that the package links, with what is only needed to build it.
fn linked() -> Vec<(String, String)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = Command::new(cargo)
        .args(["tree", "--offline", "--locked", "--package", "patroni-tools", "--package", "dnscp"])
        .args(["--edges", "normal,build", "--prefix", "none", "--format", "{p}\t{l}"])
        .current_dir(project())
        .output()
        .unwrap();
    assert!(tree.status.success(), "cargo tree: {}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).unwrap();
    let lines: BTreeSet<(String, String)> = text
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(package, licence)| {
            (package.split(' ').next().unwrap_or_default().to_owned(), licence.trim_end_matches(" (*)").to_owned())
        })
        .collect();
    lines.into_iter().filter(|(_, licence)| !licence.is_empty()).collect()
}

/// The words in quotes of `NAME = [ … ]` in deny.toml.
fn listed(text: &str, name: &str) -> BTreeSet<String> {
    let after = text.split_once(&format!("\n{name} = [")).unwrap_or_else(|| panic!("deny.toml has no {name}")).1;
    after.split_once(']').unwrap().0.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Is there a way to take the crate by licences of the list alone? (SPDX; `/` is the old word for OR.)
fn allowed(expression: &str, list: &BTreeSet<String>) -> bool {
    let one =
        |part: &str| part.trim_matches(['(', ')', ' ']).split(" WITH ").next().is_some_and(|name| list.contains(name));
    expression.replace('/', " OR ").split(" AND ").all(|part| part.split(" OR ").any(one))
}

#[test]
fn every_linked_crate_has_a_licence_of_deny_toml() {
    let text = std::fs::read_to_string(project().join("deny.toml")).unwrap();
    let list = listed(&text, "allow");
    let linked = linked();
    assert!(linked.len() > 40, "{linked:?}");
    let others: Vec<_> = linked.iter().filter(|(_, licence)| !allowed(licence, &list)).collect();
    assert!(others.is_empty(), "not in deny.toml: {others:?}");
    assert!(allowed("(MIT OR GPL-3.0) AND Unicode-3.0", &list) && allowed("GPL-2.0/MIT", &list));
    assert!(!allowed("GPL-3.0", &list) && !allowed("MIT AND GPL-3.0", &list));
}

#[test]
fn every_crate_comes_from_the_registry() {
    let lock = std::fs::read_to_string(project().join("Cargo.lock")).unwrap();
    let from: BTreeSet<&str> = lock.lines().filter_map(|line| line.strip_prefix("source = ")).collect();
    assert!(from.iter().all(|source| source.starts_with("\"registry+")) && from.len() == 1, "{from:?}");
    let packages = lock.split("[[package]]").filter(|package| package.contains("source = "));
    assert!(packages.clone().count() > 40 && packages.clone().all(|package| package.contains("checksum = ")));
}
