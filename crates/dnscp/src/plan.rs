//! What is there, what is wanted, and the steps between. Nothing here asks or changes anything.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use host::endpoint::{Endpoint, Manager, state_file};

use crate::netlink::{Interface, Pick, Placed, pick};
use crate::rest::Standing;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// An address goes from an interface.
    Release {
        /// The interface's number.
        index: u32,
        /// Its name.
        interface: String,
        /// The address.
        address: IpAddr,
    },
    /// An address comes to an interface, or its lease is renewed.
    Hold {
        /// Which, and where.
        placed: Placed,
        /// For how long, unless it is renewed.
        lease: Option<Duration>,
        /// Was it there already?
        renewal: bool,
    },
    /// keepalived is told whether this member is the primary.
    Tell {
        /// By this file, which is there while it is.
        file: PathBuf,
        /// Is it?
        primary: bool,
        /// The virtual addresses that are here, whose connections end first when it is not.
        held: Vec<IpAddr>,
    },
    /// The neighbours are told.
    Announce(Placed),
    /// The name gets these addresses.
    Register {
        /// The name.
        name: String,
        /// All its addresses.
        addresses: Vec<IpAddr>,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Release { interface, address, .. } => write!(f, "remove {address} from {interface}"),
            Self::Hold { placed, lease, renewal } => {
                let verb = if *renewal { "keep" } else { "add" };
                write!(f, "{verb} {placed}")?;
                lease.map_or(Ok(()), |lease| write!(f, " for {} s", lease.as_secs()))
            }
            Self::Tell { primary, .. } => {
                write!(f, "tell keepalived that this member is {}the primary", if *primary { "" } else { "not " })
            }
            Self::Announce(placed) => write!(f, "announce {} on {}", placed.address, placed.interface),
            Self::Register { name, addresses } => write!(f, "register {name} as {}", listed(addresses)),
        }
    }
}

/// Addresses, separated by commas.
#[must_use]
pub fn listed(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Steps, and what cannot be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// What the administrator has to correct.
    pub problems: Vec<String>,
}

/// The virtual addresses of the site that are on an interface.
#[must_use]
pub fn held(point: &Endpoint, interfaces: &[Interface]) -> Vec<Step> {
    let mut held = Vec::new();
    for interface in interfaces {
        for entry in &interface.addresses {
            let ours = point.vips.iter().any(|vip| vip.address == entry.address);
            let step =
                Step::Release { index: interface.index, interface: interface.name.clone(), address: entry.address };
            if ours && !held.contains(&step) {
                held.push(step);
            }
        }
    }
    held
}

/// What this member does without: every virtual address of the site goes, wherever it is.
#[must_use]
pub fn give_up(point: &Endpoint, interfaces: &[Interface]) -> Plan {
    let held = held(point, interfaces);
    let steps = match point.manager {
        Manager::Dnscp => held,
        Manager::Keepalived => vec![tell(point, false, &held)],
        Manager::VipManager => Vec::new(),
    };
    Plan { steps, problems: Vec::new() }
}

fn tell(point: &Endpoint, primary: bool, held: &[Step]) -> Step {
    let address = |step: &Step| if let Step::Release { address, .. } = step { Some(*address) } else { None };
    Step::Tell { file: state_file(&point.id), primary, held: held.iter().filter_map(address).collect() }
}

/// What the primary has: addresses first, then the neighbours, then the name. `own` is what the name means where the site
/// has no virtual address. Without a lease keepalived is not told, since nobody would take that back if Patroni hung.
#[must_use]
pub fn take(point: &Endpoint, interfaces: &[Interface], lease: Option<Duration>, own: Option<IpAddr>) -> Plan {
    let Pick { placed, problems } = pick(&point.vips, point.interface.as_deref(), interfaces);
    let mut steps = match point.manager {
        Manager::Dnscp => hold(held(point, interfaces), &placed, interfaces, lease),
        Manager::Keepalived => lease.map(|_| tell(point, true, &[])).into_iter().collect(),
        Manager::VipManager => Vec::new(),
    };
    if let Some(dns) = &point.dns {
        let mut addresses: Vec<IpAddr> = placed.iter().map(|placed| placed.address).collect();
        if point.vips.is_empty() {
            addresses.extend(own);
        }
        if !addresses.is_empty() {
            steps.push(Step::Register { name: dns.name.clone(), addresses });
        }
    }
    Plan { steps, problems }
}

fn hold(held: Vec<Step>, placed: &[Placed], interfaces: &[Interface], lease: Option<Duration>) -> Vec<Step> {
    let mut steps = held;
    // What stays is an address that is elsewhere than it belongs.
    steps.retain(|step| {
        !matches!(step, Step::Release { index, address, .. }
            if placed.iter().any(|placed| placed.index == *index && placed.address == *address))
    });
    for placed in placed {
        let renewal = entry(interfaces, placed).is_some();
        steps.push(Step::Hold { placed: placed.clone(), lease, renewal });
    }
    steps.extend(placed.iter().cloned().map(Step::Announce));
    steps
}

/// The address as the interface has it.
#[must_use]
pub fn entry<'a>(interfaces: &'a [Interface], placed: &Placed) -> Option<&'a crate::netlink::Address> {
    interfaces.iter().find(|interface| interface.index == placed.index)?.address(placed.address)
}

/// May an event that says "primary" be followed? Patroni's own answer wins over the event, which can be late; without an
/// answer a fresh event is believed, since Patroni has just sent it.
pub fn may_take(standing: &Standing, fresh: bool) -> Result<(), String> {
    match standing {
        Standing::Primary | Standing::Starting => Ok(()),
        Standing::Silent(_) if fresh => Ok(()),
        Standing::Silent(why) => Err(format!("the event is old, and {why}")),
        Standing::Undecided => {
            Err("Patroni has no leader lock yet; the service takes the address once it has".to_owned())
        }
        Standing::Usurped(why) => Err(why.clone()),
        Standing::Other => Err("Patroni says meanwhile that this member is not the primary".to_owned()),
    }
}

/// What the service does in one look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// The addresses are there, or come.
    Take,
    /// They go now.
    GiveUp,
    /// They stay for what is left of their lease.
    Leave,
}

/// By Patroni's answer alone.
#[must_use]
pub fn turn(standing: &Standing) -> Turn {
    match standing {
        Standing::Primary => Turn::Take,
        Standing::Other | Standing::Usurped(_) => Turn::GiveUp,
        Standing::Starting | Standing::Undecided | Standing::Silent(_) => Turn::Leave,
    }
}

/// Is it time to renew? Two thirds of the lease are left at the most, or the address has none yet.
#[must_use]
pub fn due(lifetime: Option<u32>, lease: Duration) -> bool {
    lifetime.is_none_or(|left| u64::from(left) * 3 <= lease.as_secs() * 2)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::netlink::Address;
    use host::endpoint::{Auth, Dns, Vip};

    fn point(vips: &[&str]) -> Endpoint {
        Endpoint {
            id: "16/main".parse().unwrap(),
            vips: vips.iter().map(|vip| Vip { address: vip.parse().unwrap(), prefix: Some(24) }).collect(),
            manager: Manager::Dnscp,
            interface: None,
            lease: Duration::from_secs(10),
            standby_leader: false,
            dns: Some(Dns {
                name: "pgsql.example.org".to_owned(),
                zone: None,
                servers: Vec::new(),
                ttl: 5,
                auth: Auth::None,
            }),
        }
    }

    fn interface(index: u32, addresses: &[&str]) -> Interface {
        let addresses = addresses
            .iter()
            .map(|address| Address {
                address: address.parse().unwrap(),
                prefix: 24,
                lifetime: None,
                usable: true,
                secondary: false,
            })
            .collect();
        Interface { index, name: format!("e{index}"), mac: None, up: true, loopback: false, addresses }
    }

    fn shown(plan: &Plan) -> Vec<String> {
        plan.steps.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn address_then_neighbours_then_name() {
        let plan = take(
            &point(&["10.0.0.9", "10.1.0.9"]),
            &[interface(2, &["10.0.0.1"])],
            Some(Duration::from_secs(10)),
            None,
        );
        assert_eq!(
            shown(&plan),
            ["add 10.0.0.9/24 on e2 for 10 s", "announce 10.0.0.9 on e2", "register pgsql.example.org as 10.0.0.9"]
        );
    }

    #[test]
    fn what_another_program_moves_is_left_to_it() {
        let mut point = point(&["10.0.0.9"]);
        let interfaces = [interface(2, &["10.0.0.1", "10.0.0.9"])];
        let lease = Some(Duration::from_secs(10));
        point.manager = Manager::Keepalived;
        let told = take(&point, &interfaces, lease, None);
        let registered = "register pgsql.example.org as 10.0.0.9";
        assert_eq!(shown(&told), ["tell keepalived that this member is the primary", registered]);
        assert_eq!(shown(&take(&point, &interfaces, None, None)), [registered]);
        let held = vec!["10.0.0.9".parse().unwrap()];
        let file = PathBuf::from("/run/postgresql/.dnscp.16-main.primary");
        assert_eq!(give_up(&point, &interfaces).steps, [Step::Tell { file, primary: false, held }]);
        point.manager = Manager::VipManager;
        assert_eq!(shown(&take(&point, &interfaces, lease, None)), [registered]);
        assert!(give_up(&point, &interfaces).steps.is_empty());
    }

    #[test]
    fn an_address_at_the_wrong_place_goes_first() {
        let interfaces = [interface(2, &["10.0.0.1"]), interface(3, &["10.2.0.1", "10.0.0.9", "10.1.0.9"])];
        let plan = take(&point(&["10.0.0.9", "10.1.0.9"]), &interfaces, None, None);
        assert_eq!(shown(&plan)[..3], ["remove 10.0.0.9 from e3", "remove 10.1.0.9 from e3", "add 10.0.0.9/24 on e2"]);
    }

    #[test]
    fn addresses_are_compared_as_addresses() {
        let interfaces = [interface(2, &["10.0.0.10", "10.0.0.1"])];
        assert!(give_up(&point(&["10.0.0.100"]), &interfaces).steps.is_empty());
        assert_eq!(shown(&give_up(&point(&["10.0.0.1"]), &interfaces)), ["remove 10.0.0.1 from e2"]);
    }

    #[test]
    fn without_a_virtual_address_the_name_means_the_member() {
        let own = Some("10.0.0.1".parse().unwrap());
        let plan = take(&point(&[]), &[interface(2, &["10.0.0.1"])], None, own);
        assert_eq!(shown(&plan), ["register pgsql.example.org as 10.0.0.1"]);
        let plan = take(&point(&["10.5.0.9"]), &[interface(2, &["10.0.0.1"])], None, own);
        assert!(plan.steps.is_empty() && plan.problems.len() == 1, "{plan:?}");
    }

    #[test]
    fn patronis_answer_wins_over_a_gain_and_a_late_event_over_nothing() {
        let silent = Standing::Silent("x".to_owned());
        assert!(may_take(&Standing::Primary, false).is_ok());
        assert!(may_take(&Standing::Starting, false).is_ok());
        assert!(may_take(&silent, true).is_ok());
        assert!(may_take(&silent, false).is_err());
        assert!(may_take(&Standing::Other, true).is_err());
        assert!(may_take(&Standing::Undecided, true).is_err());
        assert_eq!(turn(&silent), Turn::Leave);
        assert_eq!(turn(&Standing::Other), Turn::GiveUp);
    }

    #[test]
    fn a_lease_is_renewed_in_its_first_third() {
        let lease = Duration::from_secs(10);
        assert!(due(None, lease) && due(Some(6), lease) && due(Some(0), lease));
        assert!(!due(Some(7), lease) && !due(Some(10), lease));
        assert!(due(Some(2), Duration::from_secs(3)) && !due(Some(3), Duration::from_secs(3)));
    }
}
