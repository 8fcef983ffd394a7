//! One voice to the administrator, on stderr, as PostgreSQL's programs speak: `NAME: error: what is wrong`, then `NAME: hint: what to
//! do about it`.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use crate::trouble::Trouble;

/// How a message is to be taken; the number is syslog's, which the journal reads from `<N>`
/// (`sd-daemon(3)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The work was not done.
    Error,
    /// The work was done, but something needs a look.
    Warning,
    /// What happened.
    Info,
}

/// Speaks under a program's name.
#[derive(Debug, Clone)]
pub struct Reporter {
    name: &'static str,
    journal: bool,
}

impl Reporter {
    /// A reporter for the program `name`. Under systemd the lines carry their level for the journal.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self { name, journal: std::env::var_os("JOURNAL_STREAM").is_some() }
    }

    /// Writes one message. That nobody can read stderr is no reason to stop, so errors of writing are dropped.
    pub fn say(&self, level: Level, message: impl Display) {
        let _ = std::io::stderr().write_all(self.lines(level, &message.to_string()).as_bytes());
    }

    /// A message as it is written. Each of its lines has the level, and all but the first are set off, so that none that came from
    /// elsewhere passes for one of ours.
    fn lines(&self, level: Level, message: &str) -> String {
        let word = match level {
            Level::Error => "error: ",
            Level::Warning => "warning: ",
            Level::Info => "",
        };
        self.lines_with(level, word, message)
    }

    fn lines_with(&self, level: Level, word: &str, message: &str) -> String {
        let number = match level {
            Level::Error => 3,
            Level::Warning => 4,
            Level::Info => 6,
        };
        let text = harmless(message);
        let prefix = if self.journal { format!("<{number}>") } else { String::new() };
        let mut out = String::new();
        for (index, line) in bounded(&text).into_iter().enumerate() {
            out += &prefix;
            let (name, word, indent) = if index == 0 { (self.name, word, ": ") } else { ("", "", "  ") };
            out.extend([name, indent, word, &line, "\n"]);
        }
        out
    }

    /// Says what is wrong, and in a line of its own what to do about it.
    pub fn tell(&self, level: Level, trouble: &Trouble) {
        let mut text = self.lines(level, &trouble.line());
        if let Some(hint) = &trouble.hint {
            text += &self.lines_with(level, "hint: ", hint);
        }
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    /// Something that needs a look.
    pub fn warn(&self, trouble: impl Into<Trouble>) {
        self.tell(Level::Warning, &trouble.into());
    }

    /// Something failed, and the work goes on.
    pub fn error(&self, error: &anyhow::Error) {
        self.tell(Level::Error, &Trouble::of(error));
    }

    /// What happened.
    pub fn info(&self, message: impl Display) {
        self.say(Level::Info, message);
    }

    /// Ends a program whose command line asks for help (0) or is wrong (2), with the words of clap.
    #[must_use]
    pub fn usage(&self, text: &str, wrong: bool) -> ExitCode {
        const USAGE: u8 = 2;
        if !wrong {
            print(text);
            return ExitCode::SUCCESS;
        }
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let text = lines.join("\n");
        self.say(Level::Error, text.strip_prefix("error: ").unwrap_or(&text));
        ExitCode::from(USAGE)
    }

    /// Ends a program: says the error with all its causes, and gives 0 or 1.
    #[must_use]
    pub fn finish(&self, result: anyhow::Result<()>) -> ExitCode {
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                self.error(&error);
                ExitCode::FAILURE
            }
        }
    }
}

/// The most bytes of one line of a message, and of one message: more is an answer of a server or a name that means no good.
const LONGEST_LINE: usize = 1024;
const LONGEST_MESSAGE: usize = 4096;

/// The lines of a message, not longer than anybody reads, with how much is missing.
fn bounded(text: &str) -> Vec<String> {
    let mut left = LONGEST_MESSAGE;
    let mut lines = Vec::new();
    let mut rest = text.lines();
    for line in rest.by_ref() {
        let shown = cut(line, LONGEST_LINE.min(left));
        left = left.saturating_sub(line.len().min(LONGEST_LINE) + 1);
        lines.push(shown);
        if left == 0 {
            break;
        }
    }
    match rest.map(|line| line.len() + 1).sum::<usize>() {
        0 => {}
        missing => lines.push(format!("[{missing} more bytes]")),
    }
    lines
}

fn cut(line: &str, most: usize) -> String {
    if line.len() <= most {
        return line.to_owned();
    }
    let end = (0..=most).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
    format!("{} [{} more bytes]", &line[..end], line.len() - end)
}

/// Does a character do something else than being shown: move the cursor of a terminal, end a line where none ends, or
/// turn the order of those that follow?
fn is_harmful(c: char) -> bool {
    const ORDER: [std::ops::RangeInclusive<char>; 3] =
        ['\u{200e}'..='\u{200f}', '\u{202a}'..='\u{202e}', '\u{2066}'..='\u{2069}'];
    c.is_control()
        || ['\u{61c}', '\u{2028}', '\u{2029}', '\u{feff}'].contains(&c)
        || ORDER.iter().any(|range| range.contains(&c))
}

/// The text with only such characters as are shown, and with its own lines.
fn harmless(text: &str) -> String {
    text.replace("\r\n", "\n").chars().map(|c| if c != '\n' && is_harmful(c) { ' ' } else { c }).collect()
}

/// One line of bounded length without such characters, for what a server sent in a place of its own, such as a cell of a table.
#[must_use]
pub fn plain(text: &str) -> String {
    let text: String = text.chars().map(|c| if is_harmful(c) { ' ' } else { c }).collect();
    cut(&text, LONGEST_LINE)
}

/// Writes results to stdout. A reader that has gone away (`| head`) is no failure.
pub fn print(text: &str) {
    // A tab is in files that are shown.
    let text: String = text.chars().map(|c| if c != '\n' && c != '\t' && is_harmful(c) { ' ' } else { c }).collect();
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_said() {
        let answer = "HTTP/1.0 \u{1b}]0;PWNED\u{7}\u{1b}[2J999 OK\u{9b}2J\u{7f}\u{202e}x\u{2028}y\rz\tq\u{85}";
        assert_eq!(harmless(answer), "HTTP/1.0  ]0;PWNED  [2J999 OK 2J  x y z q ");
        assert_eq!(plain("a\nb\u{1b}[31m"), "a b [31m");
        assert_eq!(harmless("two\r\nlines, and umlauts: äöü"), "two\nlines, and umlauts: äöü");
    }

    #[test]
    fn no_line_of_a_message_has_a_level_of_its_own() {
        let reporter = Reporter { name: "dnscp", journal: true };
        let said = reporter.lines(Level::Warning, "a\n<3>dnscp: error: b\r<0>c");
        assert_eq!(said, "<4>dnscp: warning: a\n<4>  <3>dnscp: error: b <0>c\n");
        let reporter = Reporter { name: "dnscp", journal: false };
        assert_eq!(reporter.lines(Level::Error, "a\ndnscp: b"), "dnscp: error: a\n  dnscp: b\n");
    }

    #[test]
    fn a_hint_is_a_line_of_its_own() {
        let reporter = Reporter { name: "dnscp", journal: true };
        assert_eq!(reporter.lines_with(Level::Error, "hint: ", "Run\nthis."), "<3>dnscp: hint: Run\n<3>  this.\n");
    }

    #[test]
    fn a_message_has_an_end() {
        let line = bounded(&"ä".repeat(20_000));
        assert_eq!(line.len(), 1);
        assert!(line[0].len() < 1100 && line[0].ends_with("ä [38976 more bytes]"), "{}", line[0]);
        let lines = bounded(&"x\n".repeat(10_000));
        assert_eq!(lines.last().map(String::as_str), Some("[15904 more bytes]"));
        assert!(lines.iter().map(|line| line.len() + 1).sum::<usize>() < 4200);
        assert_eq!(bounded("a\nb"), ["a", "b"]);
        assert!(plain(&"y".repeat(5000)).len() < 1100);
    }
}
