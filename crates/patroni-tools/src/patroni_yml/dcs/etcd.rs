//! etcd by its third API (`etcd3`) or by its second (`etcd`): the options are the same
//! (`patroni/dcs/etcd.py`, `AbstractEtcd.get_etcd_client`).

use anyhow::{Result, bail};
use host::settings::Settings;
use host::trouble::Trouble;
use host::{Root, fail, trouble};
use serde_json::json;

use crate::patroni::version::{Patroni, Version};
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

/// Why this Patroni cannot work with this etcd, in which users are enabled. Only the server reports its version.
#[must_use]
pub fn users_need(server: Version, patroni: &Patroni) -> Option<Trouble> {
    patroni.cannot_log_in_to(server).map(|patroni| {
        trouble!(
            "etcd {server} with users needs Patroni 4.1.1, but {patroni} is installed, which would wait for etcd for ever";
            "Upgrade Patroni, use client certificates without users, or use an etcd older than 3.4.42, 3.5.28 and 3.6.9."
        )
    })
}
