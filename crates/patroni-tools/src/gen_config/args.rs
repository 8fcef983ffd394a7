//! The command line: one verb with its own options. Only the command knows it.
//!
//! `--check 16/main` is the same as `check 16/main`: the verbs were options once, and scripts use them.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::error::ContextKind;
use clap::{Args, Parser, Subcommand};
use host::clusters::CONFIG_ROOT;
use host::trouble::Explain;
use host::{ClusterId, Root, fail};

use crate::doctor::{self, Depth, Format};
use crate::integrations::{self, Output, Program};
use crate::patroni::paths::{DIRECTORY, Instance, instances, other_instance};
use crate::patroni_yml::inputs::Overrides;

/// Writes the Patroni file of a PostgreSQL cluster from /etc/default/patroni and this host.
#[derive(Debug, Parser)]
#[command(
    name = "patroni-gen-config",
    version,
    override_usage = "patroni-gen-config [COMMAND] [OPTION]... [CLUSTER]",
    after_help = "CLUSTER is 16/main, 16-main or the two words 16 main. The default is $PGCLUSTER. Options can be used in place of \
                  commands: --check of check, --dry-run or --stdout of show, --for PROGRAM of for PROGRAM, and so on.\n\n\
                  Manual: patroni-gen-config(8), settings: patroni.default(5)"
)]
pub struct CommandLine {
    /// The verb.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Write the Patroni file; this is the default command
    Write(Write),
    /// Print the file that would be written, with its secrets masked, and write nothing
    Show(Show),
    /// Show how the file that would be written differs from the existing one; exit status 3 if it does
    Diff(Show),
    /// Write the configuration of another program for the cluster, such as haproxy or etcd
    For(For),
    /// Check this host for problems that would prevent the cluster from running; exit status 1 if there is one
    Check(Check),
    /// Show how the settings differ from the configuration of the running cluster, ask, and change it
    Apply(Apply),
    /// Prepare new passwords for the roles of the members: first of two steps, on every member
    Rotate(Write),
    /// Create the site key if it does not exist, and nothing else
    SiteKey(Key),
    /// Set the passwords of the roles to those in this member's file: second of two steps, on the primary
    SetPasswords(Which),
}

/// The clusters.
#[derive(Debug, Args)]
pub struct Which {
    /// The cluster: 16/main, 16-main or the two words 16 main; default: $PGCLUSTER
    #[arg(value_name = "CLUSTER", num_args = 0..=2, conflicts_with = "all")]
    cluster: Vec<String>,
    /// Every cluster that has a file in /etc/patroni
    #[arg(long)]
    all: bool,
}

/// What this run sets in addition to `/etc/default/patroni`.
#[derive(Debug, Args)]
pub struct Inputs {
    /// The TCP port of PostgreSQL
    #[arg(long, value_name = "PORT", conflicts_with = "all", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    port: Option<String>,
    /// Set a key of /etc/default/patroni for this run; can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Use this template instead of patroni.yml.j2
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
}

/// `write` and `rotate`.
#[derive(Debug, Args)]
pub struct Write {
    #[command(flatten)]
    pub which: Which,
    #[command(flatten)]
    pub inputs: Inputs,
    /// Replace a file that was edited or written by hand (the old one is kept as FILE.old), or write a missing one while Patroni is running
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub key: MayCreate,
}

/// What a run that needs the site key may do.
#[derive(Debug, Args)]
pub struct MayCreate {
    /// Fail if the site key does not exist, instead of creating it
    #[arg(long = "no-site-key", action = clap::ArgAction::SetFalse)]
    pub site_key: bool,
}

/// `site-key`.
#[derive(Debug, Args)]
pub struct Key {
    /// The cluster, if it has a site key of its own; its fingerprint is shown then
    #[arg(value_name = "CLUSTER", num_args = 0..=2)]
    cluster: Vec<String>,
    /// Set a key of /etc/default/patroni for this run; can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// `show` and `diff`.
#[derive(Debug, Args)]
pub struct Show {
    #[command(flatten)]
    pub which: Which,
    #[command(flatten)]
    pub inputs: Inputs,
}

/// `apply`.
#[derive(Debug, Args)]
pub struct Apply {
    #[command(flatten)]
    pub which: Which,
    #[command(flatten)]
    pub inputs: Inputs,
    /// Only show what would change, and do not ask; exit status 3 if something would
    #[arg(long, visible_alias = "diff", conflicts_with = "yes")]
    pub dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    pub yes: bool,
    /// Remove what the running cluster has and the settings do not contain
    #[arg(long)]
    pub prune: bool,
}

/// `check`.
#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    pub which: Which,
    #[command(flatten)]
    depth: Depths,
    /// How to show the findings: as messages, or for a program
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// The same as --format=json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// With --format=prometheus: replace FILE instead of printing the metrics
    #[arg(long, value_name = "FILE", requires = "format")]
    output: Option<PathBuf>,
}

/// A smaller check.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct Depths {
    /// Contact no server, run no program, and report as errors only what certainly prevents a start
    #[arg(long)]
    offline: bool,
    /// Only check whether the servers of the DCS serve this member
    #[arg(long, visible_alias = "store")]
    dcs: bool,
    /// Only report which other processes use the ports of the cluster (as root)
    #[arg(long)]
    ports: bool,
}

/// `for`.
#[derive(Debug, Args)]
pub struct For {
    /// The program to configure
    #[arg(value_name = "PROGRAM")]
    pub program: Program,
    /// The cluster; some programs accept several
    #[arg(value_name = "CLUSTER", num_args = 0.., conflicts_with = "all")]
    cluster: Vec<String>,
    /// Every cluster that has a file in /etc/patroni
    #[arg(long)]
    all: bool,
    /// Use the members of the running cluster instead of MEMBERS
    #[arg(long)]
    members_from_cluster: bool,
    /// For tls: reissue certificates and keys that are still valid
    #[arg(long)]
    renew: bool,
    #[command(flatten)]
    key: MayCreate,
    #[command(flatten)]
    output: Outputs,
    /// Set a key of /etc/default/patroni for this run; can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// What to do instead of writing files that are not edited by hand.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct Outputs {
    /// Print the files that would be written, with their secrets masked, and write nothing
    #[arg(long, visible_alias = "stdout")]
    dry_run: bool,
    /// Show how the files that would be written differ from the existing ones; exit status 3 if they do
    #[arg(long)]
    diff: bool,
    /// Replace files that were edited or written by hand; the old ones are kept as FILE.old
    #[arg(long)]
    force: bool,
}

/// Do the words ask for the result of a plugin, even if something else is wrong with them?
pub fn is_plugin(words: impl IntoIterator<Item = OsString>) -> bool {
    let words: Vec<OsString> = words.into_iter().collect();
    words.iter().any(|word| word == "--format=nagios") || words.windows(2).any(|pair| pair == ["--format", "nagios"])
}

impl CommandLine {
    /// Reads the command line of this process.
    pub fn read() -> Result<Self, clap::Error> {
        let words: Vec<OsString> = std::env::args_os().collect();
        Self::try_parse_from(with_verb(words)).map_err(|mut error| {
            // "To pass '--json' as a value, use '-- --json'": no cluster can have such a name.
            error.remove(ContextKind::Suggested);
            error
        })
    }
}

/// The verbs, and the options that they were.
const VERBS: [(&str, &[&str]); 9] = [
    ("for", &["--for"]),
    ("check", &["--check"]),
    ("apply", &["--apply"]),
    ("rotate", &["--rotate"]),
    ("set-passwords", &["--set-passwords"]),
    ("site-key", &["--site-key"]),
    ("diff", &["--diff"]),
    ("show", &["--dry-run", "--stdout"]),
    ("write", &[]),
];

/// Puts the verb first: an option that is one is replaced by it, and the default is `write`.
fn with_verb(mut words: Vec<OsString>) -> Vec<OsString> {
    if words.get(1).is_some_and(|word| VERBS.iter().any(|(verb, _)| word == *verb)) {
        return words;
    }
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    for (verb, options) in VERBS {
        let is = |word: &OsString| options.iter().any(|option| word == *option || joined(word, option).is_some());
        let Some(at) = words[..end].iter().position(is) else { continue };
        let option = words.remove(at);
        words.insert(1, verb.into());
        if verb == "for" {
            // The program comes first, wherever it was.
            let program = joined(&option, "--for").or_else(|| (at + 1 < words.len()).then(|| words.remove(at + 1)));
            words.splice(2..2, program);
        }
        return words;
    }
    let general = ["-h", "--help", "-V", "--version", "help"];
    if !words.get(1).is_some_and(|word| general.iter().any(|text| word == *text)) {
        words.insert(1, "write".into());
    }
    words
}

/// `PROGRAM` of `--for=PROGRAM`.
fn joined(word: &OsStr, option: &str) -> Option<OsString> {
    let value = word.to_str()?.strip_prefix(option)?.strip_prefix('=')?;
    (option == "--for").then(|| value.into())
}

/// The clusters that have a Patroni file. A host without one must not look like one on which all is well.
fn all(root: &Root) -> Result<Vec<ClusterId>> {
    let ids = instances(root)?;
    if !ids.is_empty() {
        return Ok(ids);
    }
    // Debian's patroni.service runs config.yml, and a hand-written set-up may have any name.
    let mut others = root.list(DIRECTORY)?;
    others.retain(|name| name.strip_suffix(".yml").is_some_and(|stem| stem != "dcs"));
    let Some(first) = others.first().map(|name| Path::new(DIRECTORY).join(name)) else {
        fail!("{DIRECTORY} has no file VERSION-NAME.yml"; "Create one with: patroni-gen-config VERSION/NAME")
    };
    let text = root.read(&first).ok().flatten().unwrap_or_default();
    let directory =
        text.lines().find_map(|line| line.trim().strip_prefix("config_dir:")?.trim().strip_prefix(CONFIG_ROOT));
    let id = directory.and_then(|name| name.trim_matches('/').parse::<ClusterId>().ok());
    fail!(
        "{DIRECTORY} has no file VERSION-NAME.yml, but {}, which --all does not mean", others.join(", ");
        "If Patroni runs with it, take the member over with: pg_adoptcluster_patroni --from {} {}",
        first.display(), id.map_or_else(|| "VERSION/NAME".to_owned(), |id| id.slashed())
    );
}

impl Which {
    /// An instance of `patroni@` that is not named after a cluster.
    pub fn other_instance(&self, root: &Root) -> Option<Instance> {
        other_instance(root, &self.cluster)
    }

    /// The clusters.
    pub fn ids(&self, root: &Root) -> Result<Vec<ClusterId>> {
        match self.cluster.as_slice() {
            _ if self.all => all(root),
            [] => match from_environment()? {
                Some(id) => Ok(vec![id]),
                None => {
                    fail!("no cluster specified"; "Add one, as in 'patroni-gen-config 16/main', set PGCLUSTER, or use --all.")
                }
            },
            words => Ok(vec![ClusterId::from_words(words)?]),
        }
    }
}

impl For {
    /// The clusters, none or several; `16 main` is one.
    pub fn ids(&self, root: &Root) -> Result<Vec<ClusterId>> {
        match self.cluster.as_slice() {
            _ if self.all => all(root),
            [] => Ok(from_environment()?.into_iter().collect()),
            words @ [version, _] if version.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(vec![ClusterId::from_words(words)?])
            }
            words => {
                let mut ids: Vec<ClusterId> = words.iter().map(|word| word.parse()).collect::<Result<_, _>>()?;
                ids.sort();
                ids.dedup();
                Ok(ids)
            }
        }
    }

    /// The options of the integration.
    pub fn options(self) -> integrations::Options {
        let output = match self.output {
            Outputs { dry_run: true, .. } => Output::Show,
            Outputs { diff: true, .. } => Output::Difference,
            Outputs { force, .. } => Output::Files { force },
        };
        integrations::Options {
            output,
            members_from_cluster: self.members_from_cluster,
            renew: self.renew,
            may_create_site_key: self.key.site_key,
            overrides: Overrides { set: self.set, ..Overrides::default() },
        }
    }
}

impl Key {
    /// The cluster, if one is named.
    pub fn id(&self) -> Result<Option<ClusterId>> {
        match self.cluster.as_slice() {
            [] => from_environment(),
            words => Ok(Some(ClusterId::from_words(words)?)),
        }
    }

    /// The settings of this run.
    pub fn overrides(self) -> Overrides {
        Overrides { set: self.set, ..Overrides::default() }
    }
}

impl Check {
    /// Is it the whole check, on a host without a cluster as well?
    pub fn is_full(&self) -> bool {
        self.depth() == Depth::Full
    }

    /// Does a monitoring system ask, which does not wait?
    pub fn is_for_monitoring(&self) -> bool {
        matches!(self.format, Format::Nagios | Format::Prometheus)
    }

    /// Is it a plugin of a monitoring system?
    pub fn is_plugin(&self) -> bool {
        self.format == Format::Nagios
    }

    fn depth(&self) -> Depth {
        match self.depth {
            Depths { offline: true, .. } => Depth::Offline,
            Depths { dcs: true, .. } => Depth::Dcs,
            Depths { ports: true, .. } => Depth::Ports,
            _ => Depth::Full,
        }
    }

    /// The options of the doctor.
    pub fn options(&self) -> Result<doctor::Options> {
        let format = if self.json { Format::Json } else { self.format };
        if self.output.is_some() && format != Format::Prometheus {
            fail!("--output is for --format=prometheus only"; "Redirect standard output instead.");
        }
        Ok(doctor::Options { depth: self.depth(), format, output: self.output.clone() })
    }
}

impl From<Inputs> for Overrides {
    fn from(Inputs { port, set, template }: Inputs) -> Self {
        Self { set, port, template }
    }
}

fn from_environment() -> Result<Option<ClusterId>> {
    match std::env::var("PGCLUSTER") {
        Ok(cluster) if !cluster.is_empty() => cluster.parse().map(Some).at("PGCLUSTER"),
        Ok(_) | Err(std::env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(error).at("PGCLUSTER"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;
    use std::path::Path;

    fn project_file(path: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    fn verb(line: &str) -> String {
        let words = std::iter::once("x").chain(line.split(' ').filter(|word| !word.is_empty())).map(OsString::from);
        let words: Vec<String> =
            with_verb(words.collect()).into_iter().map(|word| word.into_string().unwrap()).collect();
        words[1..].join(" ")
    }

    #[test]
    fn a_verb_can_be_an_option_and_writing_needs_none() {
        for (line, meant) in [
            ("16/main", "write 16/main"),
            ("", "write"),
            ("--all --force", "write --all --force"),
            ("16/main --check --json", "check 16/main --json"),
            ("check 16/main --offline", "check 16/main --offline"),
            ("--stdout 16 main", "show 16 main"),
            ("--for haproxy 16/main --diff", "for haproxy 16/main --diff"),
            ("--diff --for=tls", "for tls --diff"),
            ("17/main --for consul-policy", "for consul-policy 17/main"),
            ("--for", "for"),
            ("--site-key 16/main", "site-key 16/main"),
            ("--no-site-key 16/main", "write --no-site-key 16/main"),
            ("--help", "--help"),
            ("16/main --help", "write 16/main --help"),
            ("--version", "--version"),
            ("--check --help", "check --help"),
            ("-- --check", "write -- --check"),
        ] {
            assert_eq!(verb(line), meant, "{line}");
        }
    }

    #[test]
    fn a_verb_takes_its_own_options_only() {
        let parse = |line: &str| {
            let words = std::iter::once("x").chain(line.split(' ')).map(OsString::from).collect();
            CommandLine::try_parse_from(with_verb(words))
        };
        for line in [
            "--check --force 16/main",
            "--check --apply 16/main",
            "--check --offline --dcs 16/main",
            "--dry-run --diff 16/main",
            "--diff --force 16/main",
            "--for haproxy --port 5433 16/main",
            "--yes 16/main",
            "--all 16/main",
            "--all --port 5433",
            "apply --dry-run --yes 16/main",
            "check --json --format=text 16/main",
            "check --output /x 16/main",
            "check --format=xml 16/main",
            "16/main 17/main 17/other",
            "--site-key --force",
            "--check --no-site-key 16/main",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        for line in [
            "--check --store 16/main",
            "--diff --apply 16/main",
            "apply --dry-run --prune 16/main",
            "--for tls",
            "--for tls --no-site-key",
            "site-key --set SITE_KEY_FILE=/x",
            "--for haproxy 16/main 17/main 17/other",
            "rotate --force 16/main",
            "check --format nagios --all",
            "--check 16/main --format=prometheus --output=/x",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
        }
    }

    #[test]
    fn a_plugin_is_one_whatever_is_wrong() {
        let is = |line: &str| is_plugin(line.split(' ').map(OsString::from));
        assert!(is("x check --format=nagios --nonsense") && is("x --format nagios --check 16/main"));
        assert!(!is("x check --format=json nagios"));
    }

    #[test]
    fn every_verb_and_option_is_in_the_manual_and_in_the_completion() {
        let manual = project_file("docs/man/patroni-gen-config.8.scd");
        let completion = project_file("debian/patroni-gen-config.completion");
        for (verb, options) in VERBS {
            assert!(manual.contains(&format!("*{verb}*")), "patroni-gen-config(8) lacks {verb}");
            assert!(completion.contains(verb), "the completion lacks {verb}");
            for option in options {
                assert!(manual.contains(&format!("*{option}*")), "patroni-gen-config(8) lacks {option}");
            }
        }
        for command in CommandLine::command().get_subcommands() {
            assert!(VERBS.iter().any(|(verb, _)| *verb == command.get_name()), "{}", command.get_name());
            for argument in command.get_arguments().filter(|argument| !argument.is_positional()) {
                for name in argument.get_long_and_visible_aliases().unwrap_or_default() {
                    assert!(manual.contains(&format!("*--{name}*")), "patroni-gen-config(8) lacks --{name}");
                    assert!(completion.contains(&format!("--{name}")), "the completion lacks --{name}");
                }
            }
        }
    }
}
