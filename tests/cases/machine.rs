//! A throw-away copy of a folder that stands for a machine.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use nix::unistd::{Gid, Uid};
use walkdir::WalkDir;

use crate::pki::{Authority, NOW, PAST, snakeoil};

/// The folder `tests/cases` of the checkout.
pub fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases")
}

/// The generator, beside the other programs: all of them are names of one file.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs");
        fs::create_dir_all(&folder).unwrap();
        for name in ["patroni-gen-config", "pg_patronictl"] {
            // Another run of the tests may use them.
            let new = folder.join(format!("{name}.{}", std::process::id()));
            symlink(assert_cmd::cargo::cargo_bin!("patroni-tools"), &new).unwrap();
            fs::rename(new, folder.join(name)).unwrap();
        }
        // What stands in front of the programs of postgresql-common; a machine has the diverted ones.
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../debian/postgresql-common.sh");
        for name in ["pg_ctlcluster", "pg_dropcluster", "pg_renamecluster", "pg_restorecluster", "pg_upgradecluster"] {
            let new = folder.join(format!("{name}.{}", std::process::id()));
            symlink(script.canonicalize().unwrap(), &new).unwrap();
            fs::rename(new, folder.join(name)).unwrap();
        }
        folder.join("patroni-gen-config")
    })
}

/// What is below a folder: files with their bytes, symbolic links with their targets.
pub type Tree = BTreeMap<PathBuf, Vec<u8>>;

pub struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    /// The host that all cases have in common.
    pub fn base() -> Self {
        let folder = tempfile::Builder::new().prefix("machine").tempdir().unwrap();
        // postgres must be able to reach the files that it may read.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        copy(&cases().join("base"), folder.path());
        // git keeps no empty directories.
        fs::create_dir_all(folder.path().join("etc/default")).unwrap();
        let home = folder.path().join("var/lib/postgresql");
        fs::create_dir_all(&home).unwrap();
        if Uid::effective().is_root() {
            chown(&home, Some(112), Some(117)).unwrap();
        } else {
            fs::set_permissions(&home, Permissions::from_mode(0o777)).unwrap();
        }
        let templates = folder.path().join("usr/share/patroni-tools/templates");
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../templates"), &templates);
        let machine = Self { folder };
        machine.set_modes();
        machine
    }

    /// The host of a case: the base, without what `without` names, with what `machine/` has.
    pub fn of(case: &Path) -> Self {
        let machine = Self::base();
        for path in fs::read_to_string(case.join("without")).unwrap_or_default().lines() {
            fs::remove_file(machine.path(path)).unwrap_or_else(|error| panic!("without: {path}: {error}"));
        }
        if case.join("machine").exists() {
            copy(&case.join("machine"), machine.root());
        }
        machine.set_modes();
        if case.join("certificates").exists() {
            machine.certificates();
        }
        machine
    }

    /// Certificates for this host by the authority of its site, others that will not do, and Debian's own.
    fn certificates(&self) {
        let (site, other) = (Authority::new("site"), Authority::new("other"));
        let own = IpAddr::from([10, 0, 3, 141]);
        self.write("etc/patroni/rest/ca.pem", site.pem());
        self.write("etc/patroni/rest/other-ca.pem", other.pem());
        for (name, pair) in [
            ("pg1", site.issue(own, NOW, true)),
            ("ctl", site.issue(own, NOW, true)),
            ("server", site.issue(own, NOW, false)),
            ("expired", site.issue(own, PAST, true)),
            ("future", site.issue(own, 5..30, true)),
            ("pg2", site.issue([10, 0, 3, 142].into(), NOW, true)),
            ("foreign", other.issue(own, NOW, true)),
        ] {
            self.write(&format!("etc/patroni/rest/{name}.pem"), pair.certificate);
            self.write(&format!("etc/patroni/rest/{name}.key"), pair.key);
        }
        let snakeoil = snakeoil();
        self.write("etc/ssl/certs/ssl-cert-snakeoil.pem", snakeoil.certificate);
        self.write("etc/ssl/private/ssl-cert-snakeoil.key", snakeoil.key);
        if Uid::effective().is_root() {
            let groups = [("etc/patroni/rest", 117), ("etc/ssl/certs", 117), ("etc/ssl/private", 118)];
            for (directory, group) in groups {
                for entry in WalkDir::new(self.path(directory)).into_iter().map(Result::unwrap) {
                    chown(entry.path(), Some(0), Some(group)).unwrap();
                }
            }
        } else {
            // Nothing can be given to others, so that here postgres is who runs this.
            let (uid, gid) = (Uid::effective(), Gid::effective());
            let passwd = self.read("etc/passwd").replace(":112:117:", &format!(":{uid}:{gid}:"));
            let group = self.read("etc/group").replace("postgres:x:117:", &format!("postgres:x:{gid}:"));
            fs::write(self.path("etc/passwd"), passwd).unwrap();
            fs::write(self.path("etc/group"), group).unwrap();
        }
    }

    /// git keeps no modes; a secret that others can read would be refused.
    fn set_modes(&self) {
        for entry in WalkDir::new(self.path("etc/patroni")).into_iter().map(Result::unwrap) {
            if entry.file_type().is_file() {
                let mode = if entry.file_name() == "site.key" { 0o600 } else { 0o640 };
                fs::set_permissions(entry.path(), Permissions::from_mode(mode)).unwrap();
                // Only root can give them to the group postgres of base/etc/group, and only for root it matters.
                if Uid::effective().is_root() {
                    chown(entry.path(), None, Some(117)).unwrap();
                }
            }
        }
    }

    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        // What belongs to postgres there is only readable for it here.
        let mode = if path.starts_with("etc/") && !path.starts_with("etc/postgresql/") { 0o640 } else { 0o644 };
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }

    /// `patroni-gen-config`, about to run on this machine.
    pub fn gen_config(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(arguments);
        self.prepare(&mut command);
        command
    }

    /// Runs `patroni-gen-config` and gives all that it said.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.gen_config(arguments).output().unwrap()
    }

    /// A line of a session.
    pub fn shell(&self, line: &str) -> Output {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        self.prepare(&mut command);
        command.output().unwrap()
    }

    fn prepare(&self, command: &mut Command) {
        let programs = program().parent().unwrap();
        command
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", programs.display()))
            .env("LC_ALL", "C.UTF-8")
            .env("PATRONI_TOOLS_ROOT", self.root())
            .current_dir(self.root());
    }

    pub fn tree(&self) -> Tree {
        tree(self.root())
    }
}

pub fn tree(folder: &Path) -> Tree {
    let mut tree = Tree::new();
    if !folder.exists() {
        return tree;
    }
    for entry in WalkDir::new(folder).into_iter().map(Result::unwrap) {
        let content = if entry.file_type().is_file() {
            fs::read(entry.path()).unwrap()
        } else if entry.file_type().is_symlink() {
            fs::read_link(entry.path()).unwrap().into_os_string().into_encoded_bytes()
        } else {
            continue;
        };
        tree.insert(entry.path().strip_prefix(folder).unwrap().to_owned(), content);
    }
    tree
}

fn copy(from: &Path, to: &Path) {
    for entry in WalkDir::new(from).into_iter().map(Result::unwrap) {
        let target = to.join(entry.path().strip_prefix(from).unwrap());
        if entry.file_type().is_dir() {
            fs::create_dir_all(&target).unwrap();
        } else if entry.file_type().is_symlink() {
            let _ = fs::remove_file(&target);
            symlink(fs::read_link(entry.path()).unwrap(), &target).unwrap();
        } else if entry.metadata().unwrap().permissions().mode() & 0o111 != 0 {
            // Not a copy: a process that another thread forks while a program is being written keeps it from being
            // run ("Text file busy").
            symlink(entry.path().canonicalize().unwrap(), &target).unwrap();
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}
