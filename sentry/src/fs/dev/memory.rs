//! `/dev/null`, `zero`, `full`, `random` and `urandom` (null(4), full(4), random(4)).

use std::any::Any;
use std::sync::Arc;

use abi::Errno;
use platform::MemoryFile;

use crate::mm::{self, Mappable, ShmemObject};
use crate::vfs::special::DeviceDriver;
use crate::vfs::{FileOps, IoDst, IoSrc, OpenArgs};

/// Major number of all of them.
pub const MEMORY_MAJOR: u32 = 1;

/// Opens them.
pub struct MemoryDriver {
    /// Where shared mappings of `/dev/zero` live.
    pub memory: Arc<MemoryFile>,
}

impl DeviceDriver for MemoryDriver {
    fn open(&self, rdev: u64, _: &OpenArgs<'_>) -> Result<Box<dyn FileOps>, Errno> {
        let kind = match libc::minor(rdev) {
            3 => Kind::Null,
            5 => Kind::Zero,
            7 => Kind::Full,
            8 | 9 => Kind::Random,
            _ => return Err(Errno::ENXIO),
        };
        Ok(Box::new(Device { kind, memory: self.memory.clone() }))
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Null,
    Zero,
    Full,
    Random,
}

struct Device {
    kind: Kind,
    memory: Arc<MemoryFile>,
}

/// Random bytes are made in pieces of this size.
const CHUNK: usize = 4096;

/// A mapping of `/dev/zero` may be as long as address space allows.
const ZERO_SIZE: u64 = 1 << 47;

fn read_random(dst: &mut IoDst<'_>) -> Result<usize, Errno> {
    let mut chunk = [0; CHUNK];
    let mut done = 0;
    while dst.remaining() > 0 {
        let want = dst.remaining().min(CHUNK);
        mm::random_bytes(&mut chunk[..want]);
        match dst.write(&chunk[..want]) {
            Ok(n) => done += n,
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
    }
    Ok(done)
}

impl FileOps for Device {
    fn read(&self, dst: &mut IoDst<'_>, _: u64) -> Result<usize, Errno> {
        match self.kind {
            Kind::Null => Ok(0),
            Kind::Zero | Kind::Full => dst.zero(dst.remaining()),
            Kind::Random => read_random(dst),
        }
    }

    fn write(&self, src: &mut IoSrc<'_>, _: u64) -> Result<usize, Errno> {
        match self.kind {
            Kind::Full => Err(Errno::ENOSPC),
            // As on Linux, nobody even looks at the bytes.
            _ => Ok(src.remaining()),
        }
    }

    fn seek(&self, _: u64, _: i64, _: i32) -> Option<Result<u64, Errno>> {
        Some(Ok(0))
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        match self.kind {
            Kind::Zero => Ok(ShmemObject::new(self.memory.clone(), ZERO_SIZE, None)),
            _ => Err(Errno::ENODEV),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
