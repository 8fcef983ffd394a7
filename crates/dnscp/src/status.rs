//! `dnscp status 16-main`: what is wanted, what is there, and what is wrong.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use host::endpoint::{Manager, state_file};
use host::{ClusterId, report};
use serde_json::{Value, json};

use crate::netlink::{self, Interface};
use crate::rest::{Api, Standing};
use crate::run::Task;
use crate::service::word;
use crate::state::{Locks, Service};
use crate::{dns, plan};

const LOOKUP: Duration = Duration::from_secs(3);

/// A run has the lock for some hundredths of a second.
const WAIT: Duration = Duration::from_millis(1500);

/// Prints, and fails if something is wrong.
pub fn run(task: &Task, locks: &Locks, id: &ClusterId, json: bool) -> Result<()> {
    let standing = task.standing();
    let interfaces = netlink::interfaces()?;
    let pick = netlink::pick(&task.point.vips, task.point.interface.as_deref(), &interfaces);
    let primary = standing == Standing::Primary;
    let mut problems = Vec::new();
    if let Standing::Silent(why) | Standing::Usurped(why) = &standing {
        problems.push(why.clone());
    }
    problems.extend(task.rest().and_then(Api::doubt));
    let service = locks.service();
    match service {
        Service::Runs => {}
        Service::Missing => problems.push(format!("dnscp@{0} does not run: systemctl start dnscp@{0}", id.dashed())),
        Service::Hidden => {
            problems.push(format!("whether dnscp@{} runs can be seen by root and postgres only", id.dashed()));
        }
    }
    problems.extend(lock(locks, service));
    problems.extend(pick.problems.iter().cloned());
    let manager = task.point.manager;
    let told = manager == Manager::Keepalived && task.root.path(state_file(id)).exists();
    if manager == Manager::Keepalived && told != primary && matches!(standing, Standing::Primary | Standing::Other) {
        let not = if told { "" } else { "not " };
        problems.push(format!(
            "keepalived is told that this member is {not}the primary: systemctl restart dnscp@{}",
            id.dashed()
        ));
    }

    let mut addresses = Vec::new();
    let mut lines = Vec::new();
    for vip in &task.point.vips {
        let place = pick.placed.iter().find(|placed| placed.address == vip.address);
        let here = holder(&interfaces, vip.address);
        let wanted = primary && place.is_some();
        let (interface, lifetime) = here.map_or((None, None), |(name, lifetime)| (Some(name), lifetime));
        match (wanted, &interface) {
            (true, None) => problems.push(format!("{} is not here, but this member is the primary", vip.address)),
            (false, Some(name)) if standing == Standing::Other => {
                problems.push(format!("{} is on {name}, but this member is not the primary", vip.address));
            }
            _ => {}
        }
        lines.push(match (&interface, place) {
            (Some(name), _) => {
                let left = match (manager, lifetime) {
                    (Manager::Dnscp, Some(left)) => format!("for {left} s"),
                    (Manager::Dnscp, None) => "without a lease".to_owned(),
                    (manager, _) => format!("by {}", manager.name()),
                };
                format!("{} on {name} {left}", vip.address)
            }
            (None, Some(place)) => format!("{} not here (would be on {})", vip.address, place.interface),
            (None, None) => format!("{} not in a subnet of this member", vip.address),
        });
        addresses.push(json!({
            "address": vip.address.to_string(),
            "wanted": wanted,
            "held": interface.is_some(),
            "interface": interface.or_else(|| place.map(|place| place.interface.clone())),
            "lifetime": lifetime,
        }));
    }
    let (name, name_line) =
        name(task, &pick.placed.iter().map(|placed| placed.address).collect::<Vec<_>>(), primary, &mut problems);
    if json {
        let member = task.instance.as_ref().map(|instance| instance.name.clone());
        let status = json!({
            "cluster": id.slashed(),
            "member": member,
            "role": word(&standing),
            "primary": primary,
            "service": service == Service::Runs,
            "manager": manager.name(),
            "addresses": addresses,
            "dns": name,
            "problems": problems.iter().map(|problem| report::plain(problem)).collect::<Vec<_>>(),
        });
        report::print(&format!("{status:#}\n"));
        return if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("\n")) };
    }
    let mut text = format!(
        "cluster: {id}\nrole:    {}\nservice: {}\n",
        word(&standing),
        match service {
            Service::Runs => "runs",
            Service::Missing => "does not run",
            Service::Hidden => "cannot be seen",
        }
    );
    for line in &lines {
        text.extend(["address: ", &report::plain(line), "\n"]);
    }
    if let Some(line) = &name_line {
        text.extend(["name:    ", &report::plain(line), "\n"]);
    }
    report::print(&text);
    if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("\n")) }
}

/// What keeps runs from changing addresses.
fn lock(locks: &Locks, service: Service) -> Option<String> {
    if service == Service::Hidden {
        return None;
    }
    match locks.act(WAIT) {
        Ok(Some(_)) => None,
        Ok(None) => Some(format!(
            "{} has had the lock {} for longer than {WAIT:?}, so that the service does nothing: end it, if it hangs",
            locks.holder(),
            locks.path("lock").display()
        )),
        Err(error) => Some(format!("{error:#}")),
    }
}

fn holder(interfaces: &[Interface], address: IpAddr) -> Option<(String, Option<u32>)> {
    interfaces.iter().find_map(|interface| Some((interface.name.clone(), interface.address(address)?.lifetime)))
}

/// What the name's servers answer, and whether that is what the primary wants.
fn name(task: &Task, placed: &[IpAddr], primary: bool, problems: &mut Vec<String>) -> (Value, Option<String>) {
    let Some(dns) = &task.point.dns else { return (Value::Null, None) };
    let mut wanted: Vec<IpAddr> = placed.to_vec();
    if task.point.vips.is_empty() {
        wanted.extend(task.own_address());
    }
    wanted.sort();
    match dns::lookup(&task.root, dns, Instant::now() + LOOKUP) {
        Ok(answer) => {
            if primary && answer.addresses != wanted {
                problems.push(format!(
                    "{} is {} at {}, but should be {}",
                    dns.name,
                    if answer.addresses.is_empty() { "unknown".to_owned() } else { plan::listed(&answer.addresses) },
                    answer.server,
                    plan::listed(&wanted)
                ));
            }
            let addresses: Vec<String> = answer.addresses.iter().map(ToString::to_string).collect();
            let line = format!(
                "{} is {} at {}",
                dns.name,
                if addresses.is_empty() { "unknown".to_owned() } else { addresses.join(", ") },
                answer.server
            );
            let value = json!({"name": dns.name, "addresses": addresses, "ttl": answer.ttl, "server": answer.server.to_string()});
            (value, Some(line))
        }
        Err(error) => {
            problems.push(format!("{error:#}"));
            (json!({"name": dns.name, "addresses": null}), Some(format!("{}: nobody answers", dns.name)))
        }
    }
}
