//! The checks, by the names that stay the same from version to version.

/// A check, as metrics and JSON name it: alerts and silences of administrators depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// All of them.
    pub(crate) const ALL: [Self; 20] = [
        Self::Certificates,
        Self::Clock,
        Self::DataDirectory,
        Self::Dcs,
        Self::Deadline,
        Self::Endpoint,
        Self::Environment,
        Self::Locale,
        Self::Members,
        Self::Names,
        Self::Network,
        Self::Parameters,
        Self::PatroniFile,
        Self::Ports,
        Self::RunningMember,
        Self::Secrets,
        Self::Settings,
        Self::StandbyFailure,
        Self::Units,
        Self::Watchdog,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Certificates => "certificates",
            Self::Clock => "clock",
            Self::DataDirectory => "data_directory",
            Self::Dcs => "dcs",
            Self::Deadline => "deadline",
            Self::Endpoint => "endpoint",
            Self::Environment => "environment",
            Self::Locale => "locale",
            Self::Members => "members",
            Self::Names => "names",
            Self::Network => "network",
            Self::Parameters => "parameters",
            Self::PatroniFile => "patroni_file",
            Self::Ports => "ports",
            Self::RunningMember => "running_member",
            Self::Secrets => "secrets",
            Self::Settings => "settings",
            Self::StandbyFailure => "standby_failure",
            Self::Units => "units",
            Self::Watchdog => "watchdog",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_explains_every_check() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/monitoring.md");
        let page = std::fs::read_to_string(page).unwrap_or_default();
        let lacks: Vec<&str> = CheckName::ALL
            .map(CheckName::name)
            .into_iter()
            .filter(|name| !page.contains(&format!("| `{name}` |")))
            .collect();
        assert!(lacks.is_empty(), "docs/monitoring.md lacks {lacks:?}");
        let mut names = CheckName::ALL.map(CheckName::name);
        names.sort_unstable();
        assert_eq!(names, CheckName::ALL.map(CheckName::name));
    }
}
