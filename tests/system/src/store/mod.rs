//! The stores that Patroni can use, as servers on the machines of a lab.

use std::time::Duration;

pub mod certificates;
pub mod consul;
pub mod etcd;
pub mod zookeeper;

/// How long the start of a server may take that waits for the others.
const START_LIMIT: Duration = Duration::from_secs(60);
