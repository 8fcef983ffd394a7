//! Whether lines of `pg_hba.conf` let a member replicate, as PostgreSQL decides (`check_hba` in `src/backend/libpq/hba.c`): the first
//! line that fits counts.

use std::net::IpAddr;

use ipnet::IpNet;

/// May a member at this address log in as `role` to replicate? Also true if a line cannot be judged from here: a group of roles, a regular
/// expression, a host name, or the networks of the server.
pub(crate) fn replicates(lines: &[String], role: &str, address: IpAddr) -> bool {
    for line in lines {
        let words = words(line);
        // What another file has is not known here (`include` since PostgreSQL 16).
        if words.first().is_some_and(|kind| kind.starts_with("include")) {
            return true;
        }
        let [kind, databases, users, rest @ ..] = words.as_slice() else { continue };
        if !["host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"].contains(&kind.as_str())
            || !list(databases).any(|name| name == "replication")
        {
            continue;
        }
        if !list(users).any(|user| user == "all" || user.trim_matches('"') == role || user.starts_with(['+', '/', '@']))
        {
            continue;
        }
        match fits(rest, address) {
            None => return true,
            // Only connections of this kind are rejected: another line may be for the others.
            Some((true, Some("reject"))) if kind != "host" => {}
            Some((true, method)) => return method != Some("reject"),
            Some((false, _)) => {}
        }
    }
    false
}

/// Does the address fit, and what is the method? `None` if it cannot be judged.
fn fits(rest: &[String], address: IpAddr) -> Option<(bool, Option<&str>)> {
    let (first, after) = rest.split_first()?;
    let method = |index: usize| after.get(index).map(String::as_str);
    match first.as_str() {
        "all" => return Some((true, method(0))),
        "samehost" => return Some((false, method(0))),
        _ => {}
    }
    if let Ok(network) = first.parse::<IpNet>() {
        return Some((network.contains(&address), method(0)));
    }
    let (own, mask) = (first.parse::<IpAddr>().ok()?, method(0)?.parse::<IpAddr>().ok()?);
    let network = IpNet::with_netmask(own, mask).ok()?;
    Some((network.contains(&address), method(1)))
}

fn list(field: &str) -> impl Iterator<Item = &str> {
    field.split(',').filter(|name| !name.is_empty())
}

/// The fields of a line. A space after a comma continues the field, and quotes keep spaces.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '#' if !quoted => break,
            '"' => {
                quoted = !quoted;
                word.push(c);
            }
            c if c.is_whitespace() && !quoted => {
                if !word.ends_with(',') {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn may(lines: &[&str]) -> bool {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        replicates(&lines, "replicator", "10.0.3.142".parse().unwrap())
    }

    #[test]
    fn the_first_line_that_fits_decides() {
        for lines in [
            &["hostssl replication \"replicator\" 10.0.3.0/24 scram-sha-256"][..],
            &["host all, replication a, replicator 10.0.3.142 255.255.255.255 md5"],
            &["host replication all all trust"],
            &["host replication replicator 10.0.4.0/24 md5", "host replication +members 10.0.3.0/24 md5"],
            &["host replication replicator pg2.example.org md5"],
            &["host replication replicator samenet md5"],
            &["hostnossl replication all all reject", "hostssl replication replicator 10.0.3.0/24 cert"],
            &["include members.conf"],
            &["hostnogssenc replication replicator 10.0.3.0/24 md5"],
        ] {
            assert!(may(lines), "{lines:?}");
        }
        for lines in [
            &[][..],
            &["host all all all trust", "local replication all peer"],
            &["host replication other 10.0.3.0/24 md5", "host replication replicator fd00::/64 md5"],
            &["host replication replicator 10.0.3.142/32 reject", "host replication replicator all md5"],
            &["host replication replicator samehost md5", "# host replication all all trust"],
        ] {
            assert!(!may(lines), "{lines:?}");
        }
    }
}
