//! The Patronis that run on this host: their processes, files and data directories.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use host::Root;

use crate::files::yaml::Yaml;

/// A process that runs Patroni.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// The user that runs it.
    pub(crate) user: u32,
    /// The file or directory on its command line.
    pub(crate) file: Option<PathBuf>,
}

/// What a Patroni was told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) scope: Option<String>,
    pub(crate) data: Option<PathBuf>,
}

/// The processes that run Patroni on this host, those of one user or of all; those in containers have other process numbers and
/// directories, and are left out. Any user can call a process so.
pub(crate) fn all(root: &Root, of: Option<u32>) -> Vec<Process> {
    let entries = std::fs::read_dir(root.path("/proc")).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut found: Vec<Process> = pids.filter_map(|pid| read(root, pid, of)).collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// Those that run with a file, perhaps by way of a link.
pub(crate) fn with_file(root: &Root, file: &Path) -> Vec<Process> {
    let real = root.path(file).canonicalize().ok();
    let is_it = |other: &Path| other == file || real.is_some() && root.path(other).canonicalize().ok() == real;
    let mut found = all(root, None);
    found.retain(|process| process.file.as_deref().is_some_and(is_it));
    found
}

fn read(root: &Root, pid: u32, of: Option<u32>) -> Option<Process> {
    let directory = root.path(format!("/proc/{pid}"));
    let user = directory.metadata().ok()?.uid();
    if of.is_some_and(|of| of != user) {
        return None;
    }
    let line = std::fs::read(directory.join("cmdline")).ok()?;
    let words: Vec<&OsStr> = line.split(|byte| *byte == 0).map(OsStr::from_bytes).collect();
    let argument = argument(&words)?;
    let namespace = |process: &str| std::fs::read_link(root.path(format!("/proc/{process}/ns/pid"))).ok();
    if matches!((namespace("self"), namespace(&pid.to_string())), (Some(own), Some(other)) if own != other) {
        return None;
    }
    let current = || std::fs::read_link(directory.join("cwd")).unwrap_or_else(|_| "/".into());
    let file = (argument != Path::new("")).then(|| current().join(argument));
    Some(Process { pid, user, file })
}

/// The argument of Patroni, if the command line is Patroni's: `python3 /usr/bin/patroni FILE`, `python3 -m patroni FILE`, or a program
/// `patroni` that needs no interpreter; empty without a file. Calls that only print or check something do not count.
fn argument<'w>(words: &'w [&'w OsStr]) -> Option<&'w Path> {
    const ONLY_PRINT: [&str; 7] =
        ["--version", "--help", "-h", "--validate-config", "--generate-config", "--generate-sample-config", "--print"];
    let name = |word: &OsStr| Path::new(word).file_name().and_then(OsStr::to_str).unwrap_or_default().to_owned();
    let is_program = |word: &OsStr| ["patroni", "patroni.py"].contains(&name(word).as_str());
    let (first, mut rest) = words.split_first()?;
    if !is_program(first) {
        if !name(first).starts_with("python") {
            return None;
        }
        loop {
            let (word, after) = rest.split_first()?;
            rest = after;
            match word.to_str() {
                Some("-m") if rest.first().is_some_and(|module| *module == "patroni") => {
                    rest = &rest[1..];
                    break;
                }
                Some("-mpatroni") => break,
                // Options of Python that have a value (`python3 --help`).
                Some("-W" | "-X") => rest = rest.split_first()?.1,
                Some("-m" | "-c" | "-") => return None,
                Some(option) if option.starts_with('-') => {}
                _ if is_program(word) => break,
                _ => return None,
            }
        }
    }
    if rest.iter().any(|word| ONLY_PRINT.iter().any(|option| word == option)) {
        return None;
    }
    let mut words = rest.iter().filter(|word| !word.is_empty() && !word.as_bytes().starts_with(b"-"));
    Some(Path::new(words.next().copied().unwrap_or_default()))
}

impl Process {
    /// What it was told by its file or directory, or else by a document in its environment, and by the variables that override both
    /// (`Config.__init__` and `load_config_path` in `patroni/config.py`). The file is read as postgres could.
    pub(crate) fn told(&self, root: &Root) -> Told {
        let directory = root.path(format!("/proc/{}", self.pid));
        let environment = std::fs::read(directory.join("environ")).unwrap_or_default();
        let variable = |name: &str| {
            let mut words = environment.split(|byte| *byte == 0);
            let value = words.find_map(|word| word.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
            Some(String::from_utf8_lossy(value).into_owned()).filter(|value| !value.is_empty())
        };
        let documents = match &self.file {
            Some(file) if root.path(file).exists() => documents(root, file),
            _ => variable("PATRONI_CONFIGURATION")
                .map(|text| (PathBuf::from("PATRONI_CONFIGURATION"), text))
                .into_iter()
                .collect(),
        };
        let mut told = Told::default();
        for yaml in documents.iter().filter_map(|(file, text)| Yaml::parse(file, text).ok()) {
            told.scope = yaml.text(&["scope"]).or(told.scope);
            told.data = yaml.text(&["postgresql", "data_dir"]).map(PathBuf::from).or(told.data);
        }
        let data = variable("PATRONI_POSTGRESQL_DATA_DIR").map(PathBuf::from).or(told.data);
        let current = std::fs::read_link(directory.join("cwd")).unwrap_or_else(|_| "/".into());
        Told { scope: variable("PATRONI_SCOPE").or(told.scope), data: data.map(|data| current.join(data)) }
    }
}

/// The documents of a Patroni that was started with this file, or with a directory of files.
fn documents(root: &Root, file: &Path) -> Vec<(PathBuf, String)> {
    let reader = root.for_postgres();
    let files = if root.path(file).is_dir() {
        let names = reader.list(file).unwrap_or_default();
        names
            .iter()
            .filter(|name| matches!(Path::new(name).extension().and_then(OsStr::to_str), Some("yml" | "yaml")))
            .map(|name| file.join(name))
            .collect()
    } else {
        vec![file.to_owned()]
    };
    files.into_iter().filter_map(|file| reader.read(&file).ok().flatten().map(|text| (file, text))).collect()
}

/// The unit of systemd that runs a process. The name of a unit in the tree of a user's own systemd says nothing about the host's.
pub(crate) fn unit(root: &Root, pid: u32) -> Option<String> {
    let group = control_group(root, pid)?;
    let unit = group.split('/').rfind(|part| part.ends_with(".service"))?;
    (!group.starts_with("/user.slice/")).then(|| unit.to_owned())
}

/// The control group of a process, as `/proc/PID/cgroup` shows it: that by which systemd knows units with version 1, or else that of version
/// 2. A host may have mounted the tree that systemd does not use; everything is at its root.
pub(crate) fn control_group(root: &Root, pid: u32) -> Option<String> {
    let text = std::fs::read_to_string(root.path(format!("/proc/{pid}/cgroup"))).ok()?;
    let group = |start: &str| {
        let found = text.lines().find_map(|line| line.split_once(start).map(|(_, group)| group.to_owned()));
        found.filter(|group| group != "/")
    };
    group(":name=systemd:").or_else(|| group("0::"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn argument_of(line: &str) -> Option<String> {
        let words: Vec<&OsStr> = line.split(' ').map(OsStr::new).collect();
        argument(&words).map(|file| file.display().to_string())
    }

    #[test]
    fn a_control_group_is_that_of_systemd() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        std::fs::create_dir_all(root.path("/proc/7")).unwrap();
        let unit_of = |text: &str| {
            std::fs::write(root.path("/proc/7/cgroup"), text).unwrap();
            unit(&root, 7)
        };
        let unit = Some("x.service".to_owned());
        assert_eq!(unit_of("0::/system.slice/x.service\n"), unit);
        assert_eq!(unit_of("1:name=systemd:/system.slice/x.service\n"), unit);
        assert_eq!(unit_of("4:memory:/\n1:name=systemd:/system.slice/x.service\n0::/system.slice/x.service\n"), unit);
        assert_eq!(unit_of("9:name=systemd:/\n4:memory:/y.service\n0::/system.slice/x.service\n"), unit);
        assert_eq!(unit_of("9:name=systemd:/\n0::/\n"), None);
    }

    #[test]
    fn the_command_line_of_patroni_is_recognized() {
        let file = Some("/etc/patroni/config.yml".to_owned());
        for start in [
            "/usr/bin/python3 /usr/bin/patroni",
            "/usr/bin/python3 /usr/libexec/patroni-tools/patroni",
            "/opt/venv/bin/python -u -W ignore /opt/venv/bin/patroni",
            "python3.13 -m patroni",
            "python3 -mpatroni",
            "python3 /opt/patroni/patroni.py",
            "/opt/patroni/patroni",
        ] {
            assert_eq!(argument_of(&format!("{start} /etc/patroni/config.yml ")), file, "{start}");
            assert_eq!(argument_of(&format!("{start} --ignore-listen-port /etc/patroni/config.yml")), file, "{start}");
            assert_eq!(argument_of(start).as_deref(), Some(""), "{start}");
            assert_eq!(argument_of(&format!("{start} --validate-config /etc/patroni/config.yml")), None, "{start}");
        }
        for other in [
            "vim /etc/patroni",
            "find /etc/patroni -name x",
            "/usr/bin/python3 /usr/bin/patronictl -c /etc/patroni/config.yml list",
            "python3 -c x /usr/bin/patroni",
            "python3 -m pdb /usr/bin/patroni",
            "python3",
            "postgres: patroni /x",
            "",
        ] {
            assert_eq!(argument_of(other), None, "{other}");
        }
    }
}
