//! What a server keeps of its time under Patroni when it is given back. Pure.
//!
//! Patroni's `postgresql.conf` goes. What it has in force and the files that stay do not say would go with it, so it becomes a file in
//! `conf.d`, except for what the adoption had announced: that goes back to what it was.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::handover::decision::{Decision, Difference};
use crate::handover::differences::same;
use crate::handover::running::{Running, Setting};

/// Parameters of Patroni itself, or about the members of a cluster that has only one from now on.
const NOT_KEPT: &[&str] = &[
    "cluster_name",
    "config_file",
    "data_directory",
    "external_pid_file",
    "hba_file",
    "hot_standby",
    "ident_file",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "synchronous_standby_names",
];

/// Those of them whose change is shown.
const SAID: &[&str] = &["cluster_name", "synchronous_standby_names"];

/// With these, Patroni's server logs to the file in which postgresql-common puts the messages anyway.
const LOGGING: &[&str] = &["log_directory", "log_file_mode", "log_filename", COLLECTOR];

/// The parameter that needs a restart, until which the others have to stay.
const COLLECTOR: &str = "logging_collector";

/// What tells a standby where its primary is. Patroni removes these from `postgresql.auto.conf`, where `pg_basebackup` has put them.
const OF_STANDBY: &[&str] = &["primary_conninfo", "primary_slot_name", "restore_command"];

/// A row of `pg_file_settings`: what the files say, whether it is in force or not.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Row {
    pub(crate) file: PathBuf,
    pub(crate) name: String,
    pub(crate) value: String,
}

/// A parameter that stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// The parameters that are kept now, after those that an earlier release has kept in the same file.
pub(crate) fn with_earlier(rows: &[Row], file: &Path, kept: &[Parameter]) -> Vec<Parameter> {
    let is_kept = |row: &&Row| kept.iter().any(|parameter| parameter.name.eq_ignore_ascii_case(&row.name));
    let earlier = rows.iter().filter(|row| row.file == file && !is_kept(row));
    let earlier = earlier.map(|row| Parameter { name: row.name.clone(), value: row.value.clone() });
    earlier.chain(kept.iter().cloned()).collect()
}

/// What becomes of the parameters.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Parameters {
    /// Those that would be lost, and are written to a file that stays.
    pub(crate) kept: Vec<Parameter>,
    /// Those that will have another value.
    pub(crate) differences: Vec<Difference>,
}

/// Compares what is in force with what the files other than Patroni's `conf` say.
pub(crate) fn parameters(now: &Running, rows: &[Row], conf: &Path, adopted: Option<&Decision>) -> Parameters {
    let mut found = Parameters::default();
    let after = |setting: &Setting| -> String {
        let text = last(rows, &setting.name, |file| file != conf).or(setting.boot.as_deref());
        text.unwrap_or_default().to_owned()
    };
    let collects = now.settings.iter().find(|setting| setting.name == COLLECTOR);
    let collects = collects.is_some_and(|setting| setting.value == "on" && !same(setting, &after(setting)));
    for setting in &now.settings {
        let name = setting.name.to_ascii_lowercase();
        let by_patroni = last(rows, &name, |file| file == conf);
        let alone = is_of_patroni_alone(&name);
        if by_patroni.is_none() && setting.source != "command line" || alone && !SAID.contains(&name.as_str()) {
            continue;
        }
        let after = after(setting);
        // What Patroni wants after the next restart counts, not what the server still has.
        let wanted = match by_patroni.filter(|_| setting.pending) {
            Some(text) => Setting { value: text.to_owned(), plain: text.to_owned(), ..setting.clone() },
            None => setting.clone(),
        };
        if same(&wanted, &after) {
            continue;
        }
        let until_restart = collects && LOGGING.contains(&name.as_str()) && name != COLLECTOR;
        if alone || !until_restart && goes_back(&wanted, adopted) {
            if !same(setting, &after) {
                found.differences.push(Difference {
                    name: setting.name.clone(),
                    old: setting.value.clone(),
                    new: shown(setting, &after),
                    restart: setting.context == "postmaster",
                });
            }
        } else {
            found.kept.push(Parameter { name: setting.name.clone(), value: wanted.value });
        }
    }
    found
}

/// A default of `pg_settings` as a file has it: modes of files are octal there.
fn shown(setting: &Setting, text: &str) -> String {
    match text.parse::<u32>() {
        Ok(mode) if setting.name.ends_with("_mode") && !text.starts_with('0') => format!("{mode:04o}"),
        _ => text.to_owned(),
    }
}

/// What a standby has to have again.
pub(crate) fn of_standby(before: &Running) -> Vec<Parameter> {
    let parameter = |name: &&str| Parameter { name: (*name).to_owned(), value: before.value(name).to_owned() };
    OF_STANDBY.iter().map(parameter).filter(|parameter| !parameter.value.is_empty()).collect()
}

/// Is a value of Patroni's only that of the adoption, or only there to log?
fn goes_back(wanted: &Setting, adopted: Option<&Decision>) -> bool {
    let Some(adopted) = adopted else { return LOGGING.contains(&wanted.name.as_str()) };
    let announced = adopted.differences.iter().find(|difference| difference.name.eq_ignore_ascii_case(&wanted.name));
    announced.is_some_and(|announced| same(wanted, &announced.new))
        || adopted.setting(&wanted.name).is_some_and(|old| same(wanted, &old.value))
}

/// Is a parameter never kept?
pub(crate) fn is_of_patroni_alone(name: &str) -> bool {
    NOT_KEPT.contains(&name) || name.starts_with("recovery_")
}

fn last<'r>(rows: &'r [Row], name: &str, wanted: impl Fn(&Path) -> bool) -> Option<&'r str> {
    let row = rows.iter().rfind(|row| row.name.eq_ignore_ascii_case(name) && wanted(&row.file));
    row.map(|row| row.value.as_str())
}

/// The lines of a configuration file with these parameters (`guc-file.l`).
pub(crate) fn lines(parameters: &[Parameter]) -> String {
    let mut text = String::from("# What Patroni had set; kept by pg_releasecluster_patroni.\n");
    for Parameter { name, value } in parameters {
        let quoted = value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n").replace('\r', "\\r");
        text.extend([name, " = '", &quoted, "'\n"]);
    }
    text
}

/// Does a `postgresql.conf` include `conf.d`?
pub(crate) fn includes_conf_d(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.split('#').next().unwrap_or_default().trim();
        let rest = line.strip_prefix("include_dir").map(|rest| rest.trim_start_matches(['=', ' ', '\t', '\'']));
        rest.is_some_and(|rest| rest.trim_end_matches(['\'', '/', ' ', '\t']).ends_with("conf.d"))
    })
}

/// The first lines of each file that Patroni writes (`ConfigWriter` in `patroni/postgresql/config.py`).
const HEADER: [&str; 2] = ["# Do not edit this file manually!", "# It will be overwritten by Patroni!"];

/// Has Patroni written a file?
pub(crate) fn is_of_patroni(text: &str) -> bool {
    text.lines().next() == Some(HEADER[0])
}

/// A file without the lines that forbid to edit it.
pub(crate) fn without_header(text: &str) -> String {
    let mut lines = text.split_inclusive('\n').peekable();
    for line in HEADER {
        lines.next_if(|next| next.trim_end() == line);
    }
    lines.collect()
}

/// What the lines of a file have that these have not, and the other way round; both empty if they only differ in comments and spaces.
pub(crate) fn changed_lines<'l>(text: &str, lines: impl IntoIterator<Item = &'l str>) -> (Vec<String>, Vec<String>) {
    let (now, then) = (meant(text.lines()), meant(lines));
    let without = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|line| !those.contains(line)).cloned().collect()
    };
    match (without(&now, &then), without(&then, &now)) {
        // Their order decides, too.
        (added, removed) if added.is_empty() && removed.is_empty() && now != then => (now, then),
        changed => changed,
    }
}

/// The lines that are no comment, with single spaces.
fn meant<'l>(lines: impl IntoIterator<Item = &'l str>) -> Vec<String> {
    let words = |line: &'l str| line.split_whitespace().take_while(|word| !word.starts_with('#'));
    let lines = lines.into_iter().map(|line| words(line).collect::<Vec<_>>().join(" "));
    lines.filter(|line| !line.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::handover::decision::Way;

    const CONF: &str = "/etc/postgresql/17/main/postgresql.conf";
    const BASE: &str = "/etc/postgresql/17/main/postgresql.base.conf";

    fn setting(name: &str, value: &str, boot: &str) -> Setting {
        Setting {
            name: name.to_owned(),
            value: value.to_owned(),
            plain: value.to_owned(),
            unit: None,
            kind: "string".to_owned(),
            context: "sighup".to_owned(),
            source: "configuration file".to_owned(),
            file: None,
            line: None,
            boot: Some(boot.to_owned()),
            pending: false,
        }
    }

    fn row(file: &str, name: &str, value: &str) -> Row {
        Row { file: file.into(), name: name.to_owned(), value: value.to_owned() }
    }

    fn decision(before: Running, differences: &[(&str, &str, &str)]) -> Decision {
        Decision {
            cluster: "17/main".to_owned(),
            decided: 1,
            way: Way::Move,
            data_directory: "/d".into(),
            superuser: "postgres".to_owned(),
            running: before,
            settings: Vec::new(),
            files: Vec::new(),
            roles: Vec::new(),
            differences: differences
                .iter()
                .map(|(name, old, new)| Difference {
                    name: (*name).to_owned(),
                    old: (*old).to_owned(),
                    new: (*new).to_owned(),
                    restart: false,
                })
                .collect(),
            pg_hba: Vec::new(),
            kept: Vec::new(),
        }
    }

    fn shown(found: &Parameters) -> (Vec<String>, Vec<String>) {
        (
            found.kept.iter().map(|kept| format!("{}={}", kept.name, kept.value)).collect(),
            found.differences.iter().map(|found| format!("{} {} {}", found.name, found.old, found.new)).collect(),
        )
    }

    #[test]
    fn what_was_changed_under_patroni_stays_and_the_rest_goes_back() {
        let mut wal_log_hints = setting("wal_log_hints", "off", "off");
        wal_log_hints.pending = true;
        let mut max_connections = setting("max_connections", "150", "100");
        max_connections.pending = true;
        let now = Running::with(vec![
            setting("log_directory", "/var/log/postgresql", "log"),
            setting("work_mem", "16MB", "4MB"),
            setting("random_page_cost", "1.1", "4"),
            setting("cluster_name", "17-main", ""),
            setting("primary_conninfo", "host=pg2", ""),
            wal_log_hints,
            max_connections,
            setting("jit", "on", "on"),
        ]);
        let before = Running::with(vec![
            setting("log_directory", "log", "log"),
            setting("work_mem", "8MB", "4MB"),
            setting("wal_log_hints", "off", "off"),
            setting("max_connections", "150", "100"),
        ]);
        let rows = [
            row(BASE, "work_mem", "8MB"),
            row(BASE, "max_connections", "150"),
            row(CONF, "log_directory", "/var/log/postgresql"),
            row(CONF, "work_mem", "16MB"),
            row(CONF, "random_page_cost", "1.1"),
            row(BASE, "cluster_name", "17/main"),
            row(CONF, "cluster_name", "17-main"),
            row(CONF, "primary_conninfo", "host=pg2"),
            row(CONF, "wal_log_hints", "on"),
            row(CONF, "max_connections", "300"),
            row("/d/postgresql.auto.conf", "random_page_cost", "1.1"),
        ];
        let adopted =
            decision(before, &[("log_directory", "log", "/var/log/postgresql"), ("wal_log_hints", "off", "on")]);
        let found = shown(&parameters(&now, &rows, Path::new(CONF), Some(&adopted)));
        assert_eq!(found.0, ["work_mem=16MB", "max_connections=300"]);
        let back = ["log_directory /var/log/postgresql log", "cluster_name 17-main 17/main"];
        assert_eq!(found.1, back);
        let born = shown(&parameters(&now, &rows, Path::new(CONF), None));
        assert_eq!(born.0, ["work_mem=16MB", "wal_log_hints=on", "max_connections=300"]);
        assert_eq!(born.1, back);
        let mut now = now;
        now.settings.push(setting("logging_collector", "on", "off"));
        let rows = [&rows[..], &[row(CONF, "logging_collector", "on")]].concat();
        let logs = shown(&parameters(&now, &rows, Path::new(CONF), None));
        assert_eq!(
            logs.0,
            ["log_directory=/var/log/postgresql", "work_mem=16MB", "wal_log_hints=on", "max_connections=300"]
        );
        assert_eq!(logs.1, ["cluster_name 17-main 17/main", "logging_collector on off"]);
    }

    #[test]
    fn values_are_quoted_as_postgresql_reads_them() {
        let value = "host=pg1 password='x' options=a\\b";
        let before = Running::with(vec![setting("primary_conninfo", value, ""), setting("restore_command", "", "")]);
        let text = lines(&of_standby(&before));
        assert!(text.ends_with("\nprimary_conninfo = 'host=pg1 password=''x'' options=a\\\\b'\n"), "{text}");
    }

    #[test]
    fn files_of_patroni_lose_their_header() {
        let text = "# Do not edit this file manually!\n# It will be overwritten by Patroni!\nlocal all  all peer\n";
        assert!(is_of_patroni(text));
        assert_eq!(without_header(text), "local all  all peer\n");
        assert_eq!(without_header("# mine\nlocal all all peer"), "# mine\nlocal all all peer");
        assert_eq!(changed_lines(text, ["", "local all all peer # by me"]), (vec![], vec![]));
        let two = ["host all all all reject", "local all all peer"];
        assert_eq!(changed_lines(text, two), (vec![], vec![two[0].to_owned()]));
        assert_ne!(changed_lines("a\nb\n", ["b", "a"]), (vec![], vec![]));
    }

    #[test]
    fn conf_d_is_found_as_postgresql_does() {
        assert!(includes_conf_d("a = 1\ninclude_dir = 'conf.d'\t\t# files\n"));
        assert!(includes_conf_d("include_dir '/etc/postgresql/17/main/conf.d/'"));
        assert!(!includes_conf_d("#include_dir = 'conf.d'\ninclude_dir 'other'\n"));
    }
}
