//! Path walking, written once: from the text of a path to a place in the tree (path_resolution(7),
//! `link_path_walk` of fs/namei.c).
//!
//! A [`Walker`] carries what one resolution depends on (root, credentials, mounts, flags) and the
//! directory it is in. Warm steps take the child table's lock and allocate nothing.

use std::sync::Arc;

use abi::Errno;
use bitflags::bitflags;

use super::perm::{self, Access};
use super::{Dentry, DentryPolicy, FileType, LinkTarget, MountNamespace, NAME_MAX, PATH_MAX, Path};
use crate::kernel::{Credentials, Task};

/// Links that one resolution follows (`MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;

bitflags! {
    /// How to resolve.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct LookupFlags: u32 {
        /// Follow a symbolic link in the last component.
        const FOLLOW = 1;
        /// The result must be a directory (`ENOTDIR`).
        const DIRECTORY = 1 << 1;
        /// An empty path names the starting point (`AT_EMPTY_PATH`).
        const EMPTY = 1 << 2;
        /// `RESOLVE_NO_XDEV`
        const NO_XDEV = 1 << 3;
        /// `RESOLVE_NO_MAGICLINKS`
        const NO_MAGICLINKS = 1 << 4;
        /// `RESOLVE_NO_SYMLINKS`
        const NO_SYMLINKS = 1 << 5;
        /// `RESOLVE_BENEATH`
        const BENEATH = 1 << 6;
        /// `RESOLVE_IN_ROOT`
        const IN_ROOT = 1 << 7;
        /// `RESOLVE_CACHED`: `EAGAIN` where a file system would have to be asked.
        const CACHED = 1 << 8;
    }
}

/// What a resolution depends on besides the path.
pub struct WalkContext<'a> {
    /// Where `/` leads.
    pub root: Path,
    /// Where relative paths start.
    pub cwd: Path,
    /// Who asks.
    pub cred: Arc<Credentials>,
    /// The mounts it sees.
    pub mounts: Arc<MountNamespace>,
    /// The task; without one, magic links are read as text.
    pub task: Option<&'a Task>,
}

impl<'a> WalkContext<'a> {
    /// As `task` sees the tree.
    pub fn of(task: &'a Task) -> WalkContext<'a> {
        let (root, cwd, mounts) = task.fs().walk_base();
        WalkContext { root, cwd, cred: task.cred(), mounts, task: Some(task) }
    }

    /// The place that a `dirfd` argument names, for a path of this kind. `EBADF`.
    pub fn start(&self, dirfd: i32, path: &[u8]) -> Result<Path, Errno> {
        if path.first() == Some(&b'/') || dirfd == libc::AT_FDCWD {
            return Ok(self.cwd.clone());
        }
        let files = self.task.and_then(Task::files).ok_or(Errno::EBADF)?;
        let file = files.get_raw(dirfd)?;
        Ok(file.path().clone())
    }

    /// Resolves `path` from `start` to something that exists.
    pub fn lookup(&self, start: Path, path: &[u8], flags: LookupFlags) -> Result<Path, Errno> {
        if path.is_empty() {
            return if flags.contains(LookupFlags::EMPTY) { Ok(start) } else { Err(Errno::ENOENT) };
        }
        check_length(path)?;
        let mut walker = Walker::new(self, start, flags);
        walker.walk_all(path, flags.contains(LookupFlags::FOLLOW))?;
        if flags.contains(LookupFlags::DIRECTORY) && !is_dir(&walker.at) {
            return Err(Errno::ENOTDIR);
        }
        Ok(walker.at)
    }

    /// Resolves all but the last component.
    pub fn parent<'p>(&self, start: Path, path: &'p [u8]) -> Result<(Path, Last<'p>), Errno> {
        check_length(path)?;
        let mut walker = Walker::new(self, start, LookupFlags::empty());
        let last = walker.walk_parent(path)?;
        Ok((walker.at, last))
    }
}

fn check_length(path: &[u8]) -> Result<(), Errno> {
    match path.len() {
        0 => Err(Errno::ENOENT),
        n if n >= PATH_MAX => Err(Errno::ENAMETOOLONG),
        _ => Ok(()),
    }
}

/// The last component of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last<'p> {
    /// What it is.
    pub kind: LastKind,
    /// Its name, if it is [`LastKind::Normal`].
    pub name: &'p [u8],
    /// Whether slashes follow.
    pub slash: bool,
}

/// The kinds of last components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastKind {
    /// A name.
    Normal,
    /// `.`
    Dot,
    /// `..`
    DotDot,
    /// The path consists of slashes.
    Root,
}

/// Resolves `path` for a system call with a `dirfd`. `task` asks.
pub fn lookup(task: &Task, dirfd: i32, path: &[u8], flags: LookupFlags) -> Result<Path, Errno> {
    let ctx = WalkContext::of(task);
    let start = ctx.start(dirfd, path)?;
    ctx.lookup(start, path, flags)
}

/// Whether a place is a directory.
pub fn is_dir(path: &Path) -> bool {
    path.dentry.with_inode(|i| i.is_some_and(|i| i.file_type() == FileType::Directory))
}

/// Looks a name up in a directory, in the cache first. The result may be negative. The caller does
/// not hold the directory's lock.
pub(super) fn child_of(
    dir: &Arc<Dentry>,
    name: &[u8],
    rest: &[u8],
    cached_only: bool,
) -> Result<Arc<Dentry>, Errno> {
    if let Some(child) = dir.cached(name)
        && believe(dir, name, &child)
    {
        return Ok(child);
    }
    if cached_only {
        return Err(Errno::EAGAIN);
    }
    let _shared = dir.dir.read();
    child_locked(dir, name, rest)
}

/// Whether a cached child may be used, by its directory's policy.
fn believe(dir: &Arc<Dentry>, name: &[u8], child: &Arc<Dentry>) -> bool {
    if child.is_mountpoint() {
        return true;
    }
    let Some(inode) = dir.inode() else { return true };
    let holds = match inode.dentry_policy() {
        DentryPolicy::Cache => return true,
        DentryPolicy::Never => false,
        DentryPolicy::Revalidate => {
            child.with_inode(|c| c.is_some_and(|c| inode.revalidate(name, c)))
        }
    };
    if !holds {
        dir.remove_child(child);
    }
    holds
}

/// As [`child_of`], by a caller who holds the directory's lock.
pub(super) fn child_locked(
    dir: &Arc<Dentry>,
    name: &[u8],
    rest: &[u8],
) -> Result<Arc<Dentry>, Errno> {
    if let Some(child) = dir.cached(name)
        && believe(dir, name, &child)
    {
        return Ok(child);
    }
    if name.len() > NAME_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    let inode = dir.inode().ok_or(Errno::ENOENT)?;
    let policy = inode.dentry_policy();
    let found = if dir.is_unlinked() { Err(Errno::ENOENT) } else { inode.lookup(name, rest) };
    match found {
        Ok(found) => {
            let child = Dentry::new_child(dir, name, Some(found));
            Ok(if policy == DentryPolicy::Never { child } else { dir.add_child(child) })
        }
        Err(Errno::ENOENT) => {
            let child = Dentry::new_child(dir, name, None);
            let keep = policy == DentryPolicy::Cache && !dir.is_unlinked();
            Ok(if keep { dir.add_child(child) } else { child })
        }
        Err(error) => Err(error),
    }
}

/// One resolution under way.
pub struct Walker<'a> {
    ctx: &'a WalkContext<'a>,
    /// Where it is: the directory that the next component is looked up in, in the end the result.
    pub at: Path,
    /// What `/` and the topmost `..` mean: the context's root, or the start if scoped.
    root: Path,
    flags: LookupFlags,
    links: u32,
}

impl<'a> Walker<'a> {
    /// A walk from `start`.
    pub fn new(ctx: &'a WalkContext<'a>, start: Path, flags: LookupFlags) -> Walker<'a> {
        let scoped = flags.intersects(LookupFlags::BENEATH | LookupFlags::IN_ROOT);
        let root = if scoped { start.clone() } else { ctx.root.clone() };
        Walker { ctx, at: start, root, flags, links: 0 }
    }

    /// Walks the whole path; follows a link in the last component if `follow` or if slashes follow
    /// it. `ENOENT` if the result does not exist.
    pub fn walk_all(&mut self, path: &[u8], follow: bool) -> Result<(), Errno> {
        let last = self.walk_parent(path)?;
        let must_be_dir = last.slash;
        if let Some(text) = self.step_last(last, follow)? {
            self.walk_all(&text, true)?;
        }
        if must_be_dir && !is_dir(&self.at) {
            return Err(Errno::ENOTDIR);
        }
        Ok(())
    }

    /// Takes the last step. A link that is to be followed comes back as its text, with the walker
    /// in the link's directory.
    pub(super) fn step_last(
        &mut self,
        last: Last<'_>,
        follow: bool,
    ) -> Result<Option<Vec<u8>>, Errno> {
        match last.kind {
            LastKind::Root | LastKind::Dot => Ok(None),
            LastKind::DotDot => self.dot_dot().map(|()| None),
            LastKind::Normal => {
                let child = self.child(last.name, b"")?;
                self.enter(child, follow || last.slash)
            }
        }
    }

    /// Walks all but the last component.
    pub fn walk_parent<'p>(&mut self, path: &'p [u8]) -> Result<Last<'p>, Errno> {
        let mut rest = path;
        if rest.first() == Some(&b'/') {
            self.go_to_root()?;
            rest = skip_slashes(rest);
            if rest.is_empty() {
                return Ok(Last { kind: LastKind::Root, name: b"", slash: true });
            }
        }
        loop {
            self.may_search()?;
            let end = rest.iter().position(|&b| b == b'/').unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            rest = skip_slashes(after);
            let kind = match name {
                b"." => LastKind::Dot,
                b".." => LastKind::DotDot,
                _ => LastKind::Normal,
            };
            if rest.is_empty() {
                return Ok(Last { kind, name, slash: !after.is_empty() });
            }
            match kind {
                LastKind::DotDot => self.dot_dot()?,
                LastKind::Normal => {
                    let child = self.child(name, rest)?;
                    if let Some(text) = self.enter(child, true)? {
                        self.walk_all(&text, true)?;
                    }
                    if !is_dir(&self.at) {
                        return Err(Errno::ENOTDIR);
                    }
                }
                _ => {}
            }
        }
    }

    /// The child of this name, possibly negative, before mounts and links.
    pub fn child(&self, name: &[u8], rest: &[u8]) -> Result<Arc<Dentry>, Errno> {
        child_of(&self.at.dentry, name, rest, self.flags.contains(LookupFlags::CACHED))
    }

    /// Goes into a child: over mounts, or (with `follow`) where a link leads. The text of a link
    /// that remains to be walked is returned. `ENOENT` if it is negative.
    pub fn enter(&mut self, child: Arc<Dentry>, follow: bool) -> Result<Option<Vec<u8>>, Errno> {
        let kind = child.with_inode(|i| i.map(|i| i.file_type())).ok_or(Errno::ENOENT)?;
        if kind == FileType::Symlink && follow {
            return self.follow(&child);
        }
        self.at.dentry = child;
        if self.at.dentry.is_mountpoint() {
            let over = self.ctx.mounts.over(self.at.clone());
            self.move_to(over)?;
        }
        Ok(None)
    }

    fn move_to(&mut self, to: Path) -> Result<(), Errno> {
        if self.flags.contains(LookupFlags::NO_XDEV) && !Arc::ptr_eq(&to.mount, &self.at.mount) {
            return Err(Errno::EXDEV);
        }
        self.at = to;
        Ok(())
    }

    fn follow(&mut self, link: &Arc<Dentry>) -> Result<Option<Vec<u8>>, Errno> {
        self.links += 1;
        if self.links > MAX_LINKS || self.flags.contains(LookupFlags::NO_SYMLINKS) {
            return Err(Errno::ELOOP);
        }
        let inode = link.inode().ok_or(Errno::ENOENT)?;
        let target = match self.ctx.task {
            Some(task) => inode.follow(task)?,
            None => LinkTarget::Text(inode.readlink()?),
        };
        match target {
            LinkTarget::Text(text) if text.is_empty() => Err(Errno::ENOENT),
            LinkTarget::Text(text) => Ok(Some(text)),
            LinkTarget::Jump(_) if self.flags.contains(LookupFlags::NO_MAGICLINKS) => {
                Err(Errno::ELOOP)
            }
            LinkTarget::Jump(_)
                if self.flags.intersects(LookupFlags::BENEATH | LookupFlags::IN_ROOT) =>
            {
                Err(Errno::EXDEV)
            }
            LinkTarget::Jump(path) => self.move_to(path).map(|()| None),
        }
    }

    fn go_to_root(&mut self) -> Result<(), Errno> {
        if self.flags.contains(LookupFlags::BENEATH) {
            return Err(Errno::EXDEV);
        }
        self.move_to(self.root.clone())
    }

    /// Goes up one directory.
    fn dot_dot(&mut self) -> Result<(), Errno> {
        let mut at = self.at.clone();
        loop {
            if at.same(&self.root) {
                if self.flags.contains(LookupFlags::BENEATH) {
                    return Err(Errno::EXDEV);
                }
                break;
            }
            if !at.is_mount_root() {
                if let Some(parent) = at.dentry.parent() {
                    at.dentry = parent;
                }
                break;
            }
            match at.mount.point() {
                Some(point) => at = point,
                None => break,
            }
        }
        let over = if at.dentry.is_mountpoint() { self.ctx.mounts.over(at) } else { at };
        self.move_to(over)
    }

    /// Search permission on the directory, `ENOTDIR` if it is none.
    fn may_search(&self) -> Result<(), Errno> {
        self.at.dentry.with_inode(|inode| {
            let inode = inode.ok_or(Errno::ENOENT)?;
            if inode.file_type() != FileType::Directory {
                return Err(Errno::ENOTDIR);
            }
            perm::check(&self.ctx.cred, inode, Access::EXEC)
        })
    }
}

fn skip_slashes(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|&b| b != b'/').unwrap_or(path.len());
    &path[start..]
}
