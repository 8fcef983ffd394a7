//! The package on a real machine of each Debian release: everything that dpkg can do with it, under a PostgreSQL
//! that runs all the time. Looked at with dpkg's, systemd's and postgresql-common's own tools.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::patroni::{self, Cluster};
use lab::{Lab, Node, Release, page, program};

const APT: &str = "apt-get -qq install -y -o Dpkg::Use-Pty=0";
/// apt on a loaded machine.
const APT_LIMIT: Duration = Duration::from_secs(180);
/// Both packages; apt keeps the one that was only needed by the other.
const PURGE: &str = "apt-get -qq purge -y patroni-tools patroni-tools-common";
const LINK: &str = "/etc/postgresql-common/createcluster.d/patroni-tools.conf";
/// What a first installation names.
const BEGIN: &str = "/usr/share/doc/patroni-tools/README.Debian.gz";
/// Files of Debian's package that ours replaces; Debian 12 has the unit under /lib, which is the same directory.
const REPLACED: &str = "/usr/lib/systemd/system/patroni@.service /usr/share/patroni/pg_createcluster_patroni \
    /usr/share/patroni/pg_clonecluster_patroni";

/// What is written down for the administrator.
const README: &str = include_str!("../../../debian/README.Debian");
const FROM_DNSCP_SH: &str = include_str!("../../../docs/from-dnscp.sh.md");

/// A zone that accepts updates from everyone.
const NAMED: &str = "options { directory \"/var/cache/bind\"; listen-on { any; }; recursion no; dnssec-validation no; };\n\
    zone \"example.org\" { type primary; file \"/var/lib/bind/example.org\"; allow-update { any; }; };\n";
const ZONE: &str = "$TTL 60\n@ SOA pg1 root 1 60 60 60 60\n@ NS pg1\npg1 A 10.88.0.11\n";

type Event = fn(&Machine) -> Result<()>;

#[test]
fn debian_12() -> Result<()> {
    lab::test(Release::Debian12, &["pg1"], life)
}

#[test]
fn debian_13() -> Result<()> {
    lab::test(Release::Debian13, &["pg1"], life)
}

fn life(lab: &Lab) -> Result<()> {
    let cluster = Cluster::new(lab, "main");
    let machine = Machine { lab, node: lab.node("pg1"), cluster: &cluster };
    let story: [(&str, Event); 23] = [
        ("install, use and purge leave nothing", leaves_nothing),
        ("the settings are there first", settings_first),
        ("an installation that fails leaves Debian's files", failed_installation),
        ("install together with Debian's patroni", installed_together),
        ("the units are valid", valid_units),
        ("the completion knows options and clusters", completion),
        ("PostgreSQL is installed without a cluster main", no_main_cluster),
        ("settings of the previous version that nobody has edited", untouched_settings),
        ("an upgrade from the previous version that fails, and back to it", back_to_previous),
        ("an instance under the previous version", previous_version),
        ("upgrade from the previous version", upgrade),
        ("reinstall", reinstall),
        ("an upgrade that fails", failed_upgrade),
        ("upgrade of Debian's patroni underneath", patroni_upgrade),
        ("release upgrade of Debian's patroni underneath", release_upgrade),
        ("a removal is refused while the instance runs", removal_refused),
        ("remove and install again", remove),
        ("purge while the instance is enabled", purge_in_use),
        ("given back to postgresql@, and adopted again", given_back),
        ("purge once it does not", purge_unused),
        ("a member is removed by README.Debian", member_removed),
        ("a first cluster by README.Debian", first_cluster),
        ("the commands of from-dnscp.sh.md", from_dnscp_sh),
    ];
    for (what, event) in story {
        let begin = Instant::now();
        event(&machine).with_context(|| format!("Debian {}: {what}", lab.release()))?;
        println!("Debian {}: {what}: ok, {:.1} s", lab.release(), begin.elapsed().as_secs_f32());
    }
    Ok(())
}

struct Machine<'a> {
    lab: &'a Lab,
    node: &'a Node,
    cluster: &'a Cluster<'a>,
}

impl Machine<'_> {
    fn run(&self, command: &str) -> Result<String> {
        Ok(self.node.run_within(APT_LIMIT, command)?.trim_end().to_owned())
    }

    fn yml(&self) -> String {
        format!("/etc/patroni/{}.yml", self.cluster.dashed())
    }

    fn exists(&self, path: &str) -> Result<bool> {
        Ok(self.node.try_run(&format!("test -e '{path}' || test -L '{path}'"))?.status.success())
    }

    /// Everything outside dpkg's, apt's and the system's own records.
    fn files(&self) -> Result<String> {
        self.run(
            r"find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /var/tmp \
                -o -path /var/log -o -path /var/cache -o -path /var/lib/dpkg -o -path /var/lib/apt \
                -o -path /var/lib/systemd -o -path /var/backups -o -path /srv \) -prune \
                -o -type f -printf '%p %m %u:%g %s\n' -o -printf '%p %y %m %u:%g %l\n' | sort",
        )
    }

    /// Puts a changed copy of a package into the machine: `change` is a shell command that is run in its tree.
    fn repack(&self, package: &str, change: &str) -> Result<String> {
        let made = "/var/tmp/repacked.deb";
        self.run(&format!(
            "set -e; rm -rf /var/tmp/tree; dpkg-deb -R {package} /var/tmp/tree; cd /var/tmp/tree; {change}
             find . -type f ! -path './DEBIAN/*' ! -path './etc/*' -printf '%P\\n' | xargs -d '\\n' md5sum > DEBIAN/md5sums
             dpkg-deb -Znone -b /var/tmp/tree {made}"
        ))?;
        Ok(made.to_owned())
    }

    /// Ours are in place, Debian's are intact under their other names.
    fn is_taken_over(&self) -> Result<()> {
        let owners = self.run(&format!("dpkg -S {REPLACED} | grep -v ^diversion || :"))?;
        ensure!(owners.lines().filter(|line| line.contains("patroni-tools: ")).count() == 3, "owners: {owners}");
        for hook in ["pg_createcluster_patroni", "pg_clonecluster_patroni"] {
            let said = self.run(&format!("/usr/share/patroni/{hook} --version"))?;
            ensure!(said.starts_with(hook), "under the path of Debian's {hook} is: {said}");
        }
        let unit = self.run(&format!("systemctl cat patroni@{}.service", self.cluster.dashed()))?;
        // With the option that the verb was in 0.1.0.
        let asks = |verb: &str| unit.contains(&format!("ExecStartPre=/usr/bin/patroni-gen-config {verb} --offline %i"));
        ensure!(asks("check") || asks("--check"), "the unit is {unit}");
        // Of 0.1.0 and of this version, which stands in front of five programs of postgresql-common.
        let diverted = self.run("dpkg-divert --list patroni-tools")?;
        ensure!([4, 9].contains(&diverted.lines().count()), "diversions: {diverted}");
        self.run("pg_ctlcluster 2>&1 | grep Usage:")?;
        self.verify("patroni patroni-tools patroni-tools-common postgresql-common")
    }

    /// Debian's files are back byte for byte, nothing of ours is in their way.
    fn is_debians(&self) -> Result<()> {
        let diverted = self.run("dpkg-divert --list patroni-tools")?;
        ensure!(diverted.is_empty(), "diversions: {diverted}");
        let left = self.run("ls /usr/lib/systemd/system/patroni@* /usr/share/patroni/*")?;
        ensure!(left.split_whitespace().count() == 3, "left behind: {left}");
        let unit =
            self.run(&format!("systemctl show -p NeedDaemonReload patroni@{}.service", self.cluster.dashed()))?;
        ensure!(unit == "NeedDaemonReload=no", "systemd has another unit: {unit}");
        let left = self.run("ls /usr/bin/pg_*.debian 2>/dev/null; find /usr/bin -name 'pg_*cluster' -type l")?;
        ensure!(left.is_empty(), "left behind: {left}");
        self.verify("patroni postgresql-common")
    }

    fn verify(&self, packages: &str) -> Result<()> {
        // Configuration files may differ ("c"); and dpkg has no checksum of directories and links.
        let verified = self.node.try_run(&format!("dpkg --verify {packages} | grep -v ' c /etc/' || :"))?.ok()?;
        ensure!(verified.is_empty(), "dpkg --verify: {verified}");
        Ok(())
    }

    /// The processes of the instance, which no event of the package may change.
    fn processes(&self) -> Result<String> {
        let id = self.cluster.dashed();
        let state = self.run(&format!(
            "systemctl show -p MainPID -p ActiveState -p NRestarts patroni@{id}.service
             head -n 1 /var/lib/postgresql/{}/postmaster.pid; pg_lsclusters -h | awk '{{print $1, $2, $4}}'",
            self.cluster.slashed()
        ))?;
        ensure!(state.contains("ActiveState=active") && state.contains("online,patroni"), "not running: {state}");
        Ok(state)
    }

    /// An event, under which the instance keeps running with the same processes.
    fn while_running(&self, event: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = self.processes()?;
        event()?;
        let after = self.processes()?;
        ensure!(before == after, "the instance was touched:\n{before}\nand then\n{after}");
        self.cluster.sql(self.node, "select 1").map(drop)
    }

    /// Runs the commands of a section of `README.Debian`, or of its block with `part`, with what is typed for them, and gives what they
    /// say.
    fn by_the_readme(&self, section: &str, part: &str, typed: &str) -> Result<String> {
        let page = page::of_cluster(README, self.cluster);
        let blocks = page::prompted(&page);
        let wanted = |block: &&page::Block| block.section == section && block.commands.contains(part);
        let commands: Vec<&str> = blocks.iter().filter(wanted).map(|block| block.commands.as_str()).collect();
        ensure!(!commands.is_empty(), "README.Debian has no commands with '{part}' under {section}");
        self.as_written(&commands.join("\n"), typed)
    }

    /// Runs commands that are for a person at a terminal: the editor appends a line to a file, and there is no sudo, because it is root.
    fn as_written(&self, commands: &str, typed: &str) -> Result<String> {
        self.node.write("/etc/apt/apt.conf.d/90readme", "APT::Get::Assume-Yes \"true\";\n", 0o644)?;
        self.run(&format!(
            "editor() {{ printf '%s\\n' '{typed}' >> \"$1\"; }}; sudo() {{ \"$@\"; }}
             typed() {{ printf '%s\\n' '{typed}'; }}; set -e; exec < <(typed)\n{commands}"
        ))
    }

    fn version(&self) -> Result<String> {
        self.run("dpkg-query -W -f '${Version}' patroni-tools")
    }

    fn wait_online(&self) -> Result<()> {
        self.lab.wait_until(Duration::from_secs(40), "the instance is online", || {
            self.processes()?;
            Ok(self.cluster.primary()?.name() == self.node.name())
        })
    }
}

fn leaves_nothing(m: &Machine) -> Result<()> {
    m.lab.offer(&[patroni::package()?])?;
    m.run(&format!("{APT} patroni postgresql iproute2"))?;
    let before = m.files()?;
    m.run(&format!("{APT} patroni-tools"))?;
    m.is_taken_over()?;
    let id = m.cluster.slashed();
    m.run(&format!("patroni-gen-config {id} && echo '# mine' >> {0} && patroni-gen-config --force {id}", m.yml()))?;
    ensure!(m.exists("/etc/patroni/site.key")?, "no site key was made");
    // What killed runs leave.
    m.run(&format!("touch /etc/patroni/.patroni-gen-config.x /var/lib/postgresql/{}.unfinished", m.cluster.dashed()))?;
    m.run(&format!("{PURGE} 2>&1"))?;
    m.is_debians()?;
    let after = m.files()?;
    let differs = |one: &str, other: &str| {
        let other: Vec<&str> = other.lines().collect();
        one.lines().filter(|line| !other.contains(line)).collect::<Vec<_>>().join("\n")
    };
    ensure!(before == after, "gone:\n{}\nleft:\n{}", differs(&before, &after), differs(&after, &before));
    Ok(())
}

/// As cloud-init and Ansible have it: the file is nobody's to ask about, and a link that leads nowhere yet is left alone, too.
fn settings_first(m: &Machine) -> Result<()> {
    let install = "DEBIAN_FRONTEND=noninteractive apt-get -qq install -y patroni-tools </dev/null";
    for (settings, look) in [
        ("echo '# of the site' > /etc/default/patroni", "cat /etc/default/patroni"),
        ("ln -s /run/no/file /etc/default/patroni", "readlink /etc/default/patroni"),
    ] {
        m.run(settings)?;
        let before = m.run(look)?;
        m.run(install)?;
        ensure!(m.run(look)? == before, "after {settings}: {}", m.run(look)?);
        let conffiles = m.run("dpkg-query -W -f '${Conffiles}' patroni-tools patroni-tools-common")?;
        ensure!(are_ours(&conffiles), "conffiles: {conffiles}");
        m.run(PURGE)?;
        ensure!(!m.exists("/etc/default/patroni")?, "a purge leaves the settings");
    }
    Ok(())
}

fn failed_installation(m: &Machine) -> Result<()> {
    let clash = m.repack("/srv/repo/patroni-tools_*.deb", "touch usr/bin/pg_lsclusters;")?;
    let failed = m.node.try_run(&format!("dpkg -i {clash}"))?;
    ensure!(!failed.status.success() && failed.stderr.contains("pg_lsclusters"), "no clash: {failed}");
    ensure!(!m.exists(LINK)?, "the link is still there");
    m.is_debians()
}

fn installed_together(m: &Machine) -> Result<()> {
    m.run("apt-get -qq purge -y patroni")?;
    m.run(&format!("{APT} patroni-tools"))?;
    m.is_taken_over()?;
    // And in the order that apt does not take.
    m.run(&format!("{PURGE} patroni"))?;
    let said = m.run(
        "dpkg --unpack /srv/repo/patroni-tools*.deb && dpkg --unpack /srv/debs/patroni_*.deb && dpkg --configure -a",
    )?;
    ensure!(said.matches(BEGIN).count() == 1, "the installation does not say where to begin: {said}");
    ensure!(m.exists(BEGIN)?, "there is no {BEGIN}");
    m.is_taken_over()?;
    m.run("dpkg --remove patroni-tools")?;
    m.is_debians()?;
    m.run(&format!("{APT} patroni-tools"))?;
    m.is_taken_over()
}

fn valid_units(m: &Machine) -> Result<()> {
    for unit in ["patroni", "postgresql"] {
        let said = m.run(&format!("systemd-analyze verify {unit}@{}.service 2>&1", m.cluster.dashed()))?;
        ensure!(said.is_empty(), "systemd-analyze verify: {said}");
    }
    let refused = m.node.try_run("systemctl start patroni@15-nowhere")?;
    ensure!(!refused.status.success(), "a unit without a file starts: {refused}");
    Ok(())
}

fn completion(m: &Machine) -> Result<()> {
    m.run(&format!("patroni-gen-config {}", m.cluster.slashed()))?;
    let complete = |words: &str| {
        m.run(&format!(
            "bash -c '. /usr/share/bash-completion/completions/patroni-gen-config
             COMP_WORDS=(patroni-gen-config {words}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
             _patroni_gen_config; printf \"%s\\n\" \"${{COMPREPLY[@]}}\"'"
        ))
    };
    let first = complete("\"\"")?;
    ensure!(first.lines().any(|word| word == m.cluster.slashed()), "clusters: {first}");
    ensure!(complete("check --of")? == "--offline", "options: {}", complete("check --of")?);
    m.run(&format!("patroni-gen-config {} --set VIPS=192.0.2.9/32", m.cluster.slashed()))?;
    let instance = m.run(
        "bash -c '. /usr/share/bash-completion/completions/dnscp
         COMP_WORDS=(dnscp status \"\") COMP_CWORD=2; _dnscp; printf \"%s\\n\" \"${COMPREPLY[@]}\"'",
    )?;
    ensure!(instance == m.cluster.dashed(), "instances of dnscp: {instance}");
    let names = format!("{} /etc/patroni/{}.dnscp", m.yml(), m.cluster.dashed());
    m.run(&format!("rm {names}")).map(drop)
}

fn no_main_cluster(m: &Machine) -> Result<()> {
    let version = m.cluster.slashed().replace("/main", "");
    // Without it, the administrator's file of the image would hide what the link does.
    m.run("cp -p /usr/share/postgresql-common/createcluster.conf /etc/postgresql-common/createcluster.conf")?;
    m.run(&format!("apt-get -qq purge -y postgresql-{version} postgresql; {APT} postgresql-{version}"))?;
    let clusters = m.run("pg_lsclusters -h")?;
    ensure!(clusters.is_empty(), "there is a cluster: {clusters}");
    m.run(&format!("pg_createcluster --start {version} main"))?;
    m.by_the_readme("Debian's own cluster \"main\"", "", "")?;
    let clusters = m.run("pg_lsclusters -h")?;
    ensure!(clusters.is_empty(), "it was not dropped: {clusters}");
    Ok(())
}

fn untouched_settings(m: &Machine) -> Result<()> {
    m.run(PURGE)?;
    m.lab.offer(&[patroni::previous_package()?])?;
    m.run(&format!("{APT} patroni-tools && cp -p /etc/default/patroni /root/settings"))?;
    ensure!(m.version()? == patroni::PREVIOUS_VERSION, "this is not the previous version: {}", m.version()?);
    m.lab.offer(&[patroni::package()?])?;
    m.run("DEBIAN_FRONTEND=noninteractive apt-get -qq install -y patroni-tools </dev/null")?;
    settings_are_kept(m)
}

/// The previous version knows nothing of the files in front of postgresql-common's programs, and would neither keep nor remove them.
fn back_to_previous(m: &Machine) -> Result<()> {
    let programs_are_debians = || {
        let left = m.run("ls /usr/bin/pg_*.debian 2>/dev/null; find /usr/bin -name 'pg_*cluster' -type l")?;
        ensure!(left.is_empty(), "left behind: {left}");
        m.verify("postgresql-common")
    };
    m.run(PURGE)?;
    m.lab.offer(&[patroni::previous_package()?])?;
    m.run(&format!("cp /srv/repo/patroni-tools_*.deb /var/tmp/previous.deb; {APT} patroni-tools"))?;
    m.lab.offer(&[patroni::package()?])?;
    // It fails when the links are there, and when the files are.
    for change in ["sed -i '/#DEBHELPER#/d; $a exit 1' DEBIAN/preinst;", "touch usr/bin/pg_lsclusters;"] {
        let fails = m.repack("/srv/repo/patroni-tools_*.deb", change)?;
        let failed = m.node.try_run(&format!("dpkg --force-depends -i {fails}"))?;
        ensure!(!failed.status.success() && m.version()? == patroni::PREVIOUS_VERSION, "{change}: {failed}");
        programs_are_debians().context(change)?;
    }
    m.run(&format!("{APT} patroni-tools"))?;
    m.is_taken_over()?;
    m.run(
        "dpkg --force-depends --remove patroni-tools-common
         dpkg --force-downgrade --force-confold -i /var/tmp/previous.deb",
    )?;
    programs_are_debians()?;
    m.run("apt-get -qq install -y --reinstall postgresql-common")?;
    programs_are_debians()?;
    m.run(&format!("{APT} patroni-tools"))?;
    m.is_taken_over()?;
    m.run(PURGE)?;
    m.is_debians()
}

fn previous_version(m: &Machine) -> Result<()> {
    m.run(PURGE)?;
    m.lab.offer(&[patroni::previous_package()?])?;
    m.run(&format!("{APT} patroni-tools"))?;
    ensure!(m.version()? == patroni::PREVIOUS_VERSION, "this is not the previous version: {}", m.version()?);
    m.run("echo '# edited' >> /etc/default/patroni && cp -p /etc/default/patroni /root/settings")?;
    m.is_taken_over()?;
    m.lab.start_etcd()?;
    m.cluster.generate()?;
    m.cluster.start()?;
    m.wait_online()?;
    m.lab.offer(&[patroni::package()?])
}

fn upgrade(m: &Machine) -> Result<()> {
    m.run(&format!("rm {LINK}"))?;
    m.while_running(|| {
        let said = m.run(&format!("{APT} patroni-tools"))?;
        ensure!(m.version()? != patroni::PREVIOUS_VERSION, "it was not upgraded");
        ensure!(!said.contains(BEGIN), "an upgrade says where to begin: {said}");
        ensure!(!m.exists(LINK)?, "the link is back that the administrator removed");
        m.is_taken_over()
    })?;
    settings_are_kept(m)?;
    let news = m.run("zcat -f /usr/share/doc/patroni-tools/NEWS.Debian*")?;
    ensure!(news.contains("patroni-gen-config diff 16/main"), "NEWS.Debian: {news}");
    Ok(())
}

/// The file is as it was before the upgrade, dpkg has forgotten it, and nothing is beside it.
fn settings_are_kept(m: &Machine) -> Result<()> {
    let file = "/etc/default/patroni";
    m.run(&format!("cmp {file} /root/settings && test $(stat -c %Y {file}) = $(stat -c %Y /root/settings)"))?;
    let beside = m.run(&format!("ls {file}*"))?;
    let conffiles = m.run("dpkg-query -W -f '${Conffiles}' patroni-tools patroni-tools-common")?;
    let diverted = m.run("dpkg-divert --list patroni-tools-common")?;
    ensure!(beside == file && are_ours(&conffiles) && diverted.is_empty(), "{beside}; {conffiles}; {diverted}");
    Ok(())
}

/// Does dpkg ask only about the file that nobody needs to edit?
fn are_ours(conffiles: &str) -> bool {
    conffiles.lines().all(|line| line.is_empty() || line.starts_with(" /etc/needrestart/conf.d/patroni-tools.conf "))
}

fn reinstall(m: &Machine) -> Result<()> {
    m.while_running(|| {
        m.run(&format!("{APT} --reinstall patroni-tools"))?;
        m.is_taken_over()
    })
}

fn failed_upgrade(m: &Machine) -> Result<()> {
    m.while_running(|| {
        let clash = m.repack(
            "/srv/repo/patroni-tools_*.deb",
            "sed -i 's/^Version: .*/Version: 99/' DEBIAN/control; touch usr/bin/pg_lsclusters;",
        )?;
        let failed = m.node.try_run(&format!("dpkg -i {clash}"))?;
        ensure!(!failed.status.success() && failed.stderr.contains("pg_lsclusters"), "no clash: {failed}");
        m.is_taken_over()
    })
}

/// A newer patroni of Debian's, in which the diverted files are others.
fn newer_patroni(m: &Machine, version: &str, change: &str) -> Result<String> {
    m.repack(
        "/srv/debs/patroni_*.deb",
        &format!(
            "sed -i 's/^Version: .*/Version: {version}/' DEBIAN/control
             for file in */systemd/system/patroni@.service usr/lib/systemd/system/patroni@.service usr/share/patroni/*; do
                 [ ! -e $file ] || echo '# {version}' >> $file
             done
             {change}"
        ),
    )
}

fn patroni_upgrade(m: &Machine) -> Result<()> {
    m.while_running(|| {
        let newer = newer_patroni(m, "90", "")?;
        m.run(&format!("dpkg -i {newer}"))?;
        m.is_taken_over()
    })
}

/// Debian 12's patroni has its unit under /lib, Debian 13's under /usr/lib.
fn release_upgrade(m: &Machine) -> Result<()> {
    m.while_running(|| {
        let moved = "if [ -d lib ]; then mkdir -p usr/lib; mv lib/systemd usr/lib/; rmdir lib; fi";
        let newer = newer_patroni(m, "91", moved)?;
        m.run(&format!("dpkg -i {newer}"))?;
        m.is_taken_over()
    })
}

/// Without its programs, the running Patroni could not start PostgreSQL again. Nothing changes.
fn removal_refused(m: &Machine) -> Result<()> {
    // A process of any user can have such a command line, and root would see its words in a command.
    m.run("useradd --create-home mallory")?;
    let _mallory = m.node.spawn_as(
        "mallory",
        "exec -a /usr/libexec/patroni-tools/patroni perl -e 'sleep 600' $'/etc/patroni/9-\\e[1m;reboot.yml' /etc/patroni/9-theirs.yml",
    )?;
    m.while_running(|| {
        for packages in ["patroni-tools", "patroni-tools-common", "patroni"] {
            for verb in ["remove", "purge"] {
                let refused = m.node.try_run_within(APT_LIMIT, &format!("apt-get -qq {verb} -y {packages}"))?;
                let said = format!("{}{}", refused.stdout, refused.stderr);
                let id = m.cluster.dashed();
                ensure!(!said.contains("reboot") && !said.contains("theirs"), "mallory is believed: {said}");
                ensure!(
                    !refused.status.success()
                        && said.contains(&format!(
                            "not removed, because Patroni runs with programs of this package: {id}"
                        ))
                        && said.contains(&format!("run: pg_releasecluster_patroni {id}"))
                        && said.contains(&format!("systemctl disable --now patroni@{id}")),
                    "{verb} {packages}: {refused}"
                );
                m.is_taken_over()?;
                let states =
                    m.run("dpkg-query -W -f '${db:Status-Status} ' patroni patroni-tools patroni-tools-common")?;
                ensure!(states == "installed installed installed", "{verb} {packages}: {states}");
            }
        }
        Ok(())
    })
}

fn remove(m: &Machine) -> Result<()> {
    m.run(&format!("systemctl stop {}", m.cluster.unit()))?;
    let said = m.run("apt-get -qq remove -y patroni-tools 2>&1")?;
    ensure!(said.contains("systemctl disable patroni@"), "the enabled instance is not named: {said}");
    m.is_debians()?;
    let newest = m.run(&format!("grep -L '^# 91$' {REPLACED}"))?;
    ensure!(newest.is_empty(), "not of the patroni that is installed: {newest}");
    for kept in [m.yml().as_str(), "/etc/patroni/site.key", "/etc/default/patroni"] {
        ensure!(m.exists(kept)?, "{kept} is gone");
    }
    // Its next start is under Debian's unit.
    m.run(&format!("systemctl start {}", m.cluster.unit()))?;
    m.wait_online()?;
    m.while_running(|| {
        m.run(&format!("{APT} patroni-tools"))?;
        ensure!(m.exists(LINK)?, "the link is not there");
        m.is_taken_over()
    })?;
    m.run(&format!("systemctl restart {}", m.cluster.unit()))?;
    m.wait_online()
}

/// An instance that is stopped, but enabled, has its next start before it.
fn purge_in_use(m: &Machine) -> Result<()> {
    m.run(&format!("systemctl stop {}", m.cluster.unit()))?;
    let said = m.run(&format!("{PURGE} 2>&1"))?;
    ensure!(
        said.contains(&format!("kept, because Patroni runs with it or is enabled: {}", m.yml()))
            && said.contains("derived from it: /etc/patroni/site.key"),
        "said: {said}"
    );
    for kept in [m.yml().as_str(), "/etc/patroni/site.key"] {
        ensure!(m.exists(kept)?, "{kept} is gone");
    }
    m.is_debians()?;
    m.run(&format!("{APT} patroni-tools && systemctl start {}", m.cluster.unit()))?;
    m.wait_online()
}

fn purge_unused(m: &Machine) -> Result<()> {
    m.run(&format!("systemctl disable --now {}", m.cluster.unit()))?;
    m.run("echo MEMBERS=pg1=10.88.0.11 >> /etc/default/patroni && patroni-gen-config --for tls")?;
    let policy = format!("patroni-gen-config --for consul-policy {}", m.cluster.slashed());
    m.run(&format!("echo DCS=consul >> /etc/default/patroni && {policy}"))?;
    m.run("cp -p /etc/patroni/site.key /root/ && apt-get -qq remove -y patroni-tools patroni-tools-common")?;
    m.run("apt-get -qq purge -y patroni-tools")?;
    // The settings and the site key are those of the other package, which is not purged yet.
    for kept in ["/etc/default/patroni", "/etc/patroni/site.key"] {
        ensure!(m.exists(kept)?, "{kept} is gone");
    }
    let said = m.run("apt-get -qq purge -y patroni-tools-common 2>&1")?;
    ensure!(said.contains("may use it: /etc/patroni/tls"), "said: {said}");
    m.is_debians()?;
    let left = m.run(
        "cd / && ls etc/patroni etc/default/patroni* var/lib/postgresql usr/share/patroni-tools 2>/dev/null || :",
    )?;
    let version = m.cluster.slashed().replace("/main", "");
    let expected = format!("etc/patroni:\nconfig.yml.in\ndcs.yml\ntls\n\nvar/lib/postgresql:\n{version}");
    ensure!(left == expected, "left:\n{left}");
    // The database is not the package's to remove.
    let data = format!("/var/lib/postgresql/{}/PG_VERSION", m.cluster.slashed());
    ensure!(m.exists(&data)? && m.exists(&m.cluster.etc())?, "the database is gone");
    Ok(())
}

/// A cluster that was created under Patroni becomes Debian's own, also after a boot, and comes back.
fn given_back(m: &Machine) -> Result<()> {
    let slashed = m.cluster.slashed();
    m.run(&format!("pg_releasecluster_patroni --yes {slashed}"))?;
    let cluster = slashed.replace('/', " ");
    let listed = || m.run(&format!("pg_lsclusters -h {cluster} | awk '{{print $4}}'"));
    m.lab.wait_until(Duration::from_secs(20), "it is Debian's own", || Ok(listed()? == "online"))?;
    ensure!(m.cluster.sql(m.node, "select pg_is_in_recovery()")? == "f", "it is read-only");
    m.node.reboot()?;
    m.lab.wait_until(Duration::from_secs(60), "it is online after a boot", || Ok(listed()? == "online"))?;
    m.lab.wait_until(Duration::from_secs(60), "etcd responds after a boot", || {
        Ok(m.node.try_run("ETCDCTL_API=3 timeout 5 etcdctl endpoint health")?.status.success())
    })?;
    m.run(&format!("pg_adoptcluster_patroni --yes {slashed}"))?;
    m.wait_online()
}

/// The data that a purge leaves run again with the site key. Then nothing is left, in the DCS neither.
fn member_removed(m: &Machine) -> Result<()> {
    m.run(&format!(
        "{APT} patroni-tools && mv /root/site.key /etc/patroni/ && patroni-gen-config {}",
        m.cluster.slashed()
    ))?;
    m.cluster.start()?;
    m.wait_online()?;
    m.by_the_readme(
        "Upgrade, removal and purge",
        "pg_dropcluster",
        &format!("{}\nYes I am aware", m.cluster.dashed()),
    )?;
    m.run(PURGE)?;
    let left = m.run("pg_lsclusters -h; ls /etc/patroni/*-main.yml /etc/patroni/site.key 2>/dev/null || :")?;
    let stored = m.run("ETCDCTL_API=3 etcdctl get --prefix --keys-only /")?;
    ensure!(left.is_empty() && stored.is_empty(), "left: {left}; in etcd: {stored}");
    Ok(())
}

fn first_cluster(m: &Machine) -> Result<()> {
    // What is copied to other members is run by `readme.rs`.
    m.by_the_readme("The first cluster", "apt install", "VIPS=10.88.0.100/24")?;
    m.wait_online()?;
    let listed = m.by_the_readme("The first cluster", "pg_lsclusters", "")?;
    ensure!(listed.contains("pg1*") && listed.contains("online,patroni"), "no cluster: {listed}");
    m.by_the_readme("The first cluster", "patroni-gen-config check", "")?;
    m.lab.wait_until(Duration::from_secs(20), "the primary has the address", || {
        Ok(m.by_the_readme("One address for the clients", "", "")?.contains("10.88.0.100"))
    })
}

fn from_dnscp_sh(m: &Machine) -> Result<()> {
    m.node.write("/etc/bind/named.conf", NAMED, 0o644)?;
    m.node.write("/var/lib/bind/example.org", ZONE, 0o644)?;
    m.run("chown -R bind: /var/lib/bind && systemctl start named")?;
    let page = FROM_DNSCP_SH.replace("10.0.3.100", "10.88.0.99").replace("10.0.3.53", &m.node.ipv4());
    // A directory of Microsoft's is not at hand.
    let page = page.replace("```powershell\n", "```sh on pg1\nexit # ");
    for block in page::blocks(&page, &["pg1"], "etcd")? {
        let said = m.as_written(&block.commands, "P@ssw0rd")?;
        println!("{}: {said}", block.section);
    }
    let name = m.run(&format!("dig +short @{} pgsql.example.org", m.node.ipv4()))?;
    ensure!(name == "10.88.0.99", "the name is {name}");
    ensure!(!m.run("ip -brief address")?.contains("10.88.0.99"), "the address is left");
    let password = m.run("cd /etc/patroni && stat -c '%U:%G %a' dnscp.password && cat dnscp.password")?;
    ensure!(password == "root:postgres 640\nP@ssw0rd", "the password is {password}");
    let bind = m.run("sysctl -n net.ipv4.ip_nonlocal_bind")?;
    ensure!(bind == "1", "net.ipv4.ip_nonlocal_bind is {bind}");
    Ok(())
}

// ---- the source package

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn every_linked_crate_is_in_the_copyright_file() -> Result<()> {
    let cargo = std::env::var_os("CARGO").context("run by cargo test")?;
    let tree = Command::new(cargo)
        .args(["tree", "--offline", "--locked", "--package", "patroni-tools", "--package", "dnscp"])
        .args(["--edges", "normal,no-proc-macro"])
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(source())
        .output()?;
    ensure!(tree.status.success(), "cargo tree: {}", String::from_utf8_lossy(&tree.stderr));
    let text = fs::read_to_string(source().join("debian/copyright"))?;
    let named: Vec<&str> = text.split(|c: char| !(c.is_alphanumeric() || "-_".contains(c))).collect();
    let tree = String::from_utf8(tree.stdout)?;
    let mut missing: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    missing.retain(|name| !named.contains(name) && !["", "dnscp", "patroni-tools", "host"].contains(name));
    ensure!(missing.is_empty(), "debian/copyright does not name {missing:?}");
    Ok(())
}

#[test]
fn the_build_fails_if_the_versions_differ_or_one_is_missing() -> Result<()> {
    if !Path::new("/usr/share/dpkg/pkg-info.mk").exists() {
        ensure!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "REQUIRE_ALL=1, but dpkg-dev is not installed");
        eprintln!("skipped: it needs dpkg-dev: apt-get install dpkg-dev");
        return Ok(());
    }
    let scratch = std::env::temp_dir().join(format!("patroni-tools-versions-{}", std::process::id()));
    let result = versions(&scratch);
    fs::remove_dir_all(&scratch).context("cannot remove the scratch directory")?;
    result
}

fn versions(scratch: &Path) -> Result<()> {
    program::copy(source().join("debian/rules"), scratch.join("debian/rules"))?;
    for file in ["debian/changelog", "debian/control", "Cargo.toml"] {
        fs::copy(source().join(file), scratch.join(file))?;
    }
    let configure = || -> Result<(bool, String)> {
        let mut rules = Command::new(scratch.join("debian/rules"));
        let ran = rules.arg("override_dh_auto_configure").current_dir(scratch).output()?;
        Ok((ran.status.success(), String::from_utf8_lossy(&ran.stderr).into_owned()))
    };
    let (accepted, said) = configure()?;
    ensure!(accepted, "the versions of this checkout: {said}");
    let cargo = fs::read_to_string(scratch.join("Cargo.toml"))?;
    for (wrong, expected) in [
        (cargo.replacen("version = \"", "version = \"9", 1), "debian/changelog has version"),
        (cargo.replace("[workspace.package]", "[workspace.nothing]"), "no version under [workspace.package]"),
    ] {
        fs::write(scratch.join("Cargo.toml"), wrong)?;
        let (accepted, said) = configure()?;
        ensure!(!accepted && said.contains(expected), "expected {expected:?}, got {said}");
    }
    fs::write(scratch.join("Cargo.toml"), cargo)?;
    fs::write(scratch.join("debian/changelog"), "")?;
    let (accepted, said) = configure()?;
    ensure!(!accepted && said.contains("no version in debian/changelog"), "an empty changelog passes: {said}");
    Ok(())
}
