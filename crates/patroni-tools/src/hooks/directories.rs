//! The directories of a cluster on this host: whether PostgreSQL can be created in them, and what is wrong with those that it uses.
//! The generator, the doctor and the hooks say the same about them.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use host::file_access::User;
use host::trouble::Trouble;
use host::{ClusterId, Root, createcluster, program, trouble};
use nix::sys::statvfs::statvfs;

use crate::hooks::marker::Marker;
use crate::postgres::conf_dir;
use crate::postgres::data_dir::running_server;

/// Less space than one WAL segment: PostgreSQL stops when it needs the next one.
const LEAST_SPACE: u64 = 16 << 20;

/// Less than a new cluster needs, with its first WAL segments.
const NEW_CLUSTER: u64 = 64 << 20;

/// The user that runs PostgreSQL.
const USER: &str = "postgres";

/// Something about a directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Does the member not work because of it?
    pub(crate) certain: bool,
    pub(crate) trouble: Trouble,
}

impl Problem {
    fn certain(trouble: Trouble) -> Self {
        Self { certain: true, trouble }
    }
}

/// Where a cluster is, or is to be created.
pub(crate) struct Directories<'a> {
    pub(crate) root: &'a Root,
    pub(crate) id: &'a ClusterId,
    pub(crate) data: &'a Path,
    /// The WAL directory in which the hooks would create it, if it is not in the data directory.
    pub(crate) waldir: Option<&'a Path>,
    /// Do the hooks create it? They mark what they are creating.
    pub(crate) by_hooks: bool,
    /// The name of this member.
    pub(crate) member: &'a str,
    /// The Patroni file, if it was written by hand.
    pub(crate) by_hand: Option<&'a Path>,
}

impl Directories<'_> {
    /// All problems. Nothing is found in what the caller cannot see.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut found: Vec<Problem> = self.link().into_iter().collect();
        if self.root.path(self.data.join("PG_VERSION")).exists() {
            found.extend(self.wal());
            found.extend(self.tablespaces());
            found.extend(self.full(LEAST_SPACE));
        } else if !Marker::exists(self.root, self.id) {
            // A marker belongs to an attempt that is running now, or whose remains the next one removes.
            found.extend(self.creation());
            found.extend(self.full(NEW_CLUSTER));
        }
        found
    }

    /// Why no cluster can be created in these directories.
    pub(crate) fn creation(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        if let Some(waldir) = self.waldir.filter(|waldir| waldir.starts_with(self.data)) {
            found.push(Problem::certain(trouble!(
                at self.place("WAL").unwrap_or_default(),
                "the WAL directory {} is inside the data directory {}", waldir.display(), self.data.display();
                "Set waldir to a directory outside, or remove it."
            )));
        }
        for (label, directory) in [("data", Some(self.data)), ("WAL", self.waldir)] {
            let trouble = directory.and_then(|directory| self.not_creatable(label, directory));
            found.extend(trouble.map(|trouble| Problem::certain(trouble.at(self.place(label).unwrap_or_default()))));
        }
        found
    }

    fn not_creatable(&self, label: &str, directory: &Path) -> Option<Trouble> {
        let postgres = User::of(self.root, USER).ok()?;
        let trouble = self.unfit(&postgres, label, directory)?;
        // What root would run here acts on what the link leads to.
        let link = link_of_postgres(self.root, &postgres, directory);
        Some(link.map_or(trouble.clone(), |link| trouble.hint(remove_link(self.root, &link))))
    }

    fn unfit(&self, postgres: &User, label: &str, directory: &Path) -> Option<Trouble> {
        let shown = directory.display();
        let found = match self.root.path(directory).metadata() {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return self.not_made(postgres, label, directory),
            Err(_) => return None,
        };
        if !found.is_dir() {
            return Some(
                trouble!("the {label} directory {shown} is a file"; "Move it away with: {}", move_away(self.root, postgres, directory)),
            );
        }
        if let Some(trouble) = self.occupied(postgres, label, directory) {
            return Some(trouble);
        }
        if found.uid() != postgres.uid() {
            return Some(trouble!(
                "the {label} directory {shown} does not belong to {USER}, so no cluster can be created in it";
                "Run: {}", give(self.root, directory, "")
            ));
        }
        barred(self.root, postgres, &format!("the {label} directory {shown}"), directory.parent()?)
    }

    /// A directory that is not there, and that postgres cannot create.
    fn not_made(&self, postgres: &User, label: &str, directory: &Path) -> Option<Trouble> {
        let shown = directory.display();
        if let Ok(target) = self.root.path(directory).read_link() {
            let target = plain(&directory.parent()?.join(self.root.inside(&target)));
            return Some(trouble!(
                "the {label} directory {shown} is a symbolic link to {}, which does not exist", target.display();
                "Create it with: {}", make(self.root, postgres, &target)
            ));
        }
        let above = directory.ancestors().skip(1).find(|above| self.root.path(above).exists())?;
        let what = format!("the {label} directory {shown}");
        if let Some(trouble) = barred(self.root, postgres, &what, above) {
            return Some(trouble);
        }
        if postgres.creates_in(self.root, above).ok()? {
            return None;
        }
        // The directory above is made for postgres if it is missing, too; one that is there keeps its owner.
        let parent = directory.parent()?;
        let command = if parent == above {
            make(self.root, postgres, directory)
        } else {
            format!("install -d -o {USER} -g {USER} {}", quoted(parent))
        };
        Some(trouble!(
            "the {label} directory {shown} does not exist, and {USER} cannot create it in {}", above.display();
            "Run: {command}"
        ))
    }

    /// A directory without a cluster in which there is something else.
    fn occupied(&self, postgres: &User, label: &str, directory: &Path) -> Option<Trouble> {
        let (shown, quoted) = (directory.display(), quoted(directory));
        let names: Vec<_> = std::fs::read_dir(self.root.path(directory)).ok()?.flatten().take(2).collect();
        let first = names.first()?;
        if names.len() == 1 && first.file_name() == "lost+found" {
            let setting = if label == "WAL" { "waldir" } else { "data_directory" };
            let (file, below) = (self.place(label), format!("{shown}/data"));
            let file = file.unwrap_or_else(|| createcluster::PATH.to_owned());
            // There it is a pattern for all clusters.
            let own = format!("/{}/{}/data", self.id.version, self.id.name);
            let pattern = below.strip_suffix(&own).filter(|_| file.starts_with("/etc/postgresql-common/"));
            let value = pattern.map_or_else(|| below.clone(), |above| format!("{above}/%v/%c/data"));
            return Some(trouble!(
                "the {label} directory {shown} is the root of a file system (it has lost+found), in which PostgreSQL creates no cluster";
                "Set {setting} = '{value}' in {file}, then run: {} && patroni-gen-config {}",
                make(self.root, postgres, &directory.join("data")), self.id
            ));
        }
        if !self.by_hooks || running_server(self.root, directory).is_some() {
            return None;
        }
        let content =
            if label == "WAL" { "although there is no data directory with it" } else { "but holds no cluster" };
        let what = format!("the {label} directory {shown} is not empty, {content}, so no cluster can be created in it");
        Some(if is_mount_root(self.root, directory) {
            trouble!("{what}"; "If nothing in it is needed, empty it with: find {quoted} -mindepth 1 -delete")
        } else {
            trouble!(
                "{what}";
                "Move it away with: {} && {}", move_away(self.root, postgres, directory), make(self.root, postgres, directory)
            )
        })
    }

    /// Where the directory is defined, if that is not the default.
    fn place(&self, label: &str) -> Option<String> {
        if label == "WAL" {
            return createcluster::place(self.root, &["waldir", "xlogdir"]);
        }
        let own = host::clusters::config_directory(self.id).join("postgresql.conf");
        if self.root.path(&own).symlink_metadata().is_ok() {
            return Some(own.display().to_string());
        }
        createcluster::place(self.root, &["data_directory"])
    }

    /// Patroni removes a link, and not what it leads to, before it clones a member again (`Postgresql.remove_data_directory`).
    fn link(&self) -> Option<Problem> {
        let target = self.root.path(self.data).canonicalize().ok()?;
        let target = self.root.inside(&target);
        let is_link = |path: &Path| self.root.path(path).symlink_metadata().is_ok_and(|found| found.is_symlink());
        if is_link(self.data) {
            let shown = self.data.display();
            let what = format!(
                "the data directory {shown} is a symbolic link to {}: a reinit of this member would remove the link, leave the old data \
                 there, and create the new ones in {shown}",
                target.display()
            );
            let restart = format!("systemctl restart patroni@{}", self.id.dashed());
            let hint = match self.by_hand {
                Some(file) => {
                    format!("Set postgresql.data_dir to {} in {}, then run: {restart}", quoted(&target), file.display())
                }
                None => {
                    format!("Write its target into the Patroni file with: patroni-gen-config {} && {restart}", self.id)
                }
            };
            return Some(Problem { certain: false, trouble: Trouble::new(what).hint(hint) });
        }
        // The Patroni file has the target already, but the server runs on the link.
        let pid = running_server(self.root, self.data)?;
        let words = std::fs::read(self.root.path(format!("/proc/{pid}/cmdline"))).ok()?;
        let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
        let started = words.windows(2).find(|pair| pair[0] == b"-D").map(|pair| pair[1])?;
        let started = PathBuf::from(String::from_utf8_lossy(started).into_owned());
        (is_link(&started) && conf_dir::same(self.root, &started, self.data)).then(|| Problem {
            certain: false,
            trouble: trouble!(
                "Patroni still runs with the data directory {}, a symbolic link that a reinit would remove", started.display();
                "Make the new data_dir effective with: systemctl restart patroni@{}", self.id.dashed()
            ),
        })
    }

    /// `pg_wal` as a link to a directory that is not there, as when a file system is not mounted.
    fn wal(&self) -> Option<Problem> {
        let wal = self.data.join("pg_wal");
        let target = self.root.path(&wal).read_link().ok()?;
        let gone = self.root.path(&wal).metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound);
        gone.then(|| {
            Problem::certain(trouble!(
                "{} is a symbolic link to {}, which does not exist, so PostgreSQL cannot start", wal.display(), target.display();
                "Mount the file system with it. If it is lost, and another member is the primary, create this member again with: \
                 pg_patronictl {} reinit {}", self.id, program::quoted(self.member)
            ))
        })
    }

    /// Links in `pg_tblspc` that lead nowhere.
    fn tablespaces(&self) -> Vec<Problem> {
        let Ok(entries) = std::fs::read_dir(self.root.path(self.data.join("pg_tblspc"))) else { return Vec::new() };
        let gone = |path: &Path| path.metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound);
        let mut targets: Vec<PathBuf> = entries
            .flatten()
            .filter_map(|entry| Some((entry.path().read_link().ok()?, entry.path())))
            .filter(|(_, link)| gone(link))
            .map(|(target, _)| target)
            .collect();
        targets.sort();
        let problem = |target: PathBuf| {
            Problem::certain(trouble!(
                "the tablespace in {} does not exist, so what is stored in it cannot be used", target.display();
                "Mount the file system with it, then run: systemctl restart patroni@{}", self.id.dashed()
            ))
        };
        targets.into_iter().map(problem).collect()
    }

    /// A file system without space for what PostgreSQL writes next.
    fn full(&self, least: u64) -> Vec<Problem> {
        let wal = self.data.join("pg_wal");
        let wal = if self.root.path(&wal).exists() { Some(wal.as_path()) } else { self.waldir };
        let mut found: Vec<Problem> = Vec::new();
        let mut devices = Vec::new();
        for directory in [Some(self.data), wal].into_iter().flatten() {
            let Some(there) = directory.ancestors().find(|above| self.root.path(above).exists()) else { continue };
            let real = self.root.path(there);
            let (Ok(space), Ok(metadata)) = (statvfs(&real), real.metadata()) else { continue };
            let free = space.blocks_available().saturating_mul(space.fragment_size());
            if free >= least || devices.contains(&metadata.dev()) {
                continue;
            }
            devices.push(metadata.dev());
            found.push(Problem::certain(trouble!(
                "the file system of {} is full ({} MiB are free)", directory.display(), free >> 20;
                "Free space there. What uses it is shown by: du -xh -d 2 {}", quoted(there)
            )));
        }
        found
    }
}

/// The first link on the way to a path that belongs to postgres. A user who can create one chooses what a command acts on.
pub(crate) fn link_of_postgres(root: &Root, postgres: &User, path: &Path) -> Option<PathBuf> {
    let is_theirs = |step: &&Path| {
        let found = root.path(step).symlink_metadata();
        found.is_ok_and(|found| found.is_symlink() && found.uid() == postgres.uid())
    };
    path.ancestors().filter(is_theirs).last().map(Path::to_owned)
}

/// What to do about such a link.
pub(crate) fn remove_link(root: &Root, link: &Path) -> String {
    let target = root.path(link).read_link().unwrap_or_default();
    format!(
        "It is reached by a symbolic link of {USER} to {}. Remove that with: runuser -u {USER} -- rm {}",
        quoted(&root.inside(&target)),
        quoted(link)
    )
}

/// Gives a directory to postgres. In a directory of postgres there may be a link in its place by the time that this is run.
pub(crate) fn give(root: &Root, directory: &Path, option: &str) -> String {
    let real = root.path(directory).canonicalize().map_or_else(|_| directory.to_owned(), |real| root.inside(&real));
    let word = quoted(&real);
    format!("chown {option}-h {USER}: {word} && runuser -u {USER} -- chmod 0700 {word}")
}

/// Can postgres put something in the place of this path?
fn is_of_postgres(root: &Root, postgres: &User, path: &Path) -> bool {
    path.parent().is_some_and(|above| root.path(above).exists() && postgres.creates_in(root, above).unwrap_or(true))
}

/// Makes a directory for postgres.
fn make(root: &Root, postgres: &User, directory: &Path) -> String {
    let word = quoted(directory);
    if is_of_postgres(root, postgres, directory) {
        format!("runuser -u {USER} -- install -d -m 0700 {word}")
    } else {
        format!("install -d -o {USER} -g {USER} -m 0700 {word}")
    }
}

fn move_away(root: &Root, postgres: &User, path: &Path) -> String {
    let word = quoted(path);
    // Renaming needs no permission for what is renamed.
    let by = if is_of_postgres(root, postgres, path) { format!("runuser -u {USER} -- ") } else { String::new() };
    format!("{by}mv -T {word} {word}.old")
}

fn barred(root: &Root, postgres: &User, what: &str, directory: &Path) -> Option<Trouble> {
    let real = root.inside(&root.path(directory).canonicalize().ok()?);
    let at = [directory, &real].into_iter().find_map(|way| postgres.barred(root, way).ok().flatten())?;
    Some(trouble!("{USER} cannot enter {}, in which {what} is", at.display(); "Run: chmod o+x {}", quoted(&at)))
}

/// A path without `..`, of which nothing needs to exist.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => _ = plain.pop(),
            other => plain.push(other),
        }
    }
    plain
}

fn is_mount_root(root: &Root, directory: &Path) -> bool {
    let device = |path: &Path| root.path(path).metadata().map(|found: Metadata| found.dev()).ok();
    directory.parent().is_some_and(|parent| device(directory) != device(parent))
}

fn quoted(path: &Path) -> String {
    program::quoted(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs::{create_dir_all, write};
    use std::os::unix::fs::{chown, symlink};

    /// A machine on which postgres is another user than the one that runs the test, who may give files away.
    fn machine() -> Option<(tempfile::TempDir, Root)> {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        create_dir_all(root.path("/etc")).unwrap();
        create_dir_all(root.path("/usr/local/sbin")).unwrap();
        create_dir_all(root.path("/var/lib/postgresql/17")).unwrap();
        write(root.path("/etc/passwd"), "postgres:x:112:117::/:/bin/sh\n").unwrap();
        write(root.path("/etc/group"), "postgres:x:117:\n").unwrap();
        chown(root.path("/var/lib/postgresql/17"), Some(112), Some(117)).ok()?;
        Some((folder, root))
    }

    fn said(root: &Root) -> Vec<String> {
        let (id, data) = ("17/main".parse().unwrap(), Path::new("/var/lib/postgresql/17/main"));
        let directories =
            Directories { root, id: &id, data, waldir: None, by_hooks: true, member: "pg1; x", by_hand: None };
        directories.creation().into_iter().map(|problem| problem.trouble.hint.unwrap()).collect()
    }

    #[test]
    fn no_command_for_root_follows_a_link_of_postgres() {
        let Some((_folder, root)) = machine() else { return };
        let data = root.path("/var/lib/postgresql/17/main");
        let remove = |target: &str| {
            format!(
                "It is reached by a symbolic link of postgres to {target}. Remove that with: runuser -u postgres -- rm \
                 /var/lib/postgresql/17/main"
            )
        };
        // An empty directory of root, and one that is missing.
        for target in ["/usr/local/sbin", "/etc/systemd/system/ssh.service.d"] {
            symlink(root.path(target), &data).unwrap();
            std::os::unix::fs::lchown(&data, Some(112), Some(117)).unwrap();
            assert_eq!(said(&root), [remove(target)]);
            std::fs::remove_file(&data).unwrap();
        }
        // A link of the administrator.
        symlink(root.path("/usr/local/sbin"), &data).unwrap();
        assert_eq!(
            said(&root),
            ["Run: chown -h postgres: /usr/local/sbin && runuser -u postgres -- chmod 0700 /usr/local/sbin"]
        );
    }

    #[test]
    fn in_a_directory_of_postgres_the_commands_are_run_as_postgres() {
        let Some((_folder, root)) = machine() else { return };
        let data = root.path("/var/lib/postgresql/17/main");
        write(&data, "").unwrap();
        let moves = "Move it away with: runuser -u postgres -- mv -T /var/lib/postgresql/17/main /var/lib/postgresql/17/main.old";
        assert_eq!(said(&root), [moves]);
        std::fs::remove_file(&data).unwrap();
        create_dir_all(data.join("x")).unwrap();
        assert_eq!(
            said(&root),
            [format!("{moves} && runuser -u postgres -- install -d -m 0700 /var/lib/postgresql/17/main")]
        );
    }
}
