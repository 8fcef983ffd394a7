//! The command line: Patroni's three arguments, the options of dnscp.sh for root, and further ones.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use host::endpoint::Endpoint;
use host::report::Reporter;
use host::settings::{self, Origin, Settings};
use host::trouble::Trouble;
use host::{ClusterId, Root, fail, trouble};

use crate::event::Event;
use crate::instance::Instance;
use crate::privilege::Caller;
use crate::run::Task;
use crate::state::{Locks, Moment};
use crate::{service, status, stopped};

const HELP: &str = "\
Moves the client endpoint of a Patroni cluster: its virtual IP address and DNS name follow the primary.

Usage: dnscp [OPTIONS] [--] EVENT ROLE SCOPE     as Patroni runs it: on_role_change primary 16-main
       dnscp status CLUSTER [--json]             the addresses and the name of this member, and problems
       dnscp --service CLUSTER                   dnscp@.service
       dnscp --stopped CLUSTER                   ExecStopPost= of patroni@.service

Options:
      --cluster CLUSTER  The cluster of an event, if Patroni's scope has another name
      --dry-run          Print the steps without performing them
      --json             Print the status as JSON
  -verbose, -D           Print more messages
  -version               Print the version
  -h, --help             Print this

Options of dnscp.sh, for root only; they override the settings:
  -vips ADDRESS[,ADDRESS...]   same as VIPS
  -dnszonefqdn ZONE            as DNS_ZONE
  -dnsserver SERVER            as DNS_SERVERS
  -ttl SECONDS                 as DNS_TTL
  -pwdfile FILE                as DNS_PASSWORD_FILE, with DNS_AUTH=gss

Manual: dnscp(8), settings: patroni.default(5)
";

/// What an option means.
#[derive(Debug, Clone, Copy)]
enum Meaning {
    Help,
    Version,
    Flag(Flag),
    /// The next argument is the value of this setting.
    Script(&'static str),
    /// The next argument is the cluster.
    Cluster,
    /// No argument after it is an option.
    Rest,
}

#[derive(Debug, Clone, Copy)]
enum Flag {
    Verbose,
    DryRun,
    Json,
    Service,
    Stopped,
}

/// All options. The manual page and the completion are tested against this list.
const OPTIONS: [(&str, Meaning); 18] = [
    ("-h", Meaning::Help),
    ("--help", Meaning::Help),
    ("-version", Meaning::Version),
    ("--version", Meaning::Version),
    ("-verbose", Meaning::Flag(Flag::Verbose)),
    ("--verbose", Meaning::Flag(Flag::Verbose)),
    ("-D", Meaning::Flag(Flag::Verbose)),
    ("--cluster", Meaning::Cluster),
    ("--dry-run", Meaning::Flag(Flag::DryRun)),
    ("--json", Meaning::Flag(Flag::Json)),
    ("--service", Meaning::Flag(Flag::Service)),
    ("--stopped", Meaning::Flag(Flag::Stopped)),
    ("-vips", Meaning::Script("VIPS")),
    ("-dnszonefqdn", Meaning::Script("DNS_ZONE")),
    ("-dnsserver", Meaning::Script("DNS_SERVERS")),
    ("-ttl", Meaning::Script("DNS_TTL")),
    ("-pwdfile", Meaning::Script("DNS_PASSWORD_FILE")),
    ("--", Meaning::Rest),
];

/// What the program is asked to do.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Help,
    Version,
    Event { event: Event, dry_run: bool, verbose: bool, script: Script },
    Service(ClusterId),
    Stopped(ClusterId),
    Status { id: ClusterId, json: bool },
}

/// The settings that options of dnscp.sh give.
#[derive(Debug, Default, PartialEq, Eq)]
struct Script(Vec<(&'static str, String)>);

/// A command line that is wrong: exit status 2.
#[derive(Debug)]
struct Wrong(Trouble);

impl From<Trouble> for Wrong {
    fn from(trouble: Trouble) -> Self {
        Self(trouble)
    }
}

impl From<anyhow::Error> for Wrong {
    fn from(error: anyhow::Error) -> Self {
        Self(Trouble::of(&error))
    }
}

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let begin = Moment::now();
    let reporter = Reporter::new("dnscp");
    let caller = Caller::of_this_process();
    let words: Option<Vec<String>> = std::env::args_os().skip(1).map(|word| word.into_string().ok()).collect();
    let asked =
        words.ok_or_else(|| Wrong("an argument is not valid UTF-8".into())).and_then(|words| parse(&words, caller));
    match asked {
        Err(Wrong(trouble)) => {
            let hint = trouble.hint.as_deref().unwrap_or_default();
            reporter.usage(&format!("{trouble}\n{hint}\nFor more information, run: dnscp --help"), true)
        }
        Ok(Asked::Help) => reporter.usage(HELP, false),
        Ok(Asked::Version) => reporter.usage(concat!("dnscp ", env!("CARGO_PKG_VERSION"), "\n"), false),
        Ok(asked) => {
            let result = run(asked, caller, begin, &reporter);
            reporter.finish(result)
        }
    }
}

fn run(asked: Asked, caller: Caller, begin: Moment, reporter: &Reporter) -> Result<()> {
    let root = caller.machine();
    match asked {
        Asked::Help | Asked::Version => Ok(()),
        Asked::Event { event, dry_run, verbose, script } => {
            let by_patroni = script.0.is_empty();
            let read = if by_patroni {
                load(&root, caller, &event.scope.parse()?)
            } else {
                script.load(&root, caller, &event.scope)
            };
            if !dry_run {
                caller.check_acts(&root)?;
            }
            let Some((point, instance)) = read? else {
                if verbose || dry_run {
                    reporter.info("neither VIPS nor a DNS name is set: nothing to do");
                }
                return Ok(());
            };
            let locks = Locks::of(&root, &event.scope);
            let task = Task { verbose, by_patroni, ..Task::new(&root, point, instance, begin, reporter) };
            if dry_run { task.show(&event, &locks) } else { task.run(&event, &locks) }
        }
        Asked::Stopped(id) => {
            caller.check_acts(&root)?;
            let Some((point, instance)) = load(&root, caller, &id)? else { return Ok(()) };
            let locks = Locks::of(&root, &id.dashed());
            let task = Task::new(&root, point, instance, begin, reporter);
            stopped::run(&task, &locks, &stopped::Exit::from_environment())
        }
        Asked::Service(id) => {
            caller.check_acts(&root)?;
            let read = |begin| -> Result<Option<Task>> {
                let read = load(&root, caller, &id)?;
                Ok(read.map(|(point, instance)| Task::new(&root, point, instance, begin, reporter)))
            };
            service::run(&read, &Locks::of(&root, &id.dashed()), reporter)
        }
        Asked::Status { id, json } => {
            let read = load(&root, caller, &id);
            if let (Err(error), true) = (&read, json) {
                status::failed(&id, error);
            }
            let Some((point, instance)) = read? else {
                fail!("neither VIPS nor a DNS name is set for {id}"; "Set one of them in {}.", settings::SITE_FILE)
            };
            let locks = Locks::of(&root, &id.dashed());
            let task = Task::new(&root, point, instance, begin, reporter);
            status::run(&task, &locks, &id, json)
        }
    }
}

/// The settings and how Patroni is reached, from files that only root can change.
fn load(root: &Root, caller: Caller, id: &ClusterId) -> Result<Option<(Endpoint, Option<Instance>)>> {
    for file in [PathBuf::from(settings::SITE_FILE), settings::cluster_file(id)] {
        caller.trust(root, &file)?;
    }
    let Some(point) = Endpoint::read(root, id)? else { return Ok(None) };
    let instance = Instance::read(root, id, &caller)?;
    if let Some(own) = instance.as_ref().and_then(|instance| instance.address) {
        point.check_own(own)?;
    }
    Ok(Some((point, instance)))
}

impl Script {
    /// The settings of the cluster, if the scope names one, overridden by the options. The defaults are those of dnscp.sh: the scope is
    /// the name, and the domain of the host is its zone.
    fn load(&self, root: &Root, caller: Caller, scope: &str) -> Result<Option<(Endpoint, Option<Instance>)>> {
        let id: Option<ClusterId> = scope.parse().ok();
        let mut settings = Settings::default();
        let mut instance = None;
        if let Some(id) = &id {
            settings = Settings::read(root, id)?;
            instance = Instance::read(root, id, &caller)?;
        }
        for (key, value) in &self.0 {
            settings.put(key, value.clone(), Origin::Option("option"))?;
        }
        let put =
            |settings: &mut Settings, key: &str, value: String| settings.put(key, value, Origin::Option("option"));
        if settings.get("DNS_NAME").is_none() {
            if settings.get("DNS_ZONE").is_none() {
                // A host without a name has no domain either, but the address moves all the same.
                if let Ok(Some(domain)) = host::facts::domain(root) {
                    put(&mut settings, "DNS_ZONE", domain)?;
                }
            }
            if settings.get("DNS_ZONE").is_some() {
                put(&mut settings, "DNS_NAME", scope.to_owned())?;
            }
        }
        if self.0.iter().any(|(key, value)| *key == "DNS_PASSWORD_FILE" && !value.is_empty()) {
            let realm = settings.text("DNS_ZONE").unwrap_or_default().to_ascii_uppercase();
            put(&mut settings, "DNS_AUTH", "gss".to_owned())?;
            if settings.get("DNS_PRINCIPAL").is_none() {
                put(&mut settings, "DNS_PRINCIPAL", format!("{scope}$@{realm}"))?;
            }
        }
        // The name is set, so this one is not used.
        let unnamed = "00-script".parse()?;
        let point = Endpoint::from_settings(root, id.as_ref().unwrap_or(&unnamed), &settings)?;
        Ok(point.map(|point| (point, instance)))
    }
}

fn parse(words: &[String], caller: Caller) -> Result<Asked, Wrong> {
    let (mut dry_run, mut verbose, mut json) = (false, false, false);
    let (mut service, mut stopped) = (false, false);
    let mut script = Script::default();
    let mut named = None;
    let mut rest: Vec<&str> = Vec::new();
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let key = match OPTIONS.iter().find(|(option, _)| *option == word).map(|(_, meaning)| *meaning) {
            Some(Meaning::Help) => return Ok(Asked::Help),
            Some(Meaning::Version) => return Ok(Asked::Version),
            Some(Meaning::Script(key)) => key,
            Some(Meaning::Cluster) => {
                named = Some(words.next().ok_or_else(|| trouble!("{word} requires a value"))?);
                continue;
            }
            Some(Meaning::Rest) => {
                rest.extend(words);
                break;
            }
            Some(Meaning::Flag(flag)) => {
                match flag {
                    Flag::Verbose => verbose = true,
                    Flag::DryRun => dry_run = true,
                    Flag::Json => json = true,
                    Flag::Service => service = true,
                    Flag::Stopped => stopped = true,
                }
                continue;
            }
            None if word.starts_with('-') => return Err(trouble!("unknown option {word}").into()),
            None => {
                rest.push(word);
                continue;
            }
        };
        if !caller.root {
            return Err(trouble!("{word} is for root only"; "Set {key} in {}.", settings::SITE_FILE).into());
        }
        let value = words.next().ok_or_else(|| trouble!("{word} requires a value"))?;
        script.0.push((key, if key == "DNS_PASSWORD_FILE" { absolute(value)? } else { value.to_owned() }));
    }
    let cluster =
        |words: &[&str]| ClusterId::from_words(words).map_err(|error| Wrong::from(anyhow::Error::from(error)));
    let named = named.map(|name| cluster(&[name])).transpose()?;
    let an_event = matches!(rest.as_slice(), [event, _, _] if *event != "status") && !service && !stopped;
    if named.is_some() && (!an_event || !script.0.is_empty()) {
        return Err(trouble!("--cluster can be used only with EVENT ROLE SCOPE").into());
    }
    match (service, stopped, rest.as_slice()) {
        (true, false, words) => cluster(words).map(Asked::Service),
        (false, true, words) => cluster(words).map(Asked::Stopped),
        (false, false, ["status", words @ ..]) => Ok(Asked::Status { id: cluster(words)?, json }),
        (false, false, [event, role, scope]) => {
            let named = named.map(|id| id.dashed());
            let scope = named.as_deref().unwrap_or(scope);
            let event = Event::new(event, role, scope)?;
            if script.0.is_empty() {
                cluster(&[scope])?;
            }
            Ok(Asked::Event { event, dry_run, verbose, script })
        }
        (true, true, _) => Err(trouble!("--service and --stopped cannot be used together").into()),
        (_, _, words) => Err(trouble!(
            "'{}' is not EVENT ROLE SCOPE", words.join(" ");
            "Write for example: dnscp on_role_change primary 16-main"
        )
        .into()),
    }
}

fn absolute(file: &str) -> Result<String, Wrong> {
    if file.is_empty() {
        return Ok(String::new());
    }
    let path = std::path::absolute(file).context("-pwdfile")?;
    path.into_os_string().into_string().map_err(|_| Wrong("-pwdfile is not valid UTF-8".into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn asked(line: &str, root: bool) -> Result<Asked, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words, Caller::for_tests(root)).map_err(|wrong| wrong.0.line())
    }

    #[test]
    fn events_and_commands() {
        assert!(matches!(asked("on_start primary 16-main", false), Ok(Asked::Event { verbose: false, .. })));
        assert!(matches!(asked("--dry-run on_stop replica 16-main", false), Ok(Asked::Event { dry_run: true, .. })));
        assert!(matches!(asked("status 16 main --json", false), Ok(Asked::Status { json: true, .. })));
        assert!(matches!(asked("--service 16-main", false), Ok(Asked::Service(_))));
        let line = "--cluster 16-main on_start primary 17-other";
        assert!(matches!(asked(line, false), Ok(Asked::Event { event, .. }) if event.scope == "16-main"));
        assert!(matches!(asked("--stopped 16-main", false), Ok(Asked::Stopped(_))));
        for line in [
            "",
            "on_start primary",
            "on_sturt primary 16-main",
            "on_start primary ../x",
            "--nope",
            "--cluster 16-main",
            "--cluster 16-main status 16 main",
            "--cluster prod on_start primary 16-main",
            "--cluster 16-main -ttl 5 -- on_start primary prod",
            "on_start primary prod",
            "on_start primary 16-main --cluster",
            "--service",
            "status",
        ] {
            assert!(asked(line, true).is_err(), "{line:?} was accepted");
        }
    }

    /// Whole words: `-verbose` is not found in `--verbose`.
    fn words(text: &str) -> Vec<&str> {
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').collect()
    }

    #[test]
    fn every_option_is_in_the_manual_and_in_the_completion() {
        for file in ["docs/man/dnscp.8.scd", "debian/dnscp.completion"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
            let text = std::fs::read_to_string(path).unwrap();
            for (option, _) in OPTIONS {
                assert!(words(&text).contains(&option), "{file} lacks {option}");
            }
        }
    }

    #[test]
    fn options_that_name_an_address_a_file_or_a_server_are_for_root() {
        for option in ["-vips 10.0.0.1", "-dnszonefqdn a.b", "-dnsserver 10.0.0.1", "-ttl 5", "-pwdfile /x"] {
            let line = format!("{option} -- on_start primary 16-main");
            assert!(asked(&line, true).is_ok(), "{line}");
            assert!(asked(&line, false).unwrap_err().contains("for root only"), "{line}");
        }
    }

    #[test]
    fn the_options_of_dnscp_sh() {
        let line =
            "-vips 10.77.0.10 -dnszonefqdn Example.test -dnsserver 10.77.0.53 -verbose -- on_role_change primary pgsql";
        let Ok(Asked::Event { script, event, .. }) = asked(line, true) else { panic!("{line}") };
        let folder = tempfile::tempdir().unwrap();
        let (point, instance) =
            script.load(&Root::new(folder.path()), Caller::for_tests(true), &event.scope).unwrap().unwrap();
        let dns = point.dns.unwrap();
        assert_eq!((dns.name.as_str(), dns.ttl, dns.servers.len()), ("pgsql.example.test", 1200, 1));
        assert!(point.vips.len() == 1 && instance.is_none());
        let line = "-vips 10.77.0.10 -dnszonefqdn example.test -pwdfile /s -- on_stop primary pgsql";
        let Ok(Asked::Event { script, event, .. }) = asked(line, true) else { panic!("{line}") };
        let (point, _) =
            script.load(&Root::new(folder.path()), Caller::for_tests(true), &event.scope).unwrap().unwrap();
        let auth = format!("{:?}", point.dns.unwrap().auth);
        assert!(auth.contains("pgsql$@EXAMPLE.TEST") && auth.contains("/s"), "{auth}");
    }
}
