//! The REST API and patronictl's access to it: the sections `restapi` and `ctl` of the Patroni file.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use host::file_access::User;
use host::members::Member;
use host::settings::Settings;
use host::trouble::Trouble;
use host::{Root, facts, fail, keys, trouble};
use serde::Serialize;

use crate::files::certificate::{self, Certificates, How, Purpose};
use crate::patroni::version::Patroni;

/// The user that runs Patroni.
const USER: &str = "postgres";

/// The self-signed certificate that Debian's package ssl-cert generates on each host (`make-ssl-cert(8)`).
const SNAKEOIL: &str = "/etc/ssl/certs/ssl-cert-snakeoil.pem";
const SNAKEOIL_KEY: &str = "/etc/ssl/private/ssl-cert-snakeoil.key";

/// The section `restapi`.
#[derive(Debug, Serialize)]
pub struct RestApi {
    listen: String,
    connect_address: String,
    username: String,
    password: String,
    tls: Option<Tls>,
    allowlist: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Tls {
    certfile: String,
    keyfile: String,
    cafile: Option<String>,
    verify_client: &'static str,
}

/// The section `ctl`, if patronictl needs more than `restapi` has. Patroni itself uses it for requests to the other members,
/// too.
#[derive(Debug, Serialize)]
pub struct Ctl {
    insecure: bool,
    certfile: Option<String>,
    keyfile: Option<String>,
}

/// The input for the sections.
pub struct Rest<'a> {
    /// The host.
    pub root: &'a Root,
    /// The settings.
    pub settings: &'a Settings,
    /// The installed Patroni.
    pub patroni: &'a Patroni,
    /// The address by which the other members reach this one.
    pub address: IpAddr,
    /// The port on which the API listens.
    pub port: u16,
    /// The members, if they are listed.
    pub members: Option<&'a [Member]>,
    /// The networks of members and clients.
    pub networks: &'a [String],
    /// The password derived from the site key.
    pub password: String,
}

impl Rest<'_> {
    /// The sections. Problems that do not prevent the API from working are added to the warnings.
    pub fn resolve(self, warnings: &mut Vec<Trouble>) -> Result<(RestApi, Option<Ctl>)> {
        let (tls, ctl) = match self.settings.text("RESTAPI_CERT") {
            None => self.without_tls()?,
            Some("snakeoil") => self.snakeoil(warnings)?,
            Some(_) => self.with_tls(warnings)?,
        };
        let listen = facts::host_port(self.address, self.port);
        let restapi = RestApi {
            connect_address: listen.clone(),
            listen,
            username: self.username()?,
            password: self.password()?,
            tls,
            allowlist: self.allowlist()?,
        };
        Ok((restapi, ctl))
    }

    fn without_tls(&self) -> Result<(Option<Tls>, Option<Ctl>)> {
        let verify = self.verify_client()?;
        for key in ["RESTAPI_KEY", "RESTAPI_CACERT", "RESTAPI_VERIFY_CLIENT", "CTL_CERT", "CTL_KEY"] {
            if self.settings.get(key).is_some() && (key != "RESTAPI_VERIFY_CLIENT" || verify != "none") {
                fail!(
                    at self.place(key),
                    "{key} has no effect without RESTAPI_CERT";
                    "Set RESTAPI_CERT to enable TLS, or remove {key}."
                );
            }
        }
        Ok((None, None))
    }

    /// For testing only: TLS with a certificate that is not verified.
    fn snakeoil(&self, warnings: &mut Vec<Trouble>) -> Result<(Option<Tls>, Option<Ctl>)> {
        let place = self.place("RESTAPI_CERT");
        for key in ["RESTAPI_KEY", "CTL_CERT", "CTL_KEY"] {
            if self.settings.get(key).is_some() {
                fail!(at self.place(key), "{key} has no effect with RESTAPI_CERT=snakeoil"; "Remove {key}.");
            }
        }
        if self.verify_client()? != "none" {
            fail!(
                at self.place("RESTAPI_VERIFY_CLIENT"),
                "the REST API cannot verify the members' snakeoil certificates, which are self-signed";
                "Set RESTAPI_VERIFY_CLIENT=none, or set RESTAPI_CERT to a certificate issued by a CA."
            );
        }
        if !self.root.path(SNAKEOIL).exists() || !self.root.path(SNAKEOIL_KEY).exists() {
            fail!(
                at place,
                "RESTAPI_CERT is snakeoil, but {SNAKEOIL} or its key is missing";
                "Create them with: apt install ssl-cert"
            );
        }
        let (certfile, keyfile) = (Path::new(SNAKEOIL), Path::new(SNAKEOIL_KEY));
        self.settings.parse("RESTAPI_CERT", |_| {
            self.readable(certfile)?;
            self.readable(keyfile)?;
            self.pair(certfile, keyfile)
        })?;
        let cafile = self.file("RESTAPI_CACERT")?;
        if let (Some(version), None) = (self.patroni.always_verifies(), &cafile) {
            fail!(
                at place,
                "Patroni {version} always verifies the certificates of the other members, but snakeoil certificates are self-signed";
                "Set RESTAPI_CACERT to a file with {SNAKEOIL} of all members, or RESTAPI_CERT to a certificate issued by a CA."
            );
        }
        warnings.push(trouble!(
            at place,
            "RESTAPI_CERT=snakeoil is for testing only, because patronictl does not verify the members' certificates";
            "Set RESTAPI_CERT to a certificate issued by a CA."
        ));
        if self.patroni.always_verifies().is_some() {
            self.warn_unless_group_reads(keyfile, warnings);
        }
        let tls = Tls {
            certfile: SNAKEOIL.to_owned(),
            keyfile: SNAKEOIL_KEY.to_owned(),
            cafile: cafile.map(|(path, _)| shown(&path)),
            verify_client: "none",
        };
        Ok((Some(tls), Some(Ctl { insecure: true, certfile: None, keyfile: None })))
    }

    fn with_tls(&self, warnings: &mut Vec<Trouble>) -> Result<(Option<Tls>, Option<Ctl>)> {
        let place = self.place("RESTAPI_CERT");
        let Some((certfile, certificates)) = self.file("RESTAPI_CERT")? else { return Ok((None, None)) };
        let Some(keyfile) = self.key_file("RESTAPI_KEY", &certfile)? else {
            fail!(at place, "RESTAPI_CERT is set, but not RESTAPI_KEY"; "Set RESTAPI_KEY to the file with its key.");
        };
        let ca = self.file("RESTAPI_CACERT")?;
        let verify_client = self.verify_client()?;
        if verify_client != "none" && ca.is_none() {
            fail!(
                at self.place("RESTAPI_VERIFY_CLIENT"),
                "RESTAPI_VERIFY_CLIENT is {verify_client}, but RESTAPI_CACERT is not set";
                "Set RESTAPI_CACERT to the CA certificate of the clients."
            );
        }
        let ca = ca.as_ref();
        self.judge("RESTAPI_CERT", &certificates, ca, Purpose::Server, warnings)?;
        if let Err(others) = certificates.is_for(self.address) {
            warnings.push(trouble!(
                at &place,
                "RESTAPI_CERT is issued for {others}, not for {}, so patronictl will reject it", self.address;
                "Have it issued with the subjectAltName IP:{}.", self.address
            ));
        }
        if let (Some(version), None) = (self.patroni.always_verifies(), ca) {
            warnings.push(trouble!(
                at &place,
                "Patroni {version} always verifies the certificates of the other members, but RESTAPI_CACERT is not set";
                "Set RESTAPI_CACERT, unless this host trusts their CA already."
            ));
        }
        let client = match (self.file("CTL_CERT")?, verify_client) {
            (Some((path, own)), _) => {
                let Some(key) = self.key_file("CTL_KEY", &path)? else {
                    fail!(at self.place("CTL_CERT"), "CTL_CERT is set, but not CTL_KEY"; "Set CTL_KEY to the file with its key.");
                };
                self.judge("CTL_CERT", &own, ca, Purpose::Client, warnings)?;
                Some((path, key))
            }
            (None, _) if self.settings.get("CTL_KEY").is_some() => {
                fail!(at self.place("CTL_KEY"), "CTL_KEY is set, but not CTL_CERT"; "Set CTL_CERT to its certificate.")
            }
            (None, "none") => None,
            (None, _) => {
                self.judge("RESTAPI_CERT", &certificates, ca, Purpose::Client, &mut Vec::new())?;
                Some((certfile.clone(), keyfile.clone()))
            }
        };
        let presented = client.as_ref().map(|(_, key)| key).or(self.patroni.always_verifies().map(|_| &keyfile));
        if let Some(key) = presented {
            self.warn_unless_group_reads(key, warnings);
        }
        let tls = Tls {
            certfile: shown(&certfile),
            keyfile: shown(&keyfile),
            cafile: ca.map(|(path, _)| shown(path)),
            verify_client,
        };
        let ctl = client.map(|(certfile, keyfile)| Ctl {
            insecure: false,
            certfile: Some(shown(&certfile)),
            keyfile: Some(shown(&keyfile)),
        });
        Ok((Some(tls), ctl))
    }

    fn place(&self, key: &str) -> String {
        self.settings.place(&[key])
    }

    fn verify_client(&self) -> Result<&'static str> {
        Ok(self.settings.choice("RESTAPI_VERIFY_CLIENT", &["none", "optional", "required"])?.unwrap_or("none"))
    }

    /// A file with certificates, which postgres can read.
    fn file(&self, key: &str) -> Result<Option<(PathBuf, Certificates)>> {
        let Some(path) = self.settings.path(key)? else { return Ok(None) };
        let found = self.settings.parse(key, |_| {
            let found = certificate::read(self.root, &path)?;
            self.readable(&path)?;
            Ok(found)
        })?;
        Ok(found.map(|found| (path, found)))
    }

    /// A file with the key of a certificate, which postgres can read, but other users cannot.
    fn key_file(&self, key: &str, certificate: &Path) -> Result<Option<PathBuf>> {
        let Some(path) = self.settings.path(key)? else { return Ok(None) };
        self.settings.parse(key, |_| {
            self.pair(certificate, &path)?;
            self.readable(&path)
        })?;
        Ok(Some(path))
    }

    fn pair(&self, certificate: &Path, key: &Path) -> Result<()> {
        certificate::read_pair(self.root, certificate, key)?;
        keys::check_private(self.root, key)
    }

    fn readable(&self, path: &Path) -> Result<()> {
        User::of(self.root, USER)?.check_reads(self.root, path)
    }

    /// Checks the CA and the validity of a certificate.
    fn judge(
        &self,
        key: &str,
        certificates: &Certificates,
        ca: Option<&(PathBuf, Certificates)>,
        purpose: Purpose,
        warnings: &mut Vec<Trouble>,
    ) -> Result<()> {
        let place = self.place(key);
        let mut late = certificates.out_of_date();
        if let Some((path, ca)) = ca {
            if let Err(why) = certificates.signed_by(ca, purpose, How::AtAnyTime) {
                let role = match purpose {
                    Purpose::Server => "server",
                    Purpose::Client => "client",
                };
                fail!(
                    at place,
                    "{key} is not a {role} certificate issued by RESTAPI_CACERT {} ({why})", path.display();
                    "Correct one of them. Append intermediate certificates to {key}, after the member's own."
                );
            }
            if let Err(why) = certificates.signed_by(ca, purpose, How::Strictly) {
                warnings.push(trouble!(
                    at &place,
                    "{key} or RESTAPI_CACERT does not conform to RFC 5280 ({why}), so Python 3.13 (Debian 13) and later reject it";
                    "Have it reissued."
                ));
            }
            let now = certificates.signed_by(ca, purpose, How::Now);
            late = late.or(now.err().map(|why| format!("cannot be verified with RESTAPI_CACERT at present ({why})")));
        }
        if let Some(why) = late {
            warnings.push(trouble!(at place, "{key} {why}"; "Renew it."));
        }
        Ok(())
    }

    /// patronictl reads the key as its caller, and the Patroni file itself is readable by the group.
    fn warn_unless_group_reads(&self, key: &Path, warnings: &mut Vec<Trouble>) {
        let group = self.root.group_id(USER).ok();
        let reads =
            self.root.path(key).metadata().is_ok_and(|found| found.mode() & 0o40 != 0 && Some(found.gid()) == group);
        if !reads {
            let shown = key.display();
            let hint = if key == Path::new(SNAKEOIL_KEY) {
                format!("Add the callers of patronictl to group ssl-cert, or run patronictl as {USER}.")
            } else {
                format!("Run patronictl as {USER}, or allow it with: chgrp {USER} {shown} && chmod 640 {shown}")
            };
            warnings.push(
                Trouble::new(format!("patronictl needs {shown}, which the members of group {USER} cannot read"))
                    .hint(hint),
            );
        }
    }

    fn username(&self) -> Result<String> {
        let name = self.settings.parse("RESTAPI_USERNAME", |text| {
            if !text.bytes().all(|b| b.is_ascii_graphic()) || text.contains(':') {
                fail!("'{text}' has a character that an HTTP user name cannot have"; "Use ASCII without spaces and ':'.");
            }
            Ok(text.to_owned())
        })?;
        Ok(name.unwrap_or_else(|| "patroni".to_owned()))
    }

    fn password(&self) -> Result<String> {
        let Some(path) = self.settings.path("RESTAPI_PASSWORD_FILE")? else { return Ok(self.password.clone()) };
        let password = self.settings.parse("RESTAPI_PASSWORD_FILE", |_| {
            let password = keys::read_secret(self.root, &path)?;
            // Patroni compares it in UTF-8, but clients send it in Latin-1 (`urllib3.make_headers`; RFC 7617).
            if !password.is_ascii() {
                fail!(
                    "the password in {} has a character that is not ASCII, so Patroni would reject it", path.display();
                    "Choose another password."
                );
            }
            Ok(password)
        })?;
        password.context("RESTAPI_PASSWORD_FILE is not set")
    }

    /// The addresses from which state may be changed. If the DCS is unreachable, the primary sends `POST /failsafe` to the
    /// members; only the list itself applies to that request (`RestApiServer.check_access`), so it must include all members.
    fn allowlist(&self) -> Result<Vec<String>> {
        if !self.settings.boolean("RESTAPI_ALLOWLIST")?.unwrap_or(false) {
            return Ok(Vec::new());
        }
        Ok(match self.members {
            Some(members) => members.iter().map(|member| member.address.to_string()).collect(),
            None => self.networks.to_vec(),
        })
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
