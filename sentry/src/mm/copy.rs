//! Copies between the Sentry and guest memory: what system calls read their arguments with.
//!
//! Access follows the guest's own rights, as on Linux: a write to a read-only page faults, one to
//! a page shared copy-on-write copies it. A copy holds `MemoryManager::state` for reading, and
//! takes it for writing only to handle a fault.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use abi::Errno;
use platform::{Prot, usercopy};
use smallvec::SmallVec;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::fault::FaultError;
use super::mappable::{Mappable, same_object};
use super::pma::{Memory, Pma};
use super::vma::VmaName;
use super::{HostFile, MemoryManager, PAGE, State};

/// Most pieces that [`MemoryManager::with_iovecs`] passes on (`IOV_MAX`).
const MAX_IOVECS: usize = 1024;
/// Largest kernel buffer for host memory that cannot be mapped.
const BOUNCE: usize = 64 << 10;

/// Where guest memory is in the Sentry, from an address on.
pub(super) enum Piece<'a> {
    /// Mapped here, this many bytes.
    Mapped(*mut u8, u64),
    /// In a host file at this offset, this many bytes; no window onto it can be had.
    File(&'a HostFile, u64, u64),
}

/// What to do with each piece.
#[derive(Clone, Copy)]
pub(super) enum Transfer {
    /// Copy out of the guest, to here.
    In(*mut u8),
    /// Copy to the guest, from here.
    Out(*const u8),
    /// Zero the guest's memory.
    Zero,
}

impl Transfer {
    pub(super) fn writes(self) -> bool {
        !matches!(self, Transfer::In(_))
    }

    /// Handles `len` bytes of `piece`, `done` bytes into the buffer. Returns the bytes done.
    ///
    /// # Safety
    /// The buffer must be valid for `done + len` bytes; `piece` must have `len` bytes and still be
    /// what the address space says (its lock is held).
    pub(super) unsafe fn apply(self, piece: &Piece<'_>, done: usize, len: usize) -> usize {
        // SAFETY: the caller's promises.
        unsafe {
            match (piece, self) {
                (Piece::Mapped(ptr, _), Transfer::In(dst)) => {
                    usercopy::copy_from(dst.add(done), *ptr, len)
                }
                (Piece::Mapped(ptr, _), Transfer::Out(src)) => {
                    usercopy::copy_to(*ptr, src.add(done), len)
                }
                (Piece::Mapped(ptr, _), Transfer::Zero) => usercopy::zero(*ptr, len),
                (Piece::File(file, offset, _), Transfer::In(dst)) => {
                    file.read_to(dst.add(done), len, *offset)
                }
                (Piece::File(file, offset, _), Transfer::Out(src)) => {
                    file.write_from(src.add(done), len, *offset)
                }
                (Piece::File(file, offset, _), Transfer::Zero) => {
                    let zeroes = [0; PAGE as usize];
                    file.write_from(zeroes.as_ptr(), len.min(zeroes.len()), *offset)
                }
            }
        }
    }
}

impl Piece<'_> {
    pub(super) fn len(&self) -> u64 {
        match self {
            Piece::Mapped(_, len) | Piece::File(_, _, len) => *len,
        }
    }
}

impl Pma {
    /// The memory from `skip` bytes in on; `len` bytes are left.
    pub(super) fn piece(&self, skip: u64, len: u64) -> Piece<'_> {
        match &self.memory {
            Memory::Frames(frames) => {
                // SAFETY: `skip` is less than the length of the frames.
                Piece::Mapped(unsafe { frames.ptr().add(skip as usize) }, len)
            }
            Memory::Host { file, offset, .. } => match file.window(offset + skip) {
                Some((ptr, have)) => Piece::Mapped(ptr, have.min(len)),
                None => Piece::File(file, offset + skip, len),
            },
        }
    }
}

impl State {
    /// The memory at `addr` if the guest may access it so, right now.
    fn resolve(
        &self,
        addr: u64,
        write: bool,
        platform: &dyn platform::Platform,
    ) -> Option<Piece<'_>> {
        if let Some((range, pma)) = self.pmas.get(addr) {
            let allowed = if write { pma.prot.write } else { pma.prot.read };
            return allowed.then(|| pma.piece(addr - range.start, range.end - addr));
        }
        if write {
            return None;
        }
        // The vDSO's code has no frames; the Sentry has the same pages.
        let (range, vma) = self.vmas.get(addr)?;
        if vma.name != VmaName::Vdso || !vma.flags.hardware().read {
            return None;
        }
        let image = platform.vdso()?;
        let (skip, left) = (addr - range.start, range.end - addr);
        if skip.checked_add(left)? > image.code_len {
            return None;
        }
        // SAFETY: within the image's code, by the check above.
        Some(Piece::Mapped(unsafe { image.sentry_code.add(skip as usize) }.cast_mut(), left))
    }
}

impl MemoryManager {
    /// Copies out of the guest's memory. Returns the bytes copied; fewer than `buf.len()` means
    /// that the guest may not read the next one.
    pub fn copy_in(&self, addr: u64, buf: &mut [u8]) -> usize {
        // SAFETY: `buf` is valid for writes of its length.
        unsafe { self.transfer(addr, buf.len(), Transfer::In(buf.as_mut_ptr())) }
    }

    /// Copies to the guest's memory. Returns the bytes copied.
    pub fn copy_out(&self, addr: u64, buf: &[u8]) -> usize {
        // SAFETY: `buf` is valid for reads of its length.
        unsafe { self.transfer(addr, buf.len(), Transfer::Out(buf.as_ptr())) }
    }

    /// Zeroes guest memory. Returns the bytes done.
    pub fn zero_out(&self, addr: u64, len: usize) -> usize {
        // SAFETY: there is no buffer.
        unsafe { self.transfer(addr, len, Transfer::Zero) }
    }

    /// Fills `buf` from the guest's memory. `EFAULT` unless all of it could be read.
    pub fn read_bytes(&self, addr: u64, buf: &mut [u8]) -> Result<(), Errno> {
        if self.copy_in(addr, buf) == buf.len() { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Writes all of `buf` to the guest's memory. `EFAULT` otherwise; a part may have been written.
    pub fn write_bytes(&self, addr: u64, buf: &[u8]) -> Result<(), Errno> {
        if self.copy_out(addr, buf) == buf.len() { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Reads a value. `EFAULT`.
    pub fn read_obj<T: FromBytes>(&self, addr: u64) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        let len = size_of::<T>();
        // SAFETY: `value` has `len` bytes, and any bytes make a `T`.
        let done = unsafe { self.transfer(addr, len, Transfer::In((&raw mut value).cast())) };
        if done == len { Ok(value) } else { Err(Errno::EFAULT) }
    }

    /// Writes a value. `EFAULT`.
    pub fn write_obj<T: IntoBytes + Immutable + ?Sized>(
        &self,
        addr: u64,
        value: &T,
    ) -> Result<(), Errno> {
        self.write_bytes(addr, value.as_bytes())
    }

    /// Reads `count` values that follow each other. `EFAULT`. The caller has bounded `count`.
    pub fn read_array<T: FromBytes + IntoBytes>(
        &self,
        addr: u64,
        count: usize,
    ) -> Result<Vec<T>, Errno> {
        let mut values: Vec<T> = (0..count).map(|_| T::new_zeroed()).collect();
        self.read_bytes(addr, values.as_mut_slice().as_mut_bytes())?;
        Ok(values)
    }

    /// Reads a string that ends with a NUL, which is not returned. `ENAMETOOLONG` if there is none
    /// in the first `max` bytes, `EFAULT` (`strncpy_from_user`).
    pub fn copy_in_cstr(&self, addr: u64, max: usize) -> Result<Vec<u8>, Errno> {
        let mut out: Vec<u8> = Vec::new();
        let mut chunk = [0u8; 256];
        while out.len() < max {
            let at = addr.checked_add(out.len() as u64).ok_or(Errno::EFAULT)?;
            // Not over a page's end, which may be the end of what there is.
            let step = (max - out.len()).min(chunk.len()).min((PAGE - at % PAGE) as usize);
            let part = chunk.get_mut(..step).ok_or(Errno::EFAULT)?;
            let got = self.copy_in(at, part);
            let part = part.get(..got).ok_or(Errno::EFAULT)?;
            if let Some(end) = part.iter().position(|byte| *byte == 0) {
                out.extend(part.iter().take(end));
                return Ok(out);
            }
            out.extend_from_slice(part);
            if got < step {
                return Err(Errno::EFAULT);
            }
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// # Safety
    /// The buffer in `what` must be valid for `len` bytes.
    unsafe fn transfer(&self, addr: u64, len: usize, what: Transfer) -> usize {
        let mut done = 0;
        let mut st = self.state.read();
        while done < len {
            let Some(at) = addr.checked_add(done as u64) else { break };
            match st.resolve(at, what.writes(), &*self.ctx.platform) {
                Some(piece) => {
                    let step = (len - done).min(piece.len() as usize);
                    // SAFETY: the caller's promise; `piece` is from under the lock we hold.
                    let n = unsafe { what.apply(&piece, done, step) };
                    done += n;
                    if n == 0 || n < step && matches!(piece, Piece::Mapped(..)) {
                        break;
                    }
                }
                None => {
                    drop(st);
                    if !self.fault_for_copy(at, what.writes()) {
                        return done;
                    }
                    st = self.state.read();
                }
            }
        }
        done
    }

    /// Gets a page for a copy; false where the guest would get a signal.
    fn fault_for_copy(&self, addr: u64, write: bool) -> bool {
        let access = Prot { read: !write, write, exec: false };
        let mut tried = false;
        loop {
            let mut st = self.state.write();
            if st.resolve(addr, write, &*self.ctx.platform).is_some() {
                return true;
            }
            match self.fault_in(&mut st, addr, access) {
                Ok(()) => return st.resolve(addr, write, &*self.ctx.platform).is_some(),
                Err(FaultError::OutOfMemory) if !tried => {
                    drop(st);
                    tried = true;
                    if !self.ctx.relief.get().is_some_and(|relieve| relieve()) {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
    }

    /// Makes what of `len` bytes at `addr` is accessible present. Returns how many bytes.
    pub(super) fn fault_range(&self, addr: u64, len: u64, write: bool) -> u64 {
        let mut done = 0;
        let mut st = self.state.read();
        while done < len {
            let Some(at) = addr.checked_add(done) else { break };
            let step = st.resolve(at, write, &*self.ctx.platform).map(|piece| piece.len());
            match step {
                Some(step) => done += step.min(len - done),
                None => {
                    drop(st);
                    if !self.fault_for_copy(at, write) {
                        return done;
                    }
                    st = self.state.read();
                }
            }
        }
        done
    }

    /// Lets `f` access guest memory through raw pointers, for host calls such as preadv(2) that
    /// fill it (`write`) or take from it. The pieces are cut short at the first byte that the guest
    /// may not access so (`EFAULT` if that is the very first). `f` returns the bytes it used.
    ///
    /// `f` runs with the address space locked: it must not touch guest memory in any other way, nor
    /// wait for a guest.
    pub fn with_iovecs(
        &self,
        ranges: &[(u64, usize)],
        write: bool,
        f: &mut dyn FnMut(&[libc::iovec]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        for (addr, len) in ranges {
            if self.fault_range(*addr, *len as u64, write) < *len as u64 {
                break;
            }
        }
        let st = self.state.read();
        let mut iovecs: SmallVec<[libc::iovec; 8]> = SmallVec::new();
        let mut wanted = false;
        'ranges: for &(addr, len) in ranges {
            let mut done = 0;
            while done < len {
                wanted = true;
                let piece = addr
                    .checked_add(done as u64)
                    .and_then(|at| st.resolve(at, write, &*self.ctx.platform));
                match piece {
                    Some(Piece::Mapped(ptr, have)) if iovecs.len() < MAX_IOVECS => {
                        let step = (len - done).min(have as usize);
                        iovecs.push(libc::iovec { iov_base: ptr.cast(), iov_len: step });
                        done += step;
                    }
                    Some(Piece::File(file, offset, have)) if iovecs.is_empty() && !write => {
                        let mut bounce = vec![0u8; (len - done).min(have as usize).min(BOUNCE)];
                        // SAFETY: `bounce` is valid for its length.
                        let got =
                            unsafe { file.read_to(bounce.as_mut_ptr(), bounce.len(), offset) };
                        if got > 0 {
                            return f(&[libc::iovec {
                                iov_base: bounce.as_mut_ptr().cast(),
                                iov_len: got,
                            }]);
                        }
                        break 'ranges;
                    }
                    _ => break 'ranges,
                }
            }
        }
        if iovecs.is_empty() && wanted {
            return Err(Errno::EFAULT);
        }
        f(&iovecs)
    }

    /// Runs `f` on the place of the 32-bit word at `addr`, which may fault. `EFAULT`; `EINVAL` if
    /// it is not aligned.
    fn with_word<R>(
        &self,
        addr: u64,
        write: bool,
        f: impl FnOnce(*mut u8) -> Option<R>,
    ) -> Result<R, Errno> {
        if !addr.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        loop {
            let st = self.state.read();
            if let Some(piece) = st.resolve(addr, write, &*self.ctx.platform) {
                let Piece::Mapped(ptr, 4..) = piece else { return Err(Errno::EFAULT) };
                return f(ptr).ok_or(Errno::EFAULT);
            }
            drop(st);
            if !self.fault_for_copy(addr, write) {
                return Err(Errno::EFAULT);
            }
        }
    }

    /// Reads a 32-bit word in one access (futexes). `EFAULT`, `EINVAL` if misaligned.
    pub fn load_u32(&self, addr: u64) -> Result<u32, Errno> {
        // SAFETY: `with_word` gives a place inside a mapping of the Sentry's.
        self.with_word(addr, false, |word| unsafe { usercopy::load_u32(word) })
    }

    /// Replaces a word by `new` if it is `expected`. Returns what was there before.
    pub fn compare_exchange_u32(&self, addr: u64, expected: u32, new: u32) -> Result<u32, Errno> {
        // SAFETY: as above; aligned, `with_word` has checked.
        self.with_word(addr, true, |word| unsafe {
            usercopy::compare_exchange_u32(word, expected, new)
        })
    }

    /// Replaces a word by `change` of it, atomically (`FUTEX_WAKE_OP`). Returns what was there.
    pub fn fetch_update_u32(
        &self,
        addr: u64,
        mut change: impl FnMut(u32) -> u32,
    ) -> Result<u32, Errno> {
        self.with_word(addr, true, |word| {
            // SAFETY: as above.
            let mut old = unsafe { usercopy::load_u32(word) }?;
            loop {
                // SAFETY: as above.
                let seen = unsafe { usercopy::compare_exchange_u32(word, old, change(old)) }?;
                if seen == old {
                    return Some(old);
                }
                old = seen;
            }
        })
    }

    /// What a futex at `addr` is known by: the place in the object for shared memory, so that other
    /// address spaces find it, else the address. `EFAULT` if nothing is mapped there.
    pub fn memory_key(&self, addr: u64) -> Result<MemoryKey, Errno> {
        let st = self.state.read();
        let (range, vma) = st.vmas.get(addr).ok_or(Errno::EFAULT)?;
        Ok(match &vma.backing {
            Some(backing) if !vma.is_private() => {
                let offset = backing.offset.saturating_add(addr - range.start);
                MemoryKey::Shared(backing.object.clone(), offset)
            }
            _ => self.private_key(addr),
        })
    }

    /// The key of process-private futexes (`FUTEX_PRIVATE_FLAG`): the address in this address
    /// space.
    pub fn private_key(&self, addr: u64) -> MemoryKey {
        MemoryKey::Private(std::ptr::from_ref(self) as usize, addr)
    }
}

/// Names a place in memory. Equal keys name the same place, whoever looks.
#[derive(Clone)]
pub enum MemoryKey {
    /// An address in one address space (named by its own address in the Sentry: do not keep the key
    /// for longer than the address space).
    Private(usize, u64),
    /// An offset in an object.
    Shared(Arc<dyn Mappable>, u64),
}

impl PartialEq for MemoryKey {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Private(mm, addr), Self::Private(other_mm, other_addr)) => {
                (mm, addr) == (other_mm, other_addr)
            }
            (Self::Shared(object, at), Self::Shared(other, other_at)) => {
                at == other_at && same_object(object, other)
            }
            _ => false,
        }
    }
}

impl Eq for MemoryKey {}

impl Hash for MemoryKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Private(mm, addr) => (*mm, *addr).hash(state),
            Self::Shared(object, at) => {
                (Arc::as_ptr(object).cast::<()>() as usize, *at).hash(state);
            }
        }
    }
}
