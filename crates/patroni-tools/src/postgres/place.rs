//! Where the server of a cluster runs on this host, and how it is asked.

use std::path::Path;

use anyhow::Result;
use host::{ClusterId, Root, fail};

use crate::postgres::data_dir::running_server;
use crate::postgres::psql::{Psql, State};

/// Where the server runs.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) postmaster: u32,
    pub(crate) port: u16,
    /// The directory of its socket.
    pub(crate) socket: String,
    /// The role to log in as.
    pub(crate) superuser: String,
}

impl Place {
    /// From `postmaster.pid` (`CreateDataDirLockFile` and `AddToDataDirLockFile` in `miscinit.c`).
    pub(crate) fn find(root: &Root, id: &ClusterId, data: &Path, superuser: &str) -> Result<Option<Self>> {
        const PORT: usize = 3;
        const SOCKET: usize = 4;
        let Some(postmaster) = running_server(root, data) else { return Ok(None) };
        let path = data.join("postmaster.pid");
        let text = root.for_postgres().read(&path)?.unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let port = lines.get(PORT).and_then(|port| port.trim().parse().ok());
        let Some(port) = port else {
            fail!(at path.display(), "the server of {id} has not reported its port yet"; "Wait until it has started, and run this again.");
        };
        let socket = lines.get(SOCKET).map(|socket| socket.trim()).unwrap_or_default().to_owned();
        if socket.is_empty() {
            fail!(
                at path.display(), "{id} has no Unix socket";
                "Set unix_socket_directories, and restart the cluster with: pg_ctlcluster {} {} restart", id.version, id.name
            );
        }
        Ok(Some(Self { postmaster, port, socket, superuser: superuser.to_owned() }))
    }

    /// A psql that asks the server as the superuser, over the socket.
    pub(crate) fn psql(&self, root: &Root, id: &ClusterId) -> Result<Psql> {
        Psql::local(root, id, &self.socket, self.port, &self.superuser)
    }

    /// Runs SQL as the superuser over the socket, and returns what was printed.
    pub(crate) fn sql(&self, root: &Root, id: &ClusterId, sql: &str) -> Result<String> {
        let answer = self.psql(root, id)?.run(sql)?;
        if answer.state != State::Done {
            fail!(
                "psql failed on {id} as {}: {}", self.superuser, answer.messages.join("; ");
                "User postgres must be able to log in as the superuser over the Unix socket. If the superuser has another name, set SUPERUSER_NAME."
            );
        }
        Ok(answer.rows)
    }
}
