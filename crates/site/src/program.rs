//! Runs other programs: clean environment, no shell, and an error that says what failed and how.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::Root;

/// A call of the program `name` of this machine: messages in English, so that they can be read by a program,
/// a PATH that does not come from the caller, and nothing on stdin. The rest of the environment stays, because
/// Patroni passes credentials by it (`PGPASSFILE`).
pub fn command(root: &Root, name: &str) -> Result<Command> {
    Ok(at(&root.program(name)?))
}

/// The same for a program at a known path.
#[must_use]
pub fn at(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env("LC_ALL", "C")
        .env("PATH", "/usr/bin:/usr/sbin:/bin:/sbin")
        .env_remove("PERL5LIB")
        .env_remove("PERL5OPT")
        .stdin(Stdio::null());
    command
}

/// The call as a person would type it, for messages.
#[must_use]
pub fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .map(|word| {
            if !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(&b)) {
                word.into_owned()
            } else {
                format!("'{}'", word.replace('\'', r"'\''"))
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs to the end and gives stdout. The error holds the call, how it ended, and what it said.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({}): {}", shown(command), output.status, said.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} did not print text", shown(command)))
}

/// Runs to the end and gives everything, whatever the exit status.
pub fn output(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("cannot run {}", shown(command)))
}
