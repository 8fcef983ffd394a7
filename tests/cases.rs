//! The built program against folders that stand for machines; see cases/README.md.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "cases/machine.rs"]
mod machine;
#[path = "pki.rs"]
mod pki;

#[path = "cases/completion.rs"]
mod completion;
#[path = "cases/dependencies.rs"]
mod dependencies;
#[path = "cases/foreign.rs"]
mod foreign;
#[path = "cases/install.rs"]
mod install;
#[path = "cases/owners.rs"]
mod owners;
#[path = "cases/pg_lsclusters.rs"]
mod pg_lsclusters;
#[path = "cases/sessions.rs"]
mod sessions;
#[path = "cases/settings.rs"]
mod settings;
#[path = "cases/summary.rs"]
mod summary;
#[path = "cases/values.rs"]
mod values;

/// Without the means for a test it says why it is skipped; with `REQUIRE_ALL=1` that is a failure.
fn skip(test: &str, reason: &str) {
    assert!(std::env::var_os("REQUIRE_ALL").is_none_or(|value| value != "1"), "{test} cannot be run: {reason}");
    eprintln!("{test}: skipped: {reason}");
}
