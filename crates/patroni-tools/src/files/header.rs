//! The header of every generated file: its sources, the command that generates it again, and a checksum that reveals edits.

use sha2::{Digest, Sha256};

use crate::files::template::LOCAL;

pub(crate) const HEADER: &str = "# Written by patroni-gen-config";

pub(crate) const RUN: &str = ", and run: patroni-gen-config ";

pub(crate) const CHECKSUM: &str = "# Checksum of what follows: ";

/// The text with a header: sources, command and checksum (see [`author`]).
pub fn with_header(body: &str, sources: &str, arguments: &str) -> String {
    format!(
        "{HEADER} from {sources}.\n# Change it there or in {LOCAL}{RUN}{arguments}\n{CHECKSUM}{}\n{body}",
        checksum(body),
    )
}

/// The arguments of the command in the header of a text.
pub fn arguments(text: &str) -> Vec<&str> {
    let line = text.lines().nth(1).and_then(|line| line.split_once(RUN));
    line.map(|(_, arguments)| arguments.split(' ').collect()).unwrap_or_default()
}

/// The text below the header, if it was generated and not edited since.
#[must_use]
pub fn body_of(text: &str) -> Option<&str> {
    let body = text.splitn(4, '\n').nth(3);
    body.filter(|_| author(text) == Author::Generator)
}

pub(crate) fn checksum(body: &str) -> String {
    host::keys::to_hex(&Sha256::digest(body.as_bytes()))
}

/// Who wrote a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Author {
    /// It was generated, and not edited since.
    Generator,
    /// It was generated, and then edited.
    Edited,
    /// It was written by an administrator or another program.
    Other,
}

/// Determines that from header and checksum.
#[must_use]
pub fn author(text: &str) -> Author {
    let mut lines = text.splitn(4, '\n');
    let generated = lines.next().is_some_and(|line| line.starts_with(HEADER));
    let sum = lines.nth(1).and_then(|line| line.strip_prefix(CHECKSUM));
    match (generated, sum, lines.next()) {
        (true, Some(sum), Some(body)) if sum == checksum(body) => Author::Generator,
        (true, ..) => Author::Edited,
        _ => Author::Other,
    }
}
