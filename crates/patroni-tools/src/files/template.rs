//! The templates: the package's, and the administrator's, which win over those of the same name.

use std::path::PathBuf;

use anyhow::Result;
use host::Root;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use serde::Serialize;

/// Where the package's templates are.
pub const SHIPPED: &str = "/usr/share/patroni-tools/templates";

/// Where the administrator's are, which win over those of the same name.
pub const LOCAL: &str = "/etc/patroni/templates";

/// The text that the template `name` makes of `values`.
pub fn body(root: &Root, name: &str, values: impl Serialize) -> Result<String> {
    let environment = environment(root);
    environment.get_template(name).and_then(|template| template.render(values)).map_err(|error| explain(&error, name))
}

pub(crate) fn environment(root: &Root) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // With it, an error would show the values of variables, passwords among them.
    environment.set_debug(false);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_keep_trailing_newline(true);
    let root = root.clone();
    environment.set_loader(move |name| load(&root, name));
    environment
}

pub(crate) fn load(root: &Root, name: &str) -> Result<Option<String>, Error> {
    let places = match name.strip_prefix("shipped/") {
        Some(name) => vec![PathBuf::from(SHIPPED).join(name)],
        None => vec![PathBuf::from(LOCAL).join(name), PathBuf::from(SHIPPED).join(name)],
    };
    for place in places {
        match root.read(&place) {
            Ok(Some(text)) => return Ok(Some(text)),
            Ok(None) => {}
            Err(error) => return Err(Error::new(ErrorKind::InvalidOperation, format!("{error:#}"))),
        }
    }
    Ok(None)
}

pub(crate) fn explain(error: &Error, template: &str) -> anyhow::Error {
    if error.kind() == ErrorKind::TemplateNotFound {
        return anyhow::anyhow!(
            "the template {SHIPPED}/{template} is missing: run apt install --reinstall patroni-tools"
        );
    }
    let place = match (error.name(), error.line()) {
        (Some(name), Some(line)) => format!("template {name}:{line}: "),
        _ => "template: ".to_owned(),
    };
    anyhow::anyhow!("{place}{}", error.detail().map_or_else(|| error.kind().to_string(), str::to_owned))
}
