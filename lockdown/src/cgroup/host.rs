//! Which trees of groups the host has, and where the calling process is in them.

use std::fs;
use std::path::{Path, PathBuf};

use super::Controller;

/// The trees that are mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    trees: Vec<Tree>,
}

/// One tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tree {
    /// Its top, as far as it is visible.
    pub(super) top: PathBuf,
    /// The calling process's own group.
    pub(super) own: PathBuf,
    version_2: bool,
    controllers: Vec<Controller>,
}

const ALL: [Controller; 6] = [
    Controller::Memory,
    Controller::Cpu,
    Controller::Pids,
    Controller::Cpuset,
    Controller::Io,
    Controller::Cpuacct,
];

impl Tree {
    pub(super) fn has(&self, controller: Controller) -> bool {
        self.controllers.contains(&controller)
    }

    pub(super) fn is_v2(&self) -> bool {
        self.version_2
    }
}

impl Host {
    /// The host's trees as the calling process sees them. None at all is possible.
    pub fn look() -> Host {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Host::parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"), |top| {
            fs::read_to_string(top.join("cgroup.controllers")).unwrap_or_default()
        })
    }

    /// From the texts of `/proc/self/mountinfo` and `/proc/self/cgroup`, and version 2's list of
    /// controllers.
    pub(super) fn parse(mounts: &str, own: &str, v2: impl Fn(&Path) -> String) -> Host {
        let mut trees: Vec<Tree> = Vec::new();
        for mount in mounts.lines() {
            let Some((place, kind)) = mount.split_once(" - ") else { continue };
            let (place, kind): (Vec<_>, Vec<_>) =
                (place.split(' ').collect(), kind.split(' ').collect());
            let ([_, _, _, root, point, ..], [kind, _, options, ..]) = (&place[..], &kind[..])
            else {
                continue;
            };
            // Blanks and the like are written in octal there; no cgroup mount has any.
            if point.contains('\\') || root.contains('\\') {
                continue;
            }
            let top = PathBuf::from(point);
            let (version_2, controllers) = match *kind {
                "cgroup2" => {
                    let listed = v2(&top);
                    let has = |c: &Controller| listed.split_whitespace().any(|n| n == c.name());
                    (true, ALL.iter().copied().filter(has).collect())
                }
                "cgroup" => {
                    let has = |c: &Controller| options.split(',').any(|n| n == c.v1_name());
                    (false, ALL.iter().copied().filter(has).collect::<Vec<_>>())
                }
                _ => continue,
            };
            // A tree without a controller of ours (name=systemd), or one that is mounted again.
            let known = trees
                .iter()
                .any(|tree: &Tree| tree.version_2 == version_2 && tree.controllers == controllers);
            if known || (!version_2 && controllers.is_empty()) {
                continue;
            }
            let own = own_path(own, version_2, &controllers)
                .and_then(|own| Path::new(own).strip_prefix(root).ok())
                .map_or_else(|| top.clone(), |own| top.join(own));
            trees.push(Tree { top, own, version_2, controllers });
        }
        // In a hybrid a controller belongs to one version only; should both claim it, 1 wins.
        Host { trees }
    }

    pub(super) fn trees(&self) -> &[Tree] {
        &self.trees
    }

    /// In words, for the report on the host.
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        for (version, name) in [(true, "v2"), (false, "v1")] {
            let trees = self.trees.iter().filter(|tree| tree.version_2 == version);
            let mut controllers: Vec<&str> = Vec::new();
            let mut any = false;
            for tree in trees {
                any = true;
                controllers.extend(tree.controllers.iter().map(|controller| controller.name()));
            }
            if any {
                let list =
                    if controllers.is_empty() { "none".into() } else { controllers.join(" ") };
                parts.push(format!("{name} ({list})"));
            }
        }
        if parts.is_empty() { "none".into() } else { parts.join(", ") }
    }
}

/// The line of `/proc/self/cgroup` that is about a tree: `0::/path`, or `4:cpu,cpuacct:/path`.
fn own_path<'a>(text: &'a str, version_2: bool, controllers: &[Controller]) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let matches = if version_2 {
            number == "0" && names.is_empty()
        } else {
            names.split(',').any(|name| controllers.iter().any(|c| c.v1_name() == name))
        };
        // Outside of what is visible of a cgroup namespace.
        (matches && !path.starts_with("/..")).then_some(path)
    })
}
