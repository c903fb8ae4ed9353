//! Where reads go and writes come from: the guest's memory or the kernel's own.

use smallvec::SmallVec;

use crate::mm::MemoryManager;
use abi::Errno;

/// A piece of guest memory: address and length in bytes.
pub type UserRange = (u64, usize);

/// The destination of a read. Filled from the front; short when the guest's memory faults.
pub struct IoDst<'a> {
    kind: DstKind<'a>,
    done: usize,
}

enum DstKind<'a> {
    Kernel(&'a mut [u8]),
    User { mm: &'a MemoryManager, ranges: SmallVec<[UserRange; 4]> },
}

/// The source of a write.
pub struct IoSrc<'a> {
    kind: SrcKind<'a>,
    done: usize,
}

enum SrcKind<'a> {
    Kernel(&'a [u8]),
    User { mm: &'a MemoryManager, ranges: SmallVec<[UserRange; 4]> },
}

/// Calls `f(address, length, done before)` for the pieces of `ranges` that follow `skip` bytes,
/// `len` bytes in all, until it copies less than asked. Returns the bytes copied.
fn for_pieces(
    ranges: &[UserRange],
    skip: usize,
    len: usize,
    mut f: impl FnMut(u64, usize, usize) -> usize,
) -> usize {
    let (mut skip, mut done) = (skip, 0);
    for &(addr, have) in ranges {
        if skip >= have {
            skip -= have;
            continue;
        }
        let want = (have - skip).min(len - done);
        let got = f(addr.wrapping_add(skip as u64), want, done);
        done += got;
        if got < want || done == len {
            break;
        }
        skip = 0;
    }
    done
}

impl<'a> IoDst<'a> {
    /// Into the kernel's own memory.
    pub fn kernel(buf: &'a mut [u8]) -> IoDst<'a> {
        IoDst { kind: DstKind::Kernel(buf), done: 0 }
    }

    /// Into guest memory.
    pub fn user(mm: &'a MemoryManager, ranges: impl IntoIterator<Item = UserRange>) -> IoDst<'a> {
        IoDst { kind: DstKind::User { mm, ranges: ranges.into_iter().collect() }, done: 0 }
    }

    /// Bytes that still fit.
    pub fn remaining(&self) -> usize {
        let all = match &self.kind {
            DstKind::Kernel(buf) => buf.len(),
            DstKind::User { ranges, .. } => ranges.iter().map(|r| r.1).sum(),
        };
        all - self.done
    }

    /// Bytes written so far.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Appends `data` as far as it fits. `EFAULT` only if not a byte could be written.
    pub fn write(&mut self, data: &[u8]) -> Result<usize, Errno> {
        let len = data.len().min(self.remaining());
        let done = match &mut self.kind {
            DstKind::Kernel(buf) => {
                buf[self.done..self.done + len].copy_from_slice(&data[..len]);
                len
            }
            DstKind::User { mm, ranges } => for_pieces(ranges, self.done, len, |addr, want, at| {
                mm.copy_out(addr, &data[at..at + want])
            }),
        };
        self.finish(len, done)
    }

    /// Appends `len` zero bytes as far as they fit.
    pub fn zero(&mut self, len: usize) -> Result<usize, Errno> {
        let len = len.min(self.remaining());
        let done = match &mut self.kind {
            DstKind::Kernel(buf) => {
                buf[self.done..self.done + len].fill(0);
                len
            }
            DstKind::User { mm, ranges } => {
                for_pieces(ranges, self.done, len, |addr, want, _| mm.zero_out(addr, want))
            }
        };
        self.finish(len, done)
    }

    /// Lets `f` fill up to `len` bytes through raw pointers, for host calls such as preadv(2); `f`
    /// gets iovecs that are valid only during the call and returns the bytes it wrote.
    pub fn with_iovecs(
        &mut self,
        len: usize,
        f: &mut dyn FnMut(&[libc::iovec]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let len = len.min(self.remaining());
        let done = match &mut self.kind {
            DstKind::Kernel(buf) => {
                let part = &mut buf[self.done..self.done + len];
                f(&[libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: len }])?
            }
            DstKind::User { mm, ranges } => {
                mm.with_iovecs(&pieces(ranges, self.done, len), true, f)?
            }
        };
        self.done += done.min(len);
        Ok(done.min(len))
    }

    fn finish(&mut self, len: usize, done: usize) -> Result<usize, Errno> {
        self.done += done;
        if done == 0 && len > 0 { Err(Errno::EFAULT) } else { Ok(done) }
    }
}

impl<'a> IoSrc<'a> {
    /// From the kernel's own memory.
    pub fn kernel(buf: &'a [u8]) -> IoSrc<'a> {
        IoSrc { kind: SrcKind::Kernel(buf), done: 0 }
    }

    /// From guest memory.
    pub fn user(mm: &'a MemoryManager, ranges: impl IntoIterator<Item = UserRange>) -> IoSrc<'a> {
        IoSrc { kind: SrcKind::User { mm, ranges: ranges.into_iter().collect() }, done: 0 }
    }

    /// Bytes that are left.
    pub fn remaining(&self) -> usize {
        let all = match &self.kind {
            SrcKind::Kernel(buf) => buf.len(),
            SrcKind::User { ranges, .. } => ranges.iter().map(|r| r.1).sum(),
        };
        all - self.done
    }

    /// Bytes taken so far.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Takes up to `buf.len()` bytes. `EFAULT` only if not a byte could be read.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize, Errno> {
        let len = buf.len().min(self.remaining());
        let done = match &self.kind {
            SrcKind::Kernel(data) => {
                buf[..len].copy_from_slice(&data[self.done..self.done + len]);
                len
            }
            SrcKind::User { mm, ranges } => for_pieces(ranges, self.done, len, |addr, want, at| {
                mm.copy_in(addr, &mut buf[at..at + want])
            }),
        };
        self.done += done;
        if done == 0 && len > 0 { Err(Errno::EFAULT) } else { Ok(done) }
    }

    /// Lets at most `max` more bytes be taken.
    pub fn truncate(&mut self, max: usize) {
        let mut keep = self.done.saturating_add(max);
        match &mut self.kind {
            SrcKind::Kernel(data) => *data = &data[..keep.min(data.len())],
            SrcKind::User { ranges, .. } => {
                for range in ranges.iter_mut() {
                    range.1 = range.1.min(keep);
                    keep -= range.1;
                }
            }
        }
    }

    /// Takes back the last `n` bytes (they could not be stored).
    pub fn unread(&mut self, n: usize) {
        self.done -= n.min(self.done);
    }

    /// As [`IoDst::with_iovecs`], for pwritev(2).
    pub fn with_iovecs(
        &mut self,
        len: usize,
        f: &mut dyn FnMut(&[libc::iovec]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let len = len.min(self.remaining());
        let done = match &self.kind {
            SrcKind::Kernel(data) => {
                let part = &data[self.done..self.done + len];
                f(&[libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: len }])?
            }
            SrcKind::User { mm, ranges } => {
                mm.with_iovecs(&pieces(ranges, self.done, len), false, f)?
            }
        };
        self.done += done.min(len);
        Ok(done.min(len))
    }
}

/// The pieces of `ranges` behind `skip` bytes, `len` bytes in all.
fn pieces(ranges: &[UserRange], skip: usize, len: usize) -> SmallVec<[UserRange; 4]> {
    let mut out = SmallVec::new();
    for_pieces(ranges, skip, len, |addr, want, _| {
        out.push((addr, want));
        want
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_buffers_fill_in_order() {
        let mut buf = [0u8; 6];
        let mut dst = IoDst::kernel(&mut buf);
        assert_eq!(dst.write(b"abcd"), Ok(4));
        assert_eq!(dst.zero(1), Ok(1));
        assert_eq!(dst.write(b"xyz"), Ok(1));
        assert_eq!(dst.remaining(), 0);
        assert_eq!(&buf, b"abcd\0x");
        let mut src = IoSrc::kernel(b"hello");
        let mut part = [0u8; 3];
        assert_eq!(src.read(&mut part), Ok(3));
        src.unread(1);
        assert_eq!(src.remaining(), 3);
    }

    #[test]
    fn pieces_skip_and_cut() {
        let ranges = [(100, 10), (200, 0), (300, 5)];
        assert_eq!(pieces(&ranges, 8, 4).as_slice(), &[(108, 2), (300, 2)]);
    }
}
