//! A host without Patroni and PostgreSQL has no member, but may have HAProxy or a DCS.

use anyhow::Result;
use host::{ClusterId, Root, fail};

use crate::patroni::installed::is_absent;

/// Refuses to generate a Patroni file there.
pub(crate) fn refuse_file(root: &Root, id: &ClusterId) -> Result<()> {
    if has_none(root)? {
        fail!(
            "this host has neither Patroni nor PostgreSQL, so it cannot be a member of {id}";
            "To configure HAProxy or a DCS here, use 'patroni-gen-config for'. To make this host a member, run: \
             apt install patroni-tools postgresql"
        );
    }
    Ok(())
}

/// Refuses what changes a running cluster.
pub(crate) fn refuse_change(root: &Root, id: &ClusterId) -> Result<()> {
    if has_none(root)? {
        fail!("this host has neither Patroni nor PostgreSQL, so it is no member of {id}"; "Run this on a member of {id}.");
    }
    Ok(())
}

fn has_none(root: &Root) -> Result<bool> {
    Ok(is_absent(root) && (root.user_id("postgres").is_err() || root.list("/usr/lib/postgresql")?.is_empty()))
}
