//! The commands of a page of the documentation, as they stand there.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::patroni::Cluster;

/// The longest that a block may take: an installation.
pub const LIMIT: Duration = Duration::from_secs(300);

/// Commands of a page, and where they are run.
#[derive(Debug)]
pub struct Block<'a> {
    /// The heading of the second level that it is under.
    pub section: &'a str,
    /// The machines.
    pub nodes: Vec<&'a str>,
    /// Those of the machines that it means at the time.
    pub role: Role,
    /// The commands.
    pub commands: String,
}

/// Which of its machines a block means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// All of them.
    Any,
    /// The primary.
    Primary,
    /// Those that are not the primary.
    Replica,
}

impl Block<'_> {
    /// The machines on which it is run now, while `primary` is the primary.
    pub fn nodes_beside(&self, primary: impl FnOnce() -> Result<String>) -> Result<Vec<&str>> {
        let nodes = self.nodes.iter().copied();
        if self.role == Role::Any {
            return Ok(nodes.collect());
        }
        let primary = primary()?;
        Ok(nodes.filter(|node| (*node == primary) == (self.role == Role::Primary)).collect())
    }

    /// Runs the commands on these machines, one after the other.
    pub fn run(&self, lab: &Lab, nodes: &[&str]) -> Result<()> {
        for node in nodes {
            let begin = Instant::now();
            let said = lab.node(node).try_run_within(LIMIT, &format!("set -e\n{}", self.commands))?;
            let shown = self.commands.lines().next().unwrap_or_default();
            ensure!(said.status.success(), "{node}: {shown} …: {said}");
            let seconds = begin.elapsed().as_secs_f32();
            println!("Debian {}, {}, {node}: {shown} …: {seconds:.1} s", lab.release(), self.section);
        }
        Ok(())
    }
}

/// The blocks that begin with "```sh on …", except those for another DCS: "```sh on …, with Consul".
pub fn blocks<'a>(page: &'a str, machines: &[&'a str], dcs: &str) -> Result<Vec<Block<'a>>> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    let mut section = "";
    while let Some(line) = lines.next() {
        section = line.strip_prefix("## ").unwrap_or(section);
        let Some(heading) = line.strip_prefix("```") else { continue };
        let commands: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let place = heading.strip_prefix("sh on ").with_context(|| format!("a block has no place: {line}"))?;
        let (place, with) = place.split_once(", with ").map_or((place, dcs), |(place, with)| (place, with));
        let named = || machines.iter().copied().filter(|name| place.split(' ').any(|word| word == *name)).collect();
        let (role, nodes): (Role, Vec<&str>) = match place {
            "every member" => (Role::Any, machines.to_vec()),
            "the primary" => (Role::Primary, machines.to_vec()),
            "each replica" => (Role::Replica, machines.to_vec()),
            _ => (Role::Any, named()),
        };
        ensure!(!nodes.is_empty() && ["etcd", "Consul"].contains(&with), "what is this? {line}");
        if with == dcs {
            found.push(Block { section, nodes, role, commands: commands.join("\n") });
        }
    }
    Ok(found)
}

/// The blocks of a page of plain text, as `README.Debian` is one: lines behind the prompt "  # ", under headings that are underlined.
#[must_use]
pub fn prompted(page: &str) -> Vec<Block<'_>> {
    let mut found: Vec<Block> = Vec::new();
    let (mut section, mut previous, mut inside) = ("", "", false);
    for line in page.lines() {
        if line.starts_with("---") {
            section = previous;
        }
        match (line.strip_prefix("  # "), found.last_mut().filter(|_| inside)) {
            (Some(command), Some(block)) => {
                block.commands.push('\n');
                block.commands.push_str(command);
            }
            (Some(command), None) => {
                found.push(Block { section, nodes: Vec::new(), role: Role::Any, commands: command.to_owned() });
            }
            (None, _) => {}
        }
        inside = line.starts_with("  # ");
        previous = line;
    }
    found
}

/// A page about `16/main` or `17/main`, with the names of this cluster.
#[must_use]
pub fn of_cluster(page: &str, cluster: &Cluster) -> String {
    let mut text = page.to_owned();
    for version in ["16", "17"] {
        for between in ["/", "-", " "] {
            let name = cluster.slashed().replace('/', between);
            text = text.replace(&format!("{version}{between}main"), &name);
        }
    }
    text
}

/// Lets root of the first machine log in as root on the others by ssh, as the pages require.
pub fn let_in_root_of_the_first(lab: &Lab) -> Result<()> {
    let first = lab.nodes().first().context("a lab has machines")?;
    first.run("test -e /root/.ssh/id_ed25519 || ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519")?;
    let key = first.read("/root/.ssh/id_ed25519.pub")?;
    let mut known = String::new();
    for node in lab.nodes() {
        node.write("/root/.ssh/authorized_keys", &key, 0o600)?;
        writeln!(known, "{} {}", node.name(), node.read("/etc/ssh/ssh_host_ed25519_key.pub")?.trim())?;
    }
    first.write("/root/.ssh/known_hosts", known, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_behind_a_prompt() {
        let found = prompted("One\n---\ntext\n\n  # a  # why\n  # b\n\nTwo\n---\n  # c\nmore\n  # d\n");
        let found: Vec<_> = found.iter().map(|block| (block.section, block.commands.as_str())).collect();
        assert_eq!(found, [("One", "a  # why\nb"), ("Two", "c"), ("Two", "d")]);
    }

    #[test]
    fn a_block_is_run_where_it_says() -> Result<()> {
        let page = "## First\n```sh on pg1\none\n```\n## Second\n```sh on pg2 and pg3\ntwo\nthree\n```\n\
                    ```sh on every member, with Consul\nfour\n```\n";
        let machines = ["pg1", "pg2", "pg3"];
        let found = blocks(page, &machines, "etcd")?;
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!((found[1].section, &found[1].nodes[..]), ("Second", &["pg2", "pg3"][..]));
        assert_eq!(found[1].commands, "two\nthree");
        let found = blocks(page, &machines, "Consul")?;
        assert_eq!(found[2].nodes, machines);
        let found = blocks("```sh on the primary\none\n```\n```sh on each replica\ntwo\n```\n", &machines, "etcd")?;
        let nodes = |block: &Block| block.nodes_beside(|| Ok("pg2".to_owned())).map(|nodes| nodes.join(" "));
        assert_eq!((nodes(&found[0])?.as_str(), nodes(&found[1])?.as_str()), ("pg2", "pg1 pg3"));
        assert!(blocks("```sh on pg4\nno\n```\n", &machines, "etcd").is_err());
        assert!(blocks("```sh\nnowhere\n```\n", &machines, "etcd").is_err());
        Ok(())
    }
}
