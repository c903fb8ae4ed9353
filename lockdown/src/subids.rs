//! Subordinate ids: what `/etc/subuid` and `/etc/subgid` give an unprivileged caller, and the setuid
//! helpers `newuidmap` and `newgidmap` that may write them into a map (subuid(5), newuidmap(1)).
//!
//! The helpers are the host's own, found in fixed places and owned by root. They get numbers only, none
//! of which a guest has a say in, and check them once more against the same files.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What Linux shows for ids that a namespace does not map. Not used inside, so that those can be told
/// from mapped ones.
const OVERFLOW_ID: u32 = 65534;
/// Most ranges of a caller that are used. Linux takes 340 lines of a map.
const MAX_RANGES: usize = 16;
/// Where the helpers are.
const PLACES: [&str; 3] = ["/usr/bin", "/bin", "/usr/local/bin"];
/// Longest `/etc/subuid` or `/etc/passwd` that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// A line of a map: `count` ids from `inside` on are those from `outside` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First id in the namespace.
    pub inside: u32,
    /// First id in the launcher's namespace.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// A map that a helper writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Helped {
    helper: PathBuf,
    ranges: Vec<Range>,
}

impl Helped {
    /// A map of user ids in which the caller `own` is `inside`, and the ids subordinate to it are the
    /// others, in ascending order from 0. `None` if the caller has none, or no helper can be used.
    pub fn users(own: u32, inside: u32) -> Option<Helped> {
        Helped::find("newuidmap", "/etc/subuid", own, own, inside)
    }

    /// Likewise of group ids, with `group` as the caller's own. They are the user's, too.
    pub fn groups(own: u32, group: u32, inside: u32) -> Option<Helped> {
        Helped::find("newgidmap", "/etc/subgid", own, group, inside)
    }

    fn find(helper: &str, file: &str, user: u32, own: u32, inside: u32) -> Option<Helped> {
        let given = given(&read(file)?, user, name_of(&read("/etc/passwd")?, user).as_deref());
        let ranges = map(own, inside, &given)?;
        let helper =
            PLACES.iter().map(|place| Path::new(place).join(helper)).find(|it| usable(it))?;
        Some(Helped { helper, ranges })
    }

    /// Starts the helper for process `pid`; whether it succeeds, it says when it ends.
    pub(crate) fn start(&self, pid: libc::pid_t) -> std::io::Result<std::process::Child> {
        let mut command = Command::new(&self.helper);
        command.arg(pid.to_string()).env_clear().current_dir("/");
        for Range { inside, outside, count } in &self.ranges {
            command.args([inside, outside, count].map(u32::to_string));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    }
}

fn read(path: &str) -> Option<String> {
    let size = fs::metadata(path).ok()?.len();
    if size > MAX_FILE {
        return None;
    }
    fs::read_to_string(path).ok()
}

/// The user's name, as `/etc/passwd` has it.
fn name_of(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The ranges that a file gives a user, by name or by number: first id and count.
fn given(file: &str, uid: u32, name: Option<&str>) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    let parse = |line: &str| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?);
        (owner == number || Some(owner) == name).then_some((first, count))
    };
    file.lines().filter_map(parse).take(MAX_RANGES).collect()
}

/// `own` becomes `inside`; what is `given` becomes 0, 1, 2, ... without `inside` and the overflow id.
/// `None` if nothing, or nonsense, is given: root's ids, the caller's own, more than there are.
fn map(own: u32, inside: u32, given: &[(u32, u32)]) -> Option<Vec<Range>> {
    let mut ranges = vec![Range { inside, outside: own, count: 1 }];
    let mut next = 0u32;
    for &(first, count) in given {
        // The last number, -1, is no id.
        let end = first.checked_add(count).filter(|_| first > 0)?;
        let taken = ranges.iter().any(|it| first < it.outside + it.count && it.outside < end);
        if taken {
            return None;
        }
        let mut outside = first;
        while outside < end {
            while next == inside || next == OVERFLOW_ID {
                next = next.checked_add(1)?;
            }
            // Up to the next id that is left out.
            let gap = [inside, OVERFLOW_ID].into_iter().filter(|&id| id > next).min();
            let room = gap.unwrap_or(u32::MAX) - next;
            let count = room.min(end - outside);
            if count == 0 {
                return None;
            }
            ranges.push(Range { inside: next, outside, count });
            (next, outside) = (next.checked_add(count)?, outside + count);
        }
    }
    (ranges.len() > 1).then_some(ranges)
}

/// Whether the helper would get its rights, and could only have been put there by root.
fn usable(helper: &Path) -> bool {
    let Ok(metadata) = fs::metadata(helper) else { return false };
    let mode = metadata.permissions().mode();
    let trusted = metadata.is_file() && metadata.uid() == 0 && mode & 0o022 == 0;
    let able = mode & libc::S_ISUID != 0 || has_capabilities(helper);
    // SAFETY: no pointers.
    let no_new_privileges = unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) } == 1;
    trusted && able && !no_new_privileges && !is_nosuid(helper)
}

/// Whether it has capabilities instead of a set-user-id bit.
fn has_capabilities(path: &Path) -> bool {
    let Some(path) = c_path(path) else { return false };
    let name = c"security.capability";
    // SAFETY: both are NUL-terminated; with size 0 nothing is written.
    unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) > 0 }
}

/// Whether its file system gives no rights.
fn is_nosuid(path: &Path) -> bool {
    let Some(path) = c_path(path) else { return true };
    // SAFETY: an all-zero buffer is a valid value, and valid for writes; the path is NUL-terminated.
    unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        libc::statvfs(path.as_ptr(), &raw mut stat) != 0 || stat.f_flag & libc::ST_NOSUID != 0
    }
}

fn c_path(path: &Path) -> Option<std::ffi::CString> {
    std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn triples(own: u32, inside: u32, given: &[(u32, u32)]) -> Option<Vec<(u32, u32, u32)>> {
        let ranges = map(own, inside, given)?;
        Some(ranges.iter().map(|it| (it.inside, it.outside, it.count)).collect())
    }

    #[test]
    fn the_caller_is_one_and_the_others_are_the_rest() {
        let root = triples(1000, 0, &[(100_000, 65536)]).unwrap();
        assert_eq!(root, [(0, 1000, 1), (1, 100_000, 65533), (65535, 165_533, 3)]);
        let same = triples(1000, 1000, &[(100_000, 2000)]).unwrap();
        assert_eq!(same, [(1000, 1000, 1), (0, 100_000, 1000), (1001, 101_000, 1000)]);
        let two = triples(5, 0, &[(100, 2), (200, 3)]).unwrap();
        assert_eq!(two, [(0, 5, 1), (1, 100, 2), (3, 200, 3)]);
    }

    #[test]
    fn nonsense_is_not_used() {
        for given in [
            &[][..],
            &[(0, 10)],
            &[(990, 20)],
            &[(u32::MAX, 2)],
            &[(100_000, u32::MAX)],
            &[(100, 50), (120, 5)],
            &[(100, 0)],
        ] {
            assert_eq!(triples(1000, 0, given), None, "{given:?}");
        }
    }

    #[test]
    fn files_are_read_by_name_and_number() {
        let passwd = "root:x:0:0::/:/bin/sh\nme:x:1000:1000::/:/bin/sh\n:x:7:7\nodd";
        assert_eq!(name_of(passwd, 1000).as_deref(), Some("me"));
        assert_eq!(name_of(passwd, 7), None);
        let file = "you:1:2\nme:100000:65536\n1000:300000:10\nme:x:1\nme:5\n\nme:-1:3\n";
        assert_eq!(given(file, 1000, Some("me")), [(100_000, 65536), (300_000, 10)]);
        assert_eq!(given(file, 1000, None), [(300_000, 10)]);
        assert_eq!(given("1000:1:1\n".repeat(99).as_str(), 1000, None).len(), MAX_RANGES);
    }

    proptest! {
        #[test]
        fn no_id_is_mapped_twice(
            own in 1u32..70_000, inside in 0u32..70_000,
            given in prop::collection::vec((any::<u32>(), 0u32..200_000), 0..5),
        ) {
            let Some(ranges) = map(own, inside, &given) else { return Ok(()) };
            let disjoint = |first: fn(&Range) -> u32| {
                let mut all: Vec<_> = ranges.iter().map(|it| (first(it), it.count)).collect();
                all.sort_unstable();
                all.windows(2).all(|two| two[0].0 + two[0].1 <= two[1].0)
            };
            prop_assert!(disjoint(|it| it.inside) && disjoint(|it| it.outside));
            prop_assert!(ranges.iter().all(|it| it.outside > 0 && it.count > 0));
            let last = ranges.iter().all(|it| !(it.inside..it.inside + it.count).contains(&OVERFLOW_ID)
                || it.outside == own);
            prop_assert!(last);
        }
    }
}
