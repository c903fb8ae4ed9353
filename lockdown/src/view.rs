//! The part of the host's files that a process sees: a tmpfs with directories, symlinks and bind
//! mounts in it, from which secrets are masked.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Layer};
use crate::mounts::{self, attribute};
use crate::sys;

/// What the process's root directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// An empty, read-only directory.
    Empty,
    /// These files.
    Files(View),
}

/// A composed tree. All `at` paths are relative to the new root, without `..`. Made in the order
/// of the fields; the tmpfs itself is read-only afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Directories with their permission bits, parents before children.
    pub directories: Vec<(PathBuf, u32)>,
    /// Symlinks: where, and to what.
    pub symlinks: Vec<(PathBuf, PathBuf)>,
    /// Bind mounts, parents before children.
    pub binds: Vec<Bind>,
    /// Paths below one of the directories above, over which an empty file or directory is mounted.
    /// They are walked as if that directory was the root. Those that don't exist are skipped.
    pub masks: Vec<(PathBuf, PathBuf)>,
}

/// A host directory or file, with all that is mounted below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Absolute host path.
    pub source: PathBuf,
    /// Where. The mount point is made, not its parents.
    pub at: PathBuf,
    /// Whether it can be written. Setuid bits and device nodes have no effect either way.
    pub writable: bool,
}

impl View {
    /// Makes the tree and pivots into it. Needs `CAP_SYS_ADMIN` over a private mount namespace.
    pub(crate) fn enter(&self) -> Result<(), Error> {
        mounts::make_private()?;
        // The sources are opened before the new root covers the old one.
        let mut trees = Vec::with_capacity(self.binds.len());
        for bind in &self.binds {
            trees.push(detached_copy(bind)?);
        }
        let quiet = attribute::NOSUID | attribute::NODEV;
        let options = [(c"mode", c"0755"), (c"size", c"1m"), (c"nr_inodes", c"1k")];
        let root = mounts::new_tmpfs(&options, quiet)?;
        mounts::attach_on_root(root.as_fd())?;
        for (at, mode) in &self.directories {
            make_directory(root.as_fd(), at, *mode)?;
        }
        for (at, target) in &self.symlinks {
            let (link, goal) = (c_path(at)?, c_path(target)?);
            // SAFETY: both are NUL-terminated strings.
            let result = unsafe { libc::symlinkat(goal.as_ptr(), root.as_raw_fd(), link.as_ptr()) };
            sys::check(result.into())
                .context(Layer::Mounts, format!("making the symlink {}", at.display()))?;
        }
        for (bind, tree) in self.binds.iter().zip(&trees) {
            attach(root.as_fd(), bind, tree)?;
        }
        if !self.masks.is_empty() {
            self.mask(root.as_fd())?;
        }
        sys::mount_setattr(root.as_fd(), attribute::RDONLY, false)
            .context(Layer::Mounts, "making the root read-only")?;
        mounts::pivot_into(root.as_fd())
    }

    fn mask(&self, root: BorrowedFd<'_>) -> Result<(), Error> {
        let what = |path: &Path| format!("masking {}", path.display());
        let everything =
            attribute::RDONLY | attribute::NOSUID | attribute::NODEV | attribute::NOEXEC;
        let options = [(c"mode", c"0755"), (c"size", c"4096"), (c"nr_inodes", c"3")];
        let empty = mounts::new_tmpfs(&options, 0)?;
        // It must be attached somewhere to be copied from; the mount is covered by nothing and
        // holds nothing.
        make_directory(root, Path::new(MASKS), 0o700)?;
        let place = sys::open_in_root(root, &c_path(Path::new(MASKS))?)
            .context(Layer::Mounts, "opening the masks")?;
        sys::move_mount(empty.as_fd(), place.as_fd())
            .context(Layer::Mounts, "mounting the masks")?;
        make_file(empty.as_fd(), Path::new("file"), 0o000)?;
        make_directory(empty.as_fd(), Path::new("directory"), 0o700)?;
        sys::mount_setattr(empty.as_fd(), everything, false)
            .context(Layer::Mounts, "sealing the masks")?;
        for (tree, path) in &self.masks {
            let tree = sys::open_in_root(root, &c_path(tree)?)
                .context(Layer::Mounts, format!("opening {}", tree.display()))?;
            let target = match sys::open_in_root(tree.as_fd(), &c_path(path)?) {
                Ok(target) => target,
                Err(error) if absent(&error) => continue,
                Err(error) => return Err(Error::new(Layer::Mounts, what(path), error)),
            };
            let source = if is_directory(&target).context(Layer::Mounts, what(path))? {
                c"directory"
            } else {
                c"file"
            };
            sys::open_tree_clone(empty.as_fd(), source)
                .and_then(|copy| sys::move_mount(copy.as_fd(), target.as_fd()))
                .context(Layer::Mounts, what(path))?;
        }
        Ok(())
    }
}

/// Where the empty file and directory lie that cover masked ones.
const MASKS: &str = "masks";

/// Whether a mask has nothing to cover: the path is not there, or nobody who holds the tree's
/// rights can reach it anyway.
fn absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES | libc::ELOOP))
}

fn detached_copy(bind: &Bind) -> Result<OwnedFd, Error> {
    let what = || format!("taking {} into the sandbox", bind.source.display());
    let root = File::open("/").context(Layer::Mounts, "opening /")?;
    let source = c_path(&bind.source)?;
    let tree = sys::open_tree_clone(root.as_fd(), &source).context(Layer::Mounts, what())?;
    let mut attributes = attribute::NOSUID | attribute::NODEV;
    if !bind.writable {
        attributes |= attribute::RDONLY;
    }
    sys::mount_setattr(tree.as_fd(), attributes, true).context(Layer::Mounts, what())?;
    Ok(tree)
}

fn attach(root: BorrowedFd<'_>, bind: &Bind, tree: &OwnedFd) -> Result<(), Error> {
    let what = format!("mounting {} at {}", bind.source.display(), bind.at.display());
    if is_directory(tree).context(Layer::Mounts, what.clone())? {
        make_directory(root, &bind.at, 0o755)?;
    } else {
        make_file(root, &bind.at, 0o644)?;
    }
    sys::open_in_root(root, &c_path(&bind.at)?)
        .and_then(|place| sys::move_mount(tree.as_fd(), place.as_fd()))
        .context(Layer::Mounts, what)
}

/// Makes a directory, or leaves the one that is there as it is.
fn make_directory(root: BorrowedFd<'_>, at: &Path, mode: u32) -> Result<(), Error> {
    let path = c_path(at)?;
    // SAFETY: a NUL-terminated string.
    let result = unsafe { libc::mkdirat(root.as_raw_fd(), path.as_ptr(), mode) };
    match sys::check(result.into()) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::new(Layer::Mounts, format!("making the directory {}", at.display()), error))
        }
        _ => Ok(()),
    }
}

fn make_file(root: BorrowedFd<'_>, at: &Path, mode: u32) -> Result<(), Error> {
    let path = c_path(at)?;
    // SAFETY: a NUL-terminated string.
    let result = unsafe { libc::mknodat(root.as_raw_fd(), path.as_ptr(), libc::S_IFREG | mode, 0) };
    sys::check(result.into())
        .context(Layer::Mounts, format!("making the file {}", at.display()))
        .map(drop)
}

fn is_directory(fd: &OwnedFd) -> io::Result<bool> {
    // SAFETY: an all-zero stat is a valid value, and fstat writes it whole.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is valid for writes.
    sys::check(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) }.into())?;
    Ok(stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

fn c_path(path: &Path) -> Result<CString, Error> {
    CString::new(path.as_os_str().as_bytes())
        .context(Layer::Mounts, format!("the path {}", path.display()))
}
