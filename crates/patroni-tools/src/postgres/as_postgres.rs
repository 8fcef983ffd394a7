//! Writes a file in a directory of postgres, as postgres: whatever postgres has put there, root follows none of it.

use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use host::{Root, fail, program};

use crate::files::install;

/// Replaces a file by one with these bytes and this mode.
pub(crate) fn write(root: &Root, path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut input = tempfile::tempfile().context("could not create a temporary file")?;
    input.write_all(bytes).and_then(|()| input.rewind()).context("could not write a temporary file")?;
    let real = root.path(path);
    let mut new = real.as_os_str().to_owned();
    new.push(".patroni-tools");
    let new = PathBuf::from(new);
    // Not install(1), which would open /dev/stdin again, and postgres may not.
    let mut copy = command(root, "sh")?;
    let script = "umask 077; rm -f -- \"$1\"; exec dd status=none conv=fsync,excl of=\"$1\"";
    copy.args(["-c", script, "sh"]).arg(&new).stdin(input);
    succeed(&mut copy, path)?;
    let mut chmod = command(root, "chmod")?;
    succeed(chmod.arg(format!("{mode:o}")).arg("--").arg(&new), path)?;
    let mut rename = command(root, "mv")?;
    succeed(rename.args(["--force", "--no-target-directory", "--"]).arg(&new).arg(&real), path)
}

/// Creates a directory of postgres that all users can read, and the one above it.
pub(crate) fn directory(root: &Root, path: &Path) -> Result<()> {
    for directory in path.parent().into_iter().chain([path]) {
        if !root.path(directory).exists() {
            install::directory(root, directory)?;
            let mut chmod = command(root, "chmod")?;
            succeed(chmod.args(["755", "--"]).arg(root.path(directory)), directory)?;
        }
    }
    Ok(())
}

/// Gives a file the name of another one, which it replaces.
pub(crate) fn rename(root: &Root, from: &Path, to: &Path) -> Result<()> {
    let mut rename = command(root, "mv")?;
    rename.args(["--force", "--no-target-directory", "--"]).arg(root.path(from)).arg(root.path(to));
    succeed(&mut rename, to)
}

/// Removes a file, if it is there.
pub(crate) fn remove(root: &Root, path: &Path) -> Result<()> {
    let mut remove = command(root, "rm")?;
    succeed(remove.args(["--force", "--"]).arg(root.path(path)), path)
}

fn command(root: &Root, name: &str) -> Result<Command> {
    let mut command = program::command(root, name)?;
    program::as_postgres(root, &mut command)?;
    Ok(command)
}

fn succeed(command: &mut Command, path: &Path) -> Result<()> {
    let output = program::output(command)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        fail!("user postgres could not write {}: {}", path.display(), said.trim().replace('\n', "; "));
    }
    Ok(())
}
