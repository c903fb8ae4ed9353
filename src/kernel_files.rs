//! The host's kernel file systems (`/proc`, `/sys` and the like) in trees that the caller shows.
//!
//! The guest's own /proc and /sys are the Sentry's. The host's, whose files tell of its memory, keys and
//! hardware and change its settings, are never shown, neither read-only nor in part: a tree that lies in one
//! is refused (`--ro /proc`, `--rw /sys/class`), and where one is mounted in a tree (`--root /`,
//! `--ro /srv/chroot`) something empty is mounted over it. So a gofer that was taken over has none either;
//! an honest one serves none in any case.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// File systems whose files act on the host's kernel.
const KINDS: &[&str] = &[
    "apparmorfs",
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "efivarfs",
    "fusectl",
    "mqueue",
    "nfsd",
    "nsfs",
    "proc",
    "pstore",
    "resctrl",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sysfs",
    "tracefs",
];

/// A mount, as `/proc/self/mountinfo` tells it.
#[derive(Debug)]
struct Mount {
    place: PathBuf,
    kind: String,
}

impl Mount {
    fn is_kernels(&self) -> bool {
        KINDS.contains(&self.kind.as_str())
    }
}

/// The mounts of the calling process, in the order in which they were made.
#[derive(Debug)]
pub(crate) struct Mounts(Vec<Mount>);

impl Mounts {
    /// Reads them.
    pub(crate) fn now() -> std::io::Result<Mounts> {
        Ok(Mounts::parse(&std::fs::read("/proc/self/mountinfo")?))
    }

    fn parse(text: &[u8]) -> Mounts {
        let line = |line: &[u8]| {
            let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
            let place = path(fields.get(4)?);
            let dash = fields.iter().position(|field| *field == b"-")?;
            let kind = String::from_utf8_lossy(fields.get(dash + 1)?).into_owned();
            Some(Mount { place, kind })
        };
        Mounts(text.split(|&byte| byte == b'\n').filter_map(line).collect())
    }

    /// What is to be covered in the tree at `source`, a path without links, relative to it. `Err` says
    /// why the tree cannot be shown at all.
    pub(crate) fn hidden_in(&self, source: &Path) -> Result<Vec<PathBuf>, String> {
        // The tree lies in the last one of those mounts above it that are deepest.
        let above = self.0.iter().filter(|mount| source.starts_with(&mount.place));
        let its = above.max_by_key(|mount| mount.place.components().count());
        if let Some(Mount { kind, .. }) = its.filter(|mount| mount.is_kernels()) {
            return Err(format!(
                "{source:?} lies in the host's kernel file system {kind}, which is never shown"
            ));
        }
        let mut hidden: Vec<PathBuf> = Vec::new();
        for mount in self.0.iter().filter(|mount| mount.is_kernels()) {
            let Ok(at) = mount.place.strip_prefix(source) else { continue };
            // One that is below another is covered with that.
            if at != Path::new("") && !hidden.iter().any(|other| at.starts_with(other)) {
                hidden.push(at.to_owned());
            }
        }
        Ok(hidden)
    }
}

/// A path of mountinfo, where spaces and the like are in octal.
fn path(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = |digits: &[u8]| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        };
        let escaped = tail.get(..3).filter(|_| *first == b'\\').and_then(octal);
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { tail.get(3..).unwrap_or_default() } else { tail };
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOST: &str = "\
1 0 8:1 / / rw - ext4 /dev/sda rw\n\
2 1 0:2 / /proc rw,nosuid shared:5 - proc proc rw\n\
3 1 0:3 / /sys rw - sysfs sysfs rw\n\
4 3 0:4 / /sys/kernel/debug rw - debugfs debugfs rw\n\
5 3 0:5 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
6 1 0:2 / /srv/a\\040b/proc rw - proc proc rw\n\
7 1 0:2 /sys /srv/settings rw - proc proc rw\n\
8 1 0:9 / /dev/shm rw - tmpfs tmpfs rw\n\
9 1 0:9 / /sys/fs/own rw - tmpfs tmpfs rw\n";

    fn hidden(source: &str) -> Result<Vec<PathBuf>, String> {
        Mounts::parse(HOST.as_bytes()).hidden_in(Path::new(source))
    }

    #[test]
    fn they_are_covered_where_they_are_mounted() {
        let paths = |all: &[&str]| Ok(all.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(hidden("/"), paths(&["proc", "sys", "srv/a b/proc", "srv/settings"]));
        assert_eq!(hidden("/srv/a b"), paths(&["proc"]));
        assert_eq!(hidden("/home"), paths(&[]));
        assert_eq!(hidden("/sys/fs/own"), paths(&[]), "what is mounted there is none");
    }

    #[test]
    fn trees_that_lie_in_one_are_refused() {
        for source in
            ["/proc", "/proc/1/root", "/sys/class", "/sys/fs/cgroup/x", "/srv/settings/vm"]
        {
            let why = hidden(source).unwrap_err();
            assert!(why.contains(source) && why.contains("never shown"), "{why}");
        }
        // The last mount is on top.
        let text = format!("{HOST}10 3 0:1 / /proc rw - tmpfs tmpfs rw\n");
        assert!(Mounts::parse(text.as_bytes()).hidden_in(Path::new("/proc/x")).is_ok());
    }

    proptest! {
        #[test]
        fn no_mountinfo_breaks_it(
            text in prop::collection::vec(any::<u8>(), 0..200), escaped: Vec<u8>,
        ) {
            let _ = Mounts::parse(&text).hidden_in(Path::new("/"));
            let _ = path(&escaped);
        }
    }
}
