//! The lab: boots Debian machines on a network of their own for the system tests, the benchmarks and the demo.
//!
//! A test asks for machines, gets a [`Lab`], and drives each [`Node`] by shell commands:
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use lab::Release;
//!
//! lab::test(Release::Debian13, &["pg1", "pg2"], |lab| {
//!     lab.offer(&["dist/patroni-tools_0.3.0_amd64.deb"])?;
//!     lab.start_etcd()?;
//!     lab.node("pg1").run("apt-get install -y patroni-tools")?;
//!     lab.node("pg1").power_off()?;
//!     lab.node("pg1").start()
//! })
//! # }
//! ```
//!
//! Machines, network and disks vanish with the process that made them, however it ends. What needs real servers but no booted
//! machine has two hosts in namespaces, see [`world`].

pub mod bench;
pub mod builder;
pub mod cli;
mod command;
mod console;
mod detached;
mod fixture;
mod holder;
pub mod image;
mod lab;
pub mod loss;
pub mod names;
mod net;
mod node;
pub mod page;
pub mod patroni;
mod previous;
pub mod program;
pub mod store;
pub mod watch;
pub mod world;
pub mod writer;

pub use command::{Captured, Task};
pub use fixture::{ready, test, test_with_stores, test_with_suite};
pub use image::Release;
pub use lab::Lab;
pub use node::Node;
