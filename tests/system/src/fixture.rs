//! What every system test begins and ends with.

use std::env;

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use crate::image::Release;
use crate::lab::{Lab, has_program};

/// Boots machines, runs a test with them, and collects their logs if it fails.
///
/// Where the host cannot run machines, it says so and passes, or fails if `REQUIRE_ALL=1`.
pub fn test(release: Release, machines: &[&str], body: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    test_in(|| Lab::boot(release, machines), body)
}

/// [`test`] with machines that have all stores, not only etcd.
pub fn test_with_stores(release: Release, machines: &[&str], body: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    test_in(|| Lab::boot_with_stores(release, machines), body)
}

/// [`test`] with machines that have postgresql-common's own tests.
pub fn test_with_suite(release: Release, machines: &[&str], body: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    test_in(|| Lab::boot_with_suite(release, machines), body)
}

fn test_in(boot: impl FnOnce() -> Result<Lab>, body: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    if !ready()? {
        return Ok(());
    }
    let lab = boot()?;
    let Err(failure) = body(&lab) else { return Ok(()) };
    let directory = lab.collect_logs().context(format!("{failure:#}, and the logs cannot be collected"))?;
    Err(failure.context(format!("failed; logs of the machines are in {}", directory.display())))
}

/// True if the host can run machines. If not, says why, or fails if `REQUIRE_ALL=1`.
pub fn ready() -> Result<bool> {
    let Some(reason) = obstacle() else { return Ok(true) };
    if env::var("REQUIRE_ALL").is_ok_and(|value| value == "1") {
        bail!("REQUIRE_ALL=1, but the test cannot run: {reason}");
    }
    eprintln!("skipped: {reason}");
    Ok(false)
}

fn obstacle() -> Option<String> {
    if !geteuid().is_root() {
        return Some("it needs root".to_owned());
    }
    let tools = [("mmdebstrap", "mmdebstrap"), ("systemd-nspawn", "systemd-container"), ("ip", "iproute2")];
    let (program, package) = tools.into_iter().find(|(program, _)| !has_program(program))?;
    Some(format!("it needs {program}: apt-get install {package}"))
}
