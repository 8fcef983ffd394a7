//! `pg_patronictl`: patronictl that understands `16/main` and `PGCLUSTER`, and one table of all clusters of this host.
//!
//! It reads the Patroni files and the settings and runs `patronictl`. Before it does so for one cluster, it checks that the DCS responds,
//! because patronictl would wait for it for ever. A command that only reads gets a deadline (`reading`); in place of every other one
//! patronictl is executed. It writes nothing, and has no more permissions than its caller.

mod list;
mod reading;
mod rights;
mod source;

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::slice::from_ref;

use anyhow::{Context as _, Result};
use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory, Parser};
use host::report::Reporter;
use host::trouble::{Explain, Trouble};
use host::{ClusterId, Root, trouble};
use nix::sys::prctl::set_dumpable;

use crate::doctor::dcs_content_unless_down;
use crate::patroni::paths::{DIRECTORY, instances, patroni_file};
use crate::patroni::patronictl::only_the_file;
use crate::pg_patronictl::source::{patronictl, read, scope};

const NAME: &str = "pg_patronictl";

const LIST: &str = "list";

/// Commands that do not take the name of the cluster from the file (`patroni/ctl.py`). Without a name, the last one only prints the
/// version of patronictl.
const WITHOUT_SCOPE: [&str; 6] = ["flush", "reinit", "reload", "remove", "restart", "version"];

/// The global options of patronictl that have a value.
const WITH_VALUE: [&str; 5] = ["-c", "--config-file", "-d", "--dcs-url", "--dcs"];

/// Options with which patronictl asks another DCS than that of the file, or none.
const OTHER_DCS: [&str; 7] = ["-c", "--config-file", "-d", "--dcs-url", "--dcs", "-h", "--help"];

/// Runs patronictl for a cluster of this host with its Patroni file and scope, or lists all clusters of this host.
#[derive(Debug, Parser)]
#[command(
    name = NAME,
    version,
    override_usage = "pg_patronictl [CLUSTER] COMMAND [ARGUMENT]...\n       pg_patronictl list [--json]",
    after_help = "CLUSTER is 16/main, 16-main or the two words 16 main. The default is $PGCLUSTER, or the only cluster of this \
                  host. COMMAND and its arguments are passed to patronictl. Without a cluster, list shows all clusters of this \
                  host, and marks the members on this host with *.\n\nManual: pg_patronictl(1), patronictl(1)"
)]
struct Args {
    /// With list and without a cluster: print the table as JSON
    #[arg(long)]
    json: bool,
    /// The cluster, and a command of patronictl with its arguments
    #[arg(value_name = "WORD", trailing_var_arg = true, hide = true)]
    words: Vec<OsString>,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    /// List all clusters of this host.
    Table { json: bool },
    /// Run patronictl with the file of a cluster.
    Patronictl(ClusterId, Vec<OsString>),
}

/// Why there is nothing to do.
#[derive(Debug)]
enum Refusal {
    /// The command line is wrong, or asks for help.
    Usage(clap::Error),
    /// The command line is correct, but there is no such cluster.
    Failure(anyhow::Error),
}

impl From<Trouble> for Refusal {
    fn from(trouble: Trouble) -> Self {
        Self::Failure(trouble.into())
    }
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
    // A core dump would contain the passwords of the Patroni files.
    let _ = set_dumpable(false);
    let root = Root::from_environment();
    match parse(std::env::args_os()).and_then(|args| run(&root, args, &reporter)) {
        Ok(status) => status,
        Err(Refusal::Usage(error)) => reporter.usage(&error.to_string(), error.use_stderr()),
        Err(Refusal::Failure(error)) => reporter.finish(Err(error)),
    }
}

fn parse(words: impl Iterator<Item = OsString>) -> Result<Args, Refusal> {
    Args::try_parse_from(words).map_err(|error| match error.get(ContextKind::InvalidArg) {
        Some(argument) => usage(&format!(
            "unexpected argument '{argument}': options of patronictl need a cluster before them, as in 'pg_patronictl 16/main list \
             --extended'"
        )),
        None => Refusal::Usage(error),
    })
}

fn run(root: &Root, args: Args, reporter: &Reporter) -> Result<ExitCode, Refusal> {
    rights::check(root, &[PathBuf::from(DIRECTORY)])?;
    let clusters = instances(root)?;
    match plan(args, std::env::var("PGCLUSTER").ok().as_deref(), &clusters)? {
        Call::Table { json } => list::run(root, &clusters, json, reporter)?,
        Call::Patronictl(id, words) => return Ok(run_patronictl(root, &id, words)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// Decides from the command line, `PGCLUSTER` and the clusters of this host.
fn plan(args: Args, environment: Option<&str>, clusters: &[ClusterId]) -> Result<Call, Refusal> {
    let Args { json, mut words } = args;
    let mut named = take_cluster(&mut words)?;
    if named.is_none() {
        let environment = environment.filter(|cluster| !cluster.is_empty());
        named = environment.map(|cluster| cluster.parse().at("PGCLUSTER")).transpose()?;
    }
    let command = words.first().map(|word| word.to_string_lossy().into_owned());
    match (named, command.as_deref()) {
        (Some(_), _) if json => {
            Err(usage("--json is for the list of all clusters: for one cluster use list --format json"))
        }
        (Some(id), _) if !clusters.contains(&id) => Err(unknown(&id, clusters).into()),
        (Some(id), _) => Ok(Call::Patronictl(id, words)),
        (None, None) => Err(usage("no command is given: 'pg_patronictl list' shows all clusters of this host")),
        (None, Some(LIST)) => {
            let rest = parse([OsString::from(NAME)].into_iter().chain(words.drain(..).skip(1)))?;
            match rest.words.first() {
                None => Ok(Call::Table { json: json || rest.json }),
                Some(word) => Err(usage(&format!(
                    "unexpected argument '{}': the cluster comes before the command, as in 'pg_patronictl 16/main list'",
                    word.to_string_lossy()
                ))),
            }
        }
        (None, Some(command)) if json => Err(usage(&format!("--json is for list, not for {command}"))),
        (None, Some(command)) => match clusters {
            [only] => Ok(Call::Patronictl(only.clone(), words)),
            [] => Err(trouble!("this host has no Patroni file"; "Create one with: patroni-gen-config 16/main").into()),
            several => Err(trouble!(
                "no cluster specified, and this host has several: {}", enumerate(several);
                "Add one, as in 'pg_patronictl {} {command}', or set PGCLUSTER.", several[0]
            )
            .into()),
        },
    }
}

fn usage(message: &str) -> Refusal {
    Refusal::Usage(Args::command().error(ErrorKind::UnknownArgument, message))
}

fn unknown(id: &ClusterId, clusters: &[ClusterId]) -> Trouble {
    let missing = trouble!("{} does not exist", patroni_file(id).display());
    missing.hint(if clusters.is_empty() {
        format!("Create it with: patroni-gen-config {id}")
    } else {
        format!("Create it with 'patroni-gen-config {id}', or use a cluster of this host: {}.", enumerate(clusters))
    })
}

fn enumerate(clusters: &[ClusterId]) -> String {
    clusters.iter().map(ClusterId::slashed).collect::<Vec<_>>().join(", ")
}

/// Removes `16/main`, `16-main` or `16 main` from the front. No command of patronictl starts with a digit or contains a slash.
fn take_cluster(words: &mut Vec<OsString>) -> Result<Option<ClusterId>> {
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

/// Returns only if it fails, or if the command only reads.
fn run_patronictl(root: &Root, id: &ClusterId, words: Vec<OsString>) -> Result<ExitCode> {
    let file = patroni_file(id);
    rights::check(root, from_ref(&file))?;
    let (yaml, text) = read(root, &file)?;
    rights::check(root, &rights::of_dcs(&yaml))?;
    let program = patronictl(root)?;
    let words = with_scope(words, &scope(&yaml, &file)?);
    let at = command_at(&words);
    let is_other = |word: &OsString| OTHER_DCS.iter().any(|option| word == *option);
    let asks = at.is_some() && !words.iter().any(is_other);
    if asks {
        dcs_content_unless_down(root, id, &text).at(id)?;
    }
    let reads = at.filter(|_| asks).and_then(|at| {
        let name = words[at].to_string_lossy().into_owned();
        reading::ends_by_itself(&name, &words[at + 1..]).then_some(name)
    });
    let mut command = Command::new(program);
    command.arg("-c").arg(root.path(&file)).args(words);
    only_the_file(&mut command);
    match reads {
        Some(name) => reading::run(id, &name, command),
        None => Err(command.exec()).context("could not run patronictl"),
    }
}

fn is_one_of(word: &OsStr, known: &[&str]) -> bool {
    known.iter().any(|known| word == *known)
}

/// The index of the command after the global options.
fn command_at(words: &[OsString]) -> Option<usize> {
    let mut value = false;
    words.iter().position(|word| {
        let skipped = value || word.as_encoded_bytes().starts_with(b"-");
        value = !value && is_one_of(word, &WITH_VALUE);
        !skipped
    })
}

/// Inserts the name of the cluster after a command that needs it, if it is missing.
fn with_scope(mut words: Vec<OsString>, scope: &str) -> Vec<OsString> {
    if let Some(at) = command_at(&words).filter(|at| is_one_of(&words[*at], &WITHOUT_SCOPE)) {
        if !words[at..].iter().any(|word| word == scope) {
            words.insert(at + 1, scope.into());
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(line: &str, environment: Option<&str>, clusters: &str) -> String {
        let clusters: Vec<ClusterId> = clusters.split_whitespace().map(|id| id.parse().unwrap()).collect();
        let words = [NAME].into_iter().chain(line.split_whitespace()).map(OsString::from);
        match parse(words).and_then(|args| plan(args, environment, &clusters)) {
            Ok(Call::Table { json }) => if json { "json" } else { "table" }.to_owned(),
            Ok(Call::Patronictl(id, words)) => format!("{id}: {}", words.join(OsStr::new(" ")).to_string_lossy()),
            Err(Refusal::Usage(error)) => {
                format!("{}: {}", error.exit_code(), error.to_string().lines().next().unwrap_or_default())
            }
            Err(Refusal::Failure(error)) => {
                let trouble = Trouble::of(&error);
                format!("1: {} | {}", trouble.line(), trouble.hint.unwrap_or_default())
            }
        }
    }

    #[test]
    fn the_cluster_comes_first_or_from_the_environment_or_is_the_only_one() {
        let several = "16/main 16/my-db 17/main";
        for (line, environment, clusters, expected) in [
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
                "0: Runs patronictl for a cluster of this host with its Patroni file and scope, or lists all clusters of this host",
            ),
            ("--json list", None, several, "json"),
            ("show-config", None, "16/main", "16/main: show-config"),
        ] {
            assert_eq!(call(line, environment, clusters), expected, "{line}");
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let several = "16/main 17/main";
        for (line, environment, clusters, expected) in [
            ("", None, several, "2: error: no command is given"),
            ("-x list", None, several, "2: error: unexpected argument '-x'"),
            ("list -e", None, several, "2: error: unexpected argument '-e'"),
            ("list 16/main", None, several, "2: error: unexpected argument '16/main'"),
            ("--json 16/main list", None, several, "2: error: --json is for the list of all clusters"),
            ("--json history", None, several, "2: error: --json is for list"),
            (
                "pause",
                None,
                several,
                "1: no cluster specified, and this host has several: 16/main, 17/main | Add one, as in 'pg_patronictl 16/main pause'",
            ),
            ("pause", None, "", "1: this host has no Patroni file"),
            (
                "16/x list",
                None,
                several,
                "1: /etc/patroni/16-x.yml does not exist | Create it with 'patroni-gen-config 16/x', or use",
            ),
            ("16 list", None, several, "1: /etc/patroni/16-list.yml does not exist"),
            ("16", None, several, "1: '16' does not name a cluster"),
            ("main/16 list", None, several, "1: 'main' is not a PostgreSQL version"),
            ("pause", Some("main"), several, "1: PGCLUSTER: 'main' does not name a cluster"),
        ] {
            let said = call(line, environment, clusters);
            assert!(said.starts_with(expected), "{line}: {said}");
        }
    }

    #[test]
    fn the_name_of_the_cluster_is_inserted_after_the_commands_that_need_it() {
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
