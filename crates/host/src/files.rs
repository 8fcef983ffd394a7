//! Opens the files that the programs read, so that the owner of a directory on the way cannot mislead a program that root runs.
//!
//! User postgres owns `/etc/postgresql`, `/var/lib/postgresql` and the data directories, so every name below them can lead to
//! anything: a device (whose opening can have an effect), a FIFO (whose opening blocks), an endless file, or a file that only root
//! may read. So a path is walked in steps of `openat` with `O_PATH`, which opens nothing yet. What is at its end is examined, and
//! only a regular file of bounded size is then opened for reading, without blocking, through the handle that was examined.
//!
//! If root is the caller, two more rules apply to a path that leads through a directory of postgres, or that is named in a file of
//! postgres. A symbolic link that root does not own may not lead out of these directories. And what postgres itself could not read
//! (by owner, group and mode) is refused. For any other caller the kernel decides.

use std::cell::{Cell, OnceCell};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};
use nix::unistd::geteuid;

use crate::file_access::User;
use crate::trouble::Trouble;
use crate::{Root, fail, trouble};

/// The owner of the directories of clusters.
const OWNER: &str = "postgres";

/// Directories that postgres can write. It can write all that belong to it as well.
const TREES: [&str; 4] = ["/etc/postgresql", "/var/lib/postgresql", "/run/postgresql", "/var/log/postgresql"];

/// Larger than any file that the programs read: a long `haproxy.cfg`, a CRL.
pub const LARGE: u64 = 16 << 20;

/// More names than a directory of this package or of postgresql-common has.
const MOST_NAMES: usize = 1000;

/// The kernel's limit (`MAXSYMLINKS`).
const MOST_LINKS: u32 = 40;

/// Where a path comes from, which determines what root reads there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// This package or the administrator: the rules apply from the first directory of postgres on.
    Here,
    /// A file that postgres can write: the rules apply to the whole path.
    ByPostgres,
    /// The administrator, for a secret: links of other users are refused, and its owner is checked instead of its readers.
    Secret,
}

/// Opens files for one purpose.
pub struct Opener<'a> {
    root: &'a Root,
    named: Named,
    /// The user on whose behalf root reads; looked up when needed.
    postgres: OnceCell<User>,
    is_root: bool,
}

/// A file that was opened, with its properties.
pub struct Opened {
    file: File,
    path: PathBuf,
    /// Of the open file.
    pub stat: FileStat,
    /// Can postgres write the file or replace it, so that the paths in it are named by postgres?
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
    /// An opener for paths of this origin.
    #[must_use]
    pub fn new(root: &'a Root, named: Named) -> Self {
        Self { root, named, postgres: OnceCell::new(), is_root: geteuid().is_root() }
    }

    /// Opens a regular file for reading; `None` if it does not exist.
    pub fn open(&self, path: &Path) -> Result<Option<Opened>> {
        let Some(place) = self.find(path)? else { return Ok(None) };
        if !place.is(SFlag::S_IFREG) {
            fail!(at shown(path, &place), "is {}, not a file", kind(&place));
        }
        self.check(&place, "read", 0o4).with_context(|| format!("could not read {}", path.display()))?;
        let mut options = OpenOptions::new();
        // Does not wait for the holder of a lease on the file (`F_SETLEASE`).
        options.read(true).custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits());
        let file = options
            .open(format!("/proc/self/fd/{}", place.handle.as_raw_fd()))
            .with_context(|| format!("could not read {}", path.display()))?;
        Ok(Some(Opened { file, path: path.to_owned(), stat: place.stat, of_postgres: self.acts_for_postgres(&place) }))
    }

    /// The sorted names in a directory; empty if it does not exist.
    pub fn list(&self, path: &Path) -> Result<Vec<String>> {
        let failed = || format!("could not list {}", path.display());
        let Some(place) = self.find(path)? else { return Ok(Vec::new()) };
        if !place.is(SFlag::S_IFDIR) {
            return Ok(Vec::new());
        }
        self.check(&place, "read", 0o4).with_context(failed)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let handle = openat(&*place.handle, ".", flags, Mode::empty()).map_err(io::Error::from).with_context(failed)?;
        let mut names = Vec::new();
        for entry in Dir::from_fd(handle).map_err(io::Error::from).with_context(failed)? {
            let entry = entry.map_err(io::Error::from).with_context(failed)?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(_) if names.len() == MOST_NAMES && self.acts_for_postgres(&place) => {
                    fail!(at path.display(), "has more than {MOST_NAMES} entries, none of which was read")
                }
                Ok(name) => names.push(name.to_owned()),
            }
        }
        names.sort();
        Ok(names)
    }

    /// Creates a directory and its parents, owned by the caller, and returns its handle; `None` if it exists. No link that root does
    /// not own is followed, so that the directory is created where its name says or not at all.
    pub fn make_directory(&self, path: &Path, mode: Mode) -> Result<Option<OwnedFd>> {
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
                        fail!(at so_far.display(), "is {}, not a directory", kind(&there));
                    }
                    place = there;
                    continue;
                }
            }
            mkdirat(&*place.handle, name, mode).map_err(|errno| not_created(&so_far, errno))?;
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let handle = openat(&*place.handle, name, flags, Mode::empty())
                .map_err(io::Error::from)
                .with_context(|| format!("could not open the directory {}", so_far.display()))?;
            let stat = fstat(&handle).map_err(io::Error::from)?;
            // Another directory of root can take the name, but only an empty one.
            if stat.st_uid != geteuid().as_raw() || !is_empty(&handle)? {
                fail!(
                    at so_far.display(), "the directory was replaced while it was created";
                    "Find out who did that, and run this program again."
                );
            }
            let handle = Rc::new(handle);
            place = Place { handle: Rc::clone(&handle), stat, path: so_far.clone(), inside: place.inside };
            last = Some(handle);
        }
        drop(place);
        Ok(last.and_then(Rc::into_inner))
    }

    /// The handle of a directory, below which files are written by name; `None` if it does not exist.
    pub fn directory(&self, path: &Path) -> Result<Option<OwnedFd>> {
        let Some(place) = self.find(path)? else { return Ok(None) };
        if !place.is(SFlag::S_IFDIR) {
            fail!(at shown(path, &place), "is {}, not a directory", kind(&place));
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let handle = openat(&*place.handle, ".", flags, Mode::empty())
            .map_err(io::Error::from)
            .with_context(|| format!("could not open the directory {}", path.display()))?;
        Ok(Some(handle))
    }

    fn top(&self) -> Result<Place> {
        let real = self.root.path("/");
        let mut options = OpenOptions::new();
        options.read(true).custom_flags((OFlag::O_PATH | OFlag::O_DIRECTORY).bits());
        let file = options.open(&real).with_context(|| format!("could not open {}", real.display()))?;
        let stat =
            fstat(&file).map_err(io::Error::from).with_context(|| format!("could not examine {}", real.display()))?;
        Ok(Place { handle: Rc::new(file.into()), stat, path: PathBuf::from("/"), inside: false })
    }

    fn find(&self, path: &Path) -> Result<Option<Place>> {
        let links = Cell::new(0);
        let found = self.walk(vec![self.top()?], path, &links);
        let found = found.with_context(|| format!("could not read {}", path.display()))?;
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

    /// Follows one name, and its target if it is a link.
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
                let link = here.path.display();
                fail!(
                    "{link} is a symbolic link that does not belong to root and leads out of the directories of {OWNER}";
                    "If this is intended, run: chown -h root {link}"
                );
            }
            // What root placed there with a link counts as being there.
            last.inside |= inside;
        }
        Ok(Some(found))
    }

    /// Is it only read if postgres itself could read it?
    fn acts_for_postgres(&self, place: &Place) -> bool {
        match self.named {
            Named::Here => self.is_root && place.inside,
            Named::ByPostgres => self.is_root,
            Named::Secret => false,
        }
    }

    fn check(&self, place: &Place, verb: &str, bit: u32) -> Result<()> {
        if self.acts_for_postgres(place) && !self.user().has(&place.stat, bit) {
            let (shown, mode) = (place.path.display(), place.stat.st_mode & 0o7777);
            let why =
                format!("{OWNER} may not {verb} {shown} (mode {mode:04o}), and root does not do so on its behalf");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why).into());
        }
        Ok(())
    }

    fn user(&self) -> &User {
        self.postgres.get_or_init(|| User::of(self.root, OWNER).unwrap_or_else(|_| User::without_permissions(OWNER)))
    }
}

impl Opened {
    /// The whole content, if it is not more than `limit` bytes.
    pub fn bytes(self, limit: u64) -> Result<Vec<u8>> {
        let size = u64::try_from(self.stat.st_size).unwrap_or(0);
        let mut bytes = Vec::new();
        if size <= limit {
            bytes.reserve(usize::try_from(size).unwrap_or(0));
            // A file in /proc has no size, and any other file may grow.
            let read = self.file.take(limit + 1).read_to_end(&mut bytes);
            read.with_context(|| format!("could not read {}", self.path.display()))?;
        }
        if size > limit || bytes.len() as u64 > limit {
            fail!(at self.path.display(), "has more than {limit} bytes, too many for such a file");
        }
        Ok(bytes)
    }

    /// The last bytes of a file of any size, such as a log, if it was written to after a point in time.
    pub fn end(mut self, most: u64, after: SystemTime) -> Result<Option<Vec<u8>>> {
        let after = after.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if u64::try_from(self.stat.st_mtime).unwrap_or(0) < after {
            return Ok(None);
        }
        let begin = u64::try_from(self.stat.st_size).unwrap_or(0).saturating_sub(most);
        let mut bytes = Vec::new();
        let read = self.file.seek(SeekFrom::Start(begin)).and_then(|_| self.file.take(most).read_to_end(&mut bytes));
        read.with_context(|| format!("could not read {}", self.path.display()))?;
        Ok(Some(bytes))
    }
}

/// A file that has to be there is missing.
#[must_use]
pub fn missing(path: &Path) -> Trouble {
    trouble!("there is no file {}", path.display())
}

/// A file that has to be text is none.
pub(crate) fn not_utf8(path: &Path) -> Trouble {
    trouble!(at path.display(), "not UTF-8 text"; "Convert it with iconv.")
}

fn not_created(directory: &Path, errno: Errno) -> Trouble {
    Trouble::failed(format!("could not create the directory {}", directory.display()), errno.into())
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
