//! The UPDATE message, and what its answer means.

use std::net::IpAddr;

use anyhow::Result;
use domain::base::iana::{Class, Opcode, Rcode, Rtype, TsigRcode};
use domain::base::{Message, MessageBuilder, Ttl, UnknownRecordData};
use domain::rdata::Tsig as TsigData;
use domain::rdata::tsig::Time48;
use domain::tsig::{ClientTransaction, ValidationError};
use host::trouble;
use host::trouble::Trouble;

use super::key::{SharedKey, Tsig};
use super::query::{DnsName, id};
use super::records::{Records, Seen, family};

/// How the sending of one change ended.
pub(super) enum Sent {
    Done,
    NotPrimary,
    /// The name no longer has what was seen.
    Overtaken,
}

/// A change of the name's records.
pub(super) struct Change<'a> {
    pub(super) name: &'a DnsName,
    pub(super) zone: &'a DnsName,
    pub(super) ttl: u32,
    pub(super) wanted: &'a [IpAddr],
    /// The condition: the name still has this.
    pub(super) seen: Option<&'a Seen>,
    /// Whether records that are right already are sent, too.
    pub(super) refresh: bool,
    /// Whether nothing changes: under the condition that the name still has what was seen, the same records are added again, or
    /// those that it does not have are removed. So the server decides whether it would accept a change.
    pub(super) trial: bool,
}

/// What happens to the records of one family.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) v4: bool,
    /// The condition: the name has exactly these.
    pub(super) expected: Option<Vec<IpAddr>>,
    pub(super) delete: bool,
    pub(super) add: Vec<IpAddr>,
}

impl Step {
    pub(super) fn rtype(&self) -> Rtype {
        if self.v4 { Rtype::A } else { Rtype::AAAA }
    }
}

impl Change<'_> {
    /// Records with another TTL would be changed.
    fn trial(v4: bool, there: Option<&Records>, ttl: u32) -> Step {
        let addresses = |there: &Records| there.addresses.iter().copied().collect::<Vec<_>>();
        let same = there.filter(|there| there.ttl == Some(ttl));
        Step {
            v4,
            expected: there.map(addresses),
            delete: there.is_some_and(|there| there.addresses.is_empty()),
            add: same.map(addresses).unwrap_or_default(),
        }
    }

    /// The steps for A and AAAA. A type that is right is left alone: the key need not be allowed to change it.
    pub(super) fn steps(&self) -> [Step; 2] {
        [true, false].map(|v4| {
            let wanted = family(self.wanted, v4);
            let there: Option<&Records> = self.seen.map(|seen| if v4 { &seen.v4 } else { &seen.v6 });
            if self.trial {
                return Self::trial(v4, there.filter(|_| !wanted.is_empty()), self.ttl);
            }
            let right = there.is_some_and(|there| there.is(&wanted, self.ttl)) && (!self.refresh || wanted.is_empty());
            Step {
                v4,
                expected: there.map(|there| there.addresses.iter().copied().collect()),
                delete: !right && there.is_none_or(|there| !there.addresses.is_empty()),
                add: if right { Vec::new() } else { wanted.into_iter().collect() },
            }
        })
    }
}

/// The UPDATE message (RFC 2136): conditions, removals, additions.
pub(super) fn update(change: &Change, key: Option<&Tsig>) -> Result<(Vec<u8>, Option<ClientTransaction<SharedKey>>)> {
    let steps = change.steps();
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(id()?);
    builder.header_mut().set_opcode(Opcode::UPDATE);
    let mut zone = builder.question();
    zone.push((change.zone, Rtype::SOA))?;
    let mut conditions = zone.answer();
    for step in &steps {
        match step.expected.as_deref() {
            // 2.4.3: no such records; 2.4.2: exactly these, whatever their TTL.
            Some([]) => conditions.push(no_data(change.name, Class::NONE, step.rtype())?)?,
            Some(addresses) => {
                for address in addresses {
                    conditions.push(address_record(change.name, 0, *address)?)?;
                }
            }
            None => {}
        }
    }
    let mut updates = conditions.authority();
    for step in &steps {
        if step.delete {
            // 2.5.2: all records of the type.
            updates.push(no_data(change.name, Class::ANY, step.rtype())?)?;
        }
        for address in &step.add {
            updates.push(address_record(change.name, change.ttl, *address)?)?;
        }
    }
    let mut additional = updates.additional();
    let transaction = match key {
        Some(key) => Some(ClientTransaction::request(key.key(), &mut additional, Time48::now())?),
        None => None,
    };
    Ok((additional.finish(), transaction))
}

type AnyRecord<'a> = (&'a DnsName, Class, Ttl, UnknownRecordData<Vec<u8>>);

/// A record without data, which means all records of its type.
fn no_data(name: &DnsName, class: Class, rtype: Rtype) -> Result<AnyRecord<'_>> {
    Ok((name, class, Ttl::ZERO, UnknownRecordData::from_octets(rtype, Vec::new())?))
}

/// The data of A and AAAA is the address (RFC 1035, section 3.4.1; RFC 3596, section 2.2).
fn address_record(name: &DnsName, ttl: u32, address: IpAddr) -> Result<AnyRecord<'_>> {
    let (rtype, data) = match address {
        IpAddr::V4(address) => (Rtype::A, address.octets().to_vec()),
        IpAddr::V6(address) => (Rtype::AAAA, address.octets().to_vec()),
    };
    Ok((name, Class::IN, Ttl::from_secs(ttl), UnknownRecordData::from_octets(rtype, data)?))
}

/// Reads the answer to an update.
pub(super) fn judge(
    mut answer: Message<Vec<u8>>,
    transaction: Option<ClientTransaction<SharedKey>>,
    change: &Change,
) -> Result<Sent> {
    let code = answer.header().rcode();
    if let Some(transaction) = transaction {
        let key = transaction.key().name().to_string();
        match transaction.answer(&mut answer, Time48::now()) {
            Ok(()) => {}
            Err(error) => return Err(signature_fault(error, &key, &answer).into()),
        }
    }
    match code {
        Rcode::NOERROR => Ok(Sent::Done),
        Rcode::NXRRSET | Rcode::YXRRSET | Rcode::NXDOMAIN | Rcode::YXDOMAIN if change.seen.is_some() => {
            Ok(Sent::Overtaken)
        }
        code => Err(reason(&code.to_string(), change).into()),
    }
}

/// Why the answer to a signed update is not trusted.
fn signature_fault(error: ValidationError, key: &str, answer: &Message<Vec<u8>>) -> Trouble {
    let code = answer.header().rcode();
    match bad_time(answer).unwrap_or(error) {
        ValidationError::ServerBadKey => trouble!(
            "the server does not know the key {key} with this algorithm (BADKEY)";
            "Use the same name and algorithm on both sides."
        ),
        ValidationError::ServerBadSig => trouble!(
            "the secret of the key {key} differs from the server's (BADSIG)"; "Copy the key file again."
        ),
        ValidationError::ServerBadTime { client, server } => {
            let (client, server) = (seconds(client), seconds(server));
            trouble!(
                "the clocks differ by {} s (BADTIME)", client.abs_diff(server);
                "Set the clock of this host or of the server."
            )
        }
        ValidationError::ServerUnsigned if code != Rcode::NOERROR => {
            trouble!("its answer is {code}, unsigned"; "Let the zone accept updates with the key {key}.")
        }
        error => trouble!("its answer ({code}) cannot be trusted: {error}"),
    }
}

/// The times in a BADTIME answer (RFC 8945, section 5.2.3). The crate always rejects its signature, since it signs the server's time
/// as 8 bytes, but the message has 6. Nothing was changed in either case.
fn bad_time(answer: &Message<Vec<u8>>) -> Option<ValidationError> {
    let last = answer.additional().ok()?.flatten().last()?;
    let record = last.to_record::<TsigData<_, _>>().ok()??;
    let data = record.data();
    if data.error() != TsigRcode::BADTIME {
        return None;
    }
    Some(ValidationError::ServerBadTime { client: data.time_signed(), server: data.other_time()? })
}

fn seconds(time: Time48) -> u64 {
    time.into_octets().iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Why an update was rejected, by the name of the response code (RFC 2136, section 2.2).
pub(super) fn reason(code: &str, change: &Change) -> Trouble {
    let Change { name, zone, .. } = change;
    match code {
        "REFUSED" => trouble!(
            "the update is refused ({code})";
            "Let the zone {zone} accept A and AAAA of {name} from this host or its key; in Active Directory the record may belong to \
             another account."
        ),
        "NOTAUTH" => {
            trouble!("it is not authoritative for the zone {zone} ({code})"; "Correct DNS_SERVERS or DNS_ZONE.")
        }
        "NOTZONE" => trouble!("the name {name} is not in the zone {zone} ({code})"; "Correct DNS_ZONE."),
        "NOTIMP" => {
            trouble!("it does not accept updates ({code})"; "Name the primary server of the zone in DNS_SERVERS.")
        }
        "SERVFAIL" => trouble!(
            "the server failed ({code})";
            "See its log: it may be unable to write the zone; with old Samba the record may belong to another account."
        ),
        "FORMERR" => trouble!("it does not understand the update ({code})"; "Check that it supports RFC 2136."),
        _ => trouble!("the update was rejected ({code})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::key::Tsig;
    use crate::dns::query::name;
    use std::collections::BTreeSet;

    fn seen(v4: &[&str], ttl: u32) -> Seen {
        let addresses: BTreeSet<IpAddr> = v4.iter().map(|text| text.parse().unwrap()).collect();
        let ttl = (!addresses.is_empty()).then_some(ttl);
        Seen { authoritative: true, v4: Records { addresses, ttl }, ..Seen::default() }
    }

    fn change<'a>(name: &'a DnsName, wanted: &'a [IpAddr], seen: Option<&'a Seen>) -> Change<'a> {
        Change { name, zone: name, ttl: 30, wanted, seen, refresh: false, trial: false }
    }

    fn list(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_right_is_left_alone() {
        let name = name("a.example").unwrap();
        let wanted = list(&["10.0.0.1"]);
        let unknown = change(&name, &wanted, None).steps();
        assert!(unknown.iter().all(|step| step.delete && step.expected.is_none()));
        let old = seen(&["10.0.0.2"], 30);
        let [v4, v6] = change(&name, &wanted, Some(&old)).steps();
        assert_eq!(v4, Step { v4: true, expected: Some(list(&["10.0.0.2"])), delete: true, add: wanted.clone() });
        assert_eq!(v6, Step { v4: false, expected: Some(vec![]), delete: false, add: vec![] });
        let right = seen(&["10.0.0.1"], 30);
        assert!(change(&name, &wanted, Some(&right)).steps().iter().all(|step| !step.delete && step.add.is_empty()));
        let refresh = Change { refresh: true, ..change(&name, &wanted, Some(&right)) };
        let [v4, v6] = refresh.steps();
        assert!(v4.delete && v4.add == wanted && !v6.delete);
        let trial = Change { trial: true, ..change(&name, &wanted, Some(&old)) };
        let [v4, v6] = trial.steps();
        assert_eq!(v4, Step { v4: true, expected: Some(list(&["10.0.0.2"])), delete: false, add: list(&["10.0.0.2"]) });
        assert!(!v6.delete && v6.expected.is_none() && v6.add.is_empty(), "a family that is not wanted");
        let [v4, _] = Change { ttl: 60, ..trial }.steps();
        assert!(!v4.delete && v4.add.is_empty(), "another TTL");
        let none = seen(&[], 30);
        let [v4, _] = Change { trial: true, ..change(&name, &wanted, Some(&none)) }.steps();
        assert_eq!(v4, Step { v4: true, expected: Some(Vec::new()), delete: true, add: Vec::new() });
        let [v4, _] = change(&name, &wanted, Some(&seen(&["10.0.0.1"], 60))).steps();
        assert!(v4.delete && v4.add == wanted, "another TTL");
    }

    #[test]
    fn one_message_with_condition_removal_and_addition() {
        let name = name("a.example").unwrap();
        let (wanted, old) = (list(&["10.0.0.1", "fd00::1"]), seen(&["10.0.0.2"], 30));
        let (bytes, _) = update(&change(&name, &wanted, Some(&old)), None).unwrap();
        let message = Message::from_octets(bytes).unwrap();
        let counts = message.header_counts();
        assert_eq!((counts.zocount(), counts.prcount(), counts.upcount(), counts.adcount()), (1, 2, 3, 0));
    }

    #[test]
    fn an_unsigned_answer_is_not_trusted() {
        let name = name("a.example").unwrap();
        let wanted = list(&["10.0.0.1"]);
        let change = change(&name, &wanted, None);
        let answer = |bytes: &[u8]| {
            let mut header = bytes[..12].to_vec();
            header[2] |= 0x80;
            header[4..].fill(0);
            Message::from_octets(header).unwrap()
        };
        let (bytes, none) = update(&change, None).unwrap();
        assert!(matches!(judge(answer(&bytes), none, &change), Ok(Sent::Done)));
        let key = Tsig::parse("key k { algorithm hmac-sha256; secret \"c2VjcmV0\"; };").unwrap();
        let (bytes, transaction) = update(&change, Some(&key)).unwrap();
        let fault = judge(answer(&bytes), transaction, &change).err().unwrap().to_string();
        assert!(fault.contains("unsigned"), "{fault}");
        // The request sent back is not an answer either.
        let (mut bytes, transaction) = update(&change, Some(&key)).unwrap();
        bytes[2] |= 0x80;
        let echo = Message::from_octets(bytes).unwrap();
        assert!(judge(echo, transaction, &change).is_err());
    }
}
