//! Announces to the neighbours that an address has moved here, and asks whether another host has it.
//!
//! Sends Ethernet frames on a packet socket (`packet(7)`), so the state of the address, of the routes and of the neighbour cache of
//! this host makes no difference.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use host::trouble::Trouble;
use nix::errno::Errno;
use nix::sys::socket::{LinkAddr, MsgFlags, bind, recvfrom, send};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::netlink;

/// When an address is announced, counted from its addition: at once, and again in case a switch had not yet learned the port or a
/// frame was lost.
pub const DELAYS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];

/// An Ethernet address.
pub type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
const UNKNOWN: Mac = [0; 6];
// EtherTypes (IANA, "IEEE 802 Numbers").
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;

const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;

const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// "Override": the receiver replaces what it has cached (RFC 4861, section 4.4).
const OVERRIDE: u32 = 1 << 29;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The frames that announce an address: gratuitous ARP as request and as reply (RFC 5944, section 4.6), because some systems
/// accept only the one or the other; for IPv6 an unsolicited neighbour advertisement (RFC 4861, section 7.2.6).
#[must_use]
pub fn frames(mac: Mac, address: IpAddr) -> Vec<Vec<u8>> {
    match address {
        // RFC 5227, section 3 explains the choice of the request; its target hardware address is ignored.
        IpAddr::V4(address) => {
            vec![arp(ARP_REQUEST, (mac, address), (UNKNOWN, address)), arp(ARP_REPLY, (mac, address), (mac, address))]
        }
        IpAddr::V6(address) => vec![neighbour(ADVERTISEMENT, mac, (address, ALL_NODES), address)],
    }
}

/// The frame that asks for the holder of an address without claiming it: an ARP probe (RFC 5227, section 2.1.1) or a neighbour
/// solicitation from the unspecified address (RFC 4862, section 5.4.2).
#[must_use]
fn question(mac: Mac, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp(ARP_REQUEST, (mac, Ipv4Addr::UNSPECIFIED), (UNKNOWN, address)),
        IpAddr::V6(address) => neighbour(SOLICITATION, mac, (Ipv6Addr::UNSPECIFIED, solicited_node(address)), address),
    }
}

/// The hardware address that claims an address with this frame.
fn claimant(frame: &[u8], address: IpAddr) -> Option<Mac> {
    match address {
        IpAddr::V4(address) => {
            // RFC 5227, section 2.1.1: any ARP packet, request or reply, with the address as its sender.
            let ours =
                frame.get(12..20)? == [0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4] && frame.get(28..32)? == address.octets();
            ours.then(|| frame.get(22..28)?.try_into().ok())?
        }
        IpAddr::V6(address) => {
            let is_advertisement = frame.get(12..14)? == IPV6.to_be_bytes()
                && *frame.get(20)? == ICMPV6
                && *frame.get(21)? == 255
                && *frame.get(54)? == ADVERTISEMENT;
            let ours = is_advertisement && frame.get(62..78)? == address.octets();
            // The option "target link-layer address", always there in an answer to a multicast (RFC 4861, section 4.4).
            let target =
                frame.get(78..86).filter(|option| option[..2] == [2, 1]).and_then(|option| option[2..].try_into().ok());
            ours.then(|| target.or_else(|| frame.get(6..12)?.try_into().ok()))?
        }
    }
}

/// An ARP packet for IPv4 over Ethernet (RFC 826), as a broadcast.
fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, sender.0, ARP);
    frame.extend([0, 1, 0x08, 0x00, 6, 4]);
    frame.extend(operation.to_be_bytes());
    for (mac, address) in [sender, target] {
        frame.extend(mac);
        frame.extend(address.octets());
    }
    frame
}

/// A neighbour solicitation or advertisement (RFC 4861, sections 4.3 and 4.4).
fn neighbour(kind: u8, mac: Mac, (from, to): (Ipv6Addr, Ipv6Addr), about: Ipv6Addr) -> Vec<u8> {
    const NO_CHECKSUM: [u8; 2] = [0, 0];
    const TARGET_ADDRESS: [u8; 2] = [2, 1];
    let mut message = vec![kind, 0];
    message.extend(NO_CHECKSUM);
    message.extend(if kind == ADVERTISEMENT { OVERRIDE } else { 0 }.to_be_bytes());
    message.extend(about.octets());
    // A solicitation from the unspecified address must not have its sender's hardware address (section 4.3).
    if kind == ADVERTISEMENT {
        message.extend(TARGET_ADDRESS);
        message.extend(mac);
    }
    let length = u8::try_from(message.len()).unwrap_or_default();
    let sum = checksum(&[&from.octets(), &to.octets(), &[0, 0, 0, length], &[0, 0, 0, ICMPV6], &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let group = to.octets();
    // RFC 2464, section 7.
    let mut frame = ethernet([0x33, 0x33, group[12], group[13], group[14], group[15]], mac, IPV6);
    // Hop limit 255 shows the receiver that no router passed it on (RFC 4861, section 7.1).
    frame.extend([0x60, 0, 0, 0, 0, length, ICMPV6, 255]);
    frame.extend(from.octets());
    frame.extend(group);
    frame.extend(message);
    frame
}

fn ethernet(to: Mac, from: Mac, kind: u16) -> Vec<u8> {
    [&to[..], &from[..], &kind.to_be_bytes()[..]].concat()
}

/// RFC 4291, section 2.7.1.
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (high & 0xff), low)
}

/// The Internet checksum (RFC 1071) of parts of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words.map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low))).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// Announces an address on an interface, once. On an interface without Ethernet there is nothing to announce.
pub fn send_once(interface: u32, address: IpAddr) -> Result<()> {
    let wire = Wire::open(interface, address, None)?;
    let Some(mac) = wire.mac else { return Ok(()) };
    let sent = frames(mac, address).iter().try_for_each(|frame| wire.send(frame));
    // The kernel needs some 8 ms to close it (`packet_release()` waits in `synchronize_net()`), for which neither the next address nor
    // the record waits. If no thread can be started, it is closed here.
    let _ = thread::Builder::new().name("close".to_owned()).spawn(move || drop(wire));
    sent
}

/// Asks on an interface whether another host has an address, for at most `limit`; three times, since a frame can be lost.
pub fn probe(interface: u32, address: IpAddr, limit: Duration) -> Result<Option<Mac>> {
    const QUESTIONS: u32 = 3;
    let start = Instant::now();
    let protocol = if address.is_ipv6() { IPV6 } else { ARP };
    let wire = Wire::open(interface, address, Some(protocol))?;
    let Some(mac) = wire.mac else { return Ok(None) };
    // With several ports in one network, any of them may answer for the host (arp_announce in the kernel's ip-sysctl).
    let ours: Vec<Mac> = netlink::interfaces()?.iter().filter_map(|interface| interface.mac).collect();
    for count in 1..=QUESTIONS {
        wire.send(&question(mac, address))?;
        let until = limit * count / QUESTIONS;
        while let Some(left) = until.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
            let holder = wire.receive(left)?.and_then(|frame| claimant(&frame, address));
            if let Some(holder) = holder.filter(|holder| !ours.contains(holder)) {
                return Ok(Some(holder));
            }
        }
    }
    Ok(None)
}

/// A packet socket on one interface.
struct Wire {
    socket: Socket,
    index: usize,
    mac: Option<Mac>,
    what: String,
}

impl Wire {
    /// Without a protocol the socket receives nothing.
    fn open(interface: u32, address: IpAddr, protocol: Option<u16>) -> Result<Self> {
        let links = nix::ifaddrs::getifaddrs().context("could not list the network interfaces")?;
        let (name, link) = links
            .filter_map(|entry| Some((entry.interface_name, *entry.address?.as_link_addr()?)))
            .find(|(_, link)| u32::try_from(link.ifindex()) == Ok(interface))
            .with_context(|| format!("could not announce {address}: interface {interface} does not exist any more"))?;
        let what = format!("could not announce {address} on {name}");
        let protocol = protocol.map(|number| Protocol::from(i32::from(number.to_be())));
        let socket = Socket::new(Domain::PACKET, Type::RAW, protocol).map_err(|error| match error.raw_os_error() {
            Some(nix::libc::EPERM) => Trouble::new(format!("{what}: {error}")).hint(netlink::NO_CAPABILITIES),
            _ => Trouble::new(format!("{what}: {error}")),
        })?;
        if protocol == Some(Protocol::from(i32::from(IPV6.to_be()))) {
            socket.attach_filter(&advertisements_only()).with_context(|| what.clone())?;
        }
        bind(socket.as_raw_fd(), &link).with_context(|| what.clone())?;
        let mac = netlink::ethernet(&link);
        Ok(Self { socket, index: link.ifindex(), mac, what })
    }

    fn send(&self, frame: &[u8]) -> Result<()> {
        // A full queue is no reason to wait.
        send(self.socket.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT).with_context(|| self.what.clone())?;
        Ok(())
    }

    /// The next frame, or nothing.
    fn receive(&self, limit: Duration) -> Result<Option<Vec<u8>>> {
        // Zero would mean no limit, and the kernel counts in microseconds.
        self.socket.set_read_timeout(Some(limit.max(Duration::from_millis(1))))?;
        let mut buffer = [0; 128];
        match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
            // A frame from before bind() may be from another interface.
            Ok((length, Some(from))) if from.ifindex() == self.index => Ok(Some(buffer[..length].to_vec())),
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(errno) => Err(errno).with_context(|| self.what.clone()),
        }
    }
}

/// A filter for the socket (`bpf(4)` as `packet(7)` has it) that passes neighbour advertisements, so that a busy host's traffic
/// does not push the answer out of the buffer.
fn advertisements_only() -> [SockFilter; 6] {
    use nix::libc::{BPF_ABS, BPF_B, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET};
    let code = |parts: u32| u16::try_from(parts).unwrap_or_default();
    let load = |offset| SockFilter::new(code(BPF_LD | BPF_B | BPF_ABS), 0, 0, offset);
    let unless = |value, skip| SockFilter::new(code(BPF_JMP | BPF_JEQ | BPF_K), 0, skip, value);
    let end = |length| SockFilter::new(code(BPF_RET | BPF_K), 0, 0, length);
    [load(20), unless(u32::from(ICMPV6), 3), load(54), unless(u32::from(ADVERTISEMENT), 1), end(u32::MAX), end(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [0x02, 0, 0, 0, 0, 0x0a];

    fn hex(frame: &[u8]) -> String {
        use std::fmt::Write;
        frame.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    #[test]
    fn gratuitous_arp() {
        let frames = frames(MAC, "10.77.0.100".parse().unwrap());
        let frames: Vec<String> = frames.iter().map(|frame| hex(frame)).collect();
        let head = "ffffffffffff02000000000a0806000108000604";
        assert_eq!(
            frames,
            [
                format!("{head}000102000000000a0a4d00640000000000000a4d0064"),
                format!("{head}000202000000000a0a4d006402000000000a0a4d0064"),
            ]
        );
    }

    #[test]
    fn arp_probe() {
        assert_eq!(
            hex(&question(MAC, "10.77.0.100".parse().unwrap())),
            "ffffffffffff02000000000a0806000108000604000102000000000a000000000000000000000a4d0064"
        );
    }

    // The checksums were computed independently, with Python, from the pseudo-header of RFC 8200, section 8.1.
    #[test]
    fn neighbour_advertisement() {
        let frames = frames(MAC, "fd00::64".parse().unwrap());
        assert_eq!(
            frames.iter().map(|frame| hex(frame)).collect::<Vec<_>>(),
            ["33330000000102000000000a86dd6000000000203aff\
              fd000000000000000000000000000064ff020000000000000000000000000001\
              880059cc20000000fd0000000000000000000000000000640201\
              02000000000a"]
        );
    }

    #[test]
    fn neighbour_solicitation() {
        assert_eq!(
            hex(&question(MAC, "fd00::12:3464".parse().unwrap())),
            "3333ff12346402000000000a86dd6000000000183aff\
             00000000000000000000000000000000ff0200000000000000000001ff123464\
             870014bb00000000fd000000000000000000000000123464"
        );
    }

    #[test]
    fn claims_of_an_address() {
        let (v4, v6) = ("10.77.0.100".parse().unwrap(), "fd00::64".parse().unwrap());
        for frame in frames(MAC, v4) {
            assert_eq!(claimant(&frame, v4), Some(MAC));
            assert_eq!(claimant(&frame, "10.77.0.10".parse().unwrap()), None);
            assert_eq!(claimant(&frame, v6), None);
        }
        assert_eq!(claimant(&frames(MAC, v6)[0], v6), Some(MAC));
        assert_eq!(claimant(&question(MAC, v4), v4), None);
        assert_eq!(claimant(&question(MAC, v6), v6), None);
    }

    #[test]
    fn any_bytes_are_read() {
        for address in ["10.77.0.100".parse().unwrap(), "fd00::64".parse().unwrap()] {
            let frame = frames(MAC, address).remove(0);
            for length in 0..frame.len() {
                let _ = claimant(&frame[..length], address);
            }
        }
    }
}
