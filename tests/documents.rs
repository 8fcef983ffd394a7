//! The documents: their links lead somewhere, the programs understand the commands that they show, a system test runs them, and the
//! manual has every option.

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
    found.push(project().join("debian/patroni-tools-common.README.Debian"));
    found.sort();
    found.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The places at which the version and the day of a release are written.
#[test]
fn the_version_is_the_same_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    let read = |path: &str| fs::read_to_string(project().join(path)).unwrap();
    let changes = read("CHANGELOG.md");
    let newest = changes.lines().filter_map(|line| line.strip_prefix("## ")).find(|line| *line != "Unreleased");
    let package = read("debian/changelog");
    let upgrade = read("debian/patroni-tools.NEWS");
    let first = |text: &str| text.split(['(', ')']).nth(1).unwrap().to_owned();
    let signed = |text: &str| text.lines().find(|line| line.starts_with(" -- ")).unwrap().to_owned();
    let (_, date) = signed(&package).split_once(", ").map(|(who, date)| (who.to_owned(), date.to_owned())).unwrap();
    assert_eq!(first(&package), version, "debian/changelog");
    assert!(package.contains(&format!("patroni-tools ({})", first(&upgrade))), "debian/patroni-tools.NEWS");
    if first(&upgrade) == version {
        assert_eq!(signed(&upgrade), signed(&package), "debian/patroni-tools.NEWS");
    }
    // `28 Nov 2026`.
    let mut words = date.split(' ');
    let [day, month, year] = [(); 3].map(|()| words.next().unwrap());
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|name| *name == month).unwrap() + 1;
    assert_eq!(newest.unwrap(), format!("{version} ({year}-{month:02}-{day})"), "CHANGELOG.md");
    for (path, text) in documents() {
        for name in text.split("patroni-tools").filter_map(|rest| rest.trim_start_matches("-common").strip_prefix('_'))
        {
            if let Some((named, _)) = name.split_once("_amd64.deb") {
                assert_eq!(named, version, "{}", path.display());
            }
        }
    }
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

/// dpkg puts all of them into one folder. The small package may name those of the other one, which a host with a member has.
#[test]
fn every_link_of_an_installed_document_leads_to_an_installed_one() {
    let shipped = |package: &str| -> Vec<PathBuf> {
        let list = fs::read_to_string(project().join(format!("debian/{package}.docs"))).unwrap();
        list.lines().map(PathBuf::from).collect()
    };
    let (members, small) = (shipped("patroni-tools"), shipped("patroni-tools-common"));
    let mut wrong = Vec::new();
    for document in members.iter().chain(&small) {
        let text = fs::read_to_string(project().join(document)).unwrap_or_default();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            // The tests are for developers.
            if link.is_empty() || link.contains("://") || link.starts_with("../tests/") {
                continue;
            }
            let target = document.parent().unwrap().join(link);
            if !members.iter().any(|shipped| target.starts_with(shipped)) {
                wrong.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "these links lead to nothing that is installed: {wrong:#?}");
}

/// The programs whose commands the documents show, with the number of commands that are there at least.
const OURS: [(&str, usize); 3] =
    [("patroni-gen-config", 30), ("pg_adoptcluster_patroni", 5), ("pg_releasecluster_patroni", 3)];

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
    for (program, least) in OURS {
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
    for (program, _) in OURS {
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

/// Who runs the commands of a section.
enum Run {
    /// This system test, from the document itself.
    By(&'static str),
    /// Nobody, for this reason.
    Not(&'static str),
}

/// What is copied from another member is written in `README.md`, too.
const COPIED: Run = Run::Not("package.rs has one machine; README.md has the same commands, which readme.rs runs");
const SMALL: Run = Run::Not("patroni-tools-common.README.Debian has the same commands, which common.rs runs");
const PACKAGE_FILE: Run = Run::Not("the package as a file; the first step of the first cluster is the same command");
const ADOPTED: Run = Run::Not("docs/adopt.md has the same commands, which adopt_page.rs runs");
const NEEDS_HOST: Run = Run::Not("a developer's command, which boots machines itself");

/// Every block of commands: document, section, what it has in it, and who runs it.
const BLOCKS: &[(&str, &str, &str, Run)] = &[
    ("README.md", "Install", "", PACKAGE_FILE),
    ("README.md", "The first cluster", "", Run::By("readme.rs")),
    ("README.md", "A virtual IP address", "", Run::By("readme.rs")),
    ("README.md", "TLS", "", Run::By("readme.rs")),
    ("README.md", "Day-to-day operation", "", Run::By("readme.rs")),
    ("README.md", "Develop", "make demo", NEEDS_HOST),
    ("CONTRIBUTING.md", "Build the package", "make deb", NEEDS_HOST),
    ("CONTRIBUTING.md", "Tests", "cargo test", NEEDS_HOST),
    ("debian/README.Debian", "The first cluster", "scp ", COPIED),
    ("debian/README.Debian", "The first cluster", "", Run::By("package.rs")),
    ("debian/README.Debian", "One address for the clients", "", Run::By("package.rs")),
    ("debian/README.Debian", "An existing cluster", "", ADOPTED),
    ("debian/README.Debian", "Debian's own cluster \"main\"", "", Run::By("package.rs")),
    ("debian/README.Debian", "Upgrade, removal and purge", "pg_releasecluster_patroni", ADOPTED),
    ("debian/README.Debian", "Upgrade, removal and purge", "", Run::By("package.rs")),
    ("debian/README.Debian", "Hosts without PostgreSQL", "", SMALL),
    ("debian/patroni-tools-common.README.Debian", "HAProxy", "", Run::By("common.rs")),
    ("debian/patroni-tools-common.README.Debian", "etcd or Consul on hosts of their own", "", Run::By("common.rs")),
    ("debian/patroni-tools-common.README.Debian", "Check", "", Run::By("common.rs")),
    ("docs/adopt.md", "Packages and settings", "", Run::By("adopt_page.rs")),
    ("docs/adopt.md", "The primary", "", Run::By("adopt_page.rs")),
    ("docs/adopt.md", "The settings of the others", "", Run::By("adopt_page.rs")),
    ("docs/adopt.md", "The standby", "", Run::By("adopt_page.rs")),
    ("docs/adopt.md", "A new member", "", Run::By("adopt_page.rs")),
    ("docs/adopt.md", "The pending restart", "", Run::By("adopt_page.rs")),
    ("docs/adopt.md", "Give it back", "", Run::By("adopt_page.rs")),
    ("docs/benchmarks.md", "Benchmarks", "", NEEDS_HOST),
    (
        "docs/habits.md",
        "A new major version",
        "",
        Run::Not("no release of Debian has two major versions; release.rs and adopt.rs run the two ends"),
    ),
    ("docs/habits.md", "A restore", "", Run::By("habits.rs")),
    ("docs/habits.md", "Backups", "", Run::By("habits.rs")),
    ("docs/from-debian.md", "The package", "", Run::By("from_patroni.rs")),
    ("docs/from-debian.md", "The first member", "", Run::By("from_patroni.rs")),
    ("docs/from-debian.md", "The other members", "", Run::By("from_patroni.rs")),
    ("docs/from-debian.md", "The whole cluster", "", Run::By("from_patroni.rs")),
    ("docs/from-autobase.md", "The package", "", Run::By("from_patroni.rs")),
    ("docs/from-autobase.md", "The first member", "", Run::By("from_patroni.rs")),
    ("docs/from-autobase.md", "The other members", "", Run::By("from_patroni.rs")),
    ("docs/from-autobase.md", "The whole cluster", "", Run::By("from_patroni.rs")),
    ("docs/from-dnscp.sh.md", "A manual test run", "", Run::By("package.rs")),
    (
        "docs/from-dnscp.sh.md",
        "The script's scenarios",
        "New-ADComputer",
        Run::Not("PowerShell of a domain controller; the netns tests have Samba in its place"),
    ),
    ("docs/from-dnscp.sh.md", "The script's scenarios", "", Run::By("package.rs")),
    ("docs/monitoring.md", "Monitoring", "", Run::By("monitoring.rs")),
    ("docs/monitoring.md", "Nagios, Icinga and others", "", Run::By("monitoring.rs")),
    ("docs/monitoring.md", "Prometheus", "", Run::By("monitoring.rs")),
    ("docs/passwords.md", "New passwords for a running cluster", "", Run::By("settings.rs")),
    ("docs/passwords.md", "A new site key", "", Run::By("three_nodes.rs")),
    ("docs/passwords.md", "The CA and the gossip key of a new site key", "", Run::By("three_nodes.rs")),
    ("docs/stores.md", "etcd", "", Run::By("stores.rs")),
    ("docs/three-nodes.md", "Packages", "", Run::By("three_nodes.rs")),
    ("docs/three-nodes.md", "Settings and certificates", "", Run::By("three_nodes.rs")),
    ("docs/three-nodes.md", "etcd", "", Run::By("three_nodes.rs")),
    ("docs/three-nodes.md", "Or Consul", "", Run::By("three_nodes.rs")),
    ("docs/three-nodes.md", "Patroni", "", Run::By("three_nodes.rs")),
    ("docs/three-nodes.md", "HAProxy", "", Run::By("three_nodes.rs")),
    ("docs/three-nodes.md", "Check the result", "", Run::By("three_nodes.rs")),
    ("docs/three-nodes.md", "Replace a failed host", "", Run::By("three_nodes.rs")),
];

/// Tests that run all sections of a document, and need not name any.
const WHOLE: &[(&str, &str)] = &[
    ("README.md", "readme.rs"),
    ("docs/adopt.md", "adopt_page.rs"),
    ("docs/three-nodes.md", "three_nodes.rs"),
    ("docs/from-dnscp.sh.md", "package.rs"),
    ("docs/from-debian.md", "from_patroni.rs"),
    ("docs/from-autobase.md", "from_patroni.rs"),
    ("docs/monitoring.md", "monitoring.rs"),
];

/// The programs whose names begin a command in an indented block, which otherwise has settings or output.
const PROGRAMS: &[&str] = &[
    "apt",
    "apt-get",
    "cargo",
    "consul",
    "dnscp",
    "echo",
    "editor",
    "etcdctl",
    "install",
    "journalctl",
    "make",
    "patroni-gen-config",
    "patronictl",
    "pg_ctlcluster",
    "pg_dropcluster",
    "pg_lsclusters",
    "pg_patronictl",
    "psql",
    "runuser",
    "scp",
    "sudo",
    "sysctl",
    "systemctl",
    "target/debug/lab",
];

/// The blocks of commands, with their section: fenced as `sh` or `powershell`, behind a prompt, or indented.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let (mut section, mut previous) = (String::new(), "");
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(heading) = line.strip_prefix("## ").or_else(|| line.strip_prefix("# ")) {
            heading.clone_into(&mut section);
        } else if line.starts_with("---") {
            previous.clone_into(&mut section);
        } else if let Some(language) = line.strip_prefix("```").filter(|rest| !rest.contains('`')) {
            let code: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            if language.split(' ').next() != Some("text") {
                found.push((section.clone(), code.join("\n")));
            }
        } else if let Some(indent) = ["  # ", "    "].into_iter().find(|indent| line.starts_with(indent)) {
            let mut code = vec![&line[indent.len()..]];
            while let Some(line) = lines.next_if(|line| line.starts_with(indent)) {
                code.push(&line[indent.len()..]);
            }
            let begins = |line: &&&str| line.split_whitespace().next().is_some_and(|word| PROGRAMS.contains(&word));
            if indent == "  # " || code.iter().find(begins).is_some() {
                found.push((section.clone(), code.join("\n")));
            }
        }
        previous = line;
    }
    found
}

#[test]
fn every_block_of_commands_is_run_by_a_test() {
    let mut used = vec![false; BLOCKS.len()];
    let mut wrong = Vec::new();
    for (path, text) in documents() {
        let name = path.strip_prefix(project()).unwrap().to_str().unwrap().to_owned();
        // The changes name commands as they were, and those of the tests are for developers.
        if name == "CHANGELOG.md" || name.starts_with("tests/") {
            continue;
        }
        for (section, code) in blocks(&text) {
            let row = BLOCKS.iter().position(|row| row.0 == name && row.1 == section && code.contains(row.2));
            match row {
                Some(row) => used[row] = true,
                None => wrong.push(format!("{name}, {section}: nothing runs: {code}")),
            }
        }
    }
    for ((name, section, part, run), used) in BLOCKS.iter().zip(used) {
        if !used {
            wrong.push(format!("{name}, {section}: there are no commands with '{part}'"));
        }
        match run {
            Run::By(test) => {
                let code = fs::read_to_string(project().join("tests/system/tests").join(test)).unwrap();
                let section = section.replace('"', "\\\"");
                let named = WHOLE.contains(&(name, test)) || code.contains(&format!("\"{section}\""));
                if !code.contains(&format!("{name}\")")) || !named {
                    wrong.push(format!("{test} does not run {name}, {section}"));
                }
            }
            Run::Not(reason) => assert!(!reason.is_empty()),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
