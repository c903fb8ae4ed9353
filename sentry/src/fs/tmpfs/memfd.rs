//! memfd_create(2): a file of an internal tmpfs, without a name, with seals.

use std::sync::{Arc, OnceLock};

use abi::Errno;
use platform::MemoryFile;

use super::file::{Content, OpenFile, seal};
use super::inode::Body;
use super::{TmpFs, TmpInode, TmpfsOptions};
use crate::kernel::Credentials;
use crate::vfs::{
    Dentry, FileDescription, FileType, Inode, Mount, MountFlags, NewNode, NodeKind, OpenFlags, Path,
};

/// The internal tmpfs of a kernel, where memfds live.
#[derive(Default)]
pub struct MemfdMount(OnceLock<(Arc<TmpFs>, Arc<Mount>)>);

impl MemfdMount {
    fn get(&self, memory: &Arc<MemoryFile>) -> Result<&(Arc<TmpFs>, Arc<Mount>), Errno> {
        if let Some(there) = self.0.get() {
            return Ok(there);
        }
        // Bounded by the memory file alone.
        let options = TmpfsOptions { size: memory.limit(), ..TmpfsOptions::for_memory(memory) };
        let (fs, root) = TmpFs::new(memory.clone(), options)?;
        let root = Dentry::root(b"/", root);
        let mount = Mount::new(fs.clone(), root, "tmpfs", MountFlags::empty());
        Ok(self.0.get_or_init(|| (fs, mount)))
    }

    /// A new file named `/memfd:NAME`. It may be sealed if `sealable`, and starts without execute
    /// bits, sealed so, if `noexec`.
    pub fn create(
        &self,
        memory: &Arc<MemoryFile>,
        name: &[u8],
        sealable: bool,
        noexec: bool,
        cred: &Arc<Credentials>,
    ) -> Result<Arc<FileDescription>, Errno> {
        let (fs, mount) = self.get(memory)?;
        let mut seals = if sealable { 0 } else { seal::SEAL };
        if noexec {
            seals = seal::EXEC;
        }
        let node = NewNode {
            mode: if noexec { 0o666 } else { 0o777 },
            uid: cred.fsuid,
            gid: cred.fsgid,
            kind: NodeKind::Regular,
        };
        let content = Content::new(fs.memory.clone(), Some(fs.quota.clone()), seals);
        let body = Body::Regular(content);
        let inode = TmpInode::with_body(fs, fs.take_inode()?, FileType::Regular, 0, &node, body);
        inode.meta.lock().nlink = 0;
        let ops = OpenFile::new(inode.clone(), true);
        let inode: Arc<dyn Inode> = inode;
        let dentry = Dentry::root(&[b"/memfd:", name].concat(), inode);
        dentry.mark_unlinked();
        let path = Path { mount: mount.clone(), dentry };
        let flags = OpenFlags::RDWR | OpenFlags::LARGEFILE;
        FileDescription::new(Box::new(ops), path, flags, cred.clone())
    }
}
