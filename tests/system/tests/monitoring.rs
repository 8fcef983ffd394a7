//! `docs/monitoring.md`: its commands, as they are written there, on two members and a Prometheus server. A plugin that an unprivileged user
//! runs, the metrics that a real `node_exporter` serves, and alerts of a real Prometheus, while the cluster is sound and while it is not.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::patroni::{self, Cluster};
use lab::{Lab, Node, Release, page};

const PAGE: &str = include_str!("../../../docs/monitoring.md");
const RULES: &str = include_str!("../../../monitoring/patroni-tools.rules.yml");
const RULES_TEST: &str = include_str!("../../monitoring/rules_test.yml");
const MACHINES: [&str; 3] = ["pg1", "pg2", "mon"];
const METRICS: &str = "/var/lib/prometheus/node-exporter/patroni-tools.prom";
const TIMER: &str = "patroni-tools-metrics.timer";

/// What the agent of a monitoring system runs.
const PLUGIN: &str = "sudo -n /usr/bin/patroni-gen-config check --format nagios --all";
const NRPE: &str = "/usr/lib/nagios/plugins/check_nrpe -H 127.0.0.1 -c check_patroni_tools";

#[test]
fn debian_12() -> Result<()> {
    lab::test_with_stores(Release::Debian12, &MACHINES, watched)
}

#[test]
fn debian_13() -> Result<()> {
    lab::test_with_stores(Release::Debian13, &MACHINES, watched)
}

fn watched(lab: &Lab) -> Result<()> {
    lab.offer(&[patroni::package()?])?;
    lab.each(|node| node.run("mkdir -p -m 0700 /root/.ssh && systemctl start ssh").map(drop))?;
    page::let_in_root_of_the_first(lab)?;
    lab.start_etcd()?;
    let main = Cluster::with_members(lab, "main", 2);
    let members = main.nodes();
    Lab::each_of(members, |node| {
        node.run_within(page::LIMIT, "apt-get install -y patroni-tools")?;
        ensure!(node.try_run(&format!("systemctl is-enabled {TIMER}"))?.stdout.trim() == "disabled", "{TIMER} is on");
        let hosts: Vec<String> = lab.nodes().iter().map(|node| format!("{}:2379", node.ipv4())).collect();
        node.write("/etc/default/patroni", format!("DCS_HOSTS={}\nWATCHDOG=off\n", hosts.join(",")), 0o644)
    })?;
    main.generate()?;
    main.start()?;
    main.wait_streaming(1, Duration::from_secs(90))?;
    // Nothing is said about a server that has just started, and nothing is wrong after that.
    lab.wait_until(Duration::from_secs(120), "both members are sound", || {
        Ok(members
            .iter()
            .all(|node| node.try_run("patroni-gen-config check --all").is_ok_and(|said| said.stderr.is_empty())))
    })?;

    let text = page::of_cluster(PAGE, &main);
    for block in page::blocks(&text, &MACHINES, "etcd")? {
        block.run(lab, &block.nodes)?;
    }
    plugin(lab, &main).context("the plugin")?;
    metrics(members).context("the metrics")?;
    prometheus(lab).context("Prometheus")?;
    faults(lab, &main)?;
    removal(lab.node("pg2"), &main)
}

fn as_agent(command: &str) -> String {
    format!("cd / && runuser -u nagios -- {command}")
}

/// The exit status and the line, of a user who may do nothing else.
fn asked(node: &Node, command: &str) -> Result<(Option<i32>, String)> {
    let begin = Instant::now();
    let said = node.try_run(&as_agent(command))?;
    let took = begin.elapsed();
    // With the start of the shell in the machine.
    ensure!(took < Duration::from_secs(12), "{command} took {} s", took.as_secs_f32());
    ensure!(said.stdout.lines().count() == 1, "not one line: {said}");
    Ok((said.status.code(), said.stdout.trim().to_owned()))
}

fn plugin(lab: &Lab, main: &Cluster) -> Result<()> {
    let node = lab.node("pg1");
    // What the monitoring server has.
    node.run("apt-get install -y --no-install-recommends nagios-nrpe-plugin")?;
    for command in [PLUGIN, NRPE] {
        let (status, line) = asked(node, command)?;
        ensure!(
            status == Some(0) && line.starts_with(&format!("PATRONI OK - {}", main.slashed())),
            "{status:?}: {line}"
        );
        ensure!(command == NRPE || line.contains(" | errors=0;;0;0 warnings=0;0;;0 clusters=1;;;0 time="), "{line}");
    }
    // Without sudo it sees nothing, and says so.
    let (status, line) = asked(node, "patroni-gen-config check --format=nagios --all")?;
    ensure!(status == Some(3) && line.contains("PATRONI UNKNOWN"), "{status:?}: {line}");
    // No other command, and no other argument.
    for command in ["patroni-gen-config check --all", "patroni-gen-config check --format nagios --all --offline", "id"]
    {
        let said = node.try_run(&as_agent(&format!("sudo -n {command}")))?;
        ensure!(!said.status.success() && said.stderr.contains("sudo"), "nagios may run {command}: {said}");
    }
    Ok(())
}

/// What a process asks a server for.
fn get(node: &Node, url: &str) -> Result<String> {
    let script = format!("import urllib.request; print(urllib.request.urlopen(\"{url}\", timeout=5).read().decode())");
    node.run(&format!("python3 -c '{script}'"))
}

fn metrics(members: &[Node]) -> Result<()> {
    for node in members {
        let text = node.read(METRICS)?;
        let mut findings = text.lines().filter(|line| line.starts_with("patroni_tools_check_findings{"));
        ensure!(findings.all(|line| line.ends_with(" 0")), "findings on {}:\n{text}", node.name());
        // The sandbox hides nothing: a check without it finds the same and looks at the same.
        let steady = |text: &str| -> Vec<String> {
            let varies = |line: &&str| !line.contains("_duration_seconds{") && !line.contains("_timestamp_seconds{");
            text.lines().filter(varies).map(str::to_owned).collect()
        };
        let outside = node.run("patroni-gen-config check --all --format=prometheus")?;
        ensure!(steady(&text) == steady(&outside), "in the unit:\n{text}\noutside:\n{outside}");
        for part in ["files", "host", "running_member", "dcs"] {
            ensure!(
                text.contains(&format!("part=\"{part}\"}} 1")),
                "{part} was not checked on {}:\n{text}",
                node.name()
            );
        }
        let served = get(node, "http://127.0.0.1:9100/metrics")?;
        ensure!(served.contains("patroni_tools_check_findings{"), "node_exporter does not serve the metrics");
        ensure!(served.contains("node_textfile_scrape_error 0"), "node_exporter cannot read the file");
    }
    Ok(())
}

/// The alerts that are pending or firing, by name.
fn alerts(lab: &Lab) -> Result<String> {
    get(lab.node("mon"), "http://127.0.0.1:9090/api/v1/alerts")
}

fn prometheus(lab: &Lab) -> Result<()> {
    let mon = lab.node("mon");
    mon.run("mkdir -p /tmp/a/monitoring /tmp/a/tests/monitoring")?;
    mon.write("/tmp/a/monitoring/patroni-tools.rules.yml", RULES, 0o644)?;
    mon.write("/tmp/a/tests/monitoring/rules_test.yml", RULES_TEST, 0o644)?;
    mon.run("promtool check rules /etc/prometheus/patroni-tools.rules.yml")?;
    mon.run("cd /tmp/a/tests/monitoring && promtool test rules rules_test.yml")?;
    mon.write("/tmp/a/patroni-tools.prom", lab.node("pg1").read(METRICS)?, 0o644)?;
    let said = mon.run("promtool check metrics < /tmp/a/patroni-tools.prom 2>&1")?;
    ensure!(said.trim().is_empty(), "promtool complains: {said}");
    lab.wait_until(Duration::from_secs(90), "Prometheus has the metrics of both members", || {
        let of = |query: &str| get(mon, &format!("http://127.0.0.1:9090/api/v1/query?query={query}"));
        let (ours, patronis) = (of("patroni_tools_build_info")?, of("patroni_postgres_running")?);
        Ok(["pg1", "pg2"]
            .iter()
            .all(|name| ours.contains(&format!("{name}:9100")) && patronis.contains(&format!("{name}:8008"))))
    })?;
    let rules = get(mon, "http://127.0.0.1:9090/api/v1/rules")?;
    ensure!(!rules.contains("\"lastError\":\""), "a rule cannot be evaluated: {rules}");
    let alerts = alerts(lab)?;
    ensure!(!alerts.contains("alertname"), "a sound cluster has alerts: {alerts}");
    Ok(())
}

/// What each of them says when something is wrong, and that it ends.
fn faults(lab: &Lab, main: &Cluster) -> Result<()> {
    let replica = main.replica()?;
    let unit = main.unit();
    replica.run(&format!("systemctl stop {unit} && systemctl start patroni-tools-metrics.service"))?;
    let (status, line) = asked(replica, PLUGIN)?;
    ensure!(status == Some(2) && line.contains(&format!("patroni@{} is stopped", main.dashed())), "{status:?}: {line}");
    let metrics = replica.read(METRICS)?;
    ensure!(metrics.contains("check=\"running_member\",level=\"error\"} 1"), "{metrics}");
    lab.wait_until(Duration::from_secs(90), "alerts are pending", || {
        let alerts = alerts(lab)?;
        Ok(["PatroniCheckError", "PatroniDown"].iter().all(|name| alerts.contains(name)))
    })?;
    replica.run(&format!("systemctl start {unit}"))?;
    main.wait_streaming(1, Duration::from_secs(90))?;

    // PostgreSQL, Patroni and etcd hang, for less than the TTL: it ends in time, and is not green.
    let primary = main.primary()?;
    primary.run("pkill -STOP -u postgres; pkill -STOP -u etcd")?;
    let hung = asked(primary, PLUGIN);
    primary.run("pkill -CONT -u etcd; pkill -CONT -u postgres")?;
    let (status, line) = hung?;
    ensure!(matches!(status, Some(2 | 3)), "{status:?}: {line}");
    let left = primary.run("pgrep -c psql || true")?;
    ensure!(left.trim() == "0", "{left} psql are left");

    main.wait_streaming(1, Duration::from_secs(120))?;
    lab.wait_until(Duration::from_secs(180), "the plugin is green again", || {
        Ok(main.nodes().iter().all(|node| asked(node, PLUGIN).is_ok_and(|(status, _)| status == Some(0))))
    })?;
    Lab::each_of(main.nodes(), |node| node.run("systemctl start patroni-tools-metrics.service").map(drop))?;
    lab.wait_until(Duration::from_secs(90), "no alert is left", || Ok(!alerts(lab)?.contains("alertname")))
}

fn removal(node: &Node, main: &Cluster) -> Result<()> {
    node.run(&format!("systemctl disable --now {}", main.unit()))?;
    node.run("apt-get remove -y patroni-tools")?;
    ensure!(node.try_run(&format!("test -e {METRICS}"))?.status.code() == Some(1), "{METRICS} is left");
    ensure!(!node.try_run(&format!("systemctl is-active {TIMER}"))?.status.success(), "{TIMER} still runs");
    Ok(())
}
