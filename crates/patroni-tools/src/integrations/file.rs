//! A file that `for` generates, beside the one that is installed.

use anyhow::Result;
use host::{ClusterId, Root, fail, report};

use crate::files::diff;
use crate::files::header::{Author, arguments, author, with_header};
use crate::files::template::LOCAL;
use crate::integrations::plan::Generated;
use crate::integrations::target::Program;

/// The same text, with the comments of the three header lines in another syntax.
fn commented(text: &str, from: &str, to: &str) -> String {
    let lines = text.splitn(4, '\n').enumerate().map(|(index, line)| match line.strip_prefix(from) {
        Some(rest) if index < 3 => format!("{to}{rest}"),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A generated file, and the installed one.
pub(crate) struct File<'a> {
    pub(crate) wanted: &'a Generated,
    pub(crate) text: String,
    present: Option<String>,
    /// Whether the installed file is generated, edited or another; `None` for a configuration file of a package that is unchanged.
    pub(crate) author: Option<Author>,
}

impl<'a> File<'a> {
    pub(crate) fn of(root: &Root, wanted: &'a Generated, program: Program, ids: &[ClusterId]) -> Result<Self> {
        let present = root.read(&wanted.path)?;
        let author = match &present {
            None => None,
            Some(text) if crate::files::conffile::is_as_shipped(root, &wanted.path, text)? => None,
            Some(text) => Some(author(&commented(text, wanted.comment(), "#"))),
        };
        let words: Vec<String> = ids.iter().map(ClusterId::slashed).collect();
        let command = [&["--for".to_owned(), program.name()], words.as_slice()].concat().join(" ");
        let settings = ids.iter().map(|id| host::settings::cluster_file(id).display().to_string());
        let sources: Vec<String> = std::iter::once(host::settings::SITE_FILE.to_owned()).chain(settings).collect();
        let text = with_header(&wanted.body, &sources.join(" and "), &command);
        let text = commented(&text, "#", wanted.comment());
        Ok(Self { wanted, text, present, author })
    }

    pub(crate) fn changes(&self) -> bool {
        self.present.as_deref() != Some(&self.text)
    }

    /// Fails if a manual change would be lost, or a cluster that the installed file serves.
    pub(crate) fn may_be_replaced(&self) -> Result<()> {
        let path = self.wanted.path.display();
        match &self.author {
            None => return Ok(()),
            Some(Author::Generator) => {}
            Some(author) => {
                report::print(&self.difference());
                fail!(
                    "{path} was {} by hand and was not changed", if *author == Author::Other { "written" } else { "edited" };
                    "Move the changes into {} or a template in {}, or use --force.", host::settings::SITE_FILE, LOCAL
                );
            }
        }
        let [present, wanted] = [self.present.as_deref().unwrap_or_default(), &self.text].map(arguments);
        let lost: Vec<&str> = present.into_iter().filter(|word| word.contains('/') && !wanted.contains(word)).collect();
        if !lost.is_empty() {
            fail!(
                "{path} also serves {}, which would be removed", lost.join(" and ");
                "Name all clusters, or use --force."
            );
        }
        Ok(())
    }

    pub(crate) fn difference(&self) -> String {
        let present = self.masked(self.present.as_deref().unwrap_or_default());
        diff::unified(&self.wanted.path.display().to_string(), &present, &self.masked(&self.text))
    }

    pub(crate) fn masked(&self, text: &str) -> String {
        let secrets = self.wanted.secrets.iter().zip(1..);
        secrets.fold(text.to_owned(), |text, (secret, number)| text.replace(secret, &format!("(secret {number})")))
    }
}
