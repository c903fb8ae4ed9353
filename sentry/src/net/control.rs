//! Ancillary data (cmsg(3)): reading what sendmsg(2) got, writing what recvmsg(2) gives.

use abi::Errno;

/// `sizeof(struct cmsghdr)`
const HEADER: usize = 16;
/// Most bytes of ancillary data that a call may pass (`/proc/sys/net/core/optmem_max`).
pub const MAX_CONTROL: usize = 131_072;
/// Most descriptors in one message (`SCM_MAX_FD`).
pub const MAX_RIGHTS: usize = 253;

/// `SCM_RIGHTS`
pub const SCM_RIGHTS: i32 = 1;
/// `SCM_CREDENTIALS`
pub const SCM_CREDENTIALS: i32 = 2;

/// One piece of ancillary data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlMessage<'a> {
    /// `SOL_*`
    pub level: i32,
    /// `SCM_*`
    pub kind: i32,
    /// What it says.
    pub data: &'a [u8],
}

fn align(len: usize) -> usize {
    len.next_multiple_of(8)
}

fn word(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Splits ancillary data. `EINVAL` if a length makes no sense (`CMSG_OK`).
pub fn parse(control: &[u8]) -> Result<Vec<ControlMessage<'_>>, Errno> {
    let mut rest = control;
    let mut messages = Vec::new();
    while rest.len() >= HEADER {
        let len = rest.first_chunk::<8>().map(|b| u64::from_ne_bytes(*b));
        let len = len.and_then(|len| usize::try_from(len).ok()).ok_or(Errno::EINVAL)?;
        let data = rest.get(HEADER..len).ok_or(Errno::EINVAL)?;
        let (Some(level), Some(kind)) = (word(rest, 8), word(rest, 12)) else {
            return Err(Errno::EINVAL);
        };
        messages.push(ControlMessage { level, kind, data });
        rest = rest.get(align(len)..).unwrap_or_default();
    }
    Ok(messages)
}

/// Fills a guest's control buffer of a given size.
pub struct ControlWriter {
    out: Vec<u8>,
    room: usize,
    /// Whether something did not fit (`MSG_CTRUNC`).
    pub truncated: bool,
}

impl ControlWriter {
    /// For a buffer of `room` bytes.
    pub fn new(room: usize) -> ControlWriter {
        ControlWriter { out: Vec::new(), room, truncated: false }
    }

    /// How many bytes of data the next message can have.
    pub fn room(&self) -> usize {
        self.room.saturating_sub(self.out.len() + HEADER)
    }

    /// Appends a message, cut to the room there is (`put_cmsg`).
    pub fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        if self.room < self.out.len() + HEADER {
            self.truncated = true;
            return;
        }
        let len = data.len().min(self.room());
        self.truncated |= len < data.len();
        self.out.extend_from_slice(&((HEADER + len) as u64).to_ne_bytes());
        self.out.extend_from_slice(&level.to_ne_bytes());
        self.out.extend_from_slice(&kind.to_ne_bytes());
        self.out.extend_from_slice(data.get(..len).unwrap_or_default());
        let padded = align(self.out.len()).min(self.room);
        self.out.resize(padded, 0);
    }

    /// The bytes for the guest.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bad_lengths_are_refused() {
        let mut bytes = [0u8; 24];
        bytes[0] = 15;
        assert_eq!(parse(&bytes), Err(Errno::EINVAL));
        bytes[0] = 25;
        assert_eq!(parse(&bytes), Err(Errno::EINVAL));
        bytes[..8].fill(0xff);
        assert_eq!(parse(&bytes), Err(Errno::EINVAL));
        bytes[..8].copy_from_slice(&20u64.to_ne_bytes());
        assert_eq!(parse(&bytes).unwrap()[0].data, [0; 4]);
        assert_eq!(parse(&bytes[..15]), Ok(vec![]));
    }

    #[test]
    fn what_does_not_fit_is_cut() {
        let mut writer = ControlWriter::new(20);
        writer.push(1, 1, &[7; 8]);
        assert!(writer.truncated);
        let out = writer.finish();
        assert_eq!(out.len(), 20);
        assert_eq!(out[0], 20);
        let mut writer = ControlWriter::new(10);
        writer.push(1, 1, &[]);
        assert!(writer.truncated && writer.finish().is_empty());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn what_is_written_can_be_read(
            messages in prop::collection::vec(
                (any::<i32>(), any::<i32>(), prop::collection::vec(any::<u8>(), 0..40)), 0..6),
        ) {
            let mut writer = ControlWriter::new(4096);
            for (level, kind, data) in &messages {
                writer.push(*level, *kind, data);
            }
            prop_assert!(!writer.truncated);
            let out = writer.finish();
            let read = parse(&out).unwrap();
            prop_assert_eq!(read.len(), messages.len());
            for (got, (level, kind, data)) in read.iter().zip(&messages) {
                prop_assert_eq!((got.level, got.kind, got.data), (*level, *kind, &data[..]));
            }
        }
    }
}
