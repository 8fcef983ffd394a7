//! `KEY=value` files in the subset that a POSIX shell and systemd's `EnvironmentFile=` read alike.
//!
//! If the two differ (substitution, unquoted spaces, quotes inside a word, `;` comments, `export`) the line is
//! refused with its number, so that the file means the same to every reader (`systemd.exec(5)`,
//! `parse_env_file_internal` in systemd's `src/basic/env-file.c`; POSIX XCU 2.2).

use std::path::Path;

use anyhow::Result;

use crate::trouble::{Trouble, in_line};

/// One assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The name before `=`.
    pub key: String,
    /// The value without its quotes.
    pub value: String,
    /// The line on which it begins, counted from 1.
    pub line: usize,
}

/// Characters that a shell gives a meaning outside of quotes.
const SHELL_SYNTAX: &str = ";&|<>()*?[]{}~!^#";

/// Reads all assignments of a file, in order. A key may be repeated: the last assignment applies, as for both readers.
pub fn parse(file: impl AsRef<Path>, text: &str) -> Result<Vec<Assignment>> {
    let mut reader = Reader { file: file.as_ref(), rest: text, line: 1 };
    let mut assignments = Vec::new();
    while !reader.rest.is_empty() {
        if let Some(assignment) = reader.line()? {
            assignments.push(assignment);
        }
    }
    Ok(assignments)
}

/// Writes a value so that [`parse`], a shell and systemd read it back as it is. In double quotes, both remove a backslash before these
/// four characters, and only there (`SHELL_NEED_ESCAPE` in systemd, POSIX XCU 2.2.3). [`parse`] refuses a carriage return.
#[must_use]
pub fn quote(value: &str) -> String {
    let mut quoted = String::from("\"");
    for c in value.chars() {
        if matches!(c, '"' | '\\' | '$' | '`') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

struct Reader<'a> {
    file: &'a Path,
    rest: &'a str,
    line: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        if c == '\n' {
            self.line += 1;
        }
        Some(c)
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn fail<T>(&self, line: usize, what: impl Into<String>, hint: impl Into<String>) -> Result<T> {
        Err(Trouble::new(what).at(in_line(self.file, line)).hint(hint).into())
    }

    fn windows<T>(&self, line: usize) -> Result<T> {
        self.fail(
            line,
            "the line ends as on Windows",
            format!("Convert the file with: dos2unix {}", self.file.display()),
        )
    }

    fn nul<T>(&self, line: usize) -> Result<T> {
        self.fail(line, "the file contains a NUL byte", "Remove it.")
    }

    fn line(&mut self) -> Result<Option<Assignment>> {
        let line = self.line;
        while matches!(self.peek(), Some(' ' | '\t')) {
            self.next();
        }
        match self.peek() {
            None => return Ok(None),
            Some('\n') => {
                self.next();
                return Ok(None);
            }
            Some('#') => {
                self.comment()?;
                return Ok(None);
            }
            Some(_) => {}
        }
        let key = self.key(line)?;
        let value = self.value(line, &key)?;
        Ok(Some(Assignment { key, value, line }))
    }

    /// Up to the end of the line. A backslash at its end continues the comment for systemd but not for a shell.
    fn comment(&mut self) -> Result<()> {
        let line = self.line;
        let mut last = '#';
        while let Some(c) = self.next() {
            if c == '\n' {
                break;
            }
            last = c;
        }
        if last == '\\' {
            return self.fail(
                line,
                "a comment ends with a backslash, which hides the next line from systemd",
                "Remove the backslash.",
            );
        }
        Ok(())
    }

    fn key(&mut self, line: usize) -> Result<String> {
        let mut key = String::new();
        loop {
            match self.peek() {
                Some('=') => {
                    self.next();
                    break;
                }
                Some('\r') => return self.windows(line),
                Some('\u{feff}') => return self.fail(line, "the file begins with a byte order mark", "Remove it."),
                Some(' ' | '\t') if key == "export" => {
                    return self.fail(line, "systemd does not understand 'export'", "Write KEY=value alone.");
                }
                Some(' ' | '\t') => {
                    return self.fail(
                        line,
                        format!("there is a space after '{key}'"),
                        "Write KEY=value without spaces around the equals sign.",
                    );
                }
                Some('\n') | None => {
                    return self.fail(
                        line,
                        format!("'{key}' is not an assignment"),
                        "Write KEY=value, or make the line a comment by a # before it.",
                    );
                }
                Some(c) if c.is_ascii_alphanumeric() || c == '_' => {
                    key.push(c);
                    self.next();
                }
                Some(c) => return self.fail(line, format!("{c:?} is not allowed in a key"), "Write KEY=value."),
            }
        }
        if key.is_empty() || key.starts_with(|c: char| c.is_ascii_digit()) {
            return self.fail(line, format!("'{key}' is not a key"), "A key begins with a letter, as in KEY=value.");
        }
        Ok(key)
    }

    fn value(&mut self, line: usize, key: &str) -> Result<String> {
        let value = match self.peek() {
            Some(quote @ ('"' | '\'')) => {
                self.next();
                self.quoted(line, key, quote)?
            }
            _ => self.word(key)?,
        };
        // Only the end of the line may follow a value.
        let here = self.line;
        match self.next() {
            None | Some('\n') => Ok(value),
            Some(' ' | '\t') => {
                let rest = self.rest.lines().next().unwrap_or_default().trim();
                if rest.is_empty() {
                    self.comment()?;
                    return Ok(value);
                }
                if rest.starts_with('#') {
                    self.fail(
                        here,
                        "systemd takes a comment after a value for a part of the value",
                        "Put the comment on a line of its own.",
                    )
                } else {
                    self.fail(
                        here,
                        format!("the value of {key} contains spaces"),
                        format!("Put it in quotes, as in {key}=\"…\"."),
                    )
                }
            }
            Some('\r') => self.windows(here),
            Some('"' | '\'') => self.fail(
                here,
                format!("a quote inside the value of {key} means different things to sh and systemd"),
                "Quote the value as a whole.",
            ),
            Some(c) => {
                self.fail(here, format!("{c:?} follows the closing quote of {key}"), "Quote the value as a whole.")
            }
        }
    }

    fn quoted(&mut self, line: usize, key: &str, quote: char) -> Result<String> {
        let mut value = String::new();
        loop {
            let here = self.line;
            match self.next() {
                None => {
                    return self.fail(
                        line,
                        format!("unterminated quoted string in the value of {key}"),
                        format!("Add the closing {quote}."),
                    );
                }
                Some('\0') => return self.nul(here),
                Some('\r') => return self.windows(here),
                Some(c) if c == quote => return Ok(value),
                Some('\\') if quote == '"' => match self.next() {
                    Some(c @ ('"' | '\\' | '$' | '`')) => value.push(c),
                    Some('\n') | None => {}
                    Some(c) => value.extend(['\\', c]),
                },
                Some('$' | '`') if quote == '"' => return self.substitution(here, key),
                Some(c) => value.push(c),
            }
        }
    }

    fn word(&mut self, key: &str) -> Result<String> {
        let mut value = String::new();
        loop {
            let here = self.line;
            match self.peek() {
                None | Some('\n' | ' ' | '\t' | '\r' | '"' | '\'') => return Ok(value),
                Some('$' | '`') => return self.substitution(here, key),
                Some('\0') => return self.nul(here),
                Some('\\') => {
                    self.next();
                    match self.next() {
                        Some('\n') => {}
                        Some('\r') => {
                            return self.windows(here);
                        }
                        Some(c) => value.push(c),
                        None => return self.fail(here, "the file ends with a backslash", "Remove it."),
                    }
                }
                Some('#') if !value.is_empty() => {
                    value.push('#');
                    self.next();
                }
                Some(c) if SHELL_SYNTAX.contains(c) => {
                    return self.fail(
                        here,
                        format!("{c:?} in the value of {key} has a special meaning in a shell"),
                        format!("Put the value in quotes, as in {key}=\"…\"."),
                    );
                }
                Some(c) => {
                    value.push(c);
                    self.next();
                }
            }
        }
    }

    fn substitution<T>(&self, line: usize, key: &str) -> Result<T> {
        self.fail(
            line,
            format!("the value of {key} contains '$' or '`', but nothing is substituted here"),
            "Write the value itself, in single quotes.",
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn one(text: &str) -> Result<String, String> {
        parse("/f", text).map(|a| a[0].value.clone()).map_err(|e| e.to_string())
    }

    #[test]
    fn reads_what_both_read_alike() {
        for (text, value) in [
            ("A=b", "b"),
            ("  A=b  \n", "b"),
            ("A=\n", ""),
            ("A=a#b", "a#b"),
            ("A=a=b,c:/d@e%f+g", "a=b,c:/d@e%f+g"),
            ("A='a b $x `y` \\'", "a b $x `y` \\"),
            (r#"A="a\"b\\c\$d\`e\f""#, r#"a"b\c$d`e\f"#),
            ("A=\"two\nlines\"", "two\nlines"),
            ("A=long\\\nword", "longword"),
            ("A=\"long\\\nword\"", "longword"),
            (r"A=a\ b", "a b"),
        ] {
            assert_eq!(one(text).as_deref(), Ok(value), "{text:?}");
        }
        let all = parse("/f", "# c\n\nA=1\nB='x\ny'\nA=2").unwrap();
        let seen: Vec<_> = all.iter().map(|a| (a.key.as_str(), a.value.as_str(), a.line)).collect();
        assert_eq!(seen, [("A", "1", 3), ("B", "x\ny", 4), ("A", "2", 6)]);
    }

    #[test]
    fn refuses_where_they_differ_and_says_the_line() {
        for text in [
            "A=$B",
            "A=`b`",
            "A=\"$B\"",
            "A=\"$(b)\"",
            "A=b c",
            "A=b # c",
            "A='a'b",
            "A=a'b'",
            "A = b",
            "A =b",
            "export A=b",
            "; c",
            "A=b;c",
            "A=~/x",
            "A=*",
            "A='x",
            "A=\"x",
            "A",
            "1A=b",
            "A-B=c",
            "A=b\r\nC=d",
            "\u{feff}A=b",
            "A=b\\",
            "# c\\\nA=b",
            "=b",
            "A=#b",
            "A=\0",
        ] {
            assert!(parse("/f", text).is_err(), "{text:?} was accepted");
        }
        assert!(one("A=1\nB=2\nC=$D\n").unwrap_err().starts_with("/f:3: "));
    }

    #[test]
    fn quoted_values_come_back() {
        for value in ["", "plain", "a b", "it's", "\"", "\\", "$x`y`", "two\nlines", "#", "é"] {
            assert_eq!(one(&format!("A={}", quote(value))).as_deref(), Ok(value));
        }
    }

    /// Values that a program or an administrator might take over from elsewhere.
    fn odd() -> Vec<String> {
        let mut values: Vec<String> = [
            "",
            "two\nlines",
            "\nat both ends\n",
            "$(touch here) ${HOME} $HOME $1 $",
            "`touch here`",
            "it's \"both\" quotes",
            "\"'",
            "a\\",
            "\\\nnext",
            "\\n \\\\ \\$x \\` \\\" \\%",
            "%h %% %n 100%",
            "  spaces and\ttabs\t ",
            "# ; & | < > ( ) * ? [ ] { } ~ ! ^",
            "host=a user='b c' password=\\'x",
            "Zoë → 日本",
            "=$x",
        ]
        .map(str::to_owned)
        .into();
        values.push("$(a)`b`'c'\"d\"\\e\n%f".repeat(500));
        assert!(values.iter().any(|value| value.len() > 8000));
        values
    }

    fn written(folder: &Path, values: &[String]) -> (std::path::PathBuf, String) {
        let path = folder.join("settings");
        let lines: Vec<String> =
            values.iter().enumerate().map(|(index, value)| format!("K{index}={}\n", quote(value))).collect();
        let text = lines.concat();
        std::fs::write(&path, &text).unwrap();
        (path, text)
    }

    #[test]
    fn a_shell_reads_what_is_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let values = odd();
        let (path, text) = written(folder.path(), &values);
        let ours: Vec<String> = parse(&path, &text).unwrap().into_iter().map(|assignment| assignment.value).collect();
        assert_eq!(ours, values);
        for (index, value) in values.iter().enumerate() {
            let script = format!(". \"$1\" && printf %s \"$K{index}\"");
            let mut shell = std::process::Command::new("sh");
            shell.current_dir(&folder).args(["-euc", &script, "sh"]).arg(&path);
            let output = shell.output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), *value);
            assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        }
        assert!(!folder.path().join("here").exists());
    }

    /// systemd reads `EnvironmentFile=` and `os-release` with the same function, and compares the latter without being the init process.
    #[test]
    fn systemd_reads_what_is_quoted() {
        let folder = tempfile::tempdir().unwrap();
        // A letter, because what follows "=" could be an operator of the condition.
        let values: Vec<String> = odd().iter().map(|value| format!("v{value}")).collect();
        let (path, _) = written(folder.path(), &values);
        for (index, value) in values.iter().enumerate() {
            let is = |value: &str| {
                // Quoted for a unit, in which "%" begins a specifier.
                let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
                let mut systemd = std::process::Command::new("systemd-analyze");
                systemd.env("SYSTEMD_OS_RELEASE", &path);
                systemd.args(["condition", &format!("ConditionOSRelease=\"K{index}={value}\"")]);
                systemd.output()
            };
            match (is(value), is(&format!("{value}x"))) {
                (Ok(same), Ok(other)) => {
                    assert!(same.status.success(), "{value:?}: {same:?}");
                    assert!(!other.status.success(), "{other:?}");
                }
                _ => return assert!(std::env::var("REQUIRE_ALL").is_err(), "there is no systemd-analyze"),
            }
        }
    }
}
