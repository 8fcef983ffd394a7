//! The connection point: virtual IP, gratuitous ARP and DNS record that follow the primary.
//!
//! The privileged program of this project (`cap_net_admin`, `cap_net_raw`), called by the unprivileged user postgres. So it
//! knows no YAML and no templates, and what it may do stands only in files of root.

pub mod announce;
pub mod netlink;
pub mod point;
