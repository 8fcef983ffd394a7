//! The DNS name: what its servers answer, and whether they would accept a change.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use host::trouble;
use host::{ClusterId, trouble::Trouble};
use serde::Serialize;

use super::problem::Problem;
use crate::dns::trial;
use crate::netlink::Placed;
use crate::plan;
use crate::rest::MemberState;
use crate::run::Task;
use crate::state::Service;

/// How long each server has for its answer.
const LOOKUP: Duration = Duration::from_secs(3);

/// How long each server, and the KDC, have for the trial.
const LOGIN: Duration = Duration::from_secs(3);

/// What the name's servers answer; without addresses if none responds.
#[derive(Debug, Serialize)]
pub(super) struct NameStatus {
    name: String,
    addresses: Option<Vec<IpAddr>>,
    ttl: Option<u32>,
    server: Option<SocketAddr>,
}

impl NameStatus {
    /// What the name's servers answer; adds a problem if the primary has other addresses, and why.
    pub(super) fn observe(
        task: &Task,
        id: &ClusterId,
        placed: &[Placed],
        state: &MemberState,
        service: Service,
        problems: &mut Vec<Problem>,
    ) -> Option<Self> {
        let dns = task.point.dns.as_ref()?;
        let mut wanted: Vec<IpAddr> = placed.iter().map(|placed| placed.address).collect();
        if task.point.vips.is_empty() {
            wanted.extend(task.own_address());
        }
        wanted.sort();
        let mut status = Self { name: dns.name.clone(), addresses: None, ttl: None, server: None };
        let mut right = true;
        let (mut silent, mut refused) = (Vec::new(), Vec::new());
        let is_primary = *state == MemberState::Primary;
        // Only the primary changes the name.
        let would: &[IpAddr] = if is_primary { &wanted } else { &[] };
        for opinion in trial::ask_all(&task.root, dns, would, LOOKUP, LOGIN) {
            match opinion.answer {
                Ok(answer) => {
                    right &= answer.addresses == wanted;
                    if status.server.is_none()
                        || (answer.addresses != wanted && status.addresses.as_ref() == Some(&wanted))
                    {
                        let (ttl, server) = (answer.ttl, Some(answer.server));
                        status = Self { addresses: Some(answer.addresses), ttl, server, ..status };
                    }
                }
                Err(why) => silent.push(why),
            }
            refused.extend(opinion.login.err());
        }
        let wrong = is_primary && !right;
        // A change needs one server.
        let none = status.server.is_none();
        problems.extend(silent.into_iter().map(|why| Problem::new(none && is_primary, why)));
        if wrong {
            let hint = if service == Service::NotRunning {
                format!("Start the service with: systemctl start dnscp@{}", id.dashed())
            } else if let Some(hint) = refused.iter().find_map(|why| why.hint.clone()) {
                hint
            } else {
                format!("Register it now with: systemctl reload dnscp@{}", id.dashed())
            };
            problems.push(Problem::error(trouble!("{status}, but should be {}", plan::listed(&wanted); "{hint}")));
        }
        problems.extend(refused.into_iter().map(|why: Trouble| Problem::new(wrong, why)));
        Some(status)
    }
}

impl fmt::Display for NameStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.addresses, self.server) {
            (Some(addresses), Some(server)) if addresses.is_empty() => {
                write!(f, "{} is unknown at {server}", self.name)
            }
            (Some(addresses), Some(server)) => write!(f, "{} is {} at {server}", self.name, plan::listed(addresses)),
            _ => write!(f, "{}: no server responds", self.name),
        }
    }
}
