//! One voice to the administrator: `NAME: error: what, where, what to do` on stderr.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

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
        let (number, word) = match level {
            Level::Error => (3, "error: "),
            Level::Warning => (4, "warning: "),
            Level::Info => (6, ""),
        };
        let text = message.to_string();
        let prefix = if self.journal { format!("<{number}>") } else { String::new() };
        let mut out = String::new();
        for (index, line) in text.lines().enumerate() {
            out += &prefix;
            let (name, word, indent) = if index == 0 { (self.name, word, ": ") } else { ("", "", "  ") };
            out.extend([
                name, indent, word, line, "
",
            ]);
        }
        let _ = std::io::stderr().write_all(out.as_bytes());
    }

    /// Something that needs a look.
    pub fn warn(&self, message: impl Display) {
        self.say(Level::Warning, message);
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
                self.say(Level::Error, format!("{error:#}"));
                ExitCode::FAILURE
            }
        }
    }
}

/// Without control characters: what comes from a server must not move the cursor of a terminal.
#[must_use]
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Writes results to stdout. A reader that has gone away (`| head`) is no failure.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}
