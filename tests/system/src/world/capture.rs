//! The ARP frames that arrive at an interface, with the kernel's own time of each.

use std::fs::File;
use std::io::IoSliceMut;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvmsg,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeSpec, TimeVal};

/// The thread looks so often whether anybody still listens.
const SLICE: TimeVal = TimeVal::new(0, 200_000);

/// One ARP frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// When the kernel took it from the wire.
    pub at: SystemTime,
    /// 1: request, 2: reply.
    pub operation: u16,
    /// Whose address it announces, or who asks.
    pub sender: Ipv4Addr,
    /// Whose address is asked for.
    pub target: Ipv4Addr,
}

/// Listens from [`Capture::begin`] until it is dropped.
#[derive(Debug)]
pub struct Capture {
    frames: Receiver<Result<Arp>>,
    over: Arc<AtomicBool>,
}

impl Capture {
    /// Listens at an interface in a network namespace, such as `/run/netns/dns`.
    pub fn begin(namespace: impl AsRef<Path>, interface: &str) -> Result<Self> {
        let (namespace, interface) = (namespace.as_ref().to_owned(), interface.to_owned());
        let (sender, frames) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        thread::spawn(move || match open(&namespace, &interface) {
            Ok(wire) => {
                let _ = ready.send(Ok(()));
                listen(&wire, &sender, &ended);
            }
            Err(error) => drop(ready.send(Err(error))),
        });
        started.recv().context("the capture's thread is gone")??;
        Ok(Self { frames, over })
    }

    /// The first frame since then that announces this address: a gratuitous request or reply (RFC 5227, section 3).
    pub fn announcement(&self, address: Ipv4Addr, since: SystemTime, limit: Duration) -> Result<Arp> {
        let end = Instant::now() + limit;
        loop {
            match self.frames.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(frame) => {
                    let frame = frame?;
                    if frame.at >= since && frame.sender == address && frame.target == address {
                        return Ok(frame);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{address} was not announced within {} s", limit.as_secs_f32())
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the capture has ended"),
            }
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn open(namespace: &Path, interface: &str) -> Result<OwnedFd> {
    let file = File::open(namespace).with_context(|| format!("cannot open {}", namespace.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
    let wire = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        .context("cannot open a packet socket")?;
    let link = getifaddrs()?.find_map(|entry| {
        let link: LinkAddr = *entry.address?.as_link_addr()?;
        (entry.interface_name == interface).then_some(link)
    });
    bind(wire.as_raw_fd(), &link.with_context(|| format!("no interface {interface}"))?)?;
    setsockopt(&wire, sockopt::ReceiveTimestampns, &true)?;
    setsockopt(&wire, sockopt::ReceiveTimeout, &SLICE)?;
    Ok(wire)
}

fn listen(wire: &OwnedFd, frames: &Sender<Result<Arp>>, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        match receive(wire).transpose() {
            None => {}
            Some(frame) => {
                let failed = frame.is_err();
                if frames.send(frame).is_err() || failed {
                    return;
                }
            }
        }
    }
}

/// The next ARP frame; none where nothing else came for a while.
fn receive(wire: &OwnedFd) -> Result<Option<Arp>> {
    let mut bytes = [0; 128];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let mut control = nix::cmsg_space!(TimeSpec);
    let message = match recvmsg::<LinkAddr>(wire.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty()) {
        Ok(message) => message,
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
        Err(errno) => return Err(errno).context("the packet socket"),
    };
    let length = message.bytes;
    let at = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmTimestampns(time) => Some(UNIX_EPOCH + Duration::from(time)),
        _ => None,
    });
    let at = at.context("the kernel gave no time")?;
    Ok(parse(&bytes[..length], at))
}

/// RFC 826, for IPv4 over Ethernet.
fn parse(frame: &[u8], at: SystemTime) -> Option<Arp> {
    if frame.get(12..20)? != [0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4] {
        return None;
    }
    let address = |from: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(from..from + 4)?).ok()?));
    let operation = u16::from_be_bytes(frame.get(20..22)?.try_into().ok()?);
    Some(Arp { at, operation, sender: address(28)?, target: address(38)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read() {
        let mut frame = vec![0xff; 12];
        frame.extend(
            b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01\x02\0\0\0\0\x0a\x0a\x4d\0\x64\0\0\0\0\0\0\x0a\x4d\0\x64",
        );
        let vip = Ipv4Addr::new(10, 77, 0, 100);
        assert_eq!(parse(&frame, UNIX_EPOCH), Some(Arp { at: UNIX_EPOCH, operation: 1, sender: vip, target: vip }));
        for length in 0..frame.len() {
            assert_eq!(parse(&frame[..length], UNIX_EPOCH), None, "{length}");
        }
    }
}
