//! `for PROGRAM`: the configuration of the programs around a cluster, from the same settings.
//!
//! A module for each program turns the settings ([`Site`]) into text and changes nothing. This module shows the text, has it validated
//! by the program, and writes it.

mod certificate_files;
mod cluster;
mod consul;
mod etcd;
mod file;
mod haproxy;
mod keepalived;
mod pgbouncer;
mod plan;
mod site_ca;
mod standing;
mod target;
mod vip;
mod vip_manager;

use std::path::{Path, PathBuf};

use anyhow::Result;
use host::report::{self, Reporter};
use host::{ClusterId, Root, fail, program};

use crate::files::header::{Author, author};
use crate::files::install::{self, Prepared};
use crate::patroni_yml::inputs::{create_site_key, site_key_path};
use cluster::Site;
use file::File;
use plan::{LIMIT, Validator};
pub use plan::{Options, Output};
pub(crate) use standing::{Compared, Standing, standing};
pub use target::Program;

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
        if options.may_create_site_key {
            refuse_second_key(root, &path)?;
        }
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

/// Refuses to create a site key on a host whose certificates come from one, such as one of `HAProxy` from which it was removed: the other
/// hosts would not trust the new CA.
fn refuse_second_key(root: &Root, key: &Path) -> Result<()> {
    let ca = Path::new(certificate_files::DIRECTORY).join("ca.pem");
    if root.read(&ca)?.is_some_and(|text| author(&text) != Author::Other) {
        fail!(
            "the site key {} does not exist, but {} is derived from one", key.display(), ca.display();
            "Copy it from the host that has it. If no host has it any more, create it with: patroni-gen-config site-key"
        );
    }
    Ok(())
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
