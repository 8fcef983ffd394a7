//! The checks, by the names that stay the same from version to version.

use clap::ValueEnum;

/// A check, as metrics and JSON name it: alerts and silences of administrators depend on it. `docs/monitoring.md` has what each one examines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum CheckName {
    Certificates,
    Clock,
    DataDirectory,
    Dcs,
    Deadline,
    Endpoint,
    Environment,
    Locale,
    Members,
    Names,
    Network,
    Parameters,
    PatroniFile,
    Ports,
    RunningMember,
    Secrets,
    Settings,
    StandbyFailure,
    Units,
    Watchdog,
}

impl CheckName {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_page_explains_every_check_and_no_other() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/monitoring.md");
        let page = std::fs::read_to_string(page).unwrap();
        let (_, section) = page.split_once("\n## The checks\n").unwrap();
        let rows = section.lines().take_while(|line| !line.starts_with("## "));
        let explained: Vec<&str> = rows.filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        assert_eq!(explained, CheckName::value_variants().iter().map(|check| check.name()).collect::<Vec<_>>());
    }
}
