//! The one caller of psql: an environment that does not change what is asked or answered, no password prompt, and an end.

use std::ffi::OsString;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use host::{ClusterId, Root, program};

use crate::postgres::child;
use crate::postgres::programs::server_program;

/// How long a call may take.
const LIMIT: Duration = Duration::from_secs(40);

/// How long libpq waits for a connection, in seconds, unless it is told otherwise: without a limit, a host behind a firewall that drops
/// packets would take as long as TCP does, and longer than `LIMIT`.
const CONNECT_TIMEOUT: &str = "30";

/// Variables of libpq that make a session different, over whatever connection.
const OF_THE_SESSION: [&str; 5] = ["PGCLIENTENCODING", "PGDATESTYLE", "PGGEQO", "PGOPTIONS", "PGTZ"];

/// The user that runs the servers.
const POSTGRES: &str = "postgres";

/// A psql of a cluster's version.
pub(crate) struct Psql {
    call: Command,
    limit: Duration,
}

/// How a call has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Everything that was asked has been done.
    Done,
    /// There was no connection, or it broke.
    NoConnection,
    /// The server refused something.
    Refused,
}

/// What a call has given.
pub(crate) struct Answer {
    pub(crate) state: State,
    /// What was printed, unaligned.
    pub(crate) rows: String,
    /// The lines of errors and notices.
    pub(crate) messages: Vec<String>,
}

impl Psql {
    /// For the server of this host, over its socket and as its superuser, run by the user postgres. The first error ends the call.
    /// Nothing of the caller's environment counts.
    pub(crate) fn local(
        root: &Root,
        id: &ClusterId,
        socket_directory: &str,
        port: u16,
        superuser: &str,
    ) -> Result<Self> {
        let mut call = program::at(&server_program(root, id, "psql"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            call.env_remove(name);
        }
        program::as_postgres(root, &mut call)?;
        // Where all users can create a socket, such as in /tmp, one of them could answer in place of a server that is not running.
        call.env("PGREQUIREPEER", POSTGRES);
        call.args(["--quiet", "--tuples-only", "--set=ON_ERROR_STOP=1", "--dbname=postgres"]);
        call.args(["--username", superuser, "--host", socket_directory, "--port", &port.to_string()]);
        Ok(Self::usual(call))
    }

    /// For a member that is to be copied, over a connection for physical replication, which knows only the commands of replication.
    /// It ends together with the hook. The environment says how to connect, as Patroni passes the password (`PGPASSFILE`).
    pub(crate) fn replication(root: &Root, id: &ClusterId, source: &str, application: &str) -> Result<Self> {
        let mut call = child::command(root, &server_program(root, id, "psql"))?;
        for name in OF_THE_SESSION {
            call.env_remove(name);
        }
        if std::env::var_os("PGCONNECT_TIMEOUT").is_none() {
            call.env("PGCONNECT_TIMEOUT", CONNECT_TIMEOUT);
        }
        call.env("PGAPPNAME", application).args(["--pset=footer=off", "--pset=pager=off"]);
        call.arg(OsString::from(format!("--dbname={source} replication=true")));
        Ok(Self::usual(call))
    }

    fn usual(mut call: Command) -> Self {
        call.args(["--no-psqlrc", "--no-password", "--no-align"]);
        Self { call, limit: LIMIT }
    }

    /// The same with another timeout.
    pub(crate) fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Does what stands in `commands`, which is on no command line.
    pub(crate) fn run(mut self, commands: &str) -> Result<Answer> {
        const NO_CONNECTION: i32 = 2;
        let output = program::output_within(&mut self.call, commands, self.limit)?;
        let said = String::from_utf8_lossy(&output.stderr);
        Ok(Answer {
            state: match output.status.code() {
                Some(0) => State::Done,
                Some(NO_CONNECTION) => State::NoConnection,
                _ => State::Refused,
            },
            rows: String::from_utf8_lossy(&output.stdout).into_owned(),
            messages: said.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn only_a_server_of_postgres_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        std::fs::write(folder.path().join("etc/passwd"), "postgres:x:101:102::/:/bin/sh\n").unwrap();
        std::fs::write(folder.path().join("etc/group"), "postgres:x:102:\n").unwrap();
        let root = Root::new(folder.path());
        let psql = Psql::local(&root, &"17/main".parse().unwrap(), "/tmp", 5432, "postgres").unwrap();
        let peer = psql.call.get_envs().find(|(name, _)| *name == "PGREQUIREPEER");
        assert_eq!(peer, Some((OsStr::new("PGREQUIREPEER"), Some(OsStr::new("postgres")))));
    }
}
