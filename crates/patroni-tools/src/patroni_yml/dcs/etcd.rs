//! etcd by its third API (`etcd3`) or by its second (`etcd`): the options are the same
//! (`patroni/dcs/etcd.py`, `AbstractEtcd.get_etcd_client`).

use anyhow::{Result, bail};
use host::Root;
use host::settings::Settings;
use host::trouble;
use host::trouble::Trouble;
use serde_json::json;

use crate::patroni::version::Version;
use crate::patroni_yml::dcs::hosts::{is_name, server};
use crate::patroni_yml::dcs::tls::Tls;
use crate::patroni_yml::dcs::{Kind, Options, credentials, push};

/// The section's options.
pub fn options(root: &Root, settings: &Settings, kind: Kind) -> Result<Options> {
    if kind == Kind::Etcd && settings.truth("DCS_ALLOW_V2")? != Some(true) {
        bail!(
            "{}DCS=etcd is the second API of etcd, which etcd 3.6 does not have and 3.4 and 3.5 have only with --enable-v2: \
             set DCS=etcd3, whose servers are the same, or DCS_ALLOW_V2=yes if you must",
            settings.place(&["DCS"])
        );
    }
    let mut options = Options::new();
    let srv = settings.parse("DCS_SRV", |text| {
        if is_name(text) { Ok(text.to_owned()) } else { bail!("'{text}' is not a domain: write it as example.org") }
    })?;
    push(&mut options, "srv", srv.as_ref());
    let hosts = settings.list("DCS_HOSTS", |text| Ok(server(text, 2379)?.to_string()))?;
    let hosts = hosts.or_else(|| srv.is_none().then(|| vec!["127.0.0.1:2379".to_owned()]));
    push(&mut options, "hosts", hosts.as_ref());
    if let Some(tls) = Tls::read(root, settings)? {
        options.push(("protocol".to_owned(), json!("https")));
        options.extend(tls.files);
    }
    if let Some((user, password)) = credentials(root, settings)? {
        if kind == Kind::Etcd && user.contains(':') {
            bail!(
                "{}DCS_USERNAME has a ':', which ends a user name in HTTP: choose another user",
                settings.place(&["DCS_USERNAME"])
            );
        }
        options.push(("username".to_owned(), json!(user)));
        options.push(("password".to_owned(), json!(password)));
    }
    Ok(options)
}

/// Why this Patroni cannot work with this server of etcd, whose version only the server itself tells. These etcd answer
/// nothing without authentication any more, and Patroni asks for their members and renews its lease without it until
/// 4.1.1 (its release notes; measured with 3.0.2 and 4.0.7 against etcd 3.5.30).
#[must_use]
pub fn users_need(server: Version, patroni: Version) -> Option<Trouble> {
    let closed = match server {
        Version(3, 4, patch) => patch >= 42,
        Version(3, 5, patch) => patch >= 28,
        Version(3, 6, patch) => patch >= 9,
        newer => newer > Version(3, 6, 9),
    };
    (closed && patroni < Version(4, 1, 1)).then(|| {
        trouble!(
            "etcd {server} with users requires Patroni 4.1.1, but {patroni} is installed and would wait for etcd for ever";
            "Upgrade Patroni, use client certificates without users, or an etcd before 3.4.42, 3.5.28 and 3.6.9."
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_a_newer_etcd_need_a_newer_patroni() {
        for (server, patroni, fine) in [
            (Version(3, 4, 23), Version(3, 0, 2), true),
            (Version(3, 4, 42), Version(3, 0, 2), false),
            (Version(3, 5, 16), Version(4, 0, 7), true),
            (Version(3, 5, 28), Version(4, 0, 7), false),
            (Version(3, 5, 30), Version(4, 1, 1), true),
            (Version(3, 6, 8), Version(4, 0, 7), true),
            (Version(3, 6, 9), Version(4, 1, 0), false),
            (Version(3, 7, 0), Version(4, 0, 7), false),
        ] {
            assert_eq!(users_need(server, patroni).is_none(), fine, "etcd {server}, Patroni {patroni}");
        }
    }
}
