//! Opens the files that our programs read, so that nothing which root runs is led astray by who owns a directory on the way.
//!
//! User postgres owns `/etc/postgresql`, `/var/lib/postgresql` and the data directories, so every name below them can lead to
//! anything: a device (which does something when it is opened), a FIFO (on which an opening waits), a file without end, or a
//! file that only root may read. So a path is walked by steps of `openat` with `O_PATH`, which opens nothing yet; what is at its
//! end is looked at, and only a regular file of bounded size is then opened for reading, without waiting, by the very handle
//! that was looked at.
//!
//! Where root is the caller, two rules more hold for a path that leads through a directory of postgres's, or that a file of
//! postgres's names: a symbolic link which root does not own may not lead out of these directories, and what postgres itself
//! could not read (by owner, group and mode) is refused. For any other caller the kernel decides.

use std::cell::{Cell, OnceCell};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};
use nix::unistd::geteuid;

use crate::Root;
use crate::file_access::User;

/// Who owns the directories of clusters.
const OWNER: &str = "postgres";

/// Directories that postgres can write, whoever made them; so are all that belong to it.
const TREES: [&str; 4] = ["/etc/postgresql", "/var/lib/postgresql", "/run/postgresql", "/var/log/postgresql"];

/// More than any file that a program of ours reads needs: a long `haproxy.cfg`, a CRL.
pub const LARGE: u64 = 16 << 20;

/// More names than a directory of ours or of postgresql-common's has.
const MOST_NAMES: usize = 1000;

/// As the kernel has it (`MAXSYMLINKS`).
const MOST_LINKS: u32 = 40;

/// Who named a path, on which depends what root takes from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// This project or the administrator: the rules begin with the first directory of postgres's.
    Here,
    /// A file that postgres can write: the rules hold for the whole path.
    ByPostgres,
    /// The administrator, for a secret: no link of others', and its owner is checked instead of who else may read it.
    Secret,
}

/// Opens files for one purpose.
pub struct Opener<'a> {
    root: &'a Root,
    named: Named,
    /// Whom root has to take for the one who asks; read when it matters.
    postgres: OnceCell<User>,
    is_root: bool,
}

/// A file that was opened, with what is known of it.
pub struct Opened {
    file: File,
    path: PathBuf,
    /// Of the open file.
    pub stat: FileStat,
    /// Can postgres write the file or its name, so that what it names is named by postgres?
    pub of_postgres: bool,
}

/// A step on the way to a file.
#[derive(Clone)]
struct Place {
    handle: Rc<OwnedFd>,
    stat: FileStat,
    /// As seen on the machine, for messages.
    path: PathBuf,
    /// Is it below a directory that postgres can write?
    inside: bool,
}

impl Place {
    fn is(&self, kind: SFlag) -> bool {
        SFlag::from_bits_truncate(self.stat.st_mode) & SFlag::S_IFMT == kind
    }
}

impl<'a> Opener<'a> {
    /// An opener of paths that come from there.
    #[must_use]
    pub fn new(root: &'a Root, named: Named) -> Self {
        Self { root, named, postgres: OnceCell::new(), is_root: geteuid().is_root() }
    }

    /// Opens a regular file for reading; `None` where there is none.
    pub fn open(&self, path: &Path) -> Result<Option<Opened>> {
        let Some(place) = self.find(path)? else { return Ok(None) };
        if !place.is(SFlag::S_IFREG) {
            bail!("{} is {}, where a file is expected", shown(path, &place), kind(&place));
        }
        self.check(&place, "read", 0o4).with_context(|| format!("cannot read {}", path.display()))?;
        let mut options = OpenOptions::new();
        // Nothing waits for whoever has a lease on the file (`F_SETLEASE`).
        options.read(true).custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits());
        let file = options
            .open(format!("/proc/self/fd/{}", place.handle.as_raw_fd()))
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Some(Opened { file, path: path.to_owned(), stat: place.stat, of_postgres: self.judges(&place) }))
    }

    /// The sorted names in a directory; empty where there is none.
    pub fn list(&self, path: &Path) -> Result<Vec<String>> {
        let cannot = || format!("cannot list {}", path.display());
        let Some(place) = self.find(path)? else { return Ok(Vec::new()) };
        if !place.is(SFlag::S_IFDIR) {
            return Ok(Vec::new());
        }
        self.check(&place, "read", 0o4).with_context(cannot)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let handle = openat(&*place.handle, ".", flags, Mode::empty()).map_err(io::Error::from).with_context(cannot)?;
        let mut names = Vec::new();
        for entry in Dir::from_fd(handle).map_err(io::Error::from).with_context(cannot)? {
            let entry = entry.map_err(io::Error::from).with_context(cannot)?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(_) if names.len() == MOST_NAMES && self.judges(&place) => {
                    bail!("{} has more than {MOST_NAMES} entries, of which none was looked at", path.display())
                }
                Ok(name) => names.push(name.to_owned()),
            }
        }
        names.sort();
        Ok(names)
    }

    /// Makes a directory with those above it, of root's where root is the caller, and gives its handle; `None` where it is there
    /// already. No link that root does not own is followed, so that it is made where its name says or not at all.
    pub fn make_directory(&self, path: &Path, mode: Mode) -> Result<Option<OwnedFd>> {
        let cannot = |path: &Path| format!("cannot make the directory {}: run this program as root", path.display());
        if self.find(path)?.is_some_and(|place| place.is(SFlag::S_IFDIR)) {
            return Ok(None);
        }
        let mut last = None;
        let mut so_far = PathBuf::from("/");
        let mut place = self.top()?;
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            so_far.push(name);
            if last.is_none() {
                if let Some(there) = self.find(&so_far)? {
                    if !there.is(SFlag::S_IFDIR) {
                        bail!("{} is {}, where a directory is expected", so_far.display(), kind(&there));
                    }
                    place = there;
                    continue;
                }
            }
            mkdirat(&*place.handle, name, mode).map_err(io::Error::from).with_context(|| cannot(&so_far))?;
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let handle = openat(&*place.handle, name, flags, Mode::empty())
                .map_err(io::Error::from)
                .with_context(|| format!("cannot open the directory {}", so_far.display()))?;
            let stat = fstat(&handle).map_err(io::Error::from)?;
            // Another directory of root's can take the name, but none that holds something.
            if stat.st_uid != geteuid().as_raw() || !is_empty(&handle)? {
                bail!("{} was replaced while it was made: look who did that, and run this again", so_far.display());
            }
            let handle = Rc::new(handle);
            place = Place { handle: Rc::clone(&handle), stat, path: so_far.clone(), inside: place.inside };
            last = Some(handle);
        }
        drop(place);
        Ok(last.and_then(Rc::into_inner))
    }

    fn top(&self) -> Result<Place> {
        let real = self.root.path("/");
        let mut options = OpenOptions::new();
        options.read(true).custom_flags((OFlag::O_PATH | OFlag::O_DIRECTORY).bits());
        let file = options.open(&real).with_context(|| format!("cannot open {}", real.display()))?;
        let stat =
            fstat(&file).map_err(io::Error::from).with_context(|| format!("cannot look at {}", real.display()))?;
        Ok(Place { handle: Rc::new(file.into()), stat, path: PathBuf::from("/"), inside: false })
    }

    fn find(&self, path: &Path) -> Result<Option<Place>> {
        let links = Cell::new(0);
        let found = self.walk(vec![self.top()?], path, &links);
        let found = found.with_context(|| format!("cannot read {}", path.display()))?;
        Ok(found.and_then(|mut places| places.pop()))
    }

    fn walk(&self, mut places: Vec<Place>, path: &Path, links: &Cell<u32>) -> Result<Option<Vec<Place>>> {
        for component in path.components() {
            match component {
                Component::Prefix(_) | Component::CurDir => {}
                Component::RootDir => places.truncate(1),
                Component::ParentDir => places.truncate(places.len().saturating_sub(1).max(1)),
                Component::Normal(name) => match self.step(places, name, links)? {
                    Some(next) => places = next,
                    None => return Ok(None),
                },
            }
        }
        Ok(Some(places))
    }

    /// One name further, and further still where it is a link.
    fn step(&self, mut places: Vec<Place>, name: &OsStr, links: &Cell<u32>) -> Result<Option<Vec<Place>>> {
        let Some(from) = places.last() else { return Ok(None) };
        if places.len() > 1 {
            self.check(from, "enter", 0o1)?;
        }
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let handle = match openat(&*from.handle, name, flags, Mode::empty()) {
            Ok(handle) => handle,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(io::Error::from(errno).into()),
        };
        let stat = fstat(&handle).map_err(io::Error::from)?;
        let path = from.path.join(name);
        let here = Place { handle: Rc::new(handle), stat, inside: false, path };
        let named = TREES.iter().any(|tree| here.path == Path::new(tree));
        let owned = || here.is(SFlag::S_IFDIR) && stat.st_uid != 0 && self.is_root && stat.st_uid == self.user().uid();
        let inside = from.inside || named || owned();
        if !here.is(SFlag::S_IFLNK) {
            places.push(Place { inside, ..here });
            return Ok(Some(places));
        }
        links.set(links.get() + 1);
        if links.get() > MOST_LINKS {
            return Err(io::Error::from(Errno::ELOOP).into());
        }
        let doubtful = self.is_root && stat.st_uid != 0 && (from.inside || self.named != Named::Here);
        let target = PathBuf::from(readlinkat(&*here.handle, "").map_err(io::Error::from)?);
        let target = if target.is_absolute() { self.root.inside(&target) } else { target };
        let Some(mut found) = self.walk(places, &target, links)? else { return Ok(None) };
        if let Some(last) = found.last_mut() {
            if doubtful && !last.inside {
                bail!(
                    "{} is a symbolic link that does not belong to root, and leads out of the directories of {OWNER}: if it shall \
                     be so, run chown -h root {0}",
                    here.path.display()
                );
            }
            // What root put there by a link is there like the rest.
            last.inside |= inside;
        }
        Ok(Some(found))
    }

    /// Does it have to be something that postgres itself could read?
    fn judges(&self, place: &Place) -> bool {
        match self.named {
            Named::Here => self.is_root && place.inside,
            Named::ByPostgres => self.is_root,
            Named::Secret => false,
        }
    }

    fn check(&self, place: &Place, verb: &str, bit: u32) -> Result<()> {
        if self.judges(place) && !self.user().has(&place.stat, bit) {
            let (shown, mode) = (place.path.display(), place.stat.st_mode & 0o7777);
            let why = format!("{OWNER} may not {verb} {shown} (mode {mode:04o}), and root does not do it in its place");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why).into());
        }
        Ok(())
    }

    fn user(&self) -> &User {
        self.postgres.get_or_init(|| User::of(self.root, OWNER).unwrap_or_else(|_| User::without_rights(OWNER)))
    }
}

impl Opened {
    /// The whole content, if it is not more than `limit` bytes.
    pub fn bytes(self, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let size = u64::try_from(self.stat.st_size).unwrap_or(0);
        if size <= limit {
            // A file of /proc has no size, and any other one may grow.
            let read = self.file.take(limit + 1).read_to_end(&mut bytes);
            read.with_context(|| format!("cannot read {}", self.path.display()))?;
        }
        if size > limit || bytes.len() as u64 > limit {
            bail!("{} has more than {limit} bytes, which is too much for such a file", self.path.display());
        }
        Ok(bytes)
    }
}

fn is_empty(directory: &OwnedFd) -> Result<bool> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let handle = openat(directory, ".", flags, Mode::empty()).map_err(io::Error::from)?;
    for entry in Dir::from_fd(handle).map_err(io::Error::from)? {
        let entry = entry.map_err(io::Error::from)?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

fn shown(path: &Path, place: &Place) -> String {
    if path == place.path {
        path.display().to_string()
    } else {
        format!("{} ({})", path.display(), place.path.display())
    }
}

fn kind(place: &Place) -> &'static str {
    match SFlag::from_bits_truncate(place.stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => "a file",
        SFlag::S_IFDIR => "a directory",
        SFlag::S_IFIFO => "a FIFO",
        SFlag::S_IFSOCK => "a socket",
        _ => "a device",
    }
}
