//! What an export hides: paths below its root, given as patterns, and the files that were found
//! under them when the server started, by identity.
//!
//! A hidden file does not exist for the client: lookups say `ENOENT`, listings leave it out,
//! creating something in its place is `EACCES`. Three nets:
//! 1. patterns, matched component by component along the walk (each directory node remembers how
//!    far which pattern has matched), so a file that is replaced by rename stays hidden;
//! 2. device, inode number and birth time of what matched at start, so a hard link under another
//!    name stays hidden as well;
//! 3. a directory on the way to a hidden path cannot be renamed, so a pattern cannot be walked
//!    around in a writable export.
//!
//! What is left: a hard link or a copy that somebody on the host makes *later*, from a file that
//! was created after the start.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use crate::sys::{self, Component};
use crate::wire::types::{Attr, FileKind, Name, Timestamp};

use super::dir;

/// Most directory entries looked at while hidden files are searched at start.
const SCAN_LIMIT: usize = 20_000;
/// Deepest directory level of that search.
const SCAN_DEPTH: usize = 32;

/// Patterns to hide. A pattern is a path relative to the export's root; in a component `*` stands
/// for any bytes, and a component `**` for any number of directories.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    patterns: Vec<Vec<Box<[u8]>>>,
}

impl Filter {
    /// Hides nothing.
    pub fn none() -> Filter {
        Filter::default()
    }

    /// Hides what `pattern` matches, too. Leading, trailing and double slashes mean nothing.
    pub fn hide(mut self, pattern: impl AsRef<[u8]>) -> Filter {
        let parts: Vec<Box<[u8]>> = pattern
            .as_ref()
            .split(|&c| c == b'/')
            .filter(|p| !p.is_empty() && *p != b".")
            .map(Into::into)
            .collect();
        if !parts.is_empty() {
            self.patterns.push(parts);
        }
        self
    }

    /// What a Debian-like host keeps secret in its system directories, relative to `/`.
    pub fn host_secrets() -> Filter {
        [
            "etc/shadow*",
            "etc/gshadow*",
            "etc/.pwd.lock",
            // No secrets, but who the host is.
            "etc/machine-id",
            "etc/hostname",
            // The Sentry makes one of its own.
            "etc/hosts",
            // And what it has for disks.
            "etc/fstab*",
            "etc/sudoers*",
            "etc/ssh/ssh_host_*_key",
            "etc/ssl/private",
            "etc/krb5.keytab",
            "etc/security/opasswd",
            "etc/NetworkManager/system-connections",
            "etc/wireguard",
            "etc/docker/key.json",
            "etc/letsencrypt/archive",
            "etc/letsencrypt/live",
            "etc/letsencrypt/keys",
            "etc/kubernetes",
            "etc/rancher",
            "etc/ppp/*-secrets",
            "etc/mysql/debian.cnf",
        ]
        .into_iter()
        .fold(Filter::none(), Filter::hide)
    }

    /// The same filter for an export whose root is `prefix` (a path without `*`) in the tree that
    /// the patterns were written for.
    pub fn below(&self, prefix: impl AsRef<[u8]>) -> Filter {
        let prefix: Vec<&[u8]> =
            prefix.as_ref().split(|&c| c == b'/').filter(|p| !p.is_empty()).collect();
        let mut out = Filter::none();
        for pattern in &self.patterns {
            for at in walk_states(pattern, &prefix) {
                let rest = pattern.get(at..).unwrap_or_default();
                if !rest.is_empty() {
                    out.patterns.push(rest.to_vec());
                }
            }
        }
        out
    }
}

/// The positions in `pattern` after the components `path`.
fn walk_states(pattern: &[Box<[u8]>], path: &[&[u8]]) -> Vec<usize> {
    let mut at = close(pattern, vec![0]);
    for name in path {
        at = close(pattern, at.into_iter().filter_map(|p| advance(pattern, p, name)).collect());
    }
    at
}

/// Adds the positions that are reached without consuming a name (`**` may stand for nothing).
fn close(pattern: &[Box<[u8]>], mut at: Vec<usize>) -> Vec<usize> {
    let mut i = 0;
    while let Some(&p) = at.get(i) {
        if pattern.get(p).is_some_and(|c| &**c == b"**") && !at.contains(&(p + 1)) {
            at.push(p + 1);
        }
        i += 1;
    }
    at
}

/// Where position `p` goes when `name` is consumed.
fn advance(pattern: &[Box<[u8]>], p: usize, name: &[u8]) -> Option<usize> {
    let part = pattern.get(p)?;
    if &**part == b"**" {
        return Some(p);
    }
    glob(part, name).then_some(p + 1)
}

/// Whether `name` matches a component with `*` in it.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to resume when the bytes behind the last star do not match.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match (pattern.get(p), name.get(n)) {
            (Some(b'*'), _) => {
                star = Some((p + 1, n));
                p += 1;
            }
            (Some(a), Some(b)) if a == b => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((sp, sn)) = star else { return false };
                star = Some((sp, sn + 1));
                p = sp;
                n = sn + 1;
            }
        }
    }
    pattern.get(p..).is_none_or(|rest| rest.iter().all(|&c| c == b'*'))
}

/// How far the patterns have matched on the way to a directory: (pattern, position) pairs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress(Vec<(u16, u16)>);

/// What [`Compiled::step`] says about a name.
pub(super) enum Verdict {
    /// It is hidden.
    Hidden,
    /// It is not; the progress belongs to it.
    Visible(Progress),
}

/// A filter at work on one export.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    filter: Filter,
    /// Birth times of hidden files by (device, inode number).
    hidden: HashMap<(u64, u64), Option<Timestamp>>,
}

impl Compiled {
    /// Prepares the filter for the tree at `root`: searches what it hides now.
    pub(super) fn new(filter: Filter, root: BorrowedFd<'_>) -> Compiled {
        let mut c = Compiled { filter, hidden: HashMap::new() };
        let mut budget = SCAN_LIMIT;
        let start = c.start();
        if !start.0.is_empty() {
            c.scan(root, Some(&start), &mut budget, 0);
        }
        if budget == 0 {
            tracing::warn!("export filter: search for hidden files cut short; patterns still hold");
        }
        c
    }

    /// Whether there is nothing to hide.
    pub(super) fn hides_nothing(&self) -> bool {
        self.filter.patterns.is_empty()
    }

    /// The progress of the export's root.
    pub(super) fn start(&self) -> Progress {
        let mut at = Vec::new();
        for (i, pattern) in self.filter.patterns.iter().enumerate() {
            at.extend(close(pattern, vec![0]).into_iter().map(|p| (i as u16, p as u16)));
        }
        Progress(at)
    }

    /// What the patterns say about `name` in a directory with this progress.
    pub(super) fn step(&self, from: &Progress, name: &[u8]) -> Verdict {
        let mut to = Vec::new();
        for &(i, p) in &from.0 {
            let Some(pattern) = self.filter.patterns.get(usize::from(i)) else { continue };
            let Some(next) = advance(pattern, usize::from(p), name) else { continue };
            for q in close(pattern, vec![next]) {
                if q >= pattern.len() {
                    return Verdict::Hidden;
                }
                if !to.contains(&(i, q as u16)) {
                    to.push((i, q as u16));
                }
            }
        }
        Verdict::Visible(Progress(to))
    }

    /// Whether this very file is hidden, under whatever name.
    pub(super) fn hides_file(&self, attr: &Attr) -> bool {
        // An inode number may have been reused for another file since: the birth time tells.
        self.hidden.get(&attr.identity()).is_some_and(|born| *born == attr.btime)
    }

    /// Whether a file with this inode number may be hidden.
    pub(super) fn may_hide_ino(&self, dev: u64, ino: u64) -> bool {
        self.hidden.contains_key(&(dev, ino))
    }

    /// Whether a directory with this progress lies on the way to something hidden, so that
    /// renaming it would uncover that.
    pub(super) fn is_anchor(&self, at: &Progress) -> bool {
        at.0.iter().any(|&(i, p)| {
            let pattern = self.filter.patterns.get(usize::from(i));
            let done = pattern.and_then(|p2| p2.get(..usize::from(p))).unwrap_or_default();
            !done.is_empty() && done.iter().all(|c| &**c != b"**")
        })
    }

    /// Collects identities below `fd`. With `progress`, of what the patterns match; without, of
    /// everything (the inside of a hidden directory).
    fn scan(
        &mut self,
        fd: BorrowedFd<'_>,
        progress: Option<&Progress>,
        budget: &mut usize,
        depth: usize,
    ) {
        // Patterns that can match anywhere would mean to read the whole tree.
        let anywhere = |c: &Compiled, at: &Progress| !at.0.is_empty() && !c.is_anchor(at);
        if depth >= SCAN_DEPTH || depth > 0 && progress.is_some_and(|p| anywhere(self, p)) {
            return;
        }
        let Ok(names) = dir::names(fd, budget) else { return };
        for name in names {
            let inside = match progress.map(|p| self.step(p, &name)) {
                None | Some(Verdict::Hidden) => None,
                Some(Verdict::Visible(p)) if p.0.is_empty() => continue,
                Some(Verdict::Visible(p)) => Some(p),
            };
            let Ok(component) = Component::new(Name(&name)) else { continue };
            let Ok(child) = sys::open_path(fd, &component) else { continue };
            use std::os::fd::AsFd;
            let Ok(attr) = sys::stat(child.as_fd()) else { continue };
            if inside.is_none() {
                self.hidden.insert(attr.identity(), attr.btime);
            }
            if attr.kind() == FileKind::Directory {
                self.scan(child.as_fd(), inside.as_ref(), budget, depth + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn hidden(c: &Compiled, path: &str) -> bool {
        let mut at = c.start();
        for name in path.split('/') {
            match c.step(&at, name.as_bytes()) {
                Verdict::Hidden => return true,
                Verdict::Visible(p) => at = p,
            }
        }
        false
    }

    #[test]
    fn globs() {
        assert!(glob(b"*", b""));
        assert!(glob(b"ssh_host_*_key", b"ssh_host_rsa_key"));
        assert!(!glob(b"ssh_host_*_key", b"ssh_host_rsa_key.pub"));
        assert!(glob(b"a*b*c", b"aXbXbc"));
        assert!(!glob(b"a*b*c", b"aXbXb"));
        assert!(!glob(b"", b"x"));
        assert!(glob(b"shadow*", b"shadow"));
    }

    #[test]
    fn patterns_follow_the_walk() {
        let c = Compiled {
            filter: Filter::host_secrets().hide("**/id_rsa").hide("home/**/x"),
            hidden: HashMap::new(),
        };
        for path in ["etc/shadow", "etc/shadow-", "etc/ssl/private", "etc/ssl/private/k"] {
            assert!(hidden(&c, path), "{path}");
        }
        for path in ["id_rsa", "a/b/c/id_rsa", "home/x", "home/a/b/x"] {
            assert!(hidden(&c, path), "{path}");
        }
        for path in ["shadow", "usr/etc/shadow", "etc/ssl/certs", "etc/passwd", "home/y", "x"] {
            assert!(!hidden(&c, path), "{path}");
        }
    }

    #[test]
    fn below_a_prefix() {
        let f = Filter::host_secrets().hide("**/id_rsa").below("/etc/");
        let c = Compiled { filter: f, hidden: HashMap::new() };
        assert!(hidden(&c, "shadow"));
        assert!(hidden(&c, "ssl/private"));
        assert!(hidden(&c, "deep/id_rsa"));
        assert!(!hidden(&c, "etc/shadow"));
        let usr = Filter::host_secrets().below("usr");
        assert!(usr.patterns.is_empty());
    }

    #[test]
    fn finds_identities() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tmp.path().join("etc/ssl/private/sub")).unwrap();
        for f in ["etc/shadow", "etc/passwd", "etc/ssl/private/sub/key"] {
            std::fs::write(tmp.path().join(f), "x").unwrap();
        }
        let root = std::fs::File::open(tmp.path()).unwrap();
        let c = Compiled::new(Filter::host_secrets(), root.as_fd());
        let hides = |p: &str| {
            let f = std::fs::File::open(tmp.path().join(p)).unwrap();
            c.hides_file(&sys::stat(f.as_fd()).unwrap())
        };
        assert!(hides("etc/shadow"));
        assert!(hides("etc/ssl/private"));
        assert!(hides("etc/ssl/private/sub/key"));
        assert!(!hides("etc/passwd"));
        assert!(!hides("etc"));
    }
}
