//! `postgresql.conf`-like files as postgresql-common reads them (`PgCommon::read_conf_file`), so that we agree with
//! `pg_lsclusters` on every file that it accepts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::errno::Errno;

use crate::files::{Named, Opener};
use crate::trouble::{Explain, in_line};
use crate::{Root, fail};

/// Keys and values. Keys of files named `*.conf` are in lower case.
pub type Conf = BTreeMap<String, String>;

/// PostgreSQL allows this many levels of inclusion (`CONF_FILE_MAX_DEPTH`); postgresql-common does not count.
const MAX_DEPTH: usize = 10;

/// Larger than any configuration: a `postgresql.conf` of all parameters with their comments is 30 kB.
const LONGEST: u64 = 1 << 20;

/// How much may be read for one configuration, with all that it includes: breadth has no limit of PostgreSQL's.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    files: u64,
    bytes: u64,
}

impl Budget {
    /// For one configuration.
    pub const ONE: Self = Self { files: 1000, bytes: 8 << 20 };

    /// For all clusters of a host together.
    pub const ALL: Self = Self { files: 20_000, bytes: 64 << 20 };
}

/// Reads a file and what it includes. A file that is missing is empty, as for postgresql-common.
///
/// A line that postgresql-common would not understand is an error with file and line. The error does not quote the line, as the
/// path can lead to any file.
pub fn read(root: &Root, path: impl AsRef<Path>) -> Result<Conf> {
    Reader::new(root, Budget::ONE).read(path.as_ref(), Named::Here)
}

/// The last line on which a parameter is set, counted from 1.
#[must_use]
pub fn line_of(text: &str, name: &str) -> Option<usize> {
    let sets = |line: &str| {
        let word = line.trim_start().split(|c: char| c.is_whitespace() || c == '=').next().unwrap_or_default();
        word.eq_ignore_ascii_case(name)
    };
    text.lines().enumerate().filter(|(_, line)| sets(line)).last().map(|(index, _)| index + 1)
}

/// Reads configurations, within a budget.
pub(crate) struct Reader<'a> {
    administrator: Opener<'a>,
    postgres: Opener<'a>,
    budget: Budget,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(root: &'a Root, budget: Budget) -> Self {
        let (administrator, postgres) = (Opener::new(root, Named::Here), Opener::new(root, Named::ByPostgres));
        Self { administrator, postgres, budget }
    }

    /// Reads a file at a path of any origin, and what it includes.
    pub(crate) fn read(&mut self, path: &Path, named: Named) -> Result<Conf> {
        let mut conf = Conf::new();
        self.file(path, named, 0, &mut conf)?;
        Ok(conf)
    }

    /// Works with what is left of the budget, but with no more than one configuration may use.
    pub(crate) fn share<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let all = self.budget;
        let given = Budget { files: all.files.min(Budget::ONE.files), bytes: all.bytes.min(Budget::ONE.bytes) };
        self.budget = given;
        let result = work(self);
        let (files, bytes) = (given.files - self.budget.files, given.bytes - self.budget.bytes);
        self.budget = Budget { files: all.files - files, bytes: all.bytes - bytes };
        result
    }

    fn file(&mut self, path: &Path, named: Named, depth: usize, conf: &mut Conf) -> Result<()> {
        if depth > MAX_DEPTH {
            fail!(
                at path.display(), "files include each other more than {MAX_DEPTH} levels deep";
                "Remove the directive that includes a file in itself."
            );
        }
        let Some((text, named)) = self.text(path, named)? else { return Ok(()) };
        let lower = path.extension().is_some_and(|extension| extension == "conf");
        for (index, line) in text.lines().enumerate() {
            let place = || in_line(path, index + 1);
            match parse_line(line) {
                Some(Line::Nothing) => {}
                Some(Line::Include(file)) => self.file(&beside(path, &file), named, depth + 1, conf).at(place())?,
                Some(Line::IncludeDir(directory)) => {
                    self.directory(&beside(path, &directory), named, depth, conf).at(place())?;
                }
                Some(Line::Value(key, value)) => {
                    let key = if lower { key.to_ascii_lowercase() } else { key };
                    conf.insert(key, value);
                }
                None => fail!(
                    at place(), "not a setting that postgresql-common understands";
                    "Write it as NAME = 'VALUE'."
                ),
            }
        }
        Ok(())
    }

    fn directory(&mut self, directory: &Path, named: Named, depth: usize, conf: &mut Conf) -> Result<()> {
        self.count(0, directory)?;
        for name in self.opener(named).list(directory)? {
            let part = directory.join(&name);
            if part.extension().is_some_and(|extension| extension == "conf") && !name.starts_with('.') {
                self.file(&part, named, depth + 1, conf)?;
            }
        }
        Ok(())
    }

    /// The text, and who names the files that it includes. These files may have any encoding (comments in Latin-1); the keys that
    /// matter are ASCII.
    fn text(&mut self, path: &Path, named: Named) -> Result<Option<(String, Named)>> {
        self.count(0, path)?;
        let opened = match self.opener(named).open(path) {
            Ok(opened) => opened,
            // postgresql-common ignores a file that it cannot open, and shows the cluster with the default port.
            Err(error) if is_denied(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(opened) = opened else { return Ok(None) };
        let named = if opened.of_postgres { Named::ByPostgres } else { named };
        let bytes = opened.bytes(LONGEST)?;
        self.count(bytes.len() as u64, path)?;
        // Nearly all are UTF-8, which is seen much faster than it is replaced.
        let text =
            String::from_utf8(bytes).unwrap_or_else(|other| String::from_utf8_lossy(other.as_bytes()).into_owned());
        Ok(Some((text, named)))
    }

    /// Counts one file, or its bytes.
    fn count(&mut self, bytes: u64, path: &Path) -> Result<()> {
        let files = u64::from(bytes == 0);
        match (self.budget.files.checked_sub(files), self.budget.bytes.checked_sub(bytes)) {
            (Some(files), Some(bytes)) => self.budget = Budget { files, bytes },
            _ => {
                fail!(at path.display(), "the configuration includes too many files or bytes, up to this file")
            }
        }
        Ok(())
    }

    fn opener(&self, named: Named) -> &Opener<'a> {
        if named == Named::Here { &self.administrator } else { &self.postgres }
    }
}

/// Only the kernel's refusal counts; what root does not read on behalf of postgres is reported.
fn is_denied(error: &anyhow::Error) -> bool {
    let denies = |error: &std::io::Error| error.raw_os_error() == Some(Errno::EACCES as i32);
    error.chain().any(|cause| cause.downcast_ref().is_some_and(denies))
}

fn beside(file: &Path, other: &str) -> PathBuf {
    match file.parent() {
        Some(parent) => parent.join(other),
        None => PathBuf::from(other),
    }
}

/// One line of such a file.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Nothing,
    Include(String),
    IncludeDir(String),
    Value(String, String),
}

fn parse_line(line: &str) -> Option<Line> {
    let line = line.trim_start();
    if line.is_empty() || line.starts_with('#') {
        return Some(Line::Nothing);
    }
    let key_end = line.find(|c: char| !(c.is_ascii_alphanumeric() || "_.-".contains(c))).unwrap_or(line.len());
    let (key, rest) = line.split_at(key_end);
    if key.is_empty() {
        return None;
    }
    let directive = key.to_ascii_lowercase();
    let is_include = matches!(directive.as_str(), "include" | "include_if_exists" | "include_dir");
    // An equals sign or white space separates, except that include'file' needs neither.
    let after = rest.trim_start();
    let separated = after.len() < rest.len() || after.starts_with('=') || is_include;
    let after = after.strip_prefix('=').unwrap_or(after).trim_start();
    if !separated {
        return None;
    }
    if let Some(quoted) = after.strip_prefix('\'') {
        let (value, tail) = quoted_value(quoted)?;
        if !is_end(tail) {
            return None;
        }
        return Some(match directive.as_str() {
            "include_dir" if !value.is_empty() => Line::IncludeDir(value),
            "include" | "include_if_exists" if !value.is_empty() => Line::Include(value),
            _ => Line::Value(key.to_owned(), value),
        });
    }
    let value_end = after.find(|c: char| !(c.is_ascii_alphanumeric() || "._:/+-".contains(c))).unwrap_or(after.len());
    let (value, tail) = after.split_at(value_end);
    let first = value.strip_prefix('-').unwrap_or(value);
    if first.starts_with(|c: char| c.is_ascii_alphanumeric()) && is_end(tail) {
        Some(Line::Value(key.to_owned(), value.to_owned()))
    } else {
        None
    }
}

/// The value up to its closing quote (`''` is a quote, a backslash takes the next character as it is), and what follows.
fn quoted_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => value.push(characters.next()?.1),
            '\'' if text[at + 1..].starts_with('\'') => {
                characters.next();
                value.push('\'');
            }
            '\'' => return Some((value, &text[at + 1..])),
            other => value.push(other),
        }
    }
    None
}

fn is_end(tail: &str) -> bool {
    let tail = tail.trim_start();
    tail.is_empty() || tail.starts_with('#')
}

/// Is a value of createcluster.conf or postgresql.conf true (`PgCommon::config_bool`)?
#[must_use]
pub fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true" | "t" | "y" | "ye" | "tr" | "tru")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::trouble::told;

    #[allow(clippy::unnecessary_wraps)]
    fn value(key: &str, value: &str) -> Option<Line> {
        Some(Line::Value(key.to_owned(), value.to_owned()))
    }

    #[test]
    fn the_last_definition_counts() {
        assert_eq!(line_of("#work_mem = 1\nWork_Mem=2\n work_mem 3\n", "work_mem"), Some(3));
        assert_eq!(line_of("#work_mem = 1\n", "work_mem"), None);
    }

    #[test]
    fn reads_every_form_of_a_line() {
        assert_eq!(parse_line("  # port = 1"), Some(Line::Nothing));
        assert_eq!(parse_line("port = 5433"), value("port", "5433"));
        assert_eq!(parse_line("port 5433\t# why"), value("port", "5433"));
        assert_eq!(parse_line("port=5433#x"), value("port", "5433"));
        assert_eq!(parse_line("a='it''s'"), value("a", "it's"));
        assert_eq!(parse_line(r"a='it\'s'"), value("a", "it's"));
        assert_eq!(parse_line("a = ''"), value("a", ""));
        assert_eq!(parse_line("x.y = -1"), value("x.y", "-1"));
        assert_eq!(parse_line("include 'a.conf'"), Some(Line::Include("a.conf".to_owned())));
        assert_eq!(parse_line("INCLUDE_IF_EXISTS = 'a.conf' # x"), Some(Line::Include("a.conf".to_owned())));
        assert_eq!(parse_line("include_dir 'conf.d'"), Some(Line::IncludeDir("conf.d".to_owned())));
        assert_eq!(parse_line("port"), None);
        assert_eq!(parse_line("port = 1 2"), None);
        assert_eq!(parse_line("a = 'x"), None);
        assert_eq!(parse_line("= 3"), None);
    }

    #[test]
    fn follows_includes_from_the_including_file() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        let etc = folder.path().join("etc/conf.d");
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::write(folder.path().join("etc/a.conf"), "Port = 1\ninclude 'b.conf'\ninclude_dir 'conf.d'\n").unwrap();
        std::fs::write(folder.path().join("etc/b.conf"), "port = 2\nwork_mem = '1MB'\n").unwrap();
        std::fs::write(etc.join("z.conf"), "port = 3").unwrap();
        std::fs::write(etc.join(".hidden.conf"), "port = 4").unwrap();
        std::fs::write(etc.join("ignored"), "port = 5").unwrap();
        let conf = read(&root, "/etc/a.conf").unwrap();
        assert_eq!(conf["port"], "3");
        assert_eq!(conf["work_mem"], "1MB");
        std::fs::write(folder.path().join("etc/loop.conf"), "include 'loop.conf'").unwrap();
        assert!(read(&root, "/etc/loop.conf").is_err());
        std::fs::write(folder.path().join("etc/bad.conf"), "port = 1\nwhat?\n").unwrap();
        let error = told(&read(&root, "/etc/bad.conf").unwrap_err());
        assert!(error.starts_with("/etc/bad.conf:2: ") && !error.contains("what?"), "{error}");
    }
}
