//! `--for`: the configuration of the programs around a cluster, from the same settings.
//!
//! A module for each program makes text of what is set ([`Given`]) and touches nothing; here that text is shown, checked by the
//! program that it is for, and put into its place.

mod certificate_files;
mod cluster;
mod consul;
mod etcd;
mod haproxy;
mod keepalived;
mod pgbouncer;
mod plan;
mod site_ca;
mod vip;
mod vip_manager;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::ValueEnum;
use host::keys::SiteKey;
use host::report::{self, Reporter};
use host::{ClusterId, Root, program};

use crate::files::diff;
use crate::files::header::{Author, arguments, author, with_header};
use crate::files::install::{self, Prepared};
use crate::files::template::LOCAL;
use crate::patroni_yml::inputs::site_key_path;
use cluster::Given;
use plan::{Generated, LIMIT, Plan, Validator};
pub use plan::{Options, Output};

/// A program that is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Program {
    /// `HAProxy` in front of the members
    Haproxy,
    /// keepalived, which moves the virtual addresses in place of dnscp
    Keepalived,
    /// vip-manager, which moves one in place of dnscp
    VipManager,
    /// `PgBouncer`, a pool on this host
    Pgbouncer,
    /// This member's certificates, by an authority that comes from the site key
    Tls,
    /// etcd on this member
    Etcd,
    /// Consul on this member
    Consul,
    /// What Patroni and the agents may do in Consul
    ConsulPolicy,
}

impl Program {
    /// The name on the command line.
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Is it configured for instances, and not for the site as a whole?
    fn is_for_instances(self) -> bool {
        !matches!(self, Self::Tls | Self::Etcd | Self::Consul)
    }

    /// Is something of it made from the site key?
    fn needs_site_key(self) -> bool {
        matches!(self, Self::Tls | Self::Consul)
    }

    fn plan(self, given: &Given) -> Result<Plan> {
        match self {
            Self::Haproxy => haproxy::plan(given),
            Self::Keepalived => keepalived::plan(given),
            Self::VipManager => vip_manager::plan(given),
            Self::Pgbouncer => pgbouncer::plan(given),
            Self::Tls => site_ca::plan(given),
            Self::Etcd => etcd::plan(given),
            Self::Consul => consul::plan(given),
            Self::ConsulPolicy => consul::policies(given),
        }
    }
}

/// The same text with the three lines of our header as comments of another kind.
fn commented(text: &str, from: &str, to: &str) -> String {
    let lines = text.splitn(4, '\n').enumerate().map(|(index, line)| match line.strip_prefix(from) {
        Some(rest) if index < 3 => format!("{to}{rest}"),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Everything that `--for` does.
pub fn run(root: &Root, options: &Options, program: Program, ids: &[ClusterId], reporter: &Reporter) -> Result<()> {
    if program.is_for_instances() && ids.is_empty() {
        bail!("which cluster? name it, as in patroni-gen-config --for {} 16/main, or use --all", program.name());
    }
    let mut given = Given::resolve(root, options, ids)?;
    let mut plan = program.plan(&given)?;
    if program.needs_site_key() && given.key.is_none() && matches!(options.output, Output::Files { .. }) {
        let path = site_key_path(&given.settings)?;
        given.key = Some(SiteKey::create(root, &path)?);
        reporter.info(format!("made {}: copy it to the other members before you run this there", path.display()));
        plan = program.plan(&given)?;
    }
    let files = plan.files.iter().map(|file| File::of(root, file, program, ids)).collect::<Result<Vec<_>>>()?;
    if options.output == Output::Show {
        let shown = files.iter().map(|file| file.masked(&file.text));
        report::print(&shown.collect::<Vec<_>>().join("\n"));
        return Ok(());
    }
    if options.output == Output::Difference {
        let differences: Vec<&File> = files.iter().filter(|file| file.changes()).collect();
        for file in &differences {
            report::print(&file.difference());
        }
        let paths: Vec<String> = differences.iter().map(|file| file.wanted.path.display().to_string()).collect();
        return if paths.is_empty() { Ok(()) } else { bail!("{} would change", paths.join(", ")) };
    }
    for warning in &plan.warnings {
        reporter.warn(warning.as_str());
    }
    write(root, options.output == Output::Files { force: true }, &plan.directories, &files)?;
    if files.iter().any(File::changes) {
        for next in &plan.next {
            reporter.info(next);
        }
    }
    Ok(())
}

/// A file beside what is in its place.
struct File<'a> {
    wanted: &'a Generated,
    text: String,
    present: Option<String>,
    /// Who wrote what is there; a file of a package that nobody has changed is nobody's.
    author: Option<Author>,
}

impl<'a> File<'a> {
    fn of(root: &Root, wanted: &'a Generated, program: Program, ids: &[ClusterId]) -> Result<Self> {
        let present = root.read(&wanted.path)?;
        let author = match &present {
            None => None,
            Some(text) if crate::files::conffile::is_as_shipped(root, &wanted.path, text)? => None,
            Some(text) => Some(author(&commented(text, wanted.comment(), "#"))),
        };
        let words: Vec<String> = ids.iter().map(ClusterId::slashed).collect();
        let command = [&["--for".to_owned(), program.name()], words.as_slice()].concat().join(" ");
        let settings = ids.iter().map(|id| host::settings::cluster_file(id).display().to_string());
        let sources: Vec<String> = std::iter::once(host::settings::SITE_FILE.to_owned()).chain(settings).collect();
        let text = with_header(&wanted.body, &sources.join(" and "), &command);
        let text = commented(&text, "#", wanted.comment());
        Ok(Self { wanted, text, present, author })
    }

    fn changes(&self) -> bool {
        self.present.as_deref() != Some(&self.text)
    }

    /// Neither what somebody wrote gets lost, nor an instance that the file serves and that was not named.
    fn may_be_replaced(&self) -> Result<()> {
        let path = self.wanted.path.display();
        match &self.author {
            None => return Ok(()),
            Some(Author::Generator) => {}
            Some(author) => {
                report::print(&self.difference());
                bail!(
                    "{path} was {} by hand and is left as it is: put the difference into {} or a template in {}, or use --force",
                    if *author == Author::Other { "written" } else { "edited" },
                    host::settings::SITE_FILE,
                    LOCAL
                );
            }
        }
        let [present, wanted] = [self.present.as_deref().unwrap_or_default(), &self.text].map(arguments);
        let lost: Vec<&str> = present.into_iter().filter(|word| word.contains('/') && !wanted.contains(word)).collect();
        if !lost.is_empty() {
            bail!("{path} serves {} too, and would not any more: name it as well, or use --force", lost.join(" and "));
        }
        Ok(())
    }

    fn difference(&self) -> String {
        let present = self.masked(self.present.as_deref().unwrap_or_default());
        diff::unified(&self.wanted.path.display().to_string(), &present, &self.masked(&self.text))
    }

    fn masked(&self, text: &str) -> String {
        let secrets = self.wanted.secrets.iter().zip(1..);
        secrets.fold(text.to_owned(), |text, (secret, number)| text.replace(secret, &format!("(secret {number})")))
    }
}

fn write(root: &Root, force: bool, directories: &[PathBuf], files: &[File]) -> Result<()> {
    let _lock = install::Lock::take(root, Path::new(crate::patroni::paths::DIRECTORY))?;
    for validator in files.iter().filter(|file| file.changes()).filter_map(|file| file.wanted.validator.as_ref()) {
        validator.command(root)?;
    }
    for directory in directories {
        install::open_directory(root, directory)?;
    }
    let changed: Vec<&File> = files.iter().filter(|file| file.changes()).collect();
    if !force {
        changed.iter().try_for_each(|file| file.may_be_replaced())?;
    }
    for file in &changed {
        install::clean(root, &file.wanted.path)?;
    }
    for file in changed {
        let path = &file.wanted.path;
        let foreign = !matches!(file.author, Some(Author::Generator) | None);
        let keep = foreign.then(|| PathBuf::from(format!("{}.old", path.display())));
        let candidate = install::prepare(root, path, &file.text, file.wanted.rights, keep)?;
        if let Some(validator) = &file.wanted.validator {
            validate(root, validator, &candidate)?;
        }
        candidate.put()?;
    }
    for file in files {
        let what = if file.changes() { "written" } else { "up to date" };
        report::print(&format!("{}: {what}\n", file.wanted.path.display()));
    }
    Ok(())
}

fn validate(root: &Root, validator: &Validator, candidate: &Prepared) -> Result<()> {
    let (name, mut command) = (validator.program, validator.command(root)?);
    let output = program::output_within(command.args(validator.arguments).arg(candidate.path()), "", LIMIT)?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said).replace(&candidate.path().display().to_string(), &candidate.target());
    bail!("{name} refuses what would be written, and the old file is as it was: {}", said.trim());
}
