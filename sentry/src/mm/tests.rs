//! Tests of address spaces as a guest sees them.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use abi::Errno;
use proptest::prelude::*;

use super::testing::{Guest, context, new_mm};
use super::*;

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const NO_LIMITS: MmLimits = MmLimits::UNLIMITED;

fn anonymous(
    mm: &MemoryManager,
    addr: u64,
    pages: u64,
    prot: i32,
    flags: i32,
) -> Result<u64, Errno> {
    mm.mmap(&MmapRequest::anonymous(addr, pages * PAGE, prot, flags), &NO_LIMITS)
}

fn shared(mm: &MemoryManager, pages: u64) -> u64 {
    let request = MmapRequest {
        addr: 0,
        len: pages * PAGE,
        prot: RW as u32,
        flags: (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as u32,
        offset: 0,
        file: None,
    };
    mm.mmap(&request, &NO_LIMITS).unwrap()
}

fn segv(code: i32, addr: u64) -> FaultError {
    FaultError::Signal { signo: libc::SIGSEGV, code, addr }
}

fn bus(addr: u64) -> FaultError {
    FaultError::Signal { signo: libc::SIGBUS, code: 2, addr }
}

fn file_request(
    object: Arc<dyn Mappable>,
    pages: u64,
    prot: i32,
    flags: i32,
    writable: bool,
) -> MmapRequest {
    MmapRequest {
        addr: 0,
        len: pages * PAGE,
        prot: prot as u32,
        flags: flags as u32,
        offset: 0,
        file: Some(FileMapping {
            object: Ok(object),
            file: None,
            readable: true,
            writable,
            append_only: false,
            noexec: false,
            area: None,
        }),
    }
}

/// A host file as an object.
struct HostObject {
    file: Arc<HostFile>,
    mappings: MappingRegistry,
}

impl Mappable for HostObject {
    fn translate(&self, _: u64, optional: Range<u64>) -> Result<Translation, MapFault> {
        let offset = optional.start;
        Ok(Translation { range: optional, extent: Extent::Host(self.file.clone(), offset) })
    }
    fn mappings(&self) -> &MappingRegistry {
        &self.mappings
    }
    fn size(&self) -> u64 {
        self.file.size()
    }
}

fn host_object(content: &[u8]) -> (File, Arc<HostObject>) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    let fd = Arc::new(OwnedFd::from(file.try_clone().unwrap()));
    let object = HostObject { file: HostFile::new(fd, true), mappings: MappingRegistry::new() };
    (file, Arc::new(object))
}

#[test]
fn a_page_that_the_hosts_vdso_data_lacks_is_a_bus_error() {
    let ctx = context(1 << 20);
    let mm = new_mm(&ctx);
    let addr = 0x10_0000;
    let flags = vma::VmFlags::READ;
    let vvar = Vma { flags, backing: None, name: vma::VmaName::Vvar };
    mm.state.write().put_vma(addr..addr + PAGE, vvar);
    let fault = platform::Fault { addr, access: platform::Prot::READ, bus: true };
    assert_eq!(mm.handle_fault(&fault), Err(bus(addr)));
    // A page that the stub had not mapped yet is there now.
    assert_eq!(mm.handle_fault(&platform::Fault { bus: false, ..fault }), Ok(()));
}

#[test]
fn anonymous_memory_is_zero_and_keeps_what_is_written() {
    let ctx = context(64 << 20);
    let before = ctx.memory.allocate(PAGE);
    let mm = new_mm(&ctx);
    let addr = anonymous(&mm, 0, 4, RW, 0).unwrap();
    drop(before);
    let guest = Guest(&mm);
    assert_eq!(guest.read(addr), Ok(0));
    guest.write(addr + PAGE, 7).unwrap();
    let mut byte = [0];
    assert_eq!(mm.copy_in(addr + PAGE, &mut byte), 1);
    assert_eq!(byte, [7]);
    assert_eq!(mm.copy_out(addr + 2 * PAGE - 1, b"xy"), 2);
    assert_eq!(
        (guest.read(addr + 2 * PAGE - 1), guest.read(addr + 2 * PAGE)),
        (Ok(b'x'), Ok(b'y'))
    );
    // Neighbours share an area and a range of the memory file.
    anonymous(&mm, 0, 1, RW, 0).unwrap();
    assert_eq!((mm.map_count(), mm.state.read().pmas.len()), (1, 1));
    mm.munmap(addr, 4 * PAGE).unwrap();
    assert_eq!(guest.read(addr), Err(segv(1, addr)));
    assert_eq!(mm.copy_in(addr - 1, &mut [0; 2]), 1);
    drop(mm);
    assert_eq!(ctx.memory.used(), 0);
}

#[test]
fn access_follows_mprotect() {
    let ctx = context(64 << 20);
    let mm = new_mm(&ctx);
    let addr = anonymous(&mm, 0, 3, RW, 0).unwrap();
    let guest = Guest(&mm);
    guest.write(addr + PAGE, 1).unwrap();
    mm.mprotect(addr + PAGE, PAGE, libc::PROT_READ as u32, &NO_LIMITS).unwrap();
    assert_eq!(mm.map_count(), 3);
    assert_eq!(guest.write(addr + PAGE, 2), Err(segv(2, addr + PAGE)));
    assert_eq!(mm.copy_out(addr + PAGE - 1, b"ab"), 1);
    assert_eq!(guest.read(addr + PAGE), Ok(1));
    mm.mprotect(addr, 3 * PAGE, 0, &NO_LIMITS).unwrap();
    assert_eq!(guest.read(addr), Err(segv(2, addr)));
    assert_eq!(mm.copy_in(addr, &mut [0]), 0);
    mm.mprotect(addr, 3 * PAGE, RW as u32, &NO_LIMITS).unwrap();
    assert_eq!((mm.map_count(), guest.read(addr + PAGE)), (1, Ok(1)));
    assert_eq!(mm.mprotect(addr, 4 * PAGE, 0, &NO_LIMITS), Err(Errno::ENOMEM));
    assert_eq!(mm.mprotect(addr + 1, PAGE, 0, &NO_LIMITS), Err(Errno::EINVAL));
    assert_eq!(mm.mprotect(addr, PAGE, 0x40, &NO_LIMITS), Err(Errno::EINVAL));
}

#[test]
fn mmap_checks_in_order() {
    let ctx = context(64 << 20);
    let mm = new_mm(&ctx);
    let call = |len, flags, addr| {
        let mut request = MmapRequest::anonymous(addr, len, RW, 0);
        request.flags = (libc::MAP_ANONYMOUS | flags) as u32;
        mm.mmap(&request, &MmLimits::default())
    };
    let private = libc::MAP_PRIVATE;
    assert_eq!(call(0, private, 0), Err(Errno::EINVAL));
    assert_eq!(call(u64::MAX, private, 0), Err(Errno::ENOMEM));
    assert_eq!(call(TASK_SIZE, private, 0), Err(Errno::ENOMEM));
    assert_eq!(call(PAGE, 0, 0), Err(Errno::EINVAL));
    assert_eq!(call(PAGE, private | libc::MAP_FIXED, 1), Err(Errno::EINVAL));
    assert_eq!(call(PAGE, private | libc::MAP_FIXED, 0), Err(Errno::EPERM));
    assert_eq!(call(PAGE, private | libc::MAP_HUGETLB, 0), Err(Errno::ENOMEM));
    let addr = call(PAGE, private, 0).unwrap();
    assert_eq!(call(PAGE, private | libc::MAP_FIXED_NOREPLACE, addr), Err(Errno::EEXIST));
    assert_eq!(call(PAGE, private | libc::MAP_FIXED, addr), Ok(addr));
    assert_eq!(call(PAGE, private, addr + 5).map(|a| a == addr), Ok(false));
    let low = call(PAGE, private | libc::MAP_32BIT, 0).unwrap();
    assert!(low < 1 << 31);
    // More than there can ever be; but a reservation may be of any size.
    assert_eq!(call(65 << 20, private, 0), Err(Errno::ENOMEM));
    assert!(call(1 << 40, private | libc::MAP_NORESERVE, 0).is_ok());
    assert!(anonymous(&mm, 0, 1 << 20, libc::PROT_NONE, 0).is_ok());
    assert!(ctx.memory.used() < 1 << 20);
    let limits = MmLimits { address_space: 1 << 20, ..MmLimits::default() };
    let request = MmapRequest::anonymous(0, 2 << 20, RW, 0);
    assert_eq!(mm.mmap(&request, &limits), Err(Errno::ENOMEM));
    let request = MmapRequest::anonymous(0, 16 << 20, libc::PROT_READ, libc::MAP_LOCKED);
    assert_eq!(mm.mmap(&request, &MmLimits::default()), Err(Errno::EAGAIN));
}

#[test]
fn big_areas_are_lazy() {
    let ctx = context(1 << 30);
    let mm = new_mm(&ctx);
    let addr = anonymous(&mm, 0, (512 << 20) / PAGE, RW, 0).unwrap();
    assert_eq!(ctx.memory.used(), 0);
    Guest(&mm).write(addr + (100 << 20), 1).unwrap();
    let used = ctx.memory.used();
    assert!(used > 0 && used <= 4 << 20, "{used}");
    assert_eq!(mm.copy_out(addr + (300 << 20), b"x"), 1);
}

#[test]
fn out_of_memory_is_an_error() {
    let ctx = context(1 << 20);
    let mm = new_mm(&ctx);
    let first = anonymous(&mm, 0, 200, RW, 0).unwrap();
    (0..200).for_each(|page| Guest(&mm).write(first + page * PAGE, 1).unwrap());
    let lazy = anonymous(&mm, 0, 1 << 12, RW, libc::MAP_NORESERVE).unwrap();
    let mut result = Ok(());
    for page in 0..100 {
        result = result.and(Guest(&mm).write(lazy + page * PAGE, 1));
    }
    assert_eq!(result, Err(FaultError::OutOfMemory));
    assert_eq!(mm.copy_out(lazy + (99 << 12), b"x"), 0);
}

#[test]
fn memory_that_nobody_touched_is_taken_back() {
    let ctx = context(64 << 20);
    let mm = new_mm(&ctx);
    let addr = anonymous(&mm, 0, 512, RW, 0).unwrap();
    for page in [0, 100, 101, 511] {
        Guest(&mm).write(addr + page * PAGE, page as u8 | 1).unwrap();
    }
    assert_eq!(ctx.memory.used(), 512 * PAGE);
    assert_eq!(mm.trim(), 508 * PAGE);
    assert_eq!(ctx.memory.used(), 4 * PAGE);
    assert_eq!(mm.trim(), 0);
    for page in [0, 100, 101, 511] {
        assert_eq!(Guest(&mm).read(addr + page * PAGE), Ok(page as u8 | 1));
    }
    assert_eq!(Guest(&mm).read(addr + 50 * PAGE), Ok(0));
    // Others' memory stays.
    let child = mm.fork().unwrap();
    assert_eq!(mm.trim() + child.trim(), 0);
}

#[test]
fn fork_copies_on_write() {
    let ctx = context(64 << 20);
    let mm = new_mm(&ctx);
    let private = anonymous(&mm, 0, 64, RW, 0).unwrap();
    let common = shared(&mm, 2);
    Guest(&mm).write(private, 1).unwrap();
    Guest(&mm).write(common, 1).unwrap();
    let child = mm.fork().unwrap();
    let used = ctx.memory.used();
    assert!(!Guest(&mm).is_writable(private) && Guest(&mm).is_writable(common));
    Guest(&child).write(private, 2).unwrap();
    Guest(&child).write(common, 2).unwrap();
    assert!(ctx.memory.used() > used);
    assert_eq!((Guest(&mm).read(private), Guest(&mm).read(common)), (Ok(1), Ok(2)));
    assert_eq!(child.copy_out(private + 40 * PAGE, b"z"), 1);
    assert_eq!(Guest(&mm).read(private + 40 * PAGE), Ok(0));
    drop(child);
    // Nobody else is left: one fault gives the whole run back, without a copy.
    let used = ctx.memory.used();
    Guest(&mm).write(private + 9 * PAGE, 3).unwrap();
    assert!(Guest(&mm).is_writable(private + 63 * PAGE));
    assert_eq!(ctx.memory.used(), used);
}

#[test]
fn fork_copies_at_once_what_was_written_after_the_last() {
    let ctx = context(64 << 20);
    let mm = new_mm(&ctx);
    let addr = anonymous(&mm, 0, 64, RW, 0).unwrap();
    let hot = addr + 20 * PAGE;
    drop(mm.fork().unwrap());
    Guest(&mm).write(hot, 1).unwrap();
    let child = mm.fork().unwrap();
    assert!(Guest(&mm).is_writable(hot) && Guest(&child).is_writable(hot));
    assert!(!Guest(&mm).is_writable(addr) && !Guest(&child).is_writable(addr));
    Guest(&child).write(hot, 2).unwrap();
    assert_eq!((Guest(&mm).read(hot), Guest(&child).read(hot)), (Ok(1), Ok(2)));
}

#[test]
fn fork_honours_advice() {
    let ctx = context(64 << 20);
    let mm = new_mm(&ctx);
    let addr = anonymous(&mm, 0, 3, RW, 0).unwrap();
    mm.copy_out(addr, &[1; 3 * PAGE as usize]);
    mm.madvise(addr, PAGE, libc::MADV_DONTFORK, false).unwrap();
    mm.madvise(addr + PAGE, PAGE, libc::MADV_WIPEONFORK, false).unwrap();
    let child = mm.fork().unwrap();
    let guest = Guest(&child);
    assert_eq!(guest.read(addr), Err(segv(1, addr)));
    assert_eq!((guest.read(addr + PAGE), guest.read(addr + 2 * PAGE)), (Ok(0), Ok(1)));
    assert_eq!(Guest(&mm).read(addr + PAGE), Ok(1));
}

#[test]
fn stacks_grow_within_their_limit() {
    let ctx = context(64 << 20);
    let mm = new_mm(&ctx);
    let top = mm.map_stack(4 * PAGE, false, &MmLimits::default()).unwrap();
    mm.set_stack_limit(1 << 20);
    let guest = Guest(&mm);
    guest.write(top - 100 * PAGE, 1).unwrap();
    let below = top - (1 << 20) - 1;
    assert_eq!(guest.write(below, 1), Err(segv(1, below)));
    guest.write(below + 1, 1).unwrap();
    // The gap to what lies below is kept.
    let ctx = context(64 << 20);
    let mm = new_mm(&ctx);
    let top = mm.map_stack(4 * PAGE, false, &MmLimits::default()).unwrap();
    anonymous(&mm, top - 300 * PAGE, 1, RW, libc::MAP_FIXED).unwrap();
    let guest = Guest(&mm);
    guest.write(top - 43 * PAGE, 1).unwrap();
    let below = top - 44 * PAGE;
    assert_eq!(guest.write(below, 1), Err(segv(1, below)));
}

#[test]
fn brk_moves_the_heap() {
    let ctx = context(64 << 20);
    let mm = new_mm(&ctx);
    let start = 0x5000_0000;
    mm.set_brk(start);
    let limits = MmLimits::default();
    assert_eq!(mm.brk(0, &limits), start);
    assert_eq!(mm.brk(start + 3 * PAGE + 5, &limits), start + 3 * PAGE + 5);
    Guest(&mm).write(start + 3 * PAGE + 5, 1).unwrap();
    assert_eq!(mm.brk(start + 40 * PAGE, &limits), start + 40 * PAGE);
    assert_eq!((mm.map_count(), mm.state.read().pmas.len()), (1, 1));
    assert_eq!(mm.brk(start + PAGE, &limits), start + PAGE);
    let gone = start + PAGE;
    assert_eq!(Guest(&mm).read(gone), Err(segv(1, gone)));
    anonymous(&mm, start + 8 * PAGE, 1, RW, libc::MAP_FIXED).unwrap();
    assert_eq!(mm.brk(start + 8 * PAGE, &limits), start + PAGE);
    let tight = MmLimits { data: PAGE, ..limits };
    assert_eq!(mm.brk(start + 2 * PAGE, &tight), start + PAGE);
}

#[test]
fn mremap_moves_and_grows() {
    let ctx = context(64 << 20);
    let mm = new_mm(&ctx);
    let addr = anonymous(&mm, 0, 4, RW, 0).unwrap();
    let wall = anonymous(&mm, addr - PAGE, 1, libc::PROT_READ, libc::MAP_FIXED).unwrap();
    let guest = Guest(&mm);
    guest.write(addr + PAGE, 9).unwrap();
    let remap = |addr, old: u64, new: u64, flags: i32, to| {
        mm.mremap(addr, old * PAGE, new * PAGE, flags as u32, to, &NO_LIMITS)
    };
    assert_eq!(remap(addr, 4, 2, 0, 0), Ok(addr));
    assert_eq!(guest.read(addr + 2 * PAGE), Err(segv(1, addr + 2 * PAGE)));
    assert_eq!(remap(addr, 2, 4, 0, 0), Ok(addr));
    assert_eq!(guest.read(addr + 3 * PAGE), Ok(0));
    anonymous(&mm, addr + 4 * PAGE, 1, libc::PROT_READ, libc::MAP_FIXED).unwrap();
    assert_eq!(remap(addr, 4, 8, 0, 0), Err(Errno::ENOMEM));
    let moved = remap(addr, 4, 8, libc::MREMAP_MAYMOVE, 0).unwrap();
    assert_eq!((guest.read(moved + PAGE), guest.read(moved + 7 * PAGE)), (Ok(9), Ok(0)));
    assert_eq!(guest.read(addr + PAGE), Err(segv(1, addr + PAGE)));
    let fixed = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let target = 0x6000_0000;
    assert_eq!(remap(moved, 8, 8, fixed, moved + PAGE), Err(Errno::EINVAL));
    assert_eq!(remap(moved, 8, 2, fixed, target), Ok(target));
    assert_eq!(
        (guest.read(target + PAGE), mm.resident(moved..moved + 8 * PAGE)),
        (Ok(9), Resident::default())
    );
    let kept = remap(target, 2, 2, libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP, 0).unwrap();
    assert_eq!((guest.read(kept + PAGE), guest.read(target + PAGE)), (Ok(9), Ok(0)));
    assert_eq!(remap(0x7000_0000, 1, 2, 0, 0), Err(Errno::EFAULT));
    assert_eq!(remap(wall, 1, 0, 0, 0), Err(Errno::EINVAL));
}

#[test]
fn dontneed_empties() {
    let ctx = context(64 << 20);
    let mm = new_mm(&ctx);
    let addr = anonymous(&mm, 0, 8, RW, 0).unwrap();
    mm.copy_out(addr, &[5; 8 * PAGE as usize]);
    let child = mm.fork().unwrap();
    mm.madvise(addr + PAGE, PAGE, libc::MADV_DONTNEED, false).unwrap();
    assert_eq!((Guest(&mm).read(addr + PAGE), Guest(&mm).read(addr)), (Ok(0), Ok(5)));
    assert_eq!(Guest(&child).read(addr + PAGE), Ok(5));
    drop(child);
    mm.madvise(addr + 2 * PAGE, PAGE, libc::MADV_DONTNEED, false).unwrap();
    assert_eq!(Guest(&mm).read(addr + 2 * PAGE), Ok(0));
    assert_eq!(mm.madvise(addr, 9 * PAGE, libc::MADV_DONTNEED, false), Err(Errno::ENOMEM));
    assert_eq!(mm.madvise(addr, PAGE, 12345, false), Err(Errno::EINVAL));
    assert_eq!(mm.madvise(addr, PAGE, libc::MADV_REMOVE, false), Err(Errno::EINVAL));
    mm.mlock(addr, PAGE, 0, &NO_LIMITS).unwrap();
    assert_eq!(mm.madvise(addr, PAGE, libc::MADV_DONTNEED, false), Err(Errno::EINVAL));
}

#[test]
fn mincore_shows_what_is_there() {
    let ctx = context(64 << 20);
    let mm = new_mm(&ctx);
    let addr = anonymous(&mm, 0, 4096, RW, 0).unwrap();
    let vec = anonymous(&mm, 0x5000_0000, 1, RW, libc::MAP_FIXED).unwrap();
    Guest(&mm).write(addr + PAGE, 1).unwrap();
    mm.mincore(addr, 3 * PAGE, vec).unwrap();
    let mut found = [9; 4];
    mm.read_bytes(vec, &mut found).unwrap();
    assert_eq!(found, [0, 1, 0, 0]);
    assert_eq!(mm.mincore(vec, 2 * PAGE, vec), Err(Errno::ENOMEM));
    assert_eq!(mm.mincore(addr, PAGE, 8), Err(Errno::EFAULT));
    let sizes = mm.memory_use();
    assert!(sizes.rss_anon >= PAGE && sizes.rss_anon <= 3 * PAGE, "{sizes:?}");
    assert_eq!(sizes.size, 4097 * PAGE);
}

#[test]
fn private_file_mappings_show_the_file_until_written() {
    let ctx = context(64 << 20);
    let mm = new_mm(&ctx);
    let pages = 100;
    let (mut file, object) = host_object(&vec![b'f'; pages * PAGE as usize - 10]);
    let map = |prot| {
        mm.mmap(
            &file_request(object.clone(), pages as u64 + 2, prot, libc::MAP_PRIVATE, false),
            &NO_LIMITS,
        )
        .unwrap()
    };
    let addr = map(RW);
    let guest = Guest(&mm);
    assert_eq!(guest.read(addr), Ok(b'f'));
    assert_eq!(mm.copy_in_cstr(addr + 99 * PAGE, 5000).unwrap().len(), PAGE as usize - 10);
    guest.write(addr + PAGE, b'x').unwrap();
    assert_eq!((guest.read(addr + PAGE), guest.read(addr + PAGE + 1)), (Ok(b'x'), Ok(b'f')));
    assert_eq!(mm.copy_out(addr + 99 * PAGE, b"y"), 1);
    assert_eq!(guest.read(addr + 99 * PAGE), Ok(b'y'));
    let past = addr + 100 * PAGE;
    assert_eq!((guest.read(past), guest.write(past, 1)), (Err(bus(past)), Err(bus(past))));
    assert_eq!(mm.copy_in(past, &mut [0]), 0);
    let mut content = vec![];
    file.rewind().unwrap();
    file.read_to_end(&mut content).unwrap();
    assert!(content.iter().all(|byte| *byte == b'f'));
    // DONTNEED brings the file's bytes back.
    mm.madvise(addr + PAGE, PAGE, libc::MADV_DONTNEED, false).unwrap();
    assert_eq!(guest.read(addr + PAGE), Ok(b'f'));
    // Small writable ones are read at once, as far as the file goes.
    let (_file, small) = host_object(&[b's'; 5000]);
    let addr = mm.mmap(&file_request(small, 3, RW, libc::MAP_PRIVATE, false), &NO_LIMITS).unwrap();
    assert!(guest.is_writable(addr + PAGE));
    assert_eq!((guest.read(addr + 4999), guest.read(addr + 5000)), (Ok(b's'), Ok(0)));
    assert_eq!(guest.read(addr + 2 * PAGE), Err(bus(addr + 2 * PAGE)));
}

#[test]
fn shared_file_mappings_write_the_file() {
    let ctx = context(64 << 20);
    let mm = new_mm(&ctx);
    let (mut file, object) = host_object(&[b'f'; 8192]);
    let request = |writable| file_request(object.clone(), 2, RW, libc::MAP_SHARED, writable);
    assert_eq!(mm.mmap(&request(false), &NO_LIMITS), Err(Errno::EACCES));
    let addr = mm.mmap(&request(true), &NO_LIMITS).unwrap();
    Guest(&mm).write(addr, b'1').unwrap();
    assert_eq!(mm.copy_out(addr + 1, b"23"), 2);
    assert_eq!(
        mm.compare_exchange_u32(addr + PAGE, u32::from_ne_bytes(*b"ffff"), 0),
        Ok(0x6666_6666)
    );
    let mut content = vec![];
    file.rewind().unwrap();
    file.read_to_end(&mut content).unwrap();
    assert_eq!((&content[..4], &content[4096..4101]), (&b"123f"[..], &b"\0\0\0\0f"[..]));
    let far = MmapRequest { offset: i64::MAX as u64 & !(PAGE - 1), ..request(true) };
    assert_eq!(mm.mmap(&far, &NO_LIMITS), Err(Errno::EOVERFLOW));
    // A read-only open gives a mapping that mprotect cannot make writable.
    let request = file_request(object.clone(), 1, libc::PROT_READ, libc::MAP_SHARED, false);
    let addr = mm.mmap(&request, &NO_LIMITS).unwrap();
    assert_eq!(mm.mprotect(addr, PAGE, RW as u32, &NO_LIMITS), Err(Errno::EACCES));
    // The file shrinks on the host.
    file.set_len(0).unwrap();
    assert_eq!(Guest(&mm).read(addr), Err(bus(addr)));
    assert_eq!(mm.copy_in(addr, &mut [0]), 0);
    assert_eq!(mm.load_u32(addr), Err(Errno::EFAULT));
}

#[test]
fn truncation_takes_pages_away() {
    let ctx = context(64 << 20);
    let object = ShmemObject::new(ctx.memory.clone(), 4 * PAGE, None);
    object.write_at(0, &[b'o'; 4 * PAGE as usize]).unwrap();
    let (one, two) = (new_mm(&ctx), new_mm(&ctx));
    let shared =
        one.mmap(&file_request(object.clone(), 4, RW, libc::MAP_SHARED, true), &NO_LIMITS).unwrap();
    let private = two
        .mmap(&file_request(object.clone(), 4, RW, libc::MAP_PRIVATE, true), &NO_LIMITS)
        .unwrap();
    Guest(&one).write(shared + 3 * PAGE, b's').unwrap();
    assert_eq!(Guest(&two).read(private + 2 * PAGE), Ok(b'o'));
    Guest(&two).write(private + 2 * PAGE, b'p').unwrap();
    object.truncate(PAGE + 1).unwrap();
    for (mm, addr) in [(&one, shared + 3 * PAGE), (&two, private + 2 * PAGE)] {
        assert_eq!(Guest(mm).read(addr), Err(bus(addr)));
    }
    assert_eq!(
        (Guest(&one).read(shared + PAGE), Guest(&one).read(shared + PAGE + 1)),
        (Ok(b'o'), Ok(0))
    );
    object.truncate(4 * PAGE).unwrap();
    assert_eq!(Guest(&one).read(shared + 3 * PAGE), Ok(0));
    assert!(object.mappings().has_shared_writable(&*object));
    one.munmap(shared, 4 * PAGE).unwrap();
    assert!(!object.mappings().has_shared_writable(&*object));
    // A hole leaves private copies alone.
    Guest(&two).write(private, b'q').unwrap();
    object.punch(0..2 * PAGE);
    assert_eq!((Guest(&two).read(private), object.allocated()), (Ok(b'q'), 2 * PAGE));
}

#[test]
fn futex_words_and_keys() {
    let ctx = context(64 << 20);
    let mm = new_mm(&ctx);
    let private = anonymous(&mm, 0, 1, RW, 0).unwrap();
    let common = shared(&mm, 2);
    let child = mm.fork().unwrap();
    assert_eq!(mm.compare_exchange_u32(private, 0, 5), Ok(0));
    assert_eq!((mm.load_u32(private), child.load_u32(private)), (Ok(5), Ok(0)));
    assert_eq!(mm.fetch_update_u32(common + 4, |old| old + 2), Ok(0));
    assert_eq!(child.load_u32(common + 4), Ok(2));
    assert_eq!(mm.load_u32(private + 2), Err(Errno::EINVAL));
    assert_eq!(mm.load_u32(8), Err(Errno::EFAULT));
    assert!(mm.memory_key(common + 4) == child.memory_key(common + 4));
    assert!(mm.memory_key(private) != child.memory_key(private));
    assert!(mm.memory_key(8).is_err());
}

#[test]
fn iovecs_stop_at_what_is_not_accessible() {
    let ctx = context(64 << 20);
    let mm = new_mm(&ctx);
    let addr = anonymous(&mm, 0, 2, RW, 0).unwrap();
    mm.mprotect(addr + PAGE, PAGE, libc::PROT_READ as u32, &NO_LIMITS).unwrap();
    let total = |ranges: &[(u64, usize)], write| {
        mm.with_iovecs(ranges, write, &mut |iovecs| Ok(iovecs.iter().map(|v| v.iov_len).sum()))
    };
    assert_eq!(total(&[(addr, 10), (addr + PAGE - 4, 8)], true), Ok(14));
    assert_eq!(total(&[(addr, 10), (addr + PAGE - 4, 8)], false), Ok(18));
    assert_eq!(total(&[(addr + PAGE, 8)], true), Err(Errno::EFAULT));
    assert_eq!(total(&[(8, 8), (addr, 1)], false), Err(Errno::EFAULT));
    assert_eq!(total(&[], false), Ok(0));
}

#[test]
fn debuggers_write_to_read_only_code() {
    let ctx = context(64 << 20);
    let mm = new_mm(&ctx);
    let (mut file, object) = host_object(&[b'c'; 8192]);
    let exec = libc::PROT_READ | libc::PROT_EXEC;
    let addr =
        mm.mmap(&file_request(object, 2, exec, libc::MAP_PRIVATE, false), &NO_LIMITS).unwrap();
    assert_eq!(mm.write_remote(addr, b"!", false), 0);
    assert_eq!(mm.write_remote(addr, b"!", true), 1);
    assert_eq!((Guest(&mm).read(addr), Guest(&mm).read(addr + 1)), (Ok(b'!'), Ok(b'c')));
    assert_eq!(Guest(&mm).write(addr, 1), Err(segv(2, addr)));
    let mut byte = [0; 2];
    assert_eq!((mm.read_remote(addr + PAGE - 1, &mut byte, false), byte), (2, *b"cc"));
    let mut content = [0];
    file.rewind().unwrap();
    file.read_exact(&mut content).unwrap();
    assert_eq!(content, *b"c");
}

#[test]
fn locking_is_limited_and_counted() {
    let ctx = context(64 << 20);
    let mm = new_mm(&ctx);
    let addr = anonymous(&mm, 0, 8, RW, 0).unwrap();
    let limits = MmLimits { memlock: 4 * PAGE, ipc_lock: false, ..NO_LIMITS };
    mm.mlock(addr, 2 * PAGE, 0, &limits).unwrap();
    mm.mlock(addr + 1, PAGE, 0, &limits).unwrap();
    assert_eq!(mm.memory_use().locked, 2 * PAGE);
    assert_eq!(mm.mlock(addr, 5 * PAGE, 0, &limits), Err(Errno::ENOMEM));
    let none = MmLimits { memlock: 0, ..limits };
    assert_eq!(mm.mlock(addr, 1, 0, &none), Err(Errno::EPERM));
    assert_eq!(mm.mlock(addr, u64::MAX / 2, 0, &limits), Err(Errno::ENOMEM));
    assert_eq!(mm.munlock(addr, 9 * PAGE), Err(Errno::ENOMEM));
    mm.mlockall(libc::MCL_FUTURE as u32, &NO_LIMITS).unwrap();
    anonymous(&mm, 0, 1, RW, 0).unwrap();
    assert_eq!(mm.memory_use().locked, PAGE);
    mm.munlockall();
    assert_eq!((mm.memory_use().locked, mm.map_count()), (0, 1));
    assert_eq!(mm.mlockall(8, &NO_LIMITS), Err(Errno::EINVAL));
}

/// What the property test does.
#[derive(Clone, Debug)]
enum Op {
    Map { at: u64, len: u64, shared: bool, prot: u8 },
    Unmap { at: u64, len: u64 },
    Protect { at: u64, len: u64, prot: u8 },
    Write { at: u64, value: u8, kernel: bool },
    Read { at: u64, kernel: bool },
    DontNeed { at: u64, len: u64 },
    Move { at: u64, len: u64, to: u64 },
    Fork,
    Exit,
    Switch(usize),
}

const ARENA: u64 = 0x10_0000_0000;
const ARENA_PAGES: u64 = 48;

fn op() -> impl Strategy<Value = Op> {
    let at = || 0..ARENA_PAGES;
    let len = || 1..20u64;
    let prot = || prop_oneof![3 => Just(3u8), 1 => Just(1u8), 1 => Just(0u8)];
    prop_oneof![
        4 => (at(), len(), any::<bool>(), prot())
            .prop_map(|(at, len, shared, prot)| Op::Map { at, len, shared, prot }),
        2 => (at(), len()).prop_map(|(at, len)| Op::Unmap { at, len }),
        3 => (at(), len(), prot()).prop_map(|(at, len, prot)| Op::Protect { at, len, prot }),
        8 => (at(), 1..255u8, any::<bool>())
            .prop_map(|(at, value, kernel)| Op::Write { at, value, kernel }),
        6 => (at(), any::<bool>()).prop_map(|(at, kernel)| Op::Read { at, kernel }),
        2 => (at(), len()).prop_map(|(at, len)| Op::DontNeed { at, len }),
        2 => (at(), len(), at()).prop_map(|(at, len, to)| Op::Move { at, len, to }),
        2 => Just(Op::Fork),
        1 => Just(Op::Exit),
        2 => (0..4usize).prop_map(Op::Switch),
    ]
}

/// One page as the model has it: its access, and a private value or a place in a shared object.
#[derive(Clone)]
struct Page {
    prot: u8,
    place: Place,
}

#[derive(Clone)]
enum Place {
    Private(u8),
    Shared(usize),
}

#[derive(Clone, Default)]
struct Model {
    pages: BTreeMapPages,
}

type BTreeMapPages = std::collections::BTreeMap<u64, Page>;

impl Model {
    fn value(&self, shared: &[u8], at: u64) -> Option<(u8, u8)> {
        self.pages.get(&at).map(|page| {
            (
                page.prot,
                match page.place {
                    Place::Private(value) => value,
                    Place::Shared(index) => shared[index],
                },
            )
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    /// Random calls and accesses in up to four related address spaces give what a page-by-page
    /// model gives.
    #[test]
    fn behaves_like_a_model(ops in proptest::collection::vec(op(), 1..120)) {
        let ctx = context(64 << 20);
        let mut spaces = vec![(new_mm(&ctx), Model::default())];
        let mut values: Vec<u8> = Vec::new();
        let mut current = 0;
        for op in ops {
            let count = spaces.len();
            let (mm, model) = &mut spaces[current];
            let addr = |page: u64| ARENA + page * PAGE;
            let clip = |at: u64, len: u64| at..(at + len).min(ARENA_PAGES);
            match op {
                Op::Map { at, len, shared, prot } => {
                    let range = clip(at, len);
                    let kind = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
                    let request = MmapRequest {
                        addr: addr(at),
                        len: (range.end - range.start) * PAGE,
                        prot: prot.into(),
                        flags: (kind | libc::MAP_FIXED | libc::MAP_ANONYMOUS) as u32,
                        offset: 0,
                        file: None,
                    };
                    prop_assert_eq!(mm.mmap(&request, &NO_LIMITS), Ok(addr(at)));
                    for page in range {
                        let place = if shared {
                            values.push(0);
                            Place::Shared(values.len() - 1)
                        } else {
                            Place::Private(0)
                        };
                        model.pages.insert(page, Page { prot, place });
                    }
                }
                Op::Unmap { at, len } => {
                    let range = clip(at, len);
                    mm.munmap(addr(at), (range.end - range.start) * PAGE).unwrap();
                    model.pages.retain(|page, _| !range.contains(page));
                }
                Op::Protect { at, len, prot } => {
                    let range = clip(at, len);
                    let result =
                        mm.mprotect(addr(at), (range.end - range.start) * PAGE, prot.into(), &NO_LIMITS);
                    let mapped = range.clone().take_while(|p| model.pages.contains_key(p)).count() as u64;
                    prop_assert_eq!(result.is_ok(), mapped == range.end - range.start);
                    for page in range.start..range.start + mapped {
                        model.pages.get_mut(&page).unwrap().prot = prot;
                    }
                }
                Op::Write { at, value, kernel } => {
                    let done = if kernel {
                        mm.copy_out(addr(at), &[value]) == 1
                    } else {
                        Guest(mm).write(addr(at), value).is_ok()
                    };
                    let allowed = model.pages.get(&at).is_some_and(|page| page.prot & 2 != 0);
                    prop_assert_eq!(done, allowed);
                    if allowed {
                        let page = model.pages.get_mut(&at).unwrap();
                        match &mut page.place {
                            Place::Private(old) => *old = value,
                            Place::Shared(index) => values[*index] = value,
                        }
                    }
                }
                Op::Read { at, kernel } => {
                    let found = if kernel {
                        let mut byte = [0];
                        (mm.copy_in(addr(at), &mut byte) == 1).then_some(byte[0])
                    } else {
                        Guest(mm).read(addr(at)).ok()
                    };
                    let expected = model.value(&values, at).filter(|v| v.0 != 0).map(|v| v.1);
                    prop_assert_eq!(found, expected);
                }
                Op::DontNeed { at, len } => {
                    let range = clip(at, len);
                    let _ = mm.madvise(addr(at), (range.end - range.start) * PAGE, libc::MADV_DONTNEED, false);
                    for page in range {
                        if let Some(Page { place: Place::Private(value), .. }) = model.pages.get_mut(&page) {
                            *value = 0;
                        }
                    }
                }
                Op::Move { at, len, to } => {
                    let (from, target) = (clip(at, len), clip(to, len));
                    let len = (from.end - from.start).min(target.end - target.start);
                    let (from, target) = (at..at + len, to..to + len);
                    let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u32;
                    let result =
                        mm.mremap(addr(at), len * PAGE, len * PAGE, flags, addr(to), &NO_LIMITS);
                    let apart = from.end <= target.start || target.end <= from.start;
                    if apart && model.pages.contains_key(&at) {
                        // The target is unmapped even if the source then turns out not to be one area.
                        model.pages.retain(|page, _| !target.contains(page));
                    }
                    if result.is_ok() {
                        for page in from {
                            let moved = model.pages.remove(&page).unwrap();
                            model.pages.insert(page - at + to, moved);
                        }
                    }
                }
                Op::Fork if count < 4 => {
                    let copy = (mm.fork().unwrap(), model.clone());
                    spaces.push(copy);
                }
                Op::Exit if count > 1 => {
                    spaces.remove(current);
                    current = 0;
                }
                Op::Switch(to) => current = to % count,
                Op::Fork | Op::Exit => {}
            }
        }
        for (mm, model) in &spaces {
            for page in 0..ARENA_PAGES {
                let found = Guest(mm).read(ARENA + page * PAGE).ok();
                let expected = model.value(&values, page).filter(|v| v.0 != 0).map(|v| v.1);
                prop_assert_eq!(found, expected, "page {}", page);
            }
            let st = mm.state.read();
            let total: u64 = st.vmas.iter().map(|(r, _)| r.end - r.start).sum();
            prop_assert_eq!(st.total, total);
            prop_assert!(st.pmas.iter().all(|(r, _)| st.vmas.covers(r)));
        }
        spaces.clear();
        prop_assert_eq!(ctx.memory.used(), 0);
    }
}

#[test]
fn the_hosts_areas_bound_the_guests_pieces() {
    use super::{MAX_MAP_COUNT, pieces_within};
    // Linux's default, what many distributions have, and hosts that give next to nothing.
    assert_eq!(pieces_within(65_530), 60_000);
    assert_eq!(pieces_within(1_048_576), MAX_MAP_COUNT);
    assert_eq!(pieces_within(MAX_MAP_COUNT as u64 + 5530), MAX_MAP_COUNT);
    assert_eq!(pieces_within(100), 0);
    assert_eq!(pieces_within(u64::MAX), MAX_MAP_COUNT);
}
