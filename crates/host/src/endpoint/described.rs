//! The client endpoint as settings, to show or compare them.

use super::{Auth, Dns, Endpoint, GssSecret};

impl Endpoint {
    /// Each setting with its value. A name is complete, and a secret is only its file.
    #[must_use]
    pub fn described(&self) -> Vec<(&'static str, String)> {
        let vips = self.vips.iter().map(|vip| match vip.prefix {
            Some(prefix) => format!("{}/{prefix}", vip.address),
            None => vip.address.to_string(),
        });
        let mut all = vec![
            ("VIPS", vips.collect::<Vec<_>>().join(",")),
            ("VIP_MANAGER", self.manager.name().to_owned()),
            ("VIP_INTERFACE", self.interface.clone().unwrap_or_default()),
            ("VIP_LEASE", self.lease.as_secs().to_string()),
            ("VIP_STANDBY_LEADER", if self.standby_leader { "yes" } else { "no" }.to_owned()),
        ];
        if let Some(dns) = &self.dns {
            all.extend(dns.described());
        }
        all
    }

    /// The same in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let all = self.described().into_iter().filter(|(_, value)| !value.is_empty());
        all.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
    }

    /// What differs in other settings: `DNS_TTL=30 (was 1200)`.
    #[must_use]
    pub fn changes(&self, new: &Self) -> Vec<String> {
        let (old, new) = (self.described(), new.described());
        let value = |all: &[(&str, String)], key: &str| {
            all.iter().find(|(other, _)| *other == key).map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let mut keys: Vec<&str> = old.iter().chain(&new).map(|(key, _)| *key).collect();
        keys.dedup();
        let mut changes: Vec<String> = Vec::new();
        for key in keys {
            let (was, is) = (value(&old, key), value(&new, key));
            let shown = match (was.as_str(), is.as_str()) {
                (was, is) if was == is => continue,
                ("", is) => format!("{key}={is} (was not set)"),
                (was, "") => format!("{key} is not set (was {was})"),
                (was, is) => format!("{key}={is} (was {was})"),
            };
            if !changes.contains(&shown) {
                changes.push(shown);
            }
        }
        changes
    }
}

impl Dns {
    fn described(&self) -> Vec<(&'static str, String)> {
        let auth = match &self.auth {
            Auth::None => "none".to_owned(),
            Auth::Tsig(key) => format!("tsig with {}", key.display()),
            Auth::Gss { principal, secret: GssSecret::Keytab(file) | GssSecret::Password(file) } => {
                format!("gss as {principal} with {}", file.display())
            }
        };
        vec![
            ("DNS_NAME", self.name.clone()),
            ("DNS_ZONE", self.zone.clone().unwrap_or_default()),
            ("DNS_SERVERS", self.servers.join(",")),
            ("DNS_TTL", self.ttl.to_string()),
            ("DNS_AUTH", auth),
        ]
    }
}
