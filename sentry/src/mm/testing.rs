//! A platform for tests: keeps the page tables that it is told, and plays a guest that accesses
//! memory through them, faults included.

use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;

use parking_lot::Mutex;
use platform::{
    AddressSpace, Error, Fault, GuestThread, HostCalls, MemoryFile, Platform, Prot, Source,
    VdsoImage, usercopy,
};

use super::{FaultError, MemoryManager, MmContext, MmLimits, PAGE, host};

/// Makes [`FakeSpace`]s.
pub(crate) struct FakePlatform {
    /// Where the memory file is mapped.
    base: usize,
}

impl Platform for FakePlatform {
    fn name(&self) -> &'static str {
        "fake"
    }
    fn host_calls(&self) -> HostCalls {
        HostCalls::NONE
    }
    fn features(&self) -> Vec<String> {
        Vec::new()
    }
    fn new_address_space(&self) -> Result<Arc<dyn AddressSpace>, Error> {
        Ok(Arc::new(FakeSpace { base: self.base, pages: Mutex::default() }))
    }
    fn user_range(&self) -> (u64, u64) {
        (PAGE, super::TASK_SIZE)
    }
    fn xstate_layout(&self) -> (usize, u64) {
        (576, 3)
    }
    fn vdso(&self) -> Option<VdsoImage> {
        None
    }
}

/// A page table: page number to access and place.
pub(crate) struct FakeSpace {
    base: usize,
    pages: Mutex<BTreeMap<u64, (Prot, Source)>>,
}

fn advance(source: &Source, by: u64) -> Source {
    match source {
        Source::Memory { offset, shared } => {
            Source::Memory { offset: offset + by, shared: *shared }
        }
        Source::Host { file, offset, shared } => {
            Source::Host { file: file.clone(), offset: offset + by, shared: *shared }
        }
    }
}

fn check(addr: u64, len: u64) {
    assert!(addr.is_multiple_of(PAGE) && len.is_multiple_of(PAGE) && len > 0, "{addr:#x}+{len:#x}");
    assert!(addr + len <= super::TASK_SIZE);
}

impl AddressSpace for FakeSpace {
    fn map(&self, addr: u64, len: u64, prot: Prot, source: Source, _populate: bool) {
        check(addr, len);
        let mut pages = self.pages.lock();
        for skip in (0..len).step_by(PAGE as usize) {
            pages.insert(addr + skip, (prot, advance(&source, skip)));
        }
    }
    fn unmap(&self, addr: u64, len: u64, keep: Option<Box<dyn Any + Send>>) {
        check(addr, len);
        let mut pages = self.pages.lock();
        let gone: Vec<u64> = pages.range(addr..addr + len).map(|(page, _)| *page).collect();
        for page in gone {
            pages.remove(&page);
        }
        drop(keep);
    }
    fn protect(&self, addr: u64, len: u64, prot: Prot) {
        check(addr, len);
        for (_, page) in self.pages.lock().range_mut(addr..addr + len) {
            page.0 = prot;
        }
    }
    fn move_vdso(&self, _vvar_base: u64) {}
    fn unmap_vdso(&self) {}
    fn defer(&self, keep: Box<dyn Any + Send>) {
        drop(keep);
    }
    fn sync(&self) {}
    fn new_thread(self: Arc<Self>) -> Result<Box<dyn GuestThread>, Error> {
        Err(Error::StubGone)
    }
}

/// A context with a fresh memory file of `limit` bytes.
pub(crate) fn context(limit: u64) -> Arc<MmContext> {
    let memory = MemoryFile::new(limit).expect("a memory file");
    let probe = memory.allocate(PAGE).expect("a page");
    let base = probe.ptr() as usize - probe.offset() as usize;
    drop(probe);
    Arc::new(MmContext {
        platform: Arc::new(FakePlatform { base }),
        memory,
        relief: Default::default(),
    })
}

/// An address space without ASLR.
pub(crate) fn new_mm(ctx: &Arc<MmContext>) -> Arc<MemoryManager> {
    MemoryManager::new(ctx, &MmLimits::default(), false, false).expect("an address space")
}

/// A guest that runs in an address space.
pub(crate) struct Guest<'a>(pub(crate) &'a MemoryManager);

impl Guest<'_> {
    fn space(&self) -> &FakeSpace {
        // SAFETY: tests have no other platform than `FakePlatform`, which makes `FakeSpace`s only.
        unsafe { &*std::ptr::from_ref(&*self.0.space).cast() }
    }

    fn page(&self, addr: u64) -> Option<(Prot, Source)> {
        self.space().pages.lock().get(&super::page_down(addr)).cloned()
    }

    /// Accesses one byte, with faults handled as the Sentry does.
    fn access(&self, addr: u64, write: Option<u8>) -> Result<u8, FaultError> {
        let access = Prot { read: write.is_none(), write: write.is_some(), exec: false };
        for _ in 0..3 {
            let mut bus = false;
            if let Some((prot, source)) = self.page(addr)
                && if write.is_some() { prot.write } else { prot.read }
            {
                match self.touch(&advance(&source, 0), addr % PAGE, write) {
                    Some(byte) => return Ok(byte),
                    None => bus = true,
                }
            }
            self.0.handle_fault(&Fault { addr, access, bus })?;
        }
        panic!("a fault at {addr:#x} is not repaired");
    }

    fn touch(&self, source: &Source, skip: u64, write: Option<u8>) -> Option<u8> {
        let mut byte = [write.unwrap_or(0)];
        match source {
            Source::Memory { offset, .. } => {
                // The memory file is mapped whole.
                let at = (self.space().base + (offset + skip) as usize) as *mut u8;
                // SAFETY: `at` lies in that mapping, and `byte` has a byte.
                let done = unsafe {
                    match write {
                        Some(_) => usercopy::copy_to(at, byte.as_ptr(), 1),
                        None => usercopy::copy_from(byte.as_mut_ptr(), at, 1),
                    }
                };
                (done == 1).then_some(byte[0])
            }
            Source::Host { file, offset, shared } => {
                assert!(write.is_none() || *shared);
                let size = host::file_size(file.as_fd()).expect("fstat");
                if *offset >= size {
                    return None;
                }
                // SAFETY: `byte` has one byte.
                unsafe {
                    match write {
                        Some(_) => host::pwrite(file.as_fd(), byte.as_ptr(), 1, offset + skip),
                        None => host::pread(file.as_fd(), byte.as_mut_ptr(), 1, offset + skip),
                    }
                }
                .expect("file access");
                Some(byte[0])
            }
        }
    }

    /// Reads a byte.
    pub(crate) fn read(&self, addr: u64) -> Result<u8, FaultError> {
        self.access(addr, None)
    }

    /// Writes a byte.
    pub(crate) fn write(&self, addr: u64, byte: u8) -> Result<(), FaultError> {
        self.access(addr, Some(byte)).map(|_| ())
    }

    /// Whether a page is in the page tables and may be written without a fault.
    pub(crate) fn is_writable(&self, addr: u64) -> bool {
        self.page(addr).is_some_and(|(prot, _)| prot.write)
    }
}
