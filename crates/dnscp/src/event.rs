//! What Patroni says happened: `EVENT ROLE SCOPE`.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};

/// When Patroni, systemd or a person calls (`Postgresql.call_nowait` in Patroni's `postgresql/__init__.py`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `on_start`, `on_restart`, `on_role_change`, `on_reload`: the role decides.
    Running,
    /// `on_stop`, and `before_stop`, which we name in the Patroni file ourselves, since it comes without arguments.
    Stopping,
    /// `on_schedule`, which dnscp.sh had its cron call with.
    Schedule,
}

/// What the role says about who answers clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `primary` (Patroni 4), `master` (3), `promoted` (only 3.0.0).
    Primary,
    /// The leader of a standby cluster.
    StandbyLeader,
    /// `registerdns`, which dnscp.sh had its cron call with: who has the address registers it again.
    Register,
    /// `replica`, `demoted`, `uninitialized`, and whatever else a later Patroni may say.
    Other,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The name as it came, for messages.
    pub name: String,
    /// What kind of event that is.
    pub kind: Kind,
    /// The role that goes with it.
    pub role: Role,
    /// The name of the cluster, `16-main`.
    pub scope: String,
}

/// What an event wants, if it is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// This member has the address.
    Take,
    /// This member has not got it.
    GiveUp,
    /// It stays as it is; who has it registers it again.
    Register,
}

impl Event {
    /// From the three words.
    pub fn new(name: &str, role: &str, scope: &str) -> Result<Self> {
        Ok(Self { name: name.to_owned(), kind: name.parse()?, role: Role::of(role), scope: scope.to_owned() })
    }

    /// What it wants.
    #[must_use]
    pub fn wish(&self, standby_leader: bool) -> Wish {
        match (self.kind, self.role) {
            (Kind::Stopping, _) => Wish::GiveUp,
            (_, Role::Register) => Wish::Register,
            (_, Role::Primary) => Wish::Take,
            (_, Role::StandbyLeader) if standby_leader => Wish::Take,
            _ => Wish::GiveUp,
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
            other => bail!(
                "'{other}' is not an event of Patroni: write on_start, on_restart, on_role_change, on_stop or before_stop, \
                 then role and scope"
            ),
        }
    }
}

impl Role {
    /// An unknown role is not the primary's.
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
    fn only_a_primary_that_runs_takes() {
        for (event, role, wish) in [
            ("on_start", "primary", Wish::Take),
            ("on_start", "master", Wish::Take),
            ("on_restart", "primary", Wish::Take),
            ("on_role_change", "promoted", Wish::Take),
            ("on_role_change", "replica", Wish::GiveUp),
            ("on_role_change", "demoted", Wish::GiveUp),
            ("on_role_change", "uninitialized", Wish::GiveUp),
            ("on_role_change", "standby_leader", Wish::GiveUp),
            ("on_role_change", "Primary", Wish::GiveUp),
            ("on_role_change", "", Wish::GiveUp),
            ("on_stop", "primary", Wish::GiveUp),
            ("on_stop", "demoted", Wish::GiveUp),
            ("before_stop", "primary", Wish::GiveUp),
            ("on_schedule", "registerdns", Wish::Register),
        ] {
            assert_eq!(Event::new(event, role, "16-main").unwrap().wish(false), wish, "{event} {role}");
        }
        assert_eq!(Event::new("on_start", "standby_leader", "x").unwrap().wish(true), Wish::Take);
        assert!(Event::new("on_stoop", "primary", "x").is_err());
    }
}
