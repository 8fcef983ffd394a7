//! The records of the name, as a server answers.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use domain::base::Message;
use domain::base::iana::{Rcode, Rtype};
use domain::rdata::{A, Aaaa, Cname};
use host::fail;

use super::exchange::{self, Limits};
use super::query::{DnsName, query};

/// The addresses of the name, by family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Whether the answer comes from the zone itself.
    pub(super) authoritative: bool,
    /// The name of which this one is an alias.
    pub(super) alias: Option<String>,
    pub(super) v4: Records,
    pub(super) v6: Records,
}

/// All addresses of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) ttl: Option<u32>,
}

impl Records {
    pub(super) fn is(&self, wanted: &BTreeSet<IpAddr>, ttl: u32) -> bool {
        self.addresses == *wanted && (wanted.is_empty() || self.ttl == Some(ttl))
    }

    fn add(&mut self, address: IpAddr, ttl: u32) {
        self.addresses.insert(address);
        self.ttl = Some(ttl);
    }
}

/// The addresses of one family in a list.
pub(super) fn family(addresses: &[IpAddr], v4: bool) -> BTreeSet<IpAddr> {
    addresses.iter().copied().filter(|address| address.is_ipv4() == v4).collect()
}

impl Seen {
    /// Asks a server for A and AAAA, without recursion.
    pub(super) fn ask(server: SocketAddr, name: &DnsName, limits: Limits) -> Result<Self> {
        let mut seen = Self { authoritative: true, ..Self::default() };
        for (rtype, until) in [(Rtype::A, limits.patience), (Rtype::AAAA, limits.until)] {
            let answer = exchange::ask(server, &query(name, rtype, false)?, until)?;
            seen.take(&answer, name)?;
        }
        Ok(seen)
    }

    fn take(&mut self, answer: &Message<Vec<u8>>, name: &DnsName) -> Result<()> {
        let header = answer.header();
        self.authoritative &= header.aa() && matches!(header.rcode(), Rcode::NOERROR | Rcode::NXDOMAIN);
        match header.rcode() {
            // A server may accept changes of what it does not show, and may not have the name yet.
            Rcode::NOERROR | Rcode::NXDOMAIN | Rcode::REFUSED => {}
            Rcode::SERVFAIL => fail!("it answered a query with SERVFAIL"; "See its log: the zone may not be loaded."),
            code => fail!("it answered a query with {code}"; "Check that it is a DNS server."),
        }
        for record in answer.answer()? {
            let record = record?;
            if record.owner() != name {
                continue;
            }
            let ttl = record.ttl().as_secs();
            if let Some(record) = record.to_record::<A>()? {
                self.v4.add(IpAddr::V4(record.data().addr()), ttl);
            } else if let Some(record) = record.to_record::<Aaaa>()? {
                self.v6.add(IpAddr::V6(record.data().addr()), ttl);
            } else if let Some(record) = record.to_record::<Cname<_>>()? {
                self.alias = Some(record.data().cname().to_string());
            }
        }
        Ok(())
    }

    /// Whether the name has exactly these.
    pub(super) fn is(&self, wanted: &[IpAddr], ttl: u32) -> bool {
        self.authoritative && self.v4.is(&family(wanted, true), ttl) && self.v6.is(&family(wanted, false), ttl)
    }

    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.v4.addresses.iter().chain(&self.v6.addresses).copied().collect()
    }

    pub(super) fn ttl(&self) -> Option<u32> {
        self.v4.ttl.or(self.v6.ttl)
    }
}
