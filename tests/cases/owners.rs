//! Secrets that do not belong to root, which only root can give to another user.

use std::os::unix::fs::chown;

use nix::unistd::Uid;

use crate::machine::Machine;
use crate::skip;

#[test]
fn secrets_of_postgres_are_named_with_the_command_that_gives_them_back() {
    if !Uid::effective().is_root() {
        return skip("secrets of postgres", "root");
    }
    let machine = Machine::base();
    let dns = "VIPS=10.0.3.100\nDNS_NAME=pgsql\nDNS_ZONE=example.org\nDNS_AUTH=tsig\nDNS_TSIG_KEY_FILE=/etc/patroni/dns.key\n";
    machine.write("etc/default/patroni", dns);
    machine.write("etc/patroni/dns.key", "key \"k\" { algorithm hmac-sha256; secret \"c2VjcmV0\"; };\n");
    chown(machine.path("etc/patroni/dns.key"), Some(0), Some(117)).unwrap();
    let said = |arguments: &[&str]| {
        let output = machine.run(arguments);
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let written = said(&["16/main"]);
    assert!(written.contains("16-main.yml: written"), "{written}");
    let check = || said(&["check", "--offline", "16/main"]);
    let before = check();
    assert!(!before.contains("belong"), "{before}");
    for (file, command) in [
        ("etc/patroni", "Run: chown root:root /etc/patroni\n"),
        ("etc/patroni/site.key", "Run: chown root:root /etc/patroni/site.key\n"),
        ("etc/patroni/16-main.yml", "Run: chown root:postgres /etc/patroni/16-main.yml\n"),
        ("etc/patroni/16-main.dnscp", "Run: chown root:postgres /etc/patroni/16-main.dnscp\n"),
        (
            "etc/patroni/dns.key",
            "then run: chown root:postgres /etc/patroni/dns.key && chmod 0640 /etc/patroni/dns.key\n",
        ),
    ] {
        chown(machine.path(file), Some(112), None).unwrap();
        let found = check();
        assert!(found.contains(command) && found.contains("belong"), "{file}: {found}");
        chown(machine.path(file), Some(0), None).unwrap();
    }
    assert_eq!(check(), before);
    // The generator refuses such a key, which is no second finding.
    chown(machine.path("etc/patroni/site.key"), Some(112), None).unwrap();
    let found = said(&["check", "16/main"]);
    assert_eq!(found.matches("belong").count(), 1, "{found}");
}
