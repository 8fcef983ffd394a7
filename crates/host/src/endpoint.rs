//! What is set about the connection point of one instance, parsed once.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;

use crate::facts::{self, parse_address};
use crate::settings::Settings;
use crate::{ClusterId, Root};

/// The shortest lease: it is renewed three times in its time.
const LEAST_LEASE: u64 = 3;

/// The file that patroni-gen-config writes for dnscp; it is there while `VIPS` or a DNS name is set.
#[must_use]
pub fn file(id: &ClusterId) -> PathBuf {
    PathBuf::from(format!("/etc/patroni/{}.dnscp", id.dashed()))
}

/// The file that is there, with a 1 in it, while this member is the primary, so that keepalived follows it. The directory is
/// postgresql-common's, which makes it at every boot for postgres to write.
#[must_use]
pub fn state_file(id: &ClusterId) -> PathBuf {
    PathBuf::from(format!("/run/postgresql/.dnscp.{}.primary", id.dashed()))
}

/// Who moves the virtual addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// dnscp itself.
    Dnscp,
    /// keepalived, to which dnscp says who is the primary.
    Keepalived,
    /// vip-manager, which asks the store.
    VipManager,
}

impl Manager {
    const ALL: [Self; 3] = [Self::Dnscp, Self::Keepalived, Self::VipManager];

    /// As it is set.
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

/// The connection point of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Which instance.
    pub id: ClusterId,
    /// The virtual addresses of the whole site, of which a member takes those that fit its interfaces.
    pub vips: Vec<Vip>,
    /// Who moves them.
    pub manager: Manager,
    /// The interface that gets the address, where the subnet does not decide.
    pub interface: Option<String>,
    /// For how long the kernel keeps the address when nobody renews it.
    pub lease: Duration,
    /// Does the leader of a standby cluster have the address too?
    pub standby_leader: bool,
    /// The DNS record, where there is one.
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

/// The DNS record and how it is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// The fully qualified name, in lower case, without the dot at its end.
    pub name: String,
    /// The zone, where it is not to be discovered.
    pub zone: Option<String>,
    /// The servers that take the update, host or address with port, tried in turn; none: those of the zone's SOA and NS.
    pub servers: Vec<String>,
    /// Seconds.
    pub ttl: u32,
    /// How the update is authenticated. There is no way from one to a weaker one.
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
        /// Where its key or password is.
        secret: GssSecret,
    },
}

/// The secret of a Kerberos account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GssSecret {
    /// A keytab (`ktutil(1)`).
    Keytab(PathBuf),
    /// A file whose only line is the password, as dnscp.sh has it.
    Password(PathBuf),
}

/// The programs that Kerberos needs, and Debian's packages of them: for the ticket from a keytab nsupdate's own library is enough.
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

impl Point {
    /// Reads the settings of an instance; `None` where neither an address nor a name is set.
    pub fn read(root: &Root, id: &ClusterId) -> Result<Option<Self>> {
        Self::from_settings(root, id, &Settings::read(root, id)?)
    }

    /// The same from settings that are read already.
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
            standby_leader: settings.truth("VIP_STANDBY_LEADER")?.unwrap_or(false),
            dns,
        }))
    }
}

/// `VIPS`: the virtual IP addresses; empty if none are set.
pub fn vips(settings: &Settings) -> Result<Vec<Vip>> {
    Ok(settings.list("VIPS", parse_vip)?.unwrap_or_default())
}

/// `10.0.3.100/24`, `10.0.3.100`, `fd00::100/64`, `fd00::100`.
fn parse_vip(text: &str) -> Result<Vip> {
    if text.contains('/') {
        let network: IpNet =
            text.parse().with_context(|| format!("'{text}' is not an address with a prefix such as 10.0.3.100/24"))?;
        if network.addr() == network.network() && network.prefix_len() < network.max_prefix_len() {
            bail!("'{text}' is a network, not an address in it");
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
            None => bail!("{place}DNS_NAME is {name}, but this host has no domain to put behind it: set DNS_ZONE"),
        },
    };
    if let Some(zone) = &zone {
        if name != *zone && !name.ends_with(&format!(".{zone}")) {
            bail!("{place}DNS_NAME {name} is not in DNS_ZONE {zone}: correct one of them");
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
    let lacks = |what: &str| format!("{}DNS_AUTH={method} needs {what}", settings.place(&["DNS_AUTH"]));
    match method {
        "tsig" => {
            let key = settings.path("DNS_TSIG_KEY_FILE")?;
            Ok(Auth::Tsig(key.with_context(|| lacks("DNS_TSIG_KEY_FILE, as tsig-keygen writes it"))?))
        }
        "gss" => {
            let principal = settings.text("DNS_PRINCIPAL");
            let principal = principal.with_context(|| lacks("DNS_PRINCIPAL, as in pgsql$@EXAMPLE.ORG"))?;
            let secret = match (settings.path("DNS_KEYTAB")?, settings.path("DNS_PASSWORD_FILE")?) {
                (Some(keytab), None) => GssSecret::Keytab(keytab),
                (None, Some(password)) => GssSecret::Password(password),
                _ => bail!(lacks("either DNS_KEYTAB or DNS_PASSWORD_FILE")),
            };
            Ok(Auth::Gss { principal: principal.to_owned(), secret })
        }
        _ => Ok(Auth::None),
    }
}

/// A name of one or more labels (RFC 1123, section 2.1; `_` because Active Directory has it), in lower case.
fn host_name(text: &str) -> Result<String> {
    let name = text.trim_end_matches('.').to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(label) { Ok(name) } else { bail!("'{text}' is not a DNS name") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::settings::Origin;

    fn point(assignments: &[(&str, &str)]) -> Result<Option<Point>> {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        std::fs::create_dir_all(root.path("/proc/sys/kernel")).unwrap();
        std::fs::write(root.path("/proc/sys/kernel/hostname"), "pg1\n").unwrap();
        let mut settings = Settings::default();
        for (key, value) in assignments {
            settings.put(key, (*value).to_owned(), Origin::Option("--set"))?;
        }
        Point::from_settings(&root, &"16/main".parse().unwrap(), &settings)
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
    fn bad_values_are_named() {
        for (key, value) in [
            ("VIPS", "10.0.3.0/24"),
            ("VIP_MANAGER", "ucarp"),
            ("VIPS", "10.0.3"),
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
