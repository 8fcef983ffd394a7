//! Every store with its real servers, on three machines of each Debian release: what members go through with it, all from
//! settings in `/etc/default/patroni`, and what a member says whose settings are wrong.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::patroni::{self, Cluster};
use lab::store::certificates::{Authority, Pair};
use lab::store::{consul, etcd, zookeeper};
use lab::{Lab, Node, Release, page};

/// What is written down for the administrator.
const PAGE: &str = include_str!("../../../docs/stores.md");

const MACHINES: [&str; 3] = ["pg1", "pg2", "pg3"];

/// Patroni's shortest times, so that the tests do not wait for its default ones.
const SETTINGS: &str = "TTL=20\nLOOP_WAIT=2\nRETRY_TIMEOUT=5\n";

/// Where members have their part of TLS.
const TLS: &str = "/etc/patroni/tls";
const TLS_SETTINGS: &str = "DCS_CACERT=/etc/patroni/tls/ca.pem\nDCS_CERT=/etc/patroni/tls/store.pem\n\
    DCS_KEY=/etc/patroni/tls/store.key\n";

/// A name of the first machine that is in no certificate.
const OTHER_NAME: &str = "store.lab";

#[test]
fn stores_12() -> Result<()> {
    lab::test_with_stores(Release::Debian12, &MACHINES, stores)
}

#[test]
fn stores_13() -> Result<()> {
    lab::test_with_stores(Release::Debian13, &MACHINES, stores)
}

fn stores(lab: &Lab) -> Result<()> {
    patroni::install(lab)?;
    lab.each(|node| node.run("useradd --create-home --groups postgres dba").map(drop))?;
    let first = &lab.nodes()[0];
    lab.each(|node| node.run(&format!("echo {} {OTHER_NAME} >> /etc/hosts", first.ipv4())).map(drop))?;
    let site = Site { lab, authority: Authority::new(first, "site")?, other: Authority::new(first, "other")? };
    site.etcd()?;
    site.etcd_secured()?;
    site.consul()?;
    site.zookeeper()?;
    site.raft_of_three()?;
    site.raft()
}

/// The machines and who signs their certificates.
struct Site<'a> {
    lab: &'a Lab,
    authority: Authority<'a>,
    other: Authority<'a>,
}

/// A store as its members know it.
struct Store<'a> {
    cluster: Cluster<'a>,
    /// The settings, besides those of TLS.
    settings: String,
    /// The subject of the members' certificates, where they have some; `@NAME@` is the machine.
    subject: Option<&'static str>,
    /// The file of a password or token.
    secret: Option<(&'static str, &'static str)>,
    /// The unit of its server.
    unit: &'static str,
    /// Where its clients reach it.
    port: u16,
    /// Whether Patroni knows all servers, or that of its own machine alone.
    knows_all: bool,
}

/// What is wrong on one member, and what is said about it.
struct Fault {
    name: &'static str,
    make: Make,
    /// What a line of Patroni has in the journal; releases differ.
    patroni: &'static [&'static str],
    /// What the line of `patroni-gen-config --check` has, before the start as after it.
    doctor: &'static str,
}

/// How the fault is made.
enum Make {
    /// By another password or token.
    Secret(&'static str),
    /// By settings that come after the right ones, and win.
    Settings(String),
    /// By the certificate of another authority as that by which servers are checked.
    Authority,
    /// By a certificate that has expired.
    Expired,
    /// By a certificate with this subject.
    Subject(&'static str),
    /// By a server on this machine whose certificate has expired.
    ExpiredServer,
}

impl Fault {
    fn new(name: &'static str, make: Make, patroni: &'static [&'static str], doctor: &'static str) -> Self {
        Self { name, make, patroni, doctor }
    }

    fn unreachable(port: u16) -> Self {
        let patroni = &["10.88.0.99 timed out", "No route to host"];
        let make = Make::Settings(format!("DCS_HOSTS=10.88.0.99:{port}\n"));
        Self::new("unreachable hosts", make, patroni, "it is unreachable")
    }

    fn authority() -> Self {
        let patroni = &["certificate verify failed: unable to get local issuer certificate"];
        Self::new("wrong CA", Make::Authority, patroni, "its certificate is not signed by ")
    }
}

impl Site<'_> {
    fn hosts(&self, port: u16) -> String {
        let hosts: Vec<String> = self.lab.nodes().iter().map(|node| format!("{}:{port}", node.ipv4())).collect();
        format!("DCS_HOSTS={}\n", hosts.join(","))
    }

    /// Runs one step and says how long it took.
    fn step(&self, store: &str, what: &str, action: impl FnOnce() -> Result<()>) -> Result<()> {
        let begin = Instant::now();
        action().with_context(|| format!("Debian {}: {store}: {what}", self.lab.release()))?;
        println!("Debian {}: {store}: {what}: ok, {:.1} s", self.lab.release(), begin.elapsed().as_secs_f32());
        Ok(())
    }

    fn etcd(&self) -> Result<()> {
        let store = Store {
            cluster: Cluster::new(self.lab, "etcd"),
            settings: format!("DCS=etcd3\n{}", self.hosts(2379)),
            subject: None,
            secret: None,
            unit: "etcd",
            port: 2379,
            knows_all: true,
        };
        self.step("etcd", "servers", || etcd::start(self.lab))?;
        self.life("etcd", &store)?;
        self.faults("etcd", &store, &[Fault::unreachable(2379)])?;
        self.step("etcd", "wrong site key", || self.wrong_site_key(&store))?;
        self.step("etcd", "removed", || store.cluster.remove().and_then(|()| etcd::remove(self.lab)))
    }

    fn etcd_secured(&self) -> Result<()> {
        let store = Store {
            cluster: Cluster::new(self.lab, "etcds"),
            settings: format!(
                "DCS=etcd3\n{}{TLS_SETTINGS}DCS_USERNAME={}\nDCS_PASSWORD_FILE=/etc/patroni/store.password\n",
                self.hosts(2379),
                etcd::USER
            ),
            subject: Some("/O=Lab"),
            secret: Some(("/etc/patroni/store.password", etcd::PASSWORD)),
            unit: "etcd",
            port: 2379,
            knows_all: true,
        };
        let name = "etcd with TLS and users";
        self.step(name, "servers", || {
            let blocks = page::blocks(PAGE, &MACHINES, "etcd")?;
            let user =
                blocks.iter().find(|block| block.section == "etcd").context("docs/stores.md has no user of etcd")?;
            etcd::start_secured(self.lab, &self.authority, &user.commands)
        })?;
        self.life(name, &store)?;
        self.power_off(name, &store)?;
        let wrong_password: &[&str] = match self.lab.release() {
            Release::Debian12 => &["authentication failed, invalid user ID or password"],
            // Patroni 4.0 says no more.
            Release::Debian13 => &["waiting on etcd"],
        };
        let faults = [
            Fault::new("wrong password", Make::Secret("wrong"), wrong_password, "it rejects the user "),
            Fault::authority(),
            Fault::new(
                "expired certificate",
                Make::Expired,
                &["alert certificate expired", "EOF occurred in violation"],
                "has expired (",
            ),
            Fault::new(
                "expired certificate of the server",
                Make::ExpiredServer,
                &["certificate has expired"],
                "its certificate (O=Lab) has expired (",
            ),
            Fault::new(
                "certificate of the server for another name",
                Make::Settings(format!("DCS_HOSTS={OTHER_NAME}:2379\n")),
                &["certificate is not valid for 'store.lab'", "hostname 'store.lab' doesn't match"],
                "its certificate is for ",
            ),
            Fault::new(
                "certificate with a common name",
                Make::Subject("/O=Lab/CN=patroni"),
                &["CommonName of client sending a request against gateway"],
                "accepts no client certificate with a common name",
            ),
            Fault::unreachable(2379),
        ];
        self.faults(name, &store, &faults)?;
        self.step(name, "removed", || store.cluster.remove().and_then(|()| etcd::remove(self.lab)))
    }

    fn consul(&self) -> Result<()> {
        let store = Store {
            cluster: Cluster::new(self.lab, "consul"),
            settings: format!(
                "DCS=consul\n{TLS_SETTINGS}DCS_TOKEN_FILE=/etc/patroni/store.token\nCONSUL_REGISTER_SERVICE=yes\nCONSUL_DC=lab\n"
            ),
            subject: Some("/O=Lab/CN=@NAME@"),
            secret: Some(("/etc/patroni/store.token", consul::TOKEN)),
            unit: "consul",
            port: consul::PORT,
            knows_all: false,
        };
        self.step("Consul", "servers", || consul::start(self.lab, &self.authority, &store.cluster.dashed()))?;
        self.life("Consul", &store)?;
        self.power_off("Consul", &store)?;
        let faults = [
            Fault::new(
                "wrong token",
                Make::Secret("00000000-1111-2222-3333-444444444444"),
                &["ACL not found"],
                "it rejects the token",
            ),
            Fault::authority(),
            Fault::new(
                "expired certificate",
                Make::Expired,
                &["alert bad certificate", "EOF occurred in violation"],
                "has expired (",
            ),
            Fault::unreachable(consul::PORT),
        ];
        self.faults("Consul", &store, &faults)?;
        self.step("Consul", "removed", || store.cluster.remove().and_then(|()| consul::remove(self.lab)))
    }

    /// A digest opens the namespace where Patroni knows digests; the certificates protect what members make in it.
    fn zookeeper(&self) -> Result<()> {
        let digest = self.lab.release() == Release::Debian13;
        let subjects: Vec<String> = MACHINES.iter().map(|name| format!("CN={name},O=Lab")).collect();
        let mut store = Store {
            cluster: Cluster::new(self.lab, "zookeeper"),
            settings: format!(
                "DCS=zookeeper\n{}{TLS_SETTINGS}ZOOKEEPER_ACL='{}'\n",
                self.hosts(zookeeper::PORT),
                subjects.join(";")
            ),
            subject: Some("/O=Lab/CN=@NAME@"),
            secret: None,
            unit: "zookeeper",
            port: zookeeper::PORT,
            knows_all: true,
        };
        let user = format!("DCS_USERNAME={}\nDCS_PASSWORD_FILE=/etc/patroni/store.password\n", zookeeper::USER);
        let secret = Some(("/etc/patroni/store.password", zookeeper::PASSWORD));
        self.step("ZooKeeper", "servers", || zookeeper::start(self.lab, &self.authority))?;
        if digest {
            zookeeper::protect(self.lab, "/postgresql-common")?;
            store.settings += &user;
            store.secret = secret;
        } else {
            self.step("ZooKeeper", "a digest is refused", || self.digest_is_refused(&store, &user))?;
        }
        self.life("ZooKeeper", &store)?;
        self.power_off("ZooKeeper", &store)?;
        let faults = [
            Fault::authority(),
            Fault::new(
                "expired certificate",
                Make::Expired,
                &["alert certificate unknown", "EOF occurred in violation"],
                "has expired (",
            ),
            Fault::new(
                "certificate of somebody else",
                Make::Subject("/O=Lab/CN=eve"),
                &["NoAuth"],
                "is not permitted (NoAuth)",
            ),
            Fault::unreachable(zookeeper::PORT),
        ];
        self.faults("ZooKeeper", &store, &faults)?;
        if digest {
            self.step("ZooKeeper", "wrong password", || self.wrong_digest(&store))?;
        }
        self.step("ZooKeeper", "removed", || store.cluster.remove().and_then(|()| zookeeper::remove(self.lab)))
    }

    fn digest_is_refused(&self, store: &Store, user: &str) -> Result<()> {
        let node = &self.lab.nodes()[0];
        self.equip(store, node)?;
        node.write("/etc/patroni/store.password", zookeeper::PASSWORD, 0o600)?;
        node.write("/etc/default/patroni", format!("{SETTINGS}{}{user}", store.settings), 0o644)?;
        let said = node.try_run(&format!("patroni-gen-config {}", store.cluster.slashed()))?;
        ensure!(!said.status.success() && said.stderr.contains("needs Patroni 3.3"), "{said}");
        Ok(())
    }

    /// The first member of a new cluster cannot make its node in the namespace. Those of an old one would not notice: a digest
    /// protects the namespace alone.
    fn wrong_digest(&self, store: &Store) -> Result<()> {
        let (cluster, node) = (Cluster::with_members(self.lab, "refused", 1), &self.lab.nodes()[0]);
        self.equip(store, node)?;
        node.write("/etc/patroni/store.password", "wrong\n", 0o600)?;
        node.run(&format!("patroni-gen-config {}", cluster.slashed()))?;
        doctor_says(&cluster, node, "is not permitted (NoAuth)")?;
        self.says(&cluster, node, &[&["NoAuthError"], &["is not permitted (NoAuth)"]])?;
        node.run(&format!("rm {}", cluster.file())).map(drop)
    }

    /// A member with another key than the others cannot clone.
    fn wrong_site_key(&self, store: &Store) -> Result<()> {
        let cluster = &store.cluster;
        let node = cluster.replica()?;
        let forget =
            format!("systemctl stop {} && pg_dropcluster {}", cluster.unit(), cluster.slashed().replace('/', " "));
        let generate = format!("patroni-gen-config {}", cluster.slashed());
        node.run(&format!(
            "{forget} && cd /etc/patroni && mv site.key right.key && patroni-gen-config site-key && {generate}"
        ))?;
        doctor_says(cluster, node, "the site key of this member (")?;
        self.says(cluster, node, &[&["derive it from the site key"]])?;
        node.run(&format!("mv /etc/patroni/right.key /etc/patroni/site.key && {generate}"))?;
        node.run(&format!("systemctl start {}", cluster.unit()))?;
        cluster.wait_streaming(2, Duration::from_secs(60))
    }

    /// A store without a server, on all machines.
    fn raft_of_three(&self) -> Result<()> {
        let hosts: Vec<String> = self.lab.nodes().iter().map(Node::ipv4).collect();
        let store = Store {
            cluster: Cluster::new(self.lab, "rafts"),
            settings: format!(
                "DCS=raft\nDCS_HOSTS={}\nDCS_PASSWORD_FILE=/etc/patroni/store.password\n",
                hosts.join(",")
            ),
            subject: None,
            secret: Some(("/etc/patroni/store.password", etcd::PASSWORD)),
            unit: "",
            port: 0,
            knows_all: true,
        };
        self.members("raft of three", &store)?;
        self.step("raft of three", "removed", || store.cluster.remove())
    }

    /// One machine, and nothing else that runs.
    fn raft(&self) -> Result<()> {
        let store = Store {
            cluster: Cluster::with_members(self.lab, "raft", 1),
            settings: "DCS=raft\n".to_owned(),
            subject: None,
            secret: None,
            unit: "",
            port: 0,
            knows_all: false,
        };
        let (cluster, node) = (&store.cluster, &self.lab.nodes()[0]);
        self.step("raft", "bootstrap", || {
            self.equip(&store, node)?;
            let said = node.try_run(&format!("patroni-gen-config {}", cluster.slashed()))?;
            ensure!(said.status.success() && said.stderr.contains("deprecated"), "{said}");
            cluster.start()?;
            cluster.wait_streaming(0, Duration::from_secs(40))?;
            cluster.insert("first")
        })?;
        self.step("raft", "patronictl list by a member of group postgres", || list(cluster))?;
        self.step("raft", "restart of Patroni, and of the machine", || {
            node.run(&format!("systemctl restart {}", cluster.unit()))?;
            cluster.wait_streaming(0, Duration::from_secs(40))?;
            node.reboot()?;
            cluster.wait_streaming(0, Duration::from_secs(60))?;
            cluster.wait_for_row("first")
        })?;
        self.step("raft", "a watchdog is required, and there is none", || {
            let (refused, node) = (Cluster::with_members(self.lab, "watched", 1), &self.lab.nodes()[1]);
            self.equip(&store, node)?;
            node.run("echo WATCHDOG=required >> /etc/default/patroni")?;
            node.run(&format!("patroni-gen-config {}", refused.slashed()))?;
            doctor_says(&refused, node, "watchdog")?;
            self.says(&refused, node, &[&["Configuration requires watchdog, but watchdog could not be configured"]])
        })
    }

    /// Writes what is right into a machine: settings, secret, certificates.
    fn equip(&self, store: &Store, node: &Node) -> Result<()> {
        node.write("/etc/default/patroni", format!("{SETTINGS}{}", store.settings), 0o644)?;
        if let Some((path, content)) = store.secret {
            node.write(path, format!("{content}\n"), 0o600)?;
        }
        if let Some(subject) = store.subject {
            node.write(&format!("{TLS}/ca.pem"), self.authority.certificate(), 0o644)?;
            install(&self.authority.issue(&subject.replace("@NAME@", node.name()), node)?, node)?;
        }
        Ok(())
    }

    /// Bootstrap, clone, switchover, one server less.
    fn life(&self, name: &str, store: &Store) -> Result<()> {
        self.members(name, store)?;
        self.step(name, "one server stopped", || self.server_stopped(store))
    }

    fn members(&self, name: &str, store: &Store) -> Result<()> {
        let cluster = &store.cluster;
        self.step(name, "bootstrap and clone", || {
            for node in self.lab.nodes() {
                self.equip(store, node)?;
            }
            cluster.generate()?;
            cluster.start()?;
            cluster.wait_streaming(2, Duration::from_secs(60))?;
            cluster.insert("first")?;
            self.service(store)
        })?;
        self.step(name, "patronictl list by a member of group postgres", || list(cluster))?;
        self.step(name, "switchover", || {
            cluster.switch_over(cluster.replica()?)?;
            cluster.wait_streaming(2, Duration::from_secs(60))?;
            cluster.insert("switchover")?;
            self.service(store)
        })
    }

    /// A machine less, with the primary and a server of the store.
    fn power_off(&self, name: &str, store: &Store) -> Result<()> {
        let cluster = &store.cluster;
        self.step(name, "power-off of the primary and its server", || {
            let old = cluster.primary()?;
            old.power_off()?;
            self.lab.wait_until(Duration::from_secs(60), "another member is primary", || {
                Ok(cluster.primary()?.name() != old.name())
            })?;
            cluster.insert("power-off")?;
            self.service(store)?;
            old.start()?;
            cluster.wait_streaming(2, Duration::from_secs(90))?;
            cluster.wait_for_row("power-off")
        })
    }

    /// Nothing happens to the members.
    fn server_stopped(&self, store: &Store) -> Result<()> {
        let cluster = &store.cluster;
        let primary = cluster.primary()?;
        // A member that knows one server alone is without a store: then a replica's, and not that of the first machine,
        // where we look.
        let other = self.lab.nodes().iter().rfind(|node| node.name() != primary.name());
        let loser = if store.knows_all { primary } else { other.context("no replica")? };
        let started = || cluster.sql(primary, "select pg_postmaster_start_time(), pg_is_in_recovery()");
        let before = started()?;
        loser.run(&format!("systemctl stop {}", store.unit))?;
        // Longer than RETRY_TIMEOUT and LOOP_WAIT together.
        std::thread::sleep(Duration::from_secs(8));
        cluster.insert("one server stopped")?;
        ensure!(started()? == before, "the primary was restarted or demoted");
        loser.run(&format!("systemctl start {}", store.unit))?;
        loser.wait_listening(&[store.port])?;
        if store.unit == "consul" {
            consul::wait_for_voters(self.lab)?;
        }
        cluster.wait_streaming(2, Duration::from_secs(60))
    }

    /// The service that Consul knows is at the primary's address.
    fn service(&self, store: &Store) -> Result<()> {
        if store.unit != "consul" {
            return Ok(());
        }
        let name = format!("primary.{}.service.consul", store.cluster.dashed());
        self.lab.wait_until(Duration::from_secs(30), "the service is where the primary is", || {
            let primary = store.cluster.primary()?;
            let found = consul::lookup(primary, &name)?;
            ensure!(found == [primary.ipv4()], "{name} is {found:?}, the primary is {}", primary.ipv4());
            Ok(true)
        })
    }

    /// Each fault on one replica, and then the way back.
    fn faults(&self, name: &str, store: &Store, faults: &[Fault]) -> Result<()> {
        let cluster = &store.cluster;
        let node = cluster.replica()?;
        node.run(&format!("systemctl stop {}", cluster.unit()))?;
        for fault in faults {
            self.step(name, fault.name, || self.fault(store, node, fault))?;
        }
        self.step(name, "mended", || {
            self.equip(store, node)?;
            node.run(&format!("patroni-gen-config {} && systemctl start {}", cluster.slashed(), cluster.unit()))?;
            cluster.wait_streaming(2, Duration::from_secs(60))
        })
    }

    fn fault(&self, store: &Store, node: &Node, fault: &Fault) -> Result<()> {
        let cluster = &store.cluster;
        self.equip(store, node)?;
        match &fault.make {
            Make::Secret(wrong) => {
                let (path, _) = store.secret.context("a store without a secret")?;
                node.write(path, format!("{wrong}\n"), 0o600)?;
            }
            Make::Settings(more) => node.run(&format!("printf '{more}' >> /etc/default/patroni")).map(drop)?,
            Make::Authority => node.write(&format!("{TLS}/ca.pem"), self.other.certificate(), 0o644)?,
            Make::Expired => {
                let subject = store.subject.context("a store without TLS")?.replace("@NAME@", node.name());
                install(&self.authority.issue_expired(&subject, node)?, node)?;
            }
            Make::Subject(subject) => install(&self.authority.issue(subject, node)?, node)?,
            Make::ExpiredServer => {
                self.authority.issue_expired("/O=Lab", node)?.install(node, "/root", "expired", "root:root")?;
                node.run(
                    "systemd-run --quiet --unit=expired openssl s_server -quiet -accept 7379 -cert /root/expired.pem \
                     -key /root/expired.key && echo DCS_HOSTS=localhost:7379 >> /etc/default/patroni",
                )?;
                node.wait_listening(&[7379])?;
            }
        }
        node.run(&format!("patroni-gen-config {}", cluster.slashed()))?;
        doctor_says(cluster, node, fault.doctor)?;
        self.says(cluster, node, &[fault.patroni, &[fault.doctor]])
    }

    /// Starts the member, waits until for each list a line of its journal has one of the phrases, and stops it.
    fn says(&self, cluster: &Cluster, node: &Node, lists: &[&[&str]]) -> Result<()> {
        let unit = cluster.unit();
        node.run(&format!("systemctl start {unit}"))?;
        let said = self.lab.wait_until(Duration::from_secs(20), &format!("the journal says one of each of {lists:?}"), || {
            let journal = node.run(&format!(
                "journalctl --quiet --output=cat _SYSTEMD_INVOCATION_ID=$(systemctl show --property=InvocationID --value {unit})"
            ))?;
            let said = |phrases: &&[&str]| {
                journal.lines().find(|line| phrases.iter().any(|phrase| line.contains(phrase))).map(str::to_owned)
            };
            let lines: Option<Vec<String>> = lists.iter().map(said).collect();
            let Some(lines) = lines else { bail!("{journal}") };
            for line in lines {
                println!("  {}", line.chars().take(240).collect::<String>());
            }
            Ok(true)
        });
        node.run(&format!("systemctl stop {unit}"))?;
        said
    }
}

fn install(pair: &Pair, node: &Node) -> Result<()> {
    pair.install(node, TLS, "store", "root:postgres")
}

/// A person of the group postgres lists the members, without any option but the file.
fn list(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let said = node.run_as("dba", &format!("timeout 20 patronictl -c {} list", cluster.file()))?;
        for member in cluster.nodes() {
            ensure!(said.contains(&format!(" {} ", member.name())), "{} has {said}", node.name());
        }
    }
    Ok(())
}

/// Before the start.
fn doctor_says(cluster: &Cluster, node: &Node, phrase: &str) -> Result<()> {
    let said = node.try_run(&format!("patroni-gen-config --check {}", cluster.slashed()))?;
    let line = said.stderr.lines().find(|line| line.contains(phrase));
    ensure!(!said.status.success() && line.is_some(), "the doctor does not say {phrase:?}: {said}");
    println!("  {}", line.unwrap_or_default());
    Ok(())
}
