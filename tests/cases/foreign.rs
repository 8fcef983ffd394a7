//! What user postgres puts below its directories leads root nowhere: the ways that an attack went, each with an end in time.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::process::Output;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Uid, mkfifo};

use crate::machine::Machine;

const SECRET: &str = "root:$y$j9T$tOpSeCrEt";
const POSTGRES: Option<u32> = Some(112);
const CONF: &str = "etc/postgresql/16/evil/postgresql.conf";

/// A host with a cluster 16/main that nobody touched, and 16/evil as `make` has it.
fn host(make: impl FnOnce(&Machine)) -> Machine {
    let machine = Machine::base();
    machine.write("etc/postgresql/16/main/postgresql.conf", "port = 5440\n");
    machine.write("var/lib/postgresql/.keep", "");
    machine.write("etc/shadow", SECRET);
    fs::set_permissions(machine.path("etc/shadow"), Permissions::from_mode(0o640)).unwrap();
    fs::create_dir_all(machine.path("etc/postgresql/16/evil")).unwrap();
    make(&machine);
    if Uid::effective().is_root() {
        for place in ["etc/postgresql/16/evil", "var/lib/postgresql"] {
            chown(machine.path(place), POSTGRES, None).unwrap();
        }
        let _ = lchown(machine.path(CONF), POSTGRES, None);
    }
    machine
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Root works on 16/main, with a warning, and refuses 16/evil, both in time and without a word of what is elsewhere.
fn is_harmless(machine: &Machine, why: &str) {
    for command in ["16/main", "16/main --check --offline", "16/main --dry-run", "16/evil", "16/evil --check --offline"]
    {
        let output = machine.shell(&format!("timeout 20 patroni-gen-config {command}"));
        let said = text(&output);
        assert!(!said.contains("tOpSeCrEt") && !said.contains("$y$"), "{command}: {said}");
        assert!(output.status.code().is_some_and(|code| code < 2), "{command}: {}: {said}", output.status);
        match command {
            "16/main" => {
                assert!(output.status.success(), "{said}");
                assert!(said.contains("data directory of 16/evil are not known: ") && said.contains(why), "{said}");
                assert!(said.contains("/etc/patroni/16-main.yml: written (port 5440,"), "{said}");
            }
            "16/evil" => assert!(!output.status.success() && said.contains(why), "{said}"),
            _ => {}
        }
    }
}

#[test]
fn a_fifo_in_place_of_a_configuration_is_not_waited_for() {
    let fifo = |path: &str| {
        let path = path.to_owned();
        move |machine: &Machine| mkfifo(&machine.path(&path), Mode::from_bits_truncate(0o644)).unwrap()
    };
    is_harmless(&host(fifo(CONF)), "postgresql.conf: is a FIFO");
    let machine = host(|machine| {
        machine.write(CONF, "data_directory = '/var/lib/postgresql'\n");
        fifo("var/lib/postgresql/postgresql.auto.conf")(machine);
    });
    is_harmless(&machine, "postgresql.auto.conf: is a FIFO");
}

#[test]
fn a_device_is_not_opened() {
    if !Uid::effective().is_root() {
        return crate::skip("a_device_is_not_opened", "only root makes devices");
    }
    let machine = host(|machine| {
        machine.write(CONF, "include '/dev/zero'\n");
        fs::create_dir_all(machine.path("dev")).unwrap();
        let mode = Mode::from_bits_truncate(0o666);
        mknod(&machine.path("dev/zero"), SFlag::S_IFCHR, mode, makedev(1, 5)).unwrap();
    });
    is_harmless(&machine, "/dev/zero: is a device");
}

#[test]
fn what_only_root_may_read_is_neither_used_nor_shown() {
    let root = Uid::effective().is_root();
    for (file, owner) in [("/etc/shadow", "mode 0640"), ("/etc/patroni/site.key", "mode 0600")] {
        let machine = host(|machine| machine.write(CONF, format!("include '{file}'\n")));
        let key = machine.read("etc/patroni/site.key").lines().last().unwrap().to_owned();
        is_harmless(&machine, if root { owner } else { "not a setting that postgresql-common understands" });
        let said = text(&machine.run(&["16/evil"]));
        assert!(
            !said.contains(&key) && said.contains(&format!("postgresql.conf:1: could not read {file}")) == root,
            "{said}"
        );
    }
}

#[test]
fn a_link_of_postgres_does_not_lead_out_of_its_directories() {
    if !Uid::effective().is_root() {
        return crate::skip(
            "a_link_of_postgres_does_not_lead_out_of_its_directories",
            "only root makes links of others",
        );
    }
    let machine = host(|machine| {
        machine.write("srv/readable", "port = 5499\n");
        symlink("/srv/readable", machine.path(CONF)).unwrap();
    });
    is_harmless(&machine, "is a symbolic link that does not belong to root");
    // Root's own is where an administrator put the cluster.
    lchown(machine.path(CONF), Some(0), None).unwrap();
    assert!(text(&machine.run(&["16/evil", "--dry-run"])).contains("5499"));
    // And within its directories postgres may do what it likes.
    fs::remove_file(machine.path(CONF)).unwrap();
    machine.write("var/lib/postgresql/conf", "port = 5498\n");
    symlink("/var/lib/postgresql/conf", machine.path(CONF)).unwrap();
    lchown(machine.path(CONF), POSTGRES, None).unwrap();
    assert!(text(&machine.run(&["16/evil", "--dry-run"])).contains("5498"));
}

#[test]
fn a_file_or_a_tree_without_end_is_refused_in_time() {
    let machine = host(|machine| {
        machine.write(CONF, "");
        File::options().write(true).open(machine.path(CONF)).unwrap().set_len(1 << 30).unwrap();
    });
    is_harmless(&machine, "postgresql.conf: has more than 1048576 bytes");
    let machine = host(|machine| {
        machine.write(CONF, "include_dir 'd'\n");
        for number in 0..12 {
            machine.write(&format!("etc/postgresql/16/evil/d/{number:02}.conf"), "include_dir '../d'\n");
        }
    });
    is_harmless(&machine, "files include each other more than 10 levels deep");
    let machine = host(|machine| {
        machine.write(CONF, "include_dir 'd0'\n");
        for level in 0..8 {
            for number in 0..12 {
                let next = if level < 7 { format!("include_dir '../d{}'\n", level + 1) } else { String::new() };
                machine.write(&format!("etc/postgresql/16/evil/d{level}/{number:02}.conf"), next);
            }
        }
    });
    is_harmless(&machine, "the configuration includes too many files or bytes");
}

#[test]
fn a_site_key_of_postgres_is_refused() {
    let machine = Machine::base();
    machine.write("var/lib/postgresql/site.key", format!("{}\n", "ab".repeat(32)));
    let key = machine.path("var/lib/postgresql/site.key");
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let run =
        || machine.shell("timeout 20 patroni-gen-config 16/main --set SITE_KEY_FILE=/var/lib/postgresql/site.key");
    if Uid::effective().is_root() {
        chown(&key, POSTGRES, None).unwrap();
        let said = text(&run());
        assert!(said.contains("does not belong to root") && said.contains("SITE_KEY_FILE"), "{said}");
        assert!(!machine.path("etc/patroni/16-main.yml").exists());
    }
    fs::remove_file(&key).unwrap();
    mkfifo(&key, Mode::from_bits_truncate(0o600)).unwrap();
    let output = run();
    assert!(output.status.code() == Some(1) && text(&output).contains("is a FIFO"), "{}", text(&output));
}
