//! Servers as administrators write them: `host`, `host:port`, `[fd00::1]:port`.

use std::fmt;
use std::net::Ipv6Addr;

use anyhow::Result;
use host::fail;

/// A server. It always has a port, because the validator of Patroni 3.0 requires one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// `host[:port]`.
pub fn server(text: &str, default_port: u16) -> Result<Server> {
    let (host, port) = match text.rsplit_once(':') {
        _ if text.contains("://") => {
            fail!("'{text}' is a URL"; "Write HOST or HOST:PORT, and set DCS_PROTOCOL to http or https.")
        }
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.to_owned()),
        Some(_) if !text.ends_with(']') => {
            fail!("'{text}' is an IPv6 address without brackets"; "Write it as [fd00::1]:{default_port}.")
        }
        _ => (text, default_port.to_string()),
    };
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let valid_host = match address {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => is_name(host),
    };
    match port.parse::<u16>() {
        Ok(port) if port > 0 && valid_host => Ok(Server { host: address.unwrap_or(host).to_owned(), port }),
        _ => fail!("'{text}' is not HOST or HOST:PORT"),
    }
}

/// Does this consist only of characters of host names?
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_get_a_port_and_keep_their_brackets() {
        for (text, expected) in [
            ("10.0.0.1", "10.0.0.1:2379"),
            ("etcd-1.example.org:1234", "etcd-1.example.org:1234"),
            ("[fd00::1]", "[fd00::1]:2379"),
            ("[fd00::1]:99", "[fd00::1]:99"),
        ] {
            assert_eq!(server(text, 2379).unwrap().to_string(), expected);
        }
        for text in ["fd00::1", "a:b", "a:0", ":2379", "http://a:1", "a b", "[fd00::x]:1", "a:65536"] {
            assert!(server(text, 2379).is_err(), "{text} was accepted");
        }
    }
}
