//! What a machine has written to its console, as a person would have seen it at the end: systemd draws there what it waits for.

use std::iter::Peekable;
use std::str::Chars;

const ESCAPE: char = '\u{1b}';

/// The text without escape sequences. What was drawn over is gone.
pub(crate) fn readable(text: &str) -> String {
    let mut lines = vec![String::new()];
    // Whether the next character begins the line again.
    let mut returned = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' => {
                lines.push(String::new());
                returned = false;
            }
            '\r' => returned = true,
            ESCAPE => {
                if is_back_up(&mut chars) && lines.len() > 1 {
                    lines.pop();
                    returned = true;
                }
            }
            c if c.is_control() && c != '\t' => {}
            c => {
                if let Some(line) = lines.last_mut() {
                    if std::mem::take(&mut returned) {
                        line.clear();
                    }
                    line.push(c);
                }
            }
        }
    }
    lines.join("\n")
}

/// Reads the rest of an escape sequence. Does it lead one line up (`ESC M`)?
fn is_back_up(chars: &mut Peekable<Chars>) -> bool {
    match chars.next() {
        Some('M') => true,
        // ECMA-48, 5.4: parameters, and a final byte.
        Some('[') => {
            while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            false
        }
        // To BEL or ESC \.
        Some(']') => {
            while let Some(c) = chars.next() {
                if c == '\u{7}' || (c == ESCAPE && chars.next_if_eq(&'\\').is_some()) {
                    break;
                }
            }
            false
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn what_systemd_draws_is_one_line() {
        // As systemd writes it (`status_vprintf` in `show-status.c`).
        let drawn = "[\u{1b}[0;32m  OK  \u{1b}[0m] Started \u{1b}[0;1;39mssh.service\u{1b}[0m.\r\n\
                     \r\u{1b}[K[\u{1b}[0m\u{1b}[31m*     \u{1b}[0m] A start job is running for a (2s / 1min)\r\n\
                     \u{1b}M\r\u{1b}[K[\u{1b}[0;1;31m*\u{1b}[0m\u{1b}[31m*    \u{1b}[0m] A start job is running for a (3s / 1min)\r\n\
                     \u{1b}M\r\u{1b}[K[\u{1b}[0;32m  OK  \u{1b}[0m] Started a.\r\n\u{1b}]3008;x=y\u{1b}\\end\r\n";
        assert_eq!(readable(drawn), "[  OK  ] Started ssh.service.\n[  OK  ] Started a.\nend\n");
        assert_eq!(readable("a\rb\rc\r\nd"), "c\nd");
        assert_eq!(readable("\u{1b}Mx"), "x");
    }
}
