//! Which program to run: all are one file, and the name with which it is called decides. So the package is built and linked once.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use host::report::Reporter;

use crate::{gen_config, handover, hooks, pg_patronictl};

type Program = fn() -> ExitCode;

/// The programs, by their names.
const PROGRAMS: [(&str, Program); 7] = [
    ("patroni-gen-config", gen_config::main),
    ("pg_adoptcluster_patroni", handover::adopt::main),
    ("pg_clonecluster_patroni", hooks::clone::main),
    ("pg_createcluster_patroni", hooks::create::main),
    ("pg_patronictl", pg_patronictl::main),
    ("pg_preparecluster_patroni", hooks::prepare::main),
    ("pg_releasecluster_patroni", handover::release::main),
];

fn known(name: &OsStr) -> Option<Program> {
    PROGRAMS.iter().find(|(known, _)| name == *known).map(|(_, program)| *program)
}

/// The program that an administrator's own link leads to, such as `/usr/local/bin/pgctl` to `/usr/bin/pg_patronictl`.
fn by_link(called: &OsStr) -> Option<Program> {
    /// More links in a row than anybody makes.
    const LINKS: usize = 16;
    let mut path = PathBuf::from(called);
    if path.components().count() == 1 {
        let folders = std::env::var_os("PATH")?;
        path = std::env::split_paths(&folders).map(|folder| folder.join(&path)).find(|path| path.exists())?;
    }
    for _ in 0..LINKS {
        path = path.parent()?.join(std::fs::read_link(&path).ok()?);
        if let Some(program) = known(path.file_name()?) {
            return Some(program);
        }
    }
    None
}

/// Runs the program with the name in the first word of the command line.
#[must_use]
pub fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&called).file_name().unwrap_or_default();
    if let Some(program) = known(name).or_else(|| by_link(&called)) {
        return program();
    }
    let names: Vec<&str> = PROGRAMS.iter().map(|(name, _)| *name).collect();
    Reporter::new("patroni-tools")
        .usage(&format!("error: this file must be called by the name of a program: {}", names.join(", ")), true)
}
