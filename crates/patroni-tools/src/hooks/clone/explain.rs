//! Why there is no base backup, and what to do about it.
//!
//! Our `psql` and `pg_basebackup` run with `LC_ALL=C`: what they, libpq and the C library say is in English. What the server says comes in
//! its own `lc_messages`, and neither libpq (while it connects) nor `pg_basebackup` passes on its SQLSTATE. So a cause is
//! recognized by a message of this side, or by a word of the server that is the same in every language, such as the name of a file or of
//! a parameter. Where the server has only a sentence, that is matched in English; in another language the last cause of the table
//! still applies, which this side reports whatever the server said.

use host::trouble::Trouble;
use host::{ClusterId, trouble};

use crate::hooks::clone::basebackup::size;
use crate::patroni::paths::patroni_file;

/// A base backup, or a connection for one, that failed.
pub(super) struct Failure<'a> {
    pub(super) id: &'a ClusterId,
    /// The connection string.
    pub(super) source: &'a str,
    /// The lines that the program printed.
    pub(super) said: &'a [&'a str],
    pub(super) space: Option<Space>,
}

/// Bytes in the file system of the data directory after what was copied is gone, and what the backup needs.
pub(super) struct Space {
    pub(super) free: Option<u64>,
    pub(super) needed: Option<u64>,
}

impl Failure<'_> {
    fn value(&self, key: &str) -> &str {
        self.source.split_whitespace().rev().find_map(|word| word.strip_prefix(key)?.strip_prefix('=')).unwrap_or("?")
    }

    fn host(&self) -> &str {
        self.value("host")
    }

    fn user(&self) -> &str {
        self.value("user")
    }

    /// The last lines, which are the closest to the cause; libpq repeats itself for every address of a host.
    fn last_lines(&self) -> String {
        let mut lines: Vec<&str> = self.said.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
        lines.dedup();
        lines[lines.len().saturating_sub(4)..].join("; ")
    }
}

/// A cause: any of these words is in the messages.
struct Cause {
    words: &'static [&'static str],
    trouble: fn(&Failure) -> Trouble,
}

/// The first that applies counts.
const CAUSES: &[Cause] = &[
    // The C library, here; a server in English.
    Cause {
        words: &["No space left on device", "Disk quota exceeded"],
        trouble: |failure| {
            let amount = |bytes: Option<u64>| bytes.map_or_else(|| "an unknown amount".to_owned(), size);
            let (free, needed) = failure.space.as_ref().map_or((None, None), |space| (space.free, space.needed));
            trouble!(
                "the disk is full: without the incomplete copy {} are free, and the primary has {} excluding WAL",
                amount(free), amount(needed);
                "Free some space. Patroni tries again."
            )
        },
    },
    // libpq here; the server in English.
    Cause {
        words: &["no password supplied", "authentication failed"],
        trouble: |failure| {
            trouble!(
                "{} rejects the password of {}", failure.host(), failure.user();
                "Members derive it from the site key. Copy /etc/patroni/site.key from the primary and run \
                 'patroni-gen-config {}' again; for a standby cluster set PASSWORD_SCOPE to its source.",
                failure.id
            )
        },
    },
    // The name of a file in a sentence of the server, not in a path: the same in every language.
    Cause {
        words: &[" pg_hba.conf"],
        trouble: |failure| {
            trouble!(
                "{} does not allow {} to replicate from here", failure.host(), failure.user();
                "Add the network of this host to NETWORK there, and run: patroni-gen-config apply {}",
                failure.id
            )
        },
    },
    // libpq and the C library, here.
    Cause {
        words: &["could not translate host name", "Name or service not known", "Temporary failure in name resolution"],
        trouble: |failure| {
            trouble!(
                "the host name {} cannot be resolved", failure.host();
                "Correct DNS or /etc/hosts, or connect_address in the Patroni file of that member."
            )
        },
    },
    // A parameter of the server: the same in every language; the others of the server in English.
    Cause {
        words: &["max_wal_senders", "sorry, too many clients already", "remaining connection slots"],
        trouble: |failure| {
            trouble!(
                "{} has no free connection for a replica", failure.host();
                "Raise PG_max_wal_senders or PG_max_connections, and run: patroni-gen-config apply {}",
                failure.id
            )
        },
    },
    // libpq and the C library, here; the last two of the server in English.
    Cause {
        words: &[
            "Connection refused",
            "could not connect",
            "timeout expired",
            "timed out",
            "No route to host",
            "Network is unreachable",
            "the database system is starting up",
            "the database system is shutting down",
        ],
        trouble: |failure| {
            trouble!(
                "{} port {} does not respond", failure.host(), failure.value("port");
                "Check the firewall between the members, and the state of that member with: patronictl -c {} list",
                patroni_file(failure.id).display()
            )
        },
    },
    // pg_basebackup, here.
    Cause {
        words: &["system identifier"],
        trouble: |failure| {
            trouble!(
                "{} belongs to a different database cluster (the system identifiers differ)", failure.host();
                "Compare the servers of the DCS and the scope in the Patroni files of both members."
            )
        },
    },
    // The server in English.
    Cause {
        words: &["must be superuser or replication role", "permission denied to start WAL sender"],
        trouble: |failure| {
            trouble!(
                "{} is not allowed to replicate", failure.user();
                "Run on the primary: ALTER ROLE \"{}\" REPLICATION",
                failure.user()
            )
        },
    },
    // pg_basebackup, here.
    Cause {
        words: &["incompatible server version"],
        trouble: |_| trouble!("the primary has a different major version"; "All members must have the same."),
    },
    // pg_basebackup, here.
    Cause {
        words: &["exists but is not empty"],
        trouble: |_| {
            trouble!(
                "a directory that the copy needs, for example of a tablespace, is in use";
                "Empty it if it contains nothing of value."
            )
        },
    },
    // pg_basebackup and the C library, here.
    Cause {
        words: &["Permission denied", "could not create directory"],
        trouble: |_| trouble!("postgres cannot write to a directory"; "Make postgres the owner of the directory."),
    },
    // libpq, here, whatever the server said behind it.
    Cause {
        words: &["connection to server"],
        trouble: |failure| {
            trouble!(
                "{} port {} does not accept the connection", failure.host(), failure.value("port");
                "See the log of PostgreSQL on that member."
            )
        },
    },
];

/// The cause with what the program printed, and what to do about it.
pub(super) fn explain(failure: &Failure) -> Trouble {
    let lines = failure.last_lines();
    let known =
        CAUSES.iter().find(|cause| cause.words.iter().any(|word| failure.said.iter().any(|line| line.contains(word))));
    match known {
        Some(cause) => {
            let mut trouble = (cause.trouble)(failure);
            trouble.what = format!("{} ({lines})", trouble.what);
            trouble
        }
        None => trouble!("could not copy from {}: {lines}", failure.host()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn said(line: &str) -> (String, String) {
        let id = "17/main".parse().unwrap();
        let failure = Failure {
            id: &id,
            source: "dbname=postgres user=replicator host=10.0.0.1 port=5432",
            said: &[line],
            space: Some(Space { free: Some(2 << 30), needed: Some(3 << 30) }),
        };
        let trouble = explain(&failure);
        (trouble.what.clone(), trouble.hint.unwrap_or_default())
    }

    #[test]
    fn every_failure_has_its_cause_and_its_hint() {
        const PREFIX: &str = "psql: error: connection to server at \"10.0.0.1\", port 5432 failed: ";
        for (line, cause, hint) in [
            ("FATAL:  password authentication failed for user \"replicator\"", "password of replicator", "site.key"),
            ("FATAL:  no pg_hba.conf entry for replication connection from host", "10.0.0.1 does not allow", "NETWORK"),
            ("FATAL:  kein pg_hba.conf-Eintrag für Replikationsverbindung", "10.0.0.1 does not allow", "NETWORK"),
            ("could not translate host name \"x\" to address: Name or service not known", "host name", "DNS"),
            ("Connection refused", "port 5432 does not respond", "firewall"),
            ("FATAL:  number of requested standby connections exceeds max_wal_senders", "no free connection", "Raise"),
            (
                "FATAL:  Passwort-Authentifizierung für Benutzer »replicator« fehlgeschlagen",
                "not accept",
                "log of PostgreSQL",
            ),
        ] {
            let (what, said_hint) = said(&format!("{PREFIX}{line}"));
            assert!(what.contains(cause) && what.contains(line) && said_hint.contains(hint), "{what}; {said_hint}");
        }
        for (line, cause, hint) in [
            ("could not write to file \"x\": No space left on device", "2.0 GB are free", "Free some space"),
            ("system identifier differs", "different database cluster", "scope"),
            ("directory \"/ts\" exists but is not empty", "in use", "Empty it"),
            ("pg_basebackup: error: boo", "could not copy from 10.0.0.1: pg_basebackup: error: boo", ""),
        ] {
            let (what, said_hint) = said(line);
            assert!(what.contains(cause) && said_hint.contains(hint), "{what}; {said_hint}");
        }
    }
}
