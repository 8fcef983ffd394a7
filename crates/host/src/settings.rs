//! What the administrator set: `/etc/default/patroni` for the site, `/etc/default/patroni@16-main` for one cluster.
//!
//! Here the files become keys and strings, each with its origin. The part of the program that needs a value interprets it with
//! [`Settings::parse`], so that every error names file and line.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::files::{Named, Opener, missing};
use crate::trouble::{Explain, Trouble};
use crate::{ClusterId, Root, envfile, fail, keys, trouble};

/// The settings of the whole site.
pub const SITE_FILE: &str = "/etc/default/patroni";

/// The settings of one cluster, which override those of the site.
#[must_use]
pub fn cluster_file(id: &ClusterId) -> PathBuf {
    PathBuf::from(format!("{SITE_FILE}@{}", id.dashed()))
}

/// `PG_` and the name of a PostgreSQL parameter in lower case set that parameter. No key of [`KEYS`] is of this form.
pub const PARAMETER_PREFIX: &str = "PG_";

/// Every key, except for those with [`PARAMETER_PREFIX`]. The manual page and the shipped file are tested against this list.
pub const KEYS: &[&str] = &[
    "DCS",
    "DCS_HOSTS",
    "DCS_SRV",
    "DCS_PROTOCOL",
    "DCS_CACERT",
    "DCS_CERT",
    "DCS_KEY",
    "DCS_VERIFY",
    "DCS_USERNAME",
    "DCS_PASSWORD_FILE",
    "DCS_TOKEN_FILE",
    "DCS_ALLOW_V2",
    "CONSUL_REGISTER_SERVICE",
    "CONSUL_SERVICE_TAGS",
    "CONSUL_DC",
    "CONSUL_CHECKS",
    "ZOOKEEPER_ACL",
    "RAFT_ADDRESS",
    "RAFT_DATA_DIR",
    "KUBERNETES_NAMESPACE",
    "KUBERNETES_LABELS",
    "KUBERNETES_USE_ENDPOINTS",
    "KUBERNETES_POD_IP",
    "NAMESPACE",
    "MEMBER_NAME",
    "HOST_ADDRESS",
    "MEMBERS",
    "NETWORK",
    "LISTEN_ADDRESSES",
    "PORT",
    "SITE_KEY_FILE",
    "RESTAPI_CERT",
    "RESTAPI_KEY",
    "RESTAPI_CACERT",
    "RESTAPI_VERIFY_CLIENT",
    "RESTAPI_USERNAME",
    "RESTAPI_PASSWORD_FILE",
    "RESTAPI_ALLOWLIST",
    "CTL_CERT",
    "CTL_KEY",
    // Common to all members, and in the DCS once the cluster is bootstrapped.
    "TTL",
    "LOOP_WAIT",
    "RETRY_TIMEOUT",
    "MAXIMUM_LAG_ON_FAILOVER",
    "PRIMARY_START_TIMEOUT",
    "FAILSAFE_MODE",
    "SYNCHRONOUS_MODE",
    "SYNCHRONOUS_MODE_STRICT",
    "SYNCHRONOUS_NODE_COUNT",
    "SLOTS",
    "STANDBY_HOST",
    "STANDBY_PORT",
    "STANDBY_SLOT",
    "PG_TUNE",
    "PG_PARAMETERS_FILE",
    "PG_HBA_FILE",
    // Certificates and passwords of PostgreSQL.
    "SSL",
    "SSL_CERT",
    "SSL_KEY",
    "SSL_CACERT",
    "REPLICATION_AUTH",
    "REPLICATION_CERT",
    "REPLICATION_KEY",
    "REPLICATION_PASSWORD_FILE",
    "REWIND_PASSWORD_FILE",
    "SUPERUSER_PASSWORD_FILE",
    "PASSWORD_SCOPE",
    // This member in the cluster.
    "NOFAILOVER",
    "FAILOVER_PRIORITY",
    "NOLOADBALANCE",
    "CLONEFROM",
    "NOSYNC",
    "WATCHDOG",
    "WATCHDOG_DEVICE",
    "LOG_LEVEL",
    "LOG_FORMAT",
    "LOG_DIR",
    "LOG_FILE_NUM",
    "LOG_FILE_SIZE",
    "LOCALE",
    "ENCODING",
    "DATA_CHECKSUMS",
    "CLONE_MAX_RATE",
    "CLONE_COMPRESS",
    "CLONE_CHECKPOINT",
    "VIPS",
    "VIP_MANAGER",
    "VIP_INTERFACE",
    "VIP_LEASE",
    "VIP_STANDBY_LEADER",
    "DNS_NAME",
    "DNS_ZONE",
    "DNS_SERVERS",
    "DNS_TTL",
    "DNS_AUTH",
    "DNS_TSIG_KEY_FILE",
    "DNS_PRINCIPAL",
    "DNS_KEYTAB",
    "DNS_PASSWORD_FILE",
    // The programs around the cluster.
    "HAPROXY_WRITE_PORT",
    "HAPROXY_READ_PORT",
    "HAPROXY_SYNC_PORT",
    "HAPROXY_READ_PRIMARY",
    "HAPROXY_MAX_LAG",
    "HAPROXY_STATS_PORT",
    "PGBOUNCER_SERVER",
    "PGBOUNCER_LISTEN",
    "PGBOUNCER_PORT",
    "PGBOUNCER_POOL_MODE",
    // The DCS, if it runs on the members.
    "ETCD_CERT",
    "ETCD_KEY",
    "ETCD_STATE",
    "CONSUL_SERVERS",
    "CONSUL_CERT",
    "CONSUL_KEY",
    "CONSUL_AGENT_TOKEN_FILE",
];

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
            self.put(&assignment.key, assignment.value, Origin::File(path.to_owned(), assignment.line))?;
        }
        Ok(())
    }

    /// Takes `KEY=VALUE` from the command line, which overrides the files.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let Some((key, value)) = assignment.split_once('=') else {
            fail!(at "--set", "'{assignment}' is not an assignment"; "Write it as --set KEY=VALUE.");
        };
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

    /// The value of a key, if it is set.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Setting> {
        debug_assert!(KEYS.contains(&key), "{key} is not in KEYS");
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

    /// `FILE:LINE: ` of the first of some keys that is set, for errors that concern more than one key.
    #[must_use]
    pub fn place(&self, keys: &[&str]) -> String {
        keys.iter().find_map(|key| self.get(key)).map_or_else(String::new, |setting| format!("{}: ", setting.origin))
    }

    /// The value of a key as `parse` understands it; its error gets the place and the key.
    pub fn parse<T>(&self, key: &str, parse: impl FnOnce(&str) -> Result<T>) -> Result<Option<T>> {
        self.get(key).map(|setting| parse(&setting.text).context(key.to_owned()).at(&setting.origin)).transpose()
    }

    /// A whole number within bounds.
    pub fn number(&self, key: &str, least: u64, most: u64) -> Result<Option<u64>> {
        self.parse(key, |text| match text.parse::<u64>() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => fail!("'{text}' is not a whole number from {least} to {most}"),
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
                at self.place(&[first, second]), "{first} and {second} go together";
                "Set both, or neither of them."
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

/// The PostgreSQL parameter that a key sets.
fn parameter(key: &str) -> Option<&str> {
    let name = key.strip_prefix(PARAMETER_PREFIX)?;
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    (name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(plain)).then_some(name)
}

/// Is this a key? The error suggests the key that was probably meant.
fn known(name: &str) -> Result<(), Trouble> {
    if KEYS.contains(&name) || parameter(name).is_some() {
        return Ok(());
    }
    let upper = name.to_ascii_uppercase();
    let nearest = nearest(&upper, KEYS.iter().copied()).filter(|(distance, key)| *distance <= key.len() / 2);
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
        assert!(KEYS.iter().all(|key| parameter(key).is_none()));
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
        let (_folder, root) = host(&[("etc/default/patroni", "TTL=soon\nDCS_PASSWORD_FILE=/pw\n")]);
        let settings = Settings::read(&root, &id).unwrap();
        let error = told(&settings.number("TTL", 20, 99).unwrap_err());
        assert_eq!(error, "/etc/default/patroni:1: TTL: 'soon' is not a whole number from 20 to 99");
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
            "--set: SSL_CERT and SSL_KEY go together\nhint: Set both, or neither of them."
        );
    }
}
