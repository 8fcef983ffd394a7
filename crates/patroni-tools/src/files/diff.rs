//! Differences between files, with masked secrets: it remains visible that one has changed.

use similar::TextDiff;

/// Keys whose values are masked. `auth_data` is a mapping of ZooKeeper's schemes, `digest` one of them.
const SECRET_KEYS: [&str; 6] = ["password", "token", "keyfile_password", "key_password", "auth_data", "digest"];

/// Replaces every secret by `(secret 1)`, `(secret 2)` …: equal secrets by equal numbers, over all texts of one `Mask`.
#[derive(Default)]
pub struct Mask {
    seen: Vec<String>,
}

impl Mask {
    /// The text without its secrets.
    pub fn hide(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut lines = text.split_inclusive('\n').peekable();
        while let Some(line) = lines.next() {
            let (content, end) = line.strip_suffix('\n').map_or((line, ""), |content| (content, "\n"));
            let Some((before, first)) = secret(content) else {
                out += line;
                continue;
            };
            // A string of several lines, or a mapping below the key: further indented lines belong to it.
            let mut secret = first.to_owned();
            let column = content.len() - content.trim_start_matches(['-', ' ']).len();
            while let Some(more) = lines.next_if(|next| belongs(next, column)) {
                secret.push('\n');
                secret += more.trim();
            }
            if secret.is_empty() {
                out += line;
            } else {
                let number = self.number(&secret).to_string();
                out.extend([before, " (secret ", &number, ")", end]);
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

/// Is this line part of the value of a key in that column?
fn belongs(line: &str, column: usize) -> bool {
    let content = line.trim_start_matches([' ', '\t']);
    !content.trim().is_empty() && line.len() - content.len() > column
}

/// Splits a line after `key:` if its value is or contains a secret, as in a flow mapping or a URL with user and password.
fn secret(line: &str) -> Option<(&str, &str)> {
    let at = line.find(':')?;
    let (before, value) = line.split_at(at + 1);
    let key =
        before.trim_start_matches(['-', ' ', '#', '{', ',']).trim_end_matches(':').trim().trim_matches(['"', '\'']);
    let value = value.trim();
    let inside = SECRET_KEYS.iter().any(|secret| {
        value.match_indices(secret).any(|(at, _)| {
            let after = value[at + secret.len()..].trim_start_matches(['"', '\'']).trim_start();
            after.starts_with(':')
        })
    });
    let address = value
        .split("://")
        .skip(1)
        .any(|rest| rest.split(['/', ',', ' ']).next().is_some_and(|host| host.contains('@')));
    (SECRET_KEYS.contains(&key) || inside || address).then_some((before, value))
}

/// The unified difference between the present file and the one that would be written; empty if they are equal.
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
    fn secrets_are_hidden_in_every_notation() {
        for line in [
            "  password: p4ss",
            "  \"password\": p4ss",
            "# password: p4ss",
            "- token: p4ss",
            "etcd3: {username: a, password: p4ss}",
            "etcd3: {username: a,\n  host: b, password : p4ss}",
            "etcd3:\n  {password: p4ss,\n  host: a}",
            "password: |\n  p4ss\n",
            "a:\n  password: >-\n    p4ss\n     p4ss\n  b: c\n",
            "a:\n  password: \"x\\\n    p4ss\"\n",
            "auth_data: {\"digest\": \"u:p4ss\"}",
            "zookeeper:\n  auth_data:\n    digest: u:p4ss\n    ensemble: p4ss\n",
            "  url: https://u:p4ss@host:1",
            "  hosts: [a, 'https://p4ss@host']",
        ] {
            assert!(!Mask::default().hide(line).contains("p4ss"), "{line}");
        }
        for line in ["host: a:1\n", "hosts:\n- http://a:1\npassword:\nx: y\n", "- host all all ::/0 password\n"] {
            assert_eq!(Mask::default().hide(line), line);
        }
        assert_eq!(
            Mask::default().hide("- token: a\n  host: b\n  password: c\n  x: d\n"),
            "- token: (secret 1)\n  host: b\n  password: (secret 2)\n  x: d\n"
        );
    }
}
