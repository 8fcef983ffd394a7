//! The REST API and what patronictl needs to ask it: the sections `restapi` and `ctl` of the Patroni file.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use host::file_access::User;
use host::members::Member;
use host::settings::Settings;
use host::{Root, facts, keys};
use serde::Serialize;

use crate::files::certificate::{self, Certificates, How, Purpose};
use crate::patroni::version::Patroni;

/// Who runs Patroni.
const USER: &str = "postgres";

/// The certificate that Debian's package ssl-cert makes on each host, signed by nobody but itself (`make-ssl-cert(8)`).
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

/// The section `ctl`, where patronictl needs more than it finds in `restapi`. The other members ask with it too.
#[derive(Debug, Serialize)]
pub struct Ctl {
    insecure: bool,
    certfile: Option<String>,
    keyfile: Option<String>,
}

/// What the sections are made from.
pub struct Rest<'a> {
    /// The machine.
    pub root: &'a Root,
    /// The settings.
    pub settings: &'a Settings,
    /// Which Patroni there is.
    pub patroni: &'a Patroni,
    /// The address by which the others reach this member.
    pub address: IpAddr,
    /// Where the API listens.
    pub port: u16,
    /// The members, where they are listed.
    pub members: Option<&'a [Member]>,
    /// The networks of members and clients.
    pub networks: &'a [String],
    /// The password from the site key.
    pub password: String,
}

impl Rest<'_> {
    /// The sections, and what works but needs a look.
    pub fn resolve(self) -> Result<(RestApi, Option<Ctl>, Vec<String>)> {
        let mut warnings = Vec::new();
        let (tls, ctl) = match self.settings.text("RESTAPI_CERT") {
            None => self.without_tls()?,
            Some("snakeoil") => self.snakeoil(&mut warnings)?,
            Some(_) => self.with_tls(&mut warnings)?,
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
        Ok((restapi, ctl, warnings))
    }

    fn without_tls(&self) -> Result<(Option<Tls>, Option<Ctl>)> {
        let verify = self.verify_client()?;
        for key in ["RESTAPI_KEY", "RESTAPI_CACERT", "RESTAPI_VERIFY_CLIENT", "CTL_CERT", "CTL_KEY"] {
            if self.settings.get(key).is_some() && (key != "RESTAPI_VERIFY_CLIENT" || verify != "none") {
                bail!(
                    "{}{key} is set, but without RESTAPI_CERT the REST API has no TLS: set RESTAPI_CERT, or remove {key}",
                    self.settings.place(&[key])
                );
            }
        }
        Ok((None, None))
    }

    /// For a trial: TLS with a certificate that nobody verifies.
    fn snakeoil(&self, warnings: &mut Vec<String>) -> Result<(Option<Tls>, Option<Ctl>)> {
        let place = self.settings.place(&["RESTAPI_CERT"]);
        for key in ["RESTAPI_KEY", "CTL_CERT", "CTL_KEY"] {
            if self.settings.get(key).is_some() {
                bail!("{}RESTAPI_CERT=snakeoil has its own key: remove {key}", self.settings.place(&[key]));
            }
        }
        if self.verify_client()? != "none" {
            bail!(
                "{}nobody has signed the members' snakeoil certificates, so the REST API cannot verify them: set \
                 RESTAPI_VERIFY_CLIENT=none, or RESTAPI_CERT to real ones",
                self.settings.place(&["RESTAPI_VERIFY_CLIENT"])
            );
        }
        if !self.root.path(SNAKEOIL).exists() || !self.root.path(SNAKEOIL_KEY).exists() {
            bail!("{place}RESTAPI_CERT=snakeoil: {SNAKEOIL} or its key is missing: run apt install ssl-cert");
        }
        let (certfile, keyfile) = (Path::new(SNAKEOIL), Path::new(SNAKEOIL_KEY));
        self.settings.parse("RESTAPI_CERT", |_| {
            self.readable(certfile)?;
            self.readable(keyfile)?;
            self.pair(certfile, keyfile)
        })?;
        let cafile = self.file("RESTAPI_CACERT")?;
        if let (Some(version), None) = (self.patroni.always_verifies(), &cafile) {
            bail!(
                "{place}Patroni {version} believes no other member whose certificate it cannot verify: put the {SNAKEOIL} of \
                 all members into one file and name that in RESTAPI_CACERT, the same on all of them, or set RESTAPI_CERT to a real one"
            );
        }
        warnings
            .push(format!("{place}RESTAPI_CERT=snakeoil is for a trial: patronictl does not verify who answers it"));
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

    fn with_tls(&self, warnings: &mut Vec<String>) -> Result<(Option<Tls>, Option<Ctl>)> {
        let place = self.settings.place(&["RESTAPI_CERT"]);
        let Some((certfile, certificates)) = self.file("RESTAPI_CERT")? else { return Ok((None, None)) };
        let Some(keyfile) = self.key_file("RESTAPI_KEY", &certfile)? else {
            bail!("{place}RESTAPI_CERT needs RESTAPI_KEY, the file with its key");
        };
        let signers = self.file("RESTAPI_CACERT")?;
        let verify_client = self.verify_client()?;
        if verify_client != "none" && signers.is_none() {
            bail!(
                "{}RESTAPI_VERIFY_CLIENT={verify_client} needs RESTAPI_CACERT, the certificates that sign those of the clients",
                self.settings.place(&["RESTAPI_VERIFY_CLIENT"])
            );
        }
        let signers = signers.as_ref();
        self.judge("RESTAPI_CERT", &certificates, signers, Purpose::Server, warnings)?;
        if let Err(others) = certificates.is_for(self.address) {
            warnings.push(format!(
                "{place}RESTAPI_CERT is for {others}, not for {0}, where the others reach this member, so that patronictl will not \
                 believe it: have it issued with the subjectAltName IP:{0}",
                self.address
            ));
        }
        if let (Some(version), None) = (self.patroni.always_verifies(), signers) {
            warnings.push(format!(
                "{place}Patroni {version} believes no other member whose certificate it cannot verify: set RESTAPI_CACERT, unless \
                 this host trusts the signer anyway"
            ));
        }
        let client = match (self.file("CTL_CERT")?, verify_client) {
            (Some((path, own)), _) => {
                let Some(key) = self.key_file("CTL_KEY", &path)? else {
                    bail!("{}CTL_CERT needs CTL_KEY, the file with its key", self.settings.place(&["CTL_CERT"]));
                };
                self.judge("CTL_CERT", &own, signers, Purpose::Client, warnings)?;
                Some((path, key))
            }
            (None, _) if self.settings.get("CTL_KEY").is_some() => {
                bail!("{}CTL_KEY needs CTL_CERT, the certificate that it belongs to", self.settings.place(&["CTL_KEY"]))
            }
            (None, "none") => None,
            (None, _) => {
                self.judge("RESTAPI_CERT", &certificates, signers, Purpose::Client, &mut Vec::new())?;
                Some((certfile.clone(), keyfile.clone()))
            }
        };
        let shows = client.as_ref().map(|(_, key)| key).or(self.patroni.always_verifies().map(|_| &keyfile));
        if let Some(key) = shows {
            self.warn_unless_group_reads(key, warnings);
        }
        let tls = Tls {
            certfile: shown(&certfile),
            keyfile: shown(&keyfile),
            cafile: signers.map(|(path, _)| shown(path)),
            verify_client,
        };
        let ctl = client.map(|(certfile, keyfile)| Ctl {
            insecure: false,
            certfile: Some(shown(&certfile)),
            keyfile: Some(shown(&keyfile)),
        });
        Ok((Some(tls), ctl))
    }

    fn verify_client(&self) -> Result<&'static str> {
        Ok(self.settings.choice("RESTAPI_VERIFY_CLIENT", &["none", "optional", "required"])?.unwrap_or("none"))
    }

    /// A file with certificates that postgres can read.
    fn file(&self, key: &str) -> Result<Option<(PathBuf, Certificates)>> {
        let Some(path) = self.settings.path(key)? else { return Ok(None) };
        let found = self.settings.parse(key, |_| {
            let found = certificate::read(self.root, &path)?;
            self.readable(&path)?;
            Ok(found)
        })?;
        Ok(found.map(|found| (path, found)))
    }

    /// A file with the key of a certificate, which postgres can read, but not everybody.
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

    /// By whom it is signed, and until when it is valid.
    fn judge(
        &self,
        key: &str,
        certificates: &Certificates,
        signers: Option<&(PathBuf, Certificates)>,
        purpose: Purpose,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let place = self.settings.place(&[key]);
        let mut late = certificates.out_of_date();
        if let Some((path, signers)) = signers {
            if let Err(why) = certificates.signed_by(signers, purpose, How::AtAnyTime) {
                bail!(
                    "{place}{key} does not pass by RESTAPI_CACERT {} as that of a {} ({why}): correct one of them; what stands \
                     between belongs into {key}, behind the member's own",
                    path.display(),
                    match purpose {
                        Purpose::Server => "server",
                        Purpose::Client => "client",
                    }
                );
            }
            if let Err(why) = certificates.signed_by(signers, purpose, How::Strictly) {
                warnings.push(format!(
                    "{place}{key} or RESTAPI_CACERT is not as RFC 5280 demands ({why}), by which Python refuses it since 3.13 \
                     (Debian 13): have it issued anew"
                ));
            }
            let now = certificates.signed_by(signers, purpose, How::Now);
            late = late.or(now.err().map(|why| format!("does not pass by RESTAPI_CACERT now ({why})")));
        }
        if let Some(why) = late {
            warnings.push(format!("{place}{key} {why}: renew it"));
        }
        Ok(())
    }

    /// patronictl reads the key as the person who runs it, and the file itself is readable for the group.
    fn warn_unless_group_reads(&self, key: &Path, warnings: &mut Vec<String>) {
        let group = self.root.group_id(USER).ok();
        let reads =
            self.root.path(key).metadata().is_ok_and(|found| found.mode() & 0o40 != 0 && Some(found.gid()) == group);
        if !reads {
            let shown = key.display();
            let remedy = if key == Path::new(SNAKEOIL_KEY) {
                "add them to group ssl-cert".to_owned()
            } else {
                format!("run chgrp {USER} {shown} && chmod 640 {shown}")
            };
            warnings.push(format!(
                "patronictl needs {shown} too, which the members of group {USER} cannot read: {remedy}, or use it as {USER}"
            ));
        }
    }

    fn username(&self) -> Result<String> {
        let name = self.settings.parse("RESTAPI_USERNAME", |text| {
            if text.bytes().all(|b| b.is_ascii_graphic()) && !text.contains(':') {
                Ok(text.to_owned())
            } else {
                bail!("'{text}' has a character that a user of HTTP cannot have (RFC 7617): use ASCII without blanks and ':'")
            }
        })?;
        Ok(name.unwrap_or_else(|| "patroni".to_owned()))
    }

    fn password(&self) -> Result<String> {
        let Some(path) = self.settings.path("RESTAPI_PASSWORD_FILE")? else { return Ok(self.password.clone()) };
        let password = self.settings.parse("RESTAPI_PASSWORD_FILE", |_| {
            let password = keys::read_secret(self.root, &path)?;
            // Patroni compares it in UTF-8, and who asks sends it in Latin-1 (`urllib3.make_headers`).
            if !password.is_ascii() {
                bail!(
                    "{}: the password has a character that is not ASCII, by which Patroni would refuse it",
                    path.display()
                );
            }
            Ok(password)
        })?;
        password.context("RESTAPI_PASSWORD_FILE is not set")
    }

    /// Who may change something. In an outage of the store the primary asks the members by `POST /failsafe`, for which only the
    /// list itself counts (`RestApiServer.check_access`), so that it has to have all of them.
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
