//! Loads arbitrary bytes as a program.

#![no_main]

use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use abi::Errno;
use libfuzzer_sys::fuzz_target;
use platform::{
    AddressSpace, Error, GuestThread, HostCalls, MemoryFile, Platform, Prot, Source, VdsoImage,
};
use sentry::loader::{self, ExecFile, Identity, Opener, Personality, Strings};
use sentry::mm::{FileMapping, MmContext, MmLimits, ShmemObject};
use sentry::vfs::FileDescription;

/// Takes all commands, and does nothing.
struct Nowhere;

impl Platform for Nowhere {
    fn name(&self) -> &'static str {
        "nowhere"
    }
    fn host_calls(&self) -> HostCalls {
        HostCalls::NONE
    }
    fn features(&self) -> Vec<String> {
        Vec::new()
    }
    fn new_address_space(&self) -> Result<Arc<dyn AddressSpace>, Error> {
        Ok(Arc::new(Nowhere))
    }
    fn user_range(&self) -> (u64, u64) {
        (0x1000, 0x7fff_ffff_f000)
    }
    fn xstate_layout(&self) -> (usize, u64) {
        (576, 3)
    }
    fn vdso(&self) -> Option<VdsoImage> {
        None
    }
}

fn check(addr: u64, len: u64) {
    let aligned = addr.is_multiple_of(4096) && len.is_multiple_of(4096);
    assert!(aligned && len > 0 && addr >= 0x1000 && len <= 0x7fff_ffff_f000 - addr);
}

impl AddressSpace for Nowhere {
    fn map(&self, addr: u64, len: u64, _: Prot, _: Source, _: bool) {
        check(addr, len);
    }
    fn unmap(&self, addr: u64, len: u64, _: Option<Box<dyn Any + Send>>) {
        check(addr, len);
    }
    fn protect(&self, addr: u64, len: u64, _: Prot) {
        check(addr, len);
    }
    fn move_vdso(&self, _: u64) {}
    fn unmap_vdso(&self) {}
    fn defer(&self, _: Box<dyn Any + Send>) {}
    fn sync(&self) {}
    fn new_thread(self: Arc<Self>) -> Result<Box<dyn GuestThread>, Error> {
        Err(Error::StubGone)
    }
}

struct Program(Arc<ShmemObject>);

impl ExecFile for Program {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        Ok(self.0.read_at(offset, buf))
    }
    fn mapping(&self) -> FileMapping {
        FileMapping {
            object: Ok(self.0.clone()),
            file: None,
            readable: true,
            writable: false,
            append_only: false,
            noexec: false,
            area: None,
        }
    }
    fn description(&self) -> Option<Arc<FileDescription>> {
        None
    }
}

/// Every path leads to the same file.
struct Everywhere(Arc<ShmemObject>);

impl Opener for Everywhere {
    fn open_exec(&self, _: &[u8]) -> Result<Arc<dyn ExecFile>, Errno> {
        Ok(Arc::new(Program(self.0.clone())))
    }
}

fn context() -> &'static Arc<MmContext> {
    static CONTEXT: OnceLock<Arc<MmContext>> = OnceLock::new();
    CONTEXT.get_or_init(|| {
        let memory = MemoryFile::new(64 << 20).expect("a memory file");
        Arc::new(MmContext { platform: Arc::new(Nowhere), memory, relief: Default::default() })
    })
}

fn load(content: &[u8]) -> Option<Range<u64>> {
    let object = ShmemObject::new(context().memory.clone(), 0, None);
    object.write_at(0, content).ok()?;
    let args = Strings::new([&b"program"[..]]).ok()?;
    let file = Arc::new(Program(object.clone()));
    let opener = Everywhere(object);
    let env = Strings::default();
    let prepared = loader::prepare(&opener, file, b"/p", false, args, env, 8 << 20).ok()?;
    let limits = MmLimits::default();
    let loaded =
        prepared.load(context(), &limits, &Identity::default(), Personality::default()).ok()?;
    Some(loaded.mm.heap())
}

fuzz_target!(|content: &[u8]| {
    load(content);
    assert_eq!(context().memory.used(), 0);
});
