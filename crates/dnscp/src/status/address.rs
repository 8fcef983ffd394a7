//! The virtual addresses: where each should be and where it is.

use std::net::IpAddr;

use host::endpoint::{Manager, state_file};
use host::trouble::Trouble;
use host::vip::managers;
use host::{ClusterId, trouble};
use serde::Serialize;

use super::problem::Problem;
use crate::netlink::{Interface, Placed};
use crate::rest::MemberState;
use crate::run::Task;
use crate::state::Service;

/// A virtual address.
#[derive(Debug, Serialize)]
pub(super) struct AddressStatus {
    pub(super) address: IpAddr,
    /// Whether this member should have it.
    pub(super) wanted: bool,
    /// Whether this member has it.
    pub(super) held: bool,
    /// The interface on which it is, or would be.
    pub(super) interface: Option<String>,
    /// The seconds that are left of its lease.
    pub(super) lifetime: Option<u32>,
    /// Whether another program than dnscp added it.
    #[serde(skip)]
    foreign: bool,
}

impl AddressStatus {
    pub(super) fn observe(address: IpAddr, placed: &[Placed], interfaces: &[Interface], state: &MemberState) -> Self {
        let place = placed.iter().find(|placed| placed.address == address);
        let present = interfaces.iter().find_map(|interface| Some((&interface.name, interface.address(address)?)));
        Self {
            address,
            wanted: *state == MemberState::Primary && place.is_some(),
            held: present.is_some(),
            interface: present.map(|(name, _)| name).or(place.map(|place| &place.interface)).cloned(),
            lifetime: present.and_then(|(_, entry)| entry.lifetime),
            foreign: present.is_some_and(|(_, entry)| !entry.ours),
        }
    }

    /// Whether it is not where Patroni's answer says.
    pub(super) fn is_misplaced(&self, state: &MemberState) -> bool {
        (self.wanted && !self.held) || (self.held && *state == MemberState::NotPrimary)
    }

    pub(super) fn problem(
        &self,
        task: &Task,
        id: &ClusterId,
        state: &MemberState,
        service: Service,
    ) -> Option<Problem> {
        let by_dnscp = task.point.manager == Manager::Dnscp;
        if !self.is_misplaced(state) || (self.foreign && by_dnscp) {
            return None;
        }
        let what = match &self.interface {
            Some(name) if self.held => format!("{} is on {name}, but this member is not the primary", self.address),
            _ => format!("{} is not here, but this member is the primary", self.address),
        };
        let (why, hint) = cause(task, id, service);
        Some(Problem::error(Trouble::new(what + &why).hint(hint)))
    }
}

/// Why an address is not where it should be, as far as that is visible, and what to do.
fn cause(task: &Task, id: &ClusterId, service: Service) -> (String, String) {
    let unit = format!("dnscp@{}", id.dashed());
    let journal = |unit: &str| format!("See why with: journalctl -u {unit}");
    if service == Service::NotRunning {
        return (format!(", and {unit} is not running"), format!("Start it with: systemctl start {unit}"));
    }
    let manager = task.point.manager;
    if manager == Manager::Dnscp {
        return (String::new(), journal(&unit));
    }
    if let Some(stopped) = managers::stopped(&task.root, manager, id) {
        return (
            format!(", and {} is not running, which moves it (VIP_MANAGER)", stopped.name),
            format!("Start it with: systemctl start {}", stopped.name),
        );
    }
    let unit = managers::units(manager, id).into_iter().next().map(|unit| unit.name).unwrap_or_default();
    (format!(" (VIP_MANAGER is {})", manager.name()), journal(&unit))
}

/// A program that moves the addresses of another primary, but is not running here.
pub(super) fn stopped_manager(task: &Task, id: &ClusterId) -> Option<Problem> {
    if task.point.vips.is_empty() {
        return None;
    }
    let name = managers::stopped(&task.root, task.point.manager, id)?.name;
    Some(Problem::warning(trouble!(
        "{name}, which moves the virtual IP address (VIP_MANAGER), is not running";
        "Start it with: systemctl start {name}"
    )))
}

/// keepalived has been told otherwise than Patroni reports.
pub(super) fn keepalived(task: &Task, id: &ClusterId, state: &MemberState, service: Service) -> Option<Problem> {
    // Without the service it is told nothing.
    let decided = matches!(state, MemberState::Primary | MemberState::NotPrimary) && service == Service::Running;
    if task.point.manager != Manager::Keepalived || !decided {
        return None;
    }
    let told = task.root.path(state_file(id)).exists();
    let not = if told { "" } else { "not " };
    (told != (*state == MemberState::Primary)).then(|| {
        Problem::error(trouble!(
            "keepalived was told that this member is {not}the primary";
            "Restart the service with: systemctl restart dnscp@{}", id.dashed()
        ))
    })
}
