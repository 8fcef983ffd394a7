//! The command line of a hook. Patroni passes every key of the method's section as `--key=value`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use host::trouble::{Explain, Trouble};
use host::{ClusterId, fail, trouble};

/// A command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) words: Vec<String>,
    options: Vec<(String, Option<String>)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Work(Arguments),
    Help,
    Version,
}

impl Arguments {
    /// The last value of an option: Patroni passes the words of `command` first, then its own.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(key, _)| key == name)?.1.as_deref()
    }

    /// All options in their order; a flag has no value.
    pub(crate) fn options(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.options.iter().map(|(key, value)| (key.as_str(), value.as_deref()))
    }

    /// The cluster.
    pub(crate) fn cluster(&self) -> Result<ClusterId> {
        if let Some(cluster) = self.value("cluster") {
            return cluster.parse::<ClusterId>().at("--cluster");
        }
        let Some(scope) = self.value("scope") else {
            return Err(missing("--scope").into());
        };
        scope
            .parse::<ClusterId>()
            .at("--scope")
            .or_hint(|| "Add --cluster=VERSION/NAME to the command in the Patroni file.".to_owned())
    }

    /// The data directory that Patroni has passed.
    pub(crate) fn data_directory(&self) -> Result<PathBuf> {
        let Some(text) = self.value("datadir") else {
            return Err(missing("--datadir").into());
        };
        directory("--datadir", text)
    }
}

fn missing(option: &str) -> Trouble {
    trouble!("{option} is missing"; "Patroni passes it, unless the method has 'no_params' in the Patroni file.")
}

/// A path that can be a data or WAL directory; `place` is the option or setting that has it.
pub(crate) fn directory(place: &str, text: &str) -> Result<PathBuf> {
    let trimmed = text.trim_end_matches('/');
    let path = Path::new(trimmed);
    let plain = path.components().skip(1).all(|part| matches!(part, std::path::Component::Normal(_)));
    if !path.is_absolute() || !plain || path.components().count() < 3 || trimmed.contains(char::is_control) {
        fail!(at place, "'{}' is not an absolute path that can be used for data", text.escape_debug());
    }
    Ok(path.to_owned())
}

/// Parses a command line. `True`, `False` and `None` are Python's: Patroni formats the values of its file with `str()`.
pub(crate) fn read(arguments: impl IntoIterator<Item = std::ffi::OsString>, words: bool) -> Result<Request, Trouble> {
    let mut read = Arguments::default();
    for word in arguments {
        let word = word.into_string().map_err(|word| trouble!("{word:?} is not UTF-8"))?;
        let Some(option) = word.strip_prefix("--") else {
            match word.as_str() {
                "-h" => return Ok(Request::Help),
                "-V" => return Ok(Request::Version),
                _ if word.starts_with('-') => {
                    return Err(trouble!("unknown option '{word}', as options are written --NAME=VALUE"));
                }
                _ if words => read.words.push(word),
                _ => return Err(trouble!("unexpected argument '{word}', as options are written --NAME=VALUE")),
            }
            continue;
        };
        match option {
            "help" => return Ok(Request::Help),
            "version" => return Ok(Request::Version),
            "" => return Err(trouble!("unexpected '--', as options are written --NAME=VALUE")),
            _ => {}
        }
        let (name, value) = match option.split_once('=') {
            Some((_, "False" | "None")) => continue,
            Some((name, "True")) => (name, None),
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        read.options.push((name.replace('_', "-"), value));
    }
    Ok(Request::Work(read))
}

/// A command line for the tests of other modules.
#[cfg(test)]
pub(crate) fn tests_arguments(line: &[&str]) -> Arguments {
    match read(line.iter().map(std::ffi::OsString::from), false) {
        Ok(Request::Work(arguments)) => arguments,
        other => panic!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn arguments(line: &[&str]) -> Arguments {
        tests_arguments(line)
    }

    #[test]
    fn reads_what_patroni_passes() {
        let read = arguments(&[
            "--max_rate=10M",
            "--keep_data=False",
            "--waldir=None",
            "--data-checksums=True",
            "--no-locale",
            "--scope=17-my-app",
            "--datadir=/srv/a b/",
            "--connstring=host=a user=b=c",
        ]);
        assert_eq!(read.value("max-rate"), Some("10M"));
        assert_eq!(read.value("connstring"), Some("host=a user=b=c"));
        assert_eq!(read.data_directory().unwrap(), Path::new("/srv/a b"));
        assert_eq!(read.cluster().unwrap().slashed(), "17/my-app");
        let names: Vec<_> = read.options().map(|(name, _)| name).collect();
        assert_eq!(names, ["max-rate", "data-checksums", "no-locale", "scope", "datadir", "connstring"]);
    }

    #[test]
    fn a_scope_that_names_no_cluster_needs_the_option() {
        let trouble = Trouble::of(&arguments(&["--scope=prod"]).cluster().unwrap_err());
        assert!(trouble.hint.as_ref().unwrap().contains("--cluster=VERSION/NAME"), "{trouble:?}");
        assert_eq!(arguments(&["--cluster=17/main", "--scope=prod"]).cluster().unwrap().dashed(), "17-main");
        assert!(arguments(&[]).cluster().unwrap_err().to_string().contains("--scope is missing"));
    }

    #[test]
    fn refuses_paths_that_cannot_be_a_data_directory() {
        for text in ["", "/", "/srv", "srv/data", "/srv/../etc/x", "/srv/a\nb", "//"] {
            assert!(directory("--datadir", text).is_err(), "{text:?}");
        }
        assert_eq!(directory("--datadir", "/srv/data//").unwrap(), Path::new("/srv/data"));
    }

    #[test]
    fn an_argument_is_a_usage_error() {
        for line in [vec!["x"], vec!["-x"], vec!["--"]] {
            assert!(read(line.iter().map(std::ffi::OsString::from), false).is_err(), "{line:?}");
        }
        assert!(matches!(read(["--help".into()], false), Ok(Request::Help)));
        assert!(matches!(read(["-V".into()], true), Ok(Request::Version)));
    }
}
