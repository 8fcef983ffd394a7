//! What the administrator set: `/etc/default/patroni` for the site, `/etc/default/patroni@16-main` for one instance.
//!
//! Here the files become keys and texts, each with the place it came from; what a text means is for the part of
//! the program that needs it, by [`Settings::parse`], so that every error names file and line.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use crate::{ClusterId, Root, envfile, keys};

/// The settings of the whole site.
pub const SITE_FILE: &str = "/etc/default/patroni";

/// The settings of one instance, which win over those of the site.
#[must_use]
pub fn instance_file(id: &ClusterId) -> PathBuf {
    PathBuf::from(format!("{SITE_FILE}@{}", id.dashed()))
}

/// A key that can be set.
#[derive(Debug)]
pub struct Key {
    /// As it stands in the file.
    pub name: &'static str,
    /// What holds where it is not set, for people.
    pub default: &'static str,
    /// What it is for, for people.
    pub meaning: &'static str,
}

const fn key(name: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { name, default, meaning }
}

/// `PG_` and the name of a PostgreSQL parameter in lower case set that parameter. No key of [`KEYS`] is of this form.
pub const PARAMETER_PREFIX: &str = "PG_";

/// Every key there is, but for those with [`PARAMETER_PREFIX`]. The manual page and the shipped file are tested against
/// this list.
pub const KEYS: &[Key] = &[
    key(
        "DCS",
        "etcd3, or what /etc/patroni/dcs.yml says",
        "the kind of store: etcd3, consul, zookeeper, raft, kubernetes, exhibitor, etcd",
    ),
    key(
        "DCS_HOSTS",
        "this host, on the store's own port",
        "the store's servers: host[:port], separated by commas, IPv6 in brackets; for raft the other members",
    ),
    key("DCS_SRV", "", "domain whose SRV records name the servers of etcd"),
    key("DCS_PROTOCOL", "https with DCS_CACERT or DCS_CERT, else http", "http or https; for ZooKeeper https means TLS"),
    key("DCS_CACERT", "", "file with the certificates that sign the store's certificate"),
    key("DCS_CERT", "", "file with our certificate for the store"),
    key("DCS_KEY", "", "file with the key of DCS_CERT, readable by postgres"),
    key("DCS_VERIFY", "yes", "no: believe any certificate of Consul or ZooKeeper"),
    key("DCS_USERNAME", "", "our user name in etcd, or for ZooKeeper's digest"),
    key("DCS_PASSWORD_FILE", "", "file with the password of DCS_USERNAME, or with that of raft"),
    key("DCS_TOKEN_FILE", "", "file with our ACL token for Consul"),
    key("DCS_ALLOW_V2", "no", "yes: really DCS=etcd, the API that etcd 3.6 does not have"),
    key("CONSUL_REGISTER_SERVICE", "no", "the members are a service of Consul, with their role as a tag"),
    key("CONSUL_SERVICE_TAGS", "", "more tags of that service, separated by commas"),
    key("CONSUL_DC", "that of the agent", "the datacenter"),
    key("CONSUL_CHECKS", "none", "health checks that end our session when they fail, separated by commas"),
    key("ZOOKEEPER_ACL", "", "subjects of the certificates that alone may use what Patroni creates, separated by ';'"),
    key("RAFT_ADDRESS", "HOST_ADDRESS and PORT less 3210", "our address for the other members: address[:port]"),
    key("RAFT_DATA_DIR", "/var/lib/postgresql/16-main.raft", "where raft keeps its log"),
    key("KUBERNETES_NAMESPACE", "default", "the namespace of our pod"),
    key(
        "KUBERNETES_LABELS",
        "application=patroni",
        "labels of the objects of this cluster: name=value, separated by commas",
    ),
    key("KUBERNETES_USE_ENDPOINTS", "no", "keep the state in Endpoints in place of ConfigMaps"),
    key("KUBERNETES_POD_IP", "HOST_ADDRESS", "the address of our pod in the Endpoints"),
    key("NAMESPACE", "/postgresql-common/", "where in the store all instances of the site are"),
    key("MEMBER_NAME", "the host name", "the name of this member, unique in the cluster"),
    key(
        "HOST_ADDRESS",
        "that of this member in MEMBERS, or the source address of the default route",
        "the address by which the other members reach this one",
    ),
    key("MEMBERS", "", "the members with their addresses: pg1=10.0.3.141,pg2=10.0.3.142, the same on all of them"),
    key("NETWORK", "the network of HOST_ADDRESS", "networks of members and clients in pg_hba, separated by commas"),
    key(
        "LISTEN_ADDRESSES",
        "HOST_ADDRESS and loopback",
        "the addresses on which PostgreSQL listens, separated by commas, or *",
    ),
    key(
        "PORT",
        "the port it has, or the next free one from 5432",
        "the TCP port of PostgreSQL; the REST API has 2576 more",
    ),
    key(
        "SITE_KEY_FILE",
        "/etc/patroni/site.key",
        "the file from which passwords are derived, the same on every member",
    ),
    key("RESTAPI_CERT", "", "file with the certificate of the REST API, which turns TLS on, or snakeoil for a trial"),
    key("RESTAPI_KEY", "", "file with the key of RESTAPI_CERT, readable by postgres"),
    key("RESTAPI_CACERT", "", "file with the certificates that sign those of the members and their clients"),
    key(
        "RESTAPI_VERIFY_CLIENT",
        "none",
        "who has to show a certificate: none, optional (who changes something), required",
    ),
    key("RESTAPI_USERNAME", "patroni", "the user that the REST API asks for before it changes something"),
    key("RESTAPI_PASSWORD_FILE", "", "file with the password of that user, in place of one from the site key"),
    key(
        "RESTAPI_ALLOWLIST",
        "no",
        "only MEMBERS, or where that is not set NETWORK, may change something by the REST API",
    ),
    key("CTL_CERT", "RESTAPI_CERT where RESTAPI_VERIFY_CLIENT asks for one", "file with patronictl's certificate"),
    key("CTL_KEY", "RESTAPI_KEY where CTL_CERT is not set", "file with the key of CTL_CERT"),
    // What the members have in common, in the store once the cluster is bootstrapped.
    key("TTL", "30", "seconds until a primary that is silent loses the leader lock"),
    key("LOOP_WAIT", "10", "seconds between two looks of Patroni"),
    key("RETRY_TIMEOUT", "10", "seconds for which Patroni retries the store and PostgreSQL"),
    key("MAXIMUM_LAG_ON_FAILOVER", "1048576", "bytes a replica may lag and still become primary"),
    key("PRIMARY_START_TIMEOUT", "300", "seconds for which a crashed primary may recover before another takes over"),
    key("FAILSAFE_MODE", "yes", "the primary stays primary while the store is away, if it reaches all members"),
    key("SYNCHRONOUS_MODE", "no", "no commit is acknowledged before a standby has it: no, yes or quorum"),
    key("SYNCHRONOUS_MODE_STRICT", "no", "commits wait even while there is no standby"),
    key("SYNCHRONOUS_NODE_COUNT", "1", "how many synchronous standbys"),
    key("SLOTS", "", "permanent replication slots: name:physical or name:logical:database:plugin, separated by commas"),
    key("STANDBY_HOST", "", "this is a standby cluster: the host that it follows"),
    key("STANDBY_PORT", "5432", "the port of STANDBY_HOST"),
    key("STANDBY_SLOT", "", "the slot on STANDBY_HOST that the standby leader uses"),
    key("PG_TUNE", "no", "auto: PostgreSQL's memory and processes by those of this host"),
    key("PG_PARAMETERS_FILE", "", "file with PostgreSQL parameters of the cluster, like postgresql.conf"),
    key("PG_HBA_FILE", "", "file with lines for pg_hba that come before the general ones"),
    // Certificates and passwords of PostgreSQL.
    key(
        "SSL",
        "required where PostgreSQL has a certificate",
        "required, allowed or off: TLS of connections over the network",
    ),
    key("SSL_CERT", "that of Debian's ssl-cert", "file with PostgreSQL's certificate"),
    key("SSL_KEY", "that of Debian's ssl-cert", "file with the key of SSL_CERT, readable by postgres"),
    key("SSL_CACERT", "", "file with the certificates that sign those of members and clients"),
    key("REPLICATION_AUTH", "password", "how members log in at each other: password or cert"),
    key("REPLICATION_CERT", "", "for cert: file with a certificate for the name replicator"),
    key("REPLICATION_KEY", "", "for cert: file with the key of REPLICATION_CERT, readable by postgres"),
    key("REPLICATION_PASSWORD_FILE", "made from the site key", "file with the password of the role replicator"),
    key("REWIND_PASSWORD_FILE", "made from the site key", "file with the password of the role rewind_user"),
    key("SUPERUSER_PASSWORD_FILE", "none, the Unix socket needs none", "file with a password for the role postgres"),
    key(
        "PASSWORD_SCOPE",
        "the scope",
        "the instance whose passwords these are, for a standby cluster that of its source",
    ),
    // This member in the cluster.
    key("NOFAILOVER", "no", "this member never becomes primary"),
    key("FAILOVER_PRIORITY", "1", "of several candidates the one with the highest number becomes primary"),
    key("NOLOADBALANCE", "no", "the REST API does not offer this member for reading"),
    key("CLONEFROM", "no", "other members are cloned from this one rather than from the primary"),
    key("NOSYNC", "no", "this member is never a synchronous standby"),
    key("WATCHDOG", "automatic", "off, automatic or required"),
    key("WATCHDOG_DEVICE", "/dev/watchdog", "the watchdog"),
    key("LOG_LEVEL", "INFO", "of Patroni: DEBUG, INFO, WARNING, ERROR or CRITICAL"),
    key("LOG_FORMAT", "that of Patroni", "of Patroni: a format of Python's logging"),
    key("LOG_DIR", "the journal", "directory for log files of Patroni"),
    key("LOG_FILE_NUM", "4", "how many old log files are kept"),
    key("LOG_FILE_SIZE", "25000000", "bytes after which Patroni begins a new log file"),
    key("LOCALE", "that of pg_createcluster", "locale of a new cluster"),
    key("ENCODING", "that of pg_createcluster", "encoding of a new cluster"),
    key("DATA_CHECKSUMS", "that of pg_createcluster", "data checksums in a new cluster, yes or no"),
    key(
        "CLONE_MAX_RATE",
        "unlimited",
        "the most that a clone takes per second: 50M, 900k (kilobytes without a letter)",
    ),
    key("CLONE_COMPRESS", "none", "compression of a clone on the network: METHOD[:DETAIL] of pg_basebackup"),
    key("CLONE_CHECKPOINT", "fast", "fast, or spread to spare the primary's disks"),
    key("VIPS", "", "virtual addresses with prefix, separated by commas; the one in a subnet of this member is used"),
    key("VIP_MANAGER", "dnscp", "who moves the virtual address: dnscp, keepalived or vip-manager"),
    key("VIP_INTERFACE", "the one with the address's subnet", "the interface that gets the virtual address"),
    key("VIP_LEASE", "10", "seconds for which the kernel keeps the address when nobody renews it"),
    key("VIP_STANDBY_LEADER", "no", "the leader of a standby cluster has the address too"),
    key("DNS_NAME", "the scope", "the name that is registered, with or without its zone"),
    key("DNS_ZONE", "the zone of DNS_NAME", "the zone of the name; it or DNS_NAME turns registration on"),
    key("DNS_SERVERS", "those of the zone", "the servers that take the update: host[:port], separated by commas"),
    key("DNS_TTL", "1200", "seconds for which others may keep the answer"),
    key("DNS_AUTH", "none", "none, tsig or gss (Kerberos, as Active Directory wants it)"),
    key("DNS_TSIG_KEY_FILE", "", "the key for tsig, as tsig-keygen writes it"),
    key("DNS_PRINCIPAL", "", "the account for gss, as in pgsql$@EXAMPLE.ORG"),
    key("DNS_KEYTAB", "", "file with the key of DNS_PRINCIPAL"),
    key("DNS_PASSWORD_FILE", "", "file with the password of DNS_PRINCIPAL, where there is no keytab"),
    // The programs around the cluster.
    key("HAPROXY_WRITE_PORT", "PORT and 10000", "the port of HAProxy that is the primary"),
    key("HAPROXY_READ_PORT", "PORT and 20000", "the port of HAProxy that is the replicas in turn"),
    key("HAPROXY_SYNC_PORT", "none", "the port of HAProxy that is the synchronous standbys in turn"),
    key("HAPROXY_READ_PRIMARY", "no", "HAProxy reads from the primary too"),
    key("HAPROXY_MAX_LAG", "16MB", "HAProxy does not read from a replica that lags more: bytes, or as 16MB"),
    key("HAPROXY_STATS_PORT", "7000", "the port of HAProxy's statistics, on loopback"),
    key(
        "PGBOUNCER_SERVER",
        "the address in VIPS, else the DNS name, else HAProxy on this host",
        "where PgBouncer finds the primary: host[:port]",
    ),
    key("PGBOUNCER_LISTEN", "127.0.0.1", "the addresses on which PgBouncer listens, separated by commas, or *"),
    key("PGBOUNCER_PORT", "6432", "the port of PgBouncer"),
    key(
        "PGBOUNCER_POOL_MODE",
        "session",
        "when PgBouncer gives a connection to another client: session or transaction",
    ),
    // The store, where it runs on the members.
    key("ETCD_CERT", "/etc/patroni/tls/etcd.pem", "file with the certificate of this server of etcd"),
    key("ETCD_KEY", "/etc/patroni/tls/etcd.key", "file with the key of ETCD_CERT, readable by etcd"),
    key("ETCD_STATE", "new", "existing: this server joins an etcd that is there already"),
    key("CONSUL_SERVERS", "all of MEMBERS", "the members with a server of Consul, by name; the others have an agent"),
    key("CONSUL_CERT", "/etc/patroni/tls/consul.pem", "file with the certificate of this agent of Consul"),
    key("CONSUL_KEY", "/etc/patroni/tls/consul.key", "file with the key of CONSUL_CERT, readable by consul"),
    key("CONSUL_AGENT_TOKEN_FILE", "", "file with the ACL token that Consul's agents have themselves"),
];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A file and the line in it, from 1.
    File(PathBuf, usize),
    /// `--set`, or the option named.
    Option(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Option(option) => f.write_str(option),
        }
    }
}

/// A value as it was written. Empty values do not exist: they count as not set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The text, never empty.
    pub text: String,
    /// Where it was written.
    pub origin: Origin,
}

/// The settings that hold for one instance.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    values: BTreeMap<String, Setting>,
}

impl Settings {
    /// Reads the file of the site and that of the instance. Neither needs to exist.
    pub fn read(root: &Root, id: &ClusterId) -> Result<Self> {
        let mut settings = Self::read_site(root)?;
        settings.read_file(root, &instance_file(id))?;
        Ok(settings)
    }

    /// Reads the file of the site alone.
    pub fn read_site(root: &Root) -> Result<Self> {
        let mut settings = Self::default();
        settings.read_file(root, Path::new(SITE_FILE))?;
        Ok(settings)
    }

    fn read_file(&mut self, root: &Root, path: &Path) -> Result<()> {
        let Some(text) = root.read(path)? else { return Ok(()) };
        let assignments = envfile::parse(&text).map_err(|error| anyhow!("{}:{error}", path.display()))?;
        for assignment in assignments {
            self.put(&assignment.key, assignment.value, Origin::File(path.to_owned(), assignment.line))?;
        }
        Ok(())
    }

    /// Takes `KEY=VALUE` from the command line; it wins over the files.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let Some((key, value)) = assignment.split_once('=') else {
            bail!("--set {assignment}: write it as --set KEY=VALUE");
        };
        self.put(key, value.to_owned(), Origin::Option("--set"))
    }

    /// Puts a value in the place of what was there; an empty one takes that away.
    pub fn put(&mut self, name: &str, text: String, origin: Origin) -> Result<()> {
        known(name).map_err(|message| anyhow!("{origin}: {message}"))?;
        if text.is_empty() {
            self.values.remove(name);
        } else {
            self.values.insert(name.to_owned(), Setting { text, origin });
        }
        Ok(())
    }

    /// The value of a key, where it is set.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Setting> {
        debug_assert!(KEYS.iter().any(|known| known.name == key), "{key} is not in KEYS");
        self.values.get(key)
    }

    /// The PostgreSQL parameters that are set by [`PARAMETER_PREFIX`], by name.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Setting)> {
        self.values.iter().filter_map(|(key, setting)| Some((parameter(key)?, setting)))
    }

    /// The text of a key, where it is set.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).map(|setting| setting.text.as_str())
    }

    /// `FILE:LINE: ` of the first of some keys that is set, for errors about more than one key.
    #[must_use]
    pub fn place(&self, keys: &[&str]) -> String {
        keys.iter().find_map(|key| self.get(key)).map_or_else(String::new, |setting| format!("{}: ", setting.origin))
    }

    /// What a key means; the error of `parse` gets the place and the key put before it.
    pub fn parse<T>(&self, key: &str, parse: impl FnOnce(&str) -> Result<T>) -> Result<Option<T>> {
        self.get(key)
            .map(|setting| parse(&setting.text).with_context(|| format!("{}: {key}", setting.origin)))
            .transpose()
    }

    /// A whole number within bounds.
    pub fn number(&self, key: &str, least: u64, most: u64) -> Result<Option<u64>> {
        self.parse(key, |text| match text.parse::<u64>() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => Err(anyhow!("'{text}' is not a whole number from {least} to {most}")),
        })
    }

    /// `yes` or `no`, in any of the words that PostgreSQL and systemd take.
    pub fn truth(&self, key: &str) -> Result<Option<bool>> {
        self.parse(key, |text| truth(text).with_context(|| format!("'{text}' is neither yes nor no")))
    }

    /// One of the words that are allowed.
    pub fn choice(&self, key: &str, words: &[&'static str]) -> Result<Option<&'static str>> {
        self.parse(key, |text| {
            words
                .iter()
                .find(|word| **word == text)
                .copied()
                .ok_or_else(|| anyhow!("'{text}' is none of {}", words.join(", ")))
        })
    }

    /// The parts of a list, separated by commas and blanks.
    pub fn list<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T>) -> Result<Option<Vec<T>>> {
        self.parse(key, |text| {
            let parts: Vec<T> =
                text.split([',', ' ', '\t', '\n']).filter(|part| !part.is_empty()).map(parse).collect::<Result<_>>()?;
            if parts.is_empty() {
                bail!("'{text}' is an empty list: write what is in it, or remove the line")
            }
            Ok(parts)
        })
    }

    /// An absolute path.
    pub fn path(&self, key: &str) -> Result<Option<PathBuf>> {
        self.parse(key, |text| {
            if text.starts_with('/') {
                Ok(PathBuf::from(text))
            } else {
                Err(anyhow!("'{text}' is not an absolute path"))
            }
        })
    }

    /// The secret in the file that a key names.
    pub fn secret(&self, root: &Root, key: &str) -> Result<Option<String>> {
        match self.path(key)? {
            Some(path) => self.parse(key, |_| keys::read_secret(root, &path)),
            None => Ok(None),
        }
    }
}

/// `yes` or `no`, in any of the words that PostgreSQL and systemd take.
#[must_use]
pub fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "true" | "on" | "1" => Some(true),
        "no" | "false" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// The name that is the most like `wrong`, and how many characters are other.
pub fn nearest<'n>(wrong: &str, names: impl Iterator<Item = &'n str>) -> Option<(usize, &'n str)> {
    names.map(|name| (strsim::damerau_levenshtein(wrong, name), name)).min()
}

/// The PostgreSQL parameter that a key sets.
fn parameter(key: &str) -> Option<&str> {
    let name = key.strip_prefix(PARAMETER_PREFIX)?;
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    (name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(plain)).then_some(name)
}

/// Is this a key? Else what is wrong with it, and which one was meant.
fn known(name: &str) -> Result<(), String> {
    if KEYS.iter().any(|key| key.name == name) || parameter(name).is_some() {
        return Ok(());
    }
    let upper = name.to_ascii_uppercase();
    let nearest = nearest(&upper, KEYS.iter().map(|key| key.name)).filter(|(distance, key)| *distance <= key.len() / 2);
    // Of PG_TUN, PG_TUNE is meant, and of PG_Work_Mem, PG_work_mem.
    let lower = name.get(PARAMETER_PREFIX.len()..).unwrap_or_default().to_ascii_lowercase();
    let as_parameter = format!("{PARAMETER_PREFIX}{lower}");
    if upper.starts_with(PARAMETER_PREFIX) && nearest.is_none_or(|(distance, _)| distance > 2) {
        return Err(match parameter(&as_parameter) {
            Some(_) => format!(
                "unknown key {name}: a PostgreSQL parameter is set by its name in lower case behind {PARAMETER_PREFIX}: \
                 did you mean {as_parameter}?"
            ),
            None => format!(
                "unknown key {name}: {lower} is no name that can stand here; put such a parameter into PG_PARAMETERS_FILE"
            ),
        });
    }
    Err(match nearest {
        Some((_, nearest)) => format!("unknown key {name}: did you mean {nearest}?"),
        None => format!("unknown key {name}: see patroni.default(5) for all keys"),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("etc/default")).unwrap();
        for (path, text) in files {
            std::fs::write(folder.path().join(path), text).unwrap();
        }
        let root = Root::new(folder.path());
        (folder, root)
    }

    #[test]
    fn the_instance_wins_over_the_site_and_the_command_line_over_both() {
        let (_folder, root) = host(&[
            ("etc/default/patroni", "TTL=20\nLOOP_WAIT=5\nPORT=5440\n"),
            ("etc/default/patroni@16-main", "TTL=25\nPORT=\n"),
        ]);
        let mut settings = Settings::read(&root, &"16/main".parse().unwrap()).unwrap();
        assert_eq!(settings.number("TTL", 1, 99).unwrap(), Some(25));
        assert_eq!(settings.get("PORT"), None);
        settings.set("LOOP_WAIT=7").unwrap();
        assert_eq!(settings.text("LOOP_WAIT"), Some("7"));
        assert_eq!(settings.get("TTL").unwrap().origin.to_string(), "/etc/default/patroni@16-main:1");
    }

    #[test]
    fn a_parameter_of_postgresql_is_a_key() {
        let (_folder, root) = host(&[
            ("etc/default/patroni", "PG_TUNE=auto\nPG_work_mem=8MB\nPG_jit=off\n"),
            ("etc/default/patroni@16-main", "PG_work_mem=16MB\nPG_jit=\n"),
        ]);
        let settings = Settings::read(&root, &"16/main".parse().unwrap()).unwrap();
        let parameters: Vec<_> = settings.parameters().map(|(name, setting)| (name, setting.text.as_str())).collect();
        assert_eq!(parameters, [("work_mem", "16MB")]);
        assert!(KEYS.iter().all(|key| parameter(key.name).is_none()));
    }

    #[test]
    fn errors_name_file_line_and_remedy() {
        let id = "16/main".parse().unwrap();
        let (_folder, root) = host(&[("etc/default/patroni", "\nTTLL=20\n")]);
        let error = Settings::read(&root, &id).unwrap_err().to_string();
        assert_eq!(error, "/etc/default/patroni:2: unknown key TTLL: did you mean TTL?");
        for (wrong, meant) in [
            ("PG_TUN", "did you mean PG_TUNE?"),
            ("PG_HBA_FIEL", "did you mean PG_HBA_FILE?"),
            ("PG_Work_Mem", "did you mean PG_work_mem?"),
            ("PG_SHARED_BUFFERS", "did you mean PG_shared_buffers?"),
            ("pg_shared_buffers", "did you mean PG_shared_buffers?"),
            ("PG_auto_explain.log_timing", "PG_PARAMETERS_FILE"),
            ("PG_", "unknown key"),
            ("PG_1", "unknown key"),
        ] {
            let error = Settings::default().set(&format!("{wrong}=1")).unwrap_err().to_string();
            assert!(error.contains(meant), "{error}");
        }
        let (_folder, root) = host(&[("etc/default/patroni", "TTL=soon\nDCS_PASSWORD_FILE=/pw\n")]);
        let settings = Settings::read(&root, &id).unwrap();
        let error = format!("{:#}", settings.number("TTL", 20, 99).unwrap_err());
        assert_eq!(error, "/etc/default/patroni:1: TTL: 'soon' is not a whole number from 20 to 99");
        let error = format!("{:#}", settings.secret(&root, "DCS_PASSWORD_FILE").unwrap_err());
        assert_eq!(error, "/etc/default/patroni:2: DCS_PASSWORD_FILE: /pw: there is no such file");
    }
}
