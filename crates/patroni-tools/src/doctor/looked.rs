//! What a check has looked at: the last line of one without errors.

/// The part of a check that only root and postgres can do.
pub(crate) const MEMBER: &str = "running member";

/// The part of a check that asks the servers of the DCS.
pub(crate) const DCS: &str = "DCS";

/// What was looked at, and what was not.
#[derive(Debug, Clone, Default)]
pub(crate) struct Looked {
    at: Vec<&'static str>,
    /// With the reason.
    not_at: Vec<(&'static str, &'static str)>,
    /// The caller may not read the Patroni file, or there was no time to look.
    is_blind: bool,
}

impl Looked {
    pub(crate) fn at(parts: &[&'static str]) -> Self {
        Self { at: parts.to_vec(), ..Self::default() }
    }

    /// At nothing, which is not the cluster's fault.
    pub(crate) fn blind() -> Self {
        Self { is_blind: true, ..Self::default() }
    }

    pub(crate) fn is_blind(&self) -> bool {
        self.is_blind
    }

    /// Was this part looked at?
    pub(crate) fn has(&self, part: &str) -> bool {
        self.at.contains(&part)
    }

    /// Why the running member was not looked at, if it should have been. (Some kinds of DCS cannot be asked at all.)
    pub(crate) fn member_missed(&self) -> Option<&'static str> {
        self.not_at.iter().find(|(part, _)| *part == MEMBER).map(|(_, why)| *why)
    }

    pub(crate) fn add(&mut self, part: &'static str, why_not: Option<&'static str>) {
        match why_not {
            None => self.at.push(part),
            Some(why) => self.not_at.push((part, why)),
        }
    }

    /// `files, host and DCS; not the running member: Patroni is not running yet`.
    pub(crate) fn sentence(&self) -> String {
        let mut text = match self.at.split_last() {
            Some((last, first)) if !first.is_empty() => format!("{} and {last}", first.join(", ")),
            Some((only, _)) => (*only).to_owned(),
            None => String::new(),
        };
        for (part, why) in &self.not_at {
            text.extend(["; not the ", part, ": ", why]);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_what_was_looked_at() {
        let mut looked = Looked::at(&["files", "host"]);
        assert_eq!(looked.sentence(), "files and host");
        looked.add("running member", None);
        looked.add("DCS", None);
        assert_eq!(looked.sentence(), "files, host, running member and DCS");
        looked.not_at.push(("running member", "Patroni is not running yet"));
        looked.at.remove(2);
        assert_eq!(looked.sentence(), "files, host and DCS; not the running member: Patroni is not running yet");
        assert_eq!(Looked::at(&["DCS"]).sentence(), "DCS");
        assert_eq!((looked.has("host"), looked.has("running member")), (true, false));
        assert_eq!(looked.member_missed(), Some("Patroni is not running yet"));
        assert_eq!(Looked::blind().sentence(), "");
    }
}
