//! Whether a change of the dynamic configuration waits for a restart of PostgreSQL.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use host::report::Reporter;
use host::{ClusterId, Root};

use crate::files::yaml::Yaml;
use crate::gen_config::server::Server;
use crate::patroni::patronictl::Patronictl;
use crate::postgres::roles::literal;

/// The longest time for which members are asked.
const LONGEST: Duration = Duration::from_secs(60);

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Reports the restart that some of the changed parameters require, if a member waits for one. A member reads the new configuration in its
/// next loop, and publishes that it waits in the one after that (`Patroni._run_cycle`, `Ha.touch_member`).
pub(crate) fn explain(
    root: &Root,
    id: &ClusterId,
    yaml: &Yaml,
    cluster: &Patronictl,
    names: &[String],
    reporter: &Reporter,
) {
    if names.is_empty() {
        return;
    }
    let command = format!("pg_patronictl {id} restart --pending");
    let unknown = || {
        format!("{id}: if 'pg_patronictl {id} list' then shows a pending restart, restart PostgreSQL with: {command}")
    };
    let Ok(names) = only_at_start(&Server { root, id, yaml }, names) else {
        reporter.info(unknown());
        return;
    };
    if names.is_empty() {
        return;
    }
    let names = names.join(", ");
    let loops = Duration::from_secs(2 * loop_wait(yaml) + 5);
    let limit = loops.min(LONGEST);
    reporter.info(format!("{id}: waiting until the members know whether they need a restart for {names}"));
    let begin = Instant::now();
    loop {
        let Ok(members) = cluster.members() else {
            reporter.info(unknown());
            return;
        };
        let pending: Vec<&str> =
            members.iter().filter(|member| member.pending_restart).map(|member| member.name.as_str()).collect();
        let is_over = begin.elapsed() > limit;
        if !pending.is_empty() && (is_over || pending.len() == members.len()) {
            reporter.info(format!(
                "{id}: {names} will take effect when PostgreSQL restarts on {}. Restart it with: {command}",
                pending.join(", ")
            ));
            return;
        }
        if is_over {
            if limit < loops {
                reporter.info(unknown());
            }
            return;
        }
        sleep(LOOK_EVERY);
    }
}

fn loop_wait(yaml: &Yaml) -> u64 {
    yaml.text(&["bootstrap", "dcs", "loop_wait"]).and_then(|text| text.parse().ok()).unwrap_or(10)
}

/// Those of the parameters that the server reads only when it starts.
fn only_at_start(server: &Server, names: &[String]) -> Result<Vec<String>> {
    let names: Vec<String> = names.iter().map(|name| literal(&name.to_lowercase())).collect();
    let sql = format!(
        "SELECT name FROM pg_catalog.pg_settings WHERE context = 'postmaster' AND pg_catalog.lower(name) IN ({}) ORDER BY name;",
        names.join(", ")
    );
    Ok(server.ask(&sql)?.lines().map(str::to_owned).filter(|line| !line.is_empty()).collect())
}
