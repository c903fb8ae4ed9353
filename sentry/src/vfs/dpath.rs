//! Paths as text: getcwd(2), /proc/self/fd, /proc/self/mountinfo (`prepend_path` of fs/d_path.c).

use std::sync::Arc;

use abi::Errno;

use super::dentry::rename_lock;
use super::{Dentry, Path};

/// Where the way up from a path ended.
enum Top {
    Root,
    /// Above `root`, or in a mount that is attached nowhere.
    Elsewhere,
    /// A thing without a tree, such as a pipe: this is its name.
    Nameless(Arc<[u8]>),
}

fn climb(path: &Path, root: Option<&Path>) -> (Vec<u8>, Top) {
    let _still = rename_lock();
    let mut names: Vec<Arc<[u8]>> = Vec::new();
    let mut at = path.clone();
    let top = loop {
        if root.is_some_and(|root| at.same(root)) {
            break Top::Root;
        }
        if at.is_mount_root() {
            match at.mount.point() {
                Some(point) => at = point,
                None => break if root.is_none() { Top::Root } else { Top::Elsewhere },
            }
            continue;
        }
        match at.dentry.parent() {
            Some(parent) => {
                names.push(at.dentry.name());
                at.dentry = parent;
            }
            None => break Top::Nameless(at.dentry.name()),
        }
    };
    (join(&names), top)
}

fn join(names: &[Arc<[u8]>]) -> Vec<u8> {
    let mut text = Vec::with_capacity(names.iter().map(|n| n.len() + 1).sum::<usize>().max(1));
    for name in names.iter().rev() {
        text.push(b'/');
        text.extend_from_slice(name);
    }
    if text.is_empty() {
        text.push(b'/');
    }
    text
}

/// The path as a task with this root sees it; `" (deleted)"` is appended if its name is gone.
pub fn d_path(path: &Path, root: &Path) -> Vec<u8> {
    let (mut text, top) = climb(path, Some(root));
    if let Top::Nameless(name) = top {
        text = name.to_vec();
    }
    if path.dentry.is_unlinked() {
        text.extend_from_slice(b" (deleted)");
    }
    text
}

/// What getcwd(2) returns: `ENOENT` for a removed directory, `"(unreachable)/..."` for one outside
/// the root.
pub fn cwd_path(path: &Path, root: &Path) -> Result<Vec<u8>, Errno> {
    if path.dentry.is_unlinked() {
        return Err(Errno::ENOENT);
    }
    match climb(path, Some(root)) {
        (text, Top::Root) => Ok(text),
        (text, _) => Ok([b"(unreachable)".as_slice(), &text].concat()),
    }
}

/// The path if it can be reached from `root`, for /proc/self/mountinfo.
pub fn reachable(path: &Path, root: &Path) -> Option<Vec<u8>> {
    match climb(path, Some(root)) {
        (text, Top::Root) => Some(text),
        _ => None,
    }
}

/// The path from the root of all mounts, whatever a task's root is.
pub fn global_path(path: &Path) -> Vec<u8> {
    match climb(path, None) {
        (_, Top::Nameless(name)) => name.to_vec(),
        (text, _) => text,
    }
}

/// The path of a dentry inside its file system (the fourth field of mountinfo).
pub fn fs_path(dentry: &Arc<Dentry>) -> Vec<u8> {
    let _still = rename_lock();
    let mut names = Vec::new();
    let mut at = dentry.clone();
    while let Some(parent) = at.parent() {
        names.push(at.name());
        at = parent;
    }
    join(&names)
}
