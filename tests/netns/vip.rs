//! Virtual addresses, their announcement and the question who has them, against the real kernel.
//!
//! A machine is a thread in a network namespace of its own; the namespace goes with the thread, however the test ends. We act
//! with our code and look with `ip`, with a packet socket on the peer, and by connecting.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use dnscp::announce::{self, Mac};
use dnscp::netlink::{self, Interface, Placed};
use host::endpoint::Vip;
use host::trouble::Trouble;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{LinkAddr, MsgFlags, bind, send};
use nix::unistd::{Pid, gettid};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

const VIP: &str = "10.77.0.100";
const VIP6: &str = "fd77::100";
const OLD: Mac = [0x02, 0, 0, 0, 0, 0x99];

type Job = Box<dyn FnOnce() + Send>;

struct Machine {
    jobs: Sender<Job>,
    thread: Pid,
}

impl Machine {
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            return skip("root");
        }
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        thread::spawn(move || {
            ready.send(unshare(CloneFlags::CLONE_NEWNET).map(|()| gettid())).unwrap();
            for job in queue {
                job();
            }
        });
        let Ok(thread) = started.recv().unwrap() else { return skip("the right to make network namespaces") };
        let machine = Self { jobs, thread };
        machine.ip("link set lo up");
        Some(machine)
    }

    /// Runs something on this machine.
    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.start(job).recv().expect("the job on the machine failed, see above")
    }

    fn start<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
        let (result, done) = mpsc::channel();
        self.jobs.send(Box::new(move || drop(result.send(job())))).expect("the machine is gone");
        done
    }

    fn command(&self, program: &'static str, arguments: &str) -> String {
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        self.run(move || {
            let output = Command::new(program).args(&arguments).output().unwrap();
            assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        })
    }

    fn ip(&self, arguments: &str) -> String {
        self.command("ip", arguments)
    }

    fn sysctl(&self, name: &'static str, value: &'static str) {
        self.run(move || std::fs::write(format!("/proc/sys/net/{name}"), value)).unwrap();
    }

    fn json(&self, arguments: &str) -> Vec<Value> {
        serde_json::from_str(&self.ip(&format!("-j {arguments}"))).unwrap()
    }

    /// What `ip` knows of an address, on whatever interface.
    fn address(&self, address: &str) -> Vec<Value> {
        let links = self.json("address show");
        let all = links.iter().filter_map(|link| link["addr_info"].as_array()).flatten();
        all.filter(|entry| entry["local"] == address).cloned().collect()
    }

    fn has(&self, address: &str) -> bool {
        !self.address(address).is_empty()
    }

    fn mac(&self, interface: &str) -> String {
        self.json(&format!("link show {interface}"))[0]["address"].as_str().unwrap().to_owned()
    }

    /// The hardware address that the machine has cached for a neighbour.
    fn neighbour(&self, address: &str) -> Option<String> {
        self.json(&format!("neigh show {address}")).first()?["lladdr"].as_str().map(str::to_owned)
    }

    /// The routes of the host, without how long they stay.
    fn routes(&self) -> Vec<Value> {
        let mut routes = self.json("-4 route show");
        routes.extend(self.json("-6 route show"));
        routes
    }

    /// From where a connection to `target` leaves.
    fn source(&self, target: &str) -> String {
        self.json(&format!("route get {target}"))[0]["prefsrc"].as_str().unwrap().to_owned()
    }

    fn interfaces(&self) -> Vec<Interface> {
        self.run(|| netlink::interfaces().unwrap())
    }

    fn index(&self, interface: &str) -> u32 {
        self.interfaces().iter().find(|found| found.name == interface).unwrap().index
    }

    fn pick(&self, vips: &[&str]) -> Vec<Placed> {
        let vips: Vec<Vip> = vips.iter().map(|text| vip(text)).collect();
        netlink::pick(&vips, None, &self.interfaces()).placed
    }

    fn hold(&self, address: &str, lease: Option<u64>) {
        let placed = self.pick(&[address]).remove(0);
        self.run(move || netlink::add_or_renew(&placed, lease.map(Duration::from_secs)).unwrap());
    }

    fn release(&self, interface: &str, address: &str) {
        let (index, address) = (self.index(interface), address.parse().unwrap());
        self.run(move || netlink::release(index, address).unwrap());
    }

    fn announce(&self, interface: &str, address: &str) {
        let (index, address) = (self.index(interface), address.parse().unwrap());
        self.run(move || announce::send_once(index, address).unwrap());
    }

    fn probe(&self, interface: &str, address: &str) -> Option<String> {
        let (index, address) = (self.index(interface), address.parse().unwrap());
        self.run(move || announce::probe(index, address, Duration::from_millis(300)).unwrap()).map(text)
    }

    /// A packet socket, made apart from the code under test.
    fn wire(&self, interface: &'static str) -> Socket {
        self.run(move || {
            const ALL: u16 = 3;
            let wire = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(ALL.to_be())))).unwrap();
            let link = nix::ifaddrs::getifaddrs().unwrap().find_map(|entry| {
                let link: LinkAddr = *entry.address?.as_link_addr()?;
                (entry.interface_name == interface).then_some(link)
            });
            bind(wire.as_raw_fd(), &link.unwrap()).unwrap();
            wire
        })
    }
}

fn skip<T>(reason: &str) -> Option<T> {
    assert!(std::env::var_os("REQUIRE_ALL").is_none(), "needs {reason}");
    eprintln!("skipped: needs {reason}");
    None
}

fn vip(text: &str) -> Vip {
    let (address, prefix) =
        text.split_once('/').map_or((text, None), |(address, prefix)| (address, prefix.parse().ok()));
    Vip { address: address.parse().unwrap(), prefix }
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A peer with a bridge `br0` and two members with `eth0` at it; the last part of their addresses is 3, 1 and 2.
fn network() -> Option<(Machine, [Machine; 2])> {
    let peer = Machine::new()?;
    peer.ip("link add br0 type bridge");
    peer.ip("link set br0 up");
    peer.ip("address add 10.77.0.3/24 dev br0");
    peer.ip("address add fd77::3/64 dev br0 nodad");
    let members = [1, 2].map(|number| {
        let member = Machine::new().unwrap();
        cable(&peer, &format!("m{number}"), &member, "eth0");
        peer.ip(&format!("link set m{number} master br0"));
        member.ip(&format!("address add 10.77.0.{number}/24 broadcast 10.77.0.255 dev eth0"));
        member.ip(&format!("address add fd77::{number}/64 dev eth0 nodad"));
        member
    });
    Some((peer, members))
}

fn cable(one: &Machine, name: &str, other: &Machine, other_name: &str) {
    one.ip(&format!("link add {name} type veth peer name {other_name} netns {}", other.thread));
    one.ip(&format!("link set {name} up"));
    other.ip(&format!("link set {other_name} up"));
}

fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
    start.elapsed()
}

/// Can `from` connect to an address of `to`?
///
/// The kernel joins the group of an IPv6 address (`ff02::1:ff…`) by a work of its own, which waits for a lock that each
/// namespace takes that is cleared away elsewhere; a neighbour who asks before that has to ask again a second later.
fn reaches(from: &Machine, to: &Machine, address: &str) -> bool {
    let address: IpAddr = address.parse().unwrap();
    if address.is_ipv6() {
        wait_for("the group of the address", Duration::from_secs(2), || {
            to.ip("maddress show").contains("ff02::1:ff00:100")
        });
    }
    let Ok(listener) = to.run(move || TcpListener::bind((address, 0))) else { return false };
    let port = listener.local_addr().unwrap().port();
    from.run(move || TcpStream::connect_timeout(&SocketAddr::new(address, port), Duration::from_millis(500)).is_ok())
}

#[test]
fn an_address_comes_stays_and_goes() {
    let Some((peer, [member, _other])) = network() else { return };
    for (address, prefix) in [(VIP, 24), (VIP6, 64)] {
        for _ in 0..2 {
            member.hold(address, None);
            let entries = member.address(address);
            assert_eq!(entries.len(), 1, "{entries:?}");
            assert_eq!(entries[0]["prefixlen"], prefix);
            assert_eq!(entries[0]["scope"], "global");
            assert_eq!(entries[0]["valid_life_time"], u32::MAX);
            assert_eq!(entries[0].get("tentative"), None);
        }
        assert!(reaches(&peer, &member, address), "{address}");
        member.hold(address, Some(30));
        assert!((29..=30).contains(&member.address(address)[0]["valid_life_time"].as_u64().unwrap()));
        member.hold(address, None);
        assert_eq!(member.address(address)[0]["valid_life_time"], u32::MAX);
        for _ in 0..2 {
            member.release("eth0", address);
            assert!(!member.has(address));
        }
    }
    let gone = 4711;
    member.run(move || netlink::release(gone, VIP.parse().unwrap()).unwrap());
}

#[test]
fn what_the_kernel_says_is_understood() {
    let Some((_peer, [member, _other])) = network() else { return };
    member.hold(VIP, Some(30));
    member.ip("address add fd77::bad/64 dev eth0 valid_lft 60 preferred_lft 0");
    let interfaces = member.interfaces();
    assert_eq!(interfaces.iter().map(|interface| interface.name.as_str()).collect::<Vec<_>>(), ["lo", "eth0"]);
    assert!(interfaces[0].loopback && interfaces[0].mac.is_none());
    let eth0 = &interfaces[1];
    assert!(eth0.up && !eth0.loopback);
    assert_eq!(eth0.mac.map(text), Some(member.mac("eth0")));
    let own = eth0.address("10.77.0.1".parse().unwrap()).unwrap();
    assert_eq!((own.prefix, own.lifetime, own.usable, own.secondary), (24, None, true, false));
    let held = eth0.address(VIP.parse().unwrap()).unwrap();
    assert!(held.secondary && held.lifetime.is_some_and(|left| (28..=30).contains(&left)), "{held:?}");
    let fresh = eth0.address("fd77::bad".parse().unwrap()).unwrap();
    assert!(!fresh.usable && fresh.lifetime.is_some(), "{fresh:?}");
    member.ip("link set eth0 down");
    assert!(!member.interfaces()[1].up);
}

#[test]
fn a_lease_ends_by_itself_unless_it_is_renewed() {
    let Some((_peer, [member, other])) = network() else { return };
    member.hold(VIP, None);
    let start = Instant::now();
    for address in [VIP, VIP6] {
        member.hold(address, Some(3));
        other.hold(address, Some(3));
    }
    let mut ended = [None; 2];
    while start.elapsed() < Duration::from_secs(6) {
        for (address, ended) in [VIP, VIP6].iter().zip(&mut ended) {
            other.hold(address, Some(3));
            assert!(other.has(address), "{address} was renewed and went");
            if ended.is_none() && !member.has(address) {
                *ended = Some(start.elapsed());
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
    println!("a lease of 3 s ended after {ended:?} (IPv4, IPv6)");
    for end in ended {
        assert!((2900..4500).contains(&end.unwrap().as_millis()), "{ended:?}");
    }
}

#[test]
fn routes_and_sources_of_the_host_stay_the_same() {
    let Some((_peer, [member, _other])) = network() else { return };
    let sources = |member: &Machine| [member.source("10.77.0.3"), member.source("fd77::3")];
    let before = (member.routes(), sources(&member));
    assert_eq!(before.1, ["10.77.0.1", "fd77::1"]);
    for address in [VIP, "10.77.0.101/28", VIP6] {
        member.hold(address, Some(1));
        assert_eq!((member.routes(), sources(&member)), before, "with {address}");
        wait_for("the end of the lease", Duration::from_secs(4), || !member.has(address.split('/').next().unwrap()));
        assert_eq!((member.routes(), sources(&member)), before, "after {address}");
        member.hold(address, None);
        member.release("eth0", address.split('/').next().unwrap());
        assert_eq!((member.routes(), sources(&member)), before, "without {address}");
    }
}

#[test]
fn the_hosts_own_address_stays_first_through_a_restart_of_the_network() {
    let Some((_peer, [member, _other])) = network() else { return };
    let own = "10.77.0.1";
    let placed = member.pick(&[VIP]).remove(0);
    let hold = |member: &Machine| {
        let placed = placed.clone();
        member.run(move || netlink::add_or_renew(&placed, None).map_err(|error| error.to_string()))
    };

    member.sysctl("ipv4/conf/all/promote_secondaries", "1");
    hold(&member).unwrap();
    member.ip(&format!("address del {own}/24 dev eth0"));
    assert!(member.has(VIP), "promoted");
    member.ip(&format!("address add {own}/24 dev eth0"));
    assert_eq!(member.source("10.77.0.3"), VIP, "the kernel does as we think");
    hold(&member).unwrap();
    assert_eq!(member.source("10.77.0.3"), own);
    assert_eq!(member.address(VIP)[0]["secondary"], true);

    member.sysctl("ipv4/conf/all/promote_secondaries", "0");
    member.sysctl("ipv4/conf/eth0/promote_secondaries", "0");
    member.ip(&format!("address del {own}/24 dev eth0"));
    assert!(!member.has(VIP), "without promotion it goes too");
    let error = hold(&member).unwrap_err();
    assert!(error.contains("has lost its own address in 10.77.0.0/24"), "{error}");
    member.ip(&format!("address add {own}/24 dev eth0"));
    hold(&member).unwrap();
    member.release("eth0", VIP);
    assert!(member.has(own));
}

#[test]
fn an_entry_with_another_prefix_does_not_outlive_ours() {
    let Some((_peer, [member, _other])) = network() else { return };
    member.ip(&format!("address add {VIP}/32 dev eth0 preferred_lft 0"));
    member.hold(VIP, Some(20));
    let entries = member.address(VIP);
    assert_eq!((entries.len(), entries[0]["prefixlen"].as_u64()), (1, Some(24)), "{entries:?}");
    member.ip(&format!("address add {VIP}/32 dev eth0 preferred_lft 0"));
    member.release("eth0", VIP);
    assert!(!member.has(VIP));

    member.ip(&format!("address add {VIP6}/128 dev eth0 preferred_lft 0"));
    member.hold(VIP6, Some(20));
    let entries = member.address(VIP6);
    assert!(entries.len() == 1 && entries[0]["valid_life_time"] != u32::MAX, "{entries:?}");
    member.release("eth0", VIP6);
    assert!(!member.has(VIP6));
}

#[test]
fn the_address_in_the_second_subnet_goes_to_the_second_interface() {
    let Some((_peer, [member, other])) = network() else { return };
    cable(&member, "eth1", &other, "eth1");
    member.ip("address add 10.78.0.1/16 dev eth1");
    other.ip("address add 10.78.0.2/16 dev eth1");
    member.hold("10.78.3.4", None);
    assert_eq!(member.json("address show dev eth1")[0]["addr_info"][1]["local"], "10.78.3.4");
    assert_eq!(member.address("10.78.3.4")[0]["prefixlen"], 16);
    assert!(reaches(&other, &member, "10.78.3.4"));
    let placed = member.pick(&["10.9.9.9", "10.78.3.4", VIP, VIP6]);
    let placed: Vec<String> = placed.iter().map(ToString::to_string).collect();
    assert_eq!(placed, ["10.78.3.4/16 on eth1", "fd77::100/64 on eth0"]);
    // The script took these for the member's own address and for the broadcast address.
    for address in ["10.77.0.10", "10.77.0.25"] {
        member.hold(address, None);
        assert!(member.has(address), "{address}");
    }
}

/// Sends one frame of ours by a socket of the test.
fn transmit(member: &Machine, frame: &[u8]) {
    let wire = member.wire("eth0");
    assert_eq!(send(wire.as_raw_fd(), frame, MsgFlags::empty()).unwrap(), frame.len());
}

#[test]
fn each_announcement_alone_moves_the_address_in_a_peers_cache() {
    let Some((peer, [member, _other])) = network() else { return };
    let mac = member.mac("eth0");
    let ours = member.interfaces()[1].mac.unwrap();
    let count = |address: &str| announce::frames(ours, address.parse().unwrap()).len();
    assert_eq!((count(VIP), count(VIP6)), (2, 1));
    for (address, number) in [(VIP, 0), (VIP, 1), (VIP6, 0)] {
        for state in ["reachable", "stale"] {
            peer.ip(&format!("neigh replace {address} lladdr {} dev br0 nud {state}", text(OLD)));
            assert_eq!(peer.neighbour(address), Some(text(OLD)));
            transmit(&member, &announce::frames(ours, address.parse().unwrap())[number]);
            wait_for(&format!("{address} frame {number} {state}"), Duration::from_secs(1), || {
                peer.neighbour(address).as_ref() == Some(&mac)
            });
        }
    }
}

#[test]
fn clients_follow_the_address_to_another_member() {
    let Some((peer, [one, two])) = network() else { return };
    for address in [VIP, VIP6] {
        one.hold(address, None);
        assert!(reaches(&peer, &one, address));
        assert_eq!(peer.neighbour(address), Some(one.mac("eth0")));
        one.release("eth0", address);
        let start = Instant::now();
        two.hold(address, None);
        two.announce("eth0", address);
        assert!(reaches(&peer, &two, address), "{address}");
        println!("{address} answers at another member after {:?}", start.elapsed());
        assert_eq!(peer.neighbour(address), Some(two.mac("eth0")));
    }
}

#[test]
fn the_first_frame_is_on_the_wire_at_once() {
    let Some((peer, [member, _other])) = network() else { return };
    let mut times = Vec::new();
    for round in 0..20 {
        let wire = peer.wire("m1");
        let placed = member.pick(&[VIP]).remove(0);
        let arrival = thread::spawn(move || {
            wire.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut buffer = [0; 128];
            loop {
                let length = nix::sys::socket::recv(wire.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
                let frame = &buffer[..length];
                let sender = frame.get(28..32);
                if frame.get(12..14) == Some(&[8, 6]) && sender == Some(&VIP.parse::<Ipv4Addr>().unwrap().octets()) {
                    return (Instant::now(), frame.to_vec());
                }
            }
        });
        thread::sleep(Duration::from_millis(20));
        let start = member.run(move || {
            let start = Instant::now();
            netlink::add_or_renew(&placed, Some(Duration::from_secs(10))).unwrap();
            announce::send_once(placed.index, placed.address).unwrap();
            start
        });
        let (at, frame) = arrival.join().unwrap();
        times.push(at - start);
        if round == 0 {
            assert_eq!(frame[..6], [0xff; 6]);
            assert_eq!(frame[6..12], member.interfaces()[1].mac.unwrap());
        }
        member.release("eth0", VIP);
    }
    times.sort();
    println!("from the call to the first ARP frame at the peer: median {:?}, most {:?}", times[10], times[19]);
    assert!(times[10] < Duration::from_millis(10));
}

#[test]
fn a_foreign_holder_is_found_with_its_hardware_address() {
    let Some((_peer, [member, other])) = network() else { return };
    for address in [VIP, VIP6] {
        let start = Instant::now();
        assert_eq!(member.probe("eth0", address), None);
        assert!((290..600).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
        other.hold(address, None);
        assert_eq!(member.probe("eth0", address), Some(other.mac("eth0")));
        member.hold(address, None);
        assert_eq!(member.probe("eth0", address), Some(other.mac("eth0")), "while we have it too");
        other.release("eth0", address);
        assert_eq!(member.probe("eth0", address), None, "we are not foreign");
        assert_eq!(other.neighbour(address), None, "a question claims nothing");
    }
}

#[test]
fn a_second_port_of_this_host_is_not_foreign() {
    let Some((peer, [member, _other])) = network() else { return };
    cable(&peer, "m3", &member, "eth1");
    peer.ip("link set m3 master br0");
    member.hold(VIP, None);
    assert_eq!(member.probe("eth1", VIP), None);
}

#[test]
fn a_cable_that_is_out_delays_nothing() {
    let Some((peer, [member, _other])) = network() else { return };
    peer.ip("link set m1 down");
    for address in [VIP, VIP6] {
        let start = Instant::now();
        member.hold(address, Some(10));
        assert!(member.has(address));
        let (index, target) = (member.index("eth0"), address.parse().unwrap());
        let _ = member.run(move || announce::send_once(index, target).is_ok());
        let _ = member.run(move || announce::probe(index, target, Duration::from_millis(200)).is_ok());
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }
}

/// What the program's file capabilities give: these two and no others.
#[test]
fn two_capabilities_are_enough() {
    const INSIDE: &str = "VIP_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        let interfaces = netlink::interfaces().unwrap();
        for placed in netlink::pick(&[vip(VIP), vip(VIP6)], None, &interfaces).placed {
            let added = netlink::add_or_renew(&placed, Some(Duration::from_secs(10)));
            // Shows the hint, too.
            added.map_err(|error| Trouble::of(&error)).unwrap();
            announce::send_once(placed.index, placed.address).map_err(|error| Trouble::of(&error)).unwrap();
            assert_eq!(announce::probe(placed.index, placed.address, Duration::from_millis(50)).unwrap(), None);
            netlink::release(placed.index, placed.address).unwrap();
            netlink::add_or_renew(&placed, Some(Duration::from_secs(10))).unwrap();
        }
        return;
    }
    let Some((_peer, [member, _other])) = network() else { return };
    let run = |capabilities: &'static str| {
        member.run(move || {
            Command::new("setpriv")
                .args([&format!("--bounding-set=-all{capabilities}"), "--"])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", "two_capabilities_are_enough"])
                .env(INSIDE, "1")
                .output()
                .unwrap()
        })
    };
    let output = run(",+net_admin,+net_raw");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(member.has(VIP) && member.has(VIP6));
    for capabilities in ["", ",+net_admin"] {
        let output = run(capabilities);
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("cap_net_admin,cap_net_raw"), "{said}");
    }
}

/// dnscp reads the addresses from the kernel, the configuration of keepalived and of vip-manager from `ip`: they choose the same.
#[test]
fn every_program_chooses_the_same_interface() {
    let Some(member) = Machine::new() else { return };
    let far = Machine::new().unwrap();
    for interface in ["eth0", "eth1"] {
        cable(&far, if interface == "eth0" { "far0" } else { "far1" }, &member, interface);
    }
    let choices = |address: &'static str| {
        member.run(move || {
            let event = ["--dry-run", "-vips", address, "--", "on_role_change", "primary", "16-main"];
            let output = Command::new(env!("CARGO_BIN_EXE_dnscp")).args(event).env_remove("JOURNAL_STREAM").output();
            let output = output.unwrap();
            let interfaces = host::facts::interfaces(&host::Root::new("/")).unwrap();
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            (said, host::vip::pick(&[vip(address)], None, &interfaces))
        })
    };
    // The first interface has the shorter prefix.
    member.ip("address add 10.0.0.1/8 dev eth0");
    member.ip("address add 10.0.3.141/24 dev eth1");
    let (said, pick) = choices("10.0.3.100");
    assert!(said.contains("add 10.0.3.100/24 on eth1"), "{said}");
    let placed = &pick.placed[0];
    assert_eq!((placed.interface.as_str(), placed.prefix), ("eth1", 24));
    // A broadcast address.
    member.ip("address flush dev eth0");
    let (said, pick) = choices("10.0.3.255");
    let problem = "10.0.3.255 in VIPS is the network or broadcast address of 10.0.3.0/24";
    assert!(said.contains(problem) && !said.contains("add "), "{said}");
    assert!(pick.placed.is_empty());
    assert_eq!(pick.problems[0].line(), problem);
}
