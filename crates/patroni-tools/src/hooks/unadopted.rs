//! A server of another member that should be adopted instead of creating a new, empty cluster beside it.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use host::members::{self, Member};
use host::settings::Settings;
use host::{ClusterId, Root, fail};

use crate::files::yaml::Yaml;
use crate::patroni::paths::read_patroni_file;

/// How long a member may take to accept a connection.
const LIMIT: Duration = Duration::from_secs(1);

/// Refuses to create a cluster if another of `MEMBERS` has a PostgreSQL on its port, but no Patroni: once this member has created the
/// cluster, that server could not be adopted any more.
pub(crate) fn refuse(root: &Root, id: &ClusterId) -> Result<()> {
    // A file that cannot be read is reported by the check that precedes the start.
    let (Ok(settings), Ok(Some(file))) = (Settings::read(root, id), read_patroni_file(root, id)) else { return Ok(()) };
    let members = members::members(&settings).ok().flatten().unwrap_or_default();
    match first(&members, &file) {
        None => Ok(()),
        Some((member, port)) => fail!(
            "{} ({}) has a PostgreSQL server on port {port} that Patroni does not manage, so no new cluster is created here",
            member.name, member.address;
            "If it is {id}, adopt it there first, with: pg_adoptcluster_patroni {id}. Otherwise stop it, or remove {} from MEMBERS.", member.name
        ),
    }
}

fn first<'a>(members: &'a [Member], file: &Yaml) -> Option<(&'a Member, u16)> {
    let own = file.text(&["name"])?;
    let (port, rest) = (file.port("postgresql").ok()?, file.port("restapi").ok()?);
    thread::scope(|scope| {
        let others: Vec<&Member> = members.iter().filter(|member| member.name != own).collect();
        let asked: Vec<_> = others
            .iter()
            .map(|member| scope.spawn(|| listens(member.address, port) && !listens(member.address, rest)))
            .collect();
        let mut answers = others.into_iter().zip(asked);
        answers.find_map(|(member, answer)| answer.join().ok()?.then_some((member, port)))
    })
}

fn listens(address: IpAddr, port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::new(address, port), LIMIT).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::TcpListener;
    use std::path::Path;

    #[test]
    fn a_server_without_patroni_beside_this_member_is_found() {
        let server = TcpListener::bind("127.0.0.2:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let rest = TcpListener::bind("127.0.0.3:0").unwrap().local_addr().unwrap().port();
        let file =
            format!("name: a\npostgresql: {{listen: '127.0.0.1:{port}'}}\nrestapi: {{listen: '127.0.0.1:{rest}'}}\n");
        let file = Yaml::parse(Path::new("/f.yml"), &file).unwrap();
        let member = |name: &str, address: &str| Member { name: name.to_owned(), address: address.parse().unwrap() };
        let members = [member("a", "127.0.0.2"), member("b", "127.0.0.2"), member("c", "127.0.0.4")];
        assert_eq!(first(&members, &file).map(|(member, port)| (member.name.as_str(), port)), Some(("b", port)));
        let _patroni = TcpListener::bind(("127.0.0.2", rest)).unwrap();
        assert_eq!(first(&members, &file), None);
    }
}
