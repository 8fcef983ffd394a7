//! Addresses of the machines, and the files that configure them.

use std::fmt::Write;

/// The IPv4 address of a machine; machines count from 1.
pub(crate) fn ipv4(number: usize) -> String {
    format!("10.88.0.1{number}")
}

/// The IPv6 address of a machine.
pub(crate) fn ipv6(number: usize) -> String {
    format!("fd00:88::1{number}")
}

/// A line of shell that succeeds as soon as a process listens at this TCP port.
pub(crate) fn listens(port: u16) -> String {
    format!("ss -Hltn 'sport = :{port}' | grep -q .")
}

/// The bridge's end of a machine's cable.
pub(crate) fn cable(machine: &str) -> String {
    format!("vb-{machine}")
}

/// `/etc/hosts` of every machine.
///
/// The plain name is IPv4 only: with both, programs would choose IPv6, which a test should do on purpose.
pub(crate) fn hosts(machines: &[&str]) -> String {
    let mut file = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    for (machine, number) in machines.iter().zip(1..) {
        let _ = writeln!(file, "{}\t{machine}", ipv4(number));
        let _ = writeln!(file, "{}\t{machine}-v6", ipv6(number));
    }
    file
}

/// The systemd-networkd file of a machine.
///
/// A machine keeps its addresses when its cable is pulled, as one does that ifupdown configured.
pub(crate) fn networkd(number: usize) -> String {
    format!(
        "[Match]\nName=host0\n\n\
         [Network]\nLinkLocalAddressing=ipv6\nIPv6AcceptRA=no\nConfigureWithoutCarrier=yes\n\
         IgnoreCarrierLoss=yes\nGateway=10.88.0.1\n\n\
         [Address]\nAddress={}/24\n\n\
         [Address]\nAddress={}/64\nDuplicateAddressDetection=none\n",
        ipv4(number),
        ipv6(number)
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::TcpListener;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_port_is_seen_to_be_listened_at() {
        let seen = |port: u16| Command::new("sh").args(["-c", &listens(port)]).status().unwrap().success();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(seen(port));
        drop(listener);
        // A process that another test is just starting may hold it for a moment longer.
        assert!((0..100).any(|_| !seen(port)));
    }
}
