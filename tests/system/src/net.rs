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
