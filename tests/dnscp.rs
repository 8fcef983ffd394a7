//! The built program where it needs no right to the network: its command line, and what it refuses to believe.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "pki.rs"]
mod pki;
#[path = "dnscp/tls.rs"]
mod tls;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

struct Machine(tempfile::TempDir);

impl Machine {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for directory in ["etc/default", "etc/patroni", "run/postgresql", "run/patroni-tools"] {
            std::fs::create_dir_all(folder.path().join(directory)).unwrap();
        }
        // Who runs this test runs its Patroni, too.
        let passwd = format!("postgres:x:{}:1::/:/bin/sh\n", nix::unistd::geteuid());
        std::fs::write(folder.path().join("etc/passwd"), passwd).unwrap();
        let machine = Self(folder);
        for (path, text) in files {
            std::fs::write(machine.0.path().join(path), text).unwrap();
            machine.mode(path, 0o640);
        }
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn mode(&self, path: &str, mode: u32) {
        std::fs::set_permissions(self.0.path().join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn run(&self, line: &str) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dnscp"));
        command.args(line.split_whitespace()).env("PATRONI_TOOLS_ROOT", self.0.path()).env_remove("JOURNAL_STREAM");
        let Output { status, stdout, stderr } = command.output().unwrap();
        (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }
}

#[test]
fn a_wrong_command_line_is_exit_2_and_says_where_more_is() {
    let machine = Machine::new(&[]);
    for line in
        ["", "on_start", "on_start primary", "on_start primary main", "on_play primary 16-main", "--what", "status x"]
    {
        let (code, out, err) = machine.run(line);
        assert_eq!((code, out.as_str()), (2, ""), "{line}");
        assert!(err.starts_with("dnscp: error: ") && err.contains("dnscp --help"), "{line}: {err}");
    }
    assert!(machine.run("--help").1.contains("on_role_change primary 16-main"));
    assert_eq!(machine.run("--version").1, machine.run("-version").1);
}

/// What bash offers for the last of some words.
fn completed(words: &[&str]) -> String {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../debian/dnscp.completion");
    let script = r#". "$0"; COMP_WORDS=(dnscp "$@") COMP_CWORD=$#; _dnscp; echo "${COMPREPLY[*]}""#;
    let output = Command::new("bash").args(["-c", script, file]).args(words).output().unwrap();
    assert!(output.stderr.is_empty(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn bash_completes_what_the_program_takes() {
    for (words, offered) in [
        (&["st"] as &[&str], "status"),
        (&["on_r"], "on_restart on_role_change"),
        (&["--dry-run", "--", "be"], "before_stop"),
        (&["-vips", "192.0.2.1", "on_start", "p"], "primary"),
        (&["--s"], "--service --stopped"),
        (&["-ttl", ""], ""),
        (&["--", "-"], ""),
    ] {
        assert_eq!(completed(words), offered, "{words:?}");
    }
}

#[test]
fn with_nothing_set_nothing_is_done() {
    let machine = Machine::new(&[("etc/default/patroni", "TTL=30\n")]);
    for line in ["on_start primary 16-main", "before_stop primary 16-main", "--stopped 16-main", "--service 16-main"] {
        assert_eq!(machine.run(line), (0, String::new(), String::new()), "{line}");
    }
    assert_eq!(machine.run("status 16/main").0, 1);
}

#[test]
fn a_wrong_setting_is_named_with_file_and_line() {
    let machine = Machine::new(&[("etc/default/patroni@16-main", "\nVIPS=10.0.3\n")]);
    let (code, _, err) = machine.run("on_start primary 16-main");
    assert_eq!(code, 1);
    assert!(err.starts_with("dnscp: error: /etc/default/patroni@16-main:2: VIPS: "), "{err}");
}

#[test]
fn what_others_can_write_is_not_read() {
    let files = ["etc/default/patroni", "etc/default/patroni@16-main", "etc/patroni/16-main.dnscp"];
    let texts = ["VIPS=192.0.2.9\n", "VIP_LEASE=5\n", "NAME=a\nRESTAPI=http://127.0.0.1:1\nDATA_DIRECTORY=/d\n"];
    for path in files {
        let machine = Machine::new(&[(files[0], texts[0]), (files[1], texts[1]), (files[2], texts[2])]);
        machine.mode(path, 0o660);
        let (code, _, err) = machine.run("on_start primary 16-main");
        assert_eq!(code, 1);
        assert_eq!(
            err,
            format!(
                "dnscp: error: /{path} can be changed by other users than root\n\
                 dnscp: hint: Close it to them with: chmod go-w /{path}\n"
            )
        );
    }
}

/// A listener on loopback that answers every request with these bytes.
fn answering(bytes: &'static [u8]) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(bytes);
        }
    });
    port
}

#[test]
fn what_the_rest_api_answers_moves_no_cursor() {
    let port = answering(b"HTTP/1.0 999 \x1b]0;PWNED\x07\x1b[2J\r\n\r\n\x1b]0;PWNED\x07");
    let settings = format!("NAME=a\nRESTAPI=http://127.0.0.1:{port}\nDATA_DIRECTORY=/d\n");
    let machine =
        Machine::new(&[("etc/default/patroni", "VIPS=192.0.2.9/32\n"), ("etc/patroni/16-main.dnscp", &settings)]);
    for line in ["status 16/main", "status 16/main --json"] {
        let (_, out, err) = machine.run(line);
        let said = out + &err;
        assert!(said.contains("999"), "the answer is not read, so this test shows nothing: {said}");
        assert!(said.chars().all(|c| c == '\n' || !c.is_control()), "{said:?}");
    }
}
