//! The servers on the other host: BIND, a Kerberos KDC, Samba.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::net::listens;

const START_LIMIT: Duration = Duration::from_secs(40);

/// Runs a line of shell and gives what it prints.
pub fn sh(line: &str) -> Result<String> {
    let output = Command::new("sh").args(["-euc", line]).stdin(Stdio::null()).output().context("cannot start sh")?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{line}: {}\n{out}\n{err}", output.status);
    Ok(out.trim_end().to_owned())
}

/// A server on the other host, until it is dropped.
#[derive(Debug)]
pub struct Daemon(Child);

impl Daemon {
    /// Starts a program there.
    pub fn start(words: &[&str], log: &str) -> Result<Self> {
        let log = File::create(log)?;
        let child = Command::new("nsenter")
            .arg("--net=/run/netns/dns")
            .args(words)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start nsenter")?;
        Ok(Self(child))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until a command succeeds.
pub fn until_ok(line: &str, log: &str) -> Result<()> {
    let end = Instant::now() + START_LIMIT;
    loop {
        let status = Command::new("sh").args(["-c", line]).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        if status.success() {
            return Ok(());
        }
        let said = || fs::read_to_string(log).unwrap_or_default();
        ensure!(Instant::now() < end, "{line}: not yet after {} s\n{}", START_LIMIT.as_secs(), said());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until a server on the other host listens at this TCP port.
pub fn until_listening(port: u16, log: &str) -> Result<()> {
    until_ok(&format!("nsenter --net=/run/netns/dns {}", listens(port)), log)
}

/// A file for the group of the program, as a secret has to be.
pub fn secret(path: &str, text: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, Permissions::from_mode(0o640))?;
    chown(path, Some(0), Some(0)).with_context(|| format!("cannot give {path} to root"))
}

/// Starts BIND with the zones of named.conf; with that of Kerberos only after [`kdc`].
pub fn named() -> Result<Daemon> {
    let zones = Path::new("/var/lib/lab");
    fs::create_dir_all(zones)?;
    for name in ["example", "hidden", "tsig", "narrow", "gss"] {
        let primary = if name == "hidden" { "down.example.test." } else { "ns1.example.test." };
        let mut zone = include_str!("zone").replace("MNAME", primary);
        if name == "example" {
            zone.push_str("ns1 A 10.77.0.53\ndown A 10.77.0.1\n");
        }
        fs::write(zones.join(format!("{name}.test.zone")), zone)?;
    }
    // With tsig-keygen of BIND, as an administrator would.
    sh(
        "tsig-keygen -a hmac-sha256 updkey > /etc/bind/updkey.key; tsig-keygen -a hmac-sha512 sha512 > /etc/bind/sha512.key",
    )?;
    sh("chown root:root /etc/bind/*.key; chmod 640 /etc/bind/*.key")?;
    let mut config = include_str!("named.conf").to_owned();
    if !Path::new("/etc/bind/dns.keytab").exists() {
        config = config.replace("\ttkey-gssapi-keytab \"/etc/bind/dns.keytab\";\n", "");
    }
    fs::write("/etc/bind/lab.conf", config)?;
    let daemon = Daemon::start(&["named", "-g", "-c", "/etc/bind/lab.conf"], "/run/named.log")?;
    until_ok("dig +short +time=1 +tries=1 @10.77.0.53 example.test SOA | grep -q ns1", "/run/named.log")?;
    Ok(daemon)
}

/// A Kerberos KDC, with the accounts `pgsql$` and `pgsql2$` and their keytabs, and one for BIND.
pub fn kdc() -> Result<Daemon> {
    fs::write("/etc/krb5.conf", include_str!("krb5.conf"))?;
    sh("rm -f /etc/krb5kdc/kdc.conf; kdb5_util create -s -r GSS.TEST -P masterpw")?;
    for query in [
        "addprinc -pw P@ssw0rd-1 pgsql$",
        "addprinc -pw P@ssw0rd-2 pgsql2$",
        "addprinc -randkey DNS/ns1.example.test",
        "addprinc -randkey host/pg1.gss.test",
        "ktadd -k /etc/bind/dns.keytab DNS/ns1.example.test",
        "ktadd -k /etc/pgsql.keytab -norandkey pgsql$",
        "ktadd -k /etc/pgsql2.keytab -norandkey pgsql2$",
        "ktadd -k /etc/host.keytab host/pg1.gss.test",
        "ktadd -k /etc/host.keytab -norandkey pgsql$",
    ] {
        sh(&format!("kadmin.local -q '{query}'"))?;
    }
    sh("chown root:root /etc/*.keytab; chmod 640 /etc/*.keytab")?;
    secret("/etc/pgsql.password", "P@ssw0rd-1\n")?;
    let daemon = Daemon::start(&["krb5kdc", "-n"], "/run/kdc.log")?;
    until_ok("KRB5CCNAME=MEMORY: kinit -k -t /etc/pgsql.keytab 'pgsql$'", "/run/kdc.log")?;
    Ok(daemon)
}

/// What runs on the host of the domain controller, whose image is the second one.
pub fn on_dc(line: &str) -> Result<String> {
    sh(&format!("nsenter --net=/run/netns/dns chroot /second {line}"))
}

/// Samba as an Active Directory with the domain AD.TEST, with the computer accounts `pgsql$` and `pgsql2$` and their keytabs.
pub fn domain_controller() -> Result<Daemon> {
    fs::create_dir_all("/second/run/samba")?;
    fs::write("/second/etc/hosts", "127.0.0.1 localhost\n10.77.0.53 dc1.ad.test dc1\n")?;
    fs::write("/second/etc/resolv.conf", "nameserver 10.77.0.53\n")?;
    sh("rm -f /second/etc/samba/smb.conf /second/etc/krb5.conf")?;
    on_dc(
        "samba-tool domain provision --realm=AD.TEST --domain=AD --server-role=dc --dns-backend=SAMBA_INTERNAL \
        --adminpass='Adm1n-Passw0rd!' --host-name=dc1 --host-ip=10.77.0.53 --option='interfaces=lo d0' \
        --option='bind interfaces only=yes' --option='dns forwarder=' 2>&1",
    )?;
    sh("cp /second/var/lib/samba/private/krb5.conf /second/etc/krb5.conf")?;
    fs::write("/etc/krb5.conf", include_str!("krb5.conf").replace("GSS.TEST", "AD.TEST"))?;
    let samba = "samba -M single --foreground --no-process-group --debug-stdout";
    let words: Vec<&str> = ["chroot", "/second"].into_iter().chain(samba.split(' ')).collect();
    let daemon = Daemon::start(
        &[words.as_slice(), &["--option=server services=ldap cldap kdc dns rpc"]].concat(),
        "/run/samba.log",
    )?;
    until_ok("dig +short +time=1 +tries=1 @10.77.0.53 ad.test SOA | grep -q dc1", "/run/samba.log")?;
    for (account, password) in [("pgsql", "P@ssw0rd-1"), ("pgsql2", "P@ssw0rd-2")] {
        on_dc(&format!("samba-tool computer add '{account}$'"))?;
        on_dc(&format!("samba-tool user setpassword '{account}$' --newpassword='{password}'"))?;
        on_dc(&format!("samba-tool domain exportkeytab /root/{account}.keytab --principal='{account}$' 2>&1"))?;
        sh(&format!("install -o root -g root -m 640 /second/root/{account}.keytab /etc/{account}.keytab"))?;
    }
    secret("/etc/pgsql.password", "P@ssw0rd-1\n")?;
    until_ok("KRB5CCNAME=MEMORY: kinit -k -t /etc/pgsql.keytab 'pgsql$'", "/run/samba.log")?;
    Ok(daemon)
}
