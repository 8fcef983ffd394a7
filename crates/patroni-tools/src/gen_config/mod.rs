//! `patroni-gen-config`: settings and host become `/etc/patroni/16-main.yml`.
//!
//! May read the host's configuration and run `ip`; writes only below `/etc/patroni`, and makes the directory of raft. Only where it
//! is asked to does it change a running cluster: its configuration in the store (`--apply`), and the passwords of its roles
//! (`--set-passwords`).

mod access;
mod apply;
mod certificate;
mod check;
mod config;
mod diff;
mod dynamic;
mod install;
mod installed;
mod member;
mod parameters;
mod passwords;
mod point;
mod render;
mod rest;
pub mod store;
mod surroundings;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use nix::sys::prctl::set_dumpable;
use site::report::{self, Reporter};
use site::settings::{Origin, Settings};
use site::{ClusterId, Root, clusters, keys::SiteKey};

use crate::patronictl::Patronictl;
use crate::unfinished::Unfinished;
use crate::yaml::Yaml;
pub(crate) use config::file as patroni_file;
use config::{Config, Ports, file};
use installed::Patroni;
pub(crate) use member::FINGERPRINT_TAG;
use passwords::Prepared;
use render::Author;
use surroundings::Program;

/// Where Patroni files are.
pub(crate) const DIRECTORY: &str = "/etc/patroni";

/// Writes the Patroni file of a PostgreSQL cluster from /etc/default/patroni and this host.
#[derive(Debug, Parser)]
#[command(
    name = "patroni-gen-config",
    version,
    after_help = "Manual: patroni-gen-config(8), settings: patroni.default(5)"
)]
// Each is an option of its own; a type for them would only hide the command line.
#[allow(clippy::struct_excessive_bools)]
pub struct Args {
    /// The cluster: 16/main, 16-main or the two words 16 main; $PGCLUSTER where it is missing
    #[arg(value_name = "CLUSTER", num_args = 0.., conflicts_with = "all")]
    cluster: Vec<String>,
    /// Every instance that has a file in /etc/patroni
    #[arg(long)]
    all: bool,
    /// Print the file that would be written, with its secrets masked, and write nothing
    #[arg(long, visible_alias = "stdout", conflicts_with_all = ["diff", "check", "force"])]
    dry_run: bool,
    /// Show how the file that would be written differs from the one that is there; exit 1 if it does
    #[arg(long, conflicts_with_all = ["check", "force"])]
    diff: bool,
    /// Write the configuration of a program around the cluster, which may then be more than one; not the Patroni file
    #[arg(long = "for", value_name = "PROGRAM", conflicts_with_all = ["check", "apply", "rotate", "set_passwords", "port", "template"])]
    program: Option<Program>,
    /// With --for: ask the running cluster who its members are, and not MEMBERS
    #[arg(long, requires = "program")]
    members_from_cluster: bool,
    /// With --for tls: new certificates and keys, also where the old ones are still good
    #[arg(long, requires = "program")]
    renew: bool,
    /// Replace a file that somebody edited or wrote by hand; it is kept beside it with .old at its end
    #[arg(long)]
    force: bool,
    /// Say what on this host would keep the instance from working, and what to do about it; exit 1 if something would
    #[arg(long, conflicts_with_all = ["force", "port", "set", "template"])]
    check: bool,
    /// With --check: ask no server and run no program, and take only what keeps Patroni from starting for an error
    #[arg(long, requires = "check")]
    offline: bool,
    /// With --check: only ask the servers of the store if they serve this member
    #[arg(long, requires = "check", conflicts_with = "offline")]
    store: bool,
    /// With --check: only say who has the ports of the instance; root sees which process it is
    #[arg(long, requires = "check", conflicts_with_all = ["offline", "store"])]
    ports: bool,
    /// With --check: print what was found as JSON
    #[arg(long, requires = "check")]
    json: bool,
    /// Show how bootstrap.dcs differs from what the running cluster has, ask, and change the running cluster
    #[arg(long, conflicts_with_all = ["dry_run", "diff", "check", "force", "rotate", "set_passwords"])]
    apply: bool,
    /// With --apply: do not ask
    #[arg(long, requires = "apply")]
    yes: bool,
    /// With --apply: take away what the running cluster has and the settings do not name
    #[arg(long, requires = "apply")]
    prune: bool,
    /// Prepare new passwords of the members' roles: first step of two, on every member
    #[arg(long, conflicts_with_all = ["dry_run", "diff", "check", "set_passwords"])]
    rotate: bool,
    /// Give the roles the passwords of this member's file: second step of two, on the primary
    #[arg(long, conflicts_with_all = ["dry_run", "diff", "check", "force", "port", "set", "template"])]
    set_passwords: bool,
    /// The TCP port of PostgreSQL
    #[arg(long, value_name = "PORT", conflicts_with = "all", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    port: Option<String>,
    /// Set a key of /etc/default/patroni for this run; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Use this template in place of patroni.yml.j2
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
}

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let reporter = Reporter::new("patroni-gen-config");
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return reporter.usage(&error.to_string(), error.use_stderr()),
    };
    if let (None, [_, _, extra, ..]) = (args.program, args.cluster.as_slice()) {
        return reporter.usage(&format!("error: unexpected value '{extra}': one cluster at a time, or --all"), true);
    }
    // A core dump would have the passwords. Where the kernel refuses, it also makes none.
    let _ = set_dumpable(false);
    reporter.finish(run(&Root::from_environment(), &args, &reporter))
}

fn run(root: &Root, args: &Args, reporter: &Reporter) -> Result<()> {
    if let Some(program) = args.program {
        let ids = if args.all { instances(root)? } else { all_named(args)? };
        return surroundings::run(root, args, program, &ids, reporter);
    }
    let ids = if args.all { instances(root)? } else { vec![named(args)?] };
    if args.check {
        return check::run(root, args, &ids, reporter);
    }
    if args.dry_run || args.diff {
        return each(&ids, reporter, |id| show(root, args, id));
    }
    if args.apply {
        return each(&ids, reporter, |id| apply(root, args, id, reporter));
    }
    if args.set_passwords {
        return each(&ids, reporter, |id| passwords::set(root, id, reporter));
    }
    let _lock = install::Lock::take(root, Path::new(DIRECTORY))?;
    if args.rotate {
        return each(&ids, reporter, |id| rotate(root, args, id, reporter));
    }
    each(&ids, reporter, |id| write(root, args, id, reporter))
}

/// Works on every instance, whatever happened to those before it.
fn each(ids: &[ClusterId], reporter: &Reporter, mut work: impl FnMut(&ClusterId) -> Result<()>) -> Result<()> {
    let mut failed = None;
    for id in ids {
        if let Err(error) = work(id) {
            if let Some(earlier) = failed.replace(error) {
                reporter.say(report::Level::Error, format!("{earlier:#}"));
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

fn named(args: &Args) -> Result<ClusterId> {
    if !args.cluster.is_empty() {
        return Ok(ClusterId::from_words(&args.cluster)?);
    }
    match std::env::var("PGCLUSTER") {
        Ok(cluster) if !cluster.is_empty() => cluster.parse().context("PGCLUSTER"),
        _ => bail!("which cluster? name it, as in patroni-gen-config 16/main, or set PGCLUSTER, or use --all"),
    }
}

/// The clusters of `--for`, of which there can be none or several; `16 main` is one.
fn all_named(args: &Args) -> Result<Vec<ClusterId>> {
    match args.cluster.as_slice() {
        [] if std::env::var("PGCLUSTER").is_ok_and(|cluster| !cluster.is_empty()) => Ok(vec![named(args)?]),
        [version, _] if version.bytes().all(|b| b.is_ascii_digit()) => Ok(vec![named(args)?]),
        words => {
            let mut ids: Vec<ClusterId> = words.iter().map(|word| word.parse()).collect::<Result<_, _>>()?;
            ids.sort();
            ids.dedup();
            Ok(ids)
        }
    }
}

/// Every instance that has a Patroni file.
pub(crate) fn instances(root: &Root) -> Result<Vec<ClusterId>> {
    let names = root.list(DIRECTORY)?;
    let mut ids: Vec<ClusterId> =
        names.iter().filter_map(|name| name.strip_suffix(".yml")).filter_map(|stem| stem.parse().ok()).collect();
    ids.sort();
    Ok(ids)
}

/// The settings of an instance, or of the site alone.
fn settings(root: &Root, args: &Args, id: Option<&ClusterId>) -> Result<Settings> {
    let mut settings = id.map_or_else(|| Settings::read_site(root), |id| Settings::read(root, id))?;
    for assignment in &args.set {
        settings.set(assignment)?;
    }
    if let Some(port) = &args.port {
        settings.put("PORT", port.clone(), Origin::Option("--port"))?;
    }
    Ok(settings)
}

fn render(
    root: &Root,
    args: &Args,
    id: &ClusterId,
    settings: &Settings,
    key: &SiteKey,
    present: Option<&str>,
) -> Result<(Config, String)> {
    // A file that is no YAML has no port; that it is wrong is said where it would be replaced.
    let present = present.and_then(|text| Yaml::parse(&file(id), text).ok());
    let port = present.as_ref().and_then(|yaml| yaml.port("postgresql").ok());
    let raft = present.as_ref().and_then(|yaml| yaml.text(&["raft", "self_addr"])?.rsplit_once(':')?.1.parse().ok());
    // Its own first: what is wrong with that of another one only leads to a warning.
    let own = clusters::find(root, id)?;
    let clusters = clusters::installed(root);
    let stays = port.is_some() && settings.get("PORT").is_none() && settings.text("DCS") != Some("raft");
    let claims = if stays { Vec::new() } else { claims(root, id)? };
    let claimed_by = |port: u16| claims.iter().find(|(claimed, _)| *claimed == port).map(|(_, other)| other.clone());
    let ports = Ports { clusters: &clusters.known, own: own.as_ref(), present: port, claimed_by: &claimed_by, raft };
    let mut config = Config::resolve(root, id, settings, key, &ports)?;
    config.warnings.extend(clusters.doubt());
    let text = render::render(root, &config, args.template.as_deref())?;
    Ok((config, text))
}

/// The ports that the Patroni files of other instances name. Only the lines with addresses are read: a host can have
/// hundreds of these files, and a port too many does no harm.
fn claims(root: &Root, id: &ClusterId) -> Result<Vec<(u16, ClusterId)>> {
    let mut claims = Vec::new();
    for other in instances(root)?.into_iter().filter(|other| other != id) {
        let text = root.read(file(&other))?.unwrap_or_default();
        for line in text.lines() {
            let line = line.trim_start();
            if ["listen:", "connect_address:", "self_addr:"].iter().any(|key| line.starts_with(key)) {
                let port = line
                    .trim_end()
                    .trim_end_matches(['"', '\''])
                    .rsplit_once(':')
                    .and_then(|(_, port)| port.parse().ok());
                claims.extend(port.map(|port: u16| (port, other.clone())));
            }
        }
    }
    Ok(claims)
}

/// The site key, with what is wrong with it put to the setting that names it.
fn site_key(root: &Root, settings: &Settings) -> Result<Option<SiteKey>> {
    let read = || SiteKey::read(root, &site_key_path(settings)?);
    if settings.get("SITE_KEY_FILE").is_none() {
        return read();
    }
    Ok(settings.parse("SITE_KEY_FILE", |_| read())?.flatten())
}

fn site_key_path(settings: &Settings) -> Result<PathBuf> {
    Ok(settings.path("SITE_KEY_FILE")?.unwrap_or_else(|| PathBuf::from(DIRECTORY).join("site.key")))
}

/// `--dry-run` and `--diff`.
fn show(root: &Root, args: &Args, id: &ClusterId) -> Result<()> {
    let path = file(id);
    let present = root.read(&path)?;
    let settings = settings(root, args, Some(id))?;
    let key = site_key(root, &settings)?.unwrap_or_else(SiteKey::placeholder);
    let (_, text) = render(root, args, id, &settings, &key, present.as_deref())?;
    if args.dry_run {
        report::print(&diff::Mask::default().hide(&text));
        return Ok(());
    }
    let difference = diff::unified(&path.display().to_string(), present.as_deref().unwrap_or_default(), &text);
    report::print(&difference);
    if difference.is_empty() { Ok(()) } else { bail!("{} would change", path.display()) }
}

/// `--apply`.
fn apply(root: &Root, args: &Args, id: &ClusterId, reporter: &Reporter) -> Result<()> {
    let path = file(id);
    let present = root.read(&path)?;
    let settings = settings(root, args, Some(id))?;
    // Nothing of what is in the store comes from the key.
    let (config, text) = render(root, args, id, &settings, &SiteKey::placeholder(), present.as_deref())?;
    let cluster = Patronictl::new(root, id, &config.scope)?;
    let consent = apply::Consent { yes: args.yes, prune: args.prune };
    apply::run(id, &cluster, &Yaml::parse(&path, &text)?, consent, reporter)
}

/// `--rotate`.
fn rotate(root: &Root, args: &Args, id: &ClusterId, reporter: &Reporter) -> Result<()> {
    let path = file(id);
    // Before the key file says something else than the file of the instance.
    match root.read(&path)?.as_deref().map(render::author) {
        Some(Author::Us) => {}
        Some(_) if args.force => {}
        Some(_) => bail!(
            "{} was written or edited by hand: write the new passwords into it yourself, or use --force",
            path.display()
        ),
        None => bail!("{} does not exist: run patroni-gen-config {id}", path.display()),
    }
    let prepared = passwords::prepare(root, id, &settings(root, args, Some(id))?)?;
    write(root, args, id, reporter)?;
    reporter.info(match prepared {
        Prepared::Next(generation) => format!(
            "{id}: generation {generation} of the passwords is prepared here; when it is on every member, run on the primary: \
             patroni-gen-config --set-passwords {id}"
        ),
        Prepared::Present(generation) => format!(
            "{id}: this member was behind and has generation {generation} of the passwords now, like the primary: run systemctl \
             reload patroni@{}; to prepare the next generation, run this again",
            id.dashed()
        ),
    });
    Ok(())
}

fn write(root: &Root, args: &Args, id: &ClusterId, reporter: &Reporter) -> Result<()> {
    let path = file(id);
    let present = root.read(&path)?;
    let settings = settings(root, args, Some(id))?;
    let key_path = site_key_path(&settings)?;
    let known_key = site_key(root, &settings)?;
    // Everything that can be wrong is found out before the first file is made.
    let (config, mut text) =
        render(root, args, id, &settings, known_key.as_ref().unwrap_or(&SiteKey::placeholder()), present.as_deref())?;
    if present.is_none() {
        refuse_unmanaged(root, &config)?;
    }
    if known_key.is_none() {
        let key = SiteKey::create(root, &key_path)?;
        reporter.info(format!(
            "made {}: copy it to the other members before you run patroni-gen-config there",
            key_path.display()
        ));
        text = render(root, args, id, &settings, &key, present.as_deref())?.1;
    }
    for warning in &config.warnings {
        reporter.warn(warning);
    }
    // Not Patroni: whoever calls patronictl first would make it, and only its owner could write it.
    if let Some(directory) = config.raft_directory() {
        install::directory(root, directory)?;
    }
    let Some(present) = present else {
        point::install(root, &config, &text)?;
        install::install(root, &path, &text, None)?;
        report::print(&written(&path, &config));
        return Ok(());
    };
    if present == text {
        point::install(root, &config, &text)?;
        report::print(&format!("{}: up to date\n", path.display()));
        return Ok(());
    }
    let ours = render::author(&present) == Author::Us;
    if !ours && !args.force {
        report::print(&diff::unified(&path.display().to_string(), &present, &text));
        bail!(
            "{} was {} by hand and is left as it is: put the difference into {} or a template, or use --force",
            path.display(),
            if render::author(&present) == Author::Somebody { "written" } else { "edited" },
            site::settings::SITE_FILE
        );
    }
    let old = PathBuf::from(format!("{}.old", path.display()));
    point::install(root, &config, &text)?;
    install::install(root, &path, &text, (!ours).then_some(old.as_path()))?;
    explain_dynamic(root, &config, &present, &text, reporter);
    explain_protocol(root, &config, &present, &text, reporter)?;
    report::print(&written(&path, &config));
    Ok(())
}

fn written(path: &Path, config: &Config) -> String {
    format!("{}: written (port {}, REST API {})\n", path.display(), config.port, config.rest_port)
}

/// Is there a cluster in the data directory?
fn bootstrapped(root: &Root, config: &Config) -> bool {
    root.path(config.data_directory.join("PG_VERSION")).exists()
}

/// Does a directory hold data that no Patroni manages? Patroni would start it as a standby and wait for ever for a leader: it makes
/// its roles only at a bootstrap, and asks the timeline of a member that has data as one of them (`Ha._run_cycle`,
/// `get_replica_timeline`).
///
/// A primary that Patroni runs has this file within its first `loop_wait` (`Config.save_cache`), and every base backup of it has it,
/// too. What a bootstrap or a clone that was cut short left has not, but `pg_preparecluster_patroni` removes that.
fn is_unmanaged(root: &Root, id: &ClusterId, data: &Path) -> bool {
    let there = |name: &str| root.path(data.join(name)).exists();
    there("PG_VERSION") && !there("patroni.dynamic.json") && !Unfinished::exists(root, id)
}

/// What to do with a cluster that no Patroni manages.
fn other_name(id: &ClusterId) -> String {
    let (version, name) = (&id.version, &id.name);
    format!(
        "make a cluster by another name (patroni-gen-config {version}/NAME) and copy the data there by pg_dump and pg_restore; if \
         nothing in it is needed, run pg_dropcluster --stop {version} {name} and then patroni-gen-config {id}"
    )
}

/// Before any file is made or changed. Who has a Patroni file already has decided, or runs it.
fn refuse_unmanaged(root: &Root, config: &Config) -> Result<()> {
    let (id, data) = (&config.id, &config.data_directory);
    if is_unmanaged(root, id, data) {
        bail!(
            "{id} holds data in {} which no Patroni manages, and Patroni would leave it read-only for ever, so nothing was written: {}",
            data.display(),
            other_name(id)
        );
    }
    Ok(())
}

/// A change below `bootstrap.dcs` no longer reaches a cluster that exists (`Patroni.apply_dynamic_configuration`).
fn explain_dynamic(root: &Root, config: &Config, present: &str, text: &str, reporter: &Reporter) {
    let path = file(&config.id);
    let (Ok(old), Ok(new)) = (Yaml::parse(&path, present), Yaml::parse(&path, text)) else { return };
    let dynamic = ["bootstrap", "dcs"];
    if old.get(&dynamic) != new.get(&dynamic) && bootstrapped(root, config) {
        reporter.warn(format!(
            "bootstrap.dcs has no effect on {0} any more, since it exists; to change the running cluster, run: \
             patroni-gen-config --apply {0}",
            config.id
        ));
    }
}

/// Before 3.1.0 Patroni hands what it needs for TLS to connections without it, too, which fail then, and keeps it when it is
/// reloaded (`assert_hostname` in `PatroniRequest.reload_config`; corrected by pull request 2768).
fn explain_protocol(root: &Root, config: &Config, present: &str, text: &str, reporter: &Reporter) -> Result<()> {
    let path = file(&config.id);
    let has_tls = |text| Yaml::parse(&path, text).is_ok_and(|yaml| yaml.get(&["restapi", "certfile"]).is_some());
    let patroni = Patroni::of(root)?;
    let Some(version) = patroni.always_verifies() else { return Ok(()) };
    let unit = config.id.dashed();
    match (has_tls(present), has_tls(text)) {
        (false, true) => reporter.warn(format!(
            "Patroni {version} with TLS cannot ask a member without: run this on the others too, and then systemctl reload \
             patroni@{unit} everywhere"
        )),
        (true, false) => reporter.warn(format!(
            "Patroni {version} cannot ask members without TLS until it is restarted: run systemctl restart patroni@{unit} on each, \
             the primary last"
        )),
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn project_file(path: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_option_has_its_place_in_the_manual_and_in_the_completion() {
        let manual = project_file("docs/man/patroni-gen-config.8.scd");
        let completion = project_file("debian/patroni-gen-config.completion");
        for argument in Args::command().get_arguments().filter(|argument| !argument.is_positional()) {
            let names = argument.get_long_and_visible_aliases().unwrap_or_default();
            for name in names {
                assert!(manual.contains(&format!("*--{name}*")), "patroni-gen-config(8) lacks --{name}");
                assert!(completion.contains(&format!("--{name}")), "the completion lacks --{name}");
            }
        }
    }

    #[test]
    fn every_key_has_its_place_in_the_manual_and_in_the_shipped_file() {
        let manual = project_file("docs/man/patroni.default.5.scd");
        let shipped = project_file("debian/patroni.default");
        for key in site::settings::KEYS {
            let headings: Vec<&str> = manual.lines().filter(|line| line.starts_with('*')).collect();
            assert!(
                headings.iter().any(|line| line.contains(&format!("*{}*", key.name))),
                "the manual lacks {}",
                key.name
            );
            assert!(shipped.contains(&format!("\n#{}=", key.name)), "/etc/default/patroni lacks {}", key.name);
        }
    }

    #[test]
    fn the_shipped_file_is_valid_with_every_line_in_force() {
        let text: String = project_file("debian/patroni.default")
            .lines()
            .map(|line| {
                line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase())).unwrap_or(line)
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        let mut settings = Settings::default();
        for assignment in site::envfile::parse(&text).unwrap() {
            settings.put(&assignment.key, assignment.value, Origin::Option("shipped")).unwrap();
        }
        assert_eq!(settings.number("TTL", 20, 100).unwrap(), Some(30));
    }
}
