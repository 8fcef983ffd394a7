//! The package of the previous version, from which upgrades start: built once, from the commit that was released.
//!
//! It is `<cache>/packages/<version>-<commit>/patroni-tools_<version>_<architecture>.deb`. The directory appears by a rename, when
//! all of it is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::command::{Task, host};
use crate::{builder, image};

/// The version of [`package`].
pub const VERSION: &str = "0.1.0";
/// The commit of it.
const COMMIT: &str = "acacac1e3f30929ed5f920b8c2288c2b946ab709";

/// It is upgraded and attacked, not measured: half of the time of a build is for code that runs quicker.
const QUICKLY: [&str; 4] = [
    "CARGO_PROFILE_RELEASE_LTO=off",
    "CARGO_PROFILE_RELEASE_OPT_LEVEL=1",
    "CARGO_PROFILE_RELEASE_DEBUG=0",
    "DEB_BUILD_OPTIONS=noautodbgsym",
];

const GIT_LIMIT: Duration = Duration::from_secs(60);

/// The package of the previous version, from which tests of upgrades start; it is built if it is not in the cache yet.
pub fn package() -> Result<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    package_of(&repository, COMMIT)
}

fn package_of(repository: &Path, commit: &str) -> Result<PathBuf> {
    let directory = image::cache().join("packages");
    let made = directory.join(format!("{VERSION}-{}", commit.get(..7).unwrap_or(commit)));
    if !made.exists() {
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let _lock = image::exclusive_lock(&directory.join("lock"))?;
        // Another process may have built it while we waited.
        if !made.exists() {
            build(repository, commit, &directory.join("building"), &made)?;
        }
    }
    let package = fs::read_dir(&made)?.flatten().map(|entry| entry.path()).find(|path| is_package(path));
    package.with_context(|| format!("{} has no package: remove it, and it is built again", made.display()))
}

/// True for the package itself, and not for that of its debug symbols.
fn is_package(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(&format!("patroni-tools_{VERSION}_")) && path.extension().is_some_and(|ending| ending == "deb")
}

/// Always the same `work`, so that what a killed build leaves is found again; the lock is held.
fn build(repository: &Path, commit: &str, work: &Path, made: &Path) -> Result<()> {
    image::remove_tree(work)?;
    let (source, dist) = (work.join("source"), work.join("dist"));
    check_out(repository, commit, &source)?;
    eprintln!("lab: building the package of version {VERSION}, from commit {commit}");
    builder::build_deb_with(&source, &dist, &QUICKLY).with_context(|| format!("version {VERSION} cannot be built"))?;
    builder::forget(&source)?;
    fs::rename(&dist, made).with_context(|| format!("cannot make {}", made.display()))?;
    image::remove_tree(work)
}

/// The files of a commit, in a repository of their own, because the builder asks git for them.
fn check_out(repository: &Path, commit: &str, source: &Path) -> Result<()> {
    let git = |directory: &Path| {
        let mut command = Command::new("git");
        command.args(["-c", "safe.directory=*", "-C"]).arg(directory);
        command
    };
    let mut exists = git(repository);
    exists.args(["cat-file", "-e", &format!("{commit}^{{commit}}")]);
    let found = Task::start(exists, "git cat-file", b"")?.wait(GIT_LIMIT)?;
    ensure!(
        found.status.success(),
        "the commit {commit} of version {VERSION} is not in the repository {}, and tests of upgrades start from it: fetch the whole \
         history (git fetch --unshallow): {}",
        repository.display(),
        found.stderr.trim()
    );
    fs::create_dir_all(source).with_context(|| format!("cannot make {}", source.display()))?;
    let archive = source.with_extension("tar");
    let mut export = git(repository);
    export.args(["archive", "--output"]).arg(&archive).arg(commit);
    host(export, GIT_LIMIT)?;
    let mut extract = Command::new("tar");
    extract.arg("--extract").arg("--directory").arg(source).arg("--file").arg(&archive);
    host(extract, GIT_LIMIT)?;
    let mut init = git(source);
    init.args(["init", "--quiet"]);
    host(init, GIT_LIMIT).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn repository() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let script = "git init -q && echo old > file && mkdir sub && echo x > sub/x && git add . &&
            git -c user.name=x -c user.email=x@example.org commit -qm x && echo new > file";
        let ran = Command::new("sh").args(["-ec", script]).current_dir(folder.path()).status().unwrap();
        assert!(ran.success());
        folder
    }

    #[test]
    fn the_files_are_those_of_the_commit_and_not_of_the_checkout() {
        let (repository, scratch) = (repository(), tempfile::tempdir().unwrap());
        let source = scratch.path().join("source");
        check_out(repository.path(), "HEAD", &source).unwrap();
        assert_eq!(fs::read_to_string(source.join("file")).unwrap(), "old\n");
        let listed = Command::new("git")
            .args(["-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard"])
            .current_dir(&source)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(listed.stdout).unwrap(), "file\nsub/x\n");
    }

    #[test]
    fn a_missing_commit_is_named_with_its_remedy() {
        let (repository, scratch) = (repository(), tempfile::tempdir().unwrap());
        let error = check_out(repository.path(), COMMIT, &scratch.path().join("source")).unwrap_err().to_string();
        assert!(error.contains(COMMIT) && error.contains("git fetch --unshallow"), "{error}");
    }

    #[test]
    fn the_package_of_debug_symbols_is_another_one() {
        assert!(is_package(Path::new("/x/patroni-tools_0.1.0_amd64.deb")));
        for other in [
            "patroni-tools-dbgsym_0.1.0_amd64.deb",
            "patroni-tools_0.1.0_amd64.changes",
            "patroni-tools_0.2.0_amd64.deb",
            "patroni-tools-common_0.3.0_amd64.deb",
        ] {
            assert!(!is_package(&Path::new("/x").join(other)), "{other}");
        }
    }
}
