//! mmap(2) and munmap(2), and the pieces that the loader needs.

use std::ops::Range;
use std::sync::Arc;

use abi::Errno;

use super::area::{AreaOps, OpenArea};
use super::mappable::Mappable;
use super::vma::{VmFlags, Vma, VmaName, VmaObject};
use super::{
    MAX_MAP_COUNT, MAX_SHMEM_SIZE, MMAP_MIN_ADDR, MemoryManager, MmLimits, PAGE, ShmemObject,
    State, TASK_SIZE, host, max_pmas, page_down, page_up,
};
use crate::vfs::FileDescription;

/// Anonymous memory that gets its frames at once; bigger areas on the first touch.
pub(super) const EAGER: u64 = 16 << 20;
/// The same for areas that the program says it will use little of (`MAP_NORESERVE`).
const EAGER_NORESERVE: u64 = 1 << 20;
/// Writable private mappings of files that are read at once.
pub(super) const SMALL_PRIVATE_FILE: u64 = 256 << 10;

/// The file to map, and what the open file allows.
pub struct FileMapping {
    /// What the file offers (`ENODEV` if nothing).
    pub object: Result<Arc<dyn Mappable>, Errno>,
    /// The open file, for /proc/PID/maps. Kept open by the mapping.
    pub file: Option<Arc<FileDescription>>,
    /// Open for reading.
    pub readable: bool,
    /// Open for writing.
    pub writable: bool,
    /// The inode is append-only.
    pub append_only: bool,
    /// The mount has `noexec`.
    pub noexec: bool,
    /// Counts the areas that show it.
    pub area: Option<Arc<dyn AreaOps>>,
}

/// The arguments of mmap(2).
pub struct MmapRequest {
    /// Hint, or with `MAP_FIXED` the address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u64,
    /// `PROT_*`.
    pub prot: u32,
    /// `MAP_*`.
    pub flags: u32,
    /// Offset in the file.
    pub offset: u64,
    /// The file, unless `MAP_ANONYMOUS`.
    pub file: Option<FileMapping>,
}

impl MmapRequest {
    /// Private anonymous memory.
    pub fn anonymous(addr: u64, len: u64, prot: i32, flags: i32) -> MmapRequest {
        let flags = flags | libc::MAP_ANONYMOUS | libc::MAP_PRIVATE;
        MmapRequest { addr, len, prot: prot as u32, flags: flags as u32, offset: 0, file: None }
    }

    fn has(&self, flag: i32) -> bool {
        self.flags & flag as u32 == flag as u32
    }
}

/// `LEGACY_MAP_MASK`: what `MAP_SHARED_VALIDATE` accepts.
const VALIDATED: i32 = libc::MAP_SHARED
    | libc::MAP_PRIVATE
    | libc::MAP_FIXED
    | libc::MAP_ANONYMOUS
    | libc::MAP_DENYWRITE
    | libc::MAP_EXECUTABLE
    | libc::MAP_GROWSDOWN
    | libc::MAP_LOCKED
    | libc::MAP_NORESERVE
    | libc::MAP_POPULATE
    | libc::MAP_NONBLOCK
    | libc::MAP_STACK
    | libc::MAP_HUGETLB
    | libc::MAP_32BIT
    | (0x3f << libc::MAP_HUGE_SHIFT);

impl MemoryManager {
    /// mmap(2), with the errors and order of checks of `do_mmap`. Returns the address.
    pub fn mmap(&self, request: &MmapRequest, limits: &MmLimits) -> Result<u64, Errno> {
        if !request.offset.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        check_huge(request)?;
        if request.len == 0 {
            return Err(Errno::EINVAL);
        }
        let len = page_up(request.len).ok_or(Errno::ENOMEM)?;
        if request.offset.checked_add(len).is_none() {
            return Err(Errno::EOVERFLOW);
        }
        let mut st = self.state.write();
        if !st.has_room(0) || st.pmas.len() > max_pmas() {
            return Err(Errno::ENOMEM);
        }
        let addr = self.place(&mut st, request, len)?;
        let range = addr..addr + len;
        let lock = if request.has(libc::MAP_LOCKED) { VmFlags::LOCKED } else { VmFlags::empty() };
        let mut flags = VmFlags::from_prot(request.prot) | VmFlags::MAY | st.def_flags | lock;
        if request.has(libc::MAP_GROWSDOWN) {
            flags |= VmFlags::GROWSDOWN;
        }
        if request.has(libc::MAP_LOCKED) && !limits.ipc_lock && limits.memlock == 0 {
            return Err(Errno::EPERM);
        }
        if !st.may_lock(flags, len, limits) {
            return Err(Errno::EAGAIN);
        }
        let backing = self.backing(request, len, &mut flags)?;
        if request.has(libc::MAP_NORESERVE) {
            flags |= VmFlags::NORESERVE;
        }
        let replaced = st.mapped_in(range.clone());
        if !st.may_expand(flags, len.saturating_sub(replaced), limits) {
            return Err(Errno::ENOMEM);
        }
        // The heuristic of vm.overcommit_memory=0: only what can never be had is refused.
        if flags & (VmFlags::WRITE | VmFlags::SHARED | VmFlags::NORESERVE) == VmFlags::WRITE
            && len > self.ctx.memory.limit()
        {
            return Err(Errno::ENOMEM);
        }
        if replaced > 0 {
            let cuts = st.cuts(&range);
            if !st.has_room(cuts) {
                return Err(Errno::ENOMEM);
            }
            self.remove(&mut st, range.clone());
        }
        if let Some(backing) = &backing {
            backing.object.mappings().add(&self.this);
        }
        st.put_vma(range.clone(), Vma { flags, backing, name: VmaName::None });
        let most = match flags.contains(VmFlags::NORESERVE) {
            true => EAGER_NORESERVE,
            false => EAGER,
        };
        // Where there is not enough for all of it now, the first touch of each page decides.
        let _ = self.fill_eagerly(&mut st, range.clone(), most);
        drop(st);
        let populate = request.has(libc::MAP_POPULATE) && !request.has(libc::MAP_NONBLOCK);
        if populate || flags.contains(VmFlags::LOCKED) && !flags.contains(VmFlags::LOCKONFAULT) {
            self.populate(range);
        }
        Ok(addr)
    }

    /// `get_unmapped_area` with `MAP_FIXED` and its kin.
    fn place(&self, st: &mut State, request: &MmapRequest, len: u64) -> Result<u64, Errno> {
        let no_replace = request.has(libc::MAP_FIXED_NOREPLACE);
        if !request.has(libc::MAP_FIXED) && !no_replace {
            // `round_hint_to_min`.
            let hint = page_down(request.addr);
            let hint = if hint != 0 && hint < MMAP_MIN_ADDR { MMAP_MIN_ADDR } else { hint };
            return st.find_free(hint, len, request.has(libc::MAP_32BIT));
        }
        let addr = request.addr;
        if len > TASK_SIZE || addr > TASK_SIZE - len {
            return Err(Errno::ENOMEM);
        }
        if !addr.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        if addr < MMAP_MIN_ADDR {
            return Err(Errno::EPERM);
        }
        // What the platform keeps for itself.
        if !st.layout.contains(addr, len) {
            return Err(Errno::ENOMEM);
        }
        if no_replace && st.mapped_in(addr..addr + len) > 0 {
            return Err(Errno::EEXIST);
        }
        Ok(addr)
    }

    /// The checks that depend on what is mapped, and the object.
    fn backing(
        &self,
        request: &MmapRequest,
        len: u64,
        flags: &mut VmFlags,
    ) -> Result<Option<VmaObject>, Errno> {
        let kind = request.flags & libc::MAP_TYPE as u32;
        let shared = match kind as i32 {
            libc::MAP_SHARED => true,
            libc::MAP_SHARED_VALIDATE if request.file.is_some() => {
                let known = VALIDATED | libc::MAP_SHARED_VALIDATE | libc::MAP_FIXED_NOREPLACE;
                if request.flags & !(known as u32) != 0 {
                    return Err(Errno::EOPNOTSUPP);
                }
                true
            }
            libc::MAP_PRIVATE => false,
            _ => return Err(Errno::EINVAL),
        };
        let Some(file) = &request.file else {
            if !shared {
                return Ok(None);
            }
            if request.has(libc::MAP_GROWSDOWN) {
                return Err(Errno::EINVAL);
            }
            *flags |= VmFlags::SHARED | VmFlags::MAYSHARE;
            let object = ShmemObject::new(self.ctx.memory.clone(), len, None);
            return Ok(Some(VmaObject { object, offset: 0, file: None, area: None }));
        };
        // `file_mmap_ok`: what the host could not map either.
        if request.offset > MAX_SHMEM_SIZE.saturating_sub(len) {
            return Err(Errno::EOVERFLOW);
        }
        if shared {
            if flags.contains(VmFlags::WRITE) && !file.writable {
                return Err(Errno::EACCES);
            }
            if file.append_only && file.writable {
                return Err(Errno::EACCES);
            }
            *flags |= VmFlags::SHARED | VmFlags::MAYSHARE;
            if !file.writable {
                *flags -= VmFlags::MAYWRITE | VmFlags::SHARED;
            }
        }
        if !file.readable {
            return Err(Errno::EACCES);
        }
        if file.noexec {
            if flags.contains(VmFlags::EXEC) {
                return Err(Errno::EPERM);
            }
            *flags -= VmFlags::MAYEXEC;
        }
        let object = file.object.clone()?;
        if request.has(libc::MAP_GROWSDOWN) {
            return Err(Errno::EINVAL);
        }
        if flags.contains(VmFlags::SHARED | VmFlags::MAYWRITE)
            && let Err(errno) = object.may_map_shared_writable()
        {
            if flags.contains(VmFlags::WRITE) {
                return Err(errno);
            }
            *flags -= VmFlags::MAYWRITE;
        }
        let area = file.area.as_ref().map(OpenArea::new);
        Ok(Some(VmaObject { object, offset: request.offset, file: file.file.clone(), area }))
    }

    /// munmap(2). `EINVAL`; `ENOMEM` when cutting an area in two would make too many.
    pub fn munmap(&self, addr: u64, len: u64) -> Result<(), Errno> {
        if !addr.is_multiple_of(PAGE) || len > TASK_SIZE || addr > TASK_SIZE - len {
            return Err(Errno::EINVAL);
        }
        let len = page_up(len).filter(|len| *len > 0).ok_or(Errno::EINVAL)?;
        let range = addr..addr + len;
        let mut st = self.state.write();
        // Only a hole in the middle of an area adds one.
        if st.vmas.len() >= MAX_MAP_COUNT
            && st.vmas.get(addr).is_some_and(|(r, _)| r.start < range.start && r.end > range.end)
        {
            return Err(Errno::ENOMEM);
        }
        self.remove(&mut st, range);
        Ok(())
    }

    /// Takes areas and memory out of a range.
    pub(super) fn remove(&self, st: &mut State, range: Range<u64>) {
        let taken = st.take_vmas(range.clone());
        if taken.is_empty() {
            return;
        }
        if taken.iter().any(|(_, vma)| vma.is_special()) {
            self.space.unmap_vdso();
            let rest: Vec<_> =
                st.vmas.iter().filter(|(_, vma)| vma.is_special()).map(|(r, _)| r).collect();
            for range in rest {
                st.take_vmas(range);
            }
        }
        self.drop_pmas(st, range, true);
    }

    /// Puts vvar and vDSO into a new address space, next to the mmap area. Returns the address of
    /// the vDSO's ELF header; `None` if the platform has none.
    pub fn map_vdso(&self) -> Result<Option<u64>, Errno> {
        let Some(image) = self.ctx.platform.vdso() else { return Ok(None) };
        let mut st = self.state.write();
        let len = image.vvar_len + image.code_len;
        let base = st.find_free(0, len, false)?;
        self.space.move_vdso(base);
        let data = VmFlags::READ
            | VmFlags::MAYREAD
            | VmFlags::IO
            | VmFlags::DONTEXPAND
            | VmFlags::DONTDUMP
            | VmFlags::PFNMAP;
        let code = VmFlags::READ | VmFlags::EXEC | VmFlags::MAY;
        let vvar = Vma { flags: data, backing: None, name: VmaName::Vvar };
        st.put_vma(base..base + image.vvar_len, vvar);
        let start = base + image.vvar_len;
        st.put_vma(start..base + len, Vma { flags: code, backing: None, name: VmaName::Vdso });
        Ok(Some(start))
    }

    /// Maps the stack of a new program: `len` bytes that end at a (randomized) address as high as
    /// possible, growing downwards. Returns its top.
    pub fn map_stack(&self, len: u64, exec: bool, limits: &MmLimits) -> Result<u64, Errno> {
        let mut st = self.state.write();
        let top = st.layout.stack_top();
        let len = page_up(len).ok_or(Errno::ENOMEM)?;
        let start = top.checked_sub(len).ok_or(Errno::ENOMEM)?;
        let mut flags =
            VmFlags::READ | VmFlags::WRITE | VmFlags::MAY | VmFlags::GROWSDOWN | VmFlags::ACCOUNT;
        if exec {
            flags |= VmFlags::EXEC;
        }
        if !st.layout.is_free(&st.vmas, start, len) || !st.may_expand(flags, len, limits) {
            return Err(Errno::ENOMEM);
        }
        st.put_vma(start..top, Vma { flags, backing: None, name: VmaName::None });
        self.fill_eagerly(&mut st, start..top, EAGER).map_err(|_| Errno::ENOMEM)?;
        Ok(top)
    }

    /// `len` free bytes, for the loader.
    pub fn find_free(&self, len: u64) -> Result<u64, Errno> {
        self.state.write().find_free(0, len, false)
    }

    /// Where to load a position-independent program that has an interpreter.
    pub fn pie_base(&self) -> u64 {
        self.state.read().layout.pie_base()
    }

    /// Commits the memory of a range and fills the stub's page tables, as far as that is possible
    /// (`mm_populate`).
    pub(super) fn populate(&self, range: Range<u64>) {
        let write = {
            let st = self.state.read();
            st.vmas.get(range.start).is_some_and(|(_, vma)| {
                vma.flags & (VmFlags::WRITE | VmFlags::SHARED) == VmFlags::WRITE
            })
        };
        self.fault_range(range.start, range.end - range.start, write);
        let st = self.state.read();
        for (found, pma) in st.pmas.overlapping(range) {
            if let super::pma::Memory::Frames(frames) = &pma.memory {
                // SAFETY: frames lie in the Sentry's mapping of the memory file.
                if unsafe { host::commit(frames.ptr(), frames.len() as usize) }.is_err() {
                    return;
                }
            }
            self.space.map(found.start, found.end - found.start, pma.prot, pma.source(), true);
        }
    }
}

/// `MAP_HUGETLB`, on a system that has huge pages but none in its pool.
fn check_huge(request: &MmapRequest) -> Result<(), Errno> {
    if !request.has(libc::MAP_HUGETLB) {
        return Ok(());
    }
    if request.file.is_some() {
        return Err(Errno::EINVAL);
    }
    match request.flags >> libc::MAP_HUGE_SHIFT & 0x3f {
        0 | 21 | 30 => Err(Errno::ENOMEM),
        _ => Err(Errno::EINVAL),
    }
}
