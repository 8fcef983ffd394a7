//! `pg_patronictl`: patronictl that understands `16/main` and `PGCLUSTER`, and one table of all instances of this host.
//!
//! Reads the Patroni files and the settings and runs `patronictl`; where an instance is meant, it becomes `patronictl`. It writes
//! nothing, and has no more rights than who calls it.

mod list;
mod rights;

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::slice::from_ref;

use anyhow::{Context, Result, anyhow, bail};
use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory, Parser};
use host::report::Reporter;
use host::{ClusterId, Root};
use nix::sys::prctl::set_dumpable;

use crate::files::yaml::Yaml;
use crate::patroni::paths::{DIRECTORY, instances, patroni_file};
use crate::patroni::patronictl::only_the_file;

const NAME: &str = "pg_patronictl";

const LIST: &str = "list";

/// Commands that do not take the name of the cluster from the file (`patroni/ctl.py`). The last one says only its own version
/// without a name.
const WITHOUT_SCOPE: [&str; 6] = ["flush", "reinit", "reload", "remove", "restart", "version"];

/// patronictl's own options that have a value.
const WITH_VALUE: [&str; 5] = ["-c", "--config-file", "-d", "--dcs-url", "--dcs"];

/// patronictl for the instances of this host: finds the file, and the name of the cluster where patronictl wants it.
#[derive(Debug, Parser)]
#[command(
    name = NAME,
    version,
    override_usage = "pg_patronictl [INSTANCE] COMMAND [ARGUMENT]...\n       pg_patronictl list [--json]",
    after_help = "INSTANCE is 16/main, 16-main or the two words 16 main; without it $PGCLUSTER, or the only one that this host \
                  has. COMMAND and what follows is for patronictl; without an instance, list shows all of this host, and marks \
                  this host's own members with *.\n\nManual: pg_patronictl(1), patronictl(1)"
)]
struct Args {
    /// With list and without an instance: print the table as JSON
    #[arg(long)]
    json: bool,
    /// The instance, and a command of patronictl with its arguments
    #[arg(value_name = "WORD", trailing_var_arg = true, hide = true)]
    words: Vec<OsString>,
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    /// All instances of this host.
    Table { json: bool },
    /// patronictl with the file of an instance.
    Patronictl(ClusterId, Vec<OsString>),
}

/// Why there is no call.
#[derive(Debug)]
enum Refusal {
    /// The command line is wrong, or asks for help.
    Usage(clap::Error),
    /// It is not, but there is no such instance.
    Failure(anyhow::Error),
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self::Failure(error)
    }
}

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let reporter = Reporter::new(NAME);
    // A core dump would have the passwords of the Patroni files.
    let _ = set_dumpable(false);
    let root = Root::from_environment();
    match parse(std::env::args_os()).and_then(|args| run(&root, args, &reporter)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Refusal::Usage(error)) => reporter.usage(&error.to_string(), error.use_stderr()),
        Err(Refusal::Failure(error)) => reporter.finish(Err(error)),
    }
}

fn parse(words: impl Iterator<Item = OsString>) -> Result<Args, Refusal> {
    Args::try_parse_from(words).map_err(|error| match error.get(ContextKind::InvalidArg) {
        Some(argument) => usage(&format!(
            "unexpected argument '{argument}': what is for patronictl stands behind an instance, as in pg_patronictl 16/main list \
             --extended"
        )),
        None => Refusal::Usage(error),
    })
}

fn run(root: &Root, args: Args, reporter: &Reporter) -> Result<(), Refusal> {
    rights::check(root, &[PathBuf::from(DIRECTORY)])?;
    let instances = instances(root)?;
    match plan(args, std::env::var("PGCLUSTER").ok().as_deref(), &instances)? {
        Call::Table { json } => list::run(root, &instances, json, reporter)?,
        Call::Patronictl(id, words) => become_patronictl(root, &id, words)?,
    }
    Ok(())
}

/// From the command line, `PGCLUSTER` and the instances of this host.
fn plan(args: Args, environment: Option<&str>, instances: &[ClusterId]) -> Result<Call, Refusal> {
    let Args { json, mut words } = args;
    let mut named = take_instance(&mut words)?;
    if named.is_none() {
        let environment = environment.filter(|cluster| !cluster.is_empty());
        named = environment.map(|cluster| cluster.parse().context("PGCLUSTER")).transpose()?;
    }
    let command = words.first().map(|word| word.to_string_lossy().into_owned());
    match (named, command.as_deref()) {
        (Some(_), _) if json => {
            Err(usage("--json is for the list of all instances, with one write list --format json"))
        }
        (Some(id), _) if !instances.contains(&id) => Err(unknown(&id, instances).into()),
        (Some(id), _) => Ok(Call::Patronictl(id, words)),
        (None, None) => Err(usage("which command? pg_patronictl list shows all instances of this host")),
        (None, Some(LIST)) => {
            let rest = parse([OsString::from(NAME)].into_iter().chain(words.drain(..).skip(1)))?;
            match rest.words.first() {
                None => Ok(Call::Table { json: json || rest.json }),
                Some(word) => Err(usage(&format!(
                    "unexpected argument '{}': an instance stands before the command, as in pg_patronictl 16/main list",
                    word.to_string_lossy()
                ))),
            }
        }
        (None, Some(command)) if json => Err(usage(&format!("--json is for list, not for {command}"))),
        (None, Some(command)) => match instances {
            [only] => Ok(Call::Patronictl(only.clone(), words)),
            [] => Err(anyhow!("this host has no instance: run patroni-gen-config 16/main").into()),
            several => Err(anyhow!(
                "which instance? name it, as in pg_patronictl {} {command}, or set PGCLUSTER: this host has {}",
                several[0],
                enumerate(several)
            )
            .into()),
        },
    }
}

fn usage(message: &str) -> Refusal {
    Refusal::Usage(Args::command().error(ErrorKind::UnknownArgument, message))
}

fn unknown(id: &ClusterId, instances: &[ClusterId]) -> anyhow::Error {
    let file = patroni_file(id);
    let file = file.display();
    if instances.is_empty() {
        return anyhow!("{file} does not exist, and this host has no other instance: run patroni-gen-config {id}");
    }
    anyhow!(
        "{file} does not exist: run patroni-gen-config {id}, or name an instance of this host: {}",
        enumerate(instances)
    )
}

fn enumerate(instances: &[ClusterId]) -> String {
    instances.iter().map(ClusterId::slashed).collect::<Vec<_>>().join(", ")
}

/// Takes `16/main`, `16-main` or `16 main` from the front. No command of patronictl begins with a digit or has a slash.
fn take_instance(words: &mut Vec<OsString>) -> Result<Option<ClusterId>> {
    let texts: Vec<&str> = words.iter().map_while(|word| word.to_str()).take(2).collect();
    let count = match texts.first() {
        Some(first) if first.contains('/') => 1,
        Some(first) if first.starts_with(|c: char| c.is_ascii_digit()) => {
            if first.contains('-') {
                1
            } else {
                2
            }
        }
        _ => return Ok(None),
    };
    let id = ClusterId::from_words(&texts[..count.min(texts.len())])?;
    words.drain(..count);
    Ok(Some(id))
}

/// Never returns but with an error.
fn become_patronictl(root: &Root, id: &ClusterId, words: Vec<OsString>) -> Result<()> {
    let file = patroni_file(id);
    rights::check(root, from_ref(&file))?;
    let yaml = read(root, &file)?;
    rights::check(root, &rights::of_store(&yaml))?;
    let mut command = Command::new(patronictl(root)?);
    command.arg("-c").arg(root.path(&file)).args(with_scope(words, &scope(&yaml, &file)?));
    only_the_file(&mut command);
    Err(command.exec()).context("cannot run patronictl")
}

fn patronictl(root: &Root) -> Result<PathBuf> {
    root.program("patronictl").map_err(|_| anyhow!("patronictl is missing: run apt install patroni"))
}

fn read(root: &Root, file: &Path) -> Result<Yaml> {
    match root.read(file)? {
        Some(text) => Yaml::parse(file, &text),
        None => bail!("{} does not exist any more: somebody has just removed it", file.display()),
    }
}

fn scope(yaml: &Yaml, file: &Path) -> Result<String> {
    yaml.text(&["scope"])
        .with_context(|| format!("{}: scope is missing: add it, it is the name of the cluster", file.display()))
}

/// Puts the name of the cluster behind a command that needs it, unless it is there.
fn with_scope(mut words: Vec<OsString>, scope: &str) -> Vec<OsString> {
    let is = |word: &OsStr, known: &[&str]| known.iter().any(|known| word == *known);
    let mut value = false;
    let command = words.iter().position(|word| {
        let skipped = value || word.as_encoded_bytes().starts_with(b"-");
        value = !value && is(word, &WITH_VALUE);
        !skipped
    });
    if let Some(at) = command.filter(|at| is(&words[*at], &WITHOUT_SCOPE)) {
        if !words[at..].iter().any(|word| word == scope) {
            words.insert(at + 1, scope.into());
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(line: &str, environment: Option<&str>, instances: &str) -> String {
        let instances: Vec<ClusterId> = instances.split_whitespace().map(|id| id.parse().unwrap()).collect();
        let words = [NAME].into_iter().chain(line.split_whitespace()).map(OsString::from);
        match parse(words).and_then(|args| plan(args, environment, &instances)) {
            Ok(Call::Table { json }) => if json { "json" } else { "table" }.to_owned(),
            Ok(Call::Patronictl(id, words)) => format!("{id}: {}", words.join(OsStr::new(" ")).to_string_lossy()),
            Err(Refusal::Usage(error)) => {
                format!("{}: {}", error.exit_code(), error.to_string().lines().next().unwrap_or_default())
            }
            Err(Refusal::Failure(error)) => format!("1: {error:#}"),
        }
    }

    #[test]
    fn an_instance_is_named_in_front_by_the_environment_or_is_the_only_one() {
        let several = "16/main 16/my-db 17/main";
        for (line, environment, instances, expected) in [
            ("16/main list", None, several, "16/main: list"),
            ("16-my-db list -e", None, several, "16/my-db: list -e"),
            ("16 main -k restart --help", None, several, "16/main: -k restart --help"),
            ("17/main", Some("16/main"), several, "17/main: "),
            ("switchover --force", Some("16/main"), several, "16/main: switchover --force"),
            ("list", Some("16/main"), several, "16/main: list"),
            ("list", Some(""), several, "table"),
            ("list", None, "16/main", "table"),
            ("list --json", None, "", "json"),
            (
                "list --help",
                None,
                several,
                "0: patronictl for the instances of this host: finds the file, and the name of the cluster where patronictl wants it",
            ),
            ("--json list", None, several, "json"),
            ("show-config", None, "16/main", "16/main: show-config"),
        ] {
            assert_eq!(call(line, environment, instances), expected, "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_one_sentence() {
        let several = "16/main 17/main";
        for (line, environment, instances, expected) in [
            ("", None, several, "2: error: which command?"),
            ("-x list", None, several, "2: error: unexpected argument '-x'"),
            ("list -e", None, several, "2: error: unexpected argument '-e'"),
            ("list 16/main", None, several, "2: error: unexpected argument '16/main'"),
            ("--json 16/main list", None, several, "2: error: --json is for the list of all instances"),
            ("--json history", None, several, "2: error: --json is for list"),
            (
                "pause",
                None,
                several,
                "1: which instance? name it, as in pg_patronictl 16/main pause, or set PGCLUSTER: this",
            ),
            ("pause", None, "", "1: this host has no instance"),
            (
                "16/x list",
                None,
                several,
                "1: /etc/patroni/16-x.yml does not exist: run patroni-gen-config 16/x, or name an",
            ),
            ("16 list", None, several, "1: /etc/patroni/16-list.yml does not exist"),
            ("16", None, several, "1: '16' does not name a cluster"),
            ("main/16 list", None, several, "1: 'main' is not a PostgreSQL version"),
            ("pause", Some("main"), several, "1: PGCLUSTER: 'main' does not name a cluster"),
        ] {
            let said = call(line, environment, instances);
            assert!(said.starts_with(expected), "{line}: {said}");
        }
    }

    #[test]
    fn the_name_of_the_cluster_goes_where_patronictl_wants_it() {
        for (line, expected) in [
            ("restart pg1", "restart 16-main pg1"),
            ("restart 16-main pg1", "restart 16-main pg1"),
            ("-k -d etcd://x reinit --wait pg1", "-k -d etcd://x reinit 16-main --wait pg1"),
            ("version", "version 16-main"),
            ("switchover --candidate restart", "switchover --candidate restart"),
            ("list", "list"),
            ("-k", "-k"),
            ("", ""),
        ] {
            let words = line.split_whitespace().map(OsString::from).collect();
            let words = with_scope(words, "16-main");
            assert_eq!(words.join(OsStr::new(" ")), expected, "{line}");
        }
    }
}
