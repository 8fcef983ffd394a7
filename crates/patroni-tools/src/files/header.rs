//! The three lines above every file that is generated: where it comes from, how it is made again, and whether it was edited since.

use sha2::{Digest, Sha256};

use crate::files::template::LOCAL;

pub(crate) const HEADER: &str = "# Written by patroni-gen-config";

pub(crate) const RUN: &str = ", and run: patroni-gen-config ";

pub(crate) const CHECKSUM: &str = "# Checksum of what follows: ";

/// Says above a text where it comes from and how it is made anew, and who wrote it (see [`author`]).
pub fn with_header(body: &str, sources: &str, arguments: &str) -> String {
    format!(
        "{HEADER} from {sources}.\n# Change it there or in {LOCAL}{RUN}{arguments}\n{CHECKSUM}{}\n{body}",
        checksum(body),
    )
}

/// The arguments by which a text with our header was made.
pub fn arguments(text: &str) -> Vec<&str> {
    let line = text.lines().nth(1).and_then(|line| line.split_once(RUN));
    line.map(|(_, arguments)| arguments.split(' ').collect()).unwrap_or_default()
}

/// What is below our header, where we wrote it and nobody has changed it since.
#[must_use]
pub fn body_of(text: &str) -> Option<&str> {
    let body = text.splitn(4, '\n').nth(3);
    body.filter(|_| author(text) == Author::Us)
}

pub(crate) fn checksum(body: &str) -> String {
    host::keys::to_hex(&Sha256::digest(body.as_bytes()))
}

/// Who wrote a file that is there.
#[derive(Debug, PartialEq, Eq)]
pub enum Author {
    /// We did, and nobody has changed it since.
    Us,
    /// We did, and somebody has changed it.
    UsThenEdited,
    /// It is not ours.
    Somebody,
}

/// Tells by header and checksum.
#[must_use]
pub fn author(text: &str) -> Author {
    let mut lines = text.splitn(4, '\n');
    let ours = lines.next().is_some_and(|line| line.starts_with(HEADER));
    let sum = lines.nth(1).and_then(|line| line.strip_prefix(CHECKSUM));
    match (ours, sum, lines.next()) {
        (true, Some(sum), Some(body)) if sum == checksum(body) => Author::Us,
        (true, ..) => Author::UsThenEdited,
        _ => Author::Somebody,
    }
}
