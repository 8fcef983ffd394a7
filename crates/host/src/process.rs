//! What the kernel shows of a process in `/proc/PID/stat`.

use crate::Root;

/// The process that started this one.
#[must_use]
pub fn parent(root: &Root, pid: u32) -> Option<u32> {
    const PARENT: usize = 1;
    field(root, pid, PARENT)?.parse().ok()
}

/// When a process was started, in ticks since the boot: it distinguishes the process from a later one with its number.
#[must_use]
pub fn started(root: &Root, pid: u32) -> Option<u64> {
    const STARTED: usize = 19;
    field(root, pid, STARTED)?.parse().ok()
}

/// One of the fields after the name of the program, which can contain anything (`proc_pid_stat(5)`).
fn field(root: &Root, pid: u32, number: usize) -> Option<String> {
    let stat = std::fs::read_to_string(root.path(format!("/proc/{pid}/stat"))).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(number).map(str::to_owned)
}
