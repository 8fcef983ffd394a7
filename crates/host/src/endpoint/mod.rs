//! The settings of the client endpoint of one cluster: virtual IP addresses and DNS name.

mod described;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use ipnet::IpNet;

use crate::facts::{self, parse_address};
use crate::settings::Settings;
use crate::trouble::Trouble;
use crate::{ClusterId, Root, fail, members, trouble};

/// The shortest lease, which is renewed three times before it expires.
const LEAST_LEASE: u64 = 3;

/// The file that patroni-gen-config writes for dnscp; it exists while `VIPS` or a DNS name is set.
#[must_use]
pub fn file(id: &ClusterId) -> PathBuf {
    PathBuf::from(format!("/etc/patroni/{}.dnscp", id.dashed()))
}

/// The file that exists, and contains a 1, while this member is the primary, so that keepalived follows it. postgresql-common creates
/// its directory at every boot, writable for postgres.
#[must_use]
pub fn state_file(id: &ClusterId) -> PathBuf {
    PathBuf::from(format!("/run/postgresql/.dnscp.{}.primary", id.dashed()))
}

/// Who moves the virtual addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// dnscp itself.
    Dnscp,
    /// keepalived, which dnscp informs about the primary.
    Keepalived,
    /// vip-manager, which queries the DCS.
    VipManager,
}

impl Manager {
    const ALL: [Self; 3] = [Self::Dnscp, Self::Keepalived, Self::VipManager];

    /// Its name in the settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dnscp => "dnscp",
            Self::Keepalived => "keepalived",
            Self::VipManager => "vip-manager",
        }
    }

    /// `VIP_MANAGER`.
    pub fn read(settings: &Settings) -> Result<Self> {
        let name = settings.choice("VIP_MANAGER", &Self::ALL.map(Self::name))?;
        Ok(Self::ALL.into_iter().find(|manager| Some(manager.name()) == name).unwrap_or(Self::Dnscp))
    }
}

/// The client endpoint of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The cluster.
    pub id: ClusterId,
    /// The virtual addresses of the whole site, of which a member uses those that fit its interfaces.
    pub vips: Vec<Vip>,
    /// Who moves them.
    pub manager: Manager,
    /// The interface that gets the address, if the subnet does not determine it.
    pub interface: Option<String>,
    /// How long the kernel keeps the address if it is not renewed.
    pub lease: Duration,
    /// Does the leader of a standby cluster get the address, too?
    pub standby_leader: bool,
    /// The DNS record, if there is one.
    pub dns: Option<Dns>,
}

/// A virtual address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// Its prefix length; without one, that of the interface's own network.
    pub prefix: Option<u8>,
}

/// The DNS record and how it is updated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// The fully qualified name, in lower case, without the dot at its end.
    pub name: String,
    /// The zone, unless it has to be discovered.
    pub zone: Option<String>,
    /// The servers that accept the update, host or address with port, tried one after the other; if empty, those in the zone's SOA and
    /// NS records.
    pub servers: Vec<String>,
    /// Seconds.
    pub ttl: u32,
    /// How the update is authenticated. There is no fallback to a weaker method.
    pub auth: Auth,
}

/// The authentication of an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// None: the server trusts our address.
    None,
    /// A shared key (RFC 8945), in a file as BIND's `tsig-keygen` writes it.
    Tsig(PathBuf),
    /// Kerberos (RFC 3645).
    Gss {
        /// The account, `pgsql$@EXAMPLE.ORG`.
        principal: String,
        /// Its key or password.
        secret: GssSecret,
    },
}

/// The secret of a Kerberos account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GssSecret {
    /// A keytab (`ktutil(1)`).
    Keytab(PathBuf),
    /// A file whose only line is the password, as for dnscp.sh.
    Password(PathBuf),
}

/// The programs that Kerberos needs, with their Debian packages. To get a ticket with a keytab, nsupdate's own library is enough.
pub const GSS_PROGRAMS: [(&str, &str); 2] = [("nsupdate", "bind9-dnsutils"), ("kinit", "krb5-user")];

impl Auth {
    /// The programs that an update runs, with their packages.
    #[must_use]
    pub fn programs(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::None | Self::Tsig(_) => &[],
            Self::Gss { secret: GssSecret::Keytab(_), .. } => &GSS_PROGRAMS[..1],
            Self::Gss { secret: GssSecret::Password(_), .. } => &GSS_PROGRAMS,
        }
    }
}

impl Endpoint {
    /// Reads the settings of a cluster; `None` if neither an address nor a name is set.
    pub fn read(root: &Root, id: &ClusterId) -> Result<Option<Self>> {
        Self::from_settings(root, id, &Settings::read(root, id)?)
    }

    /// The same from settings that have been read.
    pub fn from_settings(root: &Root, id: &ClusterId, settings: &Settings) -> Result<Option<Self>> {
        let vips = vips(settings)?;
        let dns = dns(root, id, settings)?;
        if vips.is_empty() && dns.is_none() {
            return Ok(None);
        }
        Ok(Some(Self {
            id: id.clone(),
            vips,
            manager: Manager::read(settings)?,
            interface: settings.text("VIP_INTERFACE").map(str::to_owned),
            lease: Duration::from_secs(settings.number("VIP_LEASE", LEAST_LEASE, 3600)?.unwrap_or(10)),
            standby_leader: settings.boolean("VIP_STANDBY_LEADER")?.unwrap_or(false),
            dns,
        }))
    }

    /// Refuses a virtual address that is this member's own: on a replica it would be removed, and the host with it from the network.
    pub fn check_own(&self, own: IpAddr) -> Result<()> {
        if self.vips.iter().any(|vip| vip.address == own) {
            fail!("{own} in VIPS is the address of this host"; "Choose an address that no host uses.");
        }
        Ok(())
    }
}

/// `VIPS`: the virtual IP addresses; empty if none are set. None of them may be a member's.
pub fn vips(settings: &Settings) -> Result<Vec<Vip>> {
    let vips = settings.list("VIPS", parse_vip)?.unwrap_or_default();
    // A fault in MEMBERS is reported by those that need the members.
    let members = members::members(settings).ok().flatten().unwrap_or_default();
    for Vip { address, .. } in &vips {
        if let Some(member) = members.iter().find(|member| member.address == *address) {
            fail!(
                at settings.place(&["VIPS", "MEMBERS"]),
                "{address} in VIPS is the address of member {}", member.name;
                "Choose an address that no host uses."
            );
        }
    }
    Ok(vips)
}

/// `10.0.3.100/24`, `10.0.3.100`, `fd00::100/64`, `fd00::100`.
fn parse_vip(text: &str) -> Result<Vip> {
    let vip = parse_address_and_prefix(text)?;
    if let Some(kind) = immovable(vip.address) {
        fail!("{} is {kind} address, which no client can reach at another host", vip.address; "Choose a free address of the members' subnet.");
    }
    Ok(vip)
}

/// The kind of an address that cannot move from host to host (RFC 1122, section 3.2.1.3; RFC 3927; RFC 4291, sections 2.4 and 2.5.6).
fn immovable(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if address.is_loopback() {
        Some("a loopback")
    } else if address.is_unspecified() {
        Some("the unspecified")
    } else if address.is_multicast() {
        Some("a multicast")
    } else if link_local {
        Some("a link-local")
    } else {
        (address == IpAddr::V4(Ipv4Addr::BROADCAST)).then_some("the broadcast")
    }
}

fn parse_address_and_prefix(text: &str) -> Result<Vip> {
    if text.contains('/') {
        let network: IpNet = text
            .parse()
            .map_err(|_| trouble!("'{text}' is not an address with a prefix"; "Write it as 10.0.3.100/24."))?;
        if network.addr() == network.network() && network.prefix_len() < network.max_prefix_len() {
            fail!("'{text}' is a network, not an address in it");
        }
        if network.addr().is_ipv4() && network.addr() == network.broadcast() && network.prefix_len() < 31 {
            fail!("'{text}' is the broadcast address of {}", network.trunc(); "Choose another address.");
        }
        return Ok(Vip { address: network.addr(), prefix: Some(network.prefix_len()) });
    }
    Ok(Vip { address: parse_address(text)?, prefix: None })
}

fn dns(root: &Root, id: &ClusterId, settings: &Settings) -> Result<Option<Dns>> {
    let label = settings.text("DNS_NAME");
    let zone = settings.parse("DNS_ZONE", host_name)?;
    if label.is_none() && zone.is_none() {
        return Ok(None);
    }
    let place = settings.place(&["DNS_NAME", "DNS_ZONE"]);
    let name = settings.parse("DNS_NAME", host_name)?.unwrap_or_else(|| id.dashed().to_ascii_lowercase());
    let name = match &zone {
        _ if name.contains('.') => name,
        Some(zone) => format!("{name}.{zone}"),
        None => match facts::domain(root)? {
            Some(domain) => format!("{name}.{domain}"),
            None => fail!(at place, "DNS_NAME is {name}, but this host has no domain to append"; "Set DNS_ZONE."),
        },
    };
    if let Some(zone) = &zone {
        if name != *zone && !name.ends_with(&format!(".{zone}")) {
            fail!(at place, "DNS_NAME {name} is not in DNS_ZONE {zone}"; "Correct one of them.");
        }
    }
    Ok(Some(Dns {
        name,
        zone,
        servers: settings.list("DNS_SERVERS", |text| Ok(text.to_owned()))?.unwrap_or_default(),
        ttl: u32::try_from(settings.number("DNS_TTL", 0, 604_800)?.unwrap_or(1200))?,
        auth: auth(settings)?,
    }))
}

fn auth(settings: &Settings) -> Result<Auth> {
    let method = settings.choice("DNS_AUTH", &["none", "tsig", "gss"])?.unwrap_or("none");
    let lacks = |what: &str, hint: &str| -> Trouble {
        trouble!(at settings.place(&["DNS_AUTH"]), "DNS_AUTH={method} requires {what}"; "{hint}")
    };
    match method {
        "tsig" => {
            let key = settings.path("DNS_TSIG_KEY_FILE")?;
            Ok(Auth::Tsig(key.ok_or_else(|| lacks("DNS_TSIG_KEY_FILE", "Create the file with tsig-keygen."))?))
        }
        "gss" => {
            let principal = settings.text("DNS_PRINCIPAL");
            let principal = principal.ok_or_else(|| lacks("DNS_PRINCIPAL", "Set it as in pgsql$@EXAMPLE.ORG."))?;
            let secret = match (settings.path("DNS_KEYTAB")?, settings.path("DNS_PASSWORD_FILE")?) {
                (Some(keytab), None) => GssSecret::Keytab(keytab),
                (None, Some(password)) => GssSecret::Password(password),
                _ => return Err(lacks("either DNS_KEYTAB or DNS_PASSWORD_FILE", "Set one of them.").into()),
            };
            Ok(Auth::Gss { principal: principal.to_owned(), secret })
        }
        _ => Ok(Auth::None),
    }
}

/// A name of one or more labels (RFC 1123, section 2.1; `_` because Active Directory uses it), in lower case.
fn host_name(text: &str) -> Result<String> {
    let name = text.trim_end_matches('.').to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(label) { Ok(name) } else { fail!("'{text}' is not a DNS name") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::settings::Origin;

    fn point(assignments: &[(&str, &str)]) -> Result<Option<Endpoint>> {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        std::fs::create_dir_all(root.path("/proc/sys/kernel")).unwrap();
        std::fs::write(root.path("/proc/sys/kernel/hostname"), "pg1\n").unwrap();
        let mut settings = Settings::default();
        for (key, value) in assignments {
            settings.put(key, (*value).to_owned(), Origin::Option("--set"))?;
        }
        Endpoint::from_settings(&root, &"16/main".parse().unwrap(), &settings)
    }

    #[test]
    fn nothing_set_is_no_point() {
        assert_eq!(point(&[("DNS_TTL", "5")]).unwrap(), None);
    }

    #[test]
    fn addresses_with_and_without_prefix() {
        let point = point(&[("VIPS", "10.0.3.100/24,fd00::64")]).unwrap().unwrap();
        assert_eq!(point.vips[0], Vip { address: "10.0.3.100".parse().unwrap(), prefix: Some(24) });
        assert_eq!(point.vips[1], Vip { address: "fd00::64".parse().unwrap(), prefix: None });
        assert_eq!((point.lease, point.manager), (Duration::from_secs(10), Manager::Dnscp));
    }

    #[test]
    fn names_get_their_zone() {
        let dns = |list: &[(&str, &str)]| point(list).map(|point| point.unwrap().dns.unwrap().name);
        assert_eq!(dns(&[("DNS_ZONE", "Example.org.")]).unwrap(), "16-main.example.org");
        assert_eq!(dns(&[("DNS_ZONE", "example.org"), ("DNS_NAME", "pgsql")]).unwrap(), "pgsql.example.org");
        assert_eq!(dns(&[("DNS_NAME", "pgsql.a.example")]).unwrap(), "pgsql.a.example");
        assert!(dns(&[("DNS_ZONE", "example.org"), ("DNS_NAME", "pgsql.example.com")]).is_err());
        assert!(dns(&[("DNS_NAME", "pgsql")]).is_err());
    }

    #[test]
    fn the_package_suggests_what_kerberos_needs() {
        let control = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../debian/control")).unwrap();
        let suggests = control.split("\nSuggests:").nth(1).unwrap().split("\nDescription:").next().unwrap();
        for (_, package) in GSS_PROGRAMS {
            assert!(suggests.split([',', ' ', '\n']).any(|word| word == package), "{package}");
        }
    }

    #[test]
    fn changes_name_the_setting_and_both_values() {
        let of = |list: &[(&str, &str)]| point(list).unwrap().unwrap();
        let old = of(&[("VIPS", "10.0.3.100/24"), ("DNS_ZONE", "a.test")]);
        assert!(old.changes(&old).is_empty());
        let new = of(&[("VIPS", "10.0.3.101/24"), ("DNS_ZONE", "b.test"), ("DNS_TTL", "30")]);
        let changes = [
            "VIPS=10.0.3.101/24 (was 10.0.3.100/24)",
            "DNS_NAME=16-main.b.test (was 16-main.a.test)",
            "DNS_ZONE=b.test (was a.test)",
            "DNS_TTL=30 (was 1200)",
        ];
        assert_eq!(old.changes(&new), changes);
        assert!(
            old.changes(&of(&[("VIPS", "10.0.3.100/24")])).contains(&"DNS_ZONE is not set (was a.test)".to_owned())
        );
        assert_eq!(
            old.line(),
            "VIPS=10.0.3.100/24 VIP_MANAGER=dnscp VIP_LEASE=10 VIP_STANDBY_LEADER=no \
            DNS_NAME=16-main.a.test DNS_ZONE=a.test DNS_TTL=1200 DNS_AUTH=none"
        );
    }

    #[test]
    fn bad_values_are_named() {
        for (key, value) in [
            ("VIPS", "10.0.3.0/24"),
            ("VIP_MANAGER", "ucarp"),
            ("VIPS", "10.0.3"),
            ("VIPS", "10.0.3.255/24"),
            ("VIPS", "127.0.0.2"),
            ("VIPS", "224.0.0.18"),
            ("VIPS", "255.255.255.255"),
            ("VIPS", "169.254.1.1/16"),
            ("VIPS", "0.0.0.0"),
            ("VIPS", "fe80::1/64"),
            ("VIPS", "ff02::1"),
            ("VIPS", "::1"),
            ("DNS_ZONE", "a..b"),
            ("DNS_NAME", "-a"),
            ("VIP_LEASE", "1"),
        ] {
            assert!(point(&[("VIPS", "10.0.0.1"), (key, value)]).is_err(), "{key}={value}");
        }
        assert!(point(&[("DNS_ZONE", "a.b"), ("DNS_AUTH", "tsig")]).is_err());
        assert!(point(&[("DNS_ZONE", "a.b"), ("DNS_AUTH", "gss"), ("DNS_PRINCIPAL", "x")]).is_err());
    }
}
