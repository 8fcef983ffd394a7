//! What the administrator set: `/etc/default/patroni` for the site, `/etc/default/patroni@16-main` for one cluster.
//!
//! Here the files become keys and strings, each with its origin. The part of the program that needs a value interprets it with
//! [`Settings::parse`], so that every error names file and line.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::files::{Named, Opener, missing};
use crate::trouble::{Explain, Trouble, in_line};
use crate::{ClusterId, Root, envfile, fail, keys, trouble};

/// The settings of the whole site.
pub const SITE_FILE: &str = "/etc/default/patroni";

/// The settings of one cluster, which override those of the site.
#[must_use]
pub fn cluster_file(id: &ClusterId) -> PathBuf {
    PathBuf::from(format!("{SITE_FILE}@{}", id.dashed()))
}

/// A key that can be set.
#[derive(Debug)]
pub struct Key {
    /// As it is written in the file.
    pub name: &'static str,
    /// The value that is used if the key is not set, if this is always the same one.
    pub default: Option<&'static str>,
    /// A value for the shipped file: the default, or else an example.
    pub sample: &'static str,
    /// What it sets and which values it takes, as a comment in the shipped file. It says what a derived default is.
    pub meaning: &'static str,
}

const fn default(name: &'static str, value: &'static str, meaning: &'static str) -> Key {
    Key { name, default: Some(value), sample: value, meaning }
}

const fn example(name: &'static str, sample: &'static str, meaning: &'static str) -> Key {
    Key { name, default: None, sample, meaning }
}

/// `PG_` and the name of a PostgreSQL parameter in lower case set that parameter. No key of [`KEYS`] is of this form.
pub const PARAMETER_PREFIX: &str = "PG_";

/// Every key there is, except those with [`PARAMETER_PREFIX`], in the order of the shipped file. That file is generated from
/// this table, and the manual is tested against it.
pub const KEYS: &[Key] = &[
    default(
        "DCS",
        "etcd3",
        "Type of the DCS: etcd3, consul, zookeeper, kubernetes, exhibitor, raft (deprecated by Patroni) or etcd (the v2 API).",
    ),
    example(
        "DCS_HOSTS",
        "10.0.3.141,10.0.3.142,10.0.3.143",
        "Servers of the DCS as host[:port], separated by commas; for raft, the other members. Default: this host.",
    ),
    example("DCS_SRV", "example.org", "For etcd, instead of DCS_HOSTS: domain whose SRV records name the servers."),
    example(
        "DCS_PROTOCOL",
        "https",
        "http or https; for ZooKeeper, https means TLS. Default: https if DCS_CACERT or DCS_CERT is set, otherwise http.",
    ),
    example(
        "DCS_CACERT",
        "/etc/patroni/tls/ca.pem",
        "CA certificates that verify the servers of the DCS. Default: those that this host trusts.",
    ),
    example("DCS_CERT", "/etc/patroni/tls/store.pem", "Client certificate for the DCS."),
    example("DCS_KEY", "/etc/patroni/tls/store.key", "Key of DCS_CERT, readable by postgres."),
    default("DCS_VERIFY", "yes", "Verify the certificates of Consul or ZooKeeper (yes or no)."),
    example("DCS_USERNAME", "patroni", "User name for etcd or for ZooKeeper's digest authentication."),
    example(
        "DCS_PASSWORD_FILE",
        "/etc/patroni/store.password",
        "File with the password of DCS_USERNAME, or with that of raft.",
    ),
    example("DCS_TOKEN_FILE", "/etc/patroni/store.token", "File with the ACL token for Consul."),
    default("DCS_ALLOW_V2", "no", "Permit DCS=etcd, the v2 API, which etcd 3.6 no longer has (yes or no)."),
    default("NAMESPACE", "/postgresql-common/", "Prefix of all keys of the site in the DCS."),
    default(
        "CONSUL_REGISTER_SERVICE",
        "no",
        "Register the members as a service in Consul, with their role as a tag (yes or no).",
    ),
    example("CONSUL_SERVICE_TAGS", "blue,site1", "Additional tags of this service, separated by commas."),
    example("CONSUL_DC", "dc1", "Datacenter of Consul. Default: the agent's own."),
    example(
        "CONSUL_CHECKS",
        "serfHealth",
        "Health checks of Consul that end the session when they fail, separated by commas.",
    ),
    example(
        "ZOOKEEPER_ACL",
        "CN=pg1;CN=pg2;CN=pg3",
        "Certificate subjects that alone may use what Patroni creates in ZooKeeper, separated by semicolons.",
    ),
    example(
        "RAFT_ADDRESS",
        "10.0.3.141:2222",
        "Raft address of this member, as address[:port]. Default: HOST_ADDRESS and PORT minus 3210.",
    ),
    example(
        "RAFT_DATA_DIR",
        "/var/lib/postgresql/16-main.raft",
        "Directory of the Raft log. Default: /var/lib/postgresql/VERSION-NAME.raft.",
    ),
    default("KUBERNETES_NAMESPACE", "default", "Kubernetes namespace of the pod."),
    default(
        "KUBERNETES_LABELS",
        "application=patroni",
        "Labels of the cluster's Kubernetes objects as name=value, separated by commas.",
    ),
    default("KUBERNETES_USE_ENDPOINTS", "no", "Keep the state in Endpoints instead of ConfigMaps (yes or no)."),
    example("KUBERNETES_POD_IP", "10.0.3.141", "Address of the pod in the Endpoints. Default: HOST_ADDRESS."),
    example(
        "SCOPE",
        "16-main",
        "Only in /etc/default/patroni@16-main: Patroni's name of the cluster in the DCS. Default: VERSION-NAME.",
    ),
    // This member.
    example("MEMBER_NAME", "pg1", "Name of this member, unique in the Patroni cluster. Default: the host name."),
    example(
        "HOST_ADDRESS",
        "10.0.3.141",
        "Address at which the other members reach this one. Default: from MEMBERS, or the source address of the default route.",
    ),
    example(
        "MEMBERS",
        "pg1=10.0.3.141,pg2=10.0.3.142,pg3=10.0.3.143",
        "All members with their addresses, the same line on each of them.",
    ),
    example(
        "NETWORK",
        "10.0.3.0/24",
        "Networks of members and clients for pg_hba.conf, separated by commas. Default: the network of HOST_ADDRESS.",
    ),
    example(
        "LISTEN_ADDRESSES",
        "10.0.3.141,127.0.0.1",
        "Addresses on which PostgreSQL listens, or *. Default: HOST_ADDRESS and loopback; with VIPS, *.",
    ),
    example(
        "PORT",
        "5432",
        "Only in /etc/default/patroni@16-main: port of PostgreSQL. Default: the existing or next free one.",
    ),
    example(
        "PATRONI_PROGRAM",
        "/opt/patroni/bin/patroni",
        "Only in this file: the Patroni that patroni@ starts, as its program or its Python. Default: that of /usr/bin/python3.",
    ),
    default(
        "SITE_KEY_FILE",
        "/etc/patroni/site.key",
        "File from which passwords are derived; copy it to every member.",
    ),
    example(
        "RESTAPI_PORT",
        "8008",
        "Only in /etc/default/patroni@16-main: port of the REST API, the same on all members. Default: PORT + 2576.",
    ),
    example(
        "RESTAPI_CERT",
        "/etc/patroni/tls/member.pem",
        "Certificate of the REST API, which enables TLS; snakeoil for testing only.",
    ),
    example("RESTAPI_KEY", "/etc/patroni/tls/member.key", "Key of RESTAPI_CERT, readable by postgres."),
    example(
        "RESTAPI_CACERT",
        "/etc/patroni/tls/ca.pem",
        "CA certificates that verify members and clients of the REST API. Default: those that this host trusts.",
    ),
    default(
        "RESTAPI_VERIFY_CLIENT",
        "none",
        "Which requests need a client certificate: none, optional (those that change state) or required (all).",
    ),
    example(
        "CTL_CERT",
        "/etc/patroni/tls/ctl.pem",
        "Client certificate of patronictl. Default: RESTAPI_CERT if RESTAPI_VERIFY_CLIENT is not none.",
    ),
    example("CTL_KEY", "/etc/patroni/tls/ctl.key", "Key of CTL_CERT. Default: RESTAPI_KEY if CTL_CERT is not set."),
    default("RESTAPI_USERNAME", "patroni", "User name for requests that change state."),
    example(
        "RESTAPI_PASSWORD_FILE",
        "/etc/patroni/restapi.password",
        "File with the password of this user. Default: a password derived from the site key.",
    ),
    default(
        "RESTAPI_ALLOWLIST",
        "no",
        "Accept requests that change state only from MEMBERS, or from NETWORK if MEMBERS is not set (yes or no).",
    ),
    // What the members have in common, in the DCS once the cluster is bootstrapped.
    default("TTL", "30", "Seconds until the leader lock of a primary that does not respond expires."),
    default("LOOP_WAIT", "10", "Seconds between the runs of Patroni's HA loop."),
    default("RETRY_TIMEOUT", "10", "Seconds for which Patroni retries operations of the DCS and of PostgreSQL."),
    default("MAXIMUM_LAG_ON_FAILOVER", "1048576", "Bytes by which a replica may lag and still be promoted."),
    default("PRIMARY_START_TIMEOUT", "300", "Seconds for which a crashed primary may recover before a failover."),
    default(
        "FAILSAFE_MODE",
        "yes",
        "Keep the primary if the DCS is unreachable, as long as it reaches all members (yes or no).",
    ),
    default(
        "SYNCHRONOUS_MODE",
        "no",
        "Acknowledge a commit only when a standby has it: no, yes or quorum (best with Patroni 4.0 and three members).",
    ),
    default("SYNCHRONOUS_MODE_STRICT", "no", "Let commits wait even if there is no standby (yes or no)."),
    default("SYNCHRONOUS_NODE_COUNT", "1", "Number of synchronous standbys."),
    example(
        "SLOTS",
        "standby:physical,app:logical:shop:pgoutput",
        "Permanent slots, name:physical or name:logical:database:plugin, separated by commas.",
    ),
    example("STANDBY_HOST", "10.1.3.100", "Make this a standby cluster that follows the primary at this host."),
    default("STANDBY_PORT", "5432", "Port of STANDBY_HOST."),
    example("STANDBY_SLOT", "standby", "Slot on STANDBY_HOST that the standby leader uses."),
    example(
        "PASSWORD_SCOPE",
        "16/main",
        "Cluster whose passwords are used; for a standby cluster, its source. Default: this cluster.",
    ),
    default("PG_TUNE", "no", "auto: size PostgreSQL's memory and parallelism from this host's RAM and CPUs."),
    example(
        "PG_PARAMETERS_FILE",
        "/etc/patroni/parameters.conf",
        "File with PostgreSQL parameters, in the format of postgresql.conf.",
    ),
    example(
        "PG_HBA_FILE",
        "/etc/patroni/pg_hba.lines",
        "File with lines for pg_hba.conf that precede the general ones.",
    ),
    default("PG_HBA_GENERAL", "yes", "Let every role log in over the Unix socket and from NETWORK (yes or no)."),
    example("PG_IDENT_FILE", "/etc/patroni/pg_ident.lines", "File with lines for pg_ident.conf."),
    // Certificates and passwords of PostgreSQL.
    example(
        "SSL",
        "required",
        "TLS of network connections: required, allowed or off. Default: required if PostgreSQL has a certificate.",
    ),
    example(
        "SSL_CERT",
        "/etc/patroni/tls/postgresql.pem",
        "Certificate of PostgreSQL. Default: the one that postgresql-common configured.",
    ),
    example(
        "SSL_KEY",
        "/etc/patroni/tls/postgresql.key",
        "Key of SSL_CERT, readable by postgres. Default: the one that postgresql-common configured.",
    ),
    example("SSL_CACERT", "/etc/patroni/tls/ca.pem", "CA certificates that verify members and clients."),
    default("SUPERUSER_NAME", "postgres", "Name of the superuser as which Patroni logs in."),
    default("REPLICATION_NAME", "replicator", "Name of the role with which members replicate."),
    default("REWIND_NAME", "rewind_user", "Name of the role with which pg_rewind reads from the primary."),
    default("REPLICATION_AUTH", "password", "How members authenticate to each other: password or cert."),
    example(
        "REPLICATION_CERT",
        "/etc/patroni/tls/replicator.pem",
        "For cert: certificate whose common name is REPLICATION_NAME.",
    ),
    example(
        "REPLICATION_KEY",
        "/etc/patroni/tls/replicator.key",
        "For cert: key of REPLICATION_CERT, readable by postgres.",
    ),
    example(
        "REPLICATION_PASSWORD_FILE",
        "/etc/patroni/replicator.password",
        "File with the password of REPLICATION_NAME. Default: a password derived from the site key.",
    ),
    example(
        "REWIND_PASSWORD_FILE",
        "/etc/patroni/rewind_user.password",
        "File with the password of REWIND_NAME. Default: a password derived from the site key.",
    ),
    example(
        "SUPERUSER_PASSWORD_FILE",
        "/etc/patroni/postgres.password",
        "File with a password for SUPERUSER_NAME. Default: no password; the Unix socket needs none.",
    ),
    // This member in the Patroni cluster.
    default("NOFAILOVER", "no", "Never promote this member (yes or no)."),
    default("FAILOVER_PRIORITY", "1", "Of several candidates, the one with the highest number is promoted."),
    default("NOLOADBALANCE", "no", "Do not offer this member for reading in the REST API (yes or no)."),
    default("CLONEFROM", "no", "Prefer this member over the primary as the source of base backups (yes or no)."),
    default("NOSYNC", "no", "Never make this member a synchronous standby (yes or no)."),
    default("WATCHDOG", "automatic", "Use of a watchdog: off, automatic or required."),
    default("WATCHDOG_DEVICE", "/dev/watchdog", "Device of the watchdog."),
    default("LOG_LEVEL", "INFO", "Log level of Patroni: DEBUG, INFO, WARNING, ERROR or CRITICAL."),
    default(
        "LOG_FORMAT",
        "%(asctime)s %(levelname)s: %(message)s",
        "Log format of Patroni, in the syntax of Python's logging module.",
    ),
    example(
        "LOG_DIR",
        "/var/log/patroni",
        "Directory for Patroni's log files. Default: none; Patroni logs to the journal.",
    ),
    default("LOG_FILE_NUM", "4", "With LOG_DIR: number of old log files that are kept."),
    default("LOG_FILE_SIZE", "25000000", "With LOG_DIR: bytes after which Patroni starts a new log file."),
    // A new cluster, and a new replica.
    example("LOCALE", "C.UTF-8", "Locale of a new cluster. Default: from createcluster.conf or the environment."),
    example("ENCODING", "UTF8", "Encoding of a new cluster. Default: from createcluster.conf or the locale."),
    example(
        "DATA_CHECKSUMS",
        "yes",
        "Data checksums in a new cluster: yes or no. Default: from createcluster.conf or PostgreSQL's own default.",
    ),
    example(
        "CLONE_MAX_RATE",
        "50M",
        "Maximum rate of a base backup per second: 50M, 900k, or kilobytes without a letter. Default: unlimited.",
    ),
    example(
        "CLONE_COMPRESS",
        "server-lz4",
        "Compression of a base backup on the network: METHOD[:DETAIL] of pg_basebackup.",
    ),
    default(
        "CLONE_CHECKPOINT",
        "fast",
        "Checkpoint of a base backup: fast, or spread to reduce the load on the primary's disks.",
    ),
    // The client endpoint.
    example(
        "VIPS",
        "10.0.3.100/24,10.1.3.100/24",
        "Virtual IP addresses, separated by commas; a member uses the one in its subnet.",
    ),
    default("VIP_MANAGER", "dnscp", "Program that moves the virtual IP address: dnscp, keepalived or vip-manager."),
    example("VIP_INTERFACE", "eth0", "Interface for the virtual IP address. Default: the one in its subnet."),
    default("VIP_LEASE", "10", "Seconds for which the kernel keeps the address when it is not renewed."),
    default("VIP_STANDBY_LEADER", "no", "Give address and name to the leader of a standby cluster, too (yes or no)."),
    example(
        "DNS_NAME",
        "pgsql",
        "DNS name of the primary, with or without its zone. Default: VERSION-NAME, as in 16-main.",
    ),
    example(
        "DNS_ZONE",
        "example.org",
        "DNS zone of this name; DNS_ZONE or DNS_NAME enables registration. Default: from DNS_NAME or the host's domain.",
    ),
    example(
        "DNS_SERVERS",
        "10.0.3.53",
        "Servers that accept the update as host[:port], separated by commas. Default: those in the zone's SOA and NS records.",
    ),
    default("DNS_TTL", "1200", "Seconds for which resolvers may cache the record."),
    default(
        "DNS_AUTH",
        "none",
        "Authentication of the update: none, tsig or gss (Kerberos, as Active Directory requires).",
    ),
    example("DNS_TSIG_KEY_FILE", "/etc/patroni/dnscp.tsig", "For tsig: the key file, in the format of tsig-keygen."),
    example("DNS_PRINCIPAL", "pgsql$@EXAMPLE.ORG", "For gss: the Kerberos account."),
    example("DNS_KEYTAB", "/etc/patroni/dnscp.keytab", "For gss: keytab of DNS_PRINCIPAL."),
    example(
        "DNS_PASSWORD_FILE",
        "/etc/patroni/dnscp.password",
        "For gss, instead of DNS_KEYTAB: file with the password of DNS_PRINCIPAL.",
    ),
    // The integrations.
    example("HAPROXY_WRITE_PORT", "15432", "Port of HAProxy for the primary. Default: PORT + 10000."),
    example("HAPROXY_READ_PORT", "25432", "Port of HAProxy for the replicas. Default: PORT + 20000."),
    example("HAPROXY_SYNC_PORT", "30432", "Port of HAProxy for the synchronous standbys."),
    default("HAPROXY_READ_PRIMARY", "no", "Route read connections to the primary, too (yes or no)."),
    default(
        "HAPROXY_MAX_LAG",
        "16MB",
        "Do not route read connections to a replica that lags by more than this: bytes, or with kB, MB or GB.",
    ),
    default("HAPROXY_STATS_PORT", "7000", "Port of HAProxy's statistics page, on loopback."),
    example(
        "PGBOUNCER_SERVER",
        "pgsql.example.org",
        "Where PgBouncer reaches the primary, host[:port]. Default: the address in VIPS, the DNS name, or HAProxy on this host.",
    ),
    default("PGBOUNCER_LISTEN", "127.0.0.1", "Addresses on which PgBouncer listens, separated by commas, or *."),
    default("PGBOUNCER_PORT", "6432", "Port on which PgBouncer listens."),
    default(
        "PGBOUNCER_POOL_MODE",
        "session",
        "When PgBouncer reuses a server connection: after a session or after each transaction.",
    ),
    // The DCS, if it runs on the members.
    default("ETCD_CERT", "/etc/patroni/tls/etcd.pem", "Certificate of the etcd server on this member."),
    default("ETCD_KEY", "/etc/patroni/tls/etcd.key", "Key of ETCD_CERT, readable by etcd."),
    default("ETCD_STATE", "new", "existing: this server joins an existing etcd cluster."),
    example(
        "CONSUL_SERVERS",
        "pg1,pg2,pg3",
        "Members that run a Consul server, separated by commas; the others run an agent. Default: all of MEMBERS.",
    ),
    default("CONSUL_CERT", "/etc/patroni/tls/consul.pem", "Certificate of the Consul agent on this member."),
    default("CONSUL_KEY", "/etc/patroni/tls/consul.key", "Key of CONSUL_CERT, readable by consul."),
    example(
        "CONSUL_AGENT_TOKEN_FILE",
        "/etc/patroni/agent.token",
        "File with the ACL token of the Consul agents themselves.",
    ),
];

/// Keys that one cluster has for itself: clusters of the same host cannot share them.
pub const OF_ONE_CLUSTER: [&str; 2] = ["SCOPE", "RESTAPI_PORT"];

/// Keys that hold for the host: units and programs that know no cluster use them, too.
pub const OF_THE_HOST: [&str; 1] = ["PATRONI_PROGRAM"];

/// The origin of a value.
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

/// A value as it was written. An empty value counts as not set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The string, never empty.
    pub text: String,
    /// The place where it was written.
    pub origin: Origin,
}

/// The settings that apply to one cluster.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    values: BTreeMap<String, Setting>,
}

impl Settings {
    /// Reads the files of the site and of the cluster. Neither has to exist.
    pub fn read(root: &Root, id: &ClusterId) -> Result<Self> {
        let mut settings = Self::read_site(root)?;
        settings.read_file(root, &cluster_file(id))?;
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
        for assignment in envfile::parse(path, &text)? {
            if path == Path::new(SITE_FILE) && OF_ONE_CLUSTER.contains(&assignment.key.as_str()) {
                let key = &assignment.key;
                fail!(
                    at in_line(path, assignment.line), "{key} cannot be set for all clusters";
                    "Set it in the file of one cluster, such as {SITE_FILE}@16-main."
                );
            }
            if path != Path::new(SITE_FILE) {
                of_cluster(&assignment.key).at(in_line(path, assignment.line))?;
            }
            self.put(&assignment.key, assignment.value, Origin::File(path.to_owned(), assignment.line))?;
        }
        Ok(())
    }

    /// Takes `KEY=VALUE` from the command line, which overrides the files.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let Some((key, value)) = assignment.split_once('=') else {
            fail!(at "--set", "'{assignment}' is not an assignment"; "Write it as --set KEY=VALUE.");
        };
        of_cluster(key).at("--set")?;
        self.put(key, value.to_owned(), Origin::Option("--set"))
    }

    /// Replaces a value; an empty one removes it.
    pub fn put(&mut self, name: &str, text: String, origin: Origin) -> Result<()> {
        known(name).at(&origin)?;
        if text.is_empty() {
            self.values.remove(name);
        } else {
            self.values.insert(name.to_owned(), Setting { text, origin });
        }
        Ok(())
    }

    /// The value of a key, also of one with [`PARAMETER_PREFIX`], if it is set.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Setting> {
        debug_assert!(known(key).is_ok(), "{key} is not a key");
        self.values.get(key)
    }

    /// The PostgreSQL parameters that are set with [`PARAMETER_PREFIX`], by name.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Setting)> {
        self.values.iter().filter_map(|(key, setting)| Some((parameter(key)?, setting)))
    }

    /// The string of a key, if it is set.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).map(|setting| setting.text.as_str())
    }

    /// `FILE:LINE` of the first of some keys that is set: the place of an error about more than one key. Empty if none is set.
    #[must_use]
    pub fn place(&self, keys: &[&str]) -> String {
        keys.iter().find_map(|key| self.get(key)).map_or_else(String::new, |setting| setting.origin.to_string())
    }

    /// The value of a key as `parse` understands it; its error gets the place and the key.
    pub fn parse<T>(&self, key: &str, parse: impl FnOnce(&str) -> Result<T>) -> Result<Option<T>> {
        self.get(key).map(|setting| parse(&setting.text).context(key.to_owned()).at(&setting.origin)).transpose()
    }

    /// A whole number within bounds.
    pub fn number(&self, key: &str, least: u64, most: u64) -> Result<Option<u64>> {
        self.parse(key, |text| match text.parse::<u64>() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => fail!("'{text}' is not a whole number between {least} and {most}"),
        })
    }

    /// `yes` or `no`, or one of the other words for them that PostgreSQL and systemd accept.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.parse(key, |text| Ok(boolean(text).ok_or_else(|| trouble!("'{text}' is neither yes nor no"))?))
    }

    /// One of the words that are allowed.
    pub fn choice(&self, key: &str, words: &[&'static str]) -> Result<Option<&'static str>> {
        self.parse(key, |text| {
            let word = words.iter().find(|word| **word == text);
            Ok(*word.ok_or_else(|| trouble!("'{text}' is none of {}", words.join(", ")))?)
        })
    }

    /// The items of a list, separated by commas and white space.
    pub fn list<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T>) -> Result<Option<Vec<T>>> {
        self.parse(key, |text| {
            let parts: Vec<T> =
                text.split([',', ' ', '\t', '\n']).filter(|part| !part.is_empty()).map(parse).collect::<Result<_>>()?;
            if parts.is_empty() {
                fail!("'{text}' is an empty list"; "Name its items, or remove the line.")
            }
            Ok(parts)
        })
    }

    /// An absolute path.
    pub fn path(&self, key: &str) -> Result<Option<PathBuf>> {
        self.parse(key, |text| {
            if text.starts_with('/') { Ok(PathBuf::from(text)) } else { fail!("'{text}' is not an absolute path") }
        })
    }

    /// The file that a key names, which exists and can be read.
    pub fn file(&self, root: &Root, key: &str) -> Result<Option<PathBuf>> {
        let Some(path) = self.path(key)? else { return Ok(None) };
        let opener = Opener::new(root, Named::Here);
        self.parse(key, |_| match opener.open(&path)? {
            Some(_) => Ok(()),
            None => Err(missing(&path).hint(format!("Create the file, or correct {key}.")).into()),
        })?;
        Ok(Some(path))
    }

    /// The files that two keys name, such as a certificate and its private key; one key without the other is an error.
    pub fn pair(&self, first: &str, second: &str) -> Result<Option<(PathBuf, PathBuf)>> {
        match (self.path(first)?, self.path(second)?) {
            (Some(one), Some(other)) => Ok(Some((one, other))),
            (None, None) => Ok(None),
            _ => fail!(
                at self.place(&[first, second]), "{first} and {second} must be set together";
                "Set both or neither."
            ),
        }
    }

    /// The secret in the file that a key names.
    pub fn secret(&self, root: &Root, key: &str) -> Result<Option<String>> {
        match self.path(key)? {
            Some(path) => self.parse(key, |_| keys::read_secret(root, &path)),
            None => Ok(None),
        }
    }
}

/// `yes` or `no`, or one of the other words for them that PostgreSQL and systemd accept.
#[must_use]
pub fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "true" | "on" | "1" => Some(true),
        "no" | "false" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// The name that is most similar to `wrong`, and the number of characters that differ.
pub fn nearest<'n>(wrong: &str, names: impl Iterator<Item = &'n str>) -> Option<(usize, &'n str)> {
    names.map(|name| (strsim::damerau_levenshtein(wrong, name), name)).min()
}

/// Can a key be set for one cluster?
fn of_cluster(key: &str) -> Result<(), Trouble> {
    if OF_THE_HOST.contains(&key) {
        fail!("{key} cannot be set for one cluster"; "Set it in {SITE_FILE}.");
    }
    Ok(())
}

/// The PostgreSQL parameter that a key sets.
fn parameter(key: &str) -> Option<&str> {
    let name = key.strip_prefix(PARAMETER_PREFIX)?;
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    (name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(plain)).then_some(name)
}

/// Is this a key? The error suggests the key that was probably meant.
fn known(name: &str) -> Result<(), Trouble> {
    if KEYS.iter().any(|key| key.name == name) || parameter(name).is_some() {
        return Ok(());
    }
    let upper = name.to_ascii_uppercase();
    let nearest = nearest(&upper, KEYS.iter().map(|key| key.name)).filter(|(distance, key)| *distance <= key.len() / 2);
    // PG_TUN means PG_TUNE, and PG_Work_Mem means PG_work_mem.
    let lower = name.get(PARAMETER_PREFIX.len()..).unwrap_or_default().to_ascii_lowercase();
    let as_parameter = format!("{PARAMETER_PREFIX}{lower}");
    if upper.starts_with(PARAMETER_PREFIX) && nearest.is_none_or(|(distance, _)| distance > 2) {
        return Err(match parameter(&as_parameter) {
            Some(_) => trouble!(
                "unknown key {name}";
                "The name of a PostgreSQL parameter stands in lower case after {PARAMETER_PREFIX}: did you mean {as_parameter}?"
            ),
            None => trouble!(
                "unknown key {name}";
                "'{lower}' cannot be part of a key. Set such a parameter in PG_PARAMETERS_FILE."
            ),
        });
    }
    Err(match nearest {
        Some((_, nearest)) => trouble!("unknown key {name}"; "Did you mean {nearest}?"),
        None => trouble!("unknown key {name}"; "All keys are described in patroni.default(5)."),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::trouble::told;

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
        let error = told(&Settings::read(&root, &id).unwrap_err());
        assert_eq!(error, "/etc/default/patroni:2: unknown key TTLL\nhint: Did you mean TTL?");
        for (wrong, meant) in [
            ("PG_TUN", "Did you mean PG_TUNE?"),
            ("PG_HBA_FIEL", "Did you mean PG_HBA_FILE?"),
            ("PG_Work_Mem", "did you mean PG_work_mem?"),
            ("PG_SHARED_BUFFERS", "did you mean PG_shared_buffers?"),
            ("pg_shared_buffers", "did you mean PG_shared_buffers?"),
            ("PG_auto_explain.log_timing", "PG_PARAMETERS_FILE"),
            ("PG_", "unknown key"),
            ("PG_1", "unknown key"),
        ] {
            let error = told(&Settings::default().set(&format!("{wrong}=1")).unwrap_err());
            assert!(error.contains(meant), "{error}");
        }
        let (_folder, root) = host(&[("etc/default/patroni", "\nRESTAPI_PORT=8008\n")]);
        let error = told(&Settings::read(&root, &id).unwrap_err());
        assert!(error.starts_with("/etc/default/patroni:2: RESTAPI_PORT cannot be set for all clusters\n"), "{error}");
        let (_folder, root) = host(&[("etc/default/patroni", "TTL=soon\nDCS_PASSWORD_FILE=/pw\n")]);
        let settings = Settings::read(&root, &id).unwrap();
        let error = told(&settings.number("TTL", 20, 99).unwrap_err());
        assert_eq!(error, "/etc/default/patroni:1: TTL: 'soon' is not a whole number between 20 and 99");
        let error = told(&settings.secret(&root, "DCS_PASSWORD_FILE").unwrap_err());
        assert_eq!(error, "/etc/default/patroni:2: DCS_PASSWORD_FILE: there is no file /pw");
    }

    #[test]
    fn a_file_exists_and_a_pair_is_whole() {
        let (_folder, root) = host(&[("etc/ca.pem", "")]);
        let mut settings = Settings::default();
        for assignment in ["DCS_CACERT=/etc/ca.pem", "DCS_CERT=/none", "DCS_KEY=/etc", "SSL_KEY=/etc/ca.pem"] {
            settings.set(assignment).unwrap();
        }
        let fault = |key| told(&settings.file(&root, key).unwrap_err());
        assert_eq!(settings.file(&root, "DCS_CACERT").unwrap(), Some(PathBuf::from("/etc/ca.pem")));
        assert_eq!(settings.file(&root, "SSL_CACERT").unwrap(), None);
        assert_eq!(
            fault("DCS_CERT"),
            "--set: DCS_CERT: there is no file /none\nhint: Create the file, or correct DCS_CERT."
        );
        assert_eq!(fault("DCS_KEY"), "--set: DCS_KEY: /etc: is a directory, not a file");
        assert_eq!(settings.pair("DCS_CERT", "DCS_KEY").unwrap(), Some(("/none".into(), "/etc".into())));
        assert_eq!(settings.pair("RESTAPI_CERT", "RESTAPI_KEY").unwrap(), None);
        assert_eq!(
            told(&settings.pair("SSL_CERT", "SSL_KEY").unwrap_err()),
            "--set: SSL_CERT and SSL_KEY must be set together\nhint: Set both or neither."
        );
    }
}
