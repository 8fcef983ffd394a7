//! `for PROGRAM`: the configuration of the programs around a cluster, from the same settings.
//!
//! A module for each program turns the settings ([`Site`]) into text and changes nothing. This module shows the text, has it validated
//! by the program, and writes it.

mod certificate_files;
mod cluster;
mod consul;
mod etcd;
mod haproxy;
mod keepalived;
mod pgbouncer;
mod plan;
mod site_ca;
mod standing;
mod vip;
mod vip_manager;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;
use host::report::{self, Reporter};
use host::{ClusterId, Root, fail, program};

use crate::files::diff;
use crate::files::header::{Author, arguments, author, with_header};
use crate::files::install::{self, Prepared};
use crate::files::template::LOCAL;
use crate::patroni_yml::inputs::{create_site_key, site_key_path};
use cluster::Site;
use plan::{Generated, LIMIT, Plan, Validator};
pub use plan::{Options, Output};
pub(crate) use standing::{Standing, standing};

/// A program that is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Program {
    /// HAProxy in front of the members
    Haproxy,
    /// keepalived, which moves the virtual IP addresses instead of dnscp
    Keepalived,
    /// vip-manager, which moves one virtual IP address instead of dnscp
    VipManager,
    /// PgBouncer, a connection pool on this host
    Pgbouncer,
    /// This member's certificates, issued by a CA that is derived from the site key
    Tls,
    /// etcd on this member
    Etcd,
    /// Consul on this member
    Consul,
    /// The Consul policies of Patroni and the agents
    ConsulPolicy,
}

impl Program {
    /// The name on the command line.
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Is it configured for clusters, rather than for the site as a whole?
    fn is_for_clusters(self) -> bool {
        !matches!(self, Self::Tls | Self::Etcd | Self::Consul)
    }

    /// Is a part of it derived from the site key?
    fn needs_site_key(self) -> bool {
        matches!(self, Self::Tls | Self::Consul)
    }

    fn plan(self, site: &Site) -> Result<Plan> {
        match self {
            Self::Haproxy => haproxy::plan(site),
            Self::Keepalived => keepalived::plan(site),
            Self::VipManager => vip_manager::plan(site),
            Self::Pgbouncer => pgbouncer::plan(site),
            Self::Tls => site_ca::plan(site),
            Self::Etcd => etcd::plan(site),
            Self::Consul => consul::plan(site),
            Self::ConsulPolicy => consul::policies(site),
        }
    }
}

/// The same text, with the comments of the three header lines in another syntax.
fn commented(text: &str, from: &str, to: &str) -> String {
    let lines = text.splitn(4, '\n').enumerate().map(|(index, line)| match line.strip_prefix(from) {
        Some(rest) if index < 3 => format!("{to}{rest}"),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Configures a program. Returns whether its files would change, if only the difference was to be shown.
pub fn run(root: &Root, options: &Options, program: Program, ids: &[ClusterId], reporter: &Reporter) -> Result<bool> {
    if program.is_for_clusters() && ids.is_empty() {
        fail!(
            "no cluster specified";
            "Name it, as in patroni-gen-config for {} 16/main, or use --all.", program.name()
        );
    }
    let mut site = Site::resolve(root, options, ids)?;
    let mut plan = program.plan(&site)?;
    if program.needs_site_key() && site.key.is_none() && matches!(options.output, Output::Files { .. }) {
        let path = site_key_path(&site.settings)?;
        site.key = Some(create_site_key(root, &site.settings, options.may_create_site_key)?);
        reporter.info(format!(
            "created {}; copy it to the other members before running this command there",
            path.display()
        ));
        plan = program.plan(&site)?;
    }
    let files = plan.files.iter().map(|file| File::of(root, file, program, ids)).collect::<Result<Vec<_>>>()?;
    if options.output == Output::Show {
        let shown = files.iter().map(|file| file.masked(&file.text));
        report::print(&shown.collect::<Vec<_>>().join("\n"));
        return Ok(false);
    }
    if options.output == Output::Difference {
        let differences: Vec<&File> = files.iter().filter(|file| file.changes()).collect();
        for file in &differences {
            report::print(&file.difference());
        }
        return Ok(!differences.is_empty());
    }
    for warning in std::mem::take(&mut plan.warnings) {
        reporter.warn(warning);
    }
    write(root, options.output == Output::Files { force: true }, &plan.directories, &files)?;
    if files.iter().any(File::changes) {
        for next in &plan.next {
            reporter.info(next);
        }
    }
    Ok(false)
}

/// A generated file, and the installed one.
struct File<'a> {
    wanted: &'a Generated,
    text: String,
    present: Option<String>,
    /// Who wrote the installed file; `None` for a configuration file of a package that is unchanged.
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

    /// Fails if a manual change would be lost, or a cluster that the installed file serves.
    fn may_be_replaced(&self) -> Result<()> {
        let path = self.wanted.path.display();
        match &self.author {
            None => return Ok(()),
            Some(Author::Generator) => {}
            Some(author) => {
                report::print(&self.difference());
                fail!(
                    "{path} was {} by hand and was not changed", if *author == Author::Other { "written" } else { "edited" };
                    "Move the changes into {} or a template in {}, or use --force.", host::settings::SITE_FILE, LOCAL
                );
            }
        }
        let [present, wanted] = [self.present.as_deref().unwrap_or_default(), &self.text].map(arguments);
        let lost: Vec<&str> = present.into_iter().filter(|word| word.contains('/') && !wanted.contains(word)).collect();
        if !lost.is_empty() {
            fail!(
                "{path} also serves {}, which would be removed", lost.join(" and ");
                "Name all clusters, or use --force."
            );
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
    let message = [output.stderr, output.stdout].concat();
    let message =
        String::from_utf8_lossy(&message).replace(&candidate.path().display().to_string(), &candidate.target());
    fail!(
        "{name} rejects the generated file, and the installed one was not changed: {}", message.trim();
        "Correct the settings or the template."
    );
}
