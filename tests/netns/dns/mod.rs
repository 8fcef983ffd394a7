//! Two hosts in namespaces of their own, and the servers that run on one of them.

use std::env;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use dnscp::point::{Auth, Dns, GssSecret};
use lab::image::{self, Image};
use nix::unistd::geteuid;

const INSIDE: &str = "DNSCP_TEST_INSIDE";
const LIMIT: Duration = Duration::from_secs(180);

/// The server, and the program's own host.
pub const SERVER: &str = "10.77.0.53";

/// Runs the test `name` again in a throw-away copy of an image, as the first process of its own PID namespace: however it
/// ends, all that it made goes with it. True for that second run.
///
/// The copy is of the image `dns`; that of `second`, if any, is in its folder `/dc`.
pub fn inside(name: &str, second: Option<Image>) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    if !geteuid().is_root() {
        assert!(env::var_os("REQUIRE_ALL").is_none(), "{name} needs root");
        eprintln!("{name}: skipped: needs root");
        return false;
    }
    let image = image::ensure(Image::Dns).unwrap();
    let second = second.map(|image| image::ensure(image).unwrap());
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig=KILL", "unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child"])
        .args(["--propagation=private", "sh", "-c", include_str!("enter.sh"), "sh"])
        .arg(image.path())
        .arg(env::current_exe().unwrap())
        .arg(name)
        .arg(second.as_ref().map_or("".as_ref(), |image| image.path()))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{name} failed, see above");
            return false;
        }
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("{name} did not end within {LIMIT:?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a line of shell and gives what it prints.
pub fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-euc", line]).stdin(Stdio::null()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{line}: {}\n{out}\n{err}", output.status);
    out.trim_end().to_owned()
}

/// A server on the other host, until it is dropped.
pub struct Daemon(Child);

impl Daemon {
    pub fn start(words: &[&str], log: &str) -> Self {
        let log = fs::File::create(log).unwrap();
        let child = Command::new("nsenter")
            .arg("--net=/run/netns/dns")
            .args(words)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until a command succeeds.
pub fn until_ok(line: &str, log: &str) {
    let end = Instant::now() + Duration::from_secs(20);
    while !Command::new("sh").args(["-c", line]).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    {
        assert!(Instant::now() < end, "{line}: not yet after 20 s\n{}", fs::read_to_string(log).unwrap_or_default());
        thread::sleep(Duration::from_millis(20));
    }
}

/// A file for the group of the program, as a secret has to be.
pub fn secret(path: &str, text: impl AsRef<[u8]>) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
    chown(path, Some(0), Some(0)).unwrap();
}

/// Starts BIND with the zones of named.conf.
pub fn named() -> Daemon {
    let zones = Path::new("/var/lib/lab");
    fs::create_dir_all(zones).unwrap();
    for name in ["example", "hidden", "tsig", "narrow", "gss"] {
        let primary = if name == "hidden" { "down.example.test." } else { "ns1.example.test." };
        let mut zone = include_str!("zone").replace("MNAME", primary);
        if name == "example" {
            zone.push_str("ns1 A 10.77.0.53\ndown A 10.77.0.1\n");
        }
        fs::write(zones.join(format!("{name}.test.zone")), zone).unwrap();
    }
    // With tsig-keygen of BIND, as an administrator would.
    sh(
        "tsig-keygen -a hmac-sha256 updkey > /etc/bind/updkey.key; tsig-keygen -a hmac-sha512 sha512 > /etc/bind/sha512.key",
    );
    sh("chown root:root /etc/bind/*.key; chmod 640 /etc/bind/*.key");
    fs::write("/etc/bind/lab.conf", include_str!("named.conf")).unwrap();
    if !Path::new("/etc/bind/dns.keytab").exists() {
        let config = include_str!("named.conf").replace("\ttkey-gssapi-keytab \"/etc/bind/dns.keytab\";\n", "");
        fs::write("/etc/bind/lab.conf", config).unwrap();
    }
    let daemon = Daemon::start(&["named", "-g", "-c", "/etc/bind/lab.conf"], "/run/named.log");
    until_ok("dig +short +time=1 +tries=1 @10.77.0.53 example.test SOA | grep -q ns1", "/run/named.log");
    daemon
}

/// A Kerberos KDC, with the accounts `pgsql$` and `pgsql2$` and their keytabs, and BIND that trusts it.
pub fn kdc() -> Daemon {
    fs::write("/etc/krb5.conf", include_str!("krb5.conf")).unwrap();
    sh("rm -f /etc/krb5kdc/kdc.conf; kdb5_util create -s -r GSS.TEST -P masterpw");
    let admin = |query: &str| sh(&format!("kadmin.local -q '{query}'"));
    admin("addprinc -pw P@ssw0rd-1 pgsql$");
    admin("addprinc -pw P@ssw0rd-2 pgsql2$");
    admin("addprinc -randkey DNS/ns1.example.test");
    admin("addprinc -randkey host/pg1.gss.test");
    admin("ktadd -k /etc/bind/dns.keytab DNS/ns1.example.test");
    admin("ktadd -k /etc/pgsql.keytab -norandkey pgsql$");
    admin("ktadd -k /etc/pgsql2.keytab -norandkey pgsql2$");
    admin("ktadd -k /etc/host.keytab host/pg1.gss.test");
    admin("ktadd -k /etc/host.keytab -norandkey pgsql$");
    sh("chown root:root /etc/*.keytab; chmod 640 /etc/*.keytab");
    secret("/etc/pgsql.password", "P@ssw0rd-1\n");
    let daemon = Daemon::start(&["krb5kdc", "-n"], "/run/kdc.log");
    until_ok("KRB5CCNAME=MEMORY: kinit -k -t /etc/pgsql.keytab 'pgsql$'", "/run/kdc.log");
    daemon
}

/// What runs on the host of the domain controller.
pub fn on_dc(line: &str) -> String {
    sh(&format!("nsenter --net=/run/netns/dns chroot /dc {line}"))
}

/// Samba as an Active Directory with the domain AD.TEST, with the computer accounts `pgsql$` and `pgsql2$` and their keytabs.
pub fn domain_controller() -> Daemon {
    fs::create_dir_all("/dc/run/samba").unwrap();
    fs::write("/dc/etc/hosts", "127.0.0.1 localhost\n10.77.0.53 dc1.ad.test dc1\n").unwrap();
    fs::write("/dc/etc/resolv.conf", "nameserver 10.77.0.53\n").unwrap();
    sh("rm -f /dc/etc/samba/smb.conf /dc/etc/krb5.conf");
    on_dc(
        "samba-tool domain provision --realm=AD.TEST --domain=AD --server-role=dc --dns-backend=SAMBA_INTERNAL \
        --adminpass='Adm1n-Passw0rd!' --host-name=dc1 --host-ip=10.77.0.53 --option='interfaces=lo d0' \
        --option='bind interfaces only=yes' --option='dns forwarder=' 2>&1",
    );
    sh("cp /dc/var/lib/samba/private/krb5.conf /dc/etc/krb5.conf");
    let config = include_str!("krb5.conf").replace("GSS.TEST", "AD.TEST");
    fs::write("/etc/krb5.conf", config).unwrap();
    let samba = "samba -M single --foreground --no-process-group --debug-stdout";
    let words: Vec<&str> = ["chroot", "/dc"].into_iter().chain(samba.split(' ')).collect();
    let daemon = Daemon::start(
        &[words.as_slice(), &["--option=server services=ldap cldap kdc dns rpc"]].concat(),
        "/run/samba.log",
    );
    until_ok("dig +short +time=1 +tries=1 @10.77.0.53 ad.test SOA | grep -q dc1", "/run/samba.log");
    for (account, password) in [("pgsql", "P@ssw0rd-1"), ("pgsql2", "P@ssw0rd-2")] {
        on_dc(&format!("samba-tool computer add '{account}$'"));
        on_dc(&format!("samba-tool user setpassword '{account}$' --newpassword='{password}'"));
        on_dc(&format!("samba-tool domain exportkeytab /root/{account}.keytab --principal='{account}$' 2>&1"));
        sh(&format!("install -o root -g root -m 640 /dc/root/{account}.keytab /etc/{account}.keytab"));
    }
    secret("/etc/pgsql.password", "P@ssw0rd-1\n");
    until_ok("KRB5CCNAME=MEMORY: kinit -k -t /etc/pgsql.keytab 'pgsql$'", "/run/samba.log");
    daemon
}

/// The settings of a name at the test's server.
pub fn settings(name: &str) -> Dns {
    Dns { name: name.to_owned(), zone: None, servers: vec![SERVER.to_owned()], ttl: 30, auth: Auth::None }
}

pub fn gss(principal: &str, secret: GssSecret) -> Auth {
    Auth::Gss { principal: principal.to_owned(), secret }
}

/// What dig shows, sorted: `TTL type data`.
pub fn dig(name: &str) -> Vec<String> {
    let line = format!("for t in A AAAA; do dig +noall +answer @{SERVER} {name} $t; done");
    let mut found: Vec<String> = sh(&line)
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            format!("{} {} {}", words[1], words[3], words[4])
        })
        .collect();
    found.sort();
    found
}
