//! The steps from the present state to the wanted one. Pure: asks nothing, changes nothing.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Error;
use host::endpoint::{Endpoint, Manager, state_file};
use host::trouble;
use host::trouble::Trouble;
use host::vip::{self, Pick};

use crate::netlink::{Address, Interface, Placed, pick};
use crate::rest::MemberState;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Removes an address from an interface.
    Release {
        /// The interface's number.
        index: u32,
        /// Its name.
        interface: String,
        /// The address.
        address: IpAddr,
    },
    /// Adds an address to an interface, or renews its lease.
    Add {
        /// The address and its interface.
        placed: Placed,
        /// How long it stays unless it is renewed.
        lease: Option<Duration>,
        /// Whether it is there already.
        renewal: bool,
    },
    /// Tells keepalived whether this member is the primary.
    Tell {
        /// The file that exists while it is.
        file: PathBuf,
        /// Whether it is.
        primary: bool,
        /// The virtual addresses on this member, whose connections are reset first if it is not.
        held: Vec<IpAddr>,
    },
    /// Announces an address to the neighbours.
    Announce(Placed),
    /// Registers the name with these addresses.
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
            Self::Add { placed, lease, renewal } => {
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

/// Steps, and what is impossible.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In their order.
    pub steps: Vec<Step>,
    /// What the administrator has to correct.
    pub problems: Vec<Trouble>,
}

/// Steps that remove the virtual addresses that are on an interface of this member.
#[must_use]
pub fn present(point: &Endpoint, interfaces: &[Interface]) -> Vec<Step> {
    steps(point, interfaces, |_| true)
}

/// Those that dnscp added.
fn ours(point: &Endpoint, interfaces: &[Interface]) -> Vec<Step> {
    steps(point, interfaces, |entry| entry.ours)
}

fn steps(point: &Endpoint, interfaces: &[Interface], which: impl Fn(&Address) -> bool) -> Vec<Step> {
    let mut present = Vec::new();
    for interface in interfaces {
        for entry in interface.addresses.iter().filter(|entry| which(entry)) {
            let is_virtual = point.vips.iter().any(|vip| vip.address == entry.address);
            let step =
                Step::Release { index: interface.index, interface: interface.name.clone(), address: entry.address };
            if is_virtual && !present.contains(&step) {
                present.push(step);
            }
        }
    }
    present
}

/// Virtual addresses on this host that dnscp did not add, and therefore neither renews nor removes.
#[must_use]
pub fn foreign(point: &Endpoint, interfaces: &[Interface]) -> Vec<Trouble> {
    if point.manager != Manager::Dnscp {
        return Vec::new();
    }
    let entries = interfaces.iter().flat_map(|interface| interface.addresses.iter().map(move |own| (interface, own)));
    let is_virtual = |address: IpAddr| point.vips.iter().any(|vip| vip.address == address);
    let foreign = entries.filter(|(_, entry)| !entry.ours && is_virtual(entry.address));
    foreign
        .map(|(interface, Address { address, prefix, .. })| vip::foreign(*address, *prefix, &interface.name))
        .collect()
}

/// For a member that is not the primary: removes every virtual address, on whatever interface it is.
#[must_use]
pub fn release(point: &Endpoint, interfaces: &[Interface]) -> Plan {
    let steps = match point.manager {
        Manager::Dnscp => ours(point, interfaces),
        Manager::Keepalived => vec![tell(point, false, &present(point, interfaces))],
        Manager::VipManager => Vec::new(),
    };
    Plan { steps, problems: foreign(point, interfaces) }
}

fn tell(point: &Endpoint, primary: bool, present: &[Step]) -> Step {
    let address = |step: &Step| if let Step::Release { address, .. } = step { Some(*address) } else { None };
    Step::Tell { file: state_file(&point.id), primary, held: present.iter().filter_map(address).collect() }
}

/// For the primary: addresses first, then the neighbours, then the name. The name gets `own` if there is no virtual address. Without
/// a lease keepalived is not told, since nothing would take that back if Patroni hung.
#[must_use]
pub fn acquire(point: &Endpoint, interfaces: &[Interface], lease: Option<Duration>, own: Option<IpAddr>) -> Plan {
    let Pick { placed, mut problems } = pick(&point.vips, point.interface.as_deref(), interfaces);
    problems.extend(foreign(point, interfaces));
    let mut steps = match point.manager {
        Manager::Dnscp => add(ours(point, interfaces), &placed, interfaces, lease),
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

fn add(present: Vec<Step>, placed: &[Placed], interfaces: &[Interface], lease: Option<Duration>) -> Vec<Step> {
    let mut steps = present;
    // An address is removed only from an interface to which it does not belong.
    steps.retain(|step| {
        !matches!(step, Step::Release { index, address, .. }
            if placed.iter().any(|placed| placed.index == *index && placed.address == *address))
    });
    let is_foreign = |placed: &&Placed| {
        let mut entries = interfaces.iter().flat_map(|interface| &interface.addresses);
        entries.any(|entry| entry.address == placed.address && !entry.ours)
    };
    let placed: Vec<&Placed> = placed.iter().filter(|placed| !is_foreign(placed)).collect();
    for placed in &placed {
        let renewal = entry(interfaces, placed).is_some();
        steps.push(Step::Add { placed: (*placed).clone(), lease, renewal });
    }
    steps.extend(placed.into_iter().cloned().map(Step::Announce));
    steps
}

/// The address as the interface has it.
#[must_use]
pub fn entry<'a>(interfaces: &'a [Interface], placed: &Placed) -> Option<&'a Address> {
    interfaces.iter().find(|interface| interface.index == placed.index)?.address(placed.address)
}

/// Whether an event that reports a primary is acted upon. The answer of Patroni's REST API is authoritative, since the event can be
/// late. Without an answer, a fresh event is trusted: Patroni has just sent it.
pub fn may_acquire(state: &MemberState, fresh: bool) -> Result<(), Trouble> {
    match state {
        MemberState::Primary | MemberState::Starting => Ok(()),
        MemberState::NoAnswer(_) if fresh => Ok(()),
        MemberState::NoAnswer(why) => Err(Trouble::of(&Error::from(why.clone()).context("the event is late"))),
        MemberState::Undecided => Err(
            trouble!("Patroni has no leader lock yet"; "The service acquires the address once Patroni has the lock."),
        ),
        MemberState::PortTaken(why) => Err(why.clone()),
        MemberState::NotPrimary => Err("Patroni reports that this member is not the primary".into()),
    }
}

/// What the service does with the addresses in one poll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Renews them, and adds those that are missing.
    Acquire,
    /// Removes them now.
    Release,
    /// Leaves them until their lease expires.
    LetExpire,
}

/// Depends on Patroni's answer alone.
#[must_use]
pub fn decide(state: &MemberState) -> Decision {
    match state {
        MemberState::Primary => Decision::Acquire,
        MemberState::NotPrimary | MemberState::PortTaken(_) => Decision::Release,
        MemberState::Starting | MemberState::Undecided | MemberState::NoAnswer(_) => Decision::LetExpire,
    }
}

/// Whether the lease is renewed: a third of it has passed, or the address has none yet.
#[must_use]
pub fn is_renewal_due(lifetime: Option<u32>, lease: Duration) -> bool {
    lifetime.is_none_or(|left| u64::from(left) * 3 <= lease.as_secs() * 2)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
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
                ours: true,
            })
            .collect();
        Interface { index, name: format!("e{index}"), mac: None, up: true, loopback: false, addresses }
    }

    fn shown(plan: &Plan) -> Vec<String> {
        plan.steps.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn address_then_neighbours_then_name() {
        let plan = acquire(
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
    fn an_address_that_another_program_moves_is_left_to_it() {
        let mut point = point(&["10.0.0.9"]);
        let interfaces = [interface(2, &["10.0.0.1", "10.0.0.9"])];
        let lease = Some(Duration::from_secs(10));
        point.manager = Manager::Keepalived;
        let told = acquire(&point, &interfaces, lease, None);
        let registered = "register pgsql.example.org as 10.0.0.9";
        assert_eq!(shown(&told), ["tell keepalived that this member is the primary", registered]);
        assert_eq!(shown(&acquire(&point, &interfaces, None, None)), [registered]);
        let held = vec!["10.0.0.9".parse().unwrap()];
        let file = PathBuf::from("/run/postgresql/.dnscp.16-main.primary");
        assert_eq!(release(&point, &interfaces).steps, [Step::Tell { file, primary: false, held }]);
        point.manager = Manager::VipManager;
        assert_eq!(shown(&acquire(&point, &interfaces, lease, None)), [registered]);
        assert!(release(&point, &interfaces).steps.is_empty());
    }

    #[test]
    fn an_address_on_the_wrong_interface_is_removed_first() {
        let interfaces = [interface(2, &["10.0.0.1"]), interface(3, &["10.2.0.1", "10.0.0.9", "10.1.0.9"])];
        let plan = acquire(&point(&["10.0.0.9", "10.1.0.9"]), &interfaces, None, None);
        assert_eq!(shown(&plan)[..3], ["remove 10.0.0.9 from e3", "remove 10.1.0.9 from e3", "add 10.0.0.9/24 on e2"]);
    }

    #[test]
    fn an_address_that_dnscp_did_not_add_is_left_alone() {
        let point = point(&["10.0.0.1"]);
        let mut interfaces = [interface(2, &["10.0.0.1", "10.0.0.2"])];
        interfaces[0].addresses[0].ours = false;
        for plan in [release(&point, &interfaces), acquire(&point, &interfaces, Some(Duration::from_secs(10)), None)] {
            assert!(plan.steps.iter().all(|step| matches!(step, Step::Register { .. })), "{plan:?}");
            let hint = plan.problems[0].hint.clone().unwrap_or_default();
            assert!(hint.ends_with("it with: ip address delete 10.0.0.1/24 dev e2"), "{hint}");
        }
        // Nor is it added on a second interface.
        let two = [interface(3, &["10.0.0.3"]), interfaces[0].clone()];
        let plan = acquire(&point, &two, None, None);
        assert!(!plan.steps.iter().any(|step| matches!(step, Step::Add { .. } | Step::Release { .. })), "{plan:?}");
    }

    #[test]
    fn addresses_are_compared_as_addresses() {
        let interfaces = [interface(2, &["10.0.0.10", "10.0.0.1"])];
        assert!(release(&point(&["10.0.0.100"]), &interfaces).steps.is_empty());
        assert_eq!(shown(&release(&point(&["10.0.0.1"]), &interfaces)), ["remove 10.0.0.1 from e2"]);
    }

    #[test]
    fn without_a_virtual_address_the_name_has_the_members_own_address() {
        let own = Some("10.0.0.1".parse().unwrap());
        let plan = acquire(&point(&[]), &[interface(2, &["10.0.0.1"])], None, own);
        assert_eq!(shown(&plan), ["register pgsql.example.org as 10.0.0.1"]);
        let plan = acquire(&point(&["10.5.0.9"]), &[interface(2, &["10.0.0.1"])], None, own);
        assert!(plan.steps.is_empty() && plan.problems.len() == 1, "{plan:?}");
    }

    #[test]
    fn patronis_answer_wins_over_an_event_and_a_late_event_counts_for_nothing() {
        let no_answer = MemberState::NoAnswer("x".into());
        assert!(may_acquire(&MemberState::Primary, false).is_ok());
        assert!(may_acquire(&MemberState::Starting, false).is_ok());
        assert!(may_acquire(&no_answer, true).is_ok());
        assert!(may_acquire(&no_answer, false).is_err());
        assert!(may_acquire(&MemberState::NotPrimary, true).is_err());
        assert!(may_acquire(&MemberState::Undecided, true).is_err());
        assert_eq!(decide(&no_answer), Decision::LetExpire);
        assert_eq!(decide(&MemberState::NotPrimary), Decision::Release);
    }

    #[test]
    fn a_lease_is_renewed_after_a_third_of_it() {
        let lease = Duration::from_secs(10);
        assert!(is_renewal_due(None, lease) && is_renewal_due(Some(6), lease) && is_renewal_due(Some(0), lease));
        assert!(!is_renewal_due(Some(7), lease) && !is_renewal_due(Some(10), lease));
        assert!(is_renewal_due(Some(2), Duration::from_secs(3)) && !is_renewal_due(Some(3), Duration::from_secs(3)));
    }
}
