//! The file for dnscp, and what to run so that the client endpoint of a running member is as it is set.

use anyhow::Result;
use host::report::Reporter;
use host::{ClusterId, Root};

use crate::patroni_yml::config::Config;
use crate::patroni_yml::dnscp_file::{self, Change};
use crate::postgres::units::is_active;

/// What is left to do for the client endpoint.
#[must_use]
pub(crate) struct Next(Option<String>);

impl Next {
    /// Writes the file for dnscp that belongs to the text of a Patroni file.
    pub(crate) fn install(root: &Root, config: &Config, patroni: &str) -> Result<Self> {
        Ok(Self(next(root, &config.id, dnscp_file::install(root, config, patroni)?)))
    }

    /// Says what to run.
    pub(crate) fn tell(self, reporter: &Reporter) {
        if let Some(next) = self.0 {
            reporter.info(next);
        }
    }
}

/// A start of Patroni also starts dnscp@ (`Wants=`), so only a running member needs more.
fn next(root: &Root, id: &ClusterId, change: Change) -> Option<String> {
    let is_active = |unit: &str| is_active(root, &format!("{unit}@{}.service", id.dashed()));
    let (patroni, dnscp) = (is_active("patroni"), is_active("dnscp"));
    let unit = format!("dnscp@{}", id.dashed());
    let next = match change {
        Change::Off if dnscp => format!("end the client endpoint, which is no longer set, with: systemctl stop {unit}"),
        Change::New | Change::Changed | Change::Same if patroni && !dnscp => {
            format!("start the client endpoint with: systemctl start {unit}")
        }
        Change::New | Change::Changed if dnscp => {
            format!("make dnscp read the settings with: systemctl reload {unit}")
        }
        _ => return None,
    };
    Some(format!("{id}: {next}"))
}
