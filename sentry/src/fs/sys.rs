//! sysfs (sysfs(5)): the little of it that programs look at.

use std::sync::Arc;

use super::pseudo::{Node, PseudoFs, StaticDir, StaticText};
use crate::kernel::Kernel;
use crate::vfs::{Dentry, Mount, MountFlags};

/// `SYSFS_MAGIC`
const MAGIC: i64 = 0x6265_6572;
/// Inode number of the root.
const ROOT_INO: u64 = 1;

/// Makes the tree's nodes, numbered as they come.
struct Builder {
    fs: Arc<PseudoFs>,
    last: u64,
}

impl Builder {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn text(&mut self, text: String) -> Node {
        let ino = self.next();
        Node::file(&self.fs, ino, 0o444, StaticText(text.into_bytes()))
    }

    fn dir(&mut self, children: Vec<(&str, Node)>) -> Node {
        let ino = self.next();
        let dir = children.into_iter().fold(StaticDir::default(), |d, (name, n)| d.with(name, n));
        Node::dir(&self.fs, ino, 0o755, dir)
    }
}

/// A mount of a new sysfs.
pub fn mount(kernel: &Arc<Kernel>, flags: MountFlags) -> Arc<Mount> {
    let fs = PseudoFs::new("sysfs", MAGIC);
    let mut b = Builder { fs: fs.clone(), last: ROOT_INO };
    let count = kernel.host.cpus.len();
    let range = if count > 1 { format!("0-{}\n", count - 1) } else { "0\n".into() };
    let names: Vec<String> = (0..count).map(|i| format!("cpu{i}")).collect();
    let mut cpus = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let id = b.text(format!("{i}\n"));
        let package = b.text("0\n".into());
        let topology = b.dir(vec![("core_id", id), ("physical_package_id", package)]);
        let online = b.text("1\n".into());
        cpus.push((name.as_str(), b.dir(vec![("topology", topology), ("online", online)])));
    }
    for name in ["online", "possible", "present"] {
        cpus.push((name, b.text(range.clone())));
    }
    let cpu = b.dir(cpus);
    let list = b.text(range);
    let node0 = b.dir(vec![("cpulist", list)]);
    let online = b.text("0\n".into());
    let node = b.dir(vec![("node0", node0), ("online", online)]);
    let system = b.dir(vec![("cpu", cpu), ("node", node)]);
    let virtual_dir = b.dir(vec![]);
    let devices = b.dir(vec![("system", system), ("virtual", virtual_dir)]);
    let enabled = b.text("always madvise [never]\n".into());
    let pmd_size = b.text("2097152\n".into());
    let huge = b.dir(vec![("enabled", enabled), ("hpage_pmd_size", pmd_size)]);
    let mm = b.dir(vec![("transparent_hugepage", huge)]);
    let kernel_dir = b.dir(vec![("mm", mm)]);
    let block = b.dir(vec![]);
    let class = b.dir(vec![]);
    let bus = b.dir(vec![]);
    let cgroup = b.dir(vec![]);
    let fs_dir = b.dir(vec![("cgroup", cgroup)]);
    let root = [
        ("block", block),
        ("bus", bus),
        ("class", class),
        ("devices", devices),
        ("fs", fs_dir),
        ("kernel", kernel_dir),
    ];
    let root = root.into_iter().fold(StaticDir::default(), |d, (name, node)| d.with(name, node));
    let root = Arc::new(Node::dir(&fs, ROOT_INO, 0o555, root));
    Mount::new(fs, Dentry::root(b"/", root), "sysfs", flags)
}
