//! The launcher's corrections of Patroni (`systemd/patroni`), in every Python of this host; see launcher/README.md.

#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn the_launcher_knows_every_patroni_in_every_python() {
    let test = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/launcher/test.py");
    let pythons = ["/usr/bin/python3", "python3.11", "python3.12", "python3.13", "python3.14"];
    let mut ran = 0;
    for python in pythons {
        let there = Command::new(python).args(["-c", "import sys; sys.exit(sys.version_info < (3, 11))"]).output();
        if !there.is_ok_and(|output| output.status.success()) {
            continue;
        }
        let output = Command::new(python).args(["-B", test]).output().unwrap();
        assert!(output.status.success(), "{python}: {}", String::from_utf8_lossy(&output.stderr));
        ran += 1;
    }
    assert!(ran > 0 || std::env::var("REQUIRE_ALL").is_err(), "no Python from 3.11 on");
}
