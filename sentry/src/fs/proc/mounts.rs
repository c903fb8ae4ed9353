//! `/proc/PID/mounts` and `mountinfo`.

use std::io::Write as _;
use std::sync::Arc;

use abi::Errno;

use crate::kernel::Task;
use crate::vfs::dpath::{fs_path, reachable};
use crate::vfs::{Mount, MountFlags};

type Text = Result<Vec<u8>, Errno>;

/// A mount with its mount point as `task` sees it; those outside of its root are left out.
fn visible(task: &Task) -> Vec<(Arc<Mount>, Vec<u8>)> {
    let fs = task.fs();
    let root = fs.root();
    let mounts = fs.mounts().mounts();
    let shown = mounts.into_iter().filter_map(|mount| {
        let text = reachable(&mount.root_path(), &root)?;
        Some((mount, text))
    });
    shown.collect()
}

/// Spaces and the like as octal escapes (`mangle` of fs/proc_namespace.c).
fn mangle(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for &byte in text {
        if b" \t\n\\#".contains(&byte) {
            // Writing to a vector cannot fail.
            let _ = write!(out, "\\{byte:03o}");
        } else {
            out.push(byte);
        }
    }
    out
}

fn options(mount: &Mount) -> String {
    const NAMES: [(MountFlags, &str); 6] = [
        (MountFlags::NOSUID, ",nosuid"),
        (MountFlags::NODEV, ",nodev"),
        (MountFlags::NOEXEC, ",noexec"),
        (MountFlags::NOATIME, ",noatime"),
        (MountFlags::NODIRATIME, ",nodiratime"),
        (MountFlags::RELATIME, ",relatime"),
    ];
    let flags = mount.flags();
    let mut out = access(mount).to_owned();
    out.extend(NAMES.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| *name));
    out
}

fn access(mount: &Mount) -> &'static str {
    if mount.flags().contains(MountFlags::RDONLY) { "ro" } else { "rw" }
}

fn fs_options(mount: &Mount) -> String {
    let own = mount.fs.options();
    if own.is_empty() { String::new() } else { format!(",{own}") }
}

pub(super) fn mounts(task: &Arc<Task>, _: &Task) -> Text {
    let mut out = Vec::new();
    for (mount, point) in visible(task) {
        out.extend(mangle(mount.source.as_bytes()));
        out.push(b' ');
        out.extend(mangle(&point));
        let _ = writeln!(out, " {} {}{} 0 0", mount.fs.name(), options(&mount), fs_options(&mount));
    }
    Ok(out)
}

pub(super) fn mountinfo(task: &Arc<Task>, _: &Task) -> Text {
    let mut out = Vec::new();
    for (mount, point) in visible(task) {
        let parent = mount.point().map_or(mount.id, |p| p.mount.id);
        let (major, minor) = (libc::major(mount.fs.dev()), libc::minor(mount.fs.dev()));
        let _ = write!(out, "{} {parent} {major}:{minor} ", mount.id);
        out.extend(mangle(&fs_path(&mount.root)));
        out.push(b' ');
        out.extend(mangle(&point));
        let _ = write!(out, " {} - {} ", options(&mount), mount.fs.name());
        out.extend(mangle(mount.source.as_bytes()));
        let _ = writeln!(out, " {}{}", access(&mount), fs_options(&mount));
    }
    Ok(out)
}

pub(super) fn mountstats(task: &Arc<Task>, _: &Task) -> Text {
    let mut out = Vec::new();
    for (mount, point) in visible(task) {
        out.extend_from_slice(b"device ");
        out.extend(mangle(mount.source.as_bytes()));
        out.extend_from_slice(b" mounted on ");
        out.extend(mangle(&point));
        let _ = writeln!(out, " with fstype {}", mount.fs.name());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #[test]
    fn spaces_are_escaped() {
        assert_eq!(super::mangle(b"/a b\\c\n"), b"/a\\040b\\134c\\012");
    }
}
