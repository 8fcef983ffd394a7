//! Metrics in the text format of Prometheus (<https://prometheus.io/docs/instrumenting/exposition_formats/>), for the textfile collector
//! of `node_exporter`.
//!
//! The texts of findings are not among them: they have places, names and the words of a server's log, and everyone who reaches
//! `node_exporter` would read them. Therefore a series is a check and a level, whose number does not grow with what is found.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ValueEnum;

use crate::doctor::check_name::CheckName;
use crate::doctor::examined::Examined;
use crate::doctor::finding::{Finding, Level};
use crate::doctor::looked::{DCS, MEMBER};

/// The parts of a whole check, by their names in metrics.
const PARTS: [(&str, &str); 4] = [("files", "files"), ("host", "host"), ("running_member", MEMBER), ("dcs", DCS)];

/// All metrics. `now`: when the check has ended.
pub(crate) fn metrics(examined: &[Examined], now: SystemTime) -> String {
    let mut out = String::new();
    // Many sites give all their targets a label "cluster".
    let of = |examined: &Examined| vec![("pg_cluster", examined.cluster.clone())];
    gauge(
        &mut out,
        "patroni_tools_build_info",
        "The version of patroni-tools; the value is always 1.",
        [(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], "1".to_owned())],
    );
    let findings = examined.iter().flat_map(|examined| {
        CheckName::value_variants().iter().flat_map(move |check| {
            [Level::Error, Level::Warning].map(|level| {
                let labels = [("check", check.name()), ("level", level.name().to_owned())];
                let is_of = |finding: &&Finding| finding.check == Some(*check) && finding.level.name() == level.name();
                let number = examined.findings.iter().filter(is_of).count();
                (of(examined).into_iter().chain(labels).collect(), number.to_string())
            })
        })
    });
    gauge(
        &mut out,
        "patroni_tools_check_findings",
        "The number of findings of the last check, which patroni-gen-config(8) check shows.",
        findings,
    );
    let parts = examined.iter().flat_map(|examined| {
        PARTS.map(|(name, part)| {
            let labels = of(examined).into_iter().chain([("part", name.to_owned())]).collect();
            (labels, u8::from(examined.looked.has(part)).to_string())
        })
    });
    gauge(
        &mut out,
        "patroni_tools_check_part_checked",
        "Whether the last check has looked at this part of the cluster.",
        parts,
    );
    gauge(
        &mut out,
        "patroni_tools_check_duration_seconds",
        "How long the last check took.",
        examined.iter().map(|examined| (of(examined), format!("{:.3}", examined.took.as_secs_f64()))),
    );
    let time = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    gauge(
        &mut out,
        "patroni_tools_check_timestamp_seconds",
        "When the last check ended, in seconds since 1970.",
        examined.iter().map(|examined| (of(examined), time.to_string())),
    );
    out
}

type Labels = Vec<(&'static str, String)>;

fn gauge(out: &mut String, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels, String)>) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
    for (labels, value) in samples {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let _ = writeln!(out, "{name}{{{}}} {value}", labels.join(","));
    }
}

/// Backslash, quotation mark and line end are all that have a meaning in the value of a label.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::cluster::Depth;
    use crate::doctor::examined::Outcome;
    use crate::doctor::looked::Looked;
    use std::path::Path;
    use std::time::Duration;

    #[test]
    fn a_check_is_counted_by_level_and_its_words_stay_here() {
        let of = |check, finding| Finding { check: Some(check), ..finding };
        let findings = vec![
            of(CheckName::Dcs, Finding::error("it is down: hunter2", "")),
            of(CheckName::RunningMember, Finding::warning("a", "")),
            of(CheckName::RunningMember, Finding::warning("b", "")),
        ];
        let outcome = Outcome { findings, looked: Looked::at(&["files", "host", DCS]) };
        let took = Duration::from_millis(1250);
        let examined = Examined::new("17/main".to_owned(), Path::new("/f"), Depth::Full, outcome, took);
        let text = metrics(&[examined], UNIX_EPOCH + Duration::from_millis(1_795_830_000_900));
        for line in [
            r#"patroni_tools_check_findings{pg_cluster="17/main",check="dcs",level="error"} 1"#,
            r#"patroni_tools_check_findings{pg_cluster="17/main",check="dcs",level="warning"} 0"#,
            r#"patroni_tools_check_findings{pg_cluster="17/main",check="running_member",level="warning"} 2"#,
            r#"patroni_tools_check_part_checked{pg_cluster="17/main",part="running_member"} 0"#,
            r#"patroni_tools_check_part_checked{pg_cluster="17/main",part="dcs"} 1"#,
            r#"patroni_tools_check_duration_seconds{pg_cluster="17/main"} 1.250"#,
            r#"patroni_tools_check_timestamp_seconds{pg_cluster="17/main"} 1795830000"#,
            "# TYPE patroni_tools_check_findings gauge",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
        assert!(!text.contains("hunter2"));
        // Each family is one group, without empty lines.
        assert!(text.lines().all(|line| line.starts_with("patroni_tools_") || line.starts_with("# ")));
    }

    #[test]
    fn a_label_can_have_any_value() {
        assert_eq!(escaped("a\\b\"c\nd"), r#"a\\b\"c\nd"#);
    }
}
