//! `docs/three-nodes.md`: its commands, as they are written there, set up a site on three bare machines. Then other programs look at it.
//! The site gets a new site key by the commands of `docs/passwords.md`.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::page::{self, Block};
use lab::patroni::{self, Cluster};
use lab::{Lab, Node, Release};

const PAGE: &str = include_str!("../../../docs/three-nodes.md");
const PASSWORDS: &str = include_str!("../../../docs/passwords.md");
const MACHINES: [&str; 3] = ["pg1", "pg2", "pg3"];

/// The section for which a machine has to be lost first.
const LOST: &str = "Replace a failed host";

/// The longest is the installation.
const LIMIT: Duration = page::LIMIT;

/// What the page takes for given, and what a machine that has just been installed has not: root's way from the first machine to the
/// others is open, and nothing is there that the page installs.
const BARE: &str = "apt-get purge -y --autoremove postgresql-client-common patroni haproxy keepalived pgbouncer etcd-server etcd-client \
        consul python3-etcd python3-consul &&
    rm -rf /var/lib/etcd /etc/etcd /var/lib/consul /etc/consul.d /etc/patroni /var/lib/postgresql &&
    mkdir -p -m 0700 /root/.ssh && systemctl start ssh";

const TLS: &str = "--cacert=/etc/patroni/tls/ca.pem --cert=/etc/patroni/tls/store.pem --key=/etc/patroni/tls/store.key";

/// The status of a page of the REST API, which has to be shown with a certificate that the site's authority signs; or why there is none.
const ASK: &str = r#"python3 - "$@" <<'END'
import ssl, sys, urllib.error, urllib.request
url, signers = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
try:
    print(urllib.request.urlopen(url, timeout=5, context=ssl.create_default_context(cafile=signers)).status)
except urllib.error.HTTPError as error:
    print(error.code)
except Exception as error:
    print(error)
END"#;

#[test]
fn etcd_12() -> Result<()> {
    lab::test_with_stores(Release::Debian12, &MACHINES, |lab| site(lab, "etcd"))
}

#[test]
fn etcd_13() -> Result<()> {
    lab::test_with_stores(Release::Debian13, &MACHINES, |lab| site(lab, "etcd"))
}

#[test]
fn consul_12() -> Result<()> {
    lab::test_with_stores(Release::Debian12, &MACHINES, |lab| site(lab, "Consul"))
}

#[test]
fn consul_13() -> Result<()> {
    lab::test_with_stores(Release::Debian13, &MACHINES, |lab| site(lab, "Consul"))
}

fn site(lab: &Lab, store: &str) -> Result<()> {
    lab.offer(&[patroni::package()?])?;
    lab.each(|node| node.run_within(LIMIT, BARE).map(drop))?;
    page::let_in_root_of_the_first(lab)?;
    let blocks = page::blocks(PAGE, &MACHINES, store)?;
    ensure!(blocks.len() > 5, "the page has only {} blocks", blocks.len());
    for block in blocks.iter().filter(|block| block.section != LOST) {
        block.run(lab, &block.nodes)?;
    }
    let main = Cluster::new(lab, "main");
    main.wait_streaming(2, Duration::from_secs(60))?;
    look(lab, &main, store)?;
    renewal(lab, &main, store)?;
    new_site_key(lab, &main, store)?;
    lost(lab, &main, store, &blocks)
}

/// What others than ourselves see of the site.
fn look(lab: &Lab, main: &Cluster, store: &str) -> Result<()> {
    nothing_is_left_to_do(lab, store)?;
    through_haproxy(lab, main)?;
    rest_api(lab)?;
    healthy(lab, store)
}

/// A machine is lost with its disk; the page puts a new one in its place.
fn lost(lab: &Lab, main: &Cluster, store: &str, blocks: &[Block]) -> Result<()> {
    let node = lab.node("pg3");
    if main.primary()?.name() == node.name() {
        main.switch_over(main.candidate()?)?;
        main.wait_streaming(2, Duration::from_secs(60))?;
    }
    lab.replace(node)?;
    node.run_within(LIMIT, BARE)?;
    page::let_in_root_of_the_first(lab)?;
    let packages = |block: &&Block| block.section == "Packages";
    ensure!(blocks.iter().any(|block| packages(&block)), "the page has no packages");
    for block in blocks.iter().filter(packages) {
        block.run(lab, &[node.name()])?;
    }
    for block in blocks.iter().filter(|block| block.section == LOST) {
        block.run(lab, &block.nodes)?;
    }
    main.wait_streaming(2, Duration::from_secs(60))?;
    look(lab, main, store)
}

/// What was generated is there and is what would be generated now; and nobody reads a key who has nothing to do with it.
fn nothing_is_left_to_do(lab: &Lab, store: &str) -> Result<()> {
    lab.each(|node| {
        for what in ["tls", &store.to_lowercase(), "haproxy --all"] {
            node.run(&format!("patroni-gen-config --diff --for {what}"))?;
        }
        node.run("patroni-gen-config --diff --all")?;
        let keys = node.run("cd /etc/patroni/tls && stat -c '%n %U:%G %a' *.key")?;
        let keys: Vec<&str> = keys.lines().collect();
        let server = format!("{0}.key root:{0} 640", store.to_lowercase());
        let expected =
            ["member.key root:postgres 640", "postgresql.key root:postgres 640", "store.key root:postgres 640"];
        let mut expected: Vec<&str> = expected.into_iter().chain([server.as_str()]).collect();
        expected.sort_unstable();
        ensure!(keys == expected, "the keys are {keys:?}");
        Ok(())
    })
}

/// Through `HAProxy` of every machine: one port writes on the primary, the other reads from both replicas.
fn through_haproxy(lab: &Lab, main: &Cluster) -> Result<()> {
    lab.each(|node| node.wait_listening(&[15432, 25432]))?;
    let primary = main.primary()?.ipv4();
    let asks = |from: &Node, to: &Node, port: u16, sql: &str| {
        from.run(&format!(
            "PGPASSWORD=Change-me-1 PGSSLMODE=verify-full PGSSLROOTCERT=/etc/patroni/tls/ca.pem timeout 20 \
             psql -XAtq -v ON_ERROR_STOP=1 'host={} port={port} user=app dbname=app' -c \"{sql}\"",
            to.name()
        ))
    };
    let first = lab.node("pg1");
    asks(first, first, 15432, "create table if not exists seen (what text)")?;
    for (from, to) in lab.nodes().iter().zip(lab.nodes().iter().cycle().skip(1)) {
        let found = asks(from, to, 15432, "insert into seen values ('x') returning host(inet_server_addr())")?;
        ensure!(found.trim() == primary, "{} writes on {found}, the primary is {primary}", to.name());
        let mut readers = Vec::new();
        for _ in 0..4 {
            readers.push(asks(from, to, 25432, "select host(inet_server_addr()), pg_is_in_recovery()")?);
        }
        readers.sort_unstable();
        readers.dedup();
        ensure!(
            readers.len() == 2 && readers.iter().all(|reader| reader.trim().ends_with("|t")),
            "{} reads from {readers:?}",
            to.name()
        );
    }
    Ok(())
}

/// Every machine believes every machine, by its own copy of the authority; who does not know the authority believes none.
fn rest_api(lab: &Lab) -> Result<()> {
    for from in lab.nodes() {
        for to in lab.nodes() {
            let ask = |url: &str, signers: &str| from.run(&ASK.replace("\"$@\"", &format!("{url} {signers}")));
            let url = format!("https://{}:8008/liveness", to.name());
            let said = ask(&url, "/etc/patroni/tls/ca.pem")?;
            ensure!(said.trim() == "200", "{}: {url}: {said}", from.name());
            let said = ask(&url, "")?;
            ensure!(said.contains("CERTIFICATE_VERIFY_FAILED"), "{}: {url} without the authority: {said}", from.name());
            let said = ask(&url.replace("https:", "http:"), "")?;
            ensure!(said.parse::<u16>().is_err(), "{}: {url} in the clear: {said}", from.name());
        }
    }
    Ok(())
}

fn healthy(lab: &Lab, store: &str) -> Result<()> {
    if store == "etcd" { etcd(lab) } else { consul(lab) }
}

/// The port of the store's clients.
fn port(store: &str) -> u16 {
    if store == "etcd" { 2379 } else { 8501 }
}

/// Each server is healthy, for whoever has a certificate.
fn etcd(lab: &Lab) -> Result<()> {
    lab.each(|node| {
        let all = "--endpoints=https://pg1:2379,https://pg2:2379,https://pg3:2379";
        lab.wait_until(Duration::from_secs(40), "three servers of etcd are healthy", || {
            let health = node.try_run(&format!("ETCDCTL_API=3 etcdctl {all} {TLS} endpoint health"))?;
            let said = health.to_string();
            ensure!(health.status.success() && said.matches("is healthy").count() == 3, "{said}");
            Ok(true)
        })?;
        let authority = "--endpoints=https://pg1:2379 --cacert=/etc/patroni/tls/ca.pem --command-timeout=3s";
        let refused = node.try_run(&format!("ETCDCTL_API=3 etcdctl {authority} get --prefix /"))?;
        ensure!(!refused.status.success(), "who shows no certificate reads what etcd has: {refused}");
        let members = node.run(&format!("ETCDCTL_API=3 etcdctl {all} {TLS} member list"))?;
        ensure!(members.lines().count() == 3 && !members.contains("http:"), "the servers are {members}");
        Ok(())
    })
}

/// All servers vote, and are in the catalogue; nobody does anything without a certificate or without a token, and Patroni's own lets it
/// do nothing outside of its keys.
fn consul(lab: &Lab) -> Result<()> {
    let bare = "CONSUL_HTTP_ADDR=https://127.0.0.1:8501 CONSUL_CACERT=/etc/patroni/tls/ca.pem";
    let shown =
        format!("{bare} CONSUL_CLIENT_CERT=/etc/patroni/tls/store.pem CONSUL_CLIENT_KEY=/etc/patroni/tls/store.key");
    let with = |token: &str| format!("{shown} CONSUL_HTTP_TOKEN_FILE={token} timeout 20 consul");
    let first = lab.node("pg1");
    lab.wait_until(Duration::from_secs(40), "three servers of Consul vote", || {
        let peers = first.run(&format!("{} operator raft list-peers", with("/root/consul.token")))?;
        let voters = peers.lines().filter(|line| line.split_whitespace().nth(4) == Some("true")).count();
        ensure!(voters == 3, "the servers are {peers}");
        Ok(true)
    })?;
    lab.each(|node| {
        node.run("consul validate /etc/consul.d")?;
        let own = with("/etc/patroni/store.token");
        lab.wait_until(Duration::from_secs(40), "the catalogue has three servers", || {
            let nodes = node.run(&format!("{own} catalog nodes"))?;
            ensure!(lab.nodes().iter().all(|node| nodes.contains(&node.ipv4())), "the catalogue has {nodes}");
            Ok(true)
        })?;
        let keys = node.run(&format!("{own} kv get -keys postgresql-common/"))?;
        ensure!(keys.contains("-main/"), "Patroni's keys are {keys}");
        for refused in [
            format!("{own} kv put other/key value"),
            format!("{own} acl token list"),
            format!("{shown} timeout 20 consul kv get -keys postgresql-common/ | grep ."),
            format!("CONSUL_HTTP_TOKEN_FILE=/etc/patroni/store.token {bare} timeout 20 consul catalog nodes"),
        ] {
            let said = node.try_run(&format!("set -o pipefail; {refused}"))?;
            ensure!(!said.status.success(), "{refused}: {said}");
        }
        Ok(())
    })
}

/// New certificates on one machine: the others still believe it, and it has them in use once it is told.
fn renewal(lab: &Lab, main: &Cluster, store: &str) -> Result<()> {
    let node = main.replica()?;
    let serial = |of: &str| {
        node.run(&format!("openssl s_client -connect {of} </dev/null 2>/dev/null | openssl x509 -noout -serial"))
    };
    let (postgresql, rest) = ("localhost:5432 -starttls postgres", &format!("{}:8008", node.ipv4()));
    let before = (serial(postgresql)?, serial(rest)?);
    node.run("patroni-gen-config --for tls --renew")?;
    node.run(&format!(
        "systemctl reload {} haproxy && pg_ctlcluster {} reload",
        main.unit(),
        main.slashed().replace('/', " ")
    ))?;
    // Patroni reads its file at its next look, and is not to be asked for anything while its REST API begins anew.
    lab.wait_until(Duration::from_secs(30), "PostgreSQL and Patroni show their new certificates", || {
        let now = (serial(postgresql)?, serial(rest)?);
        Ok(now.0 != before.0 && now.1 != before.1)
    })?;
    node.run("patroni-gen-config --for tls --diff")?;
    node.run_within(LIMIT, &format!("systemctl restart {}", store.to_lowercase()))?;
    node.wait_listening(&[port(store)])?;
    healthy(lab, store)?;
    main.switch_over(node)?;
    main.wait_streaming(2, Duration::from_secs(60))?;
    rest_api(lab)
}

/// Everything that depends on the site key is another one, and the primary and its server are the same.
fn new_site_key(lab: &Lab, main: &Cluster, store: &str) -> Result<()> {
    pools(lab, main)?;
    let primary = main.primary()?;
    // The CA certificates of the members differ in their signatures alone.
    let of_the_site = "cat /etc/patroni/site.key /etc/pgbouncer/userlist.txt && openssl x509 -noout -pubkey -in /etc/patroni/tls/ca.pem";
    let began = || main.sql(primary, "select pg_postmaster_start_time(), pg_is_in_recovery()");
    let (before, server) = (primary.run(of_the_site)?, began()?);
    let page = page::of_cluster(PASSWORDS, main);
    let sections = ["A new site key", "The CA and the gossip key of a new site key"];
    let blocks = page::blocks(&page, &MACHINES, store)?;
    for block in blocks.iter().filter(|block| sections.contains(&block.section)) {
        if !block.commands.contains("set-passwords") {
            block.run(lab, &block.nodes_beside(|| Ok(primary.name().to_owned()))?)?;
            continue;
        }
        let said = primary.try_run_within(LIMIT, &block.commands)?;
        println!("{said}");
        ensure!(said.stdout.contains("new passwords for"), "{said}");
    }
    main.wait_streaming(2, Duration::from_secs(60))?;
    ensure!(began()? == server, "the primary was restarted or demoted");
    let now = primary.run(of_the_site)?;
    for node in lab.nodes() {
        let own = node.run(of_the_site)?;
        ensure!(own == now, "{} has something of another site key:\n{own}\nand the primary:\n{now}", node.name());
    }
    // The first line of a public key says which curve it is on.
    let secret = |line: &&str| !line.starts_with(['#', ';', '-', 'M']) && line.len() > 20;
    let kept: Vec<&str> = now.lines().filter(secret).filter(|line| before.contains(line)).collect();
    ensure!(kept.is_empty(), "of the old site key is left: {kept:?}");
    if store == "Consul" {
        let keys = primary.run("cat /var/lib/consul/serf/local.keyring")?;
        let key = primary.run("sed -n 's/^encrypt = //p' /etc/consul.d/patroni-tools.hcl")?;
        ensure!(keys.matches('"').count() == 2 && keys.contains(key.trim()), "the gossip keys are {keys}, not {key}");
    }
    main.sql(primary, "select pg_terminate_backend(pid) from pg_stat_replication")?;
    main.wait_streaming(2, Duration::from_secs(60))?;
    through_the_pools(lab)?;
    look(lab, main, store)
}

/// A pool on each machine, which leads to the primary through `HAProxy`.
fn pools(lab: &Lab, main: &Cluster) -> Result<()> {
    lab.each(|node| {
        node.run_within(LIMIT, "apt-get install -y pgbouncer")?;
        node.run(&format!("patroni-gen-config for pgbouncer {}", main.slashed()))?;
        node.run("systemctl enable --quiet pgbouncer && systemctl restart pgbouncer")?;
        node.wait_listening(&[6432])
    })?;
    let databases: &[&str] = if lab.release() == Release::Debian12 { &["postgres", "app"] } else { &["postgres"] };
    for database in databases {
        main.primary()?.run(&format!(
            "runuser -u postgres -- psql --cluster {} -d {database} -f /etc/pgbouncer/auth.sql",
            main.slashed()
        ))?;
    }
    through_the_pools(lab)
}

fn through_the_pools(lab: &Lab) -> Result<()> {
    lab.each(|node| {
        lab.wait_until(Duration::from_secs(15), "the pool leads to the primary", || {
            let connection = "host=127.0.0.1 port=6432 user=app dbname=app";
            let asked =
                format!("PGPASSWORD=Change-me-1 timeout 20 psql -XAtqc 'select pg_is_in_recovery()' '{connection}'");
            Ok(node.run(&asked)?.trim() == "f")
        })
    })
}
