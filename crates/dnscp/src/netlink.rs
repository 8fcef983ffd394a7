//! Interfaces and addresses of this host, read and changed in the kernel (`rtnetlink(7)`).
//!
//! Every call opens its own socket and waits at most [`LIMIT`]. Links are listed by `getifaddrs(3)`, not from a dump of all links:
//! a link has attributes of dozens of drivers, which each kernel extends, and none of them matters here.

use std::fmt::{self, Display};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Error, Result};
use host::endpoint::Vip;
use host::trouble::Trouble;
use host::vip::{self, Pick};
use host::{facts, fail};
use ipnet::IpNet;
use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkBuffer, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    Parseable,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use nix::errno::Errno;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::sockopt::{ReceiveTimeout, SendTimeout};
use nix::sys::socket::{
    AddressFamily as Domain, LinkAddr, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recvfrom, sendto,
    setsockopt, socket,
};
use nix::sys::time::TimeVal;

/// How long the kernel has for one answer; it takes well under a millisecond.
pub const LIMIT: Duration = Duration::from_secs(1);

/// The hint if the kernel does not permit a change.
pub(crate) const NO_CAPABILITIES: &str =
    "Run it as root, or give the program its capabilities (cap_net_admin,cap_net_raw).";

/// `valid_lft` of an address that stays (`INFINITY_LIFE_TIME` in the kernel's `net/addrconf.h`).
const FOREVER: u32 = u32::MAX;

/// A network interface with its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, if it is an Ethernet.
    pub mac: Option<[u8; 6]>,
    /// Whether the administrator switched it on. A missing cable makes no difference.
    pub up: bool,
    /// Whether it is the loopback interface.
    pub loopback: bool,
    /// Its addresses, IPv4 and IPv6.
    pub addresses: Vec<Address>,
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// Its prefix length.
    pub prefix: u8,
    /// After how many seconds the kernel removes it (`valid_lft`), if it does.
    pub lifetime: Option<u32>,
    /// Whether it can be used: not while duplicate address detection (RFC 4862) runs, or after it failed.
    pub usable: bool,
    /// Whether an earlier address of the same IPv4 subnet has the subnet's route (`secondary`).
    pub secondary: bool,
    /// Whether dnscp added it. It adds each address as a deprecated one ([`add_or_renew`]), which no other program does with an
    /// address that a host uses: the kernel would not choose it as the source of a connection.
    pub ours: bool,
}

impl Interface {
    /// What the choice of an address depends on.
    fn known(&self) -> facts::Interface {
        let addresses = self.addresses.iter().filter_map(|own| IpNet::new(own.address, own.prefix).ok()).collect();
        let interface = facts::Interface::new(&self.name, Vec::new());
        facts::Interface { up: self.up, loopback: self.loopback, addresses, ..interface }
    }

    /// The entry of an address, if this interface has it.
    #[must_use]
    pub fn address(&self, address: IpAddr) -> Option<&Address> {
        self.addresses.iter().find(|entry| entry.address == address)
    }
}

/// A virtual address and its interface on this member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The number of the interface.
    pub index: u32,
    /// The name of the interface.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// Its prefix length.
    pub prefix: u8,
    /// The network of the interface's own address that contains it.
    pub own: Option<IpNet>,
}

impl Placed {
    /// Whether the address adds the route to its subnet. If the interface has that route through an address of its own, a second
    /// one would make the virtual address the source of the host's connections. In IPv6 both addresses would share one route with the
    /// lifetime of the younger one, so the host's own route would expire with the lease. An IPv4 address in the same subnet is a
    /// secondary one: it adds no route while the first exists, and needs one once that is removed.
    fn brings_route(&self) -> bool {
        self.own.is_none_or(|own| self.address.is_ipv4() && own.prefix_len() == self.prefix)
    }
}

impl Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} on {}", self.address, self.prefix, self.interface)
    }
}

/// Chooses this member's virtual addresses ([`host::vip::pick`]).
#[must_use]
pub fn pick(vips: &[Vip], only: Option<&str>, interfaces: &[Interface]) -> Pick<Placed> {
    let known: Vec<facts::Interface> = interfaces.iter().map(Interface::known).collect();
    let Pick { placed, problems } = vip::pick(vips, only, &known);
    let index =
        |name: &str| interfaces.iter().find(|interface| interface.name == name).map(|interface| interface.index);
    let placed = placed.into_iter().filter_map(|at| {
        let vip::Placed { address, prefix, interface, network } = at;
        Some(Placed { index: index(&interface)?, interface, address, prefix, own: network })
    });
    Pick { placed: placed.collect(), problems }
}

/// The interfaces of this host, by their number.
pub fn interfaces() -> Result<Vec<Interface>> {
    let mut interfaces: Vec<Interface> = Vec::new();
    for entry in nix::ifaddrs::getifaddrs().context("could not list the network interfaces")? {
        let Some(link) = entry.address.as_ref().and_then(|address| address.as_link_addr()) else { continue };
        let Ok(index) = u32::try_from(link.ifindex()) else { continue };
        let loopback = entry.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        let mac = ethernet(link);
        let up = entry.flags.contains(InterfaceFlags::IFF_UP);
        interfaces.push(Interface { index, name: entry.interface_name, mac, up, loopback, addresses: Vec::new() });
    }
    interfaces.sort_by_key(|interface| interface.index);
    interfaces.dedup_by_key(|interface| interface.index);
    for (index, address) in addresses().context("could not list the addresses of this host")? {
        if let Some(interface) = interfaces.iter_mut().find(|interface| interface.index == index) {
            interface.addresses.push(address);
        }
    }
    Ok(interfaces)
}

/// The hardware address of a link, if it is an Ethernet.
pub(crate) fn ethernet(link: &LinkAddr) -> Option<[u8; 6]> {
    link.addr().filter(|_| link.hatype() == nix::libc::ARPHRD_ETHER && link.halen() == 6)
}

/// Adds an address to an interface, or renews its lease; to be called again before the lease expires. Without a lease the address
/// stays.
///
/// The address is deprecated from the start (`preferred_lft 0`, RFC 4862, section 5.5.4): clients can reach it, but the host does not
/// use it as the source of its own connections. It is used at once, without duplicate address detection (`IFA_F_NODAD`), because the
/// host that had it before may be frozen and still answer.
pub fn add_or_renew(placed: &Placed, lease: Option<Duration>) -> Result<()> {
    if placed.address.is_ipv4() {
        stay_second(placed)?;
    }
    let mut lifetime = CacheInfo::default();
    lifetime.ifa_valid = lease.map_or(FOREVER, whole_seconds);
    let mut flags = AddressFlags::empty();
    if placed.address.is_ipv6() {
        flags |= AddressFlags::Nodad;
    }
    if !placed.brings_route() {
        flags |= AddressFlags::Noprefixroute;
    }
    let mut message = message(placed.index, placed.address, placed.prefix);
    message.attributes.push(AddressAttribute::CacheInfo(lifetime));
    message.attributes.push(AddressAttribute::Flags(flags));
    let result = change(Request::Add(message), NLM_F_CREATE | NLM_F_REPLACE);
    result.map_err(|error| explain(&error, placed.address)).with_context(|| format!("could not add {placed}"))
}

/// Prevents an IPv4 address from becoming or staying the first of a subnet in which the host has its own address.
///
/// The first is the source of the host's connections. With it the kernel removes the others, unless `promote_secondaries` is on
/// (ip-sysctl in the kernel's documentation). The order changes when the host's own address is removed and added again, as by a
/// restart of the network.
fn stay_second(placed: &Placed) -> Result<()> {
    let all = addresses().context("could not list the addresses of this host")?;
    let here: Vec<Address> = all.into_iter().filter(|(index, _)| *index == placed.index).map(|entry| entry.1).collect();
    let network = |address: &Address| IpNet::new(address.address, address.prefix).ok().map(|network| network.trunc());
    let held = here.iter().find(|entry| entry.address == placed.address && entry.prefix == placed.prefix);
    let beside = |other: &Address| network(other).is_some_and(|network| network.contains(&placed.address));
    match (held, placed.own) {
        (None, Some(own)) if !here.iter().any(|other| other.address != placed.address && beside(other)) => {
            fail!(
                "cannot add {placed}: the interface has lost its own address in {own}";
                "Add the interface's own address first."
            )
        }
        (Some(held), _) if !held.secondary => {
            let behind = here.iter().any(|other| other.secondary && network(other) == network(held));
            if behind && promotes(&placed.interface) {
                return release(placed.index, placed.address);
            }
        }
        _ => {}
    }
    // The same address with another prefix, from an earlier setting, would have no lease.
    let same = |other: &&Address| other.ours && other.address == placed.address && other.prefix != placed.prefix;
    for other in here.iter().filter(same) {
        remove(placed.index, other)?;
    }
    Ok(())
}

/// Whether the next address of a subnet stays when the first is removed, as `IN_DEV_PROMOTE_SECONDARIES` in the kernel.
fn promotes(interface: &str) -> bool {
    ["all", interface].iter().any(|name| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/promote_secondaries"));
        text.is_ok_and(|text| text.trim() != "0")
    })
}

/// Removes an address from an interface, with every prefix with which dnscp added it there. A missing address or interface is no
/// error. What another program added stays: it may be the only address of the host.
pub fn release(interface: u32, address: IpAddr) -> Result<()> {
    for entry in addresses().context("could not list the addresses of this host")? {
        if entry.0 == interface && entry.1.address == address && entry.1.ours {
            remove(interface, &entry.1)?;
        }
    }
    Ok(())
}

fn remove(interface: u32, entry: &Address) -> Result<()> {
    match change(Request::Delete(message(interface, entry.address, entry.prefix)), 0) {
        Err(error) if !is(&error, Errno::EADDRNOTAVAIL) && !is(&error, Errno::ENODEV) => {
            let shown = format!("could not remove {}/{}", entry.address, entry.prefix);
            Err(explain(&error, entry.address).context(shown))
        }
        _ => Ok(()),
    }
}

fn whole_seconds(duration: Duration) -> u32 {
    let up = duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0));
    u32::try_from(up).map_or(FOREVER - 1, |seconds| seconds.clamp(1, FOREVER - 1))
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

fn explain(error: &io::Error, address: IpAddr) -> Error {
    let hint = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM) => NO_CAPABILITIES,
        Some(Errno::EACCES | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT) if address.is_ipv6() => {
            "Switch IPv6 on there (net.ipv6.conf.*.disable_ipv6)."
        }
        Some(Errno::ENODEV) => "Check that the interface still exists.",
        _ => return Trouble::new(error.to_string()).into(),
    };
    Trouble::new(error.to_string()).hint(hint).into()
}

fn message(index: u32, address: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message
}

/// Every address of the host with the number of its interface.
fn addresses() -> io::Result<Vec<(u32, Address)>> {
    const TRIES: usize = 5;
    for _ in 0..TRIES {
        if let Some(messages) = Conversation::open()?.dump()? {
            return Ok(messages.iter().filter_map(read).collect());
        }
    }
    Err(io::Error::other("the addresses change while they are listed"))
}

fn read(message: &AddressMessage) -> Option<(u32, Address)> {
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    let (mut local, mut peer, mut lifetime) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => peer = Some(*address),
            AddressAttribute::CacheInfo(info) => lifetime = Some(info.ifa_valid).filter(|seconds| *seconds != FOREVER),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let address = Address {
        address: local.or(peer)?,
        prefix: message.header.prefix_len,
        lifetime,
        usable: !flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
        // In IPv6 the same bit means a temporary address.
        secondary: message.header.family == AddressFamily::Inet && flags.contains(AddressFlags::Secondary),
        ours: flags.contains(AddressFlags::Deprecated),
    };
    Some((message.header.index, address))
}

fn change(request: Request, flags: u16) -> io::Result<()> {
    Conversation::open()?.ask(request, flags | NLM_F_ACK).map(drop)
}

/// Only the three messages of `rtnetlink(7)` about addresses, so that the program has no code for the others.
#[derive(Debug, Clone)]
enum Request {
    Add(AddressMessage),
    Delete(AddressMessage),
    Dump(AddressMessage),
}

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;

impl Request {
    fn message(&self) -> &AddressMessage {
        match self {
            Self::Add(message) | Self::Delete(message) | Self::Dump(message) => message,
        }
    }
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        match self {
            Self::Add(_) => RTM_NEWADDR,
            Self::Delete(_) => RTM_DELADDR,
            Self::Dump(_) => RTM_GETADDR,
        }
    }

    fn buffer_len(&self) -> usize {
        self.message().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        self.message().emit(buffer);
    }
}

impl NetlinkDeserializable for Request {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        match header.message_type {
            RTM_NEWADDR => AddressMessage::parse(payload).map(Self::Add),
            other => Err(DecodeError::from(format!("message {other} was not asked for"))),
        }
    }
}

/// A request to the kernel and its answer (`netlink(7)`).
struct Conversation {
    socket: OwnedFd,
}

impl Conversation {
    fn open() -> io::Result<Self> {
        let socket = socket(Domain::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        let limit = TimeVal::new(LIMIT.as_secs().try_into().unwrap_or(1), 0);
        setsockopt(&socket, ReceiveTimeout, &limit)?;
        setsockopt(&socket, SendTimeout, &limit)?;
        Ok(Self { socket })
    }

    /// All addresses; `None` if one was added or removed meanwhile.
    fn dump(&self) -> io::Result<Option<Vec<AddressMessage>>> {
        self.ask(Request::Dump(AddressMessage::default()), NLM_F_DUMP)
    }

    fn ask(&self, request: Request, flags: u16) -> io::Result<Option<Vec<AddressMessage>>> {
        const SEQUENCE: u32 = 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = SEQUENCE;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut out = vec![0; message.buffer_len()];
        message.serialize(&mut out);
        sendto(self.socket.as_raw_fd(), &out, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;

        let mut found = Vec::new();
        let mut whole = true;
        // The kernel fits a part of a dump to the largest buffer that it has seen, at most 32 KiB (netlink_dump).
        let mut buffer = vec![0; 65536];
        loop {
            let length = match recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((length, Some(sender))) if sender.pid() == 0 => length,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel does not answer"));
                }
                Err(errno) => return Err(errno.into()),
            };
            let mut rest = &buffer[..length];
            while !rest.is_empty() {
                let next = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?.length() as usize;
                let message = NetlinkMessage::<Request>::deserialize(rest).map_err(io::Error::other)?;
                // NLMSG_ALIGN: each message starts at a multiple of four.
                rest = &rest[next.next_multiple_of(4).min(rest.len())..];
                if message.header.sequence_number != SEQUENCE {
                    continue;
                }
                whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(request) => found.push(request.message().clone()),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => return Ok(whole.then_some(found)),
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(text: &str) -> Vip {
        match text.split_once('/') {
            Some((address, prefix)) => Vip { address: address.parse().unwrap(), prefix: Some(prefix.parse().unwrap()) },
            None => Vip { address: text.parse().unwrap(), prefix: None },
        }
    }

    fn interface(index: u32, name: &str, addresses: &[&str]) -> Interface {
        let address = |text: &&str| {
            let network: IpNet = text.parse().unwrap();
            let (address, prefix) = (network.addr(), network.prefix_len());
            Address { address, prefix, lifetime: None, usable: true, secondary: false, ours: true }
        };
        let addresses = addresses.iter().map(address).collect();
        Interface { index, name: name.to_owned(), mac: Some([2; 6]), up: true, loopback: name == "lo", addresses }
    }

    #[test]
    fn a_placed_address_has_the_number_of_its_interface() {
        let host = [interface(2, "eth0", &["10.0.0.1/8"]), interface(3, "eth1", &["10.0.3.141/24"])];
        let placed = pick(&[vip("10.0.3.100")], None, &host).placed;
        assert_eq!((placed[0].index, placed[0].to_string()), (3, "10.0.3.100/24 on eth1".to_owned()));
        assert_eq!(host[0].address("10.0.0.10".parse().unwrap()), None);
    }

    #[test]
    fn the_route_stays_with_the_hosts_own_address() {
        let host = [interface(2, "eth0", &["10.77.0.10/16", "fd00::10/64"])];
        let brings = |text: &str| pick(&[vip(text)], Some("eth0"), &host).placed[0].brings_route();
        assert!(brings("10.77.0.100"));
        assert!(!brings("10.77.0.100/24"));
        assert!(!brings("fd00::100"));
        assert!(brings("fd01::100/64"));
    }

    #[test]
    fn leases_are_rounded_up() {
        assert_eq!(whole_seconds(Duration::from_millis(2001)), 3);
        assert_eq!(whole_seconds(Duration::ZERO), 1);
        assert_eq!(whole_seconds(Duration::MAX), FOREVER - 1);
    }
}
