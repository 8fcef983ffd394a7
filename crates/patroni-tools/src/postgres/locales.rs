//! The locales of this host. PostgreSQL cannot create a cluster with a locale that is not generated, and a replica of such a cluster
//! accepts no connection ("database locale is incompatible with operating system", `CheckMyDatabase`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use host::createcluster::{self, CreateCluster};
use host::trouble::{Trouble, in_line};
use host::{ClusterId, Root, envfile, program, trouble};

/// What `locale -a` prints takes milliseconds.
const LIMIT: Duration = Duration::from_secs(3);

/// The locale of the machine, which systemd passes to all units (locale.conf(5)); Debian's is the second.
const FILES: [&str; 2] = ["/etc/locale.conf", "/etc/default/locale"];

/// The variables from which initdb takes the locale of the databases, the strongest first (setlocale(3)).
const VARIABLES: [&str; 4] = ["LC_ALL", "LC_COLLATE", "LC_CTYPE", "LANG"];

/// The names that this host knows.
pub(crate) struct Locales(BTreeSet<String>);

impl Locales {
    /// Asks `locale`(1). `None` if it is missing or does not answer.
    pub(crate) fn of(root: &Root) -> Option<Self> {
        let mut command = program::command(root, "locale").ok()?;
        let output = program::output_within(command.arg("-a"), "", LIMIT).ok()?;
        let known = String::from_utf8_lossy(&output.stdout).lines().map(|line| normalized(line.trim())).collect();
        output.status.success().then_some(Self(known))
    }

    /// A locale that is not generated, and how it is.
    pub(crate) fn missing(&self, root: &Root, name: &str) -> Option<Trouble> {
        let built_in = ["", "C", "POSIX", "C.utf8"];
        let wanted = normalized(name);
        if built_in.contains(&wanted.as_str()) || self.0.contains(&wanted) {
            return None;
        }
        Some(trouble!("the locale {name} is not generated on this host"; "{}", generate(root, name)))
    }
}

/// The command that generates a locale on Debian.
fn generate(root: &Root, name: &str) -> String {
    let install = if root.program("locale-gen").is_err() { "apt install locales && " } else { "" };
    let (base, modifier) =
        name.split_once('@').map_or((name, String::new()), |(base, rest)| (base, format!("@{rest}")));
    let supported = root.read("/usr/share/i18n/SUPPORTED").ok().flatten();
    let line = base
        .split_once('.')
        .filter(|(_, codeset)| codeset_name(codeset) == "utf8")
        .map(|(language, _)| format!("{language}.UTF-8{modifier} UTF-8"))
        // It may come from a file of postgres, and becomes a line of a file of root.
        .filter(|line| line.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.@- ".contains(&b)))
        .filter(|line| supported.as_deref().is_none_or(|text| text.lines().any(|known| known.trim() == line)));
    match line {
        Some(line) => format!("Generate it with: {install}echo '{line}' >> /etc/locale.gen && locale-gen"),
        None => format!("Choose one with: {install}dpkg-reconfigure locales"),
    }
}

/// As glibc names a locale (`_nl_normalize_codeset`): `de_DE.UTF-8` and `de_DE.utf8` are the same.
fn normalized(name: &str) -> String {
    let (base, modifier) = name.split_once('@').map_or((name, None), |(base, modifier)| (base, Some(modifier)));
    let mut normal = match base.split_once('.') {
        Some((language, codeset)) => format!("{language}.{}", codeset_name(codeset)),
        None => base.to_owned(),
    };
    normal.extend(modifier.iter().flat_map(|modifier| ["@", modifier]));
    normal
}

fn codeset_name(codeset: &str) -> String {
    codeset.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// The locales that the machine gives to its units: variable, value, and the place where they are defined.
pub(crate) fn of_machine(root: &Root) -> Result<Vec<(String, String, String)>> {
    for file in FILES {
        let Some(text) = root.read(file)? else { continue };
        let assignments = envfile::parse(Path::new(file), &text)?;
        let strongest = |assignment: &envfile::Assignment| VARIABLES.contains(&assignment.key.as_str());
        let place = |line| in_line(PathBuf::from(file), line);
        let found = assignments.into_iter().filter(strongest);
        return Ok(found.map(|found| (found.key, found.value, place(found.line))).collect());
    }
    Ok(Vec::new())
}

/// A locale with which a cluster would be created here and that is not generated: that of the option, or else that of the machine.
pub(crate) fn missing_at_bootstrap(root: &Root, id: &ClusterId, asked: Option<&str>) -> Option<Trouble> {
    let other = |missing: Trouble| {
        let hint = missing.hint.clone().unwrap_or_default();
        let rest: String = hint.chars().skip(1).collect();
        missing.hint(format!("Set LOCALE=C.UTF-8, or {}{rest}", hint[..hint.len().min(1)].to_lowercase()))
    };
    if let Some(name) = asked {
        return Locales::of(root)?.missing(root, name).map(other);
    }
    let options = CreateCluster::read(root).map(|set| set.initdb_options(id)).unwrap_or_default();
    if let Some(name) = options.iter().find_map(|option| option.strip_prefix("--locale=")) {
        let place = createcluster::place(root, &["initdb_options"]).unwrap_or_default();
        return Some(other(Locales::of(root)?.missing(root, name)?).at(place));
    }
    // Options for single categories are rare, and the machine's locale then does not decide.
    if options.iter().any(|option| option.starts_with("--lc-") || option.ends_with("-locale")) {
        return None;
    }
    let of_machine = of_machine(root).ok().filter(|found| !found.is_empty())?;
    let locales = Locales::of(root)?;
    of_machine.iter().find_map(|(variable, value, place)| {
        let mut missing = other(locales.missing(root, value)?).at(place);
        missing.what = format!("{variable} is {value}, and LOCALE is not set, but {}", missing.what);
        Some(missing)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn machine(locales: &str) -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        lab::program::write(folder.path().join("usr/bin/locale"), format!("#!/bin/sh\nprintf '{locales}'\n")).unwrap();
        let root = Root::new(folder.path());
        (folder, root)
    }

    #[test]
    fn names_are_compared_as_by_glibc() {
        let (_folder, root) = machine("C\\nC.utf8\\nPOSIX\\nde_DE.utf8\\nde_DE.iso885915@euro\\n");
        let locales = Locales::of(&root).unwrap();
        for known in ["C", "C.UTF-8", "de_DE.UTF-8", "de_DE.utf8", "de_DE.ISO-8859-15@euro", "POSIX", ""] {
            assert_eq!(locales.missing(&root, known), None, "{known}");
        }
        let missing = |name: &str| locales.missing(&root, name).unwrap();
        assert_eq!(
            missing("fr_FR.utf8").hint.unwrap(),
            "Generate it with: apt install locales && echo 'fr_FR.UTF-8 UTF-8' >> /etc/locale.gen && locale-gen"
        );
        assert!(missing("x'; touch y; '.UTF-8").hint.unwrap().ends_with("dpkg-reconfigure locales"));
        assert!(missing("de_DE").hint.unwrap().ends_with("dpkg-reconfigure locales"));
    }

    #[test]
    fn the_locale_of_the_machine_counts_unless_another_is_asked_for() {
        let (folder, root) = machine("C\\nC.utf8\\n");
        std::fs::create_dir_all(folder.path().join("etc/default")).unwrap();
        std::fs::write(folder.path().join("etc/default/locale"), "# x\nLANG=de_DE.UTF-8\n").unwrap();
        let id = "17/main".parse().unwrap();
        let found = missing_at_bootstrap(&root, &id, None).unwrap();
        assert_eq!(
            found.line(),
            "/etc/default/locale:2: LANG is de_DE.UTF-8, and LOCALE is not set, but the locale de_DE.UTF-8 is not generated on this host"
        );
        assert!(found.hint.unwrap().starts_with("Set LOCALE=C.UTF-8, or generate it with: "));
        assert_eq!(missing_at_bootstrap(&root, &id, Some("C.UTF-8")), None);
        let etc = folder.path().join("etc/postgresql-common");
        std::fs::create_dir_all(&etc).unwrap();
        for (option, missing) in [
            ("--lc-collate=C", None),
            ("--no-locale", None),
            ("--locale=fr_FR.UTF-8", Some("createcluster.conf:1: the locale fr_FR")),
        ] {
            std::fs::write(etc.join("createcluster.conf"), format!("initdb_options = '-k {option}'\n")).unwrap();
            let found = missing_at_bootstrap(&root, &id, None).map(|trouble| trouble.line());
            assert_eq!(found.is_some(), missing.is_some(), "{found:?}");
            assert!(missing.is_none_or(|part| found.unwrap().contains(part)), "{option}");
        }
        std::fs::remove_dir_all(etc).unwrap();
        std::fs::remove_file(folder.path().join("usr/bin/locale")).unwrap();
        assert_eq!(missing_at_bootstrap(&root, &id, None), None);
    }
}
