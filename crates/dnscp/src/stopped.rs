//! `ExecStopPost=` of `patroni@.service`: Patroni has exited or was killed.

use anyhow::Result;

use crate::plan::{self, Step};
use crate::run::{Task, finish};
use crate::state::Locks;
use crate::{apply, netlink};

/// How Patroni ended, as systemd reports it (`systemd.exec(5)`, "Environment Variables Set on Service Processes").
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exit {
    code: String,
    status: String,
}

impl Exit {
    /// From `EXIT_CODE` and `EXIT_STATUS`.
    #[must_use]
    pub fn from_environment() -> Self {
        let variable = |name| std::env::var(name).unwrap_or_default();
        Self { code: variable("EXIT_CODE"), status: variable("EXIT_STATUS") }
    }

    /// A Patroni that exits stops PostgreSQL first, except in pause (`Ha.shutdown`): then the leader key stays, and no other member
    /// is promoted automatically. The same holds if it could not stop PostgreSQL. A Patroni that was killed leaves PostgreSQL running
    /// too, but its leader key expires.
    fn leaves_a_primary(&self, postgresql_runs: bool) -> bool {
        self.code == "exited" && self.status == "0" && postgresql_runs
    }
}

/// Removes the address or, in pause, renews its lease once, for the time until Patroni is back.
pub fn run(task: &Task, locks: &Locks, exit: &Exit) -> Result<()> {
    let _lock = task.lock(locks);
    let interfaces = netlink::interfaces()?;
    let running = task.instance.as_ref().is_some_and(|instance| instance.postgresql_runs(&task.root));
    let steps = if exit.leaves_a_primary(running) {
        let mut steps = plan::acquire(&task.point, &interfaces, Some(task.point.lease), None).steps;
        steps.retain(|step| matches!(step, Step::Add { renewal: true, .. }));
        for step in &steps {
            if let Step::Add { placed, .. } = step {
                task.reporter.info(format!(
                    "Patroni exited and left PostgreSQL running: {} stays for {} s",
                    placed.address,
                    task.point.lease.as_secs()
                ));
            }
        }
        steps
    } else {
        plan::release(&task.point, &interfaces).steps
    };
    let (changes, faults) = apply::addresses(&task.root, &steps);
    apply::report(&task.reporter, "Patroni ended", &changes, &[]);
    finish(&task.reporter, faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_patroni_in_pause_leaves_a_primary() {
        let exit = |code: &str, status: &str| Exit { code: code.to_owned(), status: status.to_owned() };
        assert!(exit("exited", "0").leaves_a_primary(true));
        assert!(!exit("exited", "0").leaves_a_primary(false));
        assert!(!exit("exited", "1").leaves_a_primary(true));
        assert!(!exit("killed", "KILL").leaves_a_primary(true));
        assert!(!exit("dumped", "ABRT").leaves_a_primary(true));
        assert!(!Exit::default().leaves_a_primary(true));
    }
}
