//! dnscp asks a REST API that speaks TLS: Python's own, as Patroni uses it.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Machine;
use crate::pki::{Authority, NOW, PAST, Pair, snakeoil};

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A host with certificates, and a Patroni for one test after the other.
struct Host {
    machine: Machine,
}

struct Patroni(Child, u16);

impl Drop for Patroni {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Host {
    fn new() -> Self {
        let machine = Machine::new(&[("etc/default/patroni", "VIPS=192.0.2.9\n")]);
        std::fs::create_dir(machine.path("etc/patroni/tls")).unwrap();
        let host = Self { machine };
        let (site, other) = (Authority::new("site"), Authority::new("other"));
        host.write("site.pem", &site.pem());
        host.write("other.pem", &other.pem());
        host.pair("pg1", &site.issue(HOME, NOW, true));
        host.pair("server", &site.issue(HOME, NOW, false));
        host.pair("expired", &site.issue(HOME, PAST, true));
        host.pair("foreign", &other.issue(HOME, NOW, true));
        host.pair("snakeoil", &snakeoil());
        host
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.machine.path(&format!("etc/patroni/tls/{name}")), text).unwrap();
    }

    fn pair(&self, name: &str, pair: &Pair) {
        self.write(&format!("{name}.pem"), &pair.certificate);
        self.write(&format!("{name}.key"), &pair.key);
    }

    /// Patroni with a certificate, and what it wants of the clients'; none: without TLS.
    fn patroni(&self, certificate: &str, verify: &str) -> Patroni {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/dnscp/patroni.py");
        let mut command = Command::new("python3");
        command.arg(script).stdout(Stdio::piped());
        if !certificate.is_empty() {
            for file in [format!("{certificate}.pem"), format!("{certificate}.key"), "site.pem".to_owned()] {
                command.arg(self.machine.path(&format!("etc/patroni/tls/{file}")));
            }
            command.arg(verify);
        }
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap_or_else(|_| panic!("python3 does not serve: {line:?}"));
        Patroni(child, port)
    }

    /// What dnscp says of Patroni: its role, and the line about the REST API where there is one.
    fn asks(&self, port: u16, protocol: &str, signers: &str, own: &str) -> (String, String) {
        self.asks_of(port, protocol, signers, own, "")
    }

    /// The same where the Patroni file names a certificate.
    ///
    /// dnscp gives Patroni 0.3 s, in which Python does not always come to its answer on a busy host: then it is asked again.
    fn asks_of(&self, port: u16, protocol: &str, signers: &str, own: &str, certificate: &str) -> (String, String) {
        let end = Instant::now() + Duration::from_secs(300);
        loop {
            let found = self.asks_once(port, protocol, signers, own, certificate);
            if !found.1.starts_with(LATE) || Instant::now() > end {
                return found;
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn asks_once(&self, port: u16, protocol: &str, signers: &str, own: &str, certificate: &str) -> (String, String) {
        let file = |key: &str, name: &str, ending: &str| match name {
            "" => String::new(),
            name => format!("{key}=/etc/patroni/tls/{name}.{ending}\n"),
        };
        let text = [
            format!("NAME=a\nDATA_DIRECTORY=/d\nRESTAPI={protocol}://127.0.0.1:{port}\n"),
            file("RESTAPI_CACERT", signers, "pem"),
            file("RESTAPI_CERT", certificate, "pem"),
            file("CTL_CERT", own, "pem"),
            file("CTL_KEY", own, "key"),
        ];
        std::fs::write(self.machine.path("etc/patroni/16-main.dnscp"), text.concat()).unwrap();
        self.machine.mode("etc/patroni/16-main.dnscp", 0o640);
        let (_, out, err) = self.machine.run("status 16/main");
        let role = out.lines().find_map(|line| line.strip_prefix("role: ")).unwrap_or_else(|| panic!("{out}{err}"));
        // The error about the REST API, with its hint.
        let about = |line: &&str| !line.contains("REST API");
        let mut lines = err.lines().skip_while(about);
        let said = lines.next().into_iter().chain(lines.next().filter(|line| line.starts_with("dnscp: hint: ")));
        // OpenSSL 3.2 calls some alerts otherwise.
        let plain = |line: &str| {
            let line =
                line.replace("dnscp: error: ", "").replace("dnscp: ", "").replace("ssl/tls alert", "sslv3 alert");
            line.replace(&format!("127.0.0.1:{port}"), "PATRONI")
        };
        let said: Vec<String> = said.map(plain).collect();
        (role.trim().to_owned(), said.join("\n"))
    }
}

fn python() -> bool {
    let found = Command::new("python3").arg("-V").output().is_ok();
    assert!(found || std::env::var_os("REQUIRE_ALL").is_none(), "needs python3");
    if !found {
        eprintln!("skipped: needs python3");
    }
    found
}

const PRIMARY: &str = "primary";
const SILENT: &str = "Patroni does not answer";
const LATE: &str = "Patroni's REST API at PATRONI: it did not answer within 300ms";

const API: &str = "Patroni's REST API at PATRONI: ";

fn not_signed(by: &str, why: &str) -> String {
    format!(
        "{API}its certificate does not verify against /etc/patroni/tls/{by}.pem ({why})\nhint: Correct RESTAPI_CACERT or RESTAPI_CERT, \
         and run: patroni-gen-config"
    )
}

fn rejects(own: &str, why: &str) -> String {
    format!(
        "{API}it rejects the client certificate /etc/patroni/tls/{own}.pem ({why})\nhint: Correct or renew CTL_CERT, or correct \
         RESTAPI_CACERT."
    )
}

#[test]
fn which_certificates_are_trusted_and_what_is_reported_otherwise() {
    if !python() {
        return;
    }
    let host = Host::new();
    let cases: [(&str, &str, &str, &str, &str, &str, String); 15] = [
        ("", "", "http", "", "", PRIMARY, String::new()),
        ("pg1", "none", "https", "site", "", PRIMARY, String::new()),
        ("server", "optional", "https", "site", "", PRIMARY, String::new()),
        ("pg1", "required", "https", "site", "pg1", PRIMARY, String::new()),
        ("snakeoil", "none", "https", "snakeoil", "", PRIMARY, String::new()),
        // It is Patroni all the same.
        (
            "expired",
            "none",
            "https",
            "site",
            "",
            PRIMARY,
            format!(
                "{API}its certificate has expired\nhint: Renew RESTAPI_CERT and reload Patroni, before clients reject it."
            ),
        ),
        (
            "pg1",
            "none",
            "https",
            "other",
            "",
            SILENT,
            not_signed("other", "self-signed certificate in certificate chain"),
        ),
        ("snakeoil", "none", "https", "site", "", SILENT, not_signed("site", "self-signed certificate")),
        (
            "pg1",
            "none",
            "https",
            "",
            "",
            SILENT,
            format!(
                "{API}its certificate was not issued by a CA that this host trusts (self-signed certificate in certificate chain)\n\
                 hint: Set RESTAPI_CACERT, and run: patroni-gen-config"
            ),
        ),
        (
            "pg1",
            "required",
            "https",
            "site",
            "",
            SILENT,
            format!(
                "{API}it requires a client certificate (tlsv13 alert certificate required)\n\
                 hint: If RESTAPI_VERIFY_CLIENT=required is new, run: patroni-gen-config"
            ),
        ),
        ("pg1", "required", "https", "site", "foreign", SILENT, rejects("foreign", "tlsv1 alert unknown ca")),
        ("pg1", "required", "https", "site", "expired", SILENT, rejects("expired", "sslv3 alert certificate expired")),
        (
            "pg1",
            "required",
            "https",
            "site",
            "server",
            SILENT,
            rejects("server", "sslv3 alert unsupported certificate"),
        ),
        (
            "",
            "",
            "https",
            "site",
            "",
            SILENT,
            format!(
                "{API}it does not use TLS, but the Patroni file says that it does\n\
                 hint: Reload Patroni with: systemctl reload patroni@VERSION-NAME"
            ),
        ),
        ("pg1", "none", "https", "none", "", SILENT, format!("{API}there is no file /etc/patroni/tls/none.pem")),
    ];
    for (certificate, verify, protocol, signers, own, role, said) in cases {
        let patroni = host.patroni(certificate, verify);
        let found = host.asks(patroni.1, protocol, signers, own);
        // The alert can be lost with the connection.
        let lost = verify == "required" && role == SILENT && found.1.contains("Connection reset by peer");
        if !lost
            || (!own.is_empty()
                && !found.1.contains(&format!("seems to reject the client certificate /etc/patroni/tls/{own}.pem")))
        {
            assert_eq!(found, (role.to_owned(), said), "{certificate} {verify}, {protocol} {signers} {own}");
        }
    }
}

/// The file was renewed, and Patroni has not read it again: the kernel knows that it is Patroni.
#[test]
fn another_certificate_than_the_files_is_a_doubt_while_postgres_answers() {
    if !python() {
        return;
    }
    let host = Host::new();
    let patroni = host.patroni("pg1", "none");
    let asks_of = |certificate: &str| host.asks_of(patroni.1, "https", "site", "", certificate);
    let doubt = |what: &str| (PRIMARY.to_owned(), format!("Patroni's REST API at PATRONI: {what}"));
    assert_eq!(asks_of("pg1"), (PRIMARY.to_owned(), String::new()));
    assert_eq!(
        asks_of("server"),
        doubt(
            "its certificate is not the one in /etc/patroni/tls/server.pem\nhint: If that file was renewed, reload Patroni."
        )
    );
    let gone = asks_of("gone");
    let hint = "hint: Correct RESTAPI_CERT, and run: patroni-gen-config";
    assert_eq!(gone, doubt(&format!("there is no file /etc/patroni/tls/gone.pem\n{hint}")));
    // It can be in a directory of postgres.
    let fifo = host.machine.path("etc/patroni/tls/fifo.pem");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let fifo = asks_of("fifo");
    assert_eq!(fifo, doubt("/etc/patroni/tls/fifo.pem: is a FIFO, not a file"));
}

#[test]
fn a_patroni_that_speaks_tls_now_is_noticed() {
    if python() {
        let host = Host::new();
        let (role, said) = host.asks(host.patroni("pg1", "none").1, "http", "", "");
        assert_eq!(role, SILENT);
        assert!(said.contains("If the REST API uses TLS now, run: patroni-gen-config"), "{said}");
    }
}

/// Whoever listens there, each answer is waited for no longer than 0.3 s, also one that comes by single bytes.
#[test]
fn a_handshake_that_never_ends_is_ended() {
    let host = Host::new();
    for trickles in [false, true] {
        let listener = TcpListener::bind((HOME, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                // A record of the handshake (RFC 8446, section 5.1), which is as long as a record can be.
                let record = [0x16, 3, 3, 0x40, 0, 2, 0, 0x3f, 0xfc, 3, 3];
                for byte in record.into_iter().chain(std::iter::repeat(7)) {
                    if !trickles || stream.write_all(&[byte]).is_err() {
                        break;
                    }
                    thread::sleep(Duration::from_millis(20));
                }
                if !trickles {
                    thread::sleep(Duration::from_secs(60));
                }
            }
        });
        let begin = Instant::now();
        let (role, said) = host.asks_once(port, "https", "site", "", "");
        assert_eq!((role.as_str(), said.as_str()), (SILENT, LATE));
        // Most of it is the start of a program on a busy host.
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    }
}
