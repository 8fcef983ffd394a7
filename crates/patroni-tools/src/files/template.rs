//! The templates: those of the package, and those of the administrator, which override them by name.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use host::trouble::Trouble;
use host::{Root, trouble};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use serde::Serialize;

/// The directory of the package's templates.
pub const SHIPPED: &str = "/usr/share/patroni-tools/templates";

/// The directory of the administrator's templates, which override those of the same name.
pub const LOCAL: &str = "/etc/patroni/templates";

/// Renders the template `name` with `values`.
pub fn body(root: &Root, name: &str, values: impl Serialize) -> Result<String> {
    let environment = environment(root);
    environment.get_template(name).and_then(|template| template.render(values)).map_err(|error| explain(&error, name))
}

pub(crate) fn environment(root: &Root) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // Otherwise errors would show the values of variables, including passwords.
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
            Err(error) => {
                let trouble = Trouble::of(&error);
                return Err(Error::new(ErrorKind::InvalidOperation, trouble.line()).with_source(trouble));
            }
        }
    }
    Ok(None)
}

pub(crate) fn explain(error: &Error, template: &str) -> anyhow::Error {
    if error.kind() == ErrorKind::TemplateNotFound {
        return anyhow!(trouble!(
            "the template {SHIPPED}/{template} is missing";
            "Restore it with: apt install --reinstall patroni-tools"
        ));
    }
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(trouble) = inner.downcast_ref::<Trouble>() {
            return anyhow!(trouble.clone());
        }
        cause = inner.source();
    }
    let place = match (error.name(), error.line()) {
        (Some(name), Some(line)) => format!("template {name}:{line}"),
        _ => "template".to_owned(),
    };
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    anyhow!(trouble!(at place, "{what}"))
}
