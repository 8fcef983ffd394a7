//! The command that has to follow after a Patroni file was written, if there is one.

use host::report::Reporter;
use host::trouble::Trouble;
use host::{ClusterId, Root, trouble};
use serde_json::Value;

use crate::doctor::dcs_content_now;
use crate::files::yaml::Yaml;
use crate::gen_config::roles::Roles;
use crate::gen_config::write::Change;
use crate::patroni::paths::patroni_file;
use crate::patroni::version::Patroni;
use crate::patroni_yml::drift::{Difference, would_stop_writes};
use crate::patroni_yml::effect::Effect;
use crate::postgres::units::is_active;

/// Reports the next commands.
pub(crate) fn explain(root: &Root, change: &Change, reporter: &Reporter) {
    let id = &change.config.id;
    let runs = is_active(root, &format!("patroni@{}.service", id.dashed()));
    let exists = root.path(change.config.data_directory.join("PG_VERSION")).exists();
    let path = patroni_file(id);
    let Ok(new) = Yaml::parse(&path, &change.new) else { return };
    let old = change.old.as_deref().and_then(|text| Yaml::parse(&path, text).ok());
    let roles =
        if exists && (runs || change.old.is_some()) { Roles::of(root, id, old.as_ref(), &new) } else { Roles::Same };
    if let Roles::Other(trouble) | Roles::Unknown(trouble) = &roles {
        reporter.warn(trouble.clone());
    }
    let warnings = old.as_ref().map_or_else(Vec::new, |old| site_wide(root, id, old, &new, exists));
    let named = !warnings.is_empty();
    for warning in warnings {
        reporter.warn(warning);
    }
    if !runs && (change.old.is_none() || !exists) {
        reporter.info(start(id));
        return;
    }
    // Without a readable old file, everything is new.
    let effect = old.as_ref().map_or(Effect { member: true, ..Effect::default() }, |old| Effect::of(old, &new));
    if runs && !named {
        let is_reloaded = matches!(roles, Roles::Other(_));
        for step in on_this_member(id, &effect, exists, is_reloaded) {
            reporter.info(step);
        }
    }
    if effect.is_dynamic() && exists {
        if let Some(step) = in_the_cluster(id, &new, &running(root, id, &change.new)) {
            match step {
                Step::Do(what) => reporter.info(what),
                Step::Beware(trouble) => reporter.warn(trouble),
            }
        }
    }
}

/// Before Patroni runs on this host.
fn start(id: &ClusterId) -> String {
    format!(
        "{id}: when 'patroni-gen-config check {id}' finds no errors, run this on the first member, and then on the others: \
         systemctl enable --now patroni@{}",
        id.dashed()
    )
}

/// How a running Patroni gets the new file. `is_reloaded`: by a command that is named already.
fn on_this_member(id: &ClusterId, effect: &Effect, exists: bool, is_reloaded: bool) -> Vec<String> {
    let unit = format!("patroni@{}", id.dashed());
    if !effect.at_start.is_empty() {
        return vec![format!(
            "{id}: Patroni reads {} only when it starts, and PostgreSQL restarts with it. Run on one member after the other, on the \
             primary last: systemctl restart {unit}",
            effect.at_start.join(", ")
        )];
    }
    let mut steps = Vec::new();
    if !is_reloaded && (effect.member || (!exists && !effect.bootstrap.is_empty())) {
        steps.push(format!("{id}: make Patroni read the file with: systemctl reload {unit}"));
    }
    if effect.parameters {
        steps.push(format!(
            "{id}: if 'pg_patronictl {id} list' then shows a pending restart, restart PostgreSQL with: pg_patronictl {id} restart \
             --pending"
        ));
    }
    steps
}

/// A step, or why there is none.
enum Step {
    Do(String),
    Beware(Trouble),
}

/// The dynamic configuration in the DCS.
enum Running {
    Has(Value),
    /// The cluster has none yet.
    Nothing,
    /// The DCS cannot be asked, or does not respond.
    Unknown,
}

fn running(root: &Root, id: &ClusterId, text: &str) -> Running {
    let Some(content) = dcs_content_now(root, id, text) else { return Running::Unknown };
    match content.get("config").and_then(|config| serde_json::from_str(config).ok()) {
        Some(config) => Running::Has(config),
        None => Running::Nothing,
    }
}

/// What a change below `bootstrap.dcs` means for a cluster that exists, on which it has no effect by itself.
fn in_the_cluster(id: &ClusterId, new: &Yaml, running: &Running) -> Option<Step> {
    let running = match running {
        Running::Has(running) => running,
        Running::Nothing => return None,
        Running::Unknown => {
            return Some(Step::Do(format!(
                "{id}: if 'patroni-gen-config apply --dry-run {id}' shows a difference, change the running cluster with: \
                 patroni-gen-config apply {id}"
            )));
        }
    };
    let difference = Difference::new(running, new.get(&["bootstrap", "dcs"])?);
    let keys = difference.keys();
    if keys.is_empty() {
        return None;
    }
    if difference.becomes_standby_cluster() {
        return Some(Step::Beware(would_stop_writes(id)));
    }
    Some(Step::Do(format!(
        "{id}: the running cluster has another {}. Change it with: patroni-gen-config apply {id}",
        keys.join(", ")
    )))
}

/// Changes that concern all members, and their order.
fn site_wide(root: &Root, id: &ClusterId, old: &Yaml, new: &Yaml, exists: bool) -> Vec<Trouble> {
    let unit = format!("patroni@{}", id.dashed());
    // A replica that verifies the primary before the primary has the certificate stops to replicate.
    let ca = ["postgresql", "authentication", "replication", "sslrootcert"];
    let verification = (exists && new.get(&ca).is_some() && old.get(&ca) != new.get(&ca)).then(|| {
        trouble!(
            "this member will verify the certificate of the primary as soon as Patroni is reloaded";
            "Run this on all members, and then on the primary first: systemctl reload {unit}"
        )
    });
    verification.into_iter().chain(protocol(root, &unit, old, new)).collect()
}

/// Before 3.1.0 Patroni also passes its TLS options to connections without TLS, which then fail, and keeps them when it is
/// reloaded (`assert_hostname` in `PatroniRequest.reload_config`; corrected by pull request 2768).
fn protocol(root: &Root, unit: &str, old: &Yaml, new: &Yaml) -> Option<Trouble> {
    let version = Patroni::of(root).ok()?.always_verifies()?;
    let has_tls = |yaml: &Yaml| yaml.get(&["restapi", "certfile"]).is_some();
    match (has_tls(old), has_tls(new)) {
        (false, true) => Some(trouble!(
            "Patroni {version} with TLS cannot ask members without TLS";
            "Run this on the other members too, and then on each of them: systemctl reload {unit}"
        )),
        (true, false) => Some(trouble!(
            "Patroni {version} cannot ask members without TLS until it is restarted";
            "Run on each member, on the primary last: systemctl restart {unit}"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn a_running_member_is_reloaded_or_restarted_only_if_that_is_needed() {
        let id: ClusterId = "16/main".parse().unwrap();
        let member = || Effect { member: true, ..Effect::default() };
        let of = |effect: &Effect, exists| {
            let steps = on_this_member(&id, effect, exists, false);
            let commands = steps.iter().map(|step| step.rsplit(": ").next().unwrap().to_owned());
            commands.collect::<Vec<_>>().join(" && ")
        };
        let reload = "systemctl reload patroni@16-main";
        assert_eq!(of(&Effect::default(), true), "");
        assert_eq!(of(&member(), true), reload);
        assert_eq!(
            of(&Effect { parameters: true, ..member() }, true),
            format!("{reload} && pg_patronictl 16/main restart --pending")
        );
        assert_eq!(on_this_member(&id, &member(), true, true), [""; 0]);
        let restart = Effect { at_start: vec!["etcd3".to_owned()], parameters: true, ..member() };
        assert_eq!(of(&restart, true), "systemctl restart patroni@16-main");
        let bootstrap = |key: &str| Effect { bootstrap: vec![key.to_owned()], ..Effect::default() };
        let dynamic = bootstrap("dcs");
        assert_eq!((of(&dynamic, true).as_str(), of(&dynamic, false).as_str()), ("", reload));
        let method = bootstrap("method");
        assert_eq!((of(&method, true).as_str(), of(&method, false).as_str()), ("", reload));
    }

    #[test]
    fn the_running_cluster_is_changed_only_if_it_differs() {
        let id: ClusterId = "16/main".parse().unwrap();
        let of = |running: Running, wanted: &str| {
            let new = Yaml::parse(Path::new("f"), &format!("bootstrap: {{dcs: {wanted}}}")).unwrap();
            match in_the_cluster(&id, &new, &running) {
                None => String::new(),
                Some(Step::Do(what)) => what,
                Some(Step::Beware(trouble)) => format!("{} | {}", trouble.what, trouble.hint.unwrap()),
            }
        };
        let ttl = || Running::Has(json!({"ttl": 30, "pause": true, "postgresql": {"parameters": {"work_mem": "4MB"}}}));
        assert_eq!(of(ttl(), "{ttl: '30'}"), "");
        assert_eq!(of(Running::Nothing, "{ttl: 40}"), "");
        assert_eq!(
            of(ttl(), "{ttl: 40}"),
            "16/main: the running cluster has another ttl. Change it with: patroni-gen-config apply 16/main"
        );
        assert!(
            of(Running::Unknown, "{ttl: 40}").starts_with("16/main: if 'patroni-gen-config apply --dry-run 16/main'")
        );
        assert!(of(ttl(), "{ttl: 40, standby_cluster: {host: a}}").contains("remove STANDBY_HOST"));
    }
}
