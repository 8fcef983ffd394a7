//! The methods of the Patroni file: how a cluster and its replicas are created.

use serde_json::Value;

use crate::doctor::cluster::Cluster;
use crate::files::yaml::Yaml;

/// Sections whose names are defined in the file itself.
pub(crate) fn method_names(yaml: &Yaml) -> Vec<String> {
    let mut names: Vec<String> = yaml.text(&["bootstrap", "method"]).into_iter().collect();
    for key in ["create_replica_methods", "create_replica_method"] {
        if let Some(Value::Array(methods)) = yaml.get(&["postgresql", key]) {
            names.extend(methods.iter().filter_map(Value::as_str).map(str::to_owned));
        }
    }
    names
}

/// The keys and commands that create a cluster or a replica with the hooks of this package, or Debian's, which it replaces.
pub(crate) fn hook_methods(cluster: &Cluster) -> Vec<(String, String)> {
    let is_hook = |command: &str| {
        let program = command.split_whitespace().next().unwrap_or_default();
        let name = program.rsplit('/').next().unwrap_or_default();
        ["pg_createcluster_patroni", "pg_clonecluster_patroni"].contains(&name)
    };
    let mut found = Vec::new();
    for method in method_names(&cluster.yaml) {
        for section in ["bootstrap", "postgresql"] {
            let command = cluster.text(&[section, &method, "command"]).filter(|command| is_hook(command));
            // Patroni passes the other keys of a method as options.
            let cluster_key = cluster.text(&[section, &method, "cluster"]).map(|named| format!(" --cluster={named}"));
            let command = command.map(|command| command + &cluster_key.unwrap_or_default());
            found.extend(command.map(|command| (format!("{section}.{method}.command"), command)));
        }
    }
    found
}

/// Do the hooks of this package create the cluster?
pub(crate) fn uses_hooks(cluster: &Cluster) -> bool {
    !hook_methods(cluster).is_empty()
}
