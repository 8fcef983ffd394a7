//! What Patroni reports: `EVENT ROLE SCOPE`.

use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use host::fail;

/// When Patroni, systemd or an administrator calls (`Postgresql.call_nowait` in Patroni's `postgresql/__init__.py`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `on_start`, `on_restart`, `on_role_change`, `on_reload`: the role decides.
    Running,
    /// `on_stop`, and `before_stop`, whose arguments patroni-gen-config writes, since Patroni passes none.
    Stopping,
    /// `on_schedule`, from the cron job of dnscp.sh.
    Schedule,
}

/// Whether a member with this role answers clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `primary` (Patroni 4), `master` (3), `promoted` (only 3.0.0).
    Primary,
    /// The leader of a standby cluster.
    StandbyLeader,
    /// `registerdns`, from the cron job of dnscp.sh: the member with the address registers it again.
    Register,
    /// `replica`, `demoted`, `uninitialized`, and any role of a later Patroni.
    Other,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The event as Patroni calls it, for messages.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// The role of this member.
    pub role: Role,
    /// The name of the cluster, `16-main`: Patroni's scope, unless `--cluster` names it.
    pub scope: String,
}

/// What to do at an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// This member gets the address.
    Acquire,
    /// It loses the address.
    Release,
    /// The address stays where it is; the member that has it registers the name again.
    Register,
}

impl Event {
    /// From the three words.
    pub fn new(name: &str, role: &str, scope: &str) -> Result<Self> {
        Ok(Self { name: name.to_owned(), kind: name.parse()?, role: Role::of(role), scope: scope.to_owned() })
    }

    /// What to do at this event.
    #[must_use]
    pub fn action(&self, standby_leader: bool) -> Action {
        match (self.kind, self.role) {
            (Kind::Stopping, _) => Action::Release,
            (_, Role::Register) => Action::Register,
            (_, Role::Primary) => Action::Acquire,
            (_, Role::StandbyLeader) if standby_leader => Action::Acquire,
            _ => Action::Release,
        }
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "on_start" | "on_restart" | "on_role_change" | "on_reload" => Ok(Self::Running),
            "on_stop" | "before_stop" => Ok(Self::Stopping),
            "on_schedule" => Ok(Self::Schedule),
            other => fail!(
                "'{other}' is not an event of Patroni";
                "Write on_start, on_restart, on_role_change, on_stop or before_stop, then the role and the scope."
            ),
        }
    }
}

impl Role {
    /// An unknown role is not that of a primary.
    fn of(text: &str) -> Self {
        match text {
            "primary" | "master" | "promoted" => Self::Primary,
            "standby_leader" => Self::StandbyLeader,
            "registerdns" => Self::Register,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_a_running_primary_acquires_the_address() {
        for (event, role, action) in [
            ("on_start", "primary", Action::Acquire),
            ("on_start", "master", Action::Acquire),
            ("on_restart", "primary", Action::Acquire),
            ("on_role_change", "promoted", Action::Acquire),
            ("on_role_change", "replica", Action::Release),
            ("on_role_change", "demoted", Action::Release),
            ("on_role_change", "uninitialized", Action::Release),
            ("on_role_change", "standby_leader", Action::Release),
            ("on_role_change", "Primary", Action::Release),
            ("on_role_change", "", Action::Release),
            ("on_stop", "primary", Action::Release),
            ("on_stop", "demoted", Action::Release),
            ("before_stop", "primary", Action::Release),
            ("on_schedule", "registerdns", Action::Register),
        ] {
            assert_eq!(Event::new(event, role, "16-main").unwrap().action(false), action, "{event} {role}");
        }
        assert_eq!(Event::new("on_start", "standby_leader", "x").unwrap().action(true), Action::Acquire);
        assert!(Event::new("on_stoop", "primary", "x").is_err());
    }
}
