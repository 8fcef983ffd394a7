//! The members of a cluster, where the administrator lists them: `MEMBERS=pg1=10.0.3.141,pg2=10.0.3.142`.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};

use crate::facts::parse_address;
use crate::settings::Settings;

/// A member as the administrator knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Patroni's name of it.
    pub name: String,
    /// The address by which the others reach it.
    pub address: IpAddr,
}

/// The members in the order of `MEMBERS`; `None` where it is not set.
pub fn members(settings: &Settings) -> Result<Option<Vec<Member>>> {
    let Some(members) = settings.list("MEMBERS", parse)? else { return Ok(None) };
    for (index, member) in members.iter().enumerate() {
        let same = |other: &&Member| other.name == member.name || other.address == member.address;
        if let Some(other) = members[..index].iter().find(same) {
            bail!(
                "{}MEMBERS has {}={} and {}={}: a member has one name and one address, correct one of them",
                settings.place(&["MEMBERS"]),
                other.name,
                other.address,
                member.name,
                member.address
            );
        }
    }
    Ok(Some(members))
}

/// `NAME=ADDRESS`.
fn parse(text: &str) -> Result<Member> {
    let Some((name, address)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
        bail!("'{text}' is not NAME=ADDRESS, as in pg1=10.0.3.141,pg2=10.0.3.142")
    };
    member_name(name)?;
    let address = parse_address(address)?;
    if address.is_loopback() || address.is_unspecified() {
        bail!("the other members cannot reach {name} at {address}: write its address in their network");
    }
    Ok(Member { name: name.to_owned(), address })
}

/// A name that Patroni can have for a member: it becomes a part of a key of the store.
pub fn member_name(text: &str) -> Result<String> {
    if text.contains(|c: char| c.is_whitespace() || c == '/') {
        bail!("'{text}' has a blank or a slash, which a key of the store cannot have");
    }
    Ok(text.to_owned())
}

/// The address of a member in a list of them; without its name there, the list is not that of its cluster.
pub fn address_of(settings: &Settings, members: &[Member], name: &str) -> Result<IpAddr> {
    let own = members.iter().find(|member| member.name == name);
    own.map(|own| own.address).with_context(|| {
        format!(
            "{}MEMBERS lacks {name}, the name of this member: add {name}=ADDRESS, or correct MEMBER_NAME",
            settings.place(&["MEMBERS"])
        )
    })
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
}
