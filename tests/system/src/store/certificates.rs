//! A site's certificate authority, by the `openssl` program of a machine, and the certificates that it issues.

use anyhow::Result;

use crate::Node;

/// EC keys: a lab makes dozens of them.
const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

/// A certificate authority, whose key is on one machine.
#[derive(Debug)]
pub struct Authority<'a> {
    node: &'a Node,
    directory: String,
    certificate: String,
}

/// A certificate and its key, as PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl<'a> Authority<'a> {
    /// Makes an authority of this name on a machine.
    pub fn new(node: &'a Node, name: &str) -> Result<Self> {
        let directory = format!("/root/{name}");
        // Python 3.13 and newer want the key usage of an authority to be said.
        node.run(&format!(
            "mkdir -p {directory} && cd {directory} && openssl req -x509 {NEW_KEY} -subj '/O=Lab/CN={name}' -days 30 \
             -addext keyUsage=critical,keyCertSign,cRLSign -keyout ca.key -out ca.pem"
        ))?;
        let certificate = node.read(&format!("{directory}/ca.pem"))?;
        Ok(Self { node, directory, certificate })
    }

    /// Its own certificate, by which the others are checked.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for a server on this machine, under its name, its addresses and `localhost`, or for a client there.
    pub fn issue(&self, subject: &str, machine: &Node) -> Result<Pair> {
        self.sign(subject, machine, "openssl x509 -req $with -days 20")
    }

    /// A certificate that has expired.
    pub fn issue_expired(&self, subject: &str, machine: &Node) -> Result<Pair> {
        // OpenSSL 3.5 refuses an end before the beginning, 3.0 does not know the other options.
        self.sign(
            subject,
            machine,
            "openssl x509 -req $with -not_before 20200101000000Z -not_after 20200201000000Z || \
             openssl x509 -req $with -days -1",
        )
    }

    fn sign(&self, subject: &str, machine: &Node, sign: &str) -> Result<Pair> {
        let directory = &self.directory;
        let (name, ipv4, ipv6) = (machine.name(), machine.ipv4(), machine.ipv6());
        self.node.run(&format!(
            "cd {directory} && openssl req {NEW_KEY} -subj '{subject}' -keyout key -out request && \
             printf '%s\\n' 'subjectAltName=DNS:{name},DNS:localhost,IP:{ipv4},IP:{ipv6},IP:127.0.0.1,IP:::1' \
             'extendedKeyUsage=serverAuth,clientAuth' 'basicConstraints=CA:FALSE' > extensions && \
             with='-in request -CA ca.pem -CAkey ca.key -extfile extensions -out certificate' && {{ {sign}; }}"
        ))?;
        Ok(Pair {
            certificate: self.node.read(&format!("{directory}/certificate"))?,
            key: self.node.read(&format!("{directory}/key"))?,
        })
    }
}

impl Pair {
    /// Writes it as `NAME.pem` and `NAME.key` into a directory of a machine; the key is for this user and group only.
    pub fn install(&self, node: &Node, directory: &str, name: &str, owner: &str) -> Result<()> {
        node.write(&format!("{directory}/{name}.pem"), &self.certificate, 0o644)?;
        node.write(&format!("{directory}/{name}.key"), &self.key, 0o640)?;
        node.run(&format!("chown {owner} {directory}/{name}.key")).map(drop)
    }
}
