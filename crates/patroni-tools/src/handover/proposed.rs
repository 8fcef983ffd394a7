//! The settings that a take-over adds, while it decides.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use host::settings::{Origin, Settings};
use host::{ClusterId, Root, fail, settings};

use crate::handover::decision::{Line, Text};
use crate::handover::foreign;
use crate::patroni::paths::DIRECTORY;

/// The settings that are added.
#[derive(Default)]
pub(crate) struct Proposed {
    pub(crate) lines: Vec<Line>,
    pub(crate) files: Vec<Text>,
    staged: Vec<tempfile::NamedTempFile>,
}

impl Proposed {
    /// Adds a line, unless the setting has this value already.
    pub(crate) fn line(&mut self, id: &ClusterId, settings: &mut Settings, line: Line) -> Result<()> {
        let present = settings.get(&line.key);
        let usual = settings::KEYS.iter().find(|key| key.name == line.key).and_then(|key| key.default);
        if present.is_none() && usual == Some(line.value.as_str()) {
            return Ok(());
        }
        if let Some(present) = present {
            if present.text == line.value {
                return Ok(());
            }
            if matches!(&present.origin, Origin::File(path, _) if *path == settings::cluster_file(id)) {
                fail!(
                    at &present.origin, "{} is '{}', but '{}' according to {}", line.key, present.text, line.value, line.origin;
                    "Remove this line, or correct it."
                );
            }
        }
        settings.put(&line.key, line.value.clone(), Origin::Option("the other Patroni"))?;
        self.lines.push(line);
        Ok(())
    }

    /// Adds a line that names a file.
    pub(crate) fn file(
        &mut self,
        root: &Root,
        id: &ClusterId,
        settings: &mut Settings,
        file: &foreign::NamedFile,
    ) -> Result<()> {
        if let Some(present) = settings.path(file.key)? {
            if root.read(&present)?.is_some_and(|text| text.trim_end() == file.text.trim_end()) {
                return Ok(());
            }
        }
        let path = PathBuf::from(format!("{DIRECTORY}/{}.{}", id.dashed(), file.suffix));
        self.line(
            id,
            settings,
            Line { key: file.key.to_owned(), value: path.display().to_string(), origin: file.origin.clone() },
        )?;
        // Until it is written, the generator reads it elsewhere.
        let staged = tempfile::NamedTempFile::new().context("could not create a temporary file")?;
        std::fs::write(staged.path(), &file.text).context("could not write a temporary file")?;
        let elsewhere = root.inside(staged.path()).display().to_string();
        settings.put(file.key, elsewhere, Origin::Option("the other Patroni"))?;
        self.staged.push(staged);
        self.files.push(Text { path, text: file.text.clone() });
        Ok(())
    }
}
