//! The client endpoint (virtual IP addresses and DNS name), as far as the Patroni file depends on it.

use std::net::IpAddr;

use anyhow::Result;
use host::endpoint::{Endpoint, Manager};
use host::settings::Settings;
use host::trouble::Trouble;
use host::vip::{self, Fault, Pick};
use host::{Root, facts, trouble};

use crate::patroni_yml::bootstrap_dcs::Dynamic;

/// Its virtual IP addresses.
pub fn vips(endpoint: Option<&Endpoint>) -> Vec<IpAddr> {
    endpoint.iter().flat_map(|endpoint| &endpoint.vips).map(|vip| vip.address).collect()
}

/// Refuses addresses that certainly cannot be virtual ones on this host, and returns what may not work.
pub fn check(root: &Root, settings: &Settings, endpoint: &Endpoint, own: IpAddr) -> Result<Vec<Trouble>> {
    // Without iproute2 the addresses of this host are not known.
    let interfaces = if endpoint.vips.is_empty() { Vec::new() } else { facts::interfaces(root).unwrap_or_default() };
    let place = settings.place(&["VIPS", "DNS_NAME", "DNS_ZONE"]);
    let mut warnings = Vec::new();
    if !interfaces.is_empty() {
        let Pick { problems, .. } = vip::pick(&endpoint.vips, endpoint.interface.as_deref(), &interfaces);
        warnings.extend(problems.into_iter().map(|problem| problem.at(&place)));
    }
    for Fault { certain, trouble } in vip::faults(root, settings, endpoint, Some(own), &interfaces) {
        let trouble = trouble.at(&place);
        if certain {
            return Err(trouble.into());
        }
        warnings.push(trouble);
    }
    Ok(warnings)
}

/// The lease must have expired before another member can acquire the leader lock.
pub fn long_lease(settings: &Settings, endpoint: &Endpoint, dynamic: &Dynamic) -> Option<Trouble> {
    let used = endpoint.lease.as_secs() + dynamic.loop_wait;
    (!endpoint.vips.is_empty() && endpoint.manager != Manager::VipManager && used >= dynamic.ttl).then(|| {
        trouble!(
            at settings.place(&["VIP_LEASE", "TTL", "LOOP_WAIT"]),
            "VIP_LEASE + LOOP_WAIT is {used}, but TTL is {}: a hung primary could still have the virtual IP address when a new primary \
             acquires it", dynamic.ttl;
            "Lower VIP_LEASE."
        )
    })
}

/// Programs that are missing for the DNS registration. Reported now, and not only when the first primary registers.
pub fn missing_programs(root: &Root, endpoint: &Endpoint) -> Vec<Trouble> {
    let programs = endpoint.dns.as_ref().map_or(&[] as &[_], |dns| dns.auth.programs());
    let missing = programs.iter().filter(|(program, _)| root.program(program).is_err());
    missing
        .map(|(program, package)| {
            trouble!("DNS_AUTH=gss needs {program}, which is not installed"; "Install it with: apt install {package}")
        })
        .collect()
}
