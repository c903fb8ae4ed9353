//! Access to another task's memory: ptrace(2), /proc/PID/mem, process_vm_readv(2).

use platform::Prot;

use super::copy::Transfer;
use super::vma::VmFlags;
use super::{MemoryManager, PAGE};

impl MemoryManager {
    /// Reads memory of a task that is not the caller. With `force` (`FOLL_FORCE`: ptrace, and
    /// /proc/PID/mem) also what the guest itself may not read. Returns the bytes read.
    pub fn read_remote(&self, addr: u64, buf: &mut [u8], force: bool) -> usize {
        // SAFETY: `buf` is valid for writes of its length.
        unsafe { self.transfer_remote(addr, buf.len(), Transfer::In(buf.as_mut_ptr()), force) }
    }

    /// Writes memory of a task that is not the caller, which sees it before it executes another
    /// instruction. With `force` also private memory that the guest itself may not write: it gets
    /// its own copy of the page (breakpoints). Returns the bytes written.
    pub fn write_remote(&self, addr: u64, buf: &[u8], force: bool) -> usize {
        // SAFETY: `buf` is valid for reads of its length.
        let done =
            unsafe { self.transfer_remote(addr, buf.len(), Transfer::Out(buf.as_ptr()), force) };
        if done > 0 {
            // Pages may have been replaced by copies.
            self.space.sync();
        }
        done
    }

    /// # Safety
    /// The buffer in `what` must be valid for `len` bytes.
    unsafe fn transfer_remote(&self, addr: u64, len: usize, what: Transfer, force: bool) -> usize {
        let mut done = 0;
        while done < len {
            let Some(at) = addr.checked_add(done as u64) else { break };
            let step = (len - done).min((PAGE - at % PAGE) as usize);
            // SAFETY: the caller's promise.
            let n = unsafe { self.remote_page(at, done, step, what, force) };
            done += n;
            if n < step {
                break;
            }
        }
        done
    }

    /// # Safety
    /// The buffer in `what` must be valid for `done + len` bytes.
    unsafe fn remote_page(
        &self,
        addr: u64,
        done: usize,
        len: usize,
        what: Transfer,
        force: bool,
    ) -> usize {
        let write = what.writes();
        let mut st = self.state.write();
        let access = Prot { read: !write, write, exec: false };
        if self.fault_in(&mut st, addr, access).is_err() && !force {
            return 0;
        }
        let Some((range, vma)) = st.vmas.get(addr) else { return 0 };
        let allowed = vma.flags.hardware();
        let direct = if write { allowed.write } else { allowed.read };
        if !direct {
            // `check_vma_flags`: forced writes only where copies are possible.
            let may = if write { VmFlags::MAYWRITE } else { VmFlags::MAYREAD };
            if !force || !vma.flags.contains(may) || write && !vma.is_private() {
                return 0;
            }
            let vma = vma.clone();
            if self.touch(&mut st, &range, &vma, addr, write).is_err() {
                return 0;
            }
        }
        let Some((range, pma)) = st.pmas.get(addr) else { return 0 };
        if write && pma.cow {
            return 0;
        }
        let piece = pma.piece(addr - range.start, range.end - addr);
        // SAFETY: the caller's promise; the lock is held.
        let done = unsafe { what.apply(&piece, done, len.min(piece.len() as usize)) };
        if write && !direct {
            self.space.rewritten(addr - addr % PAGE, PAGE);
        }
        done
    }
}
