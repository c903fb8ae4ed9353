//! Who the process is: id maps of its user namespace (written by the launcher from outside), and
//! the ids it takes on inside.

use std::{fs, io};

use crate::error::{Context, Error, Layer};
use crate::subids::Helped;
use crate::sys::check;

/// Lines of a `uid_map` or `gid_map` file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdMap {
    /// One id, the same inside and outside.
    Single(u32),
    /// Every id that the launcher's own namespace has, each mapped to itself. Needs `CAP_SETUID`
    /// (or `CAP_SETGID`) in the launcher's user namespace.
    Identity,
    /// The caller and its subordinate ids, written by a helper of the host's; if that fails, the caller's
    /// own id alone, as in [`IdMap::Single`].
    Helped(Helped, u32),
}

impl IdMap {
    /// The text for the map file. `own` is what the launcher's own map file says.
    fn text(&self, own: &str) -> String {
        match self {
            IdMap::Single(id) | IdMap::Helped(_, id) => format!("{id} {id} 1\n"),
            IdMap::Identity => own
                .lines()
                .filter_map(|line| {
                    let mut fields = line.split_whitespace();
                    let (first, _, count) = (fields.next()?, fields.next()?, fields.next()?);
                    Some(format!("{first} {first} {count}\n"))
                })
                .collect(),
        }
    }

    /// Whether the launcher's own namespace has `id`, going by its map file `/proc/self/NAME`.
    pub fn launcher_has(name: &str, id: u32) -> bool {
        fs::read_to_string(format!("/proc/self/{name}")).is_ok_and(|text| contains(&text, id))
    }
}

fn contains(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut fields = line.split_whitespace().map(str::parse::<u64>);
        match (fields.next(), fields.next(), fields.next()) {
            (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) => {
                let id = u64::from(id);
                id >= first && id - first < count
            }
            _ => false,
        }
    })
}

/// The identity of a jailed process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user namespace's map of user ids.
    pub uids: IdMap,
    /// The user namespace's map of group ids.
    pub gids: IdMap,
    /// User and group to become; `None` stays what the launcher is.
    pub become_ids: Option<(u32, u32)>,
    /// Whether the supplementary groups are dropped. Needs `CAP_SETGID` in the launcher's user
    /// namespace: an unprivileged launcher's children keep its groups.
    pub drop_groups: bool,
}

impl Identity {
    /// Writes the maps of process `pid`, from outside.
    pub(crate) fn write_maps(&self, pid: libc::pid_t) -> Result<(), Error> {
        let maps = [("gid_map", &self.gids), ("uid_map", &self.uids)];
        // Both at once: a helper takes as long as a program takes to start.
        let helpers = maps.map(|(_, map)| match map {
            IdMap::Helped(helped, _) => helped.start(pid).ok(),
            IdMap::Single(_) | IdMap::Identity => None,
        });
        // One that fails has written nothing.
        let done =
            helpers.map(|helper| helper.is_some_and(|mut it| it.wait().is_ok_and(|s| s.success())));
        for ((name, map), done) in maps.into_iter().zip(done) {
            if done {
                continue;
            }
            // Linux wants setgroups(2) denied before an unprivileged launcher may map groups.
            if name == "gid_map" && !self.drop_groups && *map != IdMap::Identity {
                write(pid, "setgroups", "deny")?;
            }
            let own = match map {
                IdMap::Single(_) | IdMap::Helped(..) => String::new(),
                IdMap::Identity => fs::read_to_string(format!("/proc/self/{name}"))
                    .context(Layer::IdMaps, format!("reading /proc/self/{name}"))?,
            };
            write(pid, name, &map.text(&own))?;
        }
        Ok(())
    }

    /// Takes on the ids, inside. Keeps the capabilities in the new user namespace, because
    /// neither id is that namespace's 0 changing to another.
    pub(crate) fn assume(&self) -> Result<(), Error> {
        if self.drop_groups {
            // SAFETY: an empty list needs no pointer.
            check(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) })
                .context(Layer::Identity, "setgroups")?;
        }
        if let Some((uid, gid)) = self.become_ids {
            // SAFETY: plain numbers.
            check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })
                .context(Layer::Identity, format!("setresgid {gid}"))?;
            // SAFETY: plain numbers.
            check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })
                .context(Layer::Identity, format!("setresuid {uid}"))?;
        }
        Ok(())
    }
}

fn write(pid: libc::pid_t, name: &str, text: &str) -> Result<(), Error> {
    let path = format!("/proc/{pid}/{name}");
    // One write(2): the kernel takes a map only whole and only once.
    let result: io::Result<()> = fs::write(&path, text);
    result.context(Layer::IdMaps, format!("writing {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_maps_each_range_of_the_launchers_namespace_to_itself() {
        let own = "         0          0 4294967295\n";
        assert_eq!(IdMap::Identity.text(own), "0 0 4294967295\n");
        let nested = "0 100000 1000\n1000 5000 1\n";
        assert_eq!(IdMap::Identity.text(nested), "0 0 1000\n1000 1000 1\n");
        assert_eq!(IdMap::Single(65534).text(""), "65534 65534 1\n");
    }

    #[test]
    fn knows_which_ids_a_map_holds() {
        let nested = "0 100000 1000\n2000 5000 1\n";
        for (id, has) in [(0, true), (999, true), (1000, false), (2000, true), (2001, false)] {
            assert_eq!(contains(nested, id), has, "{id}");
        }
        assert!(!contains("garbage\n1 2\n", 1));
    }
}
