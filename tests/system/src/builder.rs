//! Builds the package, and runs checks, in a throw-away copy of an image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, ensure};

use crate::image::{self, Image};

const BUILDER: &str = include_str!("scripts/builder.sh");

/// Builds the `.deb` of the checkout `source` and puts it, `.changes` and `.buildinfo` into `dist`.
///
/// Compiled dependencies are kept in the cache, so that the next build is quick.
pub fn build_deb(source: &Path, dist: &Path) -> Result<()> {
    build_deb_with(source, dist, &[])
}

/// The same with variables, `NAME=value`, in the environment of the build.
pub(crate) fn build_deb_with(source: &Path, dist: &Path, environment: &[&str]) -> Result<()> {
    fs::create_dir_all(dist).with_context(|| format!("cannot make {}", dist.display()))?;
    // Nothing to clean in a fresh copy, and what the cache holds is not to be cleaned away.
    let build = ["dpkg-buildpackage", "--no-sign", "--build=binary", "--no-pre-clean"];
    let command: Vec<&str> = ["env"].iter().chain(environment).chain(&build).copied().collect();
    let status = run(Image::Build, Some(source), Some(dist), &command)?;
    ensure!(status.success(), "dpkg-buildpackage ended with {status}");
    Ok(())
}

/// Runs a command in an image, in a copy of `source` if given, and says how it ended.
pub fn in_image(image: Image, source: Option<&Path>, command: &[String]) -> Result<ExitStatus> {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    run(image, source, None, &words)
}

/// Removes what builds of this checkout have left in the cache.
pub(crate) fn forget(source: &Path) -> Result<()> {
    let source = fs::canonicalize(source).with_context(|| format!("no directory {}", source.display()))?;
    image::remove_tree(&cache(Image::Build, &source))
}

/// cargo goes by file times: two checkouts in one directory of output would mistake one for the other.
fn cache(image: Image, source: &Path) -> PathBuf {
    let checkout = format!("{}-{:016x}", image.name(), image::fnv(source.as_os_str().as_encoded_bytes()));
    image::cache().join("builds").join(checkout)
}

fn run(image: Image, source: Option<&Path>, output: Option<&Path>, command: &[&str]) -> Result<ExitStatus> {
    let image_directory = image::ensure(image)?;
    let absolute = |path: Option<&Path>| match path {
        Some(path) => fs::canonicalize(path).with_context(|| format!("no directory {}", path.display())),
        None => Ok(PathBuf::new()),
    };
    let (source, output) = (absolute(source)?, absolute(output)?);
    let cache = cache(image, &source);
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let _lock = image::exclusive_lock(&cache.join("lock"))?;
    Command::new("setpriv")
        .args(["--pdeathsig=KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation=private"])
        .args(["bash", "-o", "pipefail", "-c", BUILDER, "builder"])
        .args([image_directory.path(), cache.as_path(), source.as_path(), output.as_path()])
        .args(command)
        .current_dir("/")
        .status()
        .context("cannot start setpriv and unshare: apt-get install util-linux")
}
