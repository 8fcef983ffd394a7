//! etcd, with its v3 API (`etcd3`) or its v2 API (`etcd`): the options are the same
//! (`patroni/dcs/etcd.py`, `AbstractEtcd.get_etcd_client`).

use anyhow::Result;
use host::settings::Settings;
use host::trouble::Trouble;
use host::{Root, fail, trouble};
use serde_json::json;

use crate::patroni::release::Version;
use crate::patroni::version::Patroni;
use crate::patroni_yml::dcs::hosts::{is_name, server};
use crate::patroni_yml::dcs::kind::Kind;
use crate::patroni_yml::dcs::section::{Options, credentials, push};
use crate::patroni_yml::dcs::tls::Tls;

/// The section's options.
pub fn options(root: &Root, settings: &Settings, kind: Kind) -> Result<Options> {
    if kind == Kind::Etcd && settings.boolean("DCS_ALLOW_V2")? != Some(true) {
        fail!(
            at settings.place(&["DCS"]),
            "DCS=etcd is the v2 API of etcd, which etcd 3.4 and 3.5 provide only with --enable-v2, and 3.6 not at all";
            "Set DCS=etcd3, which uses the same servers, or DCS_ALLOW_V2=yes if you have no other choice."
        );
    }
    let mut options = Options::new();
    let srv = settings.parse("DCS_SRV", |text| {
        if !is_name(text) {
            fail!("'{text}' is not a domain"; "Write it as example.org.");
        }
        Ok(text.to_owned())
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
            fail!(
                at settings.place(&["DCS_USERNAME"]),
                "DCS_USERNAME contains ':', which an HTTP user name cannot have";
                "Choose another user."
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
