//! The members of a cluster as the administrator lists them: `MEMBERS=pg1=10.0.3.141,pg2=10.0.3.142`.

use std::net::IpAddr;

use anyhow::Result;

use crate::facts::parse_address;
use crate::settings::Settings;
use crate::trouble::Trouble;
use crate::{fail, trouble};

/// A member as the administrator knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name in Patroni.
    pub name: String,
    /// The address at which the others reach it.
    pub address: IpAddr,
}

/// The members in the order of `MEMBERS`; `None` if it is not set.
pub fn members(settings: &Settings) -> Result<Option<Vec<Member>>> {
    let Some(members) = settings.list("MEMBERS", parse)? else { return Ok(None) };
    for (index, member) in members.iter().enumerate() {
        let same = |other: &&Member| other.name == member.name || other.address == member.address;
        if let Some(other) = members[..index].iter().find(same) {
            fail!(
                at settings.place(&["MEMBERS"]),
                "MEMBERS has {}={} and {}={}", other.name, other.address, member.name, member.address;
                "Correct one of them: a member has one name and one address."
            );
        }
    }
    for (index, member) in members.iter().enumerate() {
        let slot = slot_name(&member.name);
        if let Some(other) = members[..index].iter().find(|other| slot_name(&other.name) == slot) {
            fail!(
                at settings.place(&["MEMBERS"]),
                "MEMBERS has {} and {}, whose replication slots have the same name, {slot}", other.name, member.name;
                "Rename one of them, with MEMBER_NAME on that host: names that differ only in '-', '.', '_' or case are one name there."
            );
        }
    }
    Ok(Some(members))
}

/// `NAME=ADDRESS`.
fn parse(text: &str) -> Result<Member> {
    let Some((name, address)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
        fail!("'{text}' is not NAME=ADDRESS"; "List the members as in pg1=10.0.3.141,pg2=10.0.3.142.")
    };
    member_name(name)?;
    let address = parse_address(address)?;
    if address.is_loopback() || address.is_unspecified() {
        fail!("the other members cannot reach {name} at {address}"; "Give its address in their network.");
    }
    Ok(Member { name: name.to_owned(), address })
}

/// The longest `application_name` (`NAMEDATALEN - 1`).
const LONGEST: usize = 63;

/// The name of the replication slot of a member (`slot_name_from_member_name` in Patroni's `dcs/__init__.py`).
#[must_use]
pub fn slot_name(member: &str) -> String {
    let mut name = String::new();
    for c in member.to_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' | '_' => name.push(c),
            '-' | '.' => name.push('_'),
            other => name.extend(["u", &format!("{:04}", u32::from(other))]),
        }
    }
    name.truncate(LONGEST);
    name
}

/// Why a member of this name can never be a synchronous standby. Patroni looks for the name in `pg_stat_replication.application_name`,
/// which PostgreSQL cuts off after 63 bytes (`NAMEDATALEN`) and in which it replaces what is not ASCII (`pg_clean_ascii`).
#[must_use]
pub fn never_synchronous(name: &str) -> Option<Trouble> {
    let why = if name.len() > LONGEST {
        format!("has {} bytes, of which PostgreSQL keeps {LONGEST} in application_name", name.len())
    } else if !name.is_ascii() {
        "has characters that are not ASCII, which PostgreSQL replaces in application_name".to_owned()
    } else {
        return None;
    };
    Some(trouble!("the member name {name} {why}, so this member can never be a synchronous standby"))
}

/// A name that Patroni accepts for a member: it becomes part of a key in the DCS.
pub fn member_name(text: &str) -> Result<String> {
    if text.starts_with('-') {
        fail!("'{text}' begins with a hyphen, so patronictl would take it for an option"; "Choose another name.");
    }
    if text.contains(char::is_control) {
        fail!("the name of the member contains a control character"; "Choose another name.");
    }
    if text.contains(|c: char| c.is_whitespace() || c == '/') {
        fail!("'{text}' contains a space or a slash, which a key in the DCS cannot have");
    }
    Ok(text.to_owned())
}

/// The address of a member in the list. If its name is missing there, the list is not that of its cluster.
pub fn address_of(settings: &Settings, members: &[Member], name: &str) -> Result<IpAddr> {
    let own = members.iter().find(|member| member.name == name);
    let address = own.map(|own| own.address).ok_or_else(|| {
        trouble!(
            at settings.place(&["MEMBERS"]), "MEMBERS lacks {name}, the name of this member";
            "Add {name}=ADDRESS, or correct MEMBER_NAME."
        )
    })?;
    Ok(address)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::settings::Origin;

    fn of(text: &str) -> Result<Vec<Member>> {
        let mut settings = Settings::default();
        settings.put("MEMBERS", text.to_owned(), Origin::Option("--set")).unwrap();
        members(&settings).map(Option::unwrap)
    }

    #[test]
    fn names_with_addresses() {
        let found = of("pg1=10.0.3.141, pg-2.example.org=fd00::2").unwrap();
        let found: Vec<(&str, String)> =
            found.iter().map(|member| (member.name.as_str(), member.address.to_string())).collect();
        assert_eq!(found, [("pg1", "10.0.3.141".to_owned()), ("pg-2.example.org", "fd00::2".to_owned())]);
        assert_eq!(members(&Settings::default()).unwrap(), None);
    }

    #[test]
    fn what_is_no_list_of_members_is_refused() {
        for text in ["pg1", "=10.0.0.1", "pg1=", "pg1=here", "a/b=10.0.0.1", "a=127.0.0.1", "a=10.0.0.1/24"] {
            assert!(of(text).is_err(), "{text}");
        }
        for text in ["a=10.0.0.1,a=10.0.0.2", "a=10.0.0.1,b=10.0.0.1", "a=fd00::1,b=fd00:0::1"] {
            assert!(of(text).unwrap_err().to_string().starts_with("--set: MEMBERS has a="), "{text}");
        }
    }

    #[test]
    fn two_names_that_become_one_slot_name_are_refused() {
        for text in
            ["pg1=10.0.0.1,PG1=10.0.0.2", "pg-1=10.0.0.1,pg_1=10.0.0.2", "pg.1=10.0.0.1,a=10.0.0.9,pg-1=10.0.0.2"]
        {
            let error = of(text).unwrap_err().to_string();
            assert!(error.contains("slots have the same name, pg"), "{error}");
        }
        assert!(of("pg1=10.0.0.1,pg-1=10.0.0.2").is_ok());
        assert_eq!(slot_name("Pg-1.Ä"), "pg_1_u0228");
        assert_eq!(slot_name(&"a".repeat(70)).len(), 63);
    }

    #[test]
    fn names_that_postgresql_changes_are_never_synchronous() {
        assert!(never_synchronous(&"a".repeat(63)).is_none());
        assert!(never_synchronous(&"a".repeat(64)).unwrap().what.contains("has 64 bytes"));
        assert!(never_synchronous("pgä").unwrap().what.contains("not ASCII"));
        assert!(member_name("-x").is_err() && member_name("a\u{1b}").is_err());
    }
}
