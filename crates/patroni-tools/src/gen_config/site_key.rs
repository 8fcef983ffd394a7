//! `site-key`: creates the site key and nothing else, so that it can be distributed before any host is configured. It shows a
//! fingerprint, which is the same on two hosts only if they have the same key.

use anyhow::Result;
use host::report::{self, Reporter};
use host::{ClusterId, Root};

use crate::patroni_yml::inputs::{Overrides, create_site_key, settings, site_key, site_key_path};
use crate::patroni_yml::values::scope;

/// Creates the key if it does not exist. With a cluster, the fingerprint is the one that its members publish.
pub(crate) fn run(root: &Root, overrides: &Overrides, id: Option<&ClusterId>, reporter: &Reporter) -> Result<()> {
    let settings = settings(root, overrides, id)?;
    let path = site_key_path(&settings)?;
    let (key, what) = match site_key(root, &settings)? {
        Some(key) => (key, "up to date"),
        None => (create_site_key(root, &settings, true)?, "written"),
    };
    let fingerprint = match id {
        Some(id) => key.fingerprint(&scope(&settings, id)?),
        None => key.identity(),
    };
    report::print(&format!("{}: {what} (fingerprint {fingerprint})\n", path.display()));
    if what == "written" {
        reporter.info("copy it to the other hosts of the site before you run patroni-gen-config there");
    }
    Ok(())
}
