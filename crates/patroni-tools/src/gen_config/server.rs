//! The server of this member, asked over its socket as its superuser.

use std::time::Duration;

use anyhow::Result;
use host::{ClusterId, Root, fail};

use crate::files::yaml::Yaml;
use crate::patroni_yml::role_names::SUPERUSER;
use crate::postgres::psql::{Psql, State};

/// The server of this member.
pub(crate) struct Server<'a> {
    pub(crate) root: &'a Root,
    pub(crate) id: &'a ClusterId,
    pub(crate) yaml: &'a Yaml,
}

impl Server<'_> {
    /// The rows of the answer.
    pub(crate) fn ask(&self, sql: &str) -> Result<String> {
        self.answer(self.psql()?, sql)
    }

    /// The same with a time limit, for what can be left out.
    pub(crate) fn ask_within(&self, limit: Duration, sql: &str) -> Result<String> {
        self.answer(self.psql()?.within(limit), sql)
    }

    fn psql(&self) -> Result<Psql> {
        let sockets = self.yaml.text(&["postgresql", "parameters", "unix_socket_directories"]);
        let socket = sockets.as_deref().and_then(|list| list.split(',').next()).unwrap_or("/var/run/postgresql").trim();
        let superuser = self.yaml.text(&["postgresql", "authentication", "superuser", "username"]);
        let superuser = superuser.as_deref().unwrap_or(SUPERUSER);
        Psql::local(self.root, self.id, socket, self.yaml.port("postgresql")?, superuser)
    }

    fn answer(&self, psql: Psql, sql: &str) -> Result<String> {
        let answer = psql.run(sql)?;
        if answer.state != State::Done {
            fail!("psql failed on {}: {}", self.id, answer.messages.join("; "));
        }
        Ok(answer.rows)
    }
}
