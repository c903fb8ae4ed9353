//! How people name a group: as a path, or as systemd does.

use std::path::{Path, PathBuf};

/// A path from the top of a tree, without `..`, at least one name long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupPath(PathBuf);

impl CgroupPath {
    /// Takes `/a/b`, and what systemd would make of `a-b.slice` (`/a.slice/a-b.slice`) and of
    /// `a-b.slice:prefix:name` (`/a.slice/a-b.slice/prefix-name.scope`).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<CgroupPath, String> {
        let path = match text.split(':').collect::<Vec<_>>()[..] {
            [path] => expand(path)?,
            [slice, prefix, name] => {
                let slice = if slice.is_empty() { "system.slice" } else { slice };
                if !slice.ends_with(".slice") || slice.contains('/') {
                    return Err(format!("{slice:?} is not a slice"));
                }
                check(name)?;
                let unit = match (prefix, name.ends_with(".slice")) {
                    (_, true) => name.to_owned(),
                    ("", false) => format!("{name}.scope"),
                    (_, false) => format!("{prefix}-{name}.scope"),
                };
                check(&unit)?;
                expand(slice)?.join(unit)
            }
            _ => return Err("neither a path nor SLICE:PREFIX:NAME".into()),
        };
        if path.as_os_str().is_empty() {
            return Err("the top of the tree is not a group of its own".into());
        }
        Ok(CgroupPath(path))
    }

    /// Relative to the top of a tree.
    pub(super) fn relative(&self) -> &Path {
        &self.0
    }
}

/// A name of one directory that is no control file's.
fn check(name: &str) -> Result<(), String> {
    let odd = name.is_empty() || name.contains(['/', '\0', '\n']) || name == "." || name == "..";
    let control = name.split_once('.').is_some_and(|(controller, _)| {
        ["cgroup", "memory", "cpu", "cpuset", "cpuacct", "io", "pids", "blkio"]
            .contains(&controller)
    }) && !name.ends_with(".slice")
        && !name.ends_with(".scope")
        && !name.ends_with(".service");
    if odd || control {
        return Err(format!("{name:?} cannot be the name of a group"));
    }
    Ok(())
}

/// The path with the parents of its slices.
fn expand(text: &str) -> Result<PathBuf, String> {
    let mut path = PathBuf::new();
    for name in text.split('/').filter(|name| !name.is_empty()) {
        check(name)?;
        for parent in parents(name)? {
            // Unless it is written out.
            if !path.iter().any(|part| part == parent.as_str()) {
                path.push(parent);
            }
        }
        if name != "-.slice" {
            path.push(name);
        }
    }
    Ok(path)
}

/// `a-b-c.slice` lies in `a.slice/a-b.slice`.
fn parents(name: &str) -> Result<Vec<String>, String> {
    let Some(stem) = name.strip_suffix(".slice").filter(|stem| *stem != "-") else {
        return Ok(Vec::new());
    };
    if stem.split('-').any(str::is_empty) {
        return Err(format!("{name:?} is not a slice's name"));
    }
    let dashes = stem.match_indices('-').map(|(at, _)| at);
    Ok(dashes.filter_map(|at| Some(format!("{}.slice", stem.get(..at)?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> Option<String> {
        CgroupPath::parse(text).ok().map(|path| path.0.to_str().unwrap().to_owned())
    }

    #[test]
    fn paths_and_systemds_names() {
        for (text, expected) in [
            ("/a/b", "a/b"),
            ("a//b/", "a/b"),
            ("a-b.slice", "a.slice/a-b.slice"),
            ("/user.slice/user-1000.slice/x", "user.slice/user-1000.slice/x"),
            ("a-b-c.slice/x", "a.slice/a-b.slice/a-b-c.slice/x"),
            ("-.slice/x", "x"),
            ("system.slice:rsentry:x1", "system.slice/rsentry-x1.scope"),
            (":rsentry:x1", "system.slice/rsentry-x1.scope"),
            ("a-b.slice::x", "a.slice/a-b.slice/x.scope"),
            ("a.slice:p:b-c.slice", "a.slice/b-c.slice"),
        ] {
            assert_eq!(path(text).as_deref(), Some(expected), "{text}");
        }
        for bad in [
            "",
            "/",
            "..",
            "a/../b",
            "./a",
            "-.slice",
            "a--b.slice",
            "-a.slice",
            "a-.slice",
            "a:b",
            "a:b:c:d",
            "x:y:z",
            "a/b.slice:p:n",
            "s.slice:p:",
            "s.slice:p:a/b",
            "cgroup.procs",
            "a/memory.max",
            "a\nb",
            ".slice",
        ] {
            assert_eq!(path(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_leads_out_of_the_tree(text in "[-a.:/]{0,20}|.{0,40}") {
            if let Ok(CgroupPath(path)) = CgroupPath::parse(&text) {
                prop_assert!(path.is_relative());
                prop_assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))));
                prop_assert!(path.components().count() > 0);
            }
        }
    }
}
