//! `pg_clonecluster_patroni`: creates a replica from a base backup, with its own `/etc/postgresql/VERSION/NAME`.

mod basebackup;
mod explain;
mod primary;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use host::createcluster::CreateCluster;
use host::trouble::Trouble;
use host::{ClusterId, fail, trouble};
use nix::sys::statvfs::statvfs;

use crate::context::Context;
use crate::hooks::arguments::{self, Arguments};
use crate::hooks::hook::{self, Hook};
use crate::hooks::marker::{Claim, Kind, Marker, clear, remove_or_warn};
use crate::postgres::conf_dir::{self, Draft};
use basebackup::{Backup, Plan};
use explain::{Failure, Space, explain};
use primary::Primary;

const HOOK: Hook = Hook {
    name: "pg_clonecluster_patroni",
    usage: "\
Usage: pg_clonecluster_patroni --scope=SCOPE --datadir=DIRECTORY --connstring=CONNSTRING [OPTION]...

Creates a replica with pg_basebackup. Patroni runs it (postgresql.create_replica_methods).

  --scope=VERSION-NAME    the cluster, for example 17-main
  --cluster=VERSION/NAME  the cluster, if the scope does not name it
  --datadir=DIRECTORY     the data directory
  --connstring=STRING     how to connect to the member that is copied; the
                          password comes from the file in PGPASSFILE
  --port=PORT             the port of the replica
                          (default: from /etc/patroni/VERSION-NAME.yml)
  --checkpoint=fast|spread
                          how the member makes its checkpoint (default: fast)
  --max-rate=RATE, --compress=METHOD, --waldir=DIRECTORY,
  --tablespace-mapping=OLD=NEW, --manifest-checksums=ALGORITHM,
  --no-verify-checksums
                          options of pg_basebackup
  --help, --version       show this text or the version, and exit

Manual: pg_clonecluster_patroni(8)
",
    words: false,
    by_root: None,
    supervised: true,
    work,
};

/// Runs the program `pg_clonecluster_patroni`.
#[must_use]
pub fn main() -> ExitCode {
    hook::main(&HOOK)
}

fn work(context: &Context, arguments: &Arguments) -> Result<()> {
    let id = arguments.cluster()?;
    let data = arguments.data_directory()?;
    let source = arguments.value("connstring").map(str::trim).unwrap_or_default();
    if source.is_empty() {
        fail!(
            "--connstring is empty: there is no leader to copy from";
            "Remove 'no_leader' from this method in the Patroni file, and see if the cluster has a leader with: \
             pg_patronictl {id} list"
        );
    }
    let waldir = match arguments.value("waldir") {
        Some(pattern) => Some(arguments::directory("--waldir", &id.fill(pattern))?),
        None => CreateCluster::read(&context.root)?.waldir(&id)?,
    };
    let plan = basebackup::plan(&data, waldir.as_deref(), source, arguments)?;
    for option in &plan.unknown {
        context.reporter.warn(trouble!("--{option} is unknown and has no effect"));
    }
    let mut marker = Marker::lock(&context.root, &id)?;

    conf_dir::settle(context, &id, &data)?;
    conf_dir::check_owner(context, &id, &data)?;
    clear(context, &id, &marker, &data, waldir.as_deref())?;
    let primary = Primary::ask(context, &id, source)?;
    primary.check_version(&id)?;

    let claim = Claim { kind: Kind::Clone, data_directory: data.clone(), waldir, pid: std::process::id() };
    marker.write(&claim)?;
    let create = || -> Result<()> {
        // A configuration for this data directory is kept as it is.
        let draft = if conf_dir::exists(&context.root, &id) {
            None
        } else {
            Some(conf_dir::begin(context, &id, hook::port(context, &id, arguments)?)?)
        };
        copy(context, &id, &marker, &claim, &plan, source, &primary)?;
        configure(context, &id, &data, draft, &primary)
    };
    match create() {
        Ok(()) => marker.remove(),
        Err(error) => {
            remove_or_warn(context, &id, marker, &claim);
            Err(error)
        }
    }
}

/// Runs `pg_basebackup`, and removes from the copy what is only for the primary.
fn copy(
    context: &Context,
    id: &ClusterId,
    marker: &Marker,
    claim: &Claim,
    plan: &Plan,
    source: &str,
    primary: &Primary,
) -> Result<()> {
    let data = &claim.data_directory;
    let backup = basebackup::copy(context, id, marker, claim, plan, primary.has_group_access())?;
    if !backup.success {
        return Err(reason(context, id, data, source, &backup).into());
    }
    for line in &backup.said {
        context.reporter.warn(line.as_str());
    }
    let version = std::fs::read_to_string(context.root.path(data).join("PG_VERSION")).unwrap_or_default();
    if version.trim() != id.version.as_str() {
        fail!(
            "the base backup is of PostgreSQL {}, but {id} is PostgreSQL {}", version.trim(), id.version;
            "All members must have the same major version."
        );
    }
    conf_dir::remove_copies(&context.root, data)?;
    context.reporter.info(basebackup::summary(id, data, &backup));
    Ok(())
}

fn reason(context: &Context, id: &ClusterId, data: &Path, source: &str, backup: &Backup) -> Trouble {
    let said: Vec<&str> = backup.said.iter().map(String::as_str).collect();
    let space =
        Space { free: free_space(&context.root.path(data)), needed: backup.progress.map(|progress| progress.total) };
    explain(&Failure { id, source, said: &said, space: Some(space) })
}

// The width of these fields depends on the architecture.
#[allow(clippy::useless_conversion)]
fn free_space(real: &Path) -> Option<u64> {
    let space = statvfs(real).ok()?;
    u64::from(space.blocks_available()).checked_mul(u64::from(space.fragment_size()))
}

/// Gives the replica its `/etc/postgresql/VERSION/NAME`.
fn configure(context: &Context, id: &ClusterId, data: &Path, draft: Option<Draft>, primary: &Primary) -> Result<()> {
    let Some(draft) = draft else {
        let added = conf_dir::complete(&context.root, id)?;
        if !added.is_empty() {
            context.reporter.info(format!("added {} with PostgreSQL's defaults", added.join(" and ")));
        }
        return Ok(());
    };
    let mut settings = conf_dir::from_data(context, id, data)?;
    settings.extend(primary.settings());
    draft.finish(context, data, &settings)
}
