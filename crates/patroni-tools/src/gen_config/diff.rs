//! Differences that a person may see: secrets are masked, but it stays visible that one has changed.

use similar::TextDiff;

/// Keys whose values nobody is to see.
const SECRET_KEYS: [&str; 4] = ["password", "token", "keyfile_password", "key_password"];

/// Replaces every secret by `(secret 1)`, `(secret 2)` …: equal secrets by equal numbers, over all texts of one `Mask`.
#[derive(Default)]
pub struct Mask {
    seen: Vec<String>,
}

impl Mask {
    /// The text without its secrets.
    pub fn hide(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            let (content, end) = line.strip_suffix('\n').map_or((line, ""), |content| (content, "\n"));
            match secret(content) {
                Some((before, secret)) => {
                    let number = self.number(secret).to_string();
                    out.extend([before, " (secret ", &number, ")", end]);
                }
                None => out += line,
            }
        }
        out
    }

    fn number(&mut self, secret: &str) -> usize {
        let known = self.seen.iter().position(|seen| seen == secret);
        known.unwrap_or_else(|| {
            self.seen.push(secret.to_owned());
            self.seen.len() - 1
        }) + 1
    }
}

/// Splits a line after `key:` if the key is a secret's. A flow mapping that has one anywhere is hidden as a whole.
fn secret(line: &str) -> Option<(&str, &str)> {
    let at = line.find(':')?;
    let (before, value) = line.split_at(at + 1);
    let key = before.trim_start_matches(['-', ' ', '#']).trim_end_matches(':').trim_matches(['"', '\'']);
    let value = value.trim();
    let is_secret = SECRET_KEYS.contains(&key)
        || (value.starts_with(['{', '[']) && SECRET_KEYS.iter().any(|secret| value.contains(secret)));
    (is_secret && !value.is_empty()).then_some((before, value))
}

/// The unified difference between the file that is there and the one that would be written; empty if they are equal.
#[must_use]
pub fn unified(name: &str, present: &str, wanted: &str) -> String {
    let mut mask = Mask::default();
    let (present, wanted) = (mask.hide(present), mask.hide(wanted));
    TextDiff::from_lines(&present, &wanted)
        .unified_diff()
        .context_radius(3)
        .header(name, &format!("{name} (as it would be written)"))
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_secret_shows_only_that_it_has_changed() {
        let diff = unified("f", "a: 1\npassword: \"old\"\nb: 2\n", "a: 1\npassword: \"new\"\nb: 2\n");
        assert!(diff.contains("-password: (secret 1)") && diff.contains("+password: (secret 2)"), "{diff}");
        assert!(!diff.contains("old") && !diff.contains("new"), "{diff}");
        assert_eq!(unified("f", "password: x\n", "password: x\n"), "");
    }

    #[test]
    fn secrets_are_hidden_however_they_are_written() {
        for line in [
            "  password: p4ss",
            "  \"password\": p4ss",
            "# password: p4ss",
            "- token: p4ss",
            "etcd3: {username: a, password: p4ss}",
        ] {
            assert!(!Mask::default().hide(line).contains("p4ss"), "{line}");
        }
        assert_eq!(Mask::default().hide("host: a:1\n"), "host: a:1\n");
    }
}
