//! Patroni's own store: no server, the members agree among themselves (`patroni/dcs/raft.py`). Deprecated by Patroni.

use anyhow::{Result, bail};
use host::Root;
use host::settings::Settings;
use serde_json::json;

use crate::patroni_yml::dcs::hosts::{Server, server};
use crate::patroni_yml::dcs::{Member, Options, push};

/// Its port is PostgreSQL's less this, so that 5432 gives 2222, as in Patroni's documentation.
const OFFSET: u16 = 5432 - 2222;

/// The section's options.
pub fn options(root: &Root, settings: &Settings, member: &Member) -> Result<Options> {
    let port = default_port(member.port);
    // Where there is none, it has to be written, and then nothing uses this one.
    let default_port = port.unwrap_or(2222);
    let own = settings.parse("RAFT_ADDRESS", |text| {
        if port.is_none() && server(text, 1).ok() != server(text, 2).ok() {
            bail!("'{text}' has no port, and PORT is too low to derive one: write ADDRESS:PORT");
        }
        let own = server(text, default_port)?;
        if ["127.0.0.1", "0.0.0.0", "::", "::1", "localhost"].contains(&own.host.as_str()) {
            bail!(
                "'{text}' is for this host alone, which Patroni refuses: write the address that the other members reach"
            );
        }
        Ok(own)
    })?;
    let own = match (own, port) {
        (Some(own), _) => own,
        (None, Some(port)) => Server { host: member.address.to_string(), port },
        (None, None) => bail!(
            "{}PORT is {}, from which no port for raft can be derived: set RAFT_ADDRESS",
            settings.place(&["PORT", "DCS"]),
            member.port
        ),
    };
    if let Some(owner) = (member.taken)(own.port) {
        bail!(
            "{}port {} of raft {owner}: set RAFT_ADDRESS to ADDRESS:PORT with another one",
            settings.place(&["RAFT_ADDRESS", "DCS"]),
            own.port
        );
    }
    let partners = settings.list("DCS_HOSTS", |text| server(text, own.port))?.unwrap_or_default();
    // The same list can stand on all members.
    let partners: Vec<String> = partners.iter().filter(|partner| **partner != own).map(address).collect();
    let directory = settings
        .path("RAFT_DATA_DIR")?
        .map_or_else(|| default_directory(member.scope), |path| path.display().to_string());
    let mut options = vec![
        ("self_addr".to_owned(), json!(address(&own))),
        ("partner_addrs".to_owned(), json!(partners)),
        ("data_dir".to_owned(), json!(directory)),
    ];
    push(&mut options, "password", settings.secret(root, "DCS_PASSWORD_FILE")?);
    Ok(options)
}

/// None where PostgreSQL's port is too low.
fn default_port(postgresql: u16) -> Option<u16> {
    postgresql.checked_sub(OFFSET).filter(|port| *port >= 1024)
}

/// Beside the data. The generator makes it: Patroni would, too, but so would patronictl, which wants to write there.
fn default_directory(scope: &str) -> String {
    format!("/var/lib/postgresql/{scope}.raft")
}

/// Without the brackets of an IPv6 address: pysyncobj splits at the last colon and resolves what is before it as it is.
fn address(server: &Server) -> String {
    format!("{}:{}", server.host, server.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_derived_where_there_is_room() {
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
