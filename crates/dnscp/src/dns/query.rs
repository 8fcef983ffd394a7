//! Names and queries.

use std::str::FromStr;

use anyhow::{Context, Result};
use domain::base::iana::Rtype;
use domain::base::{MessageBuilder, Name};

/// A name that owns its memory.
pub(super) type DnsName = Name<Vec<u8>>;

/// A fully qualified name.
pub(super) fn name(text: &str) -> Result<DnsName> {
    DnsName::from_str(text).with_context(|| format!("'{text}' is not a DNS name"))
}

/// A query for the records of one type.
pub(super) fn query(name: &DnsName, rtype: Rtype, recursion: bool) -> Result<Vec<u8>> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(id()?);
    builder.header_mut().set_rd(recursion);
    let mut question = builder.question();
    question.push((name, rtype))?;
    Ok(question.finish())
}

/// A number that cannot be guessed by a host that does not see the query.
pub(super) fn id() -> Result<u16> {
    let [.., high, low] = getrandom::u32().context("could not get random numbers from the kernel")?.to_be_bytes();
    Ok(u16::from_be_bytes([high, low]))
}
