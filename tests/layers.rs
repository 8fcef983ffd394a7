//! Which room of the code may import which, so that the layout of `docs/design.md` stays: the `use` lines are held against the table
//! there.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

/// No room has a larger share of the code than this.
const LARGEST: f64 = 0.25;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// The table: a room, and what it may import. A room is a crate, or a folder or file at the top of `crates/patroni-tools/src`.
fn allowed() -> BTreeMap<String, BTreeSet<String>> {
    let design = fs::read_to_string(project("docs/design.md")).unwrap();
    let rows = design.lines().skip_while(|line| !line.starts_with("| room |")).skip(2);
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    rows.take_while(|line| line.starts_with('|'))
        .map(cells)
        .map(|cells| (names(&cells[0]).into_iter().next().unwrap(), names(&cells[1])))
        .collect()
}

/// Every source file, with the room that it is in.
fn files() -> Vec<(String, PathBuf, String)> {
    let mut found = Vec::new();
    for entry in WalkDir::new(project("crates")).into_iter().flatten() {
        let path = entry.into_path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let inside = path.strip_prefix(project("crates")).unwrap().to_str().unwrap().to_owned();
        let words: Vec<&str> = inside.split('/').collect();
        if inside == "patroni-tools/src/lib.rs" {
            continue;
        }
        let room = match words.as_slice() {
            ["patroni-tools", "src", room, ..] => room.trim_end_matches(".rs").to_owned(),
            [room, ..] => (*room).to_owned(),
            [] => continue,
        };
        let text = fs::read_to_string(&path).unwrap();
        // What a test imports goes nowhere.
        let text = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
        found.push((room, path, text));
    }
    assert!(found.len() > 100, "{}", found.len());
    found
}

/// The paths below a prefix that a text names, by their first word: of `crate::a::b`, and of `crate::{a::b, c}`, both `a` and `c`.
fn named<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = String> + 'a {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    text.match_indices(prefix).flat_map(move |(at, _)| {
        let rest = &text[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => vec![word(rest)],
            Some(list) => {
                let mut depth = 0;
                let top: String = list
                    .chars()
                    .take_while(|c| {
                        depth += i32::from(*c == '{') - i32::from(*c == '}');
                        depth >= 0
                    })
                    .collect();
                let mut depth = 0;
                let parts = top.split(|c| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    c == ',' && depth == 0
                });
                parts.map(|part| word(part.trim())).collect()
            }
        }
    })
}

fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn a_room_imports_what_the_design_lets_it() {
    let allowed = allowed();
    let mut faults = Vec::new();
    for (room, path, text) in files() {
        let Some(may) = allowed.get(&room) else {
            faults.push(format!("{room} is not in the table ({})", path.display()));
            continue;
        };
        let code = code_lines(&text).collect::<Vec<_>>().join("\n");
        let mut rooms: BTreeSet<String> = BTreeSet::new();
        for krate in ["host", "dnscp", "patroni_tools"] {
            let names = code.match_indices(krate).any(|(at, _)| {
                let before = code[..at].chars().next_back();
                code[at + krate.len()..].starts_with("::")
                    && !before.is_some_and(|c| c.is_alphanumeric() || "_:".contains(c))
            });
            let own = path.components().any(|part| part.as_os_str() == krate.replace('_', "-").as_str());
            match krate {
                "patroni_tools" if names => rooms.extend(named(&code, "patroni_tools::")),
                _ if names && !own => drop(rooms.insert(krate.to_owned())),
                _ => {}
            }
        }
        if path.starts_with(project("crates/patroni-tools")) {
            rooms.extend(named(&code, "crate::"));
        }
        for other in rooms.iter().filter(|other| **other != room && !may.contains(*other)) {
            faults.push(format!("{room} imports {other} ({})", path.display()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A room stands in the table below all that import it.
#[test]
fn the_design_has_no_circle() {
    let allowed = allowed();
    let mut below: BTreeSet<&str> = BTreeSet::new();
    while below.len() < allowed.len() {
        let next: Vec<&str> = allowed
            .iter()
            .filter(|(room, may)| {
                !below.contains(room.as_str()) && may.iter().all(|other| below.contains(other.as_str()))
            })
            .map(|(room, _)| room.as_str())
            .collect();
        assert!(!next.is_empty(), "these import each other, or something that is no room: {:?}", {
            allowed.keys().filter(|room| !below.contains(room.as_str())).collect::<Vec<_>>()
        });
        below.extend(next);
    }
}

#[test]
fn no_room_is_larger_than_a_quarter() {
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
    for (room, path, _) in files() {
        *lines.entry(room).or_default() += fs::read_to_string(path).unwrap().lines().count();
    }
    let all: usize = lines.values().sum();
    for (room, lines) in lines {
        #[allow(clippy::cast_precision_loss)]
        let share = lines as f64 / all as f64;
        assert!(share <= LARGEST, "{room} is {:.0} % of the code", share * 100.0);
    }
}

/// A module does not import its parent: what both need has a place of its own.
#[test]
fn a_file_imports_no_file_that_imports_it() {
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    for (_, path, text) in files() {
        let Ok(inside) = path.strip_prefix(project("crates/patroni-tools/src")) else { continue };
        let module = inside.to_str().unwrap().trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
        texts.insert(module, code_lines(&text).collect::<Vec<_>>().join("\n"));
    }
    let mut imports: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (module, code) in &texts {
        // A parent uses its children by their names.
        let children = code.lines().filter_map(|line| line.strip_suffix(';')?.rsplit_once("mod "));
        let mut seen: BTreeSet<String> = children.map(|(_, child)| format!("{module}::{child}")).collect();
        for statement in code.split(';').filter_map(|statement| statement.trim().strip_prefix("use crate::")) {
            let (path, list) = statement.split_once('{').unwrap_or((statement, ""));
            for word in list.trim_end_matches('}').split(',').map(str::trim) {
                // The module that has it: what is behind that is an item in it.
                let mut item = format!("{path}{word}");
                while !texts.contains_key(&item) && !item.is_empty() {
                    item.truncate(item.rfind("::").unwrap_or_default());
                }
                seen.insert(item);
            }
        }
        seen.retain(|other| other != module && texts.contains_key(other));
        imports.insert(module, seen);
    }
    let mut stack: Vec<Vec<&str>> = imports.keys().map(|module| vec![*module]).collect();
    let mut done: BTreeSet<(&str, &str)> = BTreeSet::new();
    while let Some(way) = stack.pop() {
        let (first, last) = (way[0], *way.last().unwrap_or(&""));
        for next in &imports[last] {
            assert!(next != first, "these files import each other: {}", way.join(" -> "));
            if done.insert((first, next)) {
                stack.push([way.as_slice(), &[next.as_str()]].concat());
            }
        }
    }
}
