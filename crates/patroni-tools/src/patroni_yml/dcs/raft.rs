//! Raft, Patroni's own DCS: without servers, the members agree among themselves (`patroni/dcs/raft.py`). Deprecated by Patroni.

use anyhow::Result;
use host::settings::Settings;
use host::{Root, fail};
use serde_json::json;

use crate::patroni_yml::dcs::hosts::{Server, server};
use crate::patroni_yml::dcs::section::{Member, Options, push};

/// Its port is PostgreSQL's minus this, so that 5432 gives 2222, as in Patroni's documentation.
const OFFSET: u16 = 5432 - 2222;

/// The section's options.
pub fn options(root: &Root, settings: &Settings, member: &Member) -> Result<Options> {
    let port = default_port(member.port);
    // If none can be derived, RAFT_ADDRESS must have a port, and this one is not used.
    let default_port = port.unwrap_or(2222);
    let own = settings.parse("RAFT_ADDRESS", |text| {
        if port.is_none() && server(text, 1).ok() != server(text, 2).ok() {
            fail!("'{text}' has no port, and PORT is too low to derive one"; "Write ADDRESS:PORT.");
        }
        let own = server(text, default_port)?;
        if ["127.0.0.1", "0.0.0.0", "::", "::1", "localhost"].contains(&own.host.as_str()) {
            fail!(
                "'{text}' is a loopback or wildcard address, which Patroni refuses";
                "Use the address by which the other members reach this host."
            );
        }
        Ok(own)
    })?;
    let own = match (own, port) {
        (Some(own), _) => own,
        (None, Some(port)) => Server { host: member.address.to_string(), port },
        (None, None) => fail!(
            at settings.place(&["PORT", "DCS"]),
            "PORT is {}, which is too low to derive a port for Raft", member.port;
            "Set RAFT_ADDRESS."
        ),
    };
    if let Some(owner) = (member.taken)(own.port) {
        fail!(
            at settings.place(&["RAFT_ADDRESS", "DCS"]),
            "port {} of Raft {owner}", own.port;
            "Set RAFT_ADDRESS to ADDRESS:PORT with another port."
        );
    }
    let partners = settings.list("DCS_HOSTS", |text| server(text, own.port))?.unwrap_or_default();
    // The same list can be used on all members.
    let partners: Vec<String> = partners.iter().filter(|partner| **partner != own).map(address).collect();
    let directory = settings
        .path("RAFT_DATA_DIR")?
        .map_or_else(|| default_directory(member.cluster), |path| path.display().to_string());
    let mut options = vec![
        ("self_addr".to_owned(), json!(address(&own))),
        ("partner_addrs".to_owned(), json!(partners)),
        ("data_dir".to_owned(), json!(directory)),
    ];
    push(&mut options, "password", settings.secret(root, "DCS_PASSWORD_FILE")?);
    Ok(options)
}

/// None if PostgreSQL's port is too low.
fn default_port(postgresql: u16) -> Option<u16> {
    postgresql.checked_sub(OFFSET).filter(|port| *port >= 1024)
}

/// Next to the data. The generator creates it, because otherwise patronictl could be the first to do so, which writes there,
/// too.
fn default_directory(cluster: &str) -> String {
    format!("/var/lib/postgresql/{cluster}.raft")
}

/// Without the brackets of an IPv6 address: pysyncobj splits at the last colon and resolves what is before it as it is.
fn address(server: &Server) -> String {
    format!("{}:{}", server.host, server.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_derived_if_possible() {
        assert_eq!(default_port(5432), Some(2222));
        assert_eq!(default_port(4234), Some(1024));
        assert_eq!(default_port(4233), None);
        assert_eq!(default_port(1024), None);
    }

    #[test]
    fn an_ipv6_address_has_no_brackets() {
        assert_eq!(address(&server("[fd00::1]", 2222).unwrap()), "fd00::1:2222");
    }
}
