//! What `for` has written on this host before, compared with what it would write now.

use std::path::{Path, PathBuf};

use anyhow::Result;
use host::{ClusterId, Root};

use crate::files::header::{Author, arguments, author};
use crate::integrations::cluster::Site;
use crate::integrations::file::File;
use crate::integrations::plan::{Options, Output};
use crate::integrations::target::Program;
use crate::integrations::{certificate_files, consul, etcd, haproxy, keepalived, pgbouncer, site_ca};
use crate::patroni_yml::inputs::Overrides;

/// A program that is configured here.
pub(crate) struct Standing {
    /// Its main file.
    pub(crate) path: PathBuf,
    /// The program and its clusters, as on the command line.
    pub(crate) words: String,
    /// Its unit; the certificates have none.
    pub(crate) unit: Option<&'static str>,
    /// The files that are not as they should be; an error if the settings give nothing.
    pub(crate) compared: Result<Compared>,
}

/// With what the files of a program were compared.
pub(crate) enum Compared {
    /// With the settings: those that are missing or differ.
    Settings(Vec<PathBuf>),
    /// With the date only, because the site key, from which they are derived, is not on this host: those that are about to expire.
    Date(Vec<PathBuf>),
}

/// The programs, each with its main file and its unit.
fn programs() -> [(Program, PathBuf, Option<&'static str>); 6] {
    let file = |path: &str| PathBuf::from(path);
    [
        (Program::Haproxy, file(haproxy::FILE), Some("haproxy")),
        (Program::Keepalived, file(keepalived::FILE), Some("keepalived")),
        (Program::Pgbouncer, file(pgbouncer::FILE), Some("pgbouncer")),
        (Program::Etcd, file(etcd::FILE), Some("etcd")),
        (Program::Consul, file(consul::FILE), Some("consul")),
        (Program::Tls, Path::new(certificate_files::DIRECTORY).join("ca.pem"), None),
    ]
}

/// The programs whose main file was generated.
pub(crate) fn standing(root: &Root) -> Result<Vec<Standing>> {
    let mut found = Vec::new();
    for (program, path, unit) in programs() {
        let Some(text) = root.read(&path)? else { continue };
        let author = author(&text);
        if author == Author::Other {
            continue;
        }
        // `--for haproxy 16/main 16/app`.
        let ids = arguments(&text).iter().skip(2).map(|word| Ok(word.parse()?)).collect::<Result<Vec<ClusterId>>>();
        let named: Vec<String> = ids.iter().flatten().map(ClusterId::slashed).collect();
        let words = std::iter::once(program.name()).chain(named).collect::<Vec<_>>().join(" ");
        // A file that was edited is the administrator's, and `for` does not replace it.
        let compared = match author {
            Author::Edited => Ok(Compared::Settings(Vec::new())),
            _ => ids.and_then(|ids| compare(root, program, &ids)),
        };
        found.push(Standing { path, words, unit, compared });
    }
    Ok(found)
}

fn compare(root: &Root, program: Program, ids: &[ClusterId]) -> Result<Compared> {
    let options = Options {
        output: Output::Difference,
        members_from_cluster: false,
        renew: false,
        may_create_site_key: false,
        overrides: Overrides::default(),
    };
    let site = Site::resolve(root, &options, ids)?;
    if program.needs_site_key() && site.key.is_none() {
        return Ok(Compared::Date(if program == Program::Tls { site_ca::expiring(root)? } else { Vec::new() }));
    }
    let plan = program.plan(&site)?;
    let files = plan.files.iter().map(|file| File::of(root, file, program, ids)).collect::<Result<Vec<_>>>()?;
    Ok(Compared::Settings(files.iter().filter(|file| file.changes()).map(|file| file.wanted.path.clone()).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_program_that_can_run_without_a_member_is_known() {
        // The other two write into /etc/patroni on a member: a file of vip-manager, and policies that are only uploaded.
        let known = programs().map(|(program, ..)| program);
        let missing = Program::value_variants().iter().filter(|program| !known.contains(program));
        assert_eq!(missing.copied().collect::<Vec<_>>(), [Program::VipManager, Program::ConsulPolicy]);
    }
}
