//! The last line of a check without errors.

/// What was looked at, and what was not.
#[derive(Debug, Default)]
pub(super) struct Looked {
    at: Vec<&'static str>,
    /// With the reason.
    not_at: Vec<(&'static str, &'static str)>,
}

impl Looked {
    pub(super) fn at(parts: &[&'static str]) -> Self {
        Self { at: parts.to_vec(), not_at: Vec::new() }
    }

    pub(super) fn add(&mut self, part: &'static str, why_not: Option<&'static str>) {
        match why_not {
            None => self.at.push(part),
            Some(why) => self.not_at.push((part, why)),
        }
    }

    /// `files, host and DCS; not the running member: Patroni is not running yet`.
    pub(super) fn sentence(&self) -> String {
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
    }
}
