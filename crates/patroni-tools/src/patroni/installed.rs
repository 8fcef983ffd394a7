//! The Patroni that `patroni@` starts: Debian's, one that pip has put before it, or that of `PATRONI_PROGRAM`.
//!
//! If only Debian's is installed, its files say everything. Otherwise Python decides which one it imports and which modules that one finds, so the
//! unit's own launcher is asked, as postgres.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use host::settings::{SITE_FILE, Settings};
use host::trouble::Explain;
use host::{Root, fail, program};

use crate::patroni::paths::HOOKS;
use crate::patroni::release::Version;

/// The directory of Debian's Python modules.
pub(crate) const PACKAGES: &str = "/usr/lib/python3/dist-packages";

/// Where pip installs modules for all users and for postgres, in a directory for each version of Python.
const OF_PIP: [(&str, &str); 2] =
    [("/var/lib/postgresql/.local/lib", "site-packages"), ("/usr/local/lib", "dist-packages")];

/// The setting that names another Patroni.
pub(crate) const KEY: &str = "PATRONI_PROGRAM";

/// How long it may take to ask.
const LIMIT: Duration = Duration::from_secs(5);

/// The modules about which something depends.
const MODULES: [&str; 5] = ["etcd", "consul", "kazoo", "pysyncobj", "urllib3"];

/// What may be done to find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Only files are read.
    Files,
    /// Programs are run, too.
    Programs,
}

/// A Patroni that Python could find.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    /// The directory in which Python finds it.
    pub(crate) directory: PathBuf,
    /// Its release.
    pub(crate) version: Option<Version>,
}

/// What the launcher says about the Patroni that it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) version: Version,
    /// The directory in which Python finds it.
    pub(crate) directory: PathBuf,
    modules: Vec<(String, String)>,
}

impl About {
    /// The version of a module that it can import; `-` if that is unknown.
    pub(crate) fn module(&self, name: &str) -> Option<&str> {
        self.modules.iter().find(|(module, _)| module == name).map(|(_, version)| version.as_str())
    }
}

/// The program or Python that the setting names, and where it is set.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) path: PathBuf,
    pub(crate) place: String,
}

/// The Patroni that the setting names.
pub(crate) fn chosen(root: &Root) -> Result<Option<Chosen>> {
    let settings = Settings::read_site(root)?;
    let Some(path) = settings.path(KEY)? else { return Ok(None) };
    settings.parse(KEY, |_| {
        if root.path(&path).is_file() {
            return Ok(());
        }
        fail!("{} does not exist", path.display(); "Name the program 'patroni' of another Patroni, or remove {KEY}.");
    })?;
    Ok(Some(Chosen { path, place: settings.place(&[KEY]) }))
}

/// The Patronis that `/usr/bin/python3` could import, in the order in which it searches.
pub(crate) fn copies(root: &Root) -> Vec<Copy> {
    // `python3` is a link to `python3.13`; another version does not find the modules of this one.
    let link = std::fs::read_link(root.path("/usr/bin/python3")).unwrap_or_default();
    let current =
        link.file_name().and_then(|name| name.to_str()).filter(|name| name.starts_with("python3.")).map(str::to_owned);
    let reader = root.for_postgres();
    let mut directories = Vec::new();
    for (library, packages) in OF_PIP {
        let names = reader.list(library).unwrap_or_default();
        let fits =
            |name: &String| name.starts_with("python3") && current.as_ref().is_none_or(|current| current == name);
        directories
            .extend(names.iter().filter(|name| fits(name)).map(|name| Path::new(library).join(name).join(packages)));
    }
    directories.push(PACKAGES.into());
    let there = |directory: PathBuf| {
        let text = reader.read(directory.join("patroni/version.py")).ok()??;
        // `__version__ = '4.0.7'`; the docstring above it contains quotes, too.
        let assigned = text.lines().find_map(|line| line.strip_prefix("__version__"));
        let version = assigned.and_then(|line| line.split(['"', '\'']).nth(1)).and_then(Version::parse);
        Some(Copy { directory, version })
    };
    directories.into_iter().filter_map(there).collect()
}

/// Is there no Patroni on this host, as on one that only has HAProxy or a DCS? A setting of the site may name one that the members have.
pub(crate) fn is_absent(root: &Root) -> bool {
    copies(root).is_empty() && !root.path("/usr/bin/patroni").exists() && !matches!(chosen(root), Ok(Some(_)))
}

/// Is Debian's Patroni the only one, so that files say everything?
pub(crate) fn only_debians(root: &Root) -> bool {
    let another = copies(root).iter().any(|copy| copy.directory != Path::new(PACKAGES));
    !another && matches!(Settings::read_site(root).map(|settings| settings.get(KEY).is_some()), Ok(false) | Err(_))
}

/// Asks the launcher. The answer is kept, because Python takes a tenth of a second to start.
pub(crate) fn ask(root: &Root) -> Result<About> {
    static ANSWER: Mutex<Option<(PathBuf, About)>> = Mutex::new(None);
    let key = root.path("/");
    let mut known = ANSWER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((_, about)) = known.as_ref().filter(|(root, _)| *root == key && cfg!(not(test))) {
        return Ok(about.clone());
    }
    let place = chosen(root).ok().flatten().map_or_else(String::new, |chosen| chosen.place);
    let about = ask_now(root, !place.is_empty()).at(place)?;
    *known = Some((key, about.clone()));
    Ok(about)
}

fn ask_now(root: &Root, chosen: bool) -> Result<About> {
    let path = Path::new(HOOKS).join("patroni");
    let mut command = program::at(&root.path(&path));
    command.env_remove("PYTHONPATH").env_remove("PYTHONHOME").env_remove("HOME").arg("--about").args(MODULES);
    program::as_postgres(root, &mut command)?;
    let output = program::output_within(&mut command, "", LIMIT)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = program::last_line(&said).unwrap_or_default();
        let what = match last.strip_prefix("<3>patroni-tools: ") {
            Some(ours) => ours.to_owned(),
            None => format!("Patroni cannot be started ({last})"),
        };
        if chosen {
            fail!("{what}"; "Correct {KEY} in {SITE_FILE}. For details, run: runuser -u postgres -- {} --about", path.display());
        }
        fail!("{what}"; "See: runuser -u postgres -- {} --about", path.display());
    }
    parse(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| format!("{} --about has printed something else than expected", path.display()))
        .or_hint(|| format!("See: runuser -u postgres -- {} --about", path.display()))
}

fn parse(text: &str) -> Option<About> {
    let mut lines = text.lines();
    let mut first = lines.next()?.splitn(3, ' ');
    let (name, version, directory) = (first.next()?, Version::parse(first.next()?)?, Path::new(first.next()?));
    let modules =
        lines.filter_map(|line| line.split_once(' ')).map(|(name, version)| (name.to_owned(), version.to_owned()));
    let directory = directory.parent()?.to_owned();
    (name == "patroni").then(|| About { version, directory, modules: modules.collect() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use host::trouble::Trouble;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn write(root: &Root, path: &str, text: &str) {
        let path = root.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn install(root: &Root, packages: &str, version: &str) {
        let text = format!("\"\"\"This module specifies the 'current' version.\"\"\"\n__version__ = '{version}'\n");
        write(root, &format!("{packages}/patroni/version.py"), &text);
    }

    #[test]
    fn pythons_own_order_decides() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        assert!(copies(&root).is_empty() && only_debians(&root));
        install(&root, PACKAGES, "3.0.2");
        assert!(only_debians(&root));
        install(&root, "/usr/local/lib/python3.11/dist-packages", "4.1.5");
        install(&root, "/usr/local/lib/python3.13/dist-packages", "4.0.7");
        let versions = || copies(&root).iter().map(|copy| copy.version.unwrap().to_string()).collect::<Vec<_>>();
        assert_eq!(versions(), ["4.1.5", "4.0.7", "3.0.2"]);
        std::fs::create_dir_all(root.path("/usr/bin")).unwrap();
        symlink("python3.13", root.path("/usr/bin/python3")).unwrap();
        assert_eq!(versions(), ["4.0.7", "3.0.2"]);
        assert!(!only_debians(&root));
        std::fs::remove_file(root.path("/usr/bin/python3")).unwrap();
        symlink("python3.12", root.path("/usr/bin/python3")).unwrap();
        assert!(only_debians(&root), "the others are those of another Python");
        write(&root, "/etc/default/patroni", "PATRONI_PROGRAM=/opt/patroni/bin/patroni\n");
        assert!(!only_debians(&root));
        let error = chosen(&root).unwrap_err();
        assert!(format!("{error:#}").contains("/opt/patroni/bin/patroni does not exist"), "{error:#}");
        write(&root, "/opt/patroni/bin/patroni", "");
        let chosen = chosen(&root).unwrap().unwrap();
        assert_eq!(
            (chosen.path.as_path(), chosen.place.as_str()),
            (Path::new("/opt/patroni/bin/patroni"), "/etc/default/patroni:1")
        );
    }

    #[test]
    fn the_launcher_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
        write(&root, "/etc/passwd", &format!("postgres:x:{user}:{group}::/:/bin/sh\n"));
        write(&root, "/etc/group", &format!("postgres:x:{group}:\n"));
        let launcher = "/usr/libexec/patroni-tools/patroni";
        assert!(ask(&root).is_err());
        let say = |script: &str| {
            std::fs::create_dir_all(root.path(launcher).parent().unwrap()).unwrap();
            // Another process writes it, so that no process of another test has it open for writing.
            let write = "cat > \"$0\" && chmod 755 \"$0\"";
            let mut command = std::process::Command::new("sh");
            let mut child = command
                .arg("-c")
                .arg(write)
                .arg(root.path(launcher))
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
            assert!(child.wait().unwrap().success());
            assert_eq!(root.path(launcher).metadata().unwrap().permissions().mode() & 0o777, 0o755);
        };
        say("#!/bin/sh\necho patroni 4.1.5 /opt/my patroni/patroni\necho kazoo 2.8.0\necho consul -\n");
        let about = ask(&root).unwrap();
        assert_eq!(
            (about.version.to_string().as_str(), about.directory.as_path()),
            ("4.1.5", Path::new("/opt/my patroni"))
        );
        assert_eq!(
            [about.module("kazoo"), about.module("consul"), about.module("etcd")],
            [Some("2.8.0"), Some("-"), None]
        );
        say("#!/bin/sh\necho Traceback >&2\necho \"No module named 'patroni'\" >&2\nexit 1\n");
        assert_eq!(
            Trouble::of(&ask(&root).unwrap_err()).line(),
            "Patroni cannot be started (No module named 'patroni')"
        );
        say("#!/bin/sh\necho something else\n");
        assert!(ask(&root).is_err());
    }
}
