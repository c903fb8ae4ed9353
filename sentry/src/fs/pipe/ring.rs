//! The bytes of a pipe: a queue of page-sized buffers, counted as Linux counts them
//! (`fs/pipe.c`). Whether a write of up to `PIPE_BUF` bytes fits is whether there is a free slot.

use std::collections::VecDeque;

use abi::Errno;

use crate::kmem::{self, KernelMemory};
use crate::vfs::{IoDst, IoSrc};

/// Bytes of a buffer, and `PIPE_BUF`.
pub const PAGE: usize = 4096;

/// A page, and what it counts for.
struct Page {
    bytes: Box<[u8; PAGE]>,
    _memory: KernelMemory,
}

struct Buffer {
    page: Page,
    start: usize,
    end: usize,
    /// Written in packet mode (`O_DIRECT`): read on its own, and never appended to.
    packet: bool,
}

/// See the module.
pub struct Ring {
    buffers: VecDeque<Buffer>,
    slots: usize,
    /// A page that was read out, for the next write.
    spare: Option<Page>,
}

/// `ENOMEM`
fn new_page() -> Result<Page, Errno> {
    let memory = kmem::charge(PAGE).ok_or(Errno::ENOMEM)?;
    Ok(Page { bytes: Box::new([0; PAGE]), _memory: memory })
}

impl Ring {
    /// A ring of `slots` pages.
    pub fn new(slots: usize) -> Ring {
        Ring { buffers: VecDeque::new(), slots, spare: None }
    }

    /// How many pages it may hold.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// How many it holds.
    pub fn used_slots(&self) -> usize {
        self.buffers.len()
    }

    /// Changes the number of pages. `EBUSY` if more are in use.
    pub fn resize(&mut self, slots: usize) -> Result<(), Errno> {
        if self.buffers.len() > slots {
            return Err(Errno::EBUSY);
        }
        self.slots = slots;
        Ok(())
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }

    /// Whether no page is free.
    pub fn is_full(&self) -> bool {
        self.buffers.len() >= self.slots
    }

    /// Bytes to be read.
    pub fn len(&self) -> usize {
        self.buffers.iter().map(|b| b.end - b.start).sum()
    }

    /// Bytes that surely fit now.
    pub fn space(&self) -> usize {
        self.slots.saturating_sub(self.buffers.len()) * PAGE
    }

    /// Appends as much of `src` as fits. `EFAULT` and `ENOMEM` only if nothing was taken.
    pub fn write(&mut self, src: &mut IoSrc<'_>, packet: bool) -> Result<usize, Errno> {
        let before = src.done();
        let chars = src.remaining() % PAGE;
        if let Some(last) = self.buffers.back_mut()
            && chars > 0
            && !last.packet
            && last.end + chars <= PAGE
        {
            let end = last.end;
            last.end += src.read(&mut last.page.bytes[end..end + chars])?;
            if last.end < end + chars {
                return Ok(src.done() - before);
            }
        }
        while src.remaining() > 0 && !self.is_full() {
            let mut page = match self.spare.take().map_or_else(new_page, Ok) {
                Ok(page) => page,
                Err(errno) if src.done() == before => return Err(errno),
                Err(_) => break,
            };
            let want = src.remaining().min(PAGE);
            match src.read(&mut page.bytes[..want]) {
                Ok(n) => {
                    self.buffers.push_back(Buffer { page, start: 0, end: n, packet });
                    if n < want {
                        break;
                    }
                }
                Err(errno) if src.done() == before => {
                    self.spare = Some(page);
                    return Err(errno);
                }
                Err(_) => break,
            }
        }
        Ok(src.done() - before)
    }

    /// Moves bytes from the front to `dst`; of a packet, what does not fit is lost. `EFAULT` only if
    /// nothing was moved.
    pub fn read(&mut self, dst: &mut IoDst<'_>) -> Result<usize, Errno> {
        let before = dst.done();
        while dst.remaining() > 0
            && let Some(first) = self.buffers.front_mut()
        {
            let want = (first.end - first.start).min(dst.remaining());
            let n = match dst.write(&first.page.bytes[first.start..first.start + want]) {
                Ok(n) => n,
                Err(errno) if dst.done() == before => return Err(errno),
                Err(_) => break,
            };
            first.start += n;
            let packet = first.packet;
            if n < want {
                break;
            }
            if packet || first.start == first.end {
                self.spare = self.buffers.pop_front().map(|b| b.page);
            }
            if packet {
                break;
            }
        }
        Ok(dst.done() - before)
    }

    /// Copies up to `max` bytes from the front into a new buffer, without taking them (tee(2)).
    pub fn peek(&self, max: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for buffer in &self.buffers {
            let left = max - out.len();
            let data = &buffer.page.bytes[buffer.start..buffer.end];
            out.extend_from_slice(&data[..data.len().min(left)]);
            if out.len() == max {
                break;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(ring: &mut Ring, data: &[u8], packet: bool) -> usize {
        ring.write(&mut IoSrc::kernel(data), packet).unwrap()
    }

    fn get(ring: &mut Ring, len: usize) -> Vec<u8> {
        let mut buf = vec![0; len];
        let n = ring.read(&mut IoDst::kernel(&mut buf)).unwrap();
        buf.truncate(n);
        buf
    }

    #[test]
    fn pages_count_not_bytes() {
        let mut ring = Ring::new(2);
        assert_eq!(put(&mut ring, &[1; 4000], false), 4000);
        // Does not fit behind the 4000 in one piece: takes a page of its own.
        assert_eq!(put(&mut ring, &[2; 200], false), 200);
        assert!(ring.is_full());
        assert_eq!(put(&mut ring, &[3; 100], false), 100);
        assert_eq!(put(&mut ring, &[4; 4096], false), 0);
        assert_eq!(ring.len(), 4300);
        assert_eq!(ring.resize(1), Err(Errno::EBUSY));
        assert_eq!(get(&mut ring, 9000).len(), 4300);
        assert_eq!(ring.resize(1), Ok(()));
    }

    #[test]
    fn packets_stay_apart_and_are_cut() {
        let mut ring = Ring::new(4);
        put(&mut ring, b"hello", true);
        put(&mut ring, b"world", true);
        assert_eq!(ring.peek(7), b"hellowo");
        assert_eq!(get(&mut ring, 3), b"hel");
        assert_eq!(get(&mut ring, 30), b"world");
        assert!(ring.is_empty());
    }

    proptest! {
        #[test]
        fn is_a_bounded_queue(ops in prop::collection::vec((any::<bool>(), 1usize..9000), 1..60)) {
            let mut ring = Ring::new(4);
            let mut model: VecDeque<u8> = VecDeque::new();
            let mut next = 0u8;
            for (write, len) in ops {
                if write {
                    let data: Vec<u8> = (0..len).map(|i| next.wrapping_add(i as u8)).collect();
                    let had_room = !ring.is_full();
                    let n = put(&mut ring, &data, false);
                    prop_assert!(n <= len);
                    // Small writes are all or nothing.
                    if len <= PAGE {
                        prop_assert!(n == len || (n == 0 && !had_room));
                    }
                    model.extend(&data[..n]);
                    next = next.wrapping_add(n as u8);
                } else {
                    let got = get(&mut ring, len);
                    let want: Vec<u8> = model.drain(..len.min(model.len())).collect();
                    prop_assert_eq!(got, want);
                }
                prop_assert_eq!(ring.len(), model.len());
                prop_assert!(ring.len() <= 4 * PAGE && ring.used_slots() <= 4);
            }
        }
    }
}
