//! Which program to run: all are one file, and the name with which it is called decides. So the package is built and linked once.

use std::path::Path;
use std::process::ExitCode;

use host::report::Reporter;

use crate::{gen_config, hooks, pg_patronictl};

type Program = fn() -> ExitCode;

/// The programs, by their names.
const PROGRAMS: [(&str, Program); 5] = [
    ("patroni-gen-config", gen_config::main),
    ("pg_clonecluster_patroni", hooks::clone::main),
    ("pg_createcluster_patroni", hooks::create::main),
    ("pg_patronictl", pg_patronictl::main),
    ("pg_preparecluster_patroni", hooks::prepare::main),
];

/// Runs the program with the name in the first word of the command line.
#[must_use]
pub fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&called).file_name().unwrap_or_default();
    if let Some((_, program)) = PROGRAMS.iter().find(|(known, _)| name == *known) {
        return program();
    }
    let names: Vec<&str> = PROGRAMS.iter().map(|(name, _)| *name).collect();
    Reporter::new("patroni-tools")
        .usage(&format!("error: this file must be called by the name of a program: {}", names.join(", ")), true)
}
