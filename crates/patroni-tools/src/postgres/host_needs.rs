//! What parameters of PostgreSQL need of this host, without which it does not start: libraries and huge pages.

use std::path::Path;

use host::trouble::Trouble;
use host::{ClusterId, Root, trouble};
use nix::sys::statvfs::statvfs;

/// Libraries of packages whose names do not follow from theirs: library, end of the package's name.
const PACKAGES: [(&str, &str); 10] = [
    ("pg_cron", "cron"),
    ("pg_partman_bgw", "partman"),
    ("pg_squeeze", "squeeze"),
    ("pg_stat_kcache", "pg-stat-kcache"),
    ("pg_qualstats", "pg-qualstats"),
    ("pg_wait_sampling", "pg-wait-sampling"),
    ("pg_hint_plan", "pg-hint-plan"),
    ("set_user", "set-user"),
    ("plpgsql_check", "plpgsql-check"),
    ("timescaledb", "timescaledb"),
];

/// The parameters that load libraries into every server process, or into the server itself.
const PRELOADS: [&str; 1] = ["shared_preload_libraries"];

/// What is missing for the parameters that `value` returns, with the name of the parameter that needs it.
pub(crate) fn check(
    root: &Root,
    id: &ClusterId,
    value: impl Fn(&str) -> Option<String>,
) -> Vec<(&'static str, Trouble)> {
    let mut found = Vec::new();
    for name in PRELOADS {
        let missing = value(name).map(|list| missing_libraries(root, id, &list)).unwrap_or_default();
        // With another path they may be elsewhere.
        if value("dynamic_library_path").is_none() {
            found.extend(missing.iter().map(|library| (name, not_installed(id, name, library))));
        }
    }
    if value("huge_pages").as_deref() == Some("on") && value("huge_page_size").is_none_or(|size| size == "0") {
        found.extend(no_huge_pages(root, value("shared_buffers").as_deref()).map(|trouble| ("huge_pages", trouble)));
    }
    found
}

/// The libraries of a list that are not installed (`load_libraries` in `miscinit.c`: a name without a slash is below `$libdir`).
fn missing_libraries(root: &Root, id: &ClusterId, list: &str) -> Vec<String> {
    let directory = Path::new("/usr/lib/postgresql").join(id.version.as_str()).join("lib");
    if !root.path(&directory).exists() {
        return Vec::new();
    }
    let names = list.split(',').map(|name| name.trim().trim_matches('"')).filter(|name| !name.is_empty());
    let names = names.map(|name| name.strip_prefix("$libdir/").unwrap_or(name));
    let there = |name: &str| {
        let path = directory.join(name);
        root.path(&path).exists() || root.path(format!("{}.so", path.display())).exists()
    };
    // Another path is the administrator's own.
    names.filter(|name| !name.contains('/') && !there(name)).map(str::to_owned).collect()
}

fn not_installed(id: &ClusterId, parameter: &str, library: &str) -> Trouble {
    // The list may come from a file of postgres.
    if !library.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.+".contains(&b)) || library.starts_with('-') {
        return trouble!(
            "{parameter} has {library}, which is not installed on this host, so PostgreSQL does not start"; "Remove it there."
        );
    }
    let known = PACKAGES.iter().find(|(name, _)| *name == library);
    let package = known.map_or_else(|| library.replace('_', "-"), |(_, package)| (*package).to_owned());
    trouble!(
        "{parameter} has {library}, which is not installed on this host, so PostgreSQL does not start";
        "Remove it there, or install its package with: apt install postgresql-{}-{package}", id.version
    )
}

/// No huge pages on a host that is to use nothing else: the pages that are reserved, and those that the kernel may add.
fn no_huge_pages(root: &Root, shared_buffers: Option<&str>) -> Option<Trouble> {
    let text = root.read("/proc/meminfo").ok()??;
    let number = |key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        value.split_whitespace().next()?.parse::<u64>().ok()
    };
    let (total, size) = (number("HugePages_Total")?, number("Hugepagesize")?.max(1));
    let more = root.read("/proc/sys/vm/nr_overcommit_hugepages").ok().flatten();
    let more: u64 = more.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let buffers = shared_buffers.map_or(Some(128 << 10), kilobytes)?;
    if (total + more) * size >= buffers {
        return None;
    }
    // What else is in shared memory grows with the number of connections, and little with the buffers.
    let wanted = (buffers + buffers / 20 + (128 << 10)).div_ceil(size);
    Some(trouble!(
        "huge_pages is on, but this host has {} MiB of huge pages for shared_buffers of {} MiB, so PostgreSQL does not start",
        ((total + more) * size) >> 10, buffers >> 10;
        "Reserve them with: echo 'vm.nr_hugepages = {wanted}' > /etc/sysctl.d/30-postgresql.conf && sysctl --system"
    ))
}

/// A `/dev/shm` as small as a container's, in which PostgreSQL puts what its parallel processes share (`dynamic_shared_memory_type`).
pub(crate) fn small_shared_memory(root: &Root) -> Option<Trouble> {
    const LEAST: u64 = 64 << 20;
    if !root.is_this_machine() {
        return None;
    }
    let found = statvfs("/dev/shm").ok()?;
    let size = found.blocks().saturating_mul(found.fragment_size());
    (size <= LEAST).then(|| {
        trouble!(
            "/dev/shm has only {} MiB, so parallel queries can fail (could not resize shared memory segment)", size >> 20;
            "Enlarge it, in a container with its option for the size of /dev/shm, otherwise with: mount -o remount,size=50% /dev/shm"
        )
    })
}

/// A size in PostgreSQL's notation; without a unit, in blocks of 8 kB.
fn kilobytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
    let number: u64 = digits.parse().ok()?;
    let factor = match text[digits.len()..].trim_start() {
        "" => 8,
        "kB" => 1,
        "MB" => 1 << 10,
        "GB" => 1 << 20,
        "TB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        for (path, text) in files {
            let path = root.path(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        (folder, root)
    }

    fn found(root: &Root, values: &[(&str, &str)]) -> Vec<String> {
        let value = |name: &str| values.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        check(root, &"17/main".parse().unwrap(), value)
            .into_iter()
            .map(|(_, trouble)| trouble.what + &trouble.hint.unwrap())
            .collect()
    }

    #[test]
    fn libraries_that_are_not_installed_are_found() {
        let lib = "/usr/lib/postgresql/17/lib/pg_stat_statements.so";
        let (_folder, root) = machine(&[(lib, "")]);
        let list = [("shared_preload_libraries", "pg_stat_statements, \"$libdir/pg_cron\",/opt/x")];
        let said = found(&root, &list);
        assert_eq!(said.len(), 1);
        assert!(said[0].contains("has pg_cron, ") && said[0].ends_with("apt install postgresql-17-cron"), "{said:?}");
        assert!(found(&root, &[list[0], ("dynamic_library_path", "/x")]).is_empty());
        let other_name = found(&root, &[("shared_preload_libraries", "x; touch y")]);
        assert!(other_name[0].ends_with("Remove it there."), "{other_name:?}");
        let (_folder, other) = machine(&[]);
        assert!(found(&other, &list).is_empty(), "PostgreSQL is not Debian's");
    }

    #[test]
    fn huge_pages_have_to_be_there_if_nothing_else_may_be_used() {
        let memory =
            |total: u64| format!("HugePages_Total:   {total}\nHugePages_Free: 0\nHugepagesize:       2048 kB\n");
        let (_folder, root) = machine(&[("/proc/meminfo", &memory(0))]);
        let on = ("huge_pages", "on");
        assert!(found(&root, &[on])[0].contains("vm.nr_hugepages = 132'"), "{:?}", found(&root, &[on]));
        assert!(
            found(&root, &[("huge_pages", "try")]).is_empty()
                && found(&root, &[on, ("huge_page_size", "1GB")]).is_empty()
        );
        let (_folder, root) = machine(&[("/proc/meminfo", &memory(100))]);
        assert!(found(&root, &[on]).is_empty() && found(&root, &[on, ("shared_buffers", "1GB")]).len() == 1);
        let (_folder, root) =
            machine(&[("/proc/meminfo", &memory(0)), ("/proc/sys/vm/nr_overcommit_hugepages", "700\n")]);
        assert!(found(&root, &[on, ("shared_buffers", "1GB")]).is_empty());
    }
}
