//! TLS of a site without a CA of its own: every member issues its certificates itself, signed by a CA whose key is derived from the site
//! key. So only the site key is ever copied, and a member renews its certificates without contacting another one.
//!
//! The CA key is in no file. The CA certificates of all members have the same name and key. Only their signatures differ, which no
//! client verifies (RFC 5280, 6.1).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use host::endpoint::{self, Endpoint};
use host::keys::{SiteKey, to_hex};
use host::members::{self, Member};
use host::{Root, facts, trouble};
use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, BigNumContext, MsbOption};
use openssl::ec::{EcGroup, EcKey, EcPoint};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName, SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Builder, X509Name, X509NameRef};

use crate::files::header;
use crate::files::install::{READABLE, Rights};
use crate::integrations::certificate_files::DIRECTORY;
use crate::integrations::cluster::Site;
use crate::integrations::consul;
use crate::integrations::plan::{Generated, Plan};
use crate::patroni::installed::is_absent;
use crate::patroni::paths::instances;
use crate::patroni_yml::dcs::is_name;

/// The organization in the subject of every certificate.
const ORGANIZATION: &str = "Patroni";

/// The validity of the CA certificate, from 2020 to the end of 2049: like the site key, it should not expire.
const CA_FROM: i64 = 1_577_836_800;

const CA_UNTIL: i64 = 2_524_608_000 - 1;

/// The validity of a certificate, and how long before its expiry it is replaced, in days.
const VALIDITY: u32 = 3 * 365;

const RENEWAL: u32 = 30;

/// A certificate of a member.
struct Kind {
    /// The name of its files.
    name: &'static str,
    /// The group that can read the key.
    group: &'static str,
    server: bool,
    client: bool,
    /// The names and addresses that it is for.
    names: BTreeSet<String>,
}

/// Certificate and key for each purpose, and the CA certificate. A host without members has those of its own programs only.
pub fn plan(site: &Site) -> Result<Plan> {
    let members = site.members()?;
    let member = this_host(site, &members)?;
    let ca = Ca::of(&site.key())?;
    let mut plan = Plan { directories: vec![PathBuf::from(DIRECTORY)], ..Plan::default() };
    plan.files.push(ca.file(site.root)?);
    for kind in kinds(site, &members, &member)? {
        plan.files.extend(ca.pair(site, &kind, &member.name)?);
    }
    plan.next.extend(reload(site.root)?);
    Ok(plan)
}

/// The certificates of this host that come from `for tls` and are about to expire, for a host without the site key.
pub fn expiring(root: &Root) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for name in root.list(DIRECTORY)? {
        let path = Path::new(DIRECTORY).join(name);
        let text = root.read(&path)?.unwrap_or_default();
        // A key is no certificate.
        let Some(Ok(certificate)) = header::body_of(&text).map(|body| X509::from_pem(body.as_bytes())) else {
            continue;
        };
        if expires_soon(&certificate)? {
            found.push(path);
        }
    }
    Ok(found)
}

fn expires_soon(certificate: &X509) -> Result<bool> {
    Ok(certificate.not_after() <= Asn1Time::days_from_now(RENEWAL)?.as_ref())
}

/// The group of Patroni and PostgreSQL. PgBouncer brings it, too, so it does not make a host a member.
const MEMBERS_GROUP: &str = "postgres";

/// Name and address of this host. Those of a member are in `MEMBERS`.
fn this_host(site: &Site, members: &[Member]) -> Result<Member> {
    let name = site.name()?;
    if !is_absent(site.root) || members.iter().any(|member| member.name == name) {
        let address = members::address_of(&site.settings, members, &name)?;
        return Ok(Member { name, address });
    }
    Ok(Member { name, address: facts::main_address(site.root)?.addr() })
}

/// How the programs of this host that have read a certificate read it again; etcd does without. None on a host that has none of them.
fn reload(root: &Root) -> Result<Option<String>> {
    let clusters = instances(root)?;
    let mut units: Vec<String> = clusters.iter().map(|id| format!("patroni@{}", id.dashed())).collect();
    for (unit, program) in [("haproxy", "/usr/sbin/haproxy"), ("consul", "/usr/bin/consul")] {
        units.extend(root.path(program).exists().then(|| unit.to_owned()));
    }
    if units.is_empty() {
        return Ok(None);
    }
    let mut commands = vec![format!("systemctl try-reload-or-restart {}", units.join(" "))];
    commands.extend(clusters.iter().map(|id| format!("pg_ctlcluster {} {} reload", id.version, id.name)));
    Ok(Some(format!("apply the certificates to running services with: {}", commands.join(" && "))))
}

fn kinds(site: &Site, members: &[Member], member: &Member) -> Result<Vec<Kind>> {
    let mut names = names_of(member);
    names.extend(["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()]);
    names.extend(Some(facts::host_name(site.root)?).filter(|name| is_name(name)));
    let of = |name, group, server, client| Kind { name, group, server, client, names: names.clone() };
    // Clients expect the name of HAProxy or of the client endpoint, which can lead to any member.
    let mut postgresql = of("postgresql", MEMBERS_GROUP, true, false);
    postgresql.names.extend(members.iter().flat_map(names_of));
    postgresql.names.extend(endpoint::vips(&site.settings)?.iter().map(|vip| vip.address.to_string()));
    for cluster in &site.clusters {
        if let Some(point) = Endpoint::from_settings(site.root, &cluster.id, &cluster.settings)? {
            postgresql.names.extend(point.vips.iter().map(|vip| vip.address.to_string()));
            postgresql.names.extend(point.dns.map(|dns| dns.name));
        }
    }
    let store = |group| Kind { names: BTreeSet::new(), ..of("store", group, false, true) };
    let has_server = |group: &&str| site.root.group_id(group).is_ok();
    let mut kinds = if is_absent(site.root) {
        // Root asks a DCS on this host with the first, and HAProxy shows the second to a REST API that requires it.
        let root_asks = ["etcd", "consul"].iter().any(has_server).then(|| store("root"));
        root_asks.into_iter().chain([of("member", "root", true, true)]).collect()
    } else {
        vec![store(MEMBERS_GROUP), of("member", MEMBERS_GROUP, true, true), postgresql]
    };
    // The servers of a DCS are clients of each other.
    let mut consul = of("consul", "consul", true, true);
    consul.names.insert(format!("server.{}.consul", consul::datacenter(&site.settings)));
    let servers = [of("etcd", "etcd", true, true), consul];
    kinds.extend(servers.into_iter().filter(|kind| has_server(&kind.group)));
    Ok(kinds)
}

/// Name and address. Not every name of a member is a valid host name.
fn names_of(member: &Member) -> BTreeSet<String> {
    let name = Some(member.name.clone()).filter(|name| is_name(name));
    name.into_iter().chain([member.address.to_string()]).collect()
}

struct Ca {
    key: PKey<Private>,
    name: X509Name,
}

impl Ca {
    /// The CA of a site.
    fn of(key: &SiteKey) -> Result<Self> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
        let mut context = BigNumContext::new()?;
        // FIPS 186-5, A.2.1: 64 bits more than needed make every key equally likely.
        let (mut most, mut scalar) = (BigNum::new()?, BigNum::new()?);
        group.order(&mut most, &mut context)?;
        most.sub_word(1)?;
        let bytes = BigNum::from_slice(&key.bytes_for::<40>("certificate authority"))?;
        scalar.nnmod(&bytes, &most, &mut context)?;
        scalar.add_word(1)?;
        let mut point = EcPoint::new(&group)?;
        point.mul_generator2(&group, &scalar, &mut context)?;
        let key = PKey::from_ec_key(EcKey::from_private_components(&group, &scalar, &point)?)?;
        let digest = openssl::sha::sha256(&key.public_key_to_der()?);
        let name = subject(Some(&format!("Site {}", to_hex(&digest[..4]))))?;
        Ok(Self { key, name })
    }

    /// The CA certificate: the existing one, if it belongs to this key.
    fn file(&self, root: &Root) -> Result<Generated> {
        let path = Path::new(DIRECTORY).join("ca.pem");
        let present = root.read(&path)?;
        let ours = present.as_deref().and_then(header::body_of);
        let good = ours.filter(|body| {
            X509::from_pem(body.as_bytes()).is_ok_and(|found| {
                found.public_key().is_ok_and(|key| key.public_eq(&self.key)) && found.verify(&self.key).unwrap_or(false)
            })
        });
        let body = match good {
            Some(body) => body.to_owned(),
            None => text(self.certificate()?.to_pem()?)?,
        };
        Ok(Generated { path, body, rights: READABLE, validator: None, secrets: Vec::new() })
    }

    fn certificate(&self) -> Result<X509> {
        let (from, until) = (Asn1Time::from_unix(CA_FROM)?, Asn1Time::from_unix(CA_UNTIL)?);
        let mut builder = builder(&self.key, &self.name, &from, &until)?;
        builder.set_serial_number(&*BigNum::from_u32(1)?.to_asn1_integer()?)?;
        builder.set_issuer_name(&self.name)?;
        builder.append_extension(BasicConstraints::new().critical().ca().pathlen(0).build()?)?;
        builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build()?)?;
        let identifier = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None))?;
        builder.append_extension(identifier)?;
        builder.sign(&self.key, MessageDigest::sha256())?;
        Ok(builder.build())
    }

    /// Certificate and key for one purpose: the existing ones, as long as they are good.
    fn pair(&self, site: &Site, kind: &Kind, member: &str) -> Result<[Generated; 2]> {
        let path = |end: &str| Path::new(DIRECTORY).join(format!("{}.{end}", kind.name));
        let present = (site.root.read(path("pem"))?, site.root.read(path("key"))?);
        let ours = (present.0.as_deref().and_then(header::body_of), present.1.as_deref().and_then(header::body_of));
        let (certificate, key) = match ours {
            (Some(certificate), Some(key)) if !site.renew && self.keeps(certificate, key, kind)? => {
                (certificate.to_owned(), key.to_owned())
            }
            _ => self.issue(kind, member, VALIDITY)?,
        };
        // The existing key, which may have another origin, is not shown in the difference either.
        let secrets = present.1.iter().chain([&key]).map(|text| text.trim().to_owned()).collect();
        let group = Rights { user: "root", group: kind.group, mode: 0o640 };
        Ok([
            Generated { path: path("key"), body: key, rights: group, validator: None, secrets },
            Generated { path: path("pem"), body: certificate, rights: READABLE, validator: None, secrets: Vec::new() },
        ])
    }

    /// Is this pair still good: issued by this CA, complete, for all names, and not about to expire?
    fn keeps(&self, certificate: &str, key: &str, kind: &Kind) -> Result<bool> {
        let (Ok(certificate), Ok(key)) =
            (X509::from_pem(certificate.as_bytes()), PKey::private_key_from_pem(key.as_bytes()))
        else {
            return Ok(false);
        };
        let present = certificate.subject_alt_names();
        let present: BTreeSet<String> = present
            .iter()
            .flatten()
            .filter_map(|name| name.dnsname().map(str::to_owned).or_else(|| shown(name.ipaddress()?)))
            .collect();
        Ok(certificate.public_key()?.public_eq(&key)
            && certificate.verify(&self.key)?
            && present.is_superset(&kind.names)
            && !expires_soon(&certificate)?)
    }

    /// A new pair, valid for some days.
    fn issue(&self, kind: &Kind, member: &str, days: u32) -> Result<(String, String)> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
        let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
        // Once etcd has users, its gateway rejects every client certificate with a common name.
        let name = subject(kind.server.then_some(member))?;
        // It is also valid for a host whose clock is up to a day slow.
        let from = Asn1Time::from_unix(now()? - 86_400)?;
        let mut builder = builder(&key, &name, &from, Asn1Time::days_from_now(days)?.as_ref())?;
        let mut serial = BigNum::new()?;
        serial.rand(120, MsbOption::MAYBE_ZERO, false)?;
        builder.set_serial_number(&*serial.to_asn1_integer()?)?;
        builder.set_issuer_name(&self.name)?;
        let ca = self.certificate()?;
        let mut usage = ExtendedKeyUsage::new();
        if kind.server {
            usage.server_auth();
        }
        if kind.client {
            usage.client_auth();
        }
        let mut names = SubjectAlternativeName::new();
        for name in &kind.names {
            if name.parse::<IpAddr>().is_ok() {
                names.ip(name)
            } else {
                names.dns(name)
            };
        }
        let context = builder.x509v3_context(Some(&ca), None);
        let mut extensions = vec![
            BasicConstraints::new().critical().build()?,
            KeyUsage::new().critical().digital_signature().build()?,
            usage.build()?,
            SubjectKeyIdentifier::new().build(&context)?,
            AuthorityKeyIdentifier::new().keyid(true).build(&context)?,
        ];
        if !kind.names.is_empty() {
            extensions.push(names.build(&context)?);
        }
        for extension in extensions {
            builder.append_extension(extension)?;
        }
        builder.sign(&self.key, MessageDigest::sha256())?;
        Ok((text(builder.build().to_pem()?)?, text(key.private_key_to_pem_pkcs8()?)?))
    }
}

fn subject(common_name: Option<&str>) -> Result<X509Name> {
    let mut builder = X509Name::builder()?;
    builder.append_entry_by_nid(Nid::ORGANIZATIONNAME, ORGANIZATION)?;
    if let Some(name) = common_name {
        // The maximum length (RFC 5280, A.1, ub-common-name). No program compares it.
        let name: String = name.chars().take(64).collect();
        builder.append_entry_by_nid(Nid::COMMONNAME, &name)?;
    }
    Ok(builder.build())
}

fn builder(
    key: &PKey<Private>,
    name: &X509NameRef,
    from: &openssl::asn1::Asn1TimeRef,
    until: &openssl::asn1::Asn1TimeRef,
) -> Result<X509Builder> {
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_subject_name(name)?;
    builder.set_pubkey(key)?;
    builder.set_not_before(from)?;
    builder.set_not_after(until)?;
    Ok(builder)
}

fn now() -> Result<i64> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let since = since.map_err(|_| trouble!("the clock of this host is before 1970"; "Set it."))?;
    Ok(i64::try_from(since.as_secs())?)
}

/// An address of a `subjectAltName`.
fn shown(bytes: &[u8]) -> Option<String> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let address = four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()?;
    Some(address.to_string())
}

fn text(pem: Vec<u8>) -> Result<String> {
    String::from_utf8(pem).context("could not read the PEM of OpenSSL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_kept_until_thirty_days_before_its_end() -> Result<()> {
        let ca = Ca::of(&SiteKey::placeholder())?;
        let names = BTreeSet::from(["pg1".to_owned(), "10.88.0.11".to_owned()]);
        let kind = Kind { name: "member", group: "postgres", server: true, client: true, names };
        for (days, kept) in [(VALIDITY, true), (31, true), (29, false), (0, false)] {
            let (certificate, key) = ca.issue(&kind, "pg1", days)?;
            assert_eq!(ca.keeps(&certificate, &key, &kind)?, kept, "{days} days before its end");
        }
        Ok(())
    }

    #[test]
    fn without_the_site_key_only_the_dates_count() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let root = Root::new(folder.path());
        std::fs::create_dir_all(root.path(DIRECTORY))?;
        let ca = Ca::of(&SiteKey::placeholder())?;
        let kind = Kind { name: "member", group: "root", server: true, client: true, names: BTreeSet::new() };
        let put = |name: &str, text: &str| std::fs::write(root.path(DIRECTORY).join(name), text);
        for (name, days) in [("member.pem", 31), ("store.pem", 29)] {
            put(name, &header::with_header(&ca.issue(&kind, "lb1", days)?.0, "x", "--for tls"))?;
        }
        // One that `for tls` has not written, and a key.
        put("mine.pem", &ca.issue(&kind, "lb1", 29)?.0)?;
        put("store.key", &header::with_header(&ca.issue(&kind, "lb1", 29)?.1, "x", "--for tls"))?;
        assert_eq!(expiring(&root)?, [Path::new(DIRECTORY).join("store.pem")]);
        Ok(())
    }
}
