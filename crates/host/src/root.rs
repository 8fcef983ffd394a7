//! The root directory of the machine: `/` in production, a folder in tests.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::files::{LARGE, Named, Opener, not_utf8};
use crate::trouble;

/// The variable that names a root directory other than `/`.
pub const ROOT_VARIABLE: &str = "PATRONI_TOOLS_ROOT";

/// Directories in which programs are searched; the caller's PATH is not trusted, as in
/// postgresql-common's `PgCommon::prepare_exec`.
const PROGRAM_DIRECTORIES: [&str; 4] = ["usr/bin", "usr/sbin", "bin", "sbin"];

/// The directory below which every path and every program is found.
#[derive(Debug, Clone)]
pub struct Root {
    directory: PathBuf,
    named: Named,
}

impl Root {
    /// A machine whose `/` is `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), named: Named::Here }
    }

    /// The machine that this program runs on, or the folder that `PATRONI_TOOLS_ROOT` names.
    #[must_use]
    pub fn from_environment() -> Self {
        match std::env::var_os(ROOT_VARIABLE) {
            Some(directory) if !directory.is_empty() => Self::new(directory),
            _ => Self::new("/"),
        }
    }

    /// Is it the machine that this program runs on, about which the kernel can be asked?
    #[must_use]
    pub fn is_this_machine(&self) -> bool {
        self.directory == Path::new("/")
    }

    /// The same machine, of which root reads no more than postgres could: for paths that are named in a file of postgres, and for
    /// files that Patroni or PostgreSQL has to read.
    #[must_use]
    pub fn for_postgres(&self) -> Self {
        Self { named: Named::ByPostgres, ..self.clone() }
    }

    /// The real path of `path`, which is absolute as seen on the machine.
    #[must_use]
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.directory.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The path on the machine that corresponds to a real path below this root.
    #[must_use]
    pub fn inside(&self, real: &Path) -> PathBuf {
        match real.strip_prefix(&self.directory) {
            Ok(rest) => Path::new("/").join(rest),
            Err(_) => real.to_owned(),
        }
    }

    /// Where a path of this machine leads by its links. Nothing of it needs to exist: while Patroni clones a member again, there is no data
    /// directory.
    #[must_use]
    pub fn real(&self, path: impl AsRef<Path>) -> PathBuf {
        /// As many links as the kernel follows (`path_resolution(7)`).
        const MOST_LINKS: usize = 40;
        let mut path = path.as_ref().to_owned();
        for _ in 0..MOST_LINKS {
            let there = self.path(&path);
            if let Ok(found) = there.canonicalize() {
                return self.inside(&found);
            }
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return path };
            match there.read_link() {
                Ok(target) => path = parent.join(self.inside(&target)),
                Err(_) => return self.real(parent).join(name),
            }
        }
        path
    }

    /// The program `name` of this machine.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let directories = PROGRAM_DIRECTORIES.map(|directory| self.directory.join(directory));
        let search = std::env::join_paths(&directories).context("the root directory has a ':' in its name")?;
        let found = which::which_in(name, Some(search), &self.directory);
        Ok(found.map_err(|_| trouble!("the program {name} is missing"; "Install the package that provides it."))?)
    }

    /// The text of a file; `None` if it does not exist.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Option<String>> {
        let path = path.as_ref();
        match self.bytes(path)?.map(String::from_utf8) {
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(_)) => Err(not_utf8(path).into()),
            None => Ok(None),
        }
    }

    /// The bytes of a file; `None` if it does not exist. See [`crate::files`] for how it is opened.
    pub fn bytes(&self, path: impl AsRef<Path>) -> Result<Option<Vec<u8>>> {
        let opened = Opener::new(self, self.named).open(path.as_ref())?;
        opened.map(|opened| opened.bytes(LARGE)).transpose()
    }

    /// The sorted names in a directory; empty if the directory does not exist.
    pub fn list(&self, path: impl AsRef<Path>) -> Result<Vec<String>> {
        Opener::new(self, self.named).list(path.as_ref())
    }

    /// The numeric id of a group of this machine, from its `/etc/group` (system groups are always in it).
    pub fn group_id(&self, group: &str) -> Result<u32> {
        self.numeric_id("/etc/group", group, "group")
    }

    /// The numeric id of a user of this machine, from its `/etc/passwd`.
    pub fn user_id(&self, user: &str) -> Result<u32> {
        self.numeric_id("/etc/passwd", user, "user")
    }

    /// The text of `/etc/passwd` or `/etc/group`. The owners of files are known from here, so it is read without checking its own.
    pub(crate) fn account_file(&self, file: &str) -> Result<String> {
        match std::fs::read(self.path(file)) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error).with_context(|| format!("could not read {file}")),
        }
    }

    fn numeric_id(&self, file: &str, name: &str, kind: &str) -> Result<u32> {
        let text = self.account_file(file)?;
        let id = text
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(':');
                (fields.next() == Some(name)).then(|| fields.nth(1))?
            })
            .find_map(|id| id.parse().ok());
        Ok(id.ok_or_else(|| {
            let missing = trouble!("the {kind} {name} is missing in {file}");
            if name == "postgres" { missing.hint("Install postgresql-common, which adds it.") } else { missing }
        })?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_folder_stands_for_a_machine() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        std::fs::write(folder.path().join("etc/group"), "adm:x:4:\npostgres:x:117:\n").unwrap();
        assert_eq!(root.path("/etc/group"), folder.path().join("etc/group"));
        assert_eq!(root.inside(&root.path("/etc/x")), Path::new("/etc/x"));
        assert_eq!(root.group_id("postgres").unwrap(), 117);
        assert!(root.group_id("nobody-here").unwrap_err().to_string().contains("nobody-here"));
        assert!(root.read("/etc/none").unwrap().is_none());
        assert!(root.program("ip").unwrap_err().to_string().contains("ip is missing"));
    }

    #[test]
    fn a_link_leads_to_the_data_directory_also_while_that_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path().canonicalize().unwrap());
        std::fs::create_dir_all(root.path("/var/lib")).unwrap();
        std::fs::create_dir_all(root.path("/big/17/main")).unwrap();
        symlink(root.path("/big/17/main"), root.path("/var/lib/main")).unwrap();
        symlink("main", root.path("/var/lib/again")).unwrap();
        symlink("circle", root.path("/var/lib/circle")).unwrap();
        let of = |path: &str| root.real(path).display().to_string();
        for _ in 0..2 {
            assert_eq!(of("/var/lib/main"), "/big/17/main");
            assert_eq!(of("/var/lib/again"), "/big/17/main");
            let _ = std::fs::remove_dir(root.path("/big/17/main"));
        }
        assert_eq!(of("/var/lib/none/main"), "/var/lib/none/main");
        assert_eq!(of("/var/lib/circle"), "/var/lib/circle");
    }
}
